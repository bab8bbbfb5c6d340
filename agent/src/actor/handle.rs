//! How the rest of the agent speaks to a token's thread: a bounded queue in, one watched value out.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use hsm_store::{PutOutcome, PutRequest, Store};
use hsm_token::Pin;
use hsm_token::worker::WorkerToken;
use hsm_types::TokenId;
use tokio::sync::{oneshot, watch};

use super::{State, View};
use crate::error::{Kind, OpError};
use crate::reason::Reason;

/// The store as a token's thread owns it.
pub(super) type Opened = Store<WorkerToken>;

/// What came of a job, for metrics and for the thread's next step.
pub(super) struct Report {
    pub(super) result: &'static str,
    pub(super) ends_epoch: bool,
}

/// Work on an open store, or on the reason why it is not open.
pub(super) type Run = Box<dyn FnOnce(Result<&mut Opened, OpError>) -> Report + Send>;

/// Said on the token's thread right before a write: whether its caller may write.
pub(super) type Allowed = Box<dyn FnOnce() -> Result<(), OpError> + Send>;

/// A put on its way to the store, apart from other work so that puts which wait together are written together.
pub(super) struct Put {
    pub(super) call: Call,
    pub(super) until: Instant,
    pub(super) span: tracing::Span,
    pub(super) request: PutRequest,
    pub(super) allowed: Allowed,
    pub(super) reply: oneshot::Sender<Result<PutOutcome, OpError>>,
}

/// What the thread is asked.
pub(super) enum Command {
    /// Put one record.
    Put(Box<Put>),
    /// Work on the open store; called with an error when it is not open.
    Job { call: Call, until: Instant, span: tracing::Span, run: Run },
    /// Try this PIN.
    Unlock { pin: Pin, reply: oneshot::Sender<Result<(), OpError>> },
    /// Change the PIN of the open token.
    ChangePin { old: Pin, new: Pin, reply: oneshot::Sender<Result<(), OpError>> },
    /// Make a store on a token that is positively blank, and the software token before it where none is there.
    Initialize { request: Initialize, reply: oneshot::Sender<Result<TokenId, OpError>> },
    /// Finish and end.
    Stop,
}

/// What a new token gets.
pub struct Initialize {
    /// Its label.
    pub label: String,
    /// Its PIN.
    pub pin: Pin,
    /// Its SO-PIN.
    pub so_pin: Pin,
}

/// One call's name and how long its caller waits.
#[derive(Debug, Clone)]
pub struct Call {
    /// The id that the call has in all logs.
    pub request_id: Arc<str>,
    /// The operation, as metrics name it.
    pub op: &'static str,
    /// How long the caller waits.
    pub wait: Duration,
}

/// A token's thread, seen from outside.
#[derive(Clone)]
pub struct TokenHandle {
    pub(super) commands: SyncSender<Command>,
    /// The label by which the flags name it.
    pub(super) label: Option<Arc<str>>,
    pub(super) view: watch::Receiver<Arc<View>>,
}

impl TokenHandle {
    /// What is known of the token now.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// The view now and each later one.
    pub fn follow(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Runs `work` on the token's thread. When the caller's time passes first, the outcome is unknown.
    pub async fn store<T: Send + 'static>(
        &self,
        call: Call,
        work: impl FnOnce(&mut Opened) -> Result<T, OpError> + Send + 'static,
    ) -> Result<T, OpError> {
        let (reply, answer) = oneshot::channel();
        let run = Box::new(move |store: Result<&mut Opened, OpError>| {
            let result = store.and_then(work);
            let report = match &result {
                Ok(_) => Report { result: "ok", ends_epoch: false },
                Err(e) => Report { result: e.result(), ends_epoch: e.ends_epoch },
            };
            // The caller may have gone; what was done is in the view.
            drop(reply.send(result));
            report
        });
        let until = Instant::now() + call.wait;
        let limit = call.wait;
        self.send(Command::Job { call, until, span: tracing::Span::current(), run })?;
        wait(limit, answer).await
    }

    /// Puts a record, together with others that wait. `allowed` is asked on the token's thread, right before.
    pub async fn put(
        &self,
        call: Call,
        request: PutRequest,
        allowed: impl FnOnce() -> Result<(), OpError> + Send + 'static,
    ) -> Result<PutOutcome, OpError> {
        let (reply, answer) = oneshot::channel();
        let until = Instant::now() + call.wait;
        let limit = call.wait;
        let put =
            Put { call, until, span: tracing::Span::current(), request, allowed: Box::new(allowed), reply };
        self.send(Command::Put(Box::new(put)))?;
        wait(limit, answer).await
    }

    /// Gives the token's thread a PIN and waits for what came of it.
    pub async fn unlock(&self, pin: Pin, limit: Duration) -> Result<(), OpError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Unlock { pin, reply })?;
        wait(limit, answer).await
    }

    /// Changes the PIN; the new one is kept in memory until the PIN file has it.
    pub async fn change_pin(&self, old: Pin, new: Pin, limit: Duration) -> Result<(), OpError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::ChangePin { old, new, reply })?;
        wait(limit, answer).await
    }

    /// Initialises a blank token.
    pub async fn initialize(&self, request: Initialize, limit: Duration) -> Result<TokenId, OpError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Initialize { request, reply })?;
        wait(limit, answer).await
    }

    /// Whether a token of this label may be made here: it was named by it, or has it, and holds nothing.
    pub fn may_become(&self, label: &str) -> bool {
        let view = self.view();
        let has_it = view.status.info.as_ref().is_some_and(|info| info.label == label);
        match view.status.state {
            State::Blank => has_it || self.label.as_deref() == Some(label),
            State::Absent => self.label.as_deref() == Some(label),
            _ => false,
        }
    }

    /// Asks the thread to finish; blocks while its queue is full.
    pub fn stop(&self) {
        drop(self.commands.send(Command::Stop));
    }

    fn send(&self, command: Command) -> Result<(), OpError> {
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => OpError::new(
                Kind::Busy,
                None,
                "the token is busy with earlier calls; nothing was started, try again",
            ),
            TrySendError::Disconnected(_) => OpError::new(
                Kind::Unknown,
                Some(Reason::TokenUnhealthy),
                "the agent is stopping; nothing was started",
            ),
        })
    }
}

async fn wait<T>(limit: Duration, answer: oneshot::Receiver<Result<T, OpError>>) -> Result<T, OpError> {
    let unknown = |message: &str| Err(OpError::new(Kind::Unknown, Some(Reason::TokenUnhealthy), message));
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => {
            unknown("the agent stopped during the call; the outcome is unknown, read again before deciding")
        }
        Err(_) => {
            unknown("the token did not answer in time; the outcome is unknown, read again before deciding")
        }
    }
}
