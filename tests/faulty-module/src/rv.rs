//! The return values that the module gives, by name and number (PKCS#11 3.1, `pkcs11t.h`).

use cryptoki_sys as ck;

macro_rules! values {
    ($($name:ident),* $(,)?) => {
        /// A return value that is not CKR_OK.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) struct Rv(pub(crate) ck::CK_RV);

        impl Rv {
            $(pub(crate) const $name: Self = Self(ck::$name);)*

            /// Its name, where it is one that this module gives or a script may ask for.
            pub(crate) fn name(self) -> String {
                $(if self == Self::$name { return stringify!($name).to_owned(); })*
                if self.0 == ck::CKR_OK { "CKR_OK".to_owned() } else { format!("0x{:08X}", self.0) }
            }

            /// The value with this name or number.
            pub(crate) fn parse(text: &str) -> Option<Self> {
                $(if text == stringify!($name) { return Some(Self::$name); })*
                let number = text.strip_prefix("0x")?;
                ck::CK_RV::from_str_radix(number, 16).ok().filter(|n| *n != ck::CKR_OK).map(Self)
            }
        }
    };
}

values!(
    CKR_HOST_MEMORY,
    CKR_SLOT_ID_INVALID,
    CKR_GENERAL_ERROR,
    CKR_FUNCTION_FAILED,
    CKR_ARGUMENTS_BAD,
    CKR_NO_EVENT,
    CKR_ATTRIBUTE_READ_ONLY,
    CKR_ATTRIBUTE_SENSITIVE,
    CKR_ATTRIBUTE_TYPE_INVALID,
    CKR_ATTRIBUTE_VALUE_INVALID,
    CKR_DEVICE_ERROR,
    CKR_DEVICE_MEMORY,
    CKR_DEVICE_REMOVED,
    CKR_FUNCTION_CANCELED,
    CKR_FUNCTION_NOT_SUPPORTED,
    CKR_KEY_HANDLE_INVALID,
    CKR_KEY_FUNCTION_NOT_PERMITTED,
    CKR_MECHANISM_INVALID,
    CKR_MECHANISM_PARAM_INVALID,
    CKR_OBJECT_HANDLE_INVALID,
    CKR_OPERATION_ACTIVE,
    CKR_OPERATION_NOT_INITIALIZED,
    CKR_PIN_INCORRECT,
    CKR_PIN_INVALID,
    CKR_PIN_LEN_RANGE,
    CKR_PIN_EXPIRED,
    CKR_PIN_LOCKED,
    CKR_SESSION_CLOSED,
    CKR_SESSION_COUNT,
    CKR_SESSION_HANDLE_INVALID,
    CKR_SESSION_PARALLEL_NOT_SUPPORTED,
    CKR_SESSION_READ_ONLY,
    CKR_TEMPLATE_INCOMPLETE,
    CKR_TEMPLATE_INCONSISTENT,
    CKR_TOKEN_NOT_PRESENT,
    CKR_TOKEN_NOT_RECOGNIZED,
    CKR_TOKEN_WRITE_PROTECTED,
    CKR_USER_ALREADY_LOGGED_IN,
    CKR_USER_NOT_LOGGED_IN,
    CKR_USER_PIN_NOT_INITIALIZED,
    CKR_USER_TYPE_INVALID,
    CKR_USER_ANOTHER_ALREADY_LOGGED_IN,
    CKR_CURVE_NOT_SUPPORTED,
    CKR_BUFFER_TOO_SMALL,
    CKR_CRYPTOKI_NOT_INITIALIZED,
    CKR_CRYPTOKI_ALREADY_INITIALIZED,
);

/// What every function of the module gives.
pub(crate) type Done<T = ()> = Result<T, Rv>;
