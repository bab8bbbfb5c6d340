//! Attributes: what a template says, and what an object says of itself.

use cryptoki_sys as ck;

use super::{Entry, Half};
use crate::rv::{Done, Rv};

/// DER of the OID of P-256, the value of CKA_EC_PARAMS (RFC 5480, section 2.1.1.1).
pub(super) const P256_PARAMS: [u8; 10] = [0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];

/// An attribute that the caller gave.
pub(crate) struct Given {
    pub(crate) kind: ck::CK_ATTRIBUTE_TYPE,
    pub(crate) value: Vec<u8>,
    /// The value up to the next zero byte, which may lie before its end or beyond; only of CKA_APPLICATION.
    pub(crate) to_zero: Option<Vec<u8>>,
}

pub(super) fn find(template: &[Given], kind: ck::CK_ATTRIBUTE_TYPE) -> Option<&Given> {
    template.iter().find(|given| given.kind == kind)
}

pub(super) fn bytes(template: &[Given], kind: ck::CK_ATTRIBUTE_TYPE) -> Vec<u8> {
    find(template, kind).map(|given| given.value.clone()).unwrap_or_default()
}

pub(super) fn flag(template: &[Given], kind: ck::CK_ATTRIBUTE_TYPE) -> Option<bool> {
    find(template, kind).map(|given| given.value.first().is_some_and(|byte| *byte != 0))
}

pub(super) fn number(template: &[Given], kind: ck::CK_ATTRIBUTE_TYPE) -> Option<ck::CK_ULONG> {
    let value = find(template, kind)?.value.as_slice().try_into().ok()?;
    Some(ck::CK_ULONG::from_ne_bytes(value))
}

fn of_flag(value: bool) -> Vec<u8> {
    vec![value.into()]
}

fn of_number(value: ck::CK_ULONG) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

/// What a derived secret says of itself; its value too.
pub(super) fn of_secret(secret: &[u8], kind: ck::CK_ATTRIBUTE_TYPE) -> Done<Vec<u8>> {
    Ok(match kind {
        ck::CKA_CLASS => of_number(ck::CKO_SECRET_KEY),
        ck::CKA_KEY_TYPE => of_number(ck::CKK_GENERIC_SECRET),
        ck::CKA_TOKEN | ck::CKA_SENSITIVE => of_flag(false),
        ck::CKA_EXTRACTABLE => of_flag(true),
        ck::CKA_VALUE => secret.to_vec(),
        ck::CKA_VALUE_LEN => of_number(secret.len() as ck::CK_ULONG),
        _ => return Err(Rv::CKR_ATTRIBUTE_TYPE_INVALID),
    })
}

impl Entry {
    pub(super) fn is_private(&self) -> bool {
        match &self.half {
            Half::Data { description, .. } => description.private,
            Half::Private { .. } => true,
            Half::Public { .. } => false,
        }
    }

    pub(super) fn label(&self) -> &[u8] {
        match &self.half {
            Half::Data { description, .. } => &description.label,
            Half::Private { key, .. } | Half::Public { key, .. } => &key.label,
        }
    }

    /// What the process remembers of the object; a data object's CKA_VALUE is not among it.
    pub(super) fn attribute(&self, kind: ck::CK_ATTRIBUTE_TYPE) -> Done<Vec<u8>> {
        match kind {
            ck::CKA_TOKEN => return Ok(of_flag(true)),
            ck::CKA_PRIVATE => return Ok(of_flag(self.is_private())),
            ck::CKA_LABEL => return Ok(self.label().to_vec()),
            ck::CKA_MODIFIABLE => return Ok(of_flag(false)),
            _ => {}
        }
        let (key, private) = match &self.half {
            Half::Data { description, .. } => {
                return match kind {
                    ck::CKA_CLASS => Ok(of_number(ck::CKO_DATA)),
                    ck::CKA_APPLICATION => Ok(description.application.clone()),
                    ck::CKA_OBJECT_ID => Ok(description.object_id.clone()),
                    _ => Err(Rv::CKR_ATTRIBUTE_TYPE_INVALID),
                };
            }
            Half::Private { key, .. } => (key, true),
            Half::Public { key, .. } => (key, false),
        };
        Ok(match kind {
            ck::CKA_CLASS => of_number(if private { ck::CKO_PRIVATE_KEY } else { ck::CKO_PUBLIC_KEY }),
            ck::CKA_KEY_TYPE => of_number(ck::CKK_EC),
            ck::CKA_ID => key.id.clone(),
            ck::CKA_LOCAL => of_flag(true),
            ck::CKA_EC_PARAMS => P256_PARAMS.to_vec(),
            // In a DER OCTET STRING, as OpenSC gives it.
            ck::CKA_EC_POINT => [&[0x04, 0x41], key.point.as_slice()].concat(),
            ck::CKA_DERIVE => of_flag(private && key.derive),
            ck::CKA_SENSITIVE | ck::CKA_ALWAYS_SENSITIVE | ck::CKA_NEVER_EXTRACTABLE if private => {
                of_flag(true)
            }
            ck::CKA_EXTRACTABLE | ck::CKA_SIGN | ck::CKA_DECRYPT | ck::CKA_UNWRAP if private => {
                of_flag(false)
            }
            ck::CKA_VERIFY | ck::CKA_ENCRYPT | ck::CKA_WRAP if !private => of_flag(false),
            ck::CKA_VALUE if private => return Err(Rv::CKR_ATTRIBUTE_SENSITIVE),
            _ => return Err(Rv::CKR_ATTRIBUTE_TYPE_INVALID),
        })
    }

    /// Whether a search with this template finds it: from memory, so not by its value.
    pub(super) fn fits(&self, template: &[Given]) -> bool {
        template.iter().all(|given| self.attribute(given.kind).is_ok_and(|value| value == given.value))
    }
}
