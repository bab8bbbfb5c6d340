//! The text form of a base: what token and Secret last had in common.
//!
//! The same text stands in the Secret's annotation and in the HSMSecret's status. One JSON object:
//! `{"v":2,"id":KEY ID,"at":SEALED,"keys":{KEY: MAC,…}}`; a mac is 16 bytes in base64url without padding, and sealed is
//! `{"at":STAMP,"lineage":[[NUMBER,WRITER,END],…]}` under the digest key. Sealed because the version of a record that
//! another program made is derived from its content: whoever may read the status could try guesses of a short password
//! against it. A text that does not parse, or was made with another digest key, is no base.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hsm_core::{Base, ValueMac};
use hsm_types::{EpochId, Key, Stamp, Version};
use serde::{Deserialize, Serialize};

use crate::digest::DigestKey;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    v: u32,
    id: String,
    at: String,
    keys: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    at: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lineage: Vec<(u32, String, u64)>,
}

/// The text, under this digest key.
pub fn encode(base: &Base, key: &DigestKey) -> String {
    let version = Sealed {
        at: base.version.stamp().to_string(),
        lineage: base
            .version
            .lineage
            .iter()
            .map(|(epoch, end)| (epoch.number, epoch.writer.to_string(), *end))
            .collect(),
    };
    // A struct of strings and numbers always serialises; an empty text would be no base, which is safe.
    let sealed = serde_json::to_vec(&version).ok().and_then(|bytes| key.seal(&bytes)).unwrap_or_default();
    let text = Text {
        v: 2,
        id: key.id().to_owned(),
        at: BASE64.encode(sealed),
        keys: base.keys.iter().map(|(key, mac)| (key.as_str().to_owned(), BASE64.encode(mac.0))).collect(),
    };
    serde_json::to_string(&text).unwrap_or_default()
}

/// The base, if the text is one that was made with this digest key.
pub fn decode(text: &str, key: &DigestKey) -> Option<Base> {
    let text: Text = serde_json::from_str(text).ok()?;
    if text.v != 2 || text.id != key.id() {
        return None;
    }
    let sealed: Sealed = serde_json::from_slice(&key.open(&BASE64.decode(text.at).ok()?)?).ok()?;
    let at: Stamp = sealed.at.parse().ok()?;
    let lineage = sealed
        .lineage
        .into_iter()
        .map(|(number, writer, end)| Some((EpochId { number, writer: writer.parse().ok()? }, end)))
        .collect::<Option<_>>()?;
    let version = Version { incarnation: at.incarnation, epoch: at.epoch, counter: at.counter, lineage };
    if version.counter == 0 || version.lineage.contains_key(&version.epoch) {
        return None;
    }
    let keys = text
        .keys
        .into_iter()
        .map(|(key, mac)| {
            let mac: [u8; 16] = BASE64.decode(mac).ok()?.try_into().ok()?;
            Some((Key::new(key).ok()?, ValueMac(mac)))
        })
        .collect::<Option<_>>()?;
    Some(Base { version, keys })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hsm_types::{Incarnation, WriterId};

    fn base() -> Base {
        let writer = |b| WriterId::from_bytes([b; 8]);
        let version = Version::first(Incarnation::from_bytes([7; 8]), writer(1))
            .next(writer(1), &[], false)
            .next(writer(2), &[], false);
        Base { version, keys: [(Key::new("tls.crt").unwrap(), ValueMac([9; 16]))].into() }
    }

    #[test]
    fn a_base_round_trips_under_its_own_key_and_tells_nobody_else_its_version() {
        let key = DigestKey::new(&[1; 32]);
        let text = encode(&base(), &key);
        assert_eq!(decode(&text, &key), Some(base()));
        assert_eq!(decode(&text, &DigestKey::new(&[2; 32])), None);
        assert_eq!(encode(&base(), &key), text, "what has not changed is not written again");
        let incarnation = base().version.incarnation.to_string();
        assert!(!text.contains(&incarnation) && text.len() < 320, "{text}");
    }

    #[test]
    fn what_does_not_parse_is_no_base() {
        let key = DigestKey::new(&[1; 32]);
        let good = encode(&base(), &key);
        for bad in [
            String::new(),
            "{}".to_owned(),
            good.replace("\"v\":2", "\"v\":1"),
            good.replace("tls.crt", "../x"),
            good.replace("CQkJ", "C"),
            good.replace("\"at\":\"", "\"at\":\"A"),
        ] {
            assert_eq!(decode(&bad, &key), None, "{bad}");
        }
    }

    #[test]
    fn a_version_that_cannot_be_is_no_base() {
        let key = DigestKey::new(&[1; 32]);
        let mut impossible = base();
        impossible.version.counter = 0;
        assert_eq!(decode(&encode(&impossible, &key), &key), None);
    }
}
