//! The child: one token, one command after another, until the socket closes.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use super::convert::{path_from, visibility};
use super::frame::{receive, send};
use super::hardening::harden;
use super::messages::{
    Answer, ChangePin, Command, Hello, InitSoftwareToken, Login, Nothing, Open, PROTOCOL, PinText, Point,
    Request, Response, Secret,
};
use crate::pin_memory::PinMemory;
use crate::pkcs11::{BlankSlot, Pkcs11Token, init_software_token, survey};
use crate::{ErrorClass, ObjectHandle, Pin, Token, TokenError};

/// The whole of `hsm-agent token-worker`: serves the socket that the parent passed as standard input, and ends when
/// it closes. Set up tracing (to standard error) before; start nothing else in this process.
///
/// Exit codes: 0 the socket closed, 1 it failed, 2 standard input is not a socket.
pub fn run_child() -> ExitCode {
    let socket = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(fd) => UnixStream::from(fd),
        Err(error) => {
            tracing::error!(%error, "The token worker has no standard input.");
            return ExitCode::from(2);
        }
    };
    if socket.local_addr().is_err() {
        tracing::error!("The token worker is started by the agent, with a socket as its standard input.");
        return ExitCode::from(2);
    }
    match serve(socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "The socket to the agent failed.");
            ExitCode::FAILURE
        }
    }
}

/// Serves this socket until it closes. Changes the process as a whole (limits, signals, memory locks): call it in a
/// process of its own.
pub fn serve(mut socket: UnixStream) -> io::Result<()> {
    let mut child = Child { refused: harden(), token: None };
    let served = child.converse(&mut socket);
    // Also when the parent has died in the middle of an answer.
    child.leave();
    served
}

struct Child {
    refused: Vec<String>,
    token: Option<Pkcs11Token>,
}

impl Child {
    fn converse(&mut self, socket: &mut UnixStream) -> io::Result<()> {
        while let Some(request) = receive::<Request>(socket)? {
            let response = self.answer(request);
            send(socket, &response)?;
        }
        Ok(())
    }

    fn answer(&mut self, request: Request) -> Response {
        let Request { id, call: request_id, command } = request;
        let operation = command.as_ref().map_or("unknown", name);
        let span = tracing::info_span!("token_command", request_id, operation, epoch = self.epoch());
        let _entered = span.enter();
        let before = self.logins();
        let answer = match command {
            Some(command) => self.perform(command),
            None => Err(TokenError::new(
                ErrorClass::Module,
                operation,
                "a command that this worker does not know",
            )),
        };
        let answer = answer.unwrap_or_else(|error| {
            tracing::info!(class = ?error.class, code = error.code, "The command failed.");
            Answer::Error(error.into())
        });
        tracing::debug!("The command is done.");
        let logins = self.logins().saturating_sub(before);
        Response { id, epoch: self.epoch(), logins, answer: Some(answer) }
    }

    /// Closes the session and finalises the module; then sees to it that the card is not left logged in.
    fn leave(self) {
        #[cfg(feature = "pcsc")]
        let reader = self.token.as_ref().and_then(Pkcs11Token::reader_to_leave);
        drop(self.token);
        #[cfg(feature = "pcsc")]
        if let Some(reader) = reader {
            super::card::leave(reader);
        }
    }

    fn epoch(&self) -> u64 {
        self.token.as_ref().map_or(0, Token::epoch)
    }

    fn logins(&self) -> u64 {
        self.token.as_ref().map_or(0, Pkcs11Token::logins)
    }

    fn token(&mut self) -> Result<&mut Pkcs11Token, TokenError> {
        self.token
            .as_mut()
            .ok_or_else(|| TokenError::new(ErrorClass::SessionLost, "token", "no token is open"))
    }

    fn perform(&mut self, command: Command) -> Result<Answer, TokenError> {
        Ok(match command {
            Command::Hello(Nothing {}) => {
                Answer::Hello(Hello { protocol: PROTOCOL, refused: self.refused.clone() })
            }
            Command::Open(open) => self.open(open)?,
            Command::Info(Nothing {}) => Answer::Info(self.token()?.info()?.into()),
            Command::Login(Login { pin: text, memory }) => {
                self.remember(memory)?;
                self.token()?.login(&pin(text)?)?;
                Answer::Done(Nothing {})
            }
            Command::List(Nothing {}) => Answer::Listing(self.token()?.list()?.into()),
            Command::Read(handle) => Answer::Secret(self.token()?.read(ObjectHandle(handle))?.into()),
            Command::Create(create) => {
                let value = create.value.map(Secret::take).unwrap_or_default();
                let made = self.token()?.create(&create.label, visibility(create.private), &value)?;
                Answer::Handle(made.0)
            }
            Command::Destroy(handle) => {
                self.token()?.destroy(ObjectHandle(handle))?;
                Answer::Done(Nothing {})
            }
            Command::Random(len) => {
                let len = usize::try_from(len).unwrap_or(usize::MAX).min(super::RANDOM_MAX);
                Answer::Secret(self.token()?.random(len)?.into())
            }
            Command::FindKeyPair(label) => {
                Answer::Point(Point { bytes: self.token()?.find_key_pair(&label)? })
            }
            Command::GenerateKeyPair(label) => {
                Answer::Point(Point { bytes: Some(self.token()?.generate_key_pair(&label)?) })
            }
            Command::DestroyKeyPair(label) => {
                self.token()?.destroy_key_pair(&label)?;
                Answer::Done(Nothing {})
            }
            Command::Derive(derive) => {
                Answer::Secret(self.token()?.derive(&derive.label, &derive.peer)?.into())
            }
            Command::ChangePin(ChangePin { old, new, memory }) => {
                self.remember(memory)?;
                self.token()?.change_pin(&pin(old)?, &pin(new)?)?;
                Answer::Done(Nothing {})
            }
            Command::InitSoftwareToken(init) => self.init(init)?,
            Command::StillThere(Nothing {}) => {
                self.token()?.still_there()?;
                Answer::Done(Nothing {})
            }
            Command::Survey(module) => {
                self.alone("survey")?;
                Answer::Survey(survey(&path_from(module))?.into())
            }
            Command::Card(command) => {
                self.alone("card")?;
                super::card::perform(command)?
            }
        })
    }

    /// A module is loaded once in a process.
    fn alone(&self, operation: &'static str) -> Result<(), TokenError> {
        if self.token.is_some() {
            return Err(TokenError::new(ErrorClass::Invalid, operation, "this worker has its token already"));
        }
        Ok(())
    }

    fn open(&mut self, open: Open) -> Result<Answer, TokenError> {
        self.alone("open")?;
        let epoch = open.epoch;
        let mut token = Pkcs11Token::open(&open.into_config(), epoch)?;
        let software = token.info()?.software;
        self.token = Some(token);
        Ok(Answer::Opened(software))
    }

    fn init(&mut self, init: InitSoftwareToken) -> Result<Answer, TokenError> {
        self.alone("init_software_token")?;
        let slot = init.slot.map_or(BlankSlot::First, BlankSlot::Number);
        let (so_pin, pin) = (pin(init.so_pin)?, pin(init.pin)?);
        let info = init_software_token(&path_from(init.module), slot, &init.label, &so_pin, &pin)?;
        Ok(Answer::Info(info.into()))
    }

    /// Reads the memory of failed PINs anew for each try: its file is the truth, also after a person removed it.
    fn remember(&mut self, path: Vec<u8>) -> Result<(), TokenError> {
        if !path.is_empty() {
            let memory = PinMemory::open(&path_from(path))?;
            self.token()?.remember_pins(memory);
        }
        Ok(())
    }
}

pub(super) fn pin(text: Option<PinText>) -> Result<Pin, TokenError> {
    text.map(PinText::take).ok_or_else(|| TokenError::new(ErrorClass::Invalid, "login", "a PIN is missing"))
}

fn name(command: &Command) -> &'static str {
    match command {
        Command::Hello(_) => "hello",
        Command::Open(_) => "open",
        Command::Info(_) => "info",
        Command::Login(_) => "login",
        Command::List(_) => "list",
        Command::Read(_) => "read",
        Command::Create(_) => "create",
        Command::Destroy(_) => "destroy",
        Command::Random(_) => "random",
        Command::FindKeyPair(_) => "find_key_pair",
        Command::GenerateKeyPair(_) => "generate_key_pair",
        Command::DestroyKeyPair(_) => "destroy_key_pair",
        Command::Derive(_) => "derive",
        Command::ChangePin(_) => "change_pin",
        Command::InitSoftwareToken(_) => "init_software_token",
        Command::StillThere(_) => "still_there",
        Command::Survey(_) => "survey",
        Command::Card(card) => super::card::name(card),
    }
}
