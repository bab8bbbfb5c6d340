//! A device as the bus shows it.

use hsm_types::UsbSerial;

/// A USB device as sysfs describes it (Documentation/ABI/stable/sysfs-bus-usb), read without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsbDevice {
    /// `idVendor`.
    pub vendor: u16,
    /// `idProduct`.
    pub product: u16,
    /// The serial of the device descriptor; `None` if the device has none. Anything may claim any serial.
    pub serial: Option<UsbSerial>,
    /// The bus number, from 1.
    pub bus: u16,
    /// The address on the bus; a new one after every replug.
    pub address: u16,
    /// Where it is plugged in: the bus and the chain of ports, such as `1-1.4`. Stays over a replug into the same
    /// port, and over nothing else.
    pub port_path: String,
    /// The device node, `/dev/bus/usb/BBB/DDD`, without any `--dev-root` prefix.
    pub devnode: String,
    /// The NUMA node of the host controller, where the machine knows it.
    pub numa_node: Option<u32>,
}
