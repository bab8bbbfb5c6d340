//! Killing the command line and its worker where something can be seen from outside.

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill as signal};
use nix::unistd::Pid;

use crate::node::{Node, children_of};

/// How long anything may take here before the test says so.
const PATIENCE: Duration = Duration::from_mins(2);

/// Runs it until `ready`, then kills it and its worker. Says whether it was still running.
pub fn killed_when(node: &Node, args: &[&str], ready: impl FnMut() -> bool) -> bool {
    let (mut child, running) = until(node, args, ready);
    kill(&mut child);
    running
}

/// The same, but its worker ends by itself, as it does when nobody speaks to it any more: SoftHSM loses the token when
/// it is killed while it writes a PIN, and that is not ours to test.
pub fn killed_alone_when(node: &Node, args: &[&str], ready: impl FnMut() -> bool) -> bool {
    let (mut child, running) = until(node, args, ready);
    let workers = children_of(child.id());
    drop(child.kill());
    child.wait().unwrap();
    let lives = |pid: &i32| Path::new("/proc").join(pid.to_string()).join("exe").exists();
    let until = Instant::now() + PATIENCE;
    while workers.iter().any(lives) {
        assert!(Instant::now() < until, "a worker without its parent does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
    running
}

fn until(node: &Node, args: &[&str], mut ready: impl FnMut() -> bool) -> (Child, bool) {
    let mut child = node.start(args);
    let until = Instant::now() + PATIENCE;
    let mut running = true;
    while running && !ready() {
        assert!(Instant::now() < until, "{args:?} gets nowhere");
        running = child.try_wait().unwrap().is_none();
        std::thread::sleep(Duration::from_micros(200));
    }
    (child, running)
}

fn kill(child: &mut Child) {
    let workers = children_of(child.id());
    drop(child.kill());
    child.wait().unwrap();
    // The worker ends by itself when nobody speaks to it; here it is cut off as a power failure would. One that has
    // ended already is no error.
    for worker in workers {
        let _ = signal(Pid::from_raw(worker), Signal::SIGKILL);
    }
}

/// How many objects SoftHSM has files of.
pub fn objects(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let count = |entry: std::fs::DirEntry| {
        let path = entry.path();
        let object = path.extension().is_some_and(|e| e == "object");
        if path.is_dir() { objects(&path) } else { usize::from(object) }
    };
    entries.flatten().map(count).sum()
}
