//! The controller's metrics: base units, no names of secrets in labels.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hsm_api::SyncStatus;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WatchKind {
    /// HSMSecrets.
    Object,
    /// Secrets.
    Secret,
    /// HSMDevices.
    Device,
}

impl WatchKind {
    const ALL: [Self; 3] = [Self::Object, Self::Secret, Self::Device];

    /// The kind's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Object => "HSMSecret",
            Self::Secret => "Secret",
            Self::Device => "HSMDevice",
        }
    }
}

/// Label names and values that the program itself chose.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Labels(Vec<(&'static str, &'static str)>);

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.encode(encoder)
    }
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 18))
}

type ByLabels<M> = Family<Labels, M, fn() -> M>;

/// See the module.
pub struct Metrics {
    registry: Registry,
    syncs: Family<Labels, Counter>,
    sync_seconds: Histogram,
    propagation_seconds: Histogram,
    secrets: Family<Labels, Gauge>,
    conflicts: Family<Labels, Counter>,
    queue_depth: Family<Labels, Gauge>,
    queue_wait: ByLabels<Histogram>,
    watch_age: Family<Labels, Gauge<f64, std::sync::atomic::AtomicU64>>,
    status_writes: Counter,
    heard: Mutex<[Option<Instant>; 3]>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry of its own.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let build = Family::<Labels, Gauge>::default();
        build.get_or_create(&Labels(vec![("version", crate::VERSION), ("commit", crate::COMMIT)])).set(1);
        let this = Self {
            syncs: Family::default(),
            sync_seconds: seconds(),
            propagation_seconds: seconds(),
            secrets: Family::default(),
            conflicts: Family::default(),
            queue_depth: Family::default(),
            queue_wait: Family::new_with_constructor(seconds as fn() -> Histogram),
            watch_age: Family::default(),
            status_writes: Counter::default(),
            heard: Mutex::new([None; 3]),
            registry: Registry::default(),
        };
        let r = &mut registry;
        r.register("hsm_build_info", "The version that runs", build);
        r.register("hsm_secret_sync", "Reconciles by outcome", this.syncs.clone());
        r.register(
            "hsm_secret_sync_duration_seconds",
            "How long a reconcile takes",
            this.sync_seconds.clone(),
        );
        r.register(
            "hsm_secret_propagation_seconds",
            "From hearing of a change to having moved it",
            this.propagation_seconds.clone(),
        );
        r.register("hsm_secrets", "HSMSecrets by syncStatus", this.secrets.clone());
        r.register("hsm_conflicts", "Conflicts found, by policy", this.conflicts.clone());
        r.register("hsm_queue_depth", "HSMSecrets that wait for a turn", this.queue_depth.clone());
        r.register("hsm_queue_wait_seconds", "How long they waited", this.queue_wait.clone());
        r.register(
            "hsm_watch_last_event_age_seconds",
            "Time since a watch last said something",
            this.watch_age.clone(),
        );
        r.register("hsm_status_writes", "Writes of HSMSecrets' statuses", this.status_writes.clone());
        Self { registry, ..this }
    }

    /// A reconcile ended.
    pub fn synced(
        &self,
        result: &'static str,
        reason: &'static str,
        direction: &'static str,
        took: Duration,
    ) {
        let labels = Labels(vec![("result", result), ("reason", reason), ("direction", direction)]);
        self.syncs.get_or_create(&labels).inc();
        self.sync_seconds.observe(took.as_secs_f64());
    }

    /// Data was moved, this long after the change was heard of.
    pub fn propagated(&self, after: Duration) {
        self.propagation_seconds.observe(after.as_secs_f64());
    }

    /// A conflict was found.
    pub fn conflict(&self, policy: &'static str) {
        self.conflicts.get_or_create(&Labels(vec![("policy", policy)])).inc();
    }

    /// A status was written.
    pub fn status_written(&self) {
        self.status_writes.inc();
    }

    /// The lanes' depths.
    pub fn depth(&self, lane: &'static str, depth: usize) {
        let depth = i64::try_from(depth).unwrap_or(i64::MAX);
        self.queue_depth.get_or_create(&Labels(vec![("lane", lane)])).set(depth);
    }

    /// A turn came after this long.
    pub fn waited(&self, lane: &'static str, wait: Duration) {
        self.queue_wait.get_or_create(&Labels(vec![("lane", lane)])).observe(wait.as_secs_f64());
    }

    /// A watch said something.
    pub fn watch_heard(&self, kind: WatchKind) {
        if let Ok(mut heard) = self.heard.lock() {
            heard[kind as usize] = Some(Instant::now());
        }
    }

    /// The text that Prometheus reads. `states` are those of all HSMSecrets.
    pub fn text(&self, states: &[Option<SyncStatus>]) -> String {
        let all = [SyncStatus::InSync, SyncStatus::OutOfSync, SyncStatus::Error, SyncStatus::Pending];
        for state in all {
            let count = states.iter().filter(|s| s.unwrap_or(SyncStatus::Pending) == state).count();
            let gauge = self.secrets.get_or_create(&Labels(vec![("state", state.as_str())]));
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let heard = self.heard.lock().map_or([None; 3], |heard| *heard);
        for kind in WatchKind::ALL {
            if let Some(at) = heard[kind as usize] {
                let labels = Labels(vec![("kind", kind.as_str())]);
                self.watch_age.get_or_create(&labels).set(at.elapsed().as_secs_f64());
            }
        }
        let mut text = String::new();
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_the_documented_names() {
        let metrics = Metrics::new();
        metrics.synced("success", "SecretCreated", "to_secret", Duration::from_millis(3));
        metrics.propagated(Duration::from_millis(9));
        metrics.conflict("Manual");
        metrics.status_written();
        metrics.depth("fresh", 1);
        metrics.waited("fresh", Duration::ZERO);
        metrics.watch_heard(WatchKind::Object);
        let text = metrics.text(&[Some(SyncStatus::InSync), None]);
        for line in [
            "hsm_secret_sync_total{result=\"success\",reason=\"SecretCreated\",direction=\"to_secret\"} 1",
            "hsm_secrets{state=\"InSync\"} 1",
            "hsm_secrets{state=\"Pending\"} 1",
            "hsm_conflicts_total{policy=\"Manual\"} 1",
            "hsm_status_writes_total 1",
            "hsm_queue_depth{lane=\"fresh\"} 1",
            "hsm_secret_sync_duration_seconds_count 1",
            "hsm_secret_propagation_seconds_count 1",
            "hsm_watch_last_event_age_seconds{kind=\"HSMSecret\"}",
            "hsm_build_info{version=",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
