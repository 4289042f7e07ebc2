use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use clap::Args;

use super::handmade::Conversation;

/// What a scene has to have ready for some of the vectors, beside IMDS.
#[derive(Clone, Debug, Default, Args)]
pub struct Props {
    /// A device that is not on the way to IMDS
    #[arg(long)]
    pub device: Option<String>,
    /// An address of somebody who may reach IMDS
    #[arg(long)]
    pub claim: Option<Ipv4Addr>,
    /// An address of the node, which routes and unwraps what comes to it
    #[arg(long)]
    pub router: Option<Ipv4Addr>,
    /// The same of IPv6
    #[arg(long)]
    pub router_ipv6: Option<Ipv6Addr>,
    /// An address that the node translates into that of IMDS
    #[arg(long)]
    pub service: Option<SocketAddr>,
    /// A process of somebody who may reach IMDS
    #[arg(long)]
    pub victim: Option<u32>,
    /// The descriptor of a socket in that process
    #[arg(long)]
    pub descriptor: Option<i32>,
    /// A conversation with IMDS that a predecessor at the same address began, in JSON
    #[arg(long)]
    pub conversation: Option<Conversation>,
}

impl Props {
    /// Them on the command line of `guard-attack run`.
    pub fn to_arguments(&self) -> Vec<String> {
        let given = [
            ("--device", self.device.clone()),
            ("--claim", self.claim.map(|address| address.to_string())),
            ("--router", self.router.map(|address| address.to_string())),
            ("--router-ipv6", self.router_ipv6.map(|address| address.to_string())),
            ("--service", self.service.map(|address| address.to_string())),
            ("--victim", self.victim.map(|process| process.to_string())),
            ("--descriptor", self.descriptor.map(|descriptor| descriptor.to_string())),
            ("--conversation", self.conversation.as_ref().map(ToString::to_string)),
        ];
        given.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?])).flatten().collect()
    }
}

/// What a vector can't do without: without it there is no attack, and nothing is said of whoever would be attacked.
pub(super) fn needed<T>(prop: Option<T>, what: &str) -> io::Result<T> {
    prop.ok_or_else(|| io::Error::other(format!("{what} is not given")))
}
