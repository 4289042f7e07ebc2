use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{CANARY_RULE, EndpointId, Gate, MAX_ENDPOINTS, Mode, NamespaceCookie, RuleId, Verdict, code};

/// The kernel's 64-bit id of a cgroup: the inode number of its folder.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct CgroupId(pub u64);

impl CgroupId {
    /// No cgroup has this id. As a key of `PODS` it stands for every pod that the agent has not named yet.
    pub const UNIDENTIFIED: Self = Self(0);
}

code! {
    /// What a cgroup in `PODS` is.
    Kind, closed: Slice, {
        /// A cgroup between the guarded root and its pods: the QoS classes `burstable` and `besteffort`. It has no
        /// verdict of its own.
        Slice = 0 "slice",
        /// The cgroup of a pod.
        Pod = 1 "pod",
        /// The cgroup of the agent's own canary: judged and counted like a pod, and not told of.
        Canary = 2 "canary",
    }
}

/// What the policy says of one pod and one endpoint, as it stands in `PODS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ruling {
    rule: RuleId,
    verdict: u8,
    mode: u8,
}

impl Ruling {
    /// A verdict, its mode, and the rule that gave them.
    pub const fn new(verdict: Verdict, mode: Mode, rule: RuleId) -> Self {
        Self { rule, verdict: verdict.code(), mode: mode.code() }
    }

    /// What the policy says.
    #[inline(always)]
    pub const fn verdict(self) -> Verdict {
        Verdict::from_code(self.verdict)
    }

    /// Whether it is carried out.
    #[inline(always)]
    pub const fn mode(self) -> Mode {
        Mode::from_code(self.mode)
    }

    /// The rule that says so.
    #[inline(always)]
    pub const fn rule(self) -> RuleId {
        self.rule
    }
}

/// The highest id of an endpoint, which is a mask of its bits as well.
const LAST_ENDPOINT: EndpointId = 7;

/// Room to the next eight bytes. The next ABI is this one with more room: what upgrades are tried with.
const RESERVED: usize = if cfg!(feature = "next-abi") { 12 } else { 4 };

/// The value of the map `PODS`: how one pod is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PodEntry {
    gate_namespace: NamespaceCookie,
    rulings: [Ruling; MAX_ENDPOINTS],
    gate_port: u16,
    kind: u8,
    gated: u8,
    reserved: [u8; RESERVED],
}

impl PodEntry {
    /// The entry of a QoS class.
    pub const SLICE: Self =
        Self::new(Kind::Slice, [Ruling::new(Verdict::Deny, Mode::Enforce, 0); MAX_ENDPOINTS]);

    /// The entry of a pod that is denied everything: the closed choice.
    pub const CLOSED: Self =
        Self::new(Kind::Pod, [Ruling::new(Verdict::Deny, Mode::Enforce, 0); MAX_ENDPOINTS]);

    /// The entry of the agent's canary, which is denied everything.
    pub const CANARY: Self =
        Self::new(Kind::Canary, [Ruling::new(Verdict::Deny, Mode::Enforce, CANARY_RULE); MAX_ENDPOINTS]);

    /// The entry of a pod: a ruling for every endpoint, in the order of their ids. Nothing leads through a gate.
    pub const fn pod(rulings: [Ruling; MAX_ENDPOINTS]) -> Self {
        Self::new(Kind::Pod, rulings)
    }

    /// The same pod, which reaches `endpoint` through its gate alone. While the gate is not open, nothing leads there.
    #[must_use]
    pub const fn through_gate(self, endpoint: EndpointId, gate: Option<Gate>) -> Self {
        let (gate_namespace, gate_port) = match gate {
            Some(Gate { namespace, port }) => (namespace, port),
            None => (NamespaceCookie(0), 0),
        };
        let gated = self.gated | 1 << (endpoint & LAST_ENDPOINT);
        Self { gate_namespace, gate_port, gated, ..self }
    }

    const fn new(kind: Kind, rulings: [Ruling; MAX_ENDPOINTS]) -> Self {
        let (gate_namespace, kind) = (NamespaceCookie(0), kind.code());
        Self { gate_namespace, rulings, gate_port: 0, kind, gated: 0, reserved: [0; RESERVED] }
    }

    /// Whether this is a pod or a QoS class.
    #[inline(always)]
    pub const fn kind(&self) -> Kind {
        Kind::from_code(self.kind)
    }

    /// The rulings of all endpoints.
    pub const fn rulings(&self) -> &[Ruling; MAX_ENDPOINTS] {
        &self.rulings
    }

    /// What the policy says of this pod at `endpoint`.
    #[inline(always)]
    pub const fn ruling(&self, endpoint: EndpointId) -> Ruling {
        // The mask shows the verifier the bound; the agent makes no id past the end.
        self.rulings[endpoint as usize & (MAX_ENDPOINTS - 1)]
    }

    /// Whether the pod reaches `endpoint` through its gate alone.
    #[inline(always)]
    pub const fn is_gated(&self, endpoint: EndpointId) -> bool {
        self.gated >> (endpoint & LAST_ENDPOINT) & 1 == 1
    }

    /// Its gate, if it is open.
    #[inline(always)]
    pub const fn gate(&self) -> Option<Gate> {
        match self.gate_port {
            0 => None,
            port => Some(Gate { namespace: self.gate_namespace, port }),
        }
    }
}

/// What is kept with every socket that a guarded process makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SocketOrigin {
    /// The creator's ancestors one and two levels below the guarded root; 0 where there is none.
    pub ancestors: [u64; 2],
    /// One bit for every endpoint at which connect or sendmsg has judged this socket, so that the egress lock does
    /// not count the same attempt again.
    pub judged: u64,
}

const _: () = assert!(MAX_ENDPOINTS.is_power_of_two() && MAX_ENDPOINTS <= 64);
const _: () = assert!(
    size_of::<PodEntry>() == 4 * MAX_ENDPOINTS + 12 + RESERVED && MAX_ENDPOINTS == LAST_ENDPOINT as usize + 1
);
