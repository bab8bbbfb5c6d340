//! Everything together: a control plane, nodes and a controller.

use std::fmt::Debug;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::process::{Process, free_port, http_get, program};
use crate::{ControlPlane, Node, With};

/// The namespace in which the controller keeps what is its own.
const SYSTEM: &str = "hsm-secrets-operator-system";

/// A control plane with the CRDs, some nodes, and a controller that knows them.
pub struct World {
    controller: Option<Process>,
    metrics: u16,
    health: u16,
    rest: u16,
    /// The nodes, with their agents.
    pub nodes: Vec<Node>,
    /// The control plane.
    pub plane: ControlPlane,
    dir: TempDir,
}

impl World {
    /// Starts everything with this many nodes (`node-1`, …).
    ///
    /// # Errors
    /// If a part does not start.
    pub fn start(nodes: usize) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("hsm-world-").tempdir()?;
        let pki = dir.path().join("pki");
        let plane = ControlPlane::start(&[With::Controllers])?;
        let crds = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/hsm-secrets-operator/crds");
        plane.kubectl(&["create", "namespace", SYSTEM])?;
        plane.kubectl(&["apply", "-f", &crds.display().to_string()])?;
        let names = ["crd/hsmsecrets.hsm.j5t.io", "crd/hsmdevices.hsm.j5t.io"];
        plane.kubectl(&["wait", "--for", "condition=Established", "--timeout", "30s", names[0], names[1]])?;
        let mut nodes =
            (1..=nodes).map(|i| Node::new(&format!("node-{i}"), &pki)).collect::<Result<Vec<_>>>()?;
        nodes.iter_mut().try_for_each(Node::start)?;
        let mut world = Self {
            controller: None,
            metrics: free_port()?,
            health: free_port()?,
            rest: free_port()?,
            nodes,
            plane,
            dir,
        };
        world.start_controller()?;
        Ok(world)
    }

    /// Starts the controller and waits until it is ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn start_controller(&mut self) -> Result<()> {
        let pki = |name: &str| self.dir.path().join("pki").join(name);
        let health = format!("127.0.0.1:{}", self.health);
        let mut command = Command::new(program("hsm-controller")?);
        command
            .env("KUBECONFIG", self.plane.kubeconfig())
            .args(["run", "--namespace", SYSTEM, "--log-format", "text", "--health-listen", &health])
            .args(["--metrics-listen", &format!("127.0.0.1:{}", self.metrics)])
            .args(["--rest-listen", &format!("127.0.0.1:{}", self.rest)])
            .arg("--tls-ca")
            .arg(pki("ca.crt"))
            .arg("--tls-cert")
            .arg(pki("controller.crt"))
            .arg("--tls-key")
            .arg(pki("controller.key"));
        for node in &self.nodes {
            command.args(["--agent", &node.flag()]);
        }
        let mut controller = Process::start(&mut command, &self.dir.path().join("controller.log"))?;
        controller.wait_ready(&health, "/readyz")?;
        self.controller = Some(controller);
        Ok(())
    }

    /// Kills the controller, as a crash does.
    pub fn kill_controller(&mut self) {
        self.controller = None;
    }

    /// Stops the controller as the kubelet does; gives its exit code.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop_controller(&mut self) -> Result<Option<i32>> {
        self.controller.take().context("the controller does not run")?.terminate()
    }

    /// The controller's process id.
    pub fn controller_pid(&self) -> Option<u32> {
        self.controller.as_ref().map(Process::id)
    }

    /// What the controller logged so far.
    pub fn controller_log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("controller.log")).unwrap_or_default()
    }

    /// The controller's metrics, as text.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn controller_metrics(&self) -> Result<String> {
        Ok(http_get(&format!("127.0.0.1:{}", self.metrics), "/metrics")?.1)
    }

    /// Makes a namespace.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn namespace(&self, name: &str) -> Result<()> {
        self.plane.kubectl(&["create", "namespace", name]).map(drop)
    }

    /// Applies an HSMSecret `NAMESPACE/NAME` with these lines of JSON members as its spec, for example
    /// `"conflictPolicy": "PreferToken"`.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn apply(&self, namespace: &str, name: &str, spec: &str) -> Result<()> {
        let manifest = format!(
            r#"{{"apiVersion": "hsm.j5t.io/v1alpha1", "kind": "HSMSecret",
                "metadata": {{"namespace": "{namespace}", "name": "{name}"}}, "spec": {{{spec}}}}}"#
        );
        self.plane.kubectl_stdin(&["apply", "-f", "-"], &manifest).map(drop)
    }

    /// A field of an HSMSecret by JSONPath, for example `.status.syncStatus`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn field(&self, namespace: &str, name: &str, path: &str) -> Result<String> {
        self.plane.kubectl(&["-n", namespace, "get", "hsmsec", name, "-o", &format!("jsonpath={{{path}}}")])
    }

    /// The reason of an HSMSecret's condition.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn reason(&self, namespace: &str, name: &str, condition: &str) -> Result<String> {
        self.field(namespace, name, &format!(".status.conditions[?(@.type=='{condition}')].reason"))
    }

    /// A value of a Kubernetes Secret; `None` when the Secret or the key is not there.
    ///
    /// # Errors
    /// If that could not be found out.
    pub fn secret(&self, namespace: &str, name: &str, key: &str) -> Result<Option<String>> {
        use base64::Engine as _;
        let json = self.plane.kubectl(&[
            "-n",
            namespace,
            "get",
            "secret",
            name,
            "--ignore-not-found",
            "-o",
            "json",
        ])?;
        if json.trim().is_empty() {
            return Ok(None);
        }
        let secret: serde_json::Value = serde_json::from_str(&json)?;
        let Some(value) = secret["data"][key].as_str() else { return Ok(None) };
        let bytes = base64::engine::general_purpose::STANDARD.decode(value)?;
        Ok(Some(String::from_utf8(bytes)?))
    }

    /// Sets one value of a Kubernetes Secret, as a person with kubectl does.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn edit_secret(&self, namespace: &str, name: &str, key: &str, value: &str) -> Result<()> {
        let patch = serde_json::json!({"stringData": {key: value}}).to_string();
        // By stdin: one argument of a program has at most 128 KiB.
        let args =
            ["-n", namespace, "patch", "secret", name, "--type", "merge", "--patch-file", "/dev/stdin"];
        self.plane.kubectl_stdin(&args, &patch).map(drop)
    }

    /// Sets an annotation of an HSMSecret.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn annotate(&self, namespace: &str, name: &str, annotation: &str) -> Result<()> {
        self.plane
            .kubectl(&["-n", namespace, "annotate", "--overwrite", "hsmsec", name, annotation])
            .map(drop)
    }
}

/// Asks again until the answer is the wanted one; for things that take a moment. The bound is generous on purpose: it
/// tells a hang from a slow machine, it measures nothing.
///
/// # Errors
/// If the answer is still another one after 60 s; the text holds the last one.
pub fn eventually<T: PartialEq + Debug>(
    what: &str,
    wanted: &T,
    mut ask: impl FnMut() -> Result<T>,
) -> Result<()> {
    let end = Instant::now() + Duration::from_mins(1);
    loop {
        let got = ask();
        if got.as_ref().is_ok_and(|got| got == wanted) {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("{what}: wanted {wanted:?}, got {got:?}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
