//! The name of the extended resource.

use std::fmt;
use std::str::FromStr;

/// An extended resource name, `domain/name`, such as `hsm.j5t.io/pico`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ResourceName(String);

/// Why a text is no resource name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an extended resource name: expected domain/name, such as hsm.j5t.io/pico")]
pub struct InvalidResourceName(String);

impl ResourceName {
    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// At most 24 characters of the part behind the domain, for a file name (a socket's path has 107 bytes, unix(7)).
    pub(crate) fn stem(&self) -> &str {
        let name = self.0.rsplit('/').next().unwrap_or_default();
        &name[..name.len().min(24)]
    }
}

impl FromStr for ResourceName {
    type Err = InvalidResourceName;

    /// As the kubelet's IsExtendedResourceName: a qualified name whose domain is not Kubernetes' own.
    fn from_str(text: &str) -> Result<Self, InvalidResourceName> {
        let valid = text.split_once('/').is_some_and(|(domain, name)| {
            (1..=245).contains(&domain.len())
                && domain.split('.').all(|label| part(label, b"-") && !label.contains(char::is_uppercase))
                && domain != "kubernetes.io"
                && !domain.ends_with(".kubernetes.io")
                && !domain.starts_with("requests.")
                && name.len() <= 63
                && part(name, b"-_.")
        });
        if valid { Ok(Self(text.to_owned())) } else { Err(InvalidResourceName(text.to_owned())) }
    }
}

/// Letters, digits and, between them, the characters given.
fn part(text: &str, inner: &[u8]) -> bool {
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || inner.contains(b))
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kubelet_would_refuse_is_refused_here() {
        assert_eq!("hsm.j5t.io/pico".parse::<ResourceName>().unwrap().stem(), "pico");
        for bad in
            ["", "pico", "/pico", "a/", "a/b/c", "a b/c", "kubernetes.io/x", "x.kubernetes.io/y", "A.io/x"]
        {
            assert!(bad.parse::<ResourceName>().is_err(), "{bad}");
        }
    }
}
