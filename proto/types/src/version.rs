//! Versions: which of two copies is newer, without a clock.
//!
//! A version is a place in an epoch (a counter), and an epoch has exactly one writer. Its lineage tells, for each
//! earlier epoch that it descends from, where that epoch ended (the leader epochs of Kafka's KIP-101). So a copy at
//! `(e, c)` is an ancestor of another exactly if `c` is not beyond where the other's lineage says `e` ended. A mirror
//! that missed a thousand edits is just behind; two copies that were edited apart are diverged.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::{Incarnation, WriterId};

/// One writer's run of consecutive edits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EpochId {
    /// One more than the highest number that the writer had seen when it began.
    pub number: u32,
    /// The token on which it was written, and a nonce of its own.
    pub writer: WriterId,
}

/// Where each earlier epoch ended. Never holds the version's own epoch.
pub type Lineage = BTreeMap<EpochId, u64>;

/// The short form of a version: enough to name it, not enough to compare it.
///
/// Text form: `EPOCH.COUNTER-WRITER-INCARNATION`, for example `1.3-6f9b2d1e8c3a4e57-00010203fcfdfeff`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The record's life.
    pub incarnation: Incarnation,
    /// The epoch.
    pub epoch: EpochId,
    /// The place in the epoch, from 1.
    pub counter: u64,
}

/// A record's logical version with its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The record's life.
    pub incarnation: Incarnation,
    /// The epoch.
    pub epoch: EpochId,
    /// The place in the epoch, from 1.
    pub counter: u64,
    /// Where the earlier epochs ended.
    pub lineage: Lineage,
}

/// How one version stands to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The same version.
    Equal,
    /// The other is an ancestor of this.
    Ahead,
    /// This is an ancestor of the other.
    Behind,
    /// Edited apart: neither is an ancestor of the other.
    Diverged,
    /// Two lives of the same path: only a tombstone can tell which one is over.
    OtherLife,
}

impl Version {
    /// The first version of a new life.
    pub fn first(incarnation: Incarnation, writer: WriterId) -> Self {
        Self { incarnation, epoch: EpochId { number: 1, writer }, counter: 1, lineage: Lineage::new() }
    }

    /// The version after this one and all of `parents`, written on `writer`'s token. `writer` carries a fresh nonce,
    /// which is used if an epoch begins.
    ///
    /// Continues the epoch when it was begun on this token, no parent knows anything that this version does not, and
    /// `begin` is false; else begins epoch 1 + the highest number seen. `begin` is set for an edit without a cluster
    /// and after a token was found to have lost a write: so a counter value is never used for two contents.
    /// Parents of another life are ignored: their history says nothing about this one.
    #[must_use]
    pub fn next(&self, writer: WriterId, parents: &[Version], begin: bool) -> Self {
        let parents = || parents.iter().filter(|p| p.incarnation == self.incarnation);
        let linear = parents().all(|p| self.includes(&p.stamp()));
        if self.epoch.writer.same_token(&writer) && linear && !begin && self.counter < u64::MAX {
            return Self { counter: self.counter + 1, ..self.clone() };
        }
        let mut lineage = self.lineage.clone();
        lineage.insert(self.epoch, self.counter);
        for parent in parents() {
            let ends = parent.lineage.iter().map(|(e, c)| (*e, *c));
            for (epoch, end) in ends.chain([(parent.epoch, parent.counter)]) {
                let known = lineage.entry(epoch).or_insert(end);
                *known = end.max(*known);
            }
        }
        let highest = lineage.keys().map(|e| e.number).max().unwrap_or(0);
        let epoch = EpochId { number: highest.saturating_add(1), writer };
        Self { incarnation: self.incarnation, epoch, counter: 1, lineage }
    }

    /// The short form.
    pub fn stamp(&self) -> Stamp {
        Stamp { incarnation: self.incarnation, epoch: self.epoch, counter: self.counter }
    }

    /// Whether `stamp` is this version or an ancestor of it.
    pub fn includes(&self, stamp: &Stamp) -> bool {
        let end = if stamp.epoch == self.epoch {
            Some(self.counter)
        } else {
            self.lineage.get(&stamp.epoch).copied()
        };
        stamp.incarnation == self.incarnation && end.is_some_and(|end| stamp.counter <= end)
    }

    /// How this version stands to `other`. Says nothing of contents: two copies of one version with different
    /// digests are diverged too, which [`crate::Revision::relation`] sees.
    pub fn relation(&self, other: &Self) -> Relation {
        if self.incarnation != other.incarnation {
            return Relation::OtherLife;
        }
        match (self.includes(&other.stamp()), other.includes(&self.stamp())) {
            (true, true) => Relation::Equal,
            (true, false) => Relation::Ahead,
            (false, true) => Relation::Behind,
            (false, false) => Relation::Diverged,
        }
    }
}

impl crate::Revision {
    /// How this copy stands to `other`, looking at versions and contents.
    pub fn relation(&self, other: &Self) -> Relation {
        match self.version.relation(&other.version) {
            Relation::Equal if self.digest != other.digest => Relation::Diverged,
            relation => relation,
        }
    }
}

impl fmt::Display for Version {
    /// `EPOCH.COUNTER`, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch.number, self.counter)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}-{}-{}", self.epoch.number, self.counter, self.epoch.writer, self.incarnation)
    }
}

impl Stamp {
    /// Whether someone who had this version before their eyes had seen `other` as well, as far as two stamps of one
    /// life can tell: in one epoch by the counter, else by the epoch's number, which is one more than the highest seen.
    pub fn knew(&self, other: &Self) -> bool {
        if self.epoch == other.epoch {
            return self.counter >= other.counter;
        }
        self.incarnation == other.incarnation && self.epoch.number > other.epoch.number
    }
}

/// Why a text is not a [`Stamp`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a version: expected EPOCH.COUNTER-WRITER-INCARNATION as `get -o json` prints it")]
pub struct ParseStampError;

impl FromStr for Stamp {
    type Err = ParseStampError;

    fn from_str(text: &str) -> Result<Self, ParseStampError> {
        let mut parts = text.split('-');
        let (Some(place), Some(writer), Some(life), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ParseStampError);
        };
        let (number, counter) = place.split_once('.').ok_or(ParseStampError)?;
        let stamp = Self {
            incarnation: life.parse().map_err(|_| ParseStampError)?,
            epoch: EpochId {
                number: number.parse().map_err(|_| ParseStampError)?,
                writer: writer.parse().map_err(|_| ParseStampError)?,
            },
            counter: counter.parse().map_err(|_| ParseStampError)?,
        };
        // Only the form that we print: "+1.01" would be a second name for the same version.
        if stamp.to_string() == text { Ok(stamp) } else { Err(ParseStampError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: WriterId = WriterId::from_bytes([0xaa; 8]);
    const B: WriterId = WriterId::from_bytes([0xbb; 8]);
    const LIFE: Incarnation = Incarnation::from_bytes([1; 8]);

    #[test]
    fn consecutive_edits_by_one_writer_stay_in_one_epoch() {
        let first = Version::first(LIFE, A);
        let second = first.next(A, &[], false);
        assert_eq!(second.to_string(), "1.2");
        assert!(second.lineage.is_empty());
        assert_eq!(second.relation(&first), Relation::Ahead);
        assert_eq!(first.relation(&second), Relation::Behind);
        assert_eq!(first.relation(&first.clone()), Relation::Equal);
    }

    #[test]
    fn a_change_of_writer_begins_an_epoch_and_the_late_write_is_diverged() {
        let shared = Version::first(LIFE, A).next(A, &[], false);
        let failover = shared.next(B, &[], false);
        assert_eq!(failover.to_string(), "2.1");
        let late = shared.next(A, &[], false);
        assert_eq!(failover.relation(&shared), Relation::Ahead);
        assert_eq!(failover.relation(&late), Relation::Diverged);
        let merged = failover.next(B, std::slice::from_ref(&late), false);
        assert_eq!(merged.to_string(), "3.1");
        assert_eq!(merged.relation(&late), Relation::Ahead);
        assert_eq!(merged.relation(&failover), Relation::Ahead);
    }

    #[test]
    fn a_thousand_missed_edits_are_just_behind() {
        let old = Version::first(LIFE, A);
        let new = (0..1000).fold(old.clone(), |v, i| v.next(if i % 2 == 0 { B } else { A }, &[], false));
        assert_eq!(old.relation(&new), Relation::Behind);
    }

    #[test]
    fn begin_opens_an_epoch_for_the_same_writer() {
        let first = Version::first(LIFE, A);
        let lost = first.next(A, &[], false);
        let again = first.next(A, &[], true);
        assert_eq!(again.to_string(), "2.1");
        assert_eq!(again.relation(&lost), Relation::Diverged);
        let healed = first.next(A, std::slice::from_ref(&lost), false);
        assert_eq!(healed.relation(&lost), Relation::Ahead);
    }

    #[test]
    fn a_token_that_was_rolled_back_begins_an_epoch_of_its_own() {
        let token = crate::TokenId::from_random([5; 16]);
        let old = Version::first(LIFE, token.writer([1; 4]));
        let lost = old.next(token.writer([2; 4]), &[], true);
        let edited = old.next(token.writer([3; 4]), &[], true);
        assert_eq!(lost.to_string(), edited.to_string());
        assert_eq!(lost.relation(&edited), Relation::Diverged);
        assert_eq!(lost.next(token.writer([4; 4]), &[], false).epoch, lost.epoch);
    }

    #[test]
    fn an_unknown_epoch_is_diverged_never_behind() {
        let mut pruned = Version::first(LIFE, A).next(B, &[], false);
        pruned.lineage.clear();
        assert_eq!(Version::first(LIFE, A).relation(&pruned), Relation::Diverged);
    }

    #[test]
    fn lives_are_not_compared() {
        let one = Version::first(LIFE, A);
        let two = Version::first(Incarnation::from_bytes([2; 8]), A);
        assert_eq!(one.relation(&two), Relation::OtherLife);
        assert_eq!(one.next(A, std::slice::from_ref(&two), false).to_string(), "1.2");
    }

    #[test]
    fn stamps_round_trip_and_have_one_form() {
        let stamp = Version::first(LIFE, A).stamp();
        assert_eq!(stamp.to_string(), "1.1-aaaaaaaaaaaaaaaa-0101010101010101");
        assert_eq!(stamp.to_string().parse(), Ok(stamp));
        for bad in ["1.1", "+1.1-aaaaaaaaaaaaaaaa-0101010101010101", "1.01-aaaaaaaaaaaaaaaa-0101010101010101"]
        {
            assert!(bad.parse::<Stamp>().is_err(), "{bad}");
        }
    }
}
