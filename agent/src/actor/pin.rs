//! Where the PIN comes from, and which value was refused.

use std::path::PathBuf;

use aws_lc_rs::digest::{Context, SHA256};
use hsm_token::Pin;
use zeroize::Zeroizing;

/// A PIN file longer than this is not a PIN file.
const LONGEST: u64 = 256;

/// The file, and a PIN that the controller gave. Neither is ever shown.
pub struct PinSource {
    file: Option<PathBuf>,
    given: Option<Pin>,
    /// Salted with `salt`, which is this process's own: only says whether a value is another one.
    refused: Option<[u8; 32]>,
    salt: [u8; 32],
}

impl PinSource {
    /// Reads nothing yet.
    pub fn new(file: Option<PathBuf>) -> Self {
        Self { file, given: None, refused: None, salt: crate::random::bytes() }
    }

    /// Takes a PIN from the controller; it goes before the file's until it is refused.
    pub fn give(&mut self, pin: Pin) {
        self.given = Some(pin);
    }

    /// The PIN to use, read anew, or what a person has to do.
    pub fn current(&self) -> Result<Pin, String> {
        if let Some(pin) = &self.given {
            return Ok(pin.duplicate());
        }
        let Some(file) = &self.file else {
            return Err(
                "no PIN file is named; give --pin-file FILE (HSM_PIN_FILE), or unlock the token".to_owned()
            );
        };
        let show = file.display();
        match std::fs::metadata(file).map(|m| m.len()) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(format!(
                    "the PIN file {show} does not exist; make it (mode 0600), it is read again by itself"
                ));
            }
            Ok(length) if length > LONGEST => {
                return Err(format!(
                    "{show} has {length} bytes and is no PIN file; write the PIN alone into it"
                ));
            }
            _ => {}
        }
        let bytes = std::fs::read(file)
            .map(Zeroizing::new)
            .map_err(|e| format!("the PIN file {show} cannot be read: {e}; it is read again by itself"))?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| format!("the PIN file {show} is not text; write the PIN alone into it"))?;
        let pin = Pin::new(text.to_owned());
        if pin.expose().is_empty() {
            return Err(format!(
                "the PIN file {show} is empty; write the PIN into it, it is read again by itself"
            ));
        }
        Ok(pin)
    }

    /// The token refused this value: a given PIN is forgotten, and the value waits for another.
    pub fn refused(&mut self, pin: &Pin) {
        self.refused = Some(self.mark(pin));
        self.given = None;
    }

    /// A login worked.
    pub fn accepted(&mut self) {
        self.refused = None;
    }

    /// Whether there is a PIN that was not the last one to be refused.
    pub fn has_new(&self) -> bool {
        self.current().is_ok_and(|pin| self.refused != Some(self.mark(&pin)))
    }

    fn mark(&self, pin: &Pin) -> [u8; 32] {
        let mut hash = Context::new(&SHA256);
        hash.update(&self.salt);
        hash.update(pin.expose().as_bytes());
        let mut mark = [0; 32];
        mark.copy_from_slice(hash.finish().as_ref());
        mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mended_file_is_a_new_value() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pin");
        let mut source = PinSource::new(Some(file.clone()));
        assert!(source.current().map(|_| ()).unwrap_err().contains("does not exist"));
        std::fs::write(&file, "\n").unwrap();
        assert!(source.current().map(|_| ()).unwrap_err().contains("empty"));
        std::fs::write(&file, "wrong\n").unwrap();
        assert!(source.has_new());
        source.refused(&source.current().unwrap());
        assert!(!source.has_new());
        std::fs::write(&file, "right\n").unwrap();
        assert!(source.has_new());
        assert_eq!(source.current().unwrap().expose(), "right");
    }

    #[test]
    fn a_given_pin_goes_first_and_is_forgotten_when_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pin");
        std::fs::write(&file, "from-file").unwrap();
        let mut source = PinSource::new(Some(file));
        source.give(Pin::new("given".into()));
        assert_eq!(source.current().unwrap().expose(), "given");
        source.refused(&source.current().unwrap());
        assert_eq!(source.current().unwrap().expose(), "from-file");
        assert!(source.has_new());
    }
}
