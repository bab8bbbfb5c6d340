//! Taking a store off its token altogether, for when flash comes back only with nothing left.

use hsm_token::{ObjectHandle, Token, TokenListing};
use zeroize::Zeroizing;

use super::Store;
use super::clear::candidate;
use super::open::{of_the_object, read_keys};
use crate::format::{
    self, Damage, Entry, IDENTITY_LABEL, KEY_LABELS, KEY_PAIR_LABEL, Kind, ObjectId, StoreKeys,
};
use crate::plain::{self, Decoded};
use crate::{DamagedObject, Options, StoreError, WriterLock};

impl<T: Token> Store<T> {
    /// Destroys everything of ours on a token that is logged in: records, identity, store key and key pair. What is not
    /// ours stays. Records that are nowhere else are gone for good: the caller has verified mirrors or an export.
    ///
    /// The records go first, their tombstones after them, then the identity, then the copies of the store key, then the key pair, each when what
    /// went before has settled: at no time does the token say that it is ours and hold records that cannot be opened.
    /// After a crash the same call goes on, and [`Store::format`] with the same id works when it is done. Refused
    /// before anything is destroyed if an object with a name of ours is of a newer format or cannot be read.
    pub fn dismantle(token: &mut T, options: &mut Options) -> Result<(), StoreError> {
        let _lock = WriterLock::acquire(&options.lock, options.lock_wait, options.clock.as_ref())?;
        let listing = token.list()?;
        // If the key does not open, no record can be read anyway, and there is nothing that could come back.
        let keys = read_keys(token, &listing).ok().and_then(|copies| copies.opened);
        let found = ours(token, &listing, keys.as_ref())?;
        let settle = token.limits().settle;
        for step in STEPS {
            for (_, label, handle) in found.iter().filter(|(at, _, _)| *at == step) {
                destroy(token, label, *handle)?;
            }
            options.clock.sleep(settle);
        }
        token.destroy_key_pair(KEY_PAIR_LABEL)?;
        options.clock.sleep(settle);
        Ok(())
    }
}

/// In which order objects go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Records,
    Tombstones,
    Identity,
    Keys,
}

const STEPS: [Step; 4] = [Step::Records, Step::Tombstones, Step::Identity, Step::Keys];

/// All objects of ours, or what keeps us from destroying them.
fn ours<T: Token>(
    token: &mut T,
    listing: &TokenListing,
    keys: Option<&StoreKeys>,
) -> Result<Vec<(Step, String, ObjectHandle)>, StoreError> {
    let mut found = plain_records(token, listing)?;
    let mut damaged = Vec::new();
    for object in listing.data.iter().filter(|object| object.label.starts_with(format::PREFIX)) {
        let label = object.label.clone();
        let id = ObjectId::from_label(&label);
        let fixed = label == IDENTITY_LABEL || KEY_LABELS.contains(&label.as_str());
        if id.is_none() && !fixed {
            damaged.push(DamagedObject { label, path: None, damage: Damage::Name });
            continue;
        }
        match (read(token, &label, object.handle)?, id) {
            (Err(damage), _) => damaged.push(DamagedObject { label, path: None, damage }),
            (Ok(value), Some(id)) => {
                let opened = keys.and_then(|keys| format::open(keys, id, &value).ok());
                let tombstone = |entry: &Entry| matches!(entry, Entry::Tombstone(_));
                let last = opened.is_some_and(|sealed| sealed.entries.iter().any(tombstone));
                found.push((if last { Step::Tombstones } else { Step::Records }, label, object.handle));
            }
            (Ok(_), None) => {
                let step = if label == IDENTITY_LABEL { Step::Identity } else { Step::Keys };
                found.push((step, label, object.handle));
            }
        }
    }
    if damaged.is_empty() { Ok(found) } else { Err(StoreError::Damaged { path: None, objects: damaged }) }
}

/// Plain records of ours. Everything else that has no label of ours stays.
fn plain_records<T: Token>(
    token: &mut T,
    listing: &TokenListing,
) -> Result<Vec<(Step, String, ObjectHandle)>, StoreError> {
    let mut found = Vec::new();
    for object in &listing.data {
        let Some((label, _)) = candidate(object) else { continue };
        match token.read(object.handle) {
            Ok(value) if is_plain(&label, &value) => found.push((Step::Records, label, object.handle)),
            Ok(_) => {}
            Err(error) if of_the_object(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

fn is_plain(label: &str, value: &[u8]) -> bool {
    matches!(plain::decode(label, value), Decoded::Record(_))
}

/// The value of an object of ours, if it is what its label says: a stale handle would destroy another one.
fn read<T: Token>(
    token: &mut T,
    label: &str,
    handle: ObjectHandle,
) -> Result<Result<Zeroizing<Vec<u8>>, Damage>, StoreError> {
    let value = match token.read(handle) {
        Ok(value) => value,
        Err(error) if of_the_object(&error) => return Ok(Err(Damage::Unreadable(error.to_string()))),
        Err(error) => return Err(error.into()),
    };
    if !label.starts_with(format::PREFIX) {
        return Ok(if is_plain(label, &value) { Ok(value) } else { Err(Damage::WrongObject) });
    }
    let kind = if label == IDENTITY_LABEL {
        Kind::Identity
    } else if KEY_LABELS.contains(&label) {
        Kind::StoreKey
    } else {
        Kind::Sealed
    };
    Ok(match (kind.check(&value), ObjectId::from_label(label)) {
        (Err(damage), _) => Err(damage),
        (Ok(()), Some(id)) if !id.is_named_by(&value) => Err(Damage::WrongObject),
        (Ok(()), _) => Ok(value),
    })
}

fn destroy<T: Token>(token: &mut T, label: &str, handle: ObjectHandle) -> Result<(), StoreError> {
    match read(token, label, handle)? {
        Ok(_) => Ok(token.destroy(handle)?),
        Err(damage) => {
            let object = DamagedObject { label: label.to_owned(), path: None, damage };
            Err(StoreError::Damaged { path: None, objects: vec![object] })
        }
    }
}
