use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};

use socket2::{SockRef, Socket};
use tokio::net::TcpStream;

/// How far the answers with session tokens get; AWS calls it the hop limit of the instance's metadata options.
/// 0: as far as any packet.
#[derive(Debug, Default)]
pub(super) struct HopLimit(AtomicU8);

/// A connection on which a token may go out.
#[derive(Debug)]
pub(super) struct Limited {
    socket: Socket,
    is_ipv6: bool,
    hops: u8,
}

impl HopLimit {
    pub(super) fn set(&self, hops: u8) {
        self.0.store(hops, Ordering::Relaxed);
    }

    /// Prepares a new connection; `None` where there is no limit.
    pub(super) fn prepare(&self, stream: &TcpStream, peer: SocketAddr) -> io::Result<Option<Limited>> {
        let hops = self.0.load(Ordering::Relaxed);
        if hops == 0 {
            return Ok(None);
        }
        Ok(Some(Limited { socket: SockRef::from(stream).try_clone()?, is_ipv6: peer.is_ipv6(), hops }))
    }
}

impl Limited {
    /// From now on nothing that is sent on the connection gets further. That is no more than AWS does: what follows a
    /// lost answer doesn't reach the client either, for TCP keeps the order.
    pub(super) fn impose(&self) -> io::Result<()> {
        let hops = self.hops.into();
        if self.is_ipv6 { self.socket.set_unicast_hops_v6(hops) } else { self.socket.set_ttl_v4(hops) }
    }
}
