//! Between two epochs: callers are told why the token is not served, until something says that it may be by now.

use std::sync::mpsc::RecvTimeoutError;
use std::time::Instant;

use hsm_token::{ErrorClass, Token as _};
use hsm_types::Presence;

use super::Owner;
use super::down::{Down, Wake, delay};
use super::handle::Command;
use super::thread::Actor;
use crate::token_open::identify;

impl Actor {
    /// Waits until it is time for the next epoch; callers are answered meanwhile.
    pub(super) fn rest(&mut self, down: &Down) {
        let next = self.budget.next_start();
        let until = Instant::now() + delay(down.wake, next, self.config.poll);
        // A software token shows an identity that comes; hardware has to be opened anew to be asked.
        let timed = down.wake != Wake::Identity || !self.software();
        let mut next_look = Instant::now() + self.config.poll;
        loop {
            let now = Instant::now();
            if timed && now >= until {
                return;
            }
            if now >= next_look {
                next_look = now + self.config.poll;
                match down.wake {
                    Wake::NewPin if self.pin.has_new() => return,
                    Wake::Admission if self.refusal_is_old() => return,
                    Wake::Identity if self.identity_came() => return,
                    Wake::Later => {}
                    // It waits for something else, and may be taken away meanwhile.
                    _ if self.is_gone() => return,
                    _ => {}
                }
            }
            let wait = if timed { next_look.min(until) } else { next_look };
            match self.take(wait.saturating_duration_since(now)) {
                Ok(Command::Put(put)) => drop(self.puts(*put, Err(down.error()))),
                Ok(Command::Job { call, until, span, run }) => {
                    let _entered = span.enter();
                    self.job(&call, until, run, Err(down.error()));
                }
                Ok(Command::Unlock { reply, .. }) if down.wake == Wake::Admission => {
                    // Not kept either: it is for a token that may not have it.
                    drop(reply.send(Err(down.error())));
                }
                Ok(Command::Unlock { pin, reply }) => {
                    self.pin.give(pin, self.unlocked());
                    self.person_acted();
                    self.unlocking.push(reply);
                    return;
                }
                Ok(Command::ChangePin { reply, .. }) => drop(reply.send(Err(down.error()))),
                Ok(Command::Initialize { request, reply }) => {
                    let made = self.initialize(&request);
                    let done = made.is_ok();
                    drop(reply.send(made));
                    if done {
                        self.person_acted();
                        return;
                    }
                }
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.stopping = true;
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Whose a PIN is that comes now: that of the token which is there, or was last.
    fn unlocked(&self) -> Option<Owner> {
        match &self.seen {
            Some(seen) => Some(Owner { token_id: Some(seen.token_id), tie: seen.tie.clone() }),
            None => self.pin.owner().filter(|owner| owner.token_id.is_none()).cloned(),
        }
    }

    /// Waits and budgets are over: somebody is there.
    fn person_acted(&mut self) {
        self.budget.reset();
        self.blank = None;
    }

    /// Whether the token that waits is no longer there, or is another one by now. One that cannot be asked for a
    /// moment is not gone.
    fn is_gone(&mut self) -> bool {
        let info = self.status.info.clone().unwrap_or_default();
        let Some(worker) = self.worker.as_mut() else { return false };
        if !worker.is_open() {
            // No login: that wears nothing.
            return worker.reopen().is_err_and(|error| error.class == ErrorClass::TokenAbsent);
        }
        let answer = match (&self.seen, info.software) {
            (Some(seen), true) => match identify(&self.config.chosen, &info, worker) {
                Ok(now) => return now != Presence::Present(seen.token_id),
                Err(hsm_store::StoreError::Token(error)) => Err(error),
                Err(_) => Ok(()),
            },
            _ => worker.still_there(),
        };
        answer.is_err_and(|error| error.class != ErrorClass::Busy)
    }

    /// Whether a blank software token has an identity now, or cannot be asked any more.
    fn identity_came(&mut self) -> bool {
        let info = self.status.info.clone().unwrap_or_default();
        let chosen = &self.config.chosen;
        let still_none = |worker| matches!(identify(chosen, &info, worker), Ok(p) if p.is_absent());
        info.software && self.worker.as_mut().is_none_or(|worker| !still_none(worker))
    }
}
