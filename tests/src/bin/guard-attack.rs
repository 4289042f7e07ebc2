//! Attacks IMDS from wherever it runs, and prints a line of JSON for every attack.
//!
//! It only reads the command line and prints; the attacks are in [`guard_tests::attack`].

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use guard_tests::attack::http::Family;
use guard_tests::attack::{self, Blow, Props, Target, Vector, http};
use guard_tests::simulator::{IMDS_V4, IMDS_V6};
use serde::Serialize;

/// Tries every known way of reaching IMDS from wherever it runs
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Perform attacks, all of those by sockets if none is named
    Run {
        vectors: Vec<Vector>,
        /// Move into this cgroup first
        #[arg(long)]
        move_to: Option<PathBuf>,
        #[command(flatten)]
        props: Props,
        #[command(flatten)]
        target: TargetArguments,
    },
    /// Make an exact number of attempts as fast as possible, waiting for no answer
    Hammer {
        #[arg(long)]
        kind: Blow,
        #[arg(long)]
        attempts: u64,
        #[command(flatten)]
        target: TargetArguments,
    },
    /// Repeat an attack until a line comes in or the time is up, printing each one that gets bytes
    Siege {
        vector: Vector,
        #[arg(long)]
        seconds: Option<u64>,
        #[command(flatten)]
        target: TargetArguments,
    },
    /// Send HTTP as no honest client writes it, hundreds of requests at a time, all of them if none is named
    Http {
        names: Vec<String>,
        #[arg(long, value_enum, default_value_t = Family::V4)]
        family: Family,
        /// Say what there is to name, and send nothing
        #[arg(long)]
        list: bool,
        #[command(flatten)]
        target: TargetArguments,
    },
    /// Turn on a gate itself
    #[command(subcommand)]
    Gate(Gate),
    /// Open a connection to IMDS by hand, leave it, and print what it takes to go on with it
    BeginConversation,
    /// Make a 32-bit program's system call: the kernel ends who makes one where it takes none
    #[command(name = attack::PROBE)]
    ProbeCompat,
    /// Hold two sockets, one that is connected to IMDS and one that is not, until a line comes in
    HoldSockets,
    /// Hand an unconnected TCP socket over to `run scm-rights`, through a unix socket on both standard inputs
    GiveSocket,
}

#[derive(Subcommand)]
enum Gate {
    /// Ask at an address and a port
    Ask { address: SocketAddr },
    /// The same by UDP
    AskByDatagram { address: SocketAddr },
    /// Listen on a port, in every way
    Take { port: u16 },
    /// Ask for each path that comes in on a line, all on one connection
    Converse { address: SocketAddr },
    /// Send a SYN for a port of the loopback address through a device
    Inject { device: String, mac: String, source: Ipv4Addr, port: u16 },
    /// Hold connections open until a line comes in
    Hold { address: SocketAddr, count: usize },
}

#[derive(Args)]
struct TargetArguments {
    #[arg(long, default_value_t = IMDS_V4)]
    ipv4: Ipv4Addr,
    #[arg(long, default_value_t = IMDS_V6)]
    ipv6: Ipv6Addr,
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// The cgroup that this process is in, for attacks that make one below it
    #[arg(long)]
    cgroup: Option<PathBuf>,
}

impl From<TargetArguments> for Target {
    fn from(TargetArguments { ipv4, ipv6, port, cgroup }: TargetArguments) -> Self {
        Self { ipv4, ipv6, port, cgroup, props: Props::default() }
    }
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Run { vectors, move_to, props, target } => {
            if let Some(cgroup) = move_to {
                fs::write(cgroup.join("cgroup.procs"), "0")
                    .with_context(|| format!("enter {}", cgroup.display()))?;
            }
            run(&vectors, &Target { props, ..target.into() })
        }
        Command::Hammer { kind, attempts, target } => print(&attack::hammer(kind, &target.into(), attempts)?),
        Command::Siege { vector, seconds, target } => siege(vector, seconds, &target.into()),
        Command::Http { list: true, .. } => list(),
        Command::Http { names, family, target, .. } => http(&names, family, &target.into()),
        Command::Gate(gate) => turn_on(gate),
        Command::BeginConversation => {
            print(&attack::begin_conversation(&imds()).context("begin a conversation")?)
        }
        Command::ProbeCompat => attack::probe().context("make a 32-bit system call"),
        Command::HoldSockets => attack::hold_sockets(&imds(), print).context("hold sockets"),
        Command::GiveSocket => attack::give_socket().context("hand a socket over"),
    }
}

fn imds() -> Target {
    Target { ipv4: IMDS_V4, ipv6: IMDS_V6, port: 80, cgroup: None, props: Props::default() }
}

fn run(vectors: &[Vector], target: &Target) -> Result<()> {
    let of_sockets: Vec<Vector> = Vector::of_sockets().collect();
    let vectors = if vectors.is_empty() { &of_sockets } else { vectors };
    vectors.iter().try_for_each(|vector| print(&vector.perform(target)))
}

fn turn_on(gate: Gate) -> Result<()> {
    match gate {
        Gate::Ask { address } => print(&attack::gate::ask(address)),
        Gate::AskByDatagram { address } => print(&attack::gate::ask_by_datagram(address)),
        Gate::Take { port } => print(&attack::gate::take_port(port)),
        Gate::Converse { address } => {
            let next = || io::stdin().lines().next()?.ok();
            attack::gate::converse(address, next, |said| print(said).map_err(io::Error::other))
                .context("converse")
        }
        Gate::Inject { device, mac, source, port } => {
            let bytes = mac.split(':').map(|byte| u8::from_str_radix(byte, 16));
            let mac: Vec<u8> = bytes.collect::<Result<_, _>>().context("read the MAC address")?;
            let mac = mac.try_into().map_err(|_| anyhow::anyhow!("a MAC address has six bytes"))?;
            print(&attack::gate::inject(&device, mac, source, port))
        }
        Gate::Hold { address, count } => {
            let held = attack::gate::hold_connections(address, count, || {
                wait_for_line();
            });
            print(&held)
        }
    }
}

/// Says that it is ready, and waits for a line. The end of the input is an end as well.
fn wait_for_line() {
    println!("ready");
    let _ = io::stdin().read_line(&mut String::new());
}

fn list() -> Result<()> {
    let mut stdout = io::stdout().lock();
    http::cases()
        .iter()
        .try_for_each(|case| writeln!(stdout, "{:50} {}", case.name, case.what).context("print"))
}

fn http(names: &[String], family: Family, target: &Target) -> Result<()> {
    let mut cases = http::cases();
    if let Some(unknown) = names.iter().find(|name| cases.iter().all(|case| case.name != **name)) {
        bail!("no case is called {unknown}: `guard-attack http --list` says which there are");
    }
    cases.retain(|case| names.is_empty() || names.contains(&case.name));
    let address = match family {
        Family::V4 => (target.ipv4, target.port).into(),
        Family::V6 => (target.ipv6, target.port).into(),
        Family::Mapped => (target.ipv4.to_ipv6_mapped(), target.port).into(),
    };
    let mut printed = Ok(());
    http::besiege(cases, address, |report| {
        if printed.is_ok() {
            printed = print(&report);
        }
    })?;
    printed
}

fn siege(vector: Vector, seconds: Option<u64>, target: &Target) -> Result<()> {
    let deadline = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let told = line_from_stdin();
    println!("ready");
    io::stdout().flush()?;
    let mut printed = Ok(());
    let won = |report: &attack::Report| {
        if report.outcome.got_bytes() && printed.is_ok() {
            printed = print(report);
        }
    };
    let enough = || told.try_recv().is_ok() || deadline.is_some_and(|deadline| Instant::now() >= deadline);
    let tally = attack::siege(vector, target, won, enough);
    printed?;
    print(&tally)
}

/// Tells once a line has come in. The end of the input is no line: a besieger may have none.
fn line_from_stdin() -> mpsc::Receiver<()> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        if matches!(io::stdin().read_line(&mut String::new()), Ok(1..)) {
            // Nobody listens once the time is up.
            let _ = tell.send(());
        }
    });
    told
}

fn print(line: &impl Serialize) -> Result<()> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, line)?;
    stdout.write_all(b"\n")?;
    stdout.flush().context("print")
}
