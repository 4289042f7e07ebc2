use std::path::PathBuf;

use super::*;
use crate::kernel::probe::{AttachedProgram, BackstopSupport};

/// A host on which everything is there.
fn mk_facts() -> Facts {
    Facts {
        kernel_release: "6.12.40-63.114.amzn2023.x86_64".to_owned(),
        cgroup_mount: Some(CgroupMount { path: "/sys/fs/cgroup".into(), hierarchy: Hierarchy::Pure }),
        guarded_root: Some("kubepods.slice".into()),
        btf: true,
        bpffs: true,
        capabilities: Capabilities(u64::MAX),
        set_retval: Support::Yes,
        ring_buffer: Support::Yes,
        socket_storage: Support::Yes,
        request_audit: Support::Yes,
        backstop: BackstopSupport {
            forward: Support::Yes,
            bypass: Support::Yes,
            uplink: Support::Yes,
            options: Support::Yes,
        },
        namespace_id: Support::Yes,
        socket_destroy: Support::Yes,
        attachments: Ok(Vec::new()),
        locked_memory: Some(64 << 10),
    }
}

fn mk_attachment(hook: &'static str, levels_up: usize, sharing: Sharing) -> Attachment {
    let cgroup = PathBuf::from(if levels_up == 0 { "/c/kubepods.slice" } else { "/c" });
    let programs = vec![AttachedProgram { id: 7, name: Some("sd_fw_egress".to_owned()) }];
    Attachment { hook, cgroup, levels_up, sharing, programs }
}

fn judged(change: impl FnOnce(&mut Facts), feature: &str) -> Option<Finding> {
    let mut facts = mk_facts();
    change(&mut facts);
    judge(&facts, &Endpoints::aws()).into_iter().find(|finding| finding.feature == feature)
}

#[test]
fn a_host_with_everything_is_ok_throughout() {
    for finding in judge(&mk_facts(), &Endpoints::aws()) {
        assert_eq!((finding.state, finding.follows), (State::Ok, None), "{}", finding.item);
    }
}

#[test]
fn every_fact_is_judged() {
    use State::{Degraded, Missing, Ok};
    type Case = (&'static str, fn(&mut Facts), &'static str, State);
    let cases: [Case; 33] = [
        ("no nftables", |f| f.backstop.forward = Support::No, "backstop_forward", Degraded),
        ("no program at uplinks", |f| f.backstop.uplink = Support::No, "backstop_uplink", Degraded),
        ("no filter at devices", |f| f.backstop.bypass = Support::No, "backstop_bypass", Degraded),
        ("no program for options", |f| f.backstop.options = Support::No, "af_xdp", Degraded),
        (
            "a trial that failed",
            |f| f.backstop.forward = Support::Unknown("no".into()),
            "backstop_forward",
            Degraded,
        ),
        ("the oldest full kernel", |f| f.kernel_release = "6.1.0-18-cloud-amd64".into(), "kernel", Ok),
        ("a kernel before it", |f| f.kernel_release = "5.15.0".into(), "kernel", Degraded),
        ("the oldest kernel", |f| f.kernel_release = "5.10.245".into(), "kernel", Degraded),
        ("a kernel too old", |f| f.kernel_release = "5.4.0-1".into(), "kernel", Missing),
        ("a release that says nothing", |f| f.kernel_release = String::new(), "kernel", Missing),
        ("no capability", |f| f.capabilities = Capabilities(0), "capabilities", Missing),
        (
            "no CAP_BPF, which CAP_SYS_ADMIN holds",
            |f| f.capabilities = Capabilities(!(1 << 39)),
            "capabilities",
            Ok,
        ),
        ("no CAP_SYS_ADMIN", |f| f.capabilities = Capabilities(!(1 << 21)), "capabilities", Degraded),
        ("no CAP_SYS_PTRACE", |f| f.capabilities = Capabilities(!(1 << 19)), "capabilities", Degraded),
        ("no CAP_NET_ADMIN", |f| f.capabilities = Capabilities(!(1 << 12)), "capabilities", Missing),
        ("no cgroup v2", |f| f.cgroup_mount = None, "cgroup2", Missing),
        ("hybrid", |f| mount(f).hierarchy = Hierarchy::Hybrid, "cgroup2", Degraded),
        ("a wrong mount", |f| mount(f).hierarchy = Hierarchy::NotCgroup2, "cgroup2", Missing),
        ("no kubelet yet", |f| f.guarded_root = None, "guarded_root", Degraded),
        ("no ring buffer", |f| f.ring_buffer = Support::No, "ring_buffer", Missing),
        ("no socket storage", |f| f.socket_storage = Support::No, "socket_storage", Missing),
        ("no set_retval", |f| f.set_retval = Support::No, "set_retval", Degraded),
        ("no id of namespaces", |f| f.namespace_id = Support::No, "gate", Degraded),
        ("no end of connections", |f| f.socket_destroy = Support::No, "socket_destroy", Degraded),
        ("no way into namespaces", |f| f.capabilities = Capabilities(!(1 << 19)), "gate", Degraded),
        ("no look at requests", |f| f.request_audit = Support::No, "request_audit", Degraded),
        ("no privileges", |f| f.set_retval = Support::Unknown("EPERM".into()), "set_retval", Missing),
        ("no privileges to list", |f| f.attachments = Err("EPERM".into()), "attach", Missing),
        ("no BTF", |f| f.btf = false, "btf", Ok),
        ("no bpffs", |f| f.bpffs = false, "pins", Degraded),
        ("little memory to lock", |f| f.kernel_release = "5.10.245".into(), "locked_memory", Missing),
        ("enough memory to lock", |f| limit(f, Some(64 << 20)), "locked_memory", Ok),
        ("any memory to lock", |f| limit(f, None), "locked_memory", Ok),
    ];
    for (case, change, feature, state) in cases {
        let finding = judged(change, feature).expect(case);
        assert_eq!(finding.state, state, "{case}");
        assert_eq!(finding.follows.is_some(), state != Ok, "{case}");
        assert!(!finding.found.is_empty(), "{case}");
    }
    assert_eq!(judged(|_| {}, "locked_memory"), None, "not a matter of newer kernels");
}

fn mount(facts: &mut Facts) -> &mut CgroupMount {
    facts.cgroup_mount.as_mut().expect("mounted")
}

fn limit(facts: &mut Facts, bytes: Option<u64>) {
    facts.kernel_release = "5.10.245".to_owned();
    facts.locked_memory = bytes;
}

#[test]
fn other_programs_matter_as_they_do_to_the_kernel() {
    use Sharing::{Exclusive, Overridable, Shared};
    const CONNECT: &str = "cgroup/connect4";
    const EGRESS: &str = "cgroup_skb/egress";
    let cases = [
        ("none", vec![], State::Ok),
        ("shared ones everywhere", vec![(CONNECT, 0, Shared), (CONNECT, 1, Shared)], State::Ok),
        ("an exclusive one at the root", vec![(EGRESS, 0, Exclusive)], State::Missing),
        ("an overridable one at the root", vec![(EGRESS, 0, Overridable)], State::Missing),
        ("an exclusive one above", vec![(CONNECT, 0, Shared), (EGRESS, 2, Exclusive)], State::Missing),
        ("an overridable one above", vec![(EGRESS, 1, Overridable)], State::Degraded),
        ("overridden already", vec![(EGRESS, 0, Shared), (EGRESS, 1, Overridable)], State::Ok),
        ("an exclusive one above a shared one", vec![(EGRESS, 1, Shared), (EGRESS, 2, Exclusive)], State::Ok),
    ];
    for (case, attached, state) in cases {
        let attached =
            attached.into_iter().map(|(hook, up, sharing)| mk_attachment(hook, up, sharing)).collect();
        let finding = judged(|facts| facts.attachments = Ok(attached), "attach").expect("always judged");
        assert_eq!(finding.state, state, "{case}");
    }
}

#[test]
fn a_program_that_shuts_others_out_is_named_with_the_remedy() {
    let attached = vec![mk_attachment("cgroup_skb/egress", 1, Sharing::Exclusive)];
    let finding = judged(|facts| facts.attachments = Ok(attached), "attach").expect("always judged");
    assert_eq!(finding.found, "cgroup_skb/egress at /c: sd_fw_egress (id 7) lets no other in");
    let follows = finding.follows.expect("something follows");
    assert!(follows.ends_with("or detach it: `bpftool cgroup detach /c egress id 7`"), "{follows}");
}

#[test]
fn the_json_keeps_its_form() {
    let finding = judged(|facts| facts.set_retval = Support::No, "set_retval").expect("always judged");
    let expected = serde_json::json!({
        "feature": "set_retval",
        "item": "errno of a denial",
        "state": "degraded",
        "found": "EPERM: the kernel has no bpf_set_retval (Linux 5.18)",
        "follows": "denied pods fail with `operation not permitted`, which reads like a fault of their own",
    });
    assert_eq!(serde_json::to_value(finding).expect("plain data"), expected);
}
