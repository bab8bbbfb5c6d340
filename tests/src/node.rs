//! A node: a software token with a PIN, and the agent that serves it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use hsm_token::pkcs11::{Pkcs11Config, TokenSelector};
use hsm_token::worker::{WorkerConfig, WorkerProgram, WorkerToken};
use hsm_token::{Pin, Token as _, Visibility};
use tempfile::TempDir;

use crate::process::{Process, free_port, http_get, program};

/// A software token of its own, and an agent that can be started and stopped.
pub struct Node {
    name: String,
    dir: TempDir,
    pki: PathBuf,
    module: PathBuf,
    grpc: u16,
    health: u16,
    agent: Option<Process>,
}

impl Node {
    /// Makes the token (label `NAME`, a random PIN) and the agent's certificate. Starts nothing.
    ///
    /// # Errors
    /// If SoftHSM is not installed or refuses.
    pub fn new(name: &str, pki: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("hsm-node-").tempdir()?;
        for folder in ["tokens", "run", "state"] {
            std::fs::create_dir(dir.path().join(folder))?;
        }
        let conf = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            dir.path().join("tokens").display()
        );
        std::fs::write(dir.path().join("softhsm2.conf"), conf)?;
        make_certificates(pki, name)?;
        let node = Self {
            name: name.to_owned(),
            pki: pki.to_owned(),
            module: softhsm()?,
            grpc: free_port()?,
            health: free_port()?,
            agent: None,
            dir,
        };
        node.token(&["init", "--yes", "--so-pin-file", &node.file("so-pin.txt")], None)?;
        Ok(node)
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder that holds its token's files, PIN and logs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// The file that holds the token's PIN.
    pub fn pin_file(&self) -> PathBuf {
        self.dir.path().join("pin.txt")
    }

    /// The value of the controller's `--agent` flag for this node.
    pub fn flag(&self) -> String {
        format!("{}=https://127.0.0.1:{}", self.name, self.grpc)
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(program("hsm-agent")?);
        command
            .env("SOFTHSM2_CONF", self.file("softhsm2.conf"))
            .env("HSM_MODULE", &self.module)
            .env("HSM_TOKEN_LABEL", &self.name)
            .env("HSM_PIN_FILE", self.pin_file())
            .env("HSM_RUNTIME_DIR", self.file("run"))
            .env("HSM_STATE_DIR", self.file("state"));
        Ok(command)
    }

    /// Runs `hsm-agent token ARGS` and gives what it printed.
    ///
    /// # Errors
    /// If it fails; the text holds its message.
    pub fn token(&self, args: &[&str], stdin: Option<&str>) -> Result<String> {
        let output = self.token_output(args, stdin)?;
        if !output.status.success() {
            bail!("hsm-agent token {args:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        String::from_utf8(output.stdout).context("the output is not UTF-8")
    }

    /// Runs `hsm-agent token ARGS` and gives the outcome as it is.
    ///
    /// # Errors
    /// If it cannot be run at all.
    pub fn token_output(&self, args: &[&str], stdin: Option<&str>) -> Result<Output> {
        let mut child = self
            .command()?
            .arg("token")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("no stdin")?.write_all(stdin.unwrap_or_default().as_bytes())?;
        Ok(child.wait_with_output()?)
    }

    /// Makes an object on the token as another program would: with this label and value, and nothing of ours.
    ///
    /// # Errors
    /// If the token refuses.
    pub fn plant(&self, label: &str, value: &[u8]) -> Result<()> {
        let token =
            Pkcs11Config { module: self.module.clone(), token: TokenSelector::Label(self.name.clone()) };
        let mut config = WorkerConfig::new(token)?;
        config.worker = WorkerProgram {
            program: program("hsm-agent")?,
            args: vec!["token-worker".into()],
            env: vec![("SOFTHSM2_CONF".into(), self.file("softhsm2.conf").into())],
        };
        let mut token = WorkerToken::open(config)?;
        token.login(&Pin::new(std::fs::read_to_string(self.pin_file())?))?;
        token.create(label, Visibility::Private, value)?;
        Ok(())
    }

    /// Sets keys of a record from the command line, beside the ones that it has.
    ///
    /// # Errors
    /// If the token refuses.
    pub fn put(&self, path: &str, values: &[(&str, &str)]) -> Result<()> {
        let lines: Vec<String> = values.iter().map(|(k, v)| format!("{k}={v}")).collect();
        self.token(&["put", path, "--from-env-file", "-"], Some(&lines.join("\n"))).map(drop)
    }

    /// One value of a record, `None` when the record or the key is known to be absent (exit status 3).
    ///
    /// # Errors
    /// If that could not be found out.
    pub fn get(&self, path: &str, key: &str) -> Result<Option<String>> {
        let output = self.token_output(&["get", path, "--key", key], None)?;
        match output.status.code() {
            Some(0) => Ok(Some(String::from_utf8(output.stdout)?)),
            Some(3) => Ok(None),
            _ => bail!("get {path}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)),
        }
    }

    /// Starts the agent and waits until it is ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn start(&mut self) -> Result<()> {
        let health = self.launch()?;
        self.agent.as_mut().context("not started")?.wait_ready(&health, "/readyz")
    }

    /// Starts the agent without waiting for its token; gives the address of its health and metrics.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn launch(&mut self) -> Result<String> {
        let health = format!("127.0.0.1:{}", self.health);
        let pki = |name: &str| self.pki.join(name);
        let mut command = self.command()?;
        command
            .args(["run", "--poll-interval", "1s", "--log-format", "text", "--node-name", &self.name])
            .args(["--listen", &format!("127.0.0.1:{}", self.grpc), "--health-listen", &health])
            .arg("--tls-cert")
            .arg(pki(&format!("{}.crt", self.name)))
            .arg("--tls-key")
            .arg(pki(&format!("{}.key", self.name)))
            .arg("--client-ca")
            .arg(pki("ca.crt"));
        self.agent = Some(Process::start(&mut command, &self.dir.path().join("agent.log"))?);
        Ok(health)
    }

    /// Kills the agent, as a node's crash does.
    pub fn kill(&mut self) {
        self.agent = None;
    }

    /// Stops the agent as the kubelet does; gives its exit code.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(&mut self) -> Result<Option<i32>> {
        self.agent.take().context("the agent does not run")?.terminate()
    }

    /// What the agent logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default()
    }

    /// The agent's metrics, as text.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn metrics(&self) -> Result<String> {
        Ok(http_get(&format!("127.0.0.1:{}", self.health), "/metrics")?.1)
    }

    /// The agent's process id.
    pub fn agent_pid(&self) -> Option<u32> {
        self.agent.as_ref().map(Process::id)
    }
}

/// Makes a CA and certificates for the controller and one agent in `pki`, keeping what is there (`hack/dev-ca`).
pub(crate) fn make_certificates(pki: &Path, name: &str) -> Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hack/dev-ca");
    let output = Command::new(script).arg(pki).arg(name).output().context("hack/dev-ca")?;
    if !output.status.success() {
        bail!("hack/dev-ca: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn softhsm() -> Result<PathBuf> {
    ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so"]
        .iter()
        .map(PathBuf::from)
        .find(|p| p.exists())
        .context("SoftHSM is not installed: apt-get install softhsm2")
}
