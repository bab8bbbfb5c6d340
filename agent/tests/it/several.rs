//! Several tokens on one agent, and which of them are given a PIN.

use std::path::{Path, PathBuf};

use hsm_agent::state::{Admissions, By};
use hsm_proto::agent::{
    Content, Fence, GetRecordRequest, GetTokenStatusRequest, ListTokensRequest, PutRecordRequest, TokenState,
    TokenStatus, UnlockTokenRequest, put_record_request::Expect,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Code;

use crate::node::{Agent, Client, Node};

fn put(token: &str, path: &str, transitions: u64) -> PutRecordRequest {
    PutRecordRequest {
        token_id: token.into(),
        path: path.into(),
        content: Some(Content { data: [("k".to_owned(), b"v".to_vec())].into(), metadata: None }),
        expect: Some(Expect::Absent(true)),
        fence: Some(Fence { lease_uid: "lease".into(), transitions }),
        ..PutRecordRequest::default()
    }
}

fn of_label<'a>(list: &'a [TokenStatus], label: &str) -> Option<&'a TokenStatus> {
    list.iter().find(|status| status.label == label)
}

/// Logins that the agent has sent, right or wrong.
fn logins(agent: &Agent) -> Vec<String> {
    let metrics = agent.http("/metrics").1;
    metrics.lines().filter(|line| line.starts_with("hsm_token_logins_total")).map(str::to_owned).collect()
}

fn admissions(node: &Node) -> Admissions {
    Admissions::load(&node.path("state")).unwrap()
}

/// Takes all software tokens of the node away; gives the folder that puts them back.
fn unplug(node: &Node, name: &str) -> PathBuf {
    let away = node.path(name);
    std::fs::rename(node.path("tokens"), &away).unwrap();
    std::fs::create_dir(node.path("tokens")).unwrap();
    away
}

fn plug(node: &Node, away: &Path) {
    std::fs::remove_dir_all(node.path("tokens")).unwrap();
    std::fs::rename(away, node.path("tokens")).unwrap();
}

#[tokio::test]
async fn two_tokens_are_served_side_by_side() {
    let node = Node::new();
    std::fs::create_dir(node.path("pins")).unwrap();
    for label in ["one", "two"] {
        node.init_as(label, &node.path(&format!("pins/{label}")));
    }
    let pins = node.path("pins");
    let agent = node.run_args(
        &["--token-label", "one", "--token-label", "two"],
        &[("HSM_PIN_FILE", pins.to_str().unwrap())],
    );
    let mut client = node.client(&agent).await;
    let ready =
        |list: &[TokenStatus]| list.iter().filter(|s| s.state == TokenState::Ready as i32).count() == 2;
    let list = client.until_list(ready).await;
    let (one, two) = (of_label(&list, "one").unwrap().clone(), of_label(&list, "two").unwrap().clone());
    assert_ne!(one.token_id, two.token_id);

    client.records.put(put(&one.token_id, "a", 1)).await.unwrap();
    let get = |token: &str| GetRecordRequest { token_id: token.into(), path: "a".into() };
    client.records.get(get(&one.token_id)).await.unwrap();
    let other = client.records.get(get(&two.token_id)).await.map(|_| ()).unwrap_err();
    assert_eq!(other.code(), Code::NotFound, "each has its own records");
    let nobody = client.records.get(get("")).await.map(|_| ()).unwrap_err();
    assert_eq!(nobody.code(), Code::InvalidArgument);
    assert!(nobody.message().contains(&one.token_id) && nobody.message().contains(&two.token_id), "{nobody}");

    let metrics = agent.http("/metrics").1;
    for status in [&one, &two] {
        assert!(metrics.contains(&format!("hsm_token_up{{token=\"{}\"}} 1", status.token_id)), "{metrics}");
    }
    // One's worker dies: the other does not notice.
    let children = agent.children();
    assert_eq!(children.len(), 2);
    kill(Pid::from_raw(children[0]), Signal::SIGKILL).unwrap();
    let list = client
        .until_list(|list| {
            ready(list)
                && list.iter().map(|s| s.session_epoch).sum::<u64>() > one.session_epoch + two.session_epoch
        })
        .await;
    let same = |old: &TokenStatus| of_label(&list, &old.label).unwrap().session_epoch == old.session_epoch;
    assert!(same(&one) != same(&two), "one of them has a new session");
}

#[tokio::test]
async fn one_token_that_two_flags_name_is_one_token() {
    let node = Node::with_token();
    let agent = node.run();
    let mut client = node.client(&agent).await;
    client.until(TokenState::Ready).await;
    drop(agent);
    let slot = node.slot_of("test");
    let agent = node.run_args(&["--token-label", "test", "--slot", &slot], &[]);
    let mut client = node.client(&agent).await;
    let both_looked = |agent: &Agent| agent.log().contains("is served already");
    loop {
        let list = client.until_list(|list| list.iter().any(|s| s.state == TokenState::Ready as i32)).await;
        if both_looked(&agent) {
            assert_eq!(list.len(), 1, "{list:?}");
            let id = list[0].token_id.clone();
            client.records.put(put(&id, "a", 1)).await.unwrap();
            break;
        }
    }
}

#[tokio::test]
async fn a_swapped_token_gets_no_pin_until_it_is_admitted() {
    let node = Node::with_token();
    node.put("a", "k", "v");
    let agent = node.run();
    let mut client = node.client(&agent).await;
    let old = client.until(TokenState::Ready).await;
    let before = logins(&agent);

    let away = unplug(&node, "old");
    client.until(TokenState::Absent).await;
    // Somebody else's, made elsewhere, with the same label.
    node.init_elsewhere("test");
    let stranger = client.until(TokenState::NotAdmitted).await;
    assert_eq!(stranger.reason, "TokenNotAdmitted");
    assert_ne!(stranger.token_id, old.token_id);
    assert!(stranger.message.contains("hsm-agent token admit"), "{}", stranger.message);
    let unlock = UnlockTokenRequest { token_id: stranger.token_id.clone(), pin: "their-pin-1".into() };
    assert_eq!(client.tokens.unlock_token(unlock).await.unwrap_err().code(), Code::FailedPrecondition);
    let get = GetRecordRequest { token_id: stranger.token_id.clone(), path: "a".into() };
    assert_eq!(client.records.get(get).await.map(|_| ()).unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(logins(&agent), before, "no PIN was given to it");

    let theirs = unplug(&node, "theirs");
    client.until(TokenState::Absent).await;
    plug(&node, &away);
    let back = client.until(TokenState::Ready).await;
    assert_eq!(back.token_id, old.token_id);
    let get = GetRecordRequest { token_id: old.token_id, path: "a".into() };
    client.records.get(get).await.unwrap();

    // A person says that the other one may come.
    let id = stranger.token_id.parse().unwrap();
    let tie = node.tie_of(&theirs);
    admissions(&node).admit(id, None, tie, By::Person).unwrap();
    std::fs::copy(node.path("elsewhere-pin"), node.path("pin")).unwrap();
    let away = unplug(&node, "old");
    plug(&node, &theirs);
    client
        .until_list(|list| list[0].state == TokenState::Ready as i32 && list[0].token_id == stranger.token_id)
        .await;
    drop(away);
}

#[tokio::test]
async fn a_copied_token_id_is_refused_and_the_admitted_one_stays() {
    let node = Node::with_token();
    let original = node.token_id();
    let copy_pin = node.copy_token_id("copy", &original);
    // Elsewhere nobody was admitted yet: neither of them is used.
    let fresh = node.path("fresh");
    let flags = ["--token-label", "test", "--token-label", "copy"];
    std::fs::create_dir(node.path("pins")).unwrap();
    std::fs::copy(node.path("pin"), node.path("pins/test")).unwrap();
    std::fs::write(node.path("pins/copy"), copy_pin).unwrap();
    let pins = node.path("pins");
    let pins = ("HSM_PIN_FILE", pins.to_str().unwrap());
    let agent = node.run_args(&flags, &[pins, ("HSM_STATE_DIR", fresh.to_str().unwrap())]);
    let mut client = node.client(&agent).await;
    let refused = |s: &TokenStatus| s.state == TokenState::NotAdmitted as i32 && s.reason == "DuplicateToken";
    let list = client.until_list(|list| list.len() == 2 && list.iter().all(refused)).await;
    assert!(list.iter().all(|s| s.token_id.is_empty() && s.message.contains(&original)), "{list:?}");
    assert!(logins(&agent).is_empty(), "no PIN was given to either");
    drop(agent);

    // Here one was: it stays, whoever looks first.
    drop(node.run_until_ready().await);
    let agent = node.run_args(&flags, &[pins]);
    let mut client = node.client(&agent).await;
    let list = client
        .until_list(|list| {
            of_label(list, "test").is_some_and(|s| s.state == TokenState::Ready as i32)
                && of_label(list, "copy").is_some_and(refused)
        })
        .await;
    assert_eq!(of_label(&list, "test").unwrap().token_id, original);
    assert_eq!(logins(&agent), ["hsm_token_logins_total{result=\"ok\"} 1"], "one PIN, for the admitted one");
    client.tokens.get_token_status(GetTokenStatusRequest { token_id: original.clone() }).await.unwrap();

    // The admitted one goes: the copy does not take its place.
    node.remove_token("test");
    let alone = client
        .until_list(|list| {
            of_label(list, "copy").is_some_and(|s| s.reason == "TokenNotAdmitted")
                && list.iter().all(|s| s.state != TokenState::Ready as i32)
        })
        .await;
    assert!(of_label(&alone, "copy").unwrap().message.contains("token admit"));
    assert_eq!(logins(&agent).len(), 1);
    // Unless a person says so.
    let tie = node.tie_of_label("copy");
    admissions(&node).admit(original.parse().unwrap(), None, tie, By::Person).unwrap();
    client
        .until_list(|list| of_label(list, "copy").is_some_and(|s| s.state == TokenState::Ready as i32))
        .await;
}

#[tokio::test]
async fn of_two_that_nobody_admitted_the_one_that_stays_is_used() {
    let node = Node::new();
    node.init_elsewhere("test");
    std::fs::copy(node.path("elsewhere-pin"), node.path("pin")).unwrap();
    let original = node.token_id();
    node.copy_token_id("copy", &original);
    let agent = node.run_args(&["--token-label", "test", "--token-label", "copy"], &[]);
    let mut client = node.client(&agent).await;
    client.until_list(|list| list.len() == 2 && list.iter().all(|s| s.reason == "DuplicateToken")).await;
    node.remove_token("copy");
    let list = client
        .until_list(|list| of_label(list, "test").is_some_and(|s| s.state == TokenState::Ready as i32))
        .await;
    assert_eq!(of_label(&list, "test").unwrap().token_id, original);
}

#[tokio::test]
async fn another_store_key_under_an_admitted_id_is_not_used() {
    let node = Node::with_token();
    node.put("a", "k", "v");
    let id = node.token_id().parse().unwrap();
    let tie = node.tie_of_label("test");
    admissions(&node).admit(id, Some(&"0".repeat(32)), tie.clone(), By::Person).unwrap();
    let agent = node.run();
    let mut client = node.client(&agent).await;
    let status = client.until(TokenState::NotAdmitted).await;
    assert!(
        status.message.contains("fingerprint") && status.message.contains("token admit"),
        "{}",
        status.message
    );
    assert_eq!(status.token_id, id.to_string());
    let seen = logins(&agent);
    assert_eq!(seen.len(), 1);
    admissions(&node).admit(id, None, tie, By::Person).unwrap();
    let ready = client.until(TokenState::Ready).await;
    assert_eq!(admissions(&node).list()[0].fingerprint.as_deref(), Some(ready.store_fingerprint.as_str()));
}

#[tokio::test]
async fn a_forgotten_token_is_in_quarantine() {
    let node = Node::with_token();
    let id = node.token_id().parse().unwrap();
    let tie = node.tie_of_label("test");
    admissions(&node).forget(id).unwrap();
    let agent = node.run();
    let mut client = node.client(&agent).await;
    let status = client.until(TokenState::NotAdmitted).await;
    assert!(status.message.contains("quarantine"), "{}", status.message);
    assert!(logins(&agent).is_empty());
    admissions(&node).admit(id, None, tie, By::Person).unwrap();
    client.until(TokenState::Ready).await;
    // Also while it is served.
    admissions(&node).forget(id).unwrap();
    assert!(client.until(TokenState::NotAdmitted).await.message.contains("quarantine"));
    assert!(client.records.put(put(&id.to_string(), "a", 1)).await.is_err());
}

#[tokio::test]
async fn a_list_that_cannot_be_read_admits_nobody() {
    let node = Node::with_token();
    let file = node.path("state/admissions.json");
    drop(std::fs::remove_file(&file));
    std::fs::write(&file, "{").unwrap();
    let agent = node.run();
    let mut client = node.client(&agent).await;
    let list = client.until_list(|list| list[0].reason == "TokenNotAdmitted").await;
    assert!(list[0].message.contains("admissions.json is damaged"), "{}", list[0].message);
    assert!(logins(&agent).is_empty());
    std::fs::remove_file(&file).unwrap();
    client.until(TokenState::Ready).await;
}

#[tokio::test]
async fn a_pin_that_unlocked_one_token_is_not_given_to_the_next() {
    let node = Node::with_token();
    let right = node.pin();
    std::fs::remove_file(node.path("pin")).unwrap();
    let agent = node.run();
    let mut client = node.client(&agent).await;
    let old = client.until(TokenState::Locked).await;
    let unlock = UnlockTokenRequest { token_id: old.token_id.clone(), pin: right };
    client.tokens.unlock_token(unlock).await.unwrap();
    client.until(TokenState::Ready).await;
    let before = logins(&agent);

    let away = unplug(&node, "old");
    client.until(TokenState::Absent).await;
    node.init_elsewhere("test");
    let theirs = client.until(TokenState::NotAdmitted).await;
    let tie = node.tie_of_label("test");
    admissions(&node).admit(theirs.token_id.parse().unwrap(), None, tie, By::Person).unwrap();
    let locked = client.until(TokenState::Locked).await;
    assert_eq!((locked.reason.as_str(), locked.token_id), ("PinMissing", theirs.token_id));
    assert_eq!(logins(&agent), before, "the other token's PIN was not tried");

    unplug(&node, "theirs");
    client.until(TokenState::Absent).await;
    plug(&node, &away);
    assert_eq!(client.until(TokenState::Ready).await.token_id, old.token_id, "it is still unlocked");
}

#[tokio::test]
async fn a_token_without_its_store_key_is_reported_and_never_rewritten() {
    let node = Node::with_token();
    node.put("a", "k", "v");
    drop(node.run_until_ready().await);
    node.destroy_labelled("hsm.j5t.io/key/");
    let before = node.labels();
    let agent = node.run();
    let mut client = node.client(&agent).await;
    let status = client.until(TokenState::Unreadable).await;
    assert_eq!(status.reason, "StoreKeyMissing");
    let refused = client.records.put(put(&status.token_id, "b", 1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "unknown, not absent");
    drop(agent);
    assert_eq!(node.labels(), before);
}

#[tokio::test]
async fn puts_that_wait_together_get_their_own_answers() {
    let node = Node::with_token();
    let agent = node.run();
    let mut client = node.client(&agent).await;
    let token = client.until(TokenState::Ready).await.token_id;
    client.records.put(put(&token, "first", 5)).await.unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..40 {
        let (mut records, token) = (client.records.clone(), token.clone());
        // Every fourth is of a controller that lost its lease, every fifth expects what is not so.
        let (stale, wrong) = (n % 4 == 0, n % 5 == 0);
        let path = if wrong { "first".to_owned() } else { format!("p/{n}") };
        let mut request = put(&token, &path, if stale { 4 } else { 5 });
        request.content.as_mut().unwrap().data.insert("n".into(), vec![n]);
        calls.spawn(async move { (n, stale, wrong, records.put(request).await) });
    }
    while let Some(done) = calls.join_next().await {
        let (n, stale, wrong, answer) = done.unwrap();
        match answer {
            Ok(answer) => assert!(!stale && !wrong && answer.into_inner().written, "{n}"),
            Err(status) => {
                assert!(stale || wrong, "{n}: {status}");
                assert_eq!(status.code(), Code::FailedPrecondition, "{n}: {status}");
                assert_eq!(status.message().contains("newer controller"), stale, "{n}: {status}");
            }
        }
    }
    for n in (0..40).filter(|n| n % 4 != 0 && n % 5 != 0) {
        let get = GetRecordRequest { token_id: token.clone(), path: format!("p/{n}") };
        let got = client.records.get(get).await.unwrap().into_inner();
        assert_eq!(got.records[0].content.as_ref().unwrap().data["n"], [n]);
    }
}

#[tokio::test]
async fn the_status_says_what_a_token_holds_and_the_history_has_a_bound() {
    let node = Node::with_token();
    let agent = node.run();
    let mut client = node.client(&agent).await;
    let token = client.until(TokenState::Ready).await.token_id;
    let mut many = put(&token, "a", 1);
    many.history_limit = Some(1000);
    assert_eq!(client.records.put(many).await.unwrap_err().code(), Code::InvalidArgument);
    let mut none = put(&token, "a", 1);
    none.history_limit = Some(0);
    client.records.put(none).await.unwrap();
    let status = client.tokens.list_tokens(ListTokensRequest {}).await.unwrap().into_inner().tokens.remove(0);
    assert_eq!((status.records, status.history), (1, 0));
    let before = status.bytes_replaced;
    node.put("a", "k", "another");
    node.put("a", "k", "and another");
    // The command line replaced those; what the agent itself replaces is counted.
    let got = client.records.get(GetRecordRequest { token_id: token.clone(), path: "a".into() }).await;
    let revision = got.unwrap().into_inner().records.remove(0).revision.unwrap();
    let version = revision.version.unwrap();
    let stamp = hsm_proto::agent::Stamp {
        incarnation: version.incarnation,
        epoch: version.epoch,
        counter: version.counter,
    };
    let mut last = put(&token, "a", 1);
    (last.expect, last.history_limit) = (Some(Expect::Stamp(stamp)), Some(0));
    client.records.put(last).await.unwrap();
    client.until_list(|list| list[0].bytes_replaced > before && list[0].pending == 0).await;
    assert!(!agent.http("/metrics").1.contains("hsm_token_bytes_replaced_total 0\n"));
}

/// Kept apart so that the tests read as one sentence.
impl Node {
    async fn run_until_ready(&self) -> Agent {
        let agent = self.run();
        let mut client: Client = self.client(&agent).await;
        client.until(TokenState::Ready).await;
        agent
    }
}
