//! Which PIN values are known to be wrong: one value is tried once, also after a restart.
//!
//! A value is noted as *pending* before it goes to the token, and becomes *failed* or is forgotten by the answer; a
//! crash in between leaves it pending, and then the token's own COUNT_LOW flag says whether the try was used. A change
//! of the PIN is noted with both of its values, so that whatever is lost, each of them is tried at most once more, and
//! nothing else. What follows from what is in `state`; this module owns the file.
//!
//! The file holds a salt and digests, never a value. The digest is iterated, but a PIN is short: a failed PIN is often
//! a typing error away from the right one, so the file is for its owner alone (0600), and a good login leaves nothing of
//! failed values in it. PINs that were replaced by a change are kept, the last four of them. One file belongs to one
//! token, and one process writes it (whoever holds the token's lock).

mod file;
mod state;

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use state::State;

pub use state::Known;

use crate::{ErrorClass, Pin, TokenError, durable};

const OPERATION: &str = "login";
/// Few in this crate's own tests, which ask thousands of times.
const ROUNDS: u32 = if cfg!(test) { 2 } else { 20_000 };
const SALT_LEN: usize = 16;

/// A PIN value as one [`PinMemory`] knows it; of no use with another.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PinDigest([u8; 32]);

/// The memory of one token's PIN values that are known to be wrong.
#[cfg_attr(test, derive(Clone))]
pub struct PinMemory {
    path: Option<PathBuf>,
    salt: [u8; SALT_LEN],
    state: State,
}

impl PinMemory {
    /// Reads the file, or begins a new memory where there is none. The file is written with the first try.
    ///
    /// Errors: class `Module` where the file cannot be read or is damaged. Nothing is guessed then: a lost memory
    /// could spend the token's last tries.
    pub fn open(path: &Path) -> Result<Self, TokenError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Ok(Self { path: Some(path.to_owned()), ..Self::ephemeral()? });
            }
            Err(e) => return Err(trouble("read", path, &e.to_string())),
        };
        let (salt, state) = file::parse(&text).ok_or_else(|| trouble("read", path, "it is damaged"))?;
        Ok(Self { path: Some(path.to_owned()), salt, state })
    }

    /// A memory without a file, gone with the process. For one-shot programs that cannot keep state.
    pub fn ephemeral() -> Result<Self, TokenError> {
        let mut salt = [0; SALT_LEN];
        let urandom = Path::new("/dev/urandom");
        File::open(urandom)
            .and_then(|mut file| file.read_exact(&mut salt))
            .map_err(|e| trouble("read", urandom, &e.to_string()))?;
        Ok(Self { path: None, salt, state: State::default() })
    }

    /// What the other questions are asked with; slow on purpose.
    pub fn digest(&self, pin: &Pin) -> PinDigest {
        let mut digest = [0_u8; 32];
        for _ in 0..ROUNDS {
            let mut hasher = Sha256::new();
            hasher.update(self.salt);
            hasher.update(digest);
            hasher.update(pin.expose().as_bytes());
            digest = hasher.finalize().into();
        }
        PinDigest(digest)
    }

    /// What is known of this value. `count_low` is the token's flag now, here and below.
    pub fn known(&self, digest: &PinDigest, count_low: bool) -> Known {
        self.state.known(&digest.0, count_low)
    }

    /// Whether a change was begun whose outcome is not known: log in with one of its values first.
    pub fn change_under_way(&self, count_low: bool) -> bool {
        self.state.change_under_way(count_low)
    }

    /// Notes that this value is about to be sent. Must succeed before it is.
    pub fn begin(&mut self, digest: &PinDigest, count_low: bool) -> Result<(), TokenError> {
        self.note(|state| state.begin(&digest.0, count_low))
    }

    /// Notes that a change is about to be sent. Must succeed before it is.
    pub fn begin_change(
        &mut self,
        old: &PinDigest,
        new: &PinDigest,
        count_low: bool,
    ) -> Result<(), TokenError> {
        self.note(|state| state.begin_change(&old.0, &new.0, count_low))
    }

    /// The token said that the value is wrong.
    pub fn failed(&mut self, digest: &PinDigest) -> Result<(), TokenError> {
        self.note(|state| state.wrong(&digest.0))
    }

    /// The value was not judged, and no try was used (its length, say).
    pub fn not_judged(&mut self, digest: &PinDigest) -> Result<(), TokenError> {
        self.note(|state| state.not_judged(&digest.0))
    }

    /// A login with this value worked: the token's counter is full again, and failed values are forgotten. If it
    /// settles a change, the change's other value is remembered as wrong.
    pub fn worked(&mut self, digest: &PinDigest) -> Result<(), TokenError> {
        self.note(|state| state.right(&digest.0))
    }

    /// The change was made: the old value is wrong from now on.
    pub fn changed(&mut self, old: &PinDigest, new: &PinDigest) -> Result<(), TokenError> {
        self.note(|state| state.changed(&old.0, &new.0))
    }

    /// The change was not made: the token said that the old value is wrong, or it judged neither value.
    pub fn not_changed(&mut self, old_wrong: bool) -> Result<(), TokenError> {
        self.note(|state| state.not_changed(old_wrong))
    }

    /// Where the memory is kept.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Replaces the file whole, and waits until it is on the disk: the try must not be forgotten by a power cut.
    /// Nothing to remember leaves no file.
    fn note(&mut self, change: impl FnOnce(&mut State)) -> Result<(), TokenError> {
        change(&mut self.state);
        let Some(path) = &self.path else { return Ok(()) };
        if self.state == State::default() {
            return durable::remove(path).map_err(|e| trouble("remove", path, &e.to_string()));
        }
        let text = file::text(&self.salt, &self.state);
        durable::replace(path, text.as_bytes()).map_err(|e| trouble("write", path, &e.to_string()))
    }
}

fn trouble(verb: &str, path: &Path, why: &str) -> TokenError {
    TokenError::new(
        ErrorClass::Module,
        OPERATION,
        format!(
            "cannot {verb} {}, which remembers the PINs that failed: {why}; no PIN is tried without it",
            path.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn pin(text: &str) -> Pin {
        Pin::new(text.to_owned())
    }

    impl PinMemory {
        /// What the next program reads.
        pub(crate) fn again(&self) -> Self {
            let (salt, state) = file::parse(&file::text(&self.salt, &self.state)).unwrap();
            Self { path: None, salt, state }
        }
    }

    fn known_again(path: &Path, text: &str) -> Known {
        let memory = PinMemory::open(path).unwrap();
        memory.known(&memory.digest(&pin(text)), false)
    }

    #[test]
    fn a_failed_value_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pins");
        let mut memory = PinMemory::open(&path).unwrap();
        assert_eq!(memory.known(&memory.digest(&pin("wrong1")), false), Known::Nothing);
        memory.begin(&memory.digest(&pin("wrong1")), false).unwrap();
        assert_eq!(known_again(&path, "wrong1"), Known::Pending);
        memory.failed(&memory.digest(&pin("wrong1"))).unwrap();
        let memory = PinMemory::open(&path).unwrap();
        assert_eq!(memory.known(&memory.digest(&pin("wrong1")), false), Known::Failed);
        assert_eq!(memory.known(&memory.digest(&pin("wrong2")), false), Known::Nothing);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!fs::read_to_string(&path).unwrap().contains("wrong1"));
    }

    #[test]
    fn a_good_login_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pins");
        let mut memory = PinMemory::open(&path).unwrap();
        memory.failed(&memory.digest(&pin("wrong1"))).unwrap();
        memory.begin(&memory.digest(&pin("right1")), false).unwrap();
        memory.worked(&memory.digest(&pin("right1"))).unwrap();
        assert!(!path.exists());
        assert_eq!(memory.known(&memory.digest(&pin("wrong1")), false), Known::Nothing);
        memory.worked(&memory.digest(&pin("right1"))).unwrap();
    }

    #[test]
    fn a_value_that_was_not_judged_may_be_tried_again() {
        let mut memory = PinMemory::ephemeral().unwrap();
        memory.begin(&memory.digest(&pin("12")), false).unwrap();
        memory.not_judged(&memory.digest(&pin("12"))).unwrap();
        assert_eq!(memory.known(&memory.digest(&pin("12")), false), Known::Nothing);
    }

    #[test]
    fn salts_differ() {
        let (a, b) = (PinMemory::ephemeral().unwrap(), PinMemory::ephemeral().unwrap());
        assert_ne!(a.digest(&pin("123456")).0, b.digest(&pin("123456")).0);
    }

    #[test]
    fn a_damaged_file_is_not_guessed_at() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pins");
        let mut memory = PinMemory::open(&path).unwrap();
        memory.failed(&memory.digest(&pin("wrong1"))).unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        for cut in 0..whole.len() {
            // Cut between two entries it would be another valid file; with one entry only the end is such a place.
            if whole[..cut].ends_with('\n') && whole[..cut].lines().count() > 1 {
                continue;
            }
            fs::write(&path, &whole[..cut]).unwrap();
            let error = PinMemory::open(&path).err().unwrap();
            assert_eq!(error.class, ErrorClass::Module, "cut at {cut}");
            assert!(error.message.contains("pins"));
        }
    }

    #[test]
    fn an_unwritable_place_refuses_before_the_try() {
        let mut memory = PinMemory::open(Path::new("/nonexistent-hsm/pins")).unwrap();
        assert_eq!(
            memory.begin(&memory.digest(&pin("123456")), false).unwrap_err().class,
            ErrorClass::Module
        );
    }
}
