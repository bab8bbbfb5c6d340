//! Which HSMDevices mean a token, and what they say of it. Pure.
//!
//! Used for how records are written. It never admits a token: see `admission`.

use std::path::Path;

use hsm_proto::agent::DeviceConfig;
use hsm_store::Encryption;
use hsm_token::TokenInfo;

use super::Tie;

/// What can be known of a token, to compare with what an HSMDevice names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenFacts {
    module: String,
    label: String,
    slot: u64,
    software: bool,
    /// Whether it calls itself a Pico HSM (they all have one PKCS#11 serial, TOKEN.md).
    pico: bool,
    usb_serial: Option<String>,
}

/// Whether an HSMDevice means a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Means {
    /// Something that it names is otherwise.
    No,
    /// It names something that cannot be known of a token from here, such as its device file.
    Perhaps,
    /// All that it names is so.
    Yes,
}

impl TokenFacts {
    /// Of the token that this module describes so.
    pub fn of(module: &Path, info: &TokenInfo) -> Self {
        Self {
            module: module.to_string_lossy().into_owned(),
            label: info.label.clone(),
            slot: info.slot,
            software: info.software,
            pico: info.serial.starts_with("ESPICOHSM"),
            usb_serial: Tie::of(info).usb().map(|serial| serial.as_str().to_owned()),
        }
    }

    /// Whether the HSMDevice means this token: what it leaves out is any.
    fn meant_by(&self, device: &DeviceConfig) -> Means {
        let known = |so: bool| if so { Means::Yes } else { Means::No };
        let named = [
            match device.device_type.as_str() {
                "" | "Generic" => None,
                "Software" => Some(known(self.software)),
                "PicoHSM" => Some(known(self.pico && !self.software)),
                "SmartCard-HSM" => Some(known(!self.pico && !self.software)),
                _ => Some(Means::Perhaps),
            },
            (!device.library_path.is_empty()).then(|| known(device.library_path == self.module)),
            (!device.token_label.is_empty()).then(|| known(device.token_label == self.label)),
            device.slot_id.map(|slot| known(slot == self.slot)),
            device.usb.iter().map(|usb| self.on_usb(&usb.serial_number)).max(),
            (!device.device_path.is_empty()).then_some(Means::Perhaps),
        ];
        // One that names nothing at all may mean any.
        named.into_iter().flatten().min().unwrap_or(Means::Perhaps)
    }

    /// By the serial number alone: vendor and product are not told through PKCS#11.
    fn on_usb(&self, serial: &str) -> Means {
        match &self.usb_serial {
            _ if self.software => Means::No,
            Some(own) if !serial.is_empty() => {
                if own == serial {
                    Means::Yes
                } else {
                    Means::No
                }
            }
            _ => Means::Perhaps,
        }
    }
}

/// How new versions of records are written on this token: as the HSMDevices say that mean it, else as the flags do.
///
/// In clear only where that is beyond doubt. Where two devices say otherwise, where it is not sure that a device means
/// the token, or where a device says what this version does not know, what is sealed wins: it can be read all the
/// same, and what was written in clear stays in the flash.
pub fn encryption_of(devices: &[DeviceConfig], token: &TokenFacts, flags: Encryption) -> Encryption {
    let mut found = flags;
    for device in devices {
        match (device.encryption.as_str(), token.meant_by(device)) {
            ("", _) | (_, Means::No) | ("None", Means::Perhaps) => {}
            ("None", Means::Yes) => found = Encryption::None,
            _ => return Encryption::Envelope,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use hsm_proto::agent::UsbSelector;

    use super::*;

    const SERIAL: &str = "E6605481DB8A5334";

    fn soft() -> TokenFacts {
        let info = TokenInfo { label: "mine".into(), slot: 7, software: true, ..TokenInfo::default() };
        TokenFacts::of(Path::new("/m.so"), &info)
    }

    fn pico() -> TokenFacts {
        let info = TokenInfo {
            label: "SmartCard-HSM (UserPIN)".into(),
            serial: "ESPICOHSMTR".into(),
            slot_description: format!("Pico HSM [CCID Interface] ({SERIAL}) 00 00"),
            ..TokenInfo::default()
        };
        TokenFacts::of(Path::new("/opensc.so"), &info)
    }

    fn none() -> DeviceConfig {
        DeviceConfig { encryption: "None".into(), ..DeviceConfig::default() }
    }

    fn usb(serial: &str) -> UsbSelector {
        let (vendor_id, product_id) = ("20a0".into(), "4230".into());
        UsbSelector { vendor_id, product_id, serial_number: serial.into() }
    }

    fn one(device: &DeviceConfig, token: &TokenFacts) -> Encryption {
        encryption_of(std::slice::from_ref(device), token, Encryption::Envelope)
    }

    #[test]
    fn a_device_means_a_token_when_all_that_it_names_is_so() {
        use Means::{No, Perhaps, Yes};
        let device = DeviceConfig::default;
        for (device, of_soft, of_pico) in [
            (device(), Perhaps, Perhaps),
            (DeviceConfig { token_label: "mine".into(), ..device() }, Yes, No),
            (DeviceConfig { library_path: "/m.so".into(), ..device() }, Yes, No),
            (DeviceConfig { library_path: "/m.so".into(), token_label: "other".into(), ..device() }, No, No),
            (DeviceConfig { slot_id: Some(7), ..device() }, Yes, No),
            (DeviceConfig { slot_id: Some(0), ..device() }, No, Yes),
            (DeviceConfig { device_type: "Software".into(), ..device() }, Yes, No),
            (DeviceConfig { device_type: "PicoHSM".into(), ..device() }, No, Yes),
            (DeviceConfig { device_type: "SmartCard-HSM".into(), ..device() }, No, No),
            (DeviceConfig { device_type: "Generic".into(), ..device() }, Perhaps, Perhaps),
            (DeviceConfig { device_type: "Newer".into(), ..device() }, Perhaps, Perhaps),
            (DeviceConfig { usb: vec![usb(SERIAL)], ..device() }, No, Yes),
            (DeviceConfig { usb: vec![usb("E7"), usb(SERIAL)], ..device() }, No, Yes),
            (DeviceConfig { usb: vec![usb("E7")], ..device() }, No, No),
            (DeviceConfig { usb: vec![usb("")], ..device() }, No, Perhaps),
            (DeviceConfig { device_path: "/dev/x".into(), ..device() }, Perhaps, Perhaps),
            (
                DeviceConfig { device_path: "/dev/x".into(), token_label: "mine".into(), ..device() },
                Perhaps,
                No,
            ),
        ] {
            assert_eq!(soft().meant_by(&device), of_soft, "a software token and {device:?}");
            assert_eq!(pico().meant_by(&device), of_pico, "a Pico and {device:?}");
        }
    }

    #[test]
    fn the_device_that_means_the_token_overrides_the_flags() {
        let mine = DeviceConfig { token_label: "mine".into(), ..none() };
        assert_eq!(one(&mine, &soft()), Encryption::None);
        assert_eq!(one(&mine, &pico()), Encryption::Envelope);
        let sealed = DeviceConfig { encryption: "Envelope".into(), ..mine.clone() };
        assert_eq!(encryption_of(&[sealed], &soft(), Encryption::None), Encryption::Envelope);
        assert_eq!(encryption_of(&[], &soft(), Encryption::None), Encryption::None);
        let silent = DeviceConfig { encryption: String::new(), ..mine };
        assert_eq!(encryption_of(&[silent], &soft(), Encryption::None), Encryption::None);
    }

    #[test]
    fn in_clear_only_beyond_doubt() {
        let mine = DeviceConfig { token_label: "mine".into(), ..none() };
        let sealed = DeviceConfig { encryption: "Envelope".into(), ..mine.clone() };
        for both in [[mine.clone(), sealed.clone()], [sealed, mine.clone()]] {
            assert_eq!(encryption_of(&both, &soft(), Encryption::None), Encryption::Envelope);
        }
        assert_eq!(one(&none(), &soft()), Encryption::Envelope, "it names nothing");
        let perhaps = DeviceConfig { usb: vec![usb("")], encryption: "Envelope".into(), ..none() };
        assert_eq!(encryption_of(&[perhaps], &pico(), Encryption::None), Encryption::Envelope);
        for unknown in ["none", "Other"] {
            let odd = DeviceConfig { encryption: unknown.into(), ..mine.clone() };
            assert_eq!(encryption_of(&[odd], &soft(), Encryption::None), Encryption::Envelope);
        }
    }
}
