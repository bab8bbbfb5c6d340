//! The advisory lock of those who write to a token.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use crate::{Clock, StoreError};

const POLL: Duration = Duration::from_millis(20);

/// Held while a token is written to, one at a time on this machine; given back when dropped, or when its process ends.
pub struct WriterLock {
    _file: File,
}

impl WriterLock {
    /// Waits at most `wait` for the lock on the file, which is made if it is not there (mode 0600).
    pub fn acquire(path: &Path, wait: Duration, clock: &dyn Clock) -> Result<Self, StoreError> {
        let failed = |error: &std::io::Error| StoreError::Lock {
            path: path.display().to_string(),
            reason: error.to_string(),
        };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| failed(&error))?;
        let start = clock.now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::Error(error)) => return Err(failed(&error)),
                Err(TryLockError::WouldBlock) if clock.now().duration_since(start) >= wait => {
                    return Err(StoreError::LockHeld(wait));
                }
                Err(TryLockError::WouldBlock) => clock.sleep(POLL),
            }
        }
    }
}
