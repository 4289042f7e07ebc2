//! The API server can be taken away and given back; pods go on without it. Alone in this program: nothing else here
//! could run meanwhile.

use anyhow::{Context, Result, ensure};
use guard_cluster::{Cluster, Namespace};
use guard_tests::process::successful;
use guard_tests::simulator::IMDS_V4;

#[test]
fn pods_go_on_while_the_api_server_is_away() -> Result<()> {
    let cluster = Cluster::attach()?;
    let namespace = Namespace::create(&cluster, "away")?;
    namespace.add_pod("pod", "")?;
    let container = cluster.container(namespace.name(), "pod")?;

    cluster.stop_api_server()?;
    let away = look_around(&cluster, &container, namespace.name());
    cluster.start_api_server()?;
    away?;
    successful(cluster.exec(namespace.name(), "pod", &["true"])?).map(drop)
}

fn look_around(cluster: &Cluster, container: &str, name: &str) -> Result<()> {
    ensure!(cluster.kubectl(&["get", "nodes"]).is_err(), "the API server still answers");
    let path = format!("/latest/meta-data/{name}");
    let url = format!("http://{IMDS_V4}{path}");
    let output = cluster.exec_in_container(container, &["curl", "--silent", "--max-time", "5", &url])?;
    successful(output).context("ask IMDS")?;
    let requests = cluster.imds_requests()?;
    ensure!(requests.iter().any(|request| request.path == path), "IMDS saw nothing of {path}");
    Ok(())
}
