//! The agent: one task that owns the index, the policy in force and what was written to the kernel. Nothing else
//! writes them.
//!
//! Policy, pods and cgroups come in as bells ("look again"); whatever rings, the agent reads, computes what the kernel
//! should hold, and carries out the difference. Events and counts come up, are attributed, and go to the sinks.

mod backstop;
mod cluster;
mod credentials;
mod doors;
mod lines;
mod policy;
mod selftest;
mod severance;
mod state;
mod status;
mod succession;
mod voice;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    pin::Pin,
    time::Duration,
};

use guard_common::{RequestRecord, Verdict};
use jiff::Timestamp;
use tokio::{
    net::TcpListener,
    select,
    sync::{broadcast, mpsc},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    changes::Changes,
    endpoints::Endpoints,
    gate::GateSettings,
    kernel::{CgroupBell, Events, GuardedRoot, Kernel, LoadError, PinError, Pins, ReadError, Requests},
    kubernetes::{ConnectError, ObjectName},
    memory::Memory,
    pods,
    sinks::{
        api::{self, Query},
        metrics::{EventLoss, Metrics},
    },
};
use cluster::Cluster;
use lines::Lines;
use policy::PolicyInForce;
use state::State;
use succession::{Predecessor, SocketPlace};

pub use selftest::{SelftestStatus, Trial};
pub use status::{Explained, GateStatus, PodStatus, PolicyStatus, RulingStatus, Status};

/// What the agent is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cgroup v2 mount.
    pub cgroup_mount: PathBuf,
    /// The guarded root, relative to the mount. Left out: it is looked for, and waited for.
    pub guarded_root: Option<PathBuf>,
    pub policy: PathBuf,
    pub pods_from: PodsFrom,
    pub node_name: Option<String>,
    /// What is remembered from one start to the next; none: nothing.
    pub state_folder: Option<PathBuf>,
    /// The folder in bpffs where the guard stays when the agent ends.
    pub pin_path: PathBuf,
    /// Whether it is to end with the agent.
    pub detach_on_exit: bool,
    pub endpoints: Endpoints,
    pub gate: GateSettings,
    /// Whether packets are stopped that no hook of a socket sees.
    pub backstop: bool,
    /// How often the canary tries to reach IMDS.
    pub selftest_interval: Duration,
    pub events: PathBuf,
    pub listen: SocketAddr,
    pub socket: PathBuf,
    /// The features that this host lacks.
    pub degraded: Vec<&'static str>,
}

/// Where the pods of this node are listed.
#[derive(Clone, Debug)]
pub enum PodsFrom {
    /// In a file, as kubectl prints it.
    File(PathBuf),
    /// At the API server, which may also have the object that the policy's files are a copy of.
    ApiServer { node: String, policy: Option<ObjectName> },
}

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    PolicyRead(#[from] crate::policy::ReadError),
    #[error(transparent)]
    ApiServer(#[from] ConnectError),
    #[error("the policy {path} is not accepted:\n\n{problems}")]
    PolicyRefused { path: PathBuf, problems: String },
    #[error("look for the guarded root below {mount}")]
    Root {
        mount: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Kernel(#[from] LoadError),
    #[error("write the ruling for unidentified pods")]
    Unidentified(#[source] crate::kernel::WriteError),
    #[error(transparent)]
    Pins(#[from] PinError),
    #[error("another agent guards this node and does not hand over: end it first")]
    Guarded,
    #[error("the agent that took over is gone: this one is to be started again")]
    SuccessorGone,
    #[error("go on with {what} that the kernel holds")]
    Adopt {
        what: &'static str,
        #[source]
        source: Box<ReadError>,
    },
    #[error("make the metrics")]
    Metrics(#[from] prometheus::Error),
    #[error("listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("listen on the socket {path}")]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("open the event log {path}")]
    EventLog {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the guarded root {path} is gone, or another one is in its place")]
    RootGone { path: PathBuf },
    #[error("read events from the kernel")]
    Stream(#[source] io::Error),
}

/// A policy is a folder, of which several files may change at once; the list of pods is one file, and new pods wait for it.
const POLICY_SETTLES: Duration = Duration::from_millis(50);
const PODS_SETTLE: Duration = Duration::from_millis(5);

/// How long after a change the tree is not walked again: a burst of changes is one walk.
const WALK_PAUSE: Duration = Duration::from_millis(10);

/// How often the tree is walked when no bell rings, and what is gone is tidied away.
const WALK_INTERVAL: Duration = Duration::from_secs(15);

/// Runs the agent until `shutdown` ends. It must run inside a `LocalSet`.
pub async fn run(settings: Settings, shutdown: impl Future<Output = ()>) -> Result<(), AgentError> {
    tokio::pin!(shutdown);
    let metrics = Metrics::new()?;
    let memory = open_memory(&settings);
    let predecessor = Predecessor::find(&settings.socket).await;
    let policy = PolicyInForce::first(&settings.policy, &settings.endpoints, memory.as_ref())?;
    let lines = Lines::open(&settings.events)?;
    let (queries_sender, mut queries) = mpsc::channel(16);
    let api = api::Agent { queries: queries_sender, events: lines.watchers() };
    let place = SocketPlace::beside(&settings.socket, &predecessor);
    let listen = serve(&settings, &place, api).await?;
    let mut cluster = Cluster::join(&settings, &metrics).await?;

    let root = select! {
        root = find_root(&settings) => root?,
        () = unready(&mut queries) => unreachable!("the API never hangs up"),
        () = &mut shutdown => return Ok(()),
    };
    let pins = open_pins(&settings);
    let backstop::Opened { keeper, bell: host_links, host } = backstop::open(&settings);
    let mut kernel = Kernel::load(root, &settings.endpoints, host, pins)?;
    let bell = kernel.attach_bells();
    let counters = kernel.take_counters()?;

    // Watching begins before the first look, so that no change falls between the two.
    let policy_changes = Changes::of(&settings.policy, POLICY_SETTLES);
    let pod_changes = pod_changes(&settings.pods_from);
    let mut state = State::new(settings, listen, kernel, counters, metrics, policy, memory);
    state.keeper = keeper;
    let bell = state.hear(bell);
    let gate_news = state.start_gates();
    take_over(&mut state, &mut cluster, &predecessor).await?;
    place.take().map_err(|source| AgentError::Socket { path: state.settings.socket.clone(), source })?;
    let ears = Ears {
        policy_changes,
        pod_changes,
        cluster,
        bell,
        host_links,
        canary: state.selftest.steps(),
        gate_news,
        // Only now: two readers of one buffer would both go on from where it was.
        events: state.kernel.take_events()?,
        requests: state.kernel.take_requests()?,
        queries,
    };
    attend(&mut state, ears, &lines, shutdown).await?;
    end(&mut state);
    lines.close();
    Ok(())
}

/// All that an agent hears.
struct Ears {
    policy_changes: Changes,
    pod_changes: Option<Changes>,
    cluster: Cluster,
    bell: Option<CgroupBell>,
    host_links: backstop::Bell,
    canary: mpsc::Receiver<selftest::Step>,
    gate_news: doors::GateNews,
    events: Events,
    requests: Requests,
    queries: mpsc::Receiver<Query>,
}

/// Learns what there is to know, and becomes the agent that guards.
async fn take_over(
    state: &mut State,
    cluster: &mut Cluster,
    predecessor: &Predecessor,
) -> Result<(), AgentError> {
    state.reload_policy();
    state.reload_pods();
    cluster.first_list(state).await?;
    state.find_own_pod();
    state.walk()?;
    state.prepare_gates();
    predecessor.leave_off().await;
    state.take_over().await?;
    tracing::info!(
        root = %state.root().display(), policy = state.policy_sha256(), metrics = %state.listen,
        "guarding"
    );
    cluster.lift_startup_taint(state);
    Ok(())
}

/// Answers whatever rings, until it is told to end.
async fn attend(
    state: &mut State,
    ears: Ears,
    lines: &Lines,
    mut shutdown: Pin<&mut impl Future<Output = ()>>,
) -> Result<(), AgentError> {
    let Ears {
        mut policy_changes,
        mut pod_changes,
        mut cluster,
        mut bell,
        mut host_links,
        mut canary,
        mut gate_news,
        mut events,
        mut requests,
        mut queries,
    } = ears;
    let mut next_walk = Instant::now() + WALK_INTERVAL;
    let mut last_walk = Instant::now();
    loop {
        let soon = |last_walk: Instant| (last_walk + WALK_PAUSE).max(Instant::now());
        select! {
            () = &mut shutdown => return Ok(()),
            () = policy_changes.next() => state.reload_policy(),
            () = change(&mut pod_changes) => state.reload_pods(),
            news = cluster.news() => {
                state.hear_news(news);
                cluster.lift_startup_taint(state);
            }
            rang = ring(&mut bell) => match rang {
                Ok(()) => next_walk = next_walk.min(soon(last_walk)),
                Err(error) => {
                    tracing::warn!(%error, "no more events for new cgroups: the tree is walked by the clock");
                    state.degrade("cgroup_events", true);
                    bell = None;
                }
            },
            () = sleep_until(next_walk) => {
                state.walk()?;
                last_walk = Instant::now();
                next_walk = last_walk + WALK_INTERVAL;
            }
            () = sleep_until(state.next_tidying()) => {
                if state.successor_is_gone() {
                    return Err(AgentError::SuccessorGone);
                }
                state.tidy();
                cluster.lift_startup_taint(state);
            }
            () = at(state.doors.next_look()) => state.apply(),
            () = host_links.rang() => state.keeper.links_changed(),
            () = at(state.keeper.look_at()) => state.look_after_backstop(),
            () = at(state.selftest.next_run()) => state.begin_selftest(),
            Some(step) = canary.recv() => {
                state.hear_canary(step);
                cluster.lift_startup_taint(state);
            }
            news = gate_news.next() => {
                if let Some(line) = state.hear_gates(news) {
                    lines.write(line, state);
                }
            }
            () = at(state.voice.speak_at()) => state.speak(),
            unreadable = events.drain(|event| {
                if event.outcome() == Verdict::Deny {
                    state.voice.soon();
                }
                let attempt = state.attribute(&event);
                if !state.knows(&event) {
                    next_walk = next_walk.min(soon(last_walk));
                }
                let line = serde_json::to_string(&attempt).expect("plain data").into();
                lines.write(line, state);
            }), if state.is_guarding() => {
                state.lose_events(EventLoss::Unreadable, unreadable.map_err(AgentError::Stream)?);
            }
            answered = hear(&mut requests), if state.is_guarding() => {
                state.hear_requests(answered.map_err(AgentError::Stream)?, lines);
            }
            Some(query) = queries.recv() => {
                lines.count_failed(state);
                answer(query, state);
            }
        }
    }
}

/// Writes down what the next agent needs, and says what becomes of the guard.
fn end(state: &mut State) {
    state.collect();
    state.save_pods();
    state.save_account();
    if state.has_handed_over() {
        tracing::info!("ending: another agent guards this node");
        return;
    }
    // Only an agent has a use for it, and the next one makes its own.
    state.remove_canary();
    if state.settings.detach_on_exit
        && let Err(error) = state.kernel.unpin()
    {
        tracing::error!(error = chain(&error), "the guard stays: `imds-guard cleanup` removes it");
        return;
    }
    if state.kernel.is_pinned() {
        tracing::info!("ending: the kernel goes on deciding, and who needs a gate is refused");
    } else {
        state.remove_backstop();
        tracing::info!("ending: the programs are detached, and this node is no longer guarded");
    }
}

/// Where the guard is pinned. Without a bpffs it ends with the agent, as it does for whoever wants it.
fn open_pins(settings: &Settings) -> Option<Pins> {
    Pins::open(&settings.pin_path, &settings.endpoints)
        .inspect_err(|error| tracing::warn!(error = chain(error), "the guard will end with this agent"))
        .ok()
}

/// Waits for requests that were answered; with them, how many records could not be read.
async fn hear(requests: &mut Requests) -> io::Result<(Vec<RequestRecord>, u64)> {
    let mut answered = Vec::new();
    let unreadable = requests.drain(|record| answered.push(record)).await?;
    Ok((answered, unreadable))
}

/// Answers the API. Whoever asked may have gone away.
fn answer(query: Query, state: &mut State) {
    match query {
        Query::Metrics(reply) => drop(reply.send(state.metrics())),
        Query::Status(reply) => {
            drop(reply.send(serde_json::to_string(&state.status()).expect("plain data")));
        }
        Query::Ready(reply) => drop(reply.send(state.check())),
        // Whoever has stopped waiting has not taken over.
        Query::HandOver(reply) if reply.is_closed() => {}
        Query::HandOver(reply) => {
            state.hand_over();
            let _ = reply.send(());
        }
        Query::Explain { pod, reply } => {
            let explained = state.explain(&pod);
            drop(reply.send(explained.map(|it| serde_json::to_string(&it).expect("plain data"))));
        }
    }
}

/// What is remembered. An agent that can't remember guards all the same.
fn open_memory(settings: &Settings) -> Option<Memory> {
    let folder = settings.state_folder.as_ref()?;
    Memory::open(folder)
        .inspect_err(|error| tracing::warn!(error = chain(error), "nothing is remembered for the next start"))
        .ok()
}

/// Opens both doors of the API and tells the address of the first.
async fn serve(settings: &Settings, place: &SocketPlace, api: api::Agent) -> Result<SocketAddr, AgentError> {
    let address = settings.listen;
    let failed = |source| AgentError::Listen { address, source };
    let tcp = bind(address).await.map_err(failed)?;
    let listen = tcp.local_addr().map_err(failed)?;
    let unix = api::listen_unix(place.bound())
        .map_err(|source| AgentError::Socket { path: settings.socket.clone(), source })?;
    tokio::task::spawn_local(api::serve_tcp(tcp, api.clone()));
    tokio::task::spawn_local(api::serve_unix(unix, api));
    Ok(listen)
}

/// Says to whoever probes that all is well, until the program ends. It must run inside a `LocalSet`.
pub async fn say_ready(address: SocketAddr) -> Result<(), AgentError> {
    let (queries, mut asked) = mpsc::channel(16);
    let tcp = bind(address).await.map_err(|source| AgentError::Listen { address, source })?;
    let (events, _) = broadcast::channel(1);
    tokio::task::spawn_local(api::serve_tcp(tcp, api::Agent { queries, events }));
    tokio::task::spawn_local(async move {
        while let Some(query) = asked.recv().await {
            if let Query::Ready(reply) = query {
                let _ = reply.send(Ok(()));
            }
        }
    });
    Ok(())
}

/// Binds to an address. `[::]` means every address, on a host without IPv6 too.
async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error)
            if error.raw_os_error() == Some(libc::EAFNOSUPPORT) && address.ip() == Ipv6Addr::UNSPECIFIED =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

/// The guarded root, once it is there: the kubelet may not have made it yet.
async fn find_root(settings: &Settings) -> Result<GuardedRoot, AgentError> {
    let mount = &settings.cgroup_mount;
    let mut told = false;
    loop {
        let found = match &settings.guarded_root {
            Some(root) => mount.join(root).is_dir().then(|| root.clone()),
            None => pods::find_guarded_root(mount)
                .map_err(|source| AgentError::Root { mount: mount.clone(), source })?,
        };
        if let Some(root) = found {
            return Ok(GuardedRoot::open(mount, &root)?);
        }
        if !told {
            tracing::info!(mount = %mount.display(), "waiting for the guarded root: no pods' cgroup is there yet");
            told = true;
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Answers the API while there is nothing to guard yet.
async fn unready(queries: &mut mpsc::Receiver<Query>) {
    while let Some(query) = queries.recv().await {
        match query {
            Query::Ready(reply) => drop(reply.send(Err("waiting for the guarded root".to_owned()))),
            // Dropping the reply says that there is no answer yet.
            Query::Metrics(_) | Query::Status(_) | Query::Explain { .. } | Query::HandOver(_) => {}
        }
    }
}

/// Waits for the bell; without one, for ever: the clock drives the walks then.
async fn ring(bell: &mut Option<CgroupBell>) -> io::Result<()> {
    match bell {
        Some(bell) => bell.rang().await,
        None => std::future::pending().await,
    }
}

/// The bell of the list of pods, where there is one.
fn pod_changes(from: &PodsFrom) -> Option<Changes> {
    match from {
        PodsFrom::File(list) => Some(Changes::of(list, PODS_SETTLE)),
        PodsFrom::ApiServer { .. } => None,
    }
}

/// Waits for a change of the list of pods; without one, for ever.
async fn change(list: &mut Option<Changes>) {
    match list {
        Some(list) => list.next().await,
        None => std::future::pending().await,
    }
}

/// Waits until a time; without one, for ever.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// When this node booted, by today's wall clock: kernel events are stamped with the time since then.
fn boot_time() -> Timestamp {
    let since_boot =
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    Timestamp::now() - since_boot
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
