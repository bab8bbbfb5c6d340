//! What ties a TokenId to the thing that carries it. A TokenId is one public object: anything on the bus may claim it.

use std::fmt;
use std::str::FromStr;

use hsm_token::TokenInfo;
use hsm_token::reader_name::{usb_serial, without_numbers};
use hsm_types::UsbSerial;

/// What a token is recognised by before it is given a PIN.
///
/// The text form is `serial:…`, `usb:…` or `reader:…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tie {
    /// The PKCS#11 serial: of a software token only, since every Pico HSM has the same.
    Serial(String),
    /// The USB serial that the reader's name shows.
    Usb(UsbSerial),
    /// The reader's name without its numbers, where it shows no serial: weaker, two readers of one kind are alike.
    Reader(String),
}

impl Tie {
    /// What ties the token that the module describes so.
    pub fn of(info: &TokenInfo) -> Self {
        if info.software {
            return Self::Serial(info.serial.clone());
        }
        match usb_serial(&info.slot_description).and_then(UsbSerial::new) {
            Some(serial) => Self::Usb(serial),
            None => Self::Reader(without_numbers(&info.slot_description).to_owned()),
        }
    }

    /// The USB serial, where there is one.
    pub const fn usb(&self) -> Option<&UsbSerial> {
        match self {
            Self::Usb(serial) => Some(serial),
            Self::Serial(_) | Self::Reader(_) => None,
        }
    }
}

impl fmt::Display for Tie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial(serial) => write!(f, "serial:{serial}"),
            Self::Usb(serial) => write!(f, "usb:{}", serial.as_str()),
            Self::Reader(name) => write!(f, "reader:{name}"),
        }
    }
}

impl FromStr for Tie {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not serial:TEXT, usb:TEXT or reader:TEXT");
        match text.split_once(':').ok_or_else(bad)? {
            ("serial", serial) => Ok(Self::Serial(serial.to_owned())),
            ("usb", serial) => UsbSerial::new(serial).map(Self::Usb).ok_or_else(bad),
            ("reader", name) => Ok(Self::Reader(name.to_owned())),
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_is_tied_to_its_device_and_software_to_its_serial() {
        let hardware = |reader: &str| {
            let serial = "ESPICOHSMTR".to_owned();
            Tie::of(&TokenInfo { serial, slot_description: reader.into(), ..TokenInfo::default() })
        };
        assert_eq!(hardware("Pico (E6) 00 00"), hardware("Pico (E6) 01 00"), "another port");
        assert_ne!(hardware("Pico (E6) 00 00"), hardware("Pico (E7) 00 00"));
        assert_eq!(hardware("Reader 00 00"), Tie::Reader("Reader".into()));
        let software = TokenInfo { serial: "ab".into(), software: true, ..TokenInfo::default() };
        assert_eq!(Tie::of(&software), Tie::Serial("ab".into()));
    }

    #[test]
    fn ties_round_trip_as_text() {
        for text in ["serial:0a:1b", "usb:E6", "reader:Pico HSM [CCID]"] {
            assert_eq!(text.parse::<Tie>().unwrap().to_string(), text);
        }
        for bad in ["", "usb:", "E6", "port:1"] {
            assert!(bad.parse::<Tie>().is_err(), "{bad}");
        }
    }
}
