//! Compaction: drain, empty, refill, under a marker that makes the token Unknown until it is done.
//!
//! A Pico HSM of firmware 6.6 gives leaked flash back only when much of it is destroyed. Whoever compacts a token has
//! its records elsewhere, in mirrors or in an export that was verified, tombstones too; nothing here makes sure of
//! that. The order is [`Store::begin_compaction`], [`Store::empty`], [`Store::refill`] and [`Store::bury`],
//! [`Store::end_compaction`]. The marker is on the token from the first to the last, so after a crash in any state the
//! next process sees [`Store::is_compacting`], and each call may be made again.

use hsm_token::Token;

use super::place::{Need, Room};
use super::write::check_replica;
use super::{PutOutcome, Replica, Store};
use crate::StoreError;
use crate::catalog::{Item, Known};
use crate::format::{Damage, ObjectId, PREFIX, encode_compaction};

impl<T: Token> Store<T> {
    /// Whether a compaction has begun and is not done: nothing is known of any record.
    pub fn is_compacting(&self) -> bool {
        self.index.compacting
    }

    /// Writes the marker, and waits until it is in the flash. From then on every record is Unknown.
    ///
    /// Refused while objects of ours cannot be read: what is in them may be nowhere else. When the marker cannot be
    /// written, [`StoreError::NoMarker`] says so, and nothing was changed: then only [`Store::dismantle`] is left.
    pub fn begin_compaction(&mut self) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        self.rescan()?;
        if self.index.compacting {
            return Ok(());
        }
        self.all_readable()?;
        let need = Need { objects: 1, freed: 0, room: Room::Passing, leaving: None, goes_back: false };
        self.make_room(need).map_err(|error| match error {
            StoreError::TokenFull { .. } => StoreError::NoMarker(Box::new(error)),
            other => other,
        })?;
        let id = self.random_object()?;
        let written = self.create(id, &[], &[encode_compaction()]);
        if let Err(error) = written {
            if !self.is_void() {
                self.reindex()?;
            }
            return Err(match error {
                StoreError::TokenFull { .. } | StoreError::Token(_) => StoreError::NoMarker(Box::new(error)),
                other => other,
            });
        }
        self.reindex()?;
        self.options.clock.sleep(self.token.limits().settle);
        Ok(())
    }

    /// Destroys every sealed object of ours but the marker, and every plain record, and waits until that has settled. Only while compacting.
    ///
    /// What was torn meanwhile is destroyed too, if it can be read and begins as a sealed object does; what cannot be
    /// read is named in the error, when all else is gone.
    pub fn empty(&mut self) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        self.rescan()?;
        self.compacting()?;
        // The marker was perhaps written by a process that crashed before it had settled.
        self.options.clock.sleep(self.token.limits().settle);
        // An edit of a plain record goes before what it is an edit of: alone it would be somebody else's record.
        let edits = self.clear.plain.iter().filter(|(_, plain)| plain.base.is_some());
        let edits: Vec<ObjectId> = edits.map(|(id, _)| *id).collect();
        if !edits.is_empty() {
            for id in edits {
                self.destroy(id)?;
            }
            self.settled();
        }
        let tombstones = |known: &Known| known.items.iter().any(|item| matches!(item, Item::Tombstone(_)));
        let marker = |known: &Known| known.items.iter().any(|item| matches!(item, Item::Compaction));
        // Tombstones last: if this is given up half way, nothing that was deleted comes back.
        for last in [false, true] {
            let mut ids: Vec<(u64, ObjectId)> = self
                .objects
                .iter()
                .filter(|(_, known)| !marker(known) && tombstones(known) == last)
                .map(|(id, known)| (known.generation, *id))
                .collect();
            if !last {
                ids.extend(self.clear.plain.iter().map(|(id, plain)| (plain.generation, *id)));
            }
            ids.sort_unstable();
            for (_, id) in ids {
                self.destroy(id)?;
            }
            self.settled();
        }
        self.destroy_torn()?;
        self.reindex()?;
        self.options.clock.sleep(self.token.limits().settle);
        self.all_readable()
    }

    /// [`Store::replicate`] for a token that is being compacted. Tombstones come back with [`Store::bury`].
    pub fn refill(&mut self, replica: &Replica) -> Result<PutOutcome, StoreError> {
        check_replica(replica)?;
        let _lock = self.lock()?;
        self.rescan()?;
        self.compacting()?;
        self.all_readable()?;
        let entry = self.index.entries.get(&replica.path);
        let found = entry.filter(|entry| !entry.heads.is_empty()).cloned();
        self.take_over(replica, found)
    }

    /// Destroys the marker when all that was written has settled: what is on the token now is what is known of it.
    pub fn end_compaction(&mut self) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        self.rescan()?;
        if !self.index.compacting {
            return Ok(());
        }
        self.all_readable()?;
        self.drain()?;
        self.options.clock.sleep(self.token.limits().settle);
        let marker = |known: &Known| known.items.iter().any(|item| matches!(item, Item::Compaction));
        let markers: Vec<ObjectId> =
            self.objects.iter().filter(|(_, known)| marker(known)).map(|(id, _)| *id).collect();
        for id in markers {
            self.destroy(id)?;
        }
        self.reindex()
    }

    fn compacting(&self) -> Result<(), StoreError> {
        if self.index.compacting {
            Ok(())
        } else {
            Err(StoreError::Invalid("no compaction of this token is under way: begin one first"))
        }
    }

    fn all_readable(&self) -> Result<(), StoreError> {
        // What is not in a format of ours stays as it is.
        let sealed = |object: &&crate::DamagedObject| object.label.starts_with(PREFIX);
        let damaged =
            || self.index.damaged.iter().filter(|object| sealed(object) && !self.blemishes.contains(object));
        if damaged().next().is_none() {
            return Ok(());
        }
        Err(StoreError::Damaged { path: None, objects: damaged().cloned().collect() })
    }

    /// Objects with a name of ours whose value can be read and is no object of this store any more.
    fn destroy_torn(&mut self) -> Result<(), StoreError> {
        let torn: Vec<_> = self
            .unusable
            .iter()
            .filter(|(_, (_, damage))| !matches!(damage, Damage::Name | Damage::Newer(_) | Damage::Body(_)))
            .filter_map(|(label, (handles, _))| {
                Some((label.clone(), ObjectId::from_label(label)?, *handles.first()?))
            })
            .collect();
        for (label, id, handle) in torn {
            let Ok(value) = self.token.read(handle) else { continue };
            if !id.is_named_by(&value) {
                continue;
            }
            self.destroy_unusable(&label, handle, value.len())?;
        }
        Ok(())
    }
}
