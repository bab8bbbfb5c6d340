//! Looking at the kubelet's plugin directory. What is there decides; inotify(7) only says when to look.

use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use futures::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchMask};

use crate::course::FileId;

/// A watch on the directory, made again whenever it is lost.
pub(crate) struct Directory {
    path: PathBuf,
    events: Option<EventStream<[u8; 4096]>>,
    complained: bool,
}

impl Directory {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, events: None, complained: false }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn kubelet_socket(&self) -> PathBuf {
        self.path.join("kubelet.sock")
    }

    /// Watches if it can. Call it before looking, so that nothing happens between the two unnoticed.
    pub(crate) fn arm(&mut self) {
        if self.events.is_some() {
            return;
        }
        match watch(&self.path) {
            Ok(events) => (self.events, self.complained) = (Some(events), false),
            // No directory yet, or the machine is out of inotify instances: the poll serves.
            Err(error) if !self.complained => {
                tracing::warn!(directory = %self.path.display(), %error, "The plugin directory cannot be watched and is polled");
                self.complained = true;
            }
            Err(_) => {}
        }
    }

    /// Waits for the next event; for ever if the directory is not watched.
    pub(crate) async fn changed(&mut self) {
        let Some(events) = &mut self.events else { return std::future::pending().await };
        // IGNORED: the directory itself is gone, and with it the watch.
        let lost = !matches!(events.next().await, Some(Ok(event)) if !event.mask.intersects(GONE));
        if lost {
            self.events = None;
        }
    }
}

const GONE: EventMask = EventMask::IGNORED.union(EventMask::MOVE_SELF);

fn watch(path: &Path) -> io::Result<EventStream<[u8; 4096]>> {
    let inotify = Inotify::init()?;
    let mask =
        WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE | WatchMask::MOVE_SELF | WatchMask::ONLYDIR;
    inotify.watches().add(path, mask)?;
    inotify.into_event_stream([0; 4096])
}

/// The socket at a path; `None` if there is none.
pub(crate) async fn socket_at(path: &Path) -> io::Result<Option<FileId>> {
    match tokio::fs::symlink_metadata(path).await {
        Ok(metadata) if metadata.file_type().is_socket() => Ok(Some(identity(&metadata))),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn identity(metadata: &Metadata) -> FileId {
    FileId {
        device: metadata.dev(),
        inode: metadata.ino(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    }
}
