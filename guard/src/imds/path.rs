//! From the target of a request to the one path that it can mean.

use super::Class;

/// A path of IMDS without anything that two readers could understand in two ways: no escape, no empty segment, no `.`
/// or `..`. The first segment is the version, whatever it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MetadataPath {
    canonical: String,
}

/// Why the target of a request is no path of IMDS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("it is longer than {} bytes", MetadataPath::MAX_BYTES)]
    Length,
    #[error("it does not start with `/`")]
    Form,
    #[error("it has a fragment (`#`)")]
    Fragment,
    #[error("it has a `%` without two hexadecimal digits")]
    Escape,
    #[error("it has the byte {0:#04x}, which no path of the metadata service has")]
    Byte(u8),
    #[error("its `..` lead above the root")]
    AboveRoot,
}

impl MetadataPath {
    /// The longest target, in bytes. The longest path that AWS documents has a tenth of it.
    pub const MAX_BYTES: usize = 1024;

    /// Reads the target of an HTTP request in origin form: a path, and perhaps a query, which is dropped.
    ///
    /// Escapes are decoded once; what they decode to must be a plain byte of a segment. So nothing is left that the
    /// service behind could decode once more.
    pub fn parse(target: &str) -> Result<Self, PathError> {
        if target.len() > Self::MAX_BYTES {
            return Err(PathError::Length);
        }
        if target.contains('#') {
            return Err(PathError::Fragment);
        }
        let path = target.split('?').next().unwrap_or_default();
        let path = path.strip_prefix('/').ok_or(PathError::Form)?;
        let mut segments: Vec<String> = Vec::new();
        let mut is_folder = true;
        for raw in path.split('/') {
            let segment = decoded(raw)?;
            is_folder = matches!(segment.as_str(), "" | "." | "..");
            match segment.as_str() {
                "" | "." => {}
                ".." => drop(segments.pop().ok_or(PathError::AboveRoot)?),
                _ => segments.push(segment),
            }
        }
        let closing = if is_folder && !segments.is_empty() { "/" } else { "" };
        Ok(Self { canonical: format!("/{}{closing}", segments.join("/")) })
    }

    /// The path as it goes on to IMDS: in the case that the client wrote, with a closing slash if there was one.
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// What it asks for.
    pub fn class(&self) -> Class {
        Class::of(self)
    }

    /// The role whose credentials it asks for: that of the node, by name, or `ec2-instance`, which is the instance's
    /// own identity and the same everywhere.
    pub fn role(&self) -> Option<&str> {
        let path: Vec<_> = self.below_version().collect();
        match path.as_slice() {
            [data, iam, credentials, role]
                if is(data, "meta-data") && is(iam, "iam") && is(credentials, "security-credentials") =>
            {
                Some(role)
            }
            [data, identity, _, credentials, _]
                if is(data, "meta-data")
                    && is(identity, "identity-credentials")
                    && is(credentials, "security-credentials") =>
            {
                Some("ec2-instance")
            }
            _ => None,
        }
    }

    /// The first segment; the root has none.
    pub(super) fn version(&self) -> Option<&str> {
        self.segments().next()
    }

    /// The segments behind the version.
    pub(super) fn below_version(&self) -> impl Iterator<Item = &str> {
        self.segments().skip(1)
    }

    fn segments(&self) -> impl Iterator<Item = &str> {
        self.canonical.split('/').filter(|segment| !segment.is_empty())
    }
}

/// Whether two segments are the same to a service that does not look at the case.
pub(super) fn is(segment: &str, wanted: &str) -> bool {
    segment.eq_ignore_ascii_case(wanted)
}

/// Whether a segment may have this byte: AWS's keys, addresses, times and the letters of tags have no other.
pub(super) const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'+' | b'=' | b'.' | b',' | b'_' | b':' | b'@' | b'~' | b'-')
}

fn decoded(raw: &str) -> Result<String, PathError> {
    let mut decoded = String::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => escaped(bytes.next(), bytes.next()).ok_or(PathError::Escape)?,
            byte => byte,
        };
        if !is_plain(byte) {
            return Err(PathError::Byte(byte));
        }
        decoded.push(char::from(byte));
    }
    Ok(decoded)
}

fn escaped(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}
