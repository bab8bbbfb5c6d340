//! Records that share pages on a token whose objects are counted, through the API.

use std::collections::BTreeSet;

use faulty_pkcs11::ObjectKind;
use hsm_proto::agent::{Content, GetRecordRequest, PutRecordRequest, TokenState, TokenStatus};

use crate::cards::{Hardware, ONE, metric, put};
use crate::node::Client;

/// More than the card has objects for.
const RECORDS: usize = 130;
/// What a Pico HSM may have at rest (`hsm_token::Limits::SC_HSM`).
const AT_REST: usize = 116;

fn path(n: usize) -> String {
    format!("secrets/apps/record-{n}")
}

async fn value(client: &mut Client, token: &str, path: String) -> Vec<u8> {
    let get = GetRecordRequest { token_id: token.into(), path };
    let mut answer = client.records.get(get).await.unwrap().into_inner();
    answer.records.remove(0).content.unwrap().data.remove("k").unwrap()
}

fn put_value(token: &str, path: &str, value: Vec<u8>) -> PutRecordRequest {
    let content = Content { data: [("k".to_owned(), value)].into(), metadata: None };
    PutRecordRequest { content: Some(content), history_limit: Some(0), ..put(token, path) }
}

/// Waits until nothing is left to do; the status then, and how many objects the card lists.
async fn at_rest(hardware: &Hardware, client: &mut Client) -> (TokenStatus, usize) {
    loop {
        let before = client.until_list(|list| list[0].pending == 0).await.remove(0);
        // A key pair is one on the card, and two objects in a listing.
        let shown = |kind| if kind == ObjectKind::KeyPair { 2 } else { 1 };
        let card = hardware.machine.objects(ONE).unwrap();
        let objects = card.iter().filter(|object| object.listed).map(|object| shown(object.kind)).sum();
        let replaced = |status: &TokenStatus| (status.pending, status.bytes_replaced, status.objects);
        if replaced(&client.until(TokenState::Ready).await) == replaced(&before) {
            return (before, objects);
        }
    }
}

#[tokio::test]
async fn more_records_than_objects_are_packed_when_nobody_asks() {
    let (hardware, _) = Hardware::with_token();
    let agent = hardware.run(&[ONE], &[]);
    let mut client = hardware.node.client(&agent).await;
    let token = client.until(TokenState::Ready).await.token_id;
    for n in 0..RECORDS {
        let request = put_value(&token, &path(n), format!("value-{n}").into_bytes());
        client.records.put(request).await.unwrap();
    }
    let (rested, objects) = at_rest(&hardware, &mut client).await;
    assert_eq!(rested.records, RECORDS as u64);
    assert!(objects <= AT_REST, "{objects} objects are on the card");
    let labelled = |name: &str| format!("{name}{{token=\"{token}\"}}");
    assert_eq!(metric(&agent, &labelled("hsm_token_objects")), objects as u64);
    assert_eq!(metric(&agent, &labelled("hsm_token_objects_capacity")), AT_REST as u64);
    assert_eq!((rested.objects, rested.capacity), (objects as u64, AT_REST as u64));

    // What moved into a page was destroyed where it lay; none of that was large.
    let replaced = metric(&agent, "hsm_token_bytes_replaced_total");
    assert!(replaced > 0);
    let leaking = metric(&agent, "hsm_token_bytes_leaking_total");
    // A record of 1200 bytes that is replaced once.
    client.records.put(put_value(&token, "large", vec![b'x'; 1200])).await.unwrap();
    let get = GetRecordRequest { token_id: token.clone(), path: "large".into() };
    let there = client.records.get(get).await.unwrap().into_inner().records.remove(0).revision.unwrap();
    let version = there.version.unwrap();
    let expect = hsm_proto::agent::put_record_request::Expect::Stamp(hsm_proto::agent::Stamp {
        incarnation: version.incarnation,
        epoch: version.epoch,
        counter: version.counter,
    });
    let request = PutRecordRequest { expect: Some(expect), ..put_value(&token, "large", vec![b'y'; 1200]) };
    client.records.put(request).await.unwrap();
    client.until_list(|list| list[0].pending == 0).await;
    assert!(metric(&agent, "hsm_token_bytes_leaking_total") >= leaking + 1200);
    assert!(metric(&agent, "hsm_token_bytes_replaced_total") >= replaced + 1200);

    drop(agent);
    let agent = hardware.run(&[ONE], &[]);
    let mut client = hardware.node.client(&agent).await;
    client.until(TokenState::Ready).await;
    let mut seen = BTreeSet::new();
    for n in 0..RECORDS {
        let got = value(&mut client, &token, path(n)).await;
        assert_eq!(got, format!("value-{n}").into_bytes());
        seen.insert(got);
    }
    assert_eq!(seen.len(), RECORDS);
    assert_eq!(value(&mut client, &token, "large".into()).await, vec![b'y'; 1200]);
}
