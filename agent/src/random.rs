//! Random bytes of the operating system's kind, for names and PINs.

use zeroize::Zeroizing;

/// `N` random bytes. Without a source of randomness nothing here may go on, so this stops the process.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        tracing::error!("The system gives no random bytes; stopping.");
        std::process::abort();
    }
    bytes
}

/// `N` random bytes as hexadecimal digits.
pub fn hex<const N: usize>() -> String {
    crate::hex::text(&bytes::<N>())
}

/// A random PIN of 15 characters (the longest that a Pico HSM takes) from 55 that are not mistaken for each other.
pub fn pin() -> Zeroizing<String> {
    const ALPHABET: &[u8] = b"23456789abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ";
    let mut pin = Zeroizing::new(String::with_capacity(15));
    while pin.len() < 15 {
        // Bytes beyond the last whole multiple are thrown away, so that all characters are equally likely.
        let [byte] = bytes::<1>();
        let whole = 256 / ALPHABET.len() * ALPHABET.len();
        if usize::from(byte) < whole {
            pin.push(char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
        }
    }
    pin
}

#[cfg(test)]
mod tests {
    #[test]
    fn pins_have_fifteen_characters_and_differ() {
        let (one, two) = (super::pin(), super::pin());
        assert_eq!(one.len(), 15);
        assert_ne!(*one, *two);
    }
}
