//! Tokens that hang for ever, or that another process has: their callers are told, and nobody else is held up.

use faulty_pkcs11::{Action, Fault, When};
use hsm_proto::agent::TokenState;
use tonic::Code;

use crate::cards::{Hardware, ONE, TWO, put, read, ready};

const THREE: &str = "Pico HSM [CCID Interface] (E6C3) 02 00";

/// Takes as long as the limits of a worker are: 40 s for a read and 60 s for a write until it is killed.
#[tokio::test]
async fn a_token_that_hangs_for_ever_is_left_and_comes_back_and_the_others_go_on() {
    let (hardware, _) = Hardware::with_token();
    hardware.add(TWO, None);
    hardware.add(THREE, None);
    let agent = hardware.run(&[ONE, TWO, THREE], &[]);
    let mut client = hardware.node.client(&agent).await;
    let before = client.until_list(ready).await;
    let ids: Vec<String> = before.iter().map(|status| status.token_id.clone()).collect();
    for id in &ids {
        client.records.put(put(id, "a")).await.unwrap();
    }
    client.until_list(|list| list.iter().all(|status| status.pending == 0)).await;
    let hang = |function: &str| {
        hardware.machine.script(Fault::at(function, 1, When::Before, Action::Hang(None))).unwrap();
    };

    hang("C_GetAttributeValue");
    let mut reader = hardware.node.client(&agent).await;
    let one = ids[0].clone();
    let reading = tokio::spawn(async move { read(&mut reader, &one, "a").await });
    struck(&hardware, 1).await;
    hang("C_CreateObject");
    let mut writer = hardware.node.client(&agent).await;
    let two = ids[1].clone();
    let writing = tokio::spawn(async move { writer.records.put(put(&two, "hung")).await.map(drop) });
    struck(&hardware, 2).await;

    // Both hang. The third one serves reads and writes, and the agent is alive.
    let mut n = 0;
    while !reading.is_finished() || !writing.is_finished() {
        client.records.put(put(&ids[2], &format!("p/{n}"))).await.unwrap();
        read(&mut client, &ids[2], "a").await.unwrap();
        assert_eq!(agent.http("/healthz").0, 200, "liveness never depends on a token");
        n += 1;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    assert_eq!(reading.await.unwrap(), Err(Code::Unavailable));
    let written = writing.await.unwrap().unwrap_err();
    assert_eq!(written.code(), Code::Unavailable, "the outcome is unknown: {written}");
    assert!(written.message().contains("outcome is unknown"), "{written}");
    // Who comes while the worker still hangs is told at once.
    let down = client.until_list(|list| list[1].state == TokenState::Unknown as i32).await;
    assert_eq!(down[1].reason, "TokenUnhealthy");
    assert_eq!(read(&mut client, &ids[1], "a").await, Err(Code::Unavailable));

    let after = client.until_list(ready).await;
    for n in 0..2 {
        assert_eq!(after[n].token_id, ids[n]);
        assert!(after[n].session_epoch > before[n].session_epoch);
        read(&mut client, &ids[n], "a").await.unwrap();
    }
    assert_eq!(after[2].session_epoch, before[2].session_epoch, "the third one's session went on");
    assert_eq!(agent.children().len(), 3, "the workers that hung are gone");
    // The same call again is safe, whatever came of the first one.
    client.records.put(put(&ids[1], "hung")).await.unwrap();
    read(&mut client, &ids[1], "hung").await.unwrap();
}

/// Waits until so many calls hang.
async fn struck(hardware: &Hardware, faults: u64) {
    for _ in 0..400 {
        if hardware.machine.struck().unwrap() >= faults {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("nobody made the call that was to hang");
}

#[tokio::test]
async fn a_card_that_another_process_has_is_unknown_not_absent() {
    let (hardware, id) = Hardware::with_token();
    // Named by its reader, and as the only token that there is.
    for readers in [[ONE].as_slice(), &[]] {
        let somebody = hardware.worker(ONE);
        let agent = hardware.run(readers, &[]);
        let mut client = hardware.node.client(&agent).await;
        let list = client.until_list(|list| !list[0].reason.is_empty()).await;
        let status = &list[0];
        assert_eq!((status.state, status.reason.as_str()), (TokenState::Unknown as i32, "TokenUnhealthy"));
        assert!(
            status.message.contains("another program may hold the card") && status.message.contains(ONE),
            "{}",
            status.message
        );
        drop(somebody);
        assert_eq!(client.until(TokenState::Ready).await.token_id, id.to_string());
        // A reader that is gone is another thing.
        let card = hardware.machine.unplug(ONE).unwrap();
        assert_eq!(client.until(TokenState::Absent).await.reason, "TokenAbsent");
        hardware.machine.plug(ONE, &card).unwrap();
        client.until(TokenState::Ready).await;
    }
}
