//! One turn for one HSMSecret: look, ask the pure core what to do, do it, look again, until nothing is left to do;
//! then say so in the status if it is new. Nothing is decided here that the core decides.

mod event;
mod fault;
mod record;
mod round;
mod secret;
mod secret_write;
mod status;
mod write;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hsm_core::{Plan, SyncState, plan};
use kube::Client;
use tracing::Instrument as _;

use crate::digest::DigestKey;
use crate::index::IndexHandle;
use crate::key::ObjectKey;
use crate::metrics::Metrics;
use crate::random;
use fault::{Fault, FaultClass};
use round::Round;

/// More rounds than any plan needs; a world that moves faster is looked at again later.
const ROUNDS: usize = 8;

/// What every turn needs.
pub(crate) struct Context {
    /// The API server.
    pub client: Client,
    /// The index.
    pub index: IndexHandle,
    /// The key of all digests.
    pub digest: Arc<DigestKey>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Who reports Events: the instance's name.
    pub reporter: String,
}

/// What is to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The HSMSecret is gone.
    Gone,
    /// Nothing is left to do; look again after this long even if nothing is heard.
    Settled {
        /// `None`: only events matter.
        resync: Option<Duration>,
    },
    /// It did not work; try again with backoff.
    Retry,
}

/// One turn. `since`: when the change was heard of.
pub(crate) async fn reconcile(context: &Context, key: &ObjectKey, since: Instant) -> Outcome {
    let request_id = random::request_id();
    let span = tracing::info_span!("reconcile", request_id, namespace = key.namespace, name = key.name);
    Box::pin(turn(context, key, since, request_id)).instrument(span).await
}

async fn turn(context: &Context, key: &ObjectKey, since: Instant, request_id: String) -> Outcome {
    let began = Instant::now();
    let Ok(Some(observation)) = context.index.observe(key).await else { return Outcome::Gone };
    let mut round = Round::new(context, key.clone(), request_id, observation);
    let result = work(&mut round).await;
    let outcome = round.conclude(&result).await;
    let (word, reason) = match (&result, outcome) {
        (Err(fault), _) => ("error", fault.reason),
        (Ok(plan), Outcome::Retry) => ("error", plan.verdict.reason),
        (Ok(plan), _) if plan.verdict.state == SyncState::InSync => ("success", plan.verdict.reason),
        (Ok(plan), _) => ("waiting", plan.verdict.reason),
    };
    let moved = round.moved.as_ref();
    let reason = moved.map_or(reason, |m| m.reason);
    let direction = moved.map_or("none", |m| m.direction.as_str());
    context.metrics.synced(word, reason.as_str(), direction, began.elapsed());
    if moved.is_some() {
        context.metrics.propagated(since.elapsed());
    }
    if let Err(fault) = &result {
        tracing::warn!(reason = fault.reason.as_str(), error = %fault.message, "a secret could not be synced");
    }
    outcome
}

/// Works plans off until one has no steps.
async fn work(round: &mut Round<'_>) -> Result<Plan, Fault> {
    if let Some(plan) = round.let_go().await? {
        return Ok(plan);
    }
    for _ in 0..ROUNDS {
        let input = round.input()?;
        let plan = plan(&input);
        if plan.steps.is_empty() {
            return Ok(plan);
        }
        for step in &plan.steps {
            match round.execute(step, &plan.verdict).await {
                Ok(()) => {}
                // Somebody else was faster: the round has forgotten what it knew and looks again.
                Err(fault) if fault.class == FaultClass::Moved => {
                    tracing::debug!(error = %fault.message, "something moved meanwhile; looking again");
                    round.look_again().await?;
                    break;
                }
                Err(fault) => return Err(fault),
            }
        }
        if round.finished {
            return Ok(plan);
        }
    }
    Err(Fault::later(hsm_api::Reason::SecretDrift, "both sides move faster than they can be compared"))
}
