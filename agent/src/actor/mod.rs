//! The token's owner: one thread that holds the worker and the store, and what the rest of the agent sees of it.

mod admit;
mod budget;
mod down;
mod epoch;
mod handle;
mod initialize;
mod peers;
mod pin;
mod publish;
mod puts;
mod rest;
mod thread;
mod view;

pub use handle::{Call, Initialize, TokenHandle};
pub use peers::Peers;
pub use pin::{Owner, PinSource};
pub(crate) use publish::insecure;
pub use thread::{ActorConfig, start};
pub use view::{Change, Entry, Records, State, Status, View};
