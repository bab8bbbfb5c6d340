//! Which token is meant, what is there, and whether it still is.

use hsm_token::worker::{OpenscSettings, survey};

use super::*;

#[test]
fn a_token_is_selected_by_serial_or_by_reader() {
    let softhsm = softhsm();
    softhsm.init("second", &pin("5678")).unwrap();
    let seen = survey(softhsm.worker(), Duration::from_mins(1), softhsm.module()).unwrap();
    let labels: Vec<_> = seen.iter().map(|token| (token.info.label.as_str(), token.initialized)).collect();
    assert_eq!(labels.iter().filter(|(_, initialized)| *initialized).count(), 2);
    assert!(labels.contains(&("", false)), "the blank one that SoftHSM always shows: {labels:?}");
    for label in [LABEL, "second"] {
        let info = &seen.iter().find(|token| token.info.label == label).unwrap().info;
        for selector in [
            TokenSelector::Serial(info.serial.clone()),
            TokenSelector::Serial(format!(" {} ", info.serial)),
            TokenSelector::Reader(info.slot_description.clone()),
        ] {
            let mut token = WorkerToken::open(softhsm.config(selector)).unwrap();
            assert_eq!(token.info().unwrap().label, label);
        }
    }
    let absent = WorkerToken::open(softhsm.config(TokenSelector::Serial("0".into()))).err().unwrap();
    assert_eq!(absent.class, ErrorClass::TokenAbsent);
    for part in ["serial \"0\"", "\"test\"", "\"second\"", "SoftHSM slot"] {
        assert!(absent.message.contains(part), "{absent}");
    }
}

#[test]
fn a_survey_says_what_is_wrong() {
    let softhsm = SoftHsm::new(again("child")).unwrap();
    let limit = Duration::from_mins(1);
    let error = survey(softhsm.worker(), limit, "/nonexistent/libmodule.so".as_ref()).unwrap_err();
    assert_eq!((error.class, error.operation), (ErrorClass::Module, "survey"));
    assert!(error.message.contains("/nonexistent/libmodule.so"), "{error}");
    let cat = WorkerProgram { program: "/bin/cat".into(), args: vec![], env: vec![] };
    assert!(survey(&cat, Duration::from_secs(2), softhsm.module()).is_err());
}

#[test]
fn it_is_still_there_until_it_is_not() {
    let softhsm = softhsm();
    let mut token = WorkerToken::new(config(&softhsm)).unwrap();
    assert_eq!(class(token.still_there()), Some(ErrorClass::SessionLost), "a poll opens nothing");
    assert_eq!(token.epoch(), 0);
    token.reopen().unwrap();
    token.still_there().unwrap();
    token.login(&pin(PIN)).unwrap();
    token.still_there().unwrap();
    assert_eq!((token.epoch(), token.logins()), (2, 1));
    let pid = token.pid().unwrap();
    signal(pid, Signal::SIGKILL);
    soon("it is dead", || !alive(pid));
    assert!(token.still_there().unwrap_err().ends_epoch());
    assert_eq!(class(token.still_there()), Some(ErrorClass::SessionLost));
    assert_eq!(token.restarts(), 0, "a poll starts no epoch");
}

#[test]
fn each_epoch_has_an_opensc_conf_of_its_own() {
    let softhsm = softhsm();
    let dir = softhsm.dir().join("run");
    std::fs::create_dir(&dir).unwrap();
    let files = || -> Vec<_> {
        std::fs::read_dir(&dir)
            .unwrap()
            .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
            .collect()
    };
    let mut config = config(&softhsm);
    config.opensc = Some(OpenscSettings::new(&dir));
    let mut token = WorkerToken::new(config).unwrap();
    assert_eq!(files().len(), 0);
    token.reopen().unwrap();
    assert!(files()[0].contains("connect_exclusive = true;") && !files()[0].contains("ignored_readers"));
    let other_readers = vec!["Pico Key 01 00".to_owned()];
    token.set_opensc(Some(OpenscSettings { exclusive: false, other_readers, ..OpenscSettings::new(&dir) }));
    assert!(!files()[0].contains("Pico Key"), "from the next epoch on");
    token.login(&pin(PIN)).unwrap();
    token.reopen().unwrap();
    assert_eq!(files().len(), 1);
    assert!(files()[0].contains("connect_exclusive = false;"));
    assert!(files()[0].contains("ignored_readers = \"Pico Key 01 00\";"));

    token.set_selector(TokenSelector::Reader("Pico Key 01 00 (A)".into()));
    assert_eq!(class(token.reopen()), Some(ErrorClass::Invalid), "one name is in the other");
    token.set_selector(TokenSelector::Label(LABEL.into()));
    token.set_opensc(Some(OpenscSettings::new("/nonexistent-hsm")));
    assert_eq!(class(token.reopen()), Some(ErrorClass::Module), "not without the file");
    token.set_opensc(None);
    token.reopen().unwrap();
    assert_eq!(files().len(), 0);
    drop(token);
}

/// The worker has the file in its environment, and nothing there that would make OpenSC write the PIN to our log.
#[test]
fn the_environment_leads_to_it() {
    let softhsm = softhsm();
    let mut config = hasty(&softhsm);
    config.opensc = Some(OpenscSettings::new(softhsm.dir()));
    let script = "printf '%s|%s|%s' \"$OPENSC_CONF\" \"$OPENSC_DRIVER\" \"$OPENSC_DEBUG\" > \"$0\"";
    let seen = softhsm.dir().join("seen");
    config.worker = WorkerProgram {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into(), seen.clone().into()],
        env: vec![("OPENSC_CONF".into(), "/etc/opensc/opensc.conf".into())],
    };
    let mut token = WorkerToken::new(config).unwrap();
    token.reopen().unwrap_err();
    let text = std::fs::read_to_string(&seen).unwrap();
    let parts: Vec<_> = text.split('|').collect();
    assert!(parts[0].starts_with(softhsm.dir().to_str().unwrap()), "{text}");
    assert!(std::path::Path::new(parts[0]).exists(), "it lives as long as the handle");
    assert_eq!(parts[1..], ["sc-hsm", ""]);
}
