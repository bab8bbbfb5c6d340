//! The gRPC services: they turn messages into work for a token's thread and its answers into messages.

mod convert;
mod feed;
mod identity;
mod records;
mod tokens;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hsm_types::TokenId;
use tokio::sync::watch;
use tonic::{Request, Status};

use crate::actor::{Call, TokenHandle};
use crate::error::{Kind, OpError};
use crate::reason::Reason;
use crate::server::RequestId;
use crate::state::{Configured, Fences};

pub use identity::IdentityService;
pub use records::RecordsService;
pub use tokens::TokensService;

/// How long a read waits for the token when the caller gave no shorter `grpc-timeout`.
const READ: Duration = Duration::from_secs(15);
/// The same for whatever changes the token: the worker's own limit for a write and a little more, so that the caller
/// hears what came of it wherever that can be known.
const WRITE: Duration = Duration::from_secs(40);
/// The largest message that is taken or sent, in bytes.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// What all services share.
pub struct Agent {
    /// The node's name.
    pub node_name: String,
    /// Random for each start of the process.
    pub instance: String,
    /// This node's tokens.
    pub tokens: Vec<TokenHandle>,
    /// Who may write.
    pub fences: Arc<Fences>,
    /// What the HSMDevices say.
    pub configured: Configured,
    /// Whether calls are served.
    pub serving: AtomicBool,
    /// Turns true when streams have to end, so that the server can.
    pub stop: watch::Receiver<bool>,
}

impl Agent {
    /// The token with this id, whatever its state.
    fn token(&self, id: &str) -> Result<&TokenHandle, OpError> {
        let id: TokenId = id.parse().map_err(|e: hsm_types::ParseIdError| {
            OpError::new(Kind::Invalid, None, format!("token_id: {e}"))
        })?;
        self.tokens.iter().find(|t| t.view().status.token_id == Some(id)).ok_or_else(|| {
            OpError::new(
                Kind::Unknown,
                Some(Reason::TokenAbsent),
                format!("this agent has not seen the token {id}; ListTokens says what it has"),
            )
        })
    }

    fn ready(&self) -> bool {
        self.serving.load(Ordering::Relaxed)
    }

    /// Ends when the agent stops.
    fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stop = self.stop.clone();
        async move { drop(stop.wait_for(|stop| *stop).await) }
    }
}

/// The id of the call, put there by the layer.
fn request_id<T>(request: &Request<T>) -> Arc<str> {
    request.extensions().get::<RequestId>().map_or_else(|| "unknown".into(), |id| Arc::clone(&id.0))
}

/// The call's name and the shorter of our own limit and the caller's `grpc-timeout`.
fn call<T>(op: &'static str, request: &Request<T>) -> Call {
    let asked = request.metadata().get("grpc-timeout").and_then(|v| v.to_str().ok()).and_then(grpc_timeout);
    let usual = if matches!(op, "get" | "random") { READ } else { WRITE };
    Call { op, wait: asked.map_or(usual, |asked| asked.min(usual)), request_id: request_id(request) }
}

/// `8S`, `100m` (milliseconds), `1H`: gRPC over HTTP/2, "Timeout".
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.saturating_mul(3600)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Logs a failed operation and makes its answer.
fn fail(op: &'static str, error: &OpError, request_id: &str) -> Status {
    let reason = error.reason.map_or("", Reason::as_str);
    if matches!(error.kind, Kind::NotFound | Kind::Conflict) {
        tracing::debug!(op, reason, error = %error, "A call was refused.");
    } else {
        tracing::warn!(op, reason, error = %error, "A call failed.");
    }
    error.status(request_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_timeout_is_read() {
        assert_eq!(grpc_timeout("8S"), Some(Duration::from_secs(8)));
        assert_eq!(grpc_timeout("100m"), Some(Duration::from_millis(100)));
        for bad in ["", "S", "8", "8x", "ü"] {
            assert_eq!(grpc_timeout(bad), None, "{bad}");
        }
    }
}
