//! `get`: values are masked unless they are asked for.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hsm_store::Record;
use hsm_types::RecordPath;

use super::args::{Format, GetArgs};
use super::history::{self, value};
use super::output::{document, raw, say, table};
use super::record::{checksum, heads, path};
use super::session::open;
use super::{Failure, Outcome};
use crate::config::SelectArgs;

pub(super) fn get(select: &SelectArgs, args: &GetArgs) -> Outcome {
    let path = path(&args.path)?;
    let mut store = open(select)?;
    let record = match &args.version {
        Some(version) => value(&mut store, &path, history::version(version)?)?,
        None => only(&path, heads(&mut store, &path)?)?,
    };
    if let Some(key) = &args.key {
        let value = record.content.data.get(key);
        let value = value.ok_or_else(|| Failure::NotFound(format!("{path} has no key {key}")))?;
        return Ok(raw(value.expose())?);
    }
    match args.output {
        Format::Name => say(path.as_str()),
        Format::Json | Format::Yaml => document(args.output, &shown(&path, &record, args.show_values))?,
        Format::Table | Format::Wide => show(&path, &record, args.show_values),
    }
    Ok(())
}

/// The record, if it has not diverged.
fn only(path: &RecordPath, mut heads: Vec<Record>) -> Result<Record, Failure> {
    if let (1, Some(record)) = (heads.len(), heads.pop()) {
        return Ok(record);
    }
    Err(Failure::Conflict(format!(
        "{path} has diverged into several versions; `history` lists them, `get --version V` shows each, and \
         `put --replace` merges them into what you give"
    )))
}

/// The document of `get`; its fields stay in this order.
#[derive(serde::Serialize)]
struct Shown<'a> {
    path: &'a str,
    version: String,
    checksum: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<BTreeMap<&'a str, String>>,
}

fn shown<'a>(path: &'a RecordPath, record: &'a Record, values: bool) -> Shown<'a> {
    let encoded =
        || record.content.data.iter().map(|(k, v)| (k.as_str(), STANDARD.encode(v.expose()))).collect();
    Shown {
        path: path.as_str(),
        version: record.revision.version.stamp().to_string(),
        checksum: checksum(&record.revision),
        data: values.then(encoded),
    }
}

fn show(path: &RecordPath, record: &Record, values: bool) {
    say(&format!("Path:      {path}"));
    say(&format!("Version:   {}", record.revision.version.stamp()));
    say(&format!("Checksum:  {}", checksum(&record.revision)));
    if !record.content.metadata.description.is_empty() {
        say(&format!("About:     {}", record.content.metadata.description));
    }
    for (name, value) in &record.content.metadata.labels {
        say(&format!("Label:     {name}={value}"));
    }
    say("");
    let rows: Vec<Vec<String>> = record
        .content
        .data
        .iter()
        .map(|(key, value)| {
            let shown = match (values, std::str::from_utf8(value.expose())) {
                (false, _) => "********".to_owned(),
                // Nothing that a terminal would obey.
                (true, Ok(text)) if !text.chars().any(|c| c.is_control() && c != '\n') => text.to_owned(),
                (true, _) => format!("base64:{}", STANDARD.encode(value.expose())),
            };
            vec![key.to_string(), value.expose().len().to_string(), shown]
        })
        .collect();
    table(&["KEY", "BYTES", "VALUE"], &rows);
}
