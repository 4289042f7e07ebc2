//! Lets the agent pass these types to maps.
#![expect(unsafe_code, reason = "a promise about layouts, which only this crate can make")]

use crate::{Address, CgroupId, CounterKey, GateKey, PodEntry, RuleLabel};

// SAFETY: all six are `repr(C)` or `repr(transparent)`, `Copy`, without references, and without padding: they
// derive zerocopy's `IntoBytes`, which proves it.
unsafe impl ::aya::Pod for Address {}
// SAFETY: as above.
unsafe impl ::aya::Pod for CgroupId {}
// SAFETY: as above.
unsafe impl ::aya::Pod for CounterKey {}
// SAFETY: as above.
unsafe impl ::aya::Pod for PodEntry {}
// SAFETY: as above.
unsafe impl ::aya::Pod for GateKey {}
// SAFETY: as above.
unsafe impl ::aya::Pod for RuleLabel {}
