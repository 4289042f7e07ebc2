use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{CgroupId, EndpointId, Lock, MAX_ENDPOINTS, Mode, RuleId, Ruling, Verdict, Way};

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
    way: u8,
    reserved: u8,
}

/// The length of the array `OVERFLOW`: one place for every endpoint, lock, verdict and mode. It counts what
/// `COUNTERS` had no room for, so that no attempt goes uncounted.
pub const OVERFLOW_SLOTS: u32 = 256;

/// The places of each endpoint.
const SLOTS: u32 = 32;

impl CounterKey {
    /// The counter of what was decided on one pod's traffic.
    #[inline(always)]
    pub const fn new(cgroup: CgroupId, endpoint: EndpointId, lock: Lock, ruling: Ruling, way: Way) -> Self {
        Self {
            cgroup,
            endpoint,
            lock: lock.code(),
            verdict: ruling.verdict().code(),
            mode: ruling.mode().code(),
            rule: ruling.rule(),
            way: way.code(),
            reserved: 0,
        }
    }

    /// The same counter, in the terms of somebody for whom rule and endpoint have other ids.
    #[must_use]
    pub const fn translated(self, endpoint: EndpointId, rule: RuleId) -> Self {
        Self { endpoint, rule, ..self }
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

    /// How it went on.
    pub const fn way(&self) -> Way {
        Way::from_code(self.way)
    }

    /// What became of it: what is refused is denied, whatever the policy would say of another attempt.
    #[inline(always)]
    pub const fn outcome(&self) -> Verdict {
        match self.way() {
            Way::Refused => Verdict::Deny,
            Way::Direct | Way::Gate => self.verdict(),
        }
    }

    /// The place in `OVERFLOW` that counts for this key.
    #[inline(always)]
    pub const fn overflow_slot(&self) -> u32 {
        let endpoint = self.endpoint as u32 % (OVERFLOW_SLOTS / SLOTS);
        let verdict = self.outcome().code() as u32 & 3;
        endpoint * SLOTS + (self.lock as u32 & 3) * 8 + verdict * 2 + (self.mode as u32 & 1)
    }

    /// The key, without a pod and a rule, that a place in `OVERFLOW` counts for.
    pub const fn of_overflow_slot(slot: u32) -> Self {
        // The lowest byte holds more than all places.
        let [slot, ..] = slot.to_le_bytes();
        let ruling = Ruling::new(Verdict::from_code(slot >> 1 & 3), Mode::from_code(slot & 1), 0);
        let endpoint = slot / SLOTS.to_le_bytes()[0];
        Self::new(CgroupId::UNIDENTIFIED, endpoint, Lock::from_code(slot >> 3 & 3), ruling, Way::Direct)
    }
}

// Part of the books, which never change.
const _: () = assert!(size_of::<CounterKey>() == 16);
const _: () = assert!(OVERFLOW_SLOTS as usize == MAX_ENDPOINTS * SLOTS as usize && OVERFLOW_SLOTS <= 256);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_overflow_slot_is_found_again() {
        // There are three verdicts and three locks, with two bits for each.
        for slot in (0..OVERFLOW_SLOTS).filter(|slot| slot >> 1 & 3 != 3 && slot >> 3 & 3 != 3) {
            assert_eq!(CounterKey::of_overflow_slot(slot).overflow_slot(), slot);
        }
    }

    #[test]
    fn what_is_refused_counts_as_denied() {
        let allowed = Ruling::new(Verdict::Allow, Mode::Enforce, 1);
        let key = |way| CounterKey::new(CgroupId(1), 0, Lock::Socket, allowed, way);
        assert_eq!(key(Way::Gate).outcome(), Verdict::Allow);
        assert_eq!(key(Way::Refused).outcome(), Verdict::Deny);
    }
}
