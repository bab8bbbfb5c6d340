//! Puts that arrive together: one lock, one look at the token, and shared pages where objects are short.

use hsm_token::Token;
use hsm_types::{Digest, RecordPath, Revision};
use zeroize::Zeroizing;

use super::pack::RESERVE;
use super::place::{Need, Room};
use super::write::{Decision, Write, check_size};
use super::{PutOutcome, PutRequest, Store};
use crate::format::{self, SEALED_OVERHEAD};
use crate::{Encryption, StoreError};

type Outcome = Result<PutOutcome, StoreError>;

/// New records that wait for the page that they share.
#[derive(Default)]
struct Shared<'a> {
    entries: Vec<Zeroizing<Vec<u8>>>,
    puts: Vec<(usize, Write, &'a PutRequest)>,
    size: usize,
}

impl Shared<'_> {
    fn holds(&self, path: &RecordPath) -> bool {
        self.puts.iter().any(|(_, what, _)| what.path == *path)
    }
}

impl<T: Token> Store<T> {
    /// [`Store::put`] of each request, one after another, and what came of each, in their order.
    ///
    /// The writer's lock is held once. Where objects are short, small new records share the pages that they are
    /// written to; such a page is there wholly or not at all, and so are the records in it.
    pub fn put_all(&mut self, requests: &[PutRequest]) -> Vec<Outcome> {
        let locked = self.lock().and_then(|lock| {
            self.rescan()?;
            Ok(lock)
        });
        let _lock = match locked {
            Ok(lock) => lock,
            Err(error) => return requests.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut outcomes: Vec<Option<Outcome>> = Vec::new();
        outcomes.resize_with(requests.len(), || None);
        let mut shared = Shared::default();
        // After an error it is not known what is there: a number must not be given for two contents.
        let mut doubt = false;
        for (number, request) in requests.iter().enumerate() {
            // What is decided on a record must see what was put before.
            if shared.holds(&request.path) {
                doubt |= !self.flush(&mut shared, &mut outcomes);
            }
            let decided = check_size(&request.content).and_then(|()| {
                self.usable()?;
                if std::mem::take(&mut doubt) {
                    self.rescan()?;
                }
                self.decide(request)
            });
            doubt |= decided.is_err();
            let outcome = match decided {
                Ok(Decision::Done(outcome)) => Ok(outcome),
                Ok(Decision::Write(what)) => {
                    let left = requests.len() - number + shared.puts.len();
                    if let Some(entry) = self.sharable(&what, request, left) {
                        if shared.size + entry.len() + SEALED_OVERHEAD > self.token.limits().object_size {
                            doubt |= !self.flush(&mut shared, &mut outcomes);
                        }
                        shared.size += entry.len();
                        shared.entries.push(entry);
                        shared.puts.push((number, what, request));
                        continue;
                    }
                    let outcome = self.write(&what, &request.content);
                    doubt |= outcome.is_err();
                    outcome
                }
                Err(error) => Err(error),
            };
            if let Some(place) = outcomes.get_mut(number) {
                *place = Some(outcome);
            }
        }
        self.flush(&mut shared, &mut outcomes);
        self.tidy();
        outcomes.into_iter().map(|outcome| outcome.unwrap_or(Err(StoreError::Void))).collect()
    }

    /// The entry of a record that may share a page: new and small, when the objects that are free would not do for
    /// all that are `left`.
    fn sharable(&self, what: &Write, request: &PutRequest, left: usize) -> Option<Zeroizing<Vec<u8>>> {
        let known = self.index.entries.get(&what.path);
        // A plain record has no page, and a new life waits for the end of the old one.
        if self.options.encryption == Encryption::None || self.ended(&what.path) {
            return None;
        }
        if what.old.is_some() || known.is_some_and(|entry| entry.incomplete) || !self.short_by(RESERVE + left)
        {
            return None;
        }
        let entry = format::encode_record(&what.path, &what.version, &what.origin, &request.content);
        (entry.len() + SEALED_OVERHEAD <= self.token.limits().lasting_size).then_some(entry)
    }

    /// Writes the page that is waiting. Says whether all of it was written.
    fn flush(&mut self, shared: &mut Shared<'_>, outcomes: &mut [Option<Outcome>]) -> bool {
        let Shared { entries, puts, .. } = std::mem::take(shared);
        let mut all = true;
        if puts.is_empty() {
            return all;
        }
        let written = if puts.len() > 1 { Some(self.write_page(&entries)) } else { None };
        for (number, what, request) in puts {
            let outcome = match &written {
                Some(Ok(())) => Ok(outcome(&what, request)),
                // One alone may find room where all together did not.
                None | Some(Err(StoreError::TokenFull { .. })) => {
                    self.usable().and_then(|()| self.write(&what, &request.content))
                }
                Some(Err(error)) => Err(error.clone()),
            };
            all &= outcome.is_ok();
            if let Some(place) = outcomes.get_mut(number) {
                *place = Some(outcome);
            }
        }
        all
    }

    fn write_page(&mut self, entries: &[Zeroizing<Vec<u8>>]) -> Result<(), StoreError> {
        let room = Room::AtRest;
        self.make_room(Need { objects: 1, freed: 0, room, leaving: None, goes_back: false })?;
        let id = self.random_object()?;
        let written = self.create(id, &[], entries);
        self.finish(written)
    }
}

fn outcome(what: &Write, request: &PutRequest) -> PutOutcome {
    let version = what.version.clone();
    let digest = Digest::of(&what.path, version.incarnation, &request.content);
    PutOutcome { revision: Revision { version, digest, origin: what.origin.clone() }, written: true }
}
