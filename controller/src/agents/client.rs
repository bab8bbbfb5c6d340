//! Calls to one agent's records, each with a deadline and the request's id.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hsm_api::Reason;
use hsm_proto::agent as wire;
use hsm_proto::agent::records_client::RecordsClient;
use hsm_types::{Content, Key, KeyDigest, RecordPath, Revision, Stamp, TokenId, Version};
use tokio::sync::Semaphore;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// Where an agent puts the reason of an error.
const REASON_KEY: &str = "hsm-reason";

/// A token is serial: more calls at once would only wait there.
const CALLS_AT_ONCE: usize = 4;

const READ: Duration = Duration::from_secs(15);
/// A write may land long after it was asked for; giving up earlier only makes its outcome unknown.
const WRITE: Duration = Duration::from_secs(45);

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct AgentError {
    /// What the caller can do.
    pub class: AgentErrorClass,
    /// The word for conditions.
    pub reason: Reason,
    /// What happened, without the request's id.
    pub message: String,
}

/// What the caller of an agent can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentErrorClass {
    /// Another version is there: look again.
    Moved,
    /// Nobody answered, or not now: the same later.
    Later,
    /// It will be refused again until somebody acts.
    Refused,
}

/// Where a record's new content comes from.
pub enum Source {
    /// It is the Secret's.
    Secret,
    /// It is a merge, which has taken in the Secret's values with these digests.
    Merge(BTreeMap<Key, KeyDigest>),
}

/// What [`AgentClient::put`] writes.
pub struct Put<'a> {
    /// The values and what is written about them.
    pub content: &'a Content,
    /// The version that is there; `None`: known to be absent.
    pub expect: Option<&'a Stamp>,
    /// Where the values come from.
    pub from: Source,
    /// Versions that the new one must descend from as well.
    pub parents: &'a [Version],
    /// How many earlier values the token keeps, where it has room; `None`: as many as the agent thinks good.
    pub history_limit: Option<u32>,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct AgentClient {
    records: RecordsClient<Channel>,
    permits: Arc<Semaphore>,
}

impl AgentClient {
    /// Over this channel.
    pub fn new(channel: Channel) -> Self {
        Self { records: RecordsClient::new(channel), permits: Arc::new(Semaphore::new(CALLS_AT_ONCE)) }
    }

    /// The record's live versions with their values; more than one: they are diverged. `None`: known to be absent.
    pub async fn get(
        &self,
        token: TokenId,
        path: &RecordPath,
        request_id: &str,
    ) -> Result<Option<Vec<(Revision, Content)>>, AgentError> {
        let message = wire::GetRecordRequest { token_id: token.to_string(), path: path.as_str().to_owned() };
        let mut client = self.records.clone();
        let answer = self.call(READ, client.get(request(message, request_id))).await;
        match answer {
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err((&status).into()),
            Ok(answer) => answer.records.into_iter().map(record).collect::<Result<_, _>>().map(Some),
        }
    }

    /// Writes the record.
    pub async fn put(
        &self,
        token: TokenId,
        path: &RecordPath,
        put: Put<'_>,
        request_id: &str,
    ) -> Result<Revision, AgentError> {
        let taken_in = match &put.from {
            Source::Secret => None,
            Source::Merge(keys) => Some(wire::TakenIn { keys: keys.iter().map(Into::into).collect() }),
        };
        let expect = match put.expect {
            None => wire::put_record_request::Expect::Absent(true),
            Some(stamp) => wire::put_record_request::Expect::Stamp(stamp.into()),
        };
        let message = wire::PutRecordRequest {
            token_id: token.to_string(),
            path: path.as_str().to_owned(),
            content: Some(put.content.into()),
            expect: Some(expect),
            from_secret: taken_in.is_none(),
            taken_in,
            parents: put.parents.iter().map(Into::into).collect(),
            replicate: None,
            fence: None,
            history_limit: put.history_limit,
        };
        let mut client = self.records.clone();
        let answer = self.call(WRITE, client.put(request(message, request_id))).await?;
        let revision = answer.revision.as_ref().ok_or_else(|| malformed("revision"))?;
        revision.try_into().map_err(malformed)
    }

    /// Deletes one version of the record.
    pub async fn delete(
        &self,
        token: TokenId,
        path: &RecordPath,
        expect: &Stamp,
        request_id: &str,
    ) -> Result<(), AgentError> {
        let message = wire::DeleteRecordRequest {
            token_id: token.to_string(),
            path: path.as_str().to_owned(),
            expect: Some(expect.into()),
            fence: None,
        };
        let mut client = self.records.clone();
        self.call(WRITE, client.delete(request(message, request_id))).await?;
        Ok(())
    }

    async fn call<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, Status> {
        let timed = async {
            // The semaphore is never closed.
            let _permit = self.permits.acquire().await;
            call.await
        };
        let Ok(answer) = tokio::time::timeout(limit, timed).await else {
            let limit = limit.as_secs();
            return Err(Status::unavailable(format!(
                "the agent did not answer within {limit} s; the outcome is unknown"
            )));
        };
        answer.map(tonic::Response::into_inner)
    }
}

fn record(record: wire::Record) -> Result<(Revision, Content), AgentError> {
    let revision = record.revision.as_ref().ok_or_else(|| malformed("revision"))?;
    let revision = revision.try_into().map_err(malformed)?;
    let content = record.content.ok_or_else(|| malformed("content"))?;
    let content = Content::try_from(content).map_err(|error| AgentError {
        class: AgentErrorClass::Refused,
        reason: Reason::InvalidKey,
        message: format!("the record cannot become a Secret: {error}"),
    })?;
    Ok((revision, content))
}

fn request<T>(message: T, request_id: &str) -> Request<T> {
    let mut request = Request::new(message);
    if let Ok(value) = request_id.parse() {
        request.metadata_mut().insert(hsm_proto::REQUEST_ID, value);
    }
    request
}

fn malformed(what: impl std::fmt::Display) -> AgentError {
    AgentError {
        class: AgentErrorClass::Later,
        reason: Reason::AgentUnreachable,
        message: format!("the agent's answer cannot be read: {what}; is it of another version?"),
    }
}

/// The one table from gRPC codes to what can be done.
impl From<&Status> for AgentError {
    fn from(status: &Status) -> Self {
        let named = status.metadata().get(REASON_KEY).and_then(|v| v.to_str().ok()).and_then(reason);
        let moved = matches!(named, Some(Reason::ConflictPending | Reason::PathNotFound));
        let (class, usual) = match status.code() {
            Code::FailedPrecondition if moved || named.is_none() => {
                (AgentErrorClass::Moved, Reason::ConflictPending)
            }
            Code::AlreadyExists | Code::NotFound => (AgentErrorClass::Moved, Reason::ConflictPending),
            Code::InvalidArgument => (AgentErrorClass::Refused, Reason::InvalidSpec),
            Code::ResourceExhausted => (AgentErrorClass::Refused, Reason::TokenFull),
            Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented => (AgentErrorClass::Refused, Reason::TokenUnhealthy),
            _ => (AgentErrorClass::Later, Reason::AgentUnreachable),
        };
        // The agent ends its messages with the request's id, which would make every message a new one.
        let text = status.message();
        let text = text.rfind(" (request_id ").map_or(text, |at| &text[..at]);
        Self { class, reason: named.unwrap_or(usual), message: text.to_owned() }
    }
}

impl From<Status> for AgentError {
    fn from(status: Status) -> Self {
        (&status).into()
    }
}

/// The reason that a word names.
pub(super) fn reason(word: &str) -> Option<Reason> {
    Reason::ALL.iter().copied().find(|r| r.as_str() == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: Code, named: Option<&'static str>) -> AgentError {
        let mut status = Status::new(code, "it failed (request_id 0011)");
        if let Some(word) = named {
            status.metadata_mut().insert(REASON_KEY, word.parse().unwrap());
        }
        status.into()
    }

    #[test]
    fn codes_and_reasons_say_what_to_do() {
        use AgentErrorClass as C;
        for (code, named, class, reason) in [
            (Code::FailedPrecondition, Some("ConflictPending"), C::Moved, Reason::ConflictPending),
            (Code::FailedPrecondition, Some("PinLocked"), C::Refused, Reason::PinLocked),
            (Code::ResourceExhausted, None, C::Refused, Reason::TokenFull),
            (Code::InvalidArgument, Some("ValueTooLarge"), C::Refused, Reason::ValueTooLarge),
            (Code::Unavailable, Some("TokenAbsent"), C::Later, Reason::TokenAbsent),
            (Code::Unavailable, None, C::Later, Reason::AgentUnreachable),
            (Code::Aborted, None, C::Later, Reason::AgentUnreachable),
            (Code::Unknown, None, C::Later, Reason::AgentUnreachable),
        ] {
            let error = error(code, named);
            assert_eq!((error.class, error.reason), (class, reason), "{code:?} {named:?}");
            assert_eq!(error.message, "it failed");
        }
    }
}
