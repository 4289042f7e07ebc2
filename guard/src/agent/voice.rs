//! What the agent says in Kubernetes Events, and in which words.

use std::{fmt::Write, time::Duration};

use guard_common::{CgroupId, CounterKey, EndpointId, Mode, RuleId, Verdict, Way};
use prometheus::IntCounter;
use tokio::{sync::mpsc, time::Instant};

use super::state::State;
use crate::{
    denial,
    endpoints::Endpoints,
    kernel::Reading,
    kubernetes::{Notice, Reason, Subject},
    notices::{About, Notices, Told},
    pods::Pod,
    policy::Policy,
    reconcile::RuleNames,
};

/// How soon after a denial it is told of: what comes in the meantime is told with it.
const SOON: Duration = Duration::from_secs(1);

/// What is to be said, and how it gets out.
pub(super) struct Voice {
    pub(super) notices: Notices,
    /// Whether it is still to be said that the policy is refused.
    policy_refused: bool,
    out: Option<(mpsc::Sender<Notice>, IntCounter)>,
    speak_at: Option<Instant>,
}

impl Voice {
    pub(super) fn new(now: std::time::Instant) -> Self {
        Self { notices: Notices::new(now), policy_refused: false, out: None, speak_at: None }
    }

    /// From now on there is somebody to speak to. What that can't take is counted as an error.
    pub(super) fn speak_to(&mut self, out: mpsc::Sender<Notice>, errors: IntCounter) {
        self.out = Some((out, errors));
    }

    /// When there is something to be said.
    pub(super) fn speak_at(&self) -> Option<Instant> {
        self.speak_at
    }

    /// Notes that a pod was denied something, or would have been: there is something to be said soon.
    pub(super) fn soon(&mut self) {
        self.speak_at.get_or_insert_with(|| Instant::now() + SOON);
    }

    pub(super) fn policy_refused(&mut self) {
        self.policy_refused = true;
        self.soon();
    }

    /// Notes requests that a gate denied.
    pub(super) fn note_requests(&mut self, pod: CgroupId, endpoint: EndpointId, denials: u64, rule: RuleId) {
        if self.out.is_some() {
            self.notices.add(About { pod, endpoint, reason: Reason::Denied }, denials, rule);
            self.soon();
        }
    }

    /// Notes the decisions that were counted. Of those that a gate answers, the requests are noted.
    pub(super) fn note(&mut self, added: &Reading) {
        if self.out.is_none() {
            return;
        }
        let denied = |key: &CounterKey| key.verdict() == Verdict::Deny && key.way() != Way::Gate;
        for (key, attempts) in added.decisions.iter().filter(|(key, _)| denied(key)) {
            let reason = match key.mode() {
                Mode::Enforce => Reason::Denied,
                Mode::Audit => Reason::WouldDeny,
            };
            self.notices.add(About { pod: key.cgroup, endpoint: key.endpoint, reason }, *attempts, key.rule);
        }
    }

    fn say(&self, notice: Notice) {
        if let Some((out, errors)) = &self.out
            && out.try_send(notice).is_err()
        {
            errors.inc();
        }
    }
}

impl State {
    /// Says what is to be said now.
    pub(super) fn speak(&mut self) {
        self.voice.speak_at = None;
        if self.voice.out.is_none() {
            return;
        }
        self.collect();
        let index = &self.index;
        let named = |pod| index.identify(pod).is_some();
        for told in self.voice.notices.take(std::time::Instant::now(), named) {
            let pod = index.identify(told.about.pod).expect("only named pods are told of");
            let policy = &self.policy.policy;
            let note = sentence(&told, pod, &self.settings.endpoints, &self.rules, policy);
            self.voice.say(Notice { reason: told.about.reason, about: Subject::of(pod), note });
        }
        // Before the agent's own pod has a name there is nowhere to say it.
        let own = self.own.and_then(|own| index.identify(own));
        if let Some((own, why)) = own.zip(self.policy.refused.as_ref()).filter(|_| self.voice.policy_refused)
        {
            let note = format!("The policy is not accepted, the last good one goes on deciding:\n{why}");
            self.voice.say(Notice { reason: Reason::PolicyRejected, about: Subject::of(own), note });
            self.voice.policy_refused = false;
        }
    }
}

fn sentence(told: &Told, pod: &Pod, endpoints: &Endpoints, rules: &RuleNames, policy: &Policy) -> String {
    let endpoint = endpoints.name(told.about.endpoint).unwrap_or("unknown");
    let (namespace, account) = (&pod.workload.namespace, &pod.workload.service_account);
    let mut text =
        format!("{} of service account {namespace}/{account} to reach {endpoint} ", counted(told.attempts));
    let plural = told.attempts != 1;
    text.push_str(match (told.about.reason, plural) {
        (Reason::WouldDeny, _) => "would be denied under enforcement",
        (_, true) => "were denied",
        (_, false) => "was denied",
    });
    if let Some(since) = told.since {
        write!(text, ", in the last {} minutes", since.as_secs() / 60).expect("a String takes everything");
    }
    let rule = rules.name(told.rule);
    text.push_str(&denial::why(rule));
    if endpoint == Endpoints::IMDS {
        text.push_str(&denial::own_role(pod));
    } else {
        text.push_str(" If it needs this endpoint, ask for a rule.");
    }
    text.push_str(&denial::ending(policy.help(), &denial::id(&pod.uid, rule, policy.sha256())));
    text
}

fn counted(attempts: u64) -> String {
    if attempts == 1 { "1 attempt".to_owned() } else { format!("{attempts} attempts") }
}

#[cfg(test)]
mod tests {
    use guard_common::CgroupId;

    use super::*;
    use crate::{
        pods::{PodUid, ServiceAccount},
        policy::{SourceFile, parse},
        workload::Workload,
    };

    fn mk_pod(role: Option<&str>) -> Pod {
        let workload = Workload {
            namespace: "shop".to_owned(),
            service_account: "cart".to_owned(),
            ..Workload::default()
        };
        Pod {
            uid: PodUid::new("1"),
            declared_uid: "1".to_owned(),
            name: "cart-0".to_owned(),
            workload,
            service_account: Some(ServiceAccount { uid: "2".to_owned(), role: role.map(ToOwned::to_owned) }),
            containers: [].into(),
            addresses: vec![],
        }
    }

    fn told(reason: Reason, attempts: u64, since: Option<Duration>) -> Told {
        Told { about: About { pod: CgroupId(1), endpoint: 0, reason }, attempts, rule: 0, since }
    }

    fn mk_policy(help: &str) -> Policy {
        let text = format!("version: 1\n{help}default: {{ imds: deny }}\n");
        let files = [SourceFile { name: "policy.yaml".to_owned(), text }];
        let endpoints = Endpoints::with(&[]).expect("no additions");
        parse(&files, &endpoints, jiff::civil::date(2026, 1, 1)).policy.expect("a good policy")
    }

    #[test]
    fn a_denial_says_who_what_why_and_what_to_do() {
        let mut rules = RuleNames::default();
        let default = rules.id("default");
        let endpoints = Endpoints::with(&[]).expect("no additions");
        let say = |told: Told, pod: &Pod, policy: &Policy| {
            let text = sentence(&Told { rule: default, ..told }, pod, &endpoints, &rules, policy);
            let id = denial::id(&pod.uid, "default", policy.sha256());
            text.strip_suffix(&format!(" (denial {id})")).expect("its id at its end").to_owned()
        };
        assert_eq!(
            say(told(Reason::Denied, 1, None), &mk_pod(None), &mk_policy("")),
            "1 attempt of service account shop/cart to reach imds was denied: no rule of the policy allows it. Give the \
             service account a role of its own, by IRSA or EKS Pod Identity, or ask for a rule."
        );
        let hour = Some(Duration::from_hours(1));
        assert_eq!(
            say(
                told(Reason::WouldDeny, 42, hour),
                &mk_pod(Some("arn:aws:iam::1:role/cart")),
                &mk_policy("help: https://wiki\n")
            ),
            "42 attempts of service account shop/cart to reach imds would be denied under enforcement, in the last 60 \
             minutes: no rule of the policy allows it. Its service account has the role arn:aws:iam::1:role/cart by \
             IRSA, which needs no IMDS: see that the pod has AWS_ROLE_ARN, and that its SDK knows web identities. See \
             https://wiki"
        );
    }
}
