//! When a token may be opened anew. Pure: the caller gives the time. [`crate::EpochBudget::load`] and `save` (module
//! `budget_file`) carry it over a restart.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The delay after the first failed epoch; it doubles with each further one.
pub const FIRST_DELAY: Duration = Duration::from_secs(1);
/// The longest delay between two starts. An epoch that lasted this long counts as a good one.
pub const LONGEST_DELAY: Duration = Duration::from_mins(10);
/// How many logins a token gets in any 24 hours unless told otherwise: each rewrites a flash sector of 100,000 cycles.
pub const LOGINS_PER_DAY: usize = 24;

pub(crate) const DAY: Duration = Duration::from_hours(24);

/// Whether the next epoch may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStart {
    /// Now.
    Allowed,
    /// After this long, because earlier epochs ended early.
    Wait(Duration),
    /// The logins of the last 24 hours are used up: the token is Degraded until the oldest is a day old (see
    /// [`EpochBudget::recovers_in`]) or a person acts ([`EpochBudget::reset`]).
    Exhausted,
}

/// Backoff and login budget of one token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochBudget {
    pub(crate) logins_per_day: usize,
    /// Oldest first.
    pub(crate) logins: VecDeque<Instant>,
    pub(crate) failures: u32,
    pub(crate) started: Option<Instant>,
    pub(crate) not_before: Option<Instant>,
}

impl EpochBudget {
    /// A budget of so many logins in any 24 hours ([`LOGINS_PER_DAY`] by default).
    pub fn new(logins_per_day: usize) -> Self {
        Self { logins_per_day, logins: VecDeque::new(), failures: 0, started: None, not_before: None }
    }

    /// Backoff alone: for a software token, on which a login wears nothing.
    pub fn without_wear() -> Self {
        Self::new(usize::MAX)
    }

    /// Whether an epoch may start now. Asking changes nothing.
    pub fn next_start(&self, now: Instant) -> NextStart {
        if self.logins_in_last_day(now) >= self.logins_per_day {
            return NextStart::Exhausted;
        }
        match self.not_before.map(|at| at.saturating_duration_since(now)) {
            Some(wait) if !wait.is_zero() => NextStart::Wait(wait),
            _ => NextStart::Allowed,
        }
    }

    /// An epoch starts.
    pub fn started(&mut self, now: Instant) {
        self.started = Some(now);
    }

    /// The epoch ended, or its start failed. The sooner after its start, the longer the wait for the next.
    pub fn ended(&mut self, now: Instant) {
        let lasted = self.started.take().map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        if lasted >= LONGEST_DELAY {
            self.failures = 0;
        }
        let delay = FIRST_DELAY.saturating_mul(2_u32.saturating_pow(self.failures)).min(LONGEST_DELAY);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now.checked_add(delay);
    }

    /// A login was sent to the token, whatever came of it.
    pub fn logged_in(&mut self, now: Instant) {
        if self.logins_per_day == usize::MAX {
            return;
        }
        while self.logins.len() >= self.logins_per_day.max(1) {
            self.logins.pop_front();
        }
        self.logins.push_back(now);
    }

    /// A person acted (plugged the token in, gave a PIN): the wait is over, and the logins are forgiven.
    pub fn reset(&mut self) {
        self.failures = 0;
        self.not_before = None;
        self.logins.clear();
    }

    /// How many logins lie in the last 24 hours.
    pub fn logins_in_last_day(&self, now: Instant) -> usize {
        self.logins.iter().filter(|at| now.saturating_duration_since(**at) < DAY).count()
    }

    /// When [`NextStart::Exhausted`] ends by itself; `None` where the budget is not used up, or is zero.
    pub fn recovers_in(&self, now: Instant) -> Option<Duration> {
        if self.next_start(now) != NextStart::Exhausted {
            return None;
        }
        let oldest = self.logins.front()?;
        Some(DAY.saturating_sub(now.saturating_duration_since(*oldest)))
    }
}

impl Default for EpochBudget {
    fn default() -> Self {
        Self::new(LOGINS_PER_DAY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_start_is_free() {
        assert_eq!(EpochBudget::default().next_start(Instant::now()), NextStart::Allowed);
    }

    #[test]
    fn the_wait_doubles_to_ten_minutes() {
        let mut budget = EpochBudget::default();
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..12 {
            budget.started(now);
            budget.ended(now);
            let NextStart::Wait(wait) = budget.next_start(now) else { panic!("no wait") };
            waits.push(wait.as_secs());
            now += wait;
            assert_eq!(budget.next_start(now), NextStart::Allowed);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
    }

    #[test]
    fn a_long_epoch_forgives_the_earlier_ones() {
        let mut budget = EpochBudget::default();
        let mut now = Instant::now();
        for _ in 0..8 {
            budget.started(now);
            budget.ended(now);
        }
        budget.started(now);
        now += LONGEST_DELAY;
        budget.ended(now);
        assert_eq!(budget.next_start(now), NextStart::Wait(FIRST_DELAY));
    }

    #[test]
    fn the_login_budget_slides_over_a_day() {
        let mut budget = EpochBudget::new(3);
        let start = Instant::now();
        for i in 0..3 {
            assert_eq!(budget.next_start(start + SECOND * i), NextStart::Allowed);
            budget.logged_in(start + SECOND * i);
        }
        let now = start + SECOND * 10;
        assert_eq!(budget.next_start(now), NextStart::Exhausted);
        assert_eq!(budget.recovers_in(now), DAY.checked_sub(SECOND * 10));
        assert_eq!(budget.next_start(start + DAY), NextStart::Allowed);
        assert_eq!(budget.logins_in_last_day(start + DAY), 2);
    }

    #[test]
    fn a_person_ends_the_wait() {
        let mut budget = EpochBudget::new(1);
        let now = Instant::now();
        budget.logged_in(now);
        budget.ended(now);
        assert_eq!(budget.next_start(now), NextStart::Exhausted);
        budget.reset();
        assert_eq!(budget.next_start(now), NextStart::Allowed);
    }

    #[test]
    fn a_budget_of_zero_never_starts() {
        let mut budget = EpochBudget::new(0);
        budget.logged_in(Instant::now());
        assert_eq!(budget.next_start(Instant::now()), NextStart::Exhausted);
    }
}
