//! The door: PKCS#11's C ABI. Pointers are parsed here and nowhere else; behind it there is safe code only.
//!
//! `unsafe` because a C ABI cannot be had without: every pointer is the caller's word (PKCS#11 3.1, section 5), which
//! is checked for null and otherwise believed. `enter` catches panics, so that none unwinds into C.

#![expect(unsafe_code, reason = "the C ABI, see above")]
#![expect(non_snake_case, reason = "the names in the standard")]

mod unsupported;

use std::ffi::c_void;
use std::slice;

use cryptoki_sys as ck;

use crate::context::{Context, Target, enter};
use crate::process::{Given, Process};
use crate::rv::{Done, Rv};

/// What OpenSC calls itself.
const LIBRARY: &str = "OpenSC smartcard framework";
/// How far beyond its end CKA_APPLICATION is read at most.
const BEYOND: usize = 1024;
/// A read beyond the end never leaves the page that the end lies in, so that it cannot fault.
const PAGE: usize = 4096;

static LIST: ck::CK_FUNCTION_LIST = ck::CK_FUNCTION_LIST {
    version: ck::CK_VERSION { major: 2, minor: 20 },
    C_Initialize: Some(C_Initialize),
    C_Finalize: Some(C_Finalize),
    C_GetInfo: Some(C_GetInfo),
    C_GetFunctionList: Some(C_GetFunctionList),
    C_GetSlotList: Some(C_GetSlotList),
    C_GetSlotInfo: Some(C_GetSlotInfo),
    C_GetTokenInfo: Some(C_GetTokenInfo),
    C_GetMechanismList: Some(C_GetMechanismList),
    C_GetMechanismInfo: Some(C_GetMechanismInfo),
    C_InitToken: Some(C_InitToken),
    C_InitPIN: Some(C_InitPIN),
    C_SetPIN: Some(C_SetPIN),
    C_OpenSession: Some(C_OpenSession),
    C_CloseSession: Some(C_CloseSession),
    C_CloseAllSessions: Some(C_CloseAllSessions),
    C_GetSessionInfo: Some(C_GetSessionInfo),
    C_GetOperationState: Some(unsupported::C_GetOperationState),
    C_SetOperationState: Some(unsupported::C_SetOperationState),
    C_Login: Some(C_Login),
    C_Logout: Some(C_Logout),
    C_CreateObject: Some(C_CreateObject),
    C_CopyObject: Some(unsupported::C_CopyObject),
    C_DestroyObject: Some(C_DestroyObject),
    C_GetObjectSize: Some(unsupported::C_GetObjectSize),
    C_GetAttributeValue: Some(C_GetAttributeValue),
    C_SetAttributeValue: Some(C_SetAttributeValue),
    C_FindObjectsInit: Some(C_FindObjectsInit),
    C_FindObjects: Some(C_FindObjects),
    C_FindObjectsFinal: Some(C_FindObjectsFinal),
    C_EncryptInit: Some(unsupported::C_EncryptInit),
    C_Encrypt: Some(unsupported::C_Encrypt),
    C_EncryptUpdate: Some(unsupported::C_EncryptUpdate),
    C_EncryptFinal: Some(unsupported::C_EncryptFinal),
    C_DecryptInit: Some(unsupported::C_DecryptInit),
    C_Decrypt: Some(unsupported::C_Decrypt),
    C_DecryptUpdate: Some(unsupported::C_DecryptUpdate),
    C_DecryptFinal: Some(unsupported::C_DecryptFinal),
    C_DigestInit: Some(unsupported::C_DigestInit),
    C_Digest: Some(unsupported::C_Digest),
    C_DigestUpdate: Some(unsupported::C_DigestUpdate),
    C_DigestKey: Some(unsupported::C_DigestKey),
    C_DigestFinal: Some(unsupported::C_DigestFinal),
    C_SignInit: Some(unsupported::C_SignInit),
    C_Sign: Some(unsupported::C_Sign),
    C_SignUpdate: Some(unsupported::C_SignUpdate),
    C_SignFinal: Some(unsupported::C_SignFinal),
    C_SignRecoverInit: Some(unsupported::C_SignRecoverInit),
    C_SignRecover: Some(unsupported::C_SignRecover),
    C_VerifyInit: Some(unsupported::C_VerifyInit),
    C_Verify: Some(unsupported::C_Verify),
    C_VerifyUpdate: Some(unsupported::C_VerifyUpdate),
    C_VerifyFinal: Some(unsupported::C_VerifyFinal),
    C_VerifyRecoverInit: Some(unsupported::C_VerifyRecoverInit),
    C_VerifyRecover: Some(unsupported::C_VerifyRecover),
    C_DigestEncryptUpdate: Some(unsupported::C_DigestEncryptUpdate),
    C_DecryptDigestUpdate: Some(unsupported::C_DecryptDigestUpdate),
    C_SignEncryptUpdate: Some(unsupported::C_SignEncryptUpdate),
    C_DecryptVerifyUpdate: Some(unsupported::C_DecryptVerifyUpdate),
    C_GenerateKey: Some(unsupported::C_GenerateKey),
    C_GenerateKeyPair: Some(C_GenerateKeyPair),
    C_WrapKey: Some(unsupported::C_WrapKey),
    C_UnwrapKey: Some(unsupported::C_UnwrapKey),
    C_DeriveKey: Some(C_DeriveKey),
    C_SeedRandom: Some(unsupported::C_SeedRandom),
    C_GenerateRandom: Some(C_GenerateRandom),
    C_GetFunctionStatus: Some(unsupported::C_GetFunctionStatus),
    C_CancelFunction: Some(unsupported::C_CancelFunction),
    C_WaitForSlotEvent: Some(C_WaitForSlotEvent),
};

/// Gives the table of functions; the only name that the shared object exports.
///
/// # Safety
///
/// `list` is null or valid for a write.
#[unsafe(no_mangle)]
unsafe extern "C" fn C_GetFunctionList(list: *mut *mut ck::CK_FUNCTION_LIST) -> ck::CK_RV {
    // SAFETY: as above; callers only read through the pointer, which the type of the ABI does not say.
    match unsafe { list.as_mut() } {
        Some(list) => {
            *list = (&raw const LIST).cast_mut();
            ck::CKR_OK
        }
        None => ck::CKR_ARGUMENTS_BAD,
    }
}

// --- Pointers in and out -------------------------------------------------------------------------------------------

fn length(count: ck::CK_ULONG) -> Done<usize> {
    usize::try_from(count).ok().filter(|n| *n <= isize::MAX as usize / 64).ok_or(Rv::CKR_ARGUMENTS_BAD)
}

/// SAFETY: `data` is null or valid for `count` reads.
unsafe fn input<'a, T>(data: *const T, count: ck::CK_ULONG) -> Done<&'a [T]> {
    match (data.is_null(), length(count)?) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Rv::CKR_ARGUMENTS_BAD),
        // SAFETY: of the caller.
        (false, count) => Ok(unsafe { slice::from_raw_parts(data, count) }),
    }
}

/// SAFETY: `data` is null or valid for `count` reads and writes, and nobody else has it.
unsafe fn output<'a, T>(data: *mut T, count: ck::CK_ULONG) -> Done<&'a mut [T]> {
    match (data.is_null(), length(count)?) {
        (_, 0) => Ok(&mut []),
        (true, _) => Err(Rv::CKR_ARGUMENTS_BAD),
        // SAFETY: of the caller.
        (false, count) => Ok(unsafe { slice::from_raw_parts_mut(data, count) }),
    }
}

/// SAFETY: `place` is null or valid for a write.
unsafe fn put<T>(place: *mut T, value: T) -> Done {
    if place.is_null() {
        return Err(Rv::CKR_ARGUMENTS_BAD);
    }
    // SAFETY: of the caller; `write` drops nothing that may not be there.
    unsafe { place.write(value) };
    Ok(())
}

/// SAFETY: as for [`input`].
unsafe fn pin<'a>(data: *const ck::CK_UTF8CHAR, count: ck::CK_ULONG) -> Done<&'a str> {
    if data.is_null() {
        return Err(Rv::CKR_ARGUMENTS_BAD);
    }
    // SAFETY: of the caller.
    std::str::from_utf8(unsafe { input(data, count)? }).map_err(|_| Rv::CKR_PIN_INVALID)
}

/// SAFETY: `data` is null or valid for `count` attributes, whose values are null or valid for their lengths.
unsafe fn template(data: *const ck::CK_ATTRIBUTE, count: ck::CK_ULONG) -> Done<Vec<Given>> {
    let mut given = Vec::new();
    // SAFETY: of the caller.
    for attribute in unsafe { input(data, count)? } {
        let pointer = attribute.pValue.cast::<u8>().cast_const();
        // SAFETY: of the caller.
        let value = unsafe { input(pointer, attribute.ulValueLen)? };
        let to_zero = (attribute.type_ == ck::CKA_APPLICATION && !pointer.is_null()).then(|| {
            // SAFETY: the value's last byte is the caller's, and the read stays in its page.
            unsafe { up_to_zero(value) }
        });
        given.push(Given { kind: attribute.type_, value: value.to_vec(), to_zero });
    }
    Ok(given)
}

/// OpenSC's fault, on purpose: the text up to the next zero byte, wherever that is.
///
/// SAFETY: the page in which the value ends is readable (it is mapped where the value is not empty).
unsafe fn up_to_zero(value: &[u8]) -> Vec<u8> {
    if let Some(end) = value.iter().position(|byte| *byte == 0) {
        return value[..end].to_vec();
    }
    let mut text = value.to_vec();
    if value.is_empty() {
        return text;
    }
    let end = value.as_ptr_range().end;
    let rest = (PAGE - end.addr() % PAGE) % PAGE;
    for offset in 0..rest.min(BEYOND) {
        // SAFETY: of the caller; volatile, because the byte is not ours and may be anything.
        let byte = unsafe { end.wrapping_add(offset).read_volatile() };
        if byte == 0 {
            break;
        }
        text.push(byte);
    }
    text
}

fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    for (place, byte) in field.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
    field
}

/// The list convention of PKCS#11: a null list asks for the count, a short one gets CKR_BUFFER_TOO_SMALL.
///
/// SAFETY: `count` is null or valid; `list` is null or valid for as many as it says.
unsafe fn give_list<T: Copy>(found: &[T], list: *mut T, count: *mut ck::CK_ULONG) -> Done {
    // SAFETY: of the caller.
    let count = unsafe { count.as_mut() }.ok_or(Rv::CKR_ARGUMENTS_BAD)?;
    let room = std::mem::replace(count, found.len() as ck::CK_ULONG);
    if list.is_null() {
        return Ok(());
    }
    // SAFETY: of the caller.
    let list = unsafe { output(list, room)? };
    list.get_mut(..found.len()).ok_or(Rv::CKR_BUFFER_TOO_SMALL)?.copy_from_slice(found);
    Ok(())
}

/// A call that needs C_Initialize first.
fn call(
    function: &'static str,
    target: Target,
    work: impl FnOnce(&mut Process, &mut Context) -> Done,
) -> ck::CK_RV {
    enter(function, target, |state, context| {
        work(state.as_mut().ok_or(Rv::CKR_CRYPTOKI_NOT_INITIALIZED)?, context)
    })
}

// --- General -------------------------------------------------------------------------------------------------------

extern "C" fn C_Initialize(_: *mut c_void) -> ck::CK_RV {
    enter("C_Initialize", Target::Module, |state, context| {
        if state.is_some() {
            return Err(Rv::CKR_CRYPTOKI_ALREADY_INITIALIZED);
        }
        *state = Some(Process::initialize(context)?);
        Ok(())
    })
}

extern "C" fn C_Finalize(_: *mut c_void) -> ck::CK_RV {
    enter("C_Finalize", Target::Module, |state, context| {
        let mut process = state.take().ok_or(Rv::CKR_CRYPTOKI_NOT_INITIALIZED)?;
        process.finalize(context)
    })
}

unsafe extern "C" fn C_GetInfo(info: *mut ck::CK_INFO) -> ck::CK_RV {
    call("C_GetInfo", Target::Module, |_, _| {
        let value = ck::CK_INFO {
            cryptokiVersion: ck::CK_VERSION { major: 2, minor: 20 },
            manufacturerID: padded("OpenSC Project"),
            flags: 0,
            libraryDescription: padded(LIBRARY),
            libraryVersion: ck::CK_VERSION { major: 0, minor: 27 },
        };
        // SAFETY: of the caller.
        unsafe { put(info, value) }
    })
}

extern "C" fn C_WaitForSlotEvent(flags: ck::CK_FLAGS, _: *mut ck::CK_SLOT_ID, _: *mut c_void) -> ck::CK_RV {
    call("C_WaitForSlotEvent", Target::Module, |_, _| {
        Err(if flags & ck::CKF_DONT_BLOCK == 0 { Rv::CKR_FUNCTION_NOT_SUPPORTED } else { Rv::CKR_NO_EVENT })
    })
}

// --- Slots and tokens ----------------------------------------------------------------------------------------------

unsafe extern "C" fn C_GetSlotList(
    with_token: ck::CK_BBOOL,
    list: *mut ck::CK_SLOT_ID,
    count: *mut ck::CK_ULONG,
) -> ck::CK_RV {
    call("C_GetSlotList", Target::Module, |process, context| {
        let found = process.slot_list(context, with_token != ck::CK_FALSE)?;
        // SAFETY: of the caller.
        unsafe { give_list(&found, list, count) }
    })
}

unsafe extern "C" fn C_GetSlotInfo(slot: ck::CK_SLOT_ID, info: *mut ck::CK_SLOT_INFO) -> ck::CK_RV {
    call("C_GetSlotInfo", Target::Slot(slot), |process, context| {
        let (reader, present) = process.slot_info(context, slot)?;
        let mut flags = ck::CKF_HW_SLOT | ck::CKF_REMOVABLE_DEVICE;
        if present {
            flags |= ck::CKF_TOKEN_PRESENT;
        }
        let value = ck::CK_SLOT_INFO {
            slotDescription: padded(&reader),
            manufacturerID: padded(""),
            flags,
            hardwareVersion: ck::CK_VERSION::default(),
            firmwareVersion: ck::CK_VERSION::default(),
        };
        // SAFETY: of the caller.
        unsafe { put(info, value) }
    })
}

unsafe extern "C" fn C_GetTokenInfo(slot: ck::CK_SLOT_ID, info: *mut ck::CK_TOKEN_INFO) -> ck::CK_RV {
    call("C_GetTokenInfo", Target::Slot(slot), |process, context| {
        let token = process.token_info(context, slot)?;
        let value = ck::CK_TOKEN_INFO {
            label: padded(&token.label),
            manufacturerID: padded(&token.manufacturer),
            model: padded(&token.model),
            serialNumber: padded(&token.serial),
            flags: token.flags,
            ulMaxSessionCount: ck::CK_EFFECTIVELY_INFINITE,
            ulSessionCount: 0,
            ulMaxRwSessionCount: ck::CK_EFFECTIVELY_INFINITE,
            ulRwSessionCount: 0,
            ulMaxPinLen: token.pin_max as ck::CK_ULONG,
            ulMinPinLen: token.pin_min as ck::CK_ULONG,
            ulTotalPublicMemory: ck::CK_UNAVAILABLE_INFORMATION,
            ulFreePublicMemory: ck::CK_UNAVAILABLE_INFORMATION,
            ulTotalPrivateMemory: ck::CK_UNAVAILABLE_INFORMATION,
            ulFreePrivateMemory: ck::CK_UNAVAILABLE_INFORMATION,
            hardwareVersion: ck::CK_VERSION { major: 24, minor: 13 },
            firmwareVersion: ck::CK_VERSION { major: token.firmware.0, minor: token.firmware.1 },
            utcTime: [b'0'; 16],
        };
        // SAFETY: of the caller.
        unsafe { put(info, value) }
    })
}

const MECHANISMS: [ck::CK_MECHANISM_TYPE; 2] = [ck::CKM_EC_KEY_PAIR_GEN, ck::CKM_ECDH1_DERIVE];

unsafe extern "C" fn C_GetMechanismList(
    slot: ck::CK_SLOT_ID,
    list: *mut ck::CK_MECHANISM_TYPE,
    count: *mut ck::CK_ULONG,
) -> ck::CK_RV {
    call("C_GetMechanismList", Target::Slot(slot), |process, context| {
        process.slot_info(context, slot)?;
        // SAFETY: of the caller.
        unsafe { give_list(&MECHANISMS, list, count) }
    })
}

unsafe extern "C" fn C_GetMechanismInfo(
    slot: ck::CK_SLOT_ID,
    kind: ck::CK_MECHANISM_TYPE,
    info: *mut ck::CK_MECHANISM_INFO,
) -> ck::CK_RV {
    call("C_GetMechanismInfo", Target::Slot(slot), |process, context| {
        process.slot_info(context, slot)?;
        let what = match kind {
            ck::CKM_EC_KEY_PAIR_GEN => ck::CKF_GENERATE_KEY_PAIR,
            ck::CKM_ECDH1_DERIVE => ck::CKF_DERIVE,
            _ => return Err(Rv::CKR_MECHANISM_INVALID),
        };
        let flags = ck::CKF_HW | what | ck::CKF_EC_F_P | ck::CKF_EC_NAMEDCURVE;
        // SAFETY: of the caller.
        unsafe { put(info, ck::CK_MECHANISM_INFO { ulMinKeySize: 256, ulMaxKeySize: 256, flags }) }
    })
}

unsafe extern "C" fn C_InitToken(
    slot: ck::CK_SLOT_ID,
    so_pin: *mut ck::CK_UTF8CHAR,
    len: ck::CK_ULONG,
    _label: *mut ck::CK_UTF8CHAR,
) -> ck::CK_RV {
    call("C_InitToken", Target::Slot(slot), |process, context| {
        // SAFETY: of the caller.
        process.init_token(context, slot, unsafe { pin(so_pin, len)? })
    })
}

// --- Sessions and PINs ---------------------------------------------------------------------------------------------

unsafe extern "C" fn C_OpenSession(
    slot: ck::CK_SLOT_ID,
    flags: ck::CK_FLAGS,
    _: *mut c_void,
    _: ck::CK_NOTIFY,
    session: *mut ck::CK_SESSION_HANDLE,
) -> ck::CK_RV {
    call("C_OpenSession", Target::Slot(slot), |process, context| {
        let opened = process.open_session(context, slot, flags)?;
        // SAFETY: of the caller.
        unsafe { put(session, opened) }
    })
}

extern "C" fn C_CloseSession(session: ck::CK_SESSION_HANDLE) -> ck::CK_RV {
    call("C_CloseSession", Target::Session(session), |process, context| {
        process.close_session(context, session)
    })
}

extern "C" fn C_CloseAllSessions(slot: ck::CK_SLOT_ID) -> ck::CK_RV {
    call("C_CloseAllSessions", Target::Slot(slot), |process, context| {
        process.close_all_sessions(context, slot)
    })
}

unsafe extern "C" fn C_GetSessionInfo(
    session: ck::CK_SESSION_HANDLE,
    info: *mut ck::CK_SESSION_INFO,
) -> ck::CK_RV {
    call("C_GetSessionInfo", Target::Session(session), |process, context| {
        let (slot, state, flags) = process.session_info(context, session)?;
        // SAFETY: of the caller.
        unsafe { put(info, ck::CK_SESSION_INFO { slotID: slot, state, flags, ulDeviceError: 0 }) }
    })
}

unsafe extern "C" fn C_Login(
    session: ck::CK_SESSION_HANDLE,
    user: ck::CK_USER_TYPE,
    text: *mut ck::CK_UTF8CHAR,
    len: ck::CK_ULONG,
) -> ck::CK_RV {
    call("C_Login", Target::Session(session), |process, context| {
        // SAFETY: of the caller.
        process.login(context, session, user, unsafe { pin(text, len)? })
    })
}

extern "C" fn C_Logout(session: ck::CK_SESSION_HANDLE) -> ck::CK_RV {
    call("C_Logout", Target::Session(session), |process, context| process.logout(context, session))
}

unsafe extern "C" fn C_InitPIN(
    session: ck::CK_SESSION_HANDLE,
    text: *mut ck::CK_UTF8CHAR,
    len: ck::CK_ULONG,
) -> ck::CK_RV {
    call("C_InitPIN", Target::Session(session), |process, context| {
        // SAFETY: of the caller.
        process.init_pin(context, session, unsafe { pin(text, len)? })
    })
}

unsafe extern "C" fn C_SetPIN(
    session: ck::CK_SESSION_HANDLE,
    old: *mut ck::CK_UTF8CHAR,
    old_len: ck::CK_ULONG,
    new: *mut ck::CK_UTF8CHAR,
    new_len: ck::CK_ULONG,
) -> ck::CK_RV {
    call("C_SetPIN", Target::Session(session), |process, context| {
        // SAFETY: of the caller.
        let (old, new) = unsafe { (pin(old, old_len)?, pin(new, new_len)?) };
        process.set_pin(context, session, old, new)
    })
}

// --- Objects -------------------------------------------------------------------------------------------------------

unsafe extern "C" fn C_CreateObject(
    session: ck::CK_SESSION_HANDLE,
    attributes: *mut ck::CK_ATTRIBUTE,
    count: ck::CK_ULONG,
    object: *mut ck::CK_OBJECT_HANDLE,
) -> ck::CK_RV {
    call("C_CreateObject", Target::Session(session), |process, context| {
        // SAFETY: of the caller.
        let created = process.create(context, session, &unsafe { template(attributes, count)? })?;
        // SAFETY: of the caller.
        unsafe { put(object, created) }
    })
}

extern "C" fn C_DestroyObject(session: ck::CK_SESSION_HANDLE, object: ck::CK_OBJECT_HANDLE) -> ck::CK_RV {
    call("C_DestroyObject", Target::Session(session), |process, context| {
        process.destroy(context, session, object)
    })
}

unsafe extern "C" fn C_GetAttributeValue(
    session: ck::CK_SESSION_HANDLE,
    object: ck::CK_OBJECT_HANDLE,
    attributes: *mut ck::CK_ATTRIBUTE,
    count: ck::CK_ULONG,
) -> ck::CK_RV {
    call("C_GetAttributeValue", Target::Session(session), |process, context| {
        // SAFETY: of the caller.
        let wanted = unsafe { output(attributes, count)? };
        let kinds: Vec<_> = wanted.iter().map(|attribute| attribute.type_).collect();
        let values = process.attributes(context, session, object, &kinds)?;
        let mut result = Ok(());
        for (attribute, value) in wanted.iter_mut().zip(values) {
            // SAFETY: of the caller: the value is null or valid for its length.
            let given = value.and_then(|value| unsafe { give_value(attribute, &value) });
            if let Err(rv) = given {
                attribute.ulValueLen = ck::CK_UNAVAILABLE_INFORMATION;
                result = Err(rv);
            }
        }
        result
    })
}

/// SAFETY: `attribute.pValue` is null or valid for `attribute.ulValueLen` writes.
unsafe fn give_value(attribute: &mut ck::CK_ATTRIBUTE, value: &[u8]) -> Done {
    if !attribute.pValue.is_null() {
        // SAFETY: of the caller.
        let room = unsafe { output(attribute.pValue.cast::<u8>(), attribute.ulValueLen)? };
        room.get_mut(..value.len()).ok_or(Rv::CKR_BUFFER_TOO_SMALL)?.copy_from_slice(value);
    }
    attribute.ulValueLen = value.len() as ck::CK_ULONG;
    Ok(())
}

unsafe extern "C" fn C_SetAttributeValue(
    session: ck::CK_SESSION_HANDLE,
    object: ck::CK_OBJECT_HANDLE,
    attributes: *mut ck::CK_ATTRIBUTE,
    count: ck::CK_ULONG,
) -> ck::CK_RV {
    call("C_SetAttributeValue", Target::Session(session), |process, _| {
        // SAFETY: of the caller.
        process.set_attributes(session, object, &unsafe { template(attributes, count)? })
    })
}

unsafe extern "C" fn C_FindObjectsInit(
    session: ck::CK_SESSION_HANDLE,
    attributes: *mut ck::CK_ATTRIBUTE,
    count: ck::CK_ULONG,
) -> ck::CK_RV {
    call("C_FindObjectsInit", Target::Session(session), |process, _| {
        // SAFETY: of the caller.
        process.find_init(session, &unsafe { template(attributes, count)? })
    })
}

unsafe extern "C" fn C_FindObjects(
    session: ck::CK_SESSION_HANDLE,
    objects: *mut ck::CK_OBJECT_HANDLE,
    max: ck::CK_ULONG,
    count: *mut ck::CK_ULONG,
) -> ck::CK_RV {
    call("C_FindObjects", Target::Session(session), |process, _| {
        // SAFETY: of the caller.
        let room = unsafe { output(objects, max)? };
        let found = process.find_next(session, room.len())?;
        for (place, handle) in room.iter_mut().zip(&found) {
            *place = *handle;
        }
        // SAFETY: of the caller.
        unsafe { put(count, found.len() as ck::CK_ULONG) }
    })
}

extern "C" fn C_FindObjectsFinal(session: ck::CK_SESSION_HANDLE) -> ck::CK_RV {
    call("C_FindObjectsFinal", Target::Session(session), |process, _| process.find_final(session))
}

// --- Keys and random -----------------------------------------------------------------------------------------------

/// SAFETY: `mechanism` is null or valid.
unsafe fn wants(mechanism: *const ck::CK_MECHANISM, kind: ck::CK_MECHANISM_TYPE) -> Done<ck::CK_MECHANISM> {
    // SAFETY: of the caller.
    let mechanism = unsafe { mechanism.as_ref() }.ok_or(Rv::CKR_ARGUMENTS_BAD)?;
    if mechanism.mechanism == kind { Ok(*mechanism) } else { Err(Rv::CKR_MECHANISM_INVALID) }
}

unsafe extern "C" fn C_GenerateKeyPair(
    session: ck::CK_SESSION_HANDLE,
    mechanism: *mut ck::CK_MECHANISM,
    public: *mut ck::CK_ATTRIBUTE,
    public_count: ck::CK_ULONG,
    private: *mut ck::CK_ATTRIBUTE,
    private_count: ck::CK_ULONG,
    public_key: *mut ck::CK_OBJECT_HANDLE,
    private_key: *mut ck::CK_OBJECT_HANDLE,
) -> ck::CK_RV {
    call("C_GenerateKeyPair", Target::Session(session), |process, context| {
        // SAFETY: of the caller.
        let (public, private) = unsafe {
            wants(mechanism, ck::CKM_EC_KEY_PAIR_GEN)?;
            (template(public, public_count)?, template(private, private_count)?)
        };
        let (public, private) = process.generate_pair(context, session, &public, &private)?;
        // SAFETY: of the caller.
        unsafe {
            put(public_key, public)?;
            put(private_key, private)
        }
    })
}

unsafe extern "C" fn C_DeriveKey(
    session: ck::CK_SESSION_HANDLE,
    mechanism: *mut ck::CK_MECHANISM,
    base: ck::CK_OBJECT_HANDLE,
    _template: *mut ck::CK_ATTRIBUTE,
    _count: ck::CK_ULONG,
    key: *mut ck::CK_OBJECT_HANDLE,
) -> ck::CK_RV {
    call("C_DeriveKey", Target::Session(session), |process, context| {
        // SAFETY: of the caller; the parameter's length says that it is this structure.
        let peer = unsafe {
            let mechanism = wants(mechanism, ck::CKM_ECDH1_DERIVE)?;
            if length(mechanism.ulParameterLen)? != size_of::<ck::CK_ECDH1_DERIVE_PARAMS>() {
                return Err(Rv::CKR_MECHANISM_PARAM_INVALID);
            }
            let parameters = mechanism.pParameter.cast::<ck::CK_ECDH1_DERIVE_PARAMS>().cast_const();
            let parameters = parameters.as_ref().ok_or(Rv::CKR_MECHANISM_PARAM_INVALID)?;
            if parameters.kdf != ck::CKD_NULL {
                return Err(Rv::CKR_MECHANISM_PARAM_INVALID);
            }
            input(parameters.pPublicData.cast_const(), parameters.ulPublicDataLen)?
        };
        let derived = process.derive(context, session, base, peer)?;
        // SAFETY: of the caller.
        unsafe { put(key, derived) }
    })
}

unsafe extern "C" fn C_GenerateRandom(
    session: ck::CK_SESSION_HANDLE,
    bytes: *mut ck::CK_BYTE,
    count: ck::CK_ULONG,
) -> ck::CK_RV {
    call("C_GenerateRandom", Target::Session(session), |process, context| {
        // SAFETY: of the caller.
        process.random(context, session, unsafe { output(bytes, count)? })
    })
}
