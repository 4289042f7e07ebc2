//! The AWS SDKs in pods, as applications use them: who is denied learns it at once, who is filtered still learns the
//! region, who is allowed gets credentials. Over IPv4 and IPv6.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use guard_tests::sdk::{Family, LookUp, Sdk, Tools, What};
use guard_tests::simulator::Versions;
use guard_tests::{Agent, Driver, Node, Place, PodSpec};

const POLICY: &str = "\
version: 1
enforce: all
default: { imds: deny }
rules:
  - name: needs-the-region
    match: { serviceAccounts: [shop/filtered] }
    imds: { filter: { allow: [region] } }
  - name: needs-everything
    match: { serviceAccounts: [shop/allowed] }
    imds: allow
";
const DENY_ALL: &str = "version: 1\nenforce: all\ndefault: { imds: deny }\n";
const ALLOW_ALL: &str = "version: 1\nenforce: all\ndefault: { imds: allow }\n";

const READY: Duration = Duration::from_secs(20);
/// How long an SDK may look for what it is denied.
const GIVES_UP_WITHIN: Duration = Duration::from_millis(100);
/// A machine that is busy with something else is slow a few times, not every time.
const TRIES: usize = 8;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const NODE_ROLE_KEY: &str = "ASIANODEROLE00000000";
const REGION: &str = "eu-west-1";

/// Everybody's look-ups of one kind, told on the way.
fn each(what: What, mut judge: impl FnMut(&Sdk, Family) -> Result<LookUp>) -> Result<()> {
    for sdk in Sdk::all(&Tools::find()?).iter().filter(|sdk| sdk.looks_for(what)) {
        for family in FAMILIES {
            let case = || format!("{} looks for {what:?} over {family:?}", sdk.name());
            let looked_up = judge(sdk, family).with_context(case)?;
            println!("{}: {looked_up:?}", case());
        }
    }
    Ok(())
}

fn expect_found(sdk: &Sdk, what: What, family: Family, place: &Place) -> Result<LookUp> {
    let looked_up = sdk.look_up(what, family, place)?;
    let expected = match what {
        What::Credentials => NODE_ROLE_KEY,
        What::Region => REGION,
    };
    ensure!(looked_up.found.as_deref() == Some(expected), "{looked_up:?}");
    Ok(looked_up)
}

fn expect_nothing(sdk: &Sdk, what: What, family: Family, place: &Place) -> Result<LookUp> {
    let looked_up = sdk.look_up(what, family, place)?;
    ensure!(looked_up.found.is_none() && looked_up.error.is_some(), "{looked_up:?}");
    Ok(looked_up)
}

/// Nothing is found, however often it is tried, and one of the tries is as short as it should be.
fn expect_nothing_at_once(sdk: &Sdk, what: What, family: Family, place: &Place) -> Result<LookUp> {
    let mut slow = Vec::new();
    for _ in 0..TRIES {
        let tried = expect_nothing(sdk, what, family, place)?;
        if tried.took <= GIVES_UP_WITHIN {
            return Ok(tried);
        }
        slow.push(tried);
    }
    bail!("none of {TRIES} tries ended within {GIVES_UP_WITHIN:?}: {slow:?}")
}

/// IMDS was never asked for credentials, by whomever.
fn expect_no_credentials_left(node: &Node) -> Result<()> {
    let seen = node.simulator().seen();
    let asked = seen.requests.iter().find(|request| request.path.contains("security-credentials"));
    ensure!(asked.is_none(), "{asked:?}");
    Ok(())
}

#[test]
fn without_a_guard_every_sdk_finds_everything() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    node.simulator().serve_versions(Versions::V2Only);
    let pod = node.pod(PodSpec::new("shop", "cart"))?;
    for what in [What::Credentials, What::Region] {
        each(what, |sdk, family| {
            node.simulator().forget();
            let looked_up = expect_found(sdk, what, family, &pod)?;
            let requests = node.simulator().seen().requests;
            let asked: Vec<String> = requests
                .iter()
                .map(|asked| format!("{} {} {}", asked.method, asked.path, asked.status))
                .collect();
            ensure!(asked.iter().any(|asked| asked == "PUT /latest/api/token 200"), "{asked:?}");
            println!("{asked:?}");
            Ok(looked_up)
        })?;
    }
    Ok(())
}

#[test]
fn an_answer_of_403_ends_every_look_up_at_once() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    node.simulator().serve_versions(Versions::Off);
    let pod = node.pod(PodSpec::new("shop", "cart"))?;
    for what in [What::Credentials, What::Region] {
        each(what, |sdk, family| expect_nothing_at_once(sdk, what, family, &pod))?;
    }
    Ok(())
}

#[test]
fn a_denied_pod_learns_it_at_once() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let pod = node.pod(PodSpec::new("shop", "denied"))?;
    let mut agent = Agent::start(&node, DENY_ALL)?;
    agent.wait_ready(READY)?;
    for what in [What::Credentials, What::Region] {
        each(what, |sdk, family| expect_nothing_at_once(sdk, what, family, &pod))?;
    }
    expect_no_credentials_left(&node)?;
    agent.stop()
}

#[test]
fn a_filtered_pod_learns_the_region_and_gets_no_credentials() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let pod = node.pod(PodSpec::new("shop", "filtered"))?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    each(What::Region, |sdk, family| expect_found(sdk, What::Region, family, &pod))?;
    each(What::Credentials, |sdk, family| expect_nothing_at_once(sdk, What::Credentials, family, &pod))?;
    expect_no_credentials_left(&node)?;
    agent.stop()
}

#[test]
fn an_allowed_pod_gets_credentials_and_the_region() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let pod = node.pod(PodSpec::new("shop", "allowed"))?;
    let mut agent = Agent::start(&node, ALLOW_ALL)?;
    agent.wait_ready(READY)?;
    for what in [What::Credentials, What::Region] {
        each(what, |sdk, family| expect_found(sdk, what, family, &pod))?;
    }
    agent.stop()
}

#[test]
fn a_hop_limit_of_one_keeps_tokens_from_pods_and_not_from_the_node() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    node.simulator().serve_versions(Versions::V2Only);
    node.simulator().set_hop_limit_of_tokens(1);
    let pod = node.pod(PodSpec::new("shop", "cart"))?;
    let tools = Tools::find()?;
    let rust =
        Sdk::all(&tools).into_iter().find(|sdk| sdk.name() == "Rust").context("there is an SDK for Rust")?;
    for family in FAMILIES {
        expect_found(&rust, What::Credentials, family, node.outside())?;
        let looked_up = expect_nothing(&rust, What::Credentials, family, &pod)?;
        ensure!(looked_up.took > Duration::from_millis(500), "it waits for an answer: {looked_up:?}");
    }
    Ok(())
}

#[test]
fn an_allowed_pod_gets_credentials_through_a_hop_limit_of_one() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    node.simulator().serve_versions(Versions::V2Only);
    node.simulator().set_hop_limit_of_tokens(1);
    let pod = node.pod(PodSpec::new("shop", "allowed"))?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    each(What::Credentials, |sdk, family| expect_found(sdk, What::Credentials, family, &pod))?;
    agent.stop()
}
