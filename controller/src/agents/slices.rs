//! Agents found by the EndpointSlices of their Service: one for each endpoint, named after its node.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, ResourceExt as _};
use tokio::task::{AbortHandle, JoinSet};

use super::{Connector, supervise};
use crate::index::{Event, IndexHandle};

/// Which Service, and which port of its endpoints.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The port on which its endpoints serve.
    pub port: u16,
}

impl std::str::FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(ns, rest)| Some((ns, rest.rsplit_once(':')?)));
        match parts {
            Some((namespace, (name, port))) if !namespace.is_empty() && !name.is_empty() => {
                let port = port.parse().map_err(|_| format!("{port} is not a port"))?;
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned(), port })
            }
            _ => Err("expected NAMESPACE/SERVICE:PORT".to_owned()),
        }
    }
}

/// Follows the slices, for ever; agents come and go with their endpoints.
pub async fn follow(client: Client, service: Service, connector: Connector, index: IndexHandle) {
    let api: Api<EndpointSlice> = Api::namespaced(client, &service.namespace);
    let config = watcher::Config::default().labels(&format!("kubernetes.io/service-name={}", service.name));
    let mut stream = std::pin::pin!(watcher(api, config).default_backoff());
    let mut slices: BTreeMap<String, EndpointSlice> = BTreeMap::new();
    let mut fresh: Option<BTreeMap<String, EndpointSlice>> = None;
    let mut tasks = JoinSet::new();
    let mut running: BTreeMap<(String, String), AbortHandle> = BTreeMap::new();
    // Until they are listed, there may be agents that hold anything; after that, those that do not serve are among them.
    let unlisted = format!("of {}/{}", service.namespace, service.name);
    let mut listed = false;
    if index.tell(Event::AgentAdded(unlisted.clone())).await.is_err() {
        return;
    }
    while let Some(event) = stream.next().await {
        match event {
            Err(error) => {
                tracing::warn!(error = %error, "the watch of the agents' endpoints was interrupted");
                continue;
            }
            Ok(watcher::Event::Init) => fresh = Some(BTreeMap::new()),
            Ok(watcher::Event::InitApply(slice)) => {
                fresh.get_or_insert_default().insert(slice.name_any(), slice);
            }
            Ok(watcher::Event::InitDone) => slices = fresh.take().unwrap_or_default(),
            Ok(watcher::Event::Apply(slice)) => {
                slices.insert(slice.name_any(), slice);
            }
            Ok(watcher::Event::Delete(slice)) => {
                slices.remove(&slice.name_any());
            }
        }
        if fresh.is_some() {
            continue;
        }
        for name in slices.values().flat_map(endpoints).map(|(name, _)| name) {
            if index.tell(Event::AgentAdded(name)).await.is_err() {
                return;
            }
        }
        if !std::mem::replace(&mut listed, true)
            && index.tell(Event::AgentRemoved(unlisted.clone())).await.is_err()
        {
            return;
        }
        let wanted = agents(slices.values(), service.port);
        let gone: Vec<(String, String)> =
            running.keys().filter(|(name, url)| wanted.get(name) != Some(url)).cloned().collect();
        for key in gone {
            if let Some(task) = running.remove(&key) {
                task.abort();
            }
            // A pod that was replaced is the same agent at another address: its tokens stay known, as unreachable.
            let event = if wanted.contains_key(&key.0) {
                Event::AgentLost(key.0, "its pod was replaced".to_owned())
            } else {
                Event::AgentLost(key.0, "it has no endpoint; is its pod running?".to_owned())
            };
            if index.tell(event).await.is_err() {
                return;
            }
        }
        for (name, url) in wanted {
            let (connector, index) = (connector.clone(), index.clone());
            running
                .entry((name.clone(), url.clone()))
                .or_insert_with(|| tasks.spawn(supervise(name, url, connector, index)));
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// Every endpoint by the name of its agent, with its address while it serves.
fn endpoints(slice: &EndpointSlice) -> impl Iterator<Item = (String, Option<&String>)> {
    slice.endpoints.iter().flatten().filter_map(|endpoint| {
        let address = endpoint.addresses.first()?;
        let serves = endpoint.conditions.as_ref().and_then(|c| c.serving.or(c.ready)).unwrap_or(true);
        let name = endpoint.node_name.clone().unwrap_or_else(|| address.clone());
        Some((name, serves.then_some(address)))
    })
}

fn agents<'a>(slices: impl Iterator<Item = &'a EndpointSlice>, port: u16) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (name, address) in slices.flat_map(endpoints) {
        let Some(address) = address else { continue };
        let host = if address.contains(':') { format!("[{address}]") } else { address.clone() };
        found.insert(name, format!("https://{host}:{port}"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_written_as_namespace_name_port() {
        let service: Service = "sys/agents:9090".parse().unwrap();
        assert_eq!(
            (service.namespace.as_str(), service.name.as_str(), service.port),
            ("sys", "agents", 9090)
        );
        for bad in ["agents:9090", "sys/agents", "/a:1", "a/b:x"] {
            assert!(bad.parse::<Service>().is_err(), "{bad}");
        }
    }

    #[test]
    fn each_serving_endpoint_is_an_agent_named_after_its_node() {
        let slice: EndpointSlice = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "s"}, "addressType": "IPv4", "ports": [],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "nodeName": "node-1", "conditions": {"ready": true}},
                {"addresses": ["fd00::2"], "nodeName": "node-2"},
                {"addresses": ["10.0.0.3"], "nodeName": "node-3", "conditions": {"serving": false}}
            ]
        }))
        .unwrap();
        let found = agents([&slice].into_iter(), 9090);
        assert_eq!(found["node-1"], "https://10.0.0.1:9090");
        assert_eq!(found["node-2"], "https://[fd00::2]:9090");
        assert_eq!(found.len(), 2);
        // One that does not serve is an agent all the same: what it holds is unknown, not absent.
        let names: Vec<String> = endpoints(&slice).map(|(name, _)| name).collect();
        assert_eq!(names, ["node-1", "node-2", "node-3"]);
    }
}
