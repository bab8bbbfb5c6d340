//! `history` and `restore`: the earlier values of a record that are kept on purpose.

use hsm_store::{Expect, PutOrigin, PutRequest, Record, Store, StoreError};
use hsm_token::worker::WorkerToken;
use hsm_types::{Presence, RecordPath, Revision, Stamp};
use serde_json::{Value as Json, json};

use super::args::{Format, HistoryArgs, RestoreArgs};
use super::edit::{KEEP_HISTORY, report};
use super::output::{agree, document, remark, say, table};
use super::record::{checksum, heads, path};
use super::session::{finish, open};
use super::{Failure, Outcome};
use crate::config::SelectArgs;

pub(super) fn history(select: &SelectArgs, args: &HistoryArgs) -> Outcome {
    let path = path(&args.path)?;
    let store = open(select)?;
    let versions: Vec<(&str, Revision)> = match store.index().presence(&path) {
        Presence::Present(entry) => {
            let heads = entry.revisions().into_iter().map(|r| ("current", r));
            heads.chain(entry.history.iter().map(|h| ("earlier", h.revision.clone()))).collect()
        }
        Presence::Absent => return Err(Failure::NotFound(format!("{path} is not on the token"))),
        Presence::Unknown(why) => return Err(Failure::Other(format!("{path} is unknown: {why}"))),
    };
    let stamp = |revision: &Revision| revision.version.stamp().to_string();
    match args.output {
        Format::Json | Format::Yaml => {
            let items: Vec<Json> = versions
                .iter()
                .map(|(state, r)| json!({"state": state, "version": stamp(r), "checksum": checksum(r)}))
                .collect();
            document(args.output, &json!({"path": path.as_str(), "items": items}))
        }
        Format::Name => {
            for (_, revision) in &versions {
                say(&stamp(revision));
            }
            Ok(())
        }
        Format::Table | Format::Wide => {
            let wide = args.output == Format::Wide;
            let row = |(state, revision): &(&str, Revision)| {
                let mut row = vec![stamp(revision), (*state).to_owned()];
                row.extend(wide.then(|| checksum(revision)));
                row
            };
            let rows: Vec<Vec<String>> = versions.iter().map(row).collect();
            table(&["VERSION", "STATE", "CHECKSUM"][..if wide { 3 } else { 2 }], &rows);
            Ok(())
        }
    }
}

/// The text of `--version`.
pub(super) fn version(text: &str) -> Result<Stamp, Failure> {
    text.parse().map_err(|e| Failure::Usage(format!("--version: {e}")))
}

/// The version that is named, current or earlier.
pub(super) fn value(
    store: &mut Store<WorkerToken>,
    path: &RecordPath,
    stamp: Stamp,
) -> Result<Record, Failure> {
    let current = heads(store, path)?.into_iter().find(|head| head.revision.version.stamp() == stamp);
    if let Some(head) = current {
        return Ok(head);
    }
    match store.history_value(path, stamp)? {
        Presence::Present(record) => Ok(record),
        Presence::Absent => Err(Failure::NotFound(format!(
            "{path} has no version {stamp} any more; hsm-agent token history {path} lists those that are kept"
        ))),
        Presence::Unknown(why) => Err(Failure::Other(format!("{path} is unknown: {why}"))),
    }
}

pub(super) fn restore(select: &SelectArgs, args: &RestoreArgs) -> Outcome {
    let path = path(&args.path)?;
    let stamp = version(&args.version)?;
    let mut store = open(select)?;
    let record = value(&mut store, &path, stamp)?;
    let current: Vec<_> = match store.index().presence(&path) {
        Presence::Present(entry) => entry.revisions(),
        Presence::Absent | Presence::Unknown(_) => Vec::new(),
    };
    let [head] = current.as_slice() else {
        return Err(StoreError::Diverged { path, heads: current }.into());
    };
    if args.dry_run {
        let keys: Vec<&str> = record.content.data.iter().map(|(k, _)| k.as_str()).collect();
        say(&format!("{path} would have the content of {stamp}, keys {} (dry run)", keys.join(", ")));
        return Ok(());
    }
    let expect = head.version.stamp();
    agree(&format!("Replace {expect} of {path} by the content of {stamp}?"), args.yes)?;
    let kept = store.index().entries().get(&path).map_or(0, |entry| entry.history.len());
    let outcome = store.put(&PutRequest {
        path: path.clone(),
        expect: Expect::Stamp(expect),
        content: record.content,
        origin: PutOrigin::Token,
        parents: Vec::new(),
        begin_epoch: true,
        keep_history: kept.max(KEEP_HISTORY),
    })?;
    finish(&mut store)?;
    report(args.output, &path, &outcome)?;
    if outcome.written && args.output == Format::Table {
        remark(&format!("What it replaced is {expect} in its history, where there was room for it."));
    }
    Ok(())
}
