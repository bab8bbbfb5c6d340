//! What the agent keeps on the node across restarts: never a value, never a PIN.

mod admission;
mod configure;
mod device;
mod fence;
mod file;
mod tie;

pub use admission::{Admission, Admissions, By, Decision};
pub use configure::{ConfigureError, Configured};
pub use device::{TokenFacts, encryption_of};
pub use fence::{FenceError, Fences};
pub use file::{read_if_there, write_atomic};
pub use tie::Tie;
