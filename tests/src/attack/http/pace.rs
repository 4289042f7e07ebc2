use std::time::Duration;

use super::case::{Case, Then};
use super::{REGION, ROLE, get};

const MEBIBYTE: usize = 1024 * 1024;

/// How the bytes come, and how many.
pub(super) fn cases() -> Vec<Case> {
    [paces(), sizes()].concat()
}

fn paces() -> Vec<Case> {
    let (region, denied) = (get(REGION), get(ROLE));
    let both = format!("{region}{denied}");
    let encoded = get("/latest/%6detadata/%2e%2e/meta-data/iam/security-credentials/");
    let pause = |milliseconds| Then::Pause(Duration::from_millis(milliseconds));
    let chunk = format!(
        "GET {REGION} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{denied}\r\n0\r\n\r\n",
        denied.len()
    );
    vec![
        Case::new("pace/bytes", "a denied path, a byte a segment", denied.as_str()).in_pieces(1, Then::GoOn),
        Case::new("pace/bytes-apart", "the same, every byte a little later", denied.as_str())
            .in_pieces(1, pause(2)),
        Case::new("pace/slowly", "a denied path in pieces, slowly", denied.as_str())
            .in_pieces(16, pause(200)),
        Case::new("pace/encoded-bytes", "percent encodings cut in the middle", encoded)
            .in_pieces(1, pause(1)),
        Case::new("pace/pipelined-bytes", "an allowed and a denied request, a byte a segment", both.as_str())
            .in_pieces(1, Then::GoOn),
        Case::new("pace/pipelined-pieces", "the same in pieces that hold ends of both", both)
            .in_pieces(region.len() + 10, pause(50)),
        Case::new("pace/chunk-bytes", "a chunked body that is a request, a byte a segment", chunk)
            .in_pieces(1, Then::GoOn),
        Case::new("pace/kept-alive", "a denied request after the answer to an allowed one", region.as_str())
            .and(Then::AwaitAnswer, denied.as_str()),
        Case::new("pace/kept-alive-after-denial", "a denied request after a denied one", denied.as_str())
            .and(Then::AwaitAnswer, denied.as_str()),
        Case::new(
            "pace/target-in-halves",
            "the allowed half of a denied path first",
            format!("GET {REGION}"),
        )
        .and(pause(300), format!("/../../iam/info HTTP/1.1\r\nHost: h\r\n\r\n{denied}")),
        Case::new("pace/body-later", "the announced body comes after the answer", {
            format!("GET {REGION} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", denied.len())
        })
        .and(Then::AwaitAnswer, denied.as_str()),
        Case::new("pace/never-ends", "a request that never ends", format!("GET {ROLE} HTTP/1.1\r\nX: "))
            .in_pieces(8, pause(300)),
    ]
}

fn sizes() -> Vec<Case> {
    let header = |path: &str, headers: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
    let many = |count: usize| {
        let lines: Vec<String> = (0..count).map(|number| format!("X-{number}: y\r\n")).collect();
        lines.concat()
    };
    let long = "a".repeat(MEBIBYTE);
    let up_and_down = "a/../".repeat(20_000);
    let cases = [
        ("long-header", header(ROLE, &format!("X: {long}\r\n"))),
        ("long-header-name", header(ROLE, &format!("{long}: x\r\n"))),
        ("long-header-then", header(REGION, &format!("X: {long}\r\n")) + &get(ROLE)),
        ("many-headers", header(ROLE, &many(1000))),
        ("many-headers-then", header(REGION, &many(1000)) + &get(ROLE)),
        ("many-equal-headers", header(ROLE, &"Accept: */*\r\n".repeat(1000))),
        ("101-headers", header(ROLE, &many(101))),
        ("10000-headers", header(ROLE, &many(10_000))),
        ("long-line", get(&format!("/latest/{long}/../user-data"))),
        ("long-query", get(&format!("/latest/user-data?{long}"))),
        ("long-dots", get(&format!("/latest/{up_and_down}user-data"))),
        ("64-KiB-of-slashes", get(&format!("/latest{}user-data", "/".repeat(65_535)))),
        ("64-KiB-of-percents", get(&format!("/latest/{}user-data", "%25".repeat(21_845)))),
        ("deeply-encoded", get(&format!("/latest/%{}75ser-data", "25".repeat(2_000)))),
        ("8-KiB-line", get(&format!("/latest/user-data?{}", "a".repeat(8_192)))),
        ("32-KiB-line", get(&format!("/latest/{}/../user-data", "a".repeat(32_768)))),
        ("many-segments", get(&format!("{ROLE}node-role/{}", "a/".repeat(500)))),
        ("many-segments-back", get(&format!("{ROLE}node-role/{}{}", "a/".repeat(100), "../".repeat(100)))),
        ("many-empty-lines", "\r\n".repeat(100_000) + &get(ROLE)),
        ("junk", long.clone()),
        ("newlines", "\n".repeat(MEBIBYTE)),
        ("nuls", "\0".repeat(MEBIBYTE)),
        ("long-method", format!("{long} {ROLE} HTTP/1.1\r\nHost: h\r\n\r\n")),
        ("long-version", format!("GET {ROLE} HTTP/1.1{long}\r\nHost: h\r\n\r\n")),
        ("announced-petabyte", header(REGION, "Content-Length: 1125899906842624\r\n") + &get(ROLE)),
    ];
    let case = |(name, bytes): (&str, String)| Case::new(format!("size/{name}"), "much of something", bytes);
    cases.map(case).to_vec()
}
