//! The agents: how to reach them, what they say, what is asked of them.

mod client;
mod connect;
mod session;
mod slices;

pub use client::{AgentClient, AgentError, AgentErrorClass, Put, Source};
pub use connect::{Connector, TlsFiles};
pub use session::supervise;
pub use slices::{Service, follow as follow_slices};
