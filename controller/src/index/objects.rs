//! HSMSecrets and path grants coming and going.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hsm_api::{HSMDevice, HSMSecret};
use hsm_core::Wanted;

use super::{Entry, Index, Memory, Wake, not_older};
use crate::key::ObjectKey;
use crate::queue::Lane;

impl Index {
    /// An HSMSecret was made or changed. Wakes it if anything changed that a reconcile looks at; our own status is
    /// not among that.
    pub fn object_applied(&mut self, object: HSMSecret) -> Vec<Wake> {
        let Some(key) = ObjectKey::of(&object.metadata) else { return Vec::new() };
        if !self.instance.serves(&object) {
            return self.object_deleted(&key);
        }
        let rv = |o: &HSMSecret| o.metadata.resource_version.clone().unwrap_or_default();
        let old = self.entries.get(&key);
        let same_life = old.is_some_and(|e| e.object.metadata.uid == object.metadata.uid);
        if same_life && old.is_some_and(|e| !not_older(&rv(&object), &rv(&e.object))) {
            return Vec::new();
        }
        let moved = old.is_none_or(|e| !same_life || differs(&e.object, &object));
        let was = old.map(Entry::secret_key);
        let memory = match self.remove_entry(&key) {
            Some(entry) if same_life => entry.memory,
            _ => Memory::default(),
        };
        let wanted = Wanted::parse(&object, &self.grants);
        let entry = Entry { object: Arc::new(object), wanted, memory };
        let secret = entry.secret_key();
        if let Ok(wanted) = &entry.wanted {
            self.by_path.entry(wanted.path.clone()).or_default().insert(key.clone());
        }
        self.by_secret.entry(secret.clone()).or_default().insert(key.clone());
        self.entries.insert(key.clone(), entry);
        let mut wakes = if moved { vec![wake(key, Lane::Fresh)] } else { Vec::new() };
        // Those that wanted the Secret's old name may have it now.
        if let Some(was) = was.filter(|was| *was != secret) {
            wakes.extend(self.wakes_of_secret(&was, Lane::Fresh));
        }
        wakes
    }

    /// A reconcile changed an HSMSecret, and this is what it became. It makes no entry: the answer to our own write may
    /// be heard after the watch has said that the object is deleted, and what is gone must not be served again.
    pub fn object_patched(&mut self, object: HSMSecret) -> Vec<Wake> {
        let held = ObjectKey::of(&object.metadata)
            .and_then(|key| self.entries.get(&key))
            .is_some_and(|entry| entry.object.metadata.uid == object.metadata.uid);
        if held { self.object_applied(object) } else { Vec::new() }
    }

    /// An HSMSecret is gone. Those that wanted the same Secret may have it now.
    pub fn object_deleted(&mut self, key: &ObjectKey) -> Vec<Wake> {
        let Some(entry) = self.remove_entry(key) else { return Vec::new() };
        self.wakes_of_secret(&entry.secret_key(), Lane::Fresh)
    }

    /// A list is whole: whatever else was in its scope is gone.
    pub fn objects_listed(&mut self, namespace: Option<&str>, seen: &HashSet<ObjectKey>) -> Vec<Wake> {
        let gone: Vec<ObjectKey> = self
            .entries
            .keys()
            .filter(|k| namespace.is_none_or(|ns| ns == k.namespace) && !seen.contains(k))
            .cloned()
            .collect();
        gone.iter().flat_map(|key| self.object_deleted(key)).collect()
    }

    /// An HSMDevice of the controller's namespace was made, changed or (without one) deleted.
    pub fn device_changed(&mut self, name: String, device: Option<&HSMDevice>) -> Vec<Wake> {
        match device {
            Some(device) => self.grants_of.insert(name, device.spec.path_grants.clone()),
            None => self.grants_of.remove(&name),
        };
        self.regrant()
    }

    /// The list of HSMDevices is whole.
    pub fn devices_listed(&mut self, seen: &HashSet<String>) -> Vec<Wake> {
        self.grants_of.retain(|name, _| seen.contains(name));
        self.regrant()
    }

    fn regrant(&mut self) -> Vec<Wake> {
        let grants = self.grants_of.values().flatten().cloned().collect();
        if self.grants == grants {
            return Vec::new();
        }
        self.grants = grants;
        let keys: Vec<ObjectKey> = self.entries.keys().cloned().collect();
        let mut wakes = Vec::new();
        for key in keys {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            let wanted = Wanted::parse(&entry.object, &self.grants);
            if entry.wanted == wanted {
                continue;
            }
            if let Ok(old) = &entry.wanted {
                forget(&mut self.by_path, &old.path, &key);
            }
            if let Ok(new) = &wanted {
                self.by_path.entry(new.path.clone()).or_default().insert(key.clone());
            }
            entry.wanted = wanted;
            wakes.push(wake(key, Lane::Fresh));
        }
        wakes
    }

    fn remove_entry(&mut self, key: &ObjectKey) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        if let Ok(wanted) = &entry.wanted {
            forget(&mut self.by_path, &wanted.path, key);
        }
        forget(&mut self.by_secret, &entry.secret_key(), key);
        Some(entry)
    }

    /// Keeps what a reconcile learned, if the object still lives.
    pub fn remember(&mut self, key: &ObjectKey, uid: &str, memory: Memory) {
        if let Some(entry) =
            self.entries.get_mut(key).filter(|e| e.object.metadata.uid.as_deref() == Some(uid))
        {
            entry.memory = memory;
        }
    }

    /// How many HSMSecrets are in each `syncStatus`.
    pub fn states(&self) -> impl Iterator<Item = Option<hsm_api::SyncStatus>> {
        self.entries.values().map(|e| e.object.status.as_ref().and_then(|s| s.sync_status))
    }

    /// Everyone who wants this Secret.
    pub(super) fn wakes_of_secret(&self, secret: &ObjectKey, lane: Lane) -> Vec<Wake> {
        let keys = self.by_secret.get(secret).into_iter().flatten();
        keys.map(|key| wake(key.clone(), lane)).collect()
    }
}

pub(super) fn wake(key: ObjectKey, lane: Lane) -> Wake {
    Wake { key, lane, after: Duration::ZERO }
}

fn forget<K: Eq + std::hash::Hash>(
    map: &mut std::collections::HashMap<K, BTreeSet<ObjectKey>>,
    of: &K,
    key: &ObjectKey,
) {
    if let Some(set) = map.get_mut(of) {
        set.remove(key);
        if set.is_empty() {
            map.remove(of);
        }
    }
}

fn differs(old: &HSMSecret, new: &HSMSecret) -> bool {
    let (a, b) = (&old.metadata, &new.metadata);
    old.spec != new.spec
        || a.generation != b.generation
        || a.annotations != b.annotations
        || a.finalizers != b.finalizers
        || a.deletion_timestamp != b.deletion_timestamp
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Instance;

    fn index() -> Index {
        Index::new(Instance { name: "i".into(), namespace: "sys".into(), default: true })
    }

    fn object(name: &str, version: u32, secret: &str) -> HSMSecret {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "hsm.j5t.io/v1alpha1", "kind": "HSMSecret",
            "metadata": {"namespace": "ns", "name": name, "uid": name, "resourceVersion": version.to_string()},
            "spec": {"secretName": secret},
        }))
        .unwrap()
    }

    #[test]
    fn the_answer_to_our_own_write_does_not_bring_back_what_was_deleted() {
        let mut index = index();
        index.object_applied(object("a", 1, "s"));
        let key = ObjectKey::new("ns", "a");
        index.object_patched(object("a", 2, "s"));
        assert_eq!(index.entries[&key].object.metadata.resource_version.as_deref(), Some("2"));
        index.object_deleted(&key);
        assert_eq!(index.object_patched(object("a", 3, "s")), []);
        assert!(index.observe(&key).is_none());
        // Made again in between: the answer is about the earlier life.
        let mut again = object("a", 4, "s");
        again.metadata.uid = Some("another".to_owned());
        index.object_applied(again);
        index.object_patched(object("a", 5, "s"));
        assert_eq!(index.entries[&key].object.metadata.uid.as_deref(), Some("another"));
    }

    #[test]
    fn a_name_that_becomes_free_wakes_those_who_wait_for_it() {
        let mut index = index();
        index.object_applied(object("a", 1, "s"));
        index.object_applied(object("b", 2, "s"));
        let woken = index.object_applied(object("a", 3, "other"));
        assert!(woken.iter().any(|w| w.key.name == "b"), "{woken:?}");
    }
}
