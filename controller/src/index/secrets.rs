//! Metadata of Secrets that carry our label.

use std::collections::HashSet;

use hsm_api::names;
use hsm_types::Presence;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Index, Wake, not_older};
use crate::key::ObjectKey;
use crate::queue::Lane;

/// What is known of a Secret without its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretMeta {
    /// Its uid.
    pub uid: String,
    /// Its resource version.
    pub resource_version: String,
    /// Whether it has our managed-by label.
    pub labelled: bool,
    /// The HSMSecret that owns it: uid and name.
    pub owner: Option<(String, String)>,
    /// The text of its base.
    pub base: Option<String>,
}

impl SecretMeta {
    /// From an object's metadata; `None` for one that the API server would not give.
    pub fn of(metadata: &ObjectMeta) -> Option<Self> {
        let owner = metadata
            .owner_references
            .iter()
            .flatten()
            .find(|o| o.kind == "HSMSecret" && o.api_version.starts_with(names::GROUP))
            .map(|o| (o.uid.clone(), o.name.clone()));
        let labels = metadata.labels.as_ref();
        Some(Self {
            uid: metadata.uid.clone()?,
            resource_version: metadata.resource_version.clone()?,
            labelled: labels.and_then(|l| l.get(names::LABEL_MANAGED)).is_some_and(|v| v == names::MANAGER),
            owner,
            base: metadata.annotations.as_ref().and_then(|a| a.get(names::ANNOTATION_BASE).cloned()),
        })
    }
}

pub(super) enum Known {
    Seen(SecretMeta),
    /// A DELETE event of a label-filtered watch may only mean that the label went: it has to be looked for.
    MaybeGone,
}

impl Index {
    /// A Secret with our label was made or changed, or a reconcile read or wrote one.
    pub fn secret_applied(&mut self, key: &ObjectKey, meta: SecretMeta) -> Vec<Wake> {
        if let Some(Known::Seen(old)) = self.secrets.get(key) {
            let same = old.uid == meta.uid;
            if *old == meta || (same && !not_older(&meta.resource_version, &old.resource_version)) {
                return Vec::new();
            }
        }
        self.secrets.insert(key.clone(), Known::Seen(meta));
        self.wakes_of_secret(key, Lane::Fresh)
    }

    /// The watch said that it is deleted, at this resource version.
    pub fn secret_deleted(&mut self, key: &ObjectKey, resource_version: &str) -> Vec<Wake> {
        let newer = |known: &Known| matches!(known, Known::Seen(s) if !not_older(resource_version, &s.resource_version));
        if self.secrets.get(key).is_none_or(newer) {
            return Vec::new();
        }
        if self.by_secret.contains_key(key) {
            self.secrets.insert(key.clone(), Known::MaybeGone);
        } else {
            self.secrets.remove(key);
        }
        self.wakes_of_secret(key, Lane::Fresh)
    }

    /// A reconcile asked for it: it is not there.
    pub fn secret_gone(&mut self, key: &ObjectKey) {
        self.secrets.remove(key);
    }

    /// A list is whole: whatever else was in its scope may be gone.
    pub fn secrets_listed(&mut self, namespace: Option<&str>, seen: &HashSet<ObjectKey>) -> Vec<Wake> {
        let gone: Vec<ObjectKey> = self
            .secrets
            .keys()
            .filter(|k| namespace.is_none_or(|ns| ns == k.namespace) && !seen.contains(k))
            .cloned()
            .collect();
        let mut wakes = Vec::new();
        for key in gone {
            self.secrets.insert(key.clone(), Known::MaybeGone);
            wakes.extend(self.wakes_of_secret(&key, Lane::Fresh));
        }
        wakes
    }

    /// What is known of a Secret.
    pub(super) fn secret(&self, key: &ObjectKey) -> Presence<SecretMeta> {
        match self.secrets.get(key) {
            Some(Known::Seen(meta)) => Presence::Present(meta.clone()),
            Some(Known::MaybeGone) => Presence::unknown("it has to be looked for"),
            None => Presence::Absent,
        }
    }
}
