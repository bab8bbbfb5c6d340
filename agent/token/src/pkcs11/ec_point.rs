//! Points on P-256 as modules give them, brought to one form.

use crate::{ErrorClass, TokenError};

/// An uncompressed point: 0x04, x, y (SEC 1, section 2.3.3).
pub(crate) const POINT_LEN: usize = 65;

/// DER of the OID 1.2.840.10045.3.1.7 (secp256r1), the value of CKA_EC_PARAMS (RFC 5480, section 2.1.1.1).
pub(crate) const P256_PARAMS: [u8; 10] = [0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];

/// The 65 bytes of a point that came as CKA_EC_POINT: wrapped in a DER OCTET STRING, as PKCS#11 2.20 and later want
/// it, or raw, as older modules give it.
pub(crate) fn normalise(operation: &'static str, value: &[u8]) -> Result<Vec<u8>, TokenError> {
    let raw = match value {
        [0x04, 0x41, raw @ ..] | [0x04, 0x81, 0x41, raw @ ..] if raw.len() == POINT_LEN => raw,
        raw => raw,
    };
    check(operation, raw)?;
    Ok(raw.to_vec())
}

/// Refuses what is not an uncompressed P-256 point by its form. Whether it lies on the curve, the token decides.
pub(crate) fn check(operation: &'static str, point: &[u8]) -> Result<(), TokenError> {
    if point.len() == POINT_LEN && point[0] == 0x04 {
        return Ok(());
    }
    Err(TokenError::new(
        ErrorClass::Invalid,
        operation,
        format!("not an uncompressed P-256 point ({} bytes)", point.len()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(second: u8) -> Vec<u8> {
        let mut point = vec![0x04, second];
        point.resize(POINT_LEN, 7);
        point
    }

    #[test]
    fn raw_and_wrapped_are_one() {
        // The second one's x begins with 0x41: it must not be taken for a DER length.
        for raw in [point(9), point(0x41), point(0x81)] {
            let short = [&[0x04, 0x41], raw.as_slice()].concat();
            let long = [&[0x04, 0x81, 0x41], raw.as_slice()].concat();
            for form in [&raw, &short, &long] {
                assert_eq!(normalise("test", form).unwrap(), raw);
            }
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let mut compressed = point(9);
        compressed[0] = 0x02;
        for bad in [&[][..], &[0x04], &compressed, &point(9)[..64]] {
            assert_eq!(normalise("test", bad).unwrap_err().class, ErrorClass::Invalid);
        }
    }
}
