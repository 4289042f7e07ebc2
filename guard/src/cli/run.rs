use std::{
    io::{self, IsTerminal},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{Args, ValueEnum};
use jiff::SignedDuration;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    select,
    signal::unix::{SignalKind, signal},
    task::LocalSet,
};
use tracing_subscriber::EnvFilter;

use super::{
    doctor::finding::{Finding, State, judge},
    host::{Host, PIN_PATH},
};
use crate::{
    agent::{self, AgentError, PodsFrom, Settings},
    client,
    endpoints::Endpoints,
    gate::GateSettings,
    kernel::probe::Facts,
    kubernetes::ObjectName,
};

/// Guard this node: attach the kernel programs, decide by the policy, and tell who asked.
///
/// The agent ends on SIGTERM or SIGINT. The guard stays: what is pinned in bpffs goes on deciding, and who needs a gate is
/// refused, until an agent is started again. `imds-guard cleanup` removes it.
#[derive(Args, Debug)]
#[command(args_override_self = true)]
pub(super) struct Run {
    /// The policy: a folder, of which every *.yaml counts in name order, or one file. It is read again when it changes
    #[arg(long, value_name = "PATH", default_value = "/etc/imds-guard/policy", env = "IMDS_GUARD_POLICY")]
    policy: PathBuf,

    /// The ConfigMap of which the policy's folder is the mounted copy. It is watched too, so that a change counts in a
    /// moment instead of a minute or two
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with = "pods_from", value_parser = object_name)]
    policy_configmap: Option<ObjectName>,

    /// The pods of this node, as `kubectl get pods -A -o json` prints them. It is read again when it changes. With
    /// `kubectl get pods,namespaces,nodes -A -o json` the policy can also select by their labels. Left out: the API
    /// server tells, which is found as in a pod, or by the variable KUBECONFIG
    #[arg(long, value_name = "FILE")]
    pods_from: Option<PathBuf>,

    /// This node's name. The API server is asked for its pods; of a list only its own count, or all if it is left out
    #[arg(long, value_name = "NAME", env = "NODE_NAME", required_unless_present = "pods_from")]
    node_name: Option<String>,

    /// A folder for the last policy that was accepted and the last pods that were known, for a start with a policy that
    /// is not accepted or without the API server. Left out: nothing is remembered
    #[arg(long, value_name = "PATH")]
    state_dir: Option<PathBuf>,

    /// A folder in bpffs, where the guard stays when the agent ends
    #[arg(long, value_name = "PATH", default_value = PIN_PATH)]
    pin_path: PathBuf,

    /// End the guard with the agent: remove what is pinned when it is told to end. One that is killed leaves it
    #[arg(long)]
    detach_on_exit: bool,

    #[command(flatten)]
    host: Host,

    /// The host's network namespace: from there the gates ask IMDS, and there hostNetwork pods have theirs
    #[arg(long, value_name = "PATH", default_value = "/proc/1/ns/net")]
    host_network: PathBuf,

    /// Where the container runtime keeps the network namespaces of pods, for those whose sandbox has no process (CRI-O)
    #[arg(long, value_name = "PATH", default_value = "/proc/1/root/run/netns")]
    pod_networks: PathBuf,

    /// How many requests a second all gates of this node may send to IMDS, which serves 1024 packets a second, DNS and
    /// NTP included; 0: as many as come
    #[arg(long, value_name = "N", default_value_t = 200)]
    imds_requests_per_second: u32,

    /// Whether packets are stopped that no hook of a socket sees (AF_PACKET and its kin), by tables of nftables and by tc
    /// programs in the host's network
    #[arg(long, value_enum, value_name = "ON|OFF", default_value_t = Switch::On)]
    backstop: Switch,

    /// How often the agent tries to reach IMDS itself, from a cgroup of its own among the pods, to see that it is refused
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    selftest_interval: Duration,

    /// Where the event log goes, a JSON object a line: a file, or - for the standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    events: PathBuf,

    /// Where Prometheus finds /metrics, and probes /healthz and /readyz
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9811")]
    listen: SocketAddr,

    /// The socket for `imds-guard status` and `watch`
    #[arg(long, value_name = "PATH", default_value = client::SOCKET)]
    socket: PathBuf,

    /// The form of the agent's own log, on the standard error. The variable `RUST_LOG` chooses what is logged
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

pub(super) fn object_name(text: &str) -> Result<ObjectName, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(ObjectName { namespace: namespace.to_owned(), name: name.to_owned() })
        }
        _ => Err(format!("`{text}` is not of the form NAMESPACE/NAME")),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
    parsed
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| format!("`{text}` is no time such as `60s` or `5m`"))
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl Run {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        start_log(self.log_format);
        raise_file_limit();
        let settings = self.settings()?;
        // One thread: the agent is one task, and a small agent is part of the promise.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        loop {
            let guarded = LocalSet::new().block_on(&runtime, async {
                let shutdown = shutdown_signal()?;
                Ok::<_, io::Error>(agent::run(settings.clone(), shutdown).await)
            })?;
            match guarded {
                Err(error @ AgentError::RootGone { .. }) => {
                    tracing::warn!("{error}: beginning anew");
                }
                guarded => return guarded.map(|()| ExitCode::SUCCESS).map_err(anyhow::Error::from),
            }
        }
    }

    fn settings(self) -> anyhow::Result<Settings> {
        let Host { cgroup_mount, guarded_root, endpoint } = self.host;
        let endpoints = Endpoints::with(&endpoint)?;
        let facts = Facts::probe(cgroup_mount.as_deref(), guarded_root.as_deref());
        let degraded = degraded(&judge(&facts, &endpoints));
        let mount = facts.cgroup_mount.context(
            "cgroup v2 is not mounted: name its mount with --cgroup-mount, or see `imds-guard doctor`",
        )?;
        let pods_from = match self.pods_from {
            Some(list) => PodsFrom::File(list),
            None => PodsFrom::ApiServer {
                node: self.node_name.clone().context("name this node with --node-name or NODE_NAME")?,
                policy: self.policy_configmap,
            },
        };
        Ok(Settings {
            degraded,
            cgroup_mount: mount.path,
            guarded_root,
            policy: self.policy,
            pods_from,
            node_name: self.node_name,
            state_folder: self.state_dir,
            pin_path: self.pin_path,
            detach_on_exit: self.detach_on_exit,
            endpoints,
            gate: GateSettings {
                host_network: self.host_network,
                pod_networks: self.pod_networks,
                requests_per_second: self.imds_requests_per_second,
            },
            backstop: matches!(self.backstop, Switch::On),
            selftest_interval: self.selftest_interval,
            events: self.events,
            listen: self.listen,
            socket: self.socket,
        })
    }
}

/// A gate takes four descriptors, and container runtimes often start with a soft limit of 1024.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays");
    }
}

/// Says what this host lacks, once, and names it for the metric.
fn degraded(findings: &[Finding]) -> Vec<&'static str> {
    // The guarded root is waited for: that it is not there yet is no lack of the host. Whether there are pins shows where
    // they are to be.
    let is_told_elsewhere = |finding: &&Finding| ["guarded_root", "pins"].contains(&finding.feature);
    let lacking =
        findings.iter().filter(|finding| finding.state != State::Ok).filter(|it| !is_told_elsewhere(it));
    lacking
        .map(|Finding { feature, found, follows, .. }| {
            let follows = follows.as_deref().unwrap_or_default();
            tracing::warn!(feature, found, follows, "this host is not all that it could be");
            *feature
        })
        .collect()
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

fn shutdown_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
