//! What goes wrong on a node, and how it is mended without a restart.

use std::time::Duration;

use hsm_proto::agent::{
    ChangePinRequest, GetRecordRequest, InitializeTokenRequest, TokenState, UnlockTokenRequest,
    WatchRecordsRequest, watch_records_response::Event,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Code;

use crate::node::{Node, children_of};

#[tokio::test]
async fn a_wrong_pin_is_tried_once_and_a_mended_file_is_enough() {
    let node = Node::with_token();
    node.put("a", "k", "v");
    let right = node.pin();
    std::fs::write(node.path("pin"), "wrong-pin-1\n").unwrap();
    let agent = node.run();
    let mut client = node.client(&agent).await;
    let status = client.until(TokenState::Locked).await;
    assert_eq!(status.reason, "PinIncorrect");
    let get = GetRecordRequest { token_id: status.token_id.clone(), path: "a".into() };
    assert_eq!(
        client.records.get(get.clone()).await.map(|_| ()).unwrap_err().code(),
        Code::FailedPrecondition
    );
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let metrics = agent.http("/metrics").1;
    assert!(metrics.contains("hsm_token_logins_total{result=\"incorrect\"} 1"), "one try:\n{metrics}");
    assert_eq!(agent.http("/healthz").0, 200);

    std::fs::write(node.path("pin"), right).unwrap();
    client.until(TokenState::Ready).await;
    client.records.get(get).await.unwrap();
}

#[tokio::test]
async fn the_controller_can_unlock() {
    let node = Node::with_token();
    let right = node.pin();
    std::fs::remove_file(node.path("pin")).unwrap();
    let agent = node.run();
    let mut client = node.client(&agent).await;
    let status = client.until(TokenState::Locked).await;
    assert_eq!(status.reason, "PinMissing");
    let mut unlock = async |pin: &str| {
        client
            .tokens
            .unlock_token(UnlockTokenRequest { token_id: status.token_id.clone(), pin: pin.into() })
            .await
    };
    assert_eq!(unlock("not-the-pin").await.unwrap_err().code(), Code::FailedPrecondition);
    unlock(&right).await.unwrap();
    client.until(TokenState::Ready).await;
}

#[tokio::test]
async fn no_token_then_a_blank_one_then_a_store() {
    let node = Node::new();
    let agent = node.run();
    let mut client = node.client(&agent).await;
    assert_eq!(client.until(TokenState::Absent).await.reason, "TokenAbsent");
    assert_eq!(agent.http("/readyz").0, 200, "it has to be reached to be asked why");
    node.ok(&["init", "--yes"]);
    let ready = client.until(TokenState::Ready).await;
    assert!(!ready.token_id.is_empty() && !ready.store_fingerprint.is_empty());
}

#[tokio::test]
async fn a_blank_token_is_never_formatted_by_itself() {
    let node = Node::new();
    std::fs::write(node.path("pin"), "made-by-hand").unwrap();
    let output = std::process::Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", "test", "--so-pin", "sosososo", "--pin", "made-by-hand"])
        .env("SOFTHSM2_CONF", node.path("softhsm2.conf"))
        .output()
        .unwrap();
    assert!(output.status.success());
    let agent = node.run();
    let mut client = node.client(&agent).await;
    let blank = client.until(TokenState::Blank).await;
    assert!(blank.message.contains("token init"), "{}", blank.message);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(client.status().await.objects, 0);
    node.ok(&["init", "--yes"]);
    client.until(TokenState::Ready).await;
}

#[tokio::test]
async fn a_module_that_is_missing_is_used_when_it_comes() {
    let node = Node::with_token();
    let module = node.path("module.so");
    let agent = node.run_with(&[("HSM_MODULE", module.to_str().unwrap())]);
    let mut client = node.client(&agent).await;
    let status = client.until(TokenState::Unknown).await;
    let mut status = status;
    while status.reason.is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        status = client.status().await;
    }
    assert_eq!(status.reason, "ModuleError");
    std::os::unix::fs::symlink(hsm_token::testing::softhsm_module().unwrap(), &module).unwrap();
    client.until(TokenState::Ready).await;
}

#[tokio::test]
async fn a_killed_worker_costs_one_epoch() {
    let node = Node::with_token();
    node.put("a", "k", "v");
    let agent = node.run();
    let mut client = node.client(&agent).await;
    let before = client.until(TokenState::Ready).await;
    let mut feed = client
        .records
        .watch(WatchRecordsRequest { token_id: before.token_id.clone() })
        .await
        .unwrap()
        .into_inner();
    let mut next = async || feed.message().await.unwrap().unwrap().event.unwrap();
    assert!(matches!(next().await, Event::Snapshot(_)));
    assert!(matches!(next().await, Event::SnapshotEnd(_)));
    let children = agent.children();
    assert_eq!(children.len(), 1);
    kill(Pid::from_raw(children[0]), Signal::SIGKILL).unwrap();
    assert!(matches!(next().await, Event::Reset(_)), "what was told is void");
    assert!(matches!(next().await, Event::Snapshot(s) if s.path == "a"));
    let after = client.until(TokenState::Ready).await;
    assert!(after.session_epoch > before.session_epoch);
    assert!(agent.http("/metrics").1.contains("hsm_token_worker_restarts_total 1"));
}

#[tokio::test]
async fn sigterm_ends_it_in_good_order_with_a_watch_open() {
    let node = Node::with_token();
    let mut agent = node.run();
    let mut client = node.client(&agent).await;
    let token_id = client.until(TokenState::Ready).await.token_id;
    let _feed = client.records.watch(WatchRecordsRequest { token_id }).await.unwrap();
    let children = agent.children();
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.wait(), Some(0), "{}", agent.log());
    for child in children {
        assert!(kill(Pid::from_raw(child), None).is_err(), "the worker {child} was left behind");
    }
    assert!(children_of(agent.pid()).is_empty());
}

#[tokio::test]
async fn nothing_secret_is_anywhere() {
    const VALUE: &str = "canary-8d1f-value";
    let node = Node::with_token();
    node.put("secrets/ns/canary-path", "canary-key", VALUE);
    let agent = node.run();
    let mut client = node.client(&agent).await;
    let token_id = client.until(TokenState::Ready).await.token_id;
    let get = GetRecordRequest { token_id: token_id.clone(), path: "secrets/ns/canary-path".into() };
    assert!(client.records.get(get).await.is_ok());
    let wrong = UnlockTokenRequest { token_id, pin: "canary-wrong-pin".into() };
    drop(client.tokens.unlock_token(wrong).await);
    let metrics = agent.http("/metrics").1;
    assert!(metrics.contains("hsm_token_up{"), "{metrics}");
    let mut places = vec![("log", agent.log()), ("metrics", metrics.clone())];
    for pid in agent.children().into_iter().chain([agent.pid().cast_signed()]) {
        for file in ["cmdline", "environ"] {
            // The worker is not dumpable: its environ may be closed even to us.
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            places.push((file, String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    let pin = node.pin();
    for (place, text) in &places {
        for secret in [VALUE, "canary-wrong-pin", pin.as_str()] {
            assert!(!text.contains(secret), "a secret is in {place}");
        }
    }
    assert!(!metrics.contains("canary"), "no path or key is a label");
    for entry in std::fs::read_dir(node.path("state")).unwrap() {
        let text = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains(&pin));
    }
}

#[tokio::test]
async fn the_controller_can_initialise_a_token_and_change_its_pin() {
    let node = Node::new();
    let agent = node.run();
    let mut client = node.client(&agent).await;
    client.until(TokenState::Absent).await;
    let init = |label: &str| InitializeTokenRequest {
        label: label.into(),
        pin: "first-pin-1".into(),
        so_pin: "so-pin-1234".into(),
    };
    let other = client.tokens.initialize_token(init("other")).await.unwrap_err();
    assert_eq!(other.code(), Code::FailedPrecondition);
    let made = client.tokens.initialize_token(init("test")).await.unwrap().into_inner();
    let ready = client.until(TokenState::Ready).await;
    assert_eq!(ready.token_id, made.token_id);
    let again = client.tokens.initialize_token(init("test")).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition, "it holds a store");

    let change = |old: &str, new: &str| ChangePinRequest {
        token_id: made.token_id.clone(),
        old_pin: old.into(),
        new_pin: new.into(),
    };
    client.tokens.change_pin(change("first-pin-1", "second-pin-2")).await.unwrap();
    let wrong = client.tokens.change_pin(change("first-pin-1", "third-pin-3")).await.unwrap_err();
    assert_eq!(wrong.code(), Code::FailedPrecondition);
    // The next epoch logs in with the new one, though no file has it.
    kill(Pid::from_raw(agent.children()[0]), Signal::SIGKILL).unwrap();
    client.until(TokenState::Unknown).await;
    client.until(TokenState::Ready).await;
    std::fs::write(node.path("pin"), "second-pin-2").unwrap();
    node.ok(&["list"]);
}

#[tokio::test]
async fn people_and_agent_write_side_by_side_and_nothing_is_lost() {
    let node = Node::with_token();
    let agent = node.run();
    let mut client = node.client(&agent).await;
    let before = client.until(TokenState::Ready).await.session_epoch;
    std::thread::scope(|scope| {
        for person in 0..4 {
            let node = &node;
            scope.spawn(move || {
                for n in 0..2 {
                    node.put("shared", &format!("key-{person}-{n}"), "v");
                }
            });
        }
    });
    let shown = node.ok(&["get", "shared", "-o", "json", "--show-values"]);
    assert_eq!(shown.matches("\"key-").count(), 8, "{shown}");
    assert_eq!(client.status().await.session_epoch, before, "the agent's session was not disturbed");
}
