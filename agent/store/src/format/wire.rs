//! Reading and writing the primitive forms: bytes, varints, texts. Strict: one value, one encoding.

use zeroize::Zeroizing;

/// What was wrong, for people who debug the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// A growing buffer that is wiped, also when it moves.
pub(crate) struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    pub(crate) fn new() -> Self {
        Self(Zeroizing::new(Vec::with_capacity(512)))
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        let needed = self.0.len() + bytes.len();
        if needed > self.0.capacity() {
            // Vec would move and leave the old bytes behind; so we move, and drop the old buffer wiped.
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.max(2 * self.0.capacity())));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.put(&[byte]);
    }

    pub(crate) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.byte((value & 0x7f) as u8);
    }

    pub(crate) fn length(&mut self, length: usize) {
        self.varint(length as u64);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.put(bytes);
    }

    pub(crate) fn done(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

/// How many bytes a varint takes.
pub(crate) fn varint_len(value: u64) -> usize {
    let bits = (64 - value.leading_zeros()).max(1) as usize;
    bits.div_ceil(7)
}

/// Takes bytes off the front.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed("cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed("cut short"))
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return Err(Malformed("number too large"));
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return if part == 0 && shift > 0 {
                    Err(Malformed("number not in its shortest form"))
                } else {
                    Ok(value)
                };
            }
        }
        Err(Malformed("number too large"))
    }

    pub(crate) fn length(&mut self) -> Result<usize, Malformed> {
        usize::try_from(self.varint()?).map_err(|_| Malformed("number too large"))
    }

    /// A number of elements of at least `each` bytes: never more than the rest can hold, so that a damaged number
    /// makes no large allocation.
    pub(crate) fn count(&mut self, each: usize) -> Result<usize, Malformed> {
        let count = self.length()?;
        if count > self.0.len() / each.max(1) {
            return Err(Malformed("cut short"));
        }
        Ok(count)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.length()?;
        self.take(length)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed("text is not UTF-8"))
    }

    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(Malformed("bytes left over")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip_and_have_one_form() {
        for value in [0, 1, 0x7f, 0x80, 0x3fff, 0x4000, u64::from(u32::MAX), u64::MAX] {
            let mut writer = Writer::new();
            writer.varint(value);
            let bytes = writer.done();
            assert_eq!(bytes.len(), varint_len(value), "{value}");
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.varint(), Ok(value));
            assert!(reader.end().is_ok());
        }
        let bad = [&[0x80u8, 0x00][..], &[0x80], &[0xff; 10], &[0xff; 11]];
        for bytes in bad {
            assert!(Reader::new(bytes).varint().is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn counts_never_promise_more_than_is_there() {
        assert!(Reader::new(&[0xff, 0xff, 0x03, 1, 2]).count(1).is_err());
        assert_eq!(Reader::new(&[2, 1, 2]).count(1), Ok(2));
    }
}
