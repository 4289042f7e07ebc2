use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Address, CgroupId, Decision, EndpointId, Hook, Mode, RuleId, Verdict, Way, code};

/// The length of a task's name in the kernel, its closing NUL included (`TASK_COMM_LEN`).
pub const COMM_LEN: usize = 16;

/// How many events one pod may send up in a second. Counting goes on past it.
pub const EVENTS_PER_POD_AND_SECOND: u64 = 20;

/// The value of the map `BUDGETS`: what one pod has sent up in the current second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Budget {
    /// Seconds since boot.
    pub second: u64,
    /// Events sent within it.
    pub sent: u64,
}

code! {
    /// Why an event or a request did not go up: an index into the array `LOST`.
    Lost, closed: Full, {
        /// Its pod had spent its budget.
        Budget = 0 "budget",
        /// The ring buffer was full.
        Full = 1 "ring_buffer_full",
        /// There was no room for a request.
        Requests = 2 "requests_full",
    }
}

/// A record of the ring buffer `EVENTS`: one attempt, or one packet that only the egress lock saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AttemptEvent {
    /// Nanoseconds since boot (`CLOCK_BOOTTIME`).
    pub time: u64,
    /// The pod-level cgroup of the pod that made the attempt.
    pub pod: CgroupId,
    /// The cgroup one level below the pod's; 0 at the egress lock.
    pub container: CgroupId,
    /// The pod-level cgroup of the pod whose ruling decided, if that is not `pod` but the creator of its socket; else 0.
    pub creator: CgroupId,
    /// The address asked for.
    pub address: Address,
    /// The process id in the host's namespace; 0 at the egress lock, which runs in no process's name.
    pub pid: u32,
    /// The destination port, host order; 0 where the hook has none.
    pub port: u16,
    /// The rule that decided.
    pub rule: RuleId,
    /// The name of the thread, as its owner chose it.
    pub comm: [u8; COMM_LEN],
    /// The endpoint's id.
    pub endpoint: EndpointId,
    /// The IP protocol number; 0 where the hook has none.
    pub protocol: u8,
    hook: u8,
    verdict: u8,
    mode: u8,
    way: u8,
    reserved: [u8; 2],
}

impl AttemptEvent {
    /// An event of `hook` with what was decided; everything about the attempt itself is still empty.
    #[inline(always)]
    pub fn new(hook: Hook, decision: Decision, way: Way) -> Self {
        let ruling = decision.ruling;
        Self {
            time: 0,
            pod: CgroupId::UNIDENTIFIED,
            container: CgroupId(0),
            creator: CgroupId(0),
            address: Address::from_v6_words([0; 4]),
            pid: 0,
            port: 0,
            rule: ruling.rule(),
            comm: [0; COMM_LEN],
            endpoint: 0,
            protocol: 0,
            hook: hook.code(),
            verdict: ruling.verdict().code(),
            mode: ruling.mode().code(),
            way: way.code(),
            reserved: [0; 2],
        }
    }

    /// Where it was seen.
    pub const fn hook(&self) -> Hook {
        Hook::from_code(self.hook)
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
    pub const fn outcome(&self) -> Verdict {
        match self.way() {
            Way::Refused => Verdict::Deny,
            Way::Direct | Way::Gate => self.verdict(),
        }
    }
}
