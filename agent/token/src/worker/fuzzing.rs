//! What the fuzz target of the worker's wire runs (`tests/fuzz`), and the ordinary tests run a bounded number of times:
//! any bytes as what comes over the socket, from either side.

use super::frame::{receive, send};
use super::messages::{Request, Response};

/// Reads frames until the bytes end or are not a frame. What was understood is sent again, and understood the same.
///
/// # Panics
/// Where a message does not survive being sent.
pub fn frames(bytes: &[u8]) {
    all::<Request>(bytes);
    all::<Response>(bytes);
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
        fn any_frame(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let header = u32::try_from(bytes.len()).unwrap().to_be_bytes();
            frames(&[&header[..], &bytes].concat());
        }

        #[test]
        fn a_mutated_message(changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..5)) {
            let mut bytes = wire();
            let length = bytes.len();
            for (at, byte) in changes {
                // Past the length: a wrong one is a longer wait, and a buffer of up to 16 MiB to wipe.
                bytes[4 + at % (length - 4)] = byte;
            }
            frames(&bytes);
        }
    }
}
