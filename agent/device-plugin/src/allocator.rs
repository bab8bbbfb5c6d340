//! What a container gets for its devices: the port that the agent fills.

use std::collections::BTreeMap;

use hsm_proto::deviceplugin as wire;

use crate::DeviceId;

/// Turns the devices that the kubelet chose into what the container gets.
pub trait Allocator: Send + Sync + 'static {
    /// Answers for one container, whose devices are known and healthy.
    ///
    /// Called inside the kubelet's single-threaded pod admission, without a deadline: memory only. The same devices
    /// may be asked for again without a word that the earlier container is gone.
    fn allocate(&self, devices: &[DeviceId]) -> Result<Answer, Refusal>;
}

/// Why the devices cannot be given out; the text becomes part of the pod's admission error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// What a container gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Environment variables.
    pub envs: BTreeMap<String, String>,
    /// Mounts from the node.
    pub mounts: Vec<Mount>,
    /// Device nodes; the only way to a device-cgroup grant.
    pub nodes: Vec<DeviceNode>,
    /// Annotations for the container runtime.
    pub annotations: BTreeMap<String, String>,
    /// Fully qualified CDI names, `vendor/class=device`.
    pub cdi_devices: Vec<String>,
}

/// A file or folder of the node in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The path on the node.
    pub host_path: String,
    /// The path in the container.
    pub container_path: String,
    /// Whether the container may not write.
    pub read_only: bool,
}

/// A device node of the node in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// The path on the node.
    pub host_path: String,
    /// The path in the container.
    pub container_path: String,
    /// Of `r`, `w` and `m` (mknod), as cgroups have it.
    pub permissions: String,
}

impl From<Answer> for wire::ContainerAllocateResponse {
    fn from(answer: Answer) -> Self {
        Self {
            envs: answer.envs.into_iter().collect(),
            mounts: answer
                .mounts
                .into_iter()
                .map(|mount| wire::Mount {
                    container_path: mount.container_path,
                    host_path: mount.host_path,
                    read_only: mount.read_only,
                })
                .collect(),
            devices: answer
                .nodes
                .into_iter()
                .map(|node| wire::DeviceSpec {
                    container_path: node.container_path,
                    host_path: node.host_path,
                    permissions: node.permissions,
                })
                .collect(),
            annotations: answer.annotations.into_iter().collect(),
            cdi_devices: answer.cdi_devices.into_iter().map(|name| wire::CdiDevice { name }).collect(),
        }
    }
}
