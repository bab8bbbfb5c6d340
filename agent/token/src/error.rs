//! What can go wrong with a token, sorted by who mends it and whether to try again.

use std::fmt;

/// What an error means for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The module works and says that there is no such token. Wait for it to be plugged in.
    TokenAbsent,
    /// No answer within the deadline, or the worker died: the outcome is unknown. Read again before deciding.
    Unreachable,
    /// Still busy with an earlier command. Try again later; nothing was started.
    Busy,
    /// The session is gone (removal, reset, another program): everything read in this epoch is void. Open anew.
    SessionLost,
    /// The token takes no more objects or bytes. Delete something, or use another token.
    Full,
    /// The value is not one the token takes (size, empty, label). Mend the caller.
    Invalid,
    /// A handle that the token does not know. Open anew.
    NoSuchObject,
    /// The object went away since it was listed (another program destroyed it), on a software token whose session is
    /// alive: everything else that was read holds. List again.
    ObjectGone,
    /// The token lists this object but cannot give its value (a ghost of a write cut short, an empty value), while the
    /// session is alive. Nothing is known of what it held; other objects are not touched by it.
    ObjectDamaged,
    /// Log in first.
    PinRequired,
    /// The PIN is wrong; one try was used. A person has to give another.
    PinIncorrect,
    /// The PIN's length is not one that the token takes; no try was used. A person has to give another.
    PinLength,
    /// No tries are left, or only the last one: a person has to act.
    PinLocked,
    /// The module cannot be loaded, or failed in a way that says nothing about the token. A person has to act, or a
    /// new epoch mends it.
    Module,
}

/// An error of one operation on a token. Never holds a PIN or a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct TokenError {
    /// What it means.
    pub class: ErrorClass,
    /// The operation, for example `create`.
    pub operation: &'static str,
    /// The module's return value by name (PKCS#11 3.1, section 6.1), where it came from there.
    pub code: Option<String>,
    /// What to tell a person, and what they can do.
    pub message: String,
}

impl TokenError {
    /// An error without a module's return value.
    pub fn new(class: ErrorClass, operation: &'static str, message: impl Into<String>) -> Self {
        Self { class, operation, code: None, message: message.into() }
    }

    /// Whether what was read in this epoch is void, so that the token must be opened anew.
    pub fn ends_epoch(&self) -> bool {
        matches!(
            self.class,
            ErrorClass::TokenAbsent
                | ErrorClass::Unreachable
                | ErrorClass::SessionLost
                | ErrorClass::NoSuchObject
                | ErrorClass::Module
        )
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operation, self.message)?;
        self.code.as_ref().map_or(Ok(()), |code| write!(f, " ({code})"))
    }
}
