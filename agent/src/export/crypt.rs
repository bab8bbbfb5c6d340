//! The encryption of an export, by age: to a passphrase, or to recipients (X25519).

use std::io::{BufRead, Read, Write};
use std::path::Path;

use age::secrecy::SecretString;
use age::{DecryptError, Decryptor, Encryptor, scrypt, x25519};
use zeroize::Zeroizing;

use super::ExportError;

/// 2^18: a second on the machines of 2026, and what the age program takes.
const WORK: u8 = 18;
/// 2^22: a file that asks for more than 4 GiB of memory is refused.
const MOST_WORK: u8 = 22;
/// A passphrase or key file longer than this is none.
const LONGEST: u64 = 64 * 1024;

/// To whom an export is encrypted.
pub enum Lock {
    /// To whoever knows the passphrase.
    Passphrase(SecretString),
    /// To whoever has one of the identities.
    Recipients(Vec<x25519::Recipient>),
}

impl Lock {
    /// Recipients as they were written on the command line (`age1…`) and in a file of lines.
    pub fn recipients(given: &[String], file: Option<&Path>) -> Result<Self, ExportError> {
        let mut texts: Vec<(String, String)> =
            given.iter().map(|text| ("--recipient".to_owned(), text.clone())).collect();
        if let Some(file) = file {
            let text = read(file)?;
            let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
            texts.extend(lines.map(|line| (file.display().to_string(), line.to_owned())));
        }
        if texts.is_empty() {
            return Err(ExportError::Key("no recipient is named: an export to nobody is of no use".into()));
        }
        let parse = |(place, text): &(String, String)| {
            text.parse().map_err(|why| {
                // A secret key in the wrong place must not be shown.
                let shown = if text.starts_with("age1") { text.as_str() } else { "a line" };
                ExportError::Key(format!(
                    "{place}: {shown} is no age recipient ({why}); give age1… as age-keygen prints it"
                ))
            })
        };
        texts.iter().map(parse).collect::<Result<_, _>>().map(Self::Recipients)
    }

    /// A stream that encrypts what is written to it. Its `finish` must be called.
    pub(super) fn encrypt<W: Write>(&self, out: W) -> Result<age::stream::StreamWriter<W>, ExportError> {
        let encryptor = match self {
            Self::Passphrase(passphrase) => {
                let mut recipient = scrypt::Recipient::new(passphrase.clone());
                recipient.set_work_factor(WORK);
                Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
            }
            Self::Recipients(recipients) => {
                Encryptor::with_recipients(recipients.iter().map(|r| r as &dyn age::Recipient))
            }
        };
        let encryptor = encryptor.map_err(|e| ExportError::Key(e.to_string()))?;
        Ok(encryptor.wrap_output(out)?)
    }

    /// What opens what this locks, if we have it.
    pub fn unlock(&self) -> Option<Unlock> {
        match self {
            Self::Passphrase(passphrase) => Some(Unlock::Passphrase(passphrase.clone())),
            Self::Recipients(_) => None,
        }
    }
}

/// What opens an export.
pub enum Unlock {
    /// The passphrase.
    Passphrase(SecretString),
    /// Identities (`AGE-SECRET-KEY-1…`).
    Identities(Vec<Box<dyn age::Identity + Send + Sync>>),
}

impl Unlock {
    /// Identities from a file, as `age-keygen` writes it.
    pub fn identities(file: &Path) -> Result<Self, ExportError> {
        let text = read(file)?;
        let bad = |why: String| {
            ExportError::Key(format!(
                "{} is no age identity file ({why}); it has lines of AGE-SECRET-KEY-1…, and is not encrypted itself",
                file.display()
            ))
        };
        let identities = age::IdentityFile::from_buffer(text.as_bytes())
            .map_err(|e| bad(e.to_string()))?
            .into_identities()
            .map_err(|e| bad(e.to_string()))?;
        if identities.is_empty() {
            Err(bad("it holds none".to_owned()))
        } else {
            Ok(Self::Identities(identities))
        }
    }

    /// A stream of what is inside.
    pub(super) fn decrypt<R: BufRead>(&self, input: R) -> Result<impl Read, ExportError> {
        let decryptor = Decryptor::new_buffered(input).map_err(|error| match error {
            DecryptError::Io(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => e.into(),
            other => ExportError::NotAge(other.to_string()),
        })?;
        let fits = matches!(self, Self::Passphrase(_)) == decryptor.is_scrypt();
        if !fits {
            let hint = if decryptor.is_scrypt() {
                "it was encrypted with a passphrase: give --passphrase-file FILE"
            } else {
                "it was encrypted to recipients: give --identity FILE"
            };
            return Err(ExportError::Locked(hint.to_owned()));
        }
        let opened = match self {
            Self::Passphrase(passphrase) => {
                let mut identity = scrypt::Identity::new(passphrase.clone());
                identity.set_max_work_factor(MOST_WORK);
                decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity))
            }
            Self::Identities(identities) => {
                decryptor.decrypt(identities.iter().map(|i| &**i as &dyn age::Identity))
            }
        };
        opened.map_err(|error| match error {
            DecryptError::Io(e) => e.into(),
            DecryptError::InvalidHeader | DecryptError::InvalidMac => ExportError::Damaged(error.to_string()),
            DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => {
                ExportError::Locked("the passphrase is another one, or the file was altered".to_owned())
            }
            DecryptError::NoMatchingKeys => {
                ExportError::Locked("none of the identities is one of its recipients".to_owned())
            }
            other => ExportError::Locked(other.to_string()),
        })
    }
}

/// The passphrase in a file: its text, without one trailing line end.
pub fn passphrase(file: &Path) -> Result<SecretString, ExportError> {
    let text = read(file)?;
    let text = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
    if text.is_empty() {
        return Err(ExportError::Key(format!("{} is empty; write the passphrase into it", file.display())));
    }
    if text.contains('\n') {
        return Err(ExportError::Key(format!(
            "{} has more than one line; write the passphrase alone into it",
            file.display()
        )));
    }
    Ok(SecretString::from(text.to_owned()))
}

fn read(file: &Path) -> Result<Zeroizing<String>, ExportError> {
    let failed = |e: std::io::Error| ExportError::Key(format!("{} cannot be read: {e}", file.display()));
    let mut text = Zeroizing::new(String::with_capacity(4096));
    let opened = std::fs::File::open(file).map_err(failed)?;
    opened.take(LONGEST + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > LONGEST {
        return Err(ExportError::Key(format!("{} is too long for a passphrase or a key", file.display())));
    }
    Ok(text)
}
