//! The one table from the store's and the token's errors to gRPC codes, reasons and exit codes.

use hsm_store::StoreError;
use hsm_token::{ErrorClass, TokenError};
use hsm_types::Stamp;
use tonic::{Code, Status};

use crate::reason::Reason;

/// The metadata key that carries the [`Reason`].
pub const REASON_KEY: &str = "hsm-reason";

/// What an error means for the caller of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request cannot be done as it is.
    Invalid,
    /// Known to be absent.
    NotFound,
    /// The record is not at the version that the caller expects, or has diverged.
    Conflict,
    /// The token, a PIN or a fence says no, and will say so again until somebody acts.
    Refused,
    /// Nothing was started; the same call later may do.
    Busy,
    /// The token takes no more.
    Full,
    /// Nothing is known: unreachable, absent, damaged, or the outcome is open.
    Unknown,
    /// A fault of ours.
    Internal,
}

/// An operation that failed. Never holds a value or a PIN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct OpError {
    /// What it means.
    pub kind: Kind,
    /// The word for conditions, where one fits.
    pub reason: Option<Reason>,
    /// What happened and what to do.
    pub message: String,
    /// Whether everything that was read from the token is void.
    pub ends_epoch: bool,
}

impl OpError {
    /// An error that leaves the token's session alone.
    pub fn new(kind: Kind, reason: Option<Reason>, message: impl Into<String>) -> Self {
        Self { kind, reason, message: message.into(), ends_epoch: false }
    }

    /// Known to be absent.
    pub fn not_found(path: &hsm_types::RecordPath) -> Self {
        Self::new(Kind::NotFound, Some(Reason::PathNotFound), format!("{path} is not on the token"))
    }

    /// The label of the metric's `result`.
    pub const fn result(&self) -> &'static str {
        match self.kind {
            Kind::Invalid => "invalid",
            Kind::NotFound => "not_found",
            Kind::Conflict => "conflict",
            Kind::Refused => "refused",
            Kind::Busy => "busy",
            Kind::Full => "full",
            Kind::Unknown => "unknown",
            Kind::Internal => "internal",
        }
    }

    /// The gRPC code. Unreachable is never NOT_FOUND.
    pub const fn code(&self) -> Code {
        match self.kind {
            Kind::Invalid => Code::InvalidArgument,
            Kind::NotFound => Code::NotFound,
            Kind::Conflict | Kind::Refused => Code::FailedPrecondition,
            Kind::Busy => Code::Aborted,
            Kind::Full => Code::ResourceExhausted,
            Kind::Unknown => Code::Unavailable,
            Kind::Internal => Code::Internal,
        }
    }

    /// The exit code of the command line (CONVENTIONS).
    pub const fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::NotFound => 3,
            Kind::Conflict => 4,
            _ => 1,
        }
    }

    /// The answer on the wire: the message ends with the request's id, the reason is in the metadata.
    pub fn status(&self, request_id: &str) -> Status {
        let mut status = Status::new(self.code(), format!("{} (request_id {request_id})", self.message));
        if let Some(word) = self.reason.and_then(|r| r.as_str().parse().ok()) {
            status.metadata_mut().insert(REASON_KEY, word);
        }
        status
    }
}

impl From<&TokenError> for OpError {
    fn from(error: &TokenError) -> Self {
        let (kind, reason) = match error.class {
            ErrorClass::TokenAbsent => (Kind::Unknown, Some(Reason::TokenAbsent)),
            ErrorClass::Unreachable
            | ErrorClass::SessionLost
            | ErrorClass::NoSuchObject
            | ErrorClass::ObjectGone => (Kind::Unknown, Some(Reason::TokenUnhealthy)),
            ErrorClass::Module => (Kind::Unknown, Some(Reason::ModuleError)),
            ErrorClass::ObjectDamaged => (Kind::Unknown, Some(Reason::RecordDamaged)),
            ErrorClass::Busy => (Kind::Busy, None),
            ErrorClass::Full => (Kind::Full, Some(Reason::TokenFull)),
            ErrorClass::Invalid => (Kind::Invalid, None),
            ErrorClass::PinRequired => (Kind::Refused, Some(Reason::PinMissing)),
            ErrorClass::PinIncorrect | ErrorClass::PinLength => (Kind::Refused, Some(Reason::PinIncorrect)),
            ErrorClass::PinLocked => (Kind::Refused, Some(Reason::PinLocked)),
        };
        let ends_epoch = error.ends_epoch();
        let message = if matches!(error.class, ErrorClass::Unreachable | ErrorClass::SessionLost) {
            format!("{error}; the outcome is unknown, read again before deciding")
        } else {
            error.to_string()
        };
        Self { kind, reason, message, ends_epoch }
    }
}

impl From<&StoreError> for OpError {
    fn from(error: &StoreError) -> Self {
        let (kind, reason) = match error {
            StoreError::Token(token) => return token.into(),
            StoreError::Void | StoreError::ReadBack | StoreError::Compacting => {
                (Kind::Unknown, Some(Reason::TokenUnhealthy))
            }
            StoreError::VersionMismatch { .. } | StoreError::Diverged { .. } => {
                (Kind::Conflict, Some(Reason::ConflictPending))
            }
            StoreError::Deleted(_) => (Kind::Conflict, Some(Reason::PathNotFound)),
            StoreError::TokenFull { .. } | StoreError::NoMarker(_) => (Kind::Full, Some(Reason::TokenFull)),
            StoreError::ValueTooLarge { .. } | StoreError::NotPlain { .. } => {
                (Kind::Invalid, Some(Reason::ValueTooLarge))
            }
            StoreError::Contested { .. } => (Kind::Refused, Some(Reason::ConflictPending)),
            StoreError::Invalid(_) => (Kind::Invalid, None),
            StoreError::NoIdentity | StoreError::NotBlank(_) => (Kind::Refused, None),
            StoreError::StoreKeyMissing(_) => (Kind::Unknown, Some(Reason::StoreKeyMissing)),
            StoreError::Damaged { .. } => (Kind::Unknown, Some(Reason::RecordDamaged)),
            StoreError::LockHeld(_) => (Kind::Busy, Some(Reason::TokenInUse)),
            StoreError::Lock { .. } | StoreError::Crypto => (Kind::Internal, Some(Reason::TokenUnhealthy)),
        };
        let message = match error {
            StoreError::VersionMismatch { current, .. } => {
                let current = current.as_ref().map(|r| r.version.stamp());
                format!("{error} (current: {})", text_of(current))
            }
            StoreError::Diverged { heads, .. } => {
                let heads: Vec<String> = heads.iter().map(|r| r.version.stamp().to_string()).collect();
                format!("{error} (current: {})", heads.join(", "))
            }
            _ => error.to_string(),
        };
        Self { kind, reason, message, ends_epoch: matches!(error, StoreError::Void | StoreError::ReadBack) }
    }
}

fn text_of(stamp: Option<Stamp>) -> String {
    stamp.map_or_else(|| "absent".to_owned(), |s| s.to_string())
}

impl From<StoreError> for OpError {
    fn from(error: StoreError) -> Self {
        (&error).into()
    }
}

impl From<TokenError> for OpError {
    fn from(error: TokenError) -> Self {
        (&error).into()
    }
}

impl From<hsm_proto::convert::WireError> for OpError {
    fn from(error: hsm_proto::convert::WireError) -> Self {
        use hsm_proto::convert::WireError;
        let reason = match error {
            WireError::Key(_) => Some(Reason::InvalidKey),
            WireError::Path(_) => Some(Reason::InvalidSpec),
            _ => None,
        };
        Self::new(Kind::Invalid, reason, error.to_string())
    }
}

impl From<hsm_types::InvalidPath> for OpError {
    fn from(error: hsm_types::InvalidPath) -> Self {
        Self::new(Kind::Invalid, Some(Reason::InvalidSpec), error.to_string())
    }
}

impl From<crate::state::FenceError> for OpError {
    fn from(error: crate::state::FenceError) -> Self {
        use crate::state::FenceError;
        let kind = match error {
            FenceError::Stale { .. } | FenceError::Missing => Kind::Refused,
            FenceError::Invalid => Kind::Invalid,
            FenceError::Io(_) => Kind::Internal,
        };
        Self::new(kind, None, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hsm_types::RecordPath;

    fn path() -> RecordPath {
        RecordPath::new("secrets/a/b").unwrap()
    }

    #[test]
    fn only_known_absence_is_not_found() {
        use ErrorClass as C;
        for (class, code) in [
            (C::TokenAbsent, Code::Unavailable),
            (C::Unreachable, Code::Unavailable),
            (C::SessionLost, Code::Unavailable),
            (C::NoSuchObject, Code::Unavailable),
            (C::Module, Code::Unavailable),
            (C::ObjectDamaged, Code::Unavailable),
            (C::Busy, Code::Aborted),
            (C::Full, Code::ResourceExhausted),
            (C::Invalid, Code::InvalidArgument),
            (C::PinRequired, Code::FailedPrecondition),
            (C::PinIncorrect, Code::FailedPrecondition),
            (C::PinLength, Code::FailedPrecondition),
            (C::PinLocked, Code::FailedPrecondition),
        ] {
            assert_eq!(OpError::from(TokenError::new(class, "op", "m")).code(), code, "{class:?}");
        }
        assert_eq!(OpError::not_found(&path()).code(), Code::NotFound);
        assert_eq!(OpError::not_found(&path()).exit_code(), 3);
    }

    #[test]
    fn store_errors_have_codes_reasons_and_exit_codes() {
        let mismatch = OpError::from(StoreError::VersionMismatch { path: path(), current: None });
        assert_eq!((mismatch.code(), mismatch.exit_code()), (Code::FailedPrecondition, 4));
        assert!(mismatch.message.contains("current: absent"));
        let full = StoreError::TokenFull { objects: 116, needed: 1, limit: 116 };
        let status = OpError::from(full).status("r1");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.metadata().get(REASON_KEY).unwrap(), "TokenFull");
        assert!(status.message().ends_with("(request_id r1)"));
        let damaged = StoreError::Damaged { path: Some(path()), objects: vec![] };
        assert_eq!(OpError::from(damaged).code(), Code::Unavailable);
        let large = StoreError::ValueTooLarge { size: 2, max: 1 };
        assert_eq!(OpError::from(large).code(), Code::InvalidArgument);
        let clear = StoreError::NotPlain { path: path(), reason: "it has 3000 bytes".into() };
        let clear = OpError::from(clear);
        assert_eq!((clear.code(), clear.reason), (Code::InvalidArgument, Some(Reason::ValueTooLarge)));
        assert!(clear.message.contains("3000 bytes") && !clear.ends_epoch);
        let other = RecordPath::new("other").unwrap();
        let contested =
            OpError::from(StoreError::Contested { path: path(), label: "the-label".into(), other });
        assert_eq!(
            (contested.code(), contested.reason),
            (Code::FailedPrecondition, Some(Reason::ConflictPending))
        );
        assert!(contested.message.contains("the-label") && !contested.ends_epoch);
        assert_eq!(OpError::from(StoreError::LockHeld(std::time::Duration::ZERO)).code(), Code::Aborted);
        assert!(OpError::from(StoreError::Void).ends_epoch);
    }
}
