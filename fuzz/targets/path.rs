//! Looks for a target of a request that a filter understands in another way than the metadata service.
#![no_main]

// The agent as a whole would bring its kernel programs and its client of Kubernetes into an instrumented build. This
// module of it is pure, and needs nothing of the rest.
#[path = "../../guard/src/imds/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the target does not call all of it")]
mod imds;
#[path = "../property.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|target: &str| property::holds(target));
