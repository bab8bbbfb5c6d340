//! Why a token is not served, what that means for its callers, and when it is tried again. Pure.

use std::time::Duration;

use hsm_store::StoreError;
use hsm_token::{ErrorClass, LONGEST_DELAY, NextStart, TokenError};

use super::State;
use crate::error::{Kind, OpError};
use crate::reason::Reason;

/// What has to happen before the token is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    /// Time.
    Later,
    /// Another PIN (or the longest delay, in case a person unblocked the token).
    NewPin,
    /// An identity on the token.
    Identity,
    /// An admission, or that another token goes.
    Admission,
    /// Another login that the token's flash can bear.
    Budget,
}

/// Why the token is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Down {
    pub(super) state: State,
    pub(super) reason: Option<Reason>,
    pub(super) message: String,
    pub(super) wake: Wake,
    /// The token is not shown under the TokenId that it claims: another one has it.
    pub(super) disputed: bool,
}

impl Down {
    pub(super) fn new(state: State, reason: Reason, message: impl Into<String>, wake: Wake) -> Self {
        Self { state, reason: Some(reason), message: message.into(), wake, disputed: false }
    }

    pub(super) fn disputed(self) -> Self {
        Self { disputed: true, ..self }
    }

    /// What callers are told.
    pub(super) fn error(&self) -> OpError {
        let kind = match self.state {
            State::Locked | State::Blank | State::NotAdmitted => Kind::Refused,
            State::Ready | State::Absent | State::Unknown | State::Unreadable => Kind::Unknown,
        };
        OpError::new(kind, self.reason, format!("the token cannot be used: {}", self.message))
    }
}

impl From<&TokenError> for Down {
    fn from(error: &TokenError) -> Self {
        let down = |state, reason, wake| Self::new(state, reason, error.to_string(), wake);
        match error.class {
            ErrorClass::TokenAbsent => down(State::Absent, Reason::TokenAbsent, Wake::Later),
            ErrorClass::Module => down(State::Unknown, Reason::ModuleError, Wake::Later),
            ErrorClass::PinRequired => down(State::Locked, Reason::PinMissing, Wake::NewPin),
            ErrorClass::PinIncorrect | ErrorClass::PinLength => {
                down(State::Locked, Reason::PinIncorrect, Wake::NewPin)
            }
            ErrorClass::PinLocked => down(State::Locked, Reason::PinLocked, Wake::NewPin),
            _ => down(State::Unknown, Reason::TokenUnhealthy, Wake::Later),
        }
    }
}

impl From<&StoreError> for Down {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Token(token) => token.into(),
            StoreError::NoIdentity => Self::new(
                State::Blank,
                Reason::TokenUnhealthy,
                "the token holds no records and no identity of ours; \
                 if it is to be used, run hsm-agent token init on this node",
                Wake::Identity,
            ),
            StoreError::StoreKeyMissing(_) => {
                Self::new(State::Unreadable, Reason::StoreKeyMissing, error.to_string(), Wake::Later)
            }
            StoreError::Damaged { .. } => {
                Self::new(State::Unreadable, Reason::RecordDamaged, error.to_string(), Wake::Later)
            }
            _ => Self::new(State::Unknown, Reason::TokenUnhealthy, error.to_string(), Wake::Later),
        }
    }
}

/// How often a blank hardware token is opened anew, to see whether it has an identity by now.
const BLANK: Duration = Duration::from_mins(1);

/// How long to wait before the next start.
///
/// A start wears nothing before its login, and the login asks the budget itself. So a token that comes back is seen
/// within a poll.
pub(super) fn delay(wake: Wake, next: NextStart, poll: Duration) -> Duration {
    let shortest = Duration::from_millis(200);
    match (wake, next) {
        (Wake::Identity, _) => poll.max(BLANK),
        (Wake::NewPin | Wake::Admission, _) | (Wake::Budget, NextStart::Exhausted) => LONGEST_DELAY,
        (Wake::Budget, NextStart::Wait(wait)) => wait.max(shortest),
        (_, NextStart::Wait(wait)) => wait.min(poll).max(shortest),
        (_, NextStart::Exhausted) => poll.max(shortest),
        (_, NextStart::Allowed) => shortest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: Duration = Duration::from_secs(5);

    #[test]
    fn states_and_reasons_of_token_errors() {
        use ErrorClass as C;
        for (class, state, reason, wake) in [
            (C::TokenAbsent, State::Absent, Reason::TokenAbsent, Wake::Later),
            (C::Module, State::Unknown, Reason::ModuleError, Wake::Later),
            (C::Unreachable, State::Unknown, Reason::TokenUnhealthy, Wake::Later),
            (C::PinIncorrect, State::Locked, Reason::PinIncorrect, Wake::NewPin),
            (C::PinLength, State::Locked, Reason::PinIncorrect, Wake::NewPin),
            (C::PinLocked, State::Locked, Reason::PinLocked, Wake::NewPin),
            (C::SessionLost, State::Unknown, Reason::TokenUnhealthy, Wake::Later),
        ] {
            let down = Down::from(&TokenError::new(class, "op", "m"));
            assert_eq!((down.state, down.reason, down.wake), (state, Some(reason), wake), "{class:?}");
        }
        let blank = Down::from(&StoreError::NoIdentity);
        assert_eq!((blank.state, blank.wake), (State::Blank, Wake::Identity));
        let missing = Down::from(&StoreError::StoreKeyMissing("x".into()));
        assert_eq!((missing.state, missing.reason), (State::Unreadable, Some(Reason::StoreKeyMissing)));
    }

    #[test]
    fn unknown_is_never_told_as_absent() {
        for class in [ErrorClass::TokenAbsent, ErrorClass::Module, ErrorClass::Unreachable] {
            let error = Down::from(&TokenError::new(class, "op", "m")).error();
            assert_eq!(error.code(), tonic::Code::Unavailable);
        }
        let locked = Down::from(&TokenError::new(ErrorClass::PinIncorrect, "op", "m")).error();
        assert_eq!(locked.code(), tonic::Code::FailedPrecondition);
    }

    #[test]
    fn only_a_login_waits_for_the_budget() {
        let long = NextStart::Wait(Duration::from_secs(500));
        assert_eq!(delay(Wake::Later, long, POLL), POLL);
        assert_eq!(delay(Wake::Later, NextStart::Exhausted, POLL), POLL);
        assert_eq!(delay(Wake::Budget, long, POLL), Duration::from_secs(500));
        assert_eq!(delay(Wake::Budget, NextStart::Exhausted, POLL), LONGEST_DELAY);
        assert_eq!(delay(Wake::NewPin, NextStart::Allowed, POLL), LONGEST_DELAY);
    }
}
