//! The one table from PKCS#11 return values to [`ErrorClass`].
//!
//! The values are those of PKCS#11 3.1, section 6.1 (`pkcs11t.h`), with the ones that 3.2 adds. The rule behind the
//! table: an error that is not on the short list of harmless ones ends the epoch, because a session that failed in an
//! unforeseen way cannot be trusted to show the token as it is.

use std::borrow::Cow;

use cryptoki::error::{Error, RvError};

use crate::{ErrorClass, TokenError};

macro_rules! table {
    ($($class:ident: [$($variant:ident $name:literal),* $(,)?]),* $(,)?) => {
        /// The name and class of a return value that cryptoki knows.
        fn known(value: RvError) -> (Cow<'static, str>, ErrorClass) {
            match value {
                $($(RvError::$variant => (Cow::Borrowed($name), ErrorClass::$class),)*)*
                RvError::VendorDefined(code) | RvError::UnknownErrorCode(code) => by_number(code),
            }
        }

        /// Every row of the table, for the test that holds it complete.
        #[cfg(test)]
        const ROWS: &[(RvError, &str, ErrorClass)] =
            &[$($((RvError::$variant, $name, ErrorClass::$class),)*)*];
    };
}

table! {
    // The token is not where it was.
    TokenAbsent: [
        TokenNotPresent "CKR_TOKEN_NOT_PRESENT",
        TokenNotRecognized "CKR_TOKEN_NOT_RECOGNIZED",
        SlotIdInvalid "CKR_SLOT_ID_INVALID",
    ],
    // What was opened is void; a fresh C_Initialize mends it if the token is still there.
    SessionLost: [
        DeviceRemoved "CKR_DEVICE_REMOVED",
        SessionClosed "CKR_SESSION_CLOSED",
        SessionHandleInvalid "CKR_SESSION_HANDLE_INVALID",
        CryptokiNotInitialized "CKR_CRYPTOKI_NOT_INITIALIZED",
        OperationNotInitialized "CKR_OPERATION_NOT_INITIALIZED",
        OperationActive "CKR_OPERATION_ACTIVE",
        UserAlreadyLoggedIn "CKR_USER_ALREADY_LOGGED_IN",
        UserAnotherAlreadyLoggedIn "CKR_USER_ANOTHER_ALREADY_LOGGED_IN",
        UserTooManyTypes "CKR_USER_TOO_MANY_TYPES",
        SessionReadWriteSoExists "CKR_SESSION_READ_WRITE_SO_EXISTS",
        SessionReadOnlyExists "CKR_SESSION_READ_ONLY_EXISTS",
        SessionReadOnly "CKR_SESSION_READ_ONLY",
        SessionExists "CKR_SESSION_EXISTS",
        KeyChanged "CKR_KEY_CHANGED",
        Cancel "CKR_CANCEL",
        FunctionCanceled "CKR_FUNCTION_CANCELED",
    ],
    NoSuchObject: [
        ObjectHandleInvalid "CKR_OBJECT_HANDLE_INVALID",
        KeyHandleInvalid "CKR_KEY_HANDLE_INVALID",
        UnwrappingKeyHandleInvalid "CKR_UNWRAPPING_KEY_HANDLE_INVALID",
        WrappingKeyHandleInvalid "CKR_WRAPPING_KEY_HANDLE_INVALID",
    ],
    // The short list: the token answered, and the session is what it was.
    Full: [
        DeviceMemory "CKR_DEVICE_MEMORY",
    ],
    PinRequired: [
        UserNotLoggedIn "CKR_USER_NOT_LOGGED_IN",
    ],
    PinIncorrect: [
        PinIncorrect "CKR_PIN_INCORRECT",
    ],
    PinLength: [
        PinLenRange "CKR_PIN_LEN_RANGE",
        PinInvalid "CKR_PIN_INVALID",
        PinTooWeak "CKR_PIN_TOO_WEAK",
    ],
    PinLocked: [
        PinLocked "CKR_PIN_LOCKED",
        PinExpired "CKR_PIN_EXPIRED",
    ],
    Invalid: [
        ArgumentsBad "CKR_ARGUMENTS_BAD",
        AttributeReadOnly "CKR_ATTRIBUTE_READ_ONLY",
        AttributeSensitive "CKR_ATTRIBUTE_SENSITIVE",
        AttributeTypeInvalid "CKR_ATTRIBUTE_TYPE_INVALID",
        AttributeValueInvalid "CKR_ATTRIBUTE_VALUE_INVALID",
        ActionProhibited "CKR_ACTION_PROHIBITED",
        DataInvalid "CKR_DATA_INVALID",
        DataLenRange "CKR_DATA_LEN_RANGE",
        EncryptedDataInvalid "CKR_ENCRYPTED_DATA_INVALID",
        EncryptedDataLenRange "CKR_ENCRYPTED_DATA_LEN_RANGE",
        FunctionNotSupported "CKR_FUNCTION_NOT_SUPPORTED",
        CurveNotSupported "CKR_CURVE_NOT_SUPPORTED",
        DomainParamsInvalid "CKR_DOMAIN_PARAMS_INVALID",
        KeySizeRange "CKR_KEY_SIZE_RANGE",
        KeyTypeInconsistent "CKR_KEY_TYPE_INCONSISTENT",
        KeyNotNeeded "CKR_KEY_NOT_NEEDED",
        KeyNeeded "CKR_KEY_NEEDED",
        KeyIndigestible "CKR_KEY_INDIGESTIBLE",
        KeyFunctionNotPermitted "CKR_KEY_FUNCTION_NOT_PERMITTED",
        KeyNotWrappable "CKR_KEY_NOT_WRAPPABLE",
        KeyUnextractable "CKR_KEY_UNEXTRACTABLE",
        MechanismInvalid "CKR_MECHANISM_INVALID",
        MechanismParamInvalid "CKR_MECHANISM_PARAM_INVALID",
        PublicKeyInvalid "CKR_PUBLIC_KEY_INVALID",
        SignatureInvalid "CKR_SIGNATURE_INVALID",
        SignatureLenRange "CKR_SIGNATURE_LEN_RANGE",
        TemplateIncomplete "CKR_TEMPLATE_INCOMPLETE",
        TemplateInconsistent "CKR_TEMPLATE_INCONSISTENT",
        UnwrappingKeySizeRange "CKR_UNWRAPPING_KEY_SIZE_RANGE",
        UnwrappingKeyTypeInconsistent "CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT",
        WrappedKeyInvalid "CKR_WRAPPED_KEY_INVALID",
        WrappedKeyLenRange "CKR_WRAPPED_KEY_LEN_RANGE",
        WrappingKeySizeRange "CKR_WRAPPING_KEY_SIZE_RANGE",
        WrappingKeyTypeInconsistent "CKR_WRAPPING_KEY_TYPE_INCONSISTENT",
    ],
    // Everything else says nothing that can be relied on.
    Module: [
        HostMemory "CKR_HOST_MEMORY",
        GeneralError "CKR_GENERAL_ERROR",
        FunctionFailed "CKR_FUNCTION_FAILED",
        NoEvent "CKR_NO_EVENT",
        NeedToCreateThreads "CKR_NEED_TO_CREATE_THREADS",
        CantLock "CKR_CANT_LOCK",
        DeviceError "CKR_DEVICE_ERROR",
        FunctionNotParallel "CKR_FUNCTION_NOT_PARALLEL",
        SessionCount "CKR_SESSION_COUNT",
        SessionParallelNotSupported "CKR_SESSION_PARALLEL_NOT_SUPPORTED",
        TokenWriteProtected "CKR_TOKEN_WRITE_PROTECTED",
        UserPinNotInitialized "CKR_USER_PIN_NOT_INITIALIZED",
        UserTypeInvalid "CKR_USER_TYPE_INVALID",
        RandomSeedNotSupported "CKR_RANDOM_SEED_NOT_SUPPORTED",
        RandomNoRng "CKR_RANDOM_NO_RNG",
        BufferTooSmall "CKR_BUFFER_TOO_SMALL",
        SavedStateInvalid "CKR_SAVED_STATE_INVALID",
        InformationSensitive "CKR_INFORMATION_SENSITIVE",
        StateUnsaveable "CKR_STATE_UNSAVEABLE",
        CryptokiAlreadyInitialized "CKR_CRYPTOKI_ALREADY_INITIALIZED",
        MutexBad "CKR_MUTEX_BAD",
        MutexNotLocked "CKR_MUTEX_NOT_LOCKED",
        NewPinMode "CKR_NEW_PIN_MODE",
        NextOtp "CKR_NEXT_OTP",
        ExceededMaxIterations "CKR_EXCEEDED_MAX_ITERATIONS",
        FipsSelfTestFailed "CKR_FIPS_SELF_TEST_FAILED",
        LibraryLoadFailed "CKR_LIBRARY_LOAD_FAILED",
        FunctionRejected "CKR_FUNCTION_REJECTED",
    ],
}

/// The values that cryptoki passes on as numbers, and the vendors' own.
fn by_number(code: u64) -> (Cow<'static, str>, ErrorClass) {
    let (name, class) = match code {
        0x35 => ("CKR_AEAD_DECRYPT_FAILED", ErrorClass::Invalid),
        0x201 => ("CKR_TOKEN_RESOURCE_EXCEEDED", ErrorClass::Full),
        0x202 => ("CKR_OPERATION_CANCEL_FAILED", ErrorClass::SessionLost),
        0x203 => ("CKR_KEY_EXHAUSTED", ErrorClass::Invalid),
        0x204 => ("CKR_PENDING", ErrorClass::Module),
        0x205 => ("CKR_SESSION_ASYNC_NOT_SUPPORTED", ErrorClass::Module),
        0x206 => ("CKR_SEED_RANDOM_REQUIRED", ErrorClass::Module),
        0x207 => ("CKR_OPERATION_NOT_VALIDATED", ErrorClass::Module),
        0x208 => ("CKR_TOKEN_NOT_INITIALIZED", ErrorClass::TokenAbsent),
        0x209 => ("CKR_PARAMETER_SET_NOT_SUPPORTED", ErrorClass::Invalid),
        0x8000_0000.. => {
            return (Cow::Owned(format!("CKR_VENDOR_DEFINED 0x{code:08X}")), ErrorClass::Module);
        }
        _ => return (Cow::Owned(format!("CKR 0x{code:08X}")), ErrorClass::Module),
    };
    (Cow::Borrowed(name), class)
}

/// What to tell a person about an error of this class that a module reported.
fn advice(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::TokenAbsent => "the token is not in its slot; plug it in",
        ErrorClass::SessionLost => "the session with the token is gone; it is opened anew",
        ErrorClass::NoSuchObject => "the token does not know this object any more; it is opened anew",
        ErrorClass::ObjectGone => "another program destroyed this object; list the token again",
        ErrorClass::Full => "the token has no room left; delete records or use another token",
        ErrorClass::PinRequired => "the token wants a login first",
        ErrorClass::PinIncorrect => "the PIN is wrong and one try was used; give another PIN",
        ErrorClass::PinLength => "the token takes no PIN of this length; no try was used",
        ErrorClass::PinLocked => "the PIN is locked or expired; a person has to unblock the token",
        ErrorClass::Invalid => "the token does not take this request",
        ErrorClass::ObjectDamaged => "the token lists this object but cannot read it",
        ErrorClass::Module | ErrorClass::Unreachable | ErrorClass::Busy => {
            "the PKCS#11 module failed; the token is opened anew, and if that does not mend it, look at the token \
             and at the module's own log"
        }
    }
}

/// Turns what cryptoki says into our error. `operation` is the port's name for what was asked.
pub(crate) fn token_error(operation: &'static str, error: &Error) -> TokenError {
    match error {
        Error::Pkcs11(value, function) => {
            let (name, class) = known(*value);
            TokenError {
                class,
                operation,
                code: Some(name.into_owned()),
                message: format!("C_{function:?}: {}", advice(class)),
            }
        }
        Error::NullFunctionPointer | Error::MissingSymbol(_) | Error::NotSupported => TokenError::new(
            ErrorClass::Module,
            operation,
            "the PKCS#11 module lacks a function that is needed; is it a PKCS#11 module?",
        ),
        // The remaining ones are conversions of what the module returned; their texts may quote data.
        _ => TokenError::new(
            ErrorClass::Module,
            operation,
            "the PKCS#11 module returned something that cannot be understood",
        ),
    }
}

#[cfg(test)]
mod tests {
    use cryptoki::context::Function;
    use cryptoki::error::Rv;

    use super::*;

    /// All values of `pkcs11t.h` 3.1 below the vendors' range, without CKR_OK.
    const HEADER: &[u64] = &[
        0x01, 0x02, 0x03, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0A, 0x10, 0x11, 0x12, 0x13, 0x1B, 0x20, 0x21, 0x30,
        0x31, 0x32, 0x35, 0x40, 0x41, 0x50, 0x51, 0x54, 0x60, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69,
        0x6A, 0x70, 0x71, 0x82, 0x90, 0x91, 0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0xB0, 0xB1, 0xB3, 0xB4, 0xB5, 0xB6,
        0xB7, 0xB8, 0xC0, 0xC1, 0xD0, 0xD1, 0xE0, 0xE1, 0xE2, 0xF0, 0xF1, 0xF2, 0x100, 0x101, 0x102, 0x103,
        0x104, 0x105, 0x110, 0x112, 0x113, 0x114, 0x115, 0x120, 0x121, 0x130, 0x140, 0x150, 0x160, 0x170,
        0x180, 0x190, 0x191, 0x1A0, 0x1A1, 0x1B0, 0x1B1, 0x1B5, 0x1B7, 0x1B8, 0x1B9, 0x200, 0x201, 0x202,
        0x203,
    ];

    fn of(code: u64) -> (Cow<'static, str>, ErrorClass) {
        match Rv::from(code) {
            Rv::Ok => panic!("0 is not an error"),
            Rv::Error(value) => known(value),
        }
    }

    #[test]
    fn every_value_of_the_header_has_a_name() {
        for code in HEADER {
            let (name, _) = of(*code);
            // 0x1B5: CKR_EXCEEDED_MAX_ITERATIONS, 0x1B9: CKR_PUBLIC_KEY_INVALID.
            assert!(name.starts_with("CKR_"), "0x{code:X} is {name}");
        }
    }

    #[test]
    fn only_the_short_list_keeps_the_epoch() {
        for (_, name, class) in ROWS {
            let error = TokenError::new(*class, "test", "");
            let short_list = matches!(
                class,
                ErrorClass::Full
                    | ErrorClass::Invalid
                    | ErrorClass::PinRequired
                    | ErrorClass::PinIncorrect
                    | ErrorClass::PinLength
                    | ErrorClass::PinLocked
            );
            assert_eq!(!short_list, error.ends_epoch(), "{name}");
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = ROWS.iter().map(|(_, name, _)| *name).collect();
        names.sort_unstable();
        let before = names.len();
        names.dedup();
        assert_eq!(before, names.len());
    }

    #[test]
    fn what_real_tokens_answer() {
        // Measured on a Pico HSM through OpenSC: removal, full, PIN.
        for (code, name, class) in [
            (0x32, "CKR_DEVICE_REMOVED", ErrorClass::SessionLost),
            (0xB3, "CKR_SESSION_HANDLE_INVALID", ErrorClass::SessionLost),
            (0xE0, "CKR_TOKEN_NOT_PRESENT", ErrorClass::TokenAbsent),
            (0x31, "CKR_DEVICE_MEMORY", ErrorClass::Full),
            (0x05, "CKR_GENERAL_ERROR", ErrorClass::Module),
            (0xA0, "CKR_PIN_INCORRECT", ErrorClass::PinIncorrect),
            (0xA2, "CKR_PIN_LEN_RANGE", ErrorClass::PinLength),
            (0xA4, "CKR_PIN_LOCKED", ErrorClass::PinLocked),
            (0x101, "CKR_USER_NOT_LOGGED_IN", ErrorClass::PinRequired),
            (0x82, "CKR_OBJECT_HANDLE_INVALID", ErrorClass::NoSuchObject),
            (0x208, "CKR_TOKEN_NOT_INITIALIZED", ErrorClass::TokenAbsent),
        ] {
            assert_eq!(of(code), (Cow::Borrowed(name), class));
        }
    }

    #[test]
    fn unknown_and_vendor_values_end_the_epoch() {
        for (code, name) in [(0x8000_0001, "CKR_VENDOR_DEFINED 0x80000001"), (0x7777, "CKR 0x00007777")] {
            let (got, class) = of(code);
            assert_eq!(got, name);
            assert!(TokenError::new(class, "test", "").ends_epoch());
        }
    }

    #[test]
    fn the_message_names_function_and_code() {
        let error = token_error("create", &Error::Pkcs11(RvError::DeviceMemory, Function::CreateObject));
        assert_eq!(
            error.to_string(),
            "create: C_CreateObject: the token has no room left; delete records or use another token \
             (CKR_DEVICE_MEMORY)"
        );
    }
}
