//! The agent's metrics: own registry, base units, no secret's name or path as a label.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use hsm_types::TokenId;

use crate::actor::{State, Status};
use crate::config::{COMMIT, VERSION};

/// Operation and outcome.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct OpResult {
    op: &'static str,
    result: &'static str,
}
/// Operation.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Op {
    op: &'static str,
}
/// Outcome.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Outcome {
    result: &'static str,
}
/// A TokenId.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct TokenLabel {
    token: String,
}
/// The role of a certificate.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Role {
    role: &'static str,
}
/// What this build is.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Build {
    version: &'static str,
    commit: &'static str,
}

/// All metrics; one for the process.
pub struct Metrics {
    registry: Registry,
    up: Family<TokenLabel, Gauge>,
    epoch: Family<TokenLabel, Gauge<u64, AtomicU64>>,
    objects: Family<TokenLabel, Gauge<u64, AtomicU64>>,
    capacity: Family<TokenLabel, Gauge<u64, AtomicU64>>,
    tries_low: Family<TokenLabel, Gauge>,
    operations: Family<OpResult, Counter>,
    duration: Family<Op, Histogram, fn() -> Histogram>,
    logins: Family<Outcome, Counter>,
    /// Times that a worker process was started again.
    pub restarts: Counter,
    /// Bytes of objects that were replaced.
    pub bytes_replaced: Counter,
    /// Of those, the bytes of objects that are too large to be replaced for ever.
    pub bytes_leaking: Counter,
    expiry: Family<Role, Gauge<i64, AtomicI64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let build: Family<Build, Gauge> = Family::default();
        build.get_or_create(&Build { version: VERSION, commit: COMMIT }).set(1);
        registry.register("hsm_build_info", "What this build is", build);
        let duration: Family<Op, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_5, 2.0, 17)));
        let this = Self {
            up: Family::default(),
            epoch: Family::default(),
            objects: Family::default(),
            capacity: Family::default(),
            tries_low: Family::default(),
            operations: Family::default(),
            duration,
            logins: Family::default(),
            restarts: Counter::default(),
            bytes_replaced: Counter::default(),
            bytes_leaking: Counter::default(),
            expiry: Family::default(),
            registry: Registry::default(),
        };
        // The library adds `_total` to counters by itself.
        registry.register("hsm_token_up", "1 when the token serves reads and writes", this.up.clone());
        registry.register(
            "hsm_token_session_epoch",
            "How often a session was started with the token",
            this.epoch.clone(),
        );
        registry.register("hsm_token_objects", "Objects that the token lists", this.objects.clone());
        registry.register(
            "hsm_token_objects_capacity",
            "Objects that may be on the token at rest, 0 for no limit",
            this.capacity.clone(),
        );
        registry.register(
            "hsm_token_pin_tries_low",
            "1 when a wrong PIN was tried since the last good login",
            this.tries_low.clone(),
        );
        registry.register("hsm_token_operations", "Operations on the token", this.operations.clone());
        registry.register(
            "hsm_token_operation_duration_seconds",
            "How long operations on the token took",
            this.duration.clone(),
        );
        registry.register("hsm_token_logins", "Logins sent to the token", this.logins.clone());
        registry.register(
            "hsm_token_worker_restarts",
            "Worker processes that were started again",
            this.restarts.clone(),
        );
        registry.register(
            "hsm_token_bytes_replaced",
            "Bytes of objects that were replaced by newer ones",
            this.bytes_replaced.clone(),
        );
        registry.register(
            "hsm_token_bytes_leaking",
            "Of the replaced bytes, those of objects that firmware 6.6 of a Pico HSM leaks flash by",
            this.bytes_leaking.clone(),
        );
        registry.register(
            "hsm_certificate_expiry_seconds",
            "When the certificate ends, in seconds since 1970",
            this.expiry.clone(),
        );
        Self { registry, ..this }
    }
}

impl Metrics {
    /// Counts one operation.
    pub fn operation(&self, op: &'static str, result: &'static str, took: Duration) {
        self.operations.get_or_create(&OpResult { op, result }).inc();
        self.duration.get_or_create(&Op { op }).observe(took.as_secs_f64());
    }

    /// Counts one login.
    pub fn login(&self, result: &'static str) {
        self.logins.get_or_create(&Outcome { result }).inc();
    }

    /// Shows a token's status. Before its identity is known there is nothing to name it by.
    pub fn status(&self, status: &Status) {
        let Some(id) = status.token_id.filter(|_| !status.shadow) else { return };
        let token = TokenLabel { token: id.to_string() };
        self.up.get_or_create(&token).set(i64::from(status.state == State::Ready));
        self.epoch.get_or_create(&token).set(status.epoch);
        self.objects.get_or_create(&token).set(status.objects);
        self.capacity.get_or_create(&token).set(status.capacity);
        let low = status.info.as_ref().is_some_and(|i| i.pin.count_low || i.pin.final_try);
        self.tries_low.get_or_create(&token).set(i64::from(low));
    }

    /// The token is not what this thread serves any more: what was shown of it goes.
    pub fn forget(&self, id: TokenId) {
        let token = TokenLabel { token: id.to_string() };
        for gauge in [&self.up, &self.tries_low] {
            gauge.remove(&token);
        }
        for gauge in [&self.epoch, &self.objects, &self.capacity] {
            gauge.remove(&token);
        }
    }

    /// The text of /metrics (OpenMetrics). `expiry`: when the server's certificate ends.
    pub fn text(&self, expiry: i64) -> String {
        self.expiry.get_or_create(&Role { role: "server" }).set(expiry);
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            text.clear();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn full() -> String {
        let metrics = Metrics::default();
        metrics.operation("get", "ok", Duration::from_millis(3));
        metrics.login("ok");
        let token_id = Some(TokenId::from_random([7; 16]));
        metrics.status(&Status { token_id, ..Status::default() });
        metrics.text(5)
    }

    #[test]
    fn values_and_labels_are_exported() {
        let text = full();
        for line in [
            "hsm_token_up{token=\"07070707-",
            "hsm_token_operations_total{op=\"get\",result=\"ok\"} 1",
            "hsm_token_operation_duration_seconds_count{op=\"get\"} 1",
            "hsm_token_worker_restarts_total 0",
            "hsm_token_logins_total{result=\"ok\"} 1",
            "hsm_token_bytes_replaced_total 0",
            "hsm_token_bytes_leaking_total 0",
            "hsm_certificate_expiry_seconds{role=\"server\"} 5",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    /// The table of agent/README.md and what is exported: the same metrics with the same labels.
    #[test]
    fn the_documented_list_is_the_exported_one() {
        let documented: BTreeSet<String> = include_str!("../README.md")
            .lines()
            .filter_map(|line| line.strip_prefix("| `hsm_"))
            .filter_map(|rest| rest.split_once('`'))
            .map(|(name, _)| format!("hsm_{name}"))
            .collect();
        let suffixes = ["_bucket", "_sum", "_count"];
        let exported: BTreeSet<String> = full()
            .lines()
            .filter(|line| {
                !line.starts_with('#') && !suffixes.iter().any(|s| line.contains(&format!("{s}{{")))
            })
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(series, _)| {
                let Some((name, labels)) = series.split_once('{') else { return series.to_owned() };
                let labels = labels.trim_end_matches('}').split(',').filter_map(|l| l.split_once('='));
                format!("{name}{{{}}}", labels.map(|(label, _)| label).collect::<Vec<_>>().join(","))
            })
            .collect();
        let histogram = "hsm_token_operation_duration_seconds{op}".to_owned();
        assert_eq!(documented, exported.into_iter().chain([histogram]).collect());
    }

    #[test]
    fn a_token_that_another_one_replaced_is_not_shown() {
        let metrics = Metrics::default();
        let id = TokenId::from_random([7; 16]);
        metrics.status(&Status { token_id: Some(id), ..Status::default() });
        metrics.status(&Status { token_id: Some(TokenId::from_random([8; 16])), ..Status::default() });
        metrics.forget(id);
        let text = metrics.text(5);
        assert!(!text.contains("07070707-") && text.contains("08080808-"), "{text}");
    }
}
