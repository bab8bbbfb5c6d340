//! Presence is three-valued: we saw it, we know it is not there, or we could not tell.

use std::fmt;

/// Why something is unknown, for people; decisions only look at the fact that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown(pub String);

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is known of a thing we looked for.
///
/// Not an `Option`: `Unknown` must never be read as `Absent`. It never causes a write, a delete or a 404.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence<T> {
    /// We asked, and it is there.
    Present(T),
    /// We asked, and it is not there.
    Absent,
    /// We could not ask, or the answer was damaged.
    Unknown(Unknown),
}

impl<T> Presence<T> {
    /// An unknown presence with a reason for people.
    pub fn unknown(reason: impl Into<String>) -> Self {
        Self::Unknown(Unknown(reason.into()))
    }

    /// The thing, if it is known to be there. Not for telling absence: an unknown thing gives `None` too.
    pub fn present(&self) -> Option<&T> {
        if let Self::Present(it) = self { Some(it) } else { None }
    }

    /// Whether it is known not to be there.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Whether nothing is known.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }

    /// The same presence of something derived from the thing.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Presence<U> {
        match self {
            Self::Present(it) => Presence::Present(f(it)),
            Self::Absent => Presence::Absent,
            Self::Unknown(why) => Presence::Unknown(why),
        }
    }

    /// A view by reference.
    pub fn as_ref(&self) -> Presence<&T> {
        match self {
            Self::Present(it) => Presence::Present(it),
            Self::Absent => Presence::Absent,
            Self::Unknown(why) => Presence::Unknown(why.clone()),
        }
    }
}
