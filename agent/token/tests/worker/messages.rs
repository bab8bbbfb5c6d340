//! What people are told, and what they must never be shown.

use super::*;

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
        config.worker = WorkerProgram { program: program.into(), args: vec![], env: vec![] };
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
    assert_eq!(softhsm.init("short", &pin("1")).unwrap_err().class, ErrorClass::PinLength);
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
    let program = again("messages::chatter").with_env("HSM_TOKEN_TEST_LOG", "1");
    let output = Command::new(program.program).args(program.args).envs(program.env).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("request-77") && text.contains("token_command"), "the log is there: {text}");
    assert!(!text.contains("canary"), "{text}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("canary"));
}
