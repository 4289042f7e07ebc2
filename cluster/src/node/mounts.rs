use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use super::PLACE;
use crate::folder::Folder;

/// What the kubelet insists on or would set for the whole machine. It finds these values and changes nothing.
const KUBELET_SYSCTLS: [(&str, &str); 6] = [
    ("kernel/keys/root_maxbytes", "25000000"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
];

/// Gives the node its own `/proc`, `/sys` with cgroup v2 alone, `/run`, and a `/var` whose changes are its own. The
/// calling process must be in a mount namespace of its own. The cluster's folder stays what it is.
pub(super) fn make(folder: &Folder) -> Result<()> {
    // Opened first: the mounts may cover it.
    let kept = File::open(folder.path()).with_context(|| format!("open {}", folder.path().display()))?;
    mount_new("proc", Path::new("/proc"), None)?;
    mount_new("sysfs", Path::new("/sys"), None)?;
    mount_new("cgroup2", Path::new("/sys/fs/cgroup"), None)?;
    mount_new("bpf", Path::new("/sys/fs/bpf"), None)?;
    mount_new("tmpfs", Path::new("/run"), Some("mode=755"))?;
    own_var()?;
    fs::create_dir_all(folder.path()).with_context(|| format!("make {}", folder.path().display()))?;
    bind(&PathBuf::from(format!("/proc/self/fd/{}", kept.as_raw_fd())), folder.path())?;
    fake_sysctls()
}

fn own_var() -> Result<()> {
    let [upper, work] = ["var", "var-work"].map(|name| Path::new(PLACE).join(name));
    for folder in [&upper, &work] {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let options = format!("lowerdir=/var,upperdir={},workdir={}", upper.display(), work.display());
    mount_new("overlay", Path::new("/var"), Some(&options))
}

fn fake_sysctls() -> Result<()> {
    for (name, value) in KUBELET_SYSCTLS {
        let fake = Path::new(PLACE).join("sysctl").join(name);
        fs::create_dir_all(fake.parent().context("a name has a folder")?)
            .and_then(|()| fs::write(&fake, format!("{value}\n")))
            .with_context(|| format!("write {}", fake.display()))?;
        bind(&fake, &Path::new("/proc/sys").join(name))?;
    }
    Ok(())
}

fn mount_new(kind: &str, target: &Path, options: Option<&str>) -> Result<()> {
    mount(Some(kind), target, Some(kind), MsFlags::empty(), options)
        .with_context(|| format!("mount {kind} at {}", target.display()))
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("mount {} at {}", source.display(), target.display()))
}
