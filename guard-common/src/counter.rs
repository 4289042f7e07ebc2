use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{CgroupId, EndpointId, Lock, MAX_ENDPOINTS, Mode, RuleId, Ruling, Verdict};

/// The key of the map `COUNTERS`: everything by which attempts and packets are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CounterKey {
    /// The pod-level cgroup of the pod that made the attempt.
    pub cgroup: CgroupId,
    /// The endpoint's id and the ruling that decided.
    pub endpoint: EndpointId,
    lock: u8,
    verdict: u8,
    mode: u8,
    /// The rule that decided.
    pub rule: RuleId,
    reserved: [u8; 2],
}

/// The length of the array `OVERFLOW`: one place for every endpoint, lock, verdict and mode. It counts what
/// `COUNTERS` had no room for, so that no attempt goes uncounted.
pub const OVERFLOW_SLOTS: u32 = 64;

impl CounterKey {
    /// The counter of what was decided on one pod's traffic.
    #[inline(always)]
    pub const fn new(cgroup: CgroupId, endpoint: EndpointId, lock: Lock, ruling: Ruling) -> Self {
        Self {
            cgroup,
            endpoint,
            lock: lock.code(),
            verdict: ruling.verdict().code(),
            mode: ruling.mode().code(),
            rule: ruling.rule(),
            reserved: [0; 2],
        }
    }

    /// The lock that saw the traffic.
    pub const fn lock(&self) -> Lock {
        Lock::from_code(self.lock)
    }

    /// What was decided.
    pub const fn verdict(&self) -> Verdict {
        Verdict::from_code(self.verdict)
    }

    /// Whether it was carried out.
    pub const fn mode(&self) -> Mode {
        Mode::from_code(self.mode)
    }

    /// The place in `OVERFLOW` that counts for this key.
    #[inline(always)]
    pub const fn overflow_slot(&self) -> u32 {
        let endpoint = self.endpoint as u32 % (OVERFLOW_SLOTS / 8);
        endpoint * 8 + (self.lock as u32 & 1) * 4 + (self.verdict as u32 & 1) * 2 + (self.mode as u32 & 1)
    }

    /// The key, without a pod and a rule, that a place in `OVERFLOW` counts for.
    pub const fn of_overflow_slot(slot: u32) -> Self {
        // The lowest byte holds more than all places.
        let [slot, ..] = slot.to_le_bytes();
        let ruling = Ruling::new(Verdict::from_code(slot >> 1 & 1), Mode::from_code(slot & 1), 0);
        Self::new(CgroupId::UNIDENTIFIED, slot / 8, Lock::from_code(slot >> 2 & 1), ruling)
    }
}

const _: () = assert!(OVERFLOW_SLOTS as usize == MAX_ENDPOINTS * 8 && OVERFLOW_SLOTS <= 256);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_overflow_slot_is_found_again() {
        for slot in 0..OVERFLOW_SLOTS {
            assert_eq!(CounterKey::of_overflow_slot(slot).overflow_slot(), slot);
        }
    }
}
