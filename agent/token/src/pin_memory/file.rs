//! The memory as text: a first line, the salt, at most one change, and one line for each value.

use std::fmt::Write as _;

use super::SALT_LEN;
use super::state::{Change, Mark, State};

const FIRST_LINE: &str = "hsm-token pin memory 2";
/// Had no changes, and said of a pending value nothing but its digest.
const EARLIER: &str = "hsm-token pin memory 1";

pub(super) fn text(salt: &[u8; SALT_LEN], state: &State) -> String {
    let mut text = format!("{FIRST_LINE}\nsalt {}\n", hex(salt));
    if let Some(Change { old, new, low, new_failed }) = state.change {
        let new_was = if new_failed { "failed" } else { "unknown" };
        let _ = writeln!(text, "change {} {} {} {new_was}", hex(&old), hex(&new), count(low));
    }
    for (mark, digest) in &state.entries {
        let digest = hex(digest);
        let _ = match mark {
            Mark::Pending { low } => writeln!(text, "pending {digest} {}", count(*low)),
            Mark::Failed => writeln!(text, "failed {digest}"),
            Mark::Superseded => writeln!(text, "superseded {digest}"),
        };
    }
    text
}

/// `None` where it is damaged.
pub(super) fn parse(text: &str) -> Option<([u8; SALT_LEN], State)> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    if ![FIRST_LINE, EARLIER].contains(&lines.next()?) {
        return None;
    }
    let salt = unhex(lines.next()?.strip_prefix("salt ")?)?;
    let mut state = State::default();
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["change", old, new, low, new_was] if state.change.is_none() => {
                let new_failed = match *new_was {
                    "failed" => true,
                    "unknown" => false,
                    _ => return None,
                };
                let low = is_low(low)?;
                state.change = Some(Change { old: unhex(old)?, new: unhex(new)?, low, new_failed });
            }
            ["pending", digest] => state.entries.push((Mark::Pending { low: false }, unhex(digest)?)),
            ["pending", digest, low] => {
                state.entries.push((Mark::Pending { low: is_low(low)? }, unhex(digest)?));
            }
            ["failed", digest] => state.entries.push((Mark::Failed, unhex(digest)?)),
            ["superseded", digest] => state.entries.push((Mark::Superseded, unhex(digest)?)),
            _ => return None,
        }
    }
    Some((salt, state))
}

/// The token's counter of tries.
fn count(low: bool) -> &'static str {
    if low { "low" } else { "full" }
}

fn is_low(word: &str) -> Option<bool> {
    match word {
        "low" => Some(true),
        "full" => Some(false),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_survives_and_nothing_else_is_read() {
        let state = State {
            entries: vec![
                (Mark::Pending { low: true }, [1; 32]),
                (Mark::Pending { low: false }, [2; 32]),
                (Mark::Failed, [3; 32]),
                (Mark::Superseded, [4; 32]),
            ],
            change: Some(Change { old: [5; 32], new: [6; 32], low: true, new_failed: false }),
        };
        let whole = text(&[7; SALT_LEN], &state);
        assert_eq!(parse(&whole), Some(([7; SALT_LEN], state)));
        for (from, to) in
            [("low", "lo"), ("unknown", "?"), ("failed", "x"), ("salt 07", "salt 7"), ("2\n", "3\n")]
        {
            assert!(parse(&whole.replacen(from, to, 1)).is_none(), "{from}");
        }
        let twice = whole.lines().nth(2).map(|change| format!("{whole}{change}\n")).unwrap();
        assert!(parse(&twice).is_none());
    }

    #[test]
    fn the_earlier_form_is_read() {
        let salt = "00".repeat(SALT_LEN);
        let text =
            format!("{EARLIER}\nsalt {salt}\npending {}\nfailed {}\n", "01".repeat(32), "02".repeat(32));
        let entries = vec![(Mark::Pending { low: false }, [1; 32]), (Mark::Failed, [2; 32])];
        assert_eq!(parse(&text).map(|(_, state)| state), Some(State { entries, change: None }));
    }
}
