//! The index: the controller's only memory of the world. One task owns it (see [`task`]); the state is plain data
//! with pure transitions, which say whose turn it is ([`Wake`]).
//!
//! It holds metadata of Secrets, versions of records, and keyed digests; never a value.

mod agents;
mod memory;
mod objects;
mod observe;
mod secrets;
mod task;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use hsm_api::{HSMSecret, PathGrant};
use hsm_core::{Invalid, Wanted};
use hsm_types::RecordPath;

use crate::key::ObjectKey;
use crate::queue::Lane;

pub use agents::{AgentState, Feed, FeedEvent, RecordSeen, TokenEntry};
pub use memory::{Memory, RecordMemory, SecretMemory};
pub use observe::{Observation, TokenSeen};
pub use secrets::SecretMeta;
pub use task::{Event, IndexHandle, Readiness, Scoped, spawn};

/// What is said of a token that became unknown is said after this long: an agent that restarts is back by then.
const UNKNOWN_GRACE: Duration = Duration::from_secs(10);

/// Whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wake {
    /// The HSMSecret.
    pub key: ObjectKey,
    /// Its lane.
    pub lane: Lane,
    /// Not before this long.
    pub after: Duration,
}

/// One HSMSecret that this instance serves.
struct Entry {
    object: Arc<HSMSecret>,
    wanted: Result<Wanted, Invalid>,
    memory: Memory,
}

impl Entry {
    fn secret_key(&self) -> ObjectKey {
        let namespace = self.object.metadata.namespace.clone().unwrap_or_default();
        let own = self.object.metadata.name.clone().unwrap_or_default();
        ObjectKey::new(namespace, self.object.spec.secret_name.clone().unwrap_or(own))
    }
}

/// Which HSMSecrets this instance serves.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Its name.
    pub name: String,
    /// The namespace it runs in.
    pub namespace: String,
    /// Whether it serves those without a parentRef.
    pub default: bool,
}

impl Instance {
    fn serves(&self, object: &HSMSecret) -> bool {
        match &object.spec.parent_ref {
            None => self.default,
            Some(parent) => {
                parent.name == self.name && parent.namespace.as_ref().is_none_or(|ns| *ns == self.namespace)
            }
        }
    }
}

/// See the module.
pub struct Index {
    instance: Instance,
    entries: HashMap<ObjectKey, Entry>,
    by_path: HashMap<RecordPath, BTreeSet<ObjectKey>>,
    by_secret: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
    secrets: HashMap<ObjectKey, secrets::Known>,
    grants_of: BTreeMap<String, Vec<PathGrant>>,
    grants: Vec<PathGrant>,
    agents: BTreeMap<String, AgentState>,
}

impl Index {
    /// An empty index.
    pub fn new(instance: Instance) -> Self {
        Self {
            instance,
            entries: HashMap::new(),
            by_path: HashMap::new(),
            by_secret: HashMap::new(),
            secrets: HashMap::new(),
            grants_of: BTreeMap::new(),
            grants: Vec::new(),
            agents: BTreeMap::new(),
        }
    }
}

/// Whether the resource version `new` is not older than `old`. They are numbers that grow (Kubernetes 1.35, KEP-5504);
/// what is not a number counts as newer.
fn not_older(new: &str, old: &str) -> bool {
    match (new.parse::<u128>(), old.parse::<u128>()) {
        (Ok(new), Ok(old)) => new >= old,
        _ => true,
    }
}
