//! Sealed objects: the header, the seal, and the body's frame around the entries.

use std::fmt;

use aws_lc_rs::aead::{Aad, Nonce};
use zeroize::Zeroizing;

use super::wire::{Malformed, Reader, Writer};
use super::{Damage, Entry, Kind, OBJECT_PREFIX, StoreKeys};
use crate::StoreError;

const HEADER: usize = 32;
const TAG: usize = 16;
/// What a sealed object costs beside its entries, if it replaces nothing.
pub(crate) const SEALED_OVERHEAD: usize = HEADER + TAG + 1;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) struct $name(pub(crate) [u8; 8]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
    };
}
id!(
    /// The random name of a sealed object, never used twice.
    ObjectId
);
id!(
    /// The random name that ties the chunks of one version to their head.
    SetId
);

impl ObjectId {
    pub(crate) fn label(self) -> String {
        format!("{OBJECT_PREFIX}{self}")
    }

    pub(crate) fn from_label(label: &str) -> Option<Self> {
        let hex = label.strip_prefix(OBJECT_PREFIX)?;
        let value = u64::from_str_radix(hex, 16).ok()?;
        let id = Self(value.to_be_bytes());
        // Only the form that we write: upper case or a sign would be a second name for the same object.
        (id.label() == label).then_some(id)
    }
}

impl ObjectId {
    /// Whether a value begins as the sealed object of this name does. The seal is not looked at.
    pub(crate) fn is_named_by(self, value: &[u8]) -> bool {
        Kind::Sealed.check(value).is_ok() && value.get(4..12) == Some(&self.0[..])
    }
}

/// An opened object.
pub(crate) struct Sealed {
    pub(crate) generation: u64,
    pub(crate) replaces: Vec<ObjectId>,
    pub(crate) entries: Vec<Entry>,
}

/// Seals encoded entries into the value of an object.
pub(crate) fn seal(
    keys: &StoreKeys,
    id: ObjectId,
    generation: u64,
    nonce: [u8; 12],
    replaces: &[ObjectId],
    entries: &[Zeroizing<Vec<u8>>],
) -> Result<Vec<u8>, StoreError> {
    let mut value = Vec::with_capacity(HEADER);
    value.extend_from_slice(&Kind::Sealed.head());
    value.extend_from_slice(&id.0);
    value.extend_from_slice(&generation.to_be_bytes());
    value.extend_from_slice(&nonce);
    let mut body = Writer::new();
    body.length(replaces.len());
    for replaced in replaces {
        body.put(&replaced.0);
    }
    for entry in entries {
        body.put(entry);
    }
    let mut body = body.done();
    let tag = keys
        .seal
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), associated(keys, &value), &mut body)
        .map_err(|_| StoreError::Crypto)?;
    value.extend_from_slice(&body);
    value.extend_from_slice(tag.as_ref());
    Ok(value)
}

/// Opens the value that was read under the label of `id`.
pub(crate) fn open(keys: &StoreKeys, id: ObjectId, value: &[u8]) -> Result<Sealed, Damage> {
    Kind::Sealed.check(value)?;
    if value.len() < HEADER + TAG + 1 {
        return Err(Damage::Header);
    }
    let (header, sealed) = value.split_at(HEADER);
    if header[4..12] != id.0 {
        return Err(Damage::WrongObject);
    }
    let generation = u64::from_be_bytes(header[12..20].try_into().map_err(|_| Damage::Header)?);
    let nonce = Nonce::try_assume_unique_for_key(&header[20..32]).map_err(|_| Damage::Header)?;
    let mut sealed = Zeroizing::new(sealed.to_vec());
    let body =
        keys.seal.open_in_place(nonce, associated(keys, header), &mut sealed).map_err(|_| Damage::Seal)?;
    let (replaces, entries) = parse(id, body)?;
    Ok(Sealed { generation, replaces, entries })
}

/// What a body holds: the ids that it replaces, and its entries.
pub(crate) fn parse(id: ObjectId, body: &[u8]) -> Result<(Vec<ObjectId>, Vec<Entry>), Malformed> {
    let mut reader = Reader::new(body);
    let count = reader.count(8)?;
    let replaces = (0..count).map(|_| reader.array().map(ObjectId)).collect::<Result<Vec<_>, _>>()?;
    if replaces.contains(&id) {
        return Err(Malformed("an object that replaces itself"));
    }
    let mut entries = Vec::new();
    while !reader.is_empty() {
        let kind = reader.byte()?;
        entries.push(Entry::decode(kind, reader.bytes()?)?);
    }
    Ok((replaces, entries))
}

fn associated(keys: &StoreKeys, header: &[u8]) -> Aad<Vec<u8>> {
    let mut data = b"hsm.j5t.io/object/v1".to_vec();
    data.extend_from_slice(keys.token_id.as_bytes());
    data.extend_from_slice(&keys.store_id);
    data.extend_from_slice(header);
    Aad::from(data)
}
