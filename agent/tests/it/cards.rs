//! A node of hardware tokens, as the faulty module has them: readers, cards and the program that serves them.

use faulty_pkcs11::{CardOptions, Counters, Machine};
use hsm_agent::state::Admissions;
use hsm_proto::agent::{
    Content, Fence, GetRecordRequest, PutRecordRequest, TokenState, TokenStatus, put_record_request::Expect,
};
use hsm_store::{Options, Store};
use hsm_token::pkcs11::{Pkcs11Config, TokenSelector};
use hsm_token::worker::{OpenscSettings, WorkerConfig, WorkerToken};
use hsm_token::{Pin, Token as _};
use hsm_types::TokenId;
use tonic::Code;

use crate::node::{Agent, Client, Node, worker_program};

pub const PIN: &str = "648219-pico";
pub const ONE: &str = "Pico HSM [CCID Interface] (E6A1) 00 00";
pub const TWO: &str = "Pico HSM [CCID Interface] (E6B2) 01 00";
/// The first device in another port.
pub const ONE_MOVED: &str = "Pico HSM [CCID Interface] (E6A1) 02 00";

/// A node with a machine of readers and cards.
pub struct Hardware {
    pub node: Node,
    pub machine: Machine,
}

impl Hardware {
    pub fn new() -> Self {
        let node = Node::new();
        let machine = Machine::new(node.path("machine")).unwrap();
        let node = node.with_module(faulty_pkcs11::module_path().unwrap(), machine.env());
        std::fs::write(node.path("pin"), PIN).unwrap();
        Self { node, machine }
    }

    /// With one card in the first reader, and a store on it.
    pub fn with_token() -> (Self, TokenId) {
        let this = Self::new();
        let id = this.add(ONE, None);
        (this, id)
    }

    /// The same, whose card has this PIN.
    pub fn with_pin(pin: &str) -> (Self, TokenId) {
        let this = Self::new();
        std::fs::write(this.node.path("pin"), pin).unwrap();
        let id = this.add_with_pin(ONE, None, pin);
        (this, id)
    }

    /// Plugs in a new card and makes a store on it.
    pub fn add(&self, reader: &str, token_id: Option<TokenId>) -> TokenId {
        self.add_with_pin(reader, token_id, PIN)
    }

    fn add_with_pin(&self, reader: &str, token_id: Option<TokenId>, pin: &str) -> TokenId {
        self.machine.add_card(reader, &CardOptions::with_pin(pin)).unwrap();
        let mut worker = self.worker(reader);
        worker.login(&Pin::exactly(pin.to_owned())).unwrap();
        let mut options = Options::new(self.node.path("making.lock"));
        Store::format(&mut worker, token_id, &mut options).unwrap().token_id
    }

    pub fn worker(&self, reader: &str) -> WorkerToken {
        self.worker_with(reader, true)
    }

    /// A worker beside the agent's, not logged in.
    pub fn worker_sharing(&self, reader: &str) -> WorkerToken {
        self.worker_with(reader, false)
    }

    fn worker_with(&self, reader: &str, exclusive: bool) -> WorkerToken {
        let module = faulty_pkcs11::module_path().unwrap();
        let token = TokenSelector::Reader(reader.to_owned());
        let mut config = WorkerConfig::new(Pkcs11Config { module, token }).unwrap();
        config.worker = worker_program();
        config.worker.env = self.machine.env();
        let others = self.machine.readers().unwrap().into_iter().filter(|other| other != reader).collect();
        config.opensc = Some(OpenscSettings {
            exclusive,
            other_readers: others,
            ..OpenscSettings::new(self.node.path(""))
        });
        WorkerToken::open(config).unwrap()
    }

    pub fn run(&self, readers: &[&str], flags: &[&str]) -> Agent {
        let mut all: Vec<&str> = readers.iter().flat_map(|reader| ["--reader", *reader]).collect();
        all.extend(flags);
        self.node.run_args(&all, &[])
    }

    /// With other variables.
    pub fn run_with(&self, readers: &[&str], variables: &[(&str, &str)]) -> Agent {
        let flags: Vec<&str> = readers.iter().flat_map(|reader| ["--reader", *reader]).collect();
        self.node.run_args(&flags, variables)
    }

    pub fn counters(&self, card: &str) -> Counters {
        self.machine.counters(card).unwrap()
    }

    pub fn admissions(&self) -> Admissions {
        Admissions::load(&self.node.path("state")).unwrap()
    }
}

pub fn put(token: &str, path: &str) -> PutRecordRequest {
    PutRecordRequest {
        token_id: token.into(),
        path: path.into(),
        content: Some(Content { data: [("k".to_owned(), b"v".to_vec())].into(), metadata: None }),
        expect: Some(Expect::Absent(true)),
        fence: Some(Fence { lease_uid: "lease".into(), transitions: 1 }),
        ..PutRecordRequest::default()
    }
}

pub async fn read(client: &mut Client, token: &str, path: &str) -> Result<(), Code> {
    let get = GetRecordRequest { token_id: token.into(), path: path.into() };
    client.records.get(get).await.map(drop).map_err(|status| status.code())
}

pub fn ready(list: &[TokenStatus]) -> bool {
    list.iter().all(|status| status.state == TokenState::Ready as i32)
}

/// The value of this line of the metrics; 0 where it is not there.
pub fn metric(agent: &Agent, series: &str) -> u64 {
    let text = agent.http("/metrics").1;
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0, |value| value.trim().parse().unwrap())
}
