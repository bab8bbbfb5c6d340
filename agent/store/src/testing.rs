//! A token in memory, for tests: faults by script, late flash, reused handles, a frozen view.
//!
//! A [`World`] is the physical token (and the clock); a [`MemoryToken`] is one session with it, one epoch. A crash
//! ends the session; [`World::connect`] begins the next. Writes lie in a cache until [`Limits::settle`] has passed on
//! the world's clock; [`World::power_loss`] loses any subset of those, in any order. Where [`Limits::live_view`] says
//! so, a session sees the objects of when it began and its own changes; values are read as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use hsm_token::{
    ErrorClass, Limits, ObjectHandle, ObjectInfo, Pin, Token, TokenError, TokenInfo, TokenListing, Visibility,
};
use zeroize::Zeroizing;

use crate::{Clock, Options};

/// Objects that a Pico HSM shows; those created beyond are accepted and lost (TOKEN.md, section 1).
const VISIBLE: usize = 126;

/// A function of the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Call {
    Info,
    Login,
    List,
    Read,
    Create,
    Destroy,
    Random,
    FindKeyPair,
    GenerateKeyPair,
    DestroyKeyPair,
    Derive,
}

/// When a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before the call does anything.
    Before,
    /// When it has done its work: the caller does not learn of it.
    After,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// This call fails.
    Fail(ErrorClass),
    /// This call and all later ones of the session fail.
    Crash,
}

/// One fault of a script.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Which call strikes it: `None` counts all functions, else only this one.
    pub function: Option<Call>,
    /// The number of the call, from 1, counted from when the fault was scripted.
    pub number: usize,
    /// Before or after its work.
    pub when: When,
    /// What happens.
    pub kind: FaultKind,
}

/// A clock that only moves when told, or when somebody sleeps.
#[derive(Clone)]
pub struct TestClock(Arc<Mutex<Instant>>);

impl Clock for TestClock {
    fn now(&self) -> Instant {
        *held(&self.0)
    }

    fn sleep(&self, time: Duration) {
        *held(&self.0) += time;
    }
}

#[derive(Clone)]
struct Object {
    uid: u64,
    label: String,
    application: String,
    visibility: Visibility,
    value: Vec<u8>,
}

#[derive(Clone)]
enum Write {
    Created(u64),
    Destroyed(Object),
    KeyMade(String),
    KeyDestroyed(String, Arc<PrivateKey>),
}

#[derive(Clone)]
struct State {
    limits: Limits,
    /// By slot: a handle is a slot and one, and a slot is used again.
    slots: Vec<Option<Object>>,
    keys: BTreeMap<String, Arc<PrivateKey>>,
    journal: Vec<(Instant, Write)>,
    remains: Vec<Vec<u8>>,
    ghosts: BTreeSet<String>,
    next_uid: u64,
    epoch: u64,
    /// Whether others may reach the token too.
    shared: bool,
    crashed: bool,
    faults: Vec<(Fault, usize)>,
    calls: Vec<Call>,
}

/// The physical token and the time it lives in.
pub struct World {
    state: Arc<Mutex<State>>,
    clock: TestClock,
}

/// One session with a [`World`]'s token, logged in.
pub struct MemoryToken {
    state: Arc<Mutex<State>>,
    clock: TestClock,
    epoch: u64,
    view: Option<Vec<ObjectInfo>>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// A blank token.
    pub fn new(limits: Limits) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                limits,
                slots: Vec::new(),
                keys: BTreeMap::new(),
                journal: Vec::new(),
                remains: Vec::new(),
                ghosts: BTreeSet::new(),
                next_uid: 0,
                epoch: 0,
                shared: false,
                crashed: false,
                faults: Vec::new(),
                calls: Vec::new(),
            })),
            clock: TestClock(Arc::new(Mutex::new(Instant::now()))),
        }
    }

    /// A second world that is the same at this moment, and goes its own way.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            state: Arc::new(Mutex::new(held(&self.state).clone())),
            clock: TestClock(Arc::new(Mutex::new(self.clock.now()))),
        }
    }

    /// The clock.
    pub fn clock(&self) -> TestClock {
        self.clock.clone()
    }

    /// Options with this world's clock.
    pub fn options(&self, lock: impl Into<std::path::PathBuf>) -> Options {
        Options { clock: Arc::new(self.clock()), ..Options::new(lock) }
    }

    /// From now on others may reach the token too, as through a shared reader.
    pub fn share(&self) {
        held(&self.state).shared = true;
    }

    /// Begins an epoch, logged in.
    pub fn connect(&self) -> MemoryToken {
        let mut state = held(&self.state);
        state.epoch += 1;
        state.crashed = false;
        state.faults.clear();
        MemoryToken {
            state: Arc::clone(&self.state),
            clock: self.clock.clone(),
            epoch: state.epoch,
            view: (!state.limits.live_view).then(|| state.infos()),
        }
    }

    /// A second session beside the one that is there, as SoftHSM allows it.
    pub fn connect_beside(&self) -> MemoryToken {
        MemoryToken {
            state: Arc::clone(&self.state),
            clock: self.clock.clone(),
            epoch: held(&self.state).epoch,
            view: None,
        }
    }

    /// Scripts a fault.
    pub fn script(&self, fault: Fault) {
        held(&self.state).faults.push((fault, 0));
    }

    /// Forgets the faults that have not struck.
    pub fn clear_script(&self) {
        held(&self.state).faults.clear();
    }

    /// The calls made since this was last asked.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut held(&self.state).calls)
    }

    /// How many writes are not yet in the flash.
    pub fn unflushed(&self) -> usize {
        let mut state = held(&self.state);
        state.flush(self.clock.now());
        state.journal.len()
    }

    /// Ends the session and loses the unflushed writes (numbered from 0, oldest first) that `keep` does not keep.
    pub fn power_loss(&self, keep: impl Fn(usize) -> bool) {
        let mut state = held(&self.state);
        state.flush(self.clock.now());
        state.crashed = true;
        let journal = std::mem::take(&mut state.journal);
        for (number, (_, write)) in journal.into_iter().enumerate().rev() {
            if keep(number) {
                continue;
            }
            match write {
                Write::Created(uid) => {
                    for slot in &mut state.slots {
                        if slot.as_ref().is_some_and(|object| object.uid == uid) {
                            *slot = None;
                        }
                    }
                }
                Write::Destroyed(object) => {
                    let slot = state.free_slot();
                    state.slots[slot] = Some(object);
                }
                Write::KeyMade(label) => {
                    state.keys.remove(&label);
                }
                Write::KeyDestroyed(label, key) => {
                    state.keys.insert(label, key);
                }
            }
        }
    }

    /// All that the flash holds: labels, values, and the remains of what was destroyed.
    pub fn flash(&self) -> Vec<Vec<u8>> {
        let state = held(&self.state);
        let objects = state.slots.iter().flatten();
        let mut all: Vec<Vec<u8>> =
            objects.flat_map(|o| [o.label.clone().into_bytes(), o.value.clone()]).collect();
        all.extend(state.remains.iter().cloned());
        all
    }

    /// The sizes of the values that were destroyed since this was last asked; their remains are forgotten.
    pub fn take_destroyed(&self) -> Vec<usize> {
        std::mem::take(&mut held(&self.state).remains).iter().map(Vec::len).collect()
    }

    /// Labels and values of the data objects.
    pub fn objects(&self) -> Vec<(String, Vec<u8>)> {
        let state = held(&self.state);
        let objects = state.slots.iter().flatten();
        objects.map(|o| (o.label.clone(), o.value.clone())).collect()
    }

    /// Puts an object on the token from outside.
    pub fn plant(&self, label: &str, value: &[u8]) {
        held(&self.state).insert(label, Visibility::Private, value);
    }

    /// Puts an object on the token from outside, with a CKA_APPLICATION and public or not.
    pub fn plant_as(&self, label: &str, value: &[u8], application: &str, visibility: Visibility) {
        let mut state = held(&self.state);
        let (slot, _) = state.insert(label, visibility, value);
        if let Some(object) = &mut state.slots[slot] {
            application.clone_into(&mut object.application);
        }
    }

    /// Changes the value of the first object with this label, from outside.
    pub fn alter(&self, label: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = held(&self.state);
        if let Some(object) = state.slots.iter_mut().flatten().find(|o| o.label == label) {
            change(&mut object.value);
        }
    }

    /// Makes a ghost of the objects with this label: listed, and neither readable nor destroyable.
    pub fn haunt(&self, label: &str) {
        held(&self.state).ghosts.insert(label.to_owned());
    }

    /// Removes all objects with this label, from outside.
    pub fn remove(&self, label: &str) {
        let mut state = held(&self.state);
        for slot in &mut state.slots {
            if slot.as_ref().is_some_and(|object| object.label == label) {
                *slot = None;
            }
        }
    }
}

impl State {
    fn flush(&mut self, now: Instant) {
        let settle = self.limits.settle;
        self.journal.retain(|(at, _)| *at + settle > now);
    }

    fn free_slot(&mut self) -> usize {
        let free = self.slots.iter().position(Option::is_none);
        free.unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        })
    }

    fn insert(&mut self, label: &str, visibility: Visibility, value: &[u8]) -> (usize, u64) {
        let slot = self.free_slot();
        self.next_uid += 1;
        let uid = self.next_uid;
        self.slots[slot] = Some(Object {
            uid,
            label: label.to_owned(),
            application: String::new(),
            visibility,
            value: value.to_vec(),
        });
        (slot, uid)
    }

    fn total(&self) -> usize {
        self.slots.iter().flatten().count() + 2 * self.keys.len()
    }

    fn at(&self, handle: ObjectHandle) -> Option<usize> {
        let slot = usize::try_from(handle.0).ok()?.checked_sub(1)?;
        self.slots.get(slot)?.is_some().then_some(slot)
    }

    fn not_a_ghost(&self, object: &Object) -> Result<(), TokenError> {
        if self.ghosts.contains(&object.label) {
            return Err(broken("ghost"));
        }
        Ok(())
    }

    /// Counts the call against the script.
    fn strike(&mut self, call: Call, when: When) -> Result<(), TokenError> {
        let mut struck = None;
        for (fault, count) in &mut self.faults {
            if fault.function.is_some_and(|function| function != call) {
                continue;
            }
            if when == When::Before {
                *count += 1;
            }
            if *count == fault.number && fault.when == when {
                struck = Some(fault.kind);
            }
        }
        match struck {
            None => Ok(()),
            Some(FaultKind::Fail(class)) => Err(TokenError::new(class, "scripted", "a fault by script")),
            Some(FaultKind::Crash) => {
                self.crashed = true;
                Err(gone())
            }
        }
    }
}

fn gone() -> TokenError {
    TokenError::new(ErrorClass::Unreachable, "scripted", "the token is gone")
}

fn handle(slot: usize) -> ObjectHandle {
    ObjectHandle(slot as u64 + 1)
}

fn unknown_handle() -> TokenError {
    TokenError::new(ErrorClass::NoSuchObject, "memory", "no such handle")
}

impl MemoryToken {
    /// From now on this session sees only its own changes, as OpenSC does.
    pub fn freeze(&mut self) {
        self.view = Some(held(&self.state).infos());
    }

    fn call<R>(
        &mut self,
        call: Call,
        work: impl FnOnce(&mut State, Instant) -> Result<R, TokenError>,
    ) -> Result<R, TokenError> {
        let now = self.clock.now();
        let mut state = held(&self.state);
        if state.crashed || state.epoch != self.epoch {
            return Err(gone());
        }
        state.flush(now);
        state.calls.push(call);
        state.strike(call, When::Before)?;
        let result = work(&mut state, now);
        state.strike(call, When::After)?;
        result
    }
}

impl State {
    fn infos(&self) -> Vec<ObjectInfo> {
        let objects = self.slots.iter().enumerate();
        objects
            .filter_map(|(slot, object)| {
                let object = object.as_ref()?;
                Some(ObjectInfo {
                    handle: handle(slot),
                    label: object.label.clone(),
                    application: object.application.clone(),
                    visibility: object.visibility,
                })
            })
            .collect()
    }
}

impl Token for MemoryToken {
    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn limits(&self) -> Limits {
        held(&self.state).limits
    }

    fn alone(&self) -> bool {
        !held(&self.state).shared
    }

    fn info(&mut self) -> Result<TokenInfo, TokenError> {
        self.call(Call::Info, |_, _| Ok(TokenInfo::default()))
    }

    fn login(&mut self, _pin: &Pin) -> Result<(), TokenError> {
        self.call(Call::Login, |_, _| Ok(()))
    }

    fn list(&mut self) -> Result<TokenListing, TokenError> {
        let view = self.view.clone();
        self.call(Call::List, |state, _| {
            Ok(TokenListing { data: view.unwrap_or_else(|| state.infos()), others: 2 * state.keys.len() })
        })
    }

    fn read(&mut self, handle: ObjectHandle) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        self.call(Call::Read, |state, _| {
            let slot = state.at(handle).ok_or_else(unknown_handle)?;
            let object = state.slots[slot].as_ref().ok_or_else(unknown_handle)?;
            state.not_a_ghost(object)?;
            Ok(Zeroizing::new(object.value.clone()))
        })
    }

    fn create(
        &mut self,
        label: &str,
        visibility: Visibility,
        value: &[u8],
    ) -> Result<ObjectHandle, TokenError> {
        let made = self.call(Call::Create, |state, now| {
            let sizes = 1..=state.limits.object_size;
            if !sizes.contains(&value.len()) || label.is_empty() || label.len() > 200 || !label.is_ascii() {
                return Err(TokenError::new(ErrorClass::Invalid, "create", "value or label"));
            }
            if state.limits.objects_at_rest.is_some() && state.total() >= VISIBLE {
                return Ok(ObjectHandle(u64::MAX));
            }
            let (slot, uid) = state.insert(label, visibility, value);
            state.journal.push((now, Write::Created(uid)));
            state.flush(now);
            Ok(handle(slot))
        })?;
        if let Some(view) = &mut self.view {
            view.push(ObjectInfo {
                handle: made,
                label: label.to_owned(),
                application: String::new(),
                visibility,
            });
        }
        Ok(made)
    }

    fn destroy(&mut self, handle: ObjectHandle) -> Result<(), TokenError> {
        self.call(Call::Destroy, |state, now| {
            let slot = state.at(handle).ok_or_else(unknown_handle)?;
            let object = state.slots[slot].clone().ok_or_else(unknown_handle)?;
            state.not_a_ghost(&object)?;
            state.slots[slot] = None;
            state.remains.push(object.value.clone());
            state.journal.push((now, Write::Destroyed(object)));
            state.flush(now);
            Ok(())
        })?;
        if let Some(view) = &mut self.view {
            view.retain(|info| info.handle != handle);
        }
        Ok(())
    }

    fn random(&mut self, len: usize) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        self.call(Call::Random, |_, _| {
            let mut bytes = Zeroizing::new(vec![0; len]);
            aws_lc_rs::rand::fill(&mut bytes).map_err(|_| broken("random"))?;
            Ok(bytes)
        })
    }

    fn find_key_pair(&mut self, label: &str) -> Result<Option<Vec<u8>>, TokenError> {
        self.call(Call::FindKeyPair, |state, _| state.keys.get(label).map(|key| public(key)).transpose())
    }

    fn generate_key_pair(&mut self, label: &str) -> Result<Vec<u8>, TokenError> {
        self.call(Call::GenerateKeyPair, |state, now| {
            let key = PrivateKey::generate(&ECDH_P256).map_err(|_| broken("generate_key_pair"))?;
            let point = public(&key)?;
            state.keys.insert(label.to_owned(), Arc::new(key));
            state.journal.push((now, Write::KeyMade(label.to_owned())));
            state.flush(now);
            Ok(point)
        })
    }

    fn destroy_key_pair(&mut self, label: &str) -> Result<(), TokenError> {
        self.call(Call::DestroyKeyPair, |state, now| {
            if let Some(key) = state.keys.remove(label) {
                state.journal.push((now, Write::KeyDestroyed(label.to_owned(), key)));
                state.flush(now);
            }
            Ok(())
        })
    }

    fn derive(&mut self, label: &str, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        self.call(Call::Derive, |state, _| {
            let key = state.keys.get(label).ok_or_else(unknown_handle)?;
            let peer = UnparsedPublicKey::new(&ECDH_P256, peer);
            agree(key, peer, broken("derive"), |shared| Ok(Zeroizing::new(shared.to_vec())))
        })
    }
}

fn public(key: &PrivateKey) -> Result<Vec<u8>, TokenError> {
    let point = key.compute_public_key().map_err(|_| broken("public key"))?;
    Ok(point.as_ref().to_vec())
}

fn broken(operation: &'static str) -> TokenError {
    TokenError::new(ErrorClass::Module, operation, "the library failed")
}
