//! The parts of the `imds-guard` agent, in the order of the flow: policy and pods go down into the kernel,
//! observations come up out of it. ARCHITECTURE.md draws it.

pub mod endpoints;
pub mod pods;
pub mod policy;
pub mod workload;
