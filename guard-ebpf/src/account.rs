//! What goes up: exact counts, and samples of events within a budget.
//!
//! Everything here is inlined, as in all modules: to a verifier before Linux 6.5 a program that calls a function of its
//! own is one of which it can join no two ways, and a decision's program takes it 30 times as long.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::bpf_ktime_get_boot_ns,
};
use guard_common::{AttemptEvent, Budget, CgroupId, CounterKey, EVENTS_PER_POD_AND_SECOND, Lost};

use crate::maps::{BUDGETS, COUNTERS, EVENTS, LOST, OVERFLOW};

/// Counts one decision. If there is no room for a new counter, the overflow place of its kind counts it.
#[inline(always)]
pub fn count(key: &CounterKey) {
    if COUNTERS.get_ptr(key).is_none() {
        // Another CPU may be as quick; whoever comes second finds the first one's counter.
        let _ = COUNTERS.insert(key, 0, u64::from(BPF_NOEXIST));
    }
    match COUNTERS.get_ptr_mut(key) {
        Some(counter) => add_one(counter),
        None => {
            if let Some(counter) = OVERFLOW.get_ptr_mut(key.overflow_slot()) {
                add_one(counter);
            }
        }
    }
}

/// Sends an event up, if its pod's budget and the ring buffer have room; counts it as lost if not.
#[inline(always)]
pub fn report(mut event: AttemptEvent) {
    // SAFETY: the helper has no precondition.
    event.time = unsafe { bpf_ktime_get_boot_ns() };
    if !within_budget(event.pod, event.time) {
        return lose(Lost::Budget);
    }
    match EVENTS.reserve(0) {
        Some(mut slot) => {
            slot.write(event);
            slot.submit(0);
        }
        None => lose(Lost::Full),
    }
}

#[inline(always)]
fn within_budget(pod: CgroupId, time: u64) -> bool {
    let second = time / 1_000_000_000;
    match BUDGETS.get_ptr_mut(pod) {
        // SAFETY: the pointer comes from the look-up. CPUs may overwrite each other's step, which makes the budget
        // a little larger: events are samples, and whatever is not sent is counted.
        Some(budget) => unsafe {
            if (*budget).second != second {
                *budget = Budget { second, sent: 0 };
            }
            (*budget).sent += 1;
            (*budget).sent <= EVENTS_PER_POD_AND_SECOND
        },
        None => {
            let _ = BUDGETS.insert(pod, Budget { second, sent: 1 }, u64::from(BPF_ANY));
            true
        }
    }
}

/// Counts what does not go up.
#[inline(always)]
pub fn lose(reason: Lost) {
    if let Some(counter) = LOST.get_ptr_mut(u32::from(reason.code())) {
        add_one(counter);
    }
}

/// An atomic step even on a per-CPU counter: a softirq can come between the load and the store of a plain one.
#[inline(always)]
fn add_one(counter: *mut u64) {
    // SAFETY: `counter` comes from a map look-up, is eight-byte aligned and lives as long as the program runs.
    unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(counter, 1)
    };
}
