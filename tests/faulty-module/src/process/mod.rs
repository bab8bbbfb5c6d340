//! What one process knows: its slots, sessions, and the view of each card as it was when it connected. What another
//! process does to a card since is not seen here, on purpose.

mod attributes;
mod information;
mod keys;
mod objects;
mod pins;

use std::collections::BTreeMap;
use std::fs::File;

use cryptoki_sys as ck;
use nix::fcntl::Flock;

pub(crate) use attributes::Given;

use crate::context::{Context, Target, trouble};
use crate::disk::{Cache, Card, Disk};
use crate::flash::{Content, Description, FileId, Flash, KeyPair};
use crate::opensc_conf::OpenScConf;
use crate::rv::{Done, Rv};
use crate::settings::{OpenSc, Settings};

/// Connecting to a card costs 16 to 20 APDUs, and three for each object's description.
const CONNECT_APDUS: u64 = 18;
const APDUS_PER_OBJECT: u64 = 3;

/// Between C_Initialize and C_Finalize.
pub(crate) struct Process {
    disk: Disk,
    pub(crate) settings: Settings,
    conf: OpenScConf,
    /// Which start of pcscd this process is connected to.
    pcscd: u64,
    cache: Cache,
    slots: Vec<Slot>,
    sessions: BTreeMap<u64, Session>,
    next_session: u64,
    next_handle: u64,
    /// C_SetAttributeValue(CKA_VALUE) was called: the next create crashes.
    poisoned: bool,
}

struct Slot {
    reader: String,
    connection: Option<Connection>,
    user: Login,
}

/// Who is logged in, as far as this process knows.
enum Login {
    Nobody,
    User,
    /// The SO, whose PIN nobody has checked yet.
    So(String),
}

/// A connection to one insertion of a card.
struct Connection {
    insertion: u64,
    /// Shared or exclusive; released when dropped, or when the process ends.
    _held: Flock<File>,
    /// What this process can name, by handle.
    entries: BTreeMap<u64, Entry>,
}

/// An object as this process knows it.
struct Entry {
    half: Half,
    /// Whether C_FindObjects shows it.
    shown: bool,
}

enum Half {
    Data {
        number: u8,
        description: Description,
        /// The value, once it was read.
        value: Option<Vec<u8>>,
    },
    Private {
        number: u8,
        key: KeyPair,
    },
    Public {
        number: u8,
        key: KeyPair,
    },
}

struct Session {
    slot: usize,
    writable: bool,
    /// What a search has still to give.
    search: Option<Vec<u64>>,
    /// Secrets that were derived, by handle: they live in the session.
    secrets: BTreeMap<u64, Vec<u8>>,
}

impl Process {
    /// C_Initialize: connects to the cards of all readers, which makes each of them forget its login.
    pub(crate) fn initialize(context: &mut Context) -> Done<Self> {
        let disk = context.disk.clone();
        let settings = disk.settings().map_err(trouble)?;
        let conf = match std::env::var_os("OPENSC_CONF") {
            Some(path) => OpenScConf::parse(&std::fs::read_to_string(path).map_err(trouble)?),
            None => OpenScConf::default(),
        };
        let mut process = Self {
            pcscd: disk.pcscd().map_err(trouble)?,
            disk,
            settings,
            conf,
            cache: Cache::default(),
            slots: Vec::new(),
            sessions: BTreeMap::new(),
            next_session: 0,
            next_handle: 0,
            poisoned: false,
        };
        process.detect(context)?;
        Ok(process)
    }

    /// C_Finalize. OpenSC before 0.24 makes the cards forget their login.
    pub(crate) fn finalize(&mut self, context: &mut Context) -> Done {
        for slot in 0..self.slots.len() {
            if self.slots[slot].user.is_user() {
                self.leave(context, slot)?;
            }
        }
        Ok(())
    }

    /// This process's user is logged in no more. Since OpenSC 0.24 the card is not told.
    fn leave(&mut self, context: &mut Context, slot: usize) -> Done {
        let was_user = self.slots[slot].user.is_user();
        self.slots[slot].user = Login::Nobody;
        if self.settings.opensc == OpenSc::V0_23 && was_user && self.connected(slot) {
            self.on_card(slot, Rv::CKR_DEVICE_REMOVED, |_, card| {
                context.apdus(card, 1);
                card.head.logged_in = false;
                Ok(())
            })?;
        }
        Ok(())
    }

    pub(crate) fn reader_of(&self, target: Target) -> Option<String> {
        let slot = match target {
            Target::Module => return None,
            Target::Slot(slot) => usize::try_from(slot).ok()?,
            Target::Session(session) => self.sessions.get(&session)?.slot,
        };
        self.slots.get(slot).map(|slot| slot.reader.clone())
    }

    /// Looks at the readers: new ones become slots, and a card that was put in is connected to. This is where a
    /// process sees what others have changed, and where it makes them lose their login.
    fn detect(&mut self, context: &mut Context) -> Done {
        let lock = self.disk.lock().map_err(trouble)?;
        if self.disk.pcscd().map_err(trouble)? != self.pcscd {
            return Ok(());
        }
        for reader in self.disk.readers().map_err(trouble)? {
            if !self.conf.ignores(&reader) && !self.slots.iter().any(|slot| slot.reader == reader) {
                self.slots.push(Slot { reader, connection: None, user: Login::Nobody });
            }
        }
        for slot in 0..self.slots.len() {
            if let Some(card) = self.disk.card(&self.slots[slot].reader).map_err(trouble)? {
                let insertion = self.slots[slot].connection.as_ref().map(|c| c.insertion);
                if insertion != Some(card.head.insertion) {
                    self.connect(context, slot, card)?;
                }
            }
        }
        drop(lock);
        Ok(())
    }

    fn connect(&mut self, context: &mut Context, slot: usize, mut card: Card) -> Done {
        self.slots[slot].connection = None;
        self.slots[slot].user = Login::Nobody;
        self.sessions.retain(|_, session| session.slot != slot);
        let Some(held) = card.connect(self.conf.exclusive).map_err(trouble)? else {
            return Ok(());
        };
        card.head.logged_in = false;
        card.head.counters.selects += 1;
        let flash = card.flash(&mut self.cache).map_err(trouble)?;
        let mut entries = BTreeMap::new();
        let next = &mut self.next_handle;
        for file in flash.listed(&self.settings) {
            for half in halves_of(flash, file) {
                *next += 1;
                entries.insert(*next, Entry { half, shown: true });
            }
        }
        context.apdus(&mut card, CONNECT_APDUS + APDUS_PER_OBJECT * entries.len() as u64);
        card.save_head().map_err(trouble)?;
        let insertion = card.head.insertion;
        self.slots[slot].connection = Some(Connection { insertion, _held: held, entries });
        Ok(())
    }

    fn session(&self, handle: ck::CK_SESSION_HANDLE) -> Done<&Session> {
        self.sessions.get(&handle).ok_or(Rv::CKR_SESSION_HANDLE_INVALID)
    }

    fn session_mut(&mut self, handle: ck::CK_SESSION_HANDLE) -> Done<&mut Session> {
        self.sessions.get_mut(&handle).ok_or(Rv::CKR_SESSION_HANDLE_INVALID)
    }

    fn slot(&self, id: ck::CK_SLOT_ID) -> Done<usize> {
        usize::try_from(id).ok().filter(|slot| *slot < self.slots.len()).ok_or(Rv::CKR_SLOT_ID_INVALID)
    }

    /// What a process remembers of a card outlives the card.
    fn entries(&self, slot: usize) -> Done<&BTreeMap<u64, Entry>> {
        let connection = self.slots[slot].connection.as_ref().ok_or(Rv::CKR_DEVICE_REMOVED)?;
        Ok(&connection.entries)
    }

    fn entries_mut(&mut self, slot: usize) -> Done<&mut BTreeMap<u64, Entry>> {
        let connection = self.slots[slot].connection.as_mut().ok_or(Rv::CKR_DEVICE_REMOVED)?;
        Ok(&mut connection.entries)
    }

    /// The card that this process is connected to; the machine must be locked. `None`: it is not there any more, or
    /// what is there is another insertion, or pcscd is another.
    fn card(&self, slot: usize) -> Done<Option<Card>> {
        if self.disk.pcscd().map_err(trouble)? != self.pcscd {
            return Ok(None);
        }
        let Some(connection) = &self.slots[slot].connection else {
            return Ok(None);
        };
        let card = self.disk.card(&self.slots[slot].reader).map_err(trouble)?;
        Ok(card.filter(|card| card.head.insertion == connection.insertion))
    }

    fn connected(&self, slot: usize) -> bool {
        self.disk.lock().is_ok_and(|_lock| self.card(slot).is_ok_and(|card| card.is_some()))
    }

    /// Does something to the card's head, which is saved also when it fails.
    fn on_card<T>(
        &mut self,
        slot: usize,
        removed: Rv,
        work: impl FnOnce(&mut Self, &mut Card) -> Done<T>,
    ) -> Done<T> {
        let lock = self.disk.lock().map_err(trouble)?;
        let mut card = self.card(slot)?.ok_or(removed)?;
        let result = work(self, &mut card);
        card.save_head().map_err(trouble)?;
        drop(lock);
        result
    }

    /// Writes two files, with the card's own answers in between, where a kill or a fault may come.
    fn two_writes<T>(
        &mut self,
        context: &mut Context,
        slot: usize,
        removed: Rv,
        first: impl FnOnce(&mut Context, &mut Card, &mut Flash, &Settings) -> Done<T>,
        second: impl FnOnce(&mut Context, &mut Card, &mut Flash, &Settings, &T) -> Done,
    ) -> Done<T> {
        let mut lock = self.disk.lock().map_err(trouble)?;
        let mut card = self.card(slot)?.ok_or(removed)?;
        let flash = card.flash(&mut self.cache).map_err(trouble)?;
        let exhausted = flash.exhausted;
        let made = match first(context, &mut card, flash, &self.settings) {
            Ok(made) => made,
            // That the flash is exhausted is all that a write may change which is refused.
            Err(rv) if flash.exhausted != exhausted => {
                card.save(&mut self.cache).map_err(trouble)?;
                return Err(rv);
            }
            Err(rv) => {
                card.discard(&mut self.cache);
                card.save_head().map_err(trouble)?;
                return Err(rv);
            }
        };
        if context.has_a_middle() {
            card.save(&mut self.cache).map_err(trouble)?;
            drop(lock);
            context.middle()?;
            lock = self.disk.lock().map_err(trouble)?;
            card = self.card(slot)?.ok_or(Rv::CKR_DEVICE_REMOVED)?;
        }
        let flash = card.flash(&mut self.cache).map_err(trouble)?;
        second(context, &mut card, flash, &self.settings, &made)?;
        card.save(&mut self.cache).map_err(trouble)?;
        drop(lock);
        Ok(made)
    }

    fn new_handle(&mut self) -> u64 {
        self.next_handle += 1;
        self.next_handle
    }
}

impl Login {
    fn is_user(&self) -> bool {
        matches!(self, Self::User)
    }
}

/// The objects that a file shows as: a key pair is two.
fn halves_of(flash: &Flash, file: FileId) -> Vec<Half> {
    let number = file.number;
    match flash.files.get(&file) {
        Some(Content::Description(d)) => {
            vec![Half::Data { number, description: d.clone(), value: None }]
        }
        Some(Content::Key(key)) => {
            vec![Half::Private { number, key: key.clone() }, Half::Public { number, key: key.clone() }]
        }
        _ => Vec::new(),
    }
}
