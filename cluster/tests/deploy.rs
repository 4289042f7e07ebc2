//! The manifests: chart and kustomize say the same, and a real API server takes it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use guard_cluster::guard::{NAMESPACE, clean_node, deploy, left_on_node};
use guard_cluster::manifests::{Made, kustomized, list, objects};
use guard_cluster::{AGENT_IMAGE, Cluster};
use serde_json::{Value, json};

/// The release, which no name depends on.
const RELEASE: &str = "guard";

/// What is combined: components of kustomize, and the values of the chart that say the same.
const PROFILES: [(&[&str], &str); 4] = [
    (&[], "profile: privileged"),
    (&["capabilities"], "profile: capabilities"),
    (&["prometheus-operator"], "podMonitor: { enabled: true }\nprometheusRule: { enabled: true }"),
    (&["without-startup-taint"], "startupTaint: { enabled: false }"),
];

#[test]
fn the_chart_passes_strict_lint() -> Result<()> {
    let cluster = Cluster::attach()?;
    for (_, values) in PROFILES {
        helm(&cluster, "lint", values)?;
    }
    Ok(())
}

#[test]
fn a_wrong_value_is_refused_by_its_name() -> Result<()> {
    let cluster = Cluster::attach()?;
    for (values, name) in [
        ("profle: privileged", "profle"),
        ("profile: root", "/profile"),
        ("policy: { 10-mode.txt: text }", "10-mode.txt"),
        ("policy: { 10-mode.yaml: { version: 1 } }", "/policy/10-mode.yaml"),
        ("image: { pullPolicy: Sometimes }", "/image/pullPolicy"),
        ("image: { digest: latest }", "/image/digest"),
        ("image: { name: imds-guard }", "name"),
        ("startupTaint: { enabled: 'no' }", "/startupTaint/enabled"),
        ("podMonitor: { interval: 5s }", "interval"),
        ("serviceAccount: { name: Imds_Guard }", "/serviceAccount/name"),
        ("tolerations: [{ operator: Always }]", "/tolerations/0/operator"),
        ("updateStrategy: { type: Never }", "/updateStrategy/type"),
        ("extraArgs: --endpoint=x", "/extraArgs"),
        ("imdsRequestsPerSecond: -1", "/imdsRequestsPerSecond"),
        ("seLinuxOptions: { kind: spc_t }", "kind"),
        ("uninstall: { withinSeconds: soon }", "/uninstall/withinSeconds"),
    ] {
        let Err(error) = helm(&cluster, "render", values) else { bail!("{values} is taken") };
        let error = format!("{error:#}");
        ensure!(error.contains("HelmValuesError"), "{values} is refused for another reason: {error}");
        ensure!(error.contains(&format!("{name}'")), "{values} is refused without its name: {error}");
    }
    Ok(())
}

#[test]
fn the_chart_and_kustomize_render_the_same() -> Result<()> {
    let cluster = Cluster::attach()?;
    for (components, values) in PROFILES {
        let (chart, kustomized) = (chart(&cluster, values)?, kustomized(&cluster, components)?);
        ensure_same(chart, kustomized).with_context(|| format!("chart and kustomize, {values}"))?;
    }
    Ok(())
}

#[test]
fn the_overlays_are_the_components() -> Result<()> {
    let cluster = Cluster::attach()?;
    for component in ["capabilities", "prometheus-operator"] {
        let overlay = deploy().join("kustomize/overlays").join(component);
        let overlay = cluster.kubectl(&["kustomize", text(&overlay)?])?;
        let (overlay, component_alone) = (objects(&cluster, &overlay)?, kustomized(&cluster, &[component])?);
        ensure_same(overlay, component_alone)
            .with_context(|| format!("overlay and component, {component}"))?;
    }
    Ok(())
}

/// There are three ways to the alerts.
#[test]
fn the_alerts_are_the_same_for_all() -> Result<()> {
    let cluster = Cluster::attach()?;
    let read = |path: &str| fs::read_to_string(deploy().join(path)).with_context(|| format!("read {path}"));
    let alerts = read("chart/files/alerts.yaml")?;
    assert_eq!(read("prometheus/alerts.yaml")?, alerts);

    // The rules as they are written, as an object.
    let indented = alerts.lines().collect::<Vec<_>>().join("\n  ");
    let written = format!("apiVersion: v1\nkind: Rules\nmetadata: {{name: x}}\nspec:\n  {indented}\n");
    let written = objects(&cluster, &written)?;
    let written = written.first().context("the rules are an object")?;
    assert!(written["spec"]["groups"][0]["rules"].as_array().is_some_and(|rules| !rules.is_empty()));
    let operators = by_name(kustomized(&cluster, &["prometheus-operator"])?)?;
    assert_eq!(operators["PrometheusRule imds-guard"]["spec"], written["spec"]);
    Ok(())
}

/// The operator finds by the pod's labels, scrapes a port by its name, and names the job by a label.
#[test]
fn the_pod_monitor_fits_the_pods() -> Result<()> {
    let cluster = Cluster::attach()?;
    let objects = by_name(kustomized(&cluster, &["prometheus-operator"])?)?;
    let monitor = &objects["PodMonitor imds-guard"]["spec"];
    let template = &objects["DaemonSet imds-guard"]["spec"]["template"];
    let labels = &template["metadata"]["labels"];
    assert_eq!(&monitor["selector"]["matchLabels"], labels);
    assert_eq!(labels[monitor["jobLabel"].as_str().context("a label names the job")?], "imds-guard");
    let endpoint = &monitor["podMetricsEndpoints"][0];
    assert_eq!(endpoint["port"], template["spec"]["containers"][0]["ports"][0]["name"]);
    assert_eq!(endpoint["honorLabels"], true);
    Ok(())
}

#[test]
fn the_api_server_takes_what_is_rendered() -> Result<()> {
    let _alone = alone();
    let cluster = Cluster::attach()?;
    let crds =
        format!("{}---\n{}", crd("podmonitors", "PodMonitor"), crd("prometheusrules", "PrometheusRule"));
    let _made = Made::apply(&cluster, format!("{crds}---\n{}", namespace()))?;
    cluster.kubectl(&["wait", "crd", "--all", "--for=condition=Established", "--timeout=60s"])?;
    for (components, values) in PROFILES {
        for mut objects in [chart(&cluster, values)?, kustomized(&cluster, components)?] {
            // This API server is older than surges.
            for object in objects.iter_mut().filter(|object| object["kind"] == "DaemonSet") {
                object["spec"]["updateStrategy"]["rollingUpdate"] = json!({ "maxUnavailable": 1 });
            }
            // What the client has looked up of the API server's kinds may be older than these.
            cluster.wait_for("the API server to take what is rendered", |cluster| {
                let apply = ["apply", "--dry-run=server", "--validate=true", "--filename", "-"];
                cluster.kubectl_with_input(&apply, &list(&objects).to_string()).map(Some)
            })?;
        }
    }
    Ok(())
}

#[test]
fn the_release_comes_changes_and_goes() -> Result<()> {
    let _alone = alone();
    let cluster = Cluster::attach()?;
    let (repository, tag) = AGENT_IMAGE.rsplit_once(':').context("the image has a tag")?;
    // This API server is older than surges.
    let image = format!(
        "image: {{ repository: {repository}, tag: {tag}, pullPolicy: Never }}\n\
         updateStrategy: {{ rollingUpdate: {{ maxSurge: null, maxUnavailable: 1 }} }}"
    );
    // Made beforehand, so that it is gone afterwards, whatever happens.
    let made = Made::apply(&cluster, namespace())?;
    for (action, profile) in [("install", "privileged"), ("upgrade", "capabilities")] {
        helm(&cluster, action, &format!("profile: {profile}\n{image}"))?;
        let rollout =
            ["rollout", "status", "daemonset/imds-guard", "--namespace", NAMESPACE, "--timeout=100s"];
        cluster.kubectl(&rollout).with_context(|| describe_pods(&cluster))?;
        let status = ["exec", "--namespace", NAMESPACE, "daemonset/imds-guard", "--", "imds-guard", "status"];
        cluster.kubectl(&status).with_context(|| format!("{action} with the profile {profile}"))?;
    }

    ensure!(!left_on_node(&cluster)?.is_empty(), "the guard is pinned");
    cluster.helm(&["uninstall", NAMESPACE, RELEASE], "")?;
    let left = left_on_node(&cluster)?;
    ensure!(left.is_empty(), "the node is clean, but for {left:?}");
    cluster.wait_for("nothing to be left of the release", |cluster| {
        let kinds = "daemonsets,controllerrevisions,pods,configmaps,serviceaccounts,roles,rolebindings,clusterroles,\
                     clusterrolebindings";
        let ours = ["get", kinds, "--all-namespaces", "--selector=app.kubernetes.io/name=imds-guard", "--output=name"];
        let helms = ["get", "secrets", "--all-namespaces", "--selector=owner=helm", "--output=name"];
        let left = cluster.kubectl(&ours)? + &cluster.kubectl(&helms)?;
        ensure!(left.is_empty(), "left: {left}");
        Ok(Some(()))
    })?;
    drop(made);
    clean_node(&cluster)
}

/// Names in the cluster are fixed, so tests that make objects of these names take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed has still removed what it made.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does with the chart what the helm command would.
fn helm(cluster: &Cluster, action: &str, values: &str) -> Result<String> {
    cluster.helm(&[action, NAMESPACE, RELEASE, text(&deploy().join("chart"))?], values)
}

/// What the chart renders with the namespace, which kustomize always has.
fn chart(cluster: &Cluster, values: &str) -> Result<Vec<Value>> {
    let values = format!("namespace: {{ create: true }}\n{values}");
    let mut rendered = objects(cluster, &helm(cluster, "render", &values)?)?;
    // What is there only while the release is uninstalled is Helm's alone.
    rendered.retain(|object| object["metadata"]["annotations"]["helm.sh/hook"].is_null());
    Ok(rendered)
}

/// Checks that the same objects are in both, and names the first that is not.
fn ensure_same(left: Vec<Value>, right: Vec<Value>) -> Result<()> {
    let (left, right) = (by_name(left)?, by_name(right)?);
    ensure!(left.keys().eq(right.keys()), "{:?} are not {:?}", left.keys(), right.keys());
    for (name, object) in &left {
        let other = &right[name];
        ensure!(object == other, "{name}:\n{object:#}\nis not\n{other:#}");
    }
    ensure!(!left.is_empty(), "nothing is rendered");
    Ok(())
}

fn by_name(objects: Vec<Value>) -> Result<BTreeMap<String, Value>> {
    let count = objects.len();
    let name = |object: &Value| -> Option<String> {
        Some(format!("{} {}", object["kind"].as_str()?, object["metadata"]["name"].as_str()?))
    };
    let named: Option<BTreeMap<_, _>> =
        objects.into_iter().map(|object| Some((name(&object)?, object))).collect();
    let named = named.context("every object has a kind and a name")?;
    ensure!(named.len() == count, "a name is there twice");
    Ok(named)
}

fn namespace() -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n")
}

/// A kind of the Prometheus operator, whatever is in it.
fn crd(plural: &str, kind: &str) -> String {
    format!(
        "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{ name: {plural}.monitoring.coreos.com }}
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: {{ plural: {plural}, kind: {kind} }}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {{ openAPIV3Schema: {{ type: object, x-kubernetes-preserve-unknown-fields: true }} }}
"
    )
}

fn describe_pods(cluster: &Cluster) -> String {
    cluster.kubectl(&["describe", "pods", "--namespace", NAMESPACE]).unwrap_or_default()
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is no text", path.display()))
}
