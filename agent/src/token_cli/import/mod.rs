//! `import`: reads a whole export, decides version by version, and writes only what is newer or missing.
//!
//! Every step may be made again: an import that was interrupted is run again and goes on.

mod apply;
mod decide;
mod report;

use std::collections::BTreeMap;

use hsm_store::{Index, Replica};
use hsm_types::{Incarnation, Presence, RecordPath, Revision, Tombstone};

use super::args::{ImportArgs, UnlockArgs};
use super::output::agree;
use super::session::{again, open};
use super::{Failure, Outcome};
use crate::config::SelectArgs;
use crate::export::{Export, Item, Unlock, passphrase, read};
use decide::{Decision, decide};

/// What became of one version of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Done {
    /// As decided.
    As(Decision),
    /// It could not be, and why.
    Failed(String),
}

/// An import under way: what is done stays done when the session is lost and the rest is tried again.
struct Import<'a> {
    export: &'a Export,
    /// By the version's place in the file.
    done: BTreeMap<usize, Done>,
    /// Records on the token that the file's tombstones end.
    deleted: Vec<RecordPath>,
    /// Tombstones that the token did not have.
    buried: usize,
}

pub(super) fn import(select: &SelectArgs, args: &ImportArgs) -> Outcome {
    let unlock = unlock(&args.unlock)?;
    let name = args.file.display();
    let export = read(&args.file, &unlock).map_err(|error| match Failure::from(error) {
        Failure::Other(message) => Failure::Other(format!("{name}: {message}")),
        other => other,
    })?;
    let mut import = Import { export: &export, done: BTreeMap::new(), deleted: Vec::new(), buried: 0 };
    let outcome = again(|| import.run(select, args));
    report::report(args, &import, outcome)
}

pub(super) fn unlock(args: &UnlockArgs) -> Result<Unlock, Failure> {
    match (&args.passphrase_file, &args.identity) {
        (Some(file), _) => Ok(Unlock::Passphrase(passphrase(file)?)),
        (None, Some(file)) => Ok(Unlock::identities(file)?),
        (None, None) => Err(Failure::Usage("give --passphrase-file FILE or --identity FILE".to_owned())),
    }
}

impl<'a> Import<'a> {
    fn run(&mut self, select: &SelectArgs, args: &ImportArgs) -> Result<(), Failure> {
        let mut store = open(select)?;
        if store.is_compacting() {
            return Err(hsm_store::StoreError::Compacting.into());
        }
        let new = self.new_tombstones(store.index());
        for tomb in &new {
            if living(store.index(), tomb) && !self.deleted.contains(&tomb.path) {
                self.deleted.push(tomb.path.clone());
            }
        }
        if args.dry_run {
            self.buried = new.len();
            for (place, replica) in self.versions() {
                let done = self.decide(store.index(), replica, args.replace);
                self.done.insert(place, done);
            }
            return Ok(());
        }
        self.ask(args)?;
        self.bury(&mut store, &new)?;
        self.write(&mut store, args.replace)?;
        super::session::finish(&mut store)
    }

    /// Asks before anything that lives on the token is deleted.
    fn ask(&self, args: &ImportArgs) -> Outcome {
        if self.deleted.is_empty() {
            return Ok(());
        }
        let paths: Vec<&str> = self.deleted.iter().map(RecordPath::as_str).collect();
        let count = paths.len();
        agree(
            &format!("Delete {count} record(s) that the file says were deleted: {}?", paths.join(", ")),
            args.yes,
        )
    }

    /// The living versions in the file, each with its place.
    fn versions(&self) -> Vec<(usize, &'a Replica)> {
        (0..)
            .zip(&self.export.items)
            .filter_map(|(place, item)| match item {
                Item::Record(replica) => Some((place, replica)),
                _ => None,
            })
            .collect()
    }

    fn tombstones(&self) -> impl Iterator<Item = &Tombstone> {
        self.export.items.iter().filter_map(|item| match item {
            Item::Tombstone(tombstone) => Some(tombstone),
            _ => None,
        })
    }

    fn new_tombstones(&self, index: &Index) -> Vec<Tombstone> {
        self.tombstones().filter(|tomb| !index.buried(&tomb.path, tomb.incarnation)).cloned().collect()
    }

    /// As if the file's tombstones were on the token: they go there first.
    fn decide(&self, index: &Index, replica: &Replica, replace: bool) -> Done {
        let path = &replica.path;
        let dead: Vec<Tombstone> = self
            .tombstones()
            .filter(|tomb| tomb.path == *path)
            .chain(index.entries().get(path).into_iter().flat_map(|entry| &entry.tombstones))
            .cloned()
            .collect();
        let ended = |life: Incarnation| dead.iter().any(|tomb| tomb.incarnation == life);
        let heads: Vec<Revision> = match index.presence(path) {
            Presence::Present(entry) => {
                entry.revisions().into_iter().filter(|head| !ended(head.version.incarnation)).collect()
            }
            Presence::Absent => Vec::new(),
            Presence::Unknown(why) => return Done::Failed(why.to_string()),
        };
        let decision = decide(&heads, &dead, replica, replace);
        // Which of several versions would be the one? The person has to say.
        let several = self.versions().iter().filter(|(_, other)| other.path == *path).count() > 1;
        Done::As(if several && decision == Decision::Replace { Decision::Conflict } else { decision })
    }
}

fn living(index: &Index, tomb: &Tombstone) -> bool {
    index.entries().get(&tomb.path).is_some_and(|entry| {
        entry.heads.iter().any(|head| head.revision.version.incarnation == tomb.incarnation)
    })
}
