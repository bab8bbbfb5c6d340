//! The little JSON that records in clear need: the members of one object, texts in and out. Values are never copied
//! into memory that is not wiped; errors never quote what was read.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

/// The members of a JSON object in the order in which they are written, duplicates and all.
pub(crate) struct Members<'a>(pub(crate) Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry::<String, &'de RawValue>()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl<'a> Members<'a> {
    /// The members of `text`, if it is one JSON object and nothing else. A name that occurs twice is refused: which of
    /// the two counts is a guess.
    pub(crate) fn of(text: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let members: Self = serde_json::from_str(text).ok()?;
        let mut names: Vec<&str> = members.0.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.windows(2).all(|pair| pair[0] != pair[1]).then_some(members)
    }

    /// Takes out one member.
    pub(crate) fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let at = self.0.iter().position(|(own, _)| own == name)?;
        Some(self.0.remove(at).1)
    }
}

/// The bytes of a JSON string; `None` for another type, or half of a surrogate pair.
pub(crate) fn text(raw: &RawValue) -> Option<Zeroizing<Vec<u8>>> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    // Never longer than it is written, so the buffer does not move and leave a copy behind.
    let mut out = Zeroizing::new(Vec::with_capacity(inner.len()));
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        let c = if c == '\\' { escaped(&mut chars)? } else { c };
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Some(out)
}

/// A JSON string that holds no secret.
pub(crate) fn string(raw: &RawValue) -> Option<String> {
    String::from_utf8(text(raw)?.to_vec()).ok()
}

fn escaped(chars: &mut std::str::Chars<'_>) -> Option<char> {
    Some(match chars.next()? {
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => {
            let first = unit(chars)?;
            let code = match first {
                0xd800..=0xdbff => {
                    if (chars.next()?, chars.next()?) != ('\\', 'u') {
                        return None;
                    }
                    let second = unit(chars)?.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
                    0x10000 + ((first - 0xd800) << 10) + second
                }
                _ => first,
            };
            char::from_u32(code)?
        }
        other => other,
    })
}

fn unit(chars: &mut std::str::Chars<'_>) -> Option<u32> {
    let mut code = 0;
    for _ in 0..4 {
        code = code << 4 | chars.next()?.to_digit(16)?;
    }
    Some(code)
}

/// Writes `text` as a JSON string. Six bytes for each of `text` and two more are the most that it takes.
pub(crate) fn quote(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            c if c < ' ' => out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes()),
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_as_they_were_written() {
        let all: String =
            (0..0x300u32).filter_map(char::from_u32).chain("\u{ffff}\u{10ffff}😀".chars()).collect();
        let mut written = b"{\"k\":".to_vec();
        quote(&mut written, &all);
        written.push(b'}');
        let members = Members::of(&written).unwrap();
        assert_eq!(text(members.0[0].1).unwrap().as_slice(), all.as_bytes());
        // Another parser agrees.
        let other: serde_json::Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(other["k"], all);
    }

    #[test]
    fn escapes_of_others_are_understood_and_half_pairs_refused() {
        let members = Members::of(
            br#"{"a":"\u00fc\uD83D\ude00\/\b\f","b":"\ud83d","c":"\ude00","d":1,"e":"\ud83d\u0041"}"#,
        )
        .unwrap();
        assert_eq!(text(members.0[0].1).unwrap().as_slice(), "ü😀/\u{8}\u{c}".as_bytes());
        assert!(members.0[1..].iter().all(|(_, raw)| text(raw).is_none()));
    }

    #[test]
    fn only_one_object_without_doubled_names() {
        for bad in
            ["", "[]", "1", "{} {}", "{\"a\":1,\"a\":1}", "{\"a\":1,\"\\u0061\":2}", "{\"a\":}", "{\"a\":1"]
        {
            assert!(Members::of(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(Members::of(b" {\"a\" : [1, {}] }\n").is_some());
        assert!(Members::of(b"{\"a\":\"\xff\"}").is_none());
    }
}
