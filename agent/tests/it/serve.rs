//! The API over mTLS.

use std::time::Duration;

use hsm_proto::agent::watch_records_response::Event;
use hsm_proto::agent::{
    ConfigureRequest, Content, DeleteRecordRequest, Fence, GenerateRandomRequest, GetAgentInfoRequest,
    GetRecordRequest, ListRecordsRequest, ProbeRequest, PutRecordRequest, Stamp, TokenState,
    WatchRecordsRequest, put_record_request::Expect,
};
use tonic::Code;

use crate::node::{Client, Node};
use crate::pki::{CONTROLLER, Ca};

fn put(token: &str, path: &str, value: &str, expect: Expect) -> PutRecordRequest {
    PutRecordRequest {
        token_id: token.into(),
        path: path.into(),
        content: Some(Content { data: [("k".to_owned(), value.as_bytes().to_vec())].into(), metadata: None }),
        expect: Some(expect),
        fence: Some(Fence { lease_uid: "lease".into(), transitions: 1 }),
        ..PutRecordRequest::default()
    }
}

fn stamp_of(revision: &hsm_proto::agent::Revision) -> Stamp {
    let version = revision.version.clone().unwrap();
    Stamp { incarnation: version.incarnation, epoch: version.epoch, counter: version.counter }
}

#[tokio::test]
async fn records_are_put_got_listed_and_deleted() {
    let node = Node::with_token();
    let agent = node.run();
    let mut client = node.client(&agent).await;
    let token = client.until(TokenState::Ready).await.token_id;

    let info = client.identity.get_agent_info(GetAgentInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.node_name, "node-1");
    assert!(client.identity.probe(ProbeRequest {}).await.unwrap().into_inner().ready);

    let made = client
        .records
        .put(put(&token, "secrets/a/b", "one", Expect::Absent(true)))
        .await
        .unwrap()
        .into_inner();
    assert!(made.written);
    let again = client
        .records
        .put(put(&token, "secrets/a/b", "one", Expect::Absent(true)))
        .await
        .unwrap()
        .into_inner();
    assert!(!again.written, "the same call again answers the same");
    let stamp = stamp_of(made.revision.as_ref().unwrap());

    let stale =
        client.records.put(put(&token, "secrets/a/b", "two", Expect::Absent(true))).await.unwrap_err();
    assert_eq!(stale.code(), Code::FailedPrecondition);
    assert!(stale.message().contains("current: 1.1-"), "{stale}");
    client.records.put(put(&token, "secrets/a/b", "two", Expect::Stamp(stamp.clone()))).await.unwrap();

    let get = |path: &str| GetRecordRequest { token_id: token.clone(), path: path.into() };
    let got = client.records.get(get("secrets/a/b")).await.unwrap().into_inner();
    assert_eq!(got.records[0].content.as_ref().unwrap().data["k"], b"two");
    let mut named = tonic::Request::new(get("secrets/a/c"));
    named.metadata_mut().insert(hsm_proto::REQUEST_ID, "call-17".parse().unwrap());
    let missing = client.records.get(named).await.map(|_| ()).unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    assert_eq!(missing.metadata().get("hsm-reason").unwrap(), "PathNotFound");
    assert!(missing.message().contains("call-17"));
    assert_eq!(client.records.get(get("a//b")).await.map(|_| ()).unwrap_err().code(), Code::InvalidArgument);

    // A controller that lost its lease.
    let mut late = put(&token, "secrets/a/b", "late", Expect::Stamp(stamp.clone()));
    late.fence = Some(Fence { lease_uid: "lease".into(), transitions: 0 });
    assert_eq!(client.records.put(late).await.unwrap_err().code(), Code::FailedPrecondition);

    for n in 0..3 {
        client.records.put(put(&token, &format!("p/{n}"), "v", Expect::Absent(true))).await.unwrap();
    }
    let list = |page_token: String| ListRecordsRequest {
        token_id: token.clone(),
        prefix: "p/".into(),
        page_size: 2,
        page_token,
    };
    let first = client.records.list(list(String::new())).await.unwrap().into_inner();
    assert_eq!(first.records.len(), 2);
    let second = client.records.list(list(first.next_page_token)).await.unwrap().into_inner();
    assert_eq!((second.records.len(), second.next_page_token.as_str()), (1, ""));

    let current = client.records.get(get("secrets/a/b")).await.unwrap().into_inner();
    let delete = |expect| DeleteRecordRequest {
        token_id: token.clone(),
        path: "secrets/a/b".into(),
        expect,
        fence: Some(Fence { lease_uid: "lease".into(), transitions: 1 }),
    };
    assert!(client.records.delete(delete(Some(stamp))).await.is_err(), "not the version that is there");
    let now = stamp_of(current.records[0].revision.as_ref().unwrap());
    let deleted = client.records.delete(delete(Some(now))).await.unwrap().into_inner();
    assert_eq!(deleted.tombstones.len(), 1);
    client.records.delete(delete(None)).await.unwrap();
    assert_eq!(client.records.get(get("secrets/a/b")).await.map(|_| ()).unwrap_err().code(), Code::NotFound);

    let random = GenerateRandomRequest { token_id: token.clone(), length: 32 };
    assert_eq!(client.tokens.generate_random(random).await.unwrap().into_inner().random.len(), 32);
    let other = "00000000-0000-4000-8000-000000000000".to_owned();
    let unseen = client
        .records
        .get(GetRecordRequest { token_id: other, path: "a".into() })
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(unseen.code(), Code::Unavailable, "a token that is not here says nothing of records");
}

#[tokio::test]
async fn watch_gives_a_snapshot_then_what_anybody_changes() {
    let node = Node::with_token();
    node.put("secrets/a/b", "k", "one");
    let agent = node.run();
    let mut client = node.client(&agent).await;
    let token = client.until(TokenState::Ready).await.token_id;
    let mut feed =
        client.records.watch(WatchRecordsRequest { token_id: token.clone() }).await.unwrap().into_inner();
    let mut next = async || feed.message().await.unwrap().unwrap().event.unwrap();
    assert!(matches!(next().await, Event::Snapshot(s) if s.path == "secrets/a/b"));
    assert!(matches!(next().await, Event::SnapshotEnd(e) if e.token_id == token && !e.damaged));

    node.put("secrets/a/b", "k", "two");
    let Event::Changed(changed) = tokio::time::timeout(Duration::from_secs(10), next()).await.unwrap() else {
        panic!("not a change")
    };
    assert_eq!(changed.path, "secrets/a/b");
    client.records.put(put(&token, "secrets/a/c", "v", Expect::Absent(true))).await.unwrap();
    assert!(matches!(next().await, Event::Changed(c) if c.path == "secrets/a/c" && c.heads.len() == 1));
    node.ok(&["delete", "secrets/a/c"]);
    assert!(matches!(next().await, Event::Changed(c) if c.heads.is_empty() && c.tombstones.len() == 1));
}

#[tokio::test]
async fn only_the_controller_may_call() {
    let node = Node::with_token();
    let agent = node.run();
    // Another name under our CA.
    let mut other = Client::connect(&agent, &node.ca.pem, &node.ca.leaf("somebody")).await.unwrap();
    let refused = other.identity.probe(ProbeRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    // The right name under another CA.
    let stranger = Ca::new().leaf(CONTROLLER);
    if let Ok(mut client) = Client::connect(&agent, &node.ca.pem, &stranger).await {
        assert!(client.identity.probe(ProbeRequest {}).await.is_err());
    }
}

#[tokio::test]
async fn certificates_are_renewed_without_a_restart() {
    let node = Node::with_token();
    let mut agent = node.run();
    let mut old = node.client(&agent).await;
    let new = Ca::new();
    new.install(node.path("").as_path());
    agent.wait_for_line("The certificate files changed");
    let mut client = Client::connect(&agent, &new.pem, &new.leaf(CONTROLLER)).await.unwrap();
    assert!(client.identity.probe(ProbeRequest {}).await.is_ok());
    assert!(old.identity.probe(ProbeRequest {}).await.is_ok(), "a connection that is there stays");
    if let Ok(mut late) = Client::connect(&agent, &new.pem, &node.ca.leaf(CONTROLLER)).await {
        assert!(late.identity.probe(ProbeRequest {}).await.is_err(), "the old CA is no longer trusted");
    }
}

#[tokio::test]
async fn a_configuration_is_kept_over_a_restart() {
    let node = Node::with_token();
    let configure = |generation| ConfigureRequest { generation, lease_uid: "l".into(), devices: vec![] };
    let agent = node.run();
    let mut client = node.client(&agent).await;
    client.identity.configure(configure(5)).await.unwrap();
    drop(agent);
    let agent = node.run();
    let mut client = node.client(&agent).await;
    let older = client.identity.configure(configure(4)).await.unwrap_err();
    assert_eq!(older.code(), Code::FailedPrecondition);
    client.identity.configure(configure(5)).await.unwrap();
}
