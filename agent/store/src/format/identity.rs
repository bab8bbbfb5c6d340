//! The identity object: which token this is.

use aws_lc_rs::digest::{SHA256, digest};
use hsm_types::TokenId;

use super::{Damage, Kind};

pub(crate) fn encode_identity(id: TokenId) -> Vec<u8> {
    let mut value = Kind::Identity.head().to_vec();
    value.extend_from_slice(id.as_bytes());
    let check = check(&value);
    value.extend_from_slice(&check);
    value
}

pub(crate) fn decode_identity(value: &[u8]) -> Result<TokenId, Damage> {
    Kind::Identity.check(value)?;
    let (body, found) = value.split_at_checked(20).ok_or(Damage::Header)?;
    if found != check(body) {
        return Err(Damage::Seal);
    }
    let id = body[4..].try_into().map_err(|_| Damage::Header)?;
    Ok(TokenId::from_bytes(id))
}

fn check(body: &[u8]) -> [u8; 8] {
    let mut short = [0; 8];
    short.copy_from_slice(&digest(&SHA256, body).as_ref()[..8]);
    short
}
