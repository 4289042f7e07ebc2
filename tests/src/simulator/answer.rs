use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use hyper::header::{AUTHORIZATION, HeaderMap};
use hyper::{Method, StatusCode};

use super::metadata;
use super::token::{Tokens, parse_lifetime};
use super::{Service, Versions};

/// The header that carries a session token.
const TOKEN: &str = "x-aws-ec2-metadata-token";
/// The header that asks for a lifetime, and that says the lifetime of a token.
pub(super) const TOKEN_LIFETIME: &str = "x-aws-ec2-metadata-token-ttl-seconds";

/// What goes back to the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: String,
    /// The lifetime of the token in the body, in seconds.
    pub(super) token_lifetime: Option<u32>,
}

/// The rules of both services: which request gets which answer.
#[derive(Debug)]
pub(super) struct Rules {
    versions: Mutex<Versions>,
    tokens: Mutex<Tokens>,
}

impl Rules {
    pub(super) fn new(versions: Versions) -> Self {
        Self { versions: Mutex::new(versions), tokens: Mutex::default() }
    }

    pub(super) fn serve_versions(&self, versions: Versions) {
        *self.versions.lock().unwrap_or_else(PoisonError::into_inner) = versions;
    }

    /// The answer to a request that came in at `now`.
    pub(super) fn answer(
        &self,
        service: Service,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        now: Instant,
    ) -> Answer {
        match service {
            Service::Imds => self.imds(method, path, headers, now),
            Service::PodIdentity => pod_identity(method, path, headers),
        }
    }

    fn imds(&self, method: &Method, path: &str, headers: &HeaderMap, now: Instant) -> Answer {
        let versions = *self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        if versions == Versions::Off || headers.contains_key("x-forwarded-for") {
            return Answer::refusal(StatusCode::FORBIDDEN);
        }
        match *method {
            Method::PUT => self.token(path, headers, now),
            Method::GET | Method::HEAD => match self.check_token(versions, headers, now) {
                Err(status) => Answer::refusal(status),
                Ok(()) => document(path),
            },
            _ => Answer::refusal(StatusCode::METHOD_NOT_ALLOWED),
        }
    }

    fn token(&self, path: &str, headers: &HeaderMap, now: Instant) -> Answer {
        match split_version(path) {
            Some(("latest", "api/token")) => {}
            Some((_, "api/token")) => return Answer::refusal(StatusCode::FORBIDDEN),
            _ => return Answer::refusal(StatusCode::METHOD_NOT_ALLOWED),
        }
        let lifetime = headers.get(TOKEN_LIFETIME).and_then(|header| parse_lifetime(header.to_str().ok()?));
        let Some(lifetime) = lifetime else {
            return Answer::refusal(StatusCode::BAD_REQUEST);
        };
        match self.tokens.lock().unwrap_or_else(PoisonError::into_inner).issue(lifetime, now) {
            Ok(token) => Answer { token_lifetime: Some(lifetime), ..Answer::found(token) },
            Err(_) => Answer::refusal(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    /// Version 1 sends no token. One that is sent must be valid even where none is needed.
    fn check_token(&self, versions: Versions, headers: &HeaderMap, now: Instant) -> Result<(), StatusCode> {
        let valid = match headers.get(TOKEN) {
            None => versions == Versions::V1AndV2,
            Some(token) => token.to_str().is_ok_and(|token| {
                self.tokens.lock().unwrap_or_else(PoisonError::into_inner).accepts(token, now)
            }),
        };
        if valid { Ok(()) } else { Err(StatusCode::UNAUTHORIZED) }
    }
}

impl Answer {
    fn found(body: String) -> Self {
        Self { status: StatusCode::OK, body, token_lifetime: None }
    }

    fn refusal(status: StatusCode) -> Self {
        let reason = status.canonical_reason().unwrap_or_default();
        Self { status, body: format!("{} - {reason}\n", status.as_u16()), token_lifetime: None }
    }
}

/// What a GET of `path` finds: the path of a document below the version (`meta-data/mac`), or of a folder, with a
/// closing slash (`meta-data/`). `None` if there is nothing.
pub fn resolve(path: &str) -> Option<String> {
    split_version(path).and_then(|(_, rest)| metadata::name(rest))
}

fn document(path: &str) -> Answer {
    match split_version(path).and_then(|(_, rest)| metadata::look_up(rest)) {
        Some(body) => Answer::found(body),
        None => Answer::refusal(StatusCode::NOT_FOUND),
    }
}

fn pod_identity(method: &Method, path: &str, headers: &HeaderMap) -> Answer {
    if path != "/v1/credentials" {
        return Answer::refusal(StatusCode::NOT_FOUND);
    }
    if *method != Method::GET {
        return Answer::refusal(StatusCode::METHOD_NOT_ALLOWED);
    }
    match headers.get(AUTHORIZATION) {
        None => Answer::refusal(StatusCode::BAD_REQUEST),
        Some(token) if token.is_empty() => Answer::refusal(StatusCode::UNAUTHORIZED),
        Some(_) => Answer::found(metadata::pod_identity_credentials()),
    }
}

/// `/VERSION/REST` as its two parts, if the version is one that IMDS has: `latest`, `1.0` or a date.
fn split_version(path: &str) -> Option<(&str, &str)> {
    let (version, rest) = path.strip_prefix('/')?.split_once('/')?;
    let date = version.len() == 10
        && version.bytes().enumerate().all(|(index, byte)| match index {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    (date || version == "latest" || version == "1.0").then_some((version, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name, a request (method, path, headers), and the status expected.
    type Case<'a> = (&'a str, Method, &'a str, &'a [(&'static str, &'a str)], u16);

    const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/node-role";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
            .collect()
    }

    fn status(rules: &Rules, method: &Method, path: &str, pairs: &[(&'static str, &str)]) -> u16 {
        rules.answer(Service::Imds, method, path, &headers(pairs), Instant::now()).status.as_u16()
    }

    #[test]
    fn requests_without_a_token_follow_the_versions_served() {
        for (versions, expected) in [(Versions::V1AndV2, 200), (Versions::V2Only, 401), (Versions::Off, 403)]
        {
            assert_eq!(
                status(&Rules::new(versions), &Method::GET, CREDENTIALS, &[]),
                expected,
                "{versions:?}"
            );
        }
    }

    #[test]
    fn a_token_opens_imdsv2_and_a_wrong_one_opens_nothing() {
        for versions in [Versions::V1AndV2, Versions::V2Only] {
            let rules = Rules::new(versions);
            let lifetime = headers(&[(TOKEN_LIFETIME, "60")]);
            let answer =
                rules.answer(Service::Imds, &Method::PUT, "/latest/api/token", &lifetime, Instant::now());
            assert_eq!((answer.status, answer.token_lifetime), (StatusCode::OK, Some(60)));
            assert_eq!(status(&rules, &Method::GET, CREDENTIALS, &[(TOKEN, &answer.body)]), 200);
            assert_eq!(status(&rules, &Method::GET, CREDENTIALS, &[(TOKEN, "wrong")]), 401);
        }
    }

    #[test]
    fn the_rest_is_strict_too() {
        let rules = Rules::new(Versions::V1AndV2);
        let cases: &[Case<'_>] = &[
            ("no lifetime", Method::PUT, "/latest/api/token", &[], 400),
            ("a lifetime too long", Method::PUT, "/latest/api/token", &[(TOKEN_LIFETIME, "21601")], 400),
            ("a dated token path", Method::PUT, "/2021-07-15/api/token", &[(TOKEN_LIFETIME, "60")], 403),
            ("a forwarded PUT", Method::PUT, "/latest/api/token", &[("x-forwarded-for", "10.0.0.1")], 403),
            ("a forwarded GET", Method::GET, CREDENTIALS, &[("x-forwarded-for", "10.0.0.1")], 403),
            ("a PUT elsewhere", Method::PUT, CREDENTIALS, &[(TOKEN_LIFETIME, "60")], 405),
            ("another method", Method::POST, CREDENTIALS, &[], 405),
            ("nothing there", Method::GET, "/latest/meta-data/nothing", &[], 404),
            ("no such version", Method::GET, "/newest/meta-data/mac", &[], 404),
            ("a dated version", Method::GET, "/2021-07-15/meta-data/mac", &[], 200),
            ("the oldest version", Method::GET, "/1.0/meta-data/mac", &[], 200),
        ];
        for (name, method, path, pairs, expected) in cases {
            assert_eq!(status(&rules, method, path, pairs), *expected, "{name}");
        }
    }

    #[test]
    fn pod_identity_wants_an_authorization() {
        for (pairs, expected) in
            [(&[][..], 400), (&[("authorization", "")][..], 401), (&[("authorization", "t")], 200)]
        {
            assert_eq!(
                pod_identity(&Method::GET, "/v1/credentials", &headers(pairs)).status,
                expected,
                "{pairs:?}"
            );
        }
    }
}
