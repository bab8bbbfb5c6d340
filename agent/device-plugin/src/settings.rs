//! What is told to the plugin, parsed before anything binds.

use std::path::PathBuf;
use std::time::Duration;

use crate::ResourceName;

/// How the plugin meets its kubelet.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The kubelet's plugin directory.
    pub directory: PathBuf,
    /// The extended resource that the devices are offered as.
    pub resource: ResourceName,
    /// Part of each socket's name: letters and digits that no other plugin in this directory has. Random: an old and
    /// a new agent run side by side during an upgrade, and in a pod both have the process id 1.
    pub instance: String,
    /// How often the directory is looked at when inotify is silent.
    pub poll: Duration,
    /// The pause after a failed registration; doubles up to `retry_longest`.
    pub retry: Duration,
    /// The longest pause between two registrations.
    pub retry_longest: Duration,
    /// How long the kubelet may take to answer Register.
    pub register_limit: Duration,
    /// How long a registered plugin may be without a ListAndWatch stream before it registers again.
    pub silence: Duration,
    /// How long a stopping server may take to let its connections go.
    pub drain: Duration,
}

impl Settings {
    /// The settings for a node's kubelet.
    pub fn new(resource: ResourceName, instance: impl Into<String>) -> Self {
        Self {
            directory: PathBuf::from("/var/lib/kubelet/device-plugins/"),
            resource,
            instance: instance.into(),
            poll: Duration::from_millis(500),
            retry: Duration::from_millis(200),
            retry_longest: Duration::from_secs(30),
            register_limit: Duration::from_secs(10),
            silence: Duration::from_secs(2),
            drain: Duration::from_secs(2),
        }
    }
}
