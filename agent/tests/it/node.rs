//! A node: SoftHSM, folders and certificates of its own, and the program under test.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use hsm_agent::state::Tie;
use hsm_proto::agent::identity_client::IdentityClient;
use hsm_proto::agent::records_client::RecordsClient;
use hsm_proto::agent::tokens_client::TokensClient;
use hsm_proto::agent::{ListTokensRequest, TokenState, TokenStatus};
use hsm_store::{Options, Store};
use hsm_token::pkcs11::{BlankSlot, Pkcs11Config, TokenSelector};
use hsm_token::worker::{WorkerConfig, WorkerProgram, WorkerToken, init_software_token};
use hsm_token::{Pin, Token as _, Visibility};
use hsm_types::Presence;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use crate::pki::{CONTROLLER, Ca, Leaf};

/// How long anything may take here before the test says so.
const PATIENCE: Duration = Duration::from_secs(90);

pub struct Node {
    dir: tempfile::TempDir,
    pub ca: Ca,
    module: PathBuf,
    /// The label that HSM_TOKEN_LABEL names.
    label: Option<&'static str>,
    /// What else the program needs in its environment.
    env: Vec<(OsString, OsString)>,
}

impl Node {
    /// Without any token.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tokens = dir.path().join("tokens");
        std::fs::create_dir(&tokens).unwrap();
        let conf = format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display());
        std::fs::write(dir.path().join("softhsm2.conf"), conf).unwrap();
        let ca = Ca::new();
        ca.install(dir.path());
        let module = hsm_token::testing::softhsm_module().unwrap();
        Self { dir, ca, module, label: Some("test"), env: Vec::new() }
    }

    /// With another module, whose tokens no label tells apart.
    pub fn with_module(self, module: PathBuf, env: Vec<(OsString, OsString)>) -> Self {
        Self { module, label: None, env, ..self }
    }

    /// With a token that `token init` made.
    pub fn with_token() -> Self {
        let node = Self::new();
        node.ok(&["init", "--yes"]);
        node
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn pin(&self) -> String {
        std::fs::read_to_string(self.path("pin")).unwrap().trim().to_owned()
    }

    fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hsm-agent"));
        command
            .env("SOFTHSM2_CONF", self.path("softhsm2.conf"))
            .env("HSM_MODULE", &self.module)
            .envs(self.label.map(|label| ("HSM_TOKEN_LABEL", label)))
            .envs(self.env.iter().cloned())
            .env("HSM_PIN_FILE", self.path("pin"))
            .env("HSM_RUNTIME_DIR", self.path("run"))
            .env("HSM_STATE_DIR", self.path("state"));
        command
    }

    /// `hsm-agent token …` with this on stdin.
    pub fn token(&self, args: &[&str], stdin: &[u8]) -> Output {
        let mut child = self
            .program()
            .arg("token")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that refuses its flags does not read.
        drop(child.stdin.take().unwrap().write_all(stdin));
        child.wait_with_output().unwrap()
    }

    /// `hsm-agent token …`, started; its output goes nowhere.
    pub fn start(&self, args: &[&str]) -> Child {
        self.program()
            .arg("token")
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// The same without a label, so that a flag names the token.
    pub fn token_without_label(&self, args: &[&str]) -> Output {
        self.program().env_remove("HSM_TOKEN_LABEL").arg("token").args(args).output().unwrap()
    }

    /// `hsm-agent …`, which must succeed; its stdout.
    pub fn agent(&self, args: &[&str]) -> String {
        let output = self.program().args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same, which must succeed; its stdout.
    pub fn ok(&self, args: &[&str]) -> String {
        self.ok_with(args, b"")
    }

    pub fn ok_with(&self, args: &[&str], stdin: &[u8]) -> String {
        let output = self.token(args, stdin);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Which must fail with this exit code; its stderr.
    pub fn fails(&self, args: &[&str], code: i32) -> String {
        let output = self.token(args, b"");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        stderr
    }

    pub fn put(&self, path: &str, key: &str, value: &str) {
        self.ok_with(&["put", path, "--from-file", &format!("{key}=-")], value.as_bytes());
    }

    /// `hsm-agent run`, once it listens.
    pub fn run(&self) -> Agent {
        self.run_with(&[])
    }

    pub fn run_with(&self, extra: &[(&str, &str)]) -> Agent {
        self.run_args(&[], extra)
    }

    /// With more flags and other variables.
    pub fn run_args(&self, flags: &[&str], extra: &[(&str, &str)]) -> Agent {
        let log = self.path("log");
        let child = self
            .program()
            .arg("run")
            .env("HSM_LOG_LEVEL", "debug")
            .args(flags)
            .args(["--node-name", "node-1", "--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"])
            .envs([("HSM_POLL_INTERVAL", "300ms")])
            .args(["--tls-reload-interval", "300ms"])
            .arg("--tls-cert")
            .arg(self.path("tls.crt"))
            .arg("--tls-key")
            .arg(self.path("tls.key"))
            .arg("--client-ca")
            .arg(self.path("ca.crt"))
            .envs(extra.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut agent = Agent { child, log, grpc: None, health: None };
        let line = agent.wait_for_line("The agent starts.");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = |name: &str| line[name].as_str().unwrap().parse().ok();
        (agent.grpc, agent.health) = (address("listen"), address("health"));
        agent
    }

    pub async fn client(&self, agent: &Agent) -> Client {
        Client::connect(agent, &self.ca.pem, &self.ca.leaf(CONTROLLER)).await.unwrap()
    }
}

/// What is done to the software tokens behind the program's back.
impl Node {
    /// Makes one more token, with this label and its PIN in this file.
    pub fn init_as(&self, label: &str, pin: &Path) {
        self.ok(&["--token-label", label, "--pin-file", pin.to_str().unwrap(), "init", "--yes"]);
    }

    /// Makes a token as another node would: this one knows nothing of it. Its PIN is in `elsewhere-pin`.
    pub fn init_elsewhere(&self, label: &str) {
        let pin = self.path("elsewhere-pin");
        drop(std::fs::remove_file(&pin));
        let output = self
            .program()
            .args(["token", "--token-label", label, "--pin-file", pin.to_str().unwrap(), "init", "--yes"])
            .args(["--so-pin-file", self.path("elsewhere-so-pin").to_str().unwrap()])
            .env("HSM_STATE_DIR", self.path("elsewhere"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn worker(&self, label: &str) -> WorkerToken {
        worker_in(label, &self.path("softhsm2.conf"))
    }

    /// The identity of the token `test`.
    pub fn token_id(&self) -> String {
        match hsm_store::identify(&mut self.worker("test")).unwrap() {
            Presence::Present(id) => id.to_string(),
            other => panic!("{other:?}"),
        }
    }

    pub fn slot_of(&self, label: &str) -> String {
        self.worker(label).info().unwrap().slot.to_string()
    }

    pub fn tie_of_label(&self, label: &str) -> Tie {
        Tie::of(&self.worker(label).info().unwrap())
    }

    /// What carries the token `test` in this folder of tokens.
    pub fn tie_of(&self, tokens: &Path) -> Tie {
        let conf = self.path("other.conf");
        let text = format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display());
        std::fs::write(&conf, text).unwrap();
        Tie::of(&worker_in("test", &conf).info().unwrap())
    }

    /// Makes a token that says it is `id`; gives its PIN.
    pub fn copy_token_id(&self, label: &str, id: &str) -> String {
        let pin = "pin-of-the-copy";
        let secret = || Pin::exactly(pin.to_owned());
        let module = hsm_token::testing::softhsm_module().unwrap();
        let program = worker_program().with_env("SOFTHSM2_CONF", self.path("softhsm2.conf"));
        init_software_token(&program, PATIENCE, &module, BlankSlot::First, label, &secret(), &secret())
            .unwrap();
        let mut worker = self.worker(label);
        worker.login(&secret()).unwrap();
        let mut options = Options::new(self.path("copy.lock"));
        Store::format(&mut worker, Some(id.parse().unwrap()), &mut options).unwrap();
        pin.to_owned()
    }

    /// Takes one token of several away.
    pub fn remove_token(&self, label: &str) {
        for token in std::fs::read_dir(self.path("tokens")).unwrap() {
            let folder = token.unwrap().path();
            let named = std::fs::read(folder.join("token.object")).unwrap();
            let padded = format!("{label:<32}");
            if named.windows(32).any(|bytes| bytes == padded.as_bytes()) {
                std::fs::rename(&folder, self.path(&format!("removed-{label}"))).unwrap();
                return;
            }
        }
        panic!("there is no token {label}");
    }

    /// Makes a data object on the token `test`, as another program would.
    pub fn plant(&self, label: &str, value: &[u8]) {
        self.logged_in().create(label, Visibility::Private, value).unwrap();
    }

    fn logged_in(&self) -> WorkerToken {
        let mut worker = self.worker("test");
        worker.login(&Pin::exactly(self.pin())).unwrap();
        worker
    }

    /// Makes a private data object on the token `test`, as another program would.
    pub fn foreign_object(&self, label: &str, value: &[u8]) {
        self.logged_in().create(label, Visibility::Private, value).unwrap();
    }

    /// The labels of all data objects of the token `test`.
    pub fn labels(&self) -> Vec<String> {
        let listing = self.logged_in().list().unwrap();
        let mut labels: Vec<String> = listing.data.into_iter().map(|object| object.label).collect();
        labels.sort();
        labels
    }

    /// Destroys its objects whose label begins so.
    pub fn destroy_labelled(&self, prefix: &str) {
        let mut worker = self.logged_in();
        let listing = worker.list().unwrap();
        let (some, _): (Vec<_>, Vec<_>) = listing.data.into_iter().partition(|o| o.label.starts_with(prefix));
        assert!(!some.is_empty());
        for object in some {
            worker.destroy(object.handle).unwrap();
        }
    }
}

fn worker_in(label: &str, conf: &Path) -> WorkerToken {
    let module = hsm_token::testing::softhsm_module().unwrap();
    let mut config =
        WorkerConfig::new(Pkcs11Config { module, token: TokenSelector::Label(label.into()) }).unwrap();
    config.worker = worker_program().with_env("SOFTHSM2_CONF", conf);
    WorkerToken::open(config).unwrap()
}

pub fn worker_program() -> WorkerProgram {
    WorkerProgram {
        program: env!("CARGO_BIN_EXE_hsm-agent").into(),
        args: vec!["token-worker".into()],
        env: Vec::new(),
    }
}

/// A running agent; killed when dropped.
pub struct Agent {
    child: Child,
    log: PathBuf,
    grpc: Option<SocketAddr>,
    health: Option<SocketAddr>,
}

impl Agent {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub fn wait_for_line(&mut self, text: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = self.log().lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < until,
                "no line {text:?} ({ended:?}) in:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The processes that it started and that still run.
    pub fn children(&self) -> Vec<i32> {
        children_of(self.pid())
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid().cast_signed()), signal).unwrap();
    }

    pub fn wait(&mut self) -> Option<i32> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < until, "it does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The status code and body of a GET on the health port.
    pub fn http(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.health.unwrap()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let code = text.split(' ').nth(1).unwrap().parse().unwrap();
        (code, text)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub fn children_of(pid: u32) -> Vec<i32> {
    let task = Path::new("/proc").join(pid.to_string()).join("task");
    let Ok(threads) = std::fs::read_dir(task) else {
        return Vec::new();
    };
    threads
        .filter_map(|t| std::fs::read_to_string(t.ok()?.path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().map(|p| p.parse().unwrap()).collect::<Vec<_>>())
        .collect()
}

pub struct Client {
    pub identity: IdentityClient<Channel>,
    pub tokens: TokensClient<Channel>,
    pub records: RecordsClient<Channel>,
}

impl Client {
    pub async fn connect(agent: &Agent, ca: &str, leaf: &Leaf) -> Result<Self, tonic::transport::Error> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(ca))
            .identity(Identity::from_pem(&leaf.cert, &leaf.key))
            .domain_name("localhost");
        let channel = Channel::from_shared(format!("https://{}", agent.grpc.unwrap()))
            .unwrap()
            .tls_config(tls)?
            .connect()
            .await?;
        Ok(Self {
            identity: IdentityClient::new(channel.clone()),
            tokens: TokensClient::new(channel.clone()),
            records: RecordsClient::new(channel),
        })
    }

    pub async fn status(&mut self) -> TokenStatus {
        self.tokens.list_tokens(ListTokensRequest {}).await.unwrap().into_inner().tokens.remove(0)
    }

    /// Waits until the list of tokens is so; the list then.
    pub async fn until_list(&mut self, so: impl Fn(&[TokenStatus]) -> bool) -> Vec<TokenStatus> {
        let until = Instant::now() + PATIENCE;
        loop {
            let list = self.tokens.list_tokens(ListTokensRequest {}).await.unwrap().into_inner().tokens;
            if so(&list) {
                return list;
            }
            assert!(Instant::now() < until, "still {list:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits for a state; the status then.
    pub async fn until(&mut self, state: TokenState) -> TokenStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if status.state == state as i32 {
                return status;
            }
            assert!(Instant::now() < until, "not {state:?}, still {}: {}", status.state, status.message);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
