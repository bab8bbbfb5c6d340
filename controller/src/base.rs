//! The text form of a base: what token and Secret last had in common.
//!
//! The same text stands in the Secret's annotation and in the HSMSecret's status. One JSON object:
//! `{"v":1,"id":KEY ID,"at":STAMP,"lineage":[[NUMBER,WRITER,END],…],"keys":{KEY: MAC,…}}`; a mac is 16 bytes in
//! base64url without padding. A text that does not parse, or was made with another digest key, is no base.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hsm_core::{Base, ValueMac};
use hsm_types::{EpochId, Key, Stamp, Version};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    v: u32,
    id: String,
    at: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lineage: Vec<(u32, String, u64)>,
    keys: BTreeMap<String, String>,
}

/// The text, for the digest key with this id.
pub fn encode(base: &Base, key_id: &str) -> String {
    let text = Text {
        v: 1,
        id: key_id.to_owned(),
        at: base.version.stamp().to_string(),
        lineage: base
            .version
            .lineage
            .iter()
            .map(|(epoch, end)| (epoch.number, epoch.writer.to_string(), *end))
            .collect(),
        keys: base.keys.iter().map(|(key, mac)| (key.as_str().to_owned(), BASE64.encode(mac.0))).collect(),
    };
    // A struct of strings and numbers always serialises; an empty text would be no base, which is safe.
    serde_json::to_string(&text).unwrap_or_default()
}

/// The base, if the text is one that was made with this digest key.
pub fn decode(text: &str, key_id: &str) -> Option<Base> {
    let text: Text = serde_json::from_str(text).ok()?;
    if text.v != 1 || text.id != key_id {
        return None;
    }
    let at: Stamp = text.at.parse().ok()?;
    let lineage = text
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
    fn a_base_round_trips_under_its_own_key() {
        let text = encode(&base(), "aabbccdd");
        assert_eq!(decode(&text, "aabbccdd"), Some(base()));
        assert_eq!(decode(&text, "00000000"), None);
        assert!(text.len() < 220, "{text}");
    }

    #[test]
    fn what_does_not_parse_is_no_base() {
        let good = encode(&base(), "k");
        for bad in [
            String::new(),
            "{}".to_owned(),
            good.replace("\"v\":1", "\"v\":2"),
            good.replace("tls.crt", "../x"),
            good.replace("CQkJ", "C"),
            good.replace("2.1-", "2.0-"),
        ] {
            assert_eq!(decode(&bad, "k"), None, "{bad}");
        }
    }
}
