//! PINs in files: read, or made.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use hsm_token::Pin;
use zeroize::Zeroizing;

use super::Failure;
use super::output::remark;
use crate::actor::PinSource;
use crate::random;

/// Shorter than this, a PIN protects a token's flash for minutes.
const SHORT: usize = 12;

/// Says so of a short PIN.
pub(super) fn warn_if_short(pin: &Pin) {
    let length = pin.expose().len();
    if length < SHORT {
        remark(&format!(
            "The PIN has {length} characters. On a hardware token the PIN is all that protects the flash; {SHORT} to 15 are better."
        ));
    }
}

/// The PIN in the file, or a random one that is written to it (mode 0600). Says whether it was made.
pub(super) fn pin_or_new(file: &Path) -> Result<(Pin, bool), Failure> {
    secret_or_new(file, random::pin)
}

/// The same with another kind of random text.
pub(super) fn secret_or_new(
    file: &Path,
    new: impl FnOnce() -> Zeroizing<String>,
) -> Result<(Pin, bool), Failure> {
    let failed = |e: std::io::Error| Failure::Other(format!("{} cannot be written: {e}", file.display()));
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(file) {
        Ok(mut opened) => {
            let pin = new();
            opened
                .write_all(pin.as_bytes())
                .and_then(|()| opened.write_all(b"\n"))
                .and_then(|()| opened.sync_all())
                .map_err(failed)?;
            Ok((Pin::new(pin.to_string()), true))
        }
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let pin = PinSource::new(Some(file.to_owned())).current().map_err(Failure::Other)?;
            Ok((pin, false))
        }
        Err(e) => Err(failed(e)),
    }
}
