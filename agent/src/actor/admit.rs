//! Before a PIN: whether the token that is there may have it. Decides by what was admitted and by what the other
//! threads see; afterwards, whether its store key is the one that was pinned.

use std::time::Duration;

use hsm_store::StoreIdentity;
use hsm_types::TokenId;

use super::State;
use super::down::{Down, Wake};
use super::peers::{Claim, Sighting};
use super::thread::Actor;
use crate::reason::Reason;
use crate::state::{Admissions, Decision, Tie};

/// How long the first admission of a token waits for the other threads' first look: longer than a module may take to
/// open.
const FIRST_LOOKS: Duration = Duration::from_secs(45);

fn refused(reason: Reason, message: String) -> Down {
    Down::new(State::NotAdmitted, reason, message, Wake::Admission)
}

fn no_book(error: &std::io::Error) -> Down {
    Down::new(State::Unknown, Reason::TokenNotAdmitted, error.to_string(), Wake::Later)
}

impl Actor {
    /// The flags that name this thread's token, as a text that is the same after a restart.
    pub(super) fn flags(&self) -> String {
        let chosen = &self.config.chosen;
        let id = chosen.token_id.map(|id| format!(", {id}")).unwrap_or_default();
        format!("{} of {}{id}", chosen.token, chosen.module.display())
    }

    fn book(&self) -> Result<Admissions, Down> {
        Admissions::load(&self.config.chosen.state_dir).map_err(|e| no_book(&e))
    }

    /// Whether the token with this identity may be given its PIN. Admits it where this agent's flags may.
    pub(super) fn admit(&mut self, token_id: TokenId, tie: &Tie) -> Result<(), Down> {
        let (peers, me) = (&self.config.peers, self.config.place);
        peers.sees(me, Some(Sighting { token_id, tie: tie.clone() }));
        if let Some(named) = self.config.chosen.token_id.filter(|named| *named != token_id) {
            return Err(refused(
                Reason::TokenNotAdmitted,
                format!(
                    "the token is {token_id}, and {named} was named with --token-id; no PIN was given to it"
                ),
            ));
        }
        let mut book = self.book()?;
        let admitted = match book.decide(token_id, tie) {
            Decision::New => None,
            Decision::Admitted { .. } => Some(tie.clone()),
            refusal => return Err(self.refusal(token_id, tie, &refusal, &book)),
        };
        if admitted.is_none() && !peers.all_have_looked(FIRST_LOOKS) {
            // A thread that hangs must not keep the others from ever serving.
            tracing::warn!(%token_id, "Not every token could be looked at before this one is admitted.");
        }
        match peers.claim(me, admitted.as_ref()) {
            Claim::Held => {}
            Claim::SameToken => {
                self.status.shadow = true;
                return Err(Down::new(
                    State::Unknown,
                    Reason::TokenInUse,
                    format!("{token_id} is served already: other flags of this agent name the same token"),
                    Wake::Admission,
                ));
            }
            Claim::Duplicate(other) => return Err(duplicate(token_id, tie, &other, false)),
        }
        let flags = self.flags();
        if admitted.is_some() {
            return book.meet(token_id, &flags).map_err(|e| no_book(&e));
        }
        match book.admit_first(token_id, tie, &flags).map_err(|e| no_book(&e))? {
            Decision::Admitted { .. } => {
                tracing::info!(%token_id, %tie, flags, "The token was admitted by the agent's flags.");
                Ok(())
            }
            refusal => Err(self.refusal(token_id, tie, &refusal, &book)),
        }
    }

    /// The same for a token that shows no identity: it may be blank, or have lost that one object. It is given a PIN
    /// where it is tied to an admitted token, or where the flags have not admitted another one yet.
    pub(super) fn admit_nameless(&self, tie: &Tie, why: &str) -> Result<(), Down> {
        self.config.peers.sees(self.config.place, None);
        let book = self.book()?;
        if book.knows_tie(tie) {
            return Ok(());
        }
        let blank =
            |message: String| Down::new(State::Blank, Reason::TokenNotAdmitted, message, Wake::Identity);
        if let Some(named) = self.config.chosen.token_id {
            return Err(blank(format!(
                "the token does not say that it is {named}, which was named with --token-id ({why}); no PIN was given \
                 to it"
            )));
        }
        match book.met_by(&self.flags()) {
            None => Ok(()),
            Some(other) => Err(blank(format!(
                "{why}, and this agent's flags have admitted {other} already, so no PIN was given to it; if it is to \
                 be used, run hsm-agent token init on this node"
            ))),
        }
    }

    fn refusal(&self, token_id: TokenId, tie: &Tie, decision: &Decision, book: &Admissions) -> Down {
        match decision {
            Decision::Forgotten => refused(
                Reason::TokenNotAdmitted,
                format!(
                    "{token_id} was forgotten (hsm-agent token forget) and is in quarantine: no PIN was given to it, \
                     and nothing of it is used; hsm-agent token admit takes it in again"
                ),
            ),
            Decision::OtherDevice { admitted } => {
                if self.config.peers.rival(self.config.place).as_ref() == Some(admitted) {
                    return duplicate(token_id, tie, admitted, true);
                }
                let message = format!(
                    "it says that it is {token_id}, which was admitted as {admitted}, and this is {tie}: no PIN was \
                     given to it; if this is that token, run hsm-agent token admit on this node"
                );
                refused(Reason::TokenNotAdmitted, message).disputed()
            }
            Decision::New | Decision::Admitted { .. } => {
                let flags = self.flags();
                let other = book.met_by(&flags).map_or_else(String::new, |other| format!(" ({other})"));
                refused(
                    Reason::TokenNotAdmitted,
                    format!(
                        "{token_id} is not the token that this agent's flags ({flags}) have admitted{other}: no PIN \
                         was given to it; if it is to be used, run hsm-agent token admit on this node"
                    ),
                )
            }
        }
    }

    /// After the open: the store key must be the pinned one; the first is pinned.
    pub(super) fn pin_key(&mut self, identity: &StoreIdentity) -> Result<(), Down> {
        let (id, seen) = (identity.token_id, identity.fingerprint.to_string());
        let pinned = self.book()?.pin(id, &seen).map_err(|e| no_book(&e))?;
        match pinned {
            Some(pinned) if pinned == seen => Ok(()),
            Some(pinned) => {
                let message = format!(
                    "the store key of {id} has the fingerprint {seen}, and {pinned} was admitted: it was initialised \
                     anew, or it is another token. It is neither read nor written; if you did that, run hsm-agent \
                     token admit on this node"
                );
                self.refused_key = Some(pinned);
                Err(refused(Reason::TokenNotAdmitted, message))
            }
            None => Err(refused(
                Reason::TokenNotAdmitted,
                format!("{id} was forgotten while it was being opened; nothing of it is used"),
            )),
        }
    }

    /// Whether the token that is served still takes part: a person may forget it at any time. A list that cannot be read
    /// now says nothing new.
    pub(super) fn still_admitted(&self) -> Result<(), Down> {
        let (Some(Sighting { token_id, tie }), Ok(book)) = (&self.seen, self.book()) else { return Ok(()) };
        match book.decide(*token_id, tie) {
            Decision::Forgotten => Err(self.refusal(*token_id, tie, &Decision::Forgotten, &book)),
            _ => Ok(()),
        }
    }

    /// Whether more can be said of a token that was refused than what was said: it would be admitted now, or it is
    /// refused for another reason.
    pub(super) fn refusal_is_old(&self) -> bool {
        let Some(Sighting { token_id, tie }) = &self.seen else { return true };
        let Ok(book) = self.book() else { return false };
        let (peers, me) = (&self.config.peers, self.config.place);
        match book.decide(*token_id, tie) {
            Decision::Admitted { fingerprint } => {
                let same_key = self.refused_key.is_some() && fingerprint == self.refused_key;
                !same_key && peers.would_hold(me, Some(tie))
            }
            Decision::New => book.met_by(&self.flags()).is_none() && peers.would_hold(me, None),
            Decision::OtherDevice { admitted } => {
                let doubled = peers.rival(me) == Some(admitted);
                doubled != (self.status.reason == Some(Reason::DuplicateToken))
            }
            Decision::Forgotten => false,
        }
    }
}

fn duplicate(token_id: TokenId, tie: &Tie, other: &Tie, admitted: bool) -> Down {
    let stays =
        if admitted { "that one was admitted and stays" } else { "neither was admitted, so neither is used" };
    let message = format!(
        "two tokens say that they are {token_id}: this one ({tie}) and {other}; {stays}. No PIN was given to this one; \
         remove the copy, or run hsm-agent token admit for the right one on this node"
    );
    refused(Reason::DuplicateToken, message).disputed()
}
