//! `doctor`: how the token and its records are. It changes nothing.

use hsm_store::identify;
use hsm_token::Token as _;
use hsm_types::Presence;
use serde_json::{Value as Json, json};

use super::args::{DoctorArgs, Format};
use super::info::pin_state;
use super::output::{document, remark, say};
use super::session::{connect, log_in, open_store};
use super::{Failure, Outcome};
use crate::config::SelectArgs;

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
