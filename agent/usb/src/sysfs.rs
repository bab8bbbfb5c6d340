//! Reading the bus from sysfs: `<root>/bus/usb/devices`, one directory for each device and interface.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::{fs, io};

use hsm_types::UsbSerial;

use crate::selector::parse_id;
use crate::{Selector, UsbDevice};

/// `ENODEV`: what an attribute answers when its device goes away between open and read (errno(3)).
const ENODEV: i32 = 19;

/// Why the bus could not be read. Nothing is known then: not that a device is gone, either.
#[derive(Debug, thiserror::Error)]
pub enum UsbError {
    /// sysfs could not be read; the operator mends it (mounts, permissions).
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// An attribute does not have the form that the kernel documents; a bug of ours or a strange kernel.
    #[error("{path} holds {text:?}, which is not {expected}")]
    Malformed {
        /// The attribute.
        path: PathBuf,
        /// What it holds.
        text: String,
        /// What was expected.
        expected: &'static str,
    },
    /// A thread could not be started; out of resources.
    #[error("cannot start the USB watcher: {0}")]
    Thread(#[source] io::Error),
}

/// The devices that one of the selectors means, ordered by bus and port.
///
/// `root` is where sysfs is mounted, `/sys` or `/host/sys`. A machine without a USB bus has none.
pub fn presence(root: &Path, selectors: &[Selector]) -> Result<Vec<UsbDevice>, UsbError> {
    let mut devices = scan(root)?;
    devices.retain(|device| selectors.iter().any(|selector| selector.matches(device)));
    Ok(devices)
}

/// Every device on the bus, root hubs included, ordered by bus and port.
pub fn scan(root: &Path) -> Result<Vec<UsbDevice>, UsbError> {
    let directory = root.join("bus/usb/devices");
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        // Every sysfs has `bus`; a folder where none is mounted has not, and says nothing about tokens.
        Err(error) if error.kind() == ErrorKind::NotFound && root.join("bus").is_dir() => {
            return Ok(Vec::new());
        }
        Err(source) => return Err(UsbError::Unreadable { path: directory, source }),
    };
    let mut devices = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| UsbError::Unreadable { path: directory.clone(), source })?;
        let name = entry.file_name();
        // Interfaces are `1-1.4:1.0`.
        let Some(name) = name.to_str().filter(|name| !name.contains(':')) else { continue };
        devices.extend(device(&entry.path(), name)?);
    }
    devices.sort_by(|a, b| (a.bus, &a.port_path).cmp(&(b.bus, &b.port_path)));
    Ok(devices)
}

/// Reads one device; `None` if it went away meanwhile.
fn device(path: &Path, name: &str) -> Result<Option<UsbDevice>, UsbError> {
    let id = |file| number(path, file, "four hexadecimal digits", parse_id);
    let decimal = |file| number(path, file, "a decimal number", |text| text.parse::<u16>().ok());
    let (Some(vendor), Some(product)) = (id("idVendor")?, id("idProduct")?) else { return Ok(None) };
    let (Some(bus), Some(address)) = (decimal("busnum")?, decimal("devnum")?) else { return Ok(None) };
    let serial = attribute(path, "serial")?.and_then(|text| UsbSerial::new(&text));
    // A missing serial looks the same as a device that left before its serial was read, and the next device in
    // this port may have come: what was read is one device's only if it still is the same device.
    if decimal("devnum")? != Some(address) {
        return Ok(None);
    }
    Ok(Some(UsbDevice {
        vendor,
        product,
        serial,
        bus,
        address,
        port_path: name.to_owned(),
        devnode: format!("/dev/bus/usb/{bus:03}/{address:03}"),
        numa_node: numa_node(path)?,
    }))
}

/// The first `numa_node` above the device: the host controller's. `-1` means that the machine has no answer.
fn numa_node(path: &Path) -> Result<Option<u32>, UsbError> {
    let Ok(real) = path.canonicalize() else { return Ok(None) };
    for above in real.ancestors() {
        if let Some(text) = attribute(above, "numa_node")? {
            return Ok(text.trim().parse().ok());
        }
    }
    Ok(None)
}

fn number<T>(
    device: &Path,
    file: &str,
    expected: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, UsbError> {
    let Some(text) = attribute(device, file)? else { return Ok(None) };
    match parse(text.trim()) {
        Some(value) => Ok(Some(value)),
        None => Err(UsbError::Malformed { path: device.join(file), text, expected }),
    }
}

/// An attribute's text; `None` if it, or its whole device, is not there.
fn attribute(device: &Path, file: &str) -> Result<Option<String>, UsbError> {
    let path = device.join(file);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(ENODEV) => Ok(None),
        Err(source) => Err(UsbError::Unreadable { path, source }),
    }
}
