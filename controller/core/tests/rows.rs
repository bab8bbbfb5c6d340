//! The rows of DESIGN's table "What the words mean" that concern the plan for one token, one test for each; and that
//! what is unknown never leads to a step that writes.

#![allow(clippy::unwrap_used, reason = "a test's own helpers fail by panicking")]

use hsm_api::Reason;
use hsm_core::AdoptionPolicy::{Always, IfEqual, Never};
use hsm_core::DeletionPolicy::{Delete, Retain};
use hsm_core::{
    AdoptionPolicy, Base, ConflictPolicy, Copy, DeletionPolicy, Input, Ownership, Plan, Primary, PutSource,
    SecretView, Side, Step, SyncPolicy, SyncState, TokenView, ValueDigests, ValueMac, Values, Wanted,
    choose_primary, plan, unedited,
};
use hsm_core::{ReadyStatus, Verdict};
use hsm_types::{
    Digest, Incarnation, Key, Origin, Presence, RecordPath, Revision, TokenId, Tombstone, Version, WriterId,
};

fn token_id(id: u8) -> TokenId {
    TokenId::from_random([id; 16])
}

fn writer() -> WriterId {
    token_id(1).writer([1; 4])
}

fn v1() -> Version {
    Version::first(Incarnation::from_bytes([7; 8]), writer())
}

fn v2() -> Version {
    v1().next(writer(), &[], false)
}

fn path() -> RecordPath {
    RecordPath::new("secrets/ns/s").unwrap()
}

fn values(pairs: &[(&str, u8)]) -> Values {
    let digests = |v| ValueDigests { mac: ValueMac([v; 16]), mark: None };
    pairs.iter().map(|(k, v)| (Key::new(*k).unwrap(), digests(*v))).collect()
}

fn base(version: Version, pairs: &[(&str, u8)]) -> Base {
    let keys = values(pairs).into_iter().map(|(k, v)| (k, v.mac)).collect();
    Base { version, keys }
}

fn revision(version: Version, content: u8) -> Revision {
    Revision { version, digest: Digest::from_bytes([content; 32]), origin: Origin::Token { mark: None } }
}

/// One live version with this value of `k`.
fn holds(version: Version, value: u8) -> Presence<Copy> {
    let heads = vec![revision(version, value)];
    Presence::Present(Copy { heads, tombstones: vec![], values: Some(values(&[("k", value)])) })
}

fn buried(version: &Version) -> Presence<Copy> {
    let stamp = version.stamp();
    let grave = Tombstone { path: path(), incarnation: version.incarnation, stamp };
    Presence::Present(Copy { heads: vec![], tombstones: vec![grave], values: None })
}

/// Our Secret with this value of `k`, last equal at version 1 with value 1.
fn secret(value: u8) -> SecretView {
    SecretView {
        uid: "u".into(),
        resource_version: "5".into(),
        ownership: Ownership::Ours,
        secret_type: Some("Opaque".into()),
        immutable: false,
        values: Some(values(&[("k", value)])),
        base: Some(base(v1(), &[("k", 1)])),
    }
}

fn foreign(value: u8) -> SecretView {
    SecretView { ownership: Ownership::Foreign, base: None, ..secret(value) }
}

fn wanted() -> Wanted {
    Wanted {
        path: path(),
        secret_name: "s".into(),
        secret_type: "Opaque".into(),
        auto_sync: true,
        sync_policy: SyncPolicy::default(),
        conflict_policy: ConflictPolicy::default(),
        deletion_policy: DeletionPolicy::default(),
        adoption_policy: AdoptionPolicy::default(),
        paused: false,
        resolve: None,
        force: false,
        deleting: false,
        orphan: false,
        has_finalizer: false,
    }
}

fn input(copy: Presence<Copy>, secret: Presence<SecretView>, change: impl FnOnce(&mut Wanted)) -> Input {
    let mut wanted = wanted();
    change(&mut wanted);
    Input {
        wanted,
        secret,
        token: Presence::Present(TokenView { node: "n".into(), token: token_id(1), copy }),
        unknown_reason: Reason::AgentUnreachable,
        status_base: None,
        was_synced: true,
        old_secret: None,
        shared: false,
        seen_equal: None,
    }
}

fn decided(
    copy: Presence<Copy>,
    secret: Presence<SecretView>,
    change: impl FnOnce(&mut Wanted),
) -> (Vec<Step>, Verdict) {
    let Plan { steps, verdict, .. } = plan(&input(copy, secret, change));
    (steps, verdict)
}

fn here(secret: SecretView) -> Presence<SecretView> {
    Presence::Present(secret)
}

fn put_over(version: &Version) -> Vec<Step> {
    vec![Step::PutRecord { expect: Some(version.stamp()), source: PutSource::Secret, parents: vec![] }]
}

#[test]
fn auto_sync_false_materialises_once_and_then_only_compares() {
    let off = |w: &mut Wanted| w.auto_sync = false;
    let mut first = input(holds(v1(), 1), Presence::Absent, off);
    first.was_synced = false;
    assert_eq!(plan(&first).steps, [Step::CreateSecret]);
    for (copy, value) in [(holds(v2(), 2), 1), (holds(v1(), 1), 2), (holds(v2(), 2), 3)] {
        let (steps, verdict) = decided(copy.clone(), here(secret(value)), off);
        assert_eq!((steps, verdict.state, verdict.conflict), (vec![], SyncState::OutOfSync, None));
        let forced = |w: &mut Wanted| (w.auto_sync, w.force) = (false, true);
        let (steps, verdict) = decided(copy, here(secret(value)), forced);
        assert!(!steps.is_empty() || verdict.conflict.is_some());
    }
    // What is equal is in sync after a restart of the controller too, when nothing was compared in this process.
    assert_eq!(decided(holds(v1(), 1), here(secret(1)), off).1.state, SyncState::InSync);
    let unread = SecretView { values: None, ..secret(1) };
    assert_eq!(decided(holds(v1(), 1), here(unread), off).0, [Step::ReadSecret]);
    // A Secret that is not there is not ready.
    let (steps, verdict) = decided(holds(v1(), 1), Presence::Absent, off);
    assert_eq!((steps, verdict.ready), (vec![], ReadyStatus::False));
    // Deleted on the token: neither direction.
    assert_eq!(decided(buried(&v1()), here(secret(1)), off).0, []);
    assert_eq!(decided(Presence::Absent, here(secret(1)), off).0, []);
}

#[test]
fn sync_policy_puts_back_what_goes_the_wrong_way() {
    let from = |w: &mut Wanted| w.sync_policy = SyncPolicy::FromToken;
    let to = |w: &mut Wanted| w.sync_policy = SyncPolicy::ToToken;
    assert_eq!(decided(holds(v1(), 1), here(secret(2)), from).0, [Step::UpdateSecret]);
    assert_eq!(decided(holds(v2(), 3), here(secret(2)), from).0, [Step::UpdateSecret]);
    assert_eq!(decided(holds(v2(), 2), here(secret(1)), to).0, put_over(&v2()));
    assert_eq!(decided(holds(v2(), 3), here(secret(2)), to).0, put_over(&v2()));
    assert_eq!(decided(holds(v1(), 1), here(secret(2)), |_| {}).0, put_over(&v1()));
    assert_eq!(decided(holds(v2(), 2), here(secret(1)), |_| {}).0, [Step::UpdateSecret]);
    assert_eq!(decided(buried(&v1()), here(secret(2)), from).0, [Step::DeleteSecret]);
    let again = Step::PutRecord { expect: None, source: PutSource::Secret, parents: vec![] };
    assert_eq!(decided(buried(&v1()), here(secret(1)), to).0, [again]);
}

#[test]
fn paused_is_nothing_at_all() {
    let copies = [holds(v2(), 2), holds(v1(), 1), buried(&v1()), Presence::Absent, Presence::unknown("x")];
    for copy in copies {
        for deleting in [false, true] {
            let change = |w: &mut Wanted| {
                (w.paused, w.force, w.resolve) = (true, true, Some(Side::Token));
                (w.deleting, w.has_finalizer, w.deletion_policy) = (deleting, true, Delete);
            };
            let (steps, verdict) = decided(copy.clone(), here(secret(3)), change);
            assert_eq!((steps, verdict.reason), (vec![], Reason::Paused));
        }
    }
}

#[test]
fn a_secret_deleted_by_hand_is_made_anew_and_deletes_nothing() {
    for policy in [SyncPolicy::Bidirectional, SyncPolicy::FromToken, SyncPolicy::ToToken] {
        let change = |w: &mut Wanted| w.sync_policy = policy;
        assert_eq!(decided(holds(v2(), 2), Presence::Absent, change).0, [Step::CreateSecret]);
    }
}

#[test]
fn a_tombstone_takes_the_secret_and_a_loss_takes_nothing() {
    let (steps, verdict) = decided(buried(&v1()), here(secret(1)), |_| {});
    assert_eq!((steps, verdict.reason), (vec![Step::DeleteSecret], Reason::PathNotFound));
    let (steps, verdict) = decided(buried(&v1()), Presence::Absent, |_| {});
    assert_eq!((steps, verdict.reason), (vec![], Reason::PathNotFound));
    // Edited since, or a tombstone of a life that the Secret never was a copy of: nothing is guessed.
    let (steps, verdict) = decided(buried(&v1()), here(secret(2)), |_| {});
    assert!(steps.is_empty() && verdict.conflict.is_some());
    let other = Version::first(Incarnation::from_bytes([8; 8]), writer());
    assert!(!decided(buried(&other), here(secret(1)), |_| {}).0.contains(&Step::DeleteSecret));
    let healed = Step::PutRecord { expect: None, source: PutSource::Secret, parents: vec![v1()] };
    assert_eq!(decided(Presence::Absent, here(secret(1)), |_| {}).0, std::slice::from_ref(&healed));
    assert_eq!(decided(Presence::Absent, here(secret(2)), |_| {}).0, [healed]);
}

#[test]
fn deletion_policy_and_orphan() {
    let ending = |policy, orphan| {
        move |w: &mut Wanted| {
            (w.deleting, w.has_finalizer, w.deletion_policy, w.orphan) = (true, true, policy, orphan);
        }
    };
    assert_eq!(
        decided(holds(v1(), 1), here(secret(1)), |w| w.deletion_policy = Delete).0,
        [Step::AddFinalizer]
    );
    let gone = [Step::RemoveFinalizer];
    for copy in [holds(v1(), 1), Presence::unknown("x"), Presence::Absent] {
        assert_eq!(decided(copy, here(secret(1)), ending(Retain, false)).0, gone);
    }
    let expect = vec![v1().stamp()];
    assert_eq!(
        decided(holds(v1(), 1), here(secret(1)), ending(Delete, false)).0,
        [Step::DeleteRecord { expect }]
    );
    assert_eq!(decided(buried(&v1()), here(secret(1)), ending(Delete, false)).0, [Step::DeleteSecret]);
    assert_eq!(decided(buried(&v1()), here(secret(1)), ending(Delete, true)).0, gone);
    assert_eq!(decided(buried(&v1()), here(foreign(1)), ending(Delete, false)).0, gone);
    let (steps, verdict) = decided(Presence::unknown("x"), here(secret(1)), ending(Delete, false));
    assert_eq!((steps, verdict.reason), (vec![], Reason::Terminating));
    let mut nowhere = input(Presence::Absent, here(secret(1)), ending(Delete, false));
    nowhere.token = Presence::Absent;
    assert_eq!(plan(&nowhere).steps, []);
}

#[test]
fn adoption_policy_of_a_foreign_secret() {
    let policy = |p| move |w: &mut Wanted| w.adoption_policy = p;
    for (copy, secret_value, p) in [
        (holds(v1(), 1), 1, Never),
        (holds(v1(), 1), 2, Never),
        (holds(v1(), 1), 2, IfEqual),
        (Presence::Absent, 1, Never),
        (Presence::Absent, 1, IfEqual),
        (buried(&v1()), 1, Never),
    ] {
        let (steps, verdict) = decided(copy, here(foreign(secret_value)), policy(p));
        assert_eq!((steps, verdict.reason), (vec![], Reason::AdoptionRefused));
    }
    assert_eq!(decided(holds(v1(), 1), here(foreign(1)), policy(IfEqual)).0, [Step::UpdateSecret]);
    assert_eq!(decided(holds(v1(), 1), here(foreign(1)), policy(Always)).0, [Step::UpdateSecret]);
    let (steps, verdict) = decided(holds(v1(), 1), here(foreign(2)), policy(Always));
    assert!(steps.is_empty() && verdict.conflict.is_some());
    let brought = Step::PutRecord { expect: None, source: PutSource::Secret, parents: vec![] };
    assert_eq!(decided(Presence::Absent, here(foreign(1)), policy(Always)).0, [brought]);
    // Deleted on the token, and a Secret that we did not make: no policy deletes it, only a person's word about it.
    let prefers = |w: &mut Wanted| {
        (w.adoption_policy, w.conflict_policy) = (Always, ConflictPolicy::PreferToken);
    };
    let (steps, verdict) = decided(buried(&v1()), here(foreign(1)), prefers);
    assert!(steps.is_empty() && verdict.conflict.is_some());
    // Nobody's policy touches the Secret of another HSMSecret.
    for p in [Never, IfEqual, Always] {
        let other = SecretView { ownership: Ownership::Other("x".into()), ..secret(1) };
        for copy in [holds(v2(), 2), buried(&v1()), Presence::Absent] {
            assert_eq!(decided(copy, here(other.clone()), policy(p)).0, []);
        }
    }
}

#[test]
fn a_renamed_secret_moves_the_new_one_first() {
    let mut moving = input(holds(v1(), 1), Presence::Absent, |_| {});
    moving.old_secret = Some("before".into());
    assert_eq!(plan(&moving).steps, [Step::CreateSecret]);
    moving.secret = here(secret(1));
    assert_eq!(plan(&moving).steps, [Step::DeleteOldSecret("before".into())]);
    // Not before both are equal, and never because of an edit that only the old one has.
    moving.secret = here(secret(2));
    assert_eq!(plan(&moving).steps, put_over(&v1()));
    let (old, new) = (base(v1(), &[("k", 1)]), base(v2(), &[("k", 2)]));
    assert!(unedited(&values(&[("k", 1)]), Some(&old), None));
    assert!(unedited(&values(&[("k", 2)]), Some(&old), Some(&new)));
    assert!(!unedited(&values(&[("k", 1)]), Some(&old), Some(&new)));
    assert!(!unedited(&values(&[("k", 1), ("x", 1)]), Some(&old), None));
    assert!(!unedited(&values(&[("k", 1)]), None, None));
}

#[test]
fn a_changed_type_or_an_immutable_secret_is_made_anew() {
    let tls = |w: &mut Wanted| w.secret_type = "kubernetes.io/tls".into();
    assert_eq!(decided(holds(v1(), 1), here(secret(1)), tls).0, [Step::RecreateSecret]);
    // An edit goes to the token before the Secret is made anew.
    assert_eq!(decided(holds(v1(), 1), here(secret(2)), tls).0, put_over(&v1()));
    let fixed = SecretView { immutable: true, ..secret(1) };
    assert_eq!(decided(holds(v2(), 2), here(fixed.clone()), |_| {}).0, [Step::RecreateSecret]);
    assert_eq!(decided(holds(v1(), 1), here(fixed.clone()), |_| {}).0, []);
    // Without a base, decided by a person: an update would be refused by the API server.
    let baseless = SecretView { base: None, ..fixed };
    let resolve = |w: &mut Wanted| w.resolve = Some(Side::Token);
    assert_eq!(decided(holds(v2(), 2), here(baseless), resolve).0, [Step::RecreateSecret]);
}

#[test]
fn a_conflict_is_resolved_by_policy_or_annotation_and_by_nothing_else() {
    let clash = |change: &dyn Fn(&mut Wanted)| decided(holds(v2(), 2), here(secret(3)), change);
    let (steps, verdict) = clash(&|w| w.force = true);
    assert!(steps.is_empty() && verdict.conflict.is_some());
    for change in [(&|w: &mut Wanted| w.resolve = Some(Side::Token)) as &dyn Fn(&mut Wanted), &|w| {
        w.conflict_policy = ConflictPolicy::PreferToken;
    }] {
        assert_eq!(clash(change).0, [Step::UpdateSecret]);
        assert_eq!(decided(buried(&v1()), here(secret(3)), change).0, [Step::DeleteSecret]);
    }
    for change in [(&|w: &mut Wanted| w.resolve = Some(Side::Secret)) as &dyn Fn(&mut Wanted), &|w| {
        w.conflict_policy = ConflictPolicy::PreferSecret;
    }] {
        assert_eq!(clash(change).0, put_over(&v2()));
    }
    let done = |w: &mut Wanted| w.resolve = Some(Side::Secret);
    assert_eq!(decided(holds(v1(), 1), here(secret(1)), done).0, [Step::ClearResolve]);
    // Diverged versions on the token are frozen, whatever is preferred.
    let heads = vec![revision(v1(), 1), revision(v1(), 2)];
    let apart = Presence::Present(Copy { heads, tombstones: vec![], values: None });
    let (steps, verdict) = decided(apart, here(secret(1)), done);
    assert!(steps.is_empty() && verdict.conflict.is_some());
}

#[test]
fn of_a_shared_record_only_the_bases_say_who_changed_what() {
    // Another HSMSecret's Secret was edited and is on the token: this one has the older content, and did not change.
    let Presence::Present(mut copy) = holds(v2(), 2) else { return };
    copy.heads[0].origin = Origin::Secret;
    let mut both = input(Presence::Present(copy), here(secret(1)), |_| {});
    both.shared = true;
    assert_eq!(plan(&both).steps, [Step::UpdateSecret]);
    both.secret = here(secret(3));
    assert!(plan(&both).verdict.conflict.is_some());
    // Alone, the record came from this Secret, which was edited since.
    both.shared = false;
    assert_eq!(plan(&both).steps, put_over(&v2()));
}

#[test]
fn a_copy_that_another_tokens_tombstone_ended_is_not_primary() {
    let view = |id, copy| TokenView { node: format!("n{id}"), token: token_id(id), copy };
    for name in 0..16 {
        let path = RecordPath::new(format!("secrets/ns/{name}")).unwrap();
        let tokens = [view(1, holds(v1(), 1)), view(2, buried(&v1()))];
        for previous in [None, Some(token_id(1)), Some(token_id(2))] {
            assert_eq!(choose_primary(&path, &tokens, previous), Primary::Token(1), "{path} {previous:?}");
        }
    }
}

/// Everything but reading, and the HSMSecret's own metadata.
fn writes(step: &Step) -> bool {
    !matches!(
        step,
        Step::ReadSecret | Step::ReadRecord | Step::AddFinalizer | Step::RemoveFinalizer | Step::ClearResolve
    )
}

#[test]
fn what_is_unknown_never_leads_to_a_write() {
    let copies = [
        Presence::unknown("x"),
        Presence::Absent,
        buried(&v1()),
        holds(v1(), 1),
        holds(v2(), 2),
        Presence::Present(Copy { heads: vec![revision(v2(), 2)], tombstones: vec![], values: None }),
    ];
    let secrets = [
        Presence::unknown("x"),
        Presence::Absent,
        here(secret(1)),
        here(secret(3)),
        here(foreign(1)),
        here(SecretView { values: None, secret_type: None, ..secret(1) }),
        here(SecretView { base: None, immutable: true, ..secret(2) }),
    ];
    let mut count = 0;
    for bits in 0..(1_u32 << 8) {
        let bit = |n: u32| bits & (1 << n) != 0;
        for (sync_policy, conflict_policy, adoption_policy, resolve) in [
            (SyncPolicy::Bidirectional, ConflictPolicy::Manual, Never, None),
            (SyncPolicy::FromToken, ConflictPolicy::PreferToken, Always, None),
            (SyncPolicy::ToToken, ConflictPolicy::PreferSecret, IfEqual, Some(Side::Secret)),
            (SyncPolicy::Bidirectional, ConflictPolicy::Manual, Always, Some(Side::Token)),
        ] {
            let change = |w: &mut Wanted| {
                (w.sync_policy, w.conflict_policy) = (sync_policy, conflict_policy);
                (w.adoption_policy, w.resolve) = (adoption_policy, resolve);
                (w.auto_sync, w.force, w.deleting, w.orphan) = (bit(0), bit(1), bit(2), bit(3));
                w.has_finalizer = bit(4);
                w.deletion_policy = if bit(5) { Delete } else { Retain };
            };
            for copy in &copies {
                for secret in &secrets {
                    let mut input = input(copy.clone(), secret.clone(), change);
                    (input.was_synced, input.shared) = (bit(6), bit(7));
                    input.old_secret = bit(7).then(|| "before".to_owned());
                    let wrote: Vec<Step> = plan(&input).steps.into_iter().filter(writes).collect();
                    if copy.is_unknown() {
                        assert_eq!(wrote, [], "{input:?}");
                    }
                    // Only the record of an HSMSecret that goes does not depend on the Secret.
                    if secret.is_unknown() && !input.wanted.deleting {
                        assert_eq!(wrote, [], "{input:?}");
                    }
                    // What was not read is neither overwritten nor deleted.
                    let unread = secret.present().is_some_and(|s| s.values.is_none());
                    if unread && !input.wanted.deleting {
                        assert!(wrote.iter().all(|s| matches!(s, Step::DeleteOldSecret(_))), "{input:?}");
                    }
                    input.token = Presence::unknown("x");
                    assert!(!plan(&input).steps.iter().any(writes), "{input:?}");
                    input.token = Presence::Absent;
                    assert!(!plan(&input).steps.iter().any(writes), "{input:?}");
                    count += 1;
                }
            }
        }
    }
    assert!(count > 40_000, "{count}");
}
