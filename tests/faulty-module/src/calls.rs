//! The log of calls, `calls.log`: one JSON line for each, without any secret.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::disk::{Disk, invalid};

/// Where an answer came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// From the process's memory: it says nothing of the card as it is now.
    #[default]
    Memory,
    /// At least one APDU went to the card.
    Card,
}

/// One call, as it was answered. A call that hangs for ever or crashes the process is written before it does so, with
/// the result `hang` or `crash`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Call {
    /// Milliseconds since 1970, at its answer.
    pub at_millis: u64,
    /// The calling process.
    pub pid: u32,
    /// The function, `C_CreateObject` say.
    pub function: String,
    /// The reader of the slot that it was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reader: Option<String>,
    /// The object's handle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<u64>,
    /// The object's label, as far as it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The length of the value, in bytes; never the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<usize>,
    /// `CKR_OK`, or another value's name or number.
    pub result: String,
    /// APDUs that it took.
    pub apdus: u64,
    /// Where the answer came from.
    pub from: From,
    /// Whether a fault of the script struck at it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub struck: bool,
}

/// Appends one line. O_APPEND keeps the lines of several processes apart.
pub(crate) fn append(disk: &Disk, call: &Call) -> io::Result<()> {
    let mut line = serde_json::to_vec(call)?;
    line.push(b'\n');
    OpenOptions::new().create(true).append(true).open(disk.log_file())?.write_all(&line)
}

/// Every call so far. A last line that a kill has cut is left out.
pub(crate) fn read(disk: &Disk) -> io::Result<Vec<Call>> {
    let text = match fs::read_to_string(disk.log_file()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).map_err(|e| invalid(format!("calls.log: {e}"))))
        .collect()
}
