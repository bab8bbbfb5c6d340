//! One socket of ours and the server behind it.

use std::io;
use std::path::{Path, PathBuf};

use hsm_proto::deviceplugin::device_plugin_server::DevicePluginServer;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::course::FileId;
use crate::directory::{identity, socket_at};
use crate::service::Service;

/// A server that listens. Dropping it ends its streams, then its task, and removes its socket.
pub(crate) struct Serving {
    /// Which server it is, of all that this plugin had.
    pub(crate) number: u64,
    /// The socket's file name.
    pub(crate) endpoint: String,
    /// How many ListAndWatch streams are open.
    pub(crate) streams: watch::Receiver<usize>,
    stop: CancellationToken,
    socket: Socket,
}

/// How a server's task ended, and whose it was.
pub(crate) type Ended = (u64, Result<(), tonic::transport::Error>);

impl Serving {
    /// Binds `endpoint` in `directory` and serves it in a task of the set.
    pub(crate) fn start(
        directory: &Path,
        number: u64,
        endpoint: String,
        service: impl FnOnce(watch::Sender<usize>, CancellationToken) -> Service,
        tasks: &mut JoinSet<Ended>,
    ) -> io::Result<Self> {
        let path = directory.join(&endpoint);
        let listener = UnixListener::bind(&path)?;
        let socket = Socket { id: identity(&std::fs::symlink_metadata(&path)?), path };
        let (sender, streams) = watch::channel(0);
        let stop = CancellationToken::new();
        let server = Server::builder().add_service(DevicePluginServer::new(service(sender, stop.clone())));
        let stopped = stop.clone().cancelled_owned();
        let connections = UnixListenerStream::new(listener);
        tasks.spawn(async move { (number, server.serve_with_incoming_shutdown(connections, stopped).await) });
        Ok(Self { number, endpoint, streams, stop, socket })
    }

    /// Whether the socket is still in its directory.
    pub(crate) async fn is_in_place(&self) -> io::Result<bool> {
        Ok(socket_at(&self.socket.path).await?.is_some_and(|file| file.is_file(self.socket.id)))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A socket file that is removed with its owner, unless it is no longer ours.
struct Socket {
    path: PathBuf,
    id: FileId,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|metadata| identity(&metadata).is_file(self.id)) {
            // Nobody is left to hear of a failure; a stale socket goes at the kubelet's next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
