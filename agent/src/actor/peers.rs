//! What the threads of one node's tokens must know of each other: who sees which token, and in which reader.
//!
//! A TokenId is claimed by what carries it. Of two with one TokenId the admitted one stays; with neither admitted, none
//! is given a PIN. The same carrier seen twice is one token, and the first to hold it serves it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hsm_token::reader_name::{usb_serial, without_numbers};
use hsm_types::TokenId;

use crate::state::Tie;

/// A token as one thread sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sighting {
    pub(super) token_id: TokenId,
    pub(super) tie: Tie,
}

/// What the others say to somebody's claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Claim {
    /// Nobody else has it.
    Held,
    /// Another thread serves this very token.
    SameToken,
    /// Another token says that it has this TokenId.
    Duplicate(Tie),
}

#[derive(Default)]
struct Peer {
    looked: bool,
    seen: Option<Sighting>,
    held: bool,
    reader: Option<String>,
}

/// The threads of one node, by their number.
pub struct Peers {
    all: Mutex<Vec<Peer>>,
    changed: Condvar,
    /// Readers that others on this node use, by name.
    ignored: Vec<String>,
}

impl Peers {
    /// One for each thread, with the reader that its flags name. `ignored`: readers that none of them may touch.
    pub fn new(readers: Vec<Option<String>>, ignored: Vec<String>) -> Self {
        let peers = readers.into_iter().map(|reader| Peer { reader, ..Peer::default() }).collect();
        Self { all: Mutex::new(peers), changed: Condvar::new(), ignored }
    }

    /// This thread sees this token now, or none.
    pub(super) fn sees(&self, me: usize, seen: Option<Sighting>) {
        let mut peers = self.lock();
        if let Some(peer) = peers.get_mut(me) {
            peer.looked = true;
            if peer.seen != seen {
                peer.held = false;
            }
            peer.seen = seen;
        }
        self.changed.notify_all();
    }

    /// Waits until every thread has had its first look: before that nobody can tell that a TokenId is there once.
    pub(super) fn all_have_looked(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut peers = self.lock();
        while !peers.iter().all(|peer| peer.looked) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            peers = self.changed.wait_timeout(peers, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Claims what this thread sees. `admitted`: what carried the TokenId when it was admitted.
    pub(super) fn claim(&self, me: usize, admitted: Option<&Tie>) -> Claim {
        let mut peers = self.lock();
        let claim = decide(&peers, me, admitted);
        if let Some(peer) = peers.get_mut(me) {
            peer.held = claim == Claim::Held;
        }
        claim
    }

    /// Whether a claim would be granted now.
    pub(super) fn would_hold(&self, me: usize, admitted: Option<&Tie>) -> bool {
        decide(&self.lock(), me, admitted) == Claim::Held
    }

    /// This thread has tried to look, and nothing new can be said of what is there.
    pub(super) fn has_looked(&self, me: usize) {
        if let Some(peer) = self.lock().get_mut(me) {
            peer.looked = true;
        }
        self.changed.notify_all();
    }

    /// Another token that says it has the TokenId of the one that this thread sees.
    pub(super) fn rival(&self, me: usize) -> Option<Tie> {
        rival(&self.lock(), me)
    }

    /// The reader in which this thread has its token. Kept when the token goes: it is likely to come back there.
    pub(super) fn reader(&self, me: usize, name: &str) {
        let mut peers = self.lock();
        if let Some(peer) = peers.get_mut(me) {
            peer.reader = (!name.is_empty()).then(|| name.to_owned());
        }
    }

    /// The readers that this thread's worker must leave alone: those of the other threads, and the ignored ones. By the
    /// part of their names that stays when they are plugged in again, where that tells the device.
    pub(super) fn other_readers(&self, me: usize) -> Vec<String> {
        let peers = self.lock();
        let mine = peers.get(me).and_then(|peer| peer.reader.as_ref());
        let others =
            peers.iter().enumerate().filter(|(n, _)| *n != me).filter_map(|(_, p)| p.reader.as_ref());
        let lasting = |name: &String| match usb_serial(name) {
            Some(_) => without_numbers(name).to_owned(),
            None => name.clone(),
        };
        let mine = mine.map(lasting);
        let mut readers: Vec<String> = others.chain(&self.ignored).map(lasting).collect();
        readers.retain(|name| Some(name) != mine.as_ref());
        readers.sort();
        readers.dedup();
        readers
    }

    // Every critical section leaves the list whole.
    fn lock(&self) -> MutexGuard<'_, Vec<Peer>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn others(peers: &[Peer], me: usize) -> impl Iterator<Item = (&Peer, &Sighting)> {
    let id = peers.get(me).and_then(|peer| peer.seen.as_ref()).map(|seen| seen.token_id);
    let there = peers.iter().enumerate().filter(move |(n, _)| *n != me);
    there
        .filter_map(|(_, peer)| peer.seen.as_ref().map(|seen| (peer, seen)))
        .filter(move |(_, seen)| Some(seen.token_id) == id)
}

fn rival(peers: &[Peer], me: usize) -> Option<Tie> {
    let mine = peers.get(me)?.seen.as_ref()?;
    others(peers, me).find(|(_, seen)| seen.tie != mine.tie).map(|(_, seen)| seen.tie.clone())
}

fn decide(peers: &[Peer], me: usize, admitted: Option<&Tie>) -> Claim {
    let Some(mine) = peers.get(me).and_then(|peer| peer.seen.as_ref()) else {
        return Claim::Held;
    };
    if others(peers, me).any(|(peer, seen)| peer.held && seen.tie == mine.tie) {
        return Claim::SameToken;
    }
    match rival(peers, me) {
        Some(other) if admitted != Some(&mine.tie) => Claim::Duplicate(other),
        _ => Claim::Held,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sighting(id: u8, tie: &str) -> Sighting {
        Sighting { token_id: TokenId::from_random([id; 16]), tie: Tie::Serial(tie.into()) }
    }

    fn tie(text: &str) -> Tie {
        Tie::Serial(text.into())
    }

    #[test]
    fn of_two_with_one_id_the_admitted_one_stays() {
        let peers = Peers::new(vec![None, None], Vec::new());
        peers.sees(0, Some(sighting(1, "a")));
        peers.sees(1, Some(sighting(1, "b")));
        assert_eq!(peers.claim(0, Some(&tie("a"))), Claim::Held);
        assert_eq!(peers.claim(1, Some(&tie("a"))), Claim::Duplicate(tie("a")));
        assert_eq!(peers.rival(1), Some(tie("a")));
    }

    #[test]
    fn with_neither_admitted_both_are_refused_until_one_goes() {
        let peers = Peers::new(vec![None, None], Vec::new());
        peers.sees(0, Some(sighting(1, "a")));
        peers.sees(1, Some(sighting(1, "b")));
        assert_eq!(peers.claim(0, None), Claim::Duplicate(tie("b")));
        assert_eq!(peers.claim(1, None), Claim::Duplicate(tie("a")));
        peers.sees(1, None);
        assert_eq!(peers.claim(0, None), Claim::Held);
    }

    #[test]
    fn the_same_token_seen_twice_is_served_once() {
        let peers = Peers::new(vec![None, None], Vec::new());
        peers.sees(1, Some(sighting(1, "a")));
        assert_eq!(peers.claim(1, None), Claim::Held);
        peers.sees(0, Some(sighting(1, "a")));
        assert_eq!(peers.claim(0, None), Claim::SameToken);
        peers.sees(1, Some(sighting(1, "a")));
        assert_eq!(peers.claim(1, None), Claim::Held, "who holds it keeps it over an epoch");
        peers.sees(1, Some(sighting(2, "c")));
        assert_eq!(peers.claim(0, None), Claim::Held);
    }

    #[test]
    fn nobody_is_alone_before_all_have_looked() {
        let peers = Peers::new(vec![None, None], Vec::new());
        peers.sees(0, Some(sighting(1, "a")));
        assert!(!peers.all_have_looked(Duration::ZERO));
        peers.sees(1, None);
        assert!(peers.all_have_looked(Duration::ZERO));
    }

    #[test]
    fn a_worker_leaves_the_others_readers_alone() {
        let peers = Peers::new(vec![Some("A".into()), None, None], vec!["X".into()]);
        peers.reader(1, "B");
        assert_eq!(peers.other_readers(0), ["B", "X"]);
        assert_eq!(peers.other_readers(2), ["A", "B", "X"]);
        peers.reader(1, "A");
        assert_eq!(peers.other_readers(0), ["X"], "what is its own is not ignored");
        peers.reader(1, "Pico (E6) 01 00");
        assert_eq!(peers.other_readers(0), ["Pico (E6)", "X"], "its numbers may be others by then");
    }
}
