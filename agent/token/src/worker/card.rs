//! The child's commands to a card over PC/SC. Without the feature `pcsc` they say so.

use super::messages::{Answer, Card, CardCommand};
#[cfg(not(feature = "pcsc"))]
use crate::{ErrorClass, TokenError};

/// The command's name, for logs and errors.
pub(super) fn name(card: &Card) -> &'static str {
    match card.command {
        None => "card",
        Some(CardCommand::Readers(_)) => "readers",
        Some(CardCommand::Status(_)) => "card_status",
        Some(CardCommand::Init(_)) => "init_sc_hsm",
        Some(CardCommand::Ghosts(_)) => "ghosts",
        Some(CardCommand::RepairGhosts(_)) => "repair_ghosts",
    }
}

#[cfg(not(feature = "pcsc"))]
pub(super) fn perform(card: Card) -> Result<Answer, TokenError> {
    let operation = name(&card);
    // Its PINs are wiped.
    drop(card);
    Err(TokenError::new(
        ErrorClass::Module,
        operation,
        "this build has no PC/SC support, by which a SmartCard-HSM or Pico HSM is initialised and repaired; use a build \
         with the feature `pcsc` (it needs libpcsclite), or sc-hsm-tool --initialize without --label",
    ))
}

#[cfg(feature = "pcsc")]
pub(super) use over_pcsc::{leave, perform};

#[cfg(feature = "pcsc")]
mod over_pcsc {
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    use super::super::child::pin;
    use super::super::convert::path_from;
    use super::super::messages::{Ghosts, Login, Nothing, Readers};
    use super::{Answer, Card, CardCommand, name};
    use crate::pin_memory::PinMemory;
    use crate::sc_hsm::ScHsm;
    use crate::sc_hsm::pcsc_channel::{connect, readers};
    use crate::{ErrorClass, TokenError};

    /// How long the last command to the card may hold up the worker's end.
    const LAST_COMMAND: Duration = Duration::from_secs(3);

    pub(in super::super) fn perform(card: Card) -> Result<Answer, TokenError> {
        let operation = name(&card);
        let reader = card.reader;
        let channel = || connect(reader.as_deref(), operation);
        Ok(match card.command {
            None => {
                return Err(TokenError::new(ErrorClass::Module, operation, "an unknown command to a card"));
            }
            Some(CardCommand::Readers(Nothing {})) => Answer::Readers(Readers { names: readers(operation)? }),
            Some(CardCommand::Status(Nothing {})) => {
                let mut channel = channel()?;
                Answer::CardStatus(ScHsm::select(&mut channel, operation)?.status(operation)?.into())
            }
            Some(CardCommand::Init(pins)) => {
                let (mut channel, so_pin, pin) = (channel()?, pin(pins.so_pin)?, pin(pins.pin)?);
                let card = ScHsm::select(&mut channel, operation)?;
                Answer::CardStatus(card.initialize(&so_pin, &pin, operation)?.into())
            }
            Some(CardCommand::Ghosts(Nothing {})) => {
                let mut channel = channel()?;
                let left = ScHsm::select(&mut channel, operation)?.ghosts(operation)?;
                Answer::Ghosts(Ghosts { removed: Vec::new(), left })
            }
            Some(CardCommand::RepairGhosts(Login { pin: text, memory })) => {
                let mut memory = if memory.is_empty() {
                    PinMemory::ephemeral()?
                } else {
                    PinMemory::open(&path_from(memory))?
                };
                let (mut channel, pin) = (channel()?, pin(text)?);
                let card = ScHsm::select(&mut channel, operation)?;
                Answer::Ghosts(card.remove_ghosts(&pin, &mut memory, operation)?.into())
            }
        })
    }

    /// Leaves the card in this reader logged out, as far as that can be had within a few seconds: the process ends
    /// whatever comes of it.
    pub(in super::super) fn leave(reader: String) {
        let (done, outcome) = channel();
        thread::spawn(move || {
            let _ = done.send(crate::sc_hsm::pcsc_channel::leave(&reader, "leave"));
        });
        match outcome.recv_timeout(LAST_COMMAND) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "The card's login flag could not be cleared."),
            Err(_) => tracing::debug!("The card's login flag could not be cleared in time."),
        }
    }
}
