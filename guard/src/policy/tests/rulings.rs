//! Who gets which verdict, in which mode, by which rule, on which day.

use guard_common::{Mode, Verdict};
use jiff::civil::date;

use super::{TODAY, kcl, policy, policy_with_match};
use crate::{
    endpoints::Endpoints,
    policy::{Policy, Ruled},
    workload::Workload,
};

const IMDS: u8 = 0;
const POD_IDENTITY: u8 = 1;
const ECS: u8 = 2;

fn ruled(policy: &Policy, workload: &Workload, endpoint: u8) -> (Verdict, String) {
    let Ruled { verdict, rule, .. } = policy.ruling(workload, endpoint, TODAY);
    (verdict, rule.to_string())
}

#[test]
fn the_ids_above_are_those_of_the_endpoints() {
    let endpoints = Endpoints::aws();
    let ids = ["imds", "pod-identity", "ecs"].map(|name| endpoints.id(name));
    assert_eq!(ids, [Some(IMDS), Some(POD_IDENTITY), Some(ECS)]);
}

#[test]
fn a_selector_matches_when_all_its_criteria_hold() {
    let cases = [
        ("namespaces: [ingest]", true),
        ("namespaces: [other, \"in*\"]", true),
        ("namespaces: [other]", false),
        ("namespaceLabels: { team: data }", true),
        ("namespaceLabels: { team: \"d*\", stage: prod }", true),
        ("namespaceLabels: { team: data, stage: dev }", false),
        ("namespaceLabels: { absent: \"*\" }", false),
        ("serviceAccounts: [ingest/kcl-worker]", true),
        ("serviceAccounts: [\"*/kcl-worker\"]", true),
        ("serviceAccounts: [\"ingest/*\"]", true),
        ("serviceAccounts: [kcl-worker/ingest, ingest/default]", false),
        ("workloads: [deployment/kcl]", true),
        ("workloads: [Deployment/kcl]", true),
        ("workloads: [\"replicaset/kcl-*\"]", true),
        ("workloads: [\"*/kcl\"]", true),
        ("workloads: [deployment/KCL]", false),
        ("workloads: [statefulset/kcl]", false),
        ("labels: { app: kcl }", true),
        ("labels: { track: \"\" }", true),
        ("labels: { app: \"\" }", false),
        ("labels: { app: kcl, absent: x }", false),
        ("hostNetwork: false", true),
        ("hostNetwork: true", false),
        ("nodeLabels: { pool: canary }", true),
        ("nodeLabels: { pool: batch }", false),
        ("namespaces: [ingest], workloads: [deployment/kcl], hostNetwork: false", true),
        ("namespaces: [ingest], workloads: [deployment/kcl], hostNetwork: true", false),
        ("namespaces: [\"*\"]", true),
    ];
    for (selector, matches) in cases {
        let expected = if matches { (Verdict::Allow, "probe") } else { (Verdict::Deny, "default") };
        let (verdict, rule) = ruled(&policy_with_match(selector), &kcl(), IMDS);
        assert_eq!((verdict, rule.as_str()), expected, "{selector}");
    }
}

#[test]
fn a_pod_without_an_owner_matches_no_workload() {
    let bare = Workload { owners: Vec::new(), ..kcl() };
    assert_eq!(ruled(&policy_with_match("workloads: [\"*/*\"]"), &bare, IMDS).0, Verdict::Deny);
}

#[test]
fn the_first_rule_that_names_the_endpoint_decides() {
    let policy = policy(
        "version: 1
default: { imds: deny }
rules:
  - { name: elsewhere, match: { namespaces: [other] }, imds: allow, ecs: deny }
  - { name: only-ecs, match: { namespaces: [ingest] }, ecs: allow }
  - { name: both, match: { namespaces: [ingest] }, imds: allow, ecs: deny }
  - { name: late, match: { namespaces: [\"*\"] }, imds: deny }
",
    );
    let cases = [
        (IMDS, Verdict::Allow, "both"),
        (ECS, Verdict::Allow, "only-ecs"),
        (POD_IDENTITY, Verdict::Allow, "default"),
    ];
    for (endpoint, verdict, rule) in cases {
        assert_eq!(ruled(&policy, &kcl(), endpoint), (verdict, rule.to_owned()), "{endpoint}");
    }
}

#[test]
fn rules_of_all_files_are_in_file_order() {
    let rule = |name, verdict| {
        format!("version: 1\nrules: [{{ name: {name}, match: {{ namespaces: [\"*\"] }}, imds: {verdict} }}]")
    };
    let parsed = super::parsed(&[&rule("first", "allow"), &rule("second", "deny")]);
    assert_eq!(ruled(&parsed.policy.expect("a policy"), &kcl(), IMDS), (Verdict::Allow, "first".to_owned()));
}

#[test]
fn a_rule_holds_to_the_end_of_its_last_day() {
    let policy = policy(
        "version: 1
default: { imds: deny }
rules:
  - { name: exception, match: { namespaces: [ingest] }, imds: allow, until: 2026-07-31, reason: SEC-1 }
  - { name: longer, match: { namespaces: [ingest] }, ecs: deny, until: 2026-12-31, reason: SEC-2 }
",
    );
    let cases = [
        ("the day before", date(2026, 7, 30), Verdict::Allow, Some(date(2026, 7, 31))),
        ("the last day", date(2026, 7, 31), Verdict::Allow, Some(date(2026, 7, 31))),
        ("the day after", date(2026, 8, 1), Verdict::Deny, Some(date(2026, 12, 31))),
        ("the next year", date(2027, 1, 1), Verdict::Deny, None),
    ];
    for (name, today, verdict, next) in cases {
        assert_eq!(policy.ruling(&kcl(), IMDS, today).verdict, verdict, "{name}");
        assert_eq!(policy.next_expiry(today), next, "{name}");
    }
}

#[test]
fn the_mode_is_enforce_for_whoever_is_selected() {
    let cases = [
        ("", Mode::Audit),
        ("enforce: none", Mode::Audit),
        ("enforce: all", Mode::Enforce),
        ("enforce: [{ namespaces: [ingest] }]", Mode::Enforce),
        ("enforce: [{ namespaces: [other] }, { nodeLabels: { pool: canary } }]", Mode::Enforce),
        ("enforce: [{ namespaces: [ingest], hostNetwork: true }]", Mode::Audit),
    ];
    for (enforce, mode) in cases {
        let policy = policy(&format!("version: 1\ndefault: {{ imds: deny }}\n{enforce}"));
        assert_eq!(policy.mode(&kcl()), mode, "{enforce}");
    }
}

#[test]
fn an_unidentified_pod_has_a_verdict_of_its_own() {
    use {Mode::*, Verdict::*};
    let cases = [
        ("enforce: none", IMDS, Allow, Audit),
        ("enforce: none\nunidentified: deny", IMDS, Deny, Audit),
        ("enforce: all", IMDS, Deny, Enforce),
        ("enforce: all\nunidentified: allow", IMDS, Allow, Enforce),
        ("enforce: [{ namespaces: [a] }]", IMDS, Allow, Enforce),
        ("enforce: [{ namespaces: [a] }]\nunidentified: deny", IMDS, Deny, Enforce),
        ("enforce: all", ECS, Deny, Enforce),
        ("enforce: all", POD_IDENTITY, Allow, Enforce),
    ];
    for (keys, endpoint, verdict, mode) in cases {
        let policy = policy(&format!("version: 1\ndefault: {{ ecs: deny, pod-identity: allow }}\n{keys}"));
        let (found, found_mode, rule) = policy.unidentified(endpoint);
        assert_eq!((found, found_mode), (verdict, mode), "{keys}, endpoint {endpoint}");
        assert_eq!(rule.as_str(), "unidentified");
    }
}

#[test]
fn an_endpoint_of_the_command_line_can_be_ruled() {
    let endpoints = Endpoints::with(&["vault=10.0.0.9".to_owned()]).expect("valid");
    let files = super::files(&["version: 1\ndefault: { vault: deny }"]);
    let policy = super::parse(&files, &endpoints, TODAY).policy.expect("a policy");
    assert_eq!(ruled(&policy, &kcl(), 3), (Verdict::Deny, "default".to_owned()));
}
