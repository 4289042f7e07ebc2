//! Tables of requests: what each means, and which filter lets it through.

#[path = "../../../fuzz/property.rs"]
mod property;

use super::{Class, Filter, Item, ItemError, MetadataPath, Method, PathError, Tokens};

fn path(target: &str) -> MetadataPath {
    MetadataPath::parse(target).unwrap_or_else(|error| panic!("{target}: {error}"))
}

fn items(texts: &[&str]) -> Vec<Item> {
    texts.iter().map(|text| text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))).collect()
}

fn filter(allow: &[&str], deny: &[&str]) -> Filter {
    let allow = if allow.is_empty() { None } else { Some(items(allow)) };
    Filter::new(allow, items(deny), Tokens::Optional)
}

#[test]
fn a_target_has_one_canonical_path() {
    let long = format!("/latest/{}", "a".repeat(1016));
    let cases = [
        ("the root", "/", Ok("/")),
        ("a version", "/latest", Ok("/latest")),
        ("a folder", "/latest/meta-data/", Ok("/latest/meta-data/")),
        ("the case is kept", "/Latest/Meta-Data/MAC", Ok("/Latest/Meta-Data/MAC")),
        ("empty segments", "//latest///user-data", Ok("/latest/user-data")),
        ("many closing slashes", "/latest/meta-data///", Ok("/latest/meta-data/")),
        ("a dot", "/latest/./user-data", Ok("/latest/user-data")),
        ("a dot at the end", "/latest/meta-data/.", Ok("/latest/meta-data/")),
        ("two dots", "/latest/meta-data/../user-data", Ok("/latest/user-data")),
        ("two dots at the end", "/latest/meta-data/mac/..", Ok("/latest/meta-data/")),
        ("up to the root", "/latest/..", Ok("/")),
        ("escaped dots", "/latest/meta-data/%2e%2E/user-data", Ok("/latest/user-data")),
        ("three dots are a name", "/latest/.../x", Ok("/latest/.../x")),
        ("an escaped letter", "/latest/us%65r-data", Ok("/latest/user-data")),
        ("an escaped colon", "/latest/macs/02%3a00", Ok("/latest/macs/02:00")),
        ("a plus is a plus", "/latest/tags/a+b", Ok("/latest/tags/a+b")),
        ("a query", "/latest/user-data?a=/../b%zz", Ok("/latest/user-data")),
        ("1024 bytes", long.as_str(), Ok(long.as_str())),
        ("1025 bytes", &format!("{long}a"), Err(PathError::Length)),
        ("nothing", "", Err(PathError::Form)),
        ("a whole address", "http://169.254.169.254/latest/user-data", Err(PathError::Form)),
        ("a star", "*", Err(PathError::Form)),
        ("a fragment", "/latest/user-data#x", Err(PathError::Fragment)),
        ("a fragment in the query", "/latest/user-data?#", Err(PathError::Fragment)),
        ("half an escape", "/latest/user-data%2", Err(PathError::Escape)),
        ("no digits", "/latest/%zz", Err(PathError::Escape)),
        ("a sign is no digit", "/latest/%+1", Err(PathError::Escape)),
        ("an escaped slash", "/latest/meta-data%2fiam", Err(PathError::Byte(b'/'))),
        ("an escape escaped", "/latest/%2575ser-data", Err(PathError::Byte(b'%'))),
        ("an escaped NUL", "/latest/user-data%00", Err(PathError::Byte(0))),
        ("an escaped query", "/latest/user-data%3f", Err(PathError::Byte(b'?'))),
        ("a backslash", "/latest\\user-data", Err(PathError::Byte(b'\\'))),
        ("a space", "/latest/user data", Err(PathError::Byte(b' '))),
        ("a parameter", "/latest/user-data;x", Err(PathError::Byte(b';'))),
        ("a tab", "/latest/\tuser-data", Err(PathError::Byte(b'\t'))),
        ("another alphabet", "/latest/user-dat\u{430}", Err(PathError::Byte(0xd0))),
        ("a full-width slash", "/latest\u{ff0f}user-data", Err(PathError::Byte(0xef))),
        ("an escaped byte above ASCII", "/latest/%c0%af", Err(PathError::Byte(0xc0))),
        ("above the root", "/../latest/user-data", Err(PathError::AboveRoot)),
        ("above the root and back", "/latest/../../latest", Err(PathError::AboveRoot)),
    ];
    for (name, target, expected) in cases {
        let parsed = MetadataPath::parse(target);
        let found = parsed.as_ref().map(MetadataPath::canonical).map_err(|error| *error);
        assert_eq!(found, expected, "{name}");
        if let Ok(parsed) = &parsed {
            assert_eq!(MetadataPath::parse(parsed.canonical()).as_ref(), Ok(parsed), "{name}");
        }
    }
}

/// A filter and the simulator must agree about whatever a client makes up. `cargo xtask fuzz` tries many more.
#[test]
fn nothing_hostile_leads_past_a_filter() {
    let folders = [
        "/latest/",
        "//latest//",
        "/latest/meta-data/placement/",
        "/latest/meta-data/placement/region",
        "/1.0/",
    ];
    let detours = [
        "",
        "/",
        "/.",
        "/..",
        "/../",
        "../",
        "%2e%2e/",
        "..%2f",
        "..%5c",
        "..;/",
        "%252e%252e/",
        "?",
        "#",
        "%3f",
        "%00",
        "%",
        "\\",
        "%0d%0a",
        "+",
        "%20",
        "*",
        ".%2e/",
        "/x/../..//",
        "../../latest/",
        "../../../",
    ];
    let wanted = [
        "user-data",
        "USER-DATA",
        "us%65r-data",
        "meta-data/iam/security-credentials/node-role",
        "meta-data/iam/info",
        "dynamic/instance-identity/pkcs7",
        "dynamic/instance-identity/document",
        "meta-data/placement/region",
        "meta-data/placement/availability-zone",
        "api/token",
        "",
    ];
    for folder in folders {
        for detour in detours {
            for document in wanted {
                property::holds(&format!("{folder}{detour}{document}"));
                property::holds(&format!("{folder}{document}{detour}"));
                property::holds(&format!("{detour}{folder}{document}"));
            }
        }
    }
}

#[test]
fn every_documented_path_has_the_class_that_is_expected() {
    let cases = [
        ("/latest/api/token", Class::Token),
        ("/LATEST/API/TOKEN", Class::Token),
        ("/2021-07-15/api/token", Class::Other),
        ("/latest/api", Class::Other),
        ("/latest/meta-data/iam", Class::Credentials),
        ("/latest/meta-data/iam/", Class::Credentials),
        ("/latest/meta-data/iam/security-credentials/", Class::Credentials),
        ("/latest/meta-data/iam/security-credentials/node-role", Class::Credentials),
        ("/1.0/Meta-Data/IAM/Security-Credentials/node-role", Class::Credentials),
        ("/latest/meta-data/iam/info/deeper", Class::Credentials),
        ("/latest/meta-data/iam/something-new", Class::Credentials),
        ("/latest/meta-data/identity-credentials/ec2/info", Class::Credentials),
        ("/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance", Class::Credentials),
        ("/latest/meta-data/iam/info", Class::Identity),
        ("/latest/dynamic/instance-identity/", Class::Identity),
        ("/latest/dynamic/instance-identity/pkcs7", Class::Identity),
        ("/latest/dynamic/instance-identity/signature", Class::Identity),
        ("/latest/dynamic/instance-identity/rsa2048", Class::Identity),
        ("/latest/dynamic/instance-identity/document/x", Class::Identity),
        ("/latest/dynamic/instance-identity/something-new", Class::Identity),
        ("/latest/user-data", Class::UserData),
        ("/2012-01-12/USER-DATA/", Class::UserData),
        ("/latest/user-data/x", Class::UserData),
        ("/latest/dynamic/instance-identity/document", Class::Region),
        ("/latest/meta-data/placement/region", Class::Region),
        ("/latest/meta-data/placement/availability-zone", Class::Region),
        ("/latest/meta-data/placement/availability-zone-id", Class::Region),
        ("/latest/meta-data/placement/", Class::Placement),
        ("/latest/meta-data/placement/group-name", Class::Placement),
        ("/latest/meta-data/placement/host-id", Class::Placement),
        ("/latest/meta-data/placement/partition-number", Class::Placement),
        ("/", Class::Instance),
        ("/latest", Class::Instance),
        ("/2021-07-15/", Class::Instance),
        ("/latest/meta-data/", Class::Instance),
        ("/latest/dynamic", Class::Instance),
        ("/latest/dynamic/fws/instance-monitoring", Class::Instance),
        ("/latest/meta-data/ami-id", Class::Instance),
        ("/latest/meta-data/ami-launch-index", Class::Instance),
        ("/latest/meta-data/ami-manifest-path", Class::Instance),
        ("/latest/meta-data/ancestor-ami-ids", Class::Instance),
        ("/latest/meta-data/block-device-mapping/ebs1", Class::Instance),
        ("/latest/meta-data/elastic-inference/associations/eia-1", Class::Instance),
        ("/latest/meta-data/instance-action", Class::Instance),
        ("/latest/meta-data/instance-id", Class::Instance),
        ("/latest/meta-data/instance-life-cycle", Class::Instance),
        ("/latest/meta-data/instance-type", Class::Instance),
        ("/latest/meta-data/kernel-id", Class::Instance),
        ("/latest/meta-data/metrics/vhostmd", Class::Instance),
        ("/latest/meta-data/product-codes", Class::Instance),
        ("/latest/meta-data/public-keys/0/openssh-key", Class::Instance),
        ("/latest/meta-data/ramdisk-id", Class::Instance),
        ("/latest/meta-data/reservation-id", Class::Instance),
        ("/latest/meta-data/security-groups", Class::Instance),
        ("/latest/meta-data/system", Class::Instance),
        ("/latest/meta-data/hostname", Class::Network),
        ("/latest/meta-data/ipv6", Class::Network),
        ("/latest/meta-data/local-hostname", Class::Network),
        ("/latest/meta-data/local-ipv4", Class::Network),
        ("/latest/meta-data/mac", Class::Network),
        ("/latest/meta-data/network/interfaces/macs/02:00:00:00:00:01/vpc-id", Class::Network),
        ("/latest/meta-data/public-hostname", Class::Network),
        ("/latest/meta-data/public-ipv4", Class::Network),
        ("/latest/meta-data/spot/instance-action", Class::Spot),
        ("/latest/meta-data/spot/termination-time", Class::Spot),
        ("/latest/meta-data/events/maintenance/scheduled", Class::Events),
        ("/latest/meta-data/events/recommendations/rebalance", Class::Events),
        ("/latest/meta-data/autoscaling/target-lifecycle-state", Class::Autoscaling),
        ("/latest/meta-data/services/domain", Class::Services),
        ("/latest/meta-data/services/partition", Class::Services),
        ("/latest/meta-data/tags/instance/Name", Class::Tags),
        ("/user-data", Class::UserData),
        ("/meta-data/placement/region", Class::Other),
        ("/latest/meta-data/something-new", Class::Other),
        ("/latest/meta-data/macs", Class::Other),
        ("/latest/dynamic/something-new", Class::Other),
        ("/latest/something-new", Class::Other),
        ("/latest/maintenance/region", Class::Other),
    ];
    for (target, class) in cases {
        assert_eq!(path(target).class(), class, "{target}");
    }
}

#[test]
fn a_class_is_found_by_its_name() {
    for class in Class::ALL {
        assert_eq!(class.as_str().parse(), Ok(class));
    }
    assert!("all".parse::<Class>().is_err());
}

#[test]
fn the_role_is_that_of_the_credentials() {
    let cases = [
        ("/latest/meta-data/iam/security-credentials/node-role", Some("node-role")),
        ("/1.0/META-DATA/IAM/security-credentials/Node-Role/", Some("Node-Role")),
        (
            "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
            Some("ec2-instance"),
        ),
        ("/latest/meta-data/iam/security-credentials/", None),
        ("/latest/meta-data/iam/info", None),
        ("/latest/meta-data/mac", None),
    ];
    for (target, role) in cases {
        assert_eq!(path(target).role(), role, "{target}");
    }
}

/// What a filter allows, what it denies, and three lists of paths: allowed, denied.
type Reads<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a str], &'a [&'a str]);

#[test]
fn a_filter_decides_reads_by_class_and_path() {
    let (region, zone) =
        ("/latest/meta-data/placement/region", "/latest/meta-data/placement/availability-zone");
    let (document, host) =
        ("/latest/dynamic/instance-identity/document", "/latest/meta-data/placement/host-id");
    let role = "/latest/meta-data/iam/security-credentials/node-role";
    let vpc = "/latest/meta-data/network/interfaces/macs/02:00:00:00:00:01/vpc-id";
    let any_vpc = "/latest/meta-data/network/interfaces/macs/*/vpc-id";
    let (user_data, id) = ("/latest/user-data", "/latest/meta-data/instance-id");
    let cases: &[Reads<'_>] = &[
        (
            &["region"],
            &[],
            &[region, zone, document],
            &[host, role, user_data, id, "/latest/", "/latest/new"],
        ),
        (&["placement"], &[], &[region, zone, host, "/latest/meta-data/placement/"], &[document, role]),
        (&["identity"], &[], &["/latest/meta-data/iam/info"], &[document, role, region]),
        (&["all"], &[], &[role, user_data, "/latest/new", "/"], &[]),
        (
            &["all"],
            &["credentials"],
            &[user_data, "/latest/meta-data/iam/info"],
            &[role, "/latest/meta-data/iam/"],
        ),
        (&[], &["user-data", "credentials"], &[region, "/latest/new"], &[user_data, role, "/1.0/user-data/"]),
        (&["region"], &[zone], &[region], &[zone, "/2021-07-15/meta-data/placement/Availability-Zone"]),
        (&[], &["placement"], &[document], &[region, host]),
        (
            &[id],
            &[],
            &[id, "/1.0/meta-data/instance-id/", "/LATEST/META-DATA/INSTANCE-ID"],
            &["/latest/meta-data/", "/latest/meta-data/instance-id/x"],
        ),
        (&["/latest/meta-data/"], &[], &["/latest/meta-data", "/latest/meta-data/"], &[id]),
        (&["/latest/"], &[], &["/latest/", "/latest"], &[id, user_data]),
        (
            &[any_vpc],
            &[],
            &[vpc],
            &[
                "/latest/meta-data/network/interfaces/macs/vpc-id",
                "/latest/meta-data/network/interfaces/macs/a/b/vpc-id",
            ],
        ),
        (
            &["network"],
            &["/latest/meta-data/network/interfaces"],
            &["/latest/meta-data/mac", "/latest/meta-data/network/"],
            &[vpc],
        ),
        (&["network"], &["/latest/meta-data/*/interfaces"], &["/latest/meta-data/mac"], &[vpc]),
    ];
    for (allow, deny, allowed, denied) in cases {
        let filter = filter(allow, deny);
        for (targets, expected) in [(allowed, true), (denied, false)] {
            for target in *targets {
                for method in [Method::GET, Method::HEAD] {
                    assert_eq!(
                        filter.allows(&path(target), &method),
                        expected,
                        "{filter} on {method} {target}"
                    );
                }
            }
        }
    }
}

#[test]
fn put_is_for_the_token_alone_and_other_methods_for_nothing() {
    let region = filter(&["region"], &[]);
    let all = filter(&["all"], &[]);
    let cases = [
        (&region, Method::PUT, "/latest/api/token", true),
        (&region, Method::GET, "/latest/api/token", false),
        (&all, Method::PUT, "/latest/api/token", true),
        (&all, Method::PUT, "/latest/meta-data/placement/region", false),
        (&all, Method::PUT, "/2021-07-15/api/token", false),
        (&all, Method::POST, "/latest/meta-data/placement/region", false),
        (&all, Method::DELETE, "/latest/api/token", false),
        (&all, Method::OPTIONS, "/", false),
        (&all, Method::TRACE, "/", false),
    ];
    for (filter, method, target, expected) in cases {
        assert_eq!(filter.allows(&path(target), &method), expected, "{filter} on {method} {target}");
    }
    let nothing = Filter::new(Some(Vec::new()), Vec::new(), Tokens::Optional);
    assert!(!nothing.allows(&path("/latest/api/token"), &Method::PUT));
    assert!(!nothing.allows(&path("/"), &Method::GET));
}

#[test]
fn an_item_that_can_not_be_meant_is_refused() {
    let cases = [
        ("regoin", ItemError::Word("regoin".to_owned())),
        ("other", ItemError::Word("other".to_owned())),
        ("", ItemError::Word(String::new())),
        ("Region", ItemError::Word("Region".to_owned())),
        ("token", ItemError::Token),
        ("/latest/api/token", ItemError::Token),
        ("/meta-data/mac", ItemError::Version),
        ("/1.0/meta-data/mac", ItemError::Version),
        ("latest/meta-data/mac", ItemError::Version),
        ("/latest", ItemError::Version),
        ("/latest/meta-data/mac?x", ItemError::Query),
        ("/latest/meta-data/m%61c", ItemError::Escape),
        ("/latest/meta-data/../mac", ItemError::Dots),
        ("/latest/meta-data//mac", ItemError::EmptySegment),
        ("/latest/meta-data/**", ItemError::Star),
        ("/latest/meta-data/ami-*", ItemError::Star),
        ("/latest/meta data", ItemError::Character(' ')),
        ("/latest/mét\u{e9}o", ItemError::Character('é')),
    ];
    for (text, error) in cases {
        assert_eq!(text.parse::<Item>(), Err(error), "{text}");
    }
}

#[test]
fn a_denial_covers_what_it_surely_leaves_nothing_of() {
    let cases = [
        ("region", "region", true),
        ("placement", "region", false),
        ("placement", "/latest/meta-data/placement/region", true),
        ("credentials", "/latest/meta-data/iam/security-credentials/x", true),
        ("credentials", "/latest/meta-data/iam/*", false),
        ("/latest/meta-data", "/latest/meta-data/iam/*", true),
        ("/latest/meta-data/*/x", "/latest/meta-data/*/x/y", true),
        ("/latest/meta-data/a/x", "/latest/meta-data/*/x", false),
        ("/latest/meta-data", "spot", true),
        ("/latest/user-data", "user-data", true),
        ("/latest/meta-data", "region", false),
        ("region", "all", false),
        ("/latest/", "all", true),
        ("all", "region", true),
    ];
    for (denied, allowed, expected) in cases {
        let item = |text: &str| text.parse::<Item>().expect("an item");
        assert_eq!(item(denied).covers(&item(allowed)), expected, "{denied} over {allowed}");
    }
}

#[test]
fn a_filter_is_shown_as_a_policy_has_it_and_survives_json() {
    let cases = [
        (filter(&["region", "/latest/meta-data/mac"], &[]), "{ allow: [region, /latest/meta-data/mac] }"),
        (filter(&[], &["user-data"]), "{ allow: [all], deny: [user-data] }"),
        (filter(&["/latest/a:b"], &[]), "{ allow: [\"/latest/a:b\"] }"),
        (
            Filter::new(Some(items(&["all"])), Vec::new(), Tokens::Required),
            "{ allow: [all], tokens: required }",
        ),
    ];
    for (filter, shown) in cases {
        assert_eq!(filter.to_string(), shown);
        let json = serde_json::to_string(&filter).expect("plain data");
        assert_eq!(serde_json::from_str::<Filter>(&json).expect("the same data"), filter, "{json}");
    }
}
