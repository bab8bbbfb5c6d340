//! Opening a token: the one place that the agent and the command line share, so that they agree on worker, lock and
//! memory of failed PINs.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use clap::ValueEnum as _;
use hsm_store::{StoreError, SystemClock, WriterLock};
use hsm_token::pkcs11::Pkcs11Config;
use hsm_token::reader_name::usb_serial;
use hsm_token::worker::{Deadlines, WorkerConfig, WorkerProgram, WorkerToken};
use hsm_token::{ErrorClass, TokenError, TokenInfo};
use hsm_types::{Presence, TokenId};

use crate::config::Chosen;

/// How long a login waits for another program's write.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// The token worker: our own program, which logs in the form that we log in.
pub fn program() -> io::Result<WorkerProgram> {
    let mut program = WorkerProgram::current_exe()?;
    if let Some(format) = crate::log::format().and_then(|format| format.to_possible_value()) {
        program.args.push(format!("--log-format={}", format.get_name()).into());
    }
    Ok(program)
}

/// A token behind a worker process; no process is started before its `reopen`.
pub fn worker(chosen: &Chosen) -> Result<WorkerToken, TokenError> {
    let token = Pkcs11Config { module: chosen.module.clone(), token: chosen.token.clone() };
    let worker = program().map_err(|e| {
        TokenError::new(ErrorClass::Module, "open", format!("our own program is not found: {e}"))
    })?;
    let config =
        WorkerConfig { token, worker, deadlines: Deadlines::default(), pin_memory: None, opensc: None };
    WorkerToken::new(config)
}

/// The lock file of a token, the same for every program on this node.
pub fn lock_path(runtime_dir: &Path, info: &TokenInfo) -> PathBuf {
    runtime_dir.join(format!("token-{}.lock", short_name(info)))
}

/// Where the failed PINs of a token are remembered.
pub fn pin_memory_path(state_dir: &Path, info: &TokenInfo) -> PathBuf {
    state_dir.join(format!("token-{}.failed-pins", short_name(info)))
}

/// Where the logins of a hardware token are counted: they wear it, whoever restarts.
pub fn budget_path(state_dir: &Path, info: &TokenInfo) -> PathBuf {
    state_dir.join(format!("token-{}.logins", short_name(info)))
}

/// A token's name on this node, from what the module says of it: not by slot (it moves), nor by TokenId (a blank token
/// has none). Every Pico HSM has one serial: there the reader's name tells them apart, by the USB serial in it where it
/// shows one, so that a token that is plugged into another port is still the one whose PIN failed.
fn short_name(info: &TokenInfo) -> String {
    let reader = info.slot_description.as_str();
    let place = if info.software { "" } else { usb_serial(reader).unwrap_or(reader) };
    let name = format!("{}\0{}\0{}\0{place}", info.manufacturer, info.model, info.serial);
    crate::hex::text(&digest(&SHA256, name.as_bytes()).as_ref()[..8])
}

/// Does something with a PIN, alone on this node: the memory of failed PINs has one writer at a time.
pub fn with_pin<R>(
    chosen: &Chosen,
    info: &TokenInfo,
    worker: &mut WorkerToken,
    work: impl FnOnce(&mut WorkerToken) -> Result<R, TokenError>,
) -> Result<R, TokenError> {
    let lock = lock_path(&chosen.runtime_dir, info);
    let _held = WriterLock::acquire(&lock, LOCK_WAIT, &SystemClock).map_err(|error| {
        let class = match error {
            StoreError::LockHeld(_) => ErrorClass::Busy,
            _ => ErrorClass::Module,
        };
        TokenError::new(class, "login", error.to_string())
    })?;
    worker.set_pin_memory(Some(pin_memory_path(&chosen.state_dir, info)));
    work(worker)
}

/// Which token this is. Waits a while for a program that writes: SoftHSM shows an object before it has its attributes,
/// and who asks for them then spoils it for its maker. A writer that hangs keeps nobody from asking.
pub fn identify(
    chosen: &Chosen,
    info: &TokenInfo,
    worker: &mut WorkerToken,
) -> Result<Presence<TokenId>, StoreError> {
    let lock = lock_path(&chosen.runtime_dir, info);
    let _held = WriterLock::acquire(&lock, LOCK_WAIT, &SystemClock).ok();
    hsm_store::identify(worker)
}

/// Makes the folders, for their owner alone.
pub fn prepare(chosen: &Chosen) -> io::Result<()> {
    for folder in [&chosen.runtime_dir, &chosen.state_dir] {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|e| io::Error::new(e.kind(), format!("{} cannot be made: {e}", folder.display())))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_token_has_one_lock_whatever_its_slot() {
        let soft = |serial: &str, slot: u64| TokenInfo {
            serial: serial.into(),
            slot,
            slot_description: format!("SoftHSM slot ID {slot}"),
            software: true,
            ..TokenInfo::default()
        };
        let dir = Path::new("/r");
        assert_eq!(lock_path(dir, &soft("a", 1)), lock_path(dir, &soft("a", 2)));
        assert_ne!(lock_path(dir, &soft("a", 1)), lock_path(dir, &soft("b", 1)));
        let pico = |reader: &str| TokenInfo {
            serial: "ESPICOHSMTR".into(),
            slot_description: reader.into(),
            ..TokenInfo::default()
        };
        assert_ne!(lock_path(dir, &pico("Pico 00")), lock_path(dir, &pico("Pico 01")));
        assert_ne!(lock_path(dir, &pico("Pico (E6) 00 00")), lock_path(dir, &pico("Pico (E7) 00 00")));
        assert_eq!(lock_path(dir, &pico("Pico (E6) 00 00")), lock_path(dir, &pico("Pico (E6) 01 00")));
    }
}
