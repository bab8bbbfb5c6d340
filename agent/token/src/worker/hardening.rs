//! What the child does to protect the PIN and the values that pass through it. All of it through nix's safe wrappers.

use nix::errno::Errno;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::prctl::{set_dumpable, set_pdeathsig};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use std::process;
use std::thread;
use std::time::Duration;

/// How long a command under way may still take after the parent has died or the child was told to end.
const LAST_COMMAND: Duration = Duration::from_secs(30);

/// Protects the memory of this process: no core dump, no ptrace and no /proc/PID/mem by the same user, no swap. Says
/// what was refused (a container may lack the rights for some). The worker does it for itself; its parent, through which
/// the same values pass, may do it too, before it starts any thread that could meet the limits.
pub fn protect_memory() -> Vec<String> {
    let mut refused = Vec::new();
    let mut note = |what: &str, result: Result<(), String>| {
        if let Err(why) = result {
            refused.push(format!("{what}: {why}"));
        }
    };
    let text = |errno: Errno| errno.desc().to_owned();
    // prctl(2) PR_SET_DUMPABLE: no core dump, no ptrace and no /proc/PID/mem by the same user.
    note("PR_SET_DUMPABLE", set_dumpable(false).map_err(text));
    note("RLIMIT_CORE", setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(text));
    note("mlockall", lock_memory());
    refused
}

/// All of it for the child, and what was refused.
pub(super) fn harden() -> Vec<String> {
    let mut refused = protect_memory();
    if let Err(errno) = outlive_signals() {
        refused.push(format!("signals: {}", errno.desc()));
    }
    refused
}

/// mlockall(2). Locking what is mapped later as well makes allocations fail at the limit, so that only without one.
fn lock_memory() -> Result<(), String> {
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let (limit, _) = getrlimit(Resource::RLIMIT_MEMLOCK).map_err(|e| e.desc().to_owned())?;
    if limit == RLIM_INFINITY {
        return mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE)
            .map_err(|e| e.desc().to_owned());
    }
    mlockall(MlockAllFlags::MCL_CURRENT).map_err(|e| format!("{} (limit {limit} bytes)", e.desc()))?;
    Err(format!("only what is mapped now is locked (limit {limit} bytes)"))
}

/// A write to a token is several APDUs; ended between two of them it may leave a ghost. So a signal does not end the
/// child at once: the parent closes the socket, the command under way is finished, and then the child ends by itself.
/// SIGTERM (which the kernel also sends when the parent dies, prctl(2) PR_SET_PDEATHSIG) sets a limit to that.
fn outlive_signals() -> nix::Result<()> {
    let mut blocked = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTERM] {
        blocked.add(signal);
    }
    blocked.thread_block()?;
    set_pdeathsig(Signal::SIGTERM)?;
    let mut term = SigSet::empty();
    term.add(Signal::SIGTERM);
    thread::spawn(move || {
        if term.wait().is_ok() {
            thread::sleep(LAST_COMMAND);
            process::exit(1);
        }
    });
    Ok(())
}
