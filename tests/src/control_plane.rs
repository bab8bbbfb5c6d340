//! A real etcd and API server for tests, made by `hack/kube`.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// What runs beside etcd and the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    /// kube-controller-manager: default service accounts, garbage collection, deletion of namespaces.
    Controllers,
    /// kube-scheduler.
    Scheduler,
}

/// A Kubernetes control plane on a loopback port of its own, with all its data in a temporary folder.
///
/// It ends when it is dropped, also by a panic. A value in a `static` is never dropped, and a test that is killed drops
/// nothing: the control plane then ends by itself, a second after the test's process.
#[derive(Debug)]
pub struct ControlPlane {
    bin: PathBuf,
    kubeconfig: PathBuf,
    dir: TempDir,
}

impl ControlPlane {
    /// Starts a control plane and waits until it serves. That takes 3 to 10 s; the first call on a machine builds the
    /// programs and may take ten minutes, with its progress on stderr.
    ///
    /// # Errors
    /// If a program can neither be found nor built, or ends at its start; the text is `hack/kube`'s, with the end of
    /// the program's log.
    pub fn start(with: &[With]) -> Result<Self> {
        let parts: &[&str] = if with.is_empty() { &["control"] } else { &["control", "controllers"] };
        // Not captured: minutes of silence look like a hang.
        let output = hack_kube()
            .arg("tools")
            .args(parts)
            .stderr(Stdio::inherit())
            .output()
            .context("hack/kube tools")?;
        let bin =
            PathBuf::from(text(output, "hack/kube tools (see above)")?.lines().last().unwrap_or_default());

        let dir = tempfile::Builder::new().prefix("hsm-control-plane-").tempdir()?;
        let plane = Self { bin, kubeconfig: dir.path().join("kubeconfig"), dir };
        let mut up = hack_kube();
        up.arg("up").arg(plane.dir.path()).args(["--owner", &std::process::id().to_string()]);
        for part in with {
            up.args(["--with", part.name()]);
        }
        run(&mut up, "hack/kube up")?;
        Ok(plane)
    }

    /// An administrator's kubeconfig, with its keys inside.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The folder with `kubectl`, `kube-apiserver` and `etcd`, for a child process's PATH.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The folder with its data; `logs/apiserver.log` is there.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs kubectl as administrator and returns its stdout.
    ///
    /// # Errors
    /// If kubectl fails; the text is what it wrote to stderr.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        run(self.kubectl_command(args).stdin(Stdio::null()), &format!("kubectl {}", args.join(" ")))
    }

    /// Like [`ControlPlane::kubectl`], with `input` on stdin: `kubectl_stdin(&["apply", "-f", "-"], manifests)`.
    ///
    /// # Errors
    /// If kubectl fails; the text is what it wrote to stderr.
    pub fn kubectl_stdin(&self, args: &[&str], input: &str) -> Result<String> {
        let what = format!("kubectl {}", args.join(" "));
        let mut child = self
            .kubectl_command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| what.clone())?;
        // From a thread, since kubectl may fill its stdout before it has read all of stdin.
        let mut stdin = child.stdin.take().context("stdin is piped")?;
        let output = thread::scope(|scope| {
            // A kubectl that ends early breaks the pipe; its stderr says why.
            scope.spawn(move || stdin.write_all(input.as_bytes()));
            child.wait_with_output()
        })?;
        text(output, &what)
    }

    /// Stops one process, `apiserver`, `etcd`, `controllers` or `scheduler`, and returns when it is gone.
    ///
    /// # Errors
    /// If there is no process of that name, or it cannot be ended.
    pub fn stop(&self, process: &str) -> Result<()> {
        run(hack_kube().arg("stop").arg(self.dir.path()).arg(process), "hack/kube stop").map(drop)
    }

    /// Starts a stopped process again, with the same data and address, and returns when it is ready.
    ///
    /// # Errors
    /// If it ends at its start, or another process has taken its port meanwhile.
    pub fn start_again(&self, process: &str) -> Result<()> {
        run(hack_kube().arg("start").arg(self.dir.path()).arg(process), "hack/kube start").map(drop)
    }

    fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.bin.join("kubectl"));
        // Caches and preferences in the home folder are a person's, and know clusters by addresses that come again.
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", self.dir.path().join("kubectl-cache"))
            .env("KUBERC", "off")
            .args(args);
        command
    }
}

impl Drop for ControlPlane {
    #[allow(clippy::print_stderr, reason = "a drop has nobody to return an error to")]
    fn drop(&mut self) {
        // No panic here: during another panic it would abort the tests.
        let down = run(hack_kube().arg("down").arg(self.dir.path()), "hack/kube down");
        if let Err(error) = down {
            eprintln!("The control plane in {} was not stopped: {error:#}", self.dir.path().display());
        }
    }
}

impl With {
    fn name(self) -> &'static str {
        match self {
            Self::Controllers => "controllers",
            Self::Scheduler => "scheduler",
        }
    }
}

fn hack_kube() -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../hack/kube"));
    command.stdin(Stdio::null());
    command
}

fn run(command: &mut Command, what: &str) -> Result<String> {
    let output = command.output().with_context(|| what.to_owned())?;
    text(output, what)
}

fn text(output: Output, what: &str) -> Result<String> {
    if !output.status.success() {
        bail!("{what}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{what} wrote something that is not UTF-8"))
}
