//! Records: read and write what lies on a token.

use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use hsm_proto::agent::{
    DeleteRecordRequest, DeleteRecordResponse, Fence, GetRecordRequest, GetRecordResponse,
    ListRecordsRequest, ListRecordsResponse, PutRecordRequest, PutRecordResponse, Record,
    WatchRecordsRequest, WatchRecordsResponse, put_record_request, records_server::Records,
};
use hsm_store::{Expect, PutOrigin, PutOutcome, PutRequest, Replica};
use hsm_types::{Content, Presence, RecordPath, Revision, Stamp, Version};
use tonic::{Request, Response, Status};

use super::convert::record_state;
use super::feed::feed;
use super::{Agent, call, fail, request_id};
use crate::error::{Kind, OpError};
use crate::reason::Reason;

/// The largest record, in bytes of keys and values.
pub(super) const MAX_RECORD: u64 = hsm_store::MAX_RECORD as u64;

const PAGE: usize = 500;
/// How many earlier values are kept, where there is room, when the caller does not say.
const HISTORY: usize = 3;
/// The most that may be asked for: each takes an object or a part of one.
const MOST_HISTORY: u32 = 100;

/// See the module.
pub struct RecordsService(pub Arc<Agent>);

/// What a put was asked to do, after the fields were checked.
enum Write {
    Put(PutRequest),
    Replicate(Replica),
}

fn parse_put(request: PutRecordRequest) -> Result<(String, Write, Option<Fence>), OpError> {
    // Values go into wiped memory before anything else is looked at.
    let content: Content = request
        .content
        .ok_or_else(|| OpError::new(Kind::Invalid, None, "the field content is missing"))?
        .try_into()?;
    let path = RecordPath::new(request.path)?;
    if let Some(revision) = &request.replicate {
        let revision = Revision::try_from(revision)?;
        return Ok((request.token_id, Write::Replicate(Replica { path, revision, content }), request.fence));
    }
    let expect = match &request.expect {
        Some(put_record_request::Expect::Absent(true)) => Expect::Absent,
        Some(put_record_request::Expect::Stamp(stamp)) => Expect::Stamp(stamp.try_into()?),
        Some(put_record_request::Expect::Absent(false)) | None => {
            return Err(OpError::new(
                Kind::Invalid,
                None,
                "the field expect is missing: say absent, or the version that is there",
            ));
        }
    };
    let keep_history = match request.history_limit {
        None => HISTORY,
        Some(limit) if limit <= MOST_HISTORY => limit as usize,
        Some(limit) => {
            let message = format!("history_limit is {limit}; at most {MOST_HISTORY} earlier values are kept");
            return Err(OpError::new(Kind::Invalid, None, message));
        }
    };
    let parents = request.parents.iter().map(Version::try_from).collect::<Result<_, _>>()?;
    let origin = match &request.taken_in {
        _ if request.from_secret => PutOrigin::Secret,
        Some(secret) => PutOrigin::Merged(hsm_proto::convert::key_digests(&secret.keys)?),
        None => PutOrigin::Token,
    };
    let put = PutRequest { path, expect, content, origin, parents, begin_epoch: false, keep_history };
    Ok((request.token_id, Write::Put(put), request.fence))
}

impl RecordsService {
    async fn read(&self, request: Request<GetRecordRequest>) -> Result<GetRecordResponse, OpError> {
        let call = call("get", &request);
        let GetRecordRequest { token_id, path } = request.into_inner();
        let path = RecordPath::new(path)?;
        let token = self.0.token(&token_id)?;
        token
            .store(call, move |store| match store.heads(&path)? {
                Presence::Present(records) => {
                    let records = records
                        .iter()
                        .map(|r| Record {
                            revision: Some((&r.revision).into()),
                            content: Some((&r.content).into()),
                        })
                        .collect();
                    Ok(GetRecordResponse { records })
                }
                Presence::Absent => Err(OpError::not_found(&path)),
                Presence::Unknown(why) => Err(OpError::new(
                    Kind::Unknown,
                    Some(Reason::RecordDamaged),
                    format!("{path} is unknown: {why}"),
                )),
            })
            .await
    }

    async fn write(&self, request: Request<PutRecordRequest>) -> Result<PutOutcome, OpError> {
        let op = if request.get_ref().replicate.is_some() { "replicate" } else { "put" };
        let call = call(op, &request);
        let (token_id, write, fence) = parse_put(request.into_inner())?;
        let fences = Arc::clone(&self.0.fences);
        let token = self.0.token(&token_id)?;
        // Asked on the token's thread, so that no write of an earlier holder can wait behind a later one's.
        let allowed = move || -> Result<(), OpError> {
            Ok(fences.check(fence.as_ref().map(|f| (f.lease_uid.as_str(), f.transitions)))?)
        };
        match write {
            Write::Put(put) => token.put(call, put, allowed).await,
            Write::Replicate(replica) => {
                token
                    .store(call, move |store| {
                        allowed()?;
                        Ok(store.replicate(&replica)?)
                    })
                    .await
            }
        }
    }

    async fn remove(&self, request: Request<DeleteRecordRequest>) -> Result<DeleteRecordResponse, OpError> {
        let call = call("delete", &request);
        let DeleteRecordRequest { token_id, path, expect, fence } = request.into_inner();
        let path = RecordPath::new(path)?;
        let expect = match &expect {
            Some(stamp) => Expect::Stamp(Stamp::try_from(stamp)?),
            None => Expect::Absent,
        };
        let fences = Arc::clone(&self.0.fences);
        self.0
            .token(&token_id)?
            .store(call, move |store| {
                fences.check(fence.as_ref().map(|f| (f.lease_uid.as_str(), f.transitions)))?;
                store.delete(&path, expect)?;
                let tombstones = store
                    .index()
                    .entries()
                    .get(&path)
                    .map(|entry| entry.tombstones.iter().map(Into::into).collect())
                    .unwrap_or_default();
                Ok(DeleteRecordResponse { tombstones })
            })
            .await
    }

    /// From the index, without the token's thread.
    fn page(&self, request: &ListRecordsRequest) -> Result<ListRecordsResponse, OpError> {
        let view = self.0.token(&request.token_id)?.view();
        let records = view.records.as_ref().ok_or_else(|| {
            OpError::new(
                Kind::Unknown,
                view.status.reason,
                format!("the records are unknown: {}", view.status.message),
            )
        })?;
        let size = match usize::try_from(request.page_size).unwrap_or(PAGE) {
            0 => PAGE,
            size => size.min(PAGE),
        };
        let from = if request.page_token.is_empty() {
            Bound::Unbounded
        } else {
            Bound::Excluded(RecordPath::new(request.page_token.as_str())?)
        };
        let mut matching = records
            .entries
            .range((from, Bound::Unbounded))
            .filter(|(path, entry)| !entry.unlisted && path.as_str().starts_with(&request.prefix));
        let page: Vec<_> =
            matching.by_ref().take(size).map(|(path, entry)| record_state(path, entry)).collect();
        let next_page_token = match (matching.next(), page.last()) {
            (Some(_), Some(last)) => last.path.clone(),
            _ => String::new(),
        };
        Ok(ListRecordsResponse { records: page, next_page_token })
    }
}

type Feed = Pin<Box<dyn Stream<Item = Result<WatchRecordsResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Records for RecordsService {
    async fn get(&self, request: Request<GetRecordRequest>) -> Result<Response<GetRecordResponse>, Status> {
        let id = request_id(&request);
        self.read(request).await.map(Response::new).map_err(|e| fail("get", &e, &id))
    }

    async fn list(
        &self,
        request: Request<ListRecordsRequest>,
    ) -> Result<Response<ListRecordsResponse>, Status> {
        let id = request_id(&request);
        self.page(request.get_ref()).map(Response::new).map_err(|e| fail("list", &e, &id))
    }

    async fn put(&self, request: Request<PutRecordRequest>) -> Result<Response<PutRecordResponse>, Status> {
        let id = request_id(&request);
        match self.write(request).await {
            Ok(PutOutcome { revision, written }) => {
                Ok(Response::new(PutRecordResponse { revision: Some((&revision).into()), written }))
            }
            Err(error) => Err(fail("put", &error, &id)),
        }
    }

    async fn delete(
        &self,
        request: Request<DeleteRecordRequest>,
    ) -> Result<Response<DeleteRecordResponse>, Status> {
        let id = request_id(&request);
        self.remove(request).await.map(Response::new).map_err(|e| fail("delete", &e, &id))
    }

    type WatchStream = Feed;

    async fn watch(&self, request: Request<WatchRecordsRequest>) -> Result<Response<Feed>, Status> {
        let id = request_id(&request);
        match self.0.token(&request.get_ref().token_id) {
            Ok(token) => {
                Ok(Response::new(Box::pin(feed(token.follow()).map(Ok).take_until(self.0.stopped()))))
            }
            Err(error) => Err(fail("watch", &error, &id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hsm_proto::agent as wire;

    #[test]
    fn a_put_must_say_what_it_expects() {
        let request = |expect| PutRecordRequest {
            path: "a".into(),
            content: Some(wire::Content::default()),
            expect,
            ..PutRecordRequest::default()
        };
        for silent in [None, Some(put_record_request::Expect::Absent(false))] {
            let error = parse_put(request(silent)).map(|_| ()).unwrap_err();
            assert!(error.message.contains("expect"), "{error}");
        }
        assert!(parse_put(request(Some(put_record_request::Expect::Absent(true)))).is_ok());
        let bad_path = PutRecordRequest {
            path: "a//b".into(),
            ..request(Some(put_record_request::Expect::Absent(true)))
        };
        assert_eq!(parse_put(bad_path).map(|_| ()).unwrap_err().code(), tonic::Code::InvalidArgument);
        let mut bad_key = request(Some(put_record_request::Expect::Absent(true)));
        bad_key.content = Some(wire::Content { data: [("ü".to_owned(), vec![1])].into(), metadata: None });
        assert_eq!(parse_put(bad_key).map(|_| ()).unwrap_err().reason, Some(Reason::InvalidKey));
    }
}
