/// The two acts: the same policy, first only watching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Audit,
    Enforce,
}

/// What differs between the acts.
const AUDIT: &str = "enforce: none               # only record what would be denied";
const ENFORCE: &str = "enforce: all                # carry it out";

/// What stays.
const RULES: &str = "\
default: { imds: deny }     # who needs the node's role has a rule:
rules:
  - name: node-agents
    match: { serviceAccounts: [kube-system/aws-node] }
    imds: allow
  - name: metadata-only
    match: { serviceAccounts: [monitoring/agent] }
    imds: { filter: { allow: [region] } }    # and nothing else
";

impl Act {
    /// The line that differs.
    pub(super) const fn line(self) -> &'static str {
        match self {
            Self::Audit => AUDIT,
            Self::Enforce => ENFORCE,
        }
    }

    /// The whole policy file.
    pub(super) fn policy(self) -> String {
        format!("version: 1\n{}\n{RULES}", self.line())
    }
}
