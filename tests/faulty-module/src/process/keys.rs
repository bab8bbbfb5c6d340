//! Key pairs on P-256, and ECDH with them.

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::encoding::{AsBigEndian as _, EcPrivateKeyBin};
use cryptoki_sys as ck;

use super::attributes::{P256_PARAMS, bytes, find, flag};
use super::{Entry, Given, Half, Process};
use crate::context::{Context, trouble};
use crate::disk::now_millis;
use crate::flash::{Content, FileId, KeyPair, Kind};
use crate::rv::{Done, Rv};

const GENERATE_APDUS: u64 = 8;
const GENERATE_ERASES: u64 = 4;
const DERIVE_APDUS: u64 = 2;

impl Process {
    /// The handles of the public and the private half.
    pub(crate) fn generate_pair(
        &mut self,
        context: &mut Context,
        session: ck::CK_SESSION_HANDLE,
        public: &[Given],
        private: &[Given],
    ) -> Done<(u64, u64)> {
        let of = self.session(session)?;
        let (slot, writable) = (of.slot, of.writable);
        let label = bytes(private, ck::CKA_LABEL);
        context.call.label = Some(String::from_utf8_lossy(&label).into_owned());
        if !writable {
            return Err(Rv::CKR_SESSION_READ_ONLY);
        }
        match find(public, ck::CKA_EC_PARAMS) {
            None => return Err(Rv::CKR_TEMPLATE_INCOMPLETE),
            Some(given) if given.value != P256_PARAMS => return Err(Rv::CKR_CURVE_NOT_SUPPORTED),
            Some(_) => {}
        }
        let user = self.slots[slot].user.is_user();
        let lock = self.disk.lock().map_err(trouble)?;
        let mut card = self.card(slot)?.ok_or(Rv::CKR_SESSION_HANDLE_INVALID)?;
        context.apdus(&mut card, GENERATE_APDUS);
        if !card.head.logged_in || !user {
            card.save_head().map_err(trouble)?;
            return Err(Rv::CKR_USER_NOT_LOGGED_IN);
        }
        let flash = card.flash(&mut self.cache).map_err(trouble)?;
        let number = flash.room(Kind::Key, 0, &self.settings).map_err(|_| Rv::CKR_GENERAL_ERROR)?;
        let (secret, point) = new_key()?;
        let sequence = flash.sequence();
        let derive = flag(private, ck::CKA_DERIVE).unwrap_or(true);
        let key = KeyPair { sequence, label, id: bytes(private, ck::CKA_ID), secret, point, derive };
        let file = FileId::key(number);
        flash.write(file, Some(Content::Key(key.clone())), now_millis(), &self.settings);
        let shown = flash.listed(&self.settings).contains(&file);
        card.head.counters.writes += 1;
        card.head.counters.erases += GENERATE_ERASES;
        card.save(&mut self.cache).map_err(trouble)?;
        drop(lock);
        let (private, public) = (self.new_handle(), self.new_handle());
        let entries = self.entries_mut(slot)?;
        entries.insert(private, Entry { half: Half::Private { number, key: key.clone() }, shown });
        entries.insert(public, Entry { half: Half::Public { number, key }, shown });
        context.call.handle = Some(private);
        Ok((public, private))
    }

    /// Both halves go: the public one is a view of the private one.
    pub(super) fn destroy_key(&mut self, context: &mut Context, slot: usize, number: u8) -> Done {
        let lock = self.disk.lock().map_err(trouble)?;
        let mut card = self.card(slot)?.ok_or(Rv::CKR_SESSION_HANDLE_INVALID)?;
        context.apdus(&mut card, 3);
        if !card.head.logged_in {
            card.save_head().map_err(trouble)?;
            return Err(Rv::CKR_USER_NOT_LOGGED_IN);
        }
        let flash = card.flash(&mut self.cache).map_err(trouble)?;
        if !flash.files.contains_key(&FileId::key(number)) {
            card.save_head().map_err(trouble)?;
            return Err(Rv::CKR_GENERAL_ERROR);
        }
        flash.write(FileId::key(number), None, now_millis(), &self.settings);
        card.head.counters.writes += 1;
        card.head.counters.erases += 2;
        card.save(&mut self.cache).map_err(trouble)?;
        drop(lock);
        let is_other_half =
            |entry: &Entry| matches!(&entry.half, Half::Public { number: n, .. } if *n == number);
        self.entries_mut(slot)?.retain(|_, entry| !is_other_half(entry));
        Ok(())
    }

    /// ECDH1-DERIVE with CKD_NULL: a secret that lives in the session.
    pub(crate) fn derive(
        &mut self,
        context: &mut Context,
        session: ck::CK_SESSION_HANDLE,
        handle: u64,
        peer: &[u8],
    ) -> Done<u64> {
        let slot = self.session(session)?.slot;
        context.call.handle = Some(handle);
        let entry = self.visible_entry(slot, handle).map_err(|_| Rv::CKR_KEY_HANDLE_INVALID)?;
        let Half::Private { number, key } = &entry.half else {
            return Err(Rv::CKR_KEY_HANDLE_INVALID);
        };
        let (number, derive) = (*number, key.derive);
        context.call.label = Some(String::from_utf8_lossy(entry.label()).into_owned());
        if !derive {
            return Err(Rv::CKR_KEY_FUNCTION_NOT_PERMITTED);
        }
        let secret = self.on_card(slot, Rv::CKR_SESSION_HANDLE_INVALID, |process, card| {
            context.apdus(card, DERIVE_APDUS);
            if !card.head.logged_in {
                return Err(Rv::CKR_USER_NOT_LOGGED_IN);
            }
            let flash = card.flash(&mut process.cache).map_err(trouble)?;
            // A number that was given again is another key.
            let Some(Content::Key(key)) = flash.files.get(&FileId::key(number)) else {
                return Err(Rv::CKR_GENERAL_ERROR);
            };
            shared(&key.secret, peer)
        })?;
        let derived = self.new_handle();
        self.session_mut(session)?.secrets.insert(derived, secret);
        Ok(derived)
    }
}

/// A private key and its uncompressed point.
fn new_key() -> Done<(Vec<u8>, Vec<u8>)> {
    let failed = |_| Rv::CKR_FUNCTION_FAILED;
    let key = PrivateKey::generate(&ECDH_P256).map_err(failed)?;
    let secret: EcPrivateKeyBin<'_> = key.as_be_bytes().map_err(failed)?;
    let point = key.compute_public_key().map_err(failed)?;
    Ok((secret.as_ref().to_vec(), point.as_ref().to_vec()))
}

/// The x-coordinate. `peer` is an uncompressed point, bare or in a DER OCTET STRING.
fn shared(secret: &[u8], peer: &[u8]) -> Done<Vec<u8>> {
    let peer = match peer {
        [0x04, 0x41, point @ ..] if point.len() == 65 => point,
        point => point,
    };
    let key = PrivateKey::from_private_key(&ECDH_P256, secret).map_err(|_| Rv::CKR_FUNCTION_FAILED)?;
    let peer = UnparsedPublicKey::new(&ECDH_P256, peer);
    agree(&key, peer, Rv::CKR_MECHANISM_PARAM_INVALID, |shared| Ok(shared.to_vec()))
}
