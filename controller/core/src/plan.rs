//! The plan: a total function from what was observed to the next steps and what the status should say.
//!
//! It is worked off in rounds: plan, execute, observe, plan again. A round that needs something read asks for it and
//! nothing else, so that no step that writes ever rests on something unread. DESIGN's "The plan" and the table "What
//! the words mean" are the source; each row has a test beside this module.

use hsm_api::Reason;
use hsm_types::{Presence, Stamp, Version};

use crate::merge::Merge;
use crate::model::{Copy, DeletionPolicy, Input, Ownership};
use crate::verdict::{ReadyStatus, SyncState, Verdict};
use crate::{absent, present};

/// Where the content for the token comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutSource {
    /// The Secret's data, whole: the record will say that it came from the Secret.
    Secret,
    /// A mixture of both sides' values. The record's mark will be the Secret's content, which it has taken in: so that
    /// an edit of the merged record descends from it, even when the Secret is not written before the next crash.
    Merged(Merge),
}

/// One thing to do. The shell executes them in order, stops at the first that fails, and observes again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Put our finalizer on the HSMSecret.
    AddFinalizer,
    /// Take our finalizer off the HSMSecret: it may go.
    RemoveFinalizer,
    /// Read the Secret with its data.
    ReadSecret,
    /// Read the record with its values from the primary.
    ReadRecord,
    /// Make the Secret from the record.
    CreateSecret,
    /// Replace the Secret's data with the record's, under the resource version that was read; adopts it where it was
    /// foreign (our labels, owner and base go in the same write).
    UpdateSecret,
    /// Delete the Secret and make it anew from the record: its type, or an immutable one, cannot be changed.
    RecreateSecret,
    /// Delete our Secret, under the uid and resource version that were read.
    DeleteSecret,
    /// Delete an earlier Secret of ours with this name, if it is (still) ours.
    DeleteOldSecret(String),
    /// Write the record on the primary.
    PutRecord {
        /// The version that is there now; `None`: known to be absent.
        expect: Option<Stamp>,
        /// The content.
        source: PutSource,
        /// Versions that the new one must descend from as well. Where the record is absent it continues the life of
        /// the first of them (a healed record is not a new one: a later tombstone must kill it).
        parents: Vec<Version>,
    },
    /// Delete these versions of the record on the primary (they become tombstones).
    DeleteRecord {
        /// The versions that are there now.
        expect: Vec<Stamp>,
    },
    /// Remove the annotation `hsm.j5t.io/resolve`: it was acted on.
    ClearResolve,
}

/// What to do, and what the status should say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The steps, in order. Empty: everything is as it should be, or has to wait.
    pub steps: Vec<Step>,
    /// What to say: with steps, why they are done (for the Event); without, what the status says.
    pub verdict: Verdict,
    /// Both sides are equal at this version: the base that the status should keep.
    pub equal_at: Option<Version>,
}

impl Plan {
    pub(crate) fn wait(verdict: Verdict) -> Self {
        Self { steps: Vec::new(), verdict, equal_at: None }
    }

    pub(crate) fn act(step: Step, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            steps: vec![step],
            verdict: Verdict::new(SyncState::OutOfSync, ReadyStatus::Unknown, reason, message),
            equal_at: None,
        }
    }

    pub(crate) fn read(step: Step) -> Self {
        Self::act(step, Reason::SecretSynced, "reading both sides")
    }
}

/// Decides. Total: every input has a plan, and one in which anything that matters is unknown has no step that writes.
pub fn plan(input: &Input) -> Plan {
    let wanted = &input.wanted;
    if wanted.paused {
        let state = if input.was_synced { SyncState::OutOfSync } else { SyncState::Pending };
        let message = "paused by the annotation hsm.j5t.io/paused; remove it to go on";
        return Plan::wait(Verdict::new(state, ReadyStatus::Unknown, Reason::Paused, message));
    }
    if wanted.deleting {
        return terminate(input);
    }
    if wanted.deletion_policy == DeletionPolicy::Delete && !wanted.has_finalizer {
        return Plan::act(Step::AddFinalizer, Reason::SecretSynced, "deletionPolicy is Delete");
    }
    let copy = match &input.token {
        Presence::Unknown(why) => return unknown(input, &why.0),
        Presence::Absent => {
            let message =
                "no token is known to any agent; plug one in, or check that an agent runs on its node";
            let ready = if input.was_synced { ReadyStatus::Unknown } else { ReadyStatus::False };
            return Plan::wait(Verdict::new(failing(input), ready, Reason::NoEligibleToken, message));
        }
        Presence::Present(token) => &token.copy,
    };
    match copy {
        Presence::Unknown(why) => unknown(input, &why.0),
        Presence::Absent => absent::plan(input, &[]),
        Presence::Present(copy) => match copy.heads.as_slice() {
            [] => absent::plan(input, &copy.tombstones),
            [head] => present::plan(input, copy, head),
            heads => {
                let versions: Vec<String> = heads.iter().map(|h| h.version.stamp().to_string()).collect();
                let message = format!(
                    "copies were edited apart: {}; delete the one that is wrong",
                    versions.join(", ")
                );
                Plan::wait(Verdict::conflict(Vec::new(), message))
            }
        },
    }
}

/// `Error` once something was materialised, `Pending` before.
pub(crate) fn failing(input: &Input) -> SyncState {
    if input.was_synced { SyncState::Error } else { SyncState::Pending }
}

fn unknown(input: &Input, why: &str) -> Plan {
    let message = format!("{why}; the Secret keeps its content until the token can be read");
    Plan::wait(Verdict::new(failing(input), ReadyStatus::Unknown, input.unknown_reason, message))
}

/// The HSMSecret is being deleted.
fn terminate(input: &Input) -> Plan {
    let wait = |message: String| {
        Plan::wait(Verdict::new(SyncState::Pending, ReadyStatus::False, Reason::Terminating, message))
    };
    if !input.wanted.has_finalizer {
        return wait("being deleted".to_owned());
    }
    let gone = || Plan::act(Step::RemoveFinalizer, Reason::Terminating, "nothing is left to do");
    if input.wanted.deletion_policy == DeletionPolicy::Retain {
        return gone();
    }
    let delete = |copy: &Copy| {
        let expect = copy.heads.iter().map(|h| h.version.stamp()).collect();
        Plan::act(Step::DeleteRecord { expect }, Reason::Terminating, "deletionPolicy is Delete")
    };
    // The garbage collector would take the Secret too, half a minute later when the CRD is new to it.
    let gone = || match input.secret.present() {
        Some(secret) if secret.ownership == Ownership::Ours && !input.wanted.orphan => {
            Plan::act(Step::DeleteSecret, Reason::Terminating, "deletionPolicy is Delete")
        }
        _ => gone(),
    };
    match &input.token {
        Presence::Unknown(why) => wait(format!("waiting to delete the record: {why}")),
        Presence::Absent => wait("waiting to delete the record: no token is known to any agent".to_owned()),
        Presence::Present(token) => match &token.copy {
            Presence::Unknown(why) => wait(format!("waiting to delete the record: {why}")),
            Presence::Absent => gone(),
            Presence::Present(copy) if copy.heads.is_empty() => gone(),
            Presence::Present(copy) => delete(copy),
        },
    }
}
