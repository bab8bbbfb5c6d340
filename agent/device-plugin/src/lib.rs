//! The kubelet's device-plugin protocol (v1beta1) over an inventory.
//!
//! Owns our sockets in the kubelet's plugin directory, the registration and the five RPCs. Sees an [`Inventory`] of
//! devices and asks an [`Allocator`] what a container gets; it knows neither USB nor tokens, and no call of the
//! kubelet waits for anything but memory.
//!
//! Facts about the kubelet that shape it (pkg/kubelet/cm/devicemanager, Kubernetes 1.37):
//! - Inside `Register` the kubelet dials us and calls GetDevicePluginOptions: we serve first and register then.
//! - At its start it deletes every socket in the directory and makes its own anew.
//! - A second `Register` for a socket path that it is connected to is an error, also when the first one's answer was
//!   lost. So each registration has a socket of its own, and the older one goes when the newer is accepted.
//! - When a ListAndWatch stream breaks, the kubelet forgets the endpoint and does not come back: we register again.

mod allocator;
mod course;
mod device;
mod directory;
mod observer;
mod plugin;
mod preferred;
mod register;
mod resource;
mod service;
mod serving;
mod settings;

pub use allocator::{Allocator, Answer, DeviceNode, Mount, Refusal};
pub use device::{DeviceId, Health, InvalidDeviceId, Inventory, PluginDevice};
pub use observer::{NoObserver, Observer};
pub use plugin::{Plugin, PluginError};
pub use resource::{InvalidResourceName, ResourceName};
pub use settings::Settings;
