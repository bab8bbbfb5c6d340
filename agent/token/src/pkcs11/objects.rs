//! Data objects.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle as ModuleHandle};
use zeroize::{Zeroize as _, Zeroizing};

use super::Pkcs11Token;
use super::return_values::token_error;
use crate::{ErrorClass, ObjectHandle, ObjectInfo, TokenError, TokenListing, Visibility};

/// The longest label that [`crate::Token::create`] takes, in bytes: far below where SC-HSM hides objects (400).
const LABEL_MAX: usize = 200;
/// How many handles a module is asked for at once that gives as many as there are: SoftHSM, and OpenSC (0.23 to 0.27,
/// `C_FindObjects` in pkcs11-object.c), which lists what it has in memory.
const BATCH: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// How many finds a listing of a token that others change may take.
const ROUNDS: usize = 16;
/// After how many of them an object that cannot be described is one without a name.
const PATIENT_ROUNDS: usize = 4;

const DESCRIPTION: [AttributeType; 4] =
    [AttributeType::Label, AttributeType::Application, AttributeType::Private, AttributeType::Class];

/// What an object says of itself.
struct Described {
    info: ObjectInfo,
    is_data: bool,
    named: bool,
}

impl Pkcs11Token {
    /// All objects that fit. Only an empty answer says that there are no more (PKCS#11 3.1, section 5.7.9), and
    /// cryptoki takes any answer shorter than it asked for as the end: so one handle per C_FindObjects call, except
    /// where the module is known to fill its answers.
    pub(super) fn find(
        &mut self,
        template: &[Attribute],
        operation: &'static str,
    ) -> Result<Vec<ModuleHandle>, TokenError> {
        let batch = if self.fills_answers { BATCH } else { NonZeroUsize::MIN };
        let found = self.session.iter_objects_with_cache_size(template, batch).and_then(Iterator::collect);
        found.map_err(|e| self.fail(operation, &e))
    }

    pub(super) fn attributes(
        &mut self,
        object: ModuleHandle,
        types: &[AttributeType],
        operation: &'static str,
    ) -> Result<Vec<Attribute>, TokenError> {
        self.session.get_attributes(object, types).map_err(|e| self.fail(operation, &e))
    }

    pub(super) fn list_objects(&mut self) -> Result<TokenListing, TokenError> {
        const OPERATION: &str = "list";
        self.live(OPERATION)?;
        if self.software {
            return self.list_shared(OPERATION);
        }
        // The module shows what was there at the start of the epoch and what we changed since: what an object is
        // called is asked once.
        let objects = self.find(&[], OPERATION)?;
        self.describe_all(&objects, true, OPERATION)?.ok_or_else(|| {
            self.note(TokenError::new(
                ErrorClass::NoSuchObject,
                OPERATION,
                "an object that was listed a moment ago is not there; the token is opened anew",
            ))
        })
    }

    /// Lists a software token, which others may write to at the same time.
    ///
    /// A find there is no snapshot: of an object that is replaced meanwhile it may show neither the old one, which is
    /// gone already, nor the new one, which was not there yet. Our own programs keep that apart with their lock; for
    /// the others, a find that lost something is repeated, since whatever replaces an object is there before it goes.
    ///
    /// What an object is called is asked once. A handle there is never given to a second object, and a label that is
    /// altered in place is only seen in the next epoch; no label is trusted anyway until the content was read.
    fn list_shared(&mut self, operation: &'static str) -> Result<TokenListing, TokenError> {
        for round in 0..ROUNDS {
            let objects = self.find(&[], operation)?;
            let now: BTreeSet<u64> = objects.iter().map(ModuleHandle::handle).collect();
            let lost = self.listed.as_ref().is_some_and(|before| !before.is_subset(&now));
            self.listed = Some(now);
            if lost {
                continue;
            }
            if let Some(listing) = self.describe_all(&objects, round >= PATIENT_ROUNDS, operation)? {
                return Ok(listing);
            }
        }
        Err(TokenError::new(
            ErrorClass::Busy,
            operation,
            "others change the token faster than it can be listed; try again",
        ))
    }

    /// The listing of these objects; `None` where one went away before it was described. `settle` takes an object
    /// that cannot be described, and still has not gone, for one without a name.
    fn describe_all(
        &mut self,
        objects: &[ModuleHandle],
        settle: bool,
        operation: &'static str,
    ) -> Result<Option<TokenListing>, TokenError> {
        let mut data = Vec::with_capacity(objects.len());
        for object in objects {
            if let Some(known) = self.described.get(&object.handle()) {
                data.extend(known.clone());
                continue;
            }
            match self.describe(*object, operation) {
                Ok(described) => {
                    let info = described.is_data.then_some(described.info);
                    data.extend(info.clone());
                    // One without a label may be half made: SoftHSM shows it before it has its attributes.
                    if described.named || !self.software {
                        self.described.insert(object.handle(), info);
                    }
                }
                Err(error)
                    if self.software && error.class == ErrorClass::NoSuchObject && self.session_alive() =>
                {
                    return Ok(None);
                }
                Err(error) if self.one_object_only(&error) => {
                    if !settle {
                        return Ok(None);
                    }
                    // It is there and it counts; its name stays empty, and reading it says what it is.
                    if self.may_be_data(*object) {
                        data.push(self.unnamed(*object));
                    }
                }
                Err(error) => return Err(self.note(error)),
            }
        }
        let there: BTreeSet<u64> = objects.iter().map(ModuleHandle::handle).collect();
        self.described.retain(|object, _| there.contains(object));
        let listed: Vec<_> = data.iter().map(|info| info.handle).collect();
        self.handles.keep(&listed);
        let others = objects.len() - data.len();
        Ok(Some(TokenListing { data, others }))
    }

    /// Whether an object that cannot be described is data, or does not say. A key that cannot be described is a key.
    fn may_be_data(&self, object: ModuleHandle) -> bool {
        let class = self.session.get_attributes(object, &[AttributeType::Class]).unwrap_or_default();
        !class
            .iter()
            .any(|attribute| matches!(attribute, Attribute::Class(class) if *class != ObjectClass::DATA))
    }

    fn unnamed(&mut self, object: ModuleHandle) -> ObjectInfo {
        ObjectInfo {
            handle: self.handles.give(object),
            label: String::new(),
            application: String::new(),
            // What does not say is taken for private: a public object is trusted for less.
            visibility: Visibility::Private,
        }
    }

    fn describe(&mut self, object: ModuleHandle, operation: &'static str) -> Result<Described, TokenError> {
        let attributes = self
            .session
            .get_attributes(object, &DESCRIPTION)
            .map_err(|error| token_error(operation, &error))?;
        let mut described = Described { info: self.unnamed(object), is_data: true, named: false };
        for attribute in attributes {
            match attribute {
                Attribute::Label(bytes) => {
                    described.named = !bytes.is_empty();
                    described.info.label = text(&bytes);
                }
                Attribute::Application(bytes) => described.info.application = text(&bytes),
                Attribute::Private(false) => described.info.visibility = Visibility::Public,
                Attribute::Class(class) => described.is_data = class == ObjectClass::DATA,
                _ => {}
            }
        }
        Ok(described)
    }

    /// The module's handle, or why there is none.
    fn resolve(&mut self, handle: ObjectHandle, operation: &'static str) -> Result<ModuleHandle, TokenError> {
        match self.handles.resolve(handle, operation) {
            Ok(object) => Ok(object),
            Err(error) if self.handles.is_of_this_epoch(handle) => Err(self.gone_or_lost(error)),
            Err(error) => Err(self.note(error)),
        }
    }

    /// An object that another program has destroyed says nothing against the rest, where changes by others show at
    /// once. On hardware it says that what was listed is not what is there.
    fn gone_or_lost(&mut self, mut error: TokenError) -> TokenError {
        if self.software && error.class == ErrorClass::NoSuchObject && self.session_alive() {
            error.class = ErrorClass::ObjectGone;
            "another program destroyed this object; the token has to be listed again"
                .clone_into(&mut error.message);
        }
        self.note(error)
    }

    /// Whether an error concerns one object: the ghost of a create or destroy that was cut short is listed and cannot
    /// be read, for ever, while everything else can. A token that is going away fails as a whole.
    fn one_object_only(&self, error: &TokenError) -> bool {
        matches!(error.class, ErrorClass::Module | ErrorClass::Invalid) && self.session_alive()
    }

    pub(super) fn read_object(&mut self, handle: ObjectHandle) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        const OPERATION: &str = "read";
        self.live(OPERATION)?;
        let object = self.resolve(handle, OPERATION)?;
        let mut value = self.session.get_attributes(object, &[AttributeType::Value]);
        if value.is_err() && self.software {
            // Destroyed under the call, it may fail in any way; asked again, the module says that it is gone.
            value = self.session.get_attributes(object, &[AttributeType::Value]);
        }
        match value {
            Ok(attributes) => value_of(attributes).ok_or_else(|| damaged("it gives no value", None)),
            Err(error) => {
                let error = token_error(OPERATION, &error);
                if self.one_object_only(&error) {
                    return Err(damaged("the session is alive, but its value cannot be read", error.code));
                }
                Err(self.gone_or_lost(error))
            }
        }
    }

    pub(super) fn create_object(
        &mut self,
        label: &str,
        visibility: Visibility,
        value: &[u8],
    ) -> Result<ObjectHandle, TokenError> {
        const OPERATION: &str = "create";
        self.live(OPERATION)?;
        let invalid = |message: String| Err(TokenError::new(ErrorClass::Invalid, OPERATION, message));
        if label.is_empty() || label.len() > LABEL_MAX || !label.is_ascii() {
            return invalid(format!(
                "a label is 1 to {LABEL_MAX} bytes of ASCII, this one is {}",
                label.len()
            ));
        }
        if value.is_empty() || value.len() > self.limits.object_size {
            return invalid(format!(
                "a value is 1 to {} bytes, this one is {}",
                self.limits.object_size,
                value.len()
            ));
        }
        // CKA_APPLICATION is left out: OpenSC reads it beyond its length, up to the next zero byte.
        let mut template = [
            Attribute::Class(ObjectClass::DATA),
            Attribute::Token(true),
            Attribute::Private(visibility == Visibility::Private),
            Attribute::Label(label.as_bytes().to_vec()),
            Attribute::Value(value.to_vec()),
        ];
        let created = self.session.create_object(&template);
        for attribute in &mut template {
            if let Attribute::Value(copy) = attribute {
                copy.zeroize();
            }
        }
        match created {
            Ok(object) => {
                let info = ObjectInfo { label: label.to_owned(), visibility, ..self.unnamed(object) };
                let handle = info.handle;
                self.described.insert(object.handle(), Some(info));
                if let Some(listed) = &mut self.listed {
                    listed.insert(object.handle());
                }
                Ok(handle)
            }
            Err(error) => {
                let mut error = self.fail(OPERATION, &error);
                if error.code.as_deref() == Some("CKR_GENERAL_ERROR") {
                    error
                        .message
                        .push_str("; a Pico HSM up to firmware 6.6 also answers so when its flash is full");
                }
                Err(error)
            }
        }
    }

    pub(super) fn destroy_object(&mut self, handle: ObjectHandle) -> Result<(), TokenError> {
        const OPERATION: &str = "destroy";
        self.live(OPERATION)?;
        let object = self.resolve(handle, OPERATION)?;
        match self.session.destroy_object(object) {
            Ok(()) => {
                self.handles.forget(handle);
                self.described.remove(&object.handle());
                if let Some(listed) = &mut self.listed {
                    listed.remove(&object.handle());
                }
                Ok(())
            }
            Err(error) => {
                let error = token_error(OPERATION, &error);
                Err(self.gone_or_lost(error))
            }
        }
    }
}

/// The value among the attributes, wrapped at once: `Attribute` prints it and does not wipe it.
pub(super) fn value_of(attributes: Vec<Attribute>) -> Option<Zeroizing<Vec<u8>>> {
    attributes.into_iter().find_map(|attribute| match attribute {
        Attribute::Value(value) => Some(Zeroizing::new(value)),
        _ => None,
    })
}

fn damaged(message: &str, code: Option<String>) -> TokenError {
    TokenError { code, ..TokenError::new(ErrorClass::ObjectDamaged, "read", message) }
}

/// What a module gives as text; OpenSC may append the terminating zero byte.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}
