//! A node: SoftHSM, folders and certificates of its own, and the program under test.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use hsm_proto::agent::identity_client::IdentityClient;
use hsm_proto::agent::records_client::RecordsClient;
use hsm_proto::agent::tokens_client::TokensClient;
use hsm_proto::agent::{ListTokensRequest, TokenState, TokenStatus};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use crate::pki::{CONTROLLER, Ca, Leaf};

/// How long anything may take here before the test says so.
const PATIENCE: Duration = Duration::from_secs(40);

pub struct Node {
    dir: tempfile::TempDir,
    pub ca: Ca,
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
        Self { dir, ca }
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
            .env("HSM_MODULE", hsm_token::testing::softhsm_module().unwrap())
            .env("HSM_TOKEN_LABEL", "test")
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
        let log = self.path("log");
        let child = self
            .program()
            .arg("run")
            .args(["--node-name", "node-1", "--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"])
            .args(["--poll-interval", "300ms", "--tls-reload-interval", "300ms", "--log-level", "debug"])
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
