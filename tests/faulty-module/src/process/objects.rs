//! Data objects: searches and descriptions from memory, values from the card the first time.

use cryptoki_sys as ck;

use super::attributes::{bytes, find, flag, number, of_secret};
use super::{Entry, Given, Half, Process};
use crate::context::{Context, trouble};
use crate::disk::{Card, value_in};
use crate::flash::{Content, Description, FileId, Flash, Kind};
use crate::rv::{Done, Rv};

const READ_APDUS: u64 = 2;
const DESTROY_APDUS: u64 = 3;

/// 8 up to 1200 bytes, 12 for the longest value of 4032.
fn create_apdus(size: usize) -> u64 {
    8 + (size.saturating_sub(1200) as u64).div_ceil(708)
}

/// Two to four sectors.
fn create_erases(size: usize) -> u64 {
    match size {
        0..=500 => 2,
        501..=2000 => 3,
        _ => 4,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Process {
    pub(crate) fn find_init(&mut self, session: ck::CK_SESSION_HANDLE, template: &[Given]) -> Done {
        let of = self.session(session)?;
        if of.search.is_some() {
            return Err(Rv::CKR_OPERATION_ACTIVE);
        }
        let slot = of.slot;
        let user = self.slots[slot].user.is_user();
        let shown = |entry: &Entry| entry.shown && (user || !entry.is_private()) && entry.fits(template);
        let found: Vec<u64> =
            self.entries(slot)?.iter().filter(|(_, e)| shown(e)).map(|(handle, _)| *handle).rev().collect();
        self.session_mut(session)?.search = Some(found);
        Ok(())
    }

    pub(crate) fn find_next(&mut self, session: ck::CK_SESSION_HANDLE, max: usize) -> Done<Vec<u64>> {
        let search = self.session_mut(session)?.search.as_mut().ok_or(Rv::CKR_OPERATION_NOT_INITIALIZED)?;
        let rest = search.len().saturating_sub(max);
        Ok(search.split_off(rest).into_iter().rev().collect())
    }

    pub(crate) fn find_final(&mut self, session: ck::CK_SESSION_HANDLE) -> Done {
        self.session_mut(session)?.search.take().map(drop).ok_or(Rv::CKR_OPERATION_NOT_INITIALIZED)
    }

    /// Each attribute or why there is none.
    pub(crate) fn attributes(
        &mut self,
        context: &mut Context,
        session: ck::CK_SESSION_HANDLE,
        handle: u64,
        kinds: &[ck::CK_ATTRIBUTE_TYPE],
    ) -> Done<Vec<Done<Vec<u8>>>> {
        let of = self.session(session)?;
        context.call.handle = Some(handle);
        if let Some(secret) = of.secrets.get(&handle) {
            return Ok(kinds.iter().map(|kind| of_secret(secret, *kind)).collect());
        }
        let slot = of.slot;
        let entry = self.visible_entry(slot, handle)?;
        context.call.label = Some(text(entry.label()));
        let is_data = matches!(entry.half, Half::Data { .. });
        let mut all = Vec::with_capacity(kinds.len());
        for kind in kinds {
            let value = if *kind == ck::CKA_VALUE && is_data {
                // What the card refuses is the answer to the whole call.
                let value = self.value(context, slot, handle)?;
                context.call.length = Some(value.len());
                Ok(value)
            } else {
                self.visible_entry(slot, handle)?.attribute(*kind)
            };
            all.push(value);
        }
        Ok(all)
    }

    /// An object that this process may name: a private one only after a login.
    pub(super) fn visible_entry(&self, slot: usize, handle: u64) -> Done<&Entry> {
        let user = self.slots[slot].user.is_user();
        let entry = self.entries(slot)?.get(&handle).ok_or(Rv::CKR_OBJECT_HANDLE_INVALID)?;
        if entry.is_private() && !user {
            return Err(Rv::CKR_OBJECT_HANDLE_INVALID);
        }
        Ok(entry)
    }

    /// The value: from memory once it was read, else of whatever file has the number now.
    fn value(&mut self, context: &mut Context, slot: usize, handle: u64) -> Done<Vec<u8>> {
        let (number, private) = match &self.visible_entry(slot, handle)?.half {
            Half::Data { value: Some(value), .. } => return Ok(value.clone()),
            Half::Data { number, description, .. } => (*number, description.private),
            _ => return Err(Rv::CKR_ATTRIBUTE_TYPE_INVALID),
        };
        let read = self.on_card(slot, Rv::CKR_DEVICE_REMOVED, |process, card| {
            context.apdus(card, READ_APDUS);
            if private && !card.head.logged_in {
                return Err(Rv::CKR_USER_NOT_LOGGED_IN);
            }
            let flash = card.flash(&mut process.cache).map_err(trouble)?;
            let poisons = process.settings.empty_value_poisons;
            let value = value_in(flash, number).filter(|value| !(poisons && value.is_empty()));
            let value = value.ok_or(Rv::CKR_GENERAL_ERROR)?.to_vec();
            card.head.counters.value_reads += 1;
            Ok(value)
        })?;
        if let Some(Entry { half: Half::Data { value, .. }, .. }) = self.entries_mut(slot)?.get_mut(&handle) {
            *value = Some(read.clone());
        }
        Ok(read)
    }

    pub(crate) fn create(
        &mut self,
        context: &mut Context,
        session: ck::CK_SESSION_HANDLE,
        template: &[Given],
    ) -> Done<u64> {
        let of = self.session(session)?;
        let (slot, writable) = (of.slot, of.writable);
        let value = bytes(template, ck::CKA_VALUE);
        let mut label = bytes(template, ck::CKA_LABEL);
        label.truncate(self.settings.label_max);
        context.call.label = Some(text(&label));
        context.call.length = Some(value.len());
        if self.poisoned {
            context.crash();
        }
        match number(template, ck::CKA_CLASS) {
            None => return Err(Rv::CKR_TEMPLATE_INCOMPLETE),
            Some(ck::CKO_DATA) => {}
            // No secret keys, and no keys from outside.
            Some(_) => return Err(Rv::CKR_FUNCTION_NOT_SUPPORTED),
        }
        if !writable {
            return Err(Rv::CKR_SESSION_READ_ONLY);
        }
        let application = match find(template, ck::CKA_APPLICATION) {
            Some(Given { to_zero: Some(text), .. }) if self.settings.application_overread => text.clone(),
            Some(given) => given.value.clone(),
            None => Vec::new(),
        };
        let private = flag(template, ck::CKA_PRIVATE).unwrap_or(false);
        let object_id = bytes(template, ck::CKA_OBJECT_ID);
        let user = self.slots[slot].user.is_user();
        let size = value.len();
        let first = |context: &mut Context, card: &mut Card, flash: &mut Flash, settings: &_| {
            context.apdus(card, create_apdus(size));
            if !card.head.logged_in || (private && !user) {
                return Err(Rv::CKR_USER_NOT_LOGGED_IN);
            }
            let number = flash.room(Kind::Value, size, settings).map_err(|_| Rv::CKR_GENERAL_ERROR)?;
            flash.write(
                FileId::value(number),
                Some(Content::Value(value)),
                crate::disk::now_millis(),
                settings,
            );
            let sequence = flash.sequence();
            Ok((number, Description { sequence, label, application, object_id, private }))
        };
        let mut shown = false;
        let second =
            |_: &mut Context, card: &mut Card, flash: &mut Flash, settings: &_, made: &(u8, Description)| {
                let (file, content) = (FileId::description(made.0), Content::Description(made.1.clone()));
                flash.write(file, Some(content), crate::disk::now_millis(), settings);
                let counters = &mut card.head.counters;
                counters.writes += 1;
                counters.erases += create_erases(size);
                counters.bytes_written += size as u64;
                shown = flash.listed(settings).contains(&file);
                Ok(())
            };
        let (number, description) =
            self.two_writes(context, slot, Rv::CKR_SESSION_HANDLE_INVALID, first, second)?;
        let handle = self.new_handle();
        let half = Half::Data { number, description, value: None };
        self.entries_mut(slot)?.insert(handle, Entry { half, shown });
        context.call.handle = Some(handle);
        Ok(handle)
    }

    pub(crate) fn destroy(
        &mut self,
        context: &mut Context,
        session: ck::CK_SESSION_HANDLE,
        handle: u64,
    ) -> Done {
        context.call.handle = Some(handle);
        let of = self.session_mut(session)?;
        if of.secrets.remove(&handle).is_some() {
            return Ok(());
        }
        let (slot, writable) = (of.slot, of.writable);
        let entry = self.visible_entry(slot, handle)?;
        context.call.label = Some(text(entry.label()));
        if !writable {
            return Err(Rv::CKR_SESSION_READ_ONLY);
        }
        match &entry.half {
            Half::Data { number, .. } => {
                let number = *number;
                self.destroy_data(context, slot, number)?;
            }
            Half::Private { number, .. } => {
                let number = *number;
                self.destroy_key(context, slot, number)?;
            }
            // A view of the private half: the card has nothing to destroy, and the next C_Initialize shows it again.
            Half::Public { .. } => {}
        }
        self.entries_mut(slot)?.remove(&handle);
        Ok(())
    }

    /// Destroys whatever object has the number now. The value goes first: a kill between the two leaves a ghost.
    fn destroy_data(&mut self, context: &mut Context, slot: usize, number: u8) -> Done {
        let first =
            |context: &mut Context, card: &mut Card, flash: &mut Flash, settings: &crate::Settings| {
                context.apdus(card, DESTROY_APDUS);
                if !card.head.logged_in {
                    return Err(Rv::CKR_USER_NOT_LOGGED_IN);
                }
                let poisons = settings.empty_value_poisons;
                let value = value_in(flash, number).filter(|value| !(poisons && value.is_empty()));
                let value = value.ok_or(Rv::CKR_GENERAL_ERROR)?;
                let label = match flash.files.get(&FileId::description(number)) {
                    Some(Content::Description(d)) => d.label.as_slice(),
                    _ => &[],
                };
                card.add_remains(label, value).map_err(trouble)?;
                let size = value.len() as u64;
                flash.write(FileId::value(number), None, crate::disk::now_millis(), settings);
                Ok(size)
            };
        let second = |_: &mut Context, card: &mut Card, flash: &mut Flash, settings: &_, size: &u64| {
            flash.write(FileId::description(number), None, crate::disk::now_millis(), settings);
            let counters = &mut card.head.counters;
            counters.writes += 1;
            counters.erases += 2;
            counters.bytes_replaced += size;
            Ok(())
        };
        self.two_writes(context, slot, Rv::CKR_SESSION_HANDLE_INVALID, first, second).map(drop)
    }

    /// C_SetAttributeValue: never does what it is asked; for CKA_VALUE it breaks the process.
    pub(crate) fn set_attributes(
        &mut self,
        session: ck::CK_SESSION_HANDLE,
        handle: u64,
        template: &[Given],
    ) -> Done {
        let slot = self.session(session)?.slot;
        self.visible_entry(slot, handle)?;
        if find(template, ck::CKA_VALUE).is_some() {
            self.poisoned = self.settings.set_value_poisons;
            return Err(Rv::CKR_GENERAL_ERROR);
        }
        Err(Rv::CKR_ATTRIBUTE_READ_ONLY)
    }
}
