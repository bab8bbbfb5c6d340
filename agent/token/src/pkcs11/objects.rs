//! Data objects.

use std::num::NonZeroUsize;

use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle as ModuleHandle};
use zeroize::{Zeroize as _, Zeroizing};

use super::Pkcs11Token;
use super::return_values::token_error;
use crate::{ErrorClass, ObjectHandle, ObjectInfo, TokenError, TokenListing, Visibility};

/// The longest label that [`crate::Token::create`] takes, in bytes: far below where SC-HSM hides objects (400).
const LABEL_MAX: usize = 200;

impl Pkcs11Token {
    /// All objects that fit. One handle per C_FindObjects call: only an empty answer says that there are no more
    /// (PKCS#11 3.1, section 5.7.9), and cryptoki takes any answer shorter than it asked for as the end.
    pub(super) fn find(
        &mut self,
        template: &[Attribute],
        operation: &'static str,
    ) -> Result<Vec<ModuleHandle>, TokenError> {
        let found = self
            .session
            .iter_objects_with_cache_size(template, NonZeroUsize::MIN)
            .and_then(Iterator::collect);
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
        let objects = self.find(&[Attribute::Class(ObjectClass::DATA)], OPERATION)?;
        let all = self.find(&[], OPERATION)?;
        let others = all.iter().filter(|object| !objects.contains(object)).count();
        let mut data = Vec::with_capacity(objects.len());
        for object in objects {
            data.push(self.describe(object, OPERATION)?);
        }
        let listed: Vec<_> = data.iter().map(|info| info.handle).collect();
        self.handles.keep(&listed);
        Ok(TokenListing { data, others })
    }

    fn describe(&mut self, object: ModuleHandle, operation: &'static str) -> Result<ObjectInfo, TokenError> {
        let wanted = [AttributeType::Label, AttributeType::Application, AttributeType::Private];
        let mut info = ObjectInfo {
            handle: self.handles.give(object),
            label: String::new(),
            application: String::new(),
            // What does not say is taken for private: a public object is trusted for less.
            visibility: Visibility::Private,
        };
        let attributes = match self.session.get_attributes(object, &wanted) {
            Ok(attributes) => attributes,
            Err(error) => {
                let error = token_error(operation, &error);
                if self.one_object_only(&error) {
                    // It is there and it counts; its name stays empty, and reading it says what it is.
                    return Ok(info);
                }
                return Err(self.note(error));
            }
        };
        for attribute in attributes {
            match attribute {
                Attribute::Label(bytes) => info.label = text(&bytes),
                Attribute::Application(bytes) => info.application = text(&bytes),
                Attribute::Private(false) => info.visibility = Visibility::Public,
                _ => {}
            }
        }
        Ok(info)
    }

    /// Whether an error concerns one object: the ghost of a create or destroy that was cut short is listed and cannot
    /// be read, for ever, while everything else can. A token that is going away fails as a whole.
    fn one_object_only(&self, error: &TokenError) -> bool {
        matches!(error.class, ErrorClass::Module | ErrorClass::Invalid) && self.session_alive()
    }

    pub(super) fn read_object(&mut self, handle: ObjectHandle) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        const OPERATION: &str = "read";
        self.live(OPERATION)?;
        let object = match self.handles.resolve(handle, OPERATION) {
            Ok(object) => object,
            Err(error) => return Err(self.note(error)),
        };
        match self.session.get_attributes(object, &[AttributeType::Value]) {
            Ok(attributes) => value_of(attributes).ok_or_else(|| damaged("it gives no value", None)),
            Err(error) => {
                let error = token_error(OPERATION, &error);
                if self.one_object_only(&error) {
                    return Err(damaged("the session is alive, but its value cannot be read", error.code));
                }
                Err(self.note(error))
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
            Ok(object) => Ok(self.handles.give(object)),
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
        let object = match self.handles.resolve(handle, OPERATION) {
            Ok(object) => object,
            Err(error) => return Err(self.note(error)),
        };
        match self.session.destroy_object(object) {
            Ok(()) => {
                self.handles.forget(handle);
                Ok(())
            }
            Err(error) => Err(self.fail(OPERATION, &error)),
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
