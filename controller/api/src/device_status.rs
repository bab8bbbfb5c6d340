//! What the controller says about an HSMDevice.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::date_time;

/// What the controller says about an HSMDevice.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HSMDeviceStatus {
    /// The generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the device stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<DevicePhase>,
    /// What was found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub discovered_devices: Vec<DiscoveredDevice>,
    /// How many were found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_devices: Option<i32>,
    /// How many of them serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_devices: Option<i32>,
    /// When that last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub last_discovery_time: Option<Time>,
    /// Ready, TokenPresent, Unlocked, Registered; Degraded is abnormal when True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Where a device stands.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum DevicePhase {
    /// Nobody has looked for it.
    Pending,
    /// Agents are looking.
    Discovering,
    /// It serves.
    Ready,
    /// It serves, with less than was asked for.
    Degraded,
    /// It does not serve.
    Error,
}

/// One device that was found.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DiscoveredDevice {
    /// The device file on its node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_path: Option<String>,
    /// The USB serial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial_number: Option<String>,
    /// The token's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    /// The node it is plugged into.
    pub node_name: String,
    /// When its state last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub last_seen: Option<Time>,
    /// Whether it serves.
    pub available: bool,
    /// Primary, Mirror or none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// What the agent says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// Its firmware.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// How many objects it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objects: Option<i32>,
    /// How many it can hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<i32>,
}
