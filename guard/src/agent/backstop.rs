//! The backstop as the agent keeps it: what it is to do follows from the rulings that were written, and it is looked after
//! when the host's links change and by the clock.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use guard_common::{NamespaceCookie, PodEntry};
use tokio::time::Instant;

use super::{Settings, chain, state::State};
use crate::{
    backstop::{self, Backstop, BackstopError, Known, LinksBell, Wanted},
    pods::Identity,
};

/// How long after a change of the links they are looked at, and how soon at the earliest again: a burst of changes is one
/// look, and many bursts are few.
const SETTLE: Duration = Duration::from_millis(10);
const PAUSE: Duration = Duration::from_millis(250);

/// The backstop, where this host is to have one, and what was asked of it last.
#[derive(Default)]
pub(super) struct Keeper {
    backstop: Option<Backstop>,
    wanted: Option<Wanted>,
    /// Whether all of it stood when it was last written.
    stands: bool,
    last_look: Option<Instant>,
    look_at: Option<Instant>,
}

/// Rings when the host's links or routes change. Without a backstop, or when it is broken, never.
pub(super) struct Bell(Option<LinksBell>);

/// The backstop before it does anything.
pub(super) struct Opened {
    pub(super) keeper: Keeper,
    pub(super) bell: Bell,
    /// The host's network, by its id.
    pub(super) host: Option<NamespaceCookie>,
}

/// Opens the host's packet filter and links. A host where that fails has no backstop, and the agent says so.
pub(super) fn open(settings: &Settings) -> Opened {
    let opened = settings.backstop.then(|| try_open(settings)).transpose();
    let opened = opened.inspect_err(|error| {
        tracing::error!(error = chain(error), "no backstop: packet sockets reach IMDS past the guard");
    });
    match opened {
        Ok(Some((backstop, bell, host))) => Opened {
            keeper: Keeper { backstop: Some(backstop), ..Keeper::default() },
            bell: Bell(Some(bell)),
            host,
        },
        Ok(None) => {
            tracing::warn!("the backstop is switched off: packet sockets reach IMDS past the guard");
            Opened { keeper: Keeper::default(), bell: Bell(None), host: None }
        }
        Err(_) => Opened { keeper: Keeper::default(), bell: Bell(None), host: None },
    }
}

fn try_open(settings: &Settings) -> Result<(Backstop, LinksBell, Option<NamespaceCookie>), BackstopError> {
    let (backstop, bell) = Backstop::open(&settings.gate.host_network)?;
    let host = backstop.host()?;
    Ok((backstop, bell, host))
}

impl Bell {
    /// Waits until something has changed; without a bell, for ever.
    pub(super) async fn rang(&mut self) {
        if let Some(bell) = &self.0 {
            match bell.rang().await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(%error, "new links of the host are found by the clock from now on");
                    self.0 = None;
                }
            }
        }
        std::future::pending::<()>().await;
    }
}

impl Keeper {
    /// When to look at the host's links again.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// Looks at them soon.
    pub(super) fn links_changed(&mut self) {
        let earliest = self.last_look.map(|last| last + PAUSE);
        let soon = Instant::now() + SETTLE;
        self.look_at.get_or_insert_with(|| earliest.map_or(soon, |earliest| earliest.max(soon)));
    }
}

impl State {
    /// Has the backstop do what the rulings that were written ask for, if that is not what it does. It comes after them:
    /// whoever is dropped here has its gate by then.
    pub(super) fn keep_backstop(&mut self) {
        let wanted = self.wanted_backstop();
        if self.keeper.wanted.as_ref() != Some(&wanted) {
            self.renew_backstop(wanted);
        }
    }

    /// Looks whether it still stands where it should: at links that are new, and after others have changed the rules.
    pub(super) fn look_after_backstop(&mut self) {
        self.keeper.look_at = None;
        self.keeper.last_look = Some(Instant::now());
        if !self.is_guarding() {
            return;
        }
        match self.keeper.backstop.as_mut().map(Backstop::look_again) {
            Some(Ok(true)) if self.keeper.stands => {
                tracing::warn!("somebody has changed the backstop's tables: they are written again");
                // What went with them counts from nothing, however far it has got by the next look.
                self.collect_backstop();
            }
            Some(Err(error)) => tracing::error!(error = chain(&error), "cannot look after the backstop"),
            Some(Ok(_)) | None => {}
        }
        let wanted = self.wanted_backstop();
        self.renew_backstop(wanted);
    }

    /// Counts what was met since the last time.
    pub(super) fn collect_backstop(&mut self) {
        match self.keeper.backstop.as_mut().map(Backstop::met) {
            Some(Ok(met)) => self.metrics.add_backstop(&met),
            Some(Err(error)) => {
                tracing::error!(error = chain(&error), "cannot read the backstop's counters");
            }
            None => {}
        }
    }

    /// Takes it away, as the programs are.
    pub(super) fn remove_backstop(&mut self) {
        if self.keeper.backstop.take().is_some()
            && let Err(error) = backstop::remove(&self.settings.gate.host_network)
        {
            tracing::error!(error = chain(&error), "the backstop stays: `imds-guard cleanup` removes it");
        }
    }

    fn wanted_backstop(&self) -> Wanted {
        let known = self.index.pods().filter_map(|(cgroup, identity)| match identity {
            Identity::Pod(pod) if !self.is_agent(cgroup) => {
                Some(Known { pod, entry: self.applied.get(&cgroup)? })
            }
            Identity::Pod(_) | Identity::Unidentified => None,
        });
        let unidentified = self.unidentified.unwrap_or(PodEntry::CLOSED);
        Wanted::of(&self.settings.endpoints, &known.collect::<Vec<_>>(), &unidentified)
    }

    fn renew_backstop(&mut self, wanted: Wanted) {
        let Some(backstop) = &mut self.keeper.backstop else {
            self.degrade("backstop", true);
            return;
        };
        let with_network = self.index.known();
        let with_network = with_network.iter().filter(|(pod, _)| !pod.workload.host_network);
        let pods: BTreeSet<IpAddr> =
            with_network.flat_map(|(pod, _)| pod.addresses.iter().copied()).collect();
        let parts = backstop.keep(&mut self.kernel, &wanted, &self.settings.endpoints, &pods);
        let stands = parts.stand();
        let options = if self.kernel.judges_options() {
            Ok(())
        } else {
            Err("the kernel does not take the program that judges options of sockets".to_owned())
        };
        let parts = [
            ("backstop_forward", parts.forward, "what pods send by packet sockets is sent on to IMDS"),
            ("backstop_uplink", parts.uplink, "hostNetwork pods reach IMDS by packet sockets"),
            ("backstop_bypass", parts.bypass, "sockets from before reach IMDS past the queues"),
            ("af_xdp", options, "hostNetwork pods reach IMDS by AF_XDP, and past the queues"),
        ];
        for (feature, part, follows) in parts {
            if self.degrade(feature, part.is_err())
                && let Err(error) = part
            {
                tracing::warn!(feature, error, follows, "a part of the backstop does not stand");
            }
        }
        if self.degrade("backstop", wanted.trusts_addresses()) && wanted.trusts_addresses() {
            tracing::warn!(
                "some pods are only audited, or unidentified ones are allowed: the backstop tells pods by interface \
                 and address, which can be forged"
            );
        }
        // What failed is tried again by the clock.
        self.keeper.stands = stands;
        self.keeper.wanted = Some(wanted);
    }
}
