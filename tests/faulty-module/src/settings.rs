//! What a machine's tokens are like: `machine.json`. The defaults are a Pico HSM v6.6 through OpenSC 0.27.

use serde::{Deserialize, Serialize};

/// How late a write that was answered is in the flash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settle {
    /// This many milliseconds after its answer.
    Millis(u64),
    /// Only when `Machine::flush` is called (or the card is unplugged through `Machine::unplug`, which waits for it).
    UntilFlush,
}

/// Which OpenSC is between the program and the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpenSc {
    /// A lost login is CKR_SESSION_HANDLE_INVALID; C_Logout and C_Finalize clear the card's login.
    #[serde(rename = "0.23")]
    V0_23,
    /// A lost login shows as a public session; nothing but a SELECT clears the card's login.
    #[serde(rename = "0.27")]
    V0_27,
}

/// The settings of a machine. They are read at C_Initialize; fields that the file lacks have their defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each switches one independent fault")]
pub struct Settings {
    /// Whether every call is written to `calls.log`.
    pub log: bool,
    /// Which OpenSC.
    pub opensc: OpenSc,
    /// How long one APDU takes, in microseconds.
    pub apdu_micros: u64,
    /// How late writes are in the flash.
    pub settle: Settle,
    /// How many file writes the card's cache holds before the oldest is written to the flash.
    pub unflushed_max: usize,
    /// How many objects are listed (each key pair is two); the ones made later are not.
    pub visible_objects: usize,
    /// How many objects (each key pair is two) a card takes; more are CKR_GENERAL_ERROR.
    pub objects_max: usize,
    /// The longest value, in bytes; longer is CKR_GENERAL_ERROR.
    pub value_max: usize,
    /// Labels longer than this many bytes are cut.
    pub label_max: usize,
    /// An object whose label and application have together this many bytes or more is not listed.
    pub description_limit: usize,
    /// The size of the flash that objects share, in bytes.
    pub flash_bytes: u64,
    /// Replacing a value of at least this many bytes leaks flash; `None`: no leak.
    pub leak_from: Option<usize>,
    /// Whether an empty value makes an object that can be neither read nor destroyed; else it is an ordinary one.
    pub empty_value_poisons: bool,
    /// Whether file ids of destroyed objects are given again; else a stale handle finds nothing.
    pub reuse_ids: bool,
    /// Whether CKA_APPLICATION is read up to the next zero byte, beyond its length.
    pub application_overread: bool,
    /// Whether C_SetAttributeValue(CKA_VALUE) makes the process's next C_CreateObject abort it.
    pub set_value_poisons: bool,
    /// How many wrong tries lock the user PIN.
    pub pin_tries: u8,
    /// The shortest PIN, in bytes.
    pub pin_min: usize,
    /// The longest PIN, in bytes.
    pub pin_max: usize,
    /// CK_TOKEN_INFO's label; the same on every token.
    pub token_label: String,
    /// CK_TOKEN_INFO's manufacturer.
    pub manufacturer: String,
    /// CK_TOKEN_INFO's model.
    pub model: String,
    /// CK_TOKEN_INFO's serial number; the same on every token.
    pub serial: String,
    /// The firmware's version.
    pub firmware: (u8, u8),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            log: true,
            opensc: OpenSc::V0_27,
            apdu_micros: 0,
            settle: Settle::Millis(1000),
            unflushed_max: 64,
            visible_objects: 126,
            objects_max: 128,
            value_max: 4032,
            label_max: 254,
            description_limit: 480,
            flash_bytes: 1 << 20,
            leak_from: Some(900),
            empty_value_poisons: true,
            reuse_ids: true,
            application_overread: true,
            set_value_poisons: true,
            pin_tries: 3,
            pin_min: 6,
            pin_max: 15,
            token_label: "SmartCard-HSM (UserPIN)".to_owned(),
            manufacturer: "www.CardContact.de".to_owned(),
            model: "PKCS#15 emulated".to_owned(),
            serial: "ESPICOHSMTR".to_owned(),
            firmware: (6, 6),
        }
    }
}
