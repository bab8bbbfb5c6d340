//! The name of a record.

use std::fmt;
use std::str::FromStr;

/// Why a text is not a record path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// Nothing was given.
    #[error("the path is empty; give one such as secrets/NAMESPACE/NAME")]
    Empty,
    /// The path has more bytes than a record may carry.
    #[error("the path has {0} bytes; at most {max} are allowed", max = RecordPath::MAX_LEN)]
    TooLong(usize),
    /// A leading, trailing or doubled slash, or a segment that means something to a file system.
    #[error(
        "the path has an empty or dotted segment; write it without leading, trailing or doubled '/', and without '.' or '..'"
    )]
    BadSegment,
    /// A character outside the allowed set.
    #[error("the path has the character {0:?}; letters, digits, '-', '_', '.' and '/' are allowed")]
    BadCharacter(char),
    /// The Go operator's name for its metadata objects.
    #[error("the segment _metadata is reserved for records written by the Go operator")]
    Reserved,
}

/// A record's name: segments of `[A-Za-z0-9._-]` joined by `/`, at most [`RecordPath::MAX_LEN`] bytes.
///
/// `secrets/<namespace>/<name>` by default; a single segment is valid too (the Go operator wrote such).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordPath(String);

impl RecordPath {
    /// `secrets/` and the longest namespace and object name that Kubernetes knows need 325.
    pub const MAX_LEN: usize = 384;

    /// Parses and validates.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidPath> {
        let text = text.into();
        if text.is_empty() {
            return Err(InvalidPath::Empty);
        }
        if text.len() > Self::MAX_LEN {
            return Err(InvalidPath::TooLong(text.len()));
        }
        if let Some(bad) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !"-_./".contains(*c)) {
            return Err(InvalidPath::BadCharacter(bad));
        }
        for segment in text.split('/') {
            match segment {
                "" | "." | ".." => return Err(InvalidPath::BadSegment),
                "_metadata" => return Err(InvalidPath::Reserved),
                _ => {}
            }
        }
        Ok(Self(text))
    }

    /// The default path of a secret: `secrets/<namespace>/<name>`.
    pub fn of_secret(namespace: &str, name: &str) -> Result<Self, InvalidPath> {
        Self::new(format!("secrets/{namespace}/{name}"))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The namespace that owns this path by its form: `Some(ns)` for `secrets/<ns>/<at least one more segment>`.
    pub fn namespace(&self) -> Option<&str> {
        let (namespace, rest) = self.0.strip_prefix("secrets/")?.split_once('/')?;
        (!rest.is_empty()).then_some(namespace)
    }
}

impl fmt::Display for RecordPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RecordPath {
    type Err = InvalidPath;

    fn from_str(text: &str) -> Result<Self, InvalidPath> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_validated() {
        for good in ["a", "secrets/ns/name", "secrets/ns/a.b_c-d/e", "Secrets/NS/Name"] {
            assert!(RecordPath::new(good).is_ok(), "{good}");
        }
        assert_eq!(RecordPath::new(""), Err(InvalidPath::Empty));
        for bad in ["/a", "a/", "a//b", "a/../b", ".", "a/."] {
            assert_eq!(RecordPath::new(bad), Err(InvalidPath::BadSegment), "{bad}");
        }
        assert_eq!(RecordPath::new("a b"), Err(InvalidPath::BadCharacter(' ')));
        assert_eq!(RecordPath::new("a/ü"), Err(InvalidPath::BadCharacter('ü')));
        assert_eq!(RecordPath::new("a/_metadata"), Err(InvalidPath::Reserved));
        assert_eq!(RecordPath::new("a".repeat(385)), Err(InvalidPath::TooLong(385)));
    }

    #[test]
    fn namespace_is_only_read_from_the_default_form() {
        let namespace = |p: &str| RecordPath::new(p).unwrap().namespace().map(str::to_owned);
        assert_eq!(namespace("secrets/team-a/db"), Some("team-a".to_owned()));
        assert_eq!(namespace("secrets/team-a/db/x"), Some("team-a".to_owned()));
        assert_eq!(namespace("secrets/team-a"), None);
        assert_eq!(namespace("secretsx/team-a/db"), None);
    }
}
