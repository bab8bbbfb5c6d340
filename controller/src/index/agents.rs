//! Agents, their tokens, and what the tokens hold.

use std::collections::{BTreeMap, BTreeSet};

use hsm_api::Reason;
use hsm_types::{Presence, RecordPath, Relation, Revision, TokenId, Tombstone};

use super::objects::wake;
use super::{Index, UNKNOWN_GRACE, Wake};
use crate::agents::AgentClient;
use crate::key::ObjectKey;
use crate::queue::Lane;

/// What one token holds of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordSeen {
    /// The live versions.
    pub heads: Vec<Revision>,
    /// The lives that ended.
    pub tombstones: Vec<Tombstone>,
}

/// A record, or why nothing can be said of it.
pub(super) type RecordEntry = Result<RecordSeen, String>;

/// One event of a record feed.
#[derive(Debug)]
pub enum FeedEvent {
    /// What was known is void.
    Reset(String),
    /// Part of a snapshot.
    Snapshot(RecordPath, RecordEntry),
    /// The snapshot is whole.
    End {
        /// Objects cannot be opened: what is not in the snapshot is unknown, not absent.
        damaged: bool,
    },
    /// One path changed.
    Changed(RecordPath, RecordEntry),
}

/// What is known of a token's records.
#[derive(Debug)]
pub enum Feed {
    /// Nothing, and why.
    Unknown(String),
    /// A snapshot is on its way.
    Filling(BTreeMap<RecordPath, RecordEntry>),
    /// All of it.
    Known {
        /// By path.
        records: BTreeMap<RecordPath, RecordEntry>,
        /// What is not there is unknown, not absent.
        damaged: bool,
        /// Our own writes that the feed has not told yet.
        ahead: BTreeMap<RecordPath, Revision>,
    },
}

/// One token of an agent.
#[derive(Debug)]
pub struct TokenEntry {
    /// Why it does not serve: a reason and a text; `None` while it does.
    pub trouble: Option<(Reason, String)>,
    /// Its records.
    pub feed: Feed,
}

/// One agent.
#[derive(Default)]
pub struct AgentState {
    /// How to call it, while connected.
    pub client: Option<AgentClient>,
    /// Why it is not connected.
    pub lost: Option<String>,
    /// Whether it has ever listed its tokens.
    pub heard: bool,
    /// It has a token and cannot say yet which one it is.
    pub nameless: bool,
    /// Its tokens; they stay when it is lost.
    pub tokens: BTreeMap<TokenId, TokenEntry>,
}

impl AgentState {
    /// Whether it has listed its tokens, each by its id.
    pub(super) fn told_all(&self) -> bool {
        self.heard && !self.nameless
    }

    /// Whether everything that it can say now was said.
    fn settled(&self) -> bool {
        let known = |t: &TokenEntry| t.trouble.is_some() || matches!(t.feed, Feed::Known { .. });
        self.lost.is_some() || (self.told_all() && self.tokens.values().all(known))
    }
}

impl Index {
    /// An agent is to be counted, connected or not.
    pub fn agent_added(&mut self, name: String) {
        self.agents.entry(name).or_default();
    }

    /// An agent is not configured any more.
    pub fn agent_removed(&mut self, name: &str) -> Vec<Wake> {
        self.agents.remove(name);
        self.wake_all()
    }

    /// The agent answers.
    pub fn agent_connected(&mut self, name: &str, client: AgentClient) {
        let agent = self.agents.entry(name.to_owned()).or_default();
        agent.client = Some(client);
        agent.lost = None;
    }

    /// The agent does not answer.
    pub fn agent_lost(&mut self, name: &str, why: &str) -> Vec<Wake> {
        let agent = self.agents.entry(name.to_owned()).or_default();
        let news = agent.lost.is_none();
        agent.client = None;
        agent.lost = Some(why.to_owned());
        for token in agent.tokens.values_mut() {
            token.feed = Feed::Unknown(why.to_owned());
        }
        if news { self.wake_all() } else { Vec::new() }
    }

    /// Whether the agent has a token that it cannot name, which may be any.
    pub fn nameless(&mut self, name: &str, nameless: bool) -> Vec<Wake> {
        let agent = self.agents.entry(name.to_owned()).or_default();
        let news = agent.heard && agent.nameless != nameless;
        agent.nameless = nameless;
        if news { self.wake_all() } else { Vec::new() }
    }

    /// The agent's tokens: for each its id and why it does not serve.
    pub fn tokens_listed(&mut self, name: &str, list: Vec<(TokenId, Option<(Reason, String)>)>) -> Vec<Wake> {
        let listed: BTreeSet<TokenId> = list.iter().map(|(id, _)| *id).collect();
        // A token that was carried from a node that does not answer to this one is here now.
        for (_, other) in self.agents.iter_mut().filter(|(other, a)| *other != name && a.lost.is_some()) {
            other.tokens.retain(|id, _| !listed.contains(id));
        }
        let agent = self.agents.entry(name.to_owned()).or_default();
        let mut news = !agent.heard;
        agent.heard = true;
        let before = agent.tokens.len();
        agent.tokens.retain(|id, _| listed.contains(id));
        news |= agent.tokens.len() != before;
        for (id, trouble) in list {
            let token = agent.tokens.entry(id).or_insert_with(|| {
                news = true;
                TokenEntry { trouble: None, feed: Feed::Unknown("its records are being listed".to_owned()) }
            });
            news |= token.trouble != trouble;
            if trouble.is_some() {
                token.feed = Feed::Unknown("it does not serve".to_owned());
            }
            token.trouble = trouble;
        }
        if news { self.wake_all() } else { Vec::new() }
    }

    /// A record feed said something.
    pub fn fed(&mut self, name: &str, id: TokenId, event: FeedEvent) -> Vec<Wake> {
        let Some(token) = self.agents.get_mut(name).and_then(|a| a.tokens.get_mut(&id)) else {
            return Vec::new();
        };
        match event {
            FeedEvent::Reset(why) => {
                let news = matches!(token.feed, Feed::Known { .. });
                token.feed = Feed::Unknown(why);
                if news { self.wake_all() } else { Vec::new() }
            }
            FeedEvent::Snapshot(path, record) => {
                if let Feed::Filling(records) = &mut token.feed {
                    records.insert(path, record);
                } else {
                    token.feed = Feed::Filling([(path, record)].into());
                }
                Vec::new()
            }
            FeedEvent::End { damaged } => {
                let records = match std::mem::replace(&mut token.feed, Feed::Unknown(String::new())) {
                    Feed::Filling(records) => records,
                    _ => BTreeMap::new(),
                };
                token.feed = Feed::Known { records, damaged, ahead: BTreeMap::new() };
                self.entries.keys().map(|key| wake(key.clone(), Lane::Fresh)).collect()
            }
            FeedEvent::Changed(path, record) => {
                let Feed::Known { records, ahead, .. } = &mut token.feed else { return Vec::new() };
                if let (Some(own), Ok(seen)) = (ahead.get(&path), &record) {
                    let behind = |head: &Revision| head.relation(own) == Relation::Behind;
                    if seen.tombstones.is_empty() && seen.heads.iter().any(behind) {
                        // Told before our own write, heard after it.
                        return Vec::new();
                    }
                }
                ahead.remove(&path);
                let news = records.get(&path) != Some(&record);
                records.insert(path.clone(), record);
                if news { self.wakes_of_path(&path) } else { Vec::new() }
            }
        }
    }

    /// A reconcile wrote this record: the feed will tell it too, later, and it will be no news then. So the others
    /// that share the record are woken here.
    pub fn record_written(
        &mut self,
        name: &str,
        id: TokenId,
        path: RecordPath,
        revision: Revision,
    ) -> Vec<Wake> {
        let wakes = self.wakes_of_path(&path);
        let Some(token) = self.agents.get_mut(name).and_then(|a| a.tokens.get_mut(&id)) else {
            return Vec::new();
        };
        let Feed::Known { records, ahead, .. } = &mut token.feed else { return Vec::new() };
        let known = records.get(&path).and_then(|r| r.as_ref().ok());
        if known.is_some_and(|r| r.heads.iter().any(|h| h.relation(&revision) != Relation::Behind)) {
            return Vec::new();
        }
        let tombstones = known.map(|r| r.tombstones.clone()).unwrap_or_default();
        ahead.insert(path.clone(), revision.clone());
        records.insert(path, Ok(RecordSeen { heads: vec![revision], tombstones }));
        if wakes.len() > 1 { wakes } else { Vec::new() }
    }

    /// Whether every agent has said all it can say now.
    pub fn agents_settled(&self) -> bool {
        !self.agents.is_empty() && self.agents.values().all(AgentState::settled)
    }

    fn wakes_of_path(&self, path: &RecordPath) -> Vec<Wake> {
        let keys = self.by_path.get(path).into_iter().flatten();
        keys.map(|key| wake(key.clone(), Lane::Fresh)).collect()
    }

    fn wake_all(&self) -> Vec<Wake> {
        let later = |key: &ObjectKey| Wake { key: key.clone(), lane: Lane::Refresh, after: UNKNOWN_GRACE };
        self.entries.keys().map(later).collect()
    }
}

impl TokenEntry {
    /// What it holds of a path; for what is unknown, with the reason.
    pub fn look(&self, path: &RecordPath) -> (Presence<RecordSeen>, Reason) {
        if let Some((reason, text)) = &self.trouble {
            return (Presence::unknown(text.clone()), *reason);
        }
        match &self.feed {
            Feed::Unknown(why) => (Presence::unknown(why.clone()), Reason::TokenUnhealthy),
            Feed::Filling(_) => (Presence::unknown("its records are being listed"), Reason::TokenUnhealthy),
            Feed::Known { records, damaged, .. } => match records.get(path) {
                Some(Err(why)) => (Presence::unknown(why.clone()), Reason::RecordDamaged),
                // A damaged object may be the record, or a new life after the tombstones.
                seen if *damaged && !seen.is_some_and(|s| s.as_ref().is_ok_and(|s| !s.heads.is_empty())) => {
                    let why = "objects on it are damaged, so it cannot be told whether it has this record";
                    (Presence::unknown(why), Reason::RecordDamaged)
                }
                Some(Ok(seen)) if seen.heads.is_empty() && seen.tombstones.is_empty() => {
                    (Presence::Absent, Reason::PathNotFound)
                }
                Some(Ok(seen)) => (Presence::Present(seen.clone()), Reason::SecretSynced),
                None => (Presence::Absent, Reason::PathNotFound),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_damaged_token_nothing_is_absent() {
        let path = RecordPath::new("secrets/ns/s").unwrap();
        let empty = RecordSeen { heads: vec![], tombstones: vec![] };
        for damaged in [false, true] {
            for records in [BTreeMap::new(), [(path.clone(), Ok(empty.clone()))].into()] {
                let feed = Feed::Known { records, damaged, ahead: BTreeMap::new() };
                let (seen, _) = TokenEntry { trouble: None, feed }.look(&path);
                assert_eq!((seen.is_absent(), seen.is_unknown()), (!damaged, damaged));
            }
        }
    }

    #[test]
    fn an_agent_with_a_token_that_it_cannot_name_has_not_told_all() {
        let mut agent = AgentState { heard: true, ..AgentState::default() };
        assert!(agent.told_all());
        agent.nameless = true;
        assert!(!agent.told_all() && !agent.settled());
    }
}
