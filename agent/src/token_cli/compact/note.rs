//! A note in the state directory: which export a compaction has begun with. It holds no secret.

use std::io;
use std::path::{Path, PathBuf};

use hsm_types::TokenId;
use serde::{Deserialize, Serialize};

use crate::export::Export;
use crate::state::{read_if_there, write_atomic};

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Begun {
    /// The digest in the export's end entry, as hexadecimal digits.
    export: String,
    reformat: bool,
    /// Whether the store was made anew.
    formatted: bool,
}

/// The note of one token; there is none while no compaction is under way.
pub(super) struct Note {
    path: PathBuf,
    begun: Option<Begun>,
}

impl Note {
    pub(super) fn load(state_dir: &Path, id: TokenId) -> io::Result<Self> {
        let path = state_dir.join(format!("compaction-{id}.json"));
        let damaged = |e: serde_json::Error| {
            let text = format!("{} is damaged ({e}); remove it to begin the compaction anew", path.display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let begun = match read_if_there(&path)? {
            Some(bytes) => Some(serde_json::from_slice(&bytes).map_err(damaged)?),
            None => None,
        };
        Ok(Self { path, begun })
    }

    /// Whether a compaction with this export has begun.
    pub(super) fn is_of(&self, export: &Export) -> bool {
        self.begun.as_ref().is_some_and(|begun| begun.export == crate::hex::text(&export.digest))
    }

    /// Whether its store was made anew already.
    pub(super) fn is_formatted(&self) -> bool {
        self.begun.as_ref().is_some_and(|begun| begun.formatted)
    }

    pub(super) fn begin(&mut self, export: &Export, reformat: bool) -> io::Result<()> {
        self.write(Begun { export: crate::hex::text(&export.digest), reformat, formatted: false })
    }

    pub(super) fn formatted(&mut self) -> io::Result<()> {
        match self.begun.clone() {
            Some(begun) => self.write(Begun { formatted: true, ..begun }),
            None => Ok(()),
        }
    }

    pub(super) fn end(&mut self) -> io::Result<()> {
        self.begun = None;
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn write(&mut self, begun: Begun) -> io::Result<()> {
        let json = serde_json::to_vec(&begun).map_err(io::Error::other)?;
        write_atomic(&self.path, &json)?;
        self.begun = Some(begun);
        Ok(())
    }
}
