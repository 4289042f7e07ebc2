//! Which workloads a rule, or an item of `enforce`, is for. Pure matching, and why something did not match.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

use super::glob::Glob;
use crate::workload::{Labels, Workload};

/// All of its criteria must hold. There is at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector(Vec<Criterion>);

/// One key of a selector. Within a list, one item is enough; of labels, all must be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Criterion {
    Namespaces(Vec<Glob>),
    NamespaceLabels(Vec<LabelGlob>),
    ServiceAccounts(Vec<PairGlob>),
    Workloads(Vec<PairGlob>),
    Labels(Vec<LabelGlob>),
    HostNetwork(bool),
    NodeLabels(Vec<LabelGlob>),
}

/// A label's key, and what its value must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LabelGlob {
    pub(super) key: String,
    pub(super) value: Glob,
}

/// Two globs with a `/` between: `namespace/name` or `kind/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PairGlob {
    pub(super) scope: Glob,
    pub(super) name: Glob,
}

/// A criterion that does not hold for a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    /// The selector's key: `namespaces`.
    pub selector: Cow<'static, str>,
    /// What it asks for, as it would be written in a policy.
    pub wanted: String,
    /// What the workload has.
    pub has: String,
}

/// Who decides which workloads meet a criterion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Author {
    /// Whoever may create pods in a namespace.
    Tenant,
    /// Whoever runs the cluster.
    Cluster,
    /// It binds nobody to anything: it always holds, or a pod may just choose its node.
    Nobody,
}

impl Selector {
    /// None if there is no criterion: such a selector would match everything without saying so.
    pub(super) fn new(criteria: Vec<Criterion>) -> Option<Self> {
        if criteria.is_empty() { None } else { Some(Self(criteria)) }
    }

    /// Whether every criterion holds.
    pub fn matches(&self, workload: &Workload) -> bool {
        self.0.iter().all(|criterion| criterion.holds(workload))
    }

    /// The criteria that do not hold, with what each wanted and what the workload has.
    pub fn mismatches(&self, workload: &Workload) -> Vec<Mismatch> {
        let failed = self.0.iter().filter(|criterion| !criterion.holds(workload));
        failed.map(|criterion| criterion.mismatch(workload)).collect()
    }

    /// Whether it surely matches all that `other` matches. It may say no where the answer is yes.
    pub(super) fn covers(&self, other: &Self) -> bool {
        self == other || self.0.iter().all(Criterion::is_universal)
    }

    /// Whether it points at this workload: all criteria that are about names hold, and one of them names the workload's
    /// namespace, or its owner's kind, in full. `with_namespace`: whether all of the namespace points at it, too.
    pub(super) fn points_at(&self, workload: &Workload, with_namespace: bool) -> bool {
        let mut by_name = self.0.iter().filter(|criterion| criterion.is_of_names()).peekable();
        by_name.peek().is_some()
            && by_name.all(|criterion| criterion.holds(workload))
            && self.0.iter().any(|criterion| criterion.points_at(workload, with_namespace))
    }

    /// The keys by which a tenant can make a pod match, where nothing of the cluster's own stands against it.
    pub(super) fn tenant_written(&self) -> Vec<&'static str> {
        if self.0.iter().any(|criterion| criterion.author() == Author::Cluster) {
            return Vec::new();
        }
        let tenants = self.0.iter().filter(|criterion| criterion.author() == Author::Tenant);
        tenants.map(Criterion::key).collect()
    }
}

impl Criterion {
    fn key(&self) -> &'static str {
        match self {
            Self::Namespaces(_) => "namespaces",
            Self::NamespaceLabels(_) => "namespaceLabels",
            Self::ServiceAccounts(_) => "serviceAccounts",
            Self::Workloads(_) => "workloads",
            Self::Labels(_) => "labels",
            Self::HostNetwork(_) => "hostNetwork",
            Self::NodeLabels(_) => "nodeLabels",
        }
    }

    fn holds(&self, workload: &Workload) -> bool {
        match self {
            Self::Namespaces(globs) => globs.iter().any(|glob| glob.matches(&workload.namespace)),
            Self::NamespaceLabels(wanted) => all_in(wanted, &workload.namespace_labels),
            Self::ServiceAccounts(pairs) => {
                pairs.iter().any(|pair| pair.matches(&workload.namespace, &workload.service_account))
            }
            Self::Workloads(pairs) => workload.owners.iter().any(|owner| {
                let (kind, name) = owner.split_once('/').unwrap_or((owner, ""));
                pairs.iter().any(|pair| pair.matches(kind, name))
            }),
            Self::Labels(wanted) => all_in(wanted, &workload.labels),
            Self::HostNetwork(wanted) => *wanted == workload.host_network,
            Self::NodeLabels(wanted) => all_in(wanted, &workload.node_labels),
        }
    }

    /// Whether it is about what a workload is called, and not about labels or the network.
    fn is_of_names(&self) -> bool {
        matches!(self, Self::Namespaces(_) | Self::ServiceAccounts(_) | Self::Workloads(_))
    }

    fn points_at(&self, workload: &Workload, with_namespace: bool) -> bool {
        let points = |pair: &PairGlob, scope: &str, name: &str, with_scope: bool| {
            pair.scope.is_literal() && pair.matches(scope, name) && (with_scope || !pair.name.is_universal())
        };
        match self {
            Self::ServiceAccounts(pairs) => pairs
                .iter()
                .any(|pair| points(pair, &workload.namespace, &workload.service_account, with_namespace)),
            Self::Workloads(pairs) => workload.owners.iter().any(|owner| {
                let (kind, name) = owner.split_once('/').unwrap_or((owner, ""));
                pairs.iter().any(|pair| points(pair, kind, name, false))
            }),
            _ => false,
        }
    }

    fn is_universal(&self) -> bool {
        match self {
            Self::Namespaces(globs) => globs.iter().any(Glob::is_universal),
            Self::ServiceAccounts(pairs) => {
                pairs.iter().any(|pair| pair.scope.is_universal() && pair.name.is_universal())
            }
            _ => false,
        }
    }

    fn author(&self) -> Author {
        match self {
            _ if self.is_universal() => Author::Nobody,
            Self::Labels(_) | Self::Workloads(_) => Author::Tenant,
            Self::ServiceAccounts(pairs) if pairs.iter().any(|pair| pair.scope.is_universal()) => {
                Author::Tenant
            }
            Self::HostNetwork(_) | Self::NodeLabels(_) => Author::Nobody,
            Self::Namespaces(_) | Self::NamespaceLabels(_) | Self::ServiceAccounts(_) => Author::Cluster,
        }
    }

    fn mismatch(&self, workload: &Workload) -> Mismatch {
        let has = match self {
            Self::Namespaces(_) => workload.namespace.clone(),
            Self::NamespaceLabels(wanted) => found(wanted, &workload.namespace_labels),
            Self::ServiceAccounts(_) => format!("{}/{}", workload.namespace, workload.service_account),
            Self::Workloads(_) if workload.owners.is_empty() => "no owner".to_owned(),
            Self::Workloads(_) => workload.owners.join(", "),
            Self::Labels(wanted) => found(wanted, &workload.labels),
            Self::HostNetwork(_) => workload.host_network.to_string(),
            Self::NodeLabels(wanted) => found(wanted, &workload.node_labels),
        };
        Mismatch { selector: self.key().into(), wanted: self.wanted(), has }
    }

    fn wanted(&self) -> String {
        match self {
            Self::Namespaces(globs) => format!("[{}]", joined(globs)),
            Self::ServiceAccounts(pairs) | Self::Workloads(pairs) => format!("[{}]", joined(pairs)),
            Self::NamespaceLabels(labels) | Self::Labels(labels) | Self::NodeLabels(labels) => {
                format!("{{ {} }}", joined(labels))
            }
            Self::HostNetwork(wanted) => wanted.to_string(),
        }
    }
}

impl PairGlob {
    fn matches(&self, scope: &str, name: &str) -> bool {
        self.scope.matches(scope) && self.name.matches(name)
    }
}

fn all_in(wanted: &[LabelGlob], labels: &Labels) -> bool {
    wanted.iter().all(|label| labels.get(&label.key).is_some_and(|value| label.value.matches(value)))
}

/// What the workload has under the keys that were asked for.
fn found(wanted: &[LabelGlob], labels: &Labels) -> String {
    let found = wanted.iter().map(|label| match labels.get(&label.key) {
        Some(value) => format!("{}: {}", label.key, quoted(value)),
        None => format!("no label {}", label.key),
    });
    found.collect::<Vec<_>>().join(", ")
}

fn joined<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(|item| quoted(&item.to_string())).collect::<Vec<_>>().join(", ")
}

/// As YAML needs it inside brackets: a star at the start would be an alias, and nothing would be null.
fn quoted(text: &str) -> String {
    if text.is_empty() || text.starts_with('*') { format!("\"{text}\"") } else { text.to_owned() }
}

/// As it would be written in a policy: `namespaces: [payments], hostNetwork: true`.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, criterion) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(f, "{comma}{}: {}", criterion.key(), criterion.wanted())?;
        }
        Ok(())
    }
}

impl fmt::Display for PairGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.scope, self.name)
    }
}

impl fmt::Display for LabelGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, quoted(&self.value.to_string()))
    }
}
