//! The devices that the kubelet is shown.

use std::fmt;
use std::str::FromStr;

use hsm_proto::deviceplugin as wire;
use tokio::sync::watch;

/// The complete list of devices, always as it is now. The plugin ends when the sender is gone.
pub type Inventory = watch::Receiver<Vec<PluginDevice>>;

/// The name of a plugin device: at most 63 letters, digits, `-`, `_` and `.`, the first a letter or a digit.
///
/// The kubelet sets the length; the characters are ours, so that an id is safe in a path and in an environment
/// variable. It must survive a replug and a restart, so it comes from the USB serial, never from the bus.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(String);

/// Why a text is no device id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a device id: expected 1 to 63 of A-Z a-z 0-9 - _ . beginning with a letter or a digit")]
pub struct InvalidDeviceId(String);

impl DeviceId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DeviceId {
    type Err = InvalidDeviceId;

    fn from_str(text: &str) -> Result<Self, InvalidDeviceId> {
        let valid = (1..=63).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if valid { Ok(Self(text.to_owned())) } else { Err(InvalidDeviceId(text.to_owned())) }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a device may be given to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It may.
    Healthy,
    /// It may not now; pods that have it keep it.
    Unhealthy,
}

impl Health {
    fn as_wire(self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Unhealthy => "Unhealthy",
        }
    }
}

/// One entry of the list that the kubelet gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginDevice {
    /// Its name.
    pub id: DeviceId,
    /// Whether it may be given out.
    pub health: Health,
    /// The NUMA node that it hangs on, if the machine knows.
    pub numa_node: Option<u32>,
}

impl From<PluginDevice> for wire::Device {
    fn from(device: PluginDevice) -> Self {
        let nodes = |node| wire::TopologyInfo { nodes: vec![wire::NumaNode { id: i64::from(node) }] };
        Self {
            id: device.id.0,
            health: device.health.as_wire().to_owned(),
            topology: device.numa_node.map(nodes),
        }
    }
}

/// The list as it is shown: ordered, and an id that comes twice is one unhealthy device, because nobody can say
/// which of the two a pod would get.
pub(crate) fn shown(devices: &[PluginDevice]) -> Vec<PluginDevice> {
    let mut shown = devices.to_vec();
    shown.sort_by(|a, b| a.id.cmp(&b.id));
    shown.dedup_by(|later, kept| {
        let twice = later.id == kept.id;
        if twice {
            kept.health = Health::Unhealthy;
        }
        twice
    });
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(id: &str, health: Health) -> PluginDevice {
        PluginDevice { id: id.parse().unwrap(), health, numa_node: None }
    }

    #[test]
    fn an_id_is_safe_in_a_path_and_short_enough_for_the_kubelet() {
        for good in ["E6613008E3659B2F-0", "a", &"x".repeat(63)] {
            assert!(good.parse::<DeviceId>().is_ok(), "{good}");
        }
        for bad in ["", "..", "-a", "a/b", "a b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<DeviceId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn one_id_twice_is_shown_once_and_unhealthy() {
        let list = [device("b", Health::Healthy), device("a", Health::Healthy), device("b", Health::Healthy)];
        assert_eq!(shown(&list), [device("a", Health::Healthy), device("b", Health::Unhealthy)]);
    }

    #[test]
    fn topology_is_told_only_where_it_is_known() {
        let wire: wire::Device = PluginDevice { numa_node: Some(1), ..device("a", Health::Unhealthy) }.into();
        assert_eq!(wire.health, "Unhealthy");
        assert_eq!(wire.topology.unwrap().nodes[0].id, 1);
        assert!(wire::Device::from(device("a", Health::Healthy)).topology.is_none());
    }
}
