//! The parts of the `imds-guard` agent, in the order of the flow: policy and pods go down into the kernel,
//! observations come up out of it. ARCHITECTURE.md draws it.

pub mod account;
pub mod agent;
pub mod attempt;
pub mod backstop;
pub mod boot;
pub mod canary;
pub mod changes;
pub mod cli;
mod client;
pub mod denial;
pub mod endpoints;
pub mod gate;
pub mod imds;
pub mod issued;
pub mod kernel;
pub mod kubernetes;
pub mod memory;
pub mod notices;
pub mod pods;
pub mod policy;
pub mod reconcile;
pub mod request;
pub mod sinks;
pub mod text;
pub mod workload;
