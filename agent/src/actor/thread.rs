//! The loop of a token's thread: start an epoch, serve, say why it ended, wait, start again.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use hsm_store::Remedy;
use hsm_token::pkcs11::TokenSelector;
use hsm_token::worker::WorkerToken;
use hsm_token::{EpochBudget, ErrorClass, NextStart, Token as _, TokenInfo};
use hsm_types::Presence;
use tokio::sync::{oneshot, watch};

use super::down::{Down, Wake, delay};
use super::handle::{Call, Command, Opened, Run};
use super::peers::Sighting;
use super::{Owner, Peers, PinSource, Records, State, Status, TokenHandle, View};
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
        budget: EpochBudget::default(),
        worker: None,
        logged_in: false,
        stopping: false,
        unlocking: Vec::new(),
        status: Status::default(),
        seen: None,
        blank: None,
        refused_key: None,
        next: None,
        replaced: 0,
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
    pub(super) budget: EpochBudget,
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
    /// A command that was taken from the queue too early.
    next: Option<Command>,
    /// Bytes replaced in earlier epochs.
    replaced: u64,
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
            self.pin.try_is_over();
            let answer = began.as_ref().map(|_| ()).map_err(Down::error);
            for waiting in self.unlocking.drain(..) {
                drop(waiting.send(answer.clone()));
            }
            let end = match began {
                Ok(store) => self.serve(store),
                Err(down) => End::Down(down),
            };
            // On hardware the waits are for what wears: epochs that logged in.
            if self.logged_in || self.status.info.as_ref().is_none_or(|info| info.software) {
                self.budget.ended(Instant::now());
            }
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
        let end = loop {
            let due = match store.settle() {
                Ok(due) => due,
                Err(error) if error.remedy() == Remedy::Retry => Some(Duration::from_millis(500)),
                Err(error) => break End::Down(Down::from(&error)),
            };
            let until_poll = next_poll.saturating_duration_since(Instant::now());
            match self.take(due.map_or(until_poll, |due| due.min(until_poll))) {
                Ok(command) => match self.perform(command, &mut store) {
                    Some(down) => break End::Down(down),
                    None => self.publish_ready(&mut store),
                },
                Err(RecvTimeoutError::Disconnected) => {
                    self.stopping = true;
                    break End::Down(stopping());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            if now >= next_poll {
                next_poll = now + self.config.poll;
                if let Err(down) = self.poll(&mut store) {
                    break End::Down(down);
                }
                self.publish_ready(&mut store);
                let affordable = || self.budget.next_start(now) != NextStart::Exhausted;
                if reread.is_some_and(|at| now >= at) && affordable() {
                    break End::Reread;
                }
            }
        };
        self.replaced = self.status.bytes_replaced;
        self.worker = Some(store.into_token());
        end
    }

    /// Does what is asked of the open token. Says why the epoch is over, where it is.
    fn perform(&mut self, command: Command, store: &mut Opened) -> Option<Down> {
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
    fn take(&mut self, wait: Duration) -> Result<Command, RecvTimeoutError> {
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

    fn software(&self) -> bool {
        self.status.info.as_ref().is_some_and(|i| i.software)
    }

    /// Looks for changes by others. On hardware only whether the session is what it was is asked: no login, no value,
    /// no write. A software token is listed.
    fn poll(&self, store: &mut Opened) -> Result<(), Down> {
        let begun = Instant::now();
        let result = if self.software() {
            store.refresh().map(drop).and_then(|()| self.still_the_same(store))
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
    fn job(&self, call: &Call, until: Instant, run: Run, store: Result<&mut Opened, OpError>) -> bool {
        let begun = Instant::now();
        let store = if begun >= until { Err(too_late()) } else { store };
        let report = run(store);
        self.config.metrics.operation(call.op, report.result, begun.elapsed());
        tracing::debug!(op = call.op, result = report.result, "The token answered.");
        report.ends_epoch
    }

    /// Waits until it is time for the next epoch; callers are answered meanwhile.
    fn rest(&mut self, down: &Down) {
        let next = self.budget.next_start(Instant::now());
        let until = Instant::now() + delay(down.wake, next, self.config.poll);
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
                    Wake::Admission if self.refusal_is_old() => return,
                    Wake::Identity if self.identity_came() => return,
                    Wake::Later => {}
                    // It waits for something else, and may be taken away meanwhile.
                    _ if self.is_gone() => return,
                    _ => {}
                }
            }
            let wait = if down.wake == Wake::Identity { next_look } else { next_look.min(until) };
            match self.take(wait.saturating_duration_since(now)) {
                Ok(Command::Put(put)) => drop(self.puts(*put, Err(down.error()))),
                Ok(Command::Job { call, until, span, run }) => {
                    let _entered = span.enter();
                    self.job(&call, until, run, Err(down.error()));
                }
                Ok(Command::Unlock { reply, .. }) if down.wake == Wake::Admission => {
                    // Not kept either: it is for a token that may not have it.
                    drop(reply.send(Err(down.error())));
                }
                Ok(Command::Unlock { pin, reply }) => {
                    self.pin.give(pin, self.unlocked());
                    self.person_acted();
                    self.unlocking.push(reply);
                    return;
                }
                Ok(Command::ChangePin { reply, .. }) => drop(reply.send(Err(down.error()))),
                Ok(Command::Initialize { request, reply }) => {
                    let made = self.initialize(&request);
                    let done = made.is_ok();
                    drop(reply.send(made));
                    if done {
                        self.person_acted();
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

    /// Whose a PIN is that comes now: that of the token which is there, or was last.
    fn unlocked(&self) -> Option<Owner> {
        match &self.seen {
            Some(seen) => Some(Owner { token_id: Some(seen.token_id), tie: seen.tie.clone() }),
            None => self.pin.owner().filter(|owner| owner.token_id.is_none()).cloned(),
        }
    }

    /// Waits and budgets are over: somebody is there.
    fn person_acted(&mut self) {
        self.budget.reset();
        self.blank = None;
    }

    /// Whether the token that waits is no longer there, or is another one by now. One that cannot be asked for a
    /// moment is not gone.
    fn is_gone(&mut self) -> bool {
        let info = self.status.info.clone().unwrap_or_default();
        let Some(worker) = self.worker.as_mut() else { return false };
        if !worker.is_open() {
            // No login: that wears nothing.
            return worker.reopen().is_err_and(|error| error.class == ErrorClass::TokenAbsent);
        }
        let answer = match (&self.seen, info.software) {
            (Some(seen), true) => match identify(&self.config.chosen, &info, worker) {
                Ok(now) => return now != Presence::Present(seen.token_id),
                Err(hsm_store::StoreError::Token(error)) => Err(error),
                Err(_) => Ok(()),
            },
            _ => worker.still_there(),
        };
        answer.is_err_and(|error| error.class != ErrorClass::Busy)
    }

    /// Whether a blank token has an identity now. A new epoch has to tell where the view is that of its start.
    fn identity_came(&mut self) -> bool {
        let info = self.status.info.clone().unwrap_or_default();
        let chosen = &self.config.chosen;
        let still_none = |worker| matches!(identify(chosen, &info, worker), Ok(p) if p.is_absent());
        self.worker.as_mut().is_none_or(|worker| !info.software || !still_none(worker))
    }

    fn publish_ready(&mut self, store: &mut Opened) {
        let bytes = self.replaced + store.bytes_replaced();
        self.config.metrics.bytes_replaced.inc_by(bytes.saturating_sub(self.status.bytes_replaced));
        self.status.bytes_replaced = bytes;
        self.status.pending = store.pending() as u64;
        let index = store.index();
        self.status.history = index.entries().values().map(|entry| entry.history.len() as u64).sum();
        self.status.objects = index.counts().total() as u64;
        self.status.damaged = index.damaged().iter().map(ToString::to_string).collect();
        self.status.state = State::Ready;
        let (reason, message) = remark(&self.status);
        (self.status.reason, self.status.message) = (reason, message.to_owned());
        let before = self.view.borrow().records.clone();
        let records = Records::of(store.index(), before.as_deref());
        self.publish(Some(Arc::new(records)));
    }

    fn publish_down(&mut self, down: &Down) {
        let same = (self.status.state, self.status.reason) == (down.state, down.reason);
        self.status.state = down.state;
        self.status.reason = down.reason;
        match down.state {
            State::Absent => self.config.peers.sees(self.config.place, None),
            _ => self.config.peers.has_looked(self.config.place),
        }
        if down.disputed {
            self.status.token_id = None;
        }
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

    fn publish(&mut self, records: Option<Arc<Records>>) {
        let told = self.view.borrow().status.token_id;
        if let Some(other) = told.filter(|id| self.status.token_id != Some(*id)) {
            self.config.metrics.forget(other);
        }
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

/// How an epoch ended.
enum End {
    /// For this reason.
    Down(Down),
    /// As planned: the records are to be read anew.
    Reread,
}

/// The first firmware of a Pico HSM that does not give private objects to a raw read without PIN.
const SECURE_FIRMWARE: (u32, u32) = (6, 6);

/// What a person has to be told of a token that serves.
fn remark(status: &Status) -> (Option<Reason>, &'static str) {
    if !status.damaged.is_empty() {
        return (Some(Reason::RecordDamaged), "some objects on the token cannot be read; see damaged");
    }
    if status.info.as_ref().is_some_and(insecure) {
        let message = "the firmware of this Pico HSM is older than 6.6: it gives private objects to whoever reads it \
                       raw, without a PIN. The records are encrypted all the same; update the firmware";
        return (Some(Reason::FirmwareInsecure), message);
    }
    (None, "")
}

/// A Pico HSM whose firmware is known, and too old. Its serial is the same on all of them (TOKEN.md).
pub(crate) fn insecure(info: &TokenInfo) -> bool {
    let version = info
        .firmware
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?)));
    info.serial.starts_with("ESPICOHSM") && version.is_some_and(|v| v != (0, 0) && v < SECURE_FIRMWARE)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_firmware_of_a_pico_is_said_and_nobody_elses() {
        let info = |serial: &str, firmware: &str| TokenInfo {
            serial: serial.into(),
            firmware: firmware.into(),
            ..TokenInfo::default()
        };
        for (firmware, old) in
            [("5.6", true), ("6.2", true), ("6.6", false), ("6.10", false), ("0.0", false), ("", false)]
        {
            assert_eq!(insecure(&info("ESPICOHSMTR", firmware)), old, "{firmware}");
        }
        assert!(!insecure(&info("DENK0100751", "3.5")));
        let status = Status { info: Some(info("ESPICOHSMTR", "5.6")), ..Status::default() };
        assert_eq!(remark(&status).0, Some(Reason::FirmwareInsecure));
        let damaged = Status { damaged: vec!["x".into()], ..status };
        assert_eq!(remark(&damaged).0, Some(Reason::RecordDamaged));
    }
}
