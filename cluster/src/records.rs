//! What IMDS saw and what the agent asked of the API server, as the cluster wrote it down.

use std::path::Path;
use std::{fs, io};

use anyhow::{Context, Result};
use guard_tests::simulator::Request;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::cluster::Cluster;

/// One request of the agent to the API server: an event of its audit log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentRequest {
    /// `ResponseComplete`, or `ResponseStarted` for a watch that goes on.
    pub stage: String,
    /// `get`, `list`, `watch`, `create`, `patch`.
    pub verb: String,
    #[serde(rename = "requestURI")]
    pub uri: String,
    #[serde(rename = "auditID")]
    pub id: String,
    /// What it is about; nothing for requests like `/version`.
    pub object_ref: Option<ObjectRef>,
    pub response_status: Option<ResponseStatus>,
}

/// What a request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ObjectRef {
    pub resource: String,
    pub namespace: String,
    pub name: String,
}

/// How a request was answered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ResponseStatus {
    pub code: u16,
}

impl Cluster {
    /// Every request that IMDS has answered, in their order.
    pub fn imds_requests(&self) -> Result<Vec<Request>> {
        read_lines(&self.folder().imds())
    }

    /// Every request of the agent that the API server has answered, in their order; a watch twice, when it began and
    /// when it ended.
    pub fn agent_requests(&self) -> Result<Vec<AgentRequest>> {
        read_lines(&self.folder().audit())
    }
}

/// The lines of a file that another process appends to: the last one may be half written.
fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = match fs::read_to_string(path) {
        // Its writer makes it with the first line.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.with_context(|| format!("read {}", path.display()))?,
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("parse {line} of {}", path.display())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_the_audit_log_are_read() {
        let list = r#"{"kind":"Event","auditID":"1","stage":"ResponseComplete","requestURI":"/api/v1/pods?limit=1",
            "verb":"list","objectRef":{"resource":"pods","apiVersion":"v1"},"responseStatus":{"code":403}}"#;
        let list: AgentRequest = serde_json::from_str(list).expect("an event");
        assert_eq!(list.object_ref.expect("it is about pods").resource, "pods");
        assert_eq!(list.response_status, Some(ResponseStatus { code: 403 }));
        let version = r#"{"auditID":"2","stage":"ResponseComplete","requestURI":"/version","verb":"get"}"#;
        let version: AgentRequest = serde_json::from_str(version).expect("an event");
        assert_eq!((version.object_ref, version.response_status), (None, None));
    }
}
