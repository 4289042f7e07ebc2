//! What the facts about a host mean for the guard. Pure: it looks at nothing but the facts.

mod backstop;

use serde::Serialize;

use crate::{
    endpoints::Endpoints,
    kernel::probe::{
        Attachment, BPFFS, Capabilities, Capability, CgroupMount, Facts, Hierarchy, Sharing, Support,
    },
};

/// What was found of one item, and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// Its name in the metric `imds_guard_degraded`, which stays what it is.
    pub(crate) feature: &'static str,
    /// Its name for people.
    pub(crate) item: &'static str,
    pub(crate) state: State,
    pub(crate) found: String,
    /// The consequence, and the remedy where there is one; none where all is well.
    pub(crate) follows: Option<String>,
}

/// How an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Ok,
    /// The guard works without it, but not as well.
    Degraded,
    /// The guard can't work without it.
    Missing,
}

impl State {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Missing => "missing",
        }
    }
}

/// Judges everything that was found out about the host, in the order in which it is to be put right.
pub(crate) fn judge(facts: &Facts, endpoints: &Endpoints) -> Vec<Finding> {
    let mut findings = vec![
        kernel(&facts.kernel_release),
        capabilities(facts.capabilities),
        cgroup_mount(facts.cgroup_mount.as_ref()),
        guarded_root(facts),
        attachments(&facts.attachments),
        ring_buffer(&facts.ring_buffer),
        socket_storage(&facts.socket_storage),
        set_retval(&facts.set_retval),
        request_audit(&facts.request_audit),
        gate(facts),
        backstop::forward(&facts.backstop.forward),
        backstop::uplink(&facts.backstop.uplink),
        backstop::bypass(&facts.backstop.bypass),
        backstop::options(&facts.backstop.options),
        socket_destroy(&facts.socket_destroy),
        btf(facts.btf),
        pins(facts.bpffs),
    ];
    findings.extend(locked_memory(&facts.kernel_release, facts.locked_memory));
    findings.push(guarded_endpoints(endpoints));
    findings
}

/// An item before anything is known of it.
#[derive(Clone, Copy)]
struct Item {
    feature: &'static str,
    item: &'static str,
}

const fn item(feature: &'static str, item: &'static str) -> Item {
    Item { feature, item }
}

impl Item {
    fn ok(self, found: impl Into<String>) -> Finding {
        let Self { feature, item } = self;
        Finding { feature, item, state: State::Ok, found: found.into(), follows: None }
    }

    fn degraded(self, found: impl Into<String>, follows: impl Into<String>) -> Finding {
        Finding { state: State::Degraded, follows: Some(follows.into()), ..self.ok(found) }
    }

    fn missing(self, found: impl Into<String>, follows: impl Into<String>) -> Finding {
        Finding { state: State::Missing, ..self.degraded(found, follows) }
    }

    /// What only a privileged process can find out.
    fn untried(self, reason: &str) -> Finding {
        self.missing(format!("not known: {reason}"), "run this as root, or with the capabilities above")
    }
}

fn kernel(release: &str) -> Finding {
    const KERNEL: Item = item("kernel", "kernel");
    const OLDEST: &str = "the programs need Linux 5.10 or newer: update the node's image";
    match version(release) {
        Some(version) if version >= (6, 1) => KERNEL.ok(release),
        Some(version) if version >= (5, 10) => KERNEL
            .degraded(release, "attempts are decided and counted; everything else works from Linux 6.1 on"),
        Some(_) => KERNEL.missing(release, OLDEST),
        None => KERNEL.missing(format!("not a Linux release: `{release}`"), OLDEST),
    }
}

/// The first two numbers of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn capabilities(held: Capabilities) -> Finding {
    const CAPABILITIES: Item = item("capabilities", "capabilities");
    const NO_GATES: &str = "no pod gets a gate (see there)";
    // Since Linux 5.8 CAP_SYS_ADMIN holds what was taken out of it.
    let has = |capability| held.has(capability) || held.has(Capability::SysAdmin);
    let needs = [
        ("CAP_BPF", State::Missing, has(Capability::Bpf), "no program can be loaded"),
        ("CAP_NET_ADMIN", State::Missing, held.has(Capability::NetAdmin), "no program can be attached"),
        (
            "CAP_PERFMON",
            State::Degraded,
            has(Capability::Perfmon),
            "new pods are found by the clock, not when they are made",
        ),
        ("CAP_SYS_ADMIN", State::Degraded, held.has(Capability::SysAdmin), NO_GATES),
        ("CAP_SYS_PTRACE", State::Degraded, held.has(Capability::SysPtrace), NO_GATES),
    ];
    let lacking: Vec<_> = needs.into_iter().filter(|(_, _, held, _)| !held).collect();
    let Some(state) = lacking.iter().map(|(_, state, _, _)| *state).max() else {
        return CAPABILITIES.ok("all that are needed");
    };
    let names: Vec<_> = lacking.iter().map(|(name, ..)| *name).collect();
    let follows: Vec<_> =
        lacking.iter().map(|(name, _, _, follows)| format!("without {name} {follows}")).collect();
    Finding { state, ..CAPABILITIES.degraded(format!("without {}", names.join(", ")), follows.join("\n")) }
}

fn cgroup_mount(mount: Option<&CgroupMount>) -> Finding {
    const MOUNT: Item = item("cgroup2", "cgroup v2");
    const REMEDY: &str =
        "boot with systemd.unified_cgroup_hierarchy=1, or name the mount with --cgroup-mount";
    let Some(CgroupMount { path, hierarchy }) = mount else { return MOUNT.missing("not mounted", REMEDY) };
    match hierarchy {
        Hierarchy::Pure => MOUNT.ok(path.display().to_string()),
        Hierarchy::Hybrid => MOUNT.degraded(
            format!("{}, beside cgroup v1", path.display()),
            "only pods that the container runtime puts into this hierarchy too are guarded",
        ),
        Hierarchy::NotCgroup2 => MOUNT.missing(format!("{} is no cgroup v2 mount", path.display()), REMEDY),
    }
}

fn guarded_root(facts: &Facts) -> Finding {
    const ROOT: Item = item("guarded_root", "guarded root");
    match (&facts.cgroup_mount, &facts.guarded_root) {
        (Some(mount), Some(root)) => ROOT.ok(mount.path.join(root).display().to_string()),
        _ => ROOT.degraded(
            "none yet",
            "the agent waits until the kubelet makes it; name it with --guarded-root if it is called otherwise",
        ),
    }
}

/// How the programs that others have attached get along with the guard's, which are attached with links: those
/// run beside all shared ones (`hierarchy_allows_attach` and `__cgroup_bpf_attach` in kernel/bpf/cgroup.c).
fn attachments(attachments: &Result<Vec<Attachment>, String>) -> Finding {
    const ATTACHED: Item = item("attach", "attached programs");
    let attachments = match attachments {
        Ok(attachments) => attachments,
        Err(reason) => return ATTACHED.untried(reason),
    };
    if let Some(blocker) = attachments.iter().find(|found| found.shuts_out(attachments)) {
        let Attachment { hook, cgroup, programs, .. } = blocker;
        let bpftool_hook = hook.rsplit('/').next().unwrap_or(hook);
        let detach: Vec<_> = programs
            .iter()
            .map(|program| {
                format!("`bpftool cgroup detach {} {bpftool_hook} id {}`", cgroup.display(), program.id)
            })
            .collect();
        return ATTACHED.missing(
            format!("{blocker} lets no other in"),
            format!(
                "attaching ends with EPERM: its owner must attach it with BPF_F_ALLOW_MULTI, or detach it: {}",
                detach.join(", ")
            ),
        );
    }
    let replaced: Vec<_> =
        attachments.iter().filter(|found| is_replaced(found, attachments)).map(ToString::to_string).collect();
    if !replaced.is_empty() {
        return ATTACHED.degraded(
            format!("{} may be overridden", replaced.join(", ")),
            "the guard's programs replace it for all pods: its owner should attach it with BPF_F_ALLOW_MULTI",
        );
    }
    if attachments.is_empty() {
        return ATTACHED.ok("none");
    }
    ATTACHED.ok(attachments.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// Whether `found` runs for pods now and would no longer run once a link is attached to the guarded root.
fn is_replaced(found: &Attachment, all: &[Attachment]) -> bool {
    let at_root = all.iter().any(|other| other.hook == found.hook && other.levels_up == 0);
    found.sharing == Sharing::Overridable && found.is_nearest_above(all) && !at_root
}

fn ring_buffer(support: &Support) -> Finding {
    const RING_BUFFER: Item = item("ring_buffer", "ring buffer");
    match support {
        Support::Yes => RING_BUFFER.ok("supported"),
        Support::No => {
            RING_BUFFER.missing("not supported", "the programs can't be loaded: they need Linux 5.8")
        }
        Support::Unknown(reason) => RING_BUFFER.untried(reason),
    }
}

fn socket_storage(support: &Support) -> Finding {
    const STORAGE: Item = item("socket_storage", "socket storage");
    match support {
        Support::Yes => STORAGE.ok("supported"),
        Support::No => STORAGE.missing(
            "not supported",
            "the programs can't be loaded: they need a kernel built with CONFIG_BPF_SYSCALL and CONFIG_NET",
        ),
        Support::Unknown(reason) => STORAGE.untried(reason),
    }
}

fn set_retval(support: &Support) -> Finding {
    const ERRNO: Item = item("set_retval", "errno of a denial");
    match support {
        Support::Yes => ERRNO.ok("ECONNREFUSED"),
        Support::No => ERRNO.degraded(
            "EPERM: the kernel has no bpf_set_retval (Linux 5.18)",
            "denied pods fail with `operation not permitted`, which reads like a fault of their own",
        ),
        Support::Unknown(reason) => ERRNO.untried(reason),
    }
}

/// A gate is opened in the pod's network namespace, which the agent must be able to find and to enter.
fn gate(facts: &Facts) -> Finding {
    const GATE: Item = item("gate", "gate");
    const FOLLOWS: &str = "who is denied gets an errno, not an answer; what is to be filtered is refused; who is allowed goes straight";
    let lacking: Vec<_> =
        [("CAP_SYS_ADMIN", Capability::SysAdmin), ("CAP_SYS_PTRACE", Capability::SysPtrace)]
            .into_iter()
            .filter(|(_, capability)| !facts.capabilities.has(*capability))
            .map(|(name, _)| name)
            .collect();
    match &facts.namespace_id {
        Support::Yes if lacking.is_empty() => GATE.ok("pods can be answered over HTTP"),
        Support::Yes => GATE.degraded(format!("without {}", lacking.join(", ")), FOLLOWS),
        Support::No => GATE.degraded("network namespaces have no id here: that needs Linux 5.14", FOLLOWS),
        Support::Unknown(reason) => GATE.degraded(format!("not known: {reason}"), FOLLOWS),
    }
}

/// Told of on its own: it needs no more rights than gates do, and without them nobody enters a pod's network.
fn socket_destroy(support: &Support) -> Finding {
    const DESTROY: Item = item("socket_destroy", "old connections");
    const FOLLOWS: &str = "connections of a pod from before it was denied hang until they time out; what goes out on them is dropped all the same";
    match support {
        Support::Yes => DESTROY.ok("ended when their pod is denied"),
        Support::No => DESTROY.degraded("the kernel was built without CONFIG_INET_DIAG_DESTROY", FOLLOWS),
        Support::Unknown(reason) => DESTROY.degraded(format!("not known: {reason}"), FOLLOWS),
    }
}

fn request_audit(support: &Support) -> Finding {
    const REQUESTS: Item = item("request_audit", "requests to IMDS");
    match support {
        Support::Yes => REQUESTS.ok("their paths and answers are counted"),
        Support::No => REQUESTS.degraded(
            "the kernel does not load the programs that read them",
            "attempts are counted; what was asked for is not, where pods reach IMDS directly",
        ),
        Support::Unknown(reason) => REQUESTS.untried(reason),
    }
}

fn btf(found: bool) -> Finding {
    const BTF: Item = item("btf", "kernel types (BTF)");
    BTF.ok(if found { "/sys/kernel/btf/vmlinux" } else { "none, and no program needs them" })
}

fn pins(is_mounted: bool) -> Finding {
    const FILE_SYSTEM: Item = item("pins", "BPF file system");
    if is_mounted {
        return FILE_SYSTEM.ok(format!("mounted at {BPFFS}"));
    }
    FILE_SYSTEM.degraded(
        format!("not mounted at {BPFFS}"),
        "the guard ends with its agent: mount one, `mount -t bpf bpf /sys/fs/bpf`",
    )
}

/// What the maps can take up on a node with many CPUs, in bytes.
const LOCKED_MEMORY_NEEDED: u64 = 64 << 20;

/// Before Linux 5.11 maps count as locked memory of the process; since then the memory cgroup is charged for them.
fn locked_memory(release: &str, limit: Option<u64>) -> Option<Finding> {
    const MEMORY: Item = item("locked_memory", "locked memory");
    if version(release).is_some_and(|version| version >= (5, 11)) {
        return None;
    }
    Some(match limit {
        None => MEMORY.ok("no limit"),
        Some(bytes) if bytes >= LOCKED_MEMORY_NEEDED => MEMORY.ok(format!("{} KiB", bytes >> 10)),
        Some(bytes) => MEMORY.missing(
            format!("{} KiB", bytes >> 10),
            format!(
                "the maps don't fit: allow {} MiB with `ulimit -l`, or LimitMEMLOCK=infinity in the unit of the agent \
                 or of the container runtime",
                LOCKED_MEMORY_NEEDED >> 20
            ),
        ),
    })
}

fn guarded_endpoints(endpoints: &Endpoints) -> Finding {
    let lines = endpoints.iter().map(|(_, endpoint)| {
        let addresses: Vec<_> = endpoint.addresses.iter().map(ToString::to_string).collect();
        format!("{}: {}", endpoint.name, addresses.join(", "))
    });
    item("endpoints", "endpoints").ok(lines.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests;
