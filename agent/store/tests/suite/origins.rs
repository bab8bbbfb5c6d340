//! Where a content came from, and versions of other tokens.

use hsm_store::{Expect, PutOrigin, Replica, StoreError};
use hsm_token::Limits;
use hsm_types::{Digest, Incarnation, KeyDigest, Origin, Presence, Relation, Revision, Version, WriterId};

use crate::common::*;

fn replica(name: &str, version: Version, value: &[u8]) -> Replica {
    let content = content(&[("k", value)]);
    Replica {
        path: path(name),
        revision: Revision {
            digest: Digest::of(&path(name), version.incarnation, &content),
            version,
            origin: Origin::Token { mark: None },
        },
        content,
    }
}

#[test]
fn an_edit_remembers_what_last_came_from_the_secret() {
    let world = formatted(Limits::SOFTWARE);
    let mut store = open(&world);
    let created = store.put(&put("a", &[("k", b"0")])).unwrap().revision;
    assert_eq!(created.origin, Origin::Token { mark: None });
    let mut from_secret = put("a", &[("k", b"1"), ("l", b"2")]);
    from_secret.origin = PutOrigin::Secret;
    let synced = store.put(&from_secret).unwrap().revision;
    assert_eq!(synced.origin, Origin::Secret);
    // The same content as an edit changes nothing.
    assert!(!store.put(&put("a", &[("k", b"1"), ("l", b"2")])).unwrap().written);
    for value in [&b"3"[..], b"4", &noise(9_000, 1), b"5"] {
        let edited = store.put(&put("a", &[("k", value), ("m", b"")])).unwrap().revision;
        let Origin::Token { mark: Some(mark) } = edited.origin else { panic!("a mark is carried along") };
        assert_eq!(mark.stamp, synced.version.stamp());
        let life = synced.version.incarnation;
        let expected: Vec<_> = from_secret
            .content
            .data
            .iter()
            .map(|(key, value)| (key.clone(), KeyDigest::of(life, key, value)))
            .collect();
        assert_eq!(mark.keys, expected);
        let mut reopened = open(&world);
        let Presence::Present(record) = reopened.get(&path("a")).unwrap() else { panic!("a is there") };
        assert_eq!(record.revision.origin, Origin::Token { mark: Some(mark) });
        store = reopened;
    }
    from_secret.content = content(&[("k", b"6")]);
    assert_eq!(store.put(&from_secret).unwrap().revision.origin, Origin::Secret);
}

#[test]
fn a_mirror_takes_versions_as_they_are_and_only_forward() {
    let primary = formatted(Limits::SOFTWARE);
    let mirror = formatted(Limits::SOFTWARE);
    let mut source = open(&primary);
    let mut copy = open(&mirror);
    let mut revisions = Vec::new();
    for value in [&b"1"[..], &noise(7_000, 2), b"3"] {
        revisions.push((source.put(&put("a", &[("k", value)])).unwrap().revision, value.to_vec()));
    }
    let replicas: Vec<Replica> = revisions
        .iter()
        .map(|(revision, value)| Replica {
            path: path("a"),
            revision: revision.clone(),
            content: content(&[("k", value)]),
        })
        .collect();
    for index in [1, 2] {
        let outcome = copy.replicate(&replicas[index]).unwrap();
        assert!(outcome.written);
        assert_eq!(outcome.revision, revisions[index].0);
        assert!(!copy.replicate(&replicas[index]).unwrap().written);
    }
    assert!(matches!(copy.replicate(&replicas[0]), Err(StoreError::VersionMismatch { .. })));
    let mut copy = open(&mirror);
    assert_eq!(copy.index().entries()[&path("a")].revisions(), [revisions[2].0.clone()]);
    assert_eq!(values(&mut copy, "a"), one("k", b"3"));
    let deleted = source.delete(&path("a"), Expect::Any).unwrap();
    assert!(copy.bury(&deleted.tombstones).unwrap());
    assert!(!copy.bury(&deleted.tombstones).unwrap());
    assert_eq!(values(&mut copy, "a"), None);
    assert!(matches!(copy.replicate(&replicas[2]), Err(StoreError::Deleted(_))));
    let mut wrong = replica("b", revisions[0].0.version.clone(), b"1");
    wrong.content = content(&[("k", b"2")]);
    assert!(matches!(copy.replicate(&wrong), Err(StoreError::Invalid(_))));
}

#[test]
fn what_has_diverged_is_kept_and_only_a_merge_or_a_deletion_ends_it() {
    let one_world = formatted(Limits::SOFTWARE);
    let mut store = open(&one_world);
    let first = store.put(&put("a", &[("k", b"1")])).unwrap().revision;
    let other = first.version.next(WriterId::from_bytes([9; 8]), &[], false);
    let second = store.put(&put("a", &[("k", b"2")])).unwrap().revision;
    let elsewhere = replica("a", other.clone(), b"other");
    let refused = store.replicate(&elsewhere).unwrap_err();
    assert_eq!(refused, StoreError::Diverged { path: path("a"), heads: vec![second.clone()] });

    // Both on one token: two programs that did not see each other, or an object put back.
    let two_world = formatted(Limits::SOFTWARE);
    let mut store = open(&two_world);
    let life = first.version.incarnation;
    let base = Version::first(life, WriterId::from_bytes([1; 8]));
    let left = base.next(WriterId::from_bytes([2; 8]), &[], false);
    let right = base.next(WriterId::from_bytes([3; 8]), &[], false);
    store.replicate(&replica("a", left.clone(), b"left")).unwrap();
    let kept = two_world.objects().into_iter().find(|(label, _)| label.contains("/o/")).unwrap();
    two_world.remove(&kept.0);
    store.replicate(&replica("a", right.clone(), b"right")).unwrap();
    two_world.plant(&kept.0, &kept.1);
    let mut store = open(&two_world);
    let Presence::Present(heads) = store.heads(&path("a")).unwrap() else { panic!("both heads are there") };
    assert_eq!(heads.len(), 2);
    assert!(matches!(store.get(&path("a")), Err(StoreError::Diverged { .. })));
    assert_eq!(store.pending(), 0);
    let mut merge = put("a", &[("k", b"both")]);
    assert!(matches!(store.put(&merge), Err(StoreError::Diverged { .. })));
    let named = store.delete(&path("a"), Expect::Stamp(left.stamp()));
    assert!(matches!(named, Err(StoreError::Diverged { .. })));
    merge.parents = vec![left.clone(), right.clone()];
    let merged = store.put(&merge).unwrap().revision.version;
    assert_eq!(merged.relation(&left), Relation::Ahead);
    assert_eq!(merged.relation(&right), Relation::Ahead);
    assert_eq!(sealed(&two_world).len(), 1);
}

#[test]
fn one_version_with_two_contents_is_diverged() {
    let world = formatted(Limits::SOFTWARE);
    let mut store = open(&world);
    let version = Version::first(Incarnation::from_bytes([1; 8]), WriterId::from_bytes([2; 8]));
    store.replicate(&replica("a", version.clone(), b"left")).unwrap();
    let refused = store.replicate(&replica("a", version.clone(), b"right"));
    assert!(matches!(refused, Err(StoreError::Diverged { .. })));
    let kept = world.objects().into_iter().find(|(label, _)| label.contains("/o/")).unwrap();
    world.remove(&kept.0);
    store.replicate(&replica("a", version.clone(), b"right")).unwrap();
    world.plant(&kept.0, &kept.1);
    assert_eq!(store.refresh().unwrap(), [path("a")]);
    assert_eq!(store.index().entries()[&path("a")].heads.len(), 2);
    store.delete(&path("a"), Expect::Any).unwrap();
    assert_eq!(values(&mut store, "a"), None);
}

#[test]
fn two_lives_of_a_path_are_kept_until_one_is_deleted() {
    let world = formatted(Limits::SOFTWARE);
    let mut store = open(&world);
    let ours = store.put(&put("a", &[("k", b"ours")])).unwrap().revision;
    let version = Version::first(Incarnation::from_bytes([1; 8]), WriterId::from_bytes([2; 8]));
    let theirs = replica("a", version.clone(), b"theirs");
    assert!(matches!(store.replicate(&theirs), Err(StoreError::VersionMismatch { .. })));
    let kept = world.objects().into_iter().find(|(label, _)| label.contains("/o/")).unwrap();
    world.remove(&kept.0);
    store.replicate(&theirs).unwrap();
    world.plant(&kept.0, &kept.1);
    let mut merge = put("a", &[("k", b"both")]);
    merge.parents = vec![ours.version.clone(), version.clone()];
    assert!(matches!(store.put(&merge), Err(StoreError::Diverged { .. })));
    let deleted = store.delete(&path("a"), Expect::Stamp(version.stamp())).unwrap();
    assert_eq!(deleted.tombstones.len(), 1);
    assert_eq!(values(&mut store, "a"), one("k", b"ours"));
}

#[test]
fn a_healed_record_continues_its_life_unless_that_life_ended() {
    let world = formatted(Limits::SOFTWARE);
    let mut store = open(&world);
    // The version that the Secret's annotation knows, and that this token lost.
    let lost = Version::first(Incarnation::from_bytes([7; 8]), WriterId::from_bytes([9; 8]));
    let mut heal = put("a", &[("k", b"1")]);
    heal.expect = Expect::Absent;
    heal.origin = PutOrigin::Secret;
    heal.parents = vec![lost.clone()];
    let healed = store.put(&heal).unwrap().revision;
    assert_eq!(healed.version.relation(&lost), Relation::Ahead);
    assert_eq!(healed.version.incarnation, lost.incarnation);
    store.delete(&path("a"), Expect::Any).unwrap();
    let anew = store.put(&heal).unwrap().revision;
    assert_eq!(anew.version.relation(&lost), Relation::OtherLife);
}

#[test]
fn a_merge_remembers_the_secret_that_it_has_taken_in() {
    let world = formatted(Limits::SOFTWARE);
    let mut store = open(&world);
    let first = store.put(&put("a", &[("k", b"0")])).unwrap().revision;
    let life = first.version.incarnation;
    let secret = content(&[("l", b"1")]);
    let taken: Vec<_> = secret.data.iter().map(|(k, v)| (k.clone(), KeyDigest::of(life, k, v))).collect();
    let mut merge = put("a", &[("k", b"0"), ("l", b"1")]);
    merge.origin = PutOrigin::Merged(taken.clone());
    let merged = store.put(&merge).unwrap().revision;
    let edited = store.put(&put("a", &[("k", b"2"), ("l", b"1")])).unwrap().revision;
    for revision in [&merged, &edited] {
        let Origin::Token { mark: Some(mark) } = &revision.origin else { panic!("a mark") };
        assert_eq!((mark.stamp, &mark.keys), (merged.version.stamp(), &taken));
    }
    let Presence::Present(record) = open(&world).get(&path("a")).unwrap() else { panic!("a is there") };
    assert_eq!(record.revision, edited);
}

#[test]
fn a_token_that_is_edited_without_a_cluster_begins_an_epoch_each_time() {
    let world = formatted(Limits::SOFTWARE);
    let edit = |value: &[u8]| {
        let mut request = put("a", &[("k", value)]);
        request.begin_epoch = true;
        open(&world).put(&request).unwrap().revision
    };
    let (one, two) = (edit(b"1"), edit(b"2"));
    assert_eq!(two.version.relation(&one.version), Relation::Ahead);
    assert_ne!(one.version.epoch.writer, two.version.epoch.writer);
    assert!(one.version.epoch.writer.same_token(&two.version.epoch.writer));
}
