//! What the fuzz target of the worker's wire runs (`tests/fuzz`), and the ordinary tests run a bounded number of times:
//! any bytes as what comes over the socket, from either side.

use super::frame::{receive, send};
use super::messages::{Request, Response};

/// Reads the bytes as frames until they end or are none, and as one message. What was understood is sent again, and
/// understood the same.
///
/// # Panics
/// Where a message does not survive being sent.
pub fn frames(bytes: &[u8]) {
    if let Ok(header) = u32::try_from(bytes.len()) {
        let message = [&header.to_be_bytes(), bytes].concat();
        all::<Request>(&message);
        all::<Response>(&message);
    }
    // A frame that says it is longer than what there is only waits, with up to 16 MiB of memory to wipe.
    let length = bytes.first_chunk().map_or(0, |header| u32::from_be_bytes(*header));
    if usize::try_from(length).is_ok_and(|length| length <= bytes.len()) {
        all::<Request>(bytes);
        all::<Response>(bytes);
    }
}

fn all<M: prost::Message + Default + PartialEq>(mut bytes: &[u8]) {
    while let Ok(Some(message)) = receive::<M>(&mut bytes) {
        let mut wire = Vec::new();
        if send(&mut wire, &message).is_ok() {
            let again = receive::<M>(&mut wire.as_slice());
            assert!(again.is_ok_and(|again| again == Some(message)), "a message changed on the wire");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::messages::{Command, Create, Secret};
    use super::*;

    fn wire() -> Vec<u8> {
        let value = Some(Secret { bytes: vec![1, 2, 3] });
        let command = Command::Create(Create { label: "hsm.j5t.io/o/0".into(), private: true, value });
        let mut wire = Vec::new();
        send(&mut wire, &Request { id: 1, call: "r".into(), command: Some(command) }).unwrap();
        wire
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            frames(&bytes);
        }

        #[test]
        fn a_mutated_message(changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..5)) {
            let mut bytes = wire();
            let length = bytes.len();
            for (at, byte) in changes {
                bytes[at % length] = byte;
            }
            frames(&bytes);
        }
    }
}
