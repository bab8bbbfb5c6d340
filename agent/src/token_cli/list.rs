//! `list`.

use serde_json::{Value as Json, json};

use super::args::{Format, ListArgs};
use super::output::{document, say, table};
use super::record::checksum;
use super::session::open;
use super::{Failure, Outcome};
use crate::config::SelectArgs;

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
