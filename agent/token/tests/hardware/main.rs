//! The worker over the faulty module: what a Pico HSM through OpenSC does and SoftHSM does not.

#![expect(clippy::unwrap_used, reason = "clippy allows it in test functions, not in what they share")]

use faulty_pkcs11::{Action, CardOptions, Fault, Machine, OpenSc, When, module_path};
use hsm_token::pkcs11::{Pkcs11Config, TokenSelector};
use hsm_token::worker::{OpenscSettings, WorkerConfig, WorkerProgram, WorkerToken};
use hsm_token::{ErrorClass, Pin, Token, TokenError, Visibility};

mod calls;
mod pins;
mod readers;

const A: &str = "Pol Henarejos Pico Key [CCID Interface] (E6614C3) 00 00";
const B: &str = "Pol Henarejos Pico Key [CCID Interface] (E6614C4) 01 00";
const PIN: &str = "648219";

fn pin(text: &str) -> Pin {
    Pin::exactly(text.to_owned())
}

fn class<T>(result: Result<T, TokenError>) -> Option<ErrorClass> {
    result.err().map(|e| e.class)
}

#[test]
#[ignore = "the worker process of the other tests"]
fn child() {
    if std::env::var_os("HSM_TOKEN_TEST_CHILD").is_some() {
        let _ = hsm_token::worker::run_child();
        std::process::exit(0);
    }
}

/// A machine in a temporary folder, with these readers and a card with [`PIN`] in each.
struct Desk {
    dir: tempfile::TempDir,
    machine: Machine,
}

impl Desk {
    fn new(readers: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::new(dir.path().join("machine")).unwrap();
        for reader in readers {
            machine.add_card(reader, &CardOptions::with_pin(PIN)).unwrap();
        }
        Self { dir, machine }
    }

    fn program(&self) -> WorkerProgram {
        let mut env = vec![("HSM_TOKEN_TEST_CHILD".into(), "1".into())];
        env.extend(self.machine.env());
        let args = ["--exact", "child", "--ignored", "--nocapture"].map(Into::into).to_vec();
        WorkerProgram { program: std::env::current_exe().unwrap(), args, env }
    }

    fn config(&self, token: TokenSelector) -> WorkerConfig {
        let mut config = WorkerConfig::new(Pkcs11Config { module: module_path().unwrap(), token }).unwrap();
        config.worker = self.program();
        config.pin_memory = Some(self.dir.path().join("failed-pins"));
        config
    }

    /// The token in this reader, alone on its reader, whatever others there are.
    fn apart(&self, reader: &str) -> WorkerToken {
        let mut config = self.config(TokenSelector::Reader(reader.into()));
        let other_readers = self.machine.readers().unwrap();
        config.opensc = Some(OpenscSettings { other_readers, ..OpenscSettings::new(self.dir.path()) });
        config.pin_memory = Some(self.dir.path().join(format!("failed-pins-{}", reader.replace(' ', "-"))));
        WorkerToken::new(config).unwrap()
    }
}

fn logged_in(mut token: WorkerToken) -> WorkerToken {
    token.reopen().unwrap();
    token.login(&pin(PIN)).unwrap();
    token
}
