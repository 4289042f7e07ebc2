//! The private node without any guard: every attack is real, everybody reaches IMDS, and nothing is left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guard_tests::attack::Blow;
use guard_tests::attack::http::Family;
use guard_tests::process::successful;
use guard_tests::simulator::{IMDS_V4, POD_IDENTITY_V4, Service, Versions};
use guard_tests::{Driver, Node, Outcome, Place, PodSpec, Qos, Vector, wait_until};

/// A request for credentials as a script in a pod makes it.
fn curl(place: &Place, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "5"]).args(arguments);
    successful(place.run(command)?)
}

#[test]
fn every_vector_gets_bytes_where_nothing_guards() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let pod = node.pod(PodSpec::new("payments", "checkout"))?;
    let neighbour = node.pod(PodSpec::new("shop", "cart"))?;
    let host_pod = node.pod(PodSpec::new("kube-system", "aws-node").on_host_network())?;
    let places: [(&str, &Place); 3] =
        [("pod", &pod), ("hostNetwork pod", &host_pod), ("outside", node.outside())];

    println!("{:24} {:>20} {:>20} {:>20}", "vector", places[0].0, places[1].0, places[2].0);
    let mut failed = BTreeMap::new();
    for vector in Vector::of_sockets() {
        let mut row = vec![format!("{:24}", vector.name())];
        for (name, place) in places {
            let report = place.attack(vector)?;
            row.push(format!("{:>13} {:>3} ms", report.outcome.to_string(), report.milliseconds));
            match &report.outcome {
                Outcome::Unsupported(why) => println!("skipped {} in {name}: {why}", vector.name()),
                outcome if !outcome.got_bytes() => drop(failed.insert((vector, name), report.outcome)),
                _ => {}
            }
        }
        println!("{}", row.join(" "));
    }
    let handed_over = pod.attack_with_socket_of(&neighbour)?;
    println!("{:24} {:>13} from another pod", handed_over.vector.name(), handed_over.outcome.to_string());
    assert!(handed_over.outcome.got_bytes());
    assert!(failed.is_empty(), "{failed:?}");

    // The simulator tells the same story: the pod had HTTP answers and echoes, and its neighbour had the answer to
    // the socket that it gave away, for a socket stays in the network in which it was made.
    let seen = node.simulator().seen();
    let of_pod = seen.of(pod.addresses()[0]);
    assert!(of_pod.connections >= 10 && of_pod.datagrams >= 4 && of_pod.bytes_sent > 0, "{of_pod:?}");
    assert_eq!(seen.of(neighbour.addresses()[0]).connections, 1);
    assert!(seen.requests.iter().all(|request| request.service == Service::Imds && request.status == 200));
    Ok(())
}

#[test]
fn path_attacks_reach_secrets_where_nothing_guards() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let pod = node.pod(PodSpec::new("shop", "filtered"))?;
    for (family, address) in [(Family::V4, pod.addresses()[0]), (Family::V6, pod.addresses()[1])] {
        node.simulator().forget();
        let reports = pod.besiege_by_http(family)?;
        let leaked = reports.iter().filter(|report| report.leaked).count();
        let seen = node.simulator().seen();
        // What the last case over the other family left behind may be read only now.
        let own = seen.secrets_reached().filter(|line| line.peer.ip() == address);
        let ports: BTreeSet<_> = own.map(|line| line.peer.port()).collect();
        println!("{} cases over {family:?}: {} reach a secret, {leaked} get one", reports.len(), ports.len());
        ensure!(ports.len() >= 1000 && leaked >= 100, "{} and {leaked}", ports.len());
    }
    Ok(())
}

#[test]
fn clients_are_served_and_told_apart_by_their_addresses() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let pods = [
        node.pod(PodSpec { qos: Qos::Guaranteed, ..PodSpec::new("payments", "checkout") })?,
        node.pod(PodSpec { qos: Qos::BestEffort, ..PodSpec::new("shop", "cart") })?,
    ];
    let role = format!("http://{IMDS_V4}/latest/meta-data/iam/security-credentials/");
    for pod in &pods {
        assert_eq!(curl(pod, &[&role])?, "node-role");
    }
    let v6 = "http://[fd00:ec2::254]/latest/meta-data/placement/region";
    assert_eq!(curl(&pods[0], &[v6])?, "eu-west-1");

    node.simulator().serve_versions(Versions::V2Only);
    assert!(curl(&pods[0], &["--fail", &role]).is_err(), "version 1 is off");
    let token_url = format!("http://{IMDS_V4}/latest/api/token");
    let token = curl(
        &pods[0],
        &["-X", "PUT", "-H", "X-aws-ec2-metadata-token-ttl-seconds: 60", "--fail", &token_url],
    )?;
    let token = format!("X-aws-ec2-metadata-token: {token}");
    assert_eq!(curl(&pods[0], &["--fail", "-H", &token, &role])?, "node-role");

    let pod_identity = format!("http://{POD_IDENTITY_V4}/v1/credentials");
    assert!(
        curl(&pods[1], &["--fail", "-H", "Authorization: a-token", &pod_identity])?.contains("AccessKeyId")
    );

    let seen = node.simulator().seen();
    for (pod, requests) in pods.iter().zip([5, 2]) {
        let own = seen.requests.iter().filter(|request| pod.addresses().contains(&request.peer.ip())).count();
        assert_eq!(own, requests, "{:?}", seen.requests);
    }
    Ok(())
}

#[test]
fn an_attack_that_pauses_goes_on_when_it_is_let() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let pod = node.pod(PodSpec::new("payments", "checkout"))?;
    let staged = pod.stage(Vector::Preconnected)?;
    wait_until(Duration::from_secs(5), "the connection", || {
        node.simulator().seen().of(pod.addresses()[0]).connections == 1
    })?;
    assert!(node.simulator().seen().requests.is_empty());
    assert!(staged.proceed()?.outcome.got_bytes());
    assert_eq!(node.simulator().seen().requests.len(), 1);
    Ok(())
}

#[test]
fn a_hammer_counts_exactly_and_a_siege_ends_when_it_is_lifted() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let pod = node.pod(PodSpec::new("payments", "checkout"))?;
    for blow in [Blow::Tcp, Blow::TcpMapped, Blow::TcpIpv6, Blow::Udp, Blow::UdpMapped, Blow::UdpIpv6] {
        let started = Instant::now();
        let tally = pod.hammer(blow, 10_000)?;
        println!("10,000 {} attempts in {:?}: {tally:?}", blow.name(), started.elapsed());
        assert_eq!((tally.attempts, tally.passed), (10_000, 10_000));
    }
    let siege = pod.besiege(Vector::Tcp)?;
    // Longer than a pipe holds: whoever reads nothing would hold the siege up.
    wait_until(Duration::from_secs(20), "many answers", || siege.bytes() > 300_000)?;
    let tally = siege.lift()?;
    assert!(tally.bytes > 300_000 && tally.errors.is_empty(), "{tally:?}");
    Ok(())
}

#[test]
fn processes_start_in_their_cgroup_and_network_and_end_with_their_pod() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let pod = node.pod(PodSpec::new("payments", "checkout"))?;
    let mut cat = Command::new("cat");
    cat.arg("/proc/self/cgroup");
    let cgroups = successful(pod.run(cat)?)?;
    let own = pod.cgroup().strip_prefix(node.cgroup_mount())?;
    assert!(cgroups.contains(&format!("0::/{}\n", own.display())), "{cgroups}");
    assert!(own.starts_with(node.guarded_root()));
    assert!(!node.outside().cgroup().starts_with(node.cgroup_mount().join(node.guarded_root())));

    let sub_cgroup = pod.add_sub_cgroup("init.scope")?;
    let mut sleeper = sub_cgroup.spawn(sleep())?;
    let mut outsider = node.outside().spawn(sleep())?;
    let folder = pod.pod_cgroup().path().to_owned();
    pod.delete()?;
    sleeper.wait(Duration::from_secs(5))?;
    assert!(!folder.exists());
    assert!(outsider.is_running());
    Ok(())
}

#[test]
fn the_pod_list_shows_listed_pods_alone() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let _listed = node.pod(PodSpec::new("payments", "checkout"))?;
    let hidden = node.pod(PodSpec { listed: false, ..PodSpec::new("shop", "cart") })?;
    let scratch = tempfile::tempdir()?;
    let path = scratch.path().join("pods.json");
    let accounts = || -> Result<Vec<String>> {
        node.write_pods(&path)?;
        let list: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
        let items = list["items"].as_array().context("a list")?;
        let mut names: Vec<String> = items
            .iter()
            .filter_map(|pod| Some(pod["spec"]["serviceAccountName"].as_str()?.to_owned()))
            .collect();
        names.sort();
        Ok(names)
    };
    assert_eq!(accounts()?, ["checkout"]);
    hidden.list(|_| {});
    assert_eq!(accounts()?, ["cart", "checkout"]);
    hidden.delete()?;
    assert_eq!(accounts()?, ["checkout"]);
    Ok(())
}

#[test]
fn a_node_leaves_nothing_behind_not_even_when_its_owner_was_killed() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let pod = node.pod(PodSpec::new("payments", "checkout"))?;
    let mut sleeper = pod.spawn(sleep())?;
    let root = node.outside().cgroup().parent().context("below the mount")?.to_owned();
    drop(node);
    assert!(!root.exists());
    sleeper.wait(Duration::from_secs(5))?;
    drop(pod);

    // A tree that nobody holds is what a killed test leaves.
    let abandoned = root.with_file_name("imds-guard-test-0-0");
    fs::create_dir_all(abandoned.join("kubepods/burstable"))?;
    let _next = Node::new(Driver::Cgroupfs)?;
    assert!(!abandoned.exists());
    Ok(())
}

#[test]
fn hundreds_of_pods_come_and_go_quickly() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let started = Instant::now();
    let pods = (0..200).map(|_| node.pod(PodSpec::new("load", "worker"))).collect::<Result<Vec<_>>>()?;
    let made = started.elapsed();
    assert!(pods[199].attack(Vector::Tcp)?.outcome.got_bytes());
    pods.into_iter().try_for_each(guard_tests::PodHandle::delete)?;
    println!("200 pods made in {made:?}, made and deleted in {:?}", started.elapsed());
    ensure!(node.pods_json()["items"].as_array().is_some_and(Vec::is_empty), "all are gone");
    Ok(())
}

fn sleep() -> Command {
    let mut command = Command::new("sleep");
    command.arg("600");
    command
}
