//! What happened, for whoever counts it.

use std::time::Duration;

/// Is told what the plugin does; every method does nothing unless it is written. Called on the way: be quick.
pub trait Observer: Send + Sync + 'static {
    /// A registration was tried; `delay` is the time since the kubelet was first seen to need it.
    fn registration(&self, accepted: bool, delay: Duration) {
        let _ = (accepted, delay);
    }

    /// The devices that are shown now.
    fn devices(&self, healthy: usize, unhealthy: usize) {
        let _ = (healthy, unhealthy);
    }

    /// An Allocate call was answered.
    fn allocation(&self, granted: bool, took: Duration) {
        let _ = (granted, took);
    }
}

/// Counts nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl Observer for NoObserver {}
