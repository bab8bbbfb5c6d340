//! Records that others made, and records in clear, through the API.

use hsm_proto::agent::{
    ConfigureRequest, Content, DeviceConfig, GetRecordRequest, ListRecordsRequest, PutRecordRequest,
    RecordState, TokenState, WatchRecordsRequest, put_record_request::Expect, watch_records_response::Event,
};
use tonic::{Code, Status};

use crate::cards::put;
use crate::node::{Client, Node};

async fn get(client: &mut Client, token: &str, path: &str) -> Result<Vec<u8>, Status> {
    let get = GetRecordRequest { token_id: token.into(), path: path.into() };
    let answer = client.records.get(get).await?.into_inner();
    Ok(answer.records[0].content.as_ref().unwrap().data.values().next().unwrap().clone())
}

fn put_value(token: &str, path: &str, value: &[u8]) -> PutRecordRequest {
    let content = Content { data: [("k".to_owned(), value.to_vec())].into(), metadata: None };
    PutRecordRequest { content: Some(content), ..put(token, path) }
}

/// The record's next version over the present one.
async fn replace(client: &mut Client, token: &str, path: &str, value: &[u8]) -> Result<(), Status> {
    let get = GetRecordRequest { token_id: token.into(), path: path.into() };
    let there = client.records.get(get).await?.into_inner();
    let version = there.records[0].revision.as_ref().unwrap().version.clone().unwrap();
    let stamp = hsm_proto::agent::Stamp {
        incarnation: version.incarnation,
        epoch: version.epoch,
        counter: version.counter,
    };
    let put = PutRecordRequest { expect: Some(Expect::Stamp(stamp)), ..put_value(token, path, value) };
    client.records.put(put).await.map(drop)
}

fn state<'a>(states: &'a [RecordState], path: &str) -> &'a RecordState {
    states.iter().find(|state| state.path == path).unwrap_or_else(|| panic!("no {path} in {states:?}"))
}

#[tokio::test]
async fn foreign_records_are_served_and_what_is_unclear_is_unknown_by_name() {
    let node = Node::with_token();
    // Made by hand, by the Go operator, and one that somebody made twice with different values.
    node.plant("secrets/ns/hand", b"plain");
    for (label, value) in
        [("app/user", b"admin".as_slice()), ("app/_metadata", br#"{"description":"the app"}"#)]
    {
        node.plant(label, value);
    }
    for value in [b"one".as_slice(), b"two"] {
        node.plant("twice/k", value);
    }
    node.plant("twice/_metadata", b"{}");
    let agent = node.run();
    let mut client = node.client(&agent).await;
    let status = client.until(TokenState::Ready).await;
    let token = status.token_id.clone();
    assert_eq!(status.reason, "RecordDamaged");
    assert!(status.damaged.iter().any(|text| text.contains("twice/k")), "{:?}", status.damaged);

    assert_eq!(get(&mut client, &token, "secrets/ns/hand").await.unwrap(), b"plain");
    assert_eq!(get(&mut client, &token, "app").await.unwrap(), b"admin");
    let unknown = get(&mut client, &token, "twice").await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unavailable, "never NOT_FOUND");
    assert_eq!(unknown.metadata().get("hsm-reason").unwrap(), "RecordDamaged");
    assert!(unknown.message().contains("twice/k"), "{unknown}");
    assert_eq!(get(&mut client, &token, "never").await.unwrap_err().code(), Code::NotFound);

    let list = ListRecordsRequest { token_id: token.clone(), ..ListRecordsRequest::default() };
    let listed = client.records.list(list).await.unwrap().into_inner().records;
    let watch = WatchRecordsRequest { token_id: token.clone() };
    let mut feed = client.records.watch(watch).await.unwrap().into_inner();
    let mut watched = Vec::new();
    while let Event::Snapshot(state) = feed.message().await.unwrap().unwrap().event.unwrap() {
        watched.push(state);
    }
    // A list shows each object once. The feed also has what another path would make of the same objects: a path that
    // is not in it is absent.
    assert_eq!(listed.len(), 3, "{listed:?}");
    assert!(!state(&watched, "app/user").unknown && state(&watched, "twice/k").unknown, "{watched:?}");
    for states in [&listed, &watched] {
        for path in ["app", "secrets/ns/hand"] {
            let found = state(states, path);
            assert!(!found.unknown && found.heads.len() == 1, "{found:?}");
        }
        let twice = state(states, "twice");
        assert!(twice.unknown && twice.unknown_reason.contains("twice/k"), "{twice:?}");
    }
    // Ours with the first write to it; the objects that it was made of go.
    replace(&mut client, &token, "app", b"root").await.unwrap();
    assert_eq!(get(&mut client, &token, "app").await.unwrap(), b"root");
    client.until_list(|list| list[0].pending == 0).await;
    assert!(!node.labels().iter().any(|label| label.starts_with("app")), "{:?}", node.labels());
    // What is not clear is not written either, and says which object a person has to look at.
    let refused = client.records.put(put(&token, "twice")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("twice/k"), "{refused}");
}

#[tokio::test]
async fn an_object_that_belongs_to_two_records_is_refused_with_its_label() {
    let node = Node::with_token();
    for label in ["a/b", "a/x", "a/b/y"] {
        node.plant(label, label.as_bytes());
    }
    for label in ["a/_metadata", "a/b/_metadata"] {
        node.plant(label, b"{}");
    }
    let agent = node.run();
    let mut client = node.client(&agent).await;
    let before = client.until(TokenState::Ready).await;
    let refused = replace(&mut client, &before.token_id, "a", b"new").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(refused.metadata().get("hsm-reason").unwrap(), "ConflictPending");
    assert!(refused.message().contains("the object a/b "), "{refused}");
    let after = client.until(TokenState::Ready).await;
    assert_eq!(after.session_epoch, before.session_epoch, "a refusal costs no session");
}

#[tokio::test]
async fn records_are_written_in_clear_when_the_flags_or_the_device_say_so() {
    let node = Node::with_token();
    let plain = |path: &str| node.labels().iter().any(|label| label == path);
    let agent = node.run_args(&["--encryption", "none"], &[]);
    let mut client = node.client(&agent).await;
    let token = client.until(TokenState::Ready).await.token_id;
    client.records.put(put(&token, "clear")).await.unwrap();
    assert!(plain("clear"), "{:?}", node.labels());
    let large = client.records.put(put_value(&token, "large", &[b'x'; 3000])).await.unwrap_err();
    assert_eq!(large.code(), Code::InvalidArgument);
    assert_eq!(large.metadata().get("hsm-reason").unwrap(), "ValueTooLarge");
    assert_eq!(get(&mut client, &token, "large").await.unwrap_err().code(), Code::NotFound);

    // The HSMDevice that means this token has the last word, at once and after a restart.
    let device = |generation, label: &str, encryption: &str| ConfigureRequest {
        generation,
        lease_uid: "lease".into(),
        devices: vec![DeviceConfig {
            token_label: label.into(),
            encryption: encryption.into(),
            ..DeviceConfig::default()
        }],
    };
    client.identity.configure(device(1, "another", "Envelope")).await.unwrap();
    client.records.put(put(&token, "clear-too")).await.unwrap();
    assert!(plain("clear-too"));
    client.identity.configure(device(2, "test", "Envelope")).await.unwrap();
    client.records.put(put(&token, "sealed")).await.unwrap();
    assert!(!plain("sealed"));
    drop(agent);
    let agent = node.run_args(&["--encryption", "none"], &[]);
    let mut client = node.client(&agent).await;
    client.until(TokenState::Ready).await;
    client.records.put(put(&token, "sealed-too")).await.unwrap();
    assert!(!plain("sealed-too"));
    drop(agent);

    // And the other way round.
    let agent = node.run();
    let mut client = node.client(&agent).await;
    client.until(TokenState::Ready).await;
    client.identity.configure(device(3, "test", "None")).await.unwrap();
    client.records.put(put(&token, "clear-again")).await.unwrap();
    assert!(plain("clear-again"));
    // Both forms are listed and read alike.
    let list = ListRecordsRequest { token_id: token.clone(), ..ListRecordsRequest::default() };
    let listed = client.records.list(list).await.unwrap().into_inner().records;
    let paths = ["clear", "clear-again", "clear-too", "sealed", "sealed-too"];
    assert_eq!(listed.iter().map(|state| state.path.as_str()).collect::<Vec<_>>(), paths);
    for path in paths {
        assert_eq!(get(&mut client, &token, path).await.unwrap(), b"v", "{path}");
    }
}
