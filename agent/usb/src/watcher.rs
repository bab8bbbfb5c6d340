//! Watching the bus: a thread that scans when woken and at least every so often, and reports what changed.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::slot::{Slot, Taken};
use crate::{Selector, UsbDevice, UsbError, hotplug, presence, well_known};

/// How the bus is watched.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where sysfs is mounted: `/sys`, or `/host/sys` in a container that has the host's there.
    pub sysfs_root: PathBuf,
    /// The devices that are meant; the others are not reported.
    pub selectors: Vec<Selector>,
    /// How long the bus must be quiet after an event before it is scanned.
    pub debounce: Duration,
    /// The longest time between two scans, event or not.
    pub rescan: Duration,
    /// Whether to listen for hotplug events. They are the running machine's: of no use for a recorded tree.
    pub hotplug: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sysfs_root: PathBuf::from("/sys"),
            selectors: well_known(),
            debounce: Duration::from_millis(100),
            rescan: Duration::from_secs(5),
            hotplug: true,
        }
    }
}

/// What the bus looks like now, as far as it could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sighting {
    /// All selected devices that are plugged in; one that is not in the list is not there.
    Devices(Vec<UsbDevice>),
    /// The bus could not be read, for the reason given: nothing is known, and nothing is gone.
    Unknown(String),
}

/// Nothing more will come: the watcher was stopped, or its thread ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the USB watcher has stopped")]
pub struct Stopped;

/// A running watch of the bus. Dropping it stops it; share it in an `Arc` to stop it while another thread waits.
#[derive(Debug)]
pub struct Watcher {
    sightings: Arc<Slot<Sighting>>,
    wake: SyncSender<()>,
    stop: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Watcher {
    /// Starts the scan, and the hotplug listener if wanted; the first sighting comes at once.
    pub fn start(options: Options) -> Result<Self, UsbError> {
        // One wake-up is as good as many.
        let (wake, woken) = sync_channel(1);
        let watcher = Self {
            sightings: Arc::new(Slot::new()),
            wake,
            stop: Arc::new(AtomicBool::new(false)),
            threads: Mutex::new(Vec::new()),
        };
        if options.hotplug {
            let (wake, stop) = (watcher.wake.clone(), Arc::clone(&watcher.stop));
            let wake = move || {
                let _ = wake.try_send(());
            };
            watcher.spawn("usb-hotplug", move || hotplug::listen(wake, &stop))?;
        }
        let (stop, closes) = (Arc::clone(&watcher.stop), CloseOnExit(Arc::clone(&watcher.sightings)));
        watcher.spawn("usb-scan", move || run(&options, &woken, &stop, &closes.0))?;
        Ok(watcher)
    }

    /// Waits for the next change and gives the complete picture. A reader that was slow gets only the newest.
    pub fn recv(&self) -> Result<Sighting, Stopped> {
        match self.sightings.take(None) {
            Taken::Value(sighting) => Ok(sighting),
            Taken::TimedOut | Taken::Closed => Err(Stopped),
        }
    }

    /// As [`Watcher::recv`], but gives `None` when nothing changed in time.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<Sighting>, Stopped> {
        match self.sightings.take(Some(timeout)) {
            Taken::Value(sighting) => Ok(Some(sighting)),
            Taken::TimedOut => Ok(None),
            Taken::Closed => Err(Stopped),
        }
    }

    /// Asks for a scan soon, as a hotplug event does.
    pub fn rescan(&self) {
        // A full channel means that one is already asked for.
        let _ = self.wake.try_send(());
    }

    /// Ends both threads, and with them every waiting `recv`. The listener may take a second.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.rescan();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("a thread of the USB watcher panicked");
            }
        }
    }

    fn spawn(&self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), UsbError> {
        let thread = Builder::new().name(name.to_owned()).spawn(body).map_err(UsbError::Thread)?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Closes the slot however the scanning thread ends, so that no reader waits for a thread that is gone.
struct CloseOnExit(Arc<Slot<Sighting>>);

impl Drop for CloseOnExit {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn run(options: &Options, woken: &Receiver<()>, stop: &AtomicBool, sightings: &Slot<Sighting>) {
    let mut last = None;
    while !stop.load(Ordering::Acquire) {
        let now = match presence(&options.sysfs_root, &options.selectors) {
            Ok(devices) => Sighting::Devices(devices),
            Err(error) => Sighting::Unknown(error.to_string()),
        };
        if last.as_ref() != Some(&now) {
            sightings.put(now.clone());
            last = Some(now);
        }
        match woken.recv_timeout(options.rescan) {
            Ok(()) => settle(woken, options.debounce, stop),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Waits until a burst of events is over, but not for ever: a chattering hub must not hide an unplug.
fn settle(woken: &Receiver<()>, debounce: Duration, stop: &AtomicBool) {
    let begun = Instant::now();
    while begun.elapsed() < debounce * 5 && !stop.load(Ordering::Acquire) {
        if woken.recv_timeout(debounce).is_err() {
            return;
        }
    }
}
