//! Where the PIN comes from, and which value was refused.

use std::path::PathBuf;

use aws_lc_rs::digest::{Context, SHA256};
use hsm_token::{Pin, TokenInfo};
use hsm_types::TokenId;
use zeroize::Zeroizing;

use crate::state::Tie;

/// A PIN file longer than this is not a PIN file.
const LONGEST: u64 = 256;

/// Whose a PIN is: it is given to nobody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The identity that the token shows; none for a blank one.
    pub token_id: Option<TokenId>,
    /// What carries it.
    pub tie: Tie,
}

/// The file or folder, and a PIN that the controller gave. None is ever shown.
pub struct PinSource {
    place: Option<PathBuf>,
    /// The names under which a folder may have this token's PIN, the best first.
    names: Vec<String>,
    /// The token that is asked for.
    owner: Option<Owner>,
    given: Option<Given>,
    /// Salted with `salt`, which is this process's own: only says whether a value is another one.
    refused: Option<[u8; 32]>,
    salt: [u8; 32],
}

struct Given {
    pin: Pin,
    /// None: the token that the next try meets.
    owner: Option<Owner>,
}

impl PinSource {
    /// Reads nothing yet.
    pub fn new(place: Option<PathBuf>) -> Self {
        Self {
            place,
            names: Vec::new(),
            owner: None,
            given: None,
            refused: None,
            salt: crate::random::bytes(),
        }
    }

    /// Says which token the PIN is for from now on.
    pub fn set_token(&mut self, token_id: Option<TokenId>, info: &TokenInfo) {
        self.names = names(token_id, info);
        let owner = Owner { token_id, tie: Tie::of(info) };
        if self.owner.as_ref() != Some(&owner) {
            self.refused = None;
        }
        if let Some(given) = &mut self.given
            && given.owner.is_none()
        {
            given.owner = Some(owner.clone());
        }
        self.owner = Some(owner);
    }

    /// Takes a PIN from the controller for `owner`, or for the token that the next try meets; it goes before the
    /// file's until it is refused.
    pub fn give(&mut self, pin: Pin, owner: Option<Owner>) {
        self.given = Some(Given { pin, owner });
    }

    /// The token that the PIN is for now.
    pub fn owner(&self) -> Option<&Owner> {
        self.owner.as_ref()
    }

    /// The try is over: a PIN that met no token is forgotten, so that no newcomer gets it.
    pub fn try_is_over(&mut self) {
        self.given.take_if(|given| given.owner.is_none());
    }

    /// The PIN to use, read anew, or what a person has to do.
    pub fn current(&self) -> Result<Pin, String> {
        if let Some(given) = &self.given
            && (given.owner.is_none() || given.owner == self.owner)
        {
            return Ok(given.pin.duplicate());
        }
        let Some(place) = &self.place else {
            return Err(
                "no PIN file is named; give --pin-file FILE (HSM_PIN_FILE), or unlock the token".to_owned()
            );
        };
        let file = if place.is_dir() { self.in_folder(place)? } else { place.clone() };
        let show = file.display();
        match std::fs::metadata(&file).map(|m| m.len()) {
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
        let bytes = std::fs::read(&file)
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

    /// The first file in the folder that is named for the token.
    fn in_folder(&self, folder: &std::path::Path) -> Result<PathBuf, String> {
        let shown = folder.display();
        if self.names.is_empty() {
            return Err(format!("{shown} is a folder; name the file in it that holds the PIN"));
        }
        self.names.iter().map(|name| folder.join(name)).find(|file| file.is_file()).ok_or_else(|| {
            format!(
                "the PIN folder {shown} has no file for this token; make one (mode 0600) with the name {}, it is read \
                 again by itself",
                self.names.join(" or ")
            )
        })
    }

    /// The token refused this value: a given PIN is forgotten, and the value waits for another.
    pub fn refused(&mut self, pin: &Pin) {
        self.refused = Some(self.mark(pin));
        let owner = self.owner.clone();
        self.given.take_if(|given| given.owner == owner);
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

/// TokenId, label, reader: each as a file may be named.
fn names(token_id: Option<TokenId>, info: &TokenInfo) -> Vec<String> {
    let mut names: Vec<String> = token_id.iter().map(ToString::to_string).collect();
    names.push(file_name(&info.label));
    if !info.software {
        names.push(file_name(&info.slot_description));
    }
    names.retain(|name| !name.is_empty());
    names
}

/// The text with every character that a file's or a Kubernetes Secret key's name may not have replaced by `_`.
fn file_name(text: &str) -> String {
    let fit = |(n, c): (usize, char)| {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') || (c == '.' && n > 0) { c } else { '_' }
    };
    text.chars().enumerate().map(fit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(label: &str, reader: &str) -> TokenInfo {
        TokenInfo { label: label.into(), slot_description: reader.into(), ..TokenInfo::default() }
    }

    #[test]
    fn a_folder_has_a_file_for_each_token() {
        let dir = tempfile::tempdir().unwrap();
        let mut source = PinSource::new(Some(dir.path().to_owned()));
        assert!(source.current().map(|_| ()).unwrap_err().contains("is a folder"));
        let id = TokenId::from_random([7; 16]);
        source.set_token(Some(id), &token("../my token", "Pico [CCID] (E6) 00 00"));
        let error = source.current().map(|_| ()).unwrap_err();
        assert!(error.contains("_._my_token or Pico__CCID___E6__00_00"), "{error}");
        for (name, pin) in
            [("Pico__CCID___E6__00_00", "three"), ("_._my_token", "two"), (&id.to_string(), "one")]
        {
            std::fs::write(dir.path().join(name), pin).unwrap();
            assert_eq!(source.current().unwrap().expose(), pin);
        }
    }

    #[test]
    fn a_given_pin_is_for_its_token_only() {
        let mut source = PinSource::new(None);
        let (old, new) = (token("", "Pico (E6) 00 00"), token("", "Pico (E7) 00 00"));
        let id = Some(TokenId::from_random([7; 16]));
        source.set_token(id, &old);
        source.give(Pin::new("given".into()), source.owner().cloned());
        assert_eq!(source.current().unwrap().expose(), "given");
        source.set_token(id, &new);
        assert!(source.current().is_err(), "not for a newcomer");
        source.set_token(id, &token("", "Pico (E6) 01 00"));
        assert_eq!(source.current().unwrap().expose(), "given", "the same token in another port");
        source.give(Pin::new("nobody".into()), None);
        source.try_is_over();
        assert!(source.current().is_err(), "forgotten when it met no token");
        source.give(Pin::new("next".into()), None);
        source.set_token(id, &new);
        source.try_is_over();
        assert_eq!(source.current().unwrap().expose(), "next");
    }

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
        source.give(Pin::new("given".into()), None);
        assert_eq!(source.current().unwrap().expose(), "given");
        source.refused(&source.current().unwrap());
        assert_eq!(source.current().unwrap().expose(), "from-file");
        assert!(source.has_new());
    }
}
