//! The plugin against a small fake kubelet.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's own helpers fail by panicking"
)]

mod kubelet;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hsm_device_plugin::{
    Allocator, Answer, DeviceId, Health, Plugin, PluginDevice, PluginError, Refusal, Settings,
};
use hsm_proto::deviceplugin as wire;
use kubelet::{Event, Kubelet};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Code;

/// Gives each container the names of its devices; refuses `busy`.
struct Names;

impl Allocator for Names {
    fn allocate(&self, devices: &[DeviceId]) -> Result<Answer, Refusal> {
        let names: Vec<&str> = devices.iter().map(DeviceId::as_str).collect();
        if names.contains(&"busy") {
            return Err(Refusal("the token holds records".to_owned()));
        }
        Ok(Answer { envs: [("HSM_DEVICE_ID".to_owned(), names.join(","))].into(), ..Answer::default() })
    }
}

/// A plugin with its node.
struct Node {
    directory: TempDir,
    kubelet: Kubelet,
    inventory: watch::Sender<Vec<PluginDevice>>,
    shutdown: CancellationToken,
    plugin: JoinHandle<Result<(), PluginError>>,
}

impl Node {
    /// The plugin is up, the kubelet is not.
    fn new(devices: &[(&str, Health)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (inventory, receiver) = watch::channel(list(devices));
        let shutdown = CancellationToken::new();
        let plugin = Plugin::new(settings(directory.path(), "one"), receiver, Arc::new(Names));
        Self {
            kubelet: Kubelet::new(directory.path()),
            plugin: tokio::spawn(plugin.run(shutdown.clone())),
            directory,
            inventory,
            shutdown,
        }
    }

    fn sockets(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    async fn stop(self) -> Result<(), PluginError> {
        self.shutdown.cancel();
        self.plugin.await.unwrap()
    }
}

fn settings(directory: &Path, instance: &str) -> Settings {
    Settings {
        directory: directory.to_owned(),
        poll: Duration::from_millis(50),
        retry: Duration::from_millis(10),
        silence: Duration::from_millis(100),
        ..Settings::new("hsm.j5t.io/pico".parse().unwrap(), instance)
    }
}

fn list(devices: &[(&str, Health)]) -> Vec<PluginDevice> {
    let device =
        |&(id, health): &(&str, Health)| PluginDevice { id: id.parse().unwrap(), health, numa_node: None };
    devices.iter().map(device).collect()
}

fn allocate(containers: &[&[&str]]) -> wire::AllocateRequest {
    let ids = |ids: &&[&str]| wire::ContainerAllocateRequest {
        devices_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
    };
    wire::AllocateRequest { container_requests: containers.iter().map(ids).collect() }
}

#[tokio::test]
async fn a_kubelet_that_comes_later_is_registered_with_and_asks_back() {
    let mut node = Node::new(&[("b", Health::Healthy), ("a", Health::Unhealthy)]);
    node.kubelet.start(0);
    let Event::Registered { endpoint, resource, options } = node.kubelet.event().await else {
        panic!("not a registration")
    };
    assert_eq!(resource, "hsm.j5t.io/pico");
    assert!(options.get_preferred_allocation_available && !options.pre_start_required);
    assert_eq!(node.sockets(), ["kubelet.sock", endpoint.as_str()]);
    assert_eq!(node.kubelet.list(&endpoint).await, ["a:Unhealthy", "b:Healthy"]);
    node.stop().await.unwrap();
}

#[tokio::test]
async fn lists_are_complete_and_sent_only_on_change() {
    let mut node = Node::new(&[("a", Health::Healthy)]);
    node.kubelet.start(0);
    let endpoint = node.kubelet.registered().await;
    assert_eq!(node.kubelet.list(&endpoint).await, ["a:Healthy"]);
    // Said again, in two ways, which is no change; then an unplug and a replug.
    node.inventory.send(list(&[("a", Health::Healthy)])).unwrap();
    node.inventory.send_modify(|_| {});
    node.inventory.send(list(&[("a", Health::Unhealthy), ("b", Health::Healthy)])).unwrap();
    assert_eq!(node.kubelet.list(&endpoint).await, ["a:Unhealthy", "b:Healthy"]);
    node.inventory.send(list(&[("a", Health::Healthy)])).unwrap();
    assert_eq!(node.kubelet.list(&endpoint).await, ["a:Healthy"]);
    node.stop().await.unwrap();
}

#[tokio::test]
async fn a_restarted_kubelet_is_registered_with_again() {
    let mut node = Node::new(&[("a", Health::Healthy)]);
    let mut before = String::new();
    for _ in 0..3 {
        node.kubelet.start(0);
        let endpoint = node.kubelet.registered().await;
        assert_ne!(endpoint, before, "each registration has a socket of its own");
        assert_eq!(node.kubelet.list(&endpoint).await, ["a:Healthy"]);
        before = endpoint;
    }
    assert_eq!(node.sockets(), ["kubelet.sock", before.as_str()]);
    node.stop().await.unwrap();
}

#[tokio::test]
async fn a_kubelet_that_is_down_for_a_while_is_waited_for() {
    let mut node = Node::new(&[("a", Health::Healthy)]);
    node.kubelet.start(0);
    node.kubelet.registered().await;
    node.kubelet.crash();
    // Its socket file is still there, so registrations fail for a while.
    tokio::time::sleep(Duration::from_millis(300)).await;
    node.kubelet.start(2);
    let endpoint = node.kubelet.registered().await;
    assert_eq!(node.kubelet.list(&endpoint).await, ["a:Healthy"]);
    node.stop().await.unwrap();
}

#[tokio::test]
async fn a_broken_stream_and_a_removed_socket_are_mended() {
    let mut node = Node::new(&[("a", Health::Healthy)]);
    node.kubelet.start(0);
    let first = node.kubelet.registered().await;
    node.kubelet.hang_up();
    // Every stream of this life is hung up on at once; the plugin must keep trying, with new sockets.
    let second = node.kubelet.registered().await;
    assert_ne!(first, second);

    node.kubelet.start(0);
    let third = node.kubelet.registered().await;
    node.kubelet.list(&third).await;
    std::fs::remove_file(node.directory.path().join(&third)).unwrap();
    let fourth = node.kubelet.registered().await;
    assert_ne!(third, fourth);
    assert_eq!(
        node.kubelet.list(&fourth).await,
        ["a:Healthy"],
        "the new one is followed before the old one ends"
    );
    node.stop().await.unwrap();
}

#[tokio::test]
async fn only_healthy_devices_of_this_node_are_allocated() {
    let mut node =
        Node::new(&[("a", Health::Healthy), ("sick", Health::Unhealthy), ("busy", Health::Healthy)]);
    node.kubelet.start(0);
    let endpoint = node.kubelet.registered().await;
    let mut plugin = node.kubelet.dial(&endpoint).await;

    let answer = plugin.allocate(allocate(&[&["a"]])).await.unwrap().into_inner();
    assert_eq!(answer.container_responses[0].envs["HSM_DEVICE_ID"], "a");
    for (ids, code, word) in [
        (&["gone"][..], Code::NotFound, "gone"),
        (&["a", "gone"], Code::NotFound, "gone"),
        (&["sick"], Code::FailedPrecondition, "unhealthy"),
        (&["busy"], Code::FailedPrecondition, "the token holds records"),
        (&[], Code::InvalidArgument, "no device"),
    ] {
        let status = plugin.allocate(allocate(&[ids])).await.unwrap_err();
        assert_eq!(status.code(), code, "{ids:?}");
        assert!(status.message().contains(word), "{status}");
    }
    node.inventory.send(Vec::new()).unwrap();
    let status = plugin.allocate(allocate(&[&["a"]])).await.unwrap_err();
    assert_eq!(
        status.code(),
        Code::NotFound,
        "a device that was unplugged is an error, never an empty answer"
    );
    node.stop().await.unwrap();
}

#[tokio::test]
async fn a_preference_is_given() {
    let mut node = Node::new(&[("a", Health::Unhealthy), ("b", Health::Healthy), ("c", Health::Healthy)]);
    node.kubelet.start(0);
    let endpoint = node.kubelet.registered().await;
    let mut plugin = node.kubelet.dial(&endpoint).await;
    let ask = |allocation_size| wire::PreferredAllocationRequest {
        container_requests: vec![wire::ContainerPreferredAllocationRequest {
            available_device_i_ds: ["a", "b", "c"].map(str::to_owned).to_vec(),
            must_include_device_i_ds: vec!["c".to_owned()],
            allocation_size,
        }],
    };
    let answer = plugin.get_preferred_allocation(ask(2)).await.unwrap().into_inner();
    assert_eq!(answer.container_responses[0].device_i_ds, ["c", "b"]);
    let status = plugin.get_preferred_allocation(ask(4)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(plugin.get_preferred_allocation(ask(-1)).await.unwrap_err().code(), Code::InvalidArgument);
    node.stop().await.unwrap();
}

#[tokio::test]
async fn stopping_ends_the_stream_and_leaves_no_socket() {
    let mut node = Node::new(&[("a", Health::Healthy)]);
    node.kubelet.start(0);
    let endpoint = node.kubelet.registered().await;
    node.kubelet.list(&endpoint).await;
    node.shutdown.cancel();
    while !matches!(node.kubelet.event().await, Event::StreamEnded { endpoint: ended } if ended == endpoint) {
    }
    (&mut node.plugin).await.unwrap().unwrap();
    assert_eq!(node.sockets(), ["kubelet.sock"]);
}

#[tokio::test]
async fn two_plugins_share_a_directory_during_an_upgrade() {
    let mut node = Node::new(&[("a", Health::Healthy)]);
    node.kubelet.start(0);
    let old = node.kubelet.registered().await;
    let (_inventory, receiver) = watch::channel(list(&[("a", Health::Healthy)]));
    let stop = CancellationToken::new();
    let new = Plugin::new(settings(node.directory.path(), "two"), receiver, Arc::new(Names));
    let new = tokio::spawn(new.run(stop.clone()));
    let endpoint = node.kubelet.registered().await;
    assert_eq!(node.kubelet.list(&endpoint).await, ["a:Healthy"]);
    node.shutdown.cancel();
    (&mut node.plugin).await.unwrap().unwrap();
    assert_eq!(node.sockets(), ["kubelet.sock", endpoint.as_str()], "the old one took only {old}");
    stop.cancel();
    new.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_plugin_does_not_outlive_its_inventory() {
    let node = Node::new(&[]);
    drop(node.inventory);
    assert!(matches!(node.plugin.await.unwrap(), Err(PluginError::InventoryClosed)));
}
