//! Chance, from the operating system: request ids, jitter, keys. Decisions take it as an argument.

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};

use crate::digest::hex;

/// Fills the buffer; `false` when the operating system gives nothing.
pub(crate) fn fill(buffer: &mut [u8]) -> bool {
    SystemRandom::new().fill(buffer).is_ok()
}

/// Any number. Without randomness 0: then jitter is none, which is slower to spread, not wrong.
pub(crate) fn number() -> u64 {
    let mut bytes = [0; 8];
    if fill(&mut bytes) { u64::from_be_bytes(bytes) } else { 0 }
}

/// A name for one reconcile or call, 16 hexadecimal digits.
pub(crate) fn request_id() -> String {
    hex(&number().to_be_bytes())
}
