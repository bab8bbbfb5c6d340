//! `export`: all that can be read, encrypted, and checked before it counts. What cannot be read is named in the file.

use std::path::Path;

use hsm_store::{DamagedObject, Replica, Store, StoreError, format};
use hsm_token::worker::WorkerToken;
use hsm_types::{Presence, RecordPath, TokenId};
use serde_json::json;

use super::args::{ExportArgs, Format, LockArgs};
use super::output::{document, remark, say};
use super::progress::Progress;
use super::session::{again, open};
use super::{Failure, Outcome};
use crate::config::{SelectArgs, VERSION};
use crate::error::OpError;
use crate::export::{Counts, Draft, Header, Item, Lock, Missing, Unlock, Verified, passphrase};

/// Shorter than this, a passphrase can be guessed by whoever has the file.
const SHORT: usize = 12;

/// What came of an export.
pub(super) struct Exported {
    pub(super) token_id: TokenId,
    pub(super) counts: Counts,
    pub(super) verified: Verified,
    pub(super) missing: Vec<Missing>,
}

pub(super) fn export(select: &SelectArgs, args: &ExportArgs) -> Outcome {
    let (lock, unlock) = keys(&args.lock, args.identity.as_deref())?;
    if !args.force {
        refuse_existing(&args.out)?;
    }
    let done = again(|| {
        let mut store = open(select)?;
        write(&mut store, &args.prefix, &args.out, &lock, unlock.as_ref(), args.force)
    })?;
    report(args, &done)?;
    if done.missing.is_empty() {
        return Ok(());
    }
    for missing in &done.missing {
        remark(&format!("not exported: {}: {}", missing.what, missing.why));
    }
    Err(Failure::Partial(format!(
        "{} is partial: {} thing(s) on the token cannot be read; what they held is not in it",
        args.out.display(),
        done.missing.len()
    )))
}

/// What an export is locked with, and what opens it again, if we have that.
pub(super) fn keys(lock: &LockArgs, identity: Option<&Path>) -> Result<(Lock, Option<Unlock>), Failure> {
    let Some(file) = &lock.passphrase_file else {
        let lock = Lock::recipients(&lock.recipient, lock.recipients_file.as_deref())?;
        return Ok((lock, identity.map(Unlock::identities).transpose()?));
    };
    let passphrase = passphrase(file)?;
    let length = passphrase_length(&passphrase);
    if length < SHORT {
        remark(&format!(
            "The passphrase has {length} characters. Whoever has the file can guess a short one; use {SHORT} or more, or a recipient."
        ));
    }
    let lock = Lock::Passphrase(passphrase);
    let unlock = lock.unlock();
    Ok((lock, unlock))
}

fn passphrase_length(passphrase: &age::secrecy::SecretString) -> usize {
    age::secrecy::ExposeSecret::expose_secret(passphrase).chars().count()
}

pub(super) fn refuse_existing(out: &Path) -> Outcome {
    if out.symlink_metadata().is_ok() {
        return Err(Failure::Usage(format!(
            "{} is there already; give another name, or --force to write over it",
            out.display()
        )));
    }
    Ok(())
}

/// Writes and checks an export of the records whose paths begin with `prefix`.
pub(super) fn write(
    store: &mut Store<WorkerToken>,
    prefix: &str,
    out: &Path,
    lock: &Lock,
    unlock: Option<&Unlock>,
    force: bool,
) -> Result<Exported, Failure> {
    if store.is_compacting() {
        return Err(StoreError::Compacting.into());
    }
    let header = Header {
        token_id: store.token_id(),
        made_by: format!("hsm-agent {VERSION}"),
        prefix: prefix.to_owned(),
    };
    let mut draft = Draft::begin(out, lock, &header)?;
    let mut missing: Vec<Missing> =
        store.index().damaged().iter().filter(|d| hides(d)).map(lacking).collect();
    let begins = |path: &RecordPath| path.as_str().starts_with(prefix);
    let paths: Vec<RecordPath> = store.index().entries().keys().filter(|p| begins(p)).cloned().collect();
    let mut progress = Progress::new("exporting", paths.len());
    for path in &paths {
        if let Some(why) = record(store, path, &mut draft)? {
            missing.push(Missing { what: path.to_string(), why });
        }
        progress.step();
    }
    for tombstone in store.index().tombstones().filter(|tomb| begins(&tomb.path)) {
        draft.put(&Item::Tombstone(tombstone.clone()))?;
    }
    for missing in &missing {
        draft.put(&Item::Missing(missing.clone()))?;
    }
    drop(progress);
    let (counts, verified) = draft.publish(unlock, force)?;
    Ok(Exported { token_id: header.token_id, counts, verified, missing })
}

/// Whether a record may be in it. The identity and the copies of the store key hold none.
fn hides(damaged: &DamagedObject) -> bool {
    let label = damaged.label.as_str();
    label != format::IDENTITY_LABEL && !format::KEY_LABELS.contains(&label)
}

fn lacking(damaged: &DamagedObject) -> Missing {
    let what = damaged.path.as_ref().map_or_else(|| damaged.label.clone(), ToString::to_string);
    Missing { what, why: format!("object {}: {}", damaged.label, damaged.damage) }
}

/// Writes all heads of one record; says why some of it could not be read.
fn record(
    store: &mut Store<WorkerToken>,
    path: &RecordPath,
    draft: &mut Draft,
) -> Result<Option<String>, Failure> {
    let heads = match store.heads(path) {
        Ok(Presence::Present(heads)) => heads,
        // Deleted, or deleted since: its tombstone says so.
        Ok(Presence::Absent) => return Ok(None),
        Ok(Presence::Unknown(why)) => return unknown(store, path, &why.to_string()),
        Err(error) => {
            let error: OpError = error.into();
            if error.ends_epoch || store.is_void() {
                return Err(error.into());
            }
            return Ok(Some(error.message));
        }
    };
    for head in heads {
        let replica = Replica { path: path.clone(), revision: head.revision, content: head.content };
        draft.put(&Item::Record(replica))?;
    }
    earlier(store, path, draft)
}

/// Writes the earlier values; says which of them could not be read.
fn earlier(
    store: &mut Store<WorkerToken>,
    path: &RecordPath,
    draft: &mut Draft,
) -> Result<Option<String>, Failure> {
    let kept = match store.history(path) {
        Presence::Present(revisions) => revisions,
        Presence::Absent | Presence::Unknown(_) => Vec::new(),
    };
    for revision in kept {
        let stamp = revision.version.stamp();
        match store.history_value(path, stamp) {
            Ok(Presence::Present(record)) => {
                let replica =
                    Replica { path: path.clone(), revision: record.revision, content: record.content };
                draft.put(&Item::Earlier(replica))?;
            }
            // Dropped since: history is for where there is room.
            Ok(Presence::Absent) => {}
            Ok(Presence::Unknown(why)) => return Ok(Some(format!("earlier value {stamp}: {why}"))),
            Err(error) => {
                let error: OpError = error.into();
                if error.ends_epoch || store.is_void() {
                    return Err(error.into());
                }
                return Ok(Some(format!("earlier value {stamp}: {}", error.message)));
            }
        }
    }
    Ok(None)
}

/// A record of which nothing is known for certain, or that has only tombstones beside an object that cannot be read.
fn unknown(store: &Store<WorkerToken>, path: &RecordPath, why: &str) -> Result<Option<String>, Failure> {
    if store.is_void() {
        return Err(StoreError::Void.into());
    }
    let entry = store.index().entries().get(path);
    let known = entry.is_some_and(|entry| entry.damaged || !entry.heads.is_empty());
    Ok(known.then(|| why.to_owned()))
}

fn report(args: &ExportArgs, done: &Exported) -> Outcome {
    let checked = match done.verified {
        Verified::Decrypted => "read back and decrypted: it holds what was written",
        Verified::Bytes => {
            "read back byte by byte; only its recipients can decrypt it (--identity FILE checks that too)"
        }
    };
    match args.output {
        Format::Json | Format::Yaml => document(
            args.output,
            &json!({
                "file": args.out.display().to_string(),
                "tokenId": done.token_id.to_string(),
                "prefix": args.prefix,
                "records": done.counts.records,
                "earlier": done.counts.earlier,
                "tombstones": done.counts.tombstones,
                "verified": if done.verified == Verified::Decrypted { "decrypted" } else { "bytes" },
                "missing": done.missing.iter().map(|m| json!({"what": m.what, "why": m.why})).collect::<Vec<_>>(),
            }),
        ),
        Format::Name => {
            say(&args.out.display().to_string());
            Ok(())
        }
        Format::Table | Format::Wide => {
            say(&format!(
                "{}: {} record(s), {} earlier value(s), {} tombstone(s) of token {}",
                args.out.display(),
                done.counts.records,
                done.counts.earlier,
                done.counts.tombstones,
                done.token_id
            ));
            say(&format!("checked: {checked}"));
            Ok(())
        }
    }
}
