//! The handles that we give out, in place of the module's own.
//!
//! A module may give a number again to another object, after a restart even surely so. Ours carry the epoch, so that
//! one from an earlier epoch is refused here, before it could read or destroy an object that it never meant.

use std::collections::BTreeMap;

use cryptoki::object::ObjectHandle as ModuleHandle;

use crate::{ErrorClass, ObjectHandle, TokenError};

/// The objects of one epoch.
pub(crate) struct Handles {
    epoch: u64,
    next: u32,
    modules: BTreeMap<ObjectHandle, ModuleHandle>,
    ours: BTreeMap<u64, ObjectHandle>,
}

impl Handles {
    pub(crate) fn new(epoch: u64) -> Self {
        Self { epoch, next: 0, modules: BTreeMap::new(), ours: BTreeMap::new() }
    }

    /// Our handle of an object that the module has just shown or made.
    pub(crate) fn give(&mut self, module: ModuleHandle) -> ObjectHandle {
        if let Some(ours) = self.ours.get(&module.handle()) {
            return *ours;
        }
        self.next += 1;
        let ours = ObjectHandle((self.epoch << 32) | u64::from(self.next));
        self.modules.insert(ours, module);
        self.ours.insert(module.handle(), ours);
        ours
    }

    /// The module's handle, if ours is of this epoch and not destroyed.
    pub(crate) fn resolve(
        &self,
        handle: ObjectHandle,
        operation: &'static str,
    ) -> Result<ModuleHandle, TokenError> {
        self.modules.get(&handle).copied().ok_or_else(|| {
            TokenError::new(
                ErrorClass::NoSuchObject,
                operation,
                "this handle is not of this session, or its object is gone",
            )
        })
    }

    /// Whether the handle was given out in this epoch.
    pub(crate) fn is_of_this_epoch(&self, handle: ObjectHandle) -> bool {
        handle.0 >> 32 == self.epoch
    }

    pub(crate) fn forget(&mut self, handle: ObjectHandle) {
        if let Some(module) = self.modules.remove(&handle) {
            self.ours.remove(&module.handle());
        }
    }

    /// Keeps only what a complete listing shows.
    pub(crate) fn keep(&mut self, listed: &[ObjectHandle]) {
        let listed: std::collections::BTreeSet<_> = listed.iter().collect();
        self.modules.retain(|ours, _| listed.contains(ours));
        self.ours.retain(|_, ours| listed.contains(ours));
    }
}
