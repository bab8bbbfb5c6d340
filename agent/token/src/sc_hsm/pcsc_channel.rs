//! A card over PC/SC (libpcsclite). Only ever used in a worker process.

use std::ffi::CString;

use pcsc::{Card, Context, Disposition, Error, Protocols, Scope, ShareMode};
use zeroize::Zeroizing;

use super::{CardChannel, ScHsm};
use crate::pkcs11::same_reader;
use crate::{ErrorClass, TokenError};

/// A connection to the card in one reader.
pub(crate) struct PcscChannel {
    /// `None` only while it is dropped.
    card: Option<Card>,
    operation: &'static str,
    buffer: Zeroizing<Vec<u8>>,
}

/// The names of all readers. Connects to no card.
pub(crate) fn readers(operation: &'static str) -> Result<Vec<String>, TokenError> {
    let context = Context::establish(Scope::System).map_err(|e| trouble(operation, e))?;
    let names = context.list_readers_owned().map_err(|e| trouble(operation, e))?;
    Ok(names.into_iter().map(|name| name.to_string_lossy().into_owned()).collect())
}

/// Connects the card in this reader, alone. Without a name there must be one reader only.
pub(crate) fn connect(reader: Option<&str>, operation: &'static str) -> Result<PcscChannel, TokenError> {
    let reader = choose(&readers(operation)?, reader, operation)?;
    open(&reader, ShareMode::Exclusive, operation)
}

/// Selects the applet in this reader's card again, so that nobody finds it logged in. A reader whose name PKCS#11 cut
/// is found by what is left of it, if it is the only one.
pub(crate) fn leave(reader: &str, operation: &'static str) -> Result<(), TokenError> {
    let mut named = readers(operation)?.into_iter().filter(|name| same_reader(name, reader));
    let (Some(name), None) = (named.next(), named.next()) else {
        return Err(TokenError::new(ErrorClass::TokenAbsent, operation, "the reader is not there any more"));
    };
    // Shared: the module's own connection may still be going away.
    let mut channel = open(&name, ShareMode::Shared, operation)?;
    ScHsm::select(&mut channel, operation).map(drop)
}

fn open(reader: &str, mode: ShareMode, operation: &'static str) -> Result<PcscChannel, TokenError> {
    let context = Context::establish(Scope::System).map_err(|e| trouble(operation, e))?;
    let name = CString::new(reader)
        .map_err(|_| TokenError::new(ErrorClass::Invalid, operation, "a reader's name holds no zero byte"))?;
    let card = context.connect(&name, mode, Protocols::ANY).map_err(|e| trouble(operation, e))?;
    let buffer = Zeroizing::new(vec![0; pcsc::MAX_BUFFER_SIZE_EXTENDED]);
    Ok(PcscChannel { card: Some(card), operation, buffer })
}

/// The reader that is meant: named exactly, or the only one there is.
fn choose(there: &[String], named: Option<&str>, operation: &'static str) -> Result<String, TokenError> {
    let shows = if there.is_empty() { "none at all".to_owned() } else { format!("{there:?}") };
    let error = |class, message: String| Err(TokenError::new(class, operation, message));
    match (named, there) {
        (Some(name), _) => match there.iter().position(|reader| reader == name) {
            Some(at) => Ok(there[at].clone()),
            None => {
                error(ErrorClass::TokenAbsent, format!("there is no reader {name:?}; there are: {shows}"))
            }
        },
        (None, [only]) => Ok(only.clone()),
        (None, []) => error(ErrorClass::TokenAbsent, "there is no reader; plug the token in".to_owned()),
        (None, _) => error(
            ErrorClass::Invalid,
            format!("there are several readers; name the one that is meant exactly: {shows}"),
        ),
    }
}

impl CardChannel for PcscChannel {
    fn transmit(&mut self, command: &[u8]) -> Result<Vec<u8>, TokenError> {
        let card = self.card.as_ref().ok_or_else(|| trouble(self.operation, Error::InvalidHandle))?;
        match card.transmit(command, &mut self.buffer) {
            Ok(answer) => Ok(answer.to_vec()),
            Err(error) => Err(trouble(self.operation, error)),
        }
    }
}

impl Drop for PcscChannel {
    fn drop(&mut self) {
        // By itself it would reset the card, which others may share. What comes back on an error is dropped, and does.
        let _ = self.card.take().map(|card| card.disconnect(Disposition::LeaveCard));
    }
}

fn trouble(operation: &'static str, error: Error) -> TokenError {
    let (class, advice) = match error {
        Error::SharingViolation => (
            ErrorClass::Busy,
            "another program holds the card (the agent, or its worker); end it, or use it instead",
        ),
        Error::NoService | Error::ServiceStopped => {
            (ErrorClass::Module, "the PC/SC daemon does not run; start pcscd")
        }
        Error::NoAccess | Error::SecurityViolation => {
            (ErrorClass::Module, "the PC/SC daemon does not let us (polkit?); run as a user that may use it")
        }
        Error::NoReadersAvailable | Error::UnknownReader | Error::ReaderUnavailable => {
            (ErrorClass::TokenAbsent, "the reader is not there; plug the token in")
        }
        Error::NoSmartcard | Error::RemovedCard | Error::UnresponsiveCard | Error::UnpoweredCard => {
            (ErrorClass::TokenAbsent, "there is no card in the reader, or it does not answer")
        }
        Error::ResetCard => (ErrorClass::SessionLost, "another program has reset the card"),
        _ => (ErrorClass::Unreachable, "the reader failed; what became of the command is not known"),
    };
    TokenError { code: Some(format!("PC/SC {error:?}")), ..TokenError::new(class, operation, advice) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(there: &[&str], named: Option<&str>) -> Result<String, ErrorClass> {
        let there: Vec<String> = there.iter().map(|&name| name.to_owned()).collect();
        choose(&there, named, "test").map_err(|e| e.class)
    }

    #[test]
    fn with_several_readers_one_is_named_exactly() {
        assert_eq!(pick(&[], None), Err(ErrorClass::TokenAbsent));
        assert_eq!(pick(&["A 00 00"], None), Ok("A 00 00".into()));
        assert_eq!(pick(&["A 00 00", "A 01 00"], None), Err(ErrorClass::Invalid));
        assert_eq!(pick(&["A 00 00", "A 01 00"], Some("A 01 00")), Ok("A 01 00".into()));
        for inexact in ["A", "A 01", "A 01 00 ", "a 01 00", ""] {
            assert_eq!(
                pick(&["A 00 00", "A 01 00"], Some(inexact)),
                Err(ErrorClass::TokenAbsent),
                "{inexact}"
            );
        }
        assert_eq!(pick(&["A 00 00"], Some("A")), Err(ErrorClass::TokenAbsent), "also with one reader");
    }
}
