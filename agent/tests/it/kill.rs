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
pub fn killed_when(node: &Node, args: &[&str], mut ready: impl FnMut() -> bool) -> bool {
    let mut child = node.start(args);
    let until = Instant::now() + PATIENCE;
    let mut running = true;
    while running && !ready() {
        assert!(Instant::now() < until, "{args:?} gets nowhere");
        running = child.try_wait().unwrap().is_none();
        std::thread::sleep(Duration::from_micros(200));
    }
    kill(&mut child);
    running
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
