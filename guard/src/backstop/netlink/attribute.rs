//! Netlink attributes as bytes: each has a length, a kind and a value, and begins at a multiple of four bytes.

/// The flag of an attribute that holds others.
const NESTED: u16 = 0x8000;

/// The length of an attribute's header.
const HEADER: usize = 4;

/// A row of attributes that is being written.
#[derive(Debug, Default)]
pub(in super::super) struct Attributes(Vec<u8>);

impl Attributes {
    #[must_use]
    pub(in super::super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(HEADER + value.len()).expect("attributes here are short");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A number in network order, as nftables has all of its own.
    #[must_use]
    pub(in super::super) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    #[must_use]
    pub(in super::super) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    #[must_use]
    pub(in super::super) fn nest(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    pub(in super::super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Goes over the attributes in `bytes`: their kinds, without flags, and their values. It ends at the first that is cut short.
pub(in super::super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (header, _) = bytes.split_first_chunk::<HEADER>()?;
        let [length, kind] = [[header[0], header[1]], [header[2], header[3]]].map(u16::from_ne_bytes);
        let length = usize::from(length);
        let value = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & !(NESTED | 0x4000), value))
    })
}

/// The value of the first attribute of a kind.
pub(in super::super) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A text without the zero at its end.
pub(in super::super) fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().map(|text| text.trim_end_matches('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let inner = Attributes::default().text(7, "imds").number(8, 258);
        let written = Attributes::default().nest(1, &inner).bytes(2, &[9]).into_bytes();
        assert_eq!(written.len() % 4, 0);
        let inner = find(&written, 1).expect("the nest");
        assert_eq!(find(inner, 7).and_then(text), Some("imds"));
        assert_eq!(find(inner, 8), Some(&[0, 0, 1, 2][..]));
        assert_eq!(find(&written, 2), Some(&[9][..]));
        assert_eq!(find(&written, 3), None);
    }

    #[test]
    fn what_is_cut_short_is_not_read() {
        let written = Attributes::default().number(1, 5).into_bytes();
        for length in 0..written.len() {
            assert_eq!(attributes(&written[..length]).count(), 0, "{length}");
        }
        assert_eq!(attributes(&[2, 0, 1, 0]).count(), 0, "a length that is shorter than its header");
    }
}
