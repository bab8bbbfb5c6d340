//! What the status should say, before it is put into conditions.

use hsm_api::Reason;
use hsm_types::Key;

/// `status.syncStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncState {
    /// Both sides are equal.
    InSync,
    /// They differ and wait for something.
    OutOfSync,
    /// Something failed; the message says what to do.
    Error,
    /// Nothing was materialised yet.
    Pending,
}

/// The `Ready` condition: `True`, `False` or `Unknown`, with its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadyStatus {
    /// The Secret may be used and is current.
    True,
    /// Something has to be done.
    False,
    /// It could not be found out.
    Unknown,
}

/// The `Conflict` condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConflictStatus {
    /// The keys that both sides changed differently; empty when the versions on one token are diverged.
    pub keys: Vec<Key>,
}

/// What the plan found out, for the status. Complete only when the plan has no steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `status.syncStatus`.
    pub state: SyncState,
    /// The `Ready` condition's status.
    pub ready: ReadyStatus,
    /// The reason, for `Ready` and `Synced`.
    pub reason: Reason,
    /// What to tell a person: what is, and what they can do.
    pub message: String,
    /// Set while a conflict is pending.
    pub conflict: Option<ConflictStatus>,
}

impl Verdict {
    pub(crate) fn new(
        state: SyncState,
        ready: ReadyStatus,
        reason: Reason,
        message: impl Into<String>,
    ) -> Self {
        Self { state, ready, reason, message: message.into(), conflict: None }
    }

    pub(crate) fn conflict(keys: Vec<Key>, message: String) -> Self {
        Self {
            conflict: Some(ConflictStatus { keys }),
            ..Self::new(SyncState::OutOfSync, ReadyStatus::False, Reason::ConflictPending, message)
        }
    }

    pub(crate) fn conflict_of_keys(keys: Vec<Key>) -> Self {
        let names: Vec<&str> = keys.iter().map(Key::as_str).collect();
        let message = format!(
            "token and Secret both changed {}; nothing was overwritten: set the annotation hsm.j5t.io/resolve to token or secret, or a conflictPolicy",
            names.join(", ")
        );
        Self::conflict(keys, message)
    }
}
