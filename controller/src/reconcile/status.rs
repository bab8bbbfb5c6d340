//! The next status, from the last one and what a turn found out. Pure: time is an argument.

use hsm_api::{
    ConditionStatus, HSMSecret, HSMSecretStatus, PrimaryStatus, Reason, SecretRef, SyncStatus, condition,
    names, set_condition,
};
use hsm_core::{ReadyStatus, SyncState, TokenView, Verdict, Wanted};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value};

use super::fault::{Fault, FaultClass};

/// What to tell people.
pub(super) struct Say {
    pub(super) state: SyncState,
    pub(super) ready: ReadyStatus,
    pub(super) reason: Reason,
    pub(super) message: String,
    pub(super) conflict: bool,
}

impl Say {
    pub(super) fn of(verdict: &Verdict) -> Self {
        Self {
            state: verdict.state,
            ready: verdict.ready,
            reason: verdict.reason,
            message: verdict.message.clone(),
            conflict: verdict.conflict.is_some(),
        }
    }

    pub(super) fn fault(fault: &Fault, was_synced: bool) -> Self {
        let refused = fault.class == FaultClass::Refused;
        Self {
            state: if refused || was_synced { SyncState::Error } else { SyncState::Pending },
            ready: if refused { ReadyStatus::False } else { ReadyStatus::Unknown },
            reason: fault.reason,
            message: fault.message.clone(),
            conflict: false,
        }
    }
}

/// What a turn found out.
#[allow(clippy::struct_excessive_bools, reason = "each is one observation, not a state")]
pub(super) struct Facts<'a> {
    pub(super) object: &'a HSMSecret,
    pub(super) wanted: Option<&'a Wanted>,
    pub(super) in_sync: bool,
    /// Data was moved.
    pub(super) moved: bool,
    /// The plan was worked off: a forced sync is done.
    pub(super) worked_off: bool,
    /// The token that holds the record.
    pub(super) primary: Option<&'a TokenView>,
    pub(super) hsm_checksum: Option<String>,
    pub(super) secret_checksum: Option<String>,
    pub(super) base: Option<String>,
    /// Whether the Secret that is there is ours.
    pub(super) secret_ours: Option<bool>,
    pub(super) secret_absent: bool,
    pub(super) say: &'a Say,
    pub(super) now: &'a Time,
}

/// See the module. Equal to `old` when there is nothing new to say.
pub(super) fn next_status(old: &HSMSecretStatus, facts: &Facts<'_>) -> HSMSecretStatus {
    let mut new = old.clone();
    let say = facts.say;
    new.observed_generation = facts.object.metadata.generation;
    new.sync_status = Some(match say.state {
        SyncState::InSync => SyncStatus::InSync,
        SyncState::OutOfSync => SyncStatus::OutOfSync,
        SyncState::Error => SyncStatus::Error,
        SyncState::Pending => SyncStatus::Pending,
    });
    new.last_error = (say.state == SyncState::Error).then(|| say.message.clone());
    if facts.moved || (facts.in_sync && old.last_sync_time.is_none()) {
        new.last_sync_time = Some(facts.now.clone());
    }
    let checksums = (&facts.hsm_checksum, &facts.secret_checksum);
    match checksums {
        // In sync they are equal, and one side that was read speaks for both.
        (Some(one), _) | (None, Some(one)) if facts.in_sync => {
            new.hsm_checksum = Some(one.clone());
            new.secret_checksum = Some(one.clone());
        }
        (hsm, secret) => {
            new.hsm_checksum = hsm.clone().or(new.hsm_checksum);
            new.secret_checksum = secret.clone().or(new.secret_checksum);
        }
    }
    if facts.base.is_some() {
        new.base.clone_from(&facts.base);
    }
    if let Some(token) = facts.primary {
        new.primary = Some(PrimaryStatus { node: token.node.clone(), token: token.token.to_string() });
        let head = token.copy.present().and_then(|c| c.heads.first());
        new.version = head.map(|h| h.version.to_string());
    }
    secret_ref(&mut new, facts);
    new.mirrors_ready = Some("0/0".to_owned());
    if facts.worked_off {
        let forced =
            facts.object.metadata.annotations.as_ref().and_then(|a| a.get(names::ANNOTATION_FORCE_SYNC));
        let paused = facts.wanted.is_some_and(|w| w.paused);
        if let Some(value) = forced.filter(|_| !paused && say.ready != ReadyStatus::Unknown) {
            new.force_sync = Some(value.clone());
        }
    }
    conditions(&mut new, facts);
    new
}

fn secret_ref(new: &mut HSMSecretStatus, facts: &Facts<'_>) {
    let Some(wanted) = facts.wanted else { return };
    let current = |r: &SecretRef| r.name.as_ref() == Some(&wanted.secret_name);
    // An earlier name stays until its Secret is gone, so that it is not forgotten.
    let earlier = new.secret_ref.as_ref().is_some_and(|r| !current(r));
    if facts.secret_ours == Some(true) && (facts.in_sync || !earlier) {
        new.secret_ref = Some(SecretRef {
            name: Some(wanted.secret_name.clone()),
            namespace: facts.object.metadata.namespace.clone(),
        });
    } else if facts.secret_absent && !earlier {
        new.secret_ref = None;
        new.secret_checksum = None;
    }
}

fn conditions(new: &mut HSMSecretStatus, facts: &Facts<'_>) {
    let say = facts.say;
    let generation = facts.object.metadata.generation;
    let make = |type_: &str, status, reason, message: &str| {
        condition(type_, status, reason, message, generation, facts.now)
    };
    let list = &mut new.conditions;
    let ready = match say.ready {
        ReadyStatus::True => ConditionStatus::True,
        ReadyStatus::False => ConditionStatus::False,
        ReadyStatus::Unknown => ConditionStatus::Unknown,
    };
    let synced = match (facts.in_sync, say.ready) {
        (true, _) => ConditionStatus::True,
        (false, ReadyStatus::Unknown) => ConditionStatus::Unknown,
        (false, _) => ConditionStatus::False,
    };
    set_condition(list, make(names::READY, ready, say.reason, &say.message));
    set_condition(list, make(names::SYNCED, synced, say.reason, &say.message));
    // The abnormal ones are there from the first time that they are True.
    if say.conflict {
        set_condition(list, make(names::CONFLICT, ConditionStatus::True, say.reason, &say.message));
    } else if say.ready != ReadyStatus::Unknown && has(list, names::CONFLICT) {
        let solved = make(names::CONFLICT, ConditionStatus::False, Reason::ConflictResolved, "no conflict");
        set_condition(list, solved);
    }
    let inactive = facts.object.spec.not_yet_active();
    if !inactive.is_empty() {
        let message = format!("this version does not act on: {}", inactive.join(", "));
        let degraded = make(names::DEGRADED, ConditionStatus::True, Reason::FieldNotYetActive, &message);
        set_condition(list, degraded);
    } else if has(list, names::DEGRADED) {
        set_condition(list, make(names::DEGRADED, ConditionStatus::False, Reason::SecretSynced, ""));
    }
}

fn has(list: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition], type_: &str) -> bool {
    list.iter().any(|c| c.type_ == type_)
}

/// Whether the status has this condition with status True.
pub(super) fn is_true(status: &HSMSecretStatus, type_: &str) -> bool {
    status.conditions.iter().any(|c| c.type_ == type_ && c.status == "True")
}

/// The merge patch from `old` to `new`: only what changed, and null for what is gone.
pub(super) fn patch(old: &HSMSecretStatus, new: &HSMSecretStatus) -> Value {
    let object = |status: &HSMSecretStatus| match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let (old, mut new) = (object(old), object(new));
    for (name, value) in &old {
        if new.get(name) == Some(value) {
            new.remove(name);
        } else {
            new.entry(name.clone()).or_insert(Value::Null);
        }
    }
    Value::Object(new)
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
