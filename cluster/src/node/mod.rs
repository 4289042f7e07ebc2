//! The node: makes the private world that it runs in, then starts Kubernetes in it, and serves requests to stop and
//! start the API server. It ends when its input does; the kernel then ends everything in its namespaces.

mod control;
mod control_plane;
mod daemon;
mod mounts;
mod network;
mod worker;

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{io, process, thread};

use anyhow::{Context, Result, bail};
use guard_tests::simulator::{Endpoint, Simulator, Versions};

use crate::Parts;
use crate::folder::{Folder, Running};
use crate::image::{self, Image};
use control::Request;
pub(crate) use control::{Ask, ask};
use control_plane::ControlPlane;
use worker::Worker;

/// The node's name.
pub const NAME: &str = "node-1";

/// The taint that the node registers with, as the nodes of a cluster with the guard do. The agent takes it away.
pub const STARTUP_TAINT: &str = "imds-guard.io/agent-not-ready";

/// Where the node keeps what dies with it. It lies in the node's own `/run`.
const PLACE: &str = "/run/node";

/// What the node is made from, and where it keeps things.
struct Setting<'a> {
    folder: &'a Folder,
    parts: &'a Parts,
}

impl Setting<'_> {
    fn place(name: &str) -> PathBuf {
        Path::new(PLACE).join(name)
    }

    /// A binary of Kubernetes.
    fn kubernetes(&self, name: &str) -> PathBuf {
        self.parts.kubernetes.join(name)
    }

    fn kubectl(&self) -> PathBuf {
        self.parts.python.join("bin/kubectl")
    }
}

/// Makes the node in the namespaces that this process is in, and keeps it until the input ends.
pub fn run(folder: &Folder, parts: &Parts) -> Result<()> {
    end_with_input();
    let clock = Clock(Instant::now());
    let setting = Setting { folder, parts };
    // The mount of /proc still belongs to the machine: this is the machine's name for the process.
    let own = machine_process()?;
    mounts::make(folder).context("make the node's mounts")?;
    nix::unistd::sethostname(NAME).context("set the host name")?;
    let imds = network::make().context("make the node's network")?;
    let simulator = Simulator::start(Some(imds), &Endpoint::on_eks(), Versions::V1AndV2)?;
    let record = OpenOptions::new().create(true).append(true).open(folder.imds());
    simulator.write_requests_to(record.with_context(|| format!("open {}", folder.imds().display()))?);
    clock.step("namespaces, network, IMDS");

    let mut worker = Worker::start_runtime(&setting)?;
    let mut control_plane = ControlPlane::start(&setting)?;
    worker.wait_for_runtime()?;
    for image in [Image::pause()?, Image::client()?, Image::agent(&parts.agent)?] {
        image::import(&image, &Setting::place("image.tar"))?;
    }
    clock.step("containerd, images");
    control_plane.wait_for_certificate()?;
    worker.start_kubelet()?;
    control_plane.wait_until_ready()?;
    clock.step("etcd, kube-apiserver");
    control_plane.start_controllers()?;
    control_plane.wait_for_controllers()?;
    clock.step("controllers, scheduler");
    worker.wait_for_node()?;
    clock.step("kubelet");

    let requests = control::listen(folder)?;
    let python = parts.python.join("bin/python3");
    folder.write_running(&Running { process: own, kubectl: setting.kubectl(), python })?;
    clock.step("ready");
    for request in requests {
        match request {
            Request::Stop(done) => {
                control_plane.stop_api_server();
                done.tell(Ok(()));
            }
            Request::Start(done) => done.tell(control_plane.start_api_server()),
        }
    }
    bail!("nobody listens to requests any more")
}

/// Ends this process when its input does: whoever keeps the node wants its end, or is gone. Nothing is tidied up here:
/// all that the node has ends with its namespaces.
fn end_with_input() {
    thread::spawn(|| {
        // An error is an end as well.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        process::exit(0)
    });
}

fn machine_process() -> Result<i32> {
    let link = fs::read_link("/proc/self").context("read /proc/self")?;
    link.to_string_lossy().parse().context("/proc/self names no process")
}

/// Tells how long things took since the start.
struct Clock(Instant);

impl Clock {
    fn step(&self, what: &str) {
        println!("node   {what:28} {:5.1} s", self.0.elapsed().as_secs_f64());
    }
}
