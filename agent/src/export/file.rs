//! The file of an export: written beside its place, checked there, and only then put in its place.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, ErrorKind, Read as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::{Counts, Export, ExportError, Header, Item, Lock, Reader, Unlock, Writer};

/// How a finished export was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// It was read back, decrypted, and holds what was written.
    Decrypted,
    /// It was read back and has the bytes that were written; only its recipients can decrypt it.
    Bytes,
}

/// An export that is being written, beside its place. Dropped without [`Draft::publish`], it is removed.
pub struct Draft {
    writer: Option<Writer<age::stream::StreamWriter<Hashing<BufWriter<File>>>>>,
    part: PathBuf,
    out: PathBuf,
}

/// Passes bytes on, and remembers their digest.
struct Hashing<W> {
    out: W,
    hash: Context,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

impl Draft {
    /// Begins an export that is to be at `out`: `out` with `.part` behind it is written first. What an interrupted
    /// export left there is written over; one that is under way is not.
    pub fn begin(out: &Path, lock: &Lock, header: &Header) -> Result<Self, ExportError> {
        let mut name = out.as_os_str().to_owned();
        name.push(".part");
        let part = PathBuf::from(name);
        let failed = |e: std::io::Error| std::io::Error::new(e.kind(), format!("{}: {e}", part.display()));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // Neither a link to somewhere else nor a pipe that nobody reads.
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
            .open(&part)
            .map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(std::io::Error::other(format!("{} is not a file", part.display())).into());
        }
        if let Err(error) = file.try_lock() {
            let error = match error {
                std::fs::TryLockError::WouldBlock => std::io::Error::other("another export is writing it"),
                std::fs::TryLockError::Error(error) => error,
            };
            return Err(failed(error).into());
        }
        file.set_len(0).map_err(failed)?;
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(failed)?;
        let hashing = Hashing { out: BufWriter::new(file), hash: Context::new(&SHA256) };
        let mut draft = Self { writer: None, part, out: out.to_owned() };
        draft.writer = Some(Writer::begin(lock.encrypt(hashing)?, header)?);
        Ok(draft)
    }

    /// Writes one entry.
    pub fn put(&mut self, item: &Item) -> Result<(), ExportError> {
        match &mut self.writer {
            Some(writer) => writer.put(item),
            None => Err(std::io::Error::other("the export is finished").into()),
        }
    }

    /// Finishes the file, reads it back from the disk, and puts it in its place: over what is there only if `force`.
    pub fn publish(
        mut self,
        unlock: Option<&Unlock>,
        force: bool,
    ) -> Result<(Counts, Verified), ExportError> {
        let Some(writer) = self.writer.take() else {
            return Err(std::io::Error::other("the export is finished").into());
        };
        let (encrypted, counts, digest) = writer.finish()?;
        let mut hashing = encrypted.finish()?;
        hashing.flush()?;
        let written = hashing.hash.finish();
        // Locked until it is in its place.
        let file = hashing.out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.sync_all()?;
        let verified = if let Some(unlock) = unlock {
            let found = read(&self.part, unlock)?;
            if found.counts != counts || found.digest != digest {
                return Err(ExportError::malformed("what was read back is not what was written"));
            }
            Verified::Decrypted
        } else {
            if digest_of(&self.part)?.as_ref() != written.as_ref() {
                return Err(ExportError::malformed("what was read back is not what was written"));
            }
            Verified::Bytes
        };
        place(&self.part, &self.out, force)?;
        Ok((counts, verified))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After `publish` there is nothing of this name.
        drop(std::fs::remove_file(&self.part));
    }
}

fn digest_of(file: &Path) -> Result<aws_lc_rs::digest::Digest, ExportError> {
    let mut hash = Context::new(&SHA256);
    let mut file = File::open(file)?;
    let mut bytes = vec![0; 64 * 1024];
    loop {
        match file.read(&mut bytes)? {
            0 => return Ok(hash.finish()),
            count => hash.update(&bytes[..count]),
        }
    }
}

fn place(part: &Path, out: &Path, force: bool) -> Result<(), ExportError> {
    let exists = || {
        std::io::Error::new(
            ErrorKind::AlreadyExists,
            format!("{} is there already; give another name, or --force to write over it", out.display()),
        )
    };
    if force {
        std::fs::rename(part, out)?;
    } else {
        match renameat2(AT_FDCWD, part, AT_FDCWD, out, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EEXIST) => return Err(exists().into()),
            // A file system that cannot say it in one step.
            Err(Errno::EINVAL | Errno::ENOSYS) if out.symlink_metadata().is_ok() => {
                return Err(exists().into());
            }
            Err(Errno::EINVAL | Errno::ENOSYS) => std::fs::rename(part, out)?,
            Err(errno) => return Err(std::io::Error::from(errno).into()),
        }
    }
    // The name is on the disk, too, before anybody relies on it.
    let folder = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()?;
    Ok(())
}

/// Reads and checks a whole export.
pub fn read(file: &Path, unlock: &Unlock) -> Result<Export, ExportError> {
    Reader::whole(unlock.decrypt(BufReader::new(File::open(file)?))?)
}
