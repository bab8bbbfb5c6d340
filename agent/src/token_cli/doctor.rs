//! `doctor`: how the token and its records are. It changes nothing, but for ghosts with `--repair`.

use crate::token_open::identify;
use hsm_store::{DamagedObject, Form, Store};
use hsm_token::worker::WorkerToken;
use hsm_token::{Limits, Token as _};
use serde_json::{Map, Value as Json, json};

use super::args::{DoctorArgs, Format};
use super::info::described;
use super::output::{document, remark, say};
use super::session::{connect, log_in, open_store};
use super::{Failure, Outcome, find, ghosts};
use crate::config::SelectArgs;

pub(super) fn doctor(select: &SelectArgs, args: &DoctorArgs) -> Outcome {
    let chosen = find::chosen(select)?;
    let (mut worker, info) = connect(&chosen)?;
    let identity = identify(&chosen, &info, &mut worker)?;
    let limits = worker.limits();
    // The card is ours alone while a worker has it.
    drop(worker);
    let ghosts = ghosts::find(&chosen, &info, args)?;
    let opened = log_in(&chosen).and_then(|(worker, info)| open_store(&chosen, worker, &info));
    let mut facts = described(&info, &identity);
    facts.extend(ghosts.fact());
    let mut damaged = Vec::new();
    if let Ok(store) = &opened {
        facts.extend(of_the_store(store, limits));
        damaged = store.index().damaged().to_vec();
    }
    show(args.output, &facts, &damaged)?;
    let store = opened?;
    let bad = damaged.len();
    if bad > 0 {
        return Err(Failure::Other(format!(
            "{bad} object(s) of ours cannot be read, and nothing removes them by itself: export what can be read, and \
             take the rest from a mirror or a backup"
        )));
    }
    if store.is_compacting() {
        return Err(Failure::Other(
            "a compaction has begun and is not done: run the same hsm-agent token compact again".to_owned(),
        ));
    }
    ghosts.verdict()?;
    remark("The token can be used.");
    Ok(())
}

fn of_the_store(store: &Store<WorkerToken>, limits: Limits) -> Vec<(&'static str, String)> {
    let index = store.index();
    let counts = index.counts();
    let entries = || index.entries().values();
    let records = entries().filter(|e| !e.heads.is_empty()).count();
    let diverged = entries().filter(|e| e.heads.len() > 1).count();
    let earlier: usize = entries().map(|e| e.history.len()).sum();
    let bytes: usize = entries().flat_map(|e| &e.heads).map(|head| head.size).sum();
    let form = |form: Form| entries().flat_map(|e| &e.heads).filter(|head| head.form == form).count();
    let capacity = limits.objects_at_rest.map_or_else(|| "no limit".to_owned(), |n| format!("{n} at rest"));
    vec![
        ("fingerprint", store.fingerprint().to_string()),
        ("records", format!("{records} ({diverged} diverged), {bytes} bytes of keys and values")),
        (
            "forms",
            format!(
                "{} sealed, {} plain, {} foreign (hsm-agent token migrate)",
                form(Form::Sealed),
                form(Form::Plain),
                form(Form::Foreign)
            ),
        ),
        ("history", format!("{earlier} earlier value(s)")),
        ("tombstones", index.tombstones().count().to_string()),
        (
            "objects",
            format!(
                "{} of {capacity}: {} ours ({} to be destroyed), {} foreign, {} keys and certificates",
                counts.total(),
                counts.ours,
                counts.pending,
                counts.foreign,
                counts.others
            ),
        ),
    ]
}

fn show(format: Format, facts: &[(&str, String)], damaged: &[DamagedObject]) -> Outcome {
    let record = |object: &DamagedObject| object.path.as_ref().map(ToString::to_string);
    if matches!(format, Format::Json | Format::Yaml) {
        let mut shown: Map<String, Json> =
            facts.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into())).collect();
        let damaged: Vec<Json> = damaged
            .iter()
            .map(|object| {
                json!({"object": object.label, "record": record(object), "why": object.damage.to_string()})
            })
            .collect();
        shown.insert("damaged".to_owned(), damaged.into());
        return document(format, &Json::Object(shown));
    }
    if format != Format::Name {
        for (name, value) in facts {
            say(&format!("{name:<12} {value}"));
        }
    }
    for object in damaged {
        let record = record(object).map_or_else(String::new, |path| format!(" (record {path})"));
        say(&format!("damaged      {object}{record}"));
    }
    Ok(())
}
