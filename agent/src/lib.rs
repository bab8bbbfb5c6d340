//! The node agent: owns this node's tokens, and serves them to the controller over mTLS and to a person on the
//! command line. It has no Kubernetes rights and no Kubernetes client.

pub mod actor;
pub mod config;
pub mod error;
pub mod export;
pub mod health;
pub mod hex;
pub mod log;
pub mod metrics;
pub mod random;
pub mod reason;
pub mod run;
pub mod server;
pub mod service;
pub mod state;
pub mod token_cli;
pub mod token_open;
mod worker;

pub use worker::worker_main;
