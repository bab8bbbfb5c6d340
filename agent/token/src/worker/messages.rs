//! What parent and child say to each other: prost messages, written by hand so that no protoc is needed.
//!
//! Both ends are the same binary, so there is no compatibility to keep; [`PROTOCOL`] catches a binary that was replaced
//! under a running agent. None of these has Debug: a message with a PIN or a value in it cannot be printed.

use zeroize::Zeroize as _;

/// Counts up with every change to the messages.
pub(crate) const PROTOCOL: u32 = 2;

/// One command.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Request {
    /// Given back in the answer.
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    /// The id that the call has in all logs; may be empty.
    #[prost(string, tag = "2")]
    pub(crate) call: String,
    #[prost(
        oneof = "Command",
        tags = "10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27"
    )]
    pub(crate) command: Option<Command>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
#[prost(skip_debug)]
pub(crate) enum Command {
    #[prost(message, tag = "10")]
    Hello(Nothing),
    #[prost(message, tag = "11")]
    Open(Open),
    #[prost(message, tag = "12")]
    Info(Nothing),
    #[prost(message, tag = "13")]
    Login(Login),
    #[prost(message, tag = "14")]
    List(Nothing),
    #[prost(uint64, tag = "15")]
    Read(u64),
    #[prost(message, tag = "16")]
    Create(Create),
    #[prost(uint64, tag = "17")]
    Destroy(u64),
    #[prost(uint64, tag = "18")]
    Random(u64),
    #[prost(string, tag = "19")]
    FindKeyPair(String),
    #[prost(string, tag = "20")]
    GenerateKeyPair(String),
    #[prost(string, tag = "21")]
    DestroyKeyPair(String),
    #[prost(message, tag = "22")]
    Derive(Derive),
    #[prost(message, tag = "23")]
    ChangePin(ChangePin),
    #[prost(message, tag = "24")]
    InitSoftwareToken(InitSoftwareToken),
    #[prost(message, tag = "25")]
    StillThere(Nothing),
    /// The module's path, as the bytes that the system uses.
    #[prost(bytes, tag = "26")]
    Survey(Vec<u8>),
    #[prost(message, tag = "27")]
    Card(Card),
}

/// A command to a card over PC/SC.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Card {
    /// The reader's name; none: the only one.
    #[prost(string, optional, tag = "1")]
    pub(crate) reader: Option<String>,
    #[prost(oneof = "CardCommand", tags = "10, 11, 12, 13, 14")]
    pub(crate) command: Option<CardCommand>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
#[prost(skip_debug)]
pub(crate) enum CardCommand {
    #[prost(message, tag = "10")]
    Readers(Nothing),
    #[prost(message, tag = "11")]
    Status(Nothing),
    #[prost(message, tag = "12")]
    Init(CardPins),
    #[prost(message, tag = "13")]
    Ghosts(Nothing),
    #[prost(message, tag = "14")]
    RepairGhosts(Login),
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct CardPins {
    #[prost(message, optional, tag = "1")]
    pub(crate) so_pin: Option<PinText>,
    #[prost(message, optional, tag = "2")]
    pub(crate) pin: Option<PinText>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Nothing {}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Open {
    /// The module's path, as the bytes that the system uses.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) module: Vec<u8>,
    /// Select by label; by none of these: the only token.
    #[prost(string, optional, tag = "2")]
    pub(crate) label: Option<String>,
    /// Select by slot number.
    #[prost(uint64, optional, tag = "3")]
    pub(crate) slot: Option<u64>,
    /// The number of the epoch that begins.
    #[prost(uint64, tag = "4")]
    pub(crate) epoch: u64,
    /// Select by serial.
    #[prost(string, optional, tag = "5")]
    pub(crate) serial: Option<String>,
    /// Select by reader.
    #[prost(string, optional, tag = "6")]
    pub(crate) reader: Option<String>,
}

/// A PIN; wiped when dropped.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct PinText {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
}

/// A value or a shared secret; wiped when dropped.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Secret {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) bytes: Vec<u8>,
}

impl Drop for PinText {
    fn drop(&mut self) {
        self.text.zeroize();
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Login {
    #[prost(message, optional, tag = "1")]
    pub(crate) pin: Option<PinText>,
    /// Where failed PINs are remembered; empty: only while the child lives.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) memory: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Create {
    #[prost(string, tag = "1")]
    pub(crate) label: String,
    #[prost(bool, tag = "2")]
    pub(crate) private: bool,
    #[prost(message, optional, tag = "3")]
    pub(crate) value: Option<Secret>,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Derive {
    #[prost(string, tag = "1")]
    pub(crate) label: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) peer: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct ChangePin {
    #[prost(message, optional, tag = "1")]
    pub(crate) old: Option<PinText>,
    #[prost(message, optional, tag = "2")]
    pub(crate) new: Option<PinText>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) memory: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct InitSoftwareToken {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) module: Vec<u8>,
    /// The blank slot's number; none: the first one.
    #[prost(uint64, optional, tag = "2")]
    pub(crate) slot: Option<u64>,
    #[prost(string, tag = "3")]
    pub(crate) label: String,
    #[prost(message, optional, tag = "4")]
    pub(crate) so_pin: Option<PinText>,
    #[prost(message, optional, tag = "5")]
    pub(crate) pin: Option<PinText>,
}

/// The answer to one command.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Response {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    /// The epoch after the command; 0 before a token is open.
    #[prost(uint64, tag = "2")]
    pub(crate) epoch: u64,
    /// How many PIN tries this command sent to the token.
    #[prost(uint64, tag = "3")]
    pub(crate) logins: u64,
    #[prost(oneof = "Answer", tags = "10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22")]
    pub(crate) answer: Option<Answer>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
#[prost(skip_debug)]
pub(crate) enum Answer {
    #[prost(message, tag = "10")]
    Error(Failure),
    #[prost(message, tag = "11")]
    Hello(Hello),
    /// Whether the token that was opened is software.
    #[prost(bool, tag = "12")]
    Opened(bool),
    #[prost(message, tag = "13")]
    Info(Info),
    #[prost(message, tag = "14")]
    Listing(Listing),
    #[prost(message, tag = "15")]
    Secret(Secret),
    #[prost(uint64, tag = "16")]
    Handle(u64),
    #[prost(message, tag = "17")]
    Point(Point),
    #[prost(message, tag = "18")]
    Done(Nothing),
    #[prost(message, tag = "19")]
    Survey(Survey),
    #[prost(message, tag = "20")]
    Readers(Readers),
    #[prost(message, tag = "21")]
    CardStatus(CardState),
    #[prost(message, tag = "22")]
    Ghosts(Ghosts),
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Readers {
    #[prost(string, repeated, tag = "1")]
    pub(crate) names: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct CardState {
    #[prost(uint32, tag = "1")]
    pub(crate) version_major: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) version_minor: u32,
    #[prost(bool, tag = "3")]
    pub(crate) transport_pin: bool,
    /// Status words.
    #[prost(uint32, tag = "4")]
    pub(crate) user_pin: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) so_pin: u32,
    #[prost(uint64, tag = "6")]
    pub(crate) files: u64,
}

/// The ghosts that were removed, and those that are there.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Ghosts {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) removed: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) left: Vec<u8>,
}

/// A [`crate::TokenError`]; its operation is known to the one who asked.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Failure {
    #[prost(uint32, tag = "1")]
    pub(crate) class: u32,
    #[prost(string, optional, tag = "2")]
    pub(crate) code: Option<String>,
    #[prost(string, tag = "3")]
    pub(crate) message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Hello {
    #[prost(uint32, tag = "1")]
    pub(crate) protocol: u32,
    /// What the child could not do to protect itself; empty where all was done.
    #[prost(string, repeated, tag = "2")]
    pub(crate) refused: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of CK_TOKEN_INFO are bools")]
pub(crate) struct Info {
    #[prost(string, tag = "1")]
    pub(crate) label: String,
    #[prost(string, tag = "2")]
    pub(crate) manufacturer: String,
    #[prost(string, tag = "3")]
    pub(crate) model: String,
    #[prost(string, tag = "4")]
    pub(crate) serial: String,
    #[prost(string, tag = "5")]
    pub(crate) firmware: String,
    #[prost(string, tag = "6")]
    pub(crate) slot_description: String,
    #[prost(uint64, tag = "7")]
    pub(crate) slot: u64,
    #[prost(bool, tag = "8")]
    pub(crate) count_low: bool,
    #[prost(bool, tag = "9")]
    pub(crate) final_try: bool,
    #[prost(bool, tag = "10")]
    pub(crate) locked: bool,
    #[prost(bool, tag = "11")]
    pub(crate) initialized: bool,
    #[prost(bool, tag = "12")]
    pub(crate) software: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Survey {
    #[prost(message, repeated, tag = "1")]
    pub(crate) tokens: Vec<Seen>,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Seen {
    #[prost(message, optional, tag = "1")]
    pub(crate) info: Option<Info>,
    #[prost(bool, tag = "2")]
    pub(crate) initialized: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Listing {
    #[prost(message, repeated, tag = "1")]
    pub(crate) data: Vec<Object>,
    #[prost(uint64, tag = "2")]
    pub(crate) others: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Object {
    #[prost(uint64, tag = "1")]
    pub(crate) handle: u64,
    #[prost(string, tag = "2")]
    pub(crate) label: String,
    #[prost(string, tag = "3")]
    pub(crate) application: String,
    #[prost(bool, tag = "4")]
    pub(crate) private: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Point {
    #[prost(bytes = "vec", optional, tag = "1")]
    pub(crate) bytes: Option<Vec<u8>>,
}
