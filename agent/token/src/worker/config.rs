//! How a worker is started, and how long its commands may take.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::opensc_conf::OpenscSettings;

/// The program that runs [`super::run_child`].
#[derive(Clone, PartialEq, Eq)]
pub struct WorkerProgram {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments. Never a PIN: they are seen by everyone on the machine.
    pub args: Vec<OsString>,
    /// Environment beside our own, for example OPENSC_CONF or SOFTHSM2_CONF. Never a PIN.
    pub env: Vec<(OsString, OsString)>,
}

impl WorkerProgram {
    /// This executable with the argument `token-worker`.
    pub fn current_exe() -> io::Result<Self> {
        Ok(Self { program: std::env::current_exe()?, args: vec!["token-worker".into()], env: Vec::new() })
    }

    /// The same with one variable more.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }
}

impl fmt::Debug for WorkerProgram {
    // Without the environment, in which others may keep what is not ours to show.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerProgram")
            .field("program", &self.program)
            .field("args", &self.args)
            .finish_non_exhaustive()
    }
}

/// How long commands may take. Past the first limit the caller is told `Unreachable`; past `grace` on top of it the
/// worker is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Starting a worker and opening the token: C_Initialize reads every object's description.
    pub open: Duration,
    /// Whatever changes nothing on the token; a login as well.
    pub read: Duration,
    /// Create, destroy, a change of the PIN.
    pub write: Duration,
    /// Making a key pair (an RP2040 is busy for seconds).
    pub key_generation: Duration,
    /// From the first limit to the kill: an APDU under way still lands.
    pub grace: Duration,
    /// How long a worker that is told to end may take, before it is killed.
    pub shutdown: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            open: Duration::from_secs(30),
            read: Duration::from_secs(10),
            write: Duration::from_secs(30),
            key_generation: Duration::from_mins(2),
            grace: Duration::from_secs(30),
            shutdown: Duration::from_secs(5),
        }
    }
}

/// Everything that a [`super::WorkerToken`] needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerConfig {
    /// Which token, through which module.
    pub token: crate::pkcs11::Pkcs11Config,
    /// The worker's program.
    pub worker: WorkerProgram,
    /// How long commands may take.
    pub deadlines: Deadlines,
    /// Where PINs that failed are remembered; one file for each token, in a directory that exists and that only we
    /// can write. `None`: only while the worker lives, so that a restart could try a wrong PIN again.
    pub pin_memory: Option<PathBuf>,
    /// What OpenSC is told; the file is written anew for each epoch. `None`: OpenSC's own configuration is used.
    pub opensc: Option<OpenscSettings>,
}

impl WorkerConfig {
    /// The defaults: our own executable, the deadlines of [`Deadlines::default`], no memory of failed PINs, no
    /// opensc.conf.
    pub fn new(token: crate::pkcs11::Pkcs11Config) -> io::Result<Self> {
        Ok(Self {
            token,
            worker: WorkerProgram::current_exe()?,
            deadlines: Deadlines::default(),
            pin_memory: None,
            opensc: None,
        })
    }
}
