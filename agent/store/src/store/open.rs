//! Opening: which token it is, and its store key.

use std::collections::BTreeMap;

use hsm_token::{ErrorClass, ObjectInfo, Token, TokenError, TokenListing};
use hsm_types::{Presence, TokenId};

use super::{Store, StoreIdentity};
use crate::format::{self, Damage, IDENTITY_LABEL, KEY_LABELS, KEY_PAIR_LABEL, StoreKeys, Wrapped};
use crate::lock::ReaderLock;
use crate::{DamagedObject, Index, Options, StoreError};

/// Which token this is, by its public identity object: needs no login, and proves nothing (see admission).
///
/// Unknown when the object is damaged, or when there are several.
pub fn identify<T: Token>(token: &mut T) -> Result<Presence<TokenId>, StoreError> {
    let listing = token.list()?;
    match read_identity(token, &listing)? {
        Ok(id) => Ok(Presence::Present(id)),
        Err(Damage::Missing) => Ok(Presence::Absent),
        Err(damage) => Ok(Presence::unknown(format!("the token's identity: {damage}"))),
    }
}

/// Errors of one read that speak of the object, not of the session.
pub(super) fn of_the_object(error: &TokenError) -> bool {
    matches!(
        error.class,
        ErrorClass::NoSuchObject
            | ErrorClass::ObjectGone
            | ErrorClass::ObjectDamaged
            | ErrorClass::Module
            | ErrorClass::Invalid
            | ErrorClass::Full
    )
}

pub(super) fn labelled<'a>(
    listing: &'a TokenListing,
    label: &'a str,
) -> impl Iterator<Item = &'a ObjectInfo> {
    listing.data.iter().filter(move |object| object.label == label)
}

/// The one object with this label, decoded.
fn read_one<T: Token, R>(
    token: &mut T,
    listing: &TokenListing,
    label: &str,
    decode: impl Fn(&[u8]) -> Result<R, Damage>,
) -> Result<Result<R, Damage>, StoreError> {
    let found: Vec<_> = labelled(listing, label).collect();
    match found.as_slice() {
        [] => Ok(Err(Damage::Missing)),
        [object] => match token.read(object.handle) {
            Ok(value) => Ok(decode(&value)),
            Err(error) if of_the_object(&error) => Ok(Err(Damage::Unreadable(error.to_string()))),
            Err(error) => Err(error.into()),
        },
        more => Ok(Err(Damage::Doubled(more.len()))),
    }
}

pub(super) fn read_identity<T: Token>(
    token: &mut T,
    listing: &TokenListing,
) -> Result<Result<TokenId, Damage>, StoreError> {
    read_one(token, listing, IDENTITY_LABEL, format::decode_identity)
}

/// What the two copies of the store key came to.
pub(super) struct KeyCopies {
    /// The keys, from the first copy that opens, and the value of that copy.
    pub(super) opened: Option<StoreKeys>,
    /// What is wrong, by copy.
    pub(super) damage: [Option<Damage>; 2],
    /// Why nothing opens, for people.
    pub(super) reason: String,
}

/// Reads both copies, and opens each.
pub(super) fn read_keys<T: Token>(token: &mut T, listing: &TokenListing) -> Result<KeyCopies, StoreError> {
    let mut copies = KeyCopies { opened: None, damage: [None, None], reason: String::new() };
    let mut first: Option<Wrapped> = None;
    let mut trouble = None;
    for (label, damage) in KEY_LABELS.iter().zip(0..) {
        let read = read_one(token, listing, label, Wrapped::decode)?;
        let outcome = match read {
            // The same bytes need no second derivation.
            Ok(wrapped) if first.as_ref() == Some(&wrapped) => continue,
            Ok(wrapped) => unwrap(token, &wrapped, &mut trouble)?.map(|keys| (wrapped, keys)),
            Err(found) => Err(found),
        };
        match outcome {
            Ok((wrapped, keys)) => {
                let other = copies.opened.as_ref().is_some_and(|known| {
                    known.store_id != keys.store_id || known.fingerprint != keys.fingerprint
                });
                if other {
                    copies.damage[damage] = Some(Damage::WrongObject);
                } else {
                    copies.opened = Some(keys);
                    first = Some(wrapped);
                }
            }
            Err(found) => {
                if copies.reason.is_empty() {
                    copies.reason = format!("{label}: {found}");
                }
                copies.damage[damage] = Some(found);
            }
        }
    }
    match trouble {
        // The key pair is there and did not work: that says nothing of the copies.
        Some(error) if copies.opened.is_none() => Err(error.into()),
        _ => Ok(copies),
    }
}

fn unwrap<T: Token>(
    token: &mut T,
    wrapped: &Wrapped,
    trouble: &mut Option<TokenError>,
) -> Result<Result<StoreKeys, Damage>, StoreError> {
    match token.derive(KEY_PAIR_LABEL, &wrapped.ephemeral) {
        Ok(shared) => Ok(wrapped.unwrap_with(&shared)),
        Err(error) if of_the_object(&error) => {
            let damage = match token.find_key_pair(KEY_PAIR_LABEL)? {
                None => Damage::Unreadable("the key pair that it is wrapped for is gone".to_owned()),
                Some(point) if point != wrapped.recipient => {
                    Damage::Unreadable("it is wrapped for another key pair".to_owned())
                }
                Some(_) => {
                    let text = error.to_string();
                    *trouble = Some(error);
                    Damage::Unreadable(text)
                }
            };
            Ok(Err(damage))
        }
        Err(error) => Err(error.into()),
    }
}

impl<T: Token> Store<T> {
    /// Opens the store of a token that is logged in: reads the identity, the store key and every object of ours.
    /// Writes nothing to it, and waits for a writer to finish. On an error the token is given back.
    pub fn open(mut token: T, options: Options) -> Result<Self, (T, StoreError)> {
        let epoch = token.epoch();
        let opened = options.clock.now();
        let _lock = ReaderLock::acquire(&options.lock, options.lock_wait, options.clock.as_ref());
        let (keys, blemishes) = match prepare(&mut token) {
            Ok(prepared) => prepared,
            Err(error) => return Err((token, error)),
        };
        let mut store = Self {
            token,
            options,
            keys,
            epoch,
            void: false,
            objects: BTreeMap::new(),
            assemblies: BTreeMap::new(),
            parts: BTreeMap::new(),
            stale: true,
            unusable: BTreeMap::new(),
            // What others have destroyed just before may come back until the token has settled.
            clear: super::clear::Clear::since(opened),
            tried_again: false,
            blemishes,
            garbage: BTreeMap::new(),
            live: BTreeMap::new(),
            opened,
            created: BTreeMap::new(),
            buried: opened,
            destroyed: BTreeMap::new(),
            bytes_replaced: 0,
            bytes_leaking: 0,
            index: Index::default(),
        };
        match store.scan() {
            Ok(()) => Ok(store),
            Err(error) => Err((store.token, error)),
        }
    }

    /// What the token is and which key it has.
    pub fn identity(&self) -> StoreIdentity {
        StoreIdentity { token_id: self.keys.token_id, fingerprint: self.keys.fingerprint }
    }
}

fn prepare<T: Token>(token: &mut T) -> Result<(StoreKeys, Vec<DamagedObject>), StoreError> {
    let listing = token.list()?;
    let identity = read_identity(token, &listing)?;
    let ours = |label: &str| labelled(&listing, label).next().is_some();
    let sealed = listing.data.iter().any(|object| object.label.starts_with(format::OBJECT_PREFIX));
    // Without an identity and without records it is a token that nobody finished formatting, if it is ours at all.
    if identity == Err(Damage::Missing) && !sealed {
        return Err(StoreError::NoIdentity);
    }
    let copies = read_keys(token, &listing)?;
    let Some(keys) = copies.opened else {
        let none = !KEY_LABELS.iter().any(|label| ours(label));
        return Err(StoreError::StoreKeyMissing(if none {
            "both copies are gone".to_owned()
        } else {
            copies.reason
        }));
    };
    let mut blemishes = Vec::new();
    let mut note = |label: &str, damage: Damage| {
        blemishes.push(DamagedObject { label: label.to_owned(), path: None, damage });
    };
    match identity {
        Ok(id) if id == keys.token_id => {}
        // The key tells which token it is, under its seal; a lost or altered identity object is only reported.
        Ok(_) => note(IDENTITY_LABEL, Damage::WrongObject),
        Err(damage) => note(IDENTITY_LABEL, damage),
    }
    for (label, damage) in KEY_LABELS.iter().zip(copies.damage) {
        if let Some(damage) = damage {
            note(label, damage);
        }
    }
    Ok((keys, blemishes))
}
