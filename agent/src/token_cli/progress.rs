//! How far bulk work has come: one line on stderr, only where a person looks at it.

use std::io::{IsTerminal as _, Write as _, stderr};

/// The line. It goes when this is dropped.
pub(super) struct Progress {
    what: &'static str,
    done: usize,
    all: usize,
    shown: bool,
}

impl Progress {
    pub(super) fn new(what: &'static str, all: usize) -> Self {
        Self { what, done: 0, all, shown: all > 1 && stderr().is_terminal() }
    }

    /// One more is done.
    pub(super) fn step(&mut self) {
        self.done += 1;
        if self.shown {
            drop(write!(stderr().lock(), "\r{} {} of {}\x1b[K", self.what, self.done, self.all));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            drop(write!(stderr().lock(), "\r\x1b[K"));
        }
    }
}
