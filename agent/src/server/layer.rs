//! Around every call: who may call, the request's id, a limit on calls at once, one log line.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::sync::Semaphore;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderValue, Request, Response};
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::Peer;

const CALLS_AT_ONCE: usize = 128;

/// The id that the caller gave the call, or one made here.
#[derive(Debug, Clone)]
pub struct RequestId(pub Arc<str>);

impl RequestId {
    /// The caller's, if it is fit for a log line; else a random one.
    pub fn of(given: Option<&HeaderValue>) -> Self {
        let fit = |id: &&str| {
            (1..=64).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        given
            .and_then(|value| value.to_str().ok())
            .filter(fit)
            .map_or_else(|| Self(crate::random::hex::<8>().into()), |id| Self(id.into()))
    }
}

/// Makes [`CallService`]s that share one limit.
#[derive(Clone)]
pub struct CallLayer(Arc<Semaphore>);

impl Default for CallLayer {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CALLS_AT_ONCE)))
    }
}

impl CallLayer {
    /// Ends when no call is under way. Streams that have begun do not count.
    pub async fn idle(self) {
        // All permits at once means that nobody holds one; an error cannot be, the semaphore is never closed.
        let all = u32::try_from(CALLS_AT_ONCE).unwrap_or(u32::MAX);
        drop(self.0.acquire_many(all).await);
    }
}

impl<S> Layer<S> for CallLayer {
    type Service = CallService<S>;

    fn layer(&self, inner: S) -> CallService<S> {
        CallService { inner, limit: Arc::clone(&self.0) }
    }
}

/// See the module.
#[derive(Clone)]
pub struct CallService<S> {
    inner: S,
    limit: Arc<Semaphore>,
}

impl<S> Service<Request<Body>> for CallService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let id = RequestId::of(request.headers().get(hsm_proto::REQUEST_ID));
        let method = request.uri().path().to_owned();
        let span = tracing::info_span!("call", request_id = %id.0, method);
        let refused = refusal(request.extensions().get::<Peer>(), &id);
        let permit = Arc::clone(&self.limit).try_acquire_owned();
        request.extensions_mut().insert(id.clone());
        // The clone has not been polled ready, the one in `self` has.
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        Box::pin(
            async move {
                let begun = Instant::now();
                let response = match (refused, permit) {
                    (Some(status), _) => status.into_http(),
                    (None, Err(_)) => Status::unavailable(format!(
                        "the agent serves {CALLS_AT_ONCE} calls already; try again (request_id {})",
                        id.0
                    ))
                    .into_http(),
                    (None, Ok(_permit)) => inner.call(request).await?,
                };
                let code = Status::from_header_map(response.headers()).map_or(tonic::Code::Ok, |s| s.code());
                tracing::debug!(?code, seconds = begun.elapsed().as_secs_f64(), "A call was answered.");
                Ok(response)
            }
            .instrument(span),
        )
    }
}

fn refusal(peer: Option<&Peer>, id: &RequestId) -> Option<Status> {
    match peer {
        Some(peer) if peer.allowed => None,
        Some(peer) => {
            tracing::warn!(names = ?peer.names, request_id = %id.0, "A client that is not the controller was refused.");
            Some(Status::permission_denied(format!(
                "only the controller's identity may call this agent (see --controller-identity; request_id {})",
                id.0
            )))
        }
        None => Some(Status::unauthenticated(format!("no client certificate (request_id {})", id.0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_fit_for_a_log_line() {
        let of = |text: &[u8]| RequestId::of(Some(&HeaderValue::from_bytes(text).unwrap())).0;
        assert_eq!(&*of(b"abc-1.2_3"), "abc-1.2_3");
        for bad in [&b""[..], b"a b", "ü".as_bytes(), &[b'a'; 65]] {
            assert_eq!(of(bad).len(), 16);
        }
        assert_ne!(RequestId::of(None).0, RequestId::of(None).0);
    }

    #[test]
    fn nobody_else_may_call() {
        let peer = |allowed| Peer { names: vec!["x".to_owned()].into(), allowed };
        let id = RequestId("r1".into());
        assert!(refusal(Some(&peer(true)), &id).is_none());
        let refused = refusal(Some(&peer(false)), &id).unwrap();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        assert!(refused.message().contains("r1"));
        assert_eq!(refusal(None, &id).unwrap().code(), tonic::Code::Unauthenticated);
    }
}
