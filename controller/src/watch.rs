//! The API server's watches, fed into the index. Each recovers by itself, for ever.

use std::fmt::Debug;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use hsm_api::{HSMDevice, HSMSecret, names};
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, Resource};

use crate::index::{Event, IndexHandle, Scoped, SecretMeta};
use crate::key::ObjectKey;
use crate::metrics::{Metrics, WatchKind};

/// Where events go and are counted.
#[derive(Clone)]
pub(crate) struct Sink {
    /// The index.
    pub index: IndexHandle,
    /// The metrics.
    pub metrics: Arc<Metrics>,
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    namespace.map_or_else(|| Api::all(client.clone()), |ns| Api::namespaced(client.clone(), ns))
}

/// HSMSecrets, whole.
pub(crate) async fn objects(client: Client, namespace: Option<String>, sink: Sink) {
    let stream = watcher(
        api::<DeserializeGuard<HSMSecret>>(&client, namespace.as_deref()),
        watcher::Config::default(),
    );
    let convert = |guard: DeserializeGuard<HSMSecret>| match guard.0 {
        Ok(object) => Some(object),
        Err(invalid) => {
            let name = invalid.metadata.name.unwrap_or_default();
            let namespace = invalid.metadata.namespace.unwrap_or_default();
            tracing::warn!(namespace, name, error = %invalid.error, "an HSMSecret cannot be read; is the CRD newer than this controller?");
            None
        }
    };
    let send = |event| Event::Object(Box::new(event));
    follow(stream, namespace, WatchKind::Object, sink, convert, send).await;
}

/// Metadata of the Secrets that carry our label: never their data.
pub(crate) async fn secrets(client: Client, namespace: Option<String>, sink: Sink) {
    let label = format!("{}={}", names::LABEL_MANAGED, names::MANAGER);
    let stream = watcher(
        api::<PartialObjectMeta<Secret>>(&client, namespace.as_deref()),
        watcher::Config::default().labels(&label),
    );
    let convert = |object: PartialObjectMeta<Secret>| {
        Some((ObjectKey::of(&object.metadata)?, SecretMeta::of(&object.metadata)?))
    };
    follow(stream, namespace, WatchKind::Secret, sink, convert, Event::Secret).await;
}

/// HSMDevices of the controller's namespace.
pub(crate) async fn devices(client: Client, namespace: String, sink: Sink) {
    let stream =
        watcher(api::<DeserializeGuard<HSMDevice>>(&client, Some(&namespace)), watcher::Config::default());
    let convert = |guard: DeserializeGuard<HSMDevice>| match guard.0 {
        Ok(device) => Some(device),
        Err(invalid) => {
            let name = invalid.metadata.name.unwrap_or_default();
            tracing::warn!(name, error = %invalid.error, "an HSMDevice cannot be read; is the CRD newer than this controller?");
            None
        }
    };
    let send = |event| Event::Device(Box::new(event));
    follow(stream, Some(namespace), WatchKind::Device, sink, convert, send).await;
}

async fn follow<K, T>(
    stream: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send,
    scope: Option<String>,
    kind: WatchKind,
    sink: Sink,
    convert: impl Fn(K) -> Option<T> + Send,
    send: impl Fn(Scoped<T>) -> Event + Send,
) where
    K: Resource + Clone + Debug + Send + 'static,
{
    let mut stream = std::pin::pin!(stream.default_backoff());
    while let Some(event) = stream.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(kind = kind.as_str(), error = %brief(&error), "a watch was interrupted; it is taken up again");
                continue;
            }
        };
        sink.metrics.watch_heard(kind);
        let scoped = match event {
            watcher::Event::Init => Some(Scoped::Begin(scope.clone())),
            watcher::Event::InitDone => Some(Scoped::Listed(scope.clone())),
            watcher::Event::Apply(object) | watcher::Event::InitApply(object) => {
                convert(object).map(Scoped::Applied)
            }
            watcher::Event::Delete(object) => convert(object).map(Scoped::Deleted),
        };
        let Some(scoped) = scoped else { continue };
        if sink.index.tell(send(scoped)).await.is_err() {
            return;
        }
    }
}

/// An API error without the whole answer behind it.
fn brief(error: &watcher::Error) -> String {
    use watcher::Error as E;
    let inner = match error {
        E::InitialListFailed(e) | E::WatchStartFailed(e) | E::WatchFailed(e) => e,
        E::WatchError(status) => return status.message.clone(),
        E::NoResourceVersion => return error.to_string(),
    };
    match inner {
        kube::Error::Api(status) if status.code == 404 => {
            "the API server does not know the resource: install the chart's CRDs".to_owned()
        }
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
