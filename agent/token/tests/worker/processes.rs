//! What becomes of the processes.

use super::*;

#[test]
fn a_hang_costs_one_epoch() {
    let softhsm = softhsm();
    let mut token = WorkerToken::open(hasty(&softhsm)).unwrap();
    let pid = token.pid().unwrap();
    stop(pid);
    let asked = Instant::now();
    assert_eq!(class(token.list()), Some(ErrorClass::Unreachable));
    assert!(asked.elapsed() < Duration::from_millis(3500), "the caller waits for its own deadline only");
    assert_eq!(class(token.list()), Some(ErrorClass::Busy));
    assert_eq!(class(token.reopen()), Some(ErrorClass::Busy));
    assert!(alive(pid), "the grace is not over");
    soon("the worker is killed", || !alive(pid));
    soon("the kill is noticed", || class(token.list()) == Some(ErrorClass::SessionLost));
    assert_eq!(token.epoch(), 1);
    token.login(&pin(PIN)).unwrap();
    assert_eq!((token.epoch(), token.restarts()), (3, 1), "a new epoch, and its login");
    token.create("a", Visibility::Private, b"x").unwrap();
}

#[test]
fn a_late_answer_is_discarded() {
    let softhsm = softhsm();
    let mut token = WorkerToken::open(hasty(&softhsm)).unwrap();
    let pid = token.pid().unwrap();
    stop(pid);
    assert_eq!(class(token.list()), Some(ErrorClass::Unreachable));
    signal(pid, Signal::SIGCONT);
    // `random` would get the listing if answers were taken in order.
    soon("the worker is free again", || class(token.random(8)) != Some(ErrorClass::Busy));
    assert_eq!(token.random(8).unwrap().len(), 8);
    assert_eq!((token.epoch(), token.restarts(), token.pid()), (1, 0, Some(pid)));
}

#[test]
fn a_killed_worker_is_started_again() {
    let softhsm = softhsm();
    let mut token = logged_in(&softhsm);
    let handle = token.create("a", Visibility::Private, VALUE).unwrap();
    let pid = token.pid().unwrap();
    // Stopped, then killed: it dies while the command is under way.
    stop(pid);
    let killer = std::thread::spawn(move || {
        sleep(Duration::from_millis(300));
        signal(pid, Signal::SIGKILL);
    });
    assert_eq!(class(token.create("b", Visibility::Private, b"x")), Some(ErrorClass::Unreachable));
    killer.join().unwrap();
    assert!(!token.is_open());
    assert_eq!(class(token.list()), Some(ErrorClass::SessionLost), "never an empty list of a new epoch");
    token.reopen().unwrap();
    token.login(&pin(PIN)).unwrap();
    assert_eq!((token.epoch(), token.restarts()), (4, 1));
    assert_eq!(token.list().unwrap().data.len(), 1);
    assert_eq!(class(token.destroy(handle)), Some(ErrorClass::NoSuchObject));

    // Killed while idle: nothing was sent, or the outcome is unknown; either way the epoch is over.
    token.reopen().unwrap();
    let pid = token.pid().unwrap();
    signal(pid, Signal::SIGKILL);
    soon("it is dead", || !alive(pid));
    assert!(token.list().unwrap_err().ends_epoch());
    token.info().unwrap();
    assert_eq!(token.restarts(), 3);
}

#[test]
fn it_is_not_in_the_terminals_process_group() {
    let softhsm = softhsm();
    let mut token = WorkerToken::open(config(&softhsm)).unwrap();
    let pid = token.pid().unwrap();
    let group = nix::unistd::getpgid(Some(Pid::from_raw(pid.try_into().unwrap()))).unwrap();
    assert_eq!(group.as_raw(), i32::try_from(pid).unwrap(), "a process group of its own");
    token.info().unwrap();
}

#[test]
fn dropping_leaves_no_process() {
    let softhsm = softhsm();
    let token = logged_in(&softhsm);
    let pid = token.pid().unwrap();
    drop(token);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());

    let mut config = hasty(&softhsm);
    config.deadlines.shutdown = Duration::from_millis(500);
    config.deadlines.grace = Duration::from_mins(1);
    let mut token = WorkerToken::open(config).unwrap();
    let pid = token.pid().unwrap();
    stop(pid);
    assert_eq!(class(token.list()), Some(ErrorClass::Unreachable));
    let dropped = Instant::now();
    drop(token);
    assert!(dropped.elapsed() < Duration::from_secs(5), "a hanging worker does not hold up the end");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
#[ignore = "the parent of the next test"]
fn parent() {
    if is_child() {
        let softhsm = softhsm();
        let token = logged_in(&softhsm);
        println!("worker {}", token.pid().unwrap());
        std::io::stdout().flush().unwrap();
        signal(std::process::id(), Signal::SIGKILL);
        drop(token);
    }
}

#[test]
fn a_killed_parent_leaves_no_process() {
    let program = again("processes::parent");
    let output = Command::new(program.program)
        .args(program.args)
        .envs(program.env)
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let pid: u32 = text.split_once("worker ").unwrap().1.lines().next().unwrap().parse().unwrap();
    soon("the orphan ends", || !alive(pid));
}
