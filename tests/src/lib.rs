//! What the end-to-end tests, the demo and the benches of imds-guard are made of.
//!
//! ```text
//!            Node ── cgroups shaped like the kubelet's, network namespaces, a PodList
//!             │
//!   Agent ────┼──── the real `imds-guard` binary, and what it reports
//!             │
//!    pods ────┼──── attack (what a pod tries) ──▶ Simulator (what IMDS saw of it)
//!             │                                      ▲
//!             └──── sdk (what an application does) ───┘
//! ```
//!
//! Nothing here is part of the product, and nothing stands in for the kernel: cgroups, namespaces, sockets and
//! packets are real. Everything lives in namespaces and cgroups of its own and is gone when its owner is dropped;
//! what a killed test leaves is swept by the next one.

pub mod agent;
pub mod attack;
pub mod bench;
mod binary;
pub mod demo;
mod detached;
mod hook;
pub mod namespace;
pub mod node;
mod pinned_map;
mod place;
pub mod process;
mod random;
pub mod sdk;
pub mod simulator;
mod wait;

pub use agent::Agent;
pub use attack::{Outcome, Report, Vector};
pub use binary::binary;
pub use detached::DetachedMount;
pub use hook::Hook;
pub use node::{Cgroup, Driver, Node, PodHandle, PodSpec, Qos};
pub use pinned_map::PinnedMap;
pub use place::Place;
pub use process::Process;
pub use simulator::Simulator;
pub use wait::{wait_for, wait_until};
