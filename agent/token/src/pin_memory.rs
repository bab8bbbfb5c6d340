//! Which PIN values are known to have failed: one value is tried once, also after a restart.
//!
//! A value is noted as *pending* before it goes to the token, and becomes *failed* or is forgotten by the answer. A
//! crash in between leaves it pending, and then the token's own COUNT_LOW flag says whether the try was used.
//!
//! The file holds a salt and digests, never a value. The digest is iterated, but a PIN is short: a failed PIN is often
//! a typing error away from the right one, so the file is for its owner alone (0600), and after a good login nothing
//! is left in it. One file belongs to one token, and one process writes it (whoever holds the token's lock).

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::{ErrorClass, Pin, TokenError, durable};

const OPERATION: &str = "login";
const FIRST_LINE: &str = "hsm-token pin memory 1";
const ROUNDS: u32 = 20_000;
const SALT_LEN: usize = 16;

/// What is known of a PIN value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Nothing: it was never tried, or worked.
    Nothing,
    /// It was sent, and the answer was never seen.
    Pending,
    /// The token said that it is wrong.
    Failed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Pending,
    Failed,
}

/// A PIN value as one [`PinMemory`] knows it; of no use with another.
pub struct PinDigest([u8; 32]);

/// The memory of one token's failed PIN values.
pub struct PinMemory {
    path: Option<PathBuf>,
    salt: [u8; SALT_LEN],
    entries: Vec<(Mark, [u8; 32])>,
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
        let (salt, entries) = parse(&text).ok_or_else(|| trouble("read", path, "it is damaged"))?;
        Ok(Self { path: Some(path.to_owned()), salt, entries })
    }

    /// A memory without a file, gone with the process. For one-shot programs that cannot keep state.
    pub fn ephemeral() -> Result<Self, TokenError> {
        let mut salt = [0; SALT_LEN];
        let urandom = Path::new("/dev/urandom");
        File::open(urandom)
            .and_then(|mut file| file.read_exact(&mut salt))
            .map_err(|e| trouble("read", urandom, &e.to_string()))?;
        Ok(Self { path: None, salt, entries: Vec::new() })
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

    /// What is known of this value.
    pub fn known(&self, digest: &PinDigest) -> Known {
        match self.entries.iter().find(|(_, d)| *d == digest.0) {
            None => Known::Nothing,
            Some((Mark::Pending, _)) => Known::Pending,
            Some((Mark::Failed, _)) => Known::Failed,
        }
    }

    /// Notes that this value is about to be sent. Must succeed before it is.
    pub fn begin(&mut self, digest: &PinDigest) -> Result<(), TokenError> {
        self.mark(digest, Some(Mark::Pending))
    }

    /// The token said that the value is wrong.
    pub fn failed(&mut self, digest: &PinDigest) -> Result<(), TokenError> {
        self.mark(digest, Some(Mark::Failed))
    }

    /// The value was not judged, and no try was used (its length, say).
    pub fn not_judged(&mut self, digest: &PinDigest) -> Result<(), TokenError> {
        self.mark(digest, None)
    }

    /// A login worked: the token's counter is full again, and the memory empty. The file goes.
    pub fn worked(&mut self) -> Result<(), TokenError> {
        self.entries.clear();
        match &self.path {
            None => Ok(()),
            Some(path) => durable::remove(path).map_err(|e| trouble("remove", path, &e.to_string())),
        }
    }

    /// Where the memory is kept.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    fn mark(&mut self, digest: &PinDigest, mark: Option<Mark>) -> Result<(), TokenError> {
        self.entries.retain(|(_, d)| *d != digest.0);
        self.entries.extend(mark.map(|mark| (mark, digest.0)));
        self.save()
    }

    /// Replaces the file whole, and waits until it is on the disk: the try must not be forgotten by a power cut.
    fn save(&self) -> Result<(), TokenError> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut text = format!("{FIRST_LINE}\nsalt {}\n", hex(&self.salt));
        for (mark, digest) in &self.entries {
            let word = match mark {
                Mark::Pending => "pending",
                Mark::Failed => "failed",
            };
            let _ = writeln!(text, "{word} {}", hex(digest));
        }
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

type Parsed = ([u8; SALT_LEN], Vec<(Mark, [u8; 32])>);

fn parse(text: &str) -> Option<Parsed> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    if lines.next()? != FIRST_LINE {
        return None;
    }
    let salt = unhex(lines.next()?.strip_prefix("salt ")?)?;
    let entries = lines
        .map(|line| {
            let (word, digest) = line.split_once(' ')?;
            let mark = match word {
                "pending" => Mark::Pending,
                "failed" => Mark::Failed,
                _ => return None,
            };
            Some((mark, unhex(digest)?))
        })
        .collect::<Option<Vec<_>>>()?;
    Some((salt, entries))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn pin(text: &str) -> Pin {
        Pin::new(text.to_owned())
    }

    fn known_again(path: &Path, text: &str) -> Known {
        let memory = PinMemory::open(path).unwrap();
        memory.known(&memory.digest(&pin(text)))
    }

    #[test]
    fn a_failed_value_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pins");
        let mut memory = PinMemory::open(&path).unwrap();
        assert_eq!(memory.known(&memory.digest(&pin("wrong1"))), Known::Nothing);
        memory.begin(&memory.digest(&pin("wrong1"))).unwrap();
        assert_eq!(known_again(&path, "wrong1"), Known::Pending);
        memory.failed(&memory.digest(&pin("wrong1"))).unwrap();
        let memory = PinMemory::open(&path).unwrap();
        assert_eq!(memory.known(&memory.digest(&pin("wrong1"))), Known::Failed);
        assert_eq!(memory.known(&memory.digest(&pin("wrong2"))), Known::Nothing);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!fs::read_to_string(&path).unwrap().contains("wrong1"));
    }

    #[test]
    fn a_good_login_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pins");
        let mut memory = PinMemory::open(&path).unwrap();
        memory.failed(&memory.digest(&pin("wrong1"))).unwrap();
        memory.begin(&memory.digest(&pin("right1"))).unwrap();
        memory.worked().unwrap();
        assert!(!path.exists());
        assert_eq!(memory.known(&memory.digest(&pin("wrong1"))), Known::Nothing);
        memory.worked().unwrap();
    }

    #[test]
    fn a_value_that_was_not_judged_may_be_tried_again() {
        let mut memory = PinMemory::ephemeral().unwrap();
        memory.begin(&memory.digest(&pin("12"))).unwrap();
        memory.not_judged(&memory.digest(&pin("12"))).unwrap();
        assert_eq!(memory.known(&memory.digest(&pin("12"))), Known::Nothing);
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
            if whole[..cut].ends_with('\n') && cut > FIRST_LINE.len() + 1 {
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
        assert_eq!(memory.begin(&memory.digest(&pin("123456"))).unwrap_err().class, ErrorClass::Module);
    }
}
