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
    screen.lines("\nEvery pod now looks for AWS credentials, as it always did.")?;
    let scenes = stage.perform(screen, Act::Audit)?;
    show(screen, &scenes)?;
    screen.lines(
        "\nTIME: of curl, its processes from start to end; of the AWS SDK, its own measure.\n\
         VERDICT and RULE: from the agent's events. Nobody has told it yet who newcomer-0 is; such a pod is let\n\
         through while the policy only audits, and denied when it enforces.",
    )?;
    scene::verify(&scenes, Act::Audit)?;
    let fallen_back = names(scenes.iter().filter(|scene| scene.ruling.outcome() == "would be denied"));
    screen.lines(&format!(
        "\nNobody was hindered. These use the node's role, and no rule lets them: {}.",
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

    screen.lines("\nWhoever is denied knows at once, and runs into no timeout. What the clients say:\n")?;
    for client in [Client::Curl, Client::AwsSdk] {
        let said = scenes.iter().filter(|scene| scene.client == client).find_map(Scene::said);
        screen.quote(&format!("{:8} {}", client.name(), said.context("no client was denied")?))?;
    }
    let served = names(scenes.iter().filter(|scene| scene.reached.node_role > 0));
    screen.lines(&format!(
        "\nThe IMDS behind the node saw the same: it gave the node's credentials to {} alone, and no connection\n\
         of a denied one arrived. orders-0 has a role of its own and noticed nothing.",
        served.join(", ")
    ))?;
    Ok(scenes)
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
    let explain = ["explain", "--namespace", "payments", "--service-account", "checkout"];
    screen.lines(&format!("Why? Ask `imds-guard {}`:\n", explain.join(" ")))?;
    let mut command = Command::new(binary("imds-guard")?);
    command.args(explain).arg("--policy").arg(stage.agent().policy_folder());
    screen.quote(crate::process::successful(command.output().context("start imds-guard")?)?.trim_end())?;

    screen.lines(
        "\nHow many? Prometheus scrapes it, exactly counted in the kernel: imds_guard_attempts_total\n",
    )?;
    let denied = stage.denied_samples()?;
    scene::verify_counts(&denied, enforced)?;
    denied.iter().try_for_each(|sample| screen.quote(&sample.text()))?;
    screen.lines("\nWhoever has no name yet is counted without one.")?;
    screen.lines("\nWho, just now? `imds-guard status` lists the pods, `imds-guard watch` shows attempts as they happen.")
}

fn show(screen: &mut Screen, scenes: &[Scene]) -> Result<()> {
    let header = ["POD", "SERVICE ACCOUNT", "CLIENT", "WHAT HAPPENED", "TIME", "VERDICT", "RULE"];
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
