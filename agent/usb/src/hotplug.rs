//! The hotplug listener: wakes a scan when libusb says that something came or went.
//!
//! Only a context of our own is used: rusb's free functions panic on a machine without a USB bus. Where the bus or
//! libusb's hotplug support is missing the listener tries again from time to time, and the scan's own floor serves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rusb::{Context, Device, Hotplug, HotplugBuilder, UsbContext};

/// How long the listener waits before it looks for a bus again.
const RETRY: Duration = Duration::from_mins(1);
/// How long libusb may hold the thread before the stop flag is looked at.
const TURN: Duration = Duration::from_secs(1);

struct Wake<F>(F);

impl<F: Fn() + Send> Hotplug<Context> for Wake<F> {
    fn device_arrived(&mut self, _: Device<Context>) {
        (self.0)();
    }

    fn device_left(&mut self, _: Device<Context>) {
        (self.0)();
    }
}

/// Listens until `stop` is set; whoever sets it should unpark the thread.
pub(crate) fn listen(wake: impl Fn() + Send + Clone + 'static, stop: &Arc<AtomicBool>) {
    let mut said = None;
    while !stop.load(Ordering::Acquire) {
        let Err(error) = session(wake.clone(), stop) else { return };
        if said != Some(error) {
            tracing::info!(%error, "USB hotplug is not available; the periodic scan serves");
            said = Some(error);
        }
        thread::park_timeout(RETRY);
    }
}

fn session(wake: impl Fn() + Send + 'static, stop: &AtomicBool) -> rusb::Result<()> {
    let context = Context::new()?;
    let registration = HotplugBuilder::new().register(&context, Box::new(Wake(wake)))?;
    tracing::debug!("USB hotplug is listening");
    while !stop.load(Ordering::Acquire) {
        match context.handle_events(Some(TURN)) {
            Ok(()) | Err(rusb::Error::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    drop(registration);
    Ok(())
}
