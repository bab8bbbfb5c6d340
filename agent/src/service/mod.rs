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

use crate::actor::{Call, State, TokenHandle, View};
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
    /// The token with this id, whatever its state; the only one where no id is given.
    fn token(&self, id: &str) -> Result<&TokenHandle, OpError> {
        if id.is_empty() {
            return match self.tokens.as_slice() {
                [only] => Ok(only),
                _ => Err(OpError::new(
                    Kind::Invalid,
                    None,
                    format!("token_id is empty, and this agent has several tokens: {}", self.names()),
                )),
            };
        }
        let id: TokenId = id.parse().map_err(|e: hsm_types::ParseIdError| {
            OpError::new(Kind::Invalid, None, format!("token_id: {e}"))
        })?;
        let has_it = |token: &&TokenHandle| {
            let view = token.view();
            view.status.token_id == Some(id) && !view.status.shadow
        };
        self.tokens.iter().filter(has_it).min_by_key(|t| rank(t.view().status.state)).ok_or_else(|| {
            OpError::new(
                Kind::Unknown,
                Some(Reason::TokenAbsent),
                format!("this agent has not seen the token {id}; it has {}", self.names()),
            )
        })
    }

    /// The tokens as they are shown. One that was moved to where another thread serves it is shown there only.
    fn views(&self) -> Vec<Arc<View>> {
        let mut views: Vec<_> = self.tokens.iter().map(TokenHandle::view).collect();
        views.retain(|view| !view.status.shadow);
        let best: Vec<_> = views.iter().map(|v| (v.status.token_id, rank(v.status.state))).collect();
        let mut places = 0..;
        views.retain(|view| {
            let (Some(place), Some(id)) = (places.next(), view.status.token_id) else { return true };
            let own = (rank(view.status.state), place);
            let others = best.iter().enumerate().filter(|(_, (other, _))| *other == Some(id));
            others.map(|(n, (_, rank))| (*rank, n)).min() == Some(own)
        });
        views
    }

    /// Which tokens are there, for somebody who named none of them.
    fn names(&self) -> String {
        let name = |view: &Arc<View>| match (view.status.token_id, &view.status.info) {
            (Some(id), _) => id.to_string(),
            (None, Some(info)) => format!("one with the label {:?} and no known id", info.label),
            (None, None) => "one that was not seen yet".to_owned(),
        };
        self.views().iter().map(name).collect::<Vec<_>>().join(", ")
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

/// Of two that show one id, which is meant: the one that says more.
const fn rank(state: State) -> u8 {
    match state {
        State::Ready => 0,
        State::Locked | State::Unreadable | State::Unknown => 1,
        State::NotAdmitted | State::Blank => 2,
        State::Absent => 3,
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
