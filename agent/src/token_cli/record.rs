//! What the verbs on records share: paths, checksums, what is on the token now.

use hsm_store::{Record, Store};
use hsm_token::worker::WorkerToken;
use hsm_types::{Presence, RecordPath, Revision};

use super::Failure;

/// The form in which a content's digest is shown: salted with the record's life, so equal values of two records differ.
pub(super) fn checksum(revision: &Revision) -> String {
    format!("sha256:{}", crate::hex::text(revision.digest.as_bytes()))
}

pub(super) fn path(text: &str) -> Result<RecordPath, Failure> {
    RecordPath::new(text).map_err(|e| Failure::Usage(e.to_string()))
}

/// The record's heads, or why there are none.
pub(super) fn heads(store: &mut Store<WorkerToken>, path: &RecordPath) -> Result<Vec<Record>, Failure> {
    match store.heads(path)? {
        Presence::Present(heads) => Ok(heads),
        Presence::Absent => Err(Failure::NotFound(format!("{path} is not on the token"))),
        Presence::Unknown(why) => Err(Failure::Other(format!("{path} is unknown: {why}"))),
    }
}
