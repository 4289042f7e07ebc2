//! How long clients look for credentials, when all is well and in three ways to keep them from it.

mod curl;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::host;
use super::report::{Report, Verdict};
use super::rounds::Spread;
use crate::agent::Agent;
use crate::node::{Driver, Node, PodHandle, PodSpec};
use crate::place::Place;
use crate::sdk::{Family, LookUp, Sdk, Tools, What};

const POLICY: &str = "version: 1\nenforce: all\ndefault: { imds: deny }\n";
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How often each client looks; once where it takes seconds.
const TRIES: usize = 3;

/// A client that is denied gives up in so many seconds.
const GIVES_UP_WITHIN: f64 = 0.1;

/// A program that looks for credentials.
enum Client {
    Sdk(Sdk),
    Curl,
}

/// What becomes of a request for credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    /// It is answered: nobody guards.
    None,
    /// Nothing listens.
    Refused,
    /// Its packets are lost.
    Dropped,
    /// The guard denies it.
    Gate,
}

/// A pod in one of these conditions, and what makes it so.
struct Scene {
    condition: Condition,
    pod: PodHandle,
    _agent: Option<Agent>,
    _node: Node,
}

/// Measures how long clients look for credentials, and prints it. `false`: a target is missed.
pub fn sdk() -> Result<bool> {
    println!("imds-guard bench sdk   {}", host::describe()?);
    println!(
        "s until a client has credentials or gives up, without its start-up (curl: with it): medians of {TRIES}.\n\
         none: no guard; refused: nothing listens; dropped: packets are lost (one try); gate: the guard denies"
    );
    let started = Instant::now();
    let scenes = Condition::ALL.map(Condition::set);
    let scenes: Vec<Scene> = scenes.into_iter().collect::<Result<_>>()?;
    let names = Condition::ALL.map(Condition::name);
    let mut report = Report::new(&[&["client"], &names[..], &["target of gate"]].concat());
    for client in Client::all()? {
        let mut cells = vec![client.name().to_owned()];
        let mut gate = f64::NAN;
        for scene in &scenes {
            let seconds = scene.measure(&client)?;
            cells.push(client.shown(seconds));
            if scene.condition == Condition::Gate {
                gate = seconds;
            }
        }
        cells.push(format!("≤ {GIVES_UP_WITHIN:.2}"));
        report.row(&cells, Verdict::at_most(GIVES_UP_WITHIN, gate));
    }
    let met = report.print();
    println!("\nin {:.0} s", started.elapsed().as_secs_f64());
    Ok(met)
}

impl Condition {
    const ALL: [Self; 4] = [Self::None, Self::Refused, Self::Dropped, Self::Gate];

    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
            Self::Gate => "gate",
        }
    }

    fn set(self) -> Result<Scene> {
        let node = match self {
            Self::Refused => Node::without_imds(Driver::Systemd)?,
            Self::None | Self::Dropped | Self::Gate => Node::new(Driver::Systemd)?,
        };
        if self == Self::Dropped {
            node.lose_packets_to_imds()?;
        }
        let pod = node.pod(PodSpec::new("payments", "checkout"))?;
        let agent = if self == Self::Gate { Some(guard(&node)?) } else { None };
        Ok(Scene { condition: self, pod, _agent: agent, _node: node })
    }
}

fn guard(node: &Node) -> Result<Agent> {
    let mut agent = Agent::start(node, POLICY)?;
    agent.wait_ready(READY_WITHIN)?;
    Ok(agent)
}

impl Scene {
    /// In seconds.
    fn measure(&self, client: &Client) -> Result<f64> {
        let tries = if self.condition == Condition::Dropped { 1 } else { TRIES };
        let looked_up = (0..tries).map(|_| self.look_up(client)).collect::<Result<Vec<_>>>()?;
        Ok(Spread::of(looked_up.iter().map(|looked_up| looked_up.took.as_secs_f64())).median)
    }

    fn look_up(&self, client: &Client) -> Result<LookUp> {
        let looked_up = client.look_up(&self.pod)?;
        let (client, condition) = (client.name(), self.condition.name());
        ensure!(
            looked_up.found.is_some() == (self.condition == Condition::None),
            "{client}, {condition}: {looked_up:?}"
        );
        Ok(looked_up)
    }
}

impl Client {
    fn all() -> Result<Vec<Self>> {
        let sdks = Sdk::all(&Tools::find().context("find the clients")?).map(Self::Sdk);
        Ok(sdks.into_iter().chain([Self::Curl]).collect())
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Sdk(sdk) => sdk.name(),
            Self::Curl => "curl",
        }
    }

    fn look_up(&self, place: &Place) -> Result<LookUp> {
        match self {
            Self::Sdk(sdk) => sdk.look_up(What::Credentials, Family::V4, place),
            Self::Curl => curl::look_up(place),
        }
    }

    fn shown(&self, seconds: f64) -> String {
        match self {
            Self::Curl if seconds >= f64::from(curl::PATIENCE) => format!("> {}", curl::PATIENCE),
            _ => format!("{seconds:.2}"),
        }
    }
}
