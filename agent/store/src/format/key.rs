//! The store key: how it is wrapped for the token's key pair, and what is derived from it.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{ECDH_P256, ParsedPublicKey, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::hkdf;
use hsm_types::TokenId;
use zeroize::Zeroizing;

use super::wire::Reader;
use super::{Damage, Kind};
use crate::StoreError;

/// The random name of one store; in the associated data of all it holds.
pub(crate) type StoreId = [u8; 8];
pub(crate) const WRAPPED_LEN: usize = 218;
const POINT: usize = 65;

/// Names a store key without telling it; the same for as long as the token is not initialised anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    /// 32 lower-case hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A wrapped store key as it was read, not yet opened.
#[derive(PartialEq, Eq)]
pub(crate) struct Wrapped {
    pub(crate) token_id: TokenId,
    pub(crate) store_id: StoreId,
    pub(crate) recipient: [u8; POINT],
    pub(crate) ephemeral: [u8; POINT],
    value: [u8; WRAPPED_LEN],
}

impl Wrapped {
    pub(crate) fn decode(value: &[u8]) -> Result<Self, Damage> {
        Kind::StoreKey.check(value)?;
        let value: [u8; WRAPPED_LEN] = value.try_into().map_err(|_| Damage::Header)?;
        let mut reader = Reader::new(&value[4..]);
        let wrapped = Self {
            token_id: TokenId::from_bytes(reader.array()?),
            store_id: reader.array()?,
            recipient: reader.array()?,
            ephemeral: reader.array()?,
            value,
        };
        // A token is never asked to derive with what is not a point of the curve.
        ParsedPublicKey::try_from(&UnparsedPublicKey::new(&ECDH_P256, wrapped.ephemeral))
            .map_err(|_| Damage::Seal)?;
        Ok(wrapped)
    }

    /// Opens it with the ECDH secret that the token derived from the ephemeral point.
    pub(crate) fn unwrap_with(&self, shared: &[u8]) -> Result<StoreKeys, Damage> {
        let key = wrapping_key(shared, &self.value).map_err(|_| Damage::Seal)?;
        let nonce = Nonce::try_assume_unique_for_key(&self.value[158..170]).map_err(|_| Damage::Seal)?;
        let mut sealed = Zeroizing::new(self.value[170..].to_vec());
        let opened =
            key.open_in_place(nonce, Aad::from(&self.value[..170]), &mut sealed).map_err(|_| Damage::Seal)?;
        StoreKeys::derive(self.token_id, self.store_id, opened).map_err(|_| Damage::Seal)
    }
}

/// What a store seals with. The store key itself is not kept.
pub(crate) struct StoreKeys {
    pub(crate) token_id: TokenId,
    pub(crate) store_id: StoreId,
    pub(crate) seal: LessSafeKey,
    pub(crate) fingerprint: Fingerprint,
}

impl StoreKeys {
    pub(crate) fn derive(token_id: TokenId, store_id: StoreId, store_key: &[u8]) -> Result<Self, StoreError> {
        let mut seal = Zeroizing::new([0; 32]);
        let id = token_id.as_bytes();
        expand(&store_id, store_key, &[b"hsm.j5t.io/seal/v1", id], &mut *seal)?;
        let mut fingerprint = [0; 16];
        expand(&store_id, store_key, &[b"hsm.j5t.io/fingerprint/v1", id], &mut fingerprint)?;
        Ok(Self { token_id, store_id, seal: gcm(&*seal)?, fingerprint: Fingerprint(fingerprint) })
    }
}

/// The value of the two store key objects.
pub(crate) fn wrap(
    token_id: TokenId,
    store_id: StoreId,
    recipient: &[u8],
    ephemeral: &PrivateKey,
    nonce: [u8; 12],
    store_key: &[u8; 32],
) -> Result<Vec<u8>, StoreError> {
    let public = ephemeral.compute_public_key().map_err(|_| StoreError::Crypto)?;
    let mut value = Kind::StoreKey.head().to_vec();
    value.extend_from_slice(token_id.as_bytes());
    value.extend_from_slice(&store_id);
    value.extend_from_slice(recipient);
    value.extend_from_slice(public.as_ref());
    let peer = UnparsedPublicKey::new(&ECDH_P256, recipient);
    let key = agree(ephemeral, peer, StoreError::Crypto, |shared| wrapping_key(shared, &value))?;
    value.extend_from_slice(&nonce);
    let mut sealed = Zeroizing::new(store_key.to_vec());
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = key
        .seal_in_place_separate_tag(nonce, Aad::from(&value), &mut sealed)
        .map_err(|_| StoreError::Crypto)?;
    value.extend_from_slice(&sealed);
    value.extend_from_slice(tag.as_ref());
    if value.len() == WRAPPED_LEN { Ok(value) } else { Err(StoreError::Crypto) }
}

/// A new ephemeral key from the library's generator.
pub(crate) fn random_ephemeral() -> Result<PrivateKey, StoreError> {
    PrivateKey::generate(&ECDH_P256).map_err(|_| StoreError::Crypto)
}

/// `value` is the object up to its nonce at least.
fn wrapping_key(shared: &[u8], value: &[u8]) -> Result<LessSafeKey, StoreError> {
    let mut key = Zeroizing::new([0; 32]);
    let bound = value.get(4..158).ok_or(StoreError::Crypto)?;
    expand(&value[20..28], shared, &[b"hsm.j5t.io/wrap/v1", bound], &mut *key)?;
    gcm(&*key)
}

fn gcm(key: &[u8]) -> Result<LessSafeKey, StoreError> {
    let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| StoreError::Crypto)?;
    Ok(LessSafeKey::new(key))
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand(salt: &[u8], input: &[u8], info: &[&[u8]], out: &mut [u8]) -> Result<(), StoreError> {
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(input)
        .expand(info, Length(out.len()))
        .and_then(|okm| okm.fill(out))
        .map_err(|_| StoreError::Crypto)
}
