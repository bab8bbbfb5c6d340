//! The small HTTP servers: health, metrics, and what there is of the REST API.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::index::IndexHandle;
use crate::metrics::Metrics;

/// What is told to those who ask.
#[derive(Clone)]
pub(crate) struct Shared {
    /// Everything was listed and work has begun.
    pub ready: Arc<AtomicBool>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// For the states of all HSMSecrets.
    pub index: IndexHandle,
}

/// /healthz: the process loop runs. /readyz: it may receive work.
pub(crate) fn health(shared: Shared) -> Router {
    let ready = async |State(shared): State<Shared>| {
        if shared.ready.load(Ordering::Relaxed) {
            (StatusCode::OK, "ok\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "waiting for the API server\n")
        }
    };
    Router::new().route("/healthz", get(async || "ok\n")).route("/readyz", get(ready)).with_state(shared)
}

/// /metrics.
pub(crate) fn metrics(shared: Shared) -> Router {
    let text = async |State(shared): State<Shared>| {
        let states = shared.index.states().await.unwrap_or_default();
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        ([(header::CONTENT_TYPE, kind)], shared.metrics.text(&states)).into_response()
    };
    Router::new().route("/metrics", get(text)).with_state(shared)
}

/// GET /api/v1/version; the rest of the API is not there yet.
pub(crate) fn rest() -> Router {
    let version = async || Json(serde_json::json!({ "version": crate::VERSION, "commit": crate::COMMIT }));
    Router::new().route("/api/v1/version", get(version))
}

/// Binds; an address in use is an error of the start, not of later.
pub(crate) async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; choose another address with {flag}"))
}

/// Serves until stopped.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .context("an HTTP server failed")
}
