//! Events: one when data moved or the reason of `Ready` changed; never because a turn ended.

use std::time::{Duration, Instant};

use hsm_api::{HSMSecret, HSMSecretStatus, names};
use hsm_core::ReadyStatus;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Resource as _;
use kube::api::{Api, PostParams};

use super::round::Round;
use super::status::Say;
use crate::random;

/// The same reason is not told again within this time: a Secret that is rewritten all the time is one story.
const QUIET: Duration = Duration::from_mins(1);
/// An Event must not hold up a turn.
const LIMIT: Duration = Duration::from_secs(5);
/// What the API takes (events.k8s.io/v1, NoteLengthLimit).
const NOTE: usize = 1024;

/// Tells it, best effort.
pub(super) async fn tell(round: &mut Round<'_>, old: &HSMSecretStatus, new: &HSMSecretStatus, say: &Say) {
    let ready = |status: &HSMSecretStatus| {
        let found = status.conditions.iter().find(|c| c.type_ == names::READY);
        found.map(|c| (c.status.clone(), c.reason.clone()))
    };
    let (reason, note, action, normal) = match &round.moved {
        Some(moved) => (moved.reason, moved.message.clone(), "Sync", true),
        None if ready(old) != ready(new) => {
            (say.reason, say.message.clone(), "Compare", say.ready == ReadyStatus::True)
        }
        None => return,
    };
    // Data that moved and a turn that failed all the same: the failure is what somebody has to know.
    let (reason, note, normal) = match say.ready {
        ReadyStatus::False if ready(old) != ready(new) => (say.reason, say.message.clone(), false),
        _ => (reason, note, normal),
    };
    let last = round.memory.last_event;
    if last.is_some_and(|(word, at)| word == reason.as_str() && at.elapsed() < QUIET) {
        return;
    }
    round.memory.last_event = Some((reason.as_str(), Instant::now()));
    let object = &round.object;
    let event = Event {
        metadata: ObjectMeta {
            name: Some(event_name(&round.key.name, random::number())),
            namespace: Some(round.key.namespace.clone()),
            annotations: Some([(names::ANNOTATION_REQUEST_ID.to_owned(), round.request_id.clone())].into()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(Timestamp::now())),
        reporting_controller: Some(format!("{}/controller", names::GROUP)),
        reporting_instance: Some(round.context.reporter.clone()),
        action: Some(action.to_owned()),
        reason: Some(reason.as_str().to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some(HSMSecret::api_version(&()).into_owned()),
            kind: Some(HSMSecret::kind(&()).into_owned()),
            name: Some(round.key.name.clone()),
            namespace: Some(round.key.namespace.clone()),
            uid: object.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        note: Some(note.chars().take(NOTE).collect()),
        type_: Some(if normal { "Normal" } else { "Warning" }.to_owned()),
        ..Event::default()
    };
    let api: Api<Event> = Api::namespaced(round.context.client.clone(), &round.key.namespace);
    let sent = tokio::time::timeout(LIMIT, api.create(&PostParams::default(), &event)).await;
    if !matches!(sent, Ok(Ok(_))) {
        tracing::debug!(reason = reason.as_str(), "an Event could not be written");
    }
    let level = if normal { "told" } else { "warned" };
    tracing::info!(reason = reason.as_str(), note, level, "the secret's state changed");
}

/// The object's name, cut so that it fits, and a random end.
fn event_name(object: &str, random: u64) -> String {
    let cut: String = object.chars().take(230).collect();
    format!("{}.{random:016x}", cut.trim_end_matches(['.', '-']))
}
