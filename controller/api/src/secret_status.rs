//! What the controller says about an HSMSecret.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::date_time;

/// What the controller says about an HSMSecret. Written only when it says something new.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HSMSecretStatus {
    /// The generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// InSync, OutOfSync, Error or Pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_status: Option<SyncStatus>,
    /// When data was last moved in either direction, or both sides were first found equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub last_sync_time: Option<Time>,
    /// A keyed checksum of the token's values: equal to secretChecksum exactly when both sides are equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hsm_checksum: Option<String>,
    /// A keyed checksum of the Secret's values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_checksum: Option<String>,
    /// What went wrong and what to do, while syncStatus is Error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Ready, Synced, Mirrored; Conflict and Degraded are abnormal when True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The Kubernetes Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// The record's version, EPOCH.COUNTER.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The token that is written to and read from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<PrimaryStatus>,
    /// The tokens that hold copies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<MirrorStatus>,
    /// How many mirrors are current, of how many were asked for: `2/2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirrors_ready: Option<String>,
    /// What both sides last had in common. For the controller; digests are keyed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// The value of the annotation hsm.j5t.io/force-sync that was last acted on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force_sync: Option<String>,
}

/// How both sides stand to each other.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SyncStatus {
    /// Equal.
    InSync,
    /// They differ and wait for something.
    OutOfSync,
    /// Something failed; the conditions say what to do.
    Error,
    /// Nothing was materialised yet.
    Pending,
}

impl SyncStatus {
    /// The word as it stands in the object.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InSync => "InSync",
            Self::OutOfSync => "OutOfSync",
            Self::Error => "Error",
            Self::Pending => "Pending",
        }
    }
}

/// Names the Kubernetes Secret.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Names the primary.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PrimaryStatus {
    /// The node whose agent has the token.
    pub node: String,
    /// The token's id.
    pub token: String,
}

/// One mirror.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MirrorStatus {
    /// The node whose agent has the token.
    pub node: String,
    /// The token's id.
    pub token: String,
    /// The version it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Current, Behind, Diverged or Unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}
