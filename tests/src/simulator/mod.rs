//! A simulator of the EC2 Instance Metadata Service and of the Pod Identity agent, as strict as the real ones.
//!
//! It owns what the services answer and the record of what reached them: tests judge an attack by what was seen
//! here, not by what the attacker says. It knows nothing of policies, pods or the guard. A UDP echo stands on the
//! same ports, so that attacks over UDP have bytes to win.
//!
//! TCP fast open needs `net.ipv4.tcp_fastopen` in the simulator's namespace, which [`Node`](crate::Node) sets.

mod answer;
mod hop_limit;
mod lenient;
mod lines;
mod metadata;
mod record;
mod serve;
mod token;

use std::convert::Infallible;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::namespace::Namespace;
use answer::Rules;
pub use answer::resolve;
use hop_limit::HopLimit;
pub use lenient::Key;
pub use metadata::{NODE_ROLE, SECRETS};
pub use record::{Line, Request, Seen, Traffic};
use serve::{Opened, Shared};

/// The IPv4 address of IMDS.
pub const IMDS_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The IPv6 address of IMDS.
pub const IMDS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
/// The IPv4 address of the Pod Identity agent.
pub const POD_IDENTITY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 170, 23);
/// The IPv6 address of the Pod Identity agent.
pub const POD_IDENTITY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23);

/// Which service stands behind an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    Imds,
    PodIdentity,
}

/// A service and where it listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub service: Service,
    pub address: SocketAddr,
}

impl Endpoint {
    /// The four endpoints as a pod on EKS sees them.
    pub fn on_eks() -> [Self; 4] {
        let at = |service, ip: IpAddr| Self { service, address: SocketAddr::new(ip, 80) };
        [
            at(Service::Imds, IMDS_V4.into()),
            at(Service::Imds, IMDS_V6.into()),
            at(Service::PodIdentity, POD_IDENTITY_V4.into()),
            at(Service::PodIdentity, POD_IDENTITY_V6.into()),
        ]
    }
}

/// The versions of IMDS that are answered; AWS calls these the instance's metadata options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// Tokens are optional.
    V1AndV2,
    /// Tokens are required.
    V2Only,
    /// IMDS is switched off: 403 for everything.
    Off,
}

/// A running simulator. Dropping it ends it and closes its sockets.
#[derive(Debug)]
pub struct Simulator {
    endpoints: Vec<Endpoint>,
    shared: Arc<Shared>,
    /// Dropping the sender is the signal to stop.
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Simulator {
    /// Starts on a thread of its own, inside `namespace` if one is given, and returns once it listens everywhere.
    pub fn start(namespace: Option<Namespace>, endpoints: &[Endpoint], versions: Versions) -> Result<Self> {
        let shared = Arc::new(Shared {
            rules: Rules::new(versions),
            record: record::Record::default(),
            hop_limit_of_tokens: HopLimit::default(),
        });
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = mpsc::channel();
        let (wanted, thread_shared) = (endpoints.to_vec(), Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("simulator".to_owned()).spawn(move || {
            match open(namespace.as_ref(), &wanted) {
                Ok((runtime, opened)) => {
                    let endpoints = opened.iter().map(Opened::endpoint).collect();
                    let served = runtime.block_on(async {
                        opened.into_iter().try_for_each(|socket| socket.serve(&thread_shared))?;
                        Ok(endpoints)
                    });
                    // The receiver is gone only when the starter is, and then the next line returns at once.
                    let _ = tell.send(served);
                    let _ = runtime.block_on(stopped);
                }
                Err(error) => {
                    let _ = tell.send(Err(error));
                }
            }
        })?;
        let endpoints = told.recv().context("the simulator's thread died")??;
        Ok(Self { endpoints, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens, with the ports that were chosen.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Changes which versions of IMDS are answered from now on.
    pub fn serve_versions(&self, versions: Versions) {
        self.shared.rules.serve_versions(versions);
    }

    /// Lets the answers with session tokens get so many hops far from now on: with 1, as EC2 has it unless told
    /// otherwise, they reach the node and are lost on the way to its pods.
    pub fn set_hop_limit_of_tokens(&self, hops: u8) {
        self.shared.hop_limit_of_tokens.set(hops);
    }

    /// Everything that reached the simulator since it started or last forgot.
    pub fn seen(&self) -> Seen {
        self.shared.record.copy()
    }

    /// Writes every request from now on into `file` too, as a line of JSON, before it is answered.
    pub fn write_requests_to(&self, file: File) {
        self.shared.record.write_to(file);
    }

    /// Begins a new record.
    pub fn forget(&self) {
        self.shared.record.forget();
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has already been printed.
            let _ = thread.join();
        }
    }
}

fn open(
    namespace: Option<&Namespace>,
    endpoints: &[Endpoint],
) -> Result<(tokio::runtime::Runtime, Vec<Opened>)> {
    namespace.map_or(Ok(()), Namespace::enter)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    let opened = endpoints.iter().map(|endpoint| Opened::open(*endpoint)).collect::<Result<_>>()?;
    Ok((runtime, opened))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpStream, UdpSocket};
    use std::time::Duration;

    use super::*;

    fn on_loopback(versions: Versions) -> Simulator {
        let endpoint = |service, ip: &str| Endpoint {
            service,
            address: SocketAddr::new(ip.parse().expect("an address"), 0),
        };
        let endpoints = [endpoint(Service::Imds, "127.0.0.1"), endpoint(Service::PodIdentity, "127.0.0.1")];
        Simulator::start(None, &endpoints, versions).expect("loopback is there")
    }

    fn exchange(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).expect("the simulator listens");
        stream.write_all(request.as_bytes()).expect("send the request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read the answer");
        answer
    }

    #[test]
    fn a_client_gets_a_token_and_credentials_and_is_seen() {
        let simulator = on_loopback(Versions::V2Only);
        let imds = simulator.endpoints()[0].address;
        let put = "PUT /latest/api/token HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\
                   X-aws-ec2-metadata-token-ttl-seconds: 1\r\n\r\n";
        let answer = exchange(imds, put);
        assert!(answer.contains("x-aws-ec2-metadata-token-ttl-seconds: 1\r\n"), "{answer}");
        let token = answer.rsplit("\r\n").next().expect("a body");
        let get = format!(
            "GET /latest/meta-data/iam/security-credentials/{NODE_ROLE} HTTP/1.1\r\nHost: h\r\n\
             Connection: close\r\nX-aws-ec2-metadata-token: {token}\r\n\r\n"
        );
        assert!(exchange(imds, &get).contains("\"AccessKeyId\""));
        crate::wait_until(Duration::from_secs(3), "the token to expire", || {
            exchange(imds, &get).contains(" 401 ")
        })
        .expect("a token of one second expires");

        let seen = simulator.seen();
        assert_eq!(seen.requests[0].status, 200);
        assert_eq!(seen.requests[0].headers, ["host", "connection", "x-aws-ec2-metadata-token-ttl-seconds"]);
        assert_eq!((seen.requests[1].method.as_str(), seen.requests[1].status), ("GET", 200));
        assert!(seen.of(imds.ip()).connections >= 3);
        simulator.forget();
        assert!(simulator.seen().requests.is_empty());
    }

    #[test]
    fn bytes_are_counted_for_tcp_and_udp_alike() {
        let simulator = on_loopback(Versions::V1AndV2);
        let imds = simulator.endpoints()[0].address;
        let answer = exchange(imds, "GET /latest/meta-data/mac HTTP/1.0\r\n\r\n");
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket.send_to(b"12345", imds).expect("send");
        assert_eq!(socket.recv(&mut [0; 16]).expect("the echo"), 5);
        let traffic = simulator.seen().of(imds.ip());
        assert_eq!(traffic, Traffic { connections: 1, datagrams: 1, bytes_sent: answer.len() as u64 + 5 });
    }

    #[test]
    fn the_versions_can_be_changed_while_it_runs() {
        let simulator = on_loopback(Versions::V1AndV2);
        let imds = simulator.endpoints()[0].address;
        let get = "GET /latest/meta-data/mac HTTP/1.0\r\n\r\n";
        for (versions, status) in
            [(Versions::V1AndV2, "200"), (Versions::V2Only, "401"), (Versions::Off, "403")]
        {
            simulator.serve_versions(versions);
            assert!(exchange(imds, get).starts_with(&format!("HTTP/1.0 {status}")), "{versions:?}");
        }
    }

    #[test]
    fn pod_identity_has_an_endpoint_of_its_own() {
        let simulator = on_loopback(Versions::Off);
        let address = simulator.endpoints()[1].address;
        let answer = exchange(address, "GET /v1/credentials HTTP/1.0\r\nAuthorization: a-token\r\n\r\n");
        assert!(answer.contains("ASIAPODIDENTITY"), "{answer}");
        assert_eq!(simulator.seen().requests[0].service, Service::PodIdentity);
    }
}
