//! The opensc.conf(5) of one worker, written anew for each epoch.
//!
//! OpenSC connects the cards of **all** readers at C_Initialize. With exclusive connections the first worker would
//! take every token, without them each start logs the others out. So each worker's file ignores all readers but its
//! own. This module owns the file's text and its place; which readers there are, its caller says.
//!
//! Syntax and meaning as in OpenSC 0.23 to 0.27 (`src/scconf`, `src/libopensc/ctx.c`): a value in double quotes ends
//! at the next double quote or line end, and nothing can be escaped in it; a reader is ignored when an entry of
//! `ignored_readers` is found **anywhere** in its name, so that an entry can hide more readers than the one meant.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::durable;
use crate::pkcs11::{TokenSelector, same_reader};
use crate::{ErrorClass, TokenError};

/// What a worker's opensc.conf says. Of no effect on modules other than OpenSC's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenscSettings {
    /// Where the file is written: a folder that exists and that only we can write (the runtime folder).
    pub dir: PathBuf,
    /// Whether the card is connected exclusively, so that no other program reaches the token meanwhile.
    pub exclusive: bool,
    /// The PC/SC names of the readers that the worker must leave alone. Its own reader may be among them: it is left
    /// out where the token is selected by [`TokenSelector::Reader`].
    pub other_readers: Vec<String>,
}

impl OpenscSettings {
    /// Exclusive, and no reader ignored.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), exclusive: true, other_readers: Vec::new() }
    }
}

/// The file of one worker; removed when dropped.
pub(super) struct OpenscConf {
    path: PathBuf,
}

impl OpenscConf {
    /// Names a file that no other worker of this node uses; nothing is written yet.
    pub(super) fn new(dir: &Path) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { path: dir.join(format!("opensc-{}-{number}.conf", process::id())) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes it anew.
    ///
    /// Errors: `Invalid` where the readers cannot be told apart, `Module` where the file cannot be written.
    pub(super) fn write(&self, settings: &OpenscSettings, token: &TokenSelector) -> Result<(), TokenError> {
        let text = text(settings, token)?;
        durable::replace(&self.path, text.as_bytes()).map_err(|e| {
            let path = self.path.display();
            let message = format!("cannot write {path}, which keeps OpenSC from other readers: {e}");
            TokenError::new(ErrorClass::Module, "open", message)
        })
    }
}

impl Drop for OpenscConf {
    fn drop(&mut self) {
        // What stays says which readers there were, which is no secret.
        let _ = durable::remove(&self.path);
    }
}

fn text(settings: &OpenscSettings, token: &TokenSelector) -> Result<String, TokenError> {
    let own = match token {
        TokenSelector::Reader(name) => Some(name.as_str()),
        _ => None,
    };
    let mut ignored: Vec<Cow<'_, str>> = Vec::new();
    for name in &settings.other_readers {
        if own.is_none_or(|own| !same_reader(name, own)) {
            ignored.push(entry(name, own)?);
        }
    }
    let mut text =
        String::from("# Written anew by hsm-agent for each session of one token worker. Do not edit.\n");
    text.push_str("app default {\n    debug = 0;\n    card_drivers = sc-hsm;\n");
    if let Some((last, rest)) = ignored.split_last() {
        text.push_str("    ignored_readers =");
        for name in rest {
            let _ = write!(text, " \"{name}\",");
        }
        let _ = writeln!(text, " \"{last}\";");
    }
    let exclusive = settings.exclusive;
    text.push_str("    reader_driver pcsc {\n        enable_pinpad = false;\n");
    let _ = writeln!(text, "        connect_exclusive = {exclusive};\n    }}");
    text.push_str("    framework pkcs15 {\n        use_file_caching = no;\n    }\n}\n");
    Ok(text)
}

/// What stands for this reader: its name, or the longest part of it that can be written between double quotes.
fn entry<'a>(name: &'a str, own: Option<&str>) -> Result<Cow<'a, str>, TokenError> {
    let refuse = |why: String| Err(TokenError::new(ErrorClass::Invalid, "open", why));
    let longest = name.split(|c: char| c == '"' || c.is_control()).max_by_key(|part| part.len());
    let Some(part) = longest.filter(|part| !part.trim().is_empty()) else {
        return refuse(format!(
            "the reader {name:?} has a name that OpenSC cannot be told to ignore; unplug it"
        ));
    };
    if let Some(own) = own.filter(|own| own.contains(part)) {
        return refuse(format!(
            "OpenSC cannot ignore the reader {name:?} without ignoring {own:?} too, because the one's name is part of \
             the other's; unplug one of them"
        ));
    }
    Ok(part.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(others: &[&str]) -> OpenscSettings {
        OpenscSettings {
            other_readers: others.iter().map(|&name| name.to_owned()).collect(),
            ..OpenscSettings::new("/run/x")
        }
    }

    fn reader(name: &str) -> TokenSelector {
        TokenSelector::Reader(name.to_owned())
    }

    #[test]
    fn the_whole_text() {
        let settings = settings(&["Pico Key (A) 00 00", "Pico Key (B) 01 00", "Other, Inc. {x}; # 02 00"]);
        assert_eq!(
            text(&settings, &reader("Pico Key (A) 00 00")).unwrap(),
            "# Written anew by hsm-agent for each session of one token worker. Do not edit.\n\
             app default {\n    debug = 0;\n    card_drivers = sc-hsm;\n    \
             ignored_readers = \"Pico Key (B) 01 00\", \"Other, Inc. {x}; # 02 00\";\n    \
             reader_driver pcsc {\n        enable_pinpad = false;\n        connect_exclusive = true;\n    }\n    \
             framework pkcs15 {\n        use_file_caching = no;\n    }\n}\n"
        );
        let shared = OpenscSettings { exclusive: false, ..OpenscSettings::new("/run/x") };
        let text = text(&shared, &TokenSelector::Only).unwrap();
        assert!(text.contains("connect_exclusive = false;") && !text.contains("ignored_readers"), "{text}");
    }

    #[test]
    fn a_name_cannot_say_more_than_a_name() {
        let hostile = "Evil\"; connect_exclusive = false; x = \" 01 00";
        let text = text(&settings(&[hostile]), &reader("Pico Key (A) 00 00")).unwrap();
        assert!(text.contains("ignored_readers = \"; connect_exclusive = false; x = \";\n"), "{text}");
        assert_eq!(text.matches("connect_exclusive = true;").count(), 1);
        // A line end would end the string as well.
        assert_eq!(entry("abc\r\ncard_drivers", None).unwrap(), "card_drivers");
    }

    #[test]
    fn a_name_that_would_hide_our_own_reader_is_refused() {
        for other in ["", "\"\n", " ", "Pico", "Key (A) 00 0", "\"Pico\""] {
            let error = text(&settings(&[other]), &reader("Pico Key (A) 00 00")).unwrap_err();
            assert_eq!(error.class, ErrorClass::Invalid, "{other:?}");
            assert!(error.message.contains("unplug"), "{error}");
        }
        // The longer name holds the shorter one, not the other way round.
        assert!(text(&settings(&["Pico Key (A) 00 00 extra"]), &reader("Pico Key (A) 00 00")).is_ok());
    }

    #[test]
    fn our_own_reader_is_known_by_the_64_bytes_that_pkcs11_shows() {
        let long = format!("Pico Key {} 00 00", "x".repeat(60));
        let text = text(&settings(&[&long]), &reader(&long[..64])).unwrap();
        assert!(!text.contains("ignored_readers"), "{text}");
    }

    #[test]
    fn files_of_two_workers_differ_and_go_with_them() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (OpenscConf::new(dir.path()), OpenscConf::new(dir.path()));
        assert_ne!(one.path(), two.path());
        let settings = OpenscSettings::new(dir.path());
        one.write(&settings, &TokenSelector::Only).unwrap();
        one.write(&settings, &TokenSelector::Only).unwrap();
        assert!(one.path().exists());
        drop(one);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let nowhere = OpenscConf::new(Path::new("/nonexistent-hsm"));
        assert_eq!(nowhere.write(&settings, &TokenSelector::Only).unwrap_err().class, ErrorClass::Module);
    }
}
