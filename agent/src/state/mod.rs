//! What the agent keeps on the node across restarts: never a value, never a PIN.

mod configure;
mod fence;
mod file;

pub use configure::{ConfigureError, Configured};
pub use fence::{FenceError, Fences};
pub use file::{read_if_there, write_atomic};
