//! The pure core of the controller: what to do for one HSMSecret, decided from what was observed.
//!
//! Nothing here awaits, reads a clock, draws a random number or looks at the environment: time and chance are
//! arguments. The shell observes, calls [`plan`], executes the steps, observes again, until there are none.

mod absent;
mod base;
mod merge;
mod model;
mod placement;
mod plan;
mod present;
mod verdict;
mod wanted;

pub use base::unedited;
pub use merge::{Conflicts, Merge, Side};
pub use model::{
    AdoptionPolicy, Base, ConflictPolicy, Copy, DeletionPolicy, Input, Ownership, SecretView, SyncPolicy,
    TokenView, ValueDigests, ValueMac, Values, Wanted,
};
pub use placement::{Primary, choose_primary};
pub use plan::{Plan, PutSource, Step, plan};
pub use verdict::{ConflictStatus, ReadyStatus, SyncState, Verdict};
pub use wanted::Invalid;
