//! What imds-guard does, shown on a private node in about a minute.
//!
//! ```text
//!  policy ── Act (audit, then enforce) ──┐
//!                                        ▼
//!   cast ── Part ─▶ Stage: node, pods, agent ── client in its pod ──▶ Scene ─▶ Screen
//!                                        └──── the agent's events ─ Ruling ─┘
//! ```
//!
//! What is shown is what happened: the clients are real, verdicts and rules are the agent's own words, and the
//! simulator has a say. A scene that isn't what the policy says ends the demo with an error. It owns nothing that
//! outlives it, however it ends.

mod cast;
mod client;
mod interrupt;
mod policy;
mod ruling;
mod scene;
mod screen;
mod stage;

use std::env;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use comfy_table::Cell;
use nix::unistd::geteuid;

use crate::binary::binary;
use crate::process::successful;
use cast::Part;
use client::Client;
pub use interrupt::{Interrupt, Interrupted};
use policy::Act;
use scene::Scene;
use screen::Screen;
use stage::Stage;

/// Runs the demo from the beginning to the end, or until it is interrupted or finds something that must not be.
pub fn run(interrupt: &Interrupt) -> Result<()> {
    ensure!(geteuid().is_root(), "the demo makes cgroups and network namespaces of its own and needs root");
    let started = Instant::now();
    let mut screen = Screen::new();
    introduce(&mut screen)?;
    let mut stage = Stage::set_up(&mut screen, interrupt)?;

    audit(&mut screen, &mut stage)?;
    let enforced = enforce(&mut screen, &mut stage)?;
    look_back(&mut screen, &stage, &enforced)?;

    stage.strike()?;
    close(&mut screen, started.elapsed())
}

fn introduce(screen: &mut Screen) -> Result<()> {
    screen.heading("imds-guard: who uses the node's IAM role?")?;
    screen.lines(
        "On EC2 any process can ask 169.254.169.254 (IMDS) for the credentials of the node's own role. So can every\n\
         pod, whichever role it was given itself: whoever gets into one pod has the rights of the whole node.\n\
         imds-guard shows which pods use the node's role, and stops those that shouldn't.\n\n\
         These pods run on a private node: cgroups and network namespaces of our own, with a simulated IMDS behind\n\
         them. Nothing outside is touched.",
    )?;
    let pods = Part::all()
        .into_iter()
        .map(|part| [part.name(), &part.account_text(), part.network(), part.story].map(Cell::new).to_vec());
    screen.table(&["POD", "SERVICE ACCOUNT", "NETWORK", "WHAT IT IS"], pods)
}

fn audit(screen: &mut Screen, stage: &mut Stage<'_>) -> Result<()> {
    screen.heading("1. Audit: nothing is denied, and you see who would be")?;
    screen.lines("The policy:\n")?;
    screen.quote(&Act::Audit.policy())?;
    screen.lines(
        "\nEvery pod now looks for AWS credentials, and agent-0 for the region first, as they always did.",
    )?;
    let scenes = stage.perform(screen, Act::Audit)?;
    show(screen, &scenes)?;
    screen.lines(
        "\nTIME: of curl, its processes from start to end; of the AWS SDKs, their own measure.\n\
         VERDICT and RULE: from the agent's events. A filter lets some requests of a pod through, and no others.\n\
         Nobody has told the agent yet who newcomer-0 is; such a pod is let through while the policy only audits,\n\
         and denied when it enforces.",
    )?;
    scene::verify(&scenes, Act::Audit)?;
    let unruly =
        |scene: &&Scene| scene.reached.node_role > 0 && scene.ruling.outcome().starts_with("would be");
    let fallen_back = names(scenes.iter().filter(unruly));
    screen.lines(&format!(
        "\nNobody was hindered. These use the node's role, and no rule lets them:\n{}.",
        fallen_back.join(", ")
    ))
}

fn enforce(screen: &mut Screen, stage: &mut Stage<'_>) -> Result<Vec<Scene>> {
    screen.heading("2. Enforce: one word of the policy changes")?;
    screen.changed('-', Act::Audit.line())?;
    screen.changed('+', Act::Enforce.line())?;
    let switched = stage.enforce(screen)?;
    screen.lines(&format!(
        "\nThe running agent took it over in {} ms, without a restart. The same pods try again.",
        switched.as_millis()
    ))?;
    let scenes = stage.perform(screen, Act::Enforce)?;
    show(screen, &scenes)?;
    scene::verify(&scenes, Act::Enforce)?;

    quote_denials(screen, &scenes)?;
    let served = names(scenes.iter().filter(|scene| scene.reached.node_role > 0));
    screen.lines(&format!(
        "\nThe IMDS behind the node saw the same: it gave the node's credentials to {} alone; no request for\n\
         them by agent-0 and no connection of a denied pod arrived. orders-0 has a role of its own and noticed\n\
         nothing.",
        served.join(", ")
    ))?;
    Ok(scenes)
}

/// What those who got nothing were told, and how long it took them to take it in.
fn quote_denials(screen: &mut Screen, scenes: &[Scene]) -> Result<()> {
    let scene = |pod, client| Scene::of(scenes, pod, client);
    screen.lines(
        "\nWhoever is denied has an answer at once, from a gate that the agent keeps in the pod's own network: who,\n\
         why, and what to do. To curl in checkout-0:\n",
    )?;
    screen.quote(scene("checkout-0", Client::Curl)?.said()?)?;
    screen.lines("\nTo curl in agent-0, which had the region from IMDS and then asked for credentials:\n")?;
    screen.quote(scene("agent-0", Client::Curl)?.said()?)?;
    screen.lines(
        "\nThe SDKs keep this text to themselves, but it is an answer, and they look no further. In catalog-0:\n",
    )?;
    let answered = scene("catalog-0", Client::SdkForGo)?;
    for scene in [scene("catalog-0", Client::SdkForRust)?, answered] {
        screen.quote(&format!("{:12}  {}", scene.client.name(), scene.said()?))?;
    }
    let refused = scene("newcomer-0", Client::SdkForGo)?;
    screen.lines(&format!(
        "\nA pod that the agent can't name yet has no gate, and the kernel refuses its connections. An SDK may take\n\
         that for a fault that passes, and try again. A refused connection, as newcomer-0 had it, costs the SDK\n\
         for Go {:.1} s; the gate's answer, as catalog-0 had it, {} ms.",
        refused.tried.took.as_secs_f64(),
        answered.tried.took.as_millis()
    ))
}

/// The pods of some scenes, each once.
fn names<'a>(scenes: impl Iterator<Item = &'a Scene>) -> Vec<&'a str> {
    let mut names: Vec<_> = scenes.map(|scene| scene.part.name()).collect();
    names.dedup();
    names
}

/// What remains to be seen after the acts: why, and how much.
fn look_back(screen: &mut Screen, stage: &Stage<'_>, enforced: &[Scene]) -> Result<()> {
    screen.heading("3. What you see of it afterwards")?;
    screen.lines("Why? Ask for a service account, or for one request of it:\n")?;
    explain(screen, stage, &["--namespace", "payments", "--service-account", "checkout"])?;
    screen.lines("")?;
    let path = "/latest/meta-data/iam/security-credentials/";
    explain(screen, stage, &["--namespace", "monitoring", "--service-account", "agent", "--path", path])?;

    screen.lines(
        "\nHow many? Prometheus scrapes it, exactly counted in the kernel: imds_guard_attempts_total\n",
    )?;
    let denied = stage.denied_samples()?;
    scene::verify_counts(&denied, enforced)?;
    denied.iter().try_for_each(|sample| screen.quote(&sample.text(&[])))?;
    screen.lines("\nWhoever has no name yet is counted without one.")?;

    screen.lines(
        "\nWhat for? Requests are counted by what they ask for. Of agent-0, the region in both acts, and the denial\n\
         in the second: imds_guard_requests_total{namespace=\"monitoring\",service_account=\"agent\"}\n",
    )?;
    let agent = [("namespace", "monitoring"), ("service_account", "agent")];
    for (class, code, times) in [("region", "200", 2.0), ("credentials", "403", 1.0)] {
        let answered = [("path_class", class), ("code", code)];
        screen.quote(&stage.request_sample(&[agent, answered].concat(), times)?.text(&agent))?;
    }
    screen.lines("\nWho, just now? `imds-guard status` lists the pods, `imds-guard watch` shows attempts as they happen.")
}

/// Asks `imds-guard explain` by the policy in force.
fn explain(screen: &mut Screen, stage: &Stage<'_>, arguments: &[&str]) -> Result<()> {
    let typed = format!("$ imds-guard explain {}", arguments.join(" "));
    screen.quote(&typed.replace(" --path", " \\\n    --path"))?;
    let mut command = Command::new(binary("imds-guard")?);
    command.arg("explain").args(arguments).arg("--policy").arg(stage.agent().policy_folder());
    screen.quote(successful(command.output().context("start imds-guard")?)?.trim_end())
}

fn show(screen: &mut Screen, scenes: &[Scene]) -> Result<()> {
    let header = ["POD", "SERVICE ACCOUNT", "CLIENT", "WHAT IT GOT", "TIME", "VERDICT", "RULE"];
    screen.table(&header, scenes.iter().map(Scene::row))
}

fn close(screen: &mut Screen, took: Duration) -> Result<()> {
    let agent = binary("imds-guard")?;
    // As one would type it here, if it lies below.
    let here = env::current_dir().ok().and_then(|here| Some(agent.strip_prefix(here).ok()?.to_owned()));
    let agent = here.as_ref().unwrap_or(&agent).display();
    screen.heading("Next")?;
    screen.lines(&format!(
        "The private node is gone again, after {:.0} s. Write a policy and try it, without touching anything:\n\n    \
         {agent} check policy.yaml\n    \
         {agent} explain --policy policy.yaml --namespace NAME --service-account NAME",
        took.as_secs_f64()
    ))
}
