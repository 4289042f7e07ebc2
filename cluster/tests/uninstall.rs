//! The guard outlives its agent, until it is removed: then nothing of it is left on the node, and pods are as before.

use anyhow::{Result, ensure};
use guard_cluster::guard::{Answer, Guard, ask_imds, deploy, left_on_node};
use guard_cluster::manifests::Made;
use guard_cluster::{Cluster, Namespace};

const DENY_ALL: &str = "version: 1\nenforce: all\ndefault: { imds: deny }\n";

#[test]
fn without_an_agent_the_guard_stands_until_the_nodes_are_cleaned_up() -> Result<()> {
    let cluster = Cluster::attach()?;
    let shop = Namespace::create(&cluster, "shop")?;
    shop.add_pod("cart", "")?;
    shop.add_pod("prober", "hostNetwork: true")?;
    let pods = ["cart", "prober"];
    let answers = || -> Result<Vec<Answer>> {
        pods.iter().map(|pod| ask_imds(&cluster, shop.name(), pod, None)).collect()
    };
    let before = answers()?;
    ensure!(before.iter().all(|answer| *answer == Answer::Answered), "{before:?}");

    let guard = Guard::install(&cluster, "base", DENY_ALL)?;
    ensure!(answers()?.iter().all(|answer| *answer == Answer::Denied));
    guard.delete()?;
    let alone = answers()?;
    ensure!(alone.iter().all(|answer| *answer == Answer::Refused), "the kernel goes on deciding: {alone:?}");
    ensure!(!left_on_node(&cluster)?.is_empty());

    let cleanup = std::fs::read_to_string(deploy().join("cleanup.yaml"))?;
    let cleaning = Made::apply(&cluster, cleanup)?;
    let rollout = ["rollout", "status", "daemonset/imds-guard-cleanup", "--timeout=100s"];
    cluster.kubectl(&[&rollout[..], &["--namespace", "imds-guard-cleanup"]].concat())?;
    let left = left_on_node(&cluster)?;
    ensure!(left.is_empty(), "left: {left:?}");
    drop(cleaning);
    let after = answers()?;
    ensure!(after == before, "{after:?}");
    Ok(())
}
