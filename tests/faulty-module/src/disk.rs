//! A machine's folder: where everything lies, the lock, and how a card is read and written.
//!
//! ```text
//! machine.json            the settings
//! faults.json             the script of faults; not there where none is armed
//! calls.log               one JSON line for each call
//! pcscd                   how often pcscd was started
//! lock                    flock(2) around every look at a card and every change
//! readers/READER/         one folder for each reader that has a card in it: that card
//! drawer/CARD/            the cards in no reader
//! ```
//! A card's folder has `head` (in place), `flash` (replaced by rename), `remains` (appended), `name`, and `connection`,
//! on which processes hold a flock(2): shared, or exclusive with `connect_exclusive`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::{Flock, FlockArg};

use crate::codec::{Damaged, Reader, Writer};
use crate::flash::{Content, FileId, Flash, MAGIC};
use crate::head::Head;
use crate::settings::Settings;

/// The deleted values that are kept at most, in bytes: what a flash of 1 MiB could still hold.
const REMAINS_MAX: u64 = 1 << 20;

/// Milliseconds since 1970.
pub(crate) fn now_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

pub(crate) fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// From the kernel: it only has to be another number each time, and the cryptographic library takes longer to begin
/// than most processes of an enumeration live.
fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// The folder. Cheap to make; holds nothing open.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    root: PathBuf,
}

/// The machine's lock, released when dropped or when the process ends.
pub(crate) struct Locked(#[expect(dead_code, reason = "held, not used")] Flock<File>);

/// A card in a folder, under the machine's lock.
pub(crate) struct Card {
    pub(crate) folder: PathBuf,
    pub(crate) head: Head,
    before: Head,
}

/// The flash of each card as this process last saw it, with the generation of its file.
#[derive(Default)]
pub(crate) struct Cache(BTreeMap<PathBuf, (u64, Flash)>);

impl Disk {
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn settings_file(&self) -> PathBuf {
        self.root.join("machine.json")
    }

    pub(crate) fn faults_file(&self) -> PathBuf {
        self.root.join("faults.json")
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.root.join("calls.log")
    }

    pub(crate) fn readers_folder(&self) -> PathBuf {
        self.root.join("readers")
    }

    pub(crate) fn reader_folder(&self, reader: &str) -> PathBuf {
        self.readers_folder().join(reader)
    }

    pub(crate) fn drawer_folder(&self) -> PathBuf {
        self.root.join("drawer")
    }

    pub(crate) fn lock(&self) -> io::Result<Locked> {
        let mut file =
            OpenOptions::new().create(true).truncate(false).write(true).open(self.root.join("lock"))?;
        loop {
            match Flock::lock(file, FlockArg::LockExclusive) {
                Ok(lock) => return Ok(Locked(lock)),
                Err((same, nix::errno::Errno::EINTR)) => file = same,
                Err((_, errno)) => return Err(errno.into()),
            }
        }
    }

    pub(crate) fn settings(&self) -> io::Result<Settings> {
        let path = self.settings_file();
        let text = fs::read_to_string(&path).map_err(|e| {
            io::Error::new(e.kind(), format!("{}: {e}; is it a machine's folder?", path.display()))
        })?;
        serde_json::from_str(&text).map_err(|e| invalid(format!("{}: {e}", path.display())))
    }

    pub(crate) fn write_settings(&self, settings: &Settings) -> io::Result<()> {
        let text = serde_json::to_string_pretty(settings)?;
        replace(&self.settings_file(), text.as_bytes())
    }

    /// How often pcscd was started.
    pub(crate) fn pcscd(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.root.join("pcscd"))?;
        text.trim().parse().map_err(|_| invalid("the file pcscd holds no number"))
    }

    pub(crate) fn write_pcscd(&self, starts: u64) -> io::Result<()> {
        replace(&self.root.join("pcscd"), starts.to_string().as_bytes())
    }

    /// The readers with a card in them, sorted by name.
    pub(crate) fn readers(&self) -> io::Result<Vec<String>> {
        names_in(&self.readers_folder())
    }

    /// The card in this reader; `None` where there is no such reader, which is where no card is in it.
    pub(crate) fn card(&self, reader: &str) -> io::Result<Option<Card>> {
        match Card::open(self.reader_folder(reader)) {
            Ok(card) => Ok(Some(card)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A number that no insertion had before.
    pub(crate) fn new_insertion() -> io::Result<u64> {
        random()
    }
}

/// The names of the folders in a folder, sorted.
pub(crate) fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        names.push(name.into_string().map_err(|_| invalid("a folder's name is not UTF-8"))?);
    }
    names.sort_unstable();
    Ok(names)
}

/// Writes a file so that a reader, or a start after a kill, finds the old one or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, bytes)?;
    fs::rename(&new, path)
}

impl Card {
    /// Makes a card's folder, which must not be there.
    pub(crate) fn make(folder: PathBuf, name: &str, head: Head) -> io::Result<Self> {
        fs::create_dir(&folder)?;
        fs::write(folder.join("name"), name)?;
        fs::write(folder.join("remains"), [])?;
        fs::write(folder.join("connection"), [])?;
        fs::write(folder.join("flash"), Flash::default().encode(random()?))?;
        fs::write(folder.join("head"), head.encode())?;
        Ok(Self { folder, before: head.clone(), head })
    }

    pub(crate) fn open(folder: PathBuf) -> io::Result<Self> {
        let mut bytes = Vec::with_capacity(crate::head::HEAD_LEN);
        File::open(folder.join("head"))?.read_to_end(&mut bytes)?;
        let head = Head::decode(&bytes).map_err(|e| damaged(&folder, "head", e))?;
        Ok(Self { folder, before: head.clone(), head })
    }

    pub(crate) fn name(&self) -> io::Result<String> {
        fs::read_to_string(self.folder.join("name"))
    }

    /// The file that processes lock while they are connected. A new one with each insertion: whoever held the old one
    /// holds nothing of this.
    pub(crate) fn renew_connection(&self) -> io::Result<()> {
        replace(&self.folder.join("connection"), &[])
    }

    /// Connects: `None` is a sharing violation.
    pub(crate) fn connect(&self, exclusive: bool) -> io::Result<Option<Flock<File>>> {
        let file = File::open(self.folder.join("connection"))?;
        let how = if exclusive { FlockArg::LockExclusiveNonblock } else { FlockArg::LockSharedNonblock };
        match Flock::lock(file, how) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno.into()),
        }
    }

    /// Writes the head, if it has changed.
    pub(crate) fn save_head(&mut self) -> io::Result<()> {
        if self.head != self.before {
            let file = OpenOptions::new().write(true).open(self.folder.join("head"))?;
            file.write_all_at(&self.head.encode(), 0)?;
            self.before = self.head.clone();
        }
        Ok(())
    }

    /// The flash as it is now; read only where another process has written it since.
    pub(crate) fn flash<'c>(&self, cache: &'c mut Cache) -> io::Result<&'c mut Flash> {
        let path = self.folder.join("flash");
        let mut file = File::open(&path)?;
        let mut start = [0; 16];
        file.read_exact(&mut start)?;
        let mut r = Reader::new(&start);
        let (magic, generation) = r
            .number()
            .and_then(|m| r.number().map(|g| (m, g)))
            .map_err(|e| damaged(&self.folder, "flash", e))?;
        if magic != MAGIC {
            return Err(damaged(&self.folder, "flash", Damaged));
        }
        let known = cache.0.get(&self.folder).is_some_and(|(known, _)| *known == generation);
        if !known {
            let mut bytes = start.to_vec();
            file.read_to_end(&mut bytes)?;
            let flash = Flash::decode(&bytes).map_err(|e| damaged(&self.folder, "flash", e))?;
            cache.0.insert(self.folder.clone(), (generation, flash));
        }
        match cache.0.get_mut(&self.folder) {
            Some((_, flash)) => Ok(flash),
            None => Err(invalid("the flash is not in memory")),
        }
    }

    /// Writes what [`Card::flash`] gave, and then the head.
    pub(crate) fn save(&mut self, cache: &mut Cache) -> io::Result<()> {
        let generation = random()?;
        if let Some((known, flash)) = cache.0.get_mut(&self.folder) {
            self.head.counters.bytes_leaked = flash.leaked;
            replace(&self.folder.join("flash"), &flash.encode(generation))?;
            *known = generation;
        }
        self.save_head()
    }

    /// Forgets changes to the flash that were not saved.
    pub(crate) fn discard(&self, cache: &mut Cache) {
        cache.0.remove(&self.folder);
    }

    /// Notes a value that is deleted now and still readable in the flash.
    pub(crate) fn add_remains(&self, label: &[u8], value: &[u8]) -> io::Result<()> {
        let mut w = Writer::default();
        w.bytes(label);
        w.bytes(value);
        let path = self.folder.join("remains");
        if fs::metadata(&path)?.len() > 2 * REMAINS_MAX {
            let mut all = self.remains()?;
            let mut size = 0;
            all.reverse();
            all.retain(|(_, value)| {
                size += value.len() as u64;
                size <= REMAINS_MAX
            });
            let mut kept = Writer::default();
            for (label, value) in all.iter().rev() {
                kept.bytes(label);
                kept.bytes(value);
            }
            replace(&path, &kept.into_bytes())?;
        }
        OpenOptions::new().append(true).open(&path)?.write_all(&w.into_bytes())
    }

    /// The deleted values that a look at the flash chip would still show, oldest first, with their labels.
    pub(crate) fn remains(&self) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let bytes = fs::read(self.folder.join("remains"))?;
        let mut r = Reader::new(&bytes);
        let mut all = Vec::new();
        // A kill may have cut the last one.
        while let (Ok(label), Ok(value)) = (r.bytes(), r.bytes()) {
            all.push((label, value));
        }
        Ok(all)
    }
}

/// The value in a file, if it is one.
pub(crate) fn value_in(flash: &Flash, number: u8) -> Option<&[u8]> {
    match flash.files.get(&FileId::value(number)) {
        Some(Content::Value(value)) => Some(value),
        _ => None,
    }
}

fn damaged(folder: &Path, file: &str, why: Damaged) -> io::Error {
    invalid(format!("{}: {why}", folder.join(file).display()))
}
