//! The gRPC server's outside: TLS, who calls, the request's id and limits. Knows nothing of tokens.

mod accept;
mod layer;
mod peer;
mod tls;

pub use accept::incoming;
pub use layer::{CallLayer, RequestId};
pub use peer::{Peer, PeerStream};
pub use tls::{Tls, TlsError};
