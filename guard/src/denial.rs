//! What a denied pod is told: in the gate's answer, and in an Event, for SDKs swallow answers.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::{
    pods::{Pod, PodUid},
    policy::RuleName,
};

/// Why the policy denies it, as the end of a sentence.
pub fn why(rule: &str) -> String {
    if rule == RuleName::DEFAULT.as_str() {
        ": no rule of the policy allows it.".to_owned()
    } else if rule == RuleName::UNIDENTIFIED.as_str() {
        ": the pod was not known to imds-guard yet.".to_owned()
    } else {
        format!(" by the policy's rule {rule}.")
    }
}

/// How the pod gets credentials of its own.
pub fn own_role(pod: &Pod) -> String {
    let role = pod.service_account.as_ref().and_then(|account| account.role.as_deref());
    match role {
        Some(role) => format!(
            " Its service account has the role {role} by IRSA, which needs no IMDS: see that the pod has AWS_ROLE_ARN, \
             and that its SDK knows web identities."
        ),
        None => {
            " Give the service account a role of its own, by IRSA or EKS Pod Identity, or ask for a rule."
                .to_owned()
        }
    }
}

/// The id of a pod's denials by one rule of one policy: the answer, the log and the Event bear the same.
pub fn id(pod: &PodUid, rule: &str, policy_sha256: &str) -> String {
    let mut digest = Sha256::new();
    for part in [pod.as_str(), rule, policy_sha256] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize()[..4].iter().fold(String::new(), |mut id, byte| {
        write!(id, "{byte:02x}").expect("a String takes everything");
        id
    })
}

/// Where to read more, and which denial it was: the end of every text.
pub fn ending(help: Option<&str>, id: &str) -> String {
    let help = help.map_or(String::new(), |help| format!(" See {help}"));
    format!("{help} (denial {id})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_stands_for_a_pod_a_rule_and_a_policy() {
        let (one, other) = (PodUid::new("1"), PodUid::new("2"));
        let first = id(&one, "default", "a");
        assert_eq!(first.len(), 8);
        assert_eq!(first, id(&one, "default", "a"));
        for another in [id(&other, "default", "a"), id(&one, "legacy", "a"), id(&one, "default", "b")] {
            assert_ne!(first, another);
        }
    }
}
