//! Tokens: their status, their PIN, their random numbers.

use std::pin::Pin as Pinned;
use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use hsm_proto::agent::{
    ChangePinRequest, ChangePinResponse, GenerateRandomRequest, GenerateRandomResponse,
    GetTokenStatusRequest, InitializeTokenRequest, InitializeTokenResponse, ListTokensRequest,
    ListTokensResponse, TokenStatus, UnlockTokenRequest, UnlockTokenResponse, WatchTokensRequest,
    tokens_server::Tokens,
};
use hsm_token::{Pin, Token as _};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::convert::status_message;
use super::{Agent, call, fail, request_id};
use crate::error::{Kind, OpError};

/// See the module.
pub struct TokensService(pub Arc<Agent>);

impl TokensService {
    fn all(agent: &Agent) -> ListTokensResponse {
        ListTokensResponse {
            tokens: agent.tokens.iter().map(|t| status_message(&t.view())).collect(),
        }
    }

    async fn unlock(&self, request: Request<UnlockTokenRequest>) -> Result<(), OpError> {
        let wait = call("unlock", &request).wait;
        let UnlockTokenRequest { token_id, pin } = request.into_inner();
        let pin = Pin::new(pin);
        if pin.expose().is_empty() {
            return Err(OpError::new(Kind::Invalid, None, "the PIN is empty"));
        }
        let token = match (token_id.as_str(), self.0.tokens.as_slice()) {
            // A token's identity may not be known before it is unlocked.
            ("", [only]) => only,
            (id, _) => self.0.token(id)?,
        };
        token.unlock(pin, wait).await
    }

    async fn random(&self, request: Request<GenerateRandomRequest>) -> Result<Vec<u8>, OpError> {
        let call = call("random", &request);
        let GenerateRandomRequest { token_id, length } = request.into_inner();
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if !(1..=1024).contains(&length) {
            return Err(OpError::new(
                Kind::Invalid,
                None,
                "length must be 1 to 1024 bytes",
            ));
        }
        let mut random = self
            .0
            .token(&token_id)?
            .store(call, move |store| Ok(store.token().random(length)?))
            .await?;
        Ok(std::mem::take(&mut *random))
    }
}

type Statuses = Pinned<Box<dyn Stream<Item = Result<ListTokensResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Tokens for TokensService {
    async fn list_tokens(
        &self,
        _: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        Ok(Response::new(Self::all(&self.0)))
    }

    type WatchTokensStream = Statuses;

    async fn watch_tokens(&self, _: Request<WatchTokensRequest>) -> Result<Response<Statuses>, Status> {
        let changes = stream::select_all(self.0.tokens.iter().map(|t| WatchStream::new(t.follow())));
        let agent = Arc::clone(&self.0);
        let mut told = None;
        // Records change more often than statuses: only a list that differs is sent.
        let lists = changes.filter_map(move |_| {
            let list = Self::all(&agent);
            let news = told.as_ref() != Some(&list);
            told = Some(list.clone());
            std::future::ready(news.then_some(Ok(list)))
        });
        Ok(Response::new(Box::pin(lists.take_until(self.0.stopped()))))
    }

    async fn get_token_status(
        &self,
        request: Request<GetTokenStatusRequest>,
    ) -> Result<Response<TokenStatus>, Status> {
        let id = request_id(&request);
        match self.0.token(&request.get_ref().token_id) {
            Ok(token) => Ok(Response::new(status_message(&token.view()))),
            Err(error) => Err(fail("status", &error, &id)),
        }
    }

    async fn unlock_token(
        &self,
        request: Request<UnlockTokenRequest>,
    ) -> Result<Response<UnlockTokenResponse>, Status> {
        let id = request_id(&request);
        match self.unlock(request).await {
            Ok(()) => Ok(Response::new(UnlockTokenResponse {})),
            Err(error) => Err(fail("unlock", &error, &id)),
        }
    }

    async fn change_pin(&self, _: Request<ChangePinRequest>) -> Result<Response<ChangePinResponse>, Status> {
        Err(Status::unimplemented(
            "this agent does not change PINs yet; see GetCapabilities",
        ))
    }

    async fn initialize_token(
        &self,
        _: Request<InitializeTokenRequest>,
    ) -> Result<Response<InitializeTokenResponse>, Status> {
        Err(Status::unimplemented(
            "this agent does not initialise tokens over the network yet; use hsm-agent token init on the node",
        ))
    }

    async fn generate_random(
        &self,
        request: Request<GenerateRandomRequest>,
    ) -> Result<Response<GenerateRandomResponse>, Status> {
        let id = request_id(&request);
        match self.random(request).await {
            Ok(random) => Ok(Response::new(GenerateRandomResponse { random })),
            Err(error) => Err(fail("random", &error, &id)),
        }
    }
}
