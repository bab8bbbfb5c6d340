//! `init`: a software token, and a store on a token that has none.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hsm_store::Store;
use hsm_token::pkcs11::{BlankSlot, TokenSelector};
use hsm_token::worker::init_software_token;
use hsm_token::{ErrorClass, Pin, TokenError};

use super::args::InitArgs;
use super::output::{agree, remark, say, terminal};
use super::pin_file::{pin_or_new, warn_if_short};
use super::session::{log_in, open_store, options};
use super::{Failure, Outcome, find};
use crate::config::{Chosen, SelectArgs};
use crate::random;
use crate::state::{Admissions, By, Tie};

const INIT: Duration = Duration::from_mins(2);

pub(super) fn init(select: &SelectArgs, args: &InitArgs) -> Outcome {
    let chosen = find::chosen(select)?;
    let Some(pin_file) = &chosen.pin_file else {
        return Err(Failure::Usage(
            "init needs --pin-file FILE (HSM_PIN_FILE): it holds the PIN, or gets a random one".to_owned(),
        ));
    };
    let there = match log_in_if_there(&chosen)? {
        Found::Token => true,
        Found::Nothing => false,
    };
    let label = match (&chosen.token, there) {
        (TokenSelector::Label(label), _) => label.clone(),
        (_, true) => String::new(),
        (_, false) => {
            return Err(Failure::Usage(
                "no token is there; to make one, name it with --token-label LABEL".to_owned(),
            ));
        }
    };
    let question = if there {
        "Make a store on this token?".to_owned()
    } else {
        format!("Make a software token with the label {label:?}?")
    };
    agree(&question, args.yes)?;
    if !there {
        make_token(&chosen, args, pin_file, &label)?;
    }
    make_store(&chosen)
}

enum Found {
    Token,
    Nothing,
}

/// Whether the token that is named is there and initialised.
fn log_in_if_there(chosen: &Chosen) -> Result<Found, Failure> {
    crate::token_open::prepare(chosen)?;
    match crate::token_open::worker(chosen).and_then(|mut worker| worker.reopen()) {
        Ok(()) => Ok(Found::Token),
        Err(TokenError { class: ErrorClass::TokenAbsent, .. }) => Ok(Found::Nothing),
        Err(error) => Err(error.into()),
    }
}

fn make_token(chosen: &Chosen, args: &InitArgs, pin_file: &Path, label: &str) -> Outcome {
    // The PIN is on the disk before the token has it: a PIN that nobody knows is a lost token.
    let (pin, made) = pin_or_new(pin_file)?;
    if made {
        remark(&format!("A random PIN was written to {}; keep a copy of it elsewhere.", pin_file.display()));
    }
    warn_if_short(&pin);
    let (so_pin, shown) = so_pin(args, pin_file)?;
    let program = crate::token_open::program()?;
    let slot = BlankSlot::First;
    init_software_token(&program, INIT, &chosen.module, slot, label, &so_pin, &pin)?;
    if shown {
        remark(&format!("SO-PIN (shown this once, it unblocks a locked PIN): {}", so_pin.expose()));
    }
    Ok(())
}

/// The SO-PIN, and whether it has to be shown because no file holds it.
fn so_pin(args: &InitArgs, pin_file: &Path) -> Result<(Pin, bool), Failure> {
    let file = match &args.so_pin_file {
        Some(file) => file.clone(),
        None if terminal() => return Ok((Pin::new(random::pin().to_string()), true)),
        // Nobody is there to read it: a log is no place for it.
        None => {
            let mut name = pin_file.as_os_str().to_owned();
            name.push(".so");
            PathBuf::from(name)
        }
    };
    let (pin, made) = pin_or_new(&file)?;
    if made {
        remark(&format!("A random SO-PIN was written to {}; it unblocks a locked PIN.", file.display()));
    }
    Ok((pin, false))
}

fn make_store(chosen: &Chosen) -> Outcome {
    let (mut worker, info) = log_in(chosen)?;
    let identity = Store::format(&mut worker, None, &mut options(chosen, &info))?;
    drop(worker);
    // Read back by a new process, as every later one will, before anything is entrusted to it.
    let (worker, info) = log_in(chosen)?;
    let store = open_store(chosen, worker, &info)?;
    if store.identity() != identity {
        return Err(Failure::Other(
            "the token does not give back the identity that was written; do not use it".to_owned(),
        ));
    }
    // Who makes a token's store has decided that it takes part here.
    let fingerprint = identity.fingerprint.to_string();
    Admissions::load(&chosen.state_dir)?.admit(
        identity.token_id,
        Some(&fingerprint),
        Tie::of(&info),
        By::Person,
    )?;
    say(&format!("token {} initialised", identity.token_id));
    say(&format!("label {}", info.label));
    say(&format!("fingerprint {}", identity.fingerprint));
    Ok(())
}
