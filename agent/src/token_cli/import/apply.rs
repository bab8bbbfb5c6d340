//! Writing what was decided.

use hsm_store::{Expect, PutOrigin, PutRequest, Replica, Store, StoreError};
use hsm_token::worker::WorkerToken;
use hsm_types::{Content, Tombstone, Version};

use super::{Decision, Done, Import};
use crate::error::{Kind, OpError};
use crate::token_cli::edit::KEEP_HISTORY;
use crate::token_cli::progress::Progress;
use crate::token_cli::{Failure, Outcome};

/// How many tombstones are written at a time: about a page.
const AT_ONCE: usize = 20;

impl Import<'_> {
    pub(super) fn bury(&mut self, store: &mut Store<WorkerToken>, new: &[Tombstone]) -> Outcome {
        for some in new.chunks(AT_ONCE) {
            store.bury(some)?;
            self.buried += some.len();
        }
        Ok(())
    }

    pub(super) fn write(&mut self, store: &mut Store<WorkerToken>, replace: bool) -> Outcome {
        let export = self.export;
        let mut progress = Progress::new("importing", export.counts.records as usize);
        for (place, item) in (0..).zip(&export.items) {
            let crate::export::Item::Record(replica) = item else {
                continue;
            };
            progress.step();
            if self.done.contains_key(&place) {
                continue;
            }
            let done = match self.decide(store.index(), replica, replace) {
                Done::As(decision @ Decision::Write) => {
                    outcome(decision, store.replicate(replica).map(drop))?
                }
                Done::As(decision @ Decision::Replace) => {
                    let request = request(store, replica);
                    outcome(decision, store.put(&request).map(drop))?
                }
                done => done,
            };
            self.done.insert(place, done);
        }
        Ok(())
    }
}

/// What became of it: an error of this record alone lets the others go on.
fn outcome(decision: Decision, result: Result<(), StoreError>) -> Result<Done, Failure> {
    let Err(error) = result else {
        return Ok(Done::As(decision));
    };
    match error {
        StoreError::Diverged { .. } | StoreError::VersionMismatch { .. } => Ok(Done::As(Decision::Conflict)),
        StoreError::Deleted(_) => Ok(Done::As(Decision::Dead)),
        error => {
            let error: OpError = error.into();
            let of_this_record = matches!(error.kind, Kind::Invalid)
                || (error.kind == Kind::Unknown
                    && !error.ends_epoch
                    && error.reason.is_some_and(of_a_record));
            if of_this_record { Ok(Done::Failed(error.message)) } else { Err(error.into()) }
        }
    }
}

fn of_a_record(reason: crate::reason::Reason) -> bool {
    reason == crate::reason::Reason::RecordDamaged
}

/// The file's content as a version that follows everything that is known of the record.
fn request(store: &Store<WorkerToken>, replica: &Replica) -> PutRequest {
    let entry = store.index().entries().get(&replica.path);
    let heads: Vec<Version> =
        entry.map(|e| e.revisions().into_iter().map(|r| r.version).collect()).unwrap_or_default();
    let (expect, mut parents) = match heads.split_first() {
        Some((first, others)) => (Expect::Stamp(first.stamp()), others.to_vec()),
        None => (Expect::Absent, Vec::new()),
    };
    // In another life, or in one that has ended, its history says nothing.
    if heads.iter().any(|head| head.incarnation == replica.revision.version.incarnation) {
        parents.push(replica.revision.version.clone());
    }
    let content =
        Content { data: replica.content.data.duplicate(), metadata: replica.content.metadata.clone() };
    PutRequest {
        path: replica.path.clone(),
        expect,
        content,
        origin: PutOrigin::Token,
        parents,
        begin_epoch: true,
        keep_history: KEEP_HISTORY,
    }
}
