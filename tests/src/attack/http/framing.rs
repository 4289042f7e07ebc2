use super::case::Case;
use super::{REGION, ROLE, get};

/// Where one request ends and the next begins: a denied request where some see a body, a header or nothing.
pub(super) fn cases() -> Vec<Case> {
    [lengths(), encodings(), chunks(), line_ends(), pipelines(), expectations()].concat()
}

/// The requests that carry a body that they should not: each with an allowed path.
const LINES: [(&str, &str); 3] = [
    ("get", "GET /latest/meta-data/placement/region HTTP/1.1\r\nHost: 169.254.169.254\r\n"),
    ("post", "POST /latest/meta-data/placement/region HTTP/1.1\r\nHost: 169.254.169.254\r\n"),
    (
        "token",
        "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n",
    ),
];

/// One case for every line of [`LINES`].
fn for_each_line(name: &str, what: &'static str, rest: &str) -> Vec<Case> {
    let case = |(line, start): (&str, &str)| {
        Case::new(format!("framing/{name}/{line}"), what, format!("{start}{rest}"))
    };
    LINES.map(case).to_vec()
}

/// Lengths that are wrong, or that are read in two ways, with a denied request as the body.
fn lengths() -> Vec<Case> {
    let body = get(ROLE);
    let exact = body.len();
    let headers = [
        ("exact", format!("Content-Length: {exact}")),
        ("zero", "Content-Length: 0".to_owned()),
        ("short", "Content-Length: 3".to_owned()),
        ("long", format!("Content-Length: {}", exact + 100)),
        ("none", "X: y".to_owned()),
        ("empty", "Content-Length:".to_owned()),
        ("plus", format!("Content-Length: +{exact}")),
        ("minus", "Content-Length: -1".to_owned()),
        ("hexadecimal", format!("Content-Length: 0x{exact:x}")),
        ("leading-zeroes", format!("Content-Length: 000{exact}")),
        ("leading-space", format!("Content-Length:    {exact}")),
        ("tab", format!("Content-Length:\t{exact}")),
        ("vertical-tab", format!("Content-Length: \x0b{exact}")),
        ("space-before-colon", format!("Content-Length : {exact}")),
        ("underscore", format!("Content_Length: {exact}")),
        ("folded", format!("Content-Length:\r\n {exact}")),
        ("folded-digits", "Content-Length: 1\r\n 0".to_owned()),
        ("list-equal", format!("Content-Length: {exact}, {exact}")),
        ("list", format!("Content-Length: 0, {exact}")),
        ("two-numbers", format!("Content-Length: 0 {exact}")),
        ("twice-equal", format!("Content-Length: {exact}\r\nContent-Length: {exact}")),
        ("twice", format!("Content-Length: 0\r\nContent-Length: {exact}")),
        ("twice-the-other-way", format!("Content-Length: {exact}\r\nContent-Length: 0")),
        ("twice-other-case", format!("Content-Length: 0\r\ncontent-length: {exact}")),
        ("overflow-64", "Content-Length: 18446744073709551616".to_owned()),
        ("overflow-128", format!("Content-Length: {}", "9".repeat(40))),
        ("fraction", format!("Content-Length: {exact}.0")),
        ("exponent", "Content-Length: 1e1".to_owned()),
        ("quoted", format!("Content-Length: \"{exact}\"")),
        ("full-width", "Content-Length: ５".to_owned()),
        ("after-bare-newline", format!("X: y\nContent-Length: {exact}")),
        ("after-bare-return", format!("X: y\rContent-Length: {exact}")),
        ("nul", format!("Content-Length: {exact}\0")),
    ];
    headers
        .iter()
        .flat_map(|(name, header)| {
            let rest = format!("{header}\r\n\r\n{body}");
            for_each_line(&format!("length-{name}"), "a denied request as the body, by its length", &rest)
        })
        .collect()
}

/// Transfer encodings that some know and some do not, against a length.
fn encodings() -> Vec<Case> {
    let spellings = [
        ("plain", "Transfer-Encoding: chunked"),
        ("upper", "TRANSFER-ENCODING: CHUNKED"),
        ("unknown", "Transfer-Encoding: xchunked"),
        ("identity", "Transfer-Encoding: identity"),
        ("identity-first", "Transfer-Encoding: identity, chunked"),
        ("identity-last", "Transfer-Encoding: chunked, identity"),
        ("gzip-first", "Transfer-Encoding: gzip, chunked"),
        ("twice-in-one", "Transfer-Encoding: chunked, chunked"),
        ("twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ("twice-unknown", "Transfer-Encoding: chunked\r\nTransfer-Encoding: x"),
        ("twice-unknown-first", "Transfer-Encoding: x\r\nTransfer-Encoding: chunked"),
        ("space-before-colon", "Transfer-Encoding : chunked"),
        ("tab", "Transfer-Encoding:\tchunked"),
        ("vertical-tab", "Transfer-Encoding: \x0bchunked"),
        ("no-space", "Transfer-Encoding:chunked"),
        ("trailing-space", "Transfer-Encoding: chunked  "),
        ("quoted", "Transfer-Encoding: \"chunked\""),
        ("parameter", "Transfer-Encoding: chunked;q=1"),
        ("comma", "Transfer-Encoding: ,chunked"),
        ("empty", "Transfer-Encoding:"),
        ("folded", "Transfer-Encoding:\r\n chunked"),
        ("underscore", "Transfer_Encoding: chunked"),
        ("after-bare-newline", "X: y\nTransfer-Encoding: chunked"),
        ("after-bare-return", "X: y\rTransfer-Encoding: chunked"),
        ("leading-space", " Transfer-Encoding: chunked"),
        ("nul", "Transfer-Encoding: chunked\0"),
        ("latin", "Transfer-Encoding: chunk\u{e9}d"),
        ("content-encoding", "Content-Encoding: chunked"),
        ("te", "TE: chunked"),
    ];
    let hidden = get(ROLE);
    let size = hidden.len();
    spellings
        .iter()
        .flat_map(|(name, header)| {
            let empty_chunk = format!("0\r\n\r\n{hidden}");
            let by_length = format!("Content-Length: {}\r\n{header}\r\n\r\n{empty_chunk}", empty_chunk.len());
            let by_chunks = format!("{header}\r\nContent-Length: 4\r\n\r\n{size:x}\r\n{hidden}\r\n0\r\n\r\n");
            let alone = format!("{header}\r\n\r\n{empty_chunk}");
            [
                ("cl-te", "a denied request behind an empty chunk, within the length", by_length),
                ("te-cl", "a denied request in a chunk, beyond the length", by_chunks),
                ("te", "a denied request behind an empty chunk", alone),
            ]
            .into_iter()
            .flat_map(|(kind, what, rest)| for_each_line(&format!("{kind}-{name}"), what, &rest))
            .collect::<Vec<_>>()
        })
        .collect()
}

/// Chunked bodies that some cut otherwise.
fn chunks() -> Vec<Case> {
    let hidden = get(ROLE);
    let size = hidden.len();
    let bodies = [
        ("whole", format!("{size:x}\r\n{hidden}\r\n0\r\n\r\n")),
        ("then-denied", format!("1\r\na\r\n0\r\n\r\n{hidden}")),
        ("extension", format!("0;a=b\r\n\r\n{hidden}")),
        ("extension-line-end", format!("1;a=\"\r\n\r\n{hidden}\"\r\na\r\n0\r\n\r\n")),
        ("extension-bare-newline", format!("1;a\n{hidden}\r\na\r\n0\r\n\r\n")),
        ("hexadecimal-prefix", format!("0x{size:x}\r\n{hidden}\r\n0\r\n\r\n")),
        ("upper-size", format!("{size:X}\r\n{hidden}\r\n0\r\n\r\n")),
        ("leading-zeroes", format!("000000000000000000{size:x}\r\n{hidden}\r\n0\r\n\r\n")),
        ("space-after-size", format!("{size:x} \r\n{hidden}\r\n0\r\n\r\n")),
        ("space-before-size", format!(" {size:x}\r\n{hidden}\r\n0\r\n\r\n")),
        ("plus", format!("+0\r\n\r\n{hidden}")),
        ("minus", format!("-1\r\n\r\n{hidden}")),
        ("overflow", format!("10000000000000000\r\n\r\n{hidden}")),
        ("overflow-32", format!("100000000\r\n\r\n{hidden}")),
        ("no-size", format!("\r\n\r\n{hidden}")),
        ("not-a-size", format!("z\r\n\r\n{hidden}")),
        ("bare-newlines", format!("1\na\n0\n\n{hidden}")),
        ("bare-returns", format!("1\ra\r0\r\r{hidden}")),
        ("no-line-end-after-data", format!("1\r\na0\r\n\r\n{hidden}")),
        ("other-bytes-after-data", format!("1\r\naXX0\r\n\r\n{hidden}")),
        ("trailer", format!("0\r\nX: {hidden}\r\n\r\n")),
        ("trailer-request", format!("0\r\n{hidden}\r\n")),
        ("trailer-length", format!("0\r\nContent-Length: 0\r\n\r\n{hidden}")),
        ("short-size", format!("2\r\n{hidden}\r\n0\r\n\r\n")),
        ("long-extension", format!("0;{}\r\n\r\n{hidden}", "a".repeat(20_000))),
    ];
    bodies
        .iter()
        .flat_map(|(name, body)| {
            let rest = format!("Transfer-Encoding: chunked\r\n\r\n{body}");
            for_each_line(&format!("chunk-{name}"), "a denied request in or behind odd chunks", &rest)
        })
        .collect()
}

fn line_ends() -> Vec<Case> {
    let (region, denied) = (get(REGION), get(ROLE));
    let cases = [
        ("bare-newlines", denied.replace("\r\n", "\n")),
        ("bare-returns", denied.replace("\r\n", "\r")),
        ("reversed", denied.replace("\r\n", "\n\r")),
        ("two-returns", denied.replace("\r\n", "\r\r\n")),
        ("region-bare-newlines-then", region.replace("\r\n", "\n") + &denied),
        ("region-bare-returns-then", region.replace("\r\n", "\r") + &denied),
        ("region-then-bare-newlines", region.clone() + &denied.replace("\r\n", "\n")),
        ("last-newline-bare", format!("GET {REGION} HTTP/1.1\r\nHost: h\r\n\n{denied}")),
        ("last-return-bare", format!("GET {REGION} HTTP/1.1\r\nHost: h\r\n\r{denied}")),
        ("first-newline-bare", format!("GET {ROLE} HTTP/1.1\nHost: h\r\n\r\n")),
        ("no-end", format!("GET {ROLE} HTTP/1.1\r\nHost: h\r\n")),
        ("no-end-of-headers", format!("GET {ROLE} HTTP/1.1\r\nHost: h")),
        ("no-end-of-line", format!("GET {ROLE} HTTP/1.1")),
        ("region-without-end-then", format!("GET {REGION} HTTP/1.1\r\nHost: h\r\n{denied}")),
        ("empty-lines-between", format!("{region}\r\n\r\n\r\n{denied}")),
        ("spaces-between", format!("{region}  {denied}")),
        ("nuls-between", format!("{region}\0\0{denied}")),
        ("junk-between", format!("{region}junk\r\n\r\n{denied}")),
    ];
    let case = |(name, bytes): (&str, String)| {
        Case::new(format!("line-end/{name}"), "a denied request behind odd line ends", bytes)
    };
    cases.map(case).to_vec()
}

fn pipelines() -> Vec<Case> {
    let (region, denied) = (get(REGION), get(ROLE));
    let closing = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let head = format!("HEAD {REGION} HTTP/1.1\r\nHost: h\r\n\r\n");
    let token =
        "PUT /latest/api/token HTTP/1.1\r\nHost: h\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n";
    let missing = get("/latest/meta-data/placement/region/nothing");
    let cases = [
        ("allowed-denied", format!("{region}{denied}")),
        ("denied-allowed", format!("{denied}{region}")),
        ("in-turn", format!("{region}{denied}").repeat(4)),
        ("denied-many-times", denied.repeat(50)),
        ("allowed-many-times-denied", region.repeat(100) + &denied),
        ("head-denied", format!("{head}{denied}")),
        ("token-denied", format!("{token}{denied}")),
        ("missing-denied", format!("{missing}{denied}")),
        ("close-denied", closing(REGION) + &denied),
        ("denied-close-allowed", closing(ROLE) + &region),
        ("denied-half", format!("{region}{}", &denied[..denied.len() - 2])),
        ("allowed-half-denied", format!("{}{denied}", &region[..region.len() - 2])),
        ("allowed-half-line-denied", format!("{}{denied}", &region[..20])),
        ("denied-line-allowed-headers", format!("GET {ROLE} HTTP/1.1\r\n{region}")),
        ("allowed-line-denied-line", format!("GET {REGION} HTTP/1.1\r\n{denied}")),
    ];
    let case = |(name, bytes): (&str, String)| {
        Case::new(format!("pipeline/{name}"), "allowed and denied requests in one segment", bytes)
    };
    cases.map(case).to_vec()
}

fn expectations() -> Vec<Case> {
    let hidden = get(ROLE);
    let mut cases = Vec::new();
    for (name, value) in [("continue", "100-continue"), ("upper", "100-CONTINUE"), ("unknown", "200-ok")] {
        let rest = format!("Expect: {value}\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len());
        cases.extend(for_each_line(
            &format!("expect-{name}"),
            "a denied request as the body that is offered",
            &rest,
        ));
    }
    let denied = format!("GET {ROLE} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n");
    cases.push(Case::new("framing/expect-denied", "a denied path that expects something", denied));
    cases
}
