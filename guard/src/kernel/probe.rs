//! What this host can do, found by trying it.
//!
//! [`Facts`] are plain data: what was found, not whether it is good enough. Nothing here fails: what can't be found
//! out without privileges is a fact too. Nothing is attached, pinned or left behind.

use std::{
    collections::HashMap,
    error::Error,
    fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use aya::{
    maps::MapType,
    programs::{ProgramInfo, ProgramType, loaded_programs},
    sys::{BpfHelper, is_helper_supported, is_map_supported},
};
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};

pub use super::query::Sharing;
use super::{
    load,
    query::{HOOKS, query},
};
use crate::{backstop, gate, pods};

/// What was found out about this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// As `uname -r` says it: `6.1.0-18-cloud-amd64`.
    pub kernel_release: String,
    /// `None` where no cgroup v2 hierarchy is mounted.
    pub cgroup_mount: Option<CgroupMount>,
    /// Relative to the mount; `None` while it is not there.
    pub guarded_root: Option<PathBuf>,
    /// Whether the kernel describes its own types in `/sys/kernel/btf/vmlinux`.
    pub btf: bool,
    /// Whether a bpffs is mounted at [`BPFFS`].
    pub bpffs: bool,
    /// What this process may do.
    pub capabilities: Capabilities,
    /// The helper `bpf_set_retval` (Linux 5.18) in connect programs.
    pub set_retval: Support,
    /// Ring buffers (Linux 5.8).
    pub ring_buffer: Support,
    /// Storage kept with a socket (Linux 5.2).
    pub socket_storage: Support,
    /// Whether the kernel's verifier takes the programs that look at requests.
    pub request_audit: Support,
    /// The id of a network namespace (`SO_NETNS_COOKIE`, Linux 5.14).
    pub namespace_id: Support,
    /// The parts of the backstop.
    pub backstop: BackstopSupport,
    /// The end of other people's connections (`CONFIG_INET_DIAG_DESTROY`).
    pub socket_destroy: Support,
    /// The programs that are attached to the guarded root and to the cgroups above it at the hooks that the guard
    /// needs; or why they can't be listed.
    pub attachments: Result<Vec<Attachment>, String>,
    /// How much memory this process may lock (`RLIMIT_MEMLOCK`), in bytes; `None` for no limit.
    pub locked_memory: Option<u64>,
}

/// What there can be of the backstop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackstopSupport {
    /// The table that meets what is sent on.
    pub forward: Support,
    /// The table that meets what leaves past the queues: Linux 5.16, with classes of routes.
    pub bypass: Support,
    /// Whether the kernel takes the program for uplinks.
    pub uplink: Support,
    /// Whether it takes the program that judges options of sockets.
    pub options: Support,
}

/// Where bpffs is expected.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Where the cgroup v2 hierarchy is said or found to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupMount {
    pub path: PathBuf,
    pub hierarchy: Hierarchy,
}

/// What kind of cgroup hierarchy a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// cgroup v2 alone.
    Pure,
    /// cgroup v2 beside the controllers of v1.
    Hybrid,
    /// No cgroup v2 at all.
    NotCgroup2,
}

/// Whether the kernel supports something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    Yes,
    No,
    /// It could not be tried, and why.
    Unknown(String),
}

/// A capability that the agent has a use for, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    NetAdmin = 12,
    SysPtrace = 19,
    SysAdmin = 21,
    Perfmon = 38,
    Bpf = 39,
}

/// The effective capabilities of a process, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(pub u64);

impl Capabilities {
    pub const fn has(self, capability: Capability) -> bool {
        self.0 >> (capability as u8) & 1 == 1
    }
}

/// What is attached to one cgroup at one hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The hook's name as libbpf and bpftool write it.
    pub hook: &'static str,
    pub cgroup: PathBuf,
    /// How many levels the cgroup lies above the guarded root, or above one that is still to be made.
    pub levels_up: usize,
    pub sharing: Sharing,
    pub programs: Vec<AttachedProgram>,
}

/// A loaded program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedProgram {
    pub id: u32,
    /// `None` where the kernel doesn't tell it to this process.
    pub name: Option<String>,
}

impl Attachment {
    /// Whether the kernel would refuse to attach a link to the guarded root because of this one of `all`
    /// (`hierarchy_allows_attach` and `__cgroup_bpf_attach` in kernel/bpf/cgroup.c).
    pub fn shuts_out(&self, all: &[Self]) -> bool {
        match self.levels_up {
            0 => self.sharing != Sharing::Shared,
            _ => self.sharing == Sharing::Exclusive && self.is_nearest_above(all),
        }
    }

    /// Whether no other of `all` stands at the same hook between it and the guarded root.
    pub fn is_nearest_above(&self, all: &[Self]) -> bool {
        let above = all.iter().filter(|other| other.hook == self.hook && other.levels_up > 0);
        above.map(|other| other.levels_up).min() == Some(self.levels_up)
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hook, cgroup, programs, .. } = self;
        let programs: Vec<_> = programs.iter().map(ToString::to_string).collect();
        write!(f, "{hook} at {}: {}", cgroup.display(), programs.join(", "))
    }
}

impl fmt::Display for AttachedProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} (id {})", self.id),
            None => write!(f, "id {}", self.id),
        }
    }
}

impl Facts {
    /// Finds out what this host can do. `cgroup_mount`, and `guarded_root` relative to it, are looked for where they
    /// are not given.
    pub fn probe(cgroup_mount: Option<&Path>, guarded_root: Option<&Path>) -> Self {
        let cgroup_mount = find_mount(cgroup_mount);
        let hierarchy = cgroup_mount.as_ref().filter(|mount| mount.hierarchy != Hierarchy::NotCgroup2);
        let guarded_root = hierarchy.and_then(|mount| find_root(&mount.path, guarded_root));
        let attachments =
            hierarchy.map_or(Ok(Vec::new()), |mount| attachments(&mount.path, guarded_root.as_deref()));
        Self {
            kernel_release: read("/proc/sys/kernel/osrelease").trim_end().to_owned(),
            guarded_root,
            btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            bpffs: is_file_system(Path::new(BPFFS), BPF_FS_MAGIC),
            capabilities: effective_capabilities(&read("/proc/self/status")),
            set_retval: set_retval(),
            ring_buffer: support(is_map_supported(MapType::RingBuf)),
            socket_storage: support(is_map_supported(MapType::SkStorage)),
            request_audit: load::request_audit(),
            backstop: backstop_support(),
            namespace_id: namespace_id(),
            socket_destroy: support(gate::ends_connections()),
            attachments: attachments.map_err(|error| error.to_string()),
            locked_memory: locked_memory(&read("/proc/self/limits")),
            cgroup_mount,
        }
    }
}

/// Whether a denial can be ECONNREFUSED (Linux 5.18) rather than EPERM.
pub(super) fn set_retval() -> Support {
    support(is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval))
}

/// The tables are tried in a network namespace that ends with the trial.
fn backstop_support() -> BackstopSupport {
    let (uplink, options) = load::backstop_programs();
    let support = |tried: Result<(), io::Error>| match tried {
        Ok(()) => Support::Yes,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Support::Unknown(error.to_string()),
        Err(_) => Support::No,
    };
    let (forward, bypass) = backstop::try_tables();
    BackstopSupport { forward: support(forward), bypass: support(bypass), uplink, options }
}

/// Whether gates can be told apart by the network namespace that they are in.
fn namespace_id() -> Support {
    match gate::own_namespace() {
        Ok(_) => Support::Yes,
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Support::No,
        Err(error) => Support::Unknown(error.to_string()),
    }
}

/// The text of a file in /proc. All of them exist wherever an agent can run; a missing one tells nothing.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn find_mount(given: Option<&Path>) -> Option<CgroupMount> {
    let mountinfo = read("/proc/self/mountinfo");
    let path = given.map(Path::to_owned).or_else(|| pods::find_cgroup2_mount(&mountinfo))?;
    let hierarchy = if !is_file_system(&path, CGROUP2_SUPER_MAGIC) {
        Hierarchy::NotCgroup2
    } else if mountinfo.lines().any(|line| line.contains(" - cgroup ")) {
        Hierarchy::Hybrid
    } else {
        Hierarchy::Pure
    };
    Some(CgroupMount { path, hierarchy })
}

fn find_root(mount: &Path, given: Option<&Path>) -> Option<PathBuf> {
    match given {
        Some(root) => mount.join(root).is_dir().then(|| root.to_owned()),
        None => pods::find_guarded_root(mount).ok().flatten(),
    }
}

fn is_file_system(path: &Path, kind: FsType) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == kind)
}

fn effective_capabilities(status: &str) -> Capabilities {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    Capabilities(line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default())
}

fn locked_memory(limits: &str) -> Option<u64> {
    limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

fn support(probed: Result<bool, impl Error>) -> Support {
    match probed {
        Ok(true) => Support::Yes,
        Ok(false) => Support::No,
        Err(error) => Support::Unknown(innermost(&error)),
    }
}

/// The cause at the bottom: what the kernel said.
pub(super) fn innermost(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}

/// What is attached to the guarded `root` and to every cgroup above it up to the `mount`, nearest first.
pub(super) fn attachments(mount: &Path, root: Option<&Path>) -> io::Result<Vec<Attachment>> {
    let mut found = Vec::new();
    // One that is still to be made will have the mount above it, whatever its name.
    let root = root.unwrap_or(Path::new("kubepods"));
    for (levels_up, cgroup) in root.ancestors().map(|cgroup| mount.join(cgroup)).enumerate() {
        if !cgroup.exists() {
            continue;
        }
        let folder = File::open(&cgroup)?;
        for (hook, attach_type) in HOOKS {
            let (sharing, ids) = query(&folder, attach_type)?;
            let programs: Vec<_> = ids.into_iter().map(|id| AttachedProgram { id, name: None }).collect();
            if !programs.is_empty() {
                found.push(Attachment { hook, cgroup: cgroup.clone(), levels_up, sharing, programs });
            }
        }
    }
    name_programs(&mut found);
    Ok(found)
}

/// Names the programs as far as the kernel tells: that needs `CAP_SYS_ADMIN`.
fn name_programs(attachments: &mut [Attachment]) {
    if attachments.is_empty() {
        return;
    }
    let name = |info: &ProgramInfo| Some((info.id(), info.name_as_str()?.to_owned()));
    let names: HashMap<_, _> = loaded_programs().filter_map(|info| name(&info.ok()?)).collect();
    for program in attachments.iter_mut().flat_map(|attachment| &mut attachment.programs) {
        program.name = names.get(&program.id).cloned().filter(|name| !name.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_understood() {
        let capabilities = effective_capabilities("Name:\tx\nCapPrm:\t0\nCapEff:\t0000008000001000\n");
        assert!(capabilities.has(Capability::Bpf) && capabilities.has(Capability::NetAdmin));
        assert!(!capabilities.has(Capability::SysAdmin));
        assert_eq!(effective_capabilities(""), Capabilities(0));

        let line = |soft| {
            format!("Max processes  1  1  processes\nMax locked memory         {soft}  65536  bytes\n")
        };
        assert_eq!(locked_memory(&line("65536")), Some(65536));
        assert_eq!(locked_memory(&line("unlimited")), None);
    }

    #[test]
    fn this_host_can_be_probed_with_or_without_privileges() {
        let facts = Facts::probe(None, None);
        assert!(facts.kernel_release.contains('.'), "{}", facts.kernel_release);
        if !facts.capabilities.has(Capability::Bpf) && !facts.capabilities.has(Capability::SysAdmin) {
            assert!(matches!(facts.ring_buffer, Support::Unknown(_)), "{:?}", facts.ring_buffer);
        }
    }

    #[test]
    fn a_folder_that_is_no_cgroup_is_said_to_be_none() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let facts = Facts::probe(Some(folder.path()), None);
        let hierarchy = facts.cgroup_mount.map(|mount| mount.hierarchy);
        assert_eq!(hierarchy, Some(Hierarchy::NotCgroup2));
        assert_eq!(facts.attachments, Ok(Vec::new()));
    }
}
