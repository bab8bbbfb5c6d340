//! An agent without a token: the Records, Tokens and Identity services over a map, with real versions.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt as _};
use hsm_proto::agent as wire;
use hsm_proto::agent::put_record_request::Expect;
use hsm_proto::agent::watch_records_response::Event;
use hsm_types::{
    Content, Digest, Incarnation, KeyDigest, Origin, RecordPath, Revision, SecretMark, Stamp, TokenId,
    Tombstone, Version,
};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;
type Feed = Pin<Box<dyn Stream<Item = Result<wire::WatchRecordsResponse, Status>> + Send>>;

#[derive(Default)]
struct Entry {
    live: Option<(Revision, Content)>,
    tombstones: Vec<Tombstone>,
}

struct State {
    records: BTreeMap<RecordPath, Entry>,
    lives: u64,
    calls: BTreeMap<&'static str, u64>,
}

/// See the module.
#[derive(Clone)]
pub struct FakeAgent {
    token: TokenId,
    state: Arc<Mutex<State>>,
    changes: broadcast::Sender<RecordPath>,
}

impl FakeAgent {
    pub fn new(id: u8) -> Self {
        let state = State { records: BTreeMap::new(), lives: 0, calls: BTreeMap::new() };
        Self {
            token: TokenId::from_random([id; 16]),
            state: Arc::new(Mutex::new(state)),
            changes: broadcast::channel(4096).0,
        }
    }

    pub fn token(&self) -> TokenId {
        self.token
    }

    /// How often each call was made.
    pub fn calls(&self) -> BTreeMap<&'static str, u64> {
        self.state.lock().unwrap().calls.clone()
    }

    fn count(&self, call: &'static str) {
        *self.state.lock().unwrap().calls.entry(call).or_default() += 1;
    }

    pub async fn serve(self, listener: tokio::net::TcpListener) -> Result<(), tonic::transport::Error> {
        self.serve_with(tonic::transport::Server::builder(), listener).await
    }

    pub async fn serve_with(
        self,
        mut server: tonic::transport::Server,
        listener: tokio::net::TcpListener,
    ) -> Result<(), tonic::transport::Error> {
        use wire::{records_server::RecordsServer, tokens_server::TokensServer};
        server
            .add_service(RecordsServer::new(self.clone()))
            .add_service(TokensServer::new(self))
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener))
            .await
    }

    fn seen(&self, path: &RecordPath) -> wire::RecordState {
        let state = self.state.lock().unwrap();
        let entry = state.records.get(path);
        wire::RecordState {
            path: path.as_str().to_owned(),
            heads: entry.iter().filter_map(|e| e.live.as_ref()).map(|(r, _)| r.into()).collect(),
            tombstones: entry.iter().flat_map(|e| &e.tombstones).map(Into::into).collect(),
            unknown: false,
            unknown_reason: String::new(),
        }
    }

    fn put_now(&self, request: wire::PutRecordRequest) -> Result<wire::PutRecordResponse, Status> {
        let path =
            RecordPath::new(request.path.as_str()).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let content = request.content.ok_or_else(|| Status::invalid_argument("content"))?;
        let content = Content::try_from(content).map_err(|e| Status::invalid_argument(e.to_string()))?;
        if content.data.size() > 60_000 {
            let mut status = Status::invalid_argument("the record has too many bytes (request_id x)");
            status.metadata_mut().insert("hsm-reason", "ValueTooLarge".parse().unwrap());
            return Err(status);
        }
        let parents: Vec<Version> = request.parents.iter().map(|v| v.try_into().unwrap()).collect();
        let mut state = self.state.lock().unwrap();
        state.lives += 1;
        let lives = state.lives;
        let entry = state.records.entry(path.clone()).or_default();
        let expected = match (&request.expect, &entry.live) {
            (Some(Expect::Absent(true)), None) => true,
            (Some(Expect::Stamp(stamp)), Some((live, _))) => {
                Stamp::try_from(stamp).ok() == Some(live.version.stamp())
            }
            _ => false,
        };
        if !expected {
            let mut status = Status::failed_precondition("the record is at another version (request_id x)");
            status.metadata_mut().insert("hsm-reason", "ConflictPending".parse().unwrap());
            return Err(status);
        }
        let mut mark = None;
        let version = match &entry.live {
            None => {
                let parent = parents
                    .first()
                    .filter(|p| !entry.tombstones.iter().any(|t| t.incarnation == p.incarnation));
                match parent {
                    Some(parent) => parent.next(self.token.writer([1; 4]), &[], true),
                    None => Version::first(
                        Incarnation::from_bytes(lives.to_be_bytes()),
                        self.token.writer([1; 4]),
                    ),
                }
            }
            Some((live, old)) => {
                let life = live.version.incarnation;
                mark = match &live.origin {
                    Origin::Secret => Some(SecretMark {
                        stamp: live.version.stamp(),
                        keys: old.data.iter().map(|(k, v)| (k.clone(), KeyDigest::of(life, k, v))).collect(),
                    }),
                    Origin::Token { mark } => mark.clone(),
                };
                live.version.next(self.token.writer([1; 4]), &parents, false)
            }
        };
        if let Some(taken_in) = &request.taken_in {
            let keys = hsm_proto::convert::key_digests(&taken_in.keys).unwrap();
            mark = Some(SecretMark { stamp: version.stamp(), keys });
        }
        let digest = Digest::of(&path, version.incarnation, &content);
        let origin = if request.from_secret { Origin::Secret } else { Origin::Token { mark } };
        let revision = Revision { version, digest, origin };
        entry.live = Some((revision.clone(), content));
        drop(state);
        let _ = self.changes.send(path);
        Ok(wire::PutRecordResponse { revision: Some((&revision).into()), written: true })
    }
}

#[tonic::async_trait]
impl wire::tokens_server::Tokens for FakeAgent {
    type WatchTokensStream = Pin<Box<dyn Stream<Item = Result<wire::ListTokensResponse, Status>> + Send>>;

    async fn list_tokens(&self, _: Request<wire::ListTokensRequest>) -> Answer<wire::ListTokensResponse> {
        let token = wire::TokenStatus {
            token_id: self.token.to_string(),
            state: wire::TokenState::Ready as i32,
            software: true,
            ..Default::default()
        };
        Ok(Response::new(wire::ListTokensResponse { tokens: vec![token] }))
    }

    async fn watch_tokens(&self, _: Request<wire::WatchTokensRequest>) -> Answer<Self::WatchTokensStream> {
        let list = self.list_tokens(Request::new(wire::ListTokensRequest {})).await?.into_inner();
        let stream = futures::stream::iter([Ok(list)]).chain(futures::stream::pending());
        Ok(Response::new(Box::pin(stream)))
    }

    async fn get_token_status(&self, _: Request<wire::GetTokenStatusRequest>) -> Answer<wire::TokenStatus> {
        Err(Status::unimplemented(""))
    }
    async fn unlock_token(&self, _: Request<wire::UnlockTokenRequest>) -> Answer<wire::UnlockTokenResponse> {
        Err(Status::unimplemented(""))
    }
    async fn change_pin(&self, _: Request<wire::ChangePinRequest>) -> Answer<wire::ChangePinResponse> {
        Err(Status::unimplemented(""))
    }
    async fn initialize_token(
        &self,
        _: Request<wire::InitializeTokenRequest>,
    ) -> Answer<wire::InitializeTokenResponse> {
        Err(Status::unimplemented(""))
    }
    async fn generate_random(
        &self,
        _: Request<wire::GenerateRandomRequest>,
    ) -> Answer<wire::GenerateRandomResponse> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl wire::records_server::Records for FakeAgent {
    type WatchStream = Feed;

    async fn get(&self, request: Request<wire::GetRecordRequest>) -> Answer<wire::GetRecordResponse> {
        self.count("get");
        let path = RecordPath::new(request.into_inner().path)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let state = self.state.lock().unwrap();
        let live = state.records.get(&path).and_then(|e| e.live.as_ref());
        let (revision, content) = live.ok_or_else(|| Status::not_found("no such record"))?;
        let record = wire::Record { revision: Some(revision.into()), content: Some(content.into()) };
        Ok(Response::new(wire::GetRecordResponse { records: vec![record] }))
    }

    async fn list(&self, _: Request<wire::ListRecordsRequest>) -> Answer<wire::ListRecordsResponse> {
        self.count("list");
        Err(Status::unimplemented(""))
    }

    async fn put(&self, request: Request<wire::PutRecordRequest>) -> Answer<wire::PutRecordResponse> {
        self.count("put");
        self.put_now(request.into_inner()).map(Response::new)
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteRecordRequest>,
    ) -> Answer<wire::DeleteRecordResponse> {
        self.count("delete");
        let request = request.into_inner();
        let path = RecordPath::new(request.path).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let mut state = self.state.lock().unwrap();
        let entry = state.records.entry(path.clone()).or_default();
        if let Some((live, _)) = &entry.live {
            let stamp = live.version.stamp();
            let expect = request.expect.as_ref().and_then(|s| Stamp::try_from(s).ok());
            if expect.is_some_and(|e| e != stamp) {
                return Err(Status::failed_precondition("another version"));
            }
            let incarnation = stamp.incarnation;
            entry.tombstones.push(Tombstone { path: path.clone(), incarnation, stamp });
            entry.live = None;
        }
        let tombstones = entry.tombstones.iter().map(Into::into).collect();
        drop(state);
        let _ = self.changes.send(path);
        Ok(Response::new(wire::DeleteRecordResponse { tombstones }))
    }

    async fn watch(&self, _: Request<wire::WatchRecordsRequest>) -> Answer<Feed> {
        self.count("watch");
        let changes = BroadcastStream::new(self.changes.subscribe());
        let paths: Vec<RecordPath> = self.state.lock().unwrap().records.keys().cloned().collect();
        let message = |event| Ok(wire::WatchRecordsResponse { event: Some(event) });
        let mut first: Vec<_> = paths.iter().map(|p| message(Event::Snapshot(self.seen(p)))).collect();
        let end = wire::SnapshotEnd { token_id: self.token.to_string(), session_epoch: 1, damaged: false };
        first.push(message(Event::SnapshotEnd(end)));
        let this = self.clone();
        let deltas = changes.filter_map(move |path| {
            let state = path.ok().map(|p| this.seen(&p));
            async move { state.map(|s| message(Event::Changed(s))) }
        });
        Ok(Response::new(Box::pin(futures::stream::iter(first).chain(deltas))))
    }
}
