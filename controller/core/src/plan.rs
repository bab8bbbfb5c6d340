//! The plan: a total function from what was observed to the next steps and what the status should say.

use crate::merge::Merge;
use crate::model::Input;
use crate::verdict::Verdict;
use hsm_types::{Stamp, Version};

/// Where the content for the token comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutSource {
    /// The Secret's data, whole: the record will say that it came from the Secret.
    Secret,
    /// A mixture of both sides' values.
    Merged(Merge),
}

/// Where the content for the Secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// The record, whole; the base becomes its version.
    Token,
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
        /// Versions that the new one must descend from as well.
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
    /// What to say. Written to the status only when the steps are empty.
    pub verdict: Verdict,
    /// Both sides are equal at this version now: the base that the status should keep.
    pub equal_at: Option<Version>,
}

/// Decides. Total: every input has a plan, and an input in which anything needed is unknown has one without writes.
pub fn plan(input: &Input) -> Plan {
    crate::plan::decide(input)
}

fn decide(_input: &Input) -> Plan {
    Plan {
        steps: Vec::new(),
        verdict: Verdict::new(
            crate::SyncState::Pending,
            crate::ReadyStatus::Unknown,
            hsm_api::Reason::PathNotFound,
            "not decided yet",
        ),
        equal_at: None,
    }
}
