//! The durable form of an [`EpochBudget`]: a restart forgives no login and no wait.
//!
//! The file holds wall-clock times, because nothing else survives a reboot, and a wall clock may be set. What lies in
//! the future when the file is read counts as if it were now: a clock that was set back frees nothing, and locks out for
//! a day (for the longest wait) at most, not until the clock has caught up. A clock that was set forward cannot be told
//! from time that passed.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::epoch_budget::DAY;
use crate::{EpochBudget, ErrorClass, LONGEST_DELAY, TokenError, durable};

const OPERATION: &str = "budget";
const FIRST_LINE: &str = "hsm-token epoch budget 1";

impl EpochBudget {
    /// Reads what [`EpochBudget::save`] wrote, or begins anew where there is no file. `now` and `wall` are one moment
    /// on the two clocks. An epoch that was under way when the file was written counts as ended now. The file is
    /// written again at once, so that times that lie in the future are mended for good.
    ///
    /// Errors: class `Module` where the file cannot be read or written, or is damaged. Nothing is guessed then.
    pub fn load(
        path: &Path,
        logins_per_day: usize,
        now: Instant,
        wall: SystemTime,
    ) -> Result<Self, TokenError> {
        let mut budget = Self::new(logins_per_day);
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(budget),
            Err(e) => return Err(trouble("read", path, &e.to_string())),
        };
        budget
            .take(&text, now, wall)
            .ok_or_else(|| trouble("read", path, "it is damaged; remove it to begin a new budget"))?;
        budget.save(path, now, wall)?;
        Ok(budget)
    }

    /// Writes it, durably: after each login and whenever an epoch has started or ended. `now` and `wall` are one
    /// moment on the two clocks.
    ///
    /// Errors: class `Module` where the file cannot be written.
    pub fn save(&self, path: &Path, now: Instant, wall: SystemTime) -> Result<(), TokenError> {
        let text = self.text(now, wall);
        durable::replace(path, text.as_bytes()).map_err(|e| trouble("write", path, &e.to_string()))
    }

    fn text(&self, now: Instant, wall: SystemTime) -> String {
        let past = |at: Instant| wall.checked_sub(now.saturating_duration_since(at)).unwrap_or(UNIX_EPOCH);
        let mut text = format!("{FIRST_LINE}\nfailures {}\n", self.failures);
        if let Some(at) = self.started {
            let _ = writeln!(text, "started {}", millis(past(at)));
        }
        if let Some(at) = self.not_before {
            let wait = at.saturating_duration_since(now);
            let _ = writeln!(text, "not-before {}", millis(wall + wait));
        }
        for login in &self.logins {
            let _ = writeln!(text, "login {}", millis(past(*login)));
        }
        text
    }

    /// `None` where the text is damaged.
    fn take(&mut self, text: &str, now: Instant, wall: SystemTime) -> Option<()> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        if lines.next()? != FIRST_LINE {
            return None;
        }
        let mut ages = Vec::new();
        for line in lines {
            let (word, number) = line.split_once(' ')?;
            let number: u64 = number.parse().ok()?;
            let at = UNIX_EPOCH.checked_add(Duration::from_millis(number))?;
            // In the future: as if it were now.
            let age = wall.duration_since(at).unwrap_or_default();
            match word {
                "failures" => self.failures = u32::try_from(number).ok()?,
                "started" => self.started = Some(before(now, age)),
                "not-before" => {
                    let wait = at.duration_since(wall).unwrap_or_default().min(LONGEST_DELAY);
                    self.not_before = now.checked_add(wait);
                }
                "login" => ages.push(age),
                _ => return None,
            }
        }
        ages.retain(|age| *age < DAY);
        // Times that were in the future have changed places.
        ages.sort_unstable_by(|a, b| b.cmp(a));
        for age in ages {
            self.logged_in(before(now, age));
        }
        if self.started.is_some() {
            self.ended(now);
        }
        Some(())
    }
}

/// That long before `now`; `now` where this clock does not reach back so far.
fn before(now: Instant, age: Duration) -> Instant {
    now.checked_sub(age).unwrap_or(now)
}

fn millis(at: SystemTime) -> u128 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

fn trouble(verb: &str, path: &Path, why: &str) -> TokenError {
    let message = format!("cannot {verb} {}, which counts the token's logins: {why}", path.display());
    TokenError::new(ErrorClass::Module, OPERATION, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NextStart;

    const HOUR: Duration = Duration::from_hours(1);

    struct Machine {
        dir: tempfile::TempDir,
        now: Instant,
        wall: SystemTime,
    }

    impl Machine {
        fn new() -> Self {
            let wall = UNIX_EPOCH + Duration::from_hours(500_000);
            Self { dir: tempfile::tempdir().unwrap(), now: Instant::now(), wall }
        }

        fn wait(&mut self, time: Duration) {
            self.now += time;
            self.wall += time;
        }

        fn save(&self, budget: &EpochBudget) {
            budget.save(&self.dir.path().join("budget"), self.now, self.wall).unwrap();
        }

        fn load(&self) -> EpochBudget {
            EpochBudget::load(&self.dir.path().join("budget"), 3, self.now, self.wall).unwrap()
        }
    }

    /// Three logins, an hour apart, the last one now.
    fn used_up(machine: &mut Machine) -> EpochBudget {
        let mut budget = machine.load();
        for _ in 0..3 {
            machine.wait(HOUR);
            budget.logged_in(machine.now);
        }
        machine.save(&budget);
        budget
    }

    #[test]
    fn a_restart_forgives_no_login() {
        let mut machine = Machine::new();
        let budget = used_up(&mut machine);
        assert_eq!(machine.load(), budget);
        machine.wait(HOUR);
        let budget = machine.load();
        assert_eq!(budget.next_start(machine.now), NextStart::Exhausted);
        assert_eq!(budget.recovers_in(machine.now), Some(21 * HOUR));
        machine.wait(21 * HOUR);
        assert_eq!(machine.load().next_start(machine.now), NextStart::Allowed);
        assert_eq!(machine.load().logins_in_last_day(machine.now), 2);
    }

    #[test]
    fn a_restart_forgives_no_wait() {
        let mut machine = Machine::new();
        let mut waits = Vec::new();
        for _ in 0..12 {
            let mut budget = machine.load();
            if let NextStart::Wait(wait) = budget.next_start(machine.now) {
                waits.push(wait.as_secs());
                machine.wait(wait);
            }
            assert_eq!(budget.next_start(machine.now), NextStart::Allowed);
            budget.started(machine.now);
            machine.save(&budget);
            // The program dies here, and its successor finds the epoch under way.
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600]);
    }

    #[test]
    fn a_long_epoch_that_a_restart_ended_was_a_good_one() {
        let mut machine = Machine::new();
        let mut budget = machine.load();
        for _ in 0..8 {
            budget.ended(machine.now);
        }
        budget.started(machine.now);
        machine.save(&budget);
        machine.wait(HOUR);
        assert_eq!(machine.load().next_start(machine.now), NextStart::Wait(crate::FIRST_DELAY));
    }

    #[test]
    fn a_clock_set_back_frees_nothing_and_locks_nobody_out() {
        for back in [HOUR, 10 * HOUR, 10_000 * HOUR, 400_000 * HOUR] {
            let mut machine = Machine::new();
            let mut budget = used_up(&mut machine);
            for _ in 0..12 {
                budget.ended(machine.now);
            }
            machine.save(&budget);
            machine.wall -= back;
            let budget = machine.load();
            let NextStart::Exhausted = budget.next_start(machine.now) else { panic!("free after {back:?}") };
            assert!(budget.recovers_in(machine.now).unwrap() <= DAY);
            // Restarts in between do not prolong it, although the clock stays wrong.
            for _ in 0..24 {
                machine.wait(HOUR);
                machine.load();
            }
            assert_eq!(machine.load().next_start(machine.now), NextStart::Allowed, "{back:?}");
        }
    }

    #[test]
    fn a_wait_is_never_longer_than_the_longest() {
        let mut machine = Machine::new();
        let mut budget = machine.load();
        for _ in 0..12 {
            budget.ended(machine.now);
        }
        machine.save(&budget);
        machine.wall -= 10_000 * HOUR;
        assert_eq!(machine.load().next_start(machine.now), NextStart::Wait(LONGEST_DELAY));
        machine.wait(LONGEST_DELAY);
        assert_eq!(machine.load().next_start(machine.now), NextStart::Allowed);
    }

    #[test]
    fn what_is_damaged_is_not_guessed_at() {
        let mut machine = Machine::new();
        used_up(&mut machine);
        let path = machine.dir.path().join("budget");
        let whole = fs::read_to_string(&path).unwrap();
        for damaged in [
            "",
            "x\n",
            &whole[..whole.len() - 1],
            &whole.replace("login", "logout"),
            &whole.replace("failures 0", "failures -1"),
            &whole.replace("failures 0", "failures 99999999999"),
            &whole.replacen("login ", "login", 1),
        ] {
            fs::write(&path, damaged).unwrap();
            let error = EpochBudget::load(&path, 3, machine.now, machine.wall).unwrap_err();
            assert_eq!(error.class, ErrorClass::Module, "{damaged:?}");
            assert!(error.message.contains("budget"), "{error}");
        }
        let nowhere = Path::new("/nonexistent-hsm/budget");
        assert!(EpochBudget::default().save(nowhere, machine.now, machine.wall).is_err());
    }

    #[test]
    fn a_software_token_counts_no_login() {
        let mut budget = EpochBudget::without_wear();
        let now = Instant::now();
        for _ in 0..1000 {
            budget.logged_in(now);
        }
        assert_eq!(budget.next_start(now), NextStart::Allowed);
        assert_eq!(budget.logins.len(), 0);
    }
}
