//! What is allowed in a policy and is probably not meant: warnings.

use guard_common::EndpointId;
use jiff::civil::Date;

use super::{
    Enforce, Permission, Problem, Selector,
    draft::{Draft, RuleDraft, Sited},
};
use crate::{endpoints::Endpoints, workload::Workload};

/// From how many days before its end a rule is reported.
const NOTICE_DAYS: i32 = 30;

/// Adds the warnings to the errors. Of what an error has left incomplete, nothing is said.
pub(super) fn check(draft: &Draft, endpoints: &Endpoints, today: Date, problems: &mut Vec<Problem>) {
    if !problems.iter().any(Problem::is_error) {
        problems.extend(enforces_nothing(draft));
    }
    let rules: Vec<&RuleDraft> = draft.rules.iter().filter(|rule| rule.is_whole).collect();
    for (place, &rule) in rules.iter().enumerate() {
        problems.extend(expiry(rule, today));
        problems.extend(tenants_widen(rule));
        problems.extend(lets_a_proxy_through(rule, endpoints.id(Endpoints::IMDS)));
        problems.extend(unreachable(rule, &rules[..place]));
    }
}

/// To enforce where everything is allowed looks safe and guards nothing.
fn enforces_nothing(draft: &Draft) -> Option<Problem> {
    let enforce = draft.enforce.as_ref().filter(|enforce| enforce.value != Enforce::None)?;
    let default = draft.default.iter().map(|default| &default.value);
    let mut verdicts = draft.rules.iter().map(|rule| &rule.verdicts).chain(default);
    if verdicts.any(|verdicts| verdicts.iter().any(|(_, permission)| *permission != Permission::Allow)) {
        return None;
    }
    let remedy = "add `default: { imds: deny }`";
    Some(Problem::warning(enforce.place.clone(), "this policy enforces, but denies nothing", remedy))
}

fn expiry(rule: &RuleDraft, today: Date) -> Option<Problem> {
    let (name, until) = (rule.name.as_ref()?, rule.until.as_ref()?);
    let days_left = today.until(until.value).ok()?.get_days();
    let (name, last) = (&name.value, until.value);
    let message = match days_left {
        ..0 => format!("rule `{name}` has expired: it no longer matches"),
        0 => format!("rule `{name}` expires today"),
        1..=NOTICE_DAYS => format!("rule `{name}` expires soon: it matches until {last}"),
        _ => return None,
    };
    let label = match days_left {
        ..0 => format!("today is {today}"),
        0 => "its last day".to_owned(),
        1 => "one day left".to_owned(),
        _ => format!("{days_left} days left"),
    };
    let remedy = "remove the rule if it is no longer needed; else agree on a new date";
    Some(Problem::warning(until.place.clone(), message, remedy).label(label))
}

fn tenants_widen(rule: &RuleDraft) -> Option<Problem> {
    let selector = rule.selector.as_ref()?;
    let keys = selector.value.tenant_written();
    if keys.is_empty() || !widens(rule) {
        return None;
    }
    let message = format!(
        "whoever may create pods can give themselves this access: it rests on `{}`",
        keys.join("`, `")
    );
    let remedy = "add what tenants do not write: `namespaces`, `namespaceLabels` or `serviceAccounts`";
    Some(Problem::warning(selector.place.clone(), message, remedy))
}

/// A proxy of a node that takes up other pods' connections without their knowing: what it sends on is its own to the
/// kernel.
struct Proxy {
    namespace: &'static str,
    name: &'static str,
    /// Whether the namespace is there for it. Others hold much else: all of `kube-system` does not mean the proxy.
    owns_namespace: bool,
}

const PROXIES: [Proxy; 2] = [
    Proxy { namespace: "istio-system", name: "ztunnel", owns_namespace: true },
    Proxy { namespace: "kube-system", name: "cilium-envoy", owns_namespace: false },
];

/// Whoever may use such a proxy has what the proxy has.
fn lets_a_proxy_through(rule: &RuleDraft, imds: Option<EndpointId>) -> Option<Problem> {
    let selector = rule.selector.as_ref()?;
    if rule.verdicts.of(imds?).is_none_or(|permission| *permission == Permission::Deny) {
        return None;
    }
    let points_at = |proxy: &&Proxy| selector.value.points_at(&proxy.workload(), proxy.owns_namespace);
    let Proxy { namespace, name, .. } = PROXIES.iter().find(points_at)?;
    let message =
        format!("this rule lets `{namespace}/{name}` reach IMDS, and with it every pod that it serves");
    let remedy =
        "leave the proxy out: it needs no credentials of the node, and its pods' requests bear its name";
    Some(Problem::warning(selector.place.clone(), message, remedy))
}

impl Proxy {
    fn workload(&self) -> Workload {
        Workload {
            namespace: self.namespace.to_owned(),
            service_account: self.name.to_owned(),
            owners: vec![format!("daemonset/{}", self.name)],
            ..Workload::default()
        }
    }
}

/// Whether a rule gives anybody anything. A filter does: without the rule, its pods would have what comes after.
fn widens(rule: &RuleDraft) -> bool {
    rule.verdicts.iter().any(|(_, permission)| *permission != Permission::Deny)
}

/// A rule that decides only what earlier rules have always decided before it.
fn unreachable(rule: &RuleDraft, earlier: &[&RuleDraft]) -> Option<Problem> {
    let (name, selector) = (rule.name.as_ref()?, rule.selector.as_ref()?);
    let hides = |other: &RuleDraft, endpoint: EndpointId| {
        let covers = |earlier: &Sited<Selector>| earlier.value.covers(&selector.value);
        let decides = other.verdicts.of(endpoint).is_some();
        decides && other.until.is_none() && other.selector.as_ref().is_some_and(covers)
    };
    let mut hiding = None;
    for (endpoint, _) in rule.verdicts.iter() {
        hiding = Some(earlier.iter().find(|other| hides(other, endpoint))?);
    }
    let first = hiding?.name.as_ref()?;
    let message = format!("rule `{}` is never reached", name.value);
    let remedy = "move it before the other rule, or remove it";
    let label = "this rule comes first and decides for all that could match";
    Some(Problem::warning(name.place.clone(), message, remedy).related(first.place.clone(), label))
}
