use super::case::Case;
use super::denied;

/// One denied path in every spelling that some server somewhere takes for it.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (key, path) in denied() {
        for (spelling, target) in spellings(&path) {
            let bytes = [b"GET ", target.as_slice(), b" HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"].concat();
            cases.push(Case::new(
                format!("spelling/{spelling}/{key}"),
                "a denied path, spelled in another way",
                bytes,
            ));
        }
    }
    cases
}

/// Names, and the targets that they stand for.
fn spellings(path: &str) -> Vec<(&'static str, Vec<u8>)> {
    let text = |(name, target): (&'static str, String)| (name, target.into_bytes());
    let mut spellings: Vec<_> = [versions(path), encodings(path), dots(path), slashes(path), extras(path)]
        .into_iter()
        .flatten()
        .map(text)
        .collect();
    spellings.extend(raw(path));
    spellings
}

fn versions(path: &str) -> Vec<(&'static str, String)> {
    vec![
        ("latest", format!("/latest/{path}")),
        ("dated", format!("/2021-07-15/{path}")),
        ("oldest", format!("/1.0/{path}")),
        ("future", format!("/2999-12-31/{path}")),
        ("unknown-version", format!("/newest/{path}")),
        ("no-version", format!("/{path}")),
        ("empty-version", format!("//{path}")),
        ("upper-version", format!("/LATEST/{path}")),
        ("encoded-version", format!("/%6catest/{path}")),
        ("dots-as-version", format!("/../latest/{path}")),
    ]
}

fn encodings(path: &str) -> Vec<(&'static str, String)> {
    let every = |prefix: &str| encode(path, prefix, |byte| byte.is_ascii_alphanumeric());
    let of = |from: char, to: &str| format!("/latest/{path}").replace(from, to);
    // The first slash must stay: without it the target has another form.
    let slashes = |to: &str| format!("/latest{to}{}", path.replace('/', to));
    vec![
        ("encoded-letters", format!("/latest/{}", every("%"))),
        ("encoded-twice", format!("/latest/{}", every("%25"))),
        ("encoded-thrice", format!("/latest/{}", every("%2525"))),
        ("encoded-dash", of('-', "%2d")),
        ("encoded-dash-upper", of('-', "%2D")),
        ("encoded-dash-twice", of('-', "%252d")),
        ("encoded-slash", slashes("%2f")),
        ("encoded-slash-upper", slashes("%2F")),
        ("encoded-slash-twice", slashes("%252f")),
        ("encoded-slash-thrice", slashes("%25252f")),
        ("overlong-slash-2", slashes("%c0%af")),
        ("overlong-slash-3", slashes("%e0%80%af")),
        ("overlong-slash-4", slashes("%f0%80%80%af")),
        ("unicode-slash", slashes("%u002f")),
        ("full-width-slash", slashes("%ef%bc%8f")),
        ("encoded-backslash", slashes("%5c")),
        ("overlong-letters", format!("/latest/{}", overlong(path))),
        ("bad-encoding", format!("/latest/{path}%zz")),
        ("half-an-encoding", format!("/latest/{path}%2")),
        ("encoded-percent", format!("/latest/{path}%25")),
        ("upper", format!("/latest/{}", path.to_uppercase())),
        ("mixed-case", format!("/Latest/{}", mixed_case(path))),
    ]
}

fn dots(path: &str) -> Vec<(&'static str, String)> {
    // Three steps up lead from the region to the version.
    let up = |step: &str| format!("/latest/meta-data/placement/region/{}{path}", step.repeat(3));
    vec![
        ("dots", up("../")),
        ("encoded-dots", up("%2e%2e/")),
        ("encoded-dots-upper", up("%2E%2E/")),
        ("half-encoded-dots", up(".%2e/")),
        ("other-half-encoded-dots", up("%2e./")),
        ("dots-encoded-twice", up("%252e%252e/")),
        ("dots-and-slash-encoded", up("%2e%2e%2f")),
        ("dots-encoded-slash", up("..%2f")),
        ("dots-encoded-backslash", up("..%5c")),
        ("dots-backslash", up("..\\")),
        ("dots-parameter", up("..;/")),
        ("dots-parameter-value", up("..;x=y/")),
        ("overlong-dots", up("%c0%ae%c0%ae/")),
        ("full-width-dots", up("%ef%bc%8e%ef%bc%8e/")),
        ("dots-nul", up("..%00/")),
        ("dots-slashes", up("..//")),
        ("dot-dots", up(".././")),
        ("four-dots", up("....//")),
        ("dot", format!("/latest/./{path}")),
        ("encoded-dot", format!("/latest/%2e/{path}")),
        ("beyond-the-root", format!("/../../../../latest/{path}")),
        ("beyond-the-root-and-back", format!("/latest/meta-data/../../../latest/{path}")),
        ("down-and-up", format!("/latest/{path}/x/..")),
        ("dot-at-the-end", format!("/latest/{path}/.")),
        ("region-at-the-end", format!("/latest/{path}/../../../../latest/{path}")),
        ("region-after", format!("/latest/{path}/placement/region")),
    ]
}

fn slashes(path: &str) -> Vec<(&'static str, String)> {
    let whole = format!("/latest/{path}");
    vec![
        ("double-slashes", whole.replace('/', "//")),
        ("triple-slash", format!("/latest///{path}")),
        ("leading-slashes", format!("///latest/{path}")),
        ("network-path", format!("//169.254.169.254/latest/{path}")),
        ("backslashes", whole.replace('/', "\\")),
        ("inner-backslashes", format!("/{}", whole[1..].replace('/', "\\"))),
        ("slash-backslash", whole.replace('/', "/\\")),
        ("slash-at-the-end", format!("/latest/{}/", path.trim_end_matches('/'))),
        ("slashes-at-the-end", format!("/latest/{path}//")),
        ("no-leading-slash", format!("latest/{path}")),
    ]
}

/// Parameters, queries and fragments, which one reader cuts off and another reads on.
fn extras(path: &str) -> Vec<(&'static str, String)> {
    let region = "/latest/meta-data/placement/region";
    vec![
        ("parameter", format!("/latest/{path};region")),
        ("parameter-everywhere", format!("/latest/{path}").replace('/', ";a=b/")),
        ("parameter-after-version", format!("/latest;x/{path}")),
        ("parameter-then-up", format!("{region};/../../../{path}")),
        ("query", format!("/latest/{path}?{region}")),
        ("empty-query", format!("/latest/{path}?")),
        ("query-in-query", format!("/latest/{path}?x=1?{region}")),
        ("path-in-query", format!("{region}?/../../../{path}")),
        ("encoded-query", format!("{region}%3f/../../../../latest/{path}")),
        ("fragment", format!("/latest/{path}#{region}")),
        ("path-in-fragment", format!("{region}#/../../../{path}")),
        ("encoded-fragment", format!("{region}%23/../../../../latest/{path}")),
        ("query-then-region", format!("/latest/{path}?/../../placement/region")),
        ("two-targets", format!("{region} /latest/{path}")),
        ("two-targets-denied-first", format!("/latest/{path} {region}")),
        ("version-in-target", format!("/latest/{path} HTTP/1.1 {region}")),
        ("encoded-line", format!("{region}%20HTTP/1.1%0d%0a%0d%0aGET%20/latest/{path}")),
        ("absolute", format!("http://169.254.169.254/latest/{path}")),
        ("absolute-elsewhere", format!("http://example.com/latest/{path}")),
        ("absolute-user", format!("http://{region}@169.254.169.254/latest/{path}")),
        ("absolute-port", format!("http://169.254.169.254:80/latest/{path}")),
        ("absolute-https", format!("https://169.254.169.254/latest/{path}")),
        ("absolute-upper", format!("HTTP://169.254.169.254/latest/{path}")),
        ("absolute-v6", format!("http://[fd00:ec2::254]/latest/{path}")),
        ("absolute-without-host", format!("http:///latest/{path}")),
        (
            "absolute-path-in-host",
            format!("http://169.254.169.254{}@h{region}", "/latest/".to_owned() + path),
        ),
    ]
}

/// Bytes that belong in no target.
fn raw(path: &str) -> Vec<(&'static str, Vec<u8>)> {
    let after = |end: &[u8]| [b"/latest/", path.as_bytes(), end].concat();
    let within = |bytes: &[u8]| {
        let (first, rest) = path.split_at(path.len() / 2);
        [b"/latest/", first.as_bytes(), bytes, rest.as_bytes()].concat()
    };
    vec![
        ("nul-at-the-end", after(b"\0.txt")),
        ("encoded-nul-at-the-end", after(b"%00.txt")),
        ("nul-within", within(b"\0")),
        ("encoded-nul-within", within(b"%00")),
        ("control", within(b"\x01")),
        ("delete", within(b"\x7f")),
        ("tab-within", within(b"\t")),
        ("tab-at-the-end", after(b"\t")),
        ("vertical-tab", after(b"\x0b")),
        ("space-at-the-end", after(b" ")),
        ("encoded-space", after(b"%20")),
        ("encoded-tab", within(b"%09")),
        ("encoded-newline", after(b"%0a")),
        ("encoded-line-end", after(b"%0d%0a")),
        ("latin-1", after(b"/\xe9/..")),
        ("utf-8", after("/é/..".as_bytes())),
        ("bad-utf-8", after(b"/\xff\xfe/..")),
        ("raw-overlong-slash", [b"/latest\xc0\xaf", path.as_bytes()].concat()),
        ("raw-full-width-slash", ["/latest\u{ff0f}", path].concat().into_bytes()),
        ("soft-hyphen", within("\u{ad}".as_bytes())),
        ("quote", after(b"\"")),
        ("braces", after(b"{}|^`<>")),
    ]
}

fn encode(path: &str, prefix: &str, which: impl Fn(u8) -> bool) -> String {
    let encoded = |byte: u8| {
        if which(byte) { format!("{prefix}{byte:02x}") } else { char::from(byte).to_string() }
    };
    path.bytes().map(encoded).collect()
}

/// Every letter in the two bytes that UTF-8 forbids for it.
fn overlong(path: &str) -> String {
    let two = |byte: u8| format!("%{:02x}%{:02x}", 0xc0 | byte >> 6, 0x80 | byte & 0x3f);
    path.bytes().map(two).collect::<Vec<_>>().concat()
}

fn mixed_case(path: &str) -> String {
    let turn = |(index, letter): (usize, char)| {
        if index % 2 == 0 { letter.to_ascii_uppercase() } else { letter }
    };
    path.chars().enumerate().map(turn).collect()
}
