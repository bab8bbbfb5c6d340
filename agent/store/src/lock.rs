//! The advisory lock of a token: those who write to it exclude everybody, those who look at it exclude the writers.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::{Clock, StoreError};

const POLL: Duration = Duration::from_millis(5);

/// Held while a token is written to, one at a time on this machine; given back when dropped, or when its process ends.
pub struct WriterLock {
    _file: File,
}

impl WriterLock {
    /// Waits at most `wait` for the lock on the file, which is made if it is not there (mode 0600).
    pub fn acquire(path: &Path, wait: Duration, clock: &dyn Clock) -> Result<Self, StoreError> {
        let file = locked(path, wait, clock, File::try_lock)?;
        Ok(Self { _file: file })
    }
}

/// Held while a token is listed, by any number of programs: nobody writes to it meanwhile.
///
/// SoftHSM shows an object before it has its attributes, and who asks for them then spoils it for its maker.
pub(crate) struct ReaderLock {
    _file: Option<File>,
}

impl ReaderLock {
    /// Waits at most `wait` for a writer to finish. A writer that hangs, or a folder that cannot be written to, keeps
    /// nobody from reading: every value is checked, and a put that was disturbed fails and is made again.
    pub(crate) fn acquire(path: &Path, wait: Duration, clock: &dyn Clock) -> Self {
        Self { _file: locked(path, wait, clock, File::try_lock_shared).ok() }
    }
}

/// Who waits holds the gate, and nobody passes: a program that writes again and again cannot keep the others out.
fn locked(
    path: &Path,
    wait: Duration,
    clock: &dyn Clock,
    attempt: impl Fn(&File) -> Result<(), TryLockError>,
) -> Result<File, StoreError> {
    let until = clock.now() + wait;
    let mut gate = path.as_os_str().to_owned();
    gate.push(".gate");
    let _gate = waited(Path::new(&gate), wait, until, clock, File::try_lock)?;
    waited(path, wait, until, clock, attempt)
}

fn waited(
    path: &Path,
    wait: Duration,
    until: Instant,
    clock: &dyn Clock,
    attempt: impl Fn(&File) -> Result<(), TryLockError>,
) -> Result<File, StoreError> {
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
    loop {
        match attempt(&file) {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(failed(&error)),
            Err(TryLockError::WouldBlock) if clock.now() >= until => {
                return Err(StoreError::LockHeld(wait));
            }
            Err(TryLockError::WouldBlock) => clock.sleep(POLL),
        }
    }
}
