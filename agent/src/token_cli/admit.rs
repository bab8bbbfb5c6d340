//! `admit` and `forget`: which tokens take part on this node, and which deletions are remembered.

use crate::token_open::identify;
use hsm_types::{Presence, TokenId, Tombstone};

use super::args::{AdmitArgs, ForgetArgs};
use super::output::{agree, remark, say};
use super::record::path;
use super::session::{connect, finish, give_pin, open, open_store};
use super::{Failure, Outcome, find};
use crate::config::SelectArgs;
use crate::state::{Admissions, By, Decision, Tie};

pub(super) fn admit(select: &SelectArgs, args: &AdmitArgs) -> Outcome {
    if let Some(given) = &args.fingerprint
        && (given.len() != 32 || !given.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
    {
        return Err(Failure::Usage(
            "--fingerprint has 32 lower-case hexadecimal digits, as token doctor prints it".to_owned(),
        ));
    }
    let chosen = find::chosen(select)?;
    let (mut worker, info) = connect(&chosen)?;
    let id = match identify(&chosen, &info, &mut worker)? {
        Presence::Present(id) => id,
        Presence::Absent => {
            return Err(Failure::NotFound(
                "the token has no identity of ours; hsm-agent token init makes a store on it and admits it"
                    .to_owned(),
            ));
        }
        Presence::Unknown(why) => return Err(Failure::Other(why.to_string())),
    };
    let tie = Tie::of(&info);
    let mut book = Admissions::load(&chosen.state_dir)?;
    let known = match book.decide(id, &tie) {
        Decision::Admitted { .. } => "it is admitted already",
        Decision::New => "it was never admitted here",
        Decision::Forgotten => "it was forgotten here, and is in quarantine",
        Decision::OtherDevice { admitted } => {
            &format!("{admitted} was admitted by that name, which it replaces")
        }
    };
    // Before the PIN: anything on the bus may claim to be a token.
    agree(&format!("Admit {id}, {tie} ({known})? It is given its PIN from then on."), args.yes)?;
    let fingerprint = match (&args.fingerprint, &chosen.pin_file) {
        (Some(given), _) => Some(given.clone()),
        (None, Some(_)) => {
            give_pin(&chosen, &mut worker, &info)?;
            // A store key that was pinned before is what the person has just decided to replace.
            book.admit(id, None, tie.clone(), By::Person)?;
            Some(open_store(&chosen, worker, &info)?.fingerprint().to_string())
        }
        (None, None) => None,
    };
    book.admit(id, fingerprint.as_deref(), tie.clone(), By::Person)?;
    say(&format!("{id} is admitted as {tie}"));
    match fingerprint {
        Some(fingerprint) => say(&format!("store key {fingerprint}")),
        None => remark("No PIN file is named: the store key that is met first is pinned."),
    }
    Ok(())
}

pub(super) fn forget(select: &SelectArgs, args: &ForgetArgs) -> Outcome {
    match (&args.token, &args.tombstone) {
        (Some(token), None) => forget_token(select, token, args.yes),
        (None, Some(record)) => forget_tombstone(select, record, args.yes),
        _ => Err(Failure::Usage("give a TOKEN_ID or --tombstone PATH".to_owned())),
    }
}

fn forget_token(select: &SelectArgs, token: &str, yes: bool) -> Outcome {
    let id: TokenId = token.parse().map_err(|e| Failure::Usage(format!("{token:?}: {e}")))?;
    let folder = select.state_dir()?;
    let mut book = Admissions::load(&folder)?;
    agree(
        &format!(
            "Forget {id}? This machine gives it no PIN any more and uses nothing of it; when it returns, it stays in \
             quarantine until hsm-agent token admit."
        ),
        yes,
    )?;
    if book.forget(id)? {
        say(&format!("{id} is forgotten"));
    } else {
        say(&format!("{id} was forgotten already"));
    }
    Ok(())
}

fn forget_tombstone(select: &SelectArgs, record: &str, yes: bool) -> Outcome {
    let path = path(record)?;
    let mut store = open(select)?;
    let tombstones: Vec<Tombstone> =
        store.index().entries().get(&path).map(|entry| entry.tombstones.clone()).unwrap_or_default();
    if tombstones.is_empty() {
        if store.index().hides_records() {
            return Err(Failure::Other(format!(
                "no tombstone of {path} can be seen, and {} object(s) on the token cannot be read",
                store.index().damaged().len()
            )));
        }
        return Err(Failure::NotFound(format!("the token has no tombstone of {path}")));
    }
    agree(
        &format!(
            "Forget that {path} was deleted ({} tombstone(s))? A token that still has a copy of it and was not here \
             meanwhile brings it back.",
            tombstones.len()
        ),
        yes,
    )?;
    for tombstone in &tombstones {
        store.forget_tombstone(&path, tombstone.incarnation)?;
    }
    finish(&mut store)?;
    say(&format!("{} tombstone(s) of {path} forgotten", tombstones.len()));
    Ok(())
}
