//! What the HSMDevices say for this node, kept so that it is there before any controller is.

use std::io;
use std::path::{Path, PathBuf};

use hsm_proto::agent::ConfigureRequest;
use prost::Message as _;
use tokio::sync::watch;

use super::{read_if_there, write_atomic};

/// Why a configuration was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigureError {
    /// A newer one is kept.
    #[error("generation {given} is older than the kept generation {kept}")]
    Older {
        /// The kept one.
        kept: u64,
        /// The call's.
        given: u64,
    },
    /// The same generation says something else.
    #[error("generation {0} was given before with other devices; count it up with every change")]
    Changed(u64),
    /// It could not be kept.
    #[error("the configuration could not be stored on the node ({0}); check --state-dir")]
    Io(#[from] io::Error),
}

/// The kept configuration and those who follow it.
pub struct Configured {
    path: PathBuf,
    current: watch::Sender<ConfigureRequest>,
}

impl Configured {
    /// Reads the kept configuration. One that cannot be understood counts as none: the controller sends it again.
    pub fn load(state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join("configure.pb");
        let kept = match read_if_there(&path)? {
            Some(bytes) => ConfigureRequest::decode(bytes.as_slice()).unwrap_or_else(|error| {
                tracing::warn!(%error, "The kept configuration is damaged; waiting for the controller to send it again.");
                ConfigureRequest::default()
            }),
            None => ConfigureRequest::default(),
        };
        Ok(Self { path, current: watch::Sender::new(kept) })
    }

    /// Takes a configuration: the same again is accepted, an older one is not. Another lease uid is another cluster
    /// or a rebuilt one; its count starts anew.
    pub fn apply(&self, request: ConfigureRequest) -> Result<u64, ConfigureError> {
        let mut outcome = Ok(request.generation);
        self.current.send_if_modified(|kept| {
            match decide(kept, &request) {
                Ok(false) => return false,
                Ok(true) => {}
                Err(refused) => {
                    outcome = Err(refused);
                    return false;
                }
            }
            if let Err(error) = write_atomic(&self.path, &request.encode_to_vec()) {
                outcome = Err(error.into());
                return false;
            }
            *kept = request;
            true
        });
        outcome
    }

    /// The configuration now, and each later one.
    pub fn subscribe(&self) -> watch::Receiver<ConfigureRequest> {
        self.current.subscribe()
    }
}

/// Whether the new configuration replaces the kept one.
fn decide(kept: &ConfigureRequest, new: &ConfigureRequest) -> Result<bool, ConfigureError> {
    if new == kept {
        return Ok(false);
    }
    if new.lease_uid == kept.lease_uid {
        if new.generation < kept.generation {
            return Err(ConfigureError::Older { kept: kept.generation, given: new.generation });
        }
        if new.generation == kept.generation && *kept != ConfigureRequest::default() {
            return Err(ConfigureError::Changed(new.generation));
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hsm_proto::agent::DeviceConfig;

    fn request(lease: &str, generation: u64, name: &str) -> ConfigureRequest {
        ConfigureRequest {
            generation,
            lease_uid: lease.into(),
            devices: vec![DeviceConfig { name: name.into(), ..DeviceConfig::default() }],
        }
    }

    #[test]
    fn configurations_are_ordered_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let configured = Configured::load(dir.path()).unwrap();
        assert_eq!(configured.apply(request("a", 2, "x")).unwrap(), 2);
        assert_eq!(configured.apply(request("a", 2, "x")).unwrap(), 2, "idempotent");
        let again = Configured::load(dir.path()).unwrap();
        assert_eq!(again.subscribe().borrow().devices[0].name, "x");
        assert!(matches!(
            again.apply(request("a", 1, "x")),
            Err(ConfigureError::Older { kept: 2, given: 1 })
        ));
        assert!(matches!(again.apply(request("a", 2, "y")), Err(ConfigureError::Changed(2))));
        assert_eq!(again.apply(request("b", 1, "z")).unwrap(), 1, "a rebuilt cluster counts anew");
    }

    #[test]
    fn a_damaged_copy_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("configure.pb"), [0xff; 9]).unwrap();
        let configured = Configured::load(dir.path()).unwrap();
        assert_eq!(configured.subscribe().borrow().generation, 0);
    }
}
