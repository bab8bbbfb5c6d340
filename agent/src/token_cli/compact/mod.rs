//! `compact`: gives back flash that a token has leaked. Export, verify, empty, refill from the export.
//!
//! It can be killed at any step: the same command with the same file goes on. What it needs for that is the export,
//! the marker on the token (`hsm_store`, "Compaction"), and a note in the state directory which export it was. Nothing
//! on the token is destroyed before an export that was decrypted holds exactly what the token holds.

mod compare;
mod note;

use crate::token_open::identify;
use hsm_store::{Store, StoreError};
use hsm_token::worker::WorkerToken;
use hsm_types::{Presence, RecordPath, TokenId, Tombstone};

use super::args::CompactArgs;
use super::output::{agree, remark, say};
use super::progress::Progress;
use super::session::{again, finish, log_in, open_store, options, reopened};
use super::{Failure, Outcome, export, find};
use crate::config::{Chosen, SelectArgs};
use crate::export::{Export, Item, Lock, Unlock, read};
use crate::state::{Admissions, By, Tie};
use compare::{Fit, compare};
use note::Note;

struct Compaction<'a> {
    args: &'a CompactArgs,
    chosen: Chosen,
    id: TokenId,
    lock: Lock,
    unlock: Unlock,
}

pub(super) fn compact(select: &SelectArgs, args: &CompactArgs) -> Outcome {
    let (lock, unlock) = export::keys(&args.lock, args.identity.as_deref())?;
    let Some(unlock) = unlock else {
        return Err(Failure::Usage(
            "an export to recipients cannot be verified without a key: add --identity FILE, or use --passphrase-file; \
             nothing is destroyed before that"
                .to_owned(),
        ));
    };
    let chosen = find::chosen(select)?;
    let there = args.out.symlink_metadata().is_ok();
    let (mut worker, info) = reopened(&chosen)?;
    let id = match (identify(&chosen, &info, &mut worker)?, chosen.token_id) {
        (Presence::Present(id), None) => id,
        (Presence::Present(id), Some(named)) if id == named => id,
        (Presence::Present(id), Some(named)) => {
            return Err(Failure::Other(format!("the token is {id}, not {named} (--token-id)")));
        }
        // A compaction that was cut short between taking the store off and making it anew.
        (Presence::Absent, _) if args.reformat && there => read(&args.out, &unlock)?.header.token_id,
        (Presence::Absent, _) => return Err(StoreError::NoIdentity.into()),
        (Presence::Unknown(why), _) => return Err(Failure::Other(why.to_string())),
    };
    drop(worker);
    let how = if args.reformat { "everything of ours on it, its store key as well," } else { "its records" };
    agree(
        &format!(
            "Compact {id} ({}): {} {}, then destroy {how} and write them back from there? Until it is done, nothing is \
             known of its records. Earlier values (history) stay in the file only.",
            info.label,
            if there { "check" } else { "export it to" },
            args.out.display()
        ),
        args.yes,
    )?;
    let compaction = Compaction { args, chosen, id, lock, unlock };
    again(|| compaction.run())
}

impl Compaction<'_> {
    fn run(&self) -> Outcome {
        let export = self.export()?;
        let mut note = Note::load(&self.chosen.state_dir, self.id)?;
        self.check(&export, &note)?;
        let begun = note.is_of(&export);
        if !begun {
            note.begin(&export, self.args.reformat)?;
        }
        if self.args.reformat && !note.is_formatted() {
            self.reformat(&export, begun)?;
            note.formatted()?;
        }
        let (worker, info) = log_in(&self.chosen)?;
        let mut store = open_store(&self.chosen, worker, &info)?;
        if let Some(error) = self.begin(&mut store, &export, begun || note.is_formatted())? {
            return Err(Failure::Other(format!("{error}: that is compact --reformat")));
        }
        store.empty()?;
        refill(&mut store, &export)?;
        store.end_compaction()?;
        if compare(store.index(), &export) != Fit::Same {
            return Err(Failure::Other(format!(
                "the token does not hold what {} holds; keep that file, and run the same command again",
                self.args.out.display()
            )));
        }
        finish(&mut store)?;
        note.end()?;
        say(&format!(
            "{} compacted: {} record(s), {} tombstone(s) written back",
            self.id, export.counts.records, export.counts.tombstones
        ));
        remark(&format!("Keep {} until you have seen that all is well.", self.args.out.display()));
        Ok(())
    }

    /// The export that is there, or a new one; whole, and of this token.
    fn export(&self) -> Result<Export, Failure> {
        let out = &self.args.out;
        let failed = |why: &str| Failure::Other(format!("{}: {why}; nothing was changed", out.display()));
        if out.symlink_metadata().is_err() {
            let (worker, info) = log_in(&self.chosen)?;
            let mut store = open_store(&self.chosen, worker, &info)?;
            if store.is_compacting() {
                return Err(Failure::Usage(format!(
                    "a compaction of {} has begun, and {} is not there: give the --out FILE that it began with",
                    self.id,
                    out.display()
                )));
            }
            if let Some(path) = diverged(store.index()) {
                return Err(Failure::Conflict(format!(
                    "{path} has diverged, and only one version of it could be written back; merge it first (put --replace). \
                     Nothing was changed"
                )));
            }
            let done = export::write(&mut store, "", out, &self.lock, Some(&self.unlock), false)?;
            if !done.missing.is_empty() {
                return Err(failed(
                    "the export is partial, since objects on the token cannot be read (see doctor)",
                ));
            }
        }
        let export = read(out, &self.unlock)?;
        if export.header.token_id != self.id {
            return Err(failed(&format!(
                "it is an export of {}, not of {}",
                export.header.token_id, self.id
            )));
        }
        if !export.is_whole() {
            return Err(failed("it does not hold everything that its token held"));
        }
        Ok(export)
    }

    /// Nothing may be on the token that is not in the export. Without a note that this compaction has begun, all of it
    /// must be there: else the file is an old one.
    fn check(&self, export: &Export, note: &Note) -> Outcome {
        let begun = note.is_of(export);
        let (worker, info) = log_in(&self.chosen)?;
        match Store::open(worker, options(&self.chosen, &info)).map_err(|(_, error)| error) {
            Ok(store) => match compare(store.index(), export) {
                Fit::Same => Ok(()),
                Fit::Part if begun || store.is_compacting() => Ok(()),
                Fit::Part | Fit::Other => Err(self.older()),
            },
            // Half taken off; what is left opens nothing, or is not a store any more.
            Err(StoreError::NoIdentity | StoreError::StoreKeyMissing(_)) if self.args.reformat && begun => {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the marker, under which nobody else writes, and makes sure that nothing was written since the export was
    /// compared. Gives the error if there is no room for the marker.
    fn begin(
        &self,
        store: &mut Store<WorkerToken>,
        export: &Export,
        begun: bool,
    ) -> Result<Option<StoreError>, Failure> {
        let begun = begun || store.is_compacting();
        let no_marker = match store.begin_compaction() {
            Ok(()) => None,
            Err(error @ StoreError::NoMarker(_)) => Some(error),
            Err(error) => return Err(error.into()),
        };
        let fits = match compare(store.index(), export) {
            Fit::Same => true,
            Fit::Part => begun,
            Fit::Other => false,
        };
        if fits {
            return Ok(no_marker);
        }
        if !begun && no_marker.is_none() {
            store.end_compaction()?;
        }
        Err(self.older())
    }

    fn older(&self) -> Failure {
        Failure::Other(format!(
            "{} is not what the token holds: something was changed since. Give another --out FILE; nothing was changed",
            self.args.out.display()
        ))
    }

    /// Takes the store off, and makes a new one of the same name; its new key is pinned.
    fn reformat(&self, export: &Export, begun: bool) -> Outcome {
        let (worker, info) = log_in(&self.chosen)?;
        let tie = Tie::of(&info);
        let mut book = Admissions::load(&self.chosen.state_dir)?;
        // Until the new key is pinned none is: the old one would lock us out of what we make.
        book.admit(self.id, None, tie.clone(), By::Person)?;
        let mut worker = match Store::open(worker, options(&self.chosen, &info)) {
            // Under the marker for as long as there is something to destroy: nothing is known of its records meanwhile.
            Ok(mut store) => {
                // Without a marker the flash takes nothing more: that is what taking all of it off is for.
                if self.begin(&mut store, export, begun)?.is_none() {
                    store.empty()?;
                }
                store.into_token()
            }
            Err((worker, StoreError::NoIdentity | StoreError::StoreKeyMissing(_))) => worker,
            Err((_, error)) => return Err(error.into()),
        };
        Store::dismantle(&mut worker, &mut options(&self.chosen, &info))?;
        let identity = Store::format(&mut worker, Some(self.id), &mut options(&self.chosen, &info))?;
        drop(worker);
        // Read back by a new process before anything is entrusted to it.
        let (worker, info) = log_in(&self.chosen)?;
        let store = open_store(&self.chosen, worker, &info)?;
        if store.identity() != identity {
            return Err(Failure::Other(
                "the token does not give back the identity that was written; do not use it".to_owned(),
            ));
        }
        book.admit(self.id, Some(&identity.fingerprint.to_string()), tie, By::Person)?;
        Ok(())
    }
}

fn diverged(index: &hsm_store::Index) -> Option<&RecordPath> {
    index.entries().iter().find(|(_, entry)| entry.heads.len() > 1).map(|(path, _)| path)
}

fn refill(store: &mut Store<WorkerToken>, export: &Export) -> Outcome {
    let tombstones: Vec<Tombstone> = export
        .items
        .iter()
        .filter_map(|item| match item {
            Item::Tombstone(tombstone) => Some(tombstone.clone()),
            _ => None,
        })
        .collect();
    if !tombstones.is_empty() {
        store.bury(&tombstones)?;
    }
    let mut progress = Progress::new("writing back", export.counts.records as usize);
    for item in &export.items {
        if let Item::Record(replica) = item {
            store.refill(replica)?;
            progress.step();
        }
    }
    Ok(())
}
