//! All maps and load-time constants, and who writes which:
//!
//! ```text
//!   agent writes                                              agent reads
//!   ───────────                                               ───────────
//!   ENDPOINTS  address ─▶ endpoint                            COUNTERS   pod, endpoint, ruling ─▶ count, per CPU
//!        │ is it protected?                                   OVERFLOW   what COUNTERS had no room for
//!        ▼                                                    LOST       events that did not go up, by reason
//!   PODS       pod cgroup ─▶ ruling for every endpoint        EVENTS     samples of attempts
//!        │     0 ─▶ the ruling for unidentified pods          REQUESTS   every request that IMDS answered directly
//!        │     and the pod's gate                             CGROUP_CHANGES  "walk the cgroup tree again"
//!        │                                                         ▲
//!        ▼                                                         │
//!     decide ──────────────────────────────────────────────────────┘
//!        ▲
//!   GATES      namespace, port ─▶ there: whoever asks for a gate's port itself is turned away
//!   FORWARDED  endpoints to which the host sends nothing on for anybody
//!   RULES      rule's id ─▶ its name, for the next agent     (the agent's own: no program reads it)
//!   SOCKETS    socket ─▶ creator's ancestors, judged at      (kernel only, gone with the socket)
//!   REDIRECTED socket ─▶ the address that it asked for       (kernel only, gone with the socket)
//!   OPEN_REQUESTS  socket ─▶ the request that waits for its answer    (kernel only, gone with the socket)
//!   BUDGETS    pod ─▶ events sent this second                (kernel only, least recently used go)
//! ```
//!
//! All but the bell's and the log's are pinned in bpffs, and so are the links of the programs: the kernel goes on deciding
//! without the agent, and the next one goes on with what is there (`guard/src/kernel/pin.rs`).
//!
//! | event | map that must change |
//! |---|---|
//! | a rule's name is new | `RULES` first, then `PODS` |
//! | a pod is named, its labels or the policy change | `PODS[pod]` |
//! | the policy changes | `PODS[0]` |
//! | all pods are enforced, or not all any more | `FORWARDED` last, or first |
//! | a QoS class appears | `PODS[class]` = slice |
//! | a pod's gate opens | `GATES[gate]` first, then `PODS[pod]` |
//! | a pod's gate closes | `PODS[pod]` first, then `GATES[gate]` leaves |
//! | a pod's cgroup is gone, and a grace period after it | `PODS[pod]`, `COUNTERS[pod, …]` leave |

use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf, SkStorage},
    macros::btf_map,
};
use guard_common::{
    Address, AttemptEvent, Budget, CgroupId, CounterKey, EndpointId, GateKey, Lost, OVERFLOW_SLOTS,
    OpenRequest, PodEntry, Redirected, RequestRecord, SocketOrigin,
};

/// The id of the guarded root.
#[unsafe(no_mangle)]
pub static ROOT_ID: Global<u64> = Global::new(0);

/// How deep the guarded root lies below the root of the cgroup tree.
#[unsafe(no_mangle)]
pub static ROOT_LEVEL: Global<u32> = Global::new(0);

/// Whether the kernel has `bpf_set_retval` (Linux 5.18): with it a denial is ECONNREFUSED, without it EPERM. The
/// verifier sees a constant and never looks at the branch that is not taken.
#[unsafe(no_mangle)]
pub static HAS_SET_RETVAL: Global<u8> = Global::new(0);

/// The bits ([`Address::bit`]) of all addresses in `ENDPOINTS`: a constant, so that nearly every call is over after a
/// test of one bit, without a look-up.
#[unsafe(no_mangle)]
pub static ENDPOINT_BITS: Global<u64> = Global::new(0);

/// The endpoint whose requests are looked at.
#[unsafe(no_mangle)]
pub static IMDS_ENDPOINT: Global<u8> = Global::new(0);

/// Whether they are. The verifier of a kernel for which that is too much never sees it.
#[unsafe(no_mangle)]
pub static AUDITS_REQUESTS: Global<u8> = Global::new(0);

#[btf_map]
pub static ENDPOINTS: HashMap<Address, EndpointId, 64> = HashMap::new();

/// Which endpoint an address is of. Nearly every call ends at the test of the bit.
#[inline(always)]
pub fn endpoint_of(address: Address) -> Option<EndpointId> {
    if ENDPOINT_BITS.load() & address.bit() == 0 {
        return None;
    }
    // SAFETY: the agent fills the map before it attaches, and never changes it again.
    unsafe { ENDPOINTS.get(address) }.copied()
}

/// The id of the host's network namespace.
#[unsafe(no_mangle)]
pub static HOST_NETWORK: Global<u64> = Global::new(0);

/// One bit for each endpoint: whether nothing may be sent on to it.
#[btf_map]
pub static FORWARDED: Array<u32, 1> = Array::new();

#[btf_map]
pub static PODS: HashMap<CgroupId, PodEntry, 8192, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Not preallocated: on a node with many CPUs the whole table would take megabytes that few nodes use.
#[btf_map]
pub static COUNTERS: PerCpuHashMap<CounterKey, u64, 16384, { BPF_F_NO_PREALLOC as usize }> =
    PerCpuHashMap::new();

#[btf_map]
pub static OVERFLOW: PerCpuArray<u64, { OVERFLOW_SLOTS as usize }> = PerCpuArray::new();

#[btf_map]
pub static LOST: PerCpuArray<u64, { Lost::ALL.len() }> = PerCpuArray::new();

#[btf_map]
pub static EVENTS: RingBuf<AttemptEvent, { 256 * 1024 }> = RingBuf::new();

/// Without a budget for each pod: these are counted, and a pod that floods IMDS is limited there.
#[btf_map]
pub static REQUESTS: RingBuf<RequestRecord, { 256 * 1024 }> = RingBuf::new();

/// Every record is a bell: its content says nothing, the cgroup tree itself is the truth.
#[btf_map]
pub static CGROUP_CHANGES: RingBuf<u64, { 4 * 1024 }> = RingBuf::new();

#[btf_map]
pub static BUDGETS: LruHashMap<CgroupId, Budget, 1024> = LruHashMap::new();

#[btf_map]
pub static SOCKETS: SkStorage<SocketOrigin> = SkStorage::new();

/// There is one for each gate; the value says nothing.
#[btf_map]
pub static GATES: HashMap<GateKey, u8, 8192, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

#[btf_map]
pub static REDIRECTED: SkStorage<Redirected> = SkStorage::new();

/// Only for sockets that send a request to IMDS.
#[btf_map]
pub static OPEN_REQUESTS: SkStorage<OpenRequest> = SkStorage::new();
