//! Which devices on the bus are ours to look at.

use std::fmt;
use std::str::FromStr;

use hsm_types::UsbSerial;

use crate::UsbDevice;

/// Selects devices by vendor and product, and by serial if one is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// `idVendor`.
    pub vendor: u16,
    /// `idProduct`.
    pub product: u16,
    /// Only the device with this serial.
    pub serial: Option<UsbSerial>,
}

impl Selector {
    /// Whether the device is meant.
    pub fn matches(&self, device: &UsbDevice) -> bool {
        self.vendor == device.vendor
            && self.product == device.product
            && (self.serial.is_none() || self.serial == device.serial)
    }
}

/// A kind of device that carries a token, and the ids it shows on the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WellKnown {
    /// `idVendor`.
    pub vendor: u16,
    /// `idProduct`.
    pub product: u16,
    /// What it is, for people.
    pub name: &'static str,
}

/// The devices that are looked for without being named (Pico HSM's releases; libccid's list for SmartCard-HSM).
pub const WELL_KNOWN: &[WellKnown] = &[
    WellKnown { vendor: 0x2e8a, product: 0x10fd, name: "Pico HSM" },
    // A Pico HSM of older firmware shows the id of the device that it stands in for.
    WellKnown { vendor: 0x20a0, product: 0x4230, name: "Nitrokey HSM" },
    WellKnown { vendor: 0xfeff, product: 0xfcfd, name: "Pico HSM (old default id)" },
    WellKnown { vendor: 0x04e6, product: 0x5816, name: "SmartCard-HSM (SCR3310)" },
    WellKnown { vendor: 0x04e6, product: 0x5817, name: "SmartCard-HSM (uTrust)" },
    WellKnown { vendor: 0x04e6, product: 0x5810, name: "SmartCard-HSM" },
];

/// [`WELL_KNOWN`] as selectors.
pub fn well_known() -> Vec<Selector> {
    WELL_KNOWN
        .iter()
        .map(|known| Selector { vendor: known.vendor, product: known.product, serial: None })
        .collect()
}

/// Why a text is not a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a USB selector: expected VENDOR:PRODUCT or VENDOR:PRODUCT:SERIAL, such as 2e8a:10fd")]
pub struct ParseSelectorError(String);

impl FromStr for Selector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Self, ParseSelectorError> {
        let error = || ParseSelectorError(text.to_owned());
        let mut parts = text.splitn(3, ':');
        let mut id = || parts.next().and_then(parse_id).ok_or_else(error);
        let (vendor, product) = (id()?, id()?);
        let serial = match parts.next() {
            Some(serial) => Some(UsbSerial::new(serial).ok_or_else(error)?),
            None => None,
        };
        Ok(Self { vendor, product, serial })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.product)?;
        self.serial.iter().try_for_each(|serial| write!(f, ":{serial}"))
    }
}

/// Four hexadecimal digits, as the kernel prints an id and people copy it from `lsusb`.
pub(crate) fn parse_id(text: &str) -> Option<u16> {
    let four_digits = text.len() == 4 && text.bytes().all(|b| b.is_ascii_hexdigit());
    four_digits.then(|| u16::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_round_trips_as_lsusb_prints_ids() {
        let selector: Selector = "2e8a:10fd:E6:60".parse().unwrap();
        assert_eq!((selector.vendor, selector.product), (0x2e8a, 0x10fd));
        assert_eq!(selector.serial, UsbSerial::new("E6:60"), "a serial may hold a colon");
        assert_eq!(selector.to_string(), "2e8a:10fd:E6:60");
        assert_eq!("04E6:5816".parse::<Selector>().unwrap().to_string(), "04e6:5816");
    }

    #[test]
    fn half_a_selector_is_refused() {
        for bad in ["", "2e8a", "2e8a:", "2e8a:10fd:", "0x2e8a:10fd", "2e8a:+0fd", "2e8a:10fd: "] {
            assert!(bad.parse::<Selector>().is_err(), "{bad:?}");
        }
    }
}
