//! The stream inside an export: magic, header, entries, and an end that proves that nothing is missing.

use std::io::{ErrorKind, Read, Write};

use aws_lc_rs::digest::{Context, SHA256};
use hsm_types::TokenId;
use zeroize::Zeroizing;

use super::item::{self, END};
use super::wire::{Decoder, Encoder};
use super::{Counts, Export, ExportError, Header, Item};

const MAGIC: &[u8; 7] = b"\xf5HSMEXP";
const VERSION: u8 = 1;
/// More than any entry has: a record has at most 256 KiB, and lineages are short. A length beyond it is damage.
const LONGEST: u32 = 16 * 1024 * 1024;

/// Writes the stream. What is not finished is no export.
pub struct Writer<W> {
    out: W,
    hash: Context,
    counts: Counts,
}

impl<W: Write> Writer<W> {
    /// Writes magic and header.
    pub fn begin(out: W, header: &Header) -> Result<Self, ExportError> {
        let mut writer = Self { out, hash: Context::new(&SHA256), counts: Counts::default() };
        let mut head = Encoder::default();
        head.put(MAGIC);
        head.put(&[VERSION]);
        head.put(header.token_id.as_bytes());
        head.text(&header.made_by);
        head.text(&header.prefix);
        writer.write(&head.done())?;
        Ok(writer)
    }

    /// Writes one entry.
    pub fn put(&mut self, item: &Item) -> Result<(), ExportError> {
        let (kind, bytes) = item::encode(item);
        let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= LONGEST);
        let length = length.ok_or_else(|| std::io::Error::other("a record is too large for an export"))?;
        self.write(&[kind])?;
        self.write(&length.to_be_bytes())?;
        self.write(&bytes)?;
        match item {
            Item::Record(_) => self.counts.records += 1,
            Item::Earlier(_) => self.counts.earlier += 1,
            Item::Tombstone(_) => self.counts.tombstones += 1,
            Item::Missing(_) => self.counts.missing += 1,
        }
        Ok(())
    }

    /// Writes the end; says what was written.
    pub fn finish(mut self) -> Result<(W, Counts, [u8; 32]), ExportError> {
        let digest = digest(&self.hash);
        let mut end = Encoder::default();
        end.put(&[END]);
        end.length(4 * 4 + digest.len());
        write_counts(&mut end, self.counts);
        end.put(&digest);
        self.out.write_all(&end.done())?;
        Ok((self.out, self.counts, digest))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        self.hash.update(bytes);
        Ok(self.out.write_all(bytes)?)
    }
}

fn write_counts(out: &mut Encoder, counts: Counts) {
    for count in [counts.records, counts.earlier, counts.tombstones, counts.missing] {
        out.u32(count);
    }
}

fn digest(hash: &Context) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(hash.clone().finish().as_ref());
    digest
}

/// Reads the stream, and believes nothing of it before its end has been checked.
pub struct Reader<R> {
    input: R,
    hash: Context,
}

impl<R: Read> Reader<R> {
    /// Reads a whole export: header, all entries, the end, and that nothing follows it.
    pub fn whole(input: R) -> Result<Export, ExportError> {
        let mut reader = Self { input, hash: Context::new(&SHA256) };
        let header = reader.header()?;
        let mut items = Vec::new();
        let mut counts = Counts::default();
        loop {
            let before = digest(&reader.hash);
            let [kind] = reader.array()?;
            let bytes = reader.bytes()?;
            if kind == END {
                let mut end = Decoder::new(&bytes);
                let said = Counts {
                    records: end.u32()?,
                    earlier: end.u32()?,
                    tombstones: end.u32()?,
                    missing: end.u32()?,
                };
                let digest: [u8; 32] = end.array()?;
                end.end()?;
                if said != counts || digest != before {
                    return Err(ExportError::malformed("its entries are not those that its end tells of"));
                }
                reader.nothing_more()?;
                return Ok(Export { header, items, counts, digest });
            }
            let item = item::decode(kind, &bytes)?;
            match item {
                Item::Record(_) => counts.records += 1,
                Item::Earlier(_) => counts.earlier += 1,
                Item::Tombstone(_) => counts.tombstones += 1,
                Item::Missing(_) => counts.missing += 1,
            }
            items.push(item);
        }
    }

    fn header(&mut self) -> Result<Header, ExportError> {
        let magic: [u8; 7] = self.array()?;
        if magic != *MAGIC {
            return Err(ExportError::NotOurs);
        }
        let [version] = self.array()?;
        if version != VERSION {
            return Err(ExportError::Newer(version));
        }
        let token_id = TokenId::from_bytes(self.array()?);
        Ok(Header { token_id, made_by: self.text()?, prefix: self.text()? })
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ExportError> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            // age says so of a chunk that does not authenticate, and of a file that ends early.
            ErrorKind::UnexpectedEof | ErrorKind::InvalidData => ExportError::Damaged(error.to_string()),
            _ => error.into(),
        })?;
        self.hash.update(bytes);
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ExportError> {
        let mut array = [0; N];
        self.fill(&mut array)?;
        Ok(array)
    }

    fn bytes(&mut self) -> Result<Zeroizing<Vec<u8>>, ExportError> {
        let length = u32::from_be_bytes(self.array()?);
        if length > LONGEST {
            return Err(ExportError::malformed("an entry is too long"));
        }
        let mut bytes = Zeroizing::new(vec![0; length as usize]);
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<String, ExportError> {
        let bytes = self.bytes()?;
        let text =
            std::str::from_utf8(&bytes).map_err(|_| ExportError::malformed("its header is not text"))?;
        Ok(text.to_owned())
    }

    fn nothing_more(&mut self) -> Result<(), ExportError> {
        let mut more = [0];
        match self.input.read(&mut more) {
            Ok(0) => Ok(()),
            Ok(_) => Err(ExportError::malformed("something follows its end")),
            Err(error) => Err(ExportError::Damaged(error.to_string())),
        }
    }
}
