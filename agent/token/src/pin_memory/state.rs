//! What is known of PIN values, and what follows from an answer, a crash, or the token's own COUNT_LOW flag. Pure.
//!
//! Two facts of PKCS#11 carry it (3.1, section 3.2): COUNT_LOW says that a wrong value was sent since the last right
//! one, and a change of the PIN sends the old value as a login does. So when the flag was down before a try whose answer
//! was lost and is up now, the try was wrong; and when it is up after a change whose answer was lost, the change was
//! not made, because making it would have taken the flag down.

/// A PIN value as one memory knows it.
pub(super) type Digest = [u8; 32];

/// How many values of earlier PINs are kept.
const SUPERSEDED_MAX: usize = 4;

/// What is known of a PIN value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Nothing: it was never tried, or worked; or it must be the right one, because a change of the PIN left two that
    /// can be, and the other one is wrong.
    Nothing,
    /// It was sent, and the answer was never seen.
    Pending,
    /// It is wrong: the token said so, or it was the PIN before a change.
    Failed,
    /// It is neither the old nor the new value of a change whose outcome is not known, and one of those is right.
    ChangeUnderWay,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// Sent; `low` says whether COUNT_LOW was up before.
    Pending { low: bool },
    /// The token said that it is wrong.
    Failed,
    /// A change of the PIN says that it is wrong. Outlives a good login: whoever still has the old file must not spend
    /// a try on it.
    Superseded,
}

/// A change of the PIN whose outcome is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) old: Digest,
    pub(super) new: Digest,
    /// Whether COUNT_LOW was up before.
    pub(super) low: bool,
    /// Whether the new value was known to be wrong before.
    pub(super) new_failed: bool,
}

impl Change {
    fn other(&self, digest: &Digest) -> Option<Digest> {
        match digest {
            d if *d == self.old => Some(self.new),
            d if *d == self.new => Some(self.old),
            _ => None,
        }
    }
}

/// All that one memory knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) entries: Vec<(Mark, Digest)>,
    pub(super) change: Option<Change>,
}

impl State {
    fn mark(&self, digest: &Digest) -> Option<Mark> {
        self.entries.iter().find(|(_, d)| d == digest).map(|(mark, _)| *mark)
    }

    fn set(&mut self, digest: &Digest, mark: Option<Mark>) {
        self.entries.retain(|(_, d)| d != digest);
        self.entries.extend(mark.map(|mark| (mark, *digest)));
    }

    fn is_wrong(&self, digest: &Digest) -> bool {
        matches!(self.mark(digest), Some(Mark::Failed | Mark::Superseded))
    }

    /// With what the token's flag says of answers that were lost.
    fn resolved(&self, low: bool) -> Self {
        let mut state = self.clone();
        if !low {
            return state;
        }
        if let Some(change) = self.change
            && self.mark(&change.old).is_none()
            && self.mark(&change.new).is_none()
        {
            // Nothing was tried since: the flag is of the change, or older.
            state.set(&change.new, Some(Mark::Failed));
            if !change.low {
                state.set(&change.old, Some(Mark::Failed));
            }
        }
        for (mark, _) in &mut state.entries {
            if *mark == (Mark::Pending { low: false }) {
                *mark = Mark::Failed;
            }
        }
        state.drop_hopeless_change();
        state
    }

    /// With both of its values wrong, somebody else has set the PIN, and a third value may be right.
    fn drop_hopeless_change(&mut self) {
        let hopeless = |change: Change| self.is_wrong(&change.old) && self.is_wrong(&change.new);
        if self.change.is_some_and(hopeless) {
            self.change = None;
        }
    }

    /// What is known of this value. `low` is the token's COUNT_LOW now.
    pub(super) fn known(&self, digest: &Digest, low: bool) -> Known {
        let state = self.resolved(low);
        if state.is_wrong(digest) {
            return Known::Failed;
        }
        if let Some(change) = state.change {
            match change.other(digest) {
                None => return Known::ChangeUnderWay,
                Some(other) if state.is_wrong(&other) => return Known::Nothing,
                Some(_) => {}
            }
        }
        match state.mark(digest) {
            Some(Mark::Pending { .. }) => Known::Pending,
            _ => Known::Nothing,
        }
    }

    /// Whether there is a change whose outcome is not known.
    pub(super) fn change_under_way(&self, low: bool) -> bool {
        self.resolved(low).change.is_some()
    }

    /// This value is about to be sent.
    pub(super) fn begin(&mut self, digest: &Digest, low: bool) {
        *self = self.resolved(low);
        self.set(digest, Some(Mark::Pending { low }));
    }

    /// A change is about to be sent.
    pub(super) fn begin_change(&mut self, old: &Digest, new: &Digest, low: bool) {
        *self = self.resolved(low);
        let new_failed = self.is_wrong(new);
        self.set(old, None);
        self.set(new, None);
        self.change = Some(Change { old: *old, new: *new, low, new_failed });
    }

    /// A login with this value worked.
    pub(super) fn right(&mut self, digest: &Digest) {
        let other = self.change.take().and_then(|change| change.other(digest));
        self.settle(digest, other);
    }

    /// The change was made.
    pub(super) fn changed(&mut self, old: &Digest, new: &Digest) {
        self.change = None;
        self.settle(new, Some(*old));
    }

    /// `right` is the PIN: what failed before says nothing that matters any more.
    fn settle(&mut self, right: &Digest, wrong: Option<Digest>) {
        self.set(right, None);
        self.entries.retain(|(mark, _)| *mark == Mark::Superseded);
        if let Some(wrong) = wrong {
            self.set(&wrong, Some(Mark::Superseded));
        }
        let beyond = self.entries.len().saturating_sub(SUPERSEDED_MAX);
        self.entries.drain(..beyond);
    }

    /// The token said that this value is wrong.
    pub(super) fn wrong(&mut self, digest: &Digest) {
        self.set(digest, Some(Mark::Failed));
        self.drop_hopeless_change();
    }

    /// The value was not judged, and no try was used.
    pub(super) fn not_judged(&mut self, digest: &Digest) {
        self.set(digest, None);
    }

    /// The change was not made: the token refused the old value (`old_wrong`), or judged neither.
    pub(super) fn not_changed(&mut self, old_wrong: bool) {
        if let Some(change) = self.change.take() {
            if change.new_failed {
                self.set(&change.new, Some(Mark::Failed));
            }
            if old_wrong {
                self.set(&change.old, Some(Mark::Failed));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Digest = [1; 32];
    const B: Digest = [2; 32];
    const C: Digest = [3; 32];

    #[test]
    fn an_unknown_change_leaves_two_values_and_no_third() {
        let mut state = State::default();
        state.begin_change(&A, &B, false);
        assert_eq!(
            [A, B, C].map(|d| state.known(&d, false)),
            [Known::Nothing, Known::Nothing, Known::ChangeUnderWay]
        );
        state.begin(&B, false);
        state.wrong(&B);
        assert_eq!(
            [A, B, C].map(|d| state.known(&d, true)),
            [Known::Nothing, Known::Failed, Known::ChangeUnderWay]
        );
        // The one that is left may be sent again after a crash: it must be right.
        state.begin(&A, true);
        assert_eq!(state.known(&A, true), Known::Nothing);
        state.right(&A);
        assert_eq!(
            [A, B, C].map(|d| state.known(&d, false)),
            [Known::Nothing, Known::Failed, Known::Nothing]
        );
    }

    #[test]
    fn the_flag_settles_a_change_whose_answer_was_lost() {
        let mut state = State::default();
        state.begin_change(&A, &B, false);
        // Down before, up now: the old value was wrong, and so nothing was changed.
        assert_eq!([A, B, C].map(|d| state.known(&d, true)), [Known::Failed, Known::Failed, Known::Nothing]);
        let mut state = State::default();
        state.begin_change(&A, &B, true);
        // Up before and up now: the change did not arrive, or its old value was wrong.
        assert_eq!(
            [A, B, C].map(|d| state.known(&d, true)),
            [Known::Nothing, Known::Failed, Known::ChangeUnderWay]
        );
    }

    #[test]
    fn an_old_pin_stays_wrong_after_good_logins_until_it_is_set_again() {
        let mut state = State::default();
        state.begin_change(&A, &B, false);
        state.changed(&A, &B);
        state.begin(&B, false);
        state.right(&B);
        assert_eq!([A, B].map(|d| state.known(&d, false)), [Known::Failed, Known::Nothing]);
        state.begin_change(&B, &A, false);
        assert_eq!(state.known(&A, false), Known::Nothing, "it may be the PIN again");
        let mut refused = state.clone();
        refused.not_changed(false);
        assert_eq!(refused.known(&A, false), Known::Failed, "it is not");
        state.changed(&B, &A);
        assert_eq!([A, B].map(|d| state.known(&d, false)), [Known::Nothing, Known::Failed]);
        for i in 10..30 {
            state.changed(&[i; 32], &[i + 1; 32]);
        }
        assert_eq!(state.entries.len(), SUPERSEDED_MAX);
        assert_eq!(state.known(&[29; 32], false), Known::Failed);
    }
}
