//! What the most obliging server imaginable would have served.
//!
//! The record judges by this, not by the strict answer: a spelling that reaches IMDS at all has got past whoever
//! should have refused it, whether IMDS of today takes it or not.

use serde::{Deserialize, Serialize};

/// What stands at a path, however it is spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Key {
    /// Nothing that IMDS has.
    Nothing,
    /// Where session tokens are issued.
    Token,
    /// The region and the availability zone, the identity document included.
    Region,
    /// Any other metadata, the listings of folders included.
    Other,
    UserData,
    /// What proves which instance, and which role, is asking.
    Identity,
    /// The node role's credentials and the folders on the way to them.
    Credentials,
}

impl Key {
    /// Whether who may look up the region alone must never reach it.
    pub fn is_secret(self) -> bool {
        matches!(self, Self::UserData | Self::Identity | Self::Credentials)
    }

    /// The gravest thing that a request target can be read to ask for.
    pub fn of(target: &[u8]) -> Self {
        let target = without_authority(target);
        let end = target.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(target.len());
        let decoded = decode(&target[..end]);
        // Some servers drop control bytes, some stop at the first.
        let printable = |byte: &u8| *byte > b' ' && *byte != 0x7f;
        let dropped: Vec<u8> = decoded.iter().copied().filter(printable).collect();
        let cut: Vec<u8> = decoded.into_iter().take_while(printable).collect();
        [dropped, cut].iter().map(|path| Self::at(&segments(path))).max().unwrap_or(Self::Nothing)
    }

    /// With any version in front of the path, and without one.
    fn at(segments: &[String]) -> Self {
        let names: Vec<&str> = segments.iter().map(String::as_str).collect();
        let below = names.get(1..).map_or(Self::Nothing, Self::below_version);
        Self::below_version(&names).max(below)
    }

    fn below_version(names: &[&str]) -> Self {
        match names {
            ["api", "token"] => Self::Token,
            ["user-data", ..] => Self::UserData,
            ["meta-data", "identity-credentials", ..]
            | ["meta-data", "iam"]
            | ["meta-data", "iam", "security-credentials", ..] => Self::Credentials,
            ["dynamic", "instance-identity", "document"] => Self::Region,
            ["meta-data", "iam", ..] | ["dynamic", "instance-identity", _, ..] => Self::Identity,
            ["meta-data", "placement", name, ..]
                if *name == "region" || name.starts_with("availability-zone") =>
            {
                Self::Region
            }
            ["meta-data" | "dynamic", ..] => Self::Other,
            _ => Self::Nothing,
        }
    }
}

/// `http://anybody/path` as `/path`.
fn without_authority(target: &[u8]) -> &[u8] {
    let Some(scheme) = target.windows(3).position(|bytes| bytes == b"://") else { return target };
    if target[..scheme].iter().any(|byte| !byte.is_ascii_alphanumeric()) {
        return target;
    }
    let rest = &target[scheme + 3..];
    let path = rest.iter().position(|byte| matches!(byte, b'/' | b'\\')).unwrap_or(rest.len());
    &rest[path..]
}

/// Percent-decodes until nothing changes, as one decoder behind another does.
fn decode(path: &[u8]) -> Vec<u8> {
    let mut path = path.to_vec();
    loop {
        let decoded = fold_to_ascii(&decode_once(&path));
        if decoded == path {
            return decoded;
        }
        path = decoded;
    }
}

fn decode_once(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, after)) = rest.split_first() {
        let (byte, length) = match rest {
            // Microsoft's: the code unit in four digits.
            [b'%', b'u' | b'U', b'0', b'0', high, low, ..] => (hexadecimal(*high, *low), 6),
            [b'%', high, low, ..] => (hexadecimal(*high, *low), 3),
            _ => (None, 1),
        };
        decoded.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &rest[length..] } else { after };
    }
    decoded
}

fn hexadecimal(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// Reads overlong UTF-8, and the full-width forms of ASCII, as the ASCII that they imitate.
fn fold_to_ascii(path: &[u8]) -> Vec<u8> {
    let mut folded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, after)) = rest.split_first() {
        let (byte, length) = match *rest {
            [0xc0 | 0xc1, low, ..] => ((first & 1) << 6 | low & 0x3f, 2),
            [0xe0, high @ 0x80..=0x81, low, ..] => ((high & 1) << 6 | low & 0x3f, 3),
            [0xef, 0xbc, low @ 0x80..=0xbf, ..] => (low - 0x80 + 0x20, 3),
            [0xef, 0xbd, low @ 0x80..=0x9e, ..] => (low - 0x80 + 0x60, 3),
            _ => (first, 1),
        };
        folded.push(byte);
        rest = if length == 1 { after } else { &rest[length..] };
    }
    folded
}

/// The names on the way down, in lower case: slashes collapsed, either slash, without parameters, dots resolved.
fn segments(path: &[u8]) -> Vec<String> {
    let mut segments = Vec::new();
    for segment in path.split(|byte| matches!(byte, b'/' | b'\\')) {
        let end = segment.iter().position(|byte| matches!(byte, b';' | b'?' | b'#'));
        let name = String::from_utf8_lossy(&segment[..end.unwrap_or(segment.len())]).to_lowercase();
        match name.as_str() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(name),
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_the_key_that_it_imitates() {
        let cases: &[(&str, Key)] = &[
            ("/latest/meta-data/iam/security-credentials/", Key::Credentials),
            ("/any/meta-data/iam/security-credentials/role/more", Key::Credentials),
            ("/latest/meta-data/iam", Key::Credentials),
            ("/latest/meta-data/identity-credentials/ec2/info", Key::Credentials),
            ("/meta-data/iam/info", Key::Identity),
            ("/latest/dynamic/instance-identity/pkcs7", Key::Identity),
            ("/latest/user-data?region", Key::UserData),
            ("http://h@169.254.169.254:80/latest/user-data", Key::UserData),
            ("/LATEST/USER%2dDATA", Key::UserData),
            ("/latest/%2575ser-data", Key::UserData),
            ("/latest/%u0075ser-data", Key::UserData),
            ("/latest%c0%afuser-data", Key::UserData),
            ("/latest%e0%80%afuser-data", Key::UserData),
            ("/latest%ef%bc%8fuser-data", Key::UserData),
            ("\\latest\\user-data", Key::UserData),
            ("//latest///user-data;x=y/", Key::UserData),
            ("/latest/user-data%00.txt", Key::UserData),
            ("/latest/us\ter-data", Key::UserData),
            ("/latest/meta-data/placement/region/..;/../../user-data", Key::UserData),
            ("/latest/meta-data/placement/region%3f/../../../user-data", Key::UserData),
            ("/../../latest/user-data", Key::UserData),
            ("/latest/meta-data/placement/region", Key::Region),
            ("/latest/meta-data/placement/region?/../../user-data", Key::Region),
            ("/latest/meta-data/placement/availability-zone-id", Key::Region),
            ("/latest/dynamic/instance-identity/document", Key::Region),
            ("/latest/api/token", Key::Token),
            ("/latest/meta-data/", Key::Other),
            ("/latest/meta-data/mac", Key::Other),
            ("/latest/dynamic/instance-identity/", Key::Other),
            ("/", Key::Nothing),
            ("*", Key::Nothing),
            ("/latest/%zz%", Key::Nothing),
        ];
        for (target, expected) in cases {
            assert_eq!(Key::of(target.as_bytes()), *expected, "{target:?}");
        }
    }
}
