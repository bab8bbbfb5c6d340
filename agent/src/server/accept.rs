//! The accept loop: each handshake in its own task with a time limit, so that a silent client delays nobody.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

use super::{Peer, PeerStream, Tls};

const HANDSHAKE: Duration = Duration::from_secs(10);
const HANDSHAKES_AT_ONCE: usize = 64;

/// Accepts connections until the stream is dropped; gives those whose handshake succeeded. The future is the loop,
/// and ends only with the stream.
pub fn incoming(
    listener: TcpListener,
    tls: Arc<Tls>,
    identity: Arc<str>,
) -> (ReceiverStream<io::Result<PeerStream>>, impl Future<Output = ()> + Send) {
    let (sender, receiver) = mpsc::channel(16);
    (ReceiverStream::new(receiver), accept(listener, tls, identity, sender))
}

async fn accept(
    listener: TcpListener,
    tls: Arc<Tls>,
    identity: Arc<str>,
    sender: mpsc::Sender<io::Result<PeerStream>>,
) {
    let limit = Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE));
    let mut handshakes = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&limit).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            () = sender.closed() => return,
            accepted = listener.accept() => accepted,
        };
        while handshakes.try_join_next().is_some() {}
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, for example: wait instead of spinning.
                tracing::warn!(%error, "A connection could not be accepted.");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let (tls, identity, sender) = (Arc::clone(&tls), Arc::clone(&identity), sender.clone());
        handshakes.spawn(async move {
            match handshake(stream, &tls, &identity).await {
                Ok(stream) => drop(sender.send(Ok(stream)).await),
                Err(error) => tracing::info!(client = %address, %error, "A TLS handshake failed."),
            }
            drop(permit);
        });
    }
}

async fn handshake(stream: TcpStream, tls: &Tls, identity: &str) -> io::Result<PeerStream> {
    stream.set_nodelay(true)?;
    let acceptor = TlsAcceptor::from(tls.config());
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await??;
    let peer = {
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        Peer::of_certificate(certificate.map_or(&[], |c| c.as_ref()), identity)
    };
    Ok(PeerStream::new(stream, peer))
}
