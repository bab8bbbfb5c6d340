//! Why a token is not ready: the words of the conditions' reasons, as far as a token can cause them.

use std::fmt;

/// A reason; the controller copies the word into conditions as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // CONVENTIONS and the API crate's Reason describe them
pub enum Reason {
    TokenAbsent,
    TokenUnhealthy,
    TokenNotAdmitted,
    TokenInUse,
    TokenFull,
    PinMissing,
    PinIncorrect,
    PinTriesLow,
    PinLocked,
    ModuleError,
    StoreKeyMissing,
    RecordDamaged,
    ValueTooLarge,
    InvalidKey,
    InvalidSpec,
    PathNotFound,
    ConflictPending,
    DuplicateToken,
    FirmwareInsecure,
}

impl Reason {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TokenAbsent => "TokenAbsent",
            Self::TokenUnhealthy => "TokenUnhealthy",
            Self::TokenNotAdmitted => "TokenNotAdmitted",
            Self::TokenInUse => "TokenInUse",
            Self::TokenFull => "TokenFull",
            Self::PinMissing => "PinMissing",
            Self::PinIncorrect => "PinIncorrect",
            Self::PinTriesLow => "PinTriesLow",
            Self::PinLocked => "PinLocked",
            Self::ModuleError => "ModuleError",
            Self::StoreKeyMissing => "StoreKeyMissing",
            Self::RecordDamaged => "RecordDamaged",
            Self::ValueTooLarge => "ValueTooLarge",
            Self::InvalidKey => "InvalidKey",
            Self::InvalidSpec => "InvalidSpec",
            Self::PathNotFound => "PathNotFound",
            Self::ConflictPending => "ConflictPending",
            Self::DuplicateToken => "DuplicateToken",
            Self::FirmwareInsecure => "FirmwareInsecure",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
