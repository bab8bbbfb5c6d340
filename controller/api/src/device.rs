//! `HSMDevice`: which tokens take part, and how. Counted only in the controller's namespace.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::HSMDeviceStatus;
use crate::schema::{one_or_many, yes};

/// Which tokens take part, and how.
#[allow(clippy::duplicated_attributes, reason = "one printcolumn for each column")]
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "hsm.j5t.io",
    version = "v1alpha1",
    kind = "HSMDevice",
    plural = "hsmdevices",
    namespaced,
    status = "HSMDeviceStatus",
    shortname = "hsmdev",
    category = "hsm",
    derive = "PartialEq",
    doc = "Which tokens take part, and how. Counted only in the operator's own namespace. Of its fields only pathGrants is acted on yet.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.deviceType"),
    printcolumn(name = "Devices", type_ = "integer", json_path = ".status.totalDevices"),
    printcolumn(name = "Available", type_ = "integer", json_path = ".status.availableDevices"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct HSMDeviceSpec {
    /// The kind of device. Not acted on yet.
    pub device_type: DeviceType,

    /// Which devices are meant. Not acted on yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discovery: Option<Discovery>,

    /// The nodes that are looked at; all unless given. Not acted on yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,

    /// How tokens are opened. Not acted on yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pkcs11: Option<Pkcs11>,

    /// The Go operator's older place of pkcs11.libraryPath. Not acted on yet.
    #[serde(rename = "pkcs11LibraryPath", skip_serializing_if = "Option::is_none")]
    pub pkcs11_library_path: Option<String>,

    /// At most this many devices take part. Not acted on yet.
    #[serde(default = "ten", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_devices: Option<i32>,

    /// Copies on other tokens. Not acted on yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirroring: Option<Mirroring>,

    /// The extended resource under which the kubelet offers the device to pods. Not acted on yet.
    #[serde(default = "pico", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 253), regex(pattern = r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$"))]
    pub resource_name: Option<String>,

    /// How a pod reaches the token. Not acted on yet.
    #[serde(default)]
    pub access: Access,

    /// How many pods may share one token. Not acted on yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub shares: Option<i32>,

    /// Whether pods may change what is on the token. Not acted on yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_destructive: Option<bool>,

    /// Whether records are sealed on the token. Not acted on yet: they are.
    #[serde(default)]
    pub encryption: Encryption,

    /// Paths outside `secrets/<namespace>/` that a namespace may use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub path_grants: Vec<PathGrant>,
}

/// Gives paths to a namespace.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PathGrant {
    /// The namespace whose HSMSecrets may use them.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Paths such as `shared/db`; one that ends in `/*` gives everything below it.
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 384)))]
    pub paths: Vec<String>,
}

/// The kind of device.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceType {
    /// A Raspberry Pi Pico with the Pico HSM firmware.
    #[default]
    PicoHSM,
    /// A SmartCard-HSM.
    #[serde(rename = "SmartCard-HSM")]
    SmartCardHsm,
    /// Anything that a PKCS#11 module reaches.
    Generic,
    /// A software token.
    Software,
}

/// Which devices are meant.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Discovery {
    /// One USB selector, or a list of them: vendorId, productId, serialNumber.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "one_or_many")]
    pub usb: Option<serde_json::Value>,
    /// A device file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_path: Option<DevicePath>,
    /// Everything that looks like the device type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_discovery: Option<bool>,
}

/// A USB device by what its descriptor says.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UsbSelector {
    /// Four hexadecimal digits.
    pub vendor_id: String,
    /// Four hexadecimal digits.
    pub product_id: String,
    /// The serial number; any unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial_number: Option<String>,
}

/// A device file.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DevicePath {
    /// The file, or a pattern with `*`.
    pub path: String,
    /// What the device file must allow, such as `rw`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permissions: Option<String>,
}

/// How tokens are opened.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Pkcs11 {
    /// The PKCS#11 module; must be on the agents' own list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub library_path: Option<String>,
    /// Selects among a module's tokens; never identifies one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub slot_id: Option<i64>,
    /// Selects among a module's tokens; never identifies one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_label: Option<String>,
    /// The Secret, in the operator's namespace, that holds the PIN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin_secret: Option<PinSecret>,
    /// Make a blank token ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_provision: Option<bool>,
}

/// The Secret that holds a PIN.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PinSecret {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
    /// Its namespace: the HSMDevice's own unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Copies on other tokens.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Mirroring {
    /// None; ReadOnly: a mirror is never promoted by itself; Active: after failoverGrace.
    #[serde(default)]
    pub policy: MirroringPolicy,
    /// At most this many seconds pass before the mirrors are compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86400))]
    pub sync_interval: Option<i32>,
    /// The nodes whose tokens are mirrors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_nodes: Option<Vec<String>>,
    /// The node whose token is preferred as primary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary_node: Option<String>,
    /// Whether a mirror becomes primary when the primary is gone.
    #[serde(default = "yes", skip_serializing_if = "Option::is_none")]
    pub auto_failover: Option<bool>,
    /// How many seconds a primary may be unreachable before that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86400))]
    pub failover_grace: Option<i32>,
}

/// Whether copies are kept, and what they may become.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MirroringPolicy {
    /// No copies.
    #[default]
    None,
    /// Copies that are never promoted by themselves.
    ReadOnly,
    /// Copies that take over.
    Active,
}

/// How a pod reaches the token.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Access {
    /// Through the agent.
    #[default]
    Brokered,
    /// It has the device to itself.
    Exclusive,
    /// It shares the device with others.
    Shared,
}

/// Whether records are sealed on the token.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Encryption {
    /// They are.
    #[default]
    Envelope,
    /// They are readable objects.
    None,
}

#[allow(clippy::unnecessary_wraps, reason = "serde's default needs the field's type")]
fn ten() -> Option<i32> {
    Some(10)
}

#[allow(clippy::unnecessary_wraps, reason = "serde's default needs the field's type")]
fn pico() -> Option<String> {
    Some("hsm.j5t.io/pico".to_owned())
}

impl Discovery {
    /// The USB selectors, whether one was given or a list; an error text when they have another shape.
    pub fn usb_selectors(&self) -> Result<Vec<UsbSelector>, String> {
        let many = match &self.usb {
            None => return Ok(Vec::new()),
            Some(serde_json::Value::Array(many)) => many.clone(),
            Some(one) => vec![one.clone()],
        };
        let hex = |text: &str| text.len() == 4 && text.bytes().all(|b| b.is_ascii_hexdigit());
        many.into_iter()
            .map(|one| {
                let selector: UsbSelector =
                    serde_json::from_value(one).map_err(|error| format!("discovery.usb: {error}"))?;
                if hex(&selector.vendor_id) && hex(&selector.product_id) {
                    Ok(selector)
                } else {
                    Err("discovery.usb: vendorId and productId are four hexadecimal digits".to_owned())
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usb_is_one_selector_or_a_list() {
        let one = serde_json::json!({"usb": {"vendorId": "20a0", "productId": "4230"}});
        let many =
            serde_json::json!({"usb": [{"vendorId": "20a0", "productId": "4230", "serialNumber": "E66"}]});
        for (json, serial) in [(one, None), (many, Some("E66"))] {
            let discovery: Discovery = serde_json::from_value(json).unwrap();
            let selectors = discovery.usb_selectors().unwrap();
            assert_eq!(selectors[0].serial_number.as_deref(), serial);
        }
        for bad in [
            serde_json::json!({"usb": 1}),
            serde_json::json!({"usb": {"vendorId": "x", "productId": "4230"}}),
        ] {
            let discovery: Discovery = serde_json::from_value(bad).unwrap();
            assert!(discovery.usb_selectors().is_err());
        }
    }

    #[test]
    fn device_types_are_spelled_as_the_go_operator_does() {
        let spec: HSMDeviceSpec =
            serde_json::from_value(serde_json::json!({"deviceType": "SmartCard-HSM"})).unwrap();
        assert_eq!(spec.device_type, DeviceType::SmartCardHsm);
        assert_eq!(spec.max_devices, Some(10));
    }
}
