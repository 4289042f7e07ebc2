//! The cluster works without any guard: what the other tests judge by is true.

use anyhow::{Context, Result, ensure};
use guard_cluster::{Cluster, Namespace, StaticPod, client_pod};
use guard_tests::process::successful;
use guard_tests::simulator::{IMDS_V4, IMDS_V6};

/// Asks the API server who the pod is, as in-cluster clients do.
const WHO_AM_I: &str = r#"
    cd /var/run/secrets/kubernetes.io/serviceaccount
    curl --silent --show-error --max-time 10 --cacert ca.crt --header "Authorization: Bearer $(cat token)" \
        --write-out %{http_code} --output /dev/null \
        https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/api/v1/namespaces/$(cat namespace)"#;

#[test]
fn a_pod_and_a_host_network_pod_reach_imds() -> Result<()> {
    let cluster = Cluster::attach()?;
    let namespace = Namespace::create(&cluster, "imds")?;
    let status = namespace.add_pod("pod", "")?;
    namespace.add_pod("host", "hostNetwork: true")?;

    let pod_ip = status["podIP"].as_str().context("the pod has an address")?;
    ask_imds(&cluster, &namespace, "pod", &IMDS_V4.to_string())?;
    ask_imds(&cluster, &namespace, "host", &IMDS_V4.to_string())?;
    ask_imds(&cluster, &namespace, "host", &format!("[{IMDS_V6}]"))?;

    let path = path_of(&namespace);
    let requests = cluster.imds_requests()?;
    let seen: Vec<String> = requests
        .iter()
        .filter(|request| request.path == path)
        .map(|request| request.peer.ip().to_string())
        .collect();
    assert_eq!(seen, [pod_ip, "10.214.0.1", "fd14::1"]);
    Ok(())
}

#[test]
fn accounts_work_from_pods_and_from_the_host_network() -> Result<()> {
    let cluster = Cluster::attach()?;
    let namespace = Namespace::create(&cluster, "accounts")?;
    namespace.add_account("reader")?;
    cluster.kubectl(&[
        "create",
        "rolebinding",
        "reader",
        "--clusterrole=view",
        &format!("--serviceaccount={}:reader", namespace.name()),
        "--namespace",
        namespace.name(),
    ])?;
    namespace.add_pod("pod", "serviceAccountName: reader")?;
    namespace.add_pod("host", "serviceAccountName: reader, hostNetwork: true")?;
    namespace.add_pod("stranger", "")?;
    for (pod, code) in [("pod", "200"), ("host", "200"), ("stranger", "403")] {
        cluster.wait_for(&format!("{pod} to be answered {code}"), |cluster| {
            let output = cluster.exec(namespace.name(), pod, &["sh", "-c", WHO_AM_I])?;
            let answered = successful(output)?;
            ensure!(answered == code, "{pod} was answered {answered}");
            Ok(Some(()))
        })?;
    }
    Ok(())
}

#[test]
fn a_static_pod_runs_and_ends_with_its_file() -> Result<()> {
    let cluster = Cluster::attach()?;
    let static_pod = StaticPod::create(&cluster, "static", &client_pod("default", "static", ""))?;
    let name = static_pod.name().to_owned();
    cluster.wait_until_ready("default", &name)?;
    successful(cluster.exec("default", &name, &["true"])?)?;
    drop(static_pod);
    cluster.wait_until_gone("default", &name)
}

#[test]
fn the_controllers_the_scheduler_and_the_garbage_collector_work() -> Result<()> {
    let cluster = Cluster::attach()?;
    let namespace = Namespace::create(&cluster, "owners")?;
    let of = ["--namespace", namespace.name()];
    let image = format!("--image={}", guard_cluster::CLIENT_IMAGE);
    cluster.kubectl(&[&["create", "deployment", "web", &image], &of[..]].concat())?;
    // It would wait for the agent to take the start-up taint away.
    let patch = r#"{"spec": {"template": {"spec":
        {"terminationGracePeriodSeconds": 1, "tolerations": [{"operator": "Exists"}]}}}}"#;
    cluster.kubectl(&[&["patch", "deployment", "web", "--patch", patch], &of[..]].concat())?;
    cluster.kubectl(&[&["rollout", "status", "deployment/web", "--timeout=60s"], &of[..]].concat())?;
    cluster.kubectl(
        &[&["delete", "deployment", "web", "--cascade=foreground", "--timeout=60s"], &of[..]].concat(),
    )?;
    let left = cluster.get(&[&["pods"], &of[..]].concat())?;
    assert_eq!(left["items"].as_array().map(Vec::len), Some(0), "{left}");
    Ok(())
}

/// A path that only this test asks for.
fn path_of(namespace: &Namespace<'_>) -> String {
    format!("/latest/meta-data/{}", namespace.name())
}

fn ask_imds(cluster: &Cluster, namespace: &Namespace<'_>, pod: &str, host: &str) -> Result<()> {
    let url = format!("http://{host}{}", path_of(namespace));
    let output = cluster.exec(
        namespace.name(),
        pod,
        &["curl", "--silent", "--show-error", "--globoff", "--max-time", "5", &url],
    )?;
    successful(output).map(drop).with_context(|| format!("{pod} asks {url}"))
}
