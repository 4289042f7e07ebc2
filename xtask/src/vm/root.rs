//! The file system of the machines: Debian's own tools, the programs under test, and the kernel's modules.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{apt::Suite, arch::Arch, initramfs::Archive, kernel::Kernel, programs::Programs};
use crate::setup::{cache, output};

/// What the tests run besides what they bring along, and what the start needs.
const PACKAGES: [&str; 7] = ["bash", "busybox-static", "coreutils", "curl", "iproute2", "kmod", "nftables"];

/// What no test opens: most of the packages' size.
const LEFT_OUT: [&str; 6] = ["etc", "usr/share", "usr/include", "usr/lib/systemd", "lib/systemd", "var"];

/// What the tests need of a kernel, where it is no part of the kernel itself, and where the kernel does not load it when it
/// is asked for. A kernel may lack some: the test that needs it says so.
const MODULES: [&str; 43] = [
    "8021q",
    "af_packet",
    "bridge",
    "br_netfilter",
    "cls_bpf",
    "dummy",
    "geneve",
    "inet_diag",
    "ip6_tunnel",
    "ip_gre",
    "ipip",
    "ipv6",
    "ipvlan",
    "macvlan",
    "mptcp_diag",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_nat",
    "nf_tables",
    "nft_chain_nat",
    "nft_compat",
    "nft_counter",
    "nft_ct",
    "nft_fib_inet",
    "nft_fib_netdev",
    "nft_fwd_netdev",
    "nft_limit",
    "nft_masq",
    "nft_nat",
    "nft_objref",
    "nft_redir",
    "nft_reject_inet",
    "nft_socket",
    "raw_diag",
    "sch_clsact",
    "sch_ingress",
    "sit",
    "tcp_diag",
    "tun",
    "udp_diag",
    "unix_diag",
    "veth",
    "vxlan",
];

/// Debian's tools of the release that this machine runs: what is built here runs there.
pub(super) fn tools(arch: Arch) -> Result<PathBuf> {
    let release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename = codename.context("/etc/os-release names no release of Debian")?;
    let folder = cache()?.join(format!("vm/root-{codename}-{}", arch.debian()));
    let list = PACKAGES.join("\n");
    // The list says what is in it, and that it is whole.
    let noted = folder.join("packages");
    if fs::read_to_string(&noted).is_ok_and(|noted| noted == list) {
        return Ok(folder);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("make the folder {}", folder.display()))?;
    Suite::open(codename, arch.debian())?.unpack_all(&PACKAGES, &folder)?;
    fs::write(&noted, list).with_context(|| format!("write {}", noted.display()))?;
    Ok(folder)
}

/// The part of the file system that all machines of an architecture share.
pub(super) fn shared(tools: &Path, programs: &Programs) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.add_tree(tools, |path| LEFT_OUT.iter().any(|left_out| path.starts_with(left_out)))?;
    for mount_point in ["dev", "proc", "sys", "tmp", "run", "var/lib", "etc"] {
        archive.add_folder(Path::new(mount_point));
    }
    archive.add_file(Path::new("init"), 0o755, include_bytes!("init.sh"));
    for (name, path) in programs.stripped()? {
        let content = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        archive.add_file(&Path::new("guard").join(name), 0o755, &content);
    }
    Ok(archive.into_bytes())
}

/// A kernel's modules, and what the machine is to run.
pub(super) fn own(kernel: &Kernel, orders: &str) -> Result<Vec<u8>> {
    let base = kernel.modules_base()?;
    let folder = Path::new("lib/modules").join(&kernel.release);
    let mut archive = Archive::default();
    let mut files = BTreeSet::new();
    for module in MODULES {
        let mut modprobe = Command::new("modprobe");
        modprobe.arg("--dirname").arg(&base).arg("--set-version").arg(&kernel.release);
        // One that this kernel has not, or has within itself.
        let Some(found) = output(modprobe.args(["--show-depends", module])) else { continue };
        // The path, and options maybe.
        let file = |line: &str| Some(PathBuf::from(line.strip_prefix("insmod ")?.split(' ').next()?));
        files.extend(found.lines().filter_map(file));
    }
    ensure!(!files.is_empty(), "no module of {} was found", kernel.release);
    // The kernel itself asks for many a part of its network.
    files.extend(files_below(&base.join(&folder).join("kernel/net"))?);
    let index = fs::read_dir(base.join(&folder))
        .with_context(|| format!("list the modules of {}", kernel.release))?;
    files.extend(index.flatten().map(|entry| entry.path()).filter(|path| path.is_file()));
    for file in files {
        let name = file.strip_prefix(&base).unwrap_or(&file).to_owned();
        let content = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        archive.add_file(&name, 0o644, &content);
    }
    archive.add_file(Path::new("etc/modules"), 0o644, MODULES.join("\n").as_bytes());
    archive.add_file(Path::new("etc/orders"), 0o644, orders.as_bytes());
    Ok(archive.into_bytes())
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    Ok(files)
}
