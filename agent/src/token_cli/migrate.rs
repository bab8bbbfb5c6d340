//! `migrate`: makes the records of the Go operator and of plain tools ours.

use hsm_store::{Migration, MigrationOutcome as O, MigrationReport};
use serde_json::{Value as Json, json};

use super::args::{Format, MigrateArgs};
use super::output::{agree, document, say, table, terminal};
use super::session::{again, finish, open};
use super::{Failure, Outcome};
use crate::config::SelectArgs;

pub(super) fn migrate(select: &SelectArgs, args: &MigrateArgs) -> Outcome {
    let forecast = again(|| Ok(open(select)?.migrate(true)?))?;
    let work = forecast.records.iter().any(|r| matches!(r.outcome, O::Migrated | O::Finished | O::Tombstone));
    // Where nobody can be asked, what would be done is said, and nothing is done.
    let only_said = args.dry_run || !(args.yes || terminal());
    if only_said || !work {
        show(args.output, &forecast)?;
        return verdict(&forecast);
    }
    if !args.yes {
        show(Format::Table, &forecast)?;
        agree("Migrate these records?", false)?;
    }
    let report = again(|| {
        let mut store = open(select)?;
        let report = store.migrate(false)?;
        finish(&mut store)?;
        Ok(report)
    })?;
    show(args.output, &report)?;
    verdict(&report)
}

/// A word and the reason, for what became of a record.
fn word(outcome: &O, dry_run: bool) -> (&'static str, &str) {
    match outcome {
        O::Migrated if dry_run => ("would be migrated", ""),
        O::Migrated => ("migrated", ""),
        O::Finished if dry_run => {
            ("would be finished", "it is ours already, remains of an interrupted migration go")
        }
        O::Finished => ("finished", "remains of an interrupted migration are gone"),
        O::Tombstone if dry_run => ("would be removed", "the Go operator had deleted it"),
        O::Tombstone => ("removed", "the Go operator had deleted it"),
        O::Deleted => ("stays", "it was deleted here; remove its objects with a plain tool"),
        O::Unsure => ("left alone", "its name could be anybody's; a put to its path makes it ours"),
        O::Conflict(why) => ("conflict", why),
        O::Unclear(why) => ("unclear", why),
        O::TooLarge(why) => ("too large", why),
        O::NoRoom => ("no room", "delete something, then migrate again"),
    }
}

fn show(format: Format, report: &MigrationReport) -> Outcome {
    let keys = |record: &Migration| record.keys.iter().map(ToString::to_string).collect::<Vec<_>>();
    match format {
        Format::Json | Format::Yaml => {
            let items: Vec<Json> = report
                .records
                .iter()
                .map(|record| {
                    let (result, why) = word(&record.outcome, report.dry_run);
                    json!({
                        "path": record.path.as_str(),
                        "keys": keys(record),
                        "objects": record.objects,
                        "result": result,
                        "why": why,
                    })
                })
                .collect();
            document(format, &json!({"dryRun": report.dry_run, "items": items, "objectsFreed": report.freed}))
        }
        Format::Name => {
            report.records.iter().for_each(|record| say(record.path.as_str()));
            Ok(())
        }
        Format::Table | Format::Wide => {
            let rows: Vec<Vec<String>> = report
                .records
                .iter()
                .map(|record| {
                    let (result, why) = word(&record.outcome, report.dry_run);
                    let objects = record.objects.to_string();
                    vec![
                        record.path.to_string(),
                        keys(record).join(","),
                        objects,
                        result.to_owned(),
                        why.to_owned(),
                    ]
                })
                .collect();
            table(&["PATH", "KEYS", "OBJECTS", "RESULT", "WHY"], &rows);
            say(&format!(
                "{}{} record(s), {} object(s) {}",
                if report.dry_run { "dry run: " } else { "" },
                report.records.len(),
                report.freed,
                if report.dry_run { "would be freed" } else { "freed" }
            ));
            Ok(())
        }
    }
}

fn verdict(report: &MigrationReport) -> Outcome {
    let stuck = |record: &&Migration| {
        matches!(record.outcome, O::Conflict(_) | O::Unclear(_) | O::TooLarge(_) | O::NoRoom)
    };
    match report.records.iter().filter(stuck).count() {
        0 => Ok(()),
        count => {
            Err(Failure::Partial(format!("{count} record(s) cannot be migrated as they are; see the table")))
        }
    }
}
