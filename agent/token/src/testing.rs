//! A SoftHSM token in a temporary directory, for tests of this crate and of those above it.
//!
//! The configuration reaches SoftHSM by the worker's environment: a test process never sets a variable of its own, so
//! tests with tokens of their own run side by side.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::pkcs11::{BlankSlot, Pkcs11Config, TokenSelector};
use crate::worker::{Deadlines, WorkerConfig, WorkerProgram, init_software_token};
use crate::{ErrorClass, Pin, TokenError, TokenInfo};

/// Where distributions put SoftHSM 2 (Debian, Fedora, Arch, Homebrew).
const USUAL_PLACES: [&str; 6] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];

/// The SoftHSM module: `$HSM_MODULE`, or one of the usual places.
pub fn softhsm_module() -> Result<PathBuf, TokenError> {
    if let Some(module) = std::env::var_os("HSM_MODULE") {
        return Ok(module.into());
    }
    USUAL_PLACES.iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(|| {
        TokenError::new(
            ErrorClass::Module,
            "softhsm",
            "SoftHSM 2 is not installed: apt-get install softhsm2 (or set HSM_MODULE)",
        )
    })
}

/// SoftHSM with a directory of its own; removed when dropped.
pub struct SoftHsm {
    dir: TempDir,
    module: PathBuf,
    worker: WorkerProgram,
}

impl SoftHsm {
    /// An empty SoftHSM. `worker` is a program that calls [`crate::worker::run_child`].
    pub fn new(worker: WorkerProgram) -> Result<Self, TokenError> {
        let trouble = |e: io::Error| TokenError::new(ErrorClass::Module, "softhsm", e.to_string());
        let module = softhsm_module()?;
        let dir = tempfile::tempdir().map_err(trouble)?;
        let tokens = dir.path().join("tokens");
        fs::create_dir(&tokens).map_err(trouble)?;
        let conf = dir.path().join("softhsm2.conf");
        let text = format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display());
        fs::write(&conf, text).map_err(trouble)?;
        let worker = worker.with_env("SOFTHSM2_CONF", conf);
        Ok(Self { dir, module, worker })
    }

    /// With one token of this label and PIN.
    pub fn with_token(worker: WorkerProgram, label: &str, pin: &Pin) -> Result<Self, TokenError> {
        let softhsm = Self::new(worker)?;
        softhsm.init(label, pin)?;
        Ok(softhsm)
    }

    /// Initialises one more token. The SO-PIN is [`SoftHsm::SO_PIN`].
    pub fn init(&self, label: &str, pin: &Pin) -> Result<TokenInfo, TokenError> {
        let so_pin = Pin::exactly(Self::SO_PIN.to_owned());
        let limit = Duration::from_mins(1);
        init_software_token(&self.worker, limit, &self.module, BlankSlot::First, label, &so_pin, pin)
    }

    /// The SO-PIN of its tokens.
    pub const SO_PIN: &'static str = "test-so-pin";

    /// How to open one of its tokens, with the default deadlines and a memory of failed PINs in its directory.
    pub fn config(&self, token: TokenSelector) -> WorkerConfig {
        WorkerConfig {
            token: Pkcs11Config { module: self.module.clone(), token },
            worker: self.worker.clone(),
            deadlines: Deadlines::default(),
            pin_memory: Some(self.dir.path().join("failed-pins")),
            opensc: None,
        }
    }

    /// The module's shared library.
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// The configuration that SOFTHSM2_CONF names.
    pub fn conf(&self) -> PathBuf {
        self.dir.path().join("softhsm2.conf")
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The worker's program, with the environment that leads to this SoftHSM.
    pub fn worker(&self) -> &WorkerProgram {
        &self.worker
    }
}
