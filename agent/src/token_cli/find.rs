//! Which of a module's tokens is meant, and who holds one that is not seen.

use std::path::Path;
use std::time::Duration;

use hsm_token::pkcs11::TokenSelector;
use hsm_token::worker::{OpenscSettings, readers, survey};
use hsm_token::{ErrorClass, TokenError};
use hsm_types::{Presence, TokenId};

use super::Failure;
use super::session::reopened;
use crate::config::{Chosen, SelectArgs};
use crate::token_open::{identify, prepare, program};

/// How long a module may take to show its tokens.
const SURVEY: Duration = Duration::from_mins(1);

/// The selection, narrowed to one token where only its TokenId is named.
pub(super) fn chosen(select: &SelectArgs) -> Result<Chosen, Failure> {
    let chosen = select.choose()?;
    match (&chosen.token, chosen.token_id) {
        (TokenSelector::Only, Some(id)) => with_id(chosen, id),
        _ => Ok(chosen),
    }
}

/// Looks at the public identity of every token that the module shows.
fn with_id(chosen: Chosen, id: TokenId) -> Result<Chosen, Failure> {
    prepare(&chosen)?;
    let seen = survey(&program()?, SURVEY, &chosen.module).map_err(|error| held(&chosen, error))?;
    let selectors: Vec<TokenSelector> = seen
        .into_iter()
        .filter(|token| token.initialized)
        .map(|token| {
            if token.info.software {
                TokenSelector::Serial(token.info.serial)
            } else {
                TokenSelector::Reader(token.info.slot_description)
            }
        })
        .collect();
    if selectors.len() < 2 {
        return Ok(chosen);
    }
    let mut found = Vec::new();
    let mut unknown = Vec::new();
    for selector in selectors {
        let one = Chosen { token: selector, token_id: None, ..chosen.clone() };
        let identity = reopened(&one).and_then(|(mut worker, info)| Ok(identify(&one, &info, &mut worker)?));
        match identity {
            Ok(Presence::Present(seen)) if seen == id => {
                found.push(Chosen { token_id: Some(id), ..one });
            }
            Ok(Presence::Present(_) | Presence::Absent) => {}
            Ok(Presence::Unknown(why)) => unknown.push(format!("{}: {why}", one.token)),
            Err(failure) => unknown.push(format!("{}: {}", one.token, failure.message())),
        }
    }
    match found.len() {
        1 => found.pop().ok_or_else(|| Failure::Other("no token".to_owned())),
        0 if unknown.is_empty() => {
            Err(Failure::Other(format!("none of the module's tokens is {id} (--token-id)")))
        }
        0 => Err(Failure::Other(format!(
            "no token that could be looked at is {id} (--token-id); of others nothing is known: {}",
            unknown.join("; ")
        ))),
        several => Err(Failure::Other(format!(
            "{several} tokens say that they are {id}: only one can be; unplug the others, or name one with --reader"
        ))),
    }
}

/// What OpenSC is told, of no effect on other modules: the card is ours alone while we work on it, unless an agent shares
/// it; and where its reader is named, the cards in all other readers are left alone.
pub(super) fn opensc(chosen: &Chosen) -> Result<OpenscSettings, Failure> {
    let mut settings = OpenscSettings::new(&chosen.runtime_dir);
    let agent = holder(&chosen.runtime_dir, std::process::id());
    settings.exclusive = !agent.is_some_and(|agent| agent.shares);
    if matches!(chosen.token, TokenSelector::Reader(_)) && cfg!(feature = "pcsc") {
        // Where pcscd does not answer there is no other reader to be left alone.
        settings.other_readers = readers(&program()?, SURVEY).unwrap_or_default();
    }
    Ok(settings)
}

/// A token that is not seen may be held by the agent, which connects to it exclusively: then that is said.
pub(super) fn held(chosen: &Chosen, error: TokenError) -> Failure {
    let absent = matches!(error.class, ErrorClass::TokenAbsent | ErrorClass::Unreachable);
    match holder(&chosen.runtime_dir, std::process::id()) {
        Some(Agent { process, shares: false }) if absent => Failure::Other(format!(
            "{error}. The agent on this machine (process {process}) holds tokens exclusively, and this one may be among \
             them: ask it (kubectl hsm), or stop it for as long as you work on the token"
        )),
        _ => error.into(),
    }
}

/// A running agent that works with cards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Agent {
    process: u32,
    /// Whether it lets others connect beside it.
    shares: bool,
}

/// The process whose OpenSC configuration lies in the runtime folder.
fn holder(runtime_dir: &Path, own: u32) -> Option<Agent> {
    let entries = std::fs::read_dir(runtime_dir).ok()?;
    let agent = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        let name = entry.file_name().into_string().ok()?;
        let (process, _) = name.strip_prefix("opensc-")?.strip_suffix(".conf")?.split_once('-')?;
        let process: u32 = process.parse().ok()?;
        let lives = Path::new("/proc").join(process.to_string()).exists();
        let text = std::fs::read_to_string(entry.path()).ok()?;
        let shares = text.lines().any(|line| line.trim() == "connect_exclusive = false;");
        (process != own && lives).then_some(Agent { process, shares })
    };
    entries.into_iter().find_map(agent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_a_living_process_other_than_this() {
        let dir = tempfile::tempdir().unwrap();
        let own = std::process::id();
        assert_eq!(holder(dir.path(), own), None);
        for name in
            ["token-1.lock", "opensc-x-1.conf", "opensc-4194305-0.conf", &format!("opensc-{own}-0.conf")]
        {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(holder(dir.path(), own), None, "gone, and ourselves");
        assert_eq!(holder(dir.path(), own + 1), Some(Agent { process: own, shares: false }));
        let conf = dir.path().join(format!("opensc-{own}-0.conf"));
        std::fs::write(conf, "connect_exclusive = false;").unwrap();
        assert_eq!(holder(dir.path(), own + 1), Some(Agent { process: own, shares: true }));
    }
}
