//! Conversions between the wire and the types: the one place where a message's fields are checked.
//!
//! From the wire: `TryFrom`, with an error that names the field. To the wire: `From`, by reference where the message
//! carries no payload, by value where it does (so that no second copy of a value is left behind).

use hsm_types::{
    Content, Digest, EpochId, Incarnation, InvalidKey, InvalidPath, Key, KeyDigest, Metadata, Origin,
    Payload, RecordPath, Revision, SecretMark, Stamp, Tombstone, Value, Version, WriterId,
};

use crate::agent as wire;

/// A message that does not say what it must.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field that must be set is not.
    #[error("the field {0} is missing")]
    Missing(&'static str),
    /// A field of fixed length has another one.
    #[error("the field {0} has {1} bytes, not {2}")]
    Length(&'static str, usize, usize),
    /// A path is not valid.
    #[error(transparent)]
    Path(#[from] InvalidPath),
    /// A key is not valid.
    #[error(transparent)]
    Key(#[from] InvalidKey),
    /// A version's counter is 0, or its lineage names its own epoch.
    #[error("the version is not well-formed: {0}")]
    Version(&'static str),
}

fn bytes<const N: usize>(field: &'static str, from: &[u8]) -> Result<[u8; N], WireError> {
    from.try_into().map_err(|_| WireError::Length(field, from.len(), N))
}

impl TryFrom<&wire::Epoch> for EpochId {
    type Error = WireError;
    fn try_from(from: &wire::Epoch) -> Result<Self, WireError> {
        Ok(Self { number: from.number, writer: WriterId::from_bytes(bytes("epoch.writer", &from.writer)?) })
    }
}

impl From<&EpochId> for wire::Epoch {
    fn from(from: &EpochId) -> Self {
        Self { number: from.number, writer: from.writer.as_bytes().to_vec() }
    }
}

fn epoch(from: Option<&wire::Epoch>) -> Result<EpochId, WireError> {
    from.ok_or(WireError::Missing("epoch"))?.try_into()
}

fn counter(from: u64) -> Result<u64, WireError> {
    if from == 0 { Err(WireError::Version("the counter starts at 1")) } else { Ok(from) }
}

impl TryFrom<&wire::Stamp> for Stamp {
    type Error = WireError;
    fn try_from(from: &wire::Stamp) -> Result<Self, WireError> {
        Ok(Self {
            incarnation: Incarnation::from_bytes(bytes("incarnation", &from.incarnation)?),
            epoch: epoch(from.epoch.as_ref())?,
            counter: counter(from.counter)?,
        })
    }
}

impl From<&Stamp> for wire::Stamp {
    fn from(from: &Stamp) -> Self {
        Self {
            incarnation: from.incarnation.as_bytes().to_vec(),
            epoch: Some((&from.epoch).into()),
            counter: from.counter,
        }
    }
}

impl TryFrom<&wire::Version> for Version {
    type Error = WireError;
    fn try_from(from: &wire::Version) -> Result<Self, WireError> {
        let own = epoch(from.epoch.as_ref())?;
        let lineage = from
            .lineage
            .iter()
            .map(|entry| Ok((epoch(entry.epoch.as_ref())?, counter(entry.end)?)))
            .collect::<Result<_, WireError>>()?;
        let version = Self {
            incarnation: Incarnation::from_bytes(bytes("incarnation", &from.incarnation)?),
            epoch: own,
            counter: counter(from.counter)?,
            lineage,
        };
        if version.lineage.contains_key(&own) {
            return Err(WireError::Version("the lineage names the version's own epoch"));
        }
        Ok(version)
    }
}

impl From<&Version> for wire::Version {
    fn from(from: &Version) -> Self {
        let lineage = from
            .lineage
            .iter()
            .map(|(e, end)| wire::LineageEntry { epoch: Some(e.into()), end: *end })
            .collect();
        Self {
            incarnation: from.incarnation.as_bytes().to_vec(),
            epoch: Some((&from.epoch).into()),
            counter: from.counter,
            lineage,
        }
    }
}

/// The digests of some values.
pub fn key_digests(from: &[wire::KeyDigest]) -> Result<Vec<(Key, KeyDigest)>, WireError> {
    from.iter()
        .map(|k| Ok((Key::new(k.key.as_str())?, KeyDigest::from_bytes(bytes("digest", &k.digest)?))))
        .collect()
}

impl From<(&Key, &KeyDigest)> for wire::KeyDigest {
    fn from((key, digest): (&Key, &KeyDigest)) -> Self {
        Self { key: key.as_str().to_owned(), digest: digest.as_bytes().to_vec() }
    }
}

impl TryFrom<&wire::Origin> for Origin {
    type Error = WireError;
    fn try_from(from: &wire::Origin) -> Result<Self, WireError> {
        if from.from_secret {
            return Ok(Self::Secret);
        }
        let Some(mark) = &from.mark else {
            return Ok(Self::Token { mark: None });
        };
        let keys = key_digests(&mark.keys)?;
        let stamp = mark.stamp.as_ref().ok_or(WireError::Missing("mark.stamp"))?.try_into()?;
        Ok(Self::Token { mark: Some(SecretMark { stamp, keys }) })
    }
}

impl From<&Origin> for wire::Origin {
    fn from(from: &Origin) -> Self {
        match from {
            Origin::Secret => Self { from_secret: true, mark: None },
            Origin::Token { mark } => Self { from_secret: false, mark: mark.as_ref().map(Into::into) },
        }
    }
}

impl From<&SecretMark> for wire::SecretMark {
    fn from(from: &SecretMark) -> Self {
        let keys = from.keys.iter().map(|(k, d)| (k, d).into()).collect();
        Self { stamp: Some((&from.stamp).into()), keys }
    }
}

impl TryFrom<&wire::Revision> for Revision {
    type Error = WireError;
    fn try_from(from: &wire::Revision) -> Result<Self, WireError> {
        Ok(Self {
            version: from.version.as_ref().ok_or(WireError::Missing("revision.version"))?.try_into()?,
            digest: Digest::from_bytes(bytes("revision.digest", &from.digest)?),
            origin: from.origin.as_ref().ok_or(WireError::Missing("revision.origin"))?.try_into()?,
        })
    }
}

impl From<&Revision> for wire::Revision {
    fn from(from: &Revision) -> Self {
        Self {
            version: Some((&from.version).into()),
            digest: from.digest.as_bytes().to_vec(),
            origin: Some((&from.origin).into()),
        }
    }
}

impl TryFrom<&wire::Tombstone> for Tombstone {
    type Error = WireError;
    fn try_from(from: &wire::Tombstone) -> Result<Self, WireError> {
        Ok(Self {
            path: RecordPath::new(from.path.as_str())?,
            incarnation: Incarnation::from_bytes(bytes("incarnation", &from.incarnation)?),
            stamp: from.stamp.as_ref().ok_or(WireError::Missing("tombstone.stamp"))?.try_into()?,
        })
    }
}

impl From<&Tombstone> for wire::Tombstone {
    fn from(from: &Tombstone) -> Self {
        Self {
            path: from.path.as_str().to_owned(),
            incarnation: from.incarnation.as_bytes().to_vec(),
            stamp: Some((&from.stamp).into()),
        }
    }
}

impl TryFrom<wire::Content> for Content {
    type Error = WireError;
    fn try_from(from: wire::Content) -> Result<Self, WireError> {
        // Values are moved into wiped memory first, so that an invalid key leaves none behind.
        let values: Vec<(String, Value)> = from.data.into_iter().map(|(k, v)| (k, Value::new(v))).collect();
        let data = values
            .into_iter()
            .map(|(k, v)| Ok((Key::new(k)?, v)))
            .collect::<Result<Payload, InvalidKey>>()?;
        let metadata = from.metadata.unwrap_or_default();
        let metadata = Metadata {
            description: metadata.description,
            labels: metadata.labels.into_iter().collect(),
            attributes: metadata.attributes.into_iter().collect(),
        };
        Ok(Self { data, metadata })
    }
}

impl From<&Content> for wire::Content {
    fn from(from: &Content) -> Self {
        let data = from.data.iter().map(|(k, v)| (k.as_str().to_owned(), v.expose().to_vec())).collect();
        let metadata = (!from.metadata.is_empty()).then(|| wire::Metadata {
            description: from.metadata.description.clone(),
            labels: from.metadata.labels.clone().into_iter().collect(),
            attributes: from.metadata.attributes.clone().into_iter().collect(),
        });
        Self { data, metadata }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_round_trips() {
        let life = Incarnation::from_bytes([1; 8]);
        let writer = |b| WriterId::from_bytes([b; 8]);
        let version = Version::first(life, writer(1)).next(writer(2), &[], false);
        let mark = SecretMark {
            stamp: version.stamp(),
            keys: vec![(Key::new("a").unwrap(), KeyDigest::from_bytes([9; 8]))],
        };
        for origin in [Origin::Secret, Origin::Token { mark: None }, Origin::Token { mark: Some(mark) }] {
            let revision = Revision { version: version.clone(), digest: Digest::from_bytes([3; 32]), origin };
            assert_eq!(Revision::try_from(&wire::Revision::from(&revision)), Ok(revision));
        }
    }

    #[test]
    fn bad_messages_name_the_field() {
        let bad = wire::Stamp { incarnation: vec![1; 7], epoch: None, counter: 1 };
        assert_eq!(Stamp::try_from(&bad), Err(WireError::Length("incarnation", 7, 8)));
        let bad = wire::Content { data: [("schlüssel".to_owned(), vec![1])].into(), metadata: None };
        assert!(matches!(Content::try_from(bad), Err(WireError::Key(_))));
    }
}
