//! The plan while the token holds one live version of the record.

use hsm_api::Reason;
use hsm_types::{Key, Presence, Revision};

use crate::base::{BaseKeys, Past, Standing, newest, past};
use crate::merge::{Side, is_side, merge};
use crate::model::{AdoptionPolicy, ConflictPolicy, Copy, Input, Ownership, SecretView, SyncPolicy, Values};
use crate::plan::{Plan, PutSource, Step};
use crate::verdict::{ReadyStatus, SyncState, Verdict};

pub(crate) fn plan(input: &Input, copy: &Copy, head: &Revision) -> Plan {
    let dormant = !input.wanted.auto_sync && input.was_synced && !input.wanted.force;
    let secret = match &input.secret {
        Presence::Unknown(_) => return Plan::read(Step::ReadSecret),
        Presence::Absent if dormant => return gone_asleep(input),
        Presence::Absent => {
            return needing_record(copy, || {
                Plan::act(Step::CreateSecret, Reason::SecretCreated, "made the Secret from the token")
            });
        }
        Presence::Present(secret) => secret,
    };
    if let Ownership::Other(owner) = &secret.ownership {
        let message = format!(
            "the Secret {} belongs to the HSMSecret {owner}; choose another secretName",
            input.wanted.secret_name
        );
        return Plan::wait(Verdict::new(SyncState::Error, ReadyStatus::False, Reason::InvalidSpec, message));
    }
    if secret.ownership == Ownership::Foreign && input.wanted.adoption_policy == AdoptionPolicy::Never {
        return refuse_adoption(input, "set adoptionPolicy to IfEqual or Always to take it over");
    }
    let unmoved = input
        .seen_equal
        .as_ref()
        .is_some_and(|(rv, version)| *rv == secret.resource_version && *version == head.version);
    if unmoved && secret.ownership == Ownership::Ours && type_fits(input, secret) {
        return in_sync(input, head);
    }
    let Some(values) = &secret.values else {
        return Plan::read(Step::ReadSecret);
    };
    let plan = if secret.ownership == Ownership::Foreign {
        needing_record(copy, || adopt(input, copy, head, secret, values))
    } else {
        sync(input, copy, head, secret, values)
    };
    // Comparing is no sync: what is equal is said to be equal, after a restart too.
    let moves = |step: &Step| {
        !matches!(step, Step::ReadSecret | Step::ReadRecord | Step::ClearResolve | Step::DeleteOldSecret(_))
    };
    let compared = plan.equal_at.is_some() || (!plan.steps.is_empty() && !plan.steps.iter().any(moves));
    if dormant && !compared { asleep() } else { plan }
}

/// Runs the rest once the record was read.
fn needing_record(copy: &Copy, then: impl FnOnce() -> Plan) -> Plan {
    if copy.values.is_none() { Plan::read(Step::ReadRecord) } else { then() }
}

fn asleep() -> Plan {
    let message = "autoSync is false: nothing is synced until hsm.j5t.io/force-sync is set to a new value";
    Plan::wait(Verdict::new(SyncState::OutOfSync, ReadyStatus::True, Reason::SecretSynced, message))
}

fn gone_asleep(input: &Input) -> Plan {
    let message = format!(
        "there is no Secret {}, and autoSync is false: set hsm.j5t.io/force-sync to a new value to make it",
        input.wanted.secret_name
    );
    Plan::wait(Verdict::new(SyncState::OutOfSync, ReadyStatus::False, Reason::SecretDrift, message))
}

fn refuse_adoption(input: &Input, what_to_do: &str) -> Plan {
    let message = format!(
        "a Secret {} exists that this operator did not make; it is left alone: {what_to_do}, or choose another secretName",
        input.wanted.secret_name
    );
    Plan::wait(Verdict::new(SyncState::Error, ReadyStatus::False, Reason::AdoptionRefused, message))
}

fn type_fits(input: &Input, secret: &SecretView) -> bool {
    secret.secret_type.as_ref().is_none_or(|t| *t == input.wanted.secret_type)
}

/// Both sides are equal: only leftovers remain.
fn in_sync(input: &Input, head: &Revision) -> Plan {
    if input.wanted.resolve.is_some() {
        return Plan::act(
            Step::ClearResolve,
            Reason::ConflictResolved,
            "the conflict was resolved by a person",
        );
    }
    if let Some(old) = &input.old_secret {
        let message = format!("secretName changed: the Secret {old} goes");
        return Plan::act(Step::DeleteOldSecret(old.clone()), Reason::SecretUpdated, message);
    }
    let verdict = Verdict::new(
        SyncState::InSync,
        ReadyStatus::True,
        Reason::SecretSynced,
        "token and Secret are equal",
    );
    Plan { equal_at: Some(head.version.clone()), ..Plan::wait(verdict) }
}

fn equal(token: &Values, secret: &Values) -> bool {
    token.len() == secret.len() && token.iter().all(|(k, v)| secret.get(k).is_some_and(|w| w.mac == v.mac))
}

/// A foreign Secret that may be taken over.
fn adopt(input: &Input, copy: &Copy, head: &Revision, view: &SecretView, secret: &Values) -> Plan {
    let token = copy.values.as_ref();
    if token.is_some_and(|t| equal(t, secret)) {
        return Plan::act(Step::UpdateSecret, Reason::SecretUpdated, "took over a Secret with equal data");
    }
    if input.wanted.adoption_policy == AdoptionPolicy::IfEqual {
        return refuse_adoption(input, "its data differs from the token's; make them equal");
    }
    let alone = Past { ground: None, standing: Standing::Descends, parents: Vec::new() };
    three_way(input, copy, head, view, secret, &alone)
}

/// Our own Secret.
fn sync(input: &Input, copy: &Copy, head: &Revision, view: &SecretView, secret: &Values) -> Plan {
    let past = past(input, copy, head);
    let token = copy.values.as_ref();
    let Some(ground) = past.ground.as_ref().filter(|_| past.standing == Standing::Descends) else {
        return needing_record(copy, || settle(input, copy, head, view, secret, &past));
    };
    if matches!(ground.keys, BaseKeys::TokenContent) && token.is_none() {
        return Plan::read(Step::ReadRecord);
    }
    let secret_changed = !ground.keys.same_content(secret, token);
    match (ground.token_changed, secret_changed) {
        (false, false) if type_fits(input, view) => in_sync(input, head),
        (false, false) => to_secret(input, copy, view, Reason::SecretUpdated, "secretType changed"),
        (true, false) if input.wanted.sync_policy == SyncPolicy::ToToken => {
            put_back(head, &past, "put the token's change back (syncPolicy ToToken)")
        }
        (true, false) => to_secret(input, copy, view, Reason::SecretUpdated, "the token changed"),
        (false, true) if input.wanted.sync_policy == SyncPolicy::FromToken => to_secret(
            input,
            copy,
            view,
            Reason::SecretDrift,
            "put the Secret's change back (syncPolicy FromToken)",
        ),
        (false, true) => put_back(head, &past, "the Secret changed"),
        (true, true) => needing_record(copy, || settle(input, copy, head, view, secret, &past)),
    }
}

/// Both sides were read, and more than one of them may have moved.
fn settle(
    input: &Input,
    copy: &Copy,
    head: &Revision,
    view: &SecretView,
    secret: &Values,
    past: &Past<'_>,
) -> Plan {
    let token = copy.values.as_ref();
    if token.is_some_and(|t| equal(t, secret)) {
        if type_fits(input, view) {
            return in_sync(input, head);
        }
        return to_secret(input, copy, view, Reason::SecretUpdated, "secretType changed");
    }
    match input.wanted.sync_policy {
        SyncPolicy::ToToken => return put_back(head, past, "the Secret decides (syncPolicy ToToken)"),
        SyncPolicy::FromToken if past.standing != Standing::RolledBack => {
            return to_secret(
                input,
                copy,
                view,
                Reason::SecretDrift,
                "the token decides (syncPolicy FromToken)",
            );
        }
        SyncPolicy::FromToken | SyncPolicy::Bidirectional => {}
    }
    if past.standing == Standing::RolledBack {
        // The Secret descends from a version that the token lost: nothing on the token is newer.
        let untouched = newest(input).is_some_and(|base| BaseKeys::Macs(base).same_content(secret, token));
        if untouched || input.wanted.sync_policy == SyncPolicy::Bidirectional {
            return put_back(head, past, "the token had lost a write; healed it from the Secret");
        }
    }
    three_way(input, copy, head, view, secret, past)
}

fn three_way(
    input: &Input,
    copy: &Copy,
    head: &Revision,
    view: &SecretView,
    secret: &Values,
    past: &Past<'_>,
) -> Plan {
    let Some(token) = copy.values.as_ref() else {
        return Plan::read(Step::ReadRecord);
    };
    let preferred = input.wanted.resolve.or(match input.wanted.conflict_policy {
        ConflictPolicy::Manual => None,
        ConflictPolicy::PreferToken => Some(Side::Token),
        ConflictPolicy::PreferSecret => Some(Side::Secret),
    });
    let same = |key: &Key, value: Option<&_>| {
        past.ground.as_ref().is_some_and(|g| g.keys.same(key, value, Some(token)))
    };
    let (merged, conflicts) = merge(token, secret, same, preferred);
    if !conflicts.is_empty() && preferred.is_none() {
        return Plan::wait(Verdict::conflict_of_keys(conflicts.into_iter().collect()));
    }
    let reason = if conflicts.is_empty() { Reason::SecretUpdated } else { Reason::ConflictResolved };
    if is_side(&merged, Side::Token, token, secret) {
        return to_secret(input, copy, view, reason, "merged both sides' changes");
    }
    let source = if is_side(&merged, Side::Secret, secret, token) {
        PutSource::Secret
    } else {
        PutSource::Merged(merged)
    };
    let step = Step::PutRecord { expect: Some(head.version.stamp()), source, parents: past.parents.clone() };
    Plan::act(step, reason, "merged both sides' changes")
}

fn put_back(head: &Revision, past: &Past<'_>, message: &str) -> Plan {
    let step = Step::PutRecord {
        expect: Some(head.version.stamp()),
        source: PutSource::Secret,
        parents: past.parents.clone(),
    };
    Plan::act(step, Reason::SecretDrift, message)
}

fn to_secret(input: &Input, copy: &Copy, view: &SecretView, reason: Reason, message: &str) -> Plan {
    needing_record(copy, || {
        let anew = view.immutable || !type_fits(input, view);
        Plan::act(if anew { Step::RecreateSecret } else { Step::UpdateSecret }, reason, message)
    })
}
