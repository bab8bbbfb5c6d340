//! What a hardware token may be asked to bear: backoff and logins, kept over restarts, for each token its own.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use hsm_token::{EpochBudget, LOGINS_PER_DAY, NextStart, TokenError, TokenInfo};

use super::State;
use super::down::{Down, Wake};
use crate::reason::Reason;
use crate::token_open::budget_path;

/// A wait this short is waited for, so that it is not told as trouble.
const SHORT: Duration = Duration::from_secs(2);

/// The budget of the token that is there, and its file.
pub(super) struct Budget {
    epochs: EpochBudget,
    /// None for a software token: a login wears nothing there.
    file: Option<PathBuf>,
}

impl Budget {
    /// Of no token yet.
    pub(super) fn new() -> Self {
        Self { epochs: EpochBudget::without_wear(), file: None }
    }

    /// Counts for this token from now on.
    pub(super) fn set_token(
        &mut self,
        state_dir: &std::path::Path,
        info: &TokenInfo,
    ) -> Result<(), TokenError> {
        let file = (!info.software).then(|| budget_path(state_dir, info));
        if file == self.file {
            return Ok(());
        }
        let now = Instant::now();
        self.epochs = match &file {
            Some(path) => EpochBudget::load(path, LOGINS_PER_DAY, now, SystemTime::now())?,
            None => EpochBudget::without_wear(),
        };
        self.epochs.started(now);
        self.file = file;
        Ok(())
    }

    /// Whether a login may be sent now. What wears has to be counted: where that cannot be written, nothing is sent.
    pub(super) fn afford(&self) -> Result<(), Down> {
        let now = Instant::now();
        let message = match self.epochs.next_start(now) {
            NextStart::Allowed => return self.save().map_err(|e| Down::from(&e)),
            NextStart::Wait(wait) if self.file.is_none() || wait <= SHORT => {
                if self.file.is_some() {
                    std::thread::sleep(wait);
                }
                return self.save().map_err(|e| Down::from(&e));
            }
            NextStart::Wait(wait) => format!(
                "the last sessions with the token ended early, and each login wears its flash: the next try is in {} s, \
                 or when it is unlocked (UnlockToken)",
                wait.as_secs().saturating_add(1)
            ),
            NextStart::Exhausted => {
                let minutes = self.epochs.recovers_in(now).map_or(0, |wait| wait.as_secs().div_ceil(60));
                format!(
                    "the token was logged in to {} times in the last 24 hours, and each login wears its flash: the next \
                     try is in {} h {} min, or when it is unlocked (UnlockToken)",
                    self.epochs.logins_in_last_day(now),
                    minutes / 60,
                    minutes % 60
                )
            }
        };
        Err(Down::new(State::Unknown, Reason::TokenUnhealthy, message, Wake::Budget))
    }

    /// When another start is due.
    pub(super) fn next_start(&self) -> NextStart {
        self.epochs.next_start(Instant::now())
    }

    /// An epoch is being started.
    pub(super) fn started(&mut self) {
        self.epochs.started(Instant::now());
    }

    /// A login was sent.
    pub(super) fn logged_in(&mut self) {
        if self.file.is_some() {
            self.epochs.logged_in(Instant::now());
            self.note();
        }
    }

    /// The epoch is over. On hardware only one that logged in counts: the waits are for what wears.
    pub(super) fn ended(&mut self, logged_in: bool) {
        if logged_in || self.file.is_none() {
            self.epochs.ended(Instant::now());
            self.note();
        }
    }

    /// A person acted.
    pub(super) fn reset(&mut self) {
        self.epochs.reset();
        self.note();
    }

    fn save(&self) -> Result<(), TokenError> {
        match &self.file {
            Some(path) => self.epochs.save(path, Instant::now(), SystemTime::now()),
            None => Ok(()),
        }
    }

    fn note(&self) {
        if let Err(error) = self.save() {
            tracing::warn!(%error, "The count of a token's logins is not up to date on the disk.");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pico(reader: &str) -> TokenInfo {
        TokenInfo { slot_description: reader.into(), ..TokenInfo::default() }
    }

    #[test]
    fn the_budget_of_a_hardware_token_survives_a_restart_and_another_port() {
        let dir = tempfile::tempdir().unwrap();
        let mut budget = Budget::new();
        budget.set_token(dir.path(), &pico("Pico (E6) 00 00")).unwrap();
        for _ in 0..LOGINS_PER_DAY {
            budget.afford().unwrap();
            budget.logged_in();
        }
        let told = |budget: &Budget| budget.afford().unwrap_err();
        let down = told(&budget);
        assert_eq!(
            (down.state, down.reason, down.wake),
            (State::Unknown, Some(Reason::TokenUnhealthy), Wake::Budget)
        );
        assert!(
            down.message.contains("24 times") && down.message.contains("next try is in"),
            "{}",
            down.message
        );
        // A restart, and the token in another port.
        let mut again = Budget::new();
        again.set_token(dir.path(), &pico("Pico (E6) 01 00")).unwrap();
        assert!(told(&again).message.contains("24 times"));
        // Another token is not to blame.
        again.set_token(dir.path(), &pico("Pico (E7) 00 00")).unwrap();
        again.afford().unwrap();
        again.set_token(dir.path(), &pico("Pico (E6) 00 00")).unwrap();
        assert!(again.afford().is_err());
        again.reset();
        again.afford().unwrap();
    }

    #[test]
    fn a_software_token_never_waits_for_a_login() {
        let dir = tempfile::tempdir().unwrap();
        let mut budget = Budget::new();
        budget.set_token(dir.path(), &TokenInfo { software: true, ..TokenInfo::default() }).unwrap();
        for _ in 0..100 {
            budget.started();
            budget.afford().unwrap();
            budget.logged_in();
            budget.ended(true);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_counted_is_not_sent() {
        let mut budget = Budget::new();
        budget.set_token(std::path::Path::new("/nonexistent-state"), &pico("Pico (E6) 00 00")).unwrap();
        assert_eq!(budget.afford().unwrap_err().reason, Some(Reason::ModuleError));
    }
}
