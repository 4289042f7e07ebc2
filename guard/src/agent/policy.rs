//! Which policy is in force, and where it came from: the mounted files, the ConfigMap that they are a copy of, or what
//! was accepted last.
//!
//! The object is newer than its volume, so as long as it is watched it alone counts. When it can't be watched, a change
//! of the files counts; that they are as they were does not, for the object may have been newer.

use std::path::{Path, PathBuf};

use jiff::{Timestamp, civil::Date, tz::TimeZone};

use super::{AgentError, chain};
use crate::{
    endpoints::Endpoints,
    memory::{Memory, RememberedPolicy},
    policy::{self, Policy, SourceFile},
};

/// The policy that decides, and why a newer one does not.
#[derive(Debug)]
pub(super) struct PolicyInForce {
    pub(super) policy: Policy,
    /// Why the policy as it stands now was refused, if it was.
    pub(super) refused: Option<String>,
    path: PathBuf,
    endpoints: Endpoints,
    memory: Option<Memory>,
    /// The digest of the files as they were last read.
    files: Option<String>,
    object_watched: bool,
}

/// What became of a policy that was looked at.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Accepted,
    Refused,
}

impl PolicyInForce {
    /// The policy to begin with: the mounted one; or the last that was accepted, if the mounted one is not, or has not
    /// changed since and so is the older one. Without a good one there is nothing to guard by.
    pub(super) fn first(
        path: &Path,
        endpoints: &Endpoints,
        memory: Option<&Memory>,
    ) -> Result<Self, AgentError> {
        let new = |policy, refused, files| Self {
            policy,
            refused,
            path: path.to_owned(),
            endpoints: endpoints.clone(),
            memory: memory.cloned(),
            files,
            object_watched: false,
        };
        let remembered = memory.and_then(recall);
        let recalled =
            |remembered: &RememberedPolicy| policy::parse(&remembered.files, endpoints, today()).policy;
        let read = policy::read(path);
        let files = read.as_ref().ok().map(|files| policy::sha256(files));
        let newer = remembered.as_ref().filter(|last| last.mounted.is_some() && last.mounted == files);
        if let Some(policy) = newer.and_then(recalled) {
            return Ok(new(policy, None, files));
        }
        let error = match read {
            Err(error) => AgentError::PolicyRead(error),
            Ok(files) => {
                let parsed = policy::parse(&files, endpoints, today());
                let problems = policy::render(&parsed.problems, &files, false);
                match parsed.policy {
                    Some(policy) => {
                        if !problems.is_empty() {
                            tracing::warn!("the policy is accepted with warnings:\n{problems}");
                        }
                        let mounted = Some(policy.sha256().to_owned());
                        let first = new(policy, None, mounted);
                        first.remember(&files);
                        return Ok(first);
                    }
                    None => AgentError::PolicyRefused { path: path.to_owned(), problems },
                }
            }
        };
        let Some(policy) = remembered.as_ref().and_then(recalled) else { return Err(error) };
        let refused = chain(&error);
        tracing::error!("{refused}\n\nthe last policy that was accepted decides");
        Ok(new(policy, Some(refused), files))
    }

    /// Looks at the files again. Those that are not accepted change nothing.
    pub(super) fn look_at_files(&mut self) -> Change {
        let read = policy::read(&self.path);
        let digest = read.as_ref().ok().map(|files| policy::sha256(files));
        let changed = digest.is_none() || digest != self.files;
        self.files = digest;
        if self.object_watched || !changed {
            return Change::None;
        }
        match read {
            Ok(files) => self.consider(&files),
            Err(error) => self.refuse(chain(&error)),
        }
    }

    /// Takes the object as it is now; none if there is none.
    pub(super) fn take_object(&mut self, files: Option<Vec<SourceFile>>) -> Change {
        self.object_watched = true;
        match files {
            None => self.refuse("the policy's ConfigMap is not there".to_owned()),
            Some(files) if files.is_empty() => {
                self.refuse("the policy's ConfigMap has no key that ends in .yaml or .yml".to_owned())
            }
            Some(files) => self.consider(&files),
        }
    }

    /// The object is not watched any more: changes of the files count.
    pub(super) fn lose_object(&mut self) {
        self.object_watched = false;
    }

    fn consider(&mut self, files: &[SourceFile]) -> Change {
        let parsed = policy::parse(files, &self.endpoints, today());
        let Some(policy) = parsed.policy else {
            return self.refuse(policy::render(&parsed.problems, files, false));
        };
        if policy.sha256() == self.policy.sha256() && self.refused.is_none() {
            return Change::None;
        }
        tracing::info!(policy = policy.sha256(), "the policy is accepted");
        self.policy = policy;
        self.refused = None;
        self.remember(files);
        Change::Accepted
    }

    fn refuse(&mut self, problems: String) -> Change {
        if self.refused.as_ref() == Some(&problems) {
            return Change::None;
        }
        tracing::error!("the policy is not accepted; the last good one goes on deciding:\n\n{problems}");
        self.refused = Some(problems);
        Change::Refused
    }

    fn remember(&self, files: &[SourceFile]) {
        if let Some(memory) = &self.memory
            && let Err(error) =
                memory.save_policy(&RememberedPolicy { files: files.to_owned(), mounted: self.files.clone() })
        {
            tracing::warn!(error = chain(&error), "the policy is not remembered for the next start");
        }
    }
}

fn recall(memory: &Memory) -> Option<RememberedPolicy> {
    let recalled =
        memory.policy().inspect_err(|error| tracing::warn!(error = chain(error), "no policy is recalled"));
    recalled.ok().flatten()
}

/// The day by which rules expire: it begins at midnight, UTC.
pub(super) fn today() -> Date {
    Timestamp::now().to_zoned(TimeZone::UTC).date()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const AUDIT: &str = "version: 1\ndefault: { imds: deny }\n";
    const ENFORCE: &str = "version: 1\nenforce: all\ndefault: { imds: deny }\n";

    fn first(folder: &Path, memory: Option<&Memory>) -> Result<PolicyInForce, AgentError> {
        PolicyInForce::first(folder, &Endpoints::with(&[]).expect("no additions"), memory)
    }

    fn object(text: &str) -> Vec<SourceFile> {
        vec![SourceFile { name: "configmap/policy/policy.yaml".to_owned(), text: text.to_owned() }]
    }

    fn write(folder: &Path, text: &str) {
        fs::write(folder.join("policy.yaml"), text).expect("writable");
    }

    #[test]
    fn while_the_object_is_watched_it_alone_counts() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write(folder.path(), AUDIT);
        let mut policy = first(folder.path(), None).expect("a good policy");
        assert_eq!(
            policy.take_object(Some(object(AUDIT))),
            Change::None,
            "the same files, wherever they lie"
        );
        assert_eq!(policy.take_object(Some(object(ENFORCE))), Change::Accepted);
        let enforced = policy.policy.sha256().to_owned();
        assert_eq!(policy.look_at_files(), Change::None, "the volume lags behind");
        policy.lose_object();
        assert_eq!(policy.look_at_files(), Change::None, "what is old does not come back");
        write(folder.path(), "version: 1\n");
        assert_eq!(policy.look_at_files(), Change::Accepted, "a change counts");
        assert_ne!(policy.policy.sha256(), enforced);
    }

    #[test]
    fn what_is_bad_is_refused_once_and_changes_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write(folder.path(), ENFORCE);
        let mut policy = first(folder.path(), None).expect("a good policy");
        let good = policy.policy.clone();
        for bad in [Some(object("version: 2\n")), Some(Vec::new()), None] {
            assert_eq!(policy.take_object(bad.clone()), Change::Refused);
            assert_eq!(policy.take_object(bad), Change::None, "said once");
            assert_eq!(policy.policy, good);
        }
        assert_eq!(policy.take_object(Some(object(ENFORCE))), Change::Accepted, "good again");
        assert_eq!(policy.refused, None);
    }

    #[test]
    fn a_start_with_a_bad_policy_recalls_the_last_good_one() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let memory = Memory::open(&folder.path().join("state")).expect("a folder");
        write(folder.path(), "version: 2\n");
        first(folder.path(), Some(&memory)).expect_err("nothing good was ever seen");
        write(folder.path(), ENFORCE);
        let good = first(folder.path(), Some(&memory)).expect("a good policy").policy;
        write(folder.path(), "version: 2\n");
        let recalled = first(folder.path(), Some(&memory)).expect("the last good one");
        assert_eq!(recalled.policy, good);
        assert!(recalled.refused.is_some_and(|why| why.contains("version")));
    }

    #[test]
    fn a_start_does_not_go_back_to_a_volume_that_lags_behind() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let memory = Memory::open(&folder.path().join("state")).expect("a folder");
        write(folder.path(), AUDIT);
        let mut policy = first(folder.path(), Some(&memory)).expect("a good policy");
        policy.take_object(Some(object(ENFORCE)));
        let enforced = policy.policy.sha256().to_owned();
        let again = first(folder.path(), Some(&memory)).expect("the newer one");
        assert_eq!(again.policy.sha256(), enforced);
        write(folder.path(), "version: 1\n");
        let changed = first(folder.path(), Some(&memory)).expect("a good policy");
        assert_ne!(changed.policy.sha256(), enforced, "what changed since counts");
    }
}
