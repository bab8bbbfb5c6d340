//! A small fake kubelet, with the manners of the real one (pkg/kubelet/cm/devicemanager, Kubernetes 1.37): at its
//! start it wipes the sockets in the directory; inside Register it dials the plugin and asks for its options; it
//! refuses a socket path that it is connected to; it follows ListAndWatch and forgets an endpoint whose stream ends.

use std::collections::BTreeSet;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hsm_proto::deviceplugin as wire;
use hsm_proto::deviceplugin::device_plugin_client::DevicePluginClient;
use hsm_proto::deviceplugin::registration_server::{Registration, RegistrationServer};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

/// Only there so that a broken plugin does not hang the tests.
const LONG: Duration = Duration::from_secs(30);

/// What the kubelet went through, in order.
#[derive(Debug)]
pub(crate) enum Event {
    Registered {
        endpoint: String,
        resource: String,
        options: wire::DevicePluginOptions,
    },
    /// The devices of a list, as `id:Health`.
    List {
        endpoint: String,
        devices: Vec<String>,
    },
    StreamEnded {
        endpoint: String,
    },
}

pub(crate) struct Kubelet {
    directory: PathBuf,
    events: mpsc::UnboundedReceiver<Event>,
    sender: mpsc::UnboundedSender<Event>,
    running: Option<Running>,
}

/// One life of the process; dropping it is a crash: connections break, the socket file stays.
struct Running {
    _server: AbortOnDropHandle<()>,
    hang_up: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.hang_up.cancel();
    }
}

impl Kubelet {
    pub(crate) fn new(directory: &Path) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        Self { directory: directory.to_owned(), events, sender, running: None }
    }

    /// Starts, or starts again, refusing the first `refusals` registrations.
    pub(crate) fn start(&mut self, refusals: u32) {
        self.running = None;
        for entry in std::fs::read_dir(&self.directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_socket() {
                // The plugin may have removed it between.
                let _ = std::fs::remove_file(entry.path());
            }
        }
        let listener = UnixListener::bind(self.directory.join("kubelet.sock")).unwrap();
        let hang_up = CancellationToken::new();
        let service = Service {
            directory: self.directory.clone(),
            events: self.sender.clone(),
            refusals: Mutex::new(refusals),
            connected: Arc::default(),
            hang_up: hang_up.clone(),
        };
        let server = Server::builder().add_service(RegistrationServer::new(service));
        let serve = server.serve_with_incoming(UnixListenerStream::new(listener));
        let server = AbortOnDropHandle::new(tokio::spawn(async { serve.await.unwrap() }));
        self.running = Some(Running { _server: server, hang_up });
    }

    /// Dies, leaving its socket file.
    pub(crate) fn crash(&mut self) {
        self.running = None;
    }

    /// Hangs up on every plugin, but lives on.
    pub(crate) fn hang_up(&self) {
        self.running.as_ref().unwrap().hang_up.cancel();
    }

    pub(crate) async fn event(&mut self) -> Event {
        tokio::time::timeout(LONG, self.events.recv()).await.expect("the plugin does something").unwrap()
    }

    /// The next registration's endpoint; other events on the way are dropped.
    pub(crate) async fn registered(&mut self) -> String {
        loop {
            if let Event::Registered { endpoint, .. } = self.event().await {
                return endpoint;
            }
        }
    }

    /// The next list of this endpoint.
    pub(crate) async fn list(&mut self, of: &str) -> Vec<String> {
        loop {
            if let Event::List { endpoint, devices } = self.event().await
                && endpoint == of
            {
                return devices;
            }
        }
    }

    /// Calls the plugin as the kubelet does when it admits a pod.
    pub(crate) async fn dial(&self, endpoint: &str) -> DevicePluginClient<Channel> {
        DevicePluginClient::new(dial(self.directory.join(endpoint)).await.unwrap())
    }
}

struct Service {
    directory: PathBuf,
    events: mpsc::UnboundedSender<Event>,
    refusals: Mutex<u32>,
    connected: Arc<Mutex<BTreeSet<String>>>,
    hang_up: CancellationToken,
}

#[tonic::async_trait]
impl Registration for Service {
    async fn register(
        &self,
        request: Request<wire::RegisterRequest>,
    ) -> Result<Response<wire::Empty>, Status> {
        let wire::RegisterRequest { version, endpoint, resource_name, options } = request.into_inner();
        assert_eq!(version, "v1beta1");
        {
            let mut refusals = self.refusals.lock().unwrap();
            if *refusals > 0 {
                *refusals -= 1;
                return Err(Status::unavailable("not yet"));
            }
        }
        if !self.connected.lock().unwrap().insert(endpoint.clone()) {
            return Err(Status::unknown(format!("device plugin already connected: {endpoint}")));
        }
        // As the kubelet: dial and ask before Register is answered.
        let channel =
            dial(self.directory.join(&endpoint)).await.map_err(|e| Status::unknown(e.to_string()))?;
        let mut plugin = DevicePluginClient::new(channel);
        let asked = plugin.get_device_plugin_options(wire::Empty {}).await?.into_inner();
        assert_eq!(Some(asked), options, "the options of Register are the options of the call");
        let _ = self.events.send(Event::Registered {
            endpoint: endpoint.clone(),
            resource: resource_name,
            options: asked,
        });

        let (events, connected, hang_up) =
            (self.events.clone(), Arc::clone(&self.connected), self.hang_up.clone());
        tokio::spawn(async move {
            let follow = follow(plugin, endpoint.clone(), events.clone());
            hang_up.run_until_cancelled_owned(follow).await;
            connected.lock().unwrap().remove(&endpoint);
            let _ = events.send(Event::StreamEnded { endpoint });
        });
        Ok(Response::new(wire::Empty {}))
    }
}

async fn follow(
    mut plugin: DevicePluginClient<Channel>,
    endpoint: String,
    events: mpsc::UnboundedSender<Event>,
) -> Option<()> {
    let mut lists = plugin.list_and_watch(wire::Empty {}).await.ok()?.into_inner();
    while let Ok(Some(list)) = lists.message().await {
        let devices =
            list.devices.into_iter().map(|device| format!("{}:{}", device.id, device.health)).collect();
        let _ = events.send(Event::List { endpoint: endpoint.clone(), devices });
    }
    Some(())
}

async fn dial(path: PathBuf) -> Result<Channel, tonic::transport::Error> {
    let connect = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connect).await
}
