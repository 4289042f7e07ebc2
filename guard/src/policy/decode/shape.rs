//! What each key of the format takes, for error messages: the format in one table.

/// A key, or an item of its list, and what may stand there.
#[derive(Debug)]
pub(super) struct Shape<'a> {
    pub(super) subject: &'a str,
    pub(super) takes: &'a str,
    pub(super) example: &'a str,
}

const fn shape(subject: &'static str, takes: &'static str, example: &'static str) -> Shape<'static> {
    Shape { subject, takes, example }
}

pub(super) const FILE: Shape<'_> = shape("a policy file", "a mapping", "version: 1");
pub(super) const VERSION: Shape<'_> = shape("`version`", "the number 1", "version: 1");
pub(super) const HELP: Shape<'_> =
    shape("`help`", "a web address", "help: https://wiki.example/aws-credentials");
pub(super) const ENFORCE: Shape<'_> =
    shape("`enforce`", "none, all or a list of selectors", "enforce: [{ namespaces: [payments] }]");
pub(super) const ENFORCE_ITEM: Shape<'_> =
    shape("an item of `enforce`", "a mapping of selectors", "enforce: [{ namespaces: [payments] }]");
pub(super) const UNIDENTIFIED: Shape<'_> = shape("`unidentified`", "allow or deny", "unidentified: deny");
pub(super) const IMDS: Shape<'_> = shape("`imds`", "allow, deny or a filter", "imds: deny");
pub(super) const FILTER: Shape<'_> =
    shape("`filter`", "a mapping", "filter: { allow: [region], tokens: required }");
pub(super) const FILTER_ALLOW: Shape<'_> =
    shape("`allow`", "a list of classes and paths", "allow: [region, /latest/meta-data/instance-id]");
pub(super) const FILTER_DENY: Shape<'_> =
    shape("`deny`", "a list of classes and paths", "deny: [credentials, /latest/user-data]");
pub(super) const TOKENS: Shape<'_> = shape("`tokens`", "required or optional", "tokens: required");
pub(super) const DEFAULT: Shape<'_> =
    shape("`default`", "a mapping of endpoints to verdicts", "default: { imds: deny }");
pub(super) const RULES: Shape<'_> = shape(
    "`rules`",
    "a list of rules",
    "rules: [{ name: agents, match: { namespaces: [kube-system] }, imds: allow }]",
);
pub(super) const RULE: Shape<'_> =
    shape("a rule", "a mapping", "- { name: agents, match: { namespaces: [kube-system] }, imds: allow }");
pub(super) const NAME: Shape<'_> = shape("`name`", "a text", "name: node-agents");
pub(super) const MATCH: Shape<'_> =
    shape("`match`", "a mapping of selectors", "match: { namespaces: [payments] }");
pub(super) const UNTIL: Shape<'_> = shape("`until`", "a date", "until: 2027-03-31");
pub(super) const REASON: Shape<'_> = shape("`reason`", "a text", "reason: SEC-1432");
pub(super) const NAMESPACES: Shape<'_> =
    shape("`namespaces`", "a list of globs", "namespaces: [payments, \"team-*\"]");
pub(super) const NAMESPACE_LABELS: Shape<'_> =
    shape("`namespaceLabels`", "a mapping of labels to globs", "namespaceLabels: { team: payments }");
pub(super) const SERVICE_ACCOUNTS: Shape<'_> = shape(
    "`serviceAccounts`",
    "a list of namespace/name globs",
    "serviceAccounts: [kube-system/aws-node, \"monitoring/*\"]",
);
pub(super) const WORKLOADS: Shape<'_> =
    shape("`workloads`", "a list of kind/name globs", "workloads: [deployment/kcl, \"daemonset/*\"]");
pub(super) const LABELS: Shape<'_> =
    shape("`labels`", "a mapping of labels to globs", "labels: { app: kcl }");
pub(super) const HOST_NETWORK: Shape<'_> = shape("`hostNetwork`", "true or false", "hostNetwork: true");
pub(super) const NODE_LABELS: Shape<'_> =
    shape("`nodeLabels`", "a mapping of labels to globs", "nodeLabels: { pool: canary }");

pub(super) const FILE_KEYS: &[&str] = &["version", "help", "enforce", "unidentified", "default", "rules"];
pub(super) const RULE_KEYS: &[&str] = &["name", "match", "until", "reason"];
pub(super) const FILTER_KEYS: &[&str] = &["allow", "deny", "tokens"];
pub(super) const SELECTOR_KEYS: &[&str] =
    &["namespaces", "namespaceLabels", "serviceAccounts", "workloads", "labels", "hostNetwork", "nodeLabels"];
