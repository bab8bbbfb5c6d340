//! A PKCS#11 module that behaves like a Pico HSM v6.6 through OpenSC, faults and limits included, with cards that are
//! files. As a shared object it is what a program under test loads; as this library it is the fixture: [`Machine`].
//!
//! `README.md` beside it says what is modelled, and on what grounds.

mod calls;
mod codec;
mod context;
mod disk;
mod door;
mod faults;
mod flash;
mod head;
mod machine;
mod opensc_conf;
mod process;
mod rv;
mod settings;

use std::io;
use std::path::PathBuf;

pub use calls::{Call, From as AnsweredFrom};
pub use faults::{Action, Fault, When};
pub use flash::{FileId, Kind};
pub use head::Counters;
pub use machine::{CardObject, CardOptions, Keep, Machine, ObjectKind, Unflushed};
pub use settings::{OpenSc, Settings, Settle};

/// The environment variable that names the machine's folder.
pub const DIR_VARIABLE: &str = "FAULTY_PKCS11_DIR";

/// The name of the shared object.
const FILE: &str = "libfaulty_pkcs11.so";

/// The shared object, where cargo has put it: beside the test executable (`target/*/deps`), which is where a
/// dev-dependency's lies, or beside the program or in its `deps`.
///
/// Errors: `NotFound` with the places that were looked at.
pub fn module_path() -> io::Result<PathBuf> {
    let executable = std::env::current_exe()?;
    let beside = executable.parent().map(PathBuf::from).unwrap_or_default();
    let places =
        [beside.join(FILE), beside.join("deps").join(FILE), beside.join("..").join("deps").join(FILE)];
    places.iter().find(|path| path.exists()).cloned().ok_or_else(|| {
        let looked: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
        let what =
            format!("{FILE} is at none of {}; build it: cargo build -p hsm-faulty-module", looked.join(", "));
        io::Error::new(io::ErrorKind::NotFound, what)
    })
}
