//! The agent may do what it needs, and nothing else. Alone in this program: names in the cluster are fixed.

use anyhow::{Context, Result, bail};
use guard_cluster::Cluster;
use guard_cluster::manifests::{Made, kustomized, list};

#[test]
fn the_agent_may_do_what_it_needs_and_nothing_else() -> Result<()> {
    let cluster = Cluster::attach()?;
    let made = Made::apply(&cluster, rights(&cluster, &[])?)?;
    for (action, allowed) in RIGHTS {
        judge(&cluster, action, *allowed)?;
    }
    judge(&cluster, "patch nodes", true)?;
    drop(made);
    let _made = Made::apply(&cluster, rights(&cluster, &["without-startup-taint"])?)?;
    judge(&cluster, "get nodes", true)?;
    judge(&cluster, "patch nodes", false)
}

/// What the agent may do, whether it removes the start-up taint or not. Without a namespace: in all of them.
const RIGHTS: &[(&str, bool)] = &[
    // The pods of its node, and what they are known by.
    ("get pods", true),
    ("list pods", true),
    ("watch pods", true),
    ("get namespaces", true),
    ("get serviceaccounts", true),
    ("get nodes", true),
    ("get replicasets.apps", true),
    ("get jobs.batch", true),
    // The policy.
    ("get configmaps/imds-guard-policy --namespace=imds-guard", true),
    ("list configmaps/imds-guard-policy --namespace=imds-guard", true),
    ("watch configmaps/imds-guard-policy --namespace=imds-guard", true),
    // What it tells.
    ("create events.events.k8s.io", true),
    ("patch events.events.k8s.io", true),
    // Nothing secret is read, by no way.
    ("get secrets", false),
    ("get secrets --namespace=imds-guard", false),
    ("list secrets --namespace=imds-guard", false),
    ("create serviceaccounts --subresource=token", false),
    ("create serviceaccounts --subresource=token --namespace=imds-guard", false),
    ("impersonate serviceaccounts", false),
    ("create pods --subresource=exec", false),
    ("create pods --subresource=exec --namespace=imds-guard", false),
    ("get pods --subresource=log", false),
    ("get nodes --subresource=proxy", false),
    // No other ConfigMap, and not that one elsewhere; and it writes no policy.
    ("get configmaps --namespace=imds-guard", false),
    ("list configmaps --namespace=imds-guard", false),
    ("get configmaps/other --namespace=imds-guard", false),
    ("get configmaps/imds-guard-policy --namespace=default", false),
    ("update configmaps/imds-guard-policy --namespace=imds-guard", false),
    ("patch configmaps/imds-guard-policy --namespace=imds-guard", false),
    ("delete configmaps/imds-guard-policy --namespace=imds-guard", false),
    // It looks things up one by one.
    ("list namespaces", false),
    ("watch namespaces", false),
    ("list serviceaccounts", false),
    ("list nodes", false),
    ("watch nodes", false),
    ("list replicasets.apps", false),
    ("list jobs.batch", false),
    ("get deployments.apps", false),
    ("get daemonsets.apps --namespace=imds-guard", false),
    ("list events.events.k8s.io", false),
    // It changes nothing.
    ("create pods", false),
    ("create pods --namespace=imds-guard", false),
    ("patch pods", false),
    ("delete pods", false),
    ("create pods --subresource=eviction", false),
    ("update nodes", false),
    ("delete nodes", false),
    ("patch nodes --subresource=status", false),
    ("patch namespaces", false),
    ("patch serviceaccounts", false),
    ("create events", false),
    ("delete events.events.k8s.io", false),
    ("patch daemonsets.apps --namespace=imds-guard", false),
    ("create clusterrolebindings.rbac.authorization.k8s.io", false),
    ("escalate clusterroles.rbac.authorization.k8s.io", false),
    ("bind clusterroles.rbac.authorization.k8s.io", false),
    ("create rolebindings.rbac.authorization.k8s.io --namespace=imds-guard", false),
];

/// Waits until the API server says of an action of the agent's what is expected: it knows new roles a moment later.
fn judge(cluster: &Cluster, action: &str, allowed: bool) -> Result<()> {
    cluster.wait_for(
        &format!("`{action}` to be {}", if allowed { "allowed" } else { "refused" }),
        |cluster| {
            let mut command = cluster.kubectl_command()?;
            command.args(["auth", "can-i", "--as=system:serviceaccount:imds-guard:imds-guard"]);
            command.args(action.split(' '));
            if !action.contains("--namespace") {
                command.arg("--all-namespaces");
            }
            let output = command.output().context("start kubectl in the node")?;
            match String::from_utf8_lossy(&output.stdout).trim() {
                "yes" => Ok(allowed.then_some(())),
                "no" => Ok((!allowed).then_some(())),
                other => bail!("{other}{}", String::from_utf8_lossy(&output.stderr)),
            }
        },
    )
}

/// What says what the agent may do, of all that kustomize renders.
fn rights(cluster: &Cluster, components: &[&str]) -> Result<String> {
    let mut objects = kustomized(cluster, components)?;
    let kinds = ["Namespace", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"];
    objects.retain(|object| kinds.iter().any(|kind| object["kind"] == *kind));
    Ok(list(&objects).to_string())
}
