//! The status says something only when it is new.

use super::*;
use hsm_api::HSMSecretSpec;
use k8s_openapi::jiff::Timestamp;

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

fn object() -> HSMSecret {
    let mut object = HSMSecret::new("db", HSMSecretSpec::default());
    object.metadata.namespace = Some("team-a".to_owned());
    object.metadata.generation = Some(1);
    object
}

fn say(state: SyncState, ready: ReadyStatus, reason: Reason) -> Say {
    Say {
        state,
        ready,
        reason,
        message: format!("because of {reason}"),
        conflict: reason == Reason::ConflictPending,
    }
}

fn synced() -> Say {
    say(SyncState::InSync, ReadyStatus::True, Reason::SecretSynced)
}

struct Turn<'a> {
    object: &'a HSMSecret,
    old: &'a HSMSecretStatus,
    say: Say,
    moved: bool,
    checksum: &'a str,
    second: i64,
}

fn next(turn: &Turn<'_>) -> HSMSecretStatus {
    let wanted = Wanted::parse(turn.object, &[]).unwrap();
    let in_sync = turn.say.state == SyncState::InSync;
    let facts = Facts {
        object: turn.object,
        wanted: Some(&wanted),
        in_sync,
        moved: turn.moved,
        worked_off: true,
        primary: None,
        hsm_checksum: None,
        secret_checksum: Some(turn.checksum.to_owned()),
        base: in_sync.then(|| format!("base of {}", turn.checksum)),
        secret_ours: Some(true),
        secret_absent: false,
        say: &turn.say,
        now: &at(turn.second),
    };
    next_status(turn.old, &facts)
}

fn first() -> HSMSecretStatus {
    let (object, old) = (object(), HSMSecretStatus::default());
    next(&Turn { object: &object, old: &old, say: synced(), moved: true, checksum: "a", second: 1 })
}

#[test]
fn a_second_look_has_nothing_new_to_say() {
    let (object, old) = (object(), first());
    let new =
        next(&Turn { object: &object, old: &old, say: synced(), moved: false, checksum: "a", second: 99 });
    assert_eq!(new, old);
    assert_eq!(patch(&old, &new), serde_json::json!({}));
    assert_eq!(old.hsm_checksum, old.secret_checksum);
    assert_eq!(old.last_sync_time, Some(at(1)));
    assert_eq!(old.secret_ref.as_ref().unwrap().name.as_deref(), Some("db"));
}

#[test]
fn last_sync_time_moves_only_with_data() {
    let (object, old) = (object(), first());
    let moved =
        next(&Turn { object: &object, old: &old, say: synced(), moved: true, checksum: "b", second: 5 });
    assert_eq!(moved.last_sync_time, Some(at(5)));
    // Ready was true before and is now: no transition.
    assert_eq!(moved.conditions[0].last_transition_time, at(1));
    let failed = say(SyncState::Error, ReadyStatus::Unknown, Reason::AgentUnreachable);
    let lost =
        next(&Turn { object: &object, old: &moved, say: failed, moved: false, checksum: "b", second: 7 });
    assert_eq!(lost.last_sync_time, Some(at(5)));
    assert_eq!(lost.conditions[0].last_transition_time, at(7));
    assert_eq!(lost.last_error.as_deref(), Some("because of AgentUnreachable"));
    assert_eq!(lost.base, moved.base);
    let back =
        next(&Turn { object: &object, old: &lost, say: synced(), moved: false, checksum: "b", second: 9 });
    assert_eq!((back.last_error.clone(), back.last_sync_time.clone()), (None, Some(at(5))));
    assert_eq!(patch(&lost, &back)["lastError"], Value::Null);
}

#[test]
fn abnormal_conditions_appear_when_true_and_turn_false_when_over() {
    let (mut object, old) = (object(), first());
    assert!(!old.conditions.iter().any(|c| c.type_ == names::CONFLICT || c.type_ == names::DEGRADED));
    let conflict = say(SyncState::OutOfSync, ReadyStatus::False, Reason::ConflictPending);
    let torn =
        next(&Turn { object: &object, old: &old, say: conflict, moved: false, checksum: "c", second: 2 });
    assert!(is_true(&torn, names::CONFLICT));
    // While nothing can be seen, nothing is known of the conflict either.
    let unseen = say(SyncState::Error, ReadyStatus::Unknown, Reason::AgentUnreachable);
    let unseen =
        next(&Turn { object: &object, old: &torn, say: unseen, moved: false, checksum: "c", second: 3 });
    assert!(is_true(&unseen, names::CONFLICT));
    let solved =
        next(&Turn { object: &object, old: &unseen, say: synced(), moved: true, checksum: "d", second: 4 });
    let condition = solved.conditions.iter().find(|c| c.type_ == names::CONFLICT).unwrap();
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "ConflictResolved"));
    object.spec.mirrors = Some(2);
    let degraded =
        next(&Turn { object: &object, old: &solved, say: synced(), moved: false, checksum: "d", second: 5 });
    let condition = degraded.conditions.iter().find(|c| c.type_ == names::DEGRADED).unwrap();
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("True", "FieldNotYetActive"));
    assert!(condition.message.contains("mirrors"));
}

#[test]
fn a_forced_sync_is_noted_when_it_was_worked_off() {
    let mut object = object();
    object.metadata.annotations = Some([(names::ANNOTATION_FORCE_SYNC.to_owned(), "7".to_owned())].into());
    let old = first();
    let unseen = say(SyncState::Error, ReadyStatus::Unknown, Reason::AgentUnreachable);
    let later =
        next(&Turn { object: &object, old: &old, say: unseen, moved: false, checksum: "a", second: 2 });
    assert_eq!(later.force_sync, None);
    let done =
        next(&Turn { object: &object, old: &later, say: synced(), moved: false, checksum: "a", second: 3 });
    assert_eq!(done.force_sync.as_deref(), Some("7"));
}

#[test]
fn a_renamed_secret_is_not_forgotten_before_the_old_one_is_gone() {
    let (mut object, old) = (object(), first());
    object.spec.secret_name = Some("other".to_owned());
    let failed = say(SyncState::Error, ReadyStatus::False, Reason::AdoptionRefused);
    let kept =
        next(&Turn { object: &object, old: &old, say: failed, moved: false, checksum: "a", second: 2 });
    assert_eq!(kept.secret_ref.as_ref().unwrap().name.as_deref(), Some("db"));
    let done =
        next(&Turn { object: &object, old: &kept, say: synced(), moved: true, checksum: "a", second: 3 });
    assert_eq!(done.secret_ref.as_ref().unwrap().name.as_deref(), Some("other"));
}
