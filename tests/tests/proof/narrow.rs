//! The worker's token with limits of a test's own: a token on which objects are short after a few records makes every
//! fault of packing cheap to try. What passes through is the real thing, call by call.

use hsm_token::worker::WorkerToken;
use hsm_token::{Limits, ObjectHandle, Pin, Token, TokenError, TokenInfo, TokenListing, Visibility};
use zeroize::Zeroizing;

/// A [`WorkerToken`], and what its card is said to hold; `None`: what it says itself.
pub(crate) struct Narrow {
    pub(crate) worker: WorkerToken,
    pub(crate) limits: Option<Limits>,
}

impl Token for Narrow {
    fn epoch(&self) -> u64 {
        self.worker.epoch()
    }

    fn limits(&self) -> Limits {
        self.limits.unwrap_or_else(|| self.worker.limits())
    }

    fn info(&mut self) -> Result<TokenInfo, TokenError> {
        self.worker.info()
    }

    fn still_there(&mut self) -> Result<(), TokenError> {
        self.worker.still_there()
    }

    fn login(&mut self, pin: &Pin) -> Result<(), TokenError> {
        self.worker.login(pin)
    }

    fn list(&mut self) -> Result<TokenListing, TokenError> {
        self.worker.list()
    }

    fn read(&mut self, handle: ObjectHandle) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        self.worker.read(handle)
    }

    fn create(
        &mut self,
        label: &str,
        visibility: Visibility,
        value: &[u8],
    ) -> Result<ObjectHandle, TokenError> {
        self.worker.create(label, visibility, value)
    }

    fn destroy(&mut self, handle: ObjectHandle) -> Result<(), TokenError> {
        self.worker.destroy(handle)
    }

    fn random(&mut self, len: usize) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        self.worker.random(len)
    }

    fn find_key_pair(&mut self, label: &str) -> Result<Option<Vec<u8>>, TokenError> {
        self.worker.find_key_pair(label)
    }

    fn generate_key_pair(&mut self, label: &str) -> Result<Vec<u8>, TokenError> {
        self.worker.generate_key_pair(label)
    }

    fn destroy_key_pair(&mut self, label: &str) -> Result<(), TokenError> {
        self.worker.destroy_key_pair(label)
    }

    fn derive(&mut self, label: &str, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        self.worker.derive(label, peer)
    }
}
