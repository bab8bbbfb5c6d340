//! /healthz, /readyz and /metrics on a port of their own, in clear: nothing secret is in them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::metrics::Metrics;
use crate::server::Tls;

/// What the answers are made of.
pub struct Health {
    /// Whether calls are served: listening, and not shutting down.
    pub ready: AtomicBool,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// For the certificate's end.
    pub tls: Arc<Tls>,
}

/// The routes. An answer to /healthz says that the process loop runs; neither it nor /readyz depends on a token: an
/// agent without one has to be reached all the same, to be asked why.
pub fn routes(health: Arc<Health>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health)
}

async fn ready(State(health): State<Arc<Health>>) -> impl IntoResponse {
    if health.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not serving\n")
    }
}

async fn metrics(State(health): State<Arc<Health>>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], health.metrics.text(health.tls.expiry()))
}
