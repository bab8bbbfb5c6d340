//! A channel that keeps only the newest value: a slow reader misses lists, never the last one.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is in the slot, and whether more may come.
#[derive(Debug)]
struct Content<T> {
    value: Option<T>,
    closed: bool,
}

#[derive(Debug)]
pub(crate) struct Slot<T> {
    content: Mutex<Content<T>>,
    changed: Condvar,
}

/// What waiting for a value came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken<T> {
    Value(T),
    TimedOut,
    Closed,
}

impl<T> Slot<T> {
    pub(crate) fn new() -> Self {
        Self { content: Mutex::new(Content { value: None, closed: false }), changed: Condvar::new() }
    }

    /// Replaces whatever nobody has taken.
    pub(crate) fn put(&self, value: T) {
        self.lock().value = Some(value);
        self.changed.notify_one();
    }

    /// No value will come any more.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits for a value; one that was put before the slot was closed is still handed out.
    pub(crate) fn take(&self, timeout: Option<Duration>) -> Taken<T> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut content = self.lock();
        loop {
            if let Some(value) = content.value.take() {
                return Taken::Value(value);
            }
            if content.closed {
                return Taken::Closed;
            }
            content = match deadline {
                None => self.changed.wait(content).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Taken::TimedOut;
                    }
                    let waited = self.changed.wait_timeout(content, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    // Every critical section leaves the content whole, so a poisoned lock protects nothing.
    fn lock(&self) -> MutexGuard<'_, Content<T>> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_value_replaces_what_nobody_took_and_survives_the_close() {
        let slot = Slot::new();
        assert_eq!(slot.take(Some(Duration::ZERO)), Taken::TimedOut);
        slot.put(1);
        slot.put(2);
        slot.close();
        assert_eq!(slot.take(None), Taken::Value(2));
        assert_eq!(slot.take(None), Taken::Closed);
    }
}
