//! What there can be of the backstop, and what gets past where a part is missing.

use super::{Finding, Item, Support, item};

pub(super) fn forward(support: &Support) -> Finding {
    judge(
        item("backstop_forward", "backstop: sent on"),
        support,
        "by nftables",
        "the kernel has no nftables for both protocols (nf_tables, nf_tables_inet)",
        "pods with CAP_NET_RAW reach IMDS by packet sockets",
    )
}

pub(super) fn uplink(support: &Support) -> Finding {
    judge(
        item("backstop_uplink", "backstop: uplinks"),
        support,
        "by tc programs",
        "the kernel does not take the program",
        "hostNetwork pods with CAP_NET_RAW reach IMDS by packet sockets",
    )
}

pub(super) fn bypass(support: &Support) -> Finding {
    judge(
        item("backstop_bypass", "backstop: past the queues"),
        support,
        "by nftables",
        "nftables sees no frames that leave: that needs Linux 5.16 and CONFIG_IP_ROUTE_CLASSID",
        "packet sockets that were set to pass the queues before their pod was enforced reach IMDS",
    )
}

pub(super) fn options(support: &Support) -> Finding {
    judge(
        item("af_xdp", "backstop: AF_XDP"),
        support,
        "denied hostNetwork pods may not set it up",
        "the kernel does not take the program that judges options of sockets",
        "hostNetwork pods with CAP_NET_RAW reach IMDS by AF_XDP, and past the queues",
    )
}

fn judge(item: Item, support: &Support, found: &str, lacking: &str, follows: &str) -> Finding {
    match support {
        Support::Yes => item.ok(found),
        Support::No => item.degraded(lacking, follows),
        Support::Unknown(reason) => item.degraded(format!("not known: {reason}"), follows),
    }
}
