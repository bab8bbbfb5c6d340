//! The worker process over a real SoftHSM. The children are this very executable, run again for one ignored test.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hsm_token::pkcs11::{Pkcs11Config, TokenSelector};
use hsm_token::testing::SoftHsm;
use hsm_token::worker::{WorkerConfig, WorkerProgram, WorkerToken};
use hsm_token::{ErrorClass, ObjectHandle, Pin, Token, TokenError, Visibility};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LABEL: &str = "test";
const PIN: &str = "canary-pin-4711";
const VALUE: &[u8] = b"canary-value-0815";

fn pin(text: &str) -> Pin {
    Pin::exactly(text.to_owned())
}

/// This executable as the worker's program.
fn again(test: &str) -> WorkerProgram {
    WorkerProgram {
        program: std::env::current_exe().unwrap(),
        args: ["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]
            .map(Into::into)
            .to_vec(),
        env: vec![("HSM_TOKEN_TEST_CHILD".into(), "1".into())],
    }
}

/// Everything to standard error, where a test asks for it.
fn log() {
    if std::env::var_os("HSM_TOKEN_TEST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
            .with_writer(std::io::stderr)
            .init();
    }
}

fn is_child() -> bool {
    std::env::var_os("HSM_TOKEN_TEST_CHILD").is_some()
}

#[test]
#[ignore = "the worker process of the other tests"]
fn child() {
    if is_child() {
        log();
        let _ = hsm_token::worker::run_child();
        std::process::exit(0);
    }
}

fn softhsm() -> SoftHsm {
    SoftHsm::with_token(again("child"), LABEL, &pin(PIN)).unwrap()
}

fn config(softhsm: &SoftHsm) -> WorkerConfig {
    softhsm.config(TokenSelector::Label(LABEL.to_owned()))
}

/// A configuration that is quick to find a hang.
fn hasty(softhsm: &SoftHsm) -> WorkerConfig {
    let mut config = config(softhsm);
    config.deadlines.read = Duration::from_secs(2);
    config.deadlines.grace = Duration::from_secs(2);
    config
}

fn logged_in(softhsm: &SoftHsm) -> WorkerToken {
    let mut token = WorkerToken::open(config(softhsm)).unwrap();
    token.login(&pin(PIN)).unwrap();
    token
}

fn class<T>(result: Result<T, TokenError>) -> Option<ErrorClass> {
    result.err().map(|e| e.class)
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

/// Stops the process, and waits until it has stopped.
fn stop(pid: u32) {
    signal(pid, Signal::SIGSTOP);
    soon("it stops", || state(pid) == Some('T'));
}

/// Its state in proc(5).
fn state(pid: u32) -> Option<char> {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()?
        .rsplit_once(") ")?
        .1
        .chars()
        .next()
}

/// Whether the process is there, and not just waiting to be reaped by somebody.
fn alive(pid: u32) -> bool {
    state(pid).is_some_and(|state| state != 'Z')
}

fn soon(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn all_of_the_port_makes_the_round_trip() {
    let softhsm = softhsm();
    let mut token = WorkerToken::open(config(&softhsm)).unwrap();
    assert_eq!(token.epoch(), 1);
    let info = token.info().unwrap();
    assert_eq!((info.label.as_str(), info.software), (LABEL, true));
    assert!(info.pin.initialized);
    assert_eq!(token.limits(), hsm_token::Limits::SOFTWARE);
    assert_eq!(
        class(token.create("a", Visibility::Private, b"x")),
        Some(ErrorClass::PinRequired)
    );
    assert_eq!(class(token.find_key_pair("key")), Some(ErrorClass::PinRequired));

    token.login(&pin(PIN)).unwrap();
    assert_eq!((token.epoch(), token.logins()), (2, 1));
    token.login(&pin(PIN)).unwrap();
    assert_eq!(
        (token.epoch(), token.logins()),
        (2, 1),
        "a second login costs nothing"
    );
    assert_eq!(class(token.login(&pin("other-pin"))), Some(ErrorClass::Invalid));

    let private = token.create("p", Visibility::Private, VALUE).unwrap();
    let public = token.create("q", Visibility::Public, &[0, 1, 2, 255]).unwrap();
    let listing = token.list().unwrap();
    assert_eq!(listing.others, 0);
    let mut seen: Vec<_> = listing
        .data
        .iter()
        .map(|o| (o.handle, o.label.as_str(), o.application.as_str(), o.visibility))
        .collect();
    seen.sort_unstable_by_key(|object| object.0);
    assert_eq!(
        seen,
        [
            (private, "p", "", Visibility::Private),
            (public, "q", "", Visibility::Public)
        ]
    );
    assert_eq!(*token.read(private).unwrap(), VALUE);
    assert_eq!(*token.read(public).unwrap(), [0, 1, 2, 255]);
    token.destroy(private).unwrap();
    assert_eq!(token.list().unwrap().data.len(), 1);

    let random = (token.random(64).unwrap(), token.random(64).unwrap());
    assert_eq!((random.0.len(), random.0 == random.1), (64, false));
    assert_eq!(token.random(0).unwrap().len(), 0);

    assert_eq!(token.find_key_pair("a").unwrap(), None);
    let a = token.generate_key_pair("a").unwrap();
    let b = token.generate_key_pair("b").unwrap();
    assert_eq!((a.len(), a[0], a == b), (65, 4, false));
    assert_eq!(token.find_key_pair("a").unwrap(), Some(a.clone()));
    assert_eq!(class(token.generate_key_pair("a")), Some(ErrorClass::Invalid));
    let shared = token.derive("a", &b).unwrap();
    assert_eq!(shared.len(), 32);
    assert_eq!(shared, token.derive("b", &a).unwrap());
    assert_eq!(token.list().unwrap().others, 4, "no session object is left");
    assert_eq!(class(token.derive("a", &b[..64])), Some(ErrorClass::Invalid));
    assert_eq!(class(token.derive("none", &b)), Some(ErrorClass::Invalid));
    token.destroy_key_pair("a").unwrap();
    token.destroy_key_pair("a").unwrap();
    assert_eq!(token.find_key_pair("a").unwrap(), None);
    assert_eq!(token.find_key_pair("b").unwrap(), Some(b));

    // Another epoch finds it all again.
    let old = token.list().unwrap().data[0].handle;
    token.reopen().unwrap();
    assert_eq!((token.epoch(), token.restarts()), (3, 1));
    assert_eq!(
        token.list().unwrap().data.len(),
        1,
        "the public one is listed without a login"
    );
    assert_eq!(
        class(token.read(old)),
        Some(ErrorClass::NoSuchObject),
        "a handle of an earlier epoch"
    );
}

#[test]
fn what_no_token_takes_is_refused_and_the_session_lives() {
    let softhsm = softhsm();
    let mut token = logged_in(&softhsm);
    let long = "l".repeat(201);
    for (label, value) in [
        ("", &b"x"[..]),
        ("ä", b"x"),
        (&long, b"x"),
        ("l", b""),
        ("l", &[1; 2001]),
    ] {
        assert_eq!(
            class(token.create(label, Visibility::Private, value)),
            Some(ErrorClass::Invalid)
        );
    }
    assert_eq!(class(token.random(2 << 20)), Some(ErrorClass::Invalid));
    let handle = token
        .create(&long[..200], Visibility::Private, &[1; 2000])
        .unwrap();
    assert_eq!(token.read(handle).unwrap().len(), 2000);
    assert_eq!(token.restarts(), 0);
}

#[test]
fn three_hundred_objects_are_all_listed() {
    let softhsm = softhsm();
    let mut token = logged_in(&softhsm);
    for i in 0..300 {
        token
            .create(&format!("o{i:03}"), Visibility::Private, &[1])
            .unwrap();
    }
    let mut labels: Vec<_> = token.list().unwrap().data.into_iter().map(|o| o.label).collect();
    labels.sort_unstable();
    assert_eq!(labels, (0..300).map(|i| format!("o{i:03}")).collect::<Vec<_>>());
}

#[test]
fn a_wrong_pin_is_tried_once() {
    let softhsm = softhsm();
    let mut token = WorkerToken::open(config(&softhsm)).unwrap();
    assert_eq!(
        class(token.login(&pin("wrong-pin"))),
        Some(ErrorClass::PinIncorrect)
    );
    assert_eq!(token.logins(), 1);
    assert!(token.info().unwrap().pin.count_low);
    let refused = token.login(&pin("wrong-pin")).unwrap_err();
    assert_eq!(
        (refused.class, refused.code.as_deref()),
        (ErrorClass::PinIncorrect, None)
    );
    assert_eq!(token.logins(), 1, "the second one was not sent");
    drop(token);

    // Also after a restart; and another value has its one try.
    let mut token = WorkerToken::open(config(&softhsm)).unwrap();
    assert_eq!(
        class(token.login(&pin("wrong-pin"))),
        Some(ErrorClass::PinIncorrect)
    );
    assert_eq!(class(token.login(&pin("abc"))), Some(ErrorClass::PinLength));
    assert_eq!(token.logins(), 0);
    token.login(&pin(PIN)).unwrap();
    assert_eq!(token.logins(), 1);
    assert!(!softhsm.dir().join("failed-pins").exists());
}

#[test]
fn a_changed_pin_is_the_new_one() {
    let softhsm = softhsm();
    let mut token = logged_in(&softhsm);
    assert_eq!(
        class(token.change_pin(&pin("wrong-pin"), &pin("next-pin"))),
        Some(ErrorClass::PinIncorrect)
    );
    assert_eq!(
        class(token.change_pin(&pin(PIN), &pin("abc"))),
        Some(ErrorClass::PinLength)
    );
    token.change_pin(&pin(PIN), &pin("next-pin")).unwrap();
    token.login(&pin("next-pin")).unwrap();
    token.reopen().unwrap();
    assert_eq!(class(token.login(&pin(PIN))), Some(ErrorClass::PinIncorrect));
    token.login(&pin("next-pin")).unwrap();
}

#[test]
fn a_hang_costs_one_epoch() {
    let softhsm = softhsm();
    let mut token = WorkerToken::open(hasty(&softhsm)).unwrap();
    let pid = token.pid().unwrap();
    stop(pid);
    let asked = Instant::now();
    assert_eq!(class(token.list()), Some(ErrorClass::Unreachable));
    assert!(
        asked.elapsed() < Duration::from_millis(3500),
        "the caller waits for its own deadline only"
    );
    assert_eq!(class(token.list()), Some(ErrorClass::Busy));
    assert_eq!(class(token.reopen()), Some(ErrorClass::Busy));
    assert!(alive(pid), "the grace is not over");
    soon("the worker is killed", || !alive(pid));
    soon("the kill is noticed", || {
        class(token.list()) == Some(ErrorClass::SessionLost)
    });
    assert_eq!(token.epoch(), 1);
    token.login(&pin(PIN)).unwrap();
    assert_eq!(
        (token.epoch(), token.restarts()),
        (3, 1),
        "a new epoch, and its login"
    );
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
    soon("the worker is free again", || {
        class(token.random(8)) != Some(ErrorClass::Busy)
    });
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
    assert_eq!(
        class(token.create("b", Visibility::Private, b"x")),
        Some(ErrorClass::Unreachable)
    );
    killer.join().unwrap();
    assert!(!token.is_open());
    assert_eq!(
        class(token.list()),
        Some(ErrorClass::SessionLost),
        "never an empty list of a new epoch"
    );
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
fn signals_of_the_terminal_do_not_end_it() {
    let softhsm = softhsm();
    let mut token = WorkerToken::open(config(&softhsm)).unwrap();
    let pid = token.pid().unwrap();
    let group = nix::unistd::getpgid(Some(Pid::from_raw(pid.try_into().unwrap()))).unwrap();
    assert_eq!(
        group.as_raw(),
        i32::try_from(pid).unwrap(),
        "a process group of its own"
    );
    token.info().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    // Not dumpable: its files in /proc are root's, so that this reads only for root.
    if let Some(core) = status.lines().find(|line| line.starts_with("Max core file size")) {
        assert!(core.split_whitespace().nth(4) == Some("0"), "{core}");
    }
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
    config.deadlines.grace = Duration::from_secs(60);
    let mut token = WorkerToken::open(config).unwrap();
    let pid = token.pid().unwrap();
    stop(pid);
    assert_eq!(class(token.list()), Some(ErrorClass::Unreachable));
    let dropped = Instant::now();
    drop(token);
    assert!(
        dropped.elapsed() < Duration::from_secs(5),
        "a hanging worker does not hold up the end"
    );
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
    let program = again("parent");
    let output = Command::new(program.program)
        .args(program.args)
        .envs(program.env)
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let pid: u32 = text
        .split_once("worker ")
        .unwrap()
        .1
        .lines()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    soon("the orphan ends", || !alive(pid));
}

#[test]
fn what_is_missing_is_named() {
    let softhsm = softhsm();
    softhsm.init("second", &pin("5678")).unwrap();
    let open = |selector| WorkerToken::open(softhsm.config(selector)).err().unwrap();

    let wrong = open(TokenSelector::Label("tset".into()));
    assert_eq!(wrong.class, ErrorClass::TokenAbsent);
    for part in ["\"tset\"", "\"test\"", "\"second\"", "not initialised"] {
        assert!(wrong.message.contains(part), "{wrong}");
    }
    assert_eq!(open(TokenSelector::Slot(99)).class, ErrorClass::TokenAbsent);
    assert_eq!(open(TokenSelector::Only).class, ErrorClass::Invalid);

    let mut config = config(&softhsm);
    config.token.module = "/nonexistent/libmodule.so".into();
    let missing = WorkerToken::open(config.clone()).err().unwrap();
    assert_eq!(missing.class, ErrorClass::Module);
    assert!(
        missing.message.contains("/nonexistent/libmodule.so") && missing.message.contains("install"),
        "{missing}"
    );

    let text = softhsm.dir().join("not-a-library.so");
    std::fs::write(&text, "hello").unwrap();
    config.token.module = text;
    let broken = WorkerToken::open(config.clone()).err().unwrap();
    assert_eq!(broken.class, ErrorClass::Module);
    assert!(broken.message.contains("cannot be loaded"), "{broken}");

    config.deadlines.open = Duration::from_millis(500);
    config.deadlines.grace = Duration::from_millis(500);
    for program in ["/nonexistent/worker", "/bin/true", "/bin/cat"] {
        config.worker = WorkerProgram {
            program: program.into(),
            args: vec![],
            env: vec![],
        };
        let error = WorkerToken::open(config.clone()).err().unwrap();
        assert!(matches!(
            error.class,
            ErrorClass::Module | ErrorClass::Unreachable | ErrorClass::SessionLost
        ));
    }
}

#[test]
fn a_token_is_selected_by_slot_or_by_being_the_only_one() {
    let softhsm = SoftHsm::new(again("child")).unwrap();
    let slot = softhsm.init(LABEL, &pin(PIN)).unwrap().slot;
    for selector in [TokenSelector::Only, TokenSelector::Slot(slot)] {
        let mut token = WorkerToken::open(softhsm.config(selector)).unwrap();
        assert_eq!(token.info().unwrap().label, LABEL);
    }
    let again = softhsm.init(LABEL, &pin("5678")).unwrap_err();
    assert_eq!(again.class, ErrorClass::Invalid);
    assert_eq!(
        softhsm.init("short", &pin("1")).unwrap_err().class,
        ErrorClass::PinLength
    );
}

#[test]
#[ignore = "what the next test looks at"]
fn chatter() {
    if is_child() {
        log();
        let softhsm = softhsm();
        let config = config(&softhsm);
        eprintln!("{config:?}");
        let mut token = WorkerToken::open(config).unwrap();
        token.set_request_id("request-77");
        let errors = [
            token.login(&pin("canary-wrong")).err(),
            token.login(&pin("canary-wrong")).err(),
            token.login(&pin(PIN)).err(),
            token.login(&pin("canary-other")).err(),
            token.change_pin(&pin("canary-old"), &pin("canary-new")).err(),
            token.create("label", Visibility::Private, VALUE).err(),
            token.create("", Visibility::Private, VALUE).err(),
            token.read(ObjectHandle(1)).err(),
        ];
        eprintln!("{errors:?}");
        for error in errors.iter().flatten() {
            eprintln!("{error}");
        }
        drop(token);
    }
}

#[test]
fn no_output_ever_shows_a_pin_or_a_value() {
    let program = again("chatter").with_env("HSM_TOKEN_TEST_LOG", "1");
    let output = Command::new(program.program)
        .args(program.args)
        .envs(program.env)
        .output()
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("request-77") && text.contains("token_command"),
        "the log is there: {text}"
    );
    assert!(!text.contains("canary"), "{text}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("canary"));
}

#[test]
fn the_first_call_opens() {
    let softhsm = softhsm();
    let mut token = WorkerToken::new(config(&softhsm)).unwrap();
    assert_eq!((token.epoch(), token.is_open(), token.pid()), (0, false, None));
    assert_eq!(token.list().unwrap().data.len(), 0);
    assert_eq!((token.epoch(), token.is_open()), (1, true));
    let _: &Pkcs11Config = &softhsm.config(TokenSelector::Only).token;
}
