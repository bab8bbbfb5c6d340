//! The built program on SoftHSM: command line, mTLS, trouble and recovery.

mod cli;
mod node;
mod pki;
mod serve;
mod trouble;
