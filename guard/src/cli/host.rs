use std::path::PathBuf;

use clap::Args;

/// Where the guard is pinned.
pub(super) const PIN_PATH: &str = "/sys/fs/bpf/imds-guard";

/// Where the cgroups of this host's pods are, and what is guarded: the same for whoever guards it and whoever examines
/// it.
#[derive(Args, Debug)]
pub(super) struct Host {
    /// The cgroup v2 mount. Left out: found in /proc/self/mountinfo
    #[arg(long, value_name = "PATH")]
    pub(super) cgroup_mount: Option<PathBuf>,

    /// The cgroup under which all pods live, relative to the mount. Left out: `kubepods`, `kubepods.slice` or the like
    /// is looked for, and `run` waits for it
    #[arg(long, value_name = "PATH")]
    pub(super) guarded_root: Option<PathBuf>,

    /// A further endpoint to guard, or a further address of one: NAME=ADDRESS[,ADDRESS…]. Can be given again
    #[arg(long, value_name = "ENDPOINT")]
    pub(super) endpoint: Vec<String>,
}
