//! Our own programs as child processes.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A child process whose output goes to a file; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output appended to `log`.
    ///
    /// # Errors
    /// If the program or the log cannot be opened.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log).context("opening the log")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {command:?}; was the workspace built?"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until `GET url` answers 200.
    ///
    /// # Errors
    /// If it ends before, or does not answer in time; the text holds the end of its log.
    pub fn wait_ready(&mut self, address: &str, path: &str) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(30);
        while http_status(address, path) != Some(200) {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status} before it was ready:\n{}", self.log());
            }
            if Instant::now() > end {
                bail!("not ready after 30 s:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits; gives its exit code.
    ///
    /// # Errors
    /// If it is still there after 30 s.
    pub fn terminate(mut self) -> Result<Option<i32>> {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().context("kill")?;
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            if Instant::now() > end {
                bail!("process {pid} ignored SIGTERM for 30 s:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone is fine: what matters is that it is gone, and reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The status code of a plain `GET`, if anything answers.
pub(crate) fn http_status(address: &str, path: &str) -> Option<u16> {
    http_get(address, path).ok().map(|(status, _)| status)
}

/// A plain `GET`: status code and body.
pub(crate) fn http_get(address: &str, path: &str) -> Result<(u16, String)> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no status line")?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Ok((status, body))
}

/// A TCP port on loopback that was free a moment ago.
///
/// # Errors
/// If there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// One of our programs, as `cargo build --workspace` leaves it beside the tests.
///
/// # Errors
/// If it is not there; the text says what to run.
pub fn program(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    // A test lies in the folder `deps` beside our programs, a program lies with them.
    test.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.exists()).with_context(
        || format!("{name} is not beside {}; run `cargo build --workspace` first", test.display()),
    )
}
