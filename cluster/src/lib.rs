//! A real Kubernetes cluster of one private node, and what the tests on it are made of.
//!
//! ```text
//!  supervise (this machine)            node (namespaces of its own)
//!  ────────────────────────            ───────────────────────────────────────────────────────────────
//!  the folder's lock, signals ──────▶  etcd, kube-apiserver, controllers, scheduler, containerd, kubelet
//!  sweeps what is left of cgroups      Simulator of IMDS, behind a link, in a network namespace of its own
//!                                         ▲
//!  Cluster (the tests) ── FOLDER/* ───────┘ kubectl and other programs run in the node's namespaces
//! ```
//!
//! Everything but the kernel is the node's own: mounts, network, processes, host name, `/run` and `/var`. What it
//! writes outside is one folder and the cgroup `kubepods`; all else ends with its init process, however that ends.
//! It pulls no image and changes no setting of the machine.

mod cluster;
mod folder;
pub mod guard;
mod image;
pub mod manifests;
pub mod node;
mod pods;
pub mod prometheus;
pub mod records;
mod supervise;

pub use cluster::{Cluster, ForwardedPort};
pub use folder::{FOLDER, Folder};
pub use guard::Guard;
pub use image::{AGENT_IMAGE, CLIENT_IMAGE};
pub use pods::{Namespace, StaticPod, client_pod};
pub use supervise::{down, init, serve};

/// What the cluster is made from: nothing here is looked for or installed, `cargo xtask cluster` did that.
#[derive(Clone, Debug, clap::Args)]
pub struct Parts {
    /// The folder with the binaries of Kubernetes
    #[arg(long, value_name = "DIR")]
    pub kubernetes: std::path::PathBuf,
    /// The Python environment with kubectl and Helm
    #[arg(long, value_name = "DIR")]
    pub python: std::path::PathBuf,
    /// The root file system of the agent's image
    #[arg(long, value_name = "DIR")]
    pub agent: std::path::PathBuf,
}
