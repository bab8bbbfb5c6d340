//! What an import says in the end, and its exit code.

use serde_json::json;

use super::{Decision, Done, Import};
use crate::export::Item;
use crate::token_cli::args::{Format, ImportArgs};
use crate::token_cli::output::{document, remark, say};
use crate::token_cli::{Failure, Outcome};

/// The word for a version's fate, as `-o json` has it.
const fn word(done: &Done) -> &'static str {
    match done {
        Done::As(Decision::Write) => "written",
        Done::As(Decision::Same) => "unchanged",
        Done::As(Decision::Kept) => "kept",
        Done::As(Decision::Dead) => "deleted",
        Done::As(Decision::Conflict) => "conflict",
        Done::As(Decision::Replace) => "replaced",
        Done::Failed(_) => "failed",
    }
}

/// What a person can do about it, or should know.
fn remark_on(path: &str, done: &Done) -> Option<String> {
    match done {
        Done::As(Decision::Kept) => Some(format!("kept: {path}: the token's version is newer")),
        Done::As(Decision::Dead) => {
            Some(format!("stays deleted: {path}: it was deleted on the token (--replace makes it anew)"))
        }
        Done::As(Decision::Conflict) => Some(format!(
            "conflict: {path}: the token and the file differ and neither is newer; nothing was overwritten \
             (--replace takes the file's content, if the file has only one version of it)"
        )),
        Done::Failed(why) => Some(format!("failed: {path}: {why}")),
        Done::As(Decision::Write | Decision::Same | Decision::Replace) => None,
    }
}

pub(super) fn report(args: &ImportArgs, import: &Import<'_>, outcome: Outcome) -> Outcome {
    if let Err(failure) = outcome {
        // What was begun is said; what was refused before anything was done needs no summary.
        return match failure {
            Failure::Op(error) if import.changed() > 0 => Err(Failure::Partial(format!(
                "{error}; {} of {} versions were done before that. The same command goes on",
                import.done.len(),
                import.export.counts.records
            ))),
            other => Err(other),
        };
    }
    let versions = import.versions();
    let all = versions.iter().filter_map(|(place, replica)| {
        import.done.get(place).map(|done| (replica.path.as_str(), replica, done))
    });
    match args.output {
        Format::Json | Format::Yaml => {
            let items: Vec<_> = all
                .clone()
                .map(|(path, replica, done)| {
                    let mut item = json!({
                        "path": path,
                        "version": replica.revision.version.stamp().to_string(),
                        "result": word(done),
                    });
                    if let Done::Failed(why) = done {
                        item["why"] = json!(why);
                    }
                    item
                })
                .collect();
            let deleted: Vec<&str> = import.deleted.iter().map(hsm_types::RecordPath::as_str).collect();
            let missing: Vec<_> = import.missing().map(|m| json!({"what": m.what, "why": m.why})).collect();
            document(
                args.output,
                &json!({
                    "tokenId": import.export.header.token_id.to_string(),
                    "dryRun": args.dry_run,
                    "items": items,
                    "tombstones": import.buried,
                    "deleted": deleted,
                    "missing": missing,
                }),
            )?;
        }
        Format::Name => all
            .clone()
            .filter(|(_, _, done)| matches!(done, Done::As(Decision::Write | Decision::Replace)))
            .for_each(|(path, _, _)| say(path)),
        Format::Table | Format::Wide => {
            for path in &import.deleted {
                say(&format!("deleted: {path}: the file says that it was deleted"));
            }
            all.clone().filter_map(|(path, _, done)| remark_on(path, done)).for_each(|line| say(&line));
            let count = |what: &str| all.clone().filter(|(_, _, done)| word(done) == what).count();
            say(&format!(
                "{}{} written, {} replaced, {} unchanged, {} kept, {} stay deleted, {} conflict(s), {} failed; {} tombstone(s), {} record(s) deleted",
                if args.dry_run { "dry run: " } else { "" },
                count("written"),
                count("replaced"),
                count("unchanged"),
                count("kept"),
                count("deleted"),
                count("conflict"),
                count("failed"),
                import.buried,
                import.deleted.len()
            ));
        }
    }
    for missing in import.missing() {
        remark(&format!("not in the file: {}: {}", missing.what, missing.why));
    }
    import.verdict()
}

impl Import<'_> {
    /// How much of the token was changed.
    fn changed(&self) -> usize {
        let written =
            self.done.values().filter(|d| matches!(d, Done::As(Decision::Write | Decision::Replace))).count();
        written + self.buried
    }

    fn missing(&self) -> impl Iterator<Item = &crate::export::Missing> {
        self.export.items.iter().filter_map(|item| match item {
            Item::Missing(missing) => Some(missing),
            _ => None,
        })
    }

    /// 4 if all that was to be done is in conflict, 5 if only some of it could be done.
    fn verdict(&self) -> Outcome {
        let conflicts = self.done.values().filter(|d| **d == Done::As(Decision::Conflict)).count();
        let failed = self.done.values().filter(|d| matches!(d, Done::Failed(_))).count();
        let missing = self.missing().count();
        if conflicts + failed + missing == 0 {
            return Ok(());
        }
        let text = format!("{conflicts} conflict(s), {failed} failed, {missing} that the file itself lacks");
        if conflicts > 0 && conflicts == self.done.len() && missing == 0 {
            Err(Failure::Conflict(text))
        } else {
            Err(Failure::Partial(text))
        }
    }
}
