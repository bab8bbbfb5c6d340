//! Hardware tokens, as the faulty module has them: a Pico HSM v6.6 through OpenSC, with readers, removals and wear.

use std::path::Path;

use faulty_pkcs11::{Action, Counters, Fault, OpenSc, When};
use hsm_agent::state::By;
use hsm_proto::agent::{TokenState, UnlockTokenRequest, WatchRecordsRequest, watch_records_response::Event};
use hsm_token::{EpochBudget, LOGINS_PER_DAY, Token as _};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Code;

use crate::cards::{Hardware, ONE, ONE_MOVED, PIN, TWO, metric, put, read, ready};

#[tokio::test]
async fn a_thousand_polls_cost_no_login_no_value_and_no_write() {
    let (hardware, _) = Hardware::with_token();
    let agent = hardware.run(&[ONE], &["--poll-interval", "2ms"]);
    let mut client = hardware.node.client(&agent).await;
    let token = client.until(TokenState::Ready).await.token_id;
    client.records.put(put(&token, "a")).await.unwrap();
    client.until_list(|list| list[0].pending == 0).await;
    hardware.machine.flush(ONE).unwrap();
    let (before, polls) =
        (hardware.counters(ONE), "hsm_token_operations_total{op=\"refresh\",result=\"ok\"}");
    let begun = metric(&agent, polls);
    client.until_list(|_| metric(&agent, polls) >= begun + 1000).await;
    let after = hardware.counters(ONE);
    let wear = |c: Counters| (c.logins, c.value_reads, c.writes, c.erases, c.selects);
    assert_eq!(wear(after), wear(before));
    assert!(after.apdus >= before.apdus + 1000, "each poll asked the card");
    read(&mut client, &token, "a").await.unwrap();
}

#[tokio::test]
async fn a_token_comes_back_in_another_port() {
    let (hardware, id) = Hardware::with_token();
    let agent = hardware.run(&[ONE], &[]);
    let mut client = hardware.node.client(&agent).await;
    let before = client.until(TokenState::Ready).await;
    assert_eq!((before.token_id.as_str(), before.usb_serial.as_str()), (id.to_string().as_str(), "E6A1"));
    client.records.put(put(&before.token_id, "a")).await.unwrap();
    let mut epoch = before.session_epoch;
    for reader in [ONE, ONE_MOVED, ONE] {
        let there = hardware.machine.readers().unwrap().remove(0);
        let card = hardware.machine.unplug(&there).unwrap();
        let absent = client.until(TokenState::Absent).await;
        assert_eq!(absent.reason, "TokenAbsent");
        assert_eq!(read(&mut client, &before.token_id, "a").await, Err(Code::Unavailable), "never NOT_FOUND");
        hardware.machine.plug(reader, &card).unwrap();
        let after = client.until(TokenState::Ready).await;
        assert_eq!(after.token_id, before.token_id);
        assert!(after.session_epoch > epoch);
        epoch = after.session_epoch;
        read(&mut client, &before.token_id, "a").await.unwrap();
    }
}

#[tokio::test]
async fn pcscd_is_restarted_and_the_watch_tells_it() {
    let (hardware, _) = Hardware::with_token();
    let agent = hardware.run(&[ONE], &[]);
    let mut client = hardware.node.client(&agent).await;
    let before = client.until(TokenState::Ready).await;
    client.records.put(put(&before.token_id, "a")).await.unwrap();
    let watch = WatchRecordsRequest { token_id: before.token_id.clone() };
    let mut feed = client.records.watch(watch).await.unwrap().into_inner();
    let mut next = async || feed.message().await.unwrap().unwrap().event.unwrap();
    assert!(matches!(next().await, Event::Snapshot(_)));
    assert!(matches!(next().await, Event::SnapshotEnd(_)));
    hardware.machine.restart_pcscd().unwrap();
    assert!(matches!(next().await, Event::Reset(_)));
    assert!(matches!(next().await, Event::Snapshot(s) if s.path == "a"));
    let after = client.until(TokenState::Ready).await;
    assert!(after.session_epoch > before.session_epoch);
}

#[tokio::test]
async fn a_stranger_in_the_same_reader_gets_no_pin() {
    let (hardware, id) = Hardware::with_token();
    // By its label, which every Pico HSM has.
    let label = hardware.machine.settings().unwrap().token_label;
    let agent = hardware.node.run_args(&["--token-label", &label], &[]);
    let mut client = hardware.node.client(&agent).await;
    client.until(TokenState::Ready).await;
    let mine = hardware.machine.unplug(ONE).unwrap();
    client.until(TokenState::Absent).await;
    let stranger = hardware.add(TWO, None);
    let logins = hardware.counters(TWO).logins;
    let status = client.until(TokenState::NotAdmitted).await;
    assert_eq!((status.reason.as_str(), status.token_id), ("TokenNotAdmitted", stranger.to_string()));
    let theirs = hardware.machine.unplug(TWO).unwrap();
    client.until(TokenState::Absent).await;
    assert_eq!(hardware.counters(&theirs).logins, logins, "it was given no PIN");
    hardware.machine.plug(ONE, &mine).unwrap();
    assert_eq!(client.until(TokenState::Ready).await.token_id, id.to_string());
}

#[tokio::test]
async fn two_tokens_side_by_side_do_not_disturb_each_other() {
    let (hardware, one) = Hardware::with_token();
    let two = hardware.add(TWO, None);
    let agent = hardware.run(&[ONE, TWO], &[]);
    let mut client = hardware.node.client(&agent).await;
    let list = client.until_list(ready).await;
    let ids: Vec<&str> = list.iter().map(|status| status.token_id.as_str()).collect();
    assert_eq!(ids, [one.to_string(), two.to_string()]);
    client.records.put(put(ids[0], "a")).await.unwrap();
    client.records.put(put(ids[1], "b")).await.unwrap();
    let logins = hardware.counters(TWO).logins;
    // The first one's session starts anew, twice.
    for _ in 0..2 {
        let card = hardware.machine.unplug(ONE).unwrap();
        client.until_list(|list| list[0].state == TokenState::Absent as i32).await;
        hardware.machine.plug(ONE, &card).unwrap();
        client.until_list(ready).await;
    }
    read(&mut client, ids[0], "a").await.unwrap();
    read(&mut client, ids[1], "b").await.unwrap();
    let after = client.until_list(ready).await;
    assert_eq!(after[1].session_epoch, list[1].session_epoch, "the second one's session went on");
    assert_eq!(hardware.counters(TWO).logins, logins);
}

#[tokio::test]
async fn a_copied_card_is_refused() {
    let (hardware, id) = Hardware::with_token();
    let agent = hardware.run(&[ONE, TWO], &[]);
    let mut client = hardware.node.client(&agent).await;
    client.until_list(|list| list[0].state == TokenState::Ready as i32).await;
    // All of it, store key and all, on another device.
    let card = hardware.machine.unplug(ONE).unwrap();
    client.until_list(|list| list[0].state == TokenState::Absent as i32).await;
    let drawer = hardware.machine.dir().join("drawer");
    copy_folder(&drawer.join(&card), &drawer.join("copy"));
    std::fs::write(drawer.join("copy/name"), "copy").unwrap();
    hardware.machine.plug(ONE, &card).unwrap();
    client.until_list(|list| list[0].state == TokenState::Ready as i32).await;
    hardware.machine.plug(TWO, "copy").unwrap();
    let logins = hardware.counters(TWO).logins;
    let list = client.until_list(|list| list.get(1).is_some_and(|s| s.reason == "DuplicateToken")).await;
    assert_eq!((list[0].state, list[0].token_id.clone()), (TokenState::Ready as i32, id.to_string()));
    assert_eq!((list[1].token_id.as_str(), list[1].usb_serial.as_str()), ("", "E6B2"));
    assert!(list[1].message.contains(&id.to_string()), "{}", list[1].message);
    assert_eq!(hardware.counters(TWO).logins, logins, "no PIN was given to it");
    hardware.machine.unplug(TWO).unwrap();
    client.until_list(|list| list[1].state == TokenState::Absent as i32).await;
    client.until_list(|list| list[0].state == TokenState::Ready as i32).await;
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[tokio::test]
async fn a_module_that_crashes_or_hangs_in_a_write_costs_one_epoch() {
    let (hardware, _) = Hardware::with_token();
    let agent = hardware.run(&[ONE], &[]);
    let mut client = hardware.node.client(&agent).await;
    let token = client.until(TokenState::Ready).await.token_id;
    for (n, action) in
        [Action::Crash, Action::Crash, Action::Fail("CKR_GENERAL_ERROR".into())].into_iter().enumerate()
    {
        let before = client.until(TokenState::Ready).await.session_epoch;
        let when = if n == 0 { When::Before } else { When::After };
        let fault = Fault {
            function: Some("C_CreateObject".into()),
            call: 1,
            times: 1,
            when,
            action,
            seen: 0,
            struck: 0,
        };
        hardware.machine.script(fault).unwrap();
        let path = format!("p/{n}");
        let failed = client.records.put(put(&token, &path)).await.unwrap_err();
        assert_eq!(failed.code(), Code::Unavailable, "the outcome is unknown: {failed}");
        client.until_list(|list| ready(list) && list[0].session_epoch > before).await;
        // The same call again is safe, whatever came of the first one.
        client.records.put(put(&token, &path)).await.unwrap();
        read(&mut client, &token, &path).await.unwrap();
    }
}

#[tokio::test]
async fn a_hanging_poll_is_left_and_the_token_comes_back() {
    let (hardware, _) = Hardware::with_token();
    let agent = hardware.run(&[ONE], &[]);
    let mut client = hardware.node.client(&agent).await;
    let before = client.until(TokenState::Ready).await;
    client.records.put(put(&before.token_id, "a")).await.unwrap();
    let action = Action::Hang(Some(12_000));
    let function = Some("C_GetSessionInfo".to_owned());
    let fault = Fault { function, call: 1, times: 1, when: When::Before, action, seen: 0, struck: 0 };
    hardware.machine.script(fault).unwrap();
    let down = client.until(TokenState::Unknown).await;
    assert_eq!(down.reason, "TokenUnhealthy");
    assert_eq!(agent.http("/healthz").0, 200, "liveness never depends on a token");
    let after = client.until(TokenState::Ready).await;
    assert!(after.session_epoch > before.session_epoch);
    read(&mut client, &before.token_id, "a").await.unwrap();
}

#[tokio::test]
async fn a_used_up_login_budget_survives_a_restart_until_a_person_acts() {
    let (hardware, id) = Hardware::with_token();
    let info = hardware.worker(ONE).info().unwrap();
    std::fs::create_dir_all(hardware.node.path("state")).unwrap();
    let path = hsm_agent::token_open::budget_path(&hardware.node.path("state"), &info);
    let (now, wall) = (std::time::Instant::now(), std::time::SystemTime::now());
    let mut used = EpochBudget::new(LOGINS_PER_DAY);
    for _ in 0..LOGINS_PER_DAY {
        used.logged_in(now);
    }
    used.save(&path, now, wall).unwrap();
    let logins = hardware.counters(ONE).logins;
    for _ in 0..2 {
        let agent = hardware.run(&[ONE], &[]);
        let mut client = hardware.node.client(&agent).await;
        let list = client.until_list(|list| list[0].reason == "TokenUnhealthy").await;
        assert!(
            list[0].message.contains("24 times") && list[0].message.contains("next try is in"),
            "{list:?}"
        );
        assert_eq!(list[0].token_id, id.to_string());
        assert_eq!(hardware.counters(ONE).logins, logins);
    }
    let agent = hardware.run(&[ONE], &[]);
    let mut client = hardware.node.client(&agent).await;
    client.until_list(|list| list[0].reason == "TokenUnhealthy").await;
    let unlock = UnlockTokenRequest { token_id: id.to_string(), pin: PIN.into() };
    client.tokens.unlock_token(unlock).await.unwrap();
    client.until(TokenState::Ready).await;
    assert_eq!(hardware.counters(ONE).logins, logins + 1);
}

#[tokio::test]
async fn a_wrong_pin_is_tried_once_over_restarts_and_ports() {
    let (hardware, _) = Hardware::with_token();
    std::fs::write(hardware.node.path("pin"), "999999-wrong").unwrap();
    for reader in [ONE, ONE_MOVED] {
        let there = hardware.machine.readers().unwrap().remove(0);
        let card = hardware.machine.unplug(&there).unwrap();
        hardware.machine.plug(reader, &card).unwrap();
        let agent = hardware.run(&[ONE], &[]);
        let mut client = hardware.node.client(&agent).await;
        let locked = client.until(TokenState::Locked).await;
        assert_eq!(locked.reason, "PinIncorrect");
        assert!(locked.pin_tries_low);
        assert_eq!(hardware.machine.pin_tries(reader).unwrap(), 2, "one try, and no second one");
    }
    let agent = hardware.run(&[ONE], &[]);
    let mut client = hardware.node.client(&agent).await;
    client.until(TokenState::Locked).await;
    std::fs::write(hardware.node.path("pin"), PIN).unwrap();
    client.until(TokenState::Ready).await;
    assert_eq!(hardware.machine.pin_tries(ONE_MOVED).unwrap(), 3);
}

#[tokio::test]
async fn in_a_shared_reader_somebody_who_starts_on_the_token_is_noticed() {
    for opensc in [OpenSc::V0_23, OpenSc::V0_27] {
        let (hardware, _) = Hardware::with_token();
        hardware.machine.set(|settings| settings.opensc = opensc).unwrap();
        let agent = hardware.run(&[ONE], &["--shared-reader"]);
        let mut client = hardware.node.client(&agent).await;
        let before = client.until(TokenState::Ready).await;
        // Its start takes the login that all share away.
        let somebody = hardware.worker_sharing(ONE);
        client.until_list(|list| ready(list) && list[0].session_epoch > before.session_epoch).await;
        drop(somebody);
    }
}

/// Somebody who starts and logs in between two polls is not noticed by the session: the re-read is what is sure.
#[tokio::test]
async fn in_a_shared_reader_what_others_change_is_seen_at_the_next_reread() {
    let (hardware, _) = Hardware::with_token();
    let agent = hardware.run(&[ONE], &["--shared-reader", "--reread-interval", "3s"]);
    let mut client = hardware.node.client(&agent).await;
    let before = client.until(TokenState::Ready).await;
    hardware.node.put("by/hand", "k", "v");
    client.until_list(|list| ready(list) && list[0].records == 1).await;
    read(&mut client, &before.token_id, "by/hand").await.unwrap();
}

#[tokio::test]
async fn a_shared_reader_is_read_anew_from_time_to_time() {
    let (hardware, _) = Hardware::with_token();
    let agent = hardware.run(&[ONE], &["--shared-reader", "--reread-interval", "1s"]);
    let mut client = hardware.node.client(&agent).await;
    let before = client.until(TokenState::Ready).await;
    let watch = WatchRecordsRequest { token_id: before.token_id.clone() };
    let mut feed = client.records.watch(watch).await.unwrap().into_inner();
    let mut next = async || feed.message().await.unwrap().unwrap().event.unwrap();
    assert!(matches!(next().await, Event::SnapshotEnd(_)));
    assert!(matches!(next().await, Event::Reset(_)));
    assert!(matches!(next().await, Event::SnapshotEnd(e) if e.session_epoch > before.session_epoch));
    assert_eq!(client.until(TokenState::Ready).await.reason, "", "it never counted as trouble");
    assert!(!agent.log().contains("The token is not served."), "{}", agent.log());
}

#[tokio::test]
async fn old_firmware_is_served_and_said() {
    let (hardware, _) = Hardware::with_token();
    hardware.machine.set(|settings| settings.firmware = (6, 2)).unwrap();
    let agent = hardware.run(&[ONE], &[]);
    let mut client = hardware.node.client(&agent).await;
    let status = client.until(TokenState::Ready).await;
    assert_eq!(status.reason, "FirmwareInsecure");
    client.records.put(put(&status.token_id, "a")).await.unwrap();
}

#[tokio::test]
async fn a_person_may_move_a_token_to_another_device() {
    let (hardware, id) = Hardware::with_token();
    let agent = hardware.run(&[ONE], &[]);
    let mut client = hardware.node.client(&agent).await;
    client.until(TokenState::Ready).await;
    drop(agent);
    // The same content under another USB serial: a board that was replaced, or a copy.
    let card = hardware.machine.unplug(ONE).unwrap();
    hardware.machine.plug(TWO, &card).unwrap();
    let agent = hardware.run(&[TWO], &[]);
    let mut client = hardware.node.client(&agent).await;
    let refused = client.until(TokenState::NotAdmitted).await;
    assert!(
        refused.message.contains("usb:E6A1") && refused.message.contains("usb:E6B2"),
        "{}",
        refused.message
    );
    hardware.admissions().admit(id, None, "usb:E6B2".parse().unwrap(), By::Person).unwrap();
    client.until(TokenState::Ready).await;
    kill(Pid::from_raw(agent.children()[0]), Signal::SIGKILL).unwrap();
    client.until_list(|list| list[0].session_epoch > 2 && ready(list)).await;
}
