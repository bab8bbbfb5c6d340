//! The index by itself: who is woken, and what is seen.

use std::collections::HashSet;

use hsm_api::{HSMDevice, HSMDeviceSpec, HSMSecret, HSMSecretSpec, ParentRef, PathGrant, Reason};
use hsm_types::{Digest, Incarnation, Origin, Presence, RecordPath, Revision, TokenId, Version, WriterId};

use super::*;
use crate::agents::AgentClient;

const TOKEN: TokenId = TokenId::from_bytes([1; 16]);

fn index() -> Index {
    Index::new(Instance { name: "main".to_owned(), namespace: "sys".to_owned(), default: true })
}

fn object(name: &str, version: u64, spec: HSMSecretSpec) -> HSMSecret {
    let mut object = HSMSecret::new(name, spec);
    object.metadata.namespace = Some("ns".to_owned());
    object.metadata.uid = Some(format!("uid-{name}"));
    object.metadata.resource_version = Some(version.to_string());
    object
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("ns", name)
}

fn names_of(wakes: &[Wake]) -> Vec<&str> {
    wakes.iter().map(|w| w.key.name.as_str()).collect()
}

fn meta(version: u64) -> SecretMeta {
    SecretMeta {
        uid: "s".to_owned(),
        resource_version: version.to_string(),
        labelled: true,
        owner: None,
        base: None,
    }
}

fn revision(edits: u8) -> Revision {
    let writer = WriterId::from_bytes([2; 8]);
    let first = Version::first(Incarnation::from_bytes([3; 8]), writer);
    let version = (0..edits).fold(first, |v, _| v.next(writer, &[], false));
    Revision { version, digest: Digest::from_bytes([edits; 32]), origin: Origin::Token { mark: None } }
}

#[allow(clippy::unnecessary_wraps, reason = "what a feed says of a path may be that it cannot be read")]
fn seen(edits: u8) -> Result<RecordSeen, String> {
    Ok(RecordSeen { heads: vec![revision(edits)], tombstones: Vec::new() })
}

fn path(name: &str) -> RecordPath {
    RecordPath::of_secret("ns", name).unwrap()
}

fn client() -> AgentClient {
    AgentClient::new(tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy())
}

fn fed(index: &mut Index, event: FeedEvent) -> Vec<Wake> {
    index.fed("node-1", TOKEN, event)
}

fn with_agent() -> Index {
    let mut index = index();
    index.agent_connected("node-1", client());
    index.tokens_listed("node-1", vec![(TOKEN, None)]);
    index
}

#[test]
fn our_own_status_wakes_nobody_and_old_news_is_dropped() {
    let mut index = index();
    assert_eq!(names_of(&index.object_applied(object("a", 5, HSMSecretSpec::default()))), ["a"]);
    let mut status = object("a", 6, HSMSecretSpec::default());
    status.status = Some(hsm_api::HSMSecretStatus::default());
    assert!(index.object_applied(status).is_empty());
    let late = object("a", 4, HSMSecretSpec { auto_sync: Some(false), ..Default::default() });
    assert!(index.object_applied(late).is_empty());
    let edited = object("a", 7, HSMSecretSpec { auto_sync: Some(false), ..Default::default() });
    assert_eq!(names_of(&index.object_applied(edited)), ["a"]);
    assert!(index.objects_listed(None, &HashSet::new()).is_empty());
    assert!(index.observe(&key("a")).is_none());
}

#[test]
fn only_the_named_instance_serves_and_the_default_one_serves_the_rest() {
    let mut index = index();
    let of = |name: &str, ns: Option<&str>| HSMSecretSpec {
        parent_ref: Some(ParentRef { name: name.to_owned(), namespace: ns.map(str::to_owned) }),
        ..Default::default()
    };
    assert_eq!(index.object_applied(object("a", 1, of("main", None))).len(), 1);
    assert_eq!(index.object_applied(object("b", 1, of("main", Some("elsewhere")))).len(), 0);
    assert_eq!(index.object_applied(object("c", 1, of("other", None))).len(), 0);
    index.instance.default = false;
    assert_eq!(index.object_applied(object("d", 1, HSMSecretSpec::default())).len(), 0);
}

#[test]
fn a_deleted_secret_has_to_be_looked_for_and_our_own_writes_are_not_undone_by_late_events() {
    let mut index = index();
    index.object_applied(object("a", 1, HSMSecretSpec::default()));
    assert_eq!(names_of(&index.secret_applied(&key("a"), meta(10))), ["a"]);
    assert!(index.secret_applied(&key("a"), meta(9)).is_empty());
    assert!(index.secret_deleted(&key("a"), "8").is_empty());
    assert!(index.observe(&key("a")).unwrap().secret.present().is_some());
    assert_eq!(names_of(&index.secret_deleted(&key("a"), "11")), ["a"]);
    assert!(index.observe(&key("a")).unwrap().secret.is_unknown());
    index.secret_gone(&key("a"));
    assert!(index.observe(&key("a")).unwrap().secret.is_absent());
    let foreign = Memory { foreign: true, ..Memory::default() };
    index.remember(&key("a"), "uid-a", foreign);
    assert!(index.observe(&key("a")).unwrap().secret.is_unknown());
}

#[test]
fn the_oldest_has_the_secret_name() {
    let mut index = index();
    let named = HSMSecretSpec { secret_name: Some("shared".to_owned()), ..Default::default() };
    index.object_applied(object("b", 1, named.clone()));
    index.object_applied(object("a", 2, named));
    assert_eq!(index.observe(&key("b")).unwrap().holder, Some(key("a")));
    assert_eq!(index.observe(&key("a")).unwrap().holder, None);
    assert_eq!(names_of(&index.object_deleted(&key("a"))), ["b"]);
    assert_eq!(index.observe(&key("b")).unwrap().holder, None);
}

#[test]
fn grants_come_and_go_with_their_device() {
    let mut index = index();
    let spec = HSMSecretSpec { hsm_path: Some("shared/db".to_owned()), ..Default::default() };
    index.object_applied(object("a", 1, spec));
    assert_eq!(index.observe(&key("a")).unwrap().wanted.unwrap_err().reason, Reason::PathForbidden);
    let grant = PathGrant { namespace: "ns".to_owned(), paths: vec!["shared/*".to_owned()] };
    let device = HSMDevice::new("d", HSMDeviceSpec { path_grants: vec![grant], ..Default::default() });
    assert_eq!(names_of(&index.device_changed("d".to_owned(), Some(&device))), ["a"]);
    assert!(index.observe(&key("a")).unwrap().wanted.is_ok());
    assert!(index.device_changed("d".to_owned(), Some(&device)).is_empty());
    assert_eq!(names_of(&index.devices_listed(&HashSet::new())), ["a"]);
    assert!(index.observe(&key("a")).unwrap().wanted.is_err());
}

#[tokio::test]
async fn absence_is_said_only_after_a_whole_snapshot_without_damage() {
    let mut index = with_agent();
    index.object_applied(object("a", 1, HSMSecretSpec::default()));
    let copy = |index: &Index| index.observe(&key("a")).unwrap().tokens[0].clone();
    assert!(copy(&index).view.copy.is_unknown());
    fed(&mut index, FeedEvent::Snapshot(path("b"), seen(0)));
    assert!(copy(&index).view.copy.is_unknown());
    fed(&mut index, FeedEvent::End { damaged: true });
    assert!(copy(&index).view.copy.is_unknown());
    assert_eq!(copy(&index).reason, Reason::RecordDamaged);
    fed(&mut index, FeedEvent::Reset("again".to_owned()));
    fed(&mut index, FeedEvent::End { damaged: false });
    assert!(copy(&index).view.copy.is_absent());
    assert!(index.agents_settled());
    assert_eq!(names_of(&fed(&mut index, FeedEvent::Changed(path("a"), seen(0)))), ["a"]);
    assert!(fed(&mut index, FeedEvent::Changed(path("other"), seen(0))).is_empty());
    assert!(fed(&mut index, FeedEvent::Changed(path("a"), seen(0))).is_empty());
    fed(&mut index, FeedEvent::Changed(path("a"), Err("torn".to_owned())));
    assert!(copy(&index).view.copy.is_unknown());
}

#[tokio::test]
async fn what_an_agent_held_is_unknown_when_it_is_lost_and_said_after_a_while() {
    let mut index = with_agent();
    index.object_applied(object("a", 1, HSMSecretSpec::default()));
    fed(&mut index, FeedEvent::End { damaged: false });
    let wakes = index.agent_lost("node-1", "refused");
    assert!(wakes.iter().all(|w| w.after == UNKNOWN_GRACE) && wakes.len() == 1);
    assert!(index.agent_lost("node-1", "refused again").is_empty());
    let look = index.observe(&key("a")).unwrap();
    assert!(look.tokens[0].view.copy.is_unknown() && look.clients.is_empty());
    assert_eq!(look.tokens[0].reason, Reason::AgentUnreachable);
    // Carried to another node, the token is there.
    index.agent_connected("node-2", client());
    index.tokens_listed("node-2", vec![(TOKEN, None)]);
    let look = index.observe(&key("a")).unwrap();
    assert_eq!((look.tokens.len(), look.tokens[0].view.node.as_str()), (1, "node-2"));
}

#[tokio::test]
async fn a_feed_that_is_behind_our_own_write_does_not_undo_it() {
    let mut index = with_agent();
    index.object_applied(object("a", 1, HSMSecretSpec::default()));
    fed(&mut index, FeedEvent::Snapshot(path("a"), seen(0)));
    fed(&mut index, FeedEvent::End { damaged: false });
    index.record_written("node-1", TOKEN, path("a"), revision(2));
    assert!(fed(&mut index, FeedEvent::Changed(path("a"), seen(1))).is_empty());
    let head = |index: &Index| match &index.observe(&key("a")).unwrap().tokens[0].view.copy {
        Presence::Present(copy) => copy.heads[0].version.to_string(),
        other => format!("{other:?}"),
    };
    assert_eq!(head(&index), "1.3");
    assert!(fed(&mut index, FeedEvent::Changed(path("a"), seen(2))).is_empty());
    assert_eq!(names_of(&fed(&mut index, FeedEvent::Changed(path("a"), seen(3)))), ["a"]);
    assert_eq!(head(&index), "1.4");
}
