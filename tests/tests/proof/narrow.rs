//! The worker's token with limits of a test's own: a token on which objects are short after a few records makes every
//! fault of packing cheap to try. What passes through is the real thing, call by call, and where a module has no faults
//! by script, the worker can be killed between two calls.

use hsm_token::worker::WorkerToken;
use hsm_token::{Limits, ObjectHandle, Pin, Token, TokenError, TokenInfo, TokenListing, Visibility};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zeroize::Zeroizing;

/// A [`WorkerToken`] with a little of a test's own.
pub(crate) struct Narrow {
    pub(crate) worker: WorkerToken,
    /// What its card is said to hold; `None`: what it says itself.
    pub(crate) limits: Option<Limits>,
    /// After how many calls more the worker is killed.
    pub(crate) kill_after: Option<usize>,
}

impl Narrow {
    pub(crate) fn new(worker: WorkerToken, limits: Option<Limits>) -> Self {
        Self { worker, limits, kill_after: None }
    }

    /// The worker, for one call.
    fn call(&mut self) -> &mut WorkerToken {
        match self.kill_after {
            Some(0) => {
                self.kill_after = None;
                let pid = self.worker.pid().expect("a worker runs");
                kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
            }
            Some(more) => self.kill_after = Some(more - 1),
            None => {}
        }
        &mut self.worker
    }
}

impl Token for Narrow {
    fn epoch(&self) -> u64 {
        self.worker.epoch()
    }

    fn limits(&self) -> Limits {
        self.limits.unwrap_or_else(|| self.worker.limits())
    }

    fn alone(&self) -> bool {
        self.worker.alone()
    }

    fn info(&mut self) -> Result<TokenInfo, TokenError> {
        self.call().info()
    }

    fn still_there(&mut self) -> Result<(), TokenError> {
        self.call().still_there()
    }

    fn login(&mut self, pin: &Pin) -> Result<(), TokenError> {
        self.call().login(pin)
    }

    fn list(&mut self) -> Result<TokenListing, TokenError> {
        self.call().list()
    }

    fn read(&mut self, handle: ObjectHandle) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        self.call().read(handle)
    }

    fn create(
        &mut self,
        label: &str,
        visibility: Visibility,
        value: &[u8],
    ) -> Result<ObjectHandle, TokenError> {
        self.call().create(label, visibility, value)
    }

    fn destroy(&mut self, handle: ObjectHandle) -> Result<(), TokenError> {
        self.call().destroy(handle)
    }

    fn random(&mut self, len: usize) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        self.call().random(len)
    }

    fn find_key_pair(&mut self, label: &str) -> Result<Option<Vec<u8>>, TokenError> {
        self.call().find_key_pair(label)
    }

    fn generate_key_pair(&mut self, label: &str) -> Result<Vec<u8>, TokenError> {
        self.call().generate_key_pair(label)
    }

    fn destroy_key_pair(&mut self, label: &str) -> Result<(), TokenError> {
        self.call().destroy_key_pair(label)
    }

    fn derive(&mut self, label: &str, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        self.call().derive(label, peer)
    }
}
