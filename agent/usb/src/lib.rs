//! Presence on the USB bus: which devices that may carry a token are plugged in.
//!
//! Owns the hotplug listener and the scan of sysfs. sysfs is the truth; hotplug only wakes a scan, because events
//! get lost, doubled and reordered. Never opens a device: pcscd owns the interface, and the serial number is in
//! sysfs. Knows nothing of tokens: what answers on the device is asked elsewhere.
//!
//! A machine without a USB bus has no devices; that is an answer, not an error.

mod device;
mod hotplug;
mod selector;
mod slot;
mod sysfs;
mod watcher;

pub use device::UsbDevice;
pub use selector::{ParseSelectorError, Selector, WELL_KNOWN, WellKnown, well_known};
pub use sysfs::{UsbError, presence, scan};
pub use watcher::{Options, Sighting, Stopped, Watcher};
