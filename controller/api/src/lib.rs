//! The custom resources `HSMSecret` and `HSMDevice`, with their conditions, reasons and labels.

mod reason;

pub use reason::Reason;
