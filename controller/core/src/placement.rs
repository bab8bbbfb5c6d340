//! Which token is primary for a path.

use std::collections::BTreeSet;

use hsm_types::{Incarnation, Presence, RecordPath, Relation, TokenId};
use sha2::{Digest as _, Sha256};

use crate::model::TokenView;

/// The outcome of choosing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Primary {
    /// This token, by its place in the list.
    Token(usize),
    /// It cannot be told now, and why: a token that may hold the record cannot be read.
    Unknown(String),
    /// There is no token at all.
    None,
    /// Copies on several tokens are diverged: their places in the list.
    Diverged(Vec<usize>),
}

/// Chooses the primary: the token that holds the newest copy; without any copy the previous primary, else the winner
/// of rendezvous hashing over the tokens that can be read.
///
/// Sticky by what the tokens hold, not by a status that a restore may have lost: `previous` only breaks ties, and
/// holds the choice while that token cannot be read, because it may have a newer copy than anyone else.
pub fn choose_primary(path: &RecordPath, tokens: &[TokenView], previous: Option<TokenId>) -> Primary {
    if let Some(previous) = previous {
        match tokens.iter().find(|t| t.token == previous) {
            Some(TokenView { copy: Presence::Unknown(why), node, .. }) => {
                return Primary::Unknown(format!("token {previous} on {node} cannot be read: {why}"));
            }
            None => {
                return Primary::Unknown(format!(
                    "token {previous}, which holds this record, is on no node that answers; plug it in again"
                ));
            }
            Some(_) => {}
        }
    }
    // A tombstone on one token speaks for copies of that life on all others.
    let copies = || tokens.iter().filter_map(|t| t.copy.present());
    let dead: BTreeSet<Incarnation> = copies().flat_map(|c| &c.tombstones).map(|t| t.incarnation).collect();
    let mut newest: Vec<usize> = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        let Some([head, ..]) = token.copy.present().map(|c| c.heads.as_slice()) else {
            continue;
        };
        if dead.contains(&head.version.incarnation) {
            continue;
        }
        let relation =
            |j: usize| tokens[j].copy.present().and_then(|c| c.heads.first()).map(|h| head.relation(h));
        if newest.iter().any(|&j| relation(j) == Some(Relation::Behind)) {
            continue;
        }
        newest.retain(|&j| relation(j) != Some(Relation::Ahead));
        newest.push(i);
    }
    let equal = |a: usize, b: usize| {
        let head = |i: usize| tokens[i].copy.present().and_then(|c| c.heads.first());
        head(a).zip(head(b)).is_some_and(|(x, y)| x.relation(y) == Relation::Equal)
    };
    if let Some(&first) = newest.first() {
        if newest.iter().any(|&i| !equal(first, i)) {
            return Primary::Diverged(newest);
        }
        let sticky = newest.iter().find(|&&i| Some(tokens[i].token) == previous);
        return Primary::Token(
            sticky.copied().unwrap_or_else(|| rendezvous(path, tokens, &newest).unwrap_or(first)),
        );
    }
    if let Some(kept) = tokens.iter().position(|t| Some(t.token) == previous && dead.is_empty()) {
        return Primary::Token(kept);
    }
    if let Some((token, why)) = tokens.iter().find_map(|t| match &t.copy {
        Presence::Unknown(why) => Some((t, why)),
        _ => None,
    }) {
        return Primary::Unknown(format!("token {} on {} cannot be read: {why}", token.token, token.node));
    }
    // A tombstone speaks for the path as a copy does, but a copy that another token's tombstone has ended does not.
    let ended = |t: &TokenView| t.copy.present().is_some_and(|c| c.heads.is_empty());
    let marked: Vec<usize> = (0..tokens.len()).filter(|&i| ended(&tokens[i])).collect();
    let all: Vec<usize> = (0..tokens.len()).collect();
    let eligible = if marked.is_empty() { all } else { marked };
    rendezvous(path, tokens, &eligible).map_or(Primary::None, Primary::Token)
}

/// Highest random weight (Thaler and Ravishankar, 1996): each token's weight for the path is a hash of both, so that
/// a token that comes or goes moves only its own share.
fn rendezvous(path: &RecordPath, tokens: &[TokenView], among: &[usize]) -> Option<usize> {
    let weight = |i: &usize| -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"hsm.j5t.io/rendezvous/v1");
        hash.update(tokens[*i].token.as_bytes());
        hash.update(path.as_str().as_bytes());
        hash.finalize().into()
    };
    among.iter().copied().max_by_key(weight)
}
