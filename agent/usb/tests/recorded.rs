//! The scan and the watcher over recorded sysfs trees: a Pico HSM, a Nitrokey HSM and an unrelated keyboard.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail where it stands")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hsm_types::UsbSerial;
use hsm_usb::{Options, Selector, Sighting, Watcher, presence, scan, well_known};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(30);

/// A sysfs tree with one host controller on NUMA node 1, as a two-socket machine shows it.
struct Sysfs(TempDir);

impl Sysfs {
    fn new() -> Self {
        let sysfs = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(sysfs.controller().join("usb1")).unwrap();
        fs::create_dir_all(sysfs.root().join("bus/usb/devices")).unwrap();
        fs::write(sysfs.controller().join("numa_node"), "1\n").unwrap();
        let hub = [("idVendor", "1d6b"), ("idProduct", "0002"), ("serial", "0000:00:14.0")];
        sysfs.record("usb1", &hub, 1);
        sysfs
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn controller(&self) -> PathBuf {
        self.root().join("devices/pci0000:00/0000:00:14.0")
    }

    fn directory(&self, name: &str) -> PathBuf {
        let bus = self.controller().join("usb1");
        if name == "usb1" { bus } else { bus.join(name) }
    }

    fn record(&self, name: &str, attributes: &[(&str, &str)], address: u16) {
        let directory = self.directory(name);
        fs::create_dir_all(&directory).unwrap();
        for (file, text) in attributes {
            fs::write(directory.join(file), format!("{text}\n")).unwrap();
        }
        fs::write(directory.join("busnum"), "1\n").unwrap();
        fs::write(directory.join("devnum"), format!("{address}\n")).unwrap();
        // As the kernel does, the device appears on the bus when it is complete.
        symlink(&directory, self.root().join("bus/usb/devices").join(name)).unwrap();
    }

    fn plug_pico(&self, port: &str, address: u16) {
        let attributes = [
            ("idVendor", "2e8a"),
            ("idProduct", "10fd"),
            ("manufacturer", "Pol Henarejos"),
            ("product", "Pico HSM"),
            ("serial", "E6613008E3659B2F"),
            ("bDeviceClass", "00"),
        ];
        self.record(port, &attributes, address);
        self.interface(port, "0b");
    }

    fn plug_nitrokey(&self, port: &str, address: u16) {
        let attributes = [("idVendor", "20a0"), ("idProduct", "4230"), ("serial", "DENK01041950000")];
        self.record(port, &attributes, address);
        self.interface(port, "0b");
    }

    fn plug_keyboard(&self, port: &str, address: u16) {
        self.record(port, &[("idVendor", "046d"), ("idProduct", "c31c")], address);
        self.interface(port, "03");
    }

    fn interface(&self, port: &str, class: &str) {
        let directory = self.directory(port).join(format!("{port}:1.0"));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("bInterfaceClass"), format!("{class}\n")).unwrap();
        symlink(&directory, self.root().join("bus/usb/devices").join(format!("{port}:1.0"))).unwrap();
    }

    fn unplug(&self, port: &str) {
        for name in [port.to_owned(), format!("{port}:1.0")] {
            fs::remove_file(self.root().join("bus/usb/devices").join(name)).unwrap();
        }
        fs::remove_dir_all(self.directory(port)).unwrap();
    }

    fn watch(&self) -> Watcher {
        Watcher::start(Options {
            sysfs_root: self.root().to_owned(),
            debounce: Duration::from_millis(5),
            rescan: Duration::from_millis(20),
            hotplug: false,
            ..Options::default()
        })
        .unwrap()
    }
}

fn ports(devices: &[hsm_usb::UsbDevice]) -> Vec<&str> {
    devices.iter().map(|device| device.port_path.as_str()).collect()
}

#[test]
fn tokens_are_told_from_the_rest() {
    let sysfs = Sysfs::new();
    sysfs.plug_pico("1-1.4", 12);
    sysfs.plug_nitrokey("1-2", 7);
    sysfs.plug_keyboard("1-3", 3);

    let found = presence(sysfs.root(), &well_known()).unwrap();
    assert_eq!(ports(&found), ["1-1.4", "1-2"]);
    let pico = &found[0];
    assert_eq!((pico.vendor, pico.product), (0x2e8a, 0x10fd));
    assert_eq!(pico.serial, UsbSerial::new("E6613008E3659B2F"));
    assert_eq!((pico.bus, pico.address), (1, 12));
    assert_eq!(pico.devnode, "/dev/bus/usb/001/012");
    assert_eq!(pico.numa_node, Some(1));
    assert_eq!(scan(sysfs.root()).unwrap().len(), 4, "the keyboard and the root hub are on the bus too");
}

#[test]
fn a_selector_with_a_serial_means_one_device() {
    let sysfs = Sysfs::new();
    sysfs.plug_nitrokey("1-2", 7);
    sysfs.plug_keyboard("1-3", 3);
    let select = |text: &str| vec![text.parse::<Selector>().unwrap()];
    let count = |text| presence(sysfs.root(), &select(text)).unwrap().len();
    assert_eq!(count("20a0:4230:DENK01041950000"), 1);
    assert_eq!(count("20a0:4230:DENK01041950001"), 0);
    assert_eq!(count("046d:c31c"), 1, "a device that says no serial is selected without one");
    assert_eq!(count("046d:c31c:1"), 0);
}

#[test]
fn no_bus_means_no_tokens_and_no_sysfs_means_unknown() {
    let empty = tempfile::tempdir().unwrap();
    assert!(presence(empty.path(), &well_known()).is_err(), "sysfs is not mounted there");
    fs::create_dir_all(empty.path().join("bus/pci")).unwrap();
    assert_eq!(presence(empty.path(), &well_known()).unwrap(), []);
}

#[test]
fn a_machine_without_numa_says_so_and_strange_text_is_an_error() {
    let sysfs = Sysfs::new();
    fs::write(sysfs.controller().join("numa_node"), "-1\n").unwrap();
    sysfs.plug_pico("1-1", 5);
    assert_eq!(presence(sysfs.root(), &well_known()).unwrap()[0].numa_node, None);
    fs::write(sysfs.directory("1-1").join("idVendor"), "pico\n").unwrap();
    let error = presence(sysfs.root(), &well_known()).unwrap_err().to_string();
    assert!(error.contains("idVendor") && error.contains("pico"), "{error}");
}

#[test]
fn a_device_that_leaves_during_the_scan_is_not_there() {
    let sysfs = Sysfs::new();
    sysfs.plug_pico("1-1", 5);
    fs::remove_file(sysfs.directory("1-1").join("devnum")).unwrap();
    assert_eq!(presence(sysfs.root(), &well_known()).unwrap(), []);
    // A link that dangles, as between the kernel's two removals.
    fs::remove_dir_all(sysfs.directory("1-1")).unwrap();
    assert_eq!(presence(sysfs.root(), &well_known()).unwrap(), []);
}

#[test]
fn the_watcher_reports_complete_lists_and_only_changes() {
    let sysfs = Sysfs::new();
    sysfs.plug_keyboard("1-3", 3);
    let watcher = sysfs.watch();
    let next = || match watcher.recv_timeout(LONG).unwrap().expect("a sighting") {
        Sighting::Devices(devices) => devices,
        Sighting::Unknown(reason) => panic!("{reason}"),
    };
    assert_eq!(next(), []);
    sysfs.plug_pico("1-1", 5);
    assert_eq!(ports(&next()), ["1-1"]);
    sysfs.plug_nitrokey("1-2", 6);
    watcher.rescan();
    assert_eq!(ports(&next()), ["1-1", "1-2"]);
    sysfs.plug_keyboard("1-4", 8);
    assert_eq!(watcher.recv_timeout(Duration::from_millis(200)), Ok(None), "a keyboard is no change");
    sysfs.unplug("1-1");
    assert_eq!(ports(&next()), ["1-2"]);
}

#[test]
fn a_bus_that_cannot_be_read_is_unknown_and_recovers() {
    let sysfs = Sysfs::new();
    sysfs.plug_pico("1-1", 5);
    let watcher = sysfs.watch();
    let next = || watcher.recv_timeout(LONG).unwrap().expect("a sighting");
    let before = next();
    let (there, aside) = (sysfs.root().join("bus/usb/devices"), sysfs.root().join("aside"));
    // Replacing the directory by a file is not atomic; the empty moment between may be seen as "no bus".
    fs::rename(&there, &aside).unwrap();
    fs::write(&there, "").unwrap();
    while !matches!(next(), Sighting::Unknown(_)) {}
    fs::remove_file(&there).unwrap();
    fs::rename(&aside, &there).unwrap();
    while next() != before {}
}

#[test]
fn stopping_ends_a_waiting_reader() {
    let sysfs = Sysfs::new();
    let watcher = std::sync::Arc::new(sysfs.watch());
    let reader = std::thread::spawn({
        let watcher = std::sync::Arc::clone(&watcher);
        move || while watcher.recv().is_ok() {}
    });
    watcher.stop();
    reader.join().unwrap();
}

#[test]
fn the_real_listener_starts_and_stops_on_any_machine() {
    // With a bus it listens, without one it says so: either way nothing panics and stopping works.
    let watcher = Watcher::start(Options::default()).unwrap();
    assert!(watcher.recv_timeout(LONG).unwrap().is_some());
    watcher.stop();
}
