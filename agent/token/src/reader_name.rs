//! PC/SC readers' names. Pure: what a name says of the device behind it.

/// The USB serial in a PC/SC reader's name.
///
/// pcscd makes the name as `DEVICE [INTERFACE] (SERIAL) NN NN`, the numbers being the reader's and the slot's in
/// hexadecimal digits (`src/hotplug_libudev.c`, `src/readerfactory.c` of pcsc-lite). PKCS#11 cuts a slot's description
/// at 64 bytes: a serial that was cut is none.
pub fn usb_serial(reader: &str) -> Option<&str> {
    let (_, serial) = without_numbers(reader).strip_suffix(')')?.rsplit_once('(')?;
    let fit = !serial.is_empty() && serial.chars().all(|c| c.is_ascii_graphic());
    fit.then_some(serial)
}

/// The reader's name without what pcscd counts, which changes with the order in which readers are plugged in.
pub fn without_numbers(reader: &str) -> &str {
    let number = |word: &str| word.len() == 2 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let mut name = reader.trim_end_matches([' ', '\0']);
    for _ in 0..2 {
        match name.rsplit_once(' ') {
            Some((rest, word)) if number(word) => name = rest.trim_end(),
            _ => break,
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_serial_is_read_from_a_readers_name() {
        let pico = "Pol Henarejos Pico HSM [CCID Interface] (E6605481DB8A5334) 00 00";
        assert_eq!(usb_serial(pico), Some("E6605481DB8A5334"));
        assert_eq!(usb_serial("Pico HSM [CCID] (E6) 0A 00"), Some("E6"));
        assert_eq!(usb_serial("Pico HSM (E6)"), Some("E6"), "without numbers");
        assert_eq!(usb_serial("A (one) B (two) 00 00"), Some("two"));
        for none in [
            "",
            "Pico HSM 00 00",
            "Pico HSM [CCID Interface] (E6605481DB8",
            "Pico HSM () 00 00",
            "Reader (with words) 00 00",
            "Reader (x) y 00 00",
        ] {
            assert_eq!(usb_serial(none), None, "{none:?}");
        }
    }

    #[test]
    fn only_what_pcscd_counts_is_cut() {
        assert_eq!(without_numbers("Pico HSM (E6) 0A 00"), "Pico HSM (E6)");
        assert_eq!(without_numbers("Reader 00 00 00"), "Reader 00");
        assert_eq!(without_numbers("Reader 100"), "Reader 100");
    }
}
