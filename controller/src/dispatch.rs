//! Hands out turns: bounded workers, one turn a key at a time, retries with backoff, resyncs with jitter.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::index::{Readiness, Wake};
use crate::key::ObjectKey;
use crate::queue::{Lane, Queue, Work, backoff, jittered};
use crate::random;
use crate::reconcile::{Context, Outcome, reconcile};

/// How long the first turn waits for the agents to say what their tokens hold, so that a start of the controller is
/// not told to every HSMSecret as an outage.
const AGENTS_GRACE: Duration = Duration::from_secs(10);

/// How long a turn that is under way may go on after the controller was asked to stop.
const DRAIN: Duration = Duration::from_secs(20);

/// Runs until stopped.
pub(crate) async fn run(
    context: Arc<Context>,
    workers: usize,
    scopes: usize,
    mut wakes: mpsc::Receiver<Wake>,
    mut readiness: watch::Receiver<Readiness>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut queue = Queue::default();
    let mut failures: HashMap<ObjectKey, u32> = HashMap::new();
    let mut turns: JoinSet<(Work, Outcome)> = JoinSet::new();
    let listed = move |r: &Readiness| r.objects >= scopes && r.secrets >= scopes && r.devices;
    let mut open = false;
    let mut listed_at: Option<Instant> = None;
    loop {
        if !open {
            let now = *readiness.borrow_and_update();
            if listed(&now) {
                let since = *listed_at.get_or_insert_with(Instant::now);
                open = now.agents || since.elapsed() >= AGENTS_GRACE;
            }
        }
        while open && turns.len() < workers {
            let Some(work) = queue.pop() else { break };
            context.metrics.waited(work.lane.as_str(), work.since.elapsed());
            let context = Arc::clone(&context);
            turns.spawn(async move {
                let outcome = reconcile(&context, &work.key, work.since).await;
                (work, outcome)
            });
        }
        for lane in [Lane::Fresh, Lane::Refresh] {
            context.metrics.depth(lane.as_str(), queue.depth(lane));
        }
        let timer = queue.next_timer().map(tokio::time::Instant::from_std);
        tokio::select! {
            () = stop.cancelled() => break,
            wake = wakes.recv() => match wake {
                None => break,
                Some(wake) if wake.after.is_zero() => queue.push(&wake.key, wake.lane, Instant::now()),
                Some(wake) => queue.push_at(&wake.key, wake.lane, Instant::now() + wake.after),
            },
            Some(ended) = turns.join_next() => {
                let (work, outcome) = ended?;
                after(&mut queue, &mut failures, &work, &outcome);
            }
            () = sleep_until(timer) => queue.tick(Instant::now()),
            // Never resolves once open: readiness is only looked at before.
            _ = readiness.changed(), if !open => {}
            () = tokio::time::sleep(Duration::from_millis(500)), if !open => {}
        }
    }
    let drained = async { while turns.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::warn!(
            "some turns did not end in time; what they were doing is looked at again at the next start"
        );
    }
    Ok(())
}

fn after(queue: &mut Queue, failures: &mut HashMap<ObjectKey, u32>, work: &Work, outcome: &Outcome) {
    let now = Instant::now();
    match outcome {
        Outcome::Gone => {
            failures.remove(&work.key);
        }
        Outcome::Settled { resync } => {
            failures.remove(&work.key);
            if let Some(interval) = resync {
                queue.push_at(&work.key, Lane::Refresh, now + jittered(*interval, random::number()));
            }
        }
        Outcome::Retry => {
            let count = failures.entry(work.key.clone()).or_default();
            queue.push_at(&work.key, Lane::Refresh, now + backoff(*count, random::number()));
            *count = count.saturating_add(1);
        }
    }
    queue.done(&work.key);
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
