//! The script of faults, `faults.json`: at which call what goes wrong. Calls are counted from when a fault was armed,
//! over all processes of the machine.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use crate::disk::{Disk, invalid, replace};
use crate::rv::Rv;

/// When a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Before the call does anything.
    Before,
    /// In the middle of its writes: after the first file of a create (a value that nothing lists) or of a destroy (a
    /// ghost). In a call that does not write two files, it is the same as `After`.
    Between,
    /// After the call has done its work, before its answer.
    After,
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The call answers with this value, by name (`CKR_GENERAL_ERROR`) or number (`0x80000001`).
    Fail(String),
    /// The call takes this many milliseconds longer; `None`: it never comes back.
    Hang(Option<u64>),
    /// The process aborts.
    Crash,
    /// The card leaves its reader (the call's own; else the first one) and goes to the drawer.
    Remove,
    /// pcscd is restarted.
    RestartPcscd,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The function, `C_CreateObject` say; `None` counts the calls of every function but C_GetFunctionList.
    #[serde(default)]
    pub function: Option<String>,
    /// At which of these calls; the first is 1.
    pub call: u64,
    /// For how many calls from that one on.
    #[serde(default = "one")]
    pub times: u64,
    /// When.
    pub when: When,
    /// What.
    pub action: Action,
    /// How many such calls there were since it was armed. A script leaves it out.
    #[serde(default)]
    pub seen: u64,
    /// How often it has struck. A script leaves it out.
    #[serde(default)]
    pub struck: u64,
}

fn one() -> u64 {
    1
}

impl Fault {
    /// A fault at call number `call` (from 1) of any function.
    pub fn at_call(call: u64, when: When, action: Action) -> Self {
        Self { function: None, call, times: 1, when, action, seen: 0, struck: 0 }
    }

    /// A fault at call number `call` (from 1) of one function.
    pub fn at(function: &str, call: u64, when: When, action: Action) -> Self {
        Self { function: Some(function.to_owned()), ..Self::at_call(call, when, action) }
    }

    /// The same for that call and every later one.
    #[must_use]
    pub fn for_ever(self) -> Self {
        Self { times: u64::MAX, ..self }
    }

    /// What is wrong with it.
    fn check(&self) -> io::Result<()> {
        if self.call == 0 || self.times == 0 {
            return Err(invalid("a fault's call and times are counted from 1"));
        }
        if let Action::Fail(name) = &self.action
            && Rv::parse(name).is_none()
        {
            return Err(invalid(format!(
                "{name} is no return value that this module knows; give its number as 0x…"
            )));
        }
        if let Some(function) = &self.function
            && !function.starts_with("C_")
        {
            return Err(invalid(format!("{function} is no PKCS#11 function; they begin with C_")));
        }
        Ok(())
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    faults: Vec<Fault>,
}

/// Every armed fault with its counts.
pub(crate) fn armed(disk: &Disk) -> io::Result<Vec<Fault>> {
    let path = disk.faults_file();
    match fs::read_to_string(&path) {
        Ok(text) => {
            let script: Script =
                serde_json::from_str(&text).map_err(|e| invalid(format!("{}: {e}", path.display())))?;
            script.faults.iter().try_for_each(Fault::check)?;
            Ok(script.faults)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

fn write(disk: &Disk, faults: Vec<Fault>) -> io::Result<()> {
    replace(&disk.faults_file(), serde_json::to_string_pretty(&Script { faults })?.as_bytes())
}

/// Arms one more fault.
pub(crate) fn arm(disk: &Disk, fault: Fault) -> io::Result<()> {
    fault.check()?;
    let _lock = disk.lock()?;
    let mut faults = armed(disk)?;
    faults.push(fault);
    write(disk, faults)
}

/// Forgets the script.
pub(crate) fn clear(disk: &Disk) -> io::Result<()> {
    let _lock = disk.lock()?;
    match fs::remove_file(disk.faults_file()) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Counts a call, and gives the faults that strike at it. Costs one failing open(2) where none is armed.
pub(crate) fn count(disk: &Disk, function: &str) -> io::Result<Vec<(When, Action)>> {
    if !disk.faults_file().exists() {
        return Ok(Vec::new());
    }
    let _lock = disk.lock()?;
    let mut faults = armed(disk)?;
    let mut strikes = Vec::new();
    for fault in &mut faults {
        if fault.function.as_deref().is_some_and(|name| name != function) {
            continue;
        }
        fault.seen += 1;
        if fault.seen >= fault.call && fault.seen - fault.call < fault.times {
            fault.struck += 1;
            strikes.push((fault.when, fault.action.clone()));
        }
    }
    if !faults.is_empty() {
        write(disk, faults)?;
    }
    Ok(strikes)
}
