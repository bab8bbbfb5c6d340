//! The verbs that change records: put, delete.

use hsm_store::{Encryption, Expect, PutOrigin, PutOutcome, PutRequest, Record, Store, StoreError};
use hsm_token::worker::WorkerToken;
use hsm_types::{Content, Payload, Presence, RecordPath, Stamp, Version};
use serde_json::json;

use super::args::{DeleteArgs, Encryption as Given, Format, PutArgs};
use super::output::{document, say};
use super::record::{checksum, path};
use super::session::{again, finish, open, open_with};
use super::{Failure, Outcome, sources};
use crate::config::SelectArgs;

/// How often a merge is done anew when somebody else wrote meanwhile.
const ROUNDS: usize = 20;
/// How many earlier values a verb keeps where nothing else is said.
pub(super) const KEEP_HISTORY: usize = 3;

fn expected(text: Option<&String>) -> Result<Option<Stamp>, Failure> {
    text.map(|t| t.parse().map_err(|e| Failure::Usage(format!("--expect-version: {e}")))).transpose()
}

/// What is on the token now: no head when it is known to be absent.
fn now(store: &mut Store<WorkerToken>, path: &RecordPath) -> Result<Vec<Record>, Failure> {
    match store.heads(path)? {
        Presence::Present(heads) => Ok(heads),
        Presence::Absent => Ok(Vec::new()),
        Presence::Unknown(why) => {
            Err(Failure::Other(format!("{path} is unknown, so nothing was written: {why}")))
        }
    }
}

/// What is to be written, decided from what is there. Pure.
fn plan(
    path: &RecordPath,
    heads: Vec<Record>,
    given: &Payload,
    replace: bool,
    stamp: Option<Stamp>,
    keep_history: usize,
) -> Result<PutRequest, Failure> {
    let diverged = || StoreError::Diverged {
        path: path.clone(),
        heads: heads.iter().map(|r| r.revision.clone()).collect(),
    };
    if heads.len() > 1 && !replace {
        return Err(diverged().into());
    }
    // The first head is replaced, and the others are parents: so the new version ends the divergence.
    let expect = match (stamp, heads.first()) {
        (Some(stamp), _) => Expect::Stamp(stamp),
        (None, Some(head)) => Expect::Stamp(head.revision.version.stamp()),
        (None, None) => Expect::Absent,
    };
    let is_expected = |v: &Version| matches!(expect, Expect::Stamp(stamp) if v.stamp() == stamp);
    let parents =
        heads.iter().map(|r| r.revision.version.clone()).filter(|v| !is_expected(v)).collect::<Vec<_>>();
    let mut content = heads.into_iter().next().map_or_else(Content::default, |head| head.content);
    if replace {
        content.data = Payload::new();
    }
    let copy = given.duplicate();
    for (key, value) in &copy {
        content.data.insert(key.clone(), hsm_types::Value::new(value.expose().to_vec()));
    }
    Ok(PutRequest {
        path: path.clone(),
        expect,
        content,
        origin: PutOrigin::Token,
        parents,
        begin_epoch: true,
        keep_history,
    })
}

const fn encryption(given: Given) -> Encryption {
    match given {
        Given::Envelope => Encryption::Envelope,
        Given::None => Encryption::None,
    }
}

pub(super) fn put(select: &SelectArgs, args: &PutArgs) -> Outcome {
    let path = path(&args.path)?;
    let stamp = expected(args.expect_version.as_ref())?;
    let given = sources::read(args)?;
    let outcome = again(|| write(select, args, &path, &given, stamp))?;
    outcome.map_or(Ok(()), |outcome| report(args.output, &path, &outcome))
}

/// Merges what is given into what is there; `None` for a dry run.
fn write(
    select: &SelectArgs,
    args: &PutArgs,
    path: &RecordPath,
    given: &Payload,
    stamp: Option<Stamp>,
) -> Result<Option<PutOutcome>, Failure> {
    let mut store = open_with(select, encryption(args.encryption))?;
    let mut round = 1;
    let outcome = loop {
        let heads = now(&mut store, path)?;
        let request = plan(path, heads, given, args.replace, stamp, args.keep_history)?;
        if args.dry_run {
            let keys: Vec<&str> = request.content.data.iter().map(|(k, _)| k.as_str()).collect();
            say(&format!("{path} would have the keys {} (dry run)", keys.join(", ")));
            return Ok(None);
        }
        match store.put(&request) {
            // Somebody wrote between our look and our lock: merge into that instead.
            Err(StoreError::VersionMismatch { .. }) if stamp.is_none() && round < ROUNDS => {
                round += 1;
                store.refresh()?;
            }
            outcome => break outcome?,
        }
    };
    finish(&mut store)?;
    Ok(Some(outcome))
}

pub(super) fn report(format: Format, path: &RecordPath, outcome: &PutOutcome) -> Outcome {
    let version = outcome.revision.version.stamp();
    match format {
        Format::Json | Format::Yaml => document(
            format,
            &json!({
                "path": path.as_str(),
                "version": version.to_string(),
                "checksum": checksum(&outcome.revision),
                "written": outcome.written,
            }),
        ),
        Format::Name => {
            say(path.as_str());
            Ok(())
        }
        Format::Table | Format::Wide => {
            let what = if outcome.written { "written" } else { "unchanged" };
            say(&format!("{path} {what}, version {version}"));
            Ok(())
        }
    }
}

pub(super) fn delete(select: &SelectArgs, args: &DeleteArgs) -> Outcome {
    let path = path(&args.path)?;
    let stamp = expected(args.expect_version.as_ref())?;
    let mut store = open(select)?;
    let missing = |what: String| {
        if args.ignore_not_found { Ok(()) } else { Err(Failure::NotFound(what)) }
    };
    let heads = now(&mut store, &path)?;
    if heads.is_empty() {
        return missing(format!("{path} is not on the token; nothing was deleted"));
    }
    let Some(key) = &args.key else {
        if args.dry_run {
            say(&format!("{path} would be deleted (dry run)"));
            return Ok(());
        }
        let outcome = store.delete(&path, stamp.map_or(Expect::Any, Expect::Stamp))?;
        finish(&mut store)?;
        say(&format!("{path} deleted ({} tombstone(s))", outcome.tombstones.len()));
        return Ok(());
    };
    let mut request = plan(&path, heads, &Payload::new(), false, stamp, KEEP_HISTORY)?;
    if request.content.data.remove(key).is_none() {
        return missing(format!("{path} has no key {key}; nothing was deleted"));
    }
    if args.dry_run {
        say(&format!("the key {key} of {path} would be deleted (dry run)"));
        return Ok(());
    }
    let outcome = store.put(&request)?;
    finish(&mut store)?;
    say(&format!("{path} without {key}, version {}", outcome.revision.version.stamp()));
    Ok(())
}
