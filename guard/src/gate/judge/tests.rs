use hyper::Request;

use super::*;
use crate::{
    imds::{Item, Tokens},
    pods::{PodUid, ServiceAccount},
    workload::Workload,
};

fn mk_terms(verdict: Verdict, mode: Mode, filter: Option<Filter>) -> Terms {
    let workload =
        Workload { namespace: "shop".to_owned(), service_account: "cart".to_owned(), ..Workload::default() };
    let pod = Pod {
        uid: PodUid::new("1"),
        declared_uid: "1".to_owned(),
        name: "cart-0".to_owned(),
        workload,
        service_account: Some(ServiceAccount { uid: "2".to_owned(), role: None }),
        containers: [].into(),
        addresses: vec![],
    };
    Terms {
        cgroup: CgroupId(1),
        pod: Arc::new(pod),
        verdict,
        mode,
        rule: RuleName::DEFAULT,
        filter: filter.map(Arc::new),
        help: Some("https://wiki.example/aws".to_owned()),
        denial_id: "1a2b3c4d".to_owned(),
    }
}

fn region_only(tokens: Tokens) -> Terms {
    let filter = Filter::new(Some(vec![Item::Class(Class::Region)]), Vec::new(), tokens);
    mk_terms(Verdict::Filter, Mode::Enforce, Some(filter))
}

fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request").into_parts().0
}

/// Where a request goes on to, or with which status it is answered.
fn fate(terms: &Terms, head: &Parts) -> Result<String, u16> {
    match terms.judge(head, false).fate {
        Fate::Pass(path) => Ok(path.to_string()),
        Fate::Answer { status, .. } => Err(status.as_u16()),
    }
}

const ROLE: &str = "/latest/meta-data/iam/security-credentials/node";
const REGION: &str = "/latest/meta-data/placement/region";

#[test]
fn a_verdict_is_carried_out_and_audit_is_not() {
    let cases = [
        (mk_terms(Verdict::Allow, Mode::Enforce, None), Ok(ROLE.to_owned())),
        (mk_terms(Verdict::Deny, Mode::Enforce, None), Err(403)),
        (mk_terms(Verdict::Filter, Mode::Enforce, None), Err(403)),
        (mk_terms(Verdict::Deny, Mode::Audit, None), Ok(ROLE.to_owned())),
        (region_only(Tokens::Optional), Err(403)),
    ];
    for (terms, expected) in cases {
        assert_eq!(fate(&terms, &head("GET", ROLE, &[])), expected, "{:?} {:?}", terms.verdict, terms.mode);
    }
}

#[test]
fn what_a_filter_lets_through_goes_on_in_its_one_form() {
    let terms = region_only(Tokens::Optional);
    let cases = [
        (REGION, Ok(REGION)),
        ("/2021-07-15//meta-data/./placement/%72egion?x=1", Ok("/2021-07-15/meta-data/placement/region")),
        ("http://169.254.169.254/latest/meta-data/placement/region", Ok(REGION)),
        ("/latest/meta-data/placement/../iam/info", Err(403)),
        ("/latest/meta-data/placement%2fregion", Err(403)),
    ];
    for (target, expected) in cases {
        assert_eq!(fate(&terms, &head("GET", target, &[])), expected.map(ToOwned::to_owned), "{target}");
    }
    assert_eq!(fate(&terms, &head("PUT", "/latest/api/token", &[])), Ok("/latest/api/token".to_owned()));
    assert_eq!(fate(&terms, &head("DELETE", REGION, &[])), Err(403));
}

#[test]
fn who_is_allowed_asks_as_he_likes() {
    let terms = mk_terms(Verdict::Allow, Mode::Enforce, None);
    for target in ["/latest/meta-data/%2e?x=1", "/a b"] {
        let Ok(uri) = target.parse::<hyper::Uri>() else { continue };
        let head = head("GET", &uri.to_string(), &[]);
        assert_eq!(fate(&terms, &head), Ok(target.to_owned()));
    }
}

#[test]
fn a_token_is_asked_for_where_it_is_required() {
    let terms = region_only(Tokens::Required);
    assert_eq!(fate(&terms, &head("GET", REGION, &[])), Err(401));
    assert_eq!(
        fate(&terms, &head("GET", REGION, &[("X-aws-EC2-metadata-token", "t")])),
        Ok(REGION.to_owned())
    );
    assert_eq!(fate(&terms, &head("PUT", "/latest/api/token", &[])), Ok("/latest/api/token".to_owned()));
}

#[test]
fn what_no_client_sends_is_refused_whoever_sends_it() {
    let allowed = mk_terms(Verdict::Allow, Mode::Enforce, None);
    for headers in [
        &[("connection", "close, X-aws-ec2-metadata-token")][..],
        &[("transfer-encoding", "chunked")],
        &[("host", "a"), ("host", "b")],
    ] {
        assert_eq!(fate(&allowed, &head("GET", ROLE, headers)), Err(400), "{headers:?}");
    }
    assert_eq!(fate(&allowed, &head("CONNECT", "169.254.169.254:80", &[])), Err(400));
    let with_body = allowed.judge(&head("PUT", "/latest/api/token", &[]), true).fate;
    assert!(matches!(with_body, Fate::Answer { status: StatusCode::BAD_REQUEST, .. }), "{with_body:?}");
    for headers in [&[("connection", "Keep-Alive")][..], &[("connection", "close"), ("host", "a")]] {
        assert!(fate(&allowed, &head("GET", ROLE, headers)).is_ok(), "{headers:?}");
    }
}

#[test]
fn a_denial_says_who_what_why_and_what_to_do() {
    let text = |terms: &Terms, target: &str| match terms.judge(&head("GET", target, &[]), false).fate {
        Fate::Answer { text, .. } => text,
        Fate::Pass(path) => panic!("{path} passes"),
    };
    let denied = mk_terms(Verdict::Deny, Mode::Enforce, None);
    assert_eq!(
        text(&denied, ROLE),
        format!(
            "imds-guard: the service account shop/cart may not use IMDS: no rule of the policy allows it. Give the \
             service account a role of its own, by IRSA or EKS Pod Identity, or ask for a rule. See \
             https://wiki.example/aws (denial 1a2b3c4d)\n"
        )
    );
    let filtered = Terms { rule: RuleName::SELF, help: None, ..region_only(Tokens::Optional) };
    assert_eq!(
        text(&filtered, "/latest/user-data"),
        format!(
            "imds-guard: the service account shop/cart may not read `user-data` from IMDS by the policy's rule self. If \
             it needs this, ask for a rule. (denial 1a2b3c4d)\n"
        )
    );
    // What a client writes never comes back.
    assert!(!text(&filtered, "/latest/meta-data/planted%00").contains("planted"));
}
