//! The port: what the record store asks of a token.
//!
//! Calls block; one owner makes them one after another. An implementation gives no promise about what it read in an
//! earlier epoch: when [`Token::epoch`] has moved, every handle and everything derived from them is void.

use std::time::Duration;

use zeroize::Zeroizing;

use crate::TokenError;

/// A PIN; wiped when dropped, and never shown.
pub struct Pin(Zeroizing<String>);

impl Pin {
    /// Takes the text as it was read from its file; one trailing line end is cut.
    pub fn new(text: String) -> Self {
        let text = Zeroizing::new(text);
        let cut = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
        Self(Zeroizing::new(cut.to_owned()))
    }

    /// Takes the text as it is. (Named apart from [`Pin::new`], which is for files.)
    pub fn exactly(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The PIN in clear.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// A second copy, which is wiped on its own.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Names an object within one epoch, nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectHandle(pub u64);

/// Whether an object needs a login to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// Listed and read without login.
    Public,
    /// Listed and read after login.
    Private,
}

/// A data object (CKO_DATA) as a listing shows it, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its handle in this epoch.
    pub handle: ObjectHandle,
    /// CKA_LABEL; readable by anyone who holds the token. Empty where there is none, or it cannot be read.
    pub label: String,
    /// CKA_APPLICATION; empty where there is none.
    pub application: String,
    /// CKA_PRIVATE.
    pub visibility: Visibility,
}

/// Everything on the token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenListing {
    /// The data objects, all of them.
    pub data: Vec<ObjectInfo>,
    /// How many other objects there are (keys, certificates); they count against the limit.
    pub others: usize,
}

/// The PIN flags of CK_TOKEN_INFO (PKCS#11 3.1, section 3.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of CK_TOKEN_INFO are independent of each other")]
pub struct PinFlags {
    /// CKF_USER_PIN_COUNT_LOW: a wrong try was made since the last good login.
    pub count_low: bool,
    /// CKF_USER_PIN_FINAL_TRY: one try is left.
    pub final_try: bool,
    /// CKF_USER_PIN_LOCKED: no try is left.
    pub locked: bool,
    /// CKF_USER_PIN_INITIALIZED: a user PIN is set.
    pub initialized: bool,
}

/// What a module says of the token. None of it identifies the token (see `TokenId`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenInfo {
    /// The label, trimmed.
    pub label: String,
    /// The manufacturer, trimmed.
    pub manufacturer: String,
    /// The model, trimmed.
    pub model: String,
    /// The PKCS#11 serial, trimmed. The same on every Pico HSM.
    pub serial: String,
    /// The firmware version, `major.minor`.
    pub firmware: String,
    /// The slot's description (for PC/SC, the reader's name).
    pub slot_description: String,
    /// The slot's number in this epoch.
    pub slot: u64,
    /// The PIN flags.
    pub pin: PinFlags,
    /// Whether this is a software token (changes by others show at once, nothing wears out).
    pub software: bool,
}

/// What a kind of token can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Objects that may be at rest after a put, all kinds counted; `None` where there is no limit to speak of.
    pub objects_at_rest: Option<usize>,
    /// Objects that may be there while replacing, deleting and repacking.
    pub objects_in_passing: Option<usize>,
    /// The longest value that an object may have, in bytes.
    pub object_size: usize,
    /// How long after its answer a write may still be on its way to the flash: the old copy stays that long.
    pub settle: Duration,
    /// Objects of up to this many bytes can be replaced for ever; larger ones may leak flash each time.
    pub lasting_size: usize,
    /// Whether changes by others show at the next listing. Where they do not, the view is that of the start of the
    /// epoch and of our own changes, and listing again within an epoch shows nothing new.
    pub live_view: bool,
}

impl Limits {
    /// A Pico HSM or another SmartCard-HSM through OpenSC (126 visible objects, a 2048-byte buffer, late flash).
    pub const SC_HSM: Self = Self {
        objects_at_rest: Some(116),
        objects_in_passing: Some(122),
        object_size: 2000,
        settle: Duration::from_millis(1500),
        lasting_size: 500,
        live_view: false,
    };

    /// A software token (SoftHSM 2).
    pub const SOFTWARE: Self = Self {
        objects_at_rest: None,
        objects_in_passing: None,
        object_size: 2000,
        settle: Duration::ZERO,
        lasting_size: 2000,
        live_view: true,
    };
}

/// One token, blocking, with one owner.
///
/// Every method answers within the implementation's deadline. An error of class [`crate::ErrorClass::Unreachable`]
/// leaves the outcome unknown; [`TokenError::ends_epoch`] says when everything read so far is void.
pub trait Token: Send {
    /// Counts up whenever what was read before may no longer be true (new process, new C_Initialize, new login).
    fn epoch(&self) -> u64;

    /// What the token can hold.
    fn limits(&self) -> Limits;

    /// The token's description and PIN flags. No login, no wear.
    fn info(&mut self) -> Result<TokenInfo, TokenError>;

    /// Whether nobody else reaches the token while this epoch lasts. Where others may, and changes do not show
    /// ([`Limits::live_view`]), a handle may mean another object by now, and neither a listing nor a read tells: only
    /// the start of an epoch is sure.
    fn alone(&self) -> bool {
        true
    }

    /// Whether the session is what it was when it was opened: the cheap question of a poll. Touches no object, wears
    /// nothing (on hardware one APDU). An error that ends the epoch says that somebody started on the token, or that
    /// it went away; `Ok` proves nothing where others may reach the token too.
    fn still_there(&mut self) -> Result<(), TokenError> {
        self.info().map(drop)
    }

    /// Logs in as the user. Costs one flash erase on a Pico HSM: once per epoch, and never with a value known to be
    /// wrong. Refuses with `PinLocked` when the flags say LOCKED or FINAL_TRY, before a try is used.
    fn login(&mut self, pin: &Pin) -> Result<(), TokenError>;

    /// Everything that the token lists: loops until the module has no more. Without login only public objects.
    fn list(&mut self) -> Result<TokenListing, TokenError>;

    /// The whole value of a data object.
    fn read(&mut self, handle: ObjectHandle) -> Result<Zeroizing<Vec<u8>>, TokenError>;

    /// Makes a data object. `value` is 1 to `limits().object_size` bytes, `label` 1 to 200 bytes of ASCII.
    fn create(
        &mut self,
        label: &str,
        visibility: Visibility,
        value: &[u8],
    ) -> Result<ObjectHandle, TokenError>;

    /// Destroys a data object.
    fn destroy(&mut self, handle: ObjectHandle) -> Result<(), TokenError>;

    /// `len` random bytes from the token's generator.
    fn random(&mut self, len: usize) -> Result<Zeroizing<Vec<u8>>, TokenError>;

    /// The public point (65 bytes, uncompressed, SEC 1 section 2.3.3) of the P-256 key pair with this label, if there
    /// is one. Two with one label are an error of class `Module`.
    fn find_key_pair(&mut self, label: &str) -> Result<Option<Vec<u8>>, TokenError>;

    /// Makes a P-256 key pair whose private key never leaves the token and may only derive; gives its public point.
    fn generate_key_pair(&mut self, label: &str) -> Result<Vec<u8>, TokenError>;

    /// Destroys the key pair with this label; both halves, or what is there of them.
    fn destroy_key_pair(&mut self, label: &str) -> Result<(), TokenError>;

    /// ECDH (CKM_ECDH1_DERIVE, CKD_NULL) of the private key with this label and `peer` (65 bytes, uncompressed):
    /// the 32 bytes of the shared x-coordinate.
    fn derive(&mut self, label: &str, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>, TokenError>;
}
