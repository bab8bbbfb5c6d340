//! `HSMSecret`: a record on a token and the Kubernetes Secret that is kept equal to it.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::HSMSecretStatus;
use crate::schema::yes;

/// A record on a token and the Kubernetes Secret that is kept equal to it.
#[allow(clippy::duplicated_attributes, reason = "one printcolumn for each column")]
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "hsm.j5t.io",
    version = "v1alpha1",
    kind = "HSMSecret",
    plural = "hsmsecrets",
    namespaced,
    status = "HSMSecretStatus",
    shortname = "hsmsec",
    category = "hsm",
    derive = "PartialEq",
    doc = "A record on a hardware token and the Kubernetes Secret that is kept equal to it.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.syncStatus"),
    printcolumn(name = "Primary", type_ = "string", json_path = ".status.primary.node"),
    printcolumn(name = "Mirrors", type_ = "string", json_path = ".status.mirrorsReady"),
    printcolumn(name = "Secret", type_ = "string", json_path = ".status.secretRef.name"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Last Sync", type_ = "date", json_path = ".status.lastSyncTime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.deviceRef) || !has(self.deviceSelector)").message("give deviceRef or deviceSelector, not both"))]
pub struct HSMSecretSpec {
    /// The record's path on the token; `secrets/<namespace>/<name>` unless given. Must lie under
    /// `secrets/<namespace>/`, or be granted to the namespace by an HSMDevice's pathGrants.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 384), regex(pattern = r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$"))]
    #[x_kube(validation = Rule::new(r"!self.matches('(^|/)[.][.]?(/|$)')").message("a path has no segments '.' or '..'"))]
    pub hsm_path: Option<String>,

    /// The Kubernetes Secret's name; the HSMSecret's own name unless given. When it is changed, the new Secret is made
    /// first and then the old one goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub secret_name: Option<String>,

    /// The Kubernetes Secret's type. A Secret's type cannot be changed, so a change makes the Secret anew.
    #[serde(default = "opaque", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_type: Option<String>,

    /// `false`: the Secret is made once, then nothing is synced in either direction except on a new value of the
    /// annotation hsm.j5t.io/force-sync.
    #[serde(default = "yes", skip_serializing_if = "Option::is_none")]
    pub auto_sync: Option<bool>,

    /// At most this many seconds pass before both sides are compared even if nothing was heard of them; 0 means the
    /// default. Changes are synced when they happen, not at this interval.
    #[serde(default = "five_minutes", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86400))]
    pub sync_interval: Option<i32>,

    /// The operator instance that serves this HSMSecret. Absent: the default instance does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_ref: Option<ParentRef>,

    /// The name of the HSMDevice on whose tokens the record is kept. Not acted on yet: any token is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub device_ref: Option<String>,

    /// Labels of the HSMDevices on whose tokens the record is kept. Not acted on yet: any token is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_selector: Option<BTreeMap<String, String>>,

    /// How many tokens beside the primary hold the record. Not acted on yet: no mirrors are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 16))]
    pub mirrors: Option<i32>,

    /// In which direction edits travel. FromToken: an edit of the Secret is put back. ToToken: a change on the token
    /// is put back.
    #[serde(default)]
    pub sync_policy: SyncPolicy,

    /// What happens when both sides changed one key: nothing is overwritten (Manual), or one side wins.
    #[serde(default)]
    pub conflict_policy: ConflictPolicy,

    /// What becomes of the record on the token when the HSMSecret is deleted. The Secret always goes with it.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// What becomes of a Secret of that name that this operator did not make. IfEqual: it is taken over when its data
    /// equals the token's. Always: it is taken over, and its data goes to the token if that has none.
    #[serde(default)]
    pub adoption_policy: AdoptionPolicy,

    /// How many earlier values the token keeps of a record that the Secret's edits replace, where it has room (default
    /// 3; `hsm-agent token history` lists them).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub history_limit: Option<i32>,

    /// The shape of the Secret, where it is not the record's. Not acted on yet: the Secret's data is the record's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<SecretTemplate>,

    /// Values that are made at random when the record does not exist. Not acted on yet: put the record yourself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub generate: Option<Vec<Generate>>,

    /// Restart the workloads that use the Secret when it changes. Not acted on yet: nothing is restarted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout_restart: Option<bool>,
}

/// Names an operator instance.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// The instance's name (the controller's `--instance`).
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The namespace it runs in; any unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

/// In which direction edits travel.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Both ways.
    #[default]
    Bidirectional,
    /// An edit of the Secret is put back.
    FromToken,
    /// A change on the token is put back.
    ToToken,
}

/// Who wins when both sides changed one key.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ConflictPolicy {
    /// Nobody: both are kept until a person decides.
    #[default]
    Manual,
    /// The token.
    PreferToken,
    /// The Secret.
    PreferSecret,
}

/// What becomes of the record when the HSMSecret is deleted.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// It stays on the token.
    #[default]
    Retain,
    /// It is deleted from the token.
    Delete,
}

/// What becomes of a Secret that this operator did not make.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AdoptionPolicy {
    /// It is left alone.
    #[default]
    Never,
    /// It is taken over when its data equals the token's.
    IfEqual,
    /// It is taken over.
    Always,
}

/// The shape of the Secret.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SecretTemplate {
    /// Labels and annotations of the Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TemplateMetadata>,
    /// For each key of the Secret, a text with references to the record's values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<BTreeMap<String, String>>,
}

/// Labels and annotations of the Secret.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
pub struct TemplateMetadata {
    /// Labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// A value that is made at random.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Generate {
    /// The key it is for.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
    /// How many characters (bytes, for Bytes) it has; 32 unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub length: Option<i32>,
    /// Of which characters it is made.
    #[serde(default)]
    pub charset: Charset,
}

/// The characters of a generated value.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Charset {
    /// A-Z, a-z, 0-9.
    #[default]
    Alphanumeric,
    /// 0-9, a-f.
    Hex,
    /// Any printable ASCII character but the space.
    Printable,
    /// Bytes, not text.
    Bytes,
}

#[allow(clippy::unnecessary_wraps, reason = "serde's default needs the field's type")]
fn opaque() -> Option<String> {
    Some("Opaque".to_owned())
}

#[allow(clippy::unnecessary_wraps, reason = "serde's default needs the field's type")]
fn five_minutes() -> Option<i32> {
    Some(300)
}

impl HSMSecretSpec {
    /// The fields that are set and that this version does not act on.
    pub fn not_yet_active(&self) -> Vec<&'static str> {
        let set = [
            ("deviceRef", self.device_ref.is_some()),
            ("deviceSelector", self.device_selector.is_some()),
            ("mirrors", self.mirrors.is_some_and(|n| n > 0)),
            ("template", self.template.is_some()),
            ("generate", self.generate.as_ref().is_some_and(|g| !g.is_empty())),
            ("rolloutRestart", self.rollout_restart == Some(true)),
        ];
        set.into_iter().filter_map(|(name, is_set)| is_set.then_some(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::CustomResourceExt;

    #[test]
    fn the_go_operators_manifest_and_the_seed_parse() {
        let seed = serde_json::json!({
            "apiVersion": "hsm.j5t.io/v1alpha1", "kind": "HSMSecret",
            "metadata": {"name": "appname-secret", "namespace": "appnamespace"},
            "spec": {"hsmPath": "secrets/appnamespace/appname-secret", "secretName": "appname-secret",
                     "autoSync": true, "secretType": "Opaque", "syncInterval": 300}
        });
        let secret: HSMSecret = serde_json::from_value(seed).unwrap();
        assert_eq!(secret.spec.sync_interval, Some(300));
        let go = serde_json::json!({
            "apiVersion": "hsm.j5t.io/v1alpha1", "kind": "HSMSecret",
            "metadata": {"name": "a", "namespace": "b"},
            "spec": {"parentRef": {"name": "controller-manager"}, "autoSync": false, "unknown": 1}
        });
        let secret: HSMSecret = serde_json::from_value(go).unwrap();
        assert_eq!(secret.spec.auto_sync, Some(false));
        assert_eq!(serde_json::to_value(&secret.spec).unwrap()["autoSync"], false);
    }

    #[test]
    fn the_schema_has_defaults_rules_and_list_maps() {
        let crd = serde_json::to_value(HSMSecret::crd()).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        let spec = &schema["spec"]["properties"];
        assert_eq!(spec["autoSync"]["default"], true);
        assert_eq!(spec["syncInterval"]["default"], 300);
        assert_eq!(spec["syncPolicy"]["default"], "Bidirectional");
        assert!(spec["hsmPath"]["x-kubernetes-validations"][0]["rule"].is_string());
        assert!(schema["spec"]["x-kubernetes-validations"][0]["rule"].is_string());
        assert_eq!(schema["status"]["properties"]["conditions"]["x-kubernetes-list-type"], "map");
        assert!(schema["status"]["required"].is_null() && schema["spec"]["required"].is_null());
        assert_eq!(crd["spec"]["names"]["shortNames"][0], "hsmsec");
        assert_eq!(crd["spec"]["names"]["categories"][0], "hsm");
    }

    #[test]
    fn fields_that_do_nothing_yet_are_named() {
        let spec = HSMSecretSpec { mirrors: Some(1), generate: Some(Vec::new()), ..Default::default() };
        assert_eq!(spec.not_yet_active(), ["mirrors"]);
        assert!(HSMSecretSpec { mirrors: Some(0), ..Default::default() }.not_yet_active().is_empty());
    }
}
