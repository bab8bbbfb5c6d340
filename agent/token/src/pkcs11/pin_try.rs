//! One try of a PIN: asked of the guard, noted before it goes out, and noted again when the answer is there. Each of
//! the two notes is one durable write, so that a crash leaves the memory before or after it, never between.

use std::fmt::Write as _;

use super::pin_guard::permit;
use crate::pin_memory::{PinDigest, PinMemory};
use crate::{ErrorClass, Pin, PinFlags, TokenError};

/// A try that was permitted and noted.
pub(crate) enum PinTry {
    Login(PinDigest),
    Change { old: PinDigest, new: PinDigest },
}

/// What the token said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Right,
    Wrong,
    /// It answered, but not whether the value is right, and no try was used.
    NotJudged,
    /// No answer, or one that does not say.
    Unknown,
}

impl Verdict {
    pub(crate) fn of(answer: Result<(), &TokenError>) -> Self {
        match answer.map_err(|error| error.class) {
            Ok(()) => Self::Right,
            Err(ErrorClass::PinIncorrect) => Self::Wrong,
            Err(ErrorClass::PinLength | ErrorClass::Invalid) => Self::NotJudged,
            Err(_) => Self::Unknown,
        }
    }
}

impl PinTry {
    /// A login with this PIN. Refused before a try is used: see [`permit`].
    pub(crate) fn login(
        memory: &mut PinMemory,
        operation: &'static str,
        flags: PinFlags,
        pin: &Pin,
    ) -> Result<Self, TokenError> {
        let digest = permitted(memory, operation, flags, pin)?;
        memory.begin(&digest, flags.count_low)?;
        Ok(Self::Login(digest))
    }

    /// A change of the PIN. Refused as well while the outcome of another change is not known, which a login with one
    /// of its two values settles.
    pub(crate) fn change(
        memory: &mut PinMemory,
        operation: &'static str,
        flags: PinFlags,
        old: &Pin,
        new: &Pin,
    ) -> Result<Self, TokenError> {
        if old.expose() == new.expose() {
            return Err(TokenError::new(
                ErrorClass::Invalid,
                operation,
                "the new PIN is the old one; nothing was changed",
            ));
        }
        let old = permitted(memory, operation, flags, old)?;
        if memory.change_under_way(flags.count_low) {
            return Err(TokenError::new(
                ErrorClass::Invalid,
                operation,
                "an earlier change of the PIN was cut short and its outcome is not known; log in with its new value or \
                 its old one first, which says which of them is the PIN",
            ));
        }
        let new = memory.digest(new);
        memory.begin_change(&old, &new, flags.count_low)?;
        Ok(Self::Change { old, new })
    }

    /// Remembers what the token said. Where nothing is known the note of the try stays: the flags will tell.
    pub(crate) fn judged(self, memory: &mut PinMemory, verdict: Verdict) -> Result<(), TokenError> {
        match (self, verdict) {
            (_, Verdict::Unknown) => Ok(()),
            (Self::Login(digest), Verdict::Right) => memory.worked(&digest),
            (Self::Login(digest), Verdict::Wrong) => memory.failed(&digest),
            (Self::Login(digest), Verdict::NotJudged) => memory.not_judged(&digest),
            (Self::Change { old, new }, Verdict::Right) => memory.changed(&old, &new),
            (Self::Change { .. }, Verdict::Wrong) => memory.not_changed(true),
            (Self::Change { .. }, Verdict::NotJudged) => memory.not_changed(false),
        }
    }
}

fn permitted(
    memory: &PinMemory,
    operation: &'static str,
    flags: PinFlags,
    pin: &Pin,
) -> Result<PinDigest, TokenError> {
    let digest = memory.digest(pin);
    let known = memory.known(&digest, flags.count_low);
    permit(operation, flags, known).map_err(|mut error| {
        if let (ErrorClass::PinIncorrect, Some(path)) = (error.class, memory.path()) {
            let path = path.display();
            let _ =
                write!(error.message, " (if the token's PIN has been set to this one since, remove {path})");
        }
        error
    })?;
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token that counts its tries, as CKF_USER_PIN_* show them.
    #[derive(Clone)]
    struct World {
        pin: &'static str,
        left: u32,
        most: u32,
        wrong_in_a_row: u32,
    }

    impl World {
        fn flags(&self) -> PinFlags {
            PinFlags {
                initialized: true,
                count_low: self.left < self.most,
                final_try: self.left == 1,
                locked: self.left == 0,
            }
        }

        fn judge(&mut self, pin: &str) -> Verdict {
            if self.left > 0 && pin == self.pin {
                (self.left, self.wrong_in_a_row) = (self.most, 0);
                return Verdict::Right;
            }
            self.left = self.left.saturating_sub(1);
            self.wrong_in_a_row += 1;
            Verdict::Wrong
        }
    }

    /// What the disk and the token hold, at one moment.
    #[derive(Clone)]
    struct Moment {
        world: World,
        memory: PinMemory,
    }

    #[derive(Clone, Copy)]
    enum Act {
        Login(&'static str),
        Change(&'static str, &'static str),
    }

    fn pin(text: &str) -> Pin {
        Pin::exactly(text.to_owned())
    }

    /// Every moment at which a crash can leave the world while this is done: before it, after the note, after the
    /// call, and after the answer was noted (the last one). `None` where the guard refuses.
    fn moments(start: &Moment, act: Act) -> Option<([Moment; 3], Moment, Verdict)> {
        let mut at = start.clone();
        let flags = at.world.flags();
        let memory = &mut at.memory;
        let attempt = match act {
            Act::Login(value) => PinTry::login(memory, "test", flags, &pin(value)),
            Act::Change(old, new) => PinTry::change(memory, "test", flags, &pin(old), &pin(new)),
        };
        let attempt = attempt.ok()?;
        let noted = at.clone();
        let verdict = match act {
            Act::Login(value) => at.world.judge(value),
            Act::Change(old, new) => {
                let verdict = at.world.judge(old);
                if verdict == Verdict::Right {
                    at.world.pin = new;
                }
                verdict
            }
        };
        let called = at.clone();
        attempt.judged(&mut at.memory, verdict).unwrap();
        Some(([start.clone(), noted, called], at, verdict))
    }

    struct Search {
        order: [&'static str; 2],
        /// Whether the PIN is one of the two that the rotation knows.
        knows: bool,
        ends: u32,
    }

    impl Search {
        fn check(&self, at: &Moment) {
            assert!(at.world.left > 0, "the last try is a person's");
            if self.knows {
                assert!(at.world.wrong_in_a_row <= 1, "{}", at.world.wrong_in_a_row);
            }
        }

        /// A program that starts: it tries its values in its order. It may crash `crashes` times more.
        fn boot(&mut self, start: &Moment, crashes: u32) {
            let mut at = start.clone();
            at.memory = at.memory.again();
            self.check(&at);
            for value in self.order {
                let Some((crashed, done, verdict)) = moments(&at, Act::Login(value)) else { continue };
                if crashes > 0 {
                    for moment in &crashed {
                        self.boot(moment, crashes - 1);
                    }
                    self.boot(&done, crashes - 1);
                }
                self.check(&done);
                at = done;
                if verdict == Verdict::Right {
                    self.end(&at, value);
                    return;
                }
            }
            assert!(!self.knows, "neither value was let through");
        }

        /// The PIN is known, the other value is known to be wrong, and a third value may be tried.
        fn end(&mut self, at: &Moment, value: &'static str) {
            self.ends += 1;
            assert_eq!(at.world.pin, value);
            let other = if value == "new-pin" { "old-pin" } else { "new-pin" };
            let memory = at.memory.again();
            if memory.known(&memory.digest(&pin(other)), false) == crate::Known::Failed {
                let start = Moment { memory, world: at.world.clone() };
                assert!(moments(&start, Act::Login(other)).is_none(), "burns no try");
                // What the change was for can still be done.
                let (_, done, verdict) = moments(&start, Act::Change(value, other)).unwrap();
                assert_eq!((verdict, done.world.pin), (Verdict::Right, other));
                assert!(moments(&done, Act::Login(value)).is_none(), "the old file burns no try");
            } else {
                assert_eq!(value, "old-pin", "after a change the old value is known to be wrong");
            }
        }
    }

    /// A crash at every step of a change, and up to two more at every step of what follows.
    #[test]
    fn a_rotation_survives_a_crash_at_any_step() {
        for (most, left) in [(3, 3), (3, 2), (10, 10), (10, 9), (10, 2)] {
            for order in [["new-pin", "old-pin"], ["old-pin", "new-pin"]] {
                let world = World { pin: "old-pin", left, most, wrong_in_a_row: 0 };
                let start = Moment { world, memory: PinMemory::ephemeral().unwrap() };
                let (crashed, done, verdict) = moments(&start, Act::Change("old-pin", "new-pin")).unwrap();
                assert_eq!(verdict, Verdict::Right);
                let mut search = Search { order, knows: true, ends: 0 };
                for moment in crashed[1..].iter().chain([&done]) {
                    search.boot(moment, 2);
                }
                assert!(search.ends > 50, "{}", search.ends);
                // Nothing was noted: no change is under way, and so the old value goes first.
                assert!(!crashed[0].memory.change_under_way(false));
                if left == most {
                    search.order = ["old-pin", "new-pin"];
                    search.boot(&crashed[0], 2);
                }
            }
        }
    }

    /// Somebody else has set the PIN: nothing is known, and yet the last try is never used.
    #[test]
    fn a_rotation_of_a_pin_that_nobody_knows_leaves_the_last_try() {
        for (most, left) in [(3, 3), (3, 2), (10, 10), (10, 2)] {
            for order in [["new-pin", "old-pin"], ["old-pin", "new-pin"]] {
                let world = World { pin: "another", left, most, wrong_in_a_row: 0 };
                let start = Moment { world, memory: PinMemory::ephemeral().unwrap() };
                let (crashed, done, verdict) = moments(&start, Act::Change("old-pin", "new-pin")).unwrap();
                assert_eq!(verdict, Verdict::Wrong);
                let mut search = Search { order, knows: false, ends: 0 };
                for moment in crashed.iter().chain([&done]) {
                    search.boot(moment, 2);
                }
                assert_eq!(search.ends, 0);
            }
        }
    }

    #[test]
    fn only_one_change_at_a_time_and_never_to_the_same_value() {
        let fine = PinFlags { initialized: true, ..PinFlags::default() };
        let mut memory = PinMemory::ephemeral().unwrap();
        let same = PinTry::change(&mut memory, "test", fine, &pin("old-pin"), &pin("old-pin"));
        assert_eq!(same.err().map(|e| e.class), Some(ErrorClass::Invalid));
        PinTry::change(&mut memory, "test", fine, &pin("old-pin"), &pin("new-pin")).ok().unwrap();
        for (old, new, class) in [
            ("old-pin", "new-pin", ErrorClass::Invalid),
            ("new-pin", "third-pin", ErrorClass::Invalid),
            ("third-pin", "new-pin", ErrorClass::PinIncorrect),
        ] {
            let refused = PinTry::change(&mut memory, "test", fine, &pin(old), &pin(new));
            assert_eq!(refused.err().map(|e| e.class), Some(class), "{old}");
        }
        let third = PinTry::login(&mut memory, "test", fine, &pin("third-pin")).err().unwrap();
        assert!(third.message.contains("change of the PIN"), "{third}");
    }
}
