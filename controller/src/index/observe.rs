//! What a reconcile gets to see: one consistent look at everything that concerns one HSMSecret.

use std::collections::BTreeMap;
use std::sync::Arc;

use hsm_api::{HSMSecret, Reason};
use hsm_core::{AdoptionPolicy, Copy, Invalid, TokenView, Wanted};
use hsm_types::Presence;

use super::{Entry, Index, Memory, SecretMeta};
use crate::agents::AgentClient;
use crate::key::ObjectKey;

/// One token, with the reason to give while it is unknown.
#[derive(Debug, Clone)]
pub struct TokenSeen {
    /// For the core.
    pub view: TokenView,
    /// Why it is unknown; meaningless while it is not.
    pub reason: Reason,
}

/// See the module.
pub struct Observation {
    /// The HSMSecret.
    pub object: Arc<HSMSecret>,
    /// What it asks for.
    pub wanted: Result<Wanted, Invalid>,
    /// Another HSMSecret has the Secret's name.
    pub holder: Option<ObjectKey>,
    /// The Secret.
    pub secret: Presence<SecretMeta>,
    /// Every token.
    pub tokens: Vec<TokenSeen>,
    /// Agents that have not listed their tokens yet, or have one of which they cannot say which it is: they may hold
    /// anything.
    pub unheard: Vec<String>,
    /// Other HSMSecrets have the same path.
    pub shared: bool,
    /// How to call the agents.
    pub clients: BTreeMap<String, AgentClient>,
    /// What was learned earlier.
    pub memory: Memory,
}

impl Index {
    /// Looks; `None` when the HSMSecret is gone.
    pub fn observe(&self, key: &ObjectKey) -> Option<Observation> {
        let entry = self.entries.get(key)?;
        let secret_key = entry.secret_key();
        let secret = match self.secret(&secret_key) {
            // A Secret without our label is not in our watch. One that may be taken over is looked for even when
            // there is no record to make a Secret from, because then its content is what there is.
            Presence::Absent if entry.memory.foreign || adopts(entry) => {
                Presence::unknown("it has to be looked for")
            }
            known => known,
        };
        Some(Observation {
            object: Arc::clone(&entry.object),
            wanted: entry.wanted.clone(),
            holder: self.holder(key, entry, &secret_key),
            secret,
            tokens: entry.wanted.as_ref().map(|w| self.tokens(w)).unwrap_or_default(),
            unheard: self
                .agents
                .iter()
                .filter(|(_, a)| !a.told_all())
                .map(|(name, _)| name.clone())
                .collect(),
            shared: entry
                .wanted
                .as_ref()
                .is_ok_and(|w| self.by_path.get(&w.path).is_some_and(|keys| keys.len() > 1)),
            clients: self
                .agents
                .iter()
                .filter_map(|(name, a)| Some((name.clone(), a.client.clone()?)))
                .collect(),
            memory: entry.memory.clone(),
        })
    }

    fn tokens(&self, wanted: &Wanted) -> Vec<TokenSeen> {
        let mut all = Vec::new();
        for (node, agent) in &self.agents {
            for (id, token) in &agent.tokens {
                let (seen, reason) = match &agent.lost {
                    Some(why) => (
                        Presence::unknown(format!("the agent {node} does not answer: {why}")),
                        Reason::AgentUnreachable,
                    ),
                    None => token.look(&wanted.path),
                };
                let copy = seen.map(|r| Copy { heads: r.heads, tombstones: r.tombstones, values: None });
                all.push(TokenSeen { view: TokenView { node: node.clone(), token: *id, copy }, reason });
            }
        }
        all
    }

    /// Of two HSMSecrets with one secretName the oldest has it, then the one with the smaller uid.
    fn holder(&self, key: &ObjectKey, entry: &Entry, secret: &ObjectKey) -> Option<ObjectKey> {
        let age = |e: &Entry| {
            let m = &e.object.metadata;
            (m.creation_timestamp.as_ref().map(|t| t.0), m.uid.clone())
        };
        let own = age(entry);
        self.by_secret
            .get(secret)?
            .iter()
            .filter(|other| *other != key)
            .filter_map(|other| Some((other, self.entries.get(other)?)))
            .filter(|(_, e)| age(e) < own)
            .min_by_key(|(_, e)| age(e))
            .map(|(other, _)| other.clone())
    }
}

fn adopts(entry: &Entry) -> bool {
    entry.wanted.as_ref().is_ok_and(|w| w.adoption_policy == AdoptionPolicy::Always)
}
