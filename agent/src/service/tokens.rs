//! Tokens: their status, their PIN, their random numbers.

use std::pin::Pin as Pinned;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use hsm_proto::agent::{
    ChangePinRequest, ChangePinResponse, GenerateRandomRequest, GenerateRandomResponse,
    GetTokenStatusRequest, InitializeTokenRequest, InitializeTokenResponse, ListTokensRequest,
    ListTokensResponse, TokenStatus, UnlockTokenRequest, UnlockTokenResponse, WatchTokensRequest,
    tokens_server::Tokens,
};
use hsm_token::{Pin, Token as _};
use hsm_types::TokenId;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::convert::status_message;
use super::{Agent, call, fail, request_id};
use crate::actor::Initialize;
use crate::error::{Kind, OpError};

/// Making a token and a key pair takes its time on hardware.
const INITIALIZE: Duration = Duration::from_mins(3);

/// See the module.
pub struct TokensService(pub Arc<Agent>);

impl TokensService {
    fn all(agent: &Agent) -> ListTokensResponse {
        ListTokensResponse { tokens: agent.views().iter().map(|view| status_message(view)).collect() }
    }

    async fn unlock(&self, request: Request<UnlockTokenRequest>) -> Result<(), OpError> {
        let wait = call("unlock", &request).wait;
        let UnlockTokenRequest { token_id, pin: given } = request.into_inner();
        let pin = pin(given, "pin")?;
        // A token's identity may not be known before it is unlocked: the only one needs no id.
        self.0.token(&token_id)?.unlock(pin, wait).await
    }

    async fn change(&self, request: Request<ChangePinRequest>) -> Result<(), OpError> {
        let wait = call("change_pin", &request).wait;
        let ChangePinRequest { token_id, old_pin, new_pin } = request.into_inner();
        let (old, new) = (pin(old_pin, "old_pin")?, pin(new_pin, "new_pin")?);
        self.0.token(&token_id)?.change_pin(old, new, wait).await
    }

    async fn initialize(&self, request: Request<InitializeTokenRequest>) -> Result<TokenId, OpError> {
        let InitializeTokenRequest { label, pin: user, so_pin } = request.into_inner();
        let (user, so_pin) = (pin(user, "pin")?, pin(so_pin, "so_pin")?);
        let token = match self.0.tokens.as_slice() {
            [only] => only,
            several => several.iter().find(|token| token.may_become(&label)).ok_or_else(|| {
                let message = format!(
                    "this agent serves several tokens, and none with the label {label:?} that is blank or absent; it \
                     has {}",
                    self.0.names()
                );
                OpError::new(Kind::Refused, None, message)
            })?,
        };
        token.initialize(Initialize { label, pin: user, so_pin }, INITIALIZE).await
    }

    async fn random(&self, request: Request<GenerateRandomRequest>) -> Result<Vec<u8>, OpError> {
        let call = call("random", &request);
        let GenerateRandomRequest { token_id, length } = request.into_inner();
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if !(1..=1024).contains(&length) {
            return Err(OpError::new(Kind::Invalid, None, "length must be 1 to 1024 bytes"));
        }
        let mut random =
            self.0.token(&token_id)?.store(call, move |store| Ok(store.token().random(length)?)).await?;
        Ok(std::mem::take(&mut *random))
    }
}

/// Wiped from here on.
fn pin(text: String, field: &str) -> Result<Pin, OpError> {
    let pin = Pin::new(text);
    if pin.expose().is_empty() {
        return Err(OpError::new(Kind::Invalid, None, format!("the field {field} is empty")));
    }
    Ok(pin)
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

    async fn change_pin(
        &self,
        request: Request<ChangePinRequest>,
    ) -> Result<Response<ChangePinResponse>, Status> {
        let id = request_id(&request);
        match self.change(request).await {
            Ok(()) => Ok(Response::new(ChangePinResponse {})),
            Err(error) => Err(fail("change_pin", &error, &id)),
        }
    }

    async fn initialize_token(
        &self,
        request: Request<InitializeTokenRequest>,
    ) -> Result<Response<InitializeTokenResponse>, Status> {
        let id = request_id(&request);
        match self.initialize(request).await {
            Ok(token_id) => Ok(Response::new(InitializeTokenResponse { token_id: token_id.to_string() })),
            Err(error) => Err(fail("initialize", &error, &id)),
        }
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
