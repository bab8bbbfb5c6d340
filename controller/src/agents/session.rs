//! One task for each agent: connect, follow its tokens and their records, say so when it is lost, connect again.

use std::collections::BTreeMap;
use std::time::Duration;

use hsm_api::Reason;
use hsm_proto::agent as wire;
use hsm_proto::agent::records_client::RecordsClient;
use hsm_proto::agent::tokens_client::TokensClient;
use hsm_types::{RecordPath, Revision, TokenId, Tombstone};
use tokio::task::{AbortHandle, JoinSet};
use tonic::Status;
use tonic::transport::Channel;

use super::client::reason;
use super::{AgentClient, Connector};
use crate::index::{Event, FeedEvent, IndexHandle, RecordSeen};
use crate::queue::backoff;
use crate::random;

/// Keeps one agent connected, for ever.
pub async fn supervise(name: String, url: String, connector: Connector, index: IndexHandle) {
    let mut failures = 0;
    loop {
        let began = tokio::time::Instant::now();
        let why = match connector.connect(&url).await {
            Err(error) => error.to_string(),
            Ok(channel) => {
                tracing::info!(agent = name, "connected to an agent");
                session(&name, channel, &index).await
            }
        };
        if began.elapsed() > Duration::from_mins(1) {
            failures = 0;
        }
        tracing::warn!(agent = name, reason = why, "an agent does not answer; it is tried again");
        if index.tell(Event::AgentLost(name.clone(), why)).await.is_err() {
            return;
        }
        // A restarted agent is back within seconds: five at most are lost by waiting.
        let pause = backoff(failures, random::number()).min(Duration::from_secs(5));
        tokio::time::sleep(pause).await;
        failures += 1;
    }
}

/// Follows until something ends, and says why.
async fn session(name: &str, channel: Channel, index: &IndexHandle) -> String {
    let client = AgentClient::new(channel.clone());
    if index.tell(Event::AgentConnected(name.to_owned(), client)).await.is_err() {
        return "the controller is ending".to_owned();
    }
    let mut stream = match TokensClient::new(channel.clone()).watch_tokens(wire::WatchTokensRequest {}).await
    {
        Ok(answer) => answer.into_inner(),
        Err(status) => return text(&status),
    };
    // Dropped with this call: no feed outlives its session.
    let mut feeds = JoinSet::new();
    let mut running: BTreeMap<TokenId, AbortHandle> = BTreeMap::new();
    loop {
        let list = tokio::select! {
            message = stream.message() => match message {
                Ok(Some(list)) => list.tokens,
                Ok(None) => return "it ended the stream of tokens".to_owned(),
                Err(status) => return text(&status),
            },
            Some(ended) = feeds.join_next() => match ended {
                Ok(()) => continue,
                Err(error) if error.is_cancelled() => continue,
                Err(error) => return format!("a feed failed: {error}"),
            },
        };
        let tokens: Vec<_> = list.iter().filter_map(token).collect();
        let unnamed = list.iter().any(nameless);
        running.retain(|id, feed| {
            let serves = tokens.iter().any(|(listed, trouble)| listed == id && trouble.is_none());
            if !serves {
                feed.abort();
            }
            serves
        });
        let serving: Vec<TokenId> = tokens.iter().filter(|(_, t)| t.is_none()).map(|(id, _)| *id).collect();
        for event in [Event::Nameless(name.to_owned(), unnamed), Event::Tokens(name.to_owned(), tokens)] {
            if index.tell(event).await.is_err() {
                return "the controller is ending".to_owned();
            }
        }
        for id in serving {
            running
                .entry(id)
                .or_insert_with(|| feeds.spawn(feed(name.to_owned(), id, channel.clone(), index.clone())));
        }
    }
}

/// Whether there is a token of which it cannot be told which one it is: it may hold anything.
fn nameless(status: &wire::TokenStatus) -> bool {
    use wire::TokenState as S;
    let empty = matches!(S::try_from(status.state), Ok(S::Absent | S::Blank | S::NotAdmitted));
    !empty && status.token_id.parse::<TokenId>().is_err()
}

/// The token's id and why it does not serve; `None` without an id.
fn token(status: &wire::TokenStatus) -> Option<(TokenId, Option<(Reason, String)>)> {
    let id = status.token_id.parse().ok()?;
    if status.state == wire::TokenState::Ready as i32 {
        return Some((id, None));
    }
    let why = if status.message.is_empty() {
        "the token does not serve".to_owned()
    } else {
        status.message.clone()
    };
    Some((id, Some((reason(&status.reason).unwrap_or(Reason::TokenUnhealthy), why))))
}

/// Follows one token's records until the session ends.
async fn feed(name: String, id: TokenId, channel: Channel, index: IndexHandle) {
    let mut failures = 0;
    loop {
        let why = match follow(&name, id, channel.clone(), &index).await {
            Ok(()) => "the feed of its records ended".to_owned(),
            Err(status) => text(&status),
        };
        let reset = Event::Fed(name.clone(), id, FeedEvent::Reset(why));
        if index.tell(reset).await.is_err() {
            return;
        }
        tokio::time::sleep(backoff(failures, random::number()).min(Duration::from_secs(10))).await;
        failures += 1;
    }
}

async fn follow(name: &str, id: TokenId, channel: Channel, index: &IndexHandle) -> Result<(), Status> {
    let request = wire::WatchRecordsRequest { token_id: id.to_string() };
    let mut stream = RecordsClient::new(channel).watch(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        let Some(event) = message.event.and_then(event) else { continue };
        if index.tell(Event::Fed(name.to_owned(), id, event)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn event(event: wire::watch_records_response::Event) -> Option<FeedEvent> {
    use wire::watch_records_response::Event as E;
    Some(match event {
        E::Reset(reset) => FeedEvent::Reset(reset.reason),
        E::SnapshotEnd(end) => FeedEvent::End { damaged: end.damaged },
        E::Snapshot(state) => {
            let (path, record) = record(&state)?;
            FeedEvent::Snapshot(path, record)
        }
        E::Changed(state) => {
            let (path, record) = record(&state)?;
            FeedEvent::Changed(path, record)
        }
    })
}

/// A path that is not valid names nothing that an HSMSecret could ask for.
fn record(state: &wire::RecordState) -> Option<(RecordPath, Result<RecordSeen, String>)> {
    let path = RecordPath::new(state.path.as_str()).ok()?;
    if state.unknown {
        return Some((path, Err(state.unknown_reason.clone())));
    }
    let heads = state.heads.iter().map(Revision::try_from).collect::<Result<_, _>>();
    let tombstones = state.tombstones.iter().map(Tombstone::try_from).collect::<Result<_, _>>();
    let seen = heads.and_then(|heads| Ok(RecordSeen { heads, tombstones: tombstones? }));
    Some((path, seen.map_err(|error| format!("the agent's answer cannot be read: {error}"))))
}

fn text(status: &Status) -> String {
    if status.message().is_empty() { status.code().to_string() } else { status.message().to_owned() }
}
