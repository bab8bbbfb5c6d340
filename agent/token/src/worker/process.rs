//! One child process, from its start until it is reaped.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::config::WorkerProgram;
use super::frame::{Waited, receive_until, send};
use super::messages::{Request, Response};

/// A running child. Dropping it kills and reaps it: none is ever left behind.
pub(super) struct Process {
    child: Child,
    socket: UnixStream,
}

impl Process {
    /// Starts the program with one end of a socket pair as its standard input. Its standard error is ours, its
    /// standard output nobody's. A process group of its own keeps a Ctrl-C at the terminal from it.
    pub(super) fn start(program: &WorkerProgram) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = Command::new(&program.program)
            .args(&program.args)
            // With it OpenSC writes every APDU, and so the PIN, to our log.
            .env_remove("OPENSC_DEBUG")
            // mallopt(3) M_PERTURB: glibc overwrites what is freed, also in libraries that do not wipe. With this byte
            // it hands out zeroes, so that a module with a lucky bug stays lucky.
            .env("MALLOC_PERTURB_", "255")
            .envs(program.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { child, socket: ours })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub(super) fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a request; an error means that it did not go out whole, so that the child cannot have acted on it.
    pub(super) fn send(&mut self, request: &Request, limit: Duration) -> io::Result<()> {
        self.socket.set_write_timeout(Some(limit.max(Duration::from_millis(1))))?;
        send(&mut self.socket, request)
    }

    /// Waits for the answer to this request; answers to others are discarded.
    pub(super) fn receive(&mut self, id: u64, mut deadline: impl FnMut() -> Instant) -> Waited<Response> {
        loop {
            match receive_until::<Response>(&mut self.socket, &mut deadline) {
                Waited::Message(response) if response.id != id => {}
                waited => return waited,
            }
        }
    }

    /// Closes the socket, so that the child finalises the module and ends; kills it where it does not.
    pub(super) fn shut_down(mut self, limit: Duration) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let deadline = Instant::now() + limit;
        while !self.ended() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both do nothing to a child that was reaped; `Child` never signals a pid that is no longer its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
