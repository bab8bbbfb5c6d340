//! The record feed of one token: a snapshot, then what changed, and Reset when what was told holds no more.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::Stream;
use hsm_proto::agent::{Reset, SnapshotEnd, WatchRecordsResponse, watch_records_response::Event};
use tokio::sync::watch;

use super::convert::record_state;
use crate::actor::{Change, View};

struct Follower {
    views: watch::Receiver<Arc<View>>,
    told: Option<Arc<View>>,
    queue: VecDeque<Event>,
}

/// The feed; it ends when the token's thread does.
pub(super) fn feed(views: watch::Receiver<Arc<View>>) -> impl Stream<Item = WatchRecordsResponse> + Send {
    let mut views = views;
    views.mark_changed();
    let follower = Follower { views, told: None, queue: VecDeque::new() };
    futures::stream::unfold(follower, |mut follower| async move {
        loop {
            if let Some(event) = follower.queue.pop_front() {
                return Some((WatchRecordsResponse { event: Some(event) }, follower));
            }
            follower.views.changed().await.ok()?;
            let view = Arc::clone(&follower.views.borrow_and_update());
            follower.queue = events(follower.told.as_deref(), &view).into();
            follower.told = Some(view);
        }
    })
}

/// What a follower who was told `told` has to hear of `view`. Pure.
fn events(told: Option<&View>, view: &View) -> Vec<Event> {
    let reason = || Reset { reason: view.status.message.clone() };
    match view.since(told) {
        // A follower of a token that cannot be read is told so at once.
        None if told.is_none() => vec![Event::Reset(reason())],
        None => Vec::new(),
        Some(Change::Void) => vec![Event::Reset(reason())],
        Some(Change::Paths(paths)) => {
            paths.iter().map(|(path, entry)| Event::Changed(record_state(path, entry))).collect()
        }
        Some(Change::Snapshot) => {
            let void = told.is_some_and(|t| t.records.is_some());
            let reset = void.then(|| Event::Reset(Reset { reason: "the token was opened anew".to_owned() }));
            let records = view.records.clone().unwrap_or_default();
            let states =
                records.entries.iter().map(|(path, entry)| Event::Snapshot(record_state(path, entry)));
            let end = Event::SnapshotEnd(SnapshotEnd {
                token_id: view.status.token_id.map(|id| id.to_string()).unwrap_or_default(),
                session_epoch: view.status.epoch,
                damaged: records.hides,
            });
            reset.into_iter().chain(states).chain([end]).collect()
        }
    }
}
