//! The keyed digests that the cluster may see: values' macs in bases, and checksums in statuses.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use hsm_core::{ValueMac, Values};
use hsm_types::{Incarnation, Key, KeyDigest, Payload, RecordPath, Value};

/// The key of all digests in the cluster. It has no `Debug`, and is never written anywhere but into its Secret.
pub struct DigestKey {
    key: hmac::Key,
    id: String,
}

/// The keyed digest of each value.
pub type Macs = BTreeMap<Key, ValueMac>;

impl DigestKey {
    /// How many bytes a key has.
    pub const LEN: usize = 32;

    /// Takes the key's bytes.
    pub fn new(bytes: &[u8; Self::LEN]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, bytes);
        let tag = hmac::sign(&key, b"hsm.j5t.io/digest-key-id/v1");
        let id = hex(&tag.as_ref()[..4]);
        Self { key, id }
    }

    /// A short name of the key, from which nothing follows: bases of another key are no bases.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The first 16 bytes of an HMAC over: a domain, the path, the key, the value; each preceded by its length.
    pub fn value(&self, path: &RecordPath, key: &Key, value: &Value) -> ValueMac {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [
            b"hsm.j5t.io/value/v1".as_slice(),
            path.as_str().as_bytes(),
            key.as_str().as_bytes(),
            value.expose(),
        ] {
            field(&mut context, part);
        }
        let mut mac = [0; 16];
        mac.copy_from_slice(&context.sign().as_ref()[..16]);
        ValueMac(mac)
    }

    /// Hides what the cluster may keep and nobody may read; the same bytes always become the same (AES-256-GCM-SIV,
    /// RFC 8452, whose security does not rest on the nonce), so that what has not changed is not written again. `None`
    /// where the library fails, which it does not do.
    pub fn seal(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = bytes.to_vec();
        self.sealing()?.seal_in_place_append_tag(nonce(), Aad::from(SEAL), &mut sealed).ok()?;
        Some(sealed)
    }

    /// What was sealed with this key.
    pub fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = sealed.to_vec();
        let opened = self.sealing()?.open_in_place(nonce(), Aad::from(SEAL), &mut bytes).ok()?;
        Some(opened.to_vec())
    }

    fn sealing(&self) -> Option<LessSafeKey> {
        let key = hmac::sign(&self.key, SEAL);
        UnboundKey::new(&AES_256_GCM_SIV, key.as_ref()).ok().map(LessSafeKey::new)
    }

    /// The macs of all values.
    pub fn values(&self, path: &RecordPath, payload: &Payload) -> Macs {
        payload.iter().map(|(k, v)| (k.clone(), self.value(path, k, v))).collect()
    }

    /// The checksum of a status: an HMAC over the keys and the macs of their values, so that no value is needed.
    /// Two sides have the same exactly when they have the same values.
    pub fn checksum<'a>(&self, macs: impl IntoIterator<Item = (&'a Key, &'a ValueMac)>) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        field(&mut context, b"hsm.j5t.io/checksum/v1");
        for (key, mac) in macs {
            field(&mut context, key.as_str().as_bytes());
            field(&mut context, &mac.0);
        }
        format!("hmac-sha256:{}", hex(context.sign().as_ref()))
    }
}

const SEAL: &[u8] = b"hsm.j5t.io/base-seal/v1";

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// The digests that a record's mark has, for one incarnation.
pub fn marks(incarnation: Incarnation, payload: &Payload) -> BTreeMap<Key, KeyDigest> {
    payload.iter().map(|(k, v)| (k.clone(), KeyDigest::of(incarnation, k, v))).collect()
}

/// The macs of the core's values.
pub fn macs_of(values: &Values) -> Macs {
    values.iter().map(|(k, v)| (k.clone(), v.mac)).collect()
}

fn field(context: &mut hmac::Context, bytes: &[u8]) {
    context.update(&(bytes.len() as u64).to_be_bytes());
    context.update(bytes);
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(pairs: &[(&str, &str)]) -> Payload {
        pairs.iter().map(|(k, v)| (Key::new(*k).unwrap(), Value::new(v.as_bytes().to_vec()))).collect()
    }

    #[test]
    fn checksums_are_equal_exactly_for_equal_values_under_one_key() {
        let (one, two) = (DigestKey::new(&[1; 32]), DigestKey::new(&[2; 32]));
        let path = RecordPath::new("secrets/a/b").unwrap();
        let sum = |key: &DigestKey, pairs| key.checksum(&key.values(&path, &payload(pairs)));
        let base = sum(&one, &[("a", "1"), ("b", "2")]);
        assert_eq!(base.len(), "hmac-sha256:".len() + 64);
        assert_eq!(base, sum(&one, &[("b", "2"), ("a", "1")]));
        assert_ne!(base, sum(&one, &[("a", "1"), ("b", "3")]));
        assert_ne!(base, sum(&one, &[("a", "1")]));
        assert_ne!(base, sum(&two, &[("a", "1"), ("b", "2")]));
        assert_ne!(one.id(), two.id());
    }

    #[test]
    fn what_is_sealed_opens_with_its_key_alone_and_is_always_the_same() {
        let (one, two) = (DigestKey::new(&[1; 32]), DigestKey::new(&[2; 32]));
        let sealed = one.seal(b"a version").unwrap();
        assert_eq!(one.seal(b"a version").unwrap(), sealed);
        assert_ne!(one.seal(b"another").unwrap(), sealed);
        assert_eq!(one.open(&sealed).unwrap(), b"a version");
        assert_eq!(two.open(&sealed), None);
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert_eq!(one.open(&altered), None, "{at}");
        }
        assert_eq!(one.open(b""), None);
    }

    #[test]
    fn a_value_has_another_mac_under_another_path_or_key() {
        let key = DigestKey::new(&[1; 32]);
        let mac = |path: &str, name: &str| {
            key.value(&RecordPath::new(path).unwrap(), &Key::new(name).unwrap(), &Value::new(b"v".to_vec()))
        };
        assert_ne!(mac("a", "k"), mac("b", "k"));
        assert_ne!(mac("a", "k"), mac("a", "l"));
        assert_ne!(mac("ab", "k"), mac("a", "bk"));
    }
}
