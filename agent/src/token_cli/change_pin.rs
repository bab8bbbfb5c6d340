//! `change-pin`: ends with the new PIN, also when it was cut short before, and spends at most one try on that.
//!
//! What a try may be spent on is decided from the memory of PINs (`hsm_token::PinMemory`), which notes a change before
//! it is sent. The new PIN is on a disk before the token has it.

use std::path::{Path, PathBuf};

use hsm_token::worker::WorkerToken;
use hsm_token::{ErrorClass, Known, Pin, PinMemory, Token as _, TokenError, TokenInfo};

use super::args::ChangePinArgs;
use super::output::{remark, say};
use super::pin_file::{pin_or_new, warn_if_short};
use super::session::{guarded, pin};
use super::{Failure, Outcome, find};
use crate::config::SelectArgs;
use crate::state::write_atomic;
use crate::token_open::{pin_memory_path, with_pin};

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Made,
    /// By an earlier attempt, whose end was not seen.
    Found,
}

pub(super) fn change_pin(select: &SelectArgs, args: &ChangePinArgs) -> Outcome {
    let chosen = find::chosen(select)?;
    let old = pin(&chosen)?;
    let (mut worker, info) = guarded(&chosen)?;
    let (new, made) = pin_or_new(&args.new_pin_file)?;
    if made {
        remark(&format!("A random PIN was written to {}.", args.new_pin_file.display()));
    }
    warn_if_short(&new);
    let memory = pin_memory_path(&chosen.state_dir, &info);
    let change = with_pin(&chosen, &info, &mut worker, |worker| {
        let known = PinMemory::open(&memory)?;
        change(worker, &info, &known, &old, &new)
    })?;
    say(match change {
        Change::Made => "The token's PIN was changed.",
        Change::Found => "The token's PIN was changed already: it is the new one.",
    });
    let file = chosen.pin_file.clone().unwrap_or_else(|| PathBuf::from("the PIN file"));
    if args.replace_pin_file {
        replace(&file, &new)?;
        say(&format!("{} holds the new PIN.", file.display()));
    } else {
        remark(&format!(
            "Put the new PIN ({}) into {} on this machine, and wherever else the token is used: in the Secret that the \
             HSMDevice's pinSecret names, and in the PIN files of other nodes.",
            args.new_pin_file.display(),
            file.display()
        ));
    }
    Ok(())
}

/// What to send, from what is known before anything is sent.
fn change(
    worker: &mut WorkerToken,
    info: &TokenInfo,
    memory: &PinMemory,
    old: &Pin,
    new: &Pin,
) -> Result<Change, TokenError> {
    if old.expose() == new.expose() {
        // The PIN file was replaced by an attempt that got to its end.
        return worker.login(new).map(|()| Change::Found);
    }
    let low = info.pin.count_low;
    let old_is_wrong = memory.known(&memory.digest(old), low) == Known::Failed;
    // It was the PIN before a change that got to its end: that took the flag down. With the flag up, a wrong value was
    // sent since, perhaps this one, and nothing more is spent on a guess.
    if old_is_wrong && !low {
        return worker.login(new).map(|()| Change::Found);
    }
    let cut_short = memory.change_under_way(low);
    match worker.change_pin(old, new) {
        Ok(()) => Ok(Change::Made),
        // One of the two is right, and it is not the old one.
        Err(error) if cut_short && error.class == ErrorClass::PinIncorrect => {
            worker.login(new).map(|()| Change::Found)
        }
        Err(error) => Err(error),
    }
}

/// Writes the PIN over the one in the file, where the file itself is, if its name is a link.
fn replace(file: &Path, new: &Pin) -> Outcome {
    let failed = |e: std::io::Error| {
        Failure::Partial(format!(
            "the token has the new PIN, and {} still has the old one: it cannot be replaced ({e}); put the new PIN there",
            file.display()
        ))
    };
    let place = std::fs::canonicalize(file).map_err(failed)?;
    let line = zeroize::Zeroizing::new([new.expose().as_bytes(), b"\n"].concat());
    write_atomic(&place, &line).map_err(failed)
}
