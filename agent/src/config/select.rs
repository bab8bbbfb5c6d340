//! Which token, and where its PIN is: the flags that `run` and `token` share.

use std::path::PathBuf;

use hsm_token::pkcs11::TokenSelector;
use hsm_types::TokenId;

use super::ConfigError;

/// The flags that name a token.
#[derive(Debug, Clone, clap::Args)]
pub struct SelectArgs {
    /// The PKCS#11 module, for example /usr/lib/softhsm/libsofthsm2.so
    #[arg(long, global = true, env = "HSM_MODULE", value_name = "FILE")]
    pub module: Option<PathBuf>,
    /// The token with this identity (a UUID, as `token info` prints it), wherever the module shows it
    #[arg(long, global = true, value_name = "ID")]
    pub token_id: Option<String>,
    /// The token with this PKCS#11 label
    #[arg(long, global = true, env = "HSM_TOKEN_LABEL", value_name = "LABEL")]
    pub token_label: Option<String>,
    /// The token in this slot
    #[arg(long, global = true, value_name = "N")]
    pub slot: Option<u64>,
    /// The token in the reader with this name, as `token info` prints it
    #[arg(long, global = true, value_name = "NAME")]
    pub reader: Option<String>,
    /// The file that holds the token's PIN
    #[arg(long, global = true, env = "HSM_PIN_FILE", value_name = "FILE")]
    pub pin_file: Option<PathBuf>,
    /// Where the locks lie that keep the agent and the command line apart
    #[arg(long, global = true, env = "HSM_RUNTIME_DIR", value_name = "DIR")]
    pub runtime_dir: Option<PathBuf>,
    /// Where failed PINs are remembered (as salted digests), so that none is tried twice
    #[arg(long, global = true, env = "HSM_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

/// The selection after validation.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// The PKCS#11 module's file. It need not exist yet.
    pub module: PathBuf,
    /// Which token of it.
    pub token: TokenSelector,
    /// The identity that the token must have, if one was named.
    pub token_id: Option<TokenId>,
    /// The PIN's file.
    pub pin_file: Option<PathBuf>,
    /// The locks' folder.
    pub runtime_dir: PathBuf,
    /// The folder of what must survive a restart.
    pub state_dir: PathBuf,
}

impl SelectArgs {
    /// Validates. Touches no file beyond asking whether a default folder can be used.
    pub fn choose(&self) -> Result<Chosen, ConfigError> {
        let module = self.module.clone().ok_or_else(|| {
            ConfigError::new(
                "no PKCS#11 module is named; give --module FILE or set HSM_MODULE \
                 (SoftHSM: /usr/lib/softhsm/libsofthsm2.so, smart cards: opensc-pkcs11.so)",
            )
        })?;
        if module.as_os_str().is_empty() || !module.is_absolute() {
            return Err(ConfigError::new(format!(
                "--module {} must be an absolute path, so that no library of that name elsewhere is loaded",
                module.display()
            )));
        }
        let token = self.selector()?;
        let token_id = self
            .token_id
            .as_deref()
            .map(|t| t.parse().map_err(|e| ConfigError::new(format!("--token-id: {e}"))))
            .transpose()?;
        Ok(Chosen {
            module,
            token,
            token_id,
            pin_file: self.pin_file.clone().filter(|p| !p.as_os_str().is_empty()),
            runtime_dir: folder(self.runtime_dir.as_ref(), "/run/hsm-agent", "XDG_RUNTIME_DIR")?,
            state_dir: self.state_dir()?,
        })
    }

    /// The folder of what must survive a restart; for what needs no token.
    pub fn state_dir(&self) -> Result<PathBuf, ConfigError> {
        folder(self.state_dir.as_ref(), "/var/lib/hsm-agent", "XDG_STATE_HOME")
    }

    fn selector(&self) -> Result<TokenSelector, ConfigError> {
        let label = self.token_label.clone().filter(|l| !l.is_empty());
        let reader = self.reader.as_deref().map(str::trim).filter(|r| !r.is_empty());
        match (label, self.slot, reader) {
            (None, None, None) => Ok(TokenSelector::Only),
            (Some(label), None, None) if label.len() > 32 => Err(ConfigError::new(format!(
                "--token-label {label:?} is longer than the 32 bytes of a PKCS#11 label"
            ))),
            (Some(label), None, None) => Ok(TokenSelector::Label(label)),
            (None, Some(slot), None) => Ok(TokenSelector::Slot(slot)),
            (None, None, Some(reader)) => Ok(TokenSelector::Reader(reader.to_owned())),
            _ => Err(ConfigError::new(
                "--token-label (HSM_TOKEN_LABEL), --slot and --reader all name the token; give one of them",
            )),
        }
    }
}

/// The folder that was named; else the system's, if we may write it; else the person's own.
fn folder(named: Option<&PathBuf>, system: &str, variable: &str) -> Result<PathBuf, ConfigError> {
    if let Some(named) = named.filter(|p| !p.as_os_str().is_empty()) {
        return Ok(named.clone());
    }
    let writable = |path: &PathBuf| {
        std::fs::create_dir_all(path).is_ok()
            && nix::unistd::access(path.as_path(), nix::unistd::AccessFlags::W_OK).is_ok()
    };
    let own = std::env::var_os(variable)
        .filter(|v| !v.is_empty())
        .map(|v| PathBuf::from(v).join("hsm-agent"))
        .or_else(|| {
            let home = std::env::var_os("HOME").filter(|v| !v.is_empty())?;
            Some(PathBuf::from(home).join(".local/state/hsm-agent"))
        });
    [Some(PathBuf::from(system)), own]
        .into_iter()
        .flatten()
        .find(writable)
        .ok_or_else(|| {
            ConfigError::new(format!(
                "neither {system} nor a folder of this user can be written; name one with --runtime-dir and --state-dir"
            ))
        })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn args() -> SelectArgs {
        SelectArgs {
            module: Some("/m.so".into()),
            token_id: None,
            token_label: None,
            slot: None,
            reader: None,
            pin_file: None,
            runtime_dir: Some("/r".into()),
            state_dir: Some("/s".into()),
        }
    }

    fn error(args: &SelectArgs) -> String {
        args.choose().map(|_| ()).unwrap_err().0
    }

    #[test]
    fn a_token_is_named_in_one_way() {
        assert_eq!(args().choose().unwrap().token, TokenSelector::Only);
        let both = SelectArgs { token_label: Some("a".into()), slot: Some(1), ..args() };
        assert!(error(&both).contains("give one of them"));
        let reader = SelectArgs { reader: Some("Pico (E6) 00 00".into()), ..args() };
        assert_eq!(reader.choose().unwrap().token, TokenSelector::Reader("Pico (E6) 00 00".into()));
        let two = SelectArgs { slot: Some(1), ..reader };
        assert!(error(&two).contains("give one of them"));
        let none = SelectArgs { module: None, ..args() };
        assert!(error(&none).contains("HSM_MODULE"));
        let relative = SelectArgs { module: Some("m.so".into()), ..args() };
        assert!(error(&relative).contains("absolute"));
        let id = SelectArgs { token_id: Some("x".into()), ..args() };
        assert!(error(&id).contains("UUID"));
    }

    #[test]
    fn empty_variables_count_as_unset() {
        let empty = SelectArgs { token_label: Some(String::new()), pin_file: Some("".into()), ..args() };
        let chosen = empty.choose().unwrap();
        assert_eq!(chosen.token, TokenSelector::Only);
        assert_eq!(chosen.pin_file, None);
    }
}
