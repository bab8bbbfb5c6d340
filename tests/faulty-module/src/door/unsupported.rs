//! The functions that this module does not have, which OpenSC with an SC-HSM lacks or our programs do not use: each
//! answers CKR_FUNCTION_NOT_SUPPORTED, and is counted and logged like the others.

use cryptoki_sys as ck;

use crate::context::{Target, enter};
use crate::rv::Rv;

macro_rules! unsupported {
    ($($name:ident($($argument:ty),* $(,)?);)*) => {$(
        #[expect(non_snake_case, reason = "the name in the standard")]
        pub(super) extern "C" fn $name($(_: $argument),*) -> ck::CK_RV {
            enter(stringify!($name), Target::Module, |_, _| Err(Rv::CKR_FUNCTION_NOT_SUPPORTED))
        }
    )*};
}

unsupported! {
    C_GetOperationState(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, *mut ck::CK_ULONG);
    C_SetOperationState(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, ck::CK_ULONG, ck::CK_OBJECT_HANDLE, ck::CK_OBJECT_HANDLE);
    C_CopyObject(ck::CK_SESSION_HANDLE, ck::CK_OBJECT_HANDLE, *mut ck::CK_ATTRIBUTE, ck::CK_ULONG, *mut ck::CK_OBJECT_HANDLE);
    C_GetObjectSize(ck::CK_SESSION_HANDLE, ck::CK_OBJECT_HANDLE, *mut ck::CK_ULONG);
    C_EncryptInit(ck::CK_SESSION_HANDLE, *mut ck::CK_MECHANISM, ck::CK_OBJECT_HANDLE);
    C_Encrypt(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, ck::CK_ULONG, *mut ck::CK_BYTE, *mut ck::CK_ULONG);
    C_EncryptUpdate(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, ck::CK_ULONG, *mut ck::CK_BYTE, *mut ck::CK_ULONG);
    C_EncryptFinal(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, *mut ck::CK_ULONG);
    C_DecryptInit(ck::CK_SESSION_HANDLE, *mut ck::CK_MECHANISM, ck::CK_OBJECT_HANDLE);
    C_Decrypt(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, ck::CK_ULONG, *mut ck::CK_BYTE, *mut ck::CK_ULONG);
    C_DecryptUpdate(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, ck::CK_ULONG, *mut ck::CK_BYTE, *mut ck::CK_ULONG);
    C_DecryptFinal(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, *mut ck::CK_ULONG);
    C_DigestInit(ck::CK_SESSION_HANDLE, *mut ck::CK_MECHANISM);
    C_Digest(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, ck::CK_ULONG, *mut ck::CK_BYTE, *mut ck::CK_ULONG);
    C_DigestUpdate(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, ck::CK_ULONG);
    C_DigestKey(ck::CK_SESSION_HANDLE, ck::CK_OBJECT_HANDLE);
    C_DigestFinal(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, *mut ck::CK_ULONG);
    C_SignInit(ck::CK_SESSION_HANDLE, *mut ck::CK_MECHANISM, ck::CK_OBJECT_HANDLE);
    C_Sign(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, ck::CK_ULONG, *mut ck::CK_BYTE, *mut ck::CK_ULONG);
    C_SignUpdate(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, ck::CK_ULONG);
    C_SignFinal(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, *mut ck::CK_ULONG);
    C_SignRecoverInit(ck::CK_SESSION_HANDLE, *mut ck::CK_MECHANISM, ck::CK_OBJECT_HANDLE);
    C_SignRecover(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, ck::CK_ULONG, *mut ck::CK_BYTE, *mut ck::CK_ULONG);
    C_VerifyInit(ck::CK_SESSION_HANDLE, *mut ck::CK_MECHANISM, ck::CK_OBJECT_HANDLE);
    C_Verify(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, ck::CK_ULONG, *mut ck::CK_BYTE, ck::CK_ULONG);
    C_VerifyUpdate(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, ck::CK_ULONG);
    C_VerifyFinal(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, ck::CK_ULONG);
    C_VerifyRecoverInit(ck::CK_SESSION_HANDLE, *mut ck::CK_MECHANISM, ck::CK_OBJECT_HANDLE);
    C_VerifyRecover(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, ck::CK_ULONG, *mut ck::CK_BYTE, *mut ck::CK_ULONG);
    C_DigestEncryptUpdate(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, ck::CK_ULONG, *mut ck::CK_BYTE, *mut ck::CK_ULONG);
    C_DecryptDigestUpdate(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, ck::CK_ULONG, *mut ck::CK_BYTE, *mut ck::CK_ULONG);
    C_SignEncryptUpdate(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, ck::CK_ULONG, *mut ck::CK_BYTE, *mut ck::CK_ULONG);
    C_DecryptVerifyUpdate(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, ck::CK_ULONG, *mut ck::CK_BYTE, *mut ck::CK_ULONG);
    C_GenerateKey(ck::CK_SESSION_HANDLE, *mut ck::CK_MECHANISM, *mut ck::CK_ATTRIBUTE, ck::CK_ULONG, *mut ck::CK_OBJECT_HANDLE);
    C_WrapKey(ck::CK_SESSION_HANDLE, *mut ck::CK_MECHANISM, ck::CK_OBJECT_HANDLE, ck::CK_OBJECT_HANDLE, *mut ck::CK_BYTE, *mut ck::CK_ULONG);
    C_UnwrapKey(ck::CK_SESSION_HANDLE, *mut ck::CK_MECHANISM, ck::CK_OBJECT_HANDLE, *mut ck::CK_BYTE, ck::CK_ULONG, *mut ck::CK_ATTRIBUTE, ck::CK_ULONG, *mut ck::CK_OBJECT_HANDLE);
    C_SeedRandom(ck::CK_SESSION_HANDLE, *mut ck::CK_BYTE, ck::CK_ULONG);
    C_GetFunctionStatus(ck::CK_SESSION_HANDLE);
    C_CancelFunction(ck::CK_SESSION_HANDLE);
}
