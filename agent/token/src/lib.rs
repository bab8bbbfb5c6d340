//! Tokens: the [`Token`] port that the record store works over, and PKCS#11 behind it.
//!
//! The port alone (no features) knows nothing of PKCS#11, so that the store can be tested over memory. The feature
//! `pkcs11` adds the only code in this project that calls a PKCS#11 module, and the worker process around it.

mod budget_file;
mod durable;
mod error;
mod port;
pub mod reader_name;

mod epoch_budget;
#[cfg(feature = "pkcs11")]
mod pin_memory;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
#[cfg(feature = "pkcs11")]
pub mod sc_hsm;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "pkcs11")]
pub mod worker;

pub use epoch_budget::{EpochBudget, FIRST_DELAY, LOGINS_PER_DAY, LONGEST_DELAY, NextStart};
pub use error::{ErrorClass, TokenError};
#[cfg(feature = "pkcs11")]
pub use pin_memory::{Known, PinDigest, PinMemory};
pub use port::{Limits, ObjectHandle, ObjectInfo, Pin, PinFlags, Token, TokenInfo, TokenListing, Visibility};
