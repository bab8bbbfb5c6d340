//! The primitive forms of an export: numbers, bytes, texts, lists.

use zeroize::Zeroizing;

use super::ExportError;

/// A growing buffer that is wiped, also when it moves.
#[derive(Default)]
pub(super) struct Encoder(Zeroizing<Vec<u8>>);

impl Encoder {
    pub(super) fn put(&mut self, bytes: &[u8]) {
        let needed = self.0.len() + bytes.len();
        if needed > self.0.capacity() {
            // Vec would move and leave the old bytes behind; so we move, and drop the old buffer wiped.
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.max(2 * self.0.capacity()).max(512)));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn u64(&mut self, number: u64) {
        self.put(&number.to_be_bytes());
    }

    pub(super) fn u32(&mut self, number: u32) {
        self.put(&number.to_be_bytes());
    }

    /// A length or a number of elements; nothing on a token has four billion of anything.
    pub(super) fn length(&mut self, length: usize) {
        self.u32(u32::try_from(length).unwrap_or(u32::MAX));
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.put(bytes);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(super) fn done(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

/// Takes bytes off the front.
pub(super) struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], ExportError> {
        let (taken, rest) =
            self.0.split_at_checked(count).ok_or_else(|| ExportError::malformed("an entry is too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], ExportError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u64(&mut self) -> Result<u64, ExportError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, ExportError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A number of elements of at least `each` bytes: never more than the rest can hold.
    pub(super) fn count(&mut self, each: usize) -> Result<usize, ExportError> {
        let count = self.u32()? as usize;
        if count > self.0.len() / each.max(1) {
            return Err(ExportError::malformed("a list is longer than its entry"));
        }
        Ok(count)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], ExportError> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, ExportError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| ExportError::malformed("a text is not UTF-8"))
    }

    pub(super) fn end(&self) -> Result<(), ExportError> {
        if self.0.is_empty() { Ok(()) } else { Err(ExportError::malformed("an entry is too long")) }
    }
}
