//! The verbs that change nothing: list, get, doctor.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hsm_store::{Record, Store, identify};
use hsm_token::Token as _;
use hsm_token::worker::WorkerToken;
use hsm_types::{Presence, RecordPath, Revision};
use serde_json::{Value as Json, json};

use super::args::{DoctorArgs, Format, GetArgs, ListArgs};
use super::output::{document, raw, remark, say, table};
use super::session::{connect, log_in, open, open_store};
use super::{Failure, Outcome};
use crate::config::SelectArgs;

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

pub(super) fn list(select: &SelectArgs, args: &ListArgs) -> Outcome {
    let store = open(select)?;
    let index = store.index();
    let found = || {
        index.entries().iter().filter(|(path, entry)| {
            path.as_str().starts_with(&args.prefix) && (!entry.heads.is_empty() || entry.damaged)
        })
    };
    let state = |entry: &hsm_store::Entry| match entry.heads.len() {
        _ if entry.damaged => "damaged",
        1 => "ok",
        _ => "diverged",
    };
    match args.output {
        Format::Name => found().for_each(|(path, _)| say(path.as_str())),
        Format::Json | Format::Yaml => {
            let items: Vec<Json> = found()
                .map(|(path, entry)| {
                    let heads: Vec<Json> = entry
                        .heads
                        .iter()
                        .map(|h| {
                            let keys: Vec<&str> = h.keys.iter().map(|(k, _)| k.as_str()).collect();
                            json!({
                                "version": h.revision.version.stamp().to_string(),
                                "checksum": checksum(&h.revision),
                                "keys": keys,
                                "size": h.size,
                            })
                        })
                        .collect();
                    json!({"path": path.as_str(), "state": state(entry), "versions": heads})
                })
                .collect();
            document(args.output, &json!({"items": items}))?;
        }
        Format::Table | Format::Wide => {
            let wide = args.output == Format::Wide;
            let rows: Vec<Vec<String>> = found()
                .map(|(path, entry)| {
                    let head = entry.heads.first();
                    let mut row = vec![
                        path.to_string(),
                        head.map_or_else(String::new, |h| h.revision.version.to_string()),
                        head.map_or_else(String::new, |h| h.keys.len().to_string()),
                        head.map_or_else(String::new, |h| h.size.to_string()),
                        state(entry).to_owned(),
                    ];
                    if wide {
                        row.push(head.map_or_else(String::new, |h| h.revision.version.stamp().to_string()));
                        row.push(head.map_or_else(String::new, |h| checksum(&h.revision)));
                    }
                    row
                })
                .collect();
            let head = ["PATH", "VERSION", "KEYS", "BYTES", "STATE", "STAMP", "CHECKSUM"];
            table(&head[..if wide { 7 } else { 5 }], &rows);
        }
    }
    if index.hides_records() {
        return Err(Failure::Other(format!(
            "the list may be incomplete: {} object(s) on the token cannot be read; see hsm-agent token doctor",
            index.damaged().len()
        )));
    }
    Ok(())
}

pub(super) fn get(select: &SelectArgs, args: &GetArgs) -> Outcome {
    let path = path(&args.path)?;
    let mut store = open(select)?;
    let heads = heads(&mut store, &path)?;
    let [record] = heads.as_slice() else {
        let versions: Vec<String> = heads.iter().map(|r| r.revision.version.stamp().to_string()).collect();
        return Err(Failure::Op(crate::error::OpError::new(
            crate::error::Kind::Conflict,
            None,
            format!(
                "{path} has diverged into {}; `put --replace` merges them into what you give",
                versions.join(" and ")
            ),
        )));
    };
    if let Some(key) = &args.key {
        let value = record.content.data.get(key);
        let value = value.ok_or_else(|| Failure::NotFound(format!("{path} has no key {key}")))?;
        return Ok(raw(value.expose())?);
    }
    match args.output {
        Format::Name => say(path.as_str()),
        Format::Json | Format::Yaml => document(args.output, &shown(&path, record, args.show_values))?,
        Format::Table | Format::Wide => show(&path, record, args.show_values),
    }
    Ok(())
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

pub(super) fn doctor(select: &SelectArgs, args: &DoctorArgs) -> Outcome {
    let chosen = select.choose()?;
    let (mut worker, info) = connect(&chosen)?;
    let identity = match identify(&mut worker)? {
        Presence::Present(id) => id.to_string(),
        Presence::Absent => "none".to_owned(),
        Presence::Unknown(why) => format!("unknown: {why}"),
    };
    let limits = worker.limits();
    drop(worker);
    let opened = log_in(&chosen).and_then(|(worker, info)| open_store(&chosen, worker, &info));
    let mut facts = vec![
        ("token", identity),
        ("label", info.label.clone()),
        ("model", format!("{} {}", info.manufacturer, info.model)),
        ("firmware", info.firmware.clone()),
        ("slot", info.slot.to_string()),
        ("software", info.software.to_string()),
        ("pin", pin_state(info.pin).to_owned()),
        ("limit", limits.objects_at_rest.map_or_else(|| "none".to_owned(), |n| format!("{n} objects"))),
    ];
    let mut damaged = Vec::new();
    if let Ok(store) = &opened {
        let counts = store.index().counts();
        let records = store.index().entries().values().filter(|e| !e.heads.is_empty()).count();
        facts.push(("fingerprint", store.fingerprint().to_string()));
        facts.push(("records", records.to_string()));
        facts.push(("tombstones", store.index().tombstones().count().to_string()));
        facts.push((
            "objects",
            format!("{} ours, {} foreign, {} keys", counts.ours, counts.foreign, counts.others),
        ));
        damaged = store.index().damaged().iter().map(ToString::to_string).collect();
    }
    if matches!(args.output, Format::Json | Format::Yaml) {
        let mut shown: serde_json::Map<String, Json> =
            facts.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into())).collect();
        shown.insert("damaged".to_owned(), json!(damaged));
        document(args.output, &Json::Object(shown))?;
    } else {
        for (name, value) in &facts {
            say(&format!("{name:<12} {value}"));
        }
        for what in &damaged {
            say(&format!("damaged      {what}"));
        }
    }
    opened?;
    if damaged.is_empty() {
        remark("The token can be used.");
        Ok(())
    } else {
        Err(Failure::Other(format!("{} object(s) of ours cannot be read", damaged.len())))
    }
}

const fn pin_state(pin: hsm_token::PinFlags) -> &'static str {
    if pin.locked {
        "locked: no try is left"
    } else if pin.final_try {
        "one try is left"
    } else if pin.count_low {
        "a wrong one was tried since the last login"
    } else if pin.initialized {
        "ok"
    } else {
        "not set"
    }
}
