//! The same through a worker process: what a build without PC/SC says, and, with it, a card behind a real pcscd.

use std::time::Duration;

use hsm_token::ErrorClass;
use hsm_token::worker::{self, WorkerProgram};

use super::{PIN, SO_PIN, pin};

const LIMIT: Duration = Duration::from_secs(20);

/// This executable as the worker's program.
fn program() -> WorkerProgram {
    WorkerProgram {
        program: std::env::current_exe().unwrap(),
        args: ["--exact", "worker::child", "--ignored", "--nocapture"].map(Into::into).to_vec(),
        env: vec![("HSM_TOKEN_TEST_CHILD".into(), "1".into())],
    }
}

#[test]
#[ignore = "the worker process of the other tests"]
fn child() {
    if std::env::var_os("HSM_TOKEN_TEST_CHILD").is_some() {
        let _ = worker::run_child();
        std::process::exit(0);
    }
}

/// Without PC/SC in the build, or on a machine without that reader, each says clearly what is missing.
#[test]
fn what_is_missing_is_said() {
    let (program, reader) = (program(), Some("No Such Reader 00 00"));
    let errors = [
        worker::card_status(&program, LIMIT, reader).unwrap_err(),
        worker::init_sc_hsm(&program, LIMIT, reader, &pin(SO_PIN), &pin(PIN)).unwrap_err(),
        worker::ghosts(&program, LIMIT, reader).unwrap_err(),
        worker::repair_ghosts(&program, LIMIT, reader, &pin(PIN), None).unwrap_err(),
    ];
    for (error, operation) in errors.iter().zip(["card_status", "init_sc_hsm", "ghosts", "repair_ghosts"]) {
        assert_eq!(error.operation, operation);
        if cfg!(feature = "pcsc") {
            assert!(matches!(error.class, ErrorClass::Module | ErrorClass::TokenAbsent), "{error}");
            assert!(["pcscd", "reader"].iter().any(|part| error.message.contains(part)), "{error}");
        } else {
            assert_eq!(error.class, ErrorClass::Module);
            assert!(error.message.contains("no PC/SC support"), "{error}");
        }
        assert!(!error.to_string().contains(PIN));
    }
    if !cfg!(feature = "pcsc") {
        let error = worker::readers(&program, LIMIT).unwrap_err();
        assert!(error.message.contains("no PC/SC support"), "{error}");
    }
}

#[cfg(feature = "pcsc")]
mod real {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;
    use std::sync::{Arc, Mutex};

    use hsm_token::sc_hsm::{CardChannel as _, PinState};

    use super::super::card::FakeCard;
    use super::*;

    /// Puts the card into the virtual reader of vsmartcard's vpcd, until the reader closes. Its protocol: a length of
    /// two bytes, then a command to the card, or one byte for power off (0), on (1), reset (2) or the ATR (4).
    fn insert(card: Arc<Mutex<FakeCard>>, port: u16) -> Inserted {
        let mut reader = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let inserted = Inserted(reader.try_clone().unwrap());
        std::thread::spawn(move || {
            let atr =
                [0x3B, 0xFE, 0x18, 0x00, 0x00, 0x81, 0x31, 0xFE, 0x45, 0x80, 0x31, 0x81, 0x54, 0x48, 0x53];
            let mut length = [0; 2];
            while reader.read_exact(&mut length).is_ok() {
                let mut message = vec![0; u16::from_be_bytes(length).into()];
                reader.read_exact(&mut message).unwrap();
                let answer = match message.as_slice() {
                    [4] => [&atr[..], &[0x4D, 0x31, 0x73, 0x80, 0x21, 0x40, 0x81, 0x07, 0xFA]].concat(),
                    [0 | 2] => {
                        card.lock().unwrap().logged_in = false;
                        continue;
                    }
                    [_] => continue,
                    command => card.lock().unwrap().transmit(command).unwrap(),
                };
                reader.write_all(&u16::try_from(answer.len()).unwrap().to_be_bytes()).unwrap();
                reader.write_all(&answer).unwrap();
            }
        });
        inserted
    }

    /// A card in a reader; dropped, it is taken out.
    struct Inserted(TcpStream);

    impl Drop for Inserted {
        fn drop(&mut self) {
            let _ = self.0.shutdown(std::net::Shutdown::Both);
        }
    }

    /// The daemon looks for cards about once a second.
    fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = std::time::Instant::now() + LIMIT;
        while !condition() {
            assert!(std::time::Instant::now() < deadline, "never: {what}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// `pcscd --foreground` with Debian's vsmartcard-vpcd, which has two readers and listens on ports 35963 and 35964
    /// (of all interfaces: start it in a network namespace), and HSM_TEST_VPCD=1.
    #[test]
    #[ignore = "needs a pcscd with the virtual reader of vsmartcard-vpcd, and HSM_TEST_VPCD=1"]
    fn through_a_real_pcscd() {
        if std::env::var_os("HSM_TEST_VPCD").is_none() {
            return;
        }
        let card = Arc::new(Mutex::new(FakeCard::blank()));
        let _inserted = insert(Arc::clone(&card), 35963);
        let program = program();
        let readers = worker::readers(&program, LIMIT).unwrap();
        assert_eq!(readers, ["Virtual PCD 00 00", "Virtual PCD 00 01"]);
        let unnamed = worker::card_status(&program, LIMIT, None).unwrap_err();
        assert_eq!(unnamed.class, ErrorClass::Invalid, "{unnamed}");
        wait_until("the other reader is empty", || {
            worker::card_status(&program, LIMIT, Some("Virtual PCD 00 01"))
                .is_err_and(|error| error.class == ErrorClass::TokenAbsent)
        });

        let reader = Some("Virtual PCD 00 00");
        wait_until("the card is seen", || worker::card_status(&program, LIMIT, reader).is_ok());
        assert!(worker::card_status(&program, LIMIT, reader).unwrap().is_blank());
        let made = worker::init_sc_hsm(&program, LIMIT, reader, &pin(SO_PIN), &pin(PIN)).unwrap();
        assert_eq!(made.user_pin, PinState::TriesLeft(3));
        let again = worker::init_sc_hsm(&program, LIMIT, reader, &pin(SO_PIN), &pin(PIN)).unwrap_err();
        assert_eq!(again.class, ErrorClass::Invalid);
        {
            let mut card = card.lock().unwrap();
            assert!(!card.logged_in);
            for id in 1..=100 {
                card.put(id, true);
            }
            card.files.remove(&[0xCD, 50]);
        }
        assert_eq!(worker::ghosts(&program, LIMIT, reader).unwrap(), [50]);
        let repaired = worker::repair_ghosts(&program, LIMIT, reader, &pin(PIN), None).unwrap();
        assert_eq!((repaired.removed, repaired.left), (vec![50], vec![]));
        assert_eq!(worker::ghosts(&program, LIMIT, reader).unwrap(), [0; 0]);
        assert_eq!(worker::card_status(&program, LIMIT, reader).unwrap().files, 99);
        assert!(!card.lock().unwrap().logged_in);
    }

    /// The faulty module plays OpenSC 0.27 in a reader of the same name: it leaves the card logged in, the worker not.
    #[test]
    #[ignore = "needs a pcscd with the virtual reader of vsmartcard-vpcd, and HSM_TEST_VPCD=1"]
    fn a_worker_leaves_the_card_logged_out() {
        use faulty_pkcs11::{CardOptions, Machine, module_path};
        use hsm_token::Token as _;
        use hsm_token::pkcs11::{Pkcs11Config, TokenSelector};
        use hsm_token::worker::{WorkerConfig, WorkerToken};

        if std::env::var_os("HSM_TEST_VPCD").is_none() {
            return;
        }
        let name = "Virtual PCD 00 01";
        let card = Arc::new(Mutex::new(FakeCard::with_pin(PIN)));
        let _inserted = insert(Arc::clone(&card), 35964);
        wait_until("the card is seen", || worker::card_status(&program(), LIMIT, Some(name)).is_ok());
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::new(dir.path().join("machine")).unwrap();
        machine.add_card(name, &CardOptions::with_pin(PIN)).unwrap();
        let token = TokenSelector::Reader(name.into());
        let mut config = WorkerConfig::new(Pkcs11Config { module: module_path().unwrap(), token }).unwrap();
        config.worker = program();
        config.worker.env.extend(machine.env());
        for login in [false, true] {
            let mut token = WorkerToken::open(config.clone()).unwrap();
            if login {
                token.login(&pin(PIN)).unwrap();
            }
            {
                let mut card = card.lock().unwrap();
                card.logged_in = true;
                card.log.clear();
            }
            drop(token);
            let card = card.lock().unwrap();
            assert_eq!(
                (card.logged_in, card.sent("A4 0400")),
                (!login, usize::from(login)),
                "{:?}",
                card.log
            );
        }
    }
}
