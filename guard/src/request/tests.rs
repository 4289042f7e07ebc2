use super::*;

fn asked(line: &str, has_token: bool) -> Option<Asked> {
    Asked::parse(line.as_bytes(), has_token)
}

#[test]
fn the_version_is_that_of_the_token_and_one_only_of_a_success() {
    const GET: &str = "GET /latest/meta-data/mac";
    let cases = [
        ("a success without a token", GET, false, 200, ImdsVersion::V1),
        ("a refusal", GET, false, 401, ImdsVersion::Unknown),
        ("nothing there", GET, false, 404, ImdsVersion::Unknown),
        ("no readable answer", GET, false, 0, ImdsVersion::Unknown),
        ("with a token", GET, true, 200, ImdsVersion::V2),
        ("with one that is not valid", GET, true, 401, ImdsVersion::V2),
        ("for a token", "PUT /latest/api/token", false, 200, ImdsVersion::V2),
        ("for a token, refused", "PUT /latest/api/token", false, 403, ImdsVersion::V2),
    ];
    for (case, line, has_token, status, version) in cases {
        let asked = asked(line, has_token).expect(case);
        assert_eq!(ImdsVersion::of(Some(&asked), status), version, "{case}");
    }
    assert_eq!(ImdsVersion::of(None, 200), ImdsVersion::Unknown, "one that did not parse");
}

#[test]
fn a_line_is_told_by_its_method_and_class_alone() {
    let asked = asked("BREW /latest/user-data", false).expect("a line");
    assert_eq!((asked.method, asked.path.class), ("_OTHER", "user-data"));
    assert_eq!(Asked::parse(b"GET \xff/", false), None);
    assert_eq!(Asked::parse(b"GET", false), None);
}

#[test]
fn what_a_node_proxy_carries_is_not_its_own() {
    let pod = |owner: &str| Workload { owners: vec![owner.to_owned()], ..Workload::default() };
    for (owner, proxy) in [
        ("daemonset/ztunnel", true),
        ("daemonset/cilium-envoy", true),
        ("daemonset/cilium", false),
        ("deployment/ztunnel", false),
        ("replicaset/ztunnel", false),
    ] {
        assert_eq!(is_node_proxy(&pod(owner)), proxy, "{owner}");
    }
    assert!(!is_node_proxy(&Workload { service_account: "ztunnel".to_owned(), ..Workload::default() }));
    assert_eq!(Requester::ViaProxy.labels(), ("", "via-proxy"));
}

fn request(asked: Option<Asked>, status: u16) -> Request {
    Request {
        time: Timestamp::UNIX_EPOCH,
        requester: Requester::Pod {
            namespace: "shop".to_owned(),
            service_account: "cart".to_owned(),
            name: "cart-0".to_owned(),
            uid: "u".to_owned(),
        },
        asked,
        status,
        verdict: Verdict::Deny,
        mode: Mode::Audit,
        rule: "default".to_owned(),
    }
}

#[test]
fn a_line_of_the_log_names_the_class_and_the_role_and_no_path() {
    let request = request(asked("GET /2021-07-15/meta-data/iam/security-credentials/node-role", true), 200);
    let expected = serde_json::json!({
        "time": "1970-01-01T00:00:00Z",
        "event.name": "imds_guard.request",
        "k8s.namespace.name": "shop",
        "imds_guard.service_account": "cart",
        "k8s.pod.name": "cart-0",
        "k8s.pod.uid": "u",
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "imds_guard.imds_version": "v2",
        "imds_guard.path_class": "credentials",
        "imds_guard.role": "node-role",
        "imds_guard.verdict": "deny",
        "imds_guard.mode": "audit",
        "imds_guard.rule": "default",
        "imds_guard.policy_sha256": "abc",
    });
    assert_eq!(serde_json::to_value(request.line("abc", None)).expect("plain data"), expected);
}

#[test]
fn one_that_did_not_parse_says_so_and_nothing_else() {
    let request = request(None, 0);
    let counted = request.counted();
    assert_eq!((counted.path_class, counted.imds_version, counted.code), (UNPARSED, ImdsVersion::Unknown, 0));
    let line = serde_json::to_value(request.line("abc", None)).expect("plain data");
    assert!(line.get("http.request.method").is_none() && line.get("http.response.status_code").is_none());
}

#[test]
fn a_pod_has_twenty_lines_a_second() {
    let mut budget = LineBudget::default();
    let now = Timestamp::UNIX_EPOCH;
    let taken =
        |budget: &mut LineBudget, pod, now| (0..50).filter(|_| budget.take(CgroupId(pod), now)).count();
    assert_eq!(taken(&mut budget, 1, now), 20);
    assert_eq!(taken(&mut budget, 2, now), 20, "another pod has its own");
    assert_eq!(taken(&mut budget, 1, now + std::time::Duration::from_secs(1)), 20);
}
