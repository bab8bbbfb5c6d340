//! The thread that owns the worker process: starts it, carries one order after another to it, kills it when it hangs.
//!
//! A thread of its own, so that a caller whose deadline has passed can leave while the command is still under way, and
//! because the kernel tells the child of its parent's death by the thread that made it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::config::{Deadlines, WorkerProgram};
use super::frame::Waited;
use super::messages::{Answer, Command, Hello, Nothing, Open, PROTOCOL, Request, Response};
use super::process::Process;
use crate::pkcs11::Pkcs11Config;
use crate::{ErrorClass, TokenError};

/// What the handle can see while the keeper is at work.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) epoch: AtomicU64,
    pub(super) restarts: AtomicU64,
    pub(super) logins: AtomicU64,
    pub(super) pid: AtomicU64,
    pub(super) running: AtomicBool,
    pub(super) software: AtomicBool,
    /// Set once the handle is being dropped: no wait goes beyond it.
    pub(super) leave_by: OnceLock<Instant>,
}

/// One order from the handle.
pub(super) struct Order {
    /// Its number, given back with the outcome.
    pub(super) number: u64,
    pub(super) operation: &'static str,
    pub(super) request_id: String,
    /// When the worker is killed, if it has not answered.
    pub(super) kill_at: Instant,
    pub(super) deadlines: Deadlines,
    pub(super) task: Task,
}

pub(super) enum Task {
    /// End the present worker, if there is one, and start a new one.
    Start { worker: WorkerProgram, token: Box<Pkcs11Config> },
    /// A command to the token that is open.
    Call(Box<Command>),
}

pub(super) type Outcome = (u64, Result<Answer, TokenError>);

/// The keeper's own state.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    process: Option<Process>,
    started: bool,
    /// What the workers so far could not protect, as it was said: once, not with every start.
    unprotected: Vec<String>,
    next_id: u64,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, process: None, started: false, unprotected: Vec::new(), next_id: 1 }
    }

    /// Works until the handle is gone, then ends the worker.
    pub(super) fn run(mut self, orders: &Receiver<Order>, outcomes: &Sender<Outcome>) {
        let mut shutdown = Duration::ZERO;
        while let Ok(order) = orders.recv() {
            shutdown = order.deadlines.shutdown;
            let number = order.number;
            let result = self.carry_out(order);
            // Nobody listens any more only when the handle is gone, and then `recv` ends the loop.
            let _ = outcomes.send((number, result));
        }
        self.end(shutdown);
    }

    fn carry_out(&mut self, order: Order) -> Result<Answer, TokenError> {
        let Order { operation, request_id, kill_at, deadlines, task, .. } = order;
        let due = Due { operation, request_id, kill_at, shutdown: deadlines.shutdown };
        match task {
            Task::Call(command) => {
                let result = self.exchange(*command, &due);
                if result.as_ref().is_err_and(TokenError::ends_epoch) {
                    // What it has read is void, and a module recovers only by a fresh C_Initialize.
                    self.end(deadlines.shutdown);
                }
                result
            }
            Task::Start { worker, token } => {
                self.end(deadlines.shutdown);
                self.launch(&worker, &due)?;
                let epoch = self.shared.epoch.load(Ordering::Acquire) + 1;
                self.shared.epoch.store(epoch, Ordering::Release);
                if std::mem::replace(&mut self.started, true) {
                    self.shared.restarts.fetch_add(1, Ordering::AcqRel);
                }
                match self.exchange(Command::Open(Open::new(&token, epoch)), &due) {
                    Ok(Answer::Opened(software)) => {
                        self.shared.software.store(software, Ordering::Release);
                        self.shared.running.store(true, Ordering::Release);
                        Ok(Answer::Opened(software))
                    }
                    other => {
                        self.end(deadlines.shutdown);
                        other
                    }
                }
            }
        }
    }

    fn launch(&mut self, worker: &WorkerProgram, due: &Due) -> Result<(), TokenError> {
        let trouble = |message: String| TokenError::new(ErrorClass::Module, due.operation, message);
        let process = Process::start(worker).map_err(|e| {
            trouble(format!("the token worker {} cannot be started: {e}", worker.program.display()))
        })?;
        self.shared.pid.store(u64::from(process.pid()), Ordering::Release);
        self.process = Some(process);
        let answer = self.exchange(Command::Hello(Nothing {}), due);
        if let Ok(Answer::Hello(Hello { protocol: PROTOCOL, refused })) = answer {
            if !refused.is_empty() && self.unprotected != refused {
                tracing::warn!(
                    refused = refused.join("; "),
                    "The token worker could not protect itself fully."
                );
                self.unprotected = refused;
            }
            return Ok(());
        }
        self.end(due.shutdown);
        answer.and_then(|_| {
            Err(trouble(format!(
                "{} is not the token worker of this version; was the program replaced? Restart the agent",
                worker.program.display()
            )))
        })
    }

    /// One command and its answer. Without an answer in time the worker is killed; the outcome is then unknown.
    fn exchange(&mut self, command: Command, due: &Due) -> Result<Answer, TokenError> {
        let id = self.next_id;
        self.next_id += 1;
        let operation = due.operation;
        let login = matches!(command, Command::Login(_) | Command::ChangePin(_));
        let request = Request { id, call: due.request_id.clone(), command: Some(command) };
        let Some(process) = self.process.as_mut() else {
            return Err(gone(operation, "no token worker is running; nothing was sent"));
        };
        if process.send(&request, due.left(&self.shared)).is_err() {
            self.kill();
            return Err(gone(operation, "the token worker had ended; nothing was sent"));
        }
        // Wiped here, not when the answer comes.
        drop(request);
        let shared = Arc::clone(&self.shared);
        match process.receive(id, || due.at(&shared)) {
            Waited::Message(response) => self.answered(response, operation),
            waited => {
                if login {
                    // It may have reached the token.
                    self.shared.logins.fetch_add(1, Ordering::AcqRel);
                }
                let message = match waited {
                    Waited::TimedOut => {
                        "the token worker did not answer and was killed; the outcome is unknown"
                    }
                    _ => "the token worker ended during the command; the outcome is unknown",
                };
                tracing::warn!(operation, request_id = due.request_id, message);
                self.kill();
                Err(TokenError::new(ErrorClass::Unreachable, operation, message))
            }
        }
    }

    fn answered(&mut self, response: Response, operation: &'static str) -> Result<Answer, TokenError> {
        let Response { epoch, logins, answer, .. } = response;
        self.shared.epoch.fetch_max(epoch, Ordering::AcqRel);
        self.shared.logins.fetch_add(logins, Ordering::AcqRel);
        match answer {
            Some(Answer::Error(failure)) => Err(failure.into_error(operation)),
            Some(answer) => Ok(answer),
            None => Err(TokenError::new(ErrorClass::Module, operation, "the token worker gave no answer")),
        }
    }

    /// Ends the worker in good order.
    fn end(&mut self, limit: Duration) {
        self.shared.running.store(false, Ordering::Release);
        if let Some(process) = self.process.take() {
            process.shut_down(limit);
        }
        self.shared.pid.store(0, Ordering::Release);
    }

    fn kill(&mut self) {
        self.end(Duration::ZERO);
    }
}

fn gone(operation: &'static str, message: &str) -> TokenError {
    TokenError::new(ErrorClass::SessionLost, operation, message)
}

/// What all steps of one order have in common.
struct Due {
    operation: &'static str,
    request_id: String,
    kill_at: Instant,
    shutdown: Duration,
}

impl Due {
    /// When the worker is killed; sooner once the handle is leaving.
    fn at(&self, shared: &Shared) -> Instant {
        shared.leave_by.get().map_or(self.kill_at, |leave_by| self.kill_at.min(*leave_by))
    }

    fn left(&self, shared: &Shared) -> Duration {
        self.at(shared).saturating_duration_since(Instant::now())
    }
}
