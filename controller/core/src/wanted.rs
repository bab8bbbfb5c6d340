//! From an HSMSecret to what it asks for: parsed once, at the door.

use std::fmt;

use hsm_api::{HSMSecret, PathGrant, Reason, names};
use hsm_types::RecordPath;

use crate::Side;
use crate::model::{AdoptionPolicy, ConflictPolicy, DeletionPolicy, SyncPolicy, Wanted};

/// Why an HSMSecret cannot be served as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The word for the conditions.
    pub reason: Reason,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}

impl Invalid {
    fn spec(message: impl Into<String>) -> Self {
        Self { reason: Reason::InvalidSpec, message: message.into() }
    }
}

impl Wanted {
    /// Parses the object. `grants` are the path grants of the HSMDevices in the controller's namespace.
    pub fn parse(object: &HSMSecret, grants: &[PathGrant]) -> Result<Self, Invalid> {
        let (Some(name), Some(namespace)) = (&object.metadata.name, &object.metadata.namespace) else {
            return Err(Invalid::spec("the object has no name or no namespace"));
        };
        let spec = &object.spec;
        let annotation = |key: &str| object.metadata.annotations.as_ref().and_then(|a| a.get(key));
        let resolve = match annotation(names::ANNOTATION_RESOLVE).map(String::as_str) {
            None | Some("") => None,
            Some("token") => Some(Side::Token),
            Some("secret") => Some(Side::Secret),
            // Nothing is left to resolve, and a wrong word must not hold up the end.
            Some(_) if object.metadata.deletion_timestamp.is_some() => None,
            Some(_) => {
                let message = format!("the annotation {} must be token or secret", names::ANNOTATION_RESOLVE);
                return Err(Invalid::spec(message));
            }
        };
        let handled = object.status.as_ref().and_then(|s| s.force_sync.as_ref());
        let finalizers = object.metadata.finalizers.as_deref().unwrap_or_default();
        Ok(Self {
            path: path(spec.hsm_path.as_deref(), namespace, name, grants)?,
            secret_name: spec.secret_name.clone().unwrap_or_else(|| name.clone()),
            secret_type: spec.secret_type.clone().unwrap_or_else(|| "Opaque".to_owned()),
            auto_sync: spec.auto_sync.unwrap_or(true),
            sync_policy: match spec.sync_policy {
                hsm_api::SyncPolicy::Bidirectional => SyncPolicy::Bidirectional,
                hsm_api::SyncPolicy::FromToken => SyncPolicy::FromToken,
                hsm_api::SyncPolicy::ToToken => SyncPolicy::ToToken,
            },
            conflict_policy: match spec.conflict_policy {
                hsm_api::ConflictPolicy::Manual => ConflictPolicy::Manual,
                hsm_api::ConflictPolicy::PreferToken => ConflictPolicy::PreferToken,
                hsm_api::ConflictPolicy::PreferSecret => ConflictPolicy::PreferSecret,
            },
            deletion_policy: match spec.deletion_policy {
                hsm_api::DeletionPolicy::Retain => DeletionPolicy::Retain,
                hsm_api::DeletionPolicy::Delete => DeletionPolicy::Delete,
            },
            adoption_policy: match spec.adoption_policy {
                hsm_api::AdoptionPolicy::Never => AdoptionPolicy::Never,
                hsm_api::AdoptionPolicy::IfEqual => AdoptionPolicy::IfEqual,
                hsm_api::AdoptionPolicy::Always => AdoptionPolicy::Always,
            },
            paused: annotation(names::ANNOTATION_PAUSED).is_some_and(|v| v == "true"),
            resolve,
            force: annotation(names::ANNOTATION_FORCE_SYNC).is_some_and(|v| handled != Some(v)),
            deleting: object.metadata.deletion_timestamp.is_some(),
            orphan: finalizers.iter().any(|f| f == "orphan"),
            has_finalizer: finalizers.iter().any(|f| f == names::FINALIZER),
        })
    }
}

fn path(
    given: Option<&str>,
    namespace: &str,
    name: &str,
    grants: &[PathGrant],
) -> Result<RecordPath, Invalid> {
    let path = match given {
        None | Some("") => RecordPath::of_secret(namespace, name),
        Some(text) => RecordPath::new(text),
    };
    let path = path.map_err(|error| Invalid::spec(format!("spec.hsmPath: {error}")))?;
    let granted = || {
        grants
            .iter()
            .filter(|g| g.namespace == namespace)
            .flat_map(|g| &g.paths)
            .any(|pattern| covers(pattern, &path))
    };
    if path.namespace() == Some(namespace) || granted() {
        return Ok(path);
    }
    Err(Invalid {
        reason: Reason::PathForbidden,
        message: format!(
            "the path {path} is not under secrets/{namespace}/; use one that is, or have it granted to {namespace} by pathGrants of an HSMDevice in the operator's namespace"
        ),
    })
}

/// Whether a grant's pattern gives the path: the same path, or anything below `prefix/*`.
fn covers(pattern: &str, path: &RecordPath) -> bool {
    match pattern.strip_suffix("/*") {
        // An empty prefix would give everything away; nobody means that.
        Some(prefix) => {
            !prefix.is_empty() && path.as_str().strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
        }
        None => path.as_str() == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hsm_api::HSMSecretSpec;

    fn object(spec: HSMSecretSpec) -> HSMSecret {
        let mut object = HSMSecret::new("db", spec);
        object.metadata.namespace = Some("team-a".to_owned());
        object
    }

    fn at(path: &str) -> HSMSecret {
        object(HSMSecretSpec { hsm_path: Some(path.to_owned()), ..Default::default() })
    }

    fn grant(paths: &[&str]) -> Vec<PathGrant> {
        let paths = paths.iter().map(|p| (*p).to_owned()).collect();
        vec![PathGrant { namespace: "team-a".to_owned(), paths }]
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let wanted = Wanted::parse(&object(HSMSecretSpec::default()), &[]).unwrap();
        assert_eq!(wanted.path.as_str(), "secrets/team-a/db");
        assert_eq!((wanted.secret_name.as_str(), wanted.secret_type.as_str()), ("db", "Opaque"));
        assert!(wanted.auto_sync && !wanted.force && !wanted.paused && !wanted.deleting);
        assert_eq!(wanted.deletion_policy, DeletionPolicy::Retain);
    }

    #[test]
    fn a_path_of_another_namespace_is_forbidden_unless_granted() {
        for path in
            ["secrets/team-b/db", "secrets/team-a", "shared", "secrets/team-ab/db", "x/secrets/team-a/db"]
        {
            let refused = Wanted::parse(&at(path), &[]).unwrap_err();
            assert_eq!(refused.reason, Reason::PathForbidden, "{path}");
        }
        let grants = grant(&["shared", "secrets/team-b/db", "pool/*"]);
        for path in ["shared", "secrets/team-b/db", "pool/x", "pool/x/y"] {
            assert!(Wanted::parse(&at(path), &grants).is_ok(), "{path}");
        }
        for path in ["shared/x", "secrets/team-b/db2", "pool", "poolx/y"] {
            assert!(Wanted::parse(&at(path), &grants).is_err(), "{path}");
        }
        assert!(Wanted::parse(&at("secrets/team-b/db"), &grant(&["/*"])).is_err());
        let mut other = at("shared");
        other.metadata.namespace = Some("team-c".to_owned());
        assert!(Wanted::parse(&other, &grants).is_err());
    }

    #[test]
    fn a_bad_path_or_annotation_is_an_invalid_spec() {
        assert_eq!(Wanted::parse(&at("secrets/team-a/../b"), &[]).unwrap_err().reason, Reason::InvalidSpec);
        let mut bad = object(HSMSecretSpec::default());
        bad.metadata.annotations = Some([(names::ANNOTATION_RESOLVE.to_owned(), "both".to_owned())].into());
        assert_eq!(Wanted::parse(&bad, &[]).unwrap_err().reason, Reason::InvalidSpec);
    }

    #[test]
    fn force_is_a_value_that_was_not_acted_on() {
        let mut forced = object(HSMSecretSpec { auto_sync: Some(false), ..Default::default() });
        forced.metadata.annotations =
            Some([(names::ANNOTATION_FORCE_SYNC.to_owned(), "2".to_owned())].into());
        assert!(Wanted::parse(&forced, &[]).unwrap().force);
        let status = hsm_api::HSMSecretStatus { force_sync: Some("2".to_owned()), ..Default::default() };
        forced.status = Some(status);
        let wanted = Wanted::parse(&forced, &[]).unwrap();
        assert!(!wanted.force && !wanted.auto_sync);
    }
}
