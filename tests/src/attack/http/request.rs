use super::case::Case;
use super::{REGION, ROLE, get};

/// Requests that are odd in anything but the spelling of the path and the framing.
pub(super) fn cases() -> Vec<Case> {
    [
        methods(),
        forms(),
        versions(),
        hosts(),
        overriding(),
        hop_by_hop(),
        malformed_headers(),
        other_protocols(),
    ]
    .concat()
}

/// A request with header lines after the first.
fn with(line: &str, headers: &str) -> String {
    format!("{line}\r\n{headers}\r\n\r\n")
}

fn methods() -> Vec<Case> {
    let names = [
        "HEAD", "POST", "PUT", "DELETE", "PATCH", "TRACE", "TRACK", "OPTIONS", "CONNECT", "PROPFIND",
        "SEARCH", "get", "Get", "X-CUSTOM", "GETT", "GE", "G", "GET\0", " GET", "\tGET", "GET\t", "\"GET\"",
        "GET/", "PRI",
    ];
    let host = "Host: 169.254.169.254";
    let mut cases: Vec<Case> = names
        .into_iter()
        .enumerate()
        .map(|(index, name)| {
            let shown: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
            let line = format!("{name} {ROLE} HTTP/1.1");
            Case::new(format!("method/{index}-{shown}"), "a denied path by another method", with(&line, host))
        })
        .collect();
    let long = format!("{} {ROLE} HTTP/1.1", "A".repeat(10_000));
    cases.push(Case::new("method/long", "a method of 10,000 letters", with(&long, host)));
    let empty = format!(" {ROLE} HTTP/1.1");
    cases.push(Case::new("method/none", "no method at all", with(&empty, host)));
    let token = format!("PUT {ROLE} HTTP/1.1");
    let lifetime = format!("{host}\r\nX-aws-ec2-metadata-token-ttl-seconds: 60");
    cases.push(Case::new("method/token-elsewhere", "a token PUT to a denied path", with(&token, &lifetime)));
    for (name, target) in [
        ("then-denied", format!("/latest/api/token/../..{ROLE}")),
        ("query", format!("/latest/api/token?{ROLE}")),
        ("parameter", format!("/latest/api/token;/../../../{ROLE}")),
    ] {
        let line = format!("GET {target} HTTP/1.1");
        cases.push(Case::new(
            format!("method/token-{name}"),
            "a denied path behind the token's",
            with(&line, host),
        ));
    }
    cases
}

fn forms() -> Vec<Case> {
    let cases = [
        ("asterisk", "OPTIONS * HTTP/1.1".to_owned()),
        ("get-asterisk", "GET * HTTP/1.1".to_owned()),
        ("asterisk-path", format!("GET *{ROLE} HTTP/1.1")),
        ("authority", "GET 169.254.169.254:80 HTTP/1.1".to_owned()),
        ("connect", "CONNECT 169.254.169.254:80 HTTP/1.1".to_owned()),
        ("connect-path", format!("CONNECT {ROLE} HTTP/1.1")),
        ("authority-path", format!("GET 169.254.169.254{ROLE} HTTP/1.1")),
        ("other-scheme", format!("GET file://{ROLE} HTTP/1.1")),
        ("gopher", format!("GET gopher://169.254.169.254{ROLE} HTTP/1.1")),
        ("scheme-without-slashes", format!("GET http:{ROLE} HTTP/1.1")),
        ("scheme-one-slash", format!("GET http:/{ROLE} HTTP/1.1")),
        ("double-scheme", format!("GET http://http://169.254.169.254{ROLE} HTTP/1.1")),
        ("absolute-in-path", format!("GET /http://169.254.169.254{ROLE} HTTP/1.1")),
        ("fragment-in-host", format!("GET http://169.254.169.254#@h{ROLE} HTTP/1.1")),
        ("backslash-in-host", format!("GET http://169.254.169.254\\@h{ROLE} HTTP/1.1")),
        ("region-as-host", format!("GET http://{REGION}{ROLE} HTTP/1.1")),
        ("empty-target", "GET  HTTP/1.1".to_owned()),
        ("quoted-target", format!("GET \"{ROLE}\" HTTP/1.1")),
        ("angle-brackets", format!("GET <{ROLE}> HTTP/1.1")),
        ("two-spaces", format!("GET  {ROLE}  HTTP/1.1")),
        ("tabs", format!("GET\t{ROLE}\tHTTP/1.1")),
        ("form-feeds", format!("GET\x0c{ROLE}\x0cHTTP/1.1")),
        ("leading-lines", format!("\r\n\r\n\r\nGET {ROLE} HTTP/1.1")),
        ("leading-spaces", format!("   GET {ROLE} HTTP/1.1")),
        ("leading-nul", format!("\0GET {ROLE} HTTP/1.1")),
        ("byte-order-mark", format!("\u{feff}GET {ROLE} HTTP/1.1")),
    ];
    let case = |(name, line): (&str, String)| {
        let bytes = with(&line, "Host: 169.254.169.254");
        Case::new(format!("form/{name}"), "a target of another form, or a line around it", bytes)
    };
    cases.map(case).to_vec()
}

fn versions() -> Vec<Case> {
    let names = [
        "HTTP/0.9",
        "HTTP/1.0",
        "HTTP/1.2",
        "HTTP/1.10",
        "HTTP/01.1",
        "HTTP/2",
        "HTTP/2.0",
        "HTTP/3.0",
        "http/1.1",
        "HTTP/1.1 ",
        "HTTP/1.1\t",
        "HTTP/1.1x",
        "HTTP/1",
        "HTTP/",
        "HTTP",
        "HTTPS/1.1",
        "HTTP /1.1",
        "ICY",
        "HTTP/9.9",
    ];
    let mut cases: Vec<Case> = names
        .into_iter()
        .map(|name| {
            let line = format!("GET {ROLE} {name}");
            Case::new(
                format!("version/{}", name.replace(' ', "_").replace('\t', "^")),
                "a denied path in another version of HTTP",
                with(&line, "Host: 169.254.169.254"),
            )
        })
        .collect();
    for (name, bytes) in [
        ("simple", format!("GET {ROLE}\r\n")),
        ("simple-bare", format!("GET {ROLE}\n")),
        ("simple-empty-line", format!("GET {ROLE}\r\n\r\n")),
        ("simple-after-region", format!("{}GET {ROLE}\r\n", get(REGION))),
        ("one-zero-without-host", format!("GET {ROLE} HTTP/1.0\r\n\r\n")),
        ("one-zero-kept-alive", format!("GET {ROLE} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")),
        (
            "one-zero-kept-alive-then",
            format!("GET {REGION} HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET {ROLE} HTTP/1.0\r\n\r\n"),
        ),
        ("one-zero-then", format!("GET {REGION} HTTP/1.0\r\n\r\n{}", get(ROLE))),
        ("no-host", format!("GET {ROLE} HTTP/1.1\r\n\r\n")),
    ] {
        cases.push(Case::new(format!("version/{name}"), "an older HTTP", bytes));
    }
    cases
}

fn hosts() -> Vec<Case> {
    let names = [
        ("other", "Host: example.com".to_owned()),
        ("localhost", "Host: localhost".to_owned()),
        ("loopback", "Host: 127.0.0.1".to_owned()),
        ("empty", "Host:".to_owned()),
        ("port", "Host: 169.254.169.254:8080".to_owned()),
        ("user", "Host: user@169.254.169.254".to_owned()),
        ("path", format!("Host: 169.254.169.254{REGION}")),
        ("query", format!("Host: 169.254.169.254?{REGION}")),
        ("two", "Host: 169.254.169.254\r\nHost: example.com".to_owned()),
        ("two-equal", "Host: 169.254.169.254\r\nHost: 169.254.169.254".to_owned()),
        ("folded", "Host:\r\n 169.254.169.254".to_owned()),
        ("list", "Host: 169.254.169.254, example.com".to_owned()),
        ("space-before-colon", "Host : 169.254.169.254".to_owned()),
        ("upper", "HOST: 169.254.169.254".to_owned()),
        ("decimal", "Host: 2852039166".to_owned()),
        ("v6", "Host: [fd00:ec2::254]".to_owned()),
        ("nul", "Host: 169.254.169.254\0".to_owned()),
        ("long", format!("Host: {}", "h".repeat(20_000))),
    ];
    let case = |(name, headers): (&str, String)| {
        let bytes = with(&format!("GET {ROLE} HTTP/1.1"), &headers);
        Case::new(format!("host/{name}"), "a denied path for an odd host", bytes)
    };
    let mut cases: Vec<Case> = names.into_iter().map(case).collect();
    for (name, host) in [("path", format!("169.254.169.254{ROLE}?")), ("whole", format!("h{ROLE}#"))] {
        let bytes = with(&format!("GET {REGION} HTTP/1.1"), &format!("Host: {host}"));
        cases.push(Case::new(
            format!("host/denied-{name}"),
            "the region, for a host that holds a denied path",
            bytes,
        ));
    }
    cases
}

/// Headers that some servers believe more than the request line.
fn overriding() -> Vec<Case> {
    let names = [
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-Original-URI",
        "X-Forwarded-URI",
        "X-Forwarded-Path",
        "X-Override-URL",
        "X-HTTP-DestinationURL",
        "Destination",
        "Request-URI",
        "X-Request-URI",
        "Location",
        "Referer",
        "X-Accel-Redirect",
        "X-Sendfile",
        "Path",
        ":path",
        "X-Forwarded-Prefix",
        "Forwarded",
        "Content-Location",
        "Link",
    ];
    let mut cases = Vec::new();
    for name in names {
        let headers = format!("Host: 169.254.169.254\r\n{name}: {ROLE}");
        cases.push(Case::new(
            format!("override/{name}"),
            "the region, with a denied path in a header that may replace it",
            with(&format!("GET {REGION} HTTP/1.1"), &headers),
        ));
    }
    for name in ["X-Original-URL", "X-Rewrite-URL", "X-Forwarded-URI"] {
        let headers = format!("Host: 169.254.169.254\r\n{name}: {REGION}");
        cases.push(Case::new(
            format!("override/{name}-region"),
            "a denied path, with the region in a header that may replace it",
            with(&format!("GET {ROLE} HTTP/1.1"), &headers),
        ));
    }
    for name in ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "_method"] {
        for (method, over) in [("GET", "PUT"), ("PUT", "GET"), ("POST", "GET")] {
            let headers = format!("Host: 169.254.169.254\r\nContent-Length: 0\r\n{name}: {over}");
            cases.push(Case::new(
                format!("override/{name}-{method}-{over}"),
                "a denied path, by a method that a header may replace",
                with(&format!("{method} {ROLE} HTTP/1.1"), &headers),
            ));
        }
    }
    for (name, value) in [
        ("X-Forwarded-For", "10.0.0.1"),
        ("X-Forwarded-For", "127.0.0.1, 169.254.169.254"),
        ("X-Forwarded-Host", "example.com"),
        ("X-Real-IP", "127.0.0.1"),
        ("Via", "1.1 imds-guard"),
        ("X-aws-ec2-metadata-token", "AAAA"),
        ("Authorization", "Basic AAAA"),
        ("Range", "bytes=0-10"),
        ("Cookie", "path=/latest"),
        ("User-Agent", "imds-guard"),
    ] {
        let index = cases.len();
        let headers = format!("Host: 169.254.169.254\r\n{name}: {value}");
        cases.push(Case::new(
            format!("override/trusted-{index}-{name}"),
            "a denied path, with a header that a trusted party would send",
            with(&format!("GET {ROLE} HTTP/1.1"), &headers),
        ));
    }
    cases
}

/// Headers for the next hop, and headers that they make a proxy drop.
fn hop_by_hop() -> Vec<Case> {
    let lines = [
        "Connection: X-aws-ec2-metadata-token",
        "Connection: Host",
        "Connection: close, Host",
        "Connection: Content-Length\r\nContent-Length: 0",
        "Connection: Transfer-Encoding",
        "Connection: upgrade\r\nUpgrade: websocket",
        "Connection: Upgrade\r\nUpgrade: TLS/1.0",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic AAAA",
        "Keep-Alive: timeout=1000",
        "TE: trailers",
        "Trailer: Host",
        "Max-Forwards: 0",
        "Connection: keep-alive\r\nConnection: close",
    ];
    let case = |(index, line): (usize, &str)| {
        let shown = line.split(':').next().unwrap_or_default();
        let bytes = with(&format!("GET {ROLE} HTTP/1.1"), &format!("Host: 169.254.169.254\r\n{line}"));
        Case::new(
            format!("hop/{index}-{shown}"),
            "a denied path, with headers that are for the next hop alone",
            bytes,
        )
    };
    lines.into_iter().enumerate().map(case).collect()
}

/// Header lines that are none, each hiding a request line where a reader may cut.
fn malformed_headers() -> Vec<Case> {
    let hidden = get(ROLE);
    let lines = [
        ("folded", format!("X: a\r\n {hidden}")),
        ("folded-tab", format!("X: a\r\n\t{hidden}")),
        ("bare-return", format!("X: a\r{hidden}")),
        ("bare-return-twice", format!("X: a\r\r{hidden}")),
        ("bare-newline", format!("X: a\n{hidden}")),
        ("bare-newline-twice", format!("X: a\n\n{hidden}")),
        ("newline-return", format!("X: a\n\r\n\r{hidden}")),
        ("nul", format!("X: a\0\r\n\r\n{hidden}")),
        ("nul-in-name", format!("X\0: a\r\n\r\n{hidden}")),
        ("no-colon", format!("X\r\n\r\n{hidden}")),
        ("no-name", format!(": a\r\n\r\n{hidden}")),
        ("space-in-name", format!("X Y: a\r\n\r\n{hidden}")),
        ("space-before-colon", format!("X : a\r\n\r\n{hidden}")),
        ("first-line-folded", format!(" X: a\r\n\r\n{hidden}")),
        ("vertical-tab", format!("X: a\x0b\x0b{hidden}")),
        ("next-line", format!("X: a\u{85}\u{85}{hidden}")),
        ("line-separator", format!("X: a\u{2028}\u{2028}{hidden}")),
        ("cut-off-line-end", format!("X: a\u{560d}\u{560a}{hidden}")),
        ("not-ascii-name", format!("Xé: a\r\n\r\n{hidden}")),
        ("request-as-header", format!("GET {ROLE} HTTP/1.1: x\r\n\r\n{hidden}")),
    ];
    let mut cases = Vec::new();
    for (name, line) in lines {
        let bytes = format!("GET {REGION} HTTP/1.1\r\nHost: 169.254.169.254\r\n{line}\r\n\r\n");
        cases.push(Case::new(
            format!("header/{name}"),
            "the region, with a request for a denied path where a header ends for some",
            bytes,
        ));
    }
    cases
}

fn other_protocols() -> Vec<Case> {
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let upgrade = |path: &str| {
        with(
            &format!("GET {path} HTTP/1.1"),
            "Host: 169.254.169.254\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
             HTTP2-Settings: AAMAAABkAAQAAP__",
        )
    };
    let frames = [preface.as_bytes(), &http2_request(ROLE)].concat();
    let websocket = with(
        &format!("GET {REGION} HTTP/1.1"),
        "Host: 169.254.169.254\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    );
    let connect = with("CONNECT 169.254.169.254:80 HTTP/1.1", "Host: 169.254.169.254:80");
    let tls: &[u8] = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00";
    vec![
        Case::new("protocol/http2", "HTTP/2 by prior knowledge, for a denied path", frames.clone()),
        Case::new("protocol/http2-upgrade-denied", "an upgrade to HTTP/2 on a denied path", upgrade(ROLE)),
        Case::new(
            "protocol/http2-upgrade",
            "an upgrade to HTTP/2 on the region, then HTTP/2",
            [upgrade(REGION).as_bytes(), &frames].concat(),
        ),
        Case::new(
            "protocol/http2-after-region",
            "HTTP/2 after a request for the region",
            [get(REGION).as_bytes(), &frames].concat(),
        ),
        Case::new(
            "protocol/http2-preface-then-http1",
            "HTTP/2's preface, then HTTP/1.1",
            format!("{preface}{}", get(ROLE)),
        ),
        Case::new("protocol/websocket", "a denied path behind an upgrade", websocket + &get(ROLE)),
        Case::new("protocol/connect", "a denied path through a tunnel", connect + &get(ROLE)),
        Case::new("protocol/tls", "the beginning of TLS, then HTTP", [tls, get(ROLE).as_bytes()].concat()),
        Case::new(
            "protocol/proxy-1",
            "the PROXY protocol, then HTTP",
            format!("PROXY TCP4 127.0.0.1 169.254.169.254 1 80\r\n{}", get(ROLE)),
        ),
        Case::new(
            "protocol/proxy-2",
            "the binary PROXY protocol, then HTTP",
            [b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".as_slice(), get(ROLE).as_bytes()].concat(),
        ),
        Case::new("protocol/nothing", "an end without a request", ""),
    ]
}

/// SETTINGS and one HEADERS frame that asks for `path`, which must be shorter than 127 bytes.
fn http2_request(path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).expect("a short path");
    // Indexed: GET, http. Literal, not indexed: :path, :authority.
    let headers = [&[0x82, 0x86, 0x04, length][..], path.as_bytes(), &[0x01, 1, b'h']].concat();
    let size = u8::try_from(headers.len()).expect("few headers");
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let frame = [0, 0, size, 1, 5, 0, 0, 0, 1];
    [&settings[..], &frame, &headers].concat()
}
