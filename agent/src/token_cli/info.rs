//! `info`: what a token is, as anybody sees it who holds it. No PIN, no write.

use crate::token_open::identify;
use hsm_token::{PinFlags, TokenInfo};
use hsm_types::Presence;
use serde_json::{Map, Value as Json};

use super::args::{Format, InfoArgs};
use super::output::{document, say};
use super::session::connect;
use super::{Outcome, find};
use crate::actor::insecure;
use crate::config::SelectArgs;

pub(super) fn info(select: &SelectArgs, args: &InfoArgs) -> Outcome {
    let chosen = find::chosen(select)?;
    let (mut worker, info) = connect(&chosen)?;
    let identity = identify(&chosen, &info, &mut worker)?;
    facts(args.output, &described(&info, &identity))
}

/// What is known without a login, in the order in which it is shown.
pub(super) fn described(
    info: &TokenInfo,
    identity: &Presence<hsm_types::TokenId>,
) -> Vec<(&'static str, String)> {
    let (token, blank) = match identity {
        Presence::Present(id) => (id.to_string(), "no"),
        // Private objects are not seen without a PIN: a store that was begun, or somebody else's records, may be there.
        Presence::Absent if info.pin.initialized => ("none".to_owned(), "no store of ours"),
        Presence::Absent => ("none".to_owned(), "yes"),
        Presence::Unknown(why) => (format!("unknown: {why}"), "unknown"),
    };
    vec![
        ("token", token),
        ("label", info.label.clone()),
        ("model", format!("{} {}", info.manufacturer, info.model).trim().to_owned()),
        ("serial", info.serial.clone()),
        ("firmware", firmware(info)),
        ("reader", info.slot_description.clone()),
        ("slot", info.slot.to_string()),
        ("software", info.software.to_string()),
        ("blank", blank.to_owned()),
        ("pin", pin_state(info.pin).to_owned()),
    ]
}

fn firmware(info: &TokenInfo) -> String {
    if insecure(info) {
        let what =
            "FirmwareInsecure: before 6.6 it gives private objects to a raw read without a PIN; update it";
        return format!("{} ({what})", info.firmware);
    }
    info.firmware.clone()
}

pub(super) fn facts(format: Format, facts: &[(&str, String)]) -> Outcome {
    if matches!(format, Format::Json | Format::Yaml) {
        let shown: Map<String, Json> =
            facts.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into())).collect();
        return document(format, &Json::Object(shown));
    }
    if format == Format::Name {
        let token = facts.iter().find(|(name, _)| *name == "token");
        if let Some((_, value)) = token {
            say(value);
        }
        return Ok(());
    }
    for (name, value) in facts {
        say(&format!("{name:<12} {value}"));
    }
    Ok(())
}

pub(super) const fn pin_state(pin: PinFlags) -> &'static str {
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
