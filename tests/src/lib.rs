//! Fixtures for tests on real parts: a control plane, a software token with its agent, a controller.
//!
//! Every fixture ends what it started when it is dropped. The programs are our own debug builds (`cargo build
//! --workspace`, which `hack/test` does first) and what `hack/kube` finds or builds.

mod control_plane;
mod node;
mod process;
mod world;

pub use control_plane::{ControlPlane, With};
pub use node::Node;
pub use process::{Process, free_port, program};
pub use world::{World, eventually};
