//! Whose traffic it is: the pod-level cgroup, found from the top.
//!
//! A pod's cgroup lies one level below the guarded root (guaranteed pods) or two (the other QoS classes). Whatever a
//! process makes below its pod's cgroup, its ancestors at these two levels stay the same.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::{
        bpf_get_current_ancestor_cgroup_id, bpf_sk_fullsock, bpf_sk_storage_get, bpf_skb_ancestor_cgroup_id,
    },
};
use guard_common::{CgroupId, EndpointId, Gate, Kind, Mode, PodEntry, Ruling, SocketOrigin, Verdict};

use crate::maps::{PODS, ROOT_ID, ROOT_LEVEL, SOCKETS};

/// The ids of the ancestors one and two levels below the guarded root; 0 where there is none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Ancestors(pub [u64; 2]);

impl Ancestors {
    /// Those of the running process; none if it is not under the guarded root.
    #[inline(always)]
    pub fn of_task() -> Option<Self> {
        let level = ROOT_LEVEL.load() as i32;
        // SAFETY: the helper takes any level and answers 0 for one that the process does not have.
        unsafe {
            (bpf_get_current_ancestor_cgroup_id(level) == ROOT_ID.load()).then(|| {
                Self([
                    bpf_get_current_ancestor_cgroup_id(level + 1),
                    bpf_get_current_ancestor_cgroup_id(level + 2),
                ])
            })
        }
    }

    /// Those of the process that made the packet's socket, if that is under the guarded root.
    #[inline(always)]
    pub fn of_guarded_packet(skb: *mut __sk_buff) -> Option<Self> {
        // SAFETY: `skb` is the program's own context; the helper answers 0 for a packet without a full socket.
        let root = unsafe { bpf_skb_ancestor_cgroup_id(skb, ROOT_LEVEL.load() as i32) };
        (root == ROOT_ID.load()).then(|| Self::of_packet(skb))
    }

    /// Those of the process that made the packet's socket.
    #[inline(always)]
    pub fn of_packet(skb: *mut __sk_buff) -> Self {
        let level = ROOT_LEVEL.load() as i32;
        // SAFETY: `skb` is the program's own context.
        unsafe {
            Self([bpf_skb_ancestor_cgroup_id(skb, level + 1), bpf_skb_ancestor_cgroup_id(skb, level + 2)])
        }
    }
}

/// A pod as the kernel knows it.
pub struct Party {
    /// The pod-level cgroup: the key of counters and events.
    pub pod: CgroupId,
    /// How many levels below the guarded root the pod lies: 1 or 2.
    pub depth: i32,
    entry: Option<&'static PodEntry>,
}

impl Party {
    /// Finds the pod among `ancestors`. A pod that `PODS` does not have is unidentified.
    #[inline(always)]
    pub fn find(ancestors: Ancestors) -> Self {
        let Ancestors([upper, lower]) = ancestors;
        let at_upper = entry(CgroupId(upper));
        if let Some(entry) = at_upper
            && entry.kind() != Kind::Slice
        {
            return Self { pod: CgroupId(upper), depth: 1, entry: at_upper };
        }
        if lower != 0
            && let Some(entry) = entry(CgroupId(lower))
            && entry.kind() != Kind::Slice
        {
            return Self { pod: CgroupId(lower), depth: 2, entry: Some(entry) };
        }
        let unidentified = entry(CgroupId::UNIDENTIFIED);
        // Below a QoS class the pod is one level further down.
        if at_upper.is_some() && lower != 0 {
            Self { pod: CgroupId(lower), depth: 2, entry: unidentified }
        } else {
            Self { pod: CgroupId(upper), depth: 1, entry: unidentified }
        }
    }

    /// Whether it reaches `endpoint` through its gate alone.
    #[inline(always)]
    pub fn is_gated(&self, endpoint: EndpointId) -> bool {
        self.entry.is_some_and(|entry| entry.is_gated(endpoint))
    }

    /// Whether what it does is told of, or only counted.
    #[inline(always)]
    pub fn is_told_of(&self) -> bool {
        self.entry.is_none_or(|entry| entry.kind() != Kind::Canary)
    }

    /// Its gate, if it is open.
    #[inline(always)]
    pub fn gate(&self) -> Option<Gate> {
        self.entry.and_then(PodEntry::gate)
    }

    /// What the policy says of this pod. Without any entry, not even one for unidentified pods, the answer is no.
    #[inline(always)]
    pub fn ruling(&self, endpoint: EndpointId) -> Ruling {
        match self.entry {
            Some(entry) => entry.ruling(endpoint),
            None => Ruling::new(Verdict::Deny, Mode::Enforce, 0),
        }
    }
}

#[inline(always)]
fn entry(cgroup: CgroupId) -> Option<&'static PodEntry> {
    // SAFETY: the agent replaces entries whole and never changes one in place; the memory of a replaced entry stays
    // mapped, though since Linux 6.1 another entry of the map may be written there before this run is over: it is then
    // judged by that pod's rulings, once. The lifetime never leaves the program's run.
    unsafe { PODS.get_ptr(cgroup).map(|entry| &*entry) }
}

/// What is kept with a socket that a guarded process made, if the guard was there when it was made.
///
/// `socket` is what the hook's context holds: the verifier demands the very pointer, checked for null.
#[inline(always)]
pub fn origin(socket: *mut bpf_sock) -> Option<&'static mut SocketOrigin> {
    // SAFETY: `socket` comes out of the program's context; the storage lives as long as the socket, which outlives
    // the program's run. Two CPUs may set bits of `judged` at once: a lost bit costs one attempt counted twice.
    unsafe {
        if socket.is_null() {
            return None;
        }
        let map = core::ptr::from_ref(&SOCKETS).cast_mut().cast();
        bpf_sk_storage_get(map, socket.cast(), core::ptr::null_mut(), 0).cast::<SocketOrigin>().as_mut()
    }
}

/// The full socket of a packet.
#[inline(always)]
pub fn socket_of_packet(skb: *mut __sk_buff) -> *mut bpf_sock {
    // SAFETY: `skb` is the program's own context, and the helper takes the pointer once it is known not to be null.
    unsafe {
        let socket = (*skb).__bindgen_anon_2.sk;
        if socket.is_null() { socket } else { bpf_sk_fullsock(socket) }
    }
}

/// Remembers the creator of a socket that is being made.
#[inline(always)]
pub fn remember_creator(socket: *mut bpf_sock) {
    let Some(Ancestors(ancestors)) = Ancestors::of_task() else { return };
    let mut origin = SocketOrigin { ancestors, judged: 0 };
    let flags = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
    // SAFETY: `socket` is the program's own context and `origin` is copied. Without memory for it the socket counts
    // as the connecting process's own, and the egress lock still knows its creator.
    unsafe {
        let map = core::ptr::from_ref(&SOCKETS).cast_mut().cast();
        bpf_sk_storage_get(map, socket.cast(), core::ptr::from_mut(&mut origin).cast(), flags);
    }
}
