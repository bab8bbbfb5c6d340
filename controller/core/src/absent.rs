//! The plan while the token is known to hold no live version of the record.
//!
//! Absent with a tombstone of the life that was last equal means deleted; absent without one means lost (a wiped
//! token, a torn sector), which is healed from the Secret and never deletes anything.

use hsm_api::Reason;
use hsm_types::{Presence, Tombstone};

use crate::base::{BaseKeys, newest};
use crate::merge::Side;
use crate::model::{AdoptionPolicy, Base, ConflictPolicy, Input, Ownership, SecretView, SyncPolicy};
use crate::plan::{Plan, PutSource, Step, failing};
use crate::verdict::{ReadyStatus, SyncState, Verdict};

pub(crate) fn plan(input: &Input, tombstones: &[Tombstone]) -> Plan {
    let secret = match &input.secret {
        Presence::Unknown(_) => return Plan::read(Step::ReadSecret),
        Presence::Absent => return nothing_anywhere(input, tombstones),
        Presence::Present(secret) => secret,
    };
    match &secret.ownership {
        Ownership::Other(owner) => {
            let message = format!(
                "the Secret {} belongs to the HSMSecret {owner}; choose another secretName",
                input.wanted.secret_name
            );
            return Plan::wait(Verdict::new(
                SyncState::Error,
                ReadyStatus::False,
                Reason::InvalidSpec,
                message,
            ));
        }
        Ownership::Foreign if input.wanted.adoption_policy != AdoptionPolicy::Always => {
            let message = format!(
                "a Secret {} exists that this operator did not make, and the token has no record {}; set adoptionPolicy to Always to bring it to the token",
                input.wanted.secret_name, input.wanted.path
            );
            return Plan::wait(Verdict::new(
                SyncState::Error,
                ReadyStatus::False,
                Reason::AdoptionRefused,
                message,
            ));
        }
        Ownership::Foreign | Ownership::Ours => {}
    }
    if !input.wanted.auto_sync && input.was_synced && !input.wanted.force {
        return not_found(input, "autoSync is false: the Secret is left as it is");
    }
    if secret.values.is_none() {
        return Plan::read(Step::ReadSecret);
    }
    if secret.ownership == Ownership::Foreign {
        if input.was_synced && !tombstones.is_empty() {
            return undecided(input, secret);
        }
        return put("brought the Secret's content to the token", None);
    }
    ours(input, secret, tombstones)
}

/// Our Secret is there and the record is not.
fn ours(input: &Input, secret: &SecretView, tombstones: &[Tombstone]) -> Plan {
    let base = newest(input);
    let untouched =
        base.zip(secret.values.as_ref()).map(|(b, values)| BaseKeys::Macs(b).same_content(values, None));
    let grave = base.and_then(|b| tombstones.iter().find(|t| t.incarnation == b.version.incarnation));
    // Whoever deleted it from a copy that had lost the newest version did not know what the Secret has.
    let knew = base.zip(grave).is_some_and(|(b, t)| t.stamp.knew(&b.version.stamp()));
    match (base, grave.is_some()) {
        (Some(_), true) => deleted(input, secret, untouched == Some(true) && knew),
        (Some(base), false)
            if input.wanted.sync_policy != SyncPolicy::FromToken || untouched == Some(true) =>
        {
            put("the token had lost the record; healed it from the Secret", Some(base))
        }
        (None, _) if tombstones.is_empty() => {
            put("the token had lost the record; healed it from the Secret", None)
        }
        // FromToken with an edited Secret, or tombstones of which nothing says whether they are this Secret's.
        _ => undecided(input, secret),
    }
}

/// The record was deleted on the token.
fn deleted(input: &Input, secret: &SecretView, untouched: bool) -> Plan {
    let from_token = input.wanted.sync_policy == SyncPolicy::FromToken;
    let from_secret = input.wanted.sync_policy == SyncPolicy::ToToken;
    if from_secret {
        return put("put the deletion on the token back (syncPolicy ToToken)", None);
    }
    if untouched || from_token {
        return Plan::act(
            Step::DeleteSecret,
            Reason::PathNotFound,
            "the record was deleted on the token; the Secret goes",
        );
    }
    undecided(input, secret)
}

/// Deleted or lost on one side, edited on the other.
fn undecided(input: &Input, secret: &SecretView) -> Plan {
    let preferred = input.wanted.resolve.or(match input.wanted.conflict_policy {
        ConflictPolicy::Manual => None,
        ConflictPolicy::PreferToken => Some(Side::Token),
        ConflictPolicy::PreferSecret => Some(Side::Secret),
    });
    match preferred {
        // A Secret that we did not make goes only when a person says so of this very Secret.
        Some(Side::Token)
            if secret.ownership == Ownership::Ours || input.wanted.resolve == Some(Side::Token) =>
        {
            Plan::act(Step::DeleteSecret, Reason::ConflictResolved, "the token decides: the Secret goes")
        }
        Some(Side::Secret) => put("the Secret decides: the record is made anew", None),
        _ => {
            let keys = secret.values.iter().flat_map(|v| v.keys().cloned()).collect();
            let message = "the record is gone from the token and the Secret was edited; set the annotation hsm.j5t.io/resolve to token (the Secret goes) or secret (the record is made anew)";
            Plan::wait(Verdict::conflict(keys, message.to_owned()))
        }
    }
}

fn put(message: &str, base: Option<&Base>) -> Plan {
    let parents = base.map(|b| b.version.clone()).into_iter().collect();
    Plan::act(
        Step::PutRecord { expect: None, source: PutSource::Secret, parents },
        Reason::SecretDrift,
        message,
    )
}

fn nothing_anywhere(input: &Input, tombstones: &[Tombstone]) -> Plan {
    if input.wanted.resolve.is_some() {
        return Plan::act(
            Step::ClearResolve,
            Reason::ConflictResolved,
            "the conflict was resolved by a person",
        );
    }
    if tombstones.is_empty() {
        not_found(input, "put it there with `hsm-agent token put`")
    } else {
        not_found(input, "it was deleted there; put it again to bring the Secret back")
    }
}

fn not_found(input: &Input, what_to_do: &str) -> Plan {
    let message = format!("the token has no record {}: {what_to_do}", input.wanted.path);
    Plan::wait(Verdict::new(failing(input), ReadyStatus::False, Reason::PathNotFound, message))
}
