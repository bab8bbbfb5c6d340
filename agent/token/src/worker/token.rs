//! [`WorkerToken`]: the port, with a child process behind it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::config::WorkerConfig;
use super::convert::path_bytes;
use super::keeper::{Keeper, Order, Outcome, Shared, Task};
use super::messages::{Answer, ChangePin, Command, Create, Derive, Login, Nothing, Secret};
use super::opensc_conf::{OpenscConf, OpenscSettings};
use crate::pkcs11::TokenSelector;
use crate::{ErrorClass, Limits, ObjectHandle, Pin, Token, TokenError, TokenInfo, TokenListing, Visibility};

/// The variable by which OpenSC finds its configuration.
const OPENSC_CONF: &str = "OPENSC_CONF";

/// A token that is reached through a worker process, so that a module that hangs or crashes costs one epoch, never
/// the agent.
///
/// - A command past its deadline gives `Unreachable` (outcome unknown); while the worker is still busy with it,
///   everything gives `Busy` (nothing started); past the grace it is killed.
/// - After an error that ends the epoch, or a worker that died, only [`WorkerToken::reopen`], [`Token::info`] and
///   [`Token::login`] start a worker again, with a higher epoch; everything else gives `SessionLost`. So nothing that
///   only a login would show is ever found absent by somebody who has not noticed the new epoch.
/// - Dropping it ends the worker, within twice `deadlines.shutdown`, and leaves no process behind.
pub struct WorkerToken {
    config: WorkerConfig,
    shared: Arc<Shared>,
    orders: Option<Sender<Order>>,
    outcomes: Receiver<Outcome>,
    keeper: Option<JoinHandle<()>>,
    request_id: String,
    next_number: u64,
    /// The order whose caller has left before its outcome came.
    pending: Option<u64>,
    /// The present opensc.conf, where there is one.
    opensc: Option<OpenscConf>,
}

impl WorkerToken {
    /// Prepares a token; no process is started before the first call or [`WorkerToken::reopen`]. The epoch is 0 until
    /// then.
    ///
    /// Errors: `Module` where the system gives no thread.
    pub fn new(config: WorkerConfig) -> Result<Self, TokenError> {
        let shared = Arc::new(Shared::default());
        let (orders, incoming) = channel();
        let (outgoing, outcomes) = channel();
        let keeper = Keeper::new(Arc::clone(&shared));
        let keeper = thread::Builder::new()
            .name("token-keeper".into())
            .spawn(move || keeper.run(&incoming, &outgoing))
            .map_err(|e| {
                TokenError::new(ErrorClass::Module, "open", format!("cannot start a thread: {e}"))
            })?;
        Ok(Self {
            config,
            shared,
            orders: Some(orders),
            outcomes,
            keeper: Some(keeper),
            request_id: String::new(),
            next_number: 1,
            pending: None,
            opensc: None,
        })
    }

    /// [`WorkerToken::new`] and [`WorkerToken::reopen`].
    pub fn open(config: WorkerConfig) -> Result<Self, TokenError> {
        let mut token = Self::new(config)?;
        token.reopen()?;
        Ok(token)
    }

    /// Begins a new epoch: ends the worker in good order, where there is one, and starts a new one (C_Finalize and
    /// C_Initialize). Not logged in. Ask an [`crate::EpochBudget`] first.
    ///
    /// Errors: those of [`crate::pkcs11::Pkcs11Token::open`]; `Busy` while a command is under way.
    pub fn reopen(&mut self) -> Result<(), TokenError> {
        self.settle("open")?;
        self.start("open")
    }

    /// Whether an epoch is under way: a worker runs and has its token open. It may have died since.
    pub fn is_open(&self) -> bool {
        self.shared.running.load(Ordering::Acquire)
    }

    /// The id of the call on whose behalf the next commands are; it is in the worker's log lines.
    pub fn set_request_id(&mut self, request_id: &str) {
        request_id.clone_into(&mut self.request_id);
    }

    /// Replaces the worker's extra environment, from the next epoch on. (OPENSC_CONF is set by
    /// [`WorkerToken::set_opensc`].)
    pub fn set_env(&mut self, env: Vec<(std::ffi::OsString, std::ffi::OsString)>) {
        self.config.worker.env = env;
    }

    /// Replaces what OpenSC is told, from the next epoch on (the readers of this node change as tokens come and go).
    pub fn set_opensc(&mut self, settings: Option<OpenscSettings>) {
        self.config.opensc = settings;
    }

    /// Replaces which token is meant, from the next epoch on (a token that was plugged into another port has another
    /// reader).
    pub fn set_selector(&mut self, token: TokenSelector) {
        self.config.token.token = token;
    }

    /// Where failed PINs are remembered from the next try on; the token's own file, once it is known which token it is.
    pub fn set_pin_memory(&mut self, path: Option<PathBuf>) {
        self.config.pin_memory = path;
    }

    /// How many workers were started after the first.
    pub fn restarts(&self) -> u64 {
        self.shared.restarts.load(Ordering::Acquire)
    }

    /// How many PIN tries were sent to the token since this value was made, right or wrong; refused ones not counted.
    pub fn logins(&self) -> u64 {
        self.shared.logins.load(Ordering::Acquire)
    }

    /// The worker's process id, while there is one.
    pub fn pid(&self) -> Option<u32> {
        u32::try_from(self.shared.pid.load(Ordering::Acquire)).ok().filter(|pid| *pid != 0)
    }

    /// Changes the user PIN, guarded like a login; logs in first where that was not done. What to do when its outcome is
    /// not known: see [`crate::pkcs11::Pkcs11Token::change_pin`].
    pub fn change_pin(&mut self, old: &Pin, new: &Pin) -> Result<(), TokenError> {
        let (old, new) = (Some(old.into()), Some(new.into()));
        let command = Command::ChangePin(ChangePin { old, new, memory: self.memory() });
        self.done(command, "change_pin", self.config.deadlines.write)
    }

    fn memory(&self) -> Vec<u8> {
        self.config.pin_memory.as_deref().map(path_bytes).unwrap_or_default()
    }

    /// The file for the epoch that begins, if there are settings for it.
    fn write_opensc_conf(&mut self) -> Result<Option<PathBuf>, TokenError> {
        let Some(settings) = &self.config.opensc else {
            self.opensc = None;
            return Ok(None);
        };
        if self.opensc.is_none() && std::env::var_os(OPENSC_CONF).is_some() {
            tracing::info!(
                "OPENSC_CONF of the environment is not used for token workers: each has a configuration of its own."
            );
        }
        if self.opensc.as_ref().is_some_and(|conf| conf.path().parent() != Some(&settings.dir)) {
            self.opensc = None;
        }
        let conf = self.opensc.get_or_insert_with(|| OpenscConf::new(&settings.dir));
        conf.write(settings, &self.config.token.token)?;
        Ok(Some(conf.path().to_owned()))
    }

    fn start(&mut self, operation: &'static str) -> Result<(), TokenError> {
        let mut worker = self.config.worker.clone();
        if let Some(path) = self.write_opensc_conf()? {
            // OPENSC_DRIVER would win over the file's card_drivers.
            worker = worker.with_env(OPENSC_CONF, path).with_env("OPENSC_DRIVER", "sc-hsm");
        }
        let task = Task::Start { worker, token: Box::new(self.config.token.clone()) };
        match self.order(task, operation, self.config.deadlines.open)? {
            Answer::Opened(_) => Ok(()),
            _ => Err(unexpected(operation)),
        }
    }

    fn call(
        &mut self,
        command: Command,
        operation: &'static str,
        limit: Duration,
    ) -> Result<Answer, TokenError> {
        self.settle(operation)?;
        if !self.is_open() {
            let first = self.epoch() == 0;
            if !first && !matches!(command, Command::Info(_) | Command::Login(_)) {
                return Err(ended(operation));
            }
            self.start(operation)?;
        }
        self.order(Task::Call(Box::new(command)), operation, limit)
    }

    /// `Busy` while the outcome of an earlier order is still to come; that outcome is discarded.
    fn settle(&mut self, operation: &'static str) -> Result<(), TokenError> {
        while let Some(pending) = self.pending {
            match self.outcomes.try_recv() {
                Ok((number, _)) if number == pending => self.pending = None,
                Ok(_) => {}
                Err(TryRecvError::Empty) => {
                    return Err(TokenError::new(
                        ErrorClass::Busy,
                        operation,
                        "the token is still busy with an earlier command; nothing was started",
                    ));
                }
                Err(TryRecvError::Disconnected) => return Err(keeper_gone(operation)),
            }
        }
        Ok(())
    }

    fn order(&mut self, task: Task, operation: &'static str, limit: Duration) -> Result<Answer, TokenError> {
        let now = Instant::now();
        let number = self.next_number;
        self.next_number += 1;
        let order = Order {
            number,
            operation,
            request_id: self.request_id.clone(),
            kill_at: now + limit + self.config.deadlines.grace,
            deadlines: self.config.deadlines,
            task,
        };
        let sent = self.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok());
        if !sent {
            return Err(keeper_gone(operation));
        }
        let deadline = now + limit;
        loop {
            match self.outcomes.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((done, result)) if done == number => return result,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    self.pending = Some(number);
                    return Err(TokenError::new(
                        ErrorClass::Unreachable,
                        operation,
                        format!("no answer within {limit:?}; the outcome is unknown"),
                    ));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(keeper_gone(operation)),
            }
        }
    }

    fn done(&mut self, command: Command, operation: &'static str, limit: Duration) -> Result<(), TokenError> {
        match self.call(command, operation, limit)? {
            Answer::Done(Nothing {}) => Ok(()),
            _ => Err(unexpected(operation)),
        }
    }

    fn secret(
        &mut self,
        command: Command,
        operation: &'static str,
    ) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        match self.call(command, operation, self.config.deadlines.read)? {
            Answer::Secret(secret) => Ok(secret.take()),
            _ => Err(unexpected(operation)),
        }
    }

    fn point(
        &mut self,
        command: Command,
        operation: &'static str,
        limit: Duration,
    ) -> Result<Option<Vec<u8>>, TokenError> {
        match self.call(command, operation, limit)? {
            Answer::Point(point) => Ok(point.bytes),
            _ => Err(unexpected(operation)),
        }
    }
}

impl Token for WorkerToken {
    fn epoch(&self) -> u64 {
        self.shared.epoch.load(Ordering::Acquire)
    }

    /// Those of hardware until a token was opened: the narrower ones.
    fn limits(&self) -> Limits {
        if self.shared.software.load(Ordering::Acquire) { Limits::SOFTWARE } else { Limits::SC_HSM }
    }

    /// By what was asked for: who gives no [`OpenscSettings`] vouches for it.
    fn alone(&self) -> bool {
        self.config.opensc.as_ref().is_none_or(|settings| settings.exclusive)
    }

    fn info(&mut self) -> Result<TokenInfo, TokenError> {
        match self.call(Command::Info(Nothing {}), "info", self.config.deadlines.read)? {
            Answer::Info(info) => Ok(info.into()),
            _ => Err(unexpected("info")),
        }
    }

    /// Starts no epoch: without one it is `SessionLost`.
    fn still_there(&mut self) -> Result<(), TokenError> {
        if !self.is_open() {
            return Err(ended("still_there"));
        }
        self.done(Command::StillThere(Nothing {}), "still_there", self.config.deadlines.read)
    }

    fn login(&mut self, pin: &Pin) -> Result<(), TokenError> {
        let command = Command::Login(Login { pin: Some(pin.into()), memory: self.memory() });
        self.done(command, "login", self.config.deadlines.read)
    }

    fn list(&mut self) -> Result<TokenListing, TokenError> {
        match self.call(Command::List(Nothing {}), "list", self.config.deadlines.read)? {
            Answer::Listing(listing) => Ok(listing.into()),
            _ => Err(unexpected("list")),
        }
    }

    fn read(&mut self, handle: ObjectHandle) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        self.secret(Command::Read(handle.0), "read")
    }

    fn create(
        &mut self,
        label: &str,
        visibility: Visibility,
        value: &[u8],
    ) -> Result<ObjectHandle, TokenError> {
        let command = Command::Create(Create {
            label: label.to_owned(),
            private: visibility == Visibility::Private,
            value: Some(Secret::from(value)),
        });
        match self.call(command, "create", self.config.deadlines.write)? {
            Answer::Handle(handle) => Ok(ObjectHandle(handle)),
            _ => Err(unexpected("create")),
        }
    }

    fn destroy(&mut self, handle: ObjectHandle) -> Result<(), TokenError> {
        self.done(Command::Destroy(handle.0), "destroy", self.config.deadlines.write)
    }

    /// At most [`super::RANDOM_MAX`] bytes.
    fn random(&mut self, len: usize) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        let bytes = self.secret(Command::Random(len as u64), "random")?;
        if bytes.len() == len {
            return Ok(bytes);
        }
        let message = format!("{len} random bytes are more than the {} of one call", super::RANDOM_MAX);
        Err(TokenError::new(ErrorClass::Invalid, "random", message))
    }

    fn find_key_pair(&mut self, label: &str) -> Result<Option<Vec<u8>>, TokenError> {
        let command = Command::FindKeyPair(label.to_owned());
        self.point(command, "find_key_pair", self.config.deadlines.read)
    }

    fn generate_key_pair(&mut self, label: &str) -> Result<Vec<u8>, TokenError> {
        let command = Command::GenerateKeyPair(label.to_owned());
        self.point(command, "generate_key_pair", self.config.deadlines.key_generation)?
            .ok_or_else(|| unexpected("generate_key_pair"))
    }

    fn destroy_key_pair(&mut self, label: &str) -> Result<(), TokenError> {
        let command = Command::DestroyKeyPair(label.to_owned());
        self.done(command, "destroy_key_pair", self.config.deadlines.write)
    }

    fn derive(&mut self, label: &str, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        let command = Command::Derive(Derive { label: label.to_owned(), peer: peer.to_vec() });
        self.secret(command, "derive")
    }
}

impl Drop for WorkerToken {
    fn drop(&mut self) {
        let _ = self.shared.leave_by.set(Instant::now() + self.config.deadlines.shutdown);
        // The keeper's loop ends with the channel.
        self.orders = None;
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

fn ended(operation: &'static str) -> TokenError {
    TokenError::new(
        ErrorClass::SessionLost,
        operation,
        "the session has ended; nothing was sent, the token has to be opened anew",
    )
}

fn unexpected(operation: &'static str) -> TokenError {
    TokenError::new(ErrorClass::Module, operation, "the token worker gave an answer to another question")
}

fn keeper_gone(operation: &'static str) -> TokenError {
    TokenError::new(
        ErrorClass::Module,
        operation,
        "the thread that keeps the token worker has ended; restart",
    )
}
