use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::cast::{Part, Player};
use super::client::Client;
use super::interrupt::Interrupt;
use super::policy::Act;
use super::ruling::Witness;
use super::scene::{Counted, Reached, Scene};
use super::screen::Screen;
use crate::agent::Agent;
use crate::node::{Driver, Node};
use crate::simulator::{Key, NODE_ROLE, Service};
use crate::wait::wait_for;

/// How long the agent may take to begin, to take over a policy, and to count what it saw.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// The private node, its pods, and the agent that guards it. They are removed in the fields' order.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    agent: Agent,
    players: Vec<Player>,
    node: Node,
    interrupt: &'a Interrupt,
}

impl<'a> Stage<'a> {
    /// Makes everything, up to an agent that guards by the audit policy.
    pub(super) fn set_up(screen: &mut Screen, interrupt: &'a Interrupt) -> Result<Self> {
        screen.lines("")?;
        let node = {
            let _shown = screen.progress("making a private node")?;
            Node::new(Driver::Systemd)?
        };
        interrupt.check()?;
        let players = {
            let _shown = screen.progress("making its pods")?;
            let play = |part: Part| interrupt.check().and_then(|()| part.play_on(&node));
            Part::all().into_iter().map(play).collect::<Result<Vec<_>>>()?
        };
        let _shown = screen.progress("starting the agent: it loads its programs into the kernel")?;
        let mut agent = Agent::start(&node, &Act::Audit.policy())?;
        agent.wait_ready(READY_WITHIN)?;
        Ok(Self { agent, players, node, interrupt })
    }

    pub(super) fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Lets every client look, one after the other.
    pub(super) fn perform(&self, screen: &Screen, act: Act) -> Result<Vec<Scene>> {
        let shown = screen.spinner("the pods try")?;
        let tries =
            self.players.iter().flat_map(|player| player.clients.iter().map(move |client| (player, *client)));
        tries
            .map(|(player, client)| {
                shown.next(&format!("{} looks with {}", player.name(), client.name()));
                self.scene(player, client)
                    .with_context(|| format!("{} with {} in {act:?}", player.name(), client.name()))
            })
            .collect()
    }

    fn scene(&self, player: &Player, client: Client) -> Result<Scene> {
        self.interrupt.check()?;
        self.node.simulator().forget();
        let witness = Witness::of(&self.agent)?;
        let tried = client.run(&player.pod, player.environment(), self.interrupt)?;
        let ruling = witness.ruling(player, client)?;
        let reached = self.reached();
        Ok(Scene { part: Part::clone(player), client, tried, ruling, reached })
    }

    /// What the simulator saw since it was told to forget.
    fn reached(&self) -> Reached {
        let seen = self.node.simulator().seen();
        let credentials = format!("/security-credentials/{NODE_ROLE}");
        let node_role = seen
            .requests
            .iter()
            .filter(|request| request.service == Service::Imds && request.status == 200)
            .filter(|request| request.path.ends_with(&credentials));
        Reached {
            at_all: !seen.peers.is_empty(),
            for_credentials: seen.lines.iter().any(|line| line.key == Key::Credentials),
            node_role: node_role.count(),
        }
    }

    /// Publishes the enforcing policy, and says how long the running agent took to decide by it.
    pub(super) fn enforce(&mut self, screen: &Screen) -> Result<Duration> {
        let _shown = screen.spinner("the agent takes it over")?;
        let before = self.agent.status()?["policy"]["sha256"].clone();
        let started = Instant::now();
        self.agent.set_policy(&Act::Enforce.policy())?;
        let taken = wait_for(READY_WITHIN, "the agent to enforce the new policy", || {
            let status = match self.agent.status() {
                _ if self.interrupt.is_set() => return Some(self.interrupt.check()),
                Err(error) => return Some(Err(error)),
                Ok(status) => status,
            };
            match status["policy"]["refused"].as_str() {
                Some(refused) => Some(Err(anyhow::anyhow!("the agent refused the policy: {refused}"))),
                None => {
                    (status["policy"]["sha256"] != before && status["enforcing"] == true).then_some(Ok(()))
                }
            }
        });
        taken??;
        Ok(started.elapsed())
    }

    /// How often whom was denied; the agent reads the kernel's counters for every scrape.
    pub(super) fn denied_samples(&self) -> Result<Vec<Counted>> {
        let labels = [("endpoint", "imds"), ("mode", "enforce"), ("verdict", "deny")];
        let metrics = self.agent.metrics()?;
        let samples: Vec<_> =
            metrics.select("imds_guard_attempts_total", &labels).cloned().map(Counted).collect();
        if samples.is_empty() {
            bail!("nobody is counted as denied");
        }
        Ok(samples)
    }

    /// The requests that bear all of `labels`, once so many of them are counted.
    pub(super) fn request_sample(&self, labels: &[(&str, &str)], times: f64) -> Result<Counted> {
        let what = format!("{times} requests with {labels:?} to be counted");
        // The agent hears of a request once it is answered.
        let sample = wait_for(READY_WITHIN, &what, || match self.agent.metrics() {
            Ok(metrics) => {
                let mut samples = metrics.select("imds_guard_requests_total", labels);
                samples.find(|sample| sample.value >= times).cloned().map(Ok)
            }
            Err(error) => Some(Err(error)),
        });
        Ok(Counted(sample??))
    }

    /// Ends the agent in good order and removes everything.
    pub(super) fn strike(mut self) -> Result<()> {
        self.agent.stop()?;
        self.players.drain(..).try_for_each(|player| player.pod.delete())
    }
}
