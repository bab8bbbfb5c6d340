//! Ghosts on a SmartCard-HSM: what a destroy that was cut short leaves, listed and neither readable nor destroyable
//! through PKCS#11. Found and removed with the card's own commands.

use std::time::Duration;

use hsm_store::{SystemClock, WriterLock};
use hsm_token::worker::{ghosts, readers, repair_ghosts};
use hsm_token::{TokenError, TokenInfo};

use super::args::DoctorArgs;
use super::output::{agree, say};
use super::session::pin;
use super::{Failure, Outcome};
use crate::config::Chosen;
use crate::token_open::{lock_path, pin_memory_path, program};

/// How long a card may take; each ghost is a flash erase.
const CARD: Duration = Duration::from_mins(2);
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// What PKCS#11 shows of a reader's name, in bytes.
const SHOWN: usize = 64;

/// What is known of a card's ghosts.
pub(super) enum Ghosts {
    /// A software token has none.
    None,
    /// So many.
    Found(usize),
    /// So many after a repair.
    Left(usize),
    /// They could not be looked for.
    Unknown(String),
}

/// Looks for them, and removes them if that is asked for.
pub(super) fn find(chosen: &Chosen, info: &TokenInfo, args: &DoctorArgs) -> Result<Ghosts, Failure> {
    if info.software {
        if args.repair {
            say("A software token has no ghosts; there is nothing to repair.");
        }
        return Ok(Ghosts::None);
    }
    let program = program()?;
    let look = || -> Result<(String, usize), TokenError> {
        let reader = whole_name(readers(&program, CARD)?, &info.slot_description);
        let found = ghosts(&program, CARD, Some(&reader))?.len();
        Ok((reader, found))
    };
    match look() {
        Ok((_, found)) if found == 0 || !args.repair => Ok(Ghosts::Found(found)),
        Ok((reader, found)) => {
            agree(&format!("Remove {found} ghost(s)? They hold nothing that can be read."), args.yes)?;
            let pin = pin(chosen)?;
            let _lock = WriterLock::acquire(&lock_path(&chosen.runtime_dir, info), LOCK_WAIT, &SystemClock)?;
            let memory = pin_memory_path(&chosen.state_dir, info);
            let done = repair_ghosts(&program, CARD, Some(&reader), &pin, Some(&memory))?;
            say(&format!("{} ghost(s) removed", done.removed.len()));
            Ok(Ghosts::Left(done.left.len()))
        }
        Err(error) if args.repair => Err(error.into()),
        Err(error) => Ok(Ghosts::Unknown(error.to_string())),
    }
}

/// The reader whose name PKCS#11 has cut.
fn whole_name(readers: Vec<String>, shown: &str) -> String {
    let cut =
        |name: &str| String::from_utf8_lossy(&name.as_bytes()[..name.len().min(SHOWN)]).trim().to_owned();
    readers.into_iter().find(|name| cut(name) == shown.trim()).unwrap_or_else(|| shown.to_owned())
}

impl Ghosts {
    pub(super) fn fact(&self) -> Option<(&'static str, String)> {
        match self {
            Self::None => None,
            Self::Found(count) | Self::Left(count) => Some(("ghosts", count.to_string())),
            Self::Unknown(why) => Some(("ghosts", format!("unknown: {why}"))),
        }
    }

    pub(super) fn verdict(&self) -> Outcome {
        match self {
            Self::Left(count) if *count > 0 => {
                Err(Failure::Partial(format!("{count} ghost(s) are left: the card does not let them go")))
            }
            Self::Found(count) if *count > 0 => Err(Failure::Other(format!(
                "{count} ghost(s) take up objects; hsm-agent token doctor --repair removes what the card lets go"
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_was_cut_finds_its_reader() {
        let long = format!("Pico HSM {} (E6605481DB8A5334) 00 00", "x".repeat(60));
        let readers = vec!["Other 01 00".to_owned(), long.clone()];
        assert_eq!(whole_name(readers.clone(), &long[..64]), long);
        assert_eq!(whole_name(readers, "Other 01 00"), "Other 01 00");
        assert_eq!(whole_name(Vec::new(), "Gone 00 00"), "Gone 00 00");
    }
}
