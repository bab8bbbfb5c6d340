//! What is known of a token, as one value that replaces the one before.

use std::collections::BTreeMap;
use std::sync::Arc;

use hsm_store::Head;
use hsm_token::TokenInfo;
use hsm_types::{Presence, RecordPath, TokenId, Tombstone, UsbSerial};

use crate::reason::Reason;

/// How a token is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// Reads and writes are served.
    Ready,
    /// The module works and there is no such token.
    Absent,
    /// Nothing can be said.
    #[default]
    Unknown,
    /// No PIN, or it was refused.
    Locked,
    /// No identity of ours is on it.
    Blank,
    /// Its records cannot be opened.
    Unreadable,
    /// It does not take part: nothing was admitted of it, or something else was.
    NotAdmitted,
}

/// A token's status without its records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// How it is.
    pub state: State,
    /// Why, when it is not ready.
    pub reason: Option<Reason>,
    /// What to tell a person.
    pub message: String,
    /// Its identity; the last known one while it is away.
    pub token_id: Option<TokenId>,
    /// What the module says of it; the last known while it is away.
    pub info: Option<TokenInfo>,
    /// Objects listed, ours or not.
    pub objects: u64,
    /// How many objects may be there at rest; 0 where there is no limit.
    pub capacity: u64,
    /// Counts up with every start of a session.
    pub epoch: u64,
    /// Fingerprint of the store key, in hexadecimal digits.
    pub fingerprint: String,
    /// Objects of ours that cannot be opened, named by label.
    pub damaged: Vec<String>,
    /// Bytes of objects that were replaced by newer ones since the agent started.
    pub bytes_replaced: u64,
    /// Superseded objects that wait to be destroyed.
    pub pending: u64,
    /// Of the damaged, the objects that the token lists but cannot give.
    pub ghosts: u64,
    /// Earlier values that are kept.
    pub history: u64,
    /// The serial of the USB device that carries the token, where the reader's name shows it.
    pub usb_serial: Option<UsbSerial>,
    /// Other flags of this agent name the same token, which is served there: not shown.
    pub shadow: bool,
}

/// What the token holds of one path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// One, or more when they have diverged.
    pub heads: Vec<Arc<Head>>,
    /// The lives that ended.
    pub tombstones: Vec<Tombstone>,
    /// Why it is neither present nor absent.
    pub unknown: Option<String>,
    /// Another reading of objects that a listing shows under another path: only for who asks for this one.
    pub unlisted: bool,
}

/// All records of a token that can be read.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// By path.
    pub entries: BTreeMap<RecordPath, Arc<Entry>>,
    /// A path that is not listed is unknown, not absent.
    pub hides: bool,
}

/// What is known of a token at one moment.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Counts up with every change.
    pub revision: u64,
    /// The status.
    pub status: Status,
    /// The records, while they are known.
    pub records: Option<Arc<Records>>,
}

/// What a follower of the records has to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Nothing that it was told holds any more.
    Void,
    /// Everything anew.
    Snapshot,
    /// These paths, and what they are now (nothing left: an empty entry).
    Paths(Vec<(RecordPath, Arc<Entry>)>),
}

impl View {
    /// What somebody who was told `told` last has to be told now; `None` if nothing.
    ///
    /// By comparing two snapshots instead of queueing deltas: a slow follower loses nothing and needs no queue.
    pub fn since(&self, told: Option<&View>) -> Option<Change> {
        let known = told.and_then(|t| t.records.as_ref().map(|r| (t, r)));
        let (now, (told, known)) = match (&self.records, known) {
            (None, None) => return None,
            (None, Some(_)) => return Some(Change::Void),
            (Some(_), None) => return Some(Change::Snapshot),
            (Some(now), Some(known)) => (now, known),
        };
        if told.status.epoch != self.status.epoch
            || told.status.token_id != self.status.token_id
            || known.hides != now.hides
        {
            return Some(Change::Snapshot);
        }
        if Arc::ptr_eq(known, now) {
            return None;
        }
        let changed = now.entries.iter().filter(|(path, entry)| {
            known.entries.get(*path).is_none_or(|old| !Arc::ptr_eq(old, entry) && old != *entry)
        });
        let gone = known.entries.keys().filter(|path| !now.entries.contains_key(*path));
        let paths: Vec<_> = changed
            .map(|(path, entry)| (path.clone(), Arc::clone(entry)))
            .chain(gone.map(|path| (path.clone(), Arc::default())))
            .collect();
        (!paths.is_empty()).then_some(Change::Paths(paths))
    }
}

impl Records {
    /// The records of an index, sharing every entry that is as it was in `before`.
    pub fn of(index: &hsm_store::Index, before: Option<&Records>) -> Self {
<<<<<<< HEAD
        let mut entries = BTreeMap::new();
        let listed = index.entries().keys();
        for path in listed.chain(index.unlisted()) {
            let entry = entry_of(index, path);
            let same = before.and_then(|b| b.entries.get(path)).filter(|old| ***old == entry);
            entries.insert(path.clone(), same.map_or_else(|| Arc::new(entry), Arc::clone));
        }
=======
        let entries = index
            .entries()
            .iter()
            .map(|(path, entry)| {
                let entry = Entry {
                    heads: entry.heads.clone(),
                    tombstones: entry.tombstones.clone(),
                    unknown: match index.presence(path) {
                        Presence::Unknown(why) => Some(why.to_string()),
                        Presence::Present(_) | Presence::Absent => None,
                    },
                };
                let same = before.and_then(|b| b.entries.get(path)).filter(|old| ***old == entry);
                (path.clone(), same.map_or_else(|| Arc::new(entry), Arc::clone))
            })
            .collect();
>>>>>>> agent2
        Self { entries, hides: index.hides_records() }
    }
}

/// What the index knows of a path of which it knows something.
fn entry_of(index: &hsm_store::Index, path: &RecordPath) -> Entry {
    let listed = index.entries().get(path);
    let tombstones = listed.map(|entry| entry.tombstones.clone()).unwrap_or_default();
    let unlisted = !listed.is_some_and(|entry| entry.damaged || !entry.heads.is_empty());
    match index.presence(path) {
        Presence::Present(entry) => Entry { heads: entry.heads.clone(), tombstones, unknown: None, unlisted },
        Presence::Absent => Entry { tombstones, ..Entry::default() },
        Presence::Unknown(why) => {
            let heads = listed.map(|entry| entry.heads.clone()).unwrap_or_default();
            // That something may be hidden is said once, of all paths (`Records::hides`).
            let own = !index.hides_records() || index.is_compacting() || listed.is_some_and(|e| e.damaged);
            Entry { heads, tombstones, unknown: own.then(|| why.to_string()), unlisted: unlisted && own }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(epoch: u64, paths: Option<&[(&str, Option<&str>)]>) -> View {
        let records = paths.map(|paths| {
            let entries = paths
                .iter()
                .map(|(p, unknown)| {
                    let entry = Entry { unknown: unknown.map(str::to_owned), ..Entry::default() };
                    (RecordPath::new(*p).unwrap(), Arc::new(entry))
                })
                .collect();
            Arc::new(Records { entries, hides: false })
        });
        let status = Status { epoch, ..Status::default() };
        View { revision: 0, status, records }
    }

    #[test]
    fn what_is_read_in_another_way_or_while_compacting_is_not_absent() {
        use hsm_store::testing::World;
        let world = World::new(hsm_token::Limits::SOFTWARE);
        let lock = std::env::temp_dir().join(format!("hsm-agent-view-{}", std::process::id()));
        hsm_store::Store::format(&mut world.connect(), None, &mut world.options(&lock)).unwrap();
        world.plant("app/db", b"v");
        for value in [b"1", b"2"] {
            world.plant("secrets/n/db/k", value);
        }
        let mut store = hsm_store::Store::open(world.connect(), world.options(&lock)).ok().unwrap();
        let records = Records::of(store.index(), None);
        let entry = |path: &str| &records.entries[&RecordPath::new(path).unwrap()];
        assert_eq!((entry("app").heads.len(), entry("app").unlisted), (1, false));
        assert_eq!((entry("app/db").heads.len(), entry("app/db").unlisted), (1, true));
        assert!(entry("secrets/n/db").unknown.is_some() && !entry("secrets/n/db").unlisted);
        assert!(entry("secrets/n/db/k").unknown.is_some() && entry("secrets/n/db/k").unlisted);
        store.begin_compaction().unwrap();
        let records = Records::of(store.index(), Some(&records));
        assert!(records.hides && records.entries.values().all(|entry| entry.unknown.is_some()));
        drop(std::fs::remove_file(lock));
    }

    fn paths(change: Option<Change>) -> Vec<String> {
        match change {
            Some(Change::Paths(paths)) => paths.iter().map(|(p, _)| p.to_string()).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_follower_gets_a_snapshot_then_what_changed() {
        let old = view(1, Some(&[("a", None), ("b", None)]));
        assert_eq!(old.since(None), Some(Change::Snapshot));
        let new = view(1, Some(&[("a", Some("x")), ("c", None)]));
        assert_eq!(paths(new.since(Some(&old))), ["a", "c", "b"]);
        let same = view(1, Some(&[("a", None), ("b", None)]));
        assert_eq!(same.since(Some(&old)), None);
    }

    #[test]
    fn the_end_of_an_epoch_voids_what_was_told() {
        let old = view(1, Some(&[("a", None)]));
        let unknown = view(1, None);
        assert_eq!(unknown.since(Some(&old)), Some(Change::Void));
        assert_eq!(unknown.since(None), None);
        assert_eq!(view(2, Some(&[("a", None)])).since(Some(&unknown)), Some(Change::Snapshot));
        // A follower too slow to see the gap still learns that the epoch moved.
        assert_eq!(view(2, Some(&[("a", None)])).since(Some(&old)), Some(Change::Snapshot));
    }
}
