//! The loop of a token's thread: start an epoch, serve, say why it ended, wait, start again.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use hsm_store::Remedy;
use hsm_token::worker::WorkerToken;
use hsm_token::{EpochBudget, Token as _, TokenInfo};
use tokio::sync::{oneshot, watch};

use super::down::{Down, Wake, delay};
use super::handle::{Call, Command, Opened, Run};
use super::{PinSource, Records, State, Status, TokenHandle, View};
use crate::config::Chosen;
use crate::error::{Kind, OpError};
use crate::metrics::Metrics;
use crate::reason::Reason;

/// How many calls may wait for a token.
const QUEUE: usize = 64;

/// What a token's thread is made of.
pub struct ActorConfig {
    /// Which token.
    pub chosen: Chosen,
    /// How often a software token is looked at for changes by others.
    pub poll: Duration,
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
    let handle = TokenHandle { commands, view: view.subscribe() };
    let (ended, end) = oneshot::channel();
    let actor = Actor {
        pin: PinSource::new(config.chosen.pin_file.clone()),
        budget: EpochBudget::default(),
        worker: None,
        logged_in: false,
        stopping: false,
        unlocking: Vec::new(),
        status: Status::default(),
        config,
        queue,
        view,
    };
    std::thread::Builder::new().name("token".to_owned()).spawn(move || {
        actor.run();
        // A panic drops `ended` instead.
        let _ = ended.send(());
    })?;
    Ok((handle, end))
}

pub(super) struct Actor {
    pub(super) config: ActorConfig,
    pub(super) pin: PinSource,
    pub(super) budget: EpochBudget,
    /// Kept between epochs: it counts them.
    pub(super) worker: Option<WorkerToken>,
    /// Whether a login was sent in this epoch.
    pub(super) logged_in: bool,
    pub(super) status: Status,
    stopping: bool,
    unlocking: Vec<oneshot::Sender<Result<(), OpError>>>,
    queue: Receiver<Command>,
    view: watch::Sender<Arc<View>>,
}

impl Actor {
    fn run(mut self) {
        while !self.stopping {
            self.budget.started(Instant::now());
            let began = self.begin();
            let answer = began.as_ref().map(|_| ()).map_err(Down::error);
            for waiting in self.unlocking.drain(..) {
                drop(waiting.send(answer.clone()));
            }
            let down = match began {
                Ok(store) => self.serve(store),
                Err(down) => down,
            };
            self.budget.ended(Instant::now());
            self.publish_down(&down);
            if !self.stopping {
                self.rest(&down);
            }
        }
        // The worker's process ends with its owner.
        drop(self.worker.take());
        tracing::info!("The token was closed.");
    }

    fn serve(&mut self, mut store: Opened) -> Down {
        self.publish_ready(&mut store);
        tracing::info!(
            token_id = %store.token_id(),
            records = store.index().entries().len(),
            epoch = self.status.epoch,
            "The token is open."
        );
        let mut replaced = 0;
        let mut next_poll = Instant::now() + self.config.poll;
        let down = loop {
            let due = match store.settle() {
                Ok(due) => due,
                Err(error) if error.remedy() == Remedy::Retry => Some(Duration::from_millis(500)),
                Err(error) => break Down::from(&error),
            };
            let bytes = store.bytes_replaced();
            self.config.metrics.bytes_replaced.inc_by(bytes.saturating_sub(replaced));
            replaced = bytes;
            let until_poll = next_poll.saturating_duration_since(Instant::now());
            match self.queue.recv_timeout(due.map_or(until_poll, |due| due.min(until_poll))) {
                Ok(Command::Job { call, until, span, run }) => {
                    let _entered = span.enter();
                    store.token().set_request_id(&call.request_id);
                    let over = self.job(&call, until, run, Ok(&mut store));
                    store.token().set_request_id("");
                    if over || store.is_void() {
                        break lost();
                    }
                    self.publish_ready(&mut store);
                }
                Ok(Command::Unlock { reply, .. }) => drop(reply.send(Ok(()))),
                Ok(Command::ChangePin { old, new, reply }) => {
                    let result = self.change_pin(&mut store, &old, &new);
                    let over = result.as_ref().is_err_and(|e| e.ends_epoch);
                    drop(reply.send(result));
                    if over {
                        break lost();
                    }
                }
                Ok(Command::Initialize { reply, .. }) => {
                    let message = "the token holds a store; nothing was changed";
                    drop(reply.send(Err(OpError::new(Kind::Refused, None, message))));
                }
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.stopping = true;
                    break stopping();
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= next_poll {
                next_poll = Instant::now() + self.config.poll;
                if let Err(down) = self.poll(&mut store) {
                    break down;
                }
                self.publish_ready(&mut store);
            }
        };
        self.worker = Some(store.into_token());
        down
    }

    /// Looks for changes by others. A hardware token is ours alone: only whether it is still there is asked.
    fn poll(&self, store: &mut Opened) -> Result<(), Down> {
        let begun = Instant::now();
        let software = self.status.info.as_ref().is_some_and(|i| i.software);
        let result = if software {
            store.refresh().map(drop)
        } else {
            store.token().info().map(drop).map_err(Into::into)
        };
        let word = result.as_ref().map_or_else(|e| OpError::from(e).result(), |()| "ok");
        self.config.metrics.operation("refresh", word, begun.elapsed());
        match result {
            // Others are at work; the next poll sees what they have done.
            Err(error) if error.remedy() == Remedy::Retry => Ok(()),
            other => other.map_err(|e| Down::from(&e)),
        }
    }

    /// Runs a job, or tells its caller that nothing was started. Says whether the epoch is over.
    fn job(&self, call: &Call, until: Instant, run: Run, store: Result<&mut Opened, OpError>) -> bool {
        let begun = Instant::now();
        let store = if begun >= until {
            Err(OpError::new(Kind::Busy, None, "the call waited too long; nothing was started, try again"))
        } else {
            store
        };
        let report = run(store);
        self.config.metrics.operation(call.op, report.result, begun.elapsed());
        tracing::debug!(op = call.op, result = report.result, "The token answered.");
        report.ends_epoch
    }

    /// Waits until it is time for the next epoch; callers are answered meanwhile.
    fn rest(&mut self, down: &Down) {
        let software = self.status.info.as_ref().is_none_or(|i: &TokenInfo| i.software);
        let next = self.budget.next_start(Instant::now());
        let until = Instant::now() + delay(down, self.logged_in, software, next, self.config.poll);
        let mut next_look = Instant::now() + self.config.poll;
        loop {
            let now = Instant::now();
            if down.wake != Wake::Identity && now >= until {
                return;
            }
            if now >= next_look {
                next_look = now + self.config.poll;
                match down.wake {
                    Wake::NewPin if self.pin.has_new() => return,
                    Wake::Identity if self.identity_came() => return,
                    _ => {}
                }
            }
            let wait = if down.wake == Wake::Identity { next_look } else { next_look.min(until) };
            match self.queue.recv_timeout(wait.saturating_duration_since(now)) {
                Ok(Command::Job { call, until, span, run }) => {
                    let _entered = span.enter();
                    self.job(&call, until, run, Err(down.error()));
                }
                Ok(Command::Unlock { pin, reply }) => {
                    self.pin.give(pin);
                    self.budget.reset();
                    self.unlocking.push(reply);
                    return;
                }
                Ok(Command::ChangePin { reply, .. }) => drop(reply.send(Err(down.error()))),
                Ok(Command::Initialize { request, reply }) => {
                    let made = self.initialize(&request);
                    let done = made.is_ok();
                    drop(reply.send(made));
                    if done {
                        self.budget.reset();
                        return;
                    }
                }
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.stopping = true;
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Whether a blank token has an identity now, or cannot be asked any more.
    fn identity_came(&mut self) -> bool {
        self.worker
            .as_mut()
            .is_none_or(|worker| !matches!(hsm_store::identify(worker), Ok(p) if p.is_absent()))
    }

    fn publish_ready(&mut self, store: &mut Opened) {
        let index = store.index();
        self.status.objects = index.counts().total() as u64;
        self.status.damaged = index.damaged().iter().map(ToString::to_string).collect();
        let damaged = !self.status.damaged.is_empty();
        self.status.state = State::Ready;
        self.status.reason = damaged.then_some(Reason::RecordDamaged);
        self.status.message = if damaged {
            "some objects on the token cannot be read; see damaged".to_owned()
        } else {
            String::new()
        };
        let before = self.view.borrow().records.clone();
        let records = Records::of(store.index(), before.as_deref());
        self.publish(Some(Arc::new(records)));
    }

    fn publish_down(&mut self, down: &Down) {
        let same = (self.status.state, self.status.reason) == (down.state, down.reason);
        self.status.state = down.state;
        self.status.reason = down.reason;
        self.status.message.clone_from(&down.message);
        let reason = down.reason.map_or("", Reason::as_str);
        // The same trouble again is not news.
        if self.stopping || same {
            tracing::debug!(reason, state = ?down.state, detail = down.message, "The token is not served.");
        } else {
            tracing::warn!(reason, state = ?down.state, detail = down.message, "The token is not served.");
        }
        self.publish(None);
    }

    fn publish(&self, records: Option<Arc<Records>>) {
        self.config.metrics.status(&self.status);
        self.view.send_if_modified(|view| {
            let next = View { revision: view.revision + 1, status: self.status.clone(), records };
            let news = view.status != next.status || next.since(Some(view)).is_some();
            if news {
                *view = Arc::new(next);
            }
            news
        });
    }
}

fn lost() -> Down {
    let message = "the session with the token ended during a call; it is being opened anew";
    Down::new(State::Unknown, Reason::TokenUnhealthy, message, Wake::Later)
}

fn stopping() -> Down {
    Down::new(State::Unknown, Reason::TokenUnhealthy, "the agent is stopping", Wake::Later)
}
