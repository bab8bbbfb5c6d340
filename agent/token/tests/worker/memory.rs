//! What stays in the worker's memory of the secrets that went through it.

use std::io::{Read as _, Seek as _, SeekFrom};

use super::*;

/// How often these bytes are in the process's writable memory; `None` where we may not look (only root may).
fn copies(pid: u32, wanted: &[u8]) -> Option<usize> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let mut memory = std::fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut found = 0;
    for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
        let (from, to) = line.split(' ').next()?.split_once('-')?;
        let (from, to) = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
        let mut bytes = vec![0; usize::try_from(to - from).ok()?];
        // The guard pages of stacks cannot be read.
        if memory.seek(SeekFrom::Start(from)).is_ok() && memory.read_exact(&mut bytes).is_ok() {
            found += bytes.windows(wanted.len()).filter(|window| *window == wanted).count();
        }
    }
    Some(found)
}

/// Values leave nothing behind, not in the buffers of cryptoki, of prost or of the module. The PIN stays while its
/// session lasts.
#[test]
fn values_are_wiped() {
    let softhsm = softhsm();
    let mut token = logged_in(&softhsm);
    let pid = token.pid().unwrap();
    // Made at run time, so that it is nowhere in the program itself.
    let value = token.random(1500).unwrap();
    let handle = token.create("a", Visibility::Private, &value).unwrap();
    for _ in 0..10 {
        assert_eq!(token.read(handle).unwrap(), value);
    }
    token.info().unwrap();
    // The allocator itself writes over the ends of what is freed, so a part from the middle says more.
    let Some(left) = copies(pid, &value[700..732]) else { return };
    assert!(copies(pid, PIN.as_bytes()).unwrap() > 0, "what is there is found");
    assert_eq!(left, 0, "copies of the value are left");
}
