//! What stops a turn, and what can be done about it: the one table of API errors.

use hsm_api::Reason;

use crate::agents::{AgentError, AgentErrorClass};

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultClass {
    /// The world has moved: look again at once.
    Moved,
    /// Not now: the same later.
    Later,
    /// It will be refused until a person acts.
    Refused,
    /// The API server does not serve: the same later, and nothing is said of the secret meanwhile.
    Api,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct Fault {
    /// What can be done.
    pub class: FaultClass,
    /// The word for conditions.
    pub reason: Reason,
    /// What is wrong and what to do.
    pub message: String,
}

impl Fault {
    /// The same later.
    pub(super) fn later(reason: Reason, message: impl Into<String>) -> Self {
        Self { class: FaultClass::Later, reason, message: message.into() }
    }

    /// Look again.
    pub(super) fn moved(message: impl Into<String>) -> Self {
        Self { class: FaultClass::Moved, reason: Reason::SecretDrift, message: message.into() }
    }

    /// A person has to act.
    pub(super) fn refused(reason: Reason, message: impl Into<String>) -> Self {
        Self { class: FaultClass::Refused, reason, message: message.into() }
    }

    fn outage(message: String) -> Self {
        Self { class: FaultClass::Api, reason: Reason::SecretDrift, message }
    }

    /// An error of the API server while doing this.
    pub(super) fn api(doing: &str, error: &kube::Error) -> Self {
        let kube::Error::Api(status) = error else {
            return Self::outage(format!("the API server cannot be reached ({doing})"));
        };
        match status.code {
            409 => Self::moved(format!("{doing}: {}", status.message)),
            404 => Self::moved(format!("{doing}: it is gone")),
            // An object that its rules refuse; the API server leaves a Secret's values out of the message.
            400 | 422 => Self::refused(
                Reason::InvalidSpec,
                format!("the API server refuses ({doing}): {}", status.message),
            ),
            413 => {
                Self::refused(Reason::ValueTooLarge, format!("the API server refuses ({doing}): too large"))
            }
            403 if status.message.contains("being terminated") => {
                Self::later(Reason::Terminating, "the namespace is being deleted")
            }
            403 => Self::later(
                Reason::SecretDrift,
                format!("the controller's role does not allow it ({doing}): {}", status.message),
            ),
            code => Self::outage(format!("the API server answered {code} ({doing})")),
        }
    }
}

impl From<AgentError> for Fault {
    fn from(error: AgentError) -> Self {
        let class = match error.class {
            AgentErrorClass::Moved => FaultClass::Moved,
            AgentErrorClass::Later => FaultClass::Later,
            AgentErrorClass::Refused => FaultClass::Refused,
        };
        let message = match error.reason {
            Reason::TokenFull => format!("{}; delete records or add a token", error.message),
            Reason::ValueTooLarge => format!("{}; split it over several HSMSecrets", error.message),
            _ => error.message,
        };
        Self { class, reason: error.reason, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    #[test]
    fn api_codes_say_what_to_do() {
        for (code, message, class) in [
            (409, "conflict", FaultClass::Moved),
            (404, "gone", FaultClass::Moved),
            (422, "invalid", FaultClass::Refused),
            (403, "ns is being terminated", FaultClass::Later),
            (500, "x", FaultClass::Api),
        ] {
            let status = Status { code, message: message.to_owned(), ..Status::default() };
            assert_eq!(Fault::api("test", &kube::Error::Api(Box::new(status))).class, class, "{code}");
        }
    }
}
