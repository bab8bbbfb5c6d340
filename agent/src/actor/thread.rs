//! The loop of a token's thread: start an epoch, serve, say why it ended, wait, start again.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use hsm_proto::agent::ConfigureRequest;
use hsm_store::{Encryption, Remedy};
use hsm_token::pkcs11::TokenSelector;
use hsm_token::worker::WorkerToken;
use hsm_token::{NextStart, Token as _};
use hsm_types::Presence;
use tokio::sync::{oneshot, watch};

use super::budget::Budget;
use super::down::{Down, Wake};
use super::handle::{Call, Command, Opened, Run};
use super::peers::Sighting;
use super::{Peers, PinSource, State, Status, TokenHandle, View};
use crate::config::Chosen;
use crate::error::{Kind, OpError};
use crate::metrics::Metrics;
use crate::reason::Reason;
use crate::state::Tie;
use crate::token_open::identify;

/// How many calls may wait for a token.
const QUEUE: usize = 64;

/// What a token's thread is made of.
pub struct ActorConfig {
    /// Which token.
    pub chosen: Chosen,
    /// How often a software token is looked at for changes by others.
    pub poll: Duration,
    /// How often the records of a token that others may reach too are read anew; `None` where nobody else can.
    pub reread: Option<Duration>,
    /// How new versions of records are written where no HSMDevice says it of this token.
    pub encryption: Encryption,
    /// What the HSMDevices say.
    pub configured: watch::Receiver<ConfigureRequest>,
    /// The other tokens of this node.
    pub peers: Arc<Peers>,
    /// This token's number among them.
    pub place: usize,
    /// The metrics.
    pub metrics: Arc<Metrics>,
}

/// Starts a token's thread. The receiver gets an answer when the thread ends: nothing but a stop may end it.
pub fn start(config: ActorConfig) -> std::io::Result<(TokenHandle, oneshot::Receiver<()>)> {
    let (commands, queue) = sync_channel(QUEUE);
    let view = watch::Sender::new(Arc::new(View {
        status: Status { message: "the token is being opened".to_owned(), ..Status::default() },
        ..View::default()
    }));
    let label = match &config.chosen.token {
        TokenSelector::Label(label) => Some(label.as_str().into()),
        _ => None,
    };
    let handle = TokenHandle { commands, label, view: view.subscribe() };
    let (ended, end) = oneshot::channel();
    let actor = Actor {
        pin: PinSource::new(config.chosen.pin_file.clone()),
        budget: Budget::new(),
        worker: None,
        logged_in: false,
        stopping: false,
        unlocking: Vec::new(),
        status: Status::default(),
        seen: None,
        blank: None,
        refused_key: None,
        encryption: Encryption::Envelope,
        next: None,
        replaced: 0,
        leaking: 0,
        leaked: 0,
        config,
        queue,
        view,
    };
    std::thread::Builder::new().name(format!("token-{}", actor.config.place)).spawn(move || {
        actor.run();
        // A panic drops `ended` instead.
        let _ = ended.send(());
    })?;
    Ok((handle, end))
}

pub(super) struct Actor {
    pub(super) config: ActorConfig,
    pub(super) pin: PinSource,
    pub(super) budget: Budget,
    /// Kept between epochs: it counts them.
    pub(super) worker: Option<WorkerToken>,
    /// Whether a login was sent in this epoch.
    pub(super) logged_in: bool,
    pub(super) status: Status,
    /// The token that is there, or was there last.
    pub(super) seen: Option<Sighting>,
    /// A hardware token that was found blank after a login, and what was said of it.
    pub(super) blank: Option<(Tie, Down)>,
    /// The pinned fingerprint because of which a token was refused.
    pub(super) refused_key: Option<String>,
    /// How records were written last.
    pub(super) encryption: Encryption,
    /// A command that was taken from the queue too early.
    next: Option<Command>,
    /// Bytes replaced in earlier epochs.
    pub(super) replaced: u64,
    /// Bytes of large objects among all that were replaced so far.
    pub(super) leaking: u64,
    /// The same in earlier epochs.
    pub(super) leaked: u64,
    pub(super) stopping: bool,
    pub(super) unlocking: Vec<oneshot::Sender<Result<(), OpError>>>,
    queue: Receiver<Command>,
    pub(super) view: watch::Sender<Arc<View>>,
}

impl Actor {
    fn run(mut self) {
        while !self.stopping {
            self.budget.started();
            let began = self.begin();
            self.pin.try_is_over();
            let answer = began.as_ref().map(|_| ()).map_err(Down::error);
            for waiting in self.unlocking.drain(..) {
                drop(waiting.send(answer.clone()));
            }
            let end = match began {
                Ok(store) => self.serve(store),
                Err(down) => End::Down(down),
            };
            self.budget.ended(self.logged_in);
            match end {
                // What was told stays until the next epoch replaces it: the session did not fail.
                End::Reread => tracing::info!("The token's records are read anew, as from time to time."),
                End::Down(down) => {
                    self.publish_down(&down);
                    if !self.stopping {
                        self.rest(&down);
                    }
                }
            }
        }
        self.config.peers.sees(self.config.place, None);
        // The worker's process ends with its owner.
        drop(self.worker.take());
        tracing::info!("The token was closed.");
    }

    fn serve(&mut self, mut store: Opened) -> End {
        self.publish_ready(&mut store);
        tracing::info!(
            token_id = %store.token_id(),
            records = store.index().entries().len(),
            epoch = self.status.epoch,
            "The token is open."
        );
        let reread = self.config.reread.filter(|_| !self.software()).map(|every| Instant::now() + every);
        let mut next_poll = Instant::now() + self.config.poll;
        // Whether a step of packing may be worth it: asked after each change, and when the flash has settled.
        let mut pack = true;
        let mut settling = false;
        let end = loop {
            let due = match store.settle() {
                Ok(due) => due,
                Err(error) if error.remedy() == Remedy::Retry => Some(Duration::from_millis(500)),
                Err(error) => break End::Down(Down::from(&error)),
            };
            pack |= settling && due.is_none();
            settling = due.is_some();
            let until_poll = next_poll.saturating_duration_since(Instant::now());
            let idle = if pack { Duration::ZERO } else { due.map_or(until_poll, |due| due.min(until_poll)) };
            match self.take(idle) {
                Ok(command) => {
                    if let Some(down) = self.perform(command, &mut store) {
                        break End::Down(down);
                    }
                    self.publish_ready(&mut store);
                    pack = true;
                }
                // Nobody waits: one step, and then whoever has come meanwhile.
                Err(RecvTimeoutError::Timeout) if pack => {
                    match pack_one(&mut store) {
                        Ok(more) => pack = more,
                        Err(down) => break End::Down(down),
                    }
                    self.publish_ready(&mut store);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.stopping = true;
                    break End::Down(stopping());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            if now >= next_poll {
                next_poll = now + self.config.poll;
                if let Err(down) = self.poll(&mut store).and_then(|()| self.still_admitted()) {
                    break End::Down(down);
                }
                self.publish_ready(&mut store);
                let affordable = || self.budget.next_start() != NextStart::Exhausted;
                if reread.is_some_and(|at| now >= at) && affordable() {
                    break End::Reread;
                }
            }
        };
        self.replaced = self.status.bytes_replaced;
        self.leaked = self.leaking;
        self.worker = Some(store.into_token());
        end
    }

    /// Does what is asked of the open token. Says why the epoch is over, where it is.
    fn perform(&mut self, command: Command, store: &mut Opened) -> Option<Down> {
        store.set_encryption(self.encryption());
        let over = match command {
            Command::Put(put) => self.puts(*put, Ok(&mut *store)),
            Command::Job { call, until, span, run } => {
                let _entered = span.enter();
                store.token().set_request_id(&call.request_id);
                let over = self.job(&call, until, run, Ok(&mut *store));
                store.token().set_request_id("");
                over
            }
            Command::Unlock { reply, .. } => {
                drop(reply.send(Ok(())));
                false
            }
            Command::ChangePin { old, new, reply } => {
                let result = self.change_pin(store, &old, &new);
                let over = result.as_ref().is_err_and(|e| e.ends_epoch);
                drop(reply.send(result));
                over
            }
            Command::Initialize { reply, .. } => {
                let message = "the token holds a store; nothing was changed";
                drop(reply.send(Err(OpError::new(Kind::Refused, None, message))));
                false
            }
            Command::Stop => {
                self.stopping = true;
                return Some(stopping());
            }
        };
        (over || store.is_void()).then(lost)
    }

    /// The next command: one that was put back, or one that comes in time.
    pub(super) fn take(&mut self, wait: Duration) -> Result<Command, RecvTimeoutError> {
        self.next.take().map_or_else(|| self.queue.recv_timeout(wait), Ok)
    }

    /// A command that waits already.
    pub(super) fn waiting(&mut self) -> Option<Command> {
        self.next.take().or_else(|| self.queue.try_recv().ok())
    }

    /// The command is the next one after all.
    pub(super) fn put_back(&mut self, command: Command) {
        self.next = Some(command);
    }

    pub(super) fn software(&self) -> bool {
        self.status.info.as_ref().is_some_and(|i| i.software)
    }

    /// Looks for changes by others. On hardware only whether the session is what it was is asked: no login, no value,
    /// no write. A software token is listed.
    fn poll(&self, store: &mut Opened) -> Result<(), Down> {
        let begun = Instant::now();
        let result = if self.software() {
            let before = store.index().counts();
            store.refresh().and_then(|changed| {
                let same = changed.is_empty() && store.index().counts() == before;
                if same { Ok(()) } else { self.still_the_same(store) }
            })
        } else {
            store.token().still_there().map_err(Into::into)
        };
        let word = result.as_ref().map_or_else(|e| OpError::from(e).result(), |()| "ok");
        self.config.metrics.operation("refresh", word, begun.elapsed());
        match result {
            // Others are at work; the next poll sees what they have done.
            Err(error) if error.remedy() == Remedy::Retry => Ok(()),
            other => other.map_err(|e| Down::from(&e)),
        }
    }

    /// A software token's files can be taken away, or put in the place of another's, under an open session: then its
    /// records have not become absent, and a new epoch has to tell what is there.
    fn still_the_same(&self, store: &mut Opened) -> Result<(), hsm_store::StoreError> {
        let had_identity = self.seen.as_ref().is_some_and(|seen| seen.token_id == store.token_id());
        if !had_identity {
            return Ok(());
        }
        let info = self.status.info.clone().unwrap_or_default();
        match identify(&self.config.chosen, &info, store.token())? {
            Presence::Present(id) if id == store.token_id() => Ok(()),
            _ => Err(hsm_store::StoreError::Void),
        }
    }

    /// Runs a job, or tells its caller that nothing was started. Says whether the epoch is over.
    pub(super) fn job(
        &self,
        call: &Call,
        until: Instant,
        run: Run,
        store: Result<&mut Opened, OpError>,
    ) -> bool {
        let begun = Instant::now();
        let store = if begun >= until { Err(too_late()) } else { store };
        let report = run(store);
        self.config.metrics.operation(call.op, report.result, begun.elapsed());
        tracing::debug!(op = call.op, result = report.result, "The token answered.");
        report.ends_epoch
    }
}

/// How an epoch ended.
enum End {
    /// For this reason.
    Down(Down),
    /// As planned: the records are to be read anew.
    Reread,
}

/// One step of background packing. Says whether more is worth doing now.
fn pack_one(store: &mut Opened) -> Result<bool, Down> {
    match store.repack() {
        Ok(more) => Ok(more),
        Err(error) if error.remedy() == Remedy::Reopen => Err(Down::from(&error)),
        // The next change or the next settled write is time enough.
        Err(error) => {
            tracing::debug!(%error, "The token could not be packed now.");
            Ok(false)
        }
    }
}

/// The caller of a call that waited too long.
pub(super) fn too_late() -> OpError {
    OpError::new(Kind::Busy, None, "the call waited too long; nothing was started, try again")
}

fn lost() -> Down {
    let message = "the session with the token ended during a call; it is being opened anew";
    Down::new(State::Unknown, Reason::TokenUnhealthy, message, Wake::Later)
}

fn stopping() -> Down {
    Down::new(State::Unknown, Reason::TokenUnhealthy, "the agent is stopping", Wake::Later)
}
