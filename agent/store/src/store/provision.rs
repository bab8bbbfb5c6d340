//! Making a store on a token that has none.

use hsm_token::{Token, TokenListing, Visibility};
use hsm_types::TokenId;
use zeroize::Zeroizing;

use super::open::{labelled, of_the_object, read_identity, read_keys};
use super::{Store, StoreIdentity};
use crate::format::{self, Damage, IDENTITY_LABEL, KEY_LABELS, KEY_PAIR_LABEL, StoreKeys};
use crate::{Options, StoreError, WriterLock};

impl<T: Token> Store<T> {
    /// Makes a store on a token that is logged in and holds none: key pair, wrapped store key twice, and the identity
    /// last, since with it the token is ours. Refuses if there is an identity or any record object of ours.
    ///
    /// If it is interrupted, the same call goes on where it stopped. Before the first record, start a new epoch and
    /// [`Store::open`]: that reads the store key back as the next process will.
    pub fn format(
        token: &mut T,
        token_id: Option<TokenId>,
        options: &mut Options,
    ) -> Result<StoreIdentity, StoreError> {
        let _lock = WriterLock::acquire(&options.lock, options.lock_wait, options.clock.as_ref())?;
        let listing = token.list()?;
        blank(token, &listing)?;
        let copies = read_keys(token, &listing)?;
        let keys = match copies.opened {
            // An earlier attempt got this far: its key is good, so it stays, and so does the id sealed with it.
            Some(keys) if token_id.is_none_or(|id| id == keys.token_id) => {
                finish_copies(token, &listing, &copies.damage)?;
                keys
            }
            Some(keys) => {
                return Err(StoreError::NotBlank(format!("a store for {} was begun on it", keys.token_id)));
            }
            None => {
                remove_copies(token, &listing)?;
                make_keys(token, token_id, options)?
            }
        };
        let identity = StoreIdentity { token_id: keys.token_id, fingerprint: keys.fingerprint };
        // The identity only when the flash has the keys: a token that says it is ours has them.
        options.clock.sleep(token.limits().settle);
        let listing = token.list()?;
        let copies = read_keys(token, &listing)?;
        let good = copies.opened.is_some_and(|found| {
            found.fingerprint == identity.fingerprint && found.token_id == identity.token_id
        });
        if !good || copies.damage != [None, None] {
            return Err(StoreError::ReadBack);
        }
        write(token, IDENTITY_LABEL, Visibility::Public, &format::encode_identity(identity.token_id))?;
        options.clock.sleep(token.limits().settle);
        Ok(identity)
    }
}

/// Nothing of ours but what an interrupted attempt may leave.
fn blank<T: Token>(token: &mut T, listing: &TokenListing) -> Result<(), StoreError> {
    match read_identity(token, listing)? {
        Ok(id) => return Err(StoreError::NotBlank(id.to_string())),
        Err(Damage::Missing) => {}
        Err(damage) => return Err(StoreError::NotBlank(format!("its identity: {damage}"))),
    }
    let other = listing.data.iter().find(|object| {
        object.label.starts_with(format::PREFIX) && !KEY_LABELS.contains(&object.label.as_str())
    });
    other.map_or(Ok(()), |object| Err(StoreError::NotBlank(format!("object {}", object.label))))
}

fn make_keys<T: Token>(
    token: &mut T,
    token_id: Option<TokenId>,
    options: &mut Options,
) -> Result<StoreKeys, StoreError> {
    let token_id = match token_id {
        Some(id) => id,
        None => TokenId::from_random(options.random()?),
    };
    let point = match token.find_key_pair(KEY_PAIR_LABEL)? {
        Some(point) => point,
        None => token.generate_key_pair(KEY_PAIR_LABEL)?,
    };
    // Two sources, so that the key is good if either is.
    let mut store_key = Zeroizing::new(options.random::<32>()?);
    let from_token = token.random(32)?;
    for (byte, other) in store_key.iter_mut().zip(from_token.iter()) {
        *byte ^= other;
    }
    let store_id = options.random()?;
    let nonce = options.random()?;
    let ephemeral = format::random_ephemeral()?;
    let value = format::wrap(token_id, store_id, &point, &ephemeral, nonce, &store_key)?;
    for label in KEY_LABELS {
        write(token, label, Visibility::Private, &value)?;
    }
    StoreKeys::derive(token_id, store_id, &*store_key)
}

/// Writes the copy that an interrupted attempt did not get to.
fn finish_copies<T: Token>(
    token: &mut T,
    listing: &TokenListing,
    damage: &[Option<Damage>; 2],
) -> Result<(), StoreError> {
    let (missing, source) = match damage {
        [None, None] => return Ok(()),
        [None, Some(Damage::Missing)] => (KEY_LABELS[1], KEY_LABELS[0]),
        [Some(Damage::Missing), None] => (KEY_LABELS[0], KEY_LABELS[1]),
        [first, second] => {
            let damage = first.as_ref().or(second.as_ref());
            let text = damage.map_or_else(String::new, ToString::to_string);
            return Err(StoreError::NotBlank(format!("a copy of a store key: {text}")));
        }
    };
    let Some(object) = labelled(listing, source).next() else {
        return Err(StoreError::ReadBack);
    };
    let value = token.read(object.handle)?;
    write(token, missing, Visibility::Private, &value)
}

/// Removes copies that nothing opens, of an attempt whose key pair did not reach the flash. No record was ever
/// sealed with them: there is neither an identity nor a sealed object.
fn remove_copies<T: Token>(token: &mut T, listing: &TokenListing) -> Result<(), StoreError> {
    // All of them are looked at before one is destroyed: a refusal has changed nothing.
    let copies = || KEY_LABELS.iter().flat_map(|label| labelled(listing, label));
    for object in copies() {
        // Read once more: a stale handle would destroy another object.
        match token.read(object.handle) {
            Ok(value) if value.len() == format::WRAPPED_LEN => {}
            Ok(_) => return Err(StoreError::NotBlank(format!("object {} is not ours", object.label))),
            Err(error) if of_the_object(&error) => {
                return Err(StoreError::NotBlank(format!("object {}: {error}", object.label)));
            }
            Err(error) => return Err(error.into()),
        }
    }
    for object in copies() {
        token.destroy(object.handle)?;
    }
    Ok(())
}

fn write<T: Token>(
    token: &mut T,
    label: &str,
    visibility: Visibility,
    value: &[u8],
) -> Result<(), StoreError> {
    let handle = token.create(label, visibility, value)?;
    if token.read(handle)?.as_slice() == value { Ok(()) } else { Err(StoreError::ReadBack) }
}
