use std::io::{self, BufRead as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fmt};

use anyhow::{Context, Result};
use clap::ValueEnum;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::place::Place;
use crate::process::Process;

/// The hidden argument that makes `guard-bench` a worker.
const ARGUMENT: &str = "worker";

/// As much as a small request.
const PAYLOAD: [u8; 64] = [0; 64];

/// One call in so many is made before the clock starts: caches and branch predictors have other work between rounds.
const WARM_UP: u32 = 8;

/// What is measured: one system call, or two that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Call {
    /// `connect` of a datagram socket: no packet leaves, so that nothing hides the hook.
    Connect,
    /// `send` on a connected datagram socket.
    Send,
    /// `sendto` on a datagram socket that is never connected.
    SendTo,
    /// `socket` and `close`.
    Socket,
}

impl Call {
    /// Makes the call so many times, on a socket of its own, and tells how long that took.
    ///
    /// Datagrams go over loopback to a socket that nobody reads: once its buffer is full, every datagram takes the
    /// same way to the same end.
    fn time(self, calls: u32) -> io::Result<Duration> {
        let receiver = datagram_socket()?;
        // The kernel makes of it the smallest size it knows.
        receiver.set_recv_buffer_size(0)?;
        receiver.bind(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into())?;
        let target = receiver.local_addr()?;
        let socket = datagram_socket()?;
        match self {
            Self::Connect => time(calls, || socket.connect(&target)),
            Self::Send => {
                socket.connect(&target)?;
                time(calls, || socket.send(&PAYLOAD))
            }
            Self::SendTo => send_to(calls, &socket, &target),
            Self::Socket => time(calls, datagram_socket),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect()",
            Self::Send => "send(), 64 bytes, connected",
            Self::SendTo => "sendto(), 64 bytes, unconnected",
            Self::Socket => "socket() and close()",
        })
    }
}

fn datagram_socket() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::DGRAM, None)
}

fn send_to(calls: u32, socket: &Socket, target: &SockAddr) -> io::Result<Duration> {
    time(calls, || socket.send_to(&PAYLOAD, target))
}

fn time<T>(calls: u32, mut call: impl FnMut() -> io::Result<T>) -> io::Result<Duration> {
    for _ in 0..calls / WARM_UP {
        call()?;
    }
    let start = Instant::now();
    for _ in 0..calls {
        call()?;
    }
    Ok(start.elapsed())
}

/// A process that makes calls when it is told to, wherever it was started.
#[derive(Debug)]
pub(super) struct Worker(Process);

impl Worker {
    pub(super) fn start(place: &Place) -> Result<Self> {
        let mut command = Command::new(env::current_exe().context("find the running executable")?);
        command.arg(ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::piped());
        place.spawn(command).map(Self)
    }

    /// Nanoseconds per call, over so many calls.
    pub(super) fn measure(&mut self, call: Call, calls: u32) -> Result<f64> {
        let name = call.to_possible_value().context("every call has a name")?;
        self.0.write_line(&format!("{} {calls}", name.get_name()))?;
        let answer = self.0.read_line().with_context(|| format!("measure {call}"))?;
        let nanoseconds: f64 = answer.parse().with_context(|| format!("no number: {answer:?}"))?;
        Ok(nanoseconds / f64::from(calls))
    }
}

/// Is a worker: reads lines such as `connect 200000`, makes the calls, and answers with nanoseconds.
pub fn serve() -> Result<()> {
    settle()?;
    for line in io::stdin().lock().lines() {
        let line = line.context("read an order")?;
        let order = line
            .split_once(' ')
            .and_then(|(call, calls)| Some((Call::from_str(call, false).ok()?, calls.parse::<u32>().ok()?)));
        let (call, calls) = order.with_context(|| format!("no order: {line:?}"))?;
        let took = call.time(calls).with_context(|| format!("{call}"))?;
        println!("{}", took.as_nanos());
        io::stdout().flush()?;
    }
    Ok(())
}

/// Keeps this process on one CPU, the last one that it may use: the first has most of the machine's other work.
fn settle() -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).context("ask which CPUs are there")?;
    let last = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu) == Ok(true));
    let mut only = CpuSet::new();
    only.set(last.context("no CPU is there")?)?;
    sched_setaffinity(this, &only).context("stay on one CPU")?;
    go_first();
    Ok(())
}

/// Goes before whatever else wants the CPU. A kernel that refuses makes timings less steady and no less true.
#[expect(unsafe_code, reason = "nix has no sched_setscheduler")]
fn go_first() {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: `lowest` outlives the call, which reads it and changes nothing but this process's class.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const lowest) };
}
