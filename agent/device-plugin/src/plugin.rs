//! The supervision: looks, decides by [`Course`], binds and registers, and ends with a reason.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::course::{Course, FileId, Pace, Seen, Step};
use crate::device::shown;
use crate::directory::{Directory, socket_at};
use crate::register::register;
use crate::service::Service;
use crate::serving::{Ended, Serving};
use crate::{Allocator, Health, Inventory, NoObserver, Observer, Settings};

/// Why the plugin ended by itself. Each is a bug or a lost part: the process should end with it and start anew.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// Whoever knows the devices is gone.
    #[error("the inventory of devices is closed")]
    InventoryClosed,
    /// The server of the registered socket ended.
    #[error("the device plugin's server ended: {0:?}")]
    ServerEnded(Option<tonic::transport::Error>),
    /// A task panicked.
    #[error("a task of the device plugin ended: {0}")]
    TaskEnded(#[from] JoinError),
}

/// A device plugin for one resource.
pub struct Plugin {
    settings: Settings,
    inventory: Inventory,
    allocator: Arc<dyn Allocator>,
    observer: Arc<dyn Observer>,
    directory: Directory,
    course: Course,
    pace: Pace,
    tasks: JoinSet<Ended>,
    /// The registered server.
    current: Option<Serving>,
    number: u64,
    silent_since: Option<Instant>,
    needed_since: Option<Instant>,
    unreadable: bool,
}

impl Plugin {
    /// A plugin that offers what the inventory shows.
    pub fn new(settings: Settings, inventory: Inventory, allocator: Arc<dyn Allocator>) -> Self {
        let pace = Pace {
            first: settings.retry,
            longest: settings.retry_longest,
            silence: settings.silence,
            steady: Duration::from_mins(1),
        };
        Self {
            directory: Directory::new(settings.directory.clone()),
            settings,
            inventory,
            allocator,
            observer: Arc::new(NoObserver),
            course: Course::default(),
            pace,
            tasks: JoinSet::new(),
            current: None,
            number: 0,
            silent_since: None,
            needed_since: None,
            unreadable: false,
        }
    }

    /// Tells the observer what happens.
    #[must_use]
    pub fn observed_by(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// Serves and stays registered until `shutdown`, then ends the streams and removes its sockets.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), PluginError> {
        let outcome = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            outcome = self.supervise() => outcome.map(|never| match never {}),
        };
        self.current = None;
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(self.settings.drain, drained).await.is_err() {
            tracing::debug!("A connection of the kubelet is cut after the time to drain");
        }
        self.tasks.shutdown().await;
        outcome
    }

    async fn supervise(&mut self) -> Result<Infallible, PluginError> {
        self.count();
        loop {
            self.directory.arm();
            let step = match self.look().await {
                Ok(seen) => {
                    self.unreadable = false;
                    self.course.next(&self.pace, &seen, Instant::now())
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.unreadable, true) {
                        tracing::warn!(%error, "The plugin directory cannot be read");
                    }
                    // Not knowing is no reason to act.
                    Step::Wait(None)
                }
            };
            match step {
                Step::Offer(kubelet) => self.offer(kubelet).await,
                Step::Wait(limit) => self.wait(limit).await?,
            }
        }
    }

    async fn look(&mut self) -> io::Result<Seen> {
        let ours = match &self.current {
            Some(current) => current.is_in_place().await?,
            None => false,
        };
        let streams = self.current.as_ref().map_or(0, |current| *current.streams.borrow());
        self.silent_since = (streams == 0).then(|| self.silent_since.unwrap_or_else(Instant::now));
        let kubelet = socket_at(&self.directory.kubelet_socket()).await?;
        Ok(Seen { kubelet, ours, silent_since: self.silent_since })
    }

    /// Binds a fresh socket and registers it. The one before serves on until the new one is accepted.
    async fn offer(&mut self, kubelet: FileId) {
        let needed = *self.needed_since.get_or_insert_with(Instant::now);
        let registered = match self.bind() {
            Ok(serving) => {
                let path = self.directory.kubelet_socket();
                let endpoint = serving.endpoint.clone();
                register(&path, endpoint, &self.settings.resource, self.settings.register_limit)
                    .await
                    .map(|()| serving)
                    .map_err(|error| error.to_string())
            }
            Err(error) => Err(format!("cannot bind a socket: {error}")),
        };
        let accepted = registered.is_ok();
        self.observer.registration(accepted, needed.elapsed());
        match registered {
            Ok(serving) => {
                tracing::info!(resource = %self.settings.resource, endpoint = serving.endpoint, "Registered with the kubelet");
                self.current = Some(serving);
                self.silent_since = None;
                self.needed_since = None;
            }
            Err(reason) => {
                tracing::warn!(resource = %self.settings.resource, reason, "The kubelet did not take the registration");
            }
        }
        self.course.tried(&self.pace, kubelet, accepted, Instant::now());
    }

    fn bind(&mut self) -> io::Result<Serving> {
        self.number += 1;
        let Settings { resource, instance, .. } = &self.settings;
        let endpoint = format!("{}-{instance}-{}.sock", resource.stem(), self.number);
        let service = |streams, stop| Service {
            inventory: self.inventory.clone(),
            allocator: Arc::clone(&self.allocator),
            observer: Arc::clone(&self.observer),
            streams,
            stop,
        };
        Serving::start(self.directory.path(), self.number, endpoint, service, &mut self.tasks)
    }

    /// Waits until it is worth looking again.
    async fn wait(&mut self, limit: Option<Duration>) -> Result<(), PluginError> {
        let current = self.current.as_ref().map(|current| current.number);
        let streams = self.current.as_mut().map(|current| &mut current.streams);
        let streams_changed = async {
            let changed = match streams {
                Some(streams) => streams.changed().await.is_ok(),
                None => false,
            };
            // An error means that the server is gone, which its task tells.
            if !changed {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.directory.changed() => {}
            () = streams_changed => {}
            () = tokio::time::sleep(limit.unwrap_or(self.settings.poll).min(self.settings.poll)) => {}
            changed = self.inventory.changed() => {
                changed.map_err(|_| PluginError::InventoryClosed)?;
                self.count();
            }
            Some(ended) = self.tasks.join_next() => {
                let (number, result) = ended?;
                // A server that was replaced ends in peace.
                if Some(number) == current {
                    return Err(PluginError::ServerEnded(result.err()));
                }
            }
        }
        Ok(())
    }

    fn count(&mut self) {
        let devices = shown(&self.inventory.borrow_and_update());
        let healthy = devices.iter().filter(|device| device.health == Health::Healthy).count();
        self.observer.devices(healthy, devices.len() - healthy);
    }
}
