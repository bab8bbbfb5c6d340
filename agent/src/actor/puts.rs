//! Puts: those that wait together go to the store together, and each caller gets an answer of its own.

use std::time::Instant;

use hsm_store::{PutOutcome, PutRequest, StoreError};
use tokio::sync::oneshot;

use super::handle::{Allowed, Call, Command, Opened, Put};
use super::thread::{Actor, too_late};
use crate::error::OpError;

/// How many puts are written in one go: a call behind them waits no longer than that.
const TOGETHER: usize = 32;

/// A put whose request is with the store.
struct Waiting {
    call: Call,
    span: tracing::Span,
    reply: oneshot::Sender<Result<PutOutcome, OpError>>,
}

impl Actor {
    /// Writes this put and those that wait right behind it. Says whether the epoch is over.
    pub(super) fn puts(&mut self, first: Put, store: Result<&mut Opened, OpError>) -> bool {
        let begun = Instant::now();
        let mut waiting = Vec::new();
        let mut requests = Vec::new();
        let refused = store.as_ref().err().cloned();
        for put in self.collect(first) {
            let Put { call, until, span, request, allowed, reply } = put;
            let who = Waiting { call, span, reply };
            match may_write(refused.clone(), begun, until, allowed) {
                Ok(()) => {
                    waiting.push(who);
                    requests.push(request);
                }
                Err(error) => drop(self.answer(who, begun, Err(error))),
            }
        }
        let (Ok(store), Some(first)) = (store, waiting.first()) else { return false };
        // One request id for all of them: that of the call that began it.
        store.token().set_request_id(&first.call.request_id);
        let outcomes = put_all(store, &requests);
        store.token().set_request_id("");
        let mut over = false;
        for (who, outcome) in waiting.into_iter().zip(outcomes) {
            over |= self.answer(who, begun, outcome.map_err(Into::into));
        }
        over
    }

    /// The puts that wait right behind this one. What is no put stays first in the queue.
    fn collect(&mut self, first: Put) -> Vec<Put> {
        let mut batch = vec![first];
        while batch.len() < TOGETHER {
            match self.waiting() {
                Some(Command::Put(put)) => batch.push(*put),
                Some(other) => {
                    self.put_back(other);
                    break;
                }
                None => break,
            }
        }
        batch
    }

    /// Says whether the error, if it is one, ends the epoch.
    fn answer(&self, who: Waiting, begun: Instant, outcome: Result<PutOutcome, OpError>) -> bool {
        let _entered = who.span.enter();
        let result = outcome.as_ref().map_or_else(OpError::result, |_| "ok");
        self.config.metrics.operation(who.call.op, result, begun.elapsed());
        tracing::debug!(op = who.call.op, result, "The token answered.");
        let over = outcome.as_ref().is_err_and(|e| e.ends_epoch);
        drop(who.reply.send(outcome));
        over
    }
}

/// Asked once for each put, in the order in which they came: a fence that was overtaken writes nothing.
fn may_write(
    refused: Option<OpError>,
    begun: Instant,
    until: Instant,
    allowed: Allowed,
) -> Result<(), OpError> {
    match refused {
        Some(error) => Err(error),
        None if begun >= until => Err(too_late()),
        None => allowed(),
    }
}

/// One outcome for each request, in their order.
fn put_all(store: &mut Opened, requests: &[PutRequest]) -> Vec<Result<PutOutcome, StoreError>> {
    store.put_all(requests)
}
