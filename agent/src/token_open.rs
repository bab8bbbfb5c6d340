//! Opening a token: the one place that the agent and the command line share, so that they agree on worker, lock and
//! memory of failed PINs.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use hsm_token::TokenInfo;

use crate::config::Chosen;

/// The lock file of a token: named by what the module says of it, the same for every program on this node.
///
/// Not by slot (it moves), nor by TokenId (a blank token has none). Every Pico HSM has one serial: there the reader's
/// name tells them apart.
pub fn lock_path(runtime_dir: &Path, info: &TokenInfo) -> PathBuf {
    let place = if info.software { "" } else { info.slot_description.as_str() };
    let name = format!("{}\0{}\0{}\0{place}", info.manufacturer, info.model, info.serial);
    let hash = digest(&SHA256, name.as_bytes());
    let short: String = hash.as_ref().iter().take(8).map(|b| format!("{b:02x}")).collect();
    runtime_dir.join(format!("token-{short}.lock"))
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
    }
}
