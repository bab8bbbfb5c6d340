//! What a store needs from outside: time, randomness, and the place of its lock.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

use crate::StoreError;

/// Time, for settling and for waiting.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Instant;
    /// Lets time pass. Called only by operations that write.
    fn sleep(&self, time: Duration);
}

/// The machine's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// A source of random bytes fit for keys and nonces.
pub trait Entropy: Send {
    /// Fills `bytes`.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), StoreError>;
}

/// The cryptographic library's generator.
pub struct SystemEntropy(SystemRandom);

impl Default for SystemEntropy {
    fn default() -> Self {
        Self(SystemRandom::new())
    }
}

impl Entropy for SystemEntropy {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), StoreError> {
        self.0.fill(bytes).map_err(|_| StoreError::Crypto)
    }
}

/// How new versions of records are written. Reading does not depend on it: a token may hold both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Encryption {
    /// Sealed with the token's store key.
    #[default]
    Envelope,
    /// In clear, as one JSON object of at most `Limits::object_size` bytes with the path as its label. Whoever reads
    /// the flash reads them. What does not fit is refused.
    None,
}

/// How a store is opened.
pub struct Options {
    /// The advisory lock file of this token, in a runtime directory that exists. All programs that write to the token
    /// on this machine name the same file.
    pub lock: PathBuf,
    /// How long a write waits for another program's.
    pub lock_wait: Duration,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Box<dyn Entropy>,
    /// How new versions are written.
    pub encryption: Encryption,
}

impl Options {
    /// The machine's clock and randomness, and 10 seconds of waiting for the lock.
    pub fn new(lock: impl Into<PathBuf>) -> Self {
        Self {
            lock: lock.into(),
            lock_wait: Duration::from_secs(10),
            clock: Arc::new(SystemClock),
            entropy: Box::new(SystemEntropy::default()),
            encryption: Encryption::Envelope,
        }
    }

    pub(crate) fn random<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let mut bytes = [0; N];
        self.entropy.fill(&mut bytes)?;
        Ok(bytes)
    }
}
