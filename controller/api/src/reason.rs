//! Reasons: why a condition has its status. Stable, documented words for people and alerts.

use std::fmt;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Why a condition has its status, or what an Event tells.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Reason {
            /// Every reason, in the order of its declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The word as it stands in conditions and Events.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }
        }
    };
}

reasons! {
    /// Token and Secret are equal.
    SecretSynced,
    /// The Kubernetes Secret was made.
    SecretCreated,
    /// The Kubernetes Secret was changed to follow the token.
    SecretUpdated,
    /// The token was changed to follow the Kubernetes Secret, or the Secret was put back (`syncPolicy`).
    SecretDrift,
    /// A Secret of this name exists that is not ours; nothing was changed.
    AdoptionRefused,
    /// The path belongs to another namespace and no HSMDevice grants it.
    PathForbidden,
    /// The token has no record at this path, or it was deleted there.
    PathNotFound,
    /// The content is larger than a record, or a Secret, can be.
    ValueTooLarge,
    /// The token takes no more objects.
    TokenFull,
    /// No token: it is not plugged in.
    TokenAbsent,
    /// The token is there but cannot be read.
    TokenUnhealthy,
    /// The agent does not answer.
    AgentUnreachable,
    /// No token is eligible for this secret.
    NoEligibleToken,
    /// A mirror became the primary.
    PrimaryFailover,
    /// A mirror does not have the newest version yet.
    MirrorLagging,
    /// Both sides changed the same keys; nothing was overwritten.
    ConflictPending,
    /// A conflict was resolved by policy or by a person.
    ConflictResolved,
    /// The record is rewritten more often than the token should be; writes are coalesced.
    WriteRateHigh,
    /// The token was not admitted: no PIN was given to it.
    TokenNotAdmitted,
    /// The token holds records and cannot be handed out exclusively.
    TokenInUse,
    /// No PIN is there for the token.
    PinMissing,
    /// The token refused the PIN; it is not tried again.
    PinIncorrect,
    /// A wrong PIN was tried on the token by somebody; the agent waits for a person.
    PinTriesLow,
    /// The token's PIN is locked.
    PinLocked,
    /// Two tokens carry one serial.
    DuplicateSerial,
    /// The HSMSecret is being deleted.
    Terminating,
    /// The spec says something that cannot be done.
    InvalidSpec,
    /// A key is not allowed in a Kubernetes Secret.
    InvalidKey,
    /// Somebody paused it with the annotation `hsm.j5t.io/paused`.
    Paused,
    /// The PKCS#11 module failed or cannot be loaded.
    ModuleError,
    /// The token's store key is missing or is not the one that was admitted.
    StoreKeyMissing,
    /// An object on the token is damaged.
    RecordDamaged,
    /// Two tokens carry one TokenId.
    DuplicateToken,
    /// The token's firmware gives private objects away without a PIN.
    FirmwareInsecure,
    /// A field was set that this version does not act on yet.
    FieldNotYetActive,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
