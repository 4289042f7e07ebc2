//! What becomes of one request, by its head alone. Pure.

use std::sync::Arc;

use guard_common::{CgroupId, Mode, Verdict};
use hyper::{
    HeaderMap, Method, StatusCode,
    header::{self, HeaderName},
    http::{request::Parts, uri::PathAndQuery},
};

use crate::{
    denial,
    imds::{Class, Filter, MetadataPath},
    pods::Pod,
    policy::RuleName,
    request::{self, Asked, PathAsked},
};

/// The header with a session token, of version 2 of IMDS.
const TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");

/// Headers that belong to one connection and go no further. A body is never sent on, so neither is what announces one.
const HOP_BY_HOP: [HeaderName; 11] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
    HeaderName::from_static("http2-settings"),
];

/// What the policy says of a pod whose gate this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    pub cgroup: CgroupId,
    pub pod: Arc<Pod>,
    pub verdict: Verdict,
    pub mode: Mode,
    pub rule: RuleName,
    /// There if the verdict is to filter.
    pub filter: Option<Arc<Filter>>,
    /// Where those who are denied find help.
    pub help: Option<String>,
    /// The id that the pod's denials bear.
    pub denial_id: String,
}

/// What a request asks for, and what becomes of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Judged {
    /// None for what is no path of IMDS.
    pub(super) asked: Option<Asked>,
    pub(super) fate: Fate,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on to IMDS, for this path.
    Pass(PathAndQuery),
    /// It is answered here.
    Answer { status: StatusCode, text: String },
}

impl Terms {
    /// Judges a request. `has_body` says whether one is announced.
    pub(super) fn judge(&self, head: &Parts, has_body: bool) -> Judged {
        let target = head.uri.path_and_query().map_or("", PathAndQuery::as_str);
        let path = MetadataPath::parse(target).ok();
        let asked = path.as_ref().map(|path| Asked {
            method: request::known(head.method.as_str()),
            path: PathAsked::of(path),
            has_token: head.headers.get(TOKEN).is_some_and(|token| !token.is_empty()),
        });
        let fate = match malformed(head, has_body) {
            Some(why) => {
                Fate::Answer { status: StatusCode::BAD_REQUEST, text: format!("imds-guard: {why}\n") }
            }
            None => self.decide(head, path.as_ref(), asked.as_ref().is_some_and(Asked::is_v2)),
        };
        Judged { asked, fate }
    }

    fn decide(&self, head: &Parts, path: Option<&MetadataPath>, is_v2: bool) -> Fate {
        let as_asked = || head.uri.path_and_query().cloned().map_or_else(|| self.deny(None), Fate::Pass);
        match (self.mode, self.verdict, &self.filter) {
            // No gate is for the audited; were one, it would change no outcome.
            (Mode::Audit, ..) | (_, Verdict::Allow, _) => as_asked(),
            (_, Verdict::Filter, Some(filter)) => match path {
                Some(path) if !filter.allows(path, &head.method) => self.deny(Some(path.class())),
                Some(_) if filter.requires_token() && !is_v2 => Fate::Answer {
                    status: StatusCode::UNAUTHORIZED,
                    text: "imds-guard: a session token is required (IMDSv2)\n".to_owned(),
                },
                Some(path) => canonical(path).map_or_else(|| self.deny(Some(path.class())), Fate::Pass),
                None => self.deny(None),
            },
            (_, Verdict::Deny | Verdict::Filter, _) => self.deny(None),
        }
    }

    fn deny(&self, class: Option<Class>) -> Fate {
        let workload = &self.pod.workload;
        let what = match (self.verdict, class) {
            (Verdict::Filter, Some(Class::Other)) => "read this from IMDS".to_owned(),
            (Verdict::Filter, Some(class)) => format!("read `{class}` from IMDS"),
            (Verdict::Filter, None) => "ask IMDS for what is no plain path".to_owned(),
            _ => "use IMDS".to_owned(),
        };
        let needs_role = self.verdict != Verdict::Filter || class == Some(Class::Credentials);
        let remedy = if needs_role {
            denial::own_role(&self.pod)
        } else {
            " If it needs this, ask for a rule.".to_owned()
        };
        let text = format!(
            "imds-guard: the service account {}/{} may not {what}{}{remedy}{}\n",
            workload.namespace,
            workload.service_account,
            denial::why(self.rule.as_str()),
            denial::ending(self.help.as_deref(), &self.denial_id),
        );
        Fate::Answer { status: StatusCode::FORBIDDEN, text }
    }
}

fn canonical(path: &MetadataPath) -> Option<PathAndQuery> {
    path.canonical().parse().ok()
}

/// What no client of IMDS does, and what another server could understand in another way.
fn malformed(head: &Parts, has_body: bool) -> Option<&'static str> {
    if has_body || head.headers.contains_key(header::TRANSFER_ENCODING) {
        return Some("a request to IMDS has no body");
    }
    if head.method == Method::CONNECT {
        return Some("IMDS is no proxy");
    }
    if head.headers.get_all(header::HOST).iter().count() > 1 {
        return Some("a request has one Host");
    }
    // A header that is named there ends here: a token would be lost, and the request go on as one of version 1.
    let plain = ["close", "keep-alive", "te", "upgrade", "http2-settings"];
    let mut options = head
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    if options.any(|option| {
        !plain.iter().any(|plain| option.trim_ascii().eq_ignore_ascii_case(plain.as_bytes()))
            && !option.trim_ascii().is_empty()
    }) {
        return Some("no header of a request to IMDS ends at a proxy");
    }
    None
}

/// Leaves out what belongs to one connection alone.
pub(super) fn drop_hop_by_hop(headers: &mut HeaderMap) {
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests;
