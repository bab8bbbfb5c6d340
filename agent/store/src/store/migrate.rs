//! Making all foreign records ours, in one go.

use std::sync::Arc;

use hsm_token::Token;
use hsm_types::{Key, RecordPath};

use super::Store;
use super::clear::{Group, Outcome};
use super::open::of_the_object;
use super::place::Room;
use super::write::check_size;
use crate::foreign::content::is_tombstone;
use crate::foreign::names::Part;
use crate::index::{Form, Head};
use crate::{Encryption, Entry, StoreError, plain};

/// What a migration did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MigrationReport {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// The records that are, or were, in the format of others, in the order of their paths.
    pub records: Vec<Migration>,
    /// How many foreign objects were destroyed, or would be.
    pub freed: usize,
}

/// One record of a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// Its name.
    pub path: RecordPath,
    /// Its keys, where they could be read.
    pub keys: Vec<Key>,
    /// How many foreign objects it has.
    pub objects: usize,
    /// What became of it, or would.
    pub outcome: MigrationOutcome,
}

/// What becomes of a foreign record. In a dry run: what would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MigrationOutcome {
    /// It is ours now, in the same version; its foreign objects are gone.
    Migrated,
    /// It was ours already; what an interrupted migration had left is gone.
    Finished,
    /// The Go operator had deleted it; the object that said so is gone.
    Tombstone,
    /// Its content was deleted here, and a tombstone keeps it so. Its objects stay; remove them with a plain tool.
    Deleted,
    /// Nothing but a name that could be anybody's says that this is a record. It can be read, and a put to its path
    /// makes it ours; a migration leaves it alone.
    Unsure,
    /// It stays as it is, for a reason that a person has to mend.
    Conflict(String),
    /// One of its objects cannot be read as a record's.
    Unclear(String),
    /// It does not fit: larger than a record, or than a plain record, may be.
    TooLarge(String),
    /// There is no room for it. Delete something, then migrate again.
    NoRoom,
}

impl<T: Token> Store<T> {
    /// Makes every foreign record of this token ours, or with `dry_run` says what would become of each.
    ///
    /// Each record is written in the version that it has, read back, and only when that has settled its foreign
    /// objects are destroyed; many records share one wait. Done again after an interruption it goes on where it
    /// stopped; done again after its end it does nothing.
    pub fn migrate(&mut self, dry_run: bool) -> Result<MigrationReport, StoreError> {
        let _lock = self.lock()?;
        self.rescan()?;
        if self.index.compacting {
            return Err(StoreError::Compacting);
        }
        if self.index.hides_records() {
            // A record of ours, or its tombstone, may be hidden: a foreign one would be taken for the only one.
            return Err(StoreError::Damaged { path: None, objects: self.index.damaged.clone() });
        }
        let mut records: Vec<Migration> = Vec::new();
        let mut planned: Vec<(RecordPath, Arc<Head>)> = Vec::new();
        for (path, group) in &self.clear.groups {
            let entry = self.index.entries.get(path);
            let Some(outcome) = forecast(group, self.clear.contested(group), entry, |head| {
                self.index.buried(path, head.revision.version.incarnation)
            }) else {
                continue;
            };
            let head = match &group.outcome {
                Outcome::Record(head) => Some(head),
                Outcome::Deleted | Outcome::Unclear(_) => None,
            };
            if let (MigrationOutcome::Migrated, Some(head)) = (&outcome, head) {
                planned.push((path.clone(), Arc::clone(head)));
            }
            let keys =
                head.map_or_else(Vec::new, |head| head.keys.iter().map(|(key, _)| key.clone()).collect());
            records.push(Migration { path: path.clone(), keys, objects: group.members.len(), outcome });
        }
        let mut report = MigrationReport { dry_run, records, freed: 0 };
        if dry_run {
            self.foresee(&mut report, planned)?;
        } else {
            self.carry_out(&mut report, planned)?;
        }
        Ok(report)
    }

    fn carry_out(
        &mut self,
        report: &mut MigrationReport,
        planned: Vec<(RecordPath, Arc<Head>)>,
    ) -> Result<(), StoreError> {
        // First what frees objects without needing any.
        let before = self.clear.cleared;
        for record in &report.records {
            match record.outcome {
                MigrationOutcome::Finished => self.finish_import(&record.path)?,
                MigrationOutcome::Tombstone => self.drop_tombstone(&record.path)?,
                _ => {}
            }
        }
        let mut waiting = planned;
        while !waiting.is_empty() {
            let (mut imported, mut full) = (Vec::new(), Vec::new());
            for (path, head) in waiting {
                match self.import(&path, &head, self.options.encryption, Room::AtRest) {
                    Ok(()) => imported.push(path),
                    Err(StoreError::TokenFull { .. }) if !self.is_void() => full.push((path, head)),
                    Err(error) => set(report, &path, refused(error)?),
                }
            }
            for path in &imported {
                self.finish_import(path)?;
            }
            if imported.is_empty() {
                for (path, _) in &full {
                    set(report, path, MigrationOutcome::NoRoom);
                }
                break;
            }
            waiting = full;
        }
        report.freed = self.clear.cleared - before;
        Ok(())
    }

    /// Destroys what the Go operator remembered a deletion by, if nothing else is there under that path.
    fn drop_tombstone(&mut self, path: &RecordPath) -> Result<(), StoreError> {
        let members = self.clear.groups.get(path).map(|group| group.members.clone()).unwrap_or_default();
        for (handle, _) in members {
            let size = match self.token.read(handle) {
                Ok(value) if is_tombstone(&value) => value.len(),
                Ok(_) => continue,
                Err(error) if of_the_object(&error) => continue,
                Err(error) => return self.noted(Err(error)),
            };
            self.destroy_handle(handle)?;
            self.gone_foreign(handle, size);
        }
        self.reindex()
    }

    /// What [`Store::migrate`] would come to, as far as it can be told beforehand.
    fn foresee(
        &mut self,
        report: &mut MigrationReport,
        planned: Vec<(RecordPath, Arc<Head>)>,
    ) -> Result<(), StoreError> {
        let mut total = self.index.counts.total();
        for record in &report.records {
            let freed = match record.outcome {
                MigrationOutcome::Finished => self.leftover_count(&record.path),
                MigrationOutcome::Tombstone => record.objects,
                _ => 0,
            };
            total = total.saturating_sub(freed);
            report.freed += freed;
        }
        let limits = self.token.limits();
        let mut waiting = Vec::new();
        for (path, head) in planned {
            match self.cost(&path, &head) {
                Ok(needed) => {
                    let freed = self.objects_in_clear(&path, &head);
                    waiting.push((path, needed, freed));
                }
                Err(error) => set(report, &path, refused(error)?),
            }
        }
        loop {
            let before = waiting.len();
            waiting.retain(|(_, needed, freed)| {
                let passes = limits.objects_in_passing.is_none_or(|limit| total + needed <= limit);
                let rests = *needed == 1
                    || needed <= freed
                    || limits.objects_at_rest.is_none_or(|limit| total + needed <= limit + freed);
                if passes && rests {
                    total = (total + needed).saturating_sub(*freed);
                    report.freed += freed;
                }
                !(passes && rests)
            });
            if waiting.is_empty() || waiting.len() == before {
                break;
            }
        }
        for (path, _, _) in &waiting {
            set(report, path, MigrationOutcome::NoRoom);
        }
        Ok(())
    }

    fn leftover_count(&self, path: &RecordPath) -> usize {
        let group = self.clear.groups.get(path);
        group.and_then(|group| group.leftover.as_ref()).map_or(0, |leftover| leftover.count)
    }

    /// How many objects the record needs as ours.
    fn cost(&mut self, path: &RecordPath, head: &Head) -> Result<usize, StoreError> {
        let Some(content) = self.foreign_content(path, &head.revision)? else {
            self.void = true;
            return Err(StoreError::ReadBack);
        };
        check_size(&content)?;
        let (version, origin) = (&head.revision.version, &head.revision.origin);
        if self.options.encryption == Encryption::None {
            let generation = self.next_generation()?;
            plain::encode(path, version, origin, &content, generation, self.token.limits().object_size)?;
            return Ok(1);
        }
        Ok(self.sealed_objects(path, version, origin, &content))
    }
}

/// What becomes of a group; nothing if it is only another reading of objects that are listed elsewhere.
fn forecast(
    group: &Group,
    contested: Option<(String, RecordPath)>,
    entry: Option<&Entry>,
    buried: impl Fn(&Head) -> bool,
) -> Option<MigrationOutcome> {
    let ours = entry.is_some_and(|entry| entry.heads.iter().any(|head| head.form != Form::Foreign));
    let leftover = group.leftover.as_ref().is_some_and(|leftover| leftover.count > 0);
    if leftover {
        return Some(MigrationOutcome::Finished);
    }
    if !group.listed {
        return None;
    }
    let conflict = |reason: &str| MigrationOutcome::Conflict(reason.to_owned());
    Some(match &group.outcome {
        Outcome::Deleted if group.members.iter().all(|(_, part)| *part == Part::Metadata) => {
            MigrationOutcome::Tombstone
        }
        Outcome::Deleted => conflict(
            "the Go operator deleted it, and other objects of it are still there; remove them, or the _metadata object, with a plain PKCS#11 tool",
        ),
        Outcome::Record(_) | Outcome::Unclear(_) if ours => conflict(
            "the record is ours already, and these objects say something else; put what you want to keep into it, then remove them with a plain PKCS#11 tool",
        ),
        Outcome::Unclear(object) => MigrationOutcome::Unclear(object.to_string()),
        Outcome::Record(head) if buried(head) => MigrationOutcome::Deleted,
        Outcome::Record(_) if entry.is_some_and(|entry| entry.damaged) => {
            MigrationOutcome::Unclear("a version of ours of this record cannot be read".to_owned())
        }
        Outcome::Record(_) => match contested {
            Some((label, other)) => MigrationOutcome::Conflict(format!(
                "the object {label} belongs to it or to {other}; rename or remove it, or the metadata that do not belong to it, with a plain PKCS#11 tool"
            )),
            None if group.sure => MigrationOutcome::Migrated,
            None => MigrationOutcome::Unsure,
        },
    })
}

fn set(report: &mut MigrationReport, path: &RecordPath, outcome: MigrationOutcome) {
    if let Some(record) = report.records.iter_mut().find(|record| record.path == *path) {
        record.outcome = outcome;
    }
}

/// An error that speaks of one record, as its outcome.
fn refused(error: StoreError) -> Result<MigrationOutcome, StoreError> {
    match error {
        StoreError::ValueTooLarge { .. } | StoreError::NotPlain { .. } => {
            Ok(MigrationOutcome::TooLarge(error.to_string()))
        }
        StoreError::Contested { .. } => Ok(MigrationOutcome::Conflict(error.to_string())),
        error => Err(error),
    }
}
