//! The EC key pair that wraps the store key: P-256, made on the token, good for ECDH and nothing else.

use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::elliptic_curve::{EcKdf, Ecdh1DeriveParams};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle as ModuleHandle};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::Pkcs11Token;
use super::ec_point::{P256_PARAMS, check, normalise};
use super::objects::value_of;
use crate::{ErrorClass, TokenError};

/// The length of a P-256 coordinate, in bytes.
const SECRET_LEN: usize = 32;

struct Halves {
    private: Vec<ModuleHandle>,
    public: Vec<ModuleHandle>,
}

impl Pkcs11Token {
    fn keys(
        &mut self,
        class: ObjectClass,
        label: &str,
        operation: &'static str,
    ) -> Result<Vec<ModuleHandle>, TokenError> {
        self.live(operation)?;
        // Without a login the private half is not shown, and "none" would be a guess.
        if self.accepted.is_none() {
            return Err(TokenError::new(
                ErrorClass::PinRequired,
                operation,
                "log in first: keys are private",
            ));
        }
        let template = [Attribute::Class(class), Attribute::Label(label.as_bytes().to_vec())];
        self.find(&template, operation)
    }

    fn halves(&mut self, label: &str, operation: &'static str) -> Result<Halves, TokenError> {
        Ok(Halves {
            private: self.keys(ObjectClass::PRIVATE_KEY, label, operation)?,
            public: self.keys(ObjectClass::PUBLIC_KEY, label, operation)?,
        })
    }

    pub(super) fn find_pair(&mut self, label: &str) -> Result<Option<Vec<u8>>, TokenError> {
        const OPERATION: &str = "find_key_pair";
        let halves = self.halves(label, OPERATION)?;
        match (halves.private.as_slice(), halves.public.as_slice()) {
            ([], []) => Ok(None),
            ([_], [public]) => self.point(*public, OPERATION).map(Some),
            (private, public) => Err(TokenError::new(
                ErrorClass::Module,
                OPERATION,
                format!(
                    "{} private and {} public keys have the label {label:?}, where one of each is a pair; look at \
                     the token before anything is changed",
                    private.len(),
                    public.len()
                ),
            )),
        }
    }

    fn point(&mut self, public: ModuleHandle, operation: &'static str) -> Result<Vec<u8>, TokenError> {
        let wanted = [AttributeType::EcPoint, AttributeType::EcParams];
        let mut point = None;
        for attribute in self.attributes(public, &wanted, operation)? {
            match attribute {
                Attribute::EcPoint(value) => point = Some(value),
                Attribute::EcParams(params) if params != P256_PARAMS => {
                    return Err(TokenError::new(
                        ErrorClass::Module,
                        operation,
                        "the key with this label is on another curve than P-256",
                    ));
                }
                _ => {}
            }
        }
        let point = point.ok_or_else(|| {
            TokenError::new(ErrorClass::Module, operation, "the public key with this label has no EC point")
        })?;
        normalise(operation, &point)
    }

    pub(super) fn generate_pair(&mut self, label: &str) -> Result<Vec<u8>, TokenError> {
        const OPERATION: &str = "generate_key_pair";
        let there = self.halves(label, OPERATION)?;
        if !there.private.is_empty() || !there.public.is_empty() {
            return Err(TokenError::new(
                ErrorClass::Invalid,
                OPERATION,
                format!("a key with the label {label:?} is there already"),
            ));
        }
        // The id only ties the halves together; the label is what we look for.
        let id = Sha256::digest(label.as_bytes())[..16].to_vec();
        let public = [
            Attribute::KeyType(KeyType::EC),
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Label(label.as_bytes().to_vec()),
            Attribute::Id(id.clone()),
            Attribute::EcParams(P256_PARAMS.to_vec()),
            Attribute::Encrypt(false),
            Attribute::Verify(false),
            Attribute::Wrap(false),
        ];
        let private = [
            Attribute::KeyType(KeyType::EC),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Label(label.as_bytes().to_vec()),
            Attribute::Id(id),
            Attribute::Derive(true),
            Attribute::Decrypt(false),
            Attribute::Sign(false),
            Attribute::Unwrap(false),
        ];
        let made = self.session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private);
        let (public, private) = made.map_err(|e| self.fail(OPERATION, &e))?;
        for attribute in self.attributes(private, &[AttributeType::Extractable], OPERATION)? {
            if matches!(attribute, Attribute::Extractable(true)) {
                self.destroy_pair(label)?;
                return Err(TokenError::new(
                    ErrorClass::Module,
                    OPERATION,
                    "the module made a private key that may leave the token; it was destroyed",
                ));
            }
        }
        self.point(public, OPERATION)
    }

    pub(super) fn destroy_pair(&mut self, label: &str) -> Result<(), TokenError> {
        const OPERATION: &str = "destroy_key_pair";
        // On SC-HSM the public half is a view of the private one and goes with it: look again after each.
        for _ in 0..2 {
            let halves = self.halves(label, OPERATION)?;
            let Some(next) = halves.private.first().or(halves.public.first()) else {
                return Ok(());
            };
            if halves.private.len() > 1 || halves.public.len() > 1 {
                return Err(TokenError::new(
                    ErrorClass::Module,
                    OPERATION,
                    format!(
                        "more than one key pair has the label {label:?}; which one is meant, a person has to say"
                    ),
                ));
            }
            self.session.destroy_object(*next).map_err(|e| self.fail(OPERATION, &e))?;
        }
        Ok(())
    }

    pub(super) fn derive_secret(
        &mut self,
        label: &str,
        peer: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        const OPERATION: &str = "derive";
        check(OPERATION, peer)?;
        let keys = self.keys(ObjectClass::PRIVATE_KEY, label, OPERATION)?;
        let [key] = keys.as_slice() else {
            return Err(TokenError::new(
                ErrorClass::Invalid,
                OPERATION,
                format!("{} private keys have the label {label:?}, one is needed", keys.len()),
            ));
        };
        let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), peer));
        // A session object, extractable because its value is what we came for; it lives for two calls.
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::Token(false),
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
            Attribute::ValueLen(SECRET_LEN.try_into().map_err(|e| self.fail(OPERATION, &e))?),
        ];
        let derived = self.session.derive_key(&mechanism, *key, &template);
        let derived = derived.map_err(|e| self.fail(OPERATION, &e))?;
        let value = self.session.get_attributes(derived, &[AttributeType::Value]).map(value_of);
        let destroyed = self.session.destroy_object(derived);
        let value = value.map_err(|e| self.fail(OPERATION, &e))?;
        destroyed.map_err(|e| self.fail(OPERATION, &e))?;
        value.filter(|value| value.len() == SECRET_LEN).ok_or_else(|| {
            TokenError::new(
                ErrorClass::Module,
                OPERATION,
                "the module gave a shared secret of a wrong length",
            )
        })
    }
}
