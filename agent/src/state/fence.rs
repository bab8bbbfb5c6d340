//! Who may write: the highest transition count seen for each Lease.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{read_if_there, write_atomic};

/// Why a mutation was refused, or could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// A controller that lost its Lease.
    #[error("a newer controller holds the lease (transition {seen}, this call says {given}); stop writing")]
    Stale {
        /// The highest count seen.
        seen: u64,
        /// The call's.
        given: u64,
    },
    /// A call without a fence, after calls with one.
    #[error(
        "the call carries no fence, and a controller with a lease has written here; send the lease's uid and transitions"
    )]
    Missing,
    /// The uid is empty or too long.
    #[error("the fence's lease_uid must have 1 to 128 characters")]
    Invalid,
    /// The new count could not be kept, so it is not accepted.
    #[error("the fence could not be stored on the node ({0}); check --state-dir")]
    Io(#[from] io::Error),
}

/// The counts, kept in a file. One owner for each state folder.
pub struct Fences {
    path: PathBuf,
    seen: Mutex<BTreeMap<String, u64>>,
}

impl Fences {
    /// Reads what an earlier process kept. A file that cannot be understood is an error: forgetting would let an old
    /// controller write.
    pub fn load(state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join("fences.json");
        let seen = match read_if_there(&path)? {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} is damaged ({e}); remove it once no old controller runs", path.display()),
                )
            })?,
            None => BTreeMap::new(),
        };
        Ok(Self { path, seen: Mutex::new(seen) })
    }

    /// Refuses a lower count than was seen for this uid; keeps a higher one before it says yes.
    pub fn check(&self, fence: Option<(&str, u64)>) -> Result<(), FenceError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((uid, given)) = fence else {
            return if seen.is_empty() { Ok(()) } else { Err(FenceError::Missing) };
        };
        if uid.is_empty() || uid.len() > 128 {
            return Err(FenceError::Invalid);
        }
        match seen.get(uid).copied() {
            Some(highest) if given < highest => Err(FenceError::Stale { seen: highest, given }),
            Some(highest) if given == highest => Ok(()),
            _ => {
                let mut next = seen.clone();
                next.insert(uid.to_owned(), given);
                let json = serde_json::to_vec(&next).map_err(io::Error::other)?;
                write_atomic(&self.path, &json)?;
                *seen = next;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_count_is_refused_and_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let fences = Fences::load(dir.path()).unwrap();
        assert!(fences.check(None).is_ok());
        assert!(fences.check(Some(("a", 3))).is_ok());
        assert!(fences.check(Some(("a", 3))).is_ok());
        let again = Fences::load(dir.path()).unwrap();
        assert!(matches!(again.check(Some(("a", 2))), Err(FenceError::Stale { seen: 3, given: 2 })));
        assert!(again.check(Some(("b", 0))).is_ok(), "a rebuilt cluster has a new lease");
        assert!(matches!(again.check(None), Err(FenceError::Missing)));
        assert!(matches!(again.check(Some(("", 9))), Err(FenceError::Invalid)));
    }

    #[test]
    fn a_damaged_file_is_not_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("fences.json"), "{").unwrap();
        assert!(Fences::load(dir.path()).is_err());
    }
}
