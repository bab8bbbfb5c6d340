//! [`Machine`]: what a test, or a person through `faulty-token`, does to the readers and cards of a machine. It never
//! goes through PKCS#11.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::calls::{self, Call};
use crate::disk::{Cache, Card, Disk, invalid, names_in, now_millis, value_in};
use crate::faults::{self, Fault};
use crate::flash::{Content, Flash, Kind};
use crate::head::{Counters, Head};
use crate::settings::Settings;

/// A machine with readers, cards and a drawer, in a folder. Several processes may use it at once.
///
/// Where a method takes `card`, it is the name of a reader (the card in it) or of a card in the drawer.
#[derive(Debug, Clone)]
pub struct Machine {
    disk: Disk,
}

/// How a new card is.
#[derive(Debug, Clone)]
pub struct CardOptions {
    /// Its user PIN; `None`: blank, as from the factory.
    pub pin: Option<String>,
    /// Its SO-PIN (16 hexadecimal digits on a SmartCard-HSM).
    pub so_pin: String,
}

impl CardOptions {
    /// The SO-PIN of [`CardOptions::with_pin`].
    pub const SO_PIN: &'static str = "3537363231383830";

    /// An initialised card with this user PIN.
    pub fn with_pin(pin: &str) -> Self {
        Self { pin: Some(pin.to_owned()), so_pin: Self::SO_PIN.to_owned() }
    }

    /// A card that was never initialised.
    pub fn blank() -> Self {
        Self { pin: None, so_pin: String::new() }
    }
}

/// What an object on a card is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// A data object.
    Data,
    /// A data object that lost its value, or whose value is empty: listed, neither readable nor destroyable.
    Ghost,
    /// A value that lost its description: nothing lists it, and it takes flash.
    Orphan,
    /// A key pair.
    KeyPair,
}

/// An object as it lies on a card, listed or not.
#[derive(Clone, PartialEq, Eq)]
pub struct CardObject {
    /// What it is.
    pub kind: ObjectKind,
    /// Its label; empty for an orphan.
    pub label: String,
    /// Its application.
    pub application: String,
    /// Whether it needs a login.
    pub private: bool,
    /// Its value; a key pair's is its public point.
    pub value: Option<Vec<u8>>,
    /// Whether a process that connects now is shown it.
    pub listed: bool,
}

impl std::fmt::Debug for CardObject {
    // Without the value: a failed assertion prints this.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let length = self.value.as_ref().map(Vec::len);
        write!(f, "{:?} {:?} ({length:?} bytes, listed: {})", self.kind, self.label, self.listed)
    }
}

/// A write that was answered and is not in the flash yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unflushed {
    /// Which file of an object.
    pub kind: Kind,
    /// The file's number on the card; a data object's value and description have the same.
    pub number: u8,
    /// Whether the file is deleted; else it is written.
    pub deleted: bool,
}

/// Which of the writes on their way survive a loss of power.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// None of them.
    Nothing,
    /// All of them.
    All,
    /// The first so many: what a flash that is written in order has.
    First(usize),
    /// Those with these places in [`Machine::unflushed`]: what a cache that is written in another order may have.
    These(Vec<usize>),
}

impl Machine {
    /// Makes a machine without readers in this folder, which is made where it is not there.
    ///
    /// Errors: of the file system; `AlreadyExists` where a machine is there already.
    pub fn new(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let disk = Disk::new(dir);
        fs::create_dir_all(disk.root())?;
        if disk.settings_file().exists() {
            let what = format!("{} is a machine already", disk.root().display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        fs::create_dir_all(disk.readers_folder())?;
        fs::create_dir_all(disk.drawer_folder())?;
        disk.write_pcscd(1)?;
        disk.write_settings(&Settings::default())?;
        Ok(Self { disk })
    }

    /// The machine in this folder.
    pub fn open(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let disk = Disk::new(dir);
        disk.settings()?;
        Ok(Self { disk })
    }

    pub(crate) fn of(disk: &Disk) -> Self {
        Self { disk: disk.clone() }
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        self.disk.root()
    }

    /// What a process that uses the module needs in its environment.
    pub fn env(&self) -> Vec<(OsString, OsString)> {
        vec![(crate::DIR_VARIABLE.into(), self.dir().into())]
    }

    /// The settings.
    pub fn settings(&self) -> io::Result<Settings> {
        self.disk.settings()
    }

    /// Changes the settings, for processes that call C_Initialize from now on.
    pub fn set(&self, change: impl FnOnce(&mut Settings)) -> io::Result<()> {
        let _lock = self.disk.lock()?;
        let mut settings = self.disk.settings()?;
        change(&mut settings);
        self.disk.write_settings(&settings)
    }

    /// Writes an opensc.conf into the machine's folder, for a process's OPENSC_CONF. A reader is ignored when its name
    /// contains one of `ignored`.
    pub fn opensc_conf(&self, name: &str, exclusive: bool, ignored: &[&str]) -> io::Result<PathBuf> {
        let ignored: Vec<String> = ignored.iter().map(|reader| format!("{reader:?}")).collect();
        let path = self.dir().join(name);
        let ignored_line = match ignored.as_slice() {
            [] => String::new(),
            some => format!("  ignored_readers = {};\n", some.join(", ")),
        };
        let text = format!(
            "app default {{\n{ignored_line}  reader_driver pcsc {{\n    connect_exclusive = {exclusive};\n  }}\n}}\n"
        );
        fs::write(&path, text)?;
        Ok(path)
    }

    /// The readers with a card in them.
    pub fn readers(&self) -> io::Result<Vec<String>> {
        self.disk.readers()
    }

    /// The cards in the drawer.
    pub fn drawer(&self) -> io::Result<Vec<String>> {
        names_in(&self.disk.drawer_folder())
    }

    /// Plugs a new card into a new reader. Gives the card's name.
    pub fn add_card(&self, reader: &str, options: &CardOptions) -> io::Result<String> {
        let settings = self.disk.settings()?;
        check_name(reader)?;
        let _lock = self.disk.lock()?;
        self.check_free(reader)?;
        let mut head = Head::new(Disk::new_insertion()?);
        let so_pin = options.pin.is_some().then_some(options.so_pin.as_str());
        head.initialize(options.pin.as_deref(), so_pin, &settings);
        let taken = self.card_names()?;
        let name = (1..u32::MAX).map(|n| format!("card-{n}")).find(|name| !taken.contains(name));
        let name = name.ok_or_else(|| invalid("no name is left for a card"))?;
        let made = self.disk.root().join("making");
        match fs::remove_dir_all(&made) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        Card::make(made.clone(), &name, head)?;
        fs::rename(made, self.disk.reader_folder(reader))?;
        Ok(name)
    }

    /// Takes the card out of its reader, which leaves with it, as a USB token does; gives the card's name. What it had
    /// not flushed stays undecided: call [`Machine::power_loss`] to lose some of it. [`Machine::plug`] keeps all.
    pub fn unplug(&self, reader: &str) -> io::Result<String> {
        let _lock = self.disk.lock()?;
        let card = self.disk.card(reader)?.ok_or_else(|| no_card(reader))?;
        let name = card.name()?;
        let mut cache = Cache::default();
        let now = now_millis();
        card.flash(&mut cache)?.settle(now, &self.disk.settings()?);
        let mut card = card;
        card.head.logged_in = false;
        card.save(&mut cache)?;
        fs::rename(&card.folder, self.disk.drawer_folder().join(&name))?;
        Ok(name)
    }

    /// Puts a card from the drawer into a reader that is free. The card starts: nobody is logged in.
    pub fn plug(&self, reader: &str, card: &str) -> io::Result<()> {
        check_name(reader)?;
        let _lock = self.disk.lock()?;
        self.check_free(reader)?;
        let folder = self.disk.drawer_folder().join(card);
        if !folder.exists() {
            return Err(no_card(card));
        }
        let mut card = Card::open(folder)?;
        let mut cache = Cache::default();
        card.flash(&mut cache)?.pending.clear();
        restart_card(&mut card)?;
        card.save(&mut cache)?;
        fs::rename(&card.folder, self.disk.reader_folder(reader))
    }

    /// Restarts pcscd: every process has to finalise and initialise. The cards lose their login, not their power.
    pub fn restart_pcscd(&self) -> io::Result<()> {
        let _lock = self.disk.lock()?;
        self.disk.write_pcscd(self.disk.pcscd()? + 1)?;
        for reader in self.disk.readers()? {
            if let Some(mut card) = self.disk.card(&reader)? {
                restart_card(&mut card)?;
                card.save_head()?;
            }
        }
        Ok(())
    }

    /// SC-HSM's INITIALIZE, which needs neither PIN nor SO-PIN: wipes the card and sets both.
    pub fn initialize(&self, card: &str, so_pin: &str, pin: &str) -> io::Result<()> {
        let settings = self.disk.settings()?;
        self.change(card, |card, flash| {
            wipe(flash);
            card.head.initialize(Some(pin), Some(so_pin), &settings);
            Ok(())
        })
    }

    /// Loses power: of what [`Machine::unflushed`] lists, only `keep` is in the flash afterwards. A card that is in a
    /// reader starts again there: to the processes it is as if it had been taken out and put back.
    pub fn power_loss(&self, card: &str, keep: &Keep) -> io::Result<()> {
        let settings = self.disk.settings()?;
        let plugged = self.disk.reader_folder(card).exists();
        self.change(card, |card, flash| {
            if plugged {
                flash.settle(now_millis(), &settings);
                restart_card(card)?;
            }
            flash.lose_power(|index| match keep {
                Keep::Nothing => false,
                Keep::All => true,
                Keep::First(count) => index < *count,
                Keep::These(those) => those.contains(&index),
            });
            Ok(())
        })
    }

    /// Waits until every write is in the flash.
    pub fn flush(&self, card: &str) -> io::Result<()> {
        self.change(card, |_, flash| {
            flash.pending.clear();
            Ok(())
        })
    }

    /// Removes ghosts, as the raw command `00 E4 02 00 02 C9 id` does after VERIFY PIN. Gives their number.
    pub fn remove_ghosts(&self, card: &str) -> io::Result<usize> {
        self.change(card, |_, flash| {
            let before = flash.files.len();
            let values: Vec<u8> =
                (0..=255).filter(|n| value_in(flash, *n).is_some_and(|value| !value.is_empty())).collect();
            flash.files.retain(|file, _| file.kind != Kind::Description || values.contains(&file.number));
            Ok(before - flash.files.len())
        })
    }

    /// The writes that a loss of power could still undo, in the order of their answers.
    pub fn unflushed(&self, card: &str) -> io::Result<Vec<Unflushed>> {
        let settings = self.disk.settings()?;
        let plugged = self.disk.reader_folder(card).exists();
        self.look(card, |_, flash| {
            let mut flash = flash.clone();
            if plugged {
                flash.settle(now_millis(), &settings);
            }
            let mut later = std::collections::BTreeMap::new();
            let mut all = Vec::new();
            // Whether a write deleted its file, the next write of that file tells, or the card as it is now.
            for write in flash.pending.iter().rev() {
                let there = later.insert(write.file, write.had_before());
                let there = there.unwrap_or_else(|| flash.files.contains_key(&write.file));
                all.push(Unflushed { kind: write.file.kind, number: write.file.number, deleted: !there });
            }
            all.reverse();
            Ok(all)
        })
    }

    /// What the card has done since it was made.
    pub fn counters(&self, card: &str) -> io::Result<Counters> {
        let _lock = self.disk.lock()?;
        Ok(Card::open(self.folder(card)?)?.head.counters)
    }

    /// How many tries the user PIN has left.
    pub fn pin_tries(&self, card: &str) -> io::Result<u8> {
        let _lock = self.disk.lock()?;
        Ok(Card::open(self.folder(card)?)?.head.tries)
    }

    /// Everything on the card as it answers now, listed or not, in the order in which it was made.
    pub fn objects(&self, card: &str) -> io::Result<Vec<CardObject>> {
        let settings = self.disk.settings()?;
        self.look(card, |_, flash| {
            let listed = flash.listed(&settings);
            let mut all = Vec::new();
            for (file, content) in &flash.files {
                let listed = listed.contains(file);
                match content {
                    Content::Description(d) => {
                        let value = value_in(flash, file.number).filter(|value| !value.is_empty());
                        let kind = if value.is_some() { ObjectKind::Data } else { ObjectKind::Ghost };
                        all.push((
                            d.sequence,
                            CardObject {
                                kind,
                                label: text(&d.label),
                                application: text(&d.application),
                                private: d.private,
                                value: value.map(<[u8]>::to_vec),
                                listed,
                            },
                        ));
                    }
                    Content::Key(key) => all.push((
                        key.sequence,
                        CardObject {
                            kind: ObjectKind::KeyPair,
                            label: text(&key.label),
                            application: String::new(),
                            private: true,
                            value: Some(key.point.clone()),
                            listed,
                        },
                    )),
                    Content::Value(value) => {
                        if !flash.files.contains_key(&crate::flash::FileId::description(file.number)) {
                            all.push((
                                u64::MAX,
                                CardObject {
                                    kind: ObjectKind::Orphan,
                                    label: String::new(),
                                    application: String::new(),
                                    private: true,
                                    value: Some(value.clone()),
                                    listed: false,
                                },
                            ));
                        }
                    }
                }
            }
            all.sort_by_key(|(sequence, _)| *sequence);
            Ok(all.into_iter().map(|(_, object)| object).collect())
        })
    }

    /// The labels and values of deleted objects that a look at the flash chip would still find, oldest first (the
    /// newest megabyte of them).
    pub fn remains(&self, card: &str) -> io::Result<Vec<(String, Vec<u8>)>> {
        let _lock = self.disk.lock()?;
        let remains = Card::open(self.folder(card)?)?.remains()?;
        Ok(remains.into_iter().map(|(label, value)| (text(&label), value)).collect())
    }

    /// Arms a fault, beside those that are armed.
    pub fn script(&self, fault: Fault) -> io::Result<()> {
        faults::arm(&self.disk, fault)
    }

    /// Forgets all faults.
    pub fn clear_script(&self) -> io::Result<()> {
        faults::clear(&self.disk)
    }

    /// The armed faults, with how many calls each has seen and how often it has struck.
    pub fn faults(&self) -> io::Result<Vec<Fault>> {
        let _lock = self.disk.lock()?;
        faults::armed(&self.disk)
    }

    /// How often the armed faults have struck, all together.
    pub fn struck(&self) -> io::Result<u64> {
        Ok(self.faults()?.iter().map(|fault| fault.struck).sum())
    }

    /// Every call since the machine was made or the log was cleared.
    pub fn log(&self) -> io::Result<Vec<Call>> {
        calls::read(&self.disk)
    }

    /// Forgets the calls so far.
    pub fn clear_log(&self) -> io::Result<()> {
        match fs::remove_file(self.disk.log_file()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// A copy of the whole machine in another folder, which must not be there: the state from which an enumeration
    /// starts again and again. Processes of this one know nothing of the copy.
    pub fn fork(&self, dir: impl Into<PathBuf>) -> io::Result<Self> {
        let dir = dir.into();
        let _lock = self.disk.lock()?;
        copy(self.dir(), &dir)?;
        Self::open(dir)
    }

    fn folder(&self, card: &str) -> io::Result<PathBuf> {
        check_name(card)?;
        [self.disk.reader_folder(card), self.disk.drawer_folder().join(card)]
            .into_iter()
            .find(|folder| folder.exists())
            .ok_or_else(|| no_card(card))
    }

    fn look<T>(&self, card: &str, look: impl FnOnce(&Card, &Flash) -> io::Result<T>) -> io::Result<T> {
        let _lock = self.disk.lock()?;
        let card = Card::open(self.folder(card)?)?;
        let mut cache = Cache::default();
        look(&card, card.flash(&mut cache)?)
    }

    fn change<T>(
        &self,
        card: &str,
        change: impl FnOnce(&mut Card, &mut Flash) -> io::Result<T>,
    ) -> io::Result<T> {
        let _lock = self.disk.lock()?;
        let mut card = Card::open(self.folder(card)?)?;
        let mut cache = Cache::default();
        let flash = card.flash(&mut cache)?;
        let done = change(&mut card, flash)?;
        card.save(&mut cache)?;
        Ok(done)
    }

    fn check_free(&self, reader: &str) -> io::Result<()> {
        if self.disk.reader_folder(reader).exists() {
            let what = format!("there is a card in the reader {reader:?} already");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        Ok(())
    }

    fn card_names(&self) -> io::Result<Vec<String>> {
        let mut names = self.drawer()?;
        for reader in self.disk.readers()? {
            if let Some(card) = self.disk.card(&reader)? {
                names.push(card.name()?);
            }
        }
        Ok(names)
    }
}

/// The card's applet starts: nobody is logged in, and what processes knew of it is void.
fn restart_card(card: &mut Card) -> io::Result<()> {
    card.head.insertion = Disk::new_insertion()?;
    card.head.logged_in = false;
    card.renew_connection()
}

pub(crate) fn wipe(flash: &mut Flash) {
    flash.files.clear();
    flash.pending.clear();
    flash.leaked = 0;
    flash.exhausted = false;
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn check_name(name: &str) -> io::Result<()> {
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || name.contains(['/', '\0']) {
        return Err(invalid(format!(
            "{name:?}: a reader's name has 1 to 64 bytes, no slash, and does not begin with a dot"
        )));
    }
    Ok(())
}

fn no_card(name: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("there is no reader and no card in the drawer named {name:?}"),
    )
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
