use std::time::Duration;

use super::case::{Case, Expected, Then};
use super::{REGION, REGION_NAME, get};

const ZONE: &str = "/latest/meta-data/placement/availability-zone";
const ZONE_NAME: &str = "eu-west-1a";
const REGION_FOUND: Expected = (200, Some(REGION_NAME));
const ZONE_FOUND: Expected = (200, Some(ZONE_NAME));
const FOUND: Expected = (200, None);

/// What a filter that allows the region must let through, because honest clients write it.
pub(super) fn cases() -> Vec<Case> {
    [spellings(), requests(), sequences()].concat()
}

/// Other spellings of an allowed path, which a gate sends on in the plain one.
fn spellings() -> Vec<Case> {
    let cases = [
        ("double-slash", "/latest//meta-data/placement/region"),
        ("double-slashes", "//latest//meta-data//placement//region"),
        ("dot", "/latest/meta-data/./placement/region"),
        ("dots", "/latest/meta-data/placement/../placement/region"),
        ("dots-across", "/latest/user-data/../meta-data/placement/region"),
        ("encoded-letter", "/latest/meta-data/placement/%72egion"),
        ("encoded-letters", "/latest/meta%2Ddata/pl%61cement/region"),
        ("encoded-dots", "/latest/meta-data/iam/%2e%2e/placement/region"),
        ("query", "/latest/meta-data/placement/region?x=y"),
    ];
    let case = |(name, target): (&str, &str)| {
        Case::new(format!("works/spelling/{name}"), "the region, spelled in another way", get(target))
            .answered([REGION_FOUND])
    };
    cases.map(case).to_vec()
}

fn requests() -> Vec<Case> {
    let request = |line: &str, headers: &str| format!("{line}\r\n{headers}\r\n");
    let host = "Host: 169.254.169.254\r\n";
    let token = format!("{host}X-aws-ec2-metadata-token-ttl-seconds: 21600\r\n");
    let line = format!("GET {REGION} HTTP/1.1");
    let put = "PUT /latest/api/token HTTP/1.1";
    let plain = |name: &str, bytes: String, expected: Expected| {
        Case::new(format!("works/{name}"), "an honest request", bytes).answered([expected])
    };
    vec![
        plain("region", get(REGION), REGION_FOUND),
        plain("zone", get(ZONE), ZONE_FOUND),
        plain("dated", get("/2021-07-15/meta-data/placement/region"), REGION_FOUND),
        plain("oldest", get("/1.0/meta-data/placement/region"), REGION_FOUND),
        plain("document", get("/latest/dynamic/instance-identity/document"), FOUND),
        plain("token", request(put, &token), FOUND),
        plain("token-empty-body", request(put, &format!("{token}Content-Length: 0\r\n")), FOUND),
        plain("head", request(&format!("HEAD {REGION} HTTP/1.1"), host), (200, Some(""))),
        plain("one-zero", request(&format!("GET {REGION} HTTP/1.0"), ""), REGION_FOUND),
        plain("one-zero-host", request(&format!("GET {REGION} HTTP/1.0"), host), REGION_FOUND),
        plain("close", request(&line, &format!("{host}Connection: close\r\n")), REGION_FOUND),
        plain("lower-case", request(&line, "host: 169.254.169.254\r\naccept: */*\r\n"), REGION_FOUND),
        plain("v6-host", request(&line, "Host: [fd00:ec2::254]\r\n"), REGION_FOUND),
        plain(
            "many-headers",
            request(&line, &(host.to_owned() + &"X-Amz-Something: of some length\r\n".repeat(40))),
            REGION_FOUND,
        ),
        plain("leading-line", format!("\r\n{}", get(REGION)), REGION_FOUND),
    ]
}

/// Several requests on one connection, and one in many segments.
fn sequences() -> Vec<Case> {
    let (region, zone) = (get(REGION), get(ZONE));
    let kept_alive = format!("GET {REGION} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let put = "PUT /latest/api/token HTTP/1.1\r\nHost: h\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n";
    vec![
        Case::new("works/kept-alive", "one after the other", region.as_str())
            .and(Then::AwaitAnswer, zone.as_str())
            .and(Then::AwaitAnswer, region.as_str())
            .answered([REGION_FOUND, ZONE_FOUND, REGION_FOUND]),
        Case::new("works/kept-alive-after-idling", "one a second after the other", region.as_str())
            .and(Then::Pause(Duration::from_secs(1)), zone.as_str())
            .answered([REGION_FOUND, ZONE_FOUND]),
        Case::new("works/kept-alive-one-zero", "one after the other in HTTP/1.0", kept_alive.as_str())
            .and(Then::AwaitAnswer, kept_alive.as_str())
            .answered([REGION_FOUND, REGION_FOUND]),
        Case::new("works/token-then-region", "as an SDK does it", put)
            .and(Then::AwaitAnswer, region.as_str())
            .answered([FOUND, REGION_FOUND]),
        Case::new(
            "works/pipelined",
            "answers come in the order of the requests",
            format!("{region}{zone}{region}{zone}"),
        )
        .answered([REGION_FOUND, ZONE_FOUND, REGION_FOUND, ZONE_FOUND]),
        Case::new("works/pipelined-many", "ten in one segment", region.repeat(10))
            .answered([REGION_FOUND; 10]),
        Case::new("works/bytes", "a byte a segment", region.as_str())
            .in_pieces(1, Then::GoOn)
            .answered([REGION_FOUND]),
        Case::new("works/slowly", "in pieces, slowly", region.as_str())
            .in_pieces(16, Then::Pause(Duration::from_millis(100)))
            .answered([REGION_FOUND]),
        Case::new("works/pipelined-pieces", "two requests, cut in the second", format!("{region}{zone}"))
            .in_pieces(region.len() + 7, Then::Pause(Duration::from_millis(50)))
            .answered([REGION_FOUND, ZONE_FOUND]),
    ]
}
