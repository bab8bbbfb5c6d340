//! `init`: a software token, a blank SmartCard-HSM, and a store on a token that has none.
//!
//! Nothing that holds anything is touched: a token is made only where there is none, a card initialised only where it
//! says positively that it is blank, and a store made only where there is none.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hsm_store::Store;
use hsm_token::pkcs11::{BlankSlot, TokenSelector};
use hsm_token::worker::{card_status, init_sc_hsm, init_software_token, survey};
use hsm_token::{ErrorClass, Pin, TokenError};
use hsm_types::TokenId;

use super::args::InitArgs;
use super::output::{agree, remark, say, terminal};
use super::pin_file::{pin_or_new, secret_or_new, warn_if_short};
use super::session::{give_pin, open_store, options, reopened};
use super::{Failure, Outcome};
use crate::config::{Chosen, SelectArgs};
use crate::random;
use crate::state::{Admissions, By, Tie};
use crate::token_open::{prepare, program};

const INIT: Duration = Duration::from_mins(2);

/// What has to be made before there can be a store.
enum Blank {
    /// A token of this label, by the module itself.
    Software(String),
    /// The card in this reader; in the only one, where none is named.
    Card(Option<String>),
}

pub(super) fn init(select: &SelectArgs, args: &InitArgs) -> Outcome {
    let chosen = select.choose()?;
    // Here it does not say which token is meant, but what it will be.
    let (id, chosen) = (chosen.token_id, Chosen { token_id: None, ..chosen });
    let Some(pin_file) = &chosen.pin_file else {
        return Err(Failure::Usage(
            "init needs --pin-file FILE (HSM_PIN_FILE): it holds the PIN, or gets a random one".to_owned(),
        ));
    };
    let blank = if is_there(&chosen)? { None } else { Some(blank(&chosen)?) };
    let what = match &blank {
        None => "Make a store on this token".to_owned(),
        Some(Blank::Software(label)) => format!("Make a software token with the label {label:?}"),
        Some(Blank::Card(reader)) => card_question(reader.as_deref())?,
    };
    if let Some(id) = id {
        remark(&format!(
            "It will be {id}: only if the token of that name is lost or was emptied, since two of one name are both refused."
        ));
    }
    agree(&format!("{what}?"), args.yes)?;
    match blank {
        None => {}
        Some(Blank::Software(label)) => make_token(&chosen, args, pin_file, &label)?,
        Some(Blank::Card(reader)) => make_card(args, pin_file, reader.as_deref())?,
    }
    make_store(&chosen, id)
}

/// Whether the token that is named is there and initialised.
fn is_there(chosen: &Chosen) -> Result<bool, Failure> {
    prepare(chosen)?;
    let opened = crate::token_open::worker(chosen).and_then(|mut worker| worker.reopen());
    match opened {
        Ok(()) => Ok(true),
        Err(TokenError { class: ErrorClass::TokenAbsent, .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What is to be made where no token is.
fn blank(chosen: &Chosen) -> Result<Blank, Failure> {
    let name = "no token is there; to make a software token, name it with --token-label LABEL; to initialise a blank card, \
                name its reader with --reader NAME";
    match &chosen.token {
        TokenSelector::Label(label) => Ok(Blank::Software(label.clone())),
        TokenSelector::Reader(reader) => Ok(Blank::Card(Some(reader.clone()))),
        TokenSelector::Only => {
            let seen = survey(&program()?, INIT, &chosen.module)?;
            // A module of software tokens shows a blank one; with a card it is a card's.
            if seen.is_empty() || seen.iter().any(|token| token.info.software) {
                return Err(Failure::Usage(name.to_owned()));
            }
            Ok(Blank::Card(None))
        }
        _ => Err(Failure::Usage(name.to_owned())),
    }
}

fn card_question(reader: Option<&str>) -> Result<String, Failure> {
    let status = card_status(&program()?, INIT, reader)?;
    let place = reader.map_or_else(|| "the only reader".to_owned(), |name| format!("reader {name:?}"));
    if !status.is_blank() {
        return Err(Failure::Other(format!(
            "the card in {place} does not say that it is blank (user PIN {:?}, SO-PIN {:?}, {} files), and initialising \
             wipes it; nothing was changed. If it really is to be wiped, do that by hand (sc-hsm-tool)",
            status.user_pin, status.so_pin, status.files
        )));
    }
    Ok(format!("Initialise the blank card in {place}, and make a store on it"))
}

/// The PIN is on a disk before the token has it: a PIN that nobody knows is a lost token.
fn new_pin(pin_file: &Path) -> Result<Pin, Failure> {
    let (pin, made) = pin_or_new(pin_file)?;
    if made {
        remark(&format!("A random PIN was written to {}; keep a copy of it elsewhere.", pin_file.display()));
    }
    warn_if_short(&pin);
    Ok(pin)
}

fn make_token(chosen: &Chosen, args: &InitArgs, pin_file: &Path, label: &str) -> Outcome {
    let pin = new_pin(pin_file)?;
    let so_pin = so_pin(args, pin_file, || random::pin().to_string())?;
    init_software_token(&program()?, INIT, &chosen.module, BlankSlot::First, label, &so_pin, &pin)?;
    Ok(())
}

fn make_card(args: &InitArgs, pin_file: &Path, reader: Option<&str>) -> Outcome {
    let pin = new_pin(pin_file)?;
    let so_pin = so_pin(args, pin_file, random::hex::<8>)?;
    init_sc_hsm(&program()?, INIT, reader, &so_pin, &pin)?;
    Ok(())
}

/// The SO-PIN: that in the file, or a new one that is written to it, or shown to the person at the terminal. Before the
/// token has it, so that it is never lost.
fn so_pin(args: &InitArgs, pin_file: &Path, new: impl FnOnce() -> String) -> Result<Pin, Failure> {
    let file = match &args.so_pin_file {
        Some(file) => file.clone(),
        None if terminal() => {
            let pin = Pin::new(new());
            remark(&format!("SO-PIN, shown this once (it unblocks a locked PIN): {}", pin.expose()));
            return Ok(pin);
        }
        // Nobody is there to read it: a log is no place for it.
        None => {
            let mut name = pin_file.as_os_str().to_owned();
            name.push(".so");
            PathBuf::from(name)
        }
    };
    let (pin, made) = secret_or_new(&file, || new().into())?;
    if made {
        remark(&format!("A random SO-PIN was written to {}; it unblocks a locked PIN.", file.display()));
    }
    Ok(pin)
}

fn make_store(chosen: &Chosen, id: Option<TokenId>) -> Outcome {
    let (mut worker, info) = reopened(chosen)?;
    give_pin(chosen, &mut worker, &info)?;
    let identity = Store::format(&mut worker, id, &mut options(chosen, &info))?;
    drop(worker);
    // Who makes a token's store has decided that it takes part here, whatever had its identity before.
    let fingerprint = identity.fingerprint.to_string();
    Admissions::load(&chosen.state_dir)?.admit(
        identity.token_id,
        Some(&fingerprint),
        Tie::of(&info),
        By::Person,
    )?;
    // Read back by a new process, as every later one will, before anything is entrusted to it.
    let (mut worker, info) = reopened(chosen)?;
    give_pin(chosen, &mut worker, &info)?;
    let store = open_store(chosen, worker, &info)?;
    if store.identity() != identity {
        return Err(Failure::Other(
            "the token does not give back the identity that was written; do not use it".to_owned(),
        ));
    }
    say(&format!("token {} initialised", identity.token_id));
    say(&format!("label {}", info.label));
    say(&format!("fingerprint {}", identity.fingerprint));
    Ok(())
}
