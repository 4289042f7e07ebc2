//! Gates: for each pod that reaches IMDS by leave of the policy alone, a listener in the pod's own network namespace, to
//! which the connect hook sends it, and which answers by HTTP in the stead of IMDS.
//!
//! ```text
//!  agent ── Gates ──order──▶ gate-opener: enters the sandbox's namespace, opens listeners (door)
//!             │                    │
//!             └──────NewGate───────┴──▶ gate: accept ─ peer ─ judge ─┬─ 403, 401, 400, 429
//!             ◀── News: exchanges, closed gates ──────┘              └─ budget ─ upstream ─▶ IMDS
//! ```
//!
//! Both threads live in the host's network namespace; sockets stay where they were opened. A gate never decides anything
//! by itself: its terms are what the agent says of its pod, and they are read anew for each request. Whoever has no gate
//! yet, or none any more, is refused by the hook.

mod budget;
mod door;
mod judge;
mod peer;
mod sandbox;
mod serve;
mod sever;
mod teller;
mod upstream;

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::sync_channel,
    },
    thread,
    time::Instant,
};

use guard_common::{CgroupId, GATE_PORT_FIRST, Gate, GateKey};
use tokio::{
    sync::{mpsc, watch},
    task::LocalSet,
};

pub use door::{DoorError, own_namespace};
pub use judge::Terms;
pub use sever::ends_connections;

use crate::{
    pods::{self, Pod},
    request::Request,
    sinks::metrics::GateMetrics,
    workload::Workload,
};
use budget::NodeBudget;
use door::{Doorkeeper, enter, open_host};
use sandbox::{Holder, Sandbox};
use serve::{NewGate, Shared};
use sever::Severance;
use upstream::Upstream;

/// How many news may wait for the agent.
const NEWS_QUEUE: usize = 1024;

/// What the gates need to know of the host.
#[derive(Clone, Debug)]
pub struct GateSettings {
    /// The host's network namespace.
    pub host_network: PathBuf,
    /// Where the container runtime keeps the network namespaces of pods.
    pub pod_networks: PathBuf,
    /// How many requests a second may go to IMDS; 0: no limit.
    pub requests_per_second: u32,
}

/// What the gates tell the agent.
#[derive(Debug)]
pub enum News {
    Exchange(Box<Exchange>),
    /// A gate does not listen any more.
    Closed {
        pod: CgroupId,
        gate: Gate,
    },
}

/// A request that a gate answered: one of a few that it tells of in a second.
#[derive(Debug)]
pub struct Exchange {
    pub pod: CgroupId,
    /// Its verdict is to deny, if the gate itself answered.
    pub request: Request,
    /// There if the policy denied it.
    pub denial_id: Option<String>,
    /// How many requests of the pod were denied since the last that was told of, this one included.
    pub denials: u64,
}

/// Where a pod that needs a gate has its cgroup, and what is to hold there.
#[derive(Debug)]
pub struct Wanted {
    pub folder: PathBuf,
    pub terms: Terms,
}

/// Why a pod has no gate yet.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("look for the sandbox of the cgroup {}", folder.display())]
    Sandbox {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Door(#[from] DoorError),
}

/// The gates of this node, by their pods. Dropping it closes all of them.
pub struct Gates {
    doorkeeper: Doorkeeper,
    host: File,
    pod_networks: PathBuf,
    orders: mpsc::UnboundedSender<NewGate>,
    open: BTreeMap<CgroupId, Open>,
    next_port: u16,
    metrics: GateMetrics,
    draining: Arc<AtomicBool>,
}

struct Open {
    gate: Gate,
    terms: watch::Sender<Arc<Terms>>,
    /// None if a process holds the sandbox: its end is watched.
    mount: Option<Holder>,
}

impl Gates {
    /// Starts the two threads. `imds` is where IMDS is, seen from the host.
    pub fn start(
        settings: &GateSettings,
        imds: SocketAddr,
        metrics: GateMetrics,
    ) -> Result<(Self, mpsc::Receiver<News>), DoorError> {
        let host = open_host(&settings.host_network)?;
        let copy = || host.try_clone().map_err(DoorError::Enter);
        let doorkeeper = Doorkeeper::start(copy()?)?;
        let (tell_news, news) = mpsc::channel(NEWS_QUEUE);
        let (orders, queue) = mpsc::unbounded_channel();
        let per_second = settings.requests_per_second;
        let draining = Arc::<AtomicBool>::default();
        let is_draining = Arc::clone(&draining);
        let own_metrics = metrics.clone();
        let shared = move || {
            let budget = NodeBudget::new(per_second, Instant::now());
            Shared::new(Upstream::new(imds), budget, metrics, tell_news, is_draining)
        };
        start_serving(copy()?, shared, queue)?;
        let gates = Self {
            doorkeeper,
            host,
            pod_networks: settings.pod_networks.clone(),
            orders,
            open: BTreeMap::new(),
            next_port: GATE_PORT_FIRST,
            metrics: own_metrics,
            draining,
        };
        Ok((gates, news))
    }

    /// The gate of a pod, if it is open.
    pub fn gate(&self, pod: CgroupId) -> Option<Gate> {
        self.open.get(&pod).map(|open| open.gate)
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The pods whose gate is open and is not wanted any more, or leads to a sandbox that is gone.
    pub fn stale(&self, is_wanted: impl Fn(CgroupId) -> bool) -> Vec<CgroupId> {
        let stale = self.open.iter().filter(|(pod, open)| {
            !is_wanted(**pod) || open.mount.as_ref().is_some_and(|mount| !mount.is_there())
        });
        stale.map(|(pod, _)| *pod).collect()
    }

    /// Whether a gate is one of these.
    pub fn has(&self, gate: GateKey) -> bool {
        self.open.values().any(|open| GateKey::from(open.gate) == gate)
    }

    /// Ends each connection with its next answer from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Opens a pod's gate; none while its sandbox has no network yet.
    pub fn open(&mut self, pod: CgroupId, wanted: Wanted) -> Result<Option<Gate>, OpenError> {
        let Wanted { folder, terms } = wanted;
        let failed = |source| OpenError::Sandbox { folder: folder.clone(), source };
        let sandbox = self.sandbox(&folder, &terms.pod).map_err(failed)?;
        let Some(Sandbox { namespace, holder }) = sandbox else { return Ok(None) };
        let door = self.doorkeeper.open(namespace, self.free_ports())?;
        let gate = door.gate;
        if matches!(holder, Holder::Process(_) | Holder::Mount(..)) && gate.namespace == self.doorkeeper.host
        {
            // The runtime had not moved the process yet.
            return Ok(None);
        }
        self.next_port = gate.port.checked_add(1).unwrap_or(GATE_PORT_FIRST);
        let (sender, terms) = watch::channel(Arc::new(terms));
        let (process, mount) = match holder {
            Holder::Process(process) => (Some(process), None),
            Holder::Host => (None, None),
            mount @ Holder::Mount(..) => (None, Some(mount)),
        };
        self.order(NewGate { pod, folder, door, process, terms })?;
        self.open.insert(pod, Open { gate, terms: sender, mount });
        Ok(Some(gate))
    }

    /// Ends, soon, the connections that a pod has to some addresses, wherever it is: in its own network, or among those of
    /// others on the host's.
    pub fn sever(&self, folder: PathBuf, pod: &Pod, addresses: Vec<IpAddr>) -> Result<(), OpenError> {
        let sandbox = self.sandbox(&folder, pod);
        let sandbox = sandbox.map_err(|source| OpenError::Sandbox { folder: folder.clone(), source })?;
        // One without a network has no connections.
        let Some(Sandbox { namespace, .. }) = sandbox else { return Ok(()) };
        let Workload { namespace: of, service_account, host_network, .. } = &pod.workload;
        let ended = self.metrics.severed.with_label_values(&[of, service_account]);
        let made_in = host_network.then_some(folder);
        Ok(self.doorkeeper.sever(namespace, Severance { addresses, made_in, ended })?)
    }

    /// Says what holds from now on at an open gate.
    pub fn set_terms(&self, pod: CgroupId, terms: Terms) {
        if let Some(open) = self.open.get(&pod) {
            open.terms.send_if_modified(|now| {
                let is_new = **now != terms;
                if is_new {
                    *now = Arc::new(terms);
                }
                is_new
            });
        }
    }

    /// Closes a pod's gate, and with it the connections that it has.
    pub fn close(&mut self, pod: CgroupId) {
        self.open.remove(&pod);
    }

    /// Takes note that a gate does not listen any more, and says whether it was its pod's only one.
    pub fn is_closed(&mut self, pod: CgroupId, gate: Gate) -> bool {
        let was_open = self.gate(pod) == Some(gate);
        if was_open {
            self.open.remove(&pod);
        }
        was_open
    }

    fn sandbox(&self, folder: &Path, pod: &Pod) -> io::Result<Option<Sandbox>> {
        if pod.workload.host_network {
            return Ok(Some(Sandbox { namespace: self.host.try_clone()?, holder: Holder::Host }));
        }
        let is_listed = |name: &str| {
            pods::container_of(name).is_some_and(|container| pod.containers.contains_key(&container))
        };
        sandbox::find(folder, is_listed, self.host.metadata()?.ino(), &self.pod_networks)
    }

    fn order(&self, gate: NewGate) -> Result<(), DoorError> {
        self.orders.send(gate).map_err(|_| DoorError::Ended)
    }

    /// All ports that no gate has, from the one after the last that was given.
    fn free_ports(&self) -> Vec<u16> {
        let taken: std::collections::HashSet<_> = self.open.values().map(|open| open.gate.port).collect();
        let all = (self.next_port..=u16::MAX).chain(GATE_PORT_FIRST..self.next_port);
        all.filter(|port| !taken.contains(port)).collect()
    }
}

/// Starts the thread that serves gates, in the host's namespace: from there it asks IMDS. It ends with the agent.
fn start_serving(
    host: File,
    shared: impl FnOnce() -> Shared + Send + 'static,
    mut queue: mpsc::UnboundedReceiver<NewGate>,
) -> Result<(), DoorError> {
    let (tell, told) = sync_channel(1);
    let work = move || {
        let runtime = enter(&host).and_then(|()| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(DoorError::Thread)
        });
        match runtime {
            Ok(runtime) => {
                let _ = tell.send(Ok(()));
                LocalSet::new().block_on(&runtime, async {
                    let shared = Rc::new(shared());
                    while let Some(gate) = queue.recv().await {
                        tokio::task::spawn_local(serve::serve(gate, Rc::clone(&shared)));
                    }
                });
            }
            Err(error) => drop(tell.send(Err(error))),
        }
    };
    thread::Builder::new().name("gate".to_owned()).spawn(work).map_err(DoorError::Thread)?;
    told.recv().map_err(|_| DoorError::Ended)?
}
