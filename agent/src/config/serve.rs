//! Which tokens `run` serves: several side by side, each named by one flag.

use std::path::PathBuf;
use std::time::Duration;

use hsm_token::pkcs11::TokenSelector;
use hsm_token::reader_name::usb_serial;

use super::{Chosen, ConfigError, SelectArgs, parse_duration};

/// The flags that name the tokens of a node.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeArgs {
    /// The PKCS#11 module, for example /usr/lib/softhsm/libsofthsm2.so
    #[arg(long, env = "HSM_MODULE", value_name = "FILE")]
    pub module: Option<PathBuf>,
    /// The token with this identity (a UUID, as `token doctor` prints it); only where one token is served
    #[arg(long, value_name = "ID")]
    pub token_id: Option<String>,
    /// The token with this PKCS#11 label; may be given again for each token
    #[arg(long, env = "HSM_TOKEN_LABEL", value_name = "LABEL")]
    pub token_label: Vec<String>,
    /// The token in this slot; may be given again for each token
    #[arg(long, value_name = "N")]
    pub slot: Vec<u64>,
    /// The token in this PC/SC reader; may be given again for each token. Two hardware tokens need it: all Pico HSMs
    /// have one label and one serial
    #[arg(long, value_name = "NAME")]
    pub reader: Vec<String>,
    /// A PC/SC reader that is somebody else's, so that it is left alone; may be given again
    #[arg(long, value_name = "NAME")]
    pub ignore_reader: Vec<String>,
    /// Let other programs on this node reach the hardware tokens too, instead of connecting exclusively
    #[arg(long)]
    pub shared_reader: bool,
    /// How often the records of a token in a shared reader are read anew
    #[arg(long, default_value = "24h", value_parser = parse_duration, value_name = "TIME")]
    pub reread_interval: Duration,
    /// The file that holds the PIN of every token, or a folder with a file for each: named by its TokenId, its label or
    /// its reader (with _ for what is no letter, digit, dot, dash or underscore)
    #[arg(long, env = "HSM_PIN_FILE", value_name = "FILE|DIR")]
    pub pin_file: Option<PathBuf>,
    /// Where the locks lie that keep the agent and the command line apart
    #[arg(long, env = "HSM_RUNTIME_DIR", value_name = "DIR")]
    pub runtime_dir: Option<PathBuf>,
    /// What is kept over restarts: admitted tokens, failed PINs (as salted digests), fences
    #[arg(long, env = "HSM_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

impl ServeArgs {
    /// One for each token that is named; the only token of the module where none is.
    pub fn choose(&self) -> Result<Vec<Chosen>, ConfigError> {
        let base = || SelectArgs {
            module: self.module.clone(),
            token_id: self.token_id.clone(),
            token_label: None,
            slot: None,
            reader: None,
            pin_file: self.pin_file.clone(),
            runtime_dir: self.runtime_dir.clone(),
            state_dir: self.state_dir.clone(),
        };
        let labels = self.token_label.iter().filter(|label| !label.is_empty());
        let labels = labels.map(|label| SelectArgs { token_label: Some(label.clone()), ..base() });
        let slots = self.slot.iter().map(|slot| SelectArgs { slot: Some(*slot), ..base() });
        let named: Vec<SelectArgs> = labels.chain(slots).collect();
        let mut chosen = named.iter().map(SelectArgs::choose).collect::<Result<Vec<Chosen>, _>>()?;
        for reader in self.reader.iter().filter(|reader| !reader.trim().is_empty()) {
            chosen.push(Chosen { token: TokenSelector::Reader(reader.clone()), ..base().choose()? });
        }
        if chosen.is_empty() {
            chosen.push(base().choose()?);
        }
        if self.token_id.is_some() && chosen.len() > 1 {
            return Err(ConfigError::new(format!(
                "--token-id names one token, and {} are to be served; leave it out, or name one token",
                chosen.len()
            )));
        }
        for (n, one) in chosen.iter().enumerate() {
            if chosen[..n].iter().any(|other| same(&other.token, &one.token)) {
                return Err(ConfigError::new(format!("the {} is named twice; name it once", one.token)));
            }
        }
        Ok(chosen)
    }
}

/// Whether both name one token for sure.
fn same(one: &TokenSelector, other: &TokenSelector) -> bool {
    match (one, other) {
        (TokenSelector::Reader(one), TokenSelector::Reader(other)) => {
            one.trim() == other.trim() || (usb_serial(one).is_some() && usb_serial(one) == usb_serial(other))
        }
        _ => one == other,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn args() -> ServeArgs {
        ServeArgs {
            module: Some("/m.so".into()),
            token_id: None,
            token_label: Vec::new(),
            slot: Vec::new(),
            reader: Vec::new(),
            ignore_reader: Vec::new(),
            shared_reader: false,
            reread_interval: Duration::from_hours(24),
            pin_file: None,
            runtime_dir: Some("/r".into()),
            state_dir: Some("/s".into()),
        }
    }

    fn tokens(args: &ServeArgs) -> Vec<TokenSelector> {
        args.choose().unwrap().into_iter().map(|chosen| chosen.token).collect()
    }

    #[test]
    fn each_flag_names_a_token() {
        use TokenSelector as T;
        assert_eq!(tokens(&args()), [T::Only]);
        let empty = ServeArgs { token_label: vec![String::new()], ..args() };
        assert_eq!(tokens(&empty), [T::Only], "an empty variable counts as unset");
        let several = ServeArgs { token_label: vec!["a".into(), "b".into()], slot: vec![7], ..args() };
        assert_eq!(tokens(&several), [T::Label("a".into()), T::Label("b".into()), T::Slot(7)]);
        let readers =
            ServeArgs { reader: vec!["Pico (E6) 00 00".into(), "Pico (E7) 01 00".into()], ..args() };
        assert_eq!(
            tokens(&readers),
            [T::Reader("Pico (E6) 00 00".into()), T::Reader("Pico (E7) 01 00".into())]
        );
    }

    #[test]
    fn no_token_is_named_twice_nor_two_by_one_id() {
        let error = |args: ServeArgs| args.choose().map(|_| ()).unwrap_err().0;
        assert!(error(ServeArgs { slot: vec![1, 1], ..args() }).contains("named twice"));
        let readers = vec!["Pico (E6) 00 00".into(), "Pico (E6) 01 00".into()];
        assert!(error(ServeArgs { reader: readers, ..args() }).contains("named twice"), "one device");
        let id = Some("6f9b2d1e-8c3a-4e57-9b1d-0a2f4c6e8d10".to_owned());
        let two = ServeArgs { token_id: id.clone(), slot: vec![1, 2], ..args() };
        assert!(error(two).contains("--token-id"));
        assert!(ServeArgs { token_id: id, slot: vec![1], ..args() }.choose().is_ok());
    }
}
