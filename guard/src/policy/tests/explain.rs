//! The way to an outcome, as `imds-guard explain` tells it.

use guard_common::{Mode, Verdict};

use super::{
    super::{EnforceTrace, Explanation, Fate, Mismatch, Outcome, RuleName},
    TODAY, kcl, policy,
};
use crate::{
    imds::{Class, Method},
    workload::Workload,
};

const POLICY: &str = "version: 1
enforce: [{ namespaces: [payments] }, { nodeLabels: { pool: \"can*\" }, hostNetwork: false }]
default: { imds: deny }
rules:
  - { name: over, match: { namespaces: [ingest] }, imds: allow, until: 2026-06-01, reason: done }
  - name: elsewhere
    match:
      namespaces: [ops, \"team-*\"]
      namespaceLabels: { team: ops, zone: a }
      serviceAccounts: [\"*/default\"]
      workloads: [daemonset/kcl]
      labels: { app: \"*\" }
      hostNetwork: true
    imds: allow
  - { name: here, match: { namespaces: [ingest] }, imds: allow }
  - { name: too-late, match: { workloads: [deployment/kcl] }, imds: deny }
";

#[test]
fn every_rule_tells_how_far_it_came() {
    let explanation = policy(POLICY).explain(&kcl(), TODAY);
    let fate = |name: &str| {
        let trace = explanation.rules.iter().find(|trace| trace.name.as_str() == name);
        trace.expect("a rule of the policy").fate.clone()
    };
    assert_eq!(fate("over"), Fate::Expired { until: jiff::civil::date(2026, 6, 1) });
    assert_eq!(fate("here"), Fate::Matched { decides: vec!["imds".to_owned()] });
    assert_eq!(fate("too-late"), Fate::Matched { decides: Vec::new() });
    let mismatch = |selector: &'static str, wanted: &str, has: &str| Mismatch {
        selector: selector.into(),
        wanted: wanted.to_owned(),
        has: has.to_owned(),
    };
    let mismatches = vec![
        mismatch("namespaces", "[ops, team-*]", "ingest"),
        mismatch("namespaceLabels", "{ team: ops, zone: a }", "team: data, no label zone"),
        mismatch("serviceAccounts", "[\"*/default\"]", "ingest/kcl-worker"),
        mismatch("workloads", "[daemonset/kcl]", "replicaset/kcl-5d8f7c9b6d, deployment/kcl"),
        mismatch("hostNetwork", "true", "false"),
    ];
    assert_eq!(fate("elsewhere"), Fate::NotMatched { mismatches });
}

#[test]
fn every_endpoint_has_its_outcome() {
    let explanation = policy(POLICY).explain(&kcl(), TODAY);
    let outcome = |endpoint: &str, verdict, rule: &str| {
        let found = explanation.outcomes.iter().find(|outcome| outcome.endpoint == endpoint);
        let Outcome { verdict: found_verdict, rule: found_rule, .. } = found.expect("an endpoint").clone();
        assert_eq!((found_verdict, found_rule.as_str()), (verdict, rule), "{endpoint}");
    };
    outcome("imds", Verdict::Allow, "here");
    outcome("pod-identity", Verdict::Allow, RuleName::DEFAULT.as_str());
    outcome("ecs", Verdict::Allow, RuleName::DEFAULT.as_str());
}

#[test]
fn the_mode_names_the_selector_that_makes_it() {
    let explanation = policy(POLICY).explain(&kcl(), TODAY);
    assert_eq!(explanation.mode, Mode::Enforce);
    let EnforceTrace::Selected(selectors) = explanation.enforce else { panic!("a list") };
    let told: Vec<_> =
        selectors.iter().map(|trace| (trace.selector.as_str(), trace.mismatches.is_empty())).collect();
    assert_eq!(
        told,
        [("namespaces: [payments]", false), ("nodeLabels: { pool: can* }, hostNetwork: false", true)]
    );
}

#[test]
fn a_request_is_judged_by_the_rule_that_decides() {
    let filtered = "version: 1
default: { imds: { filter: { allow: [region], tokens: required } } }
rules: [{ name: all, match: { namespaces: [ops] }, imds: allow }, { name: none, match: { namespaces: [web] }, imds: deny }]
";
    let region = "/latest/meta-data//placement/region";
    let cases = [
        ("ingest", Method::GET, region, true, true, "default"),
        ("ingest", Method::PUT, "/latest/api/token", true, false, "default"),
        ("ingest", Method::GET, "/latest/user-data", false, false, "default"),
        ("ingest", Method::POST, region, false, false, "default"),
        ("ingest", Method::GET, "/latest/%zz", false, false, "default"),
        ("ops", Method::GET, "/latest/%zz", true, false, "all"),
        ("web", Method::GET, region, false, false, "none"),
    ];
    for (namespace, method, target, allowed, needs_token, rule) in cases {
        let workload = Workload { namespace: namespace.to_owned(), ..kcl() };
        let explanation = policy(filtered).explain(&workload, TODAY);
        // As it comes from the agent's socket.
        let json = serde_json::to_string(&explanation).expect("plain data");
        let explanation: Explanation = serde_json::from_str(&json).expect("the same data");
        let request = explanation.request(target, &method).expect("the explanation is about IMDS");
        let found = (request.allowed, request.needs_token, request.rule.as_str());
        assert_eq!(found, (allowed, needs_token, rule), "{namespace}: {method} {target}");
    }
    let explanation = policy(filtered).explain(&kcl(), TODAY);
    let request = explanation.request(region, &Method::GET).expect("the explanation is about IMDS");
    assert_eq!(request.path.as_deref(), Some("/latest/meta-data/placement/region"));
    assert_eq!(request.class, Some(Class::Region));
    let unread = explanation.request("/latest/%zz", &Method::GET).expect("the explanation is about IMDS");
    assert!(unread.because.ends_with("it has a `%` without two hexadecimal digits"), "{}", unread.because);
}

#[test]
fn an_explanation_is_plain_json() {
    let json = serde_json::to_value(policy(POLICY).explain(&kcl(), TODAY)).expect("serialisable");
    assert_eq!(json["mode"], "enforce");
    assert_eq!(json["outcomes"][0]["rule"], "here");
    assert_eq!(json["outcomes"][0]["verdict"], "allow");
    assert_eq!(json["rules"][0]["fate"]["expired"]["until"], "2026-06-01");
}
