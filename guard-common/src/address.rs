use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A destination address in the one form in which addresses are compared: 16 bytes in network order, IPv4 as the
/// IPv4-mapped IPv6 address.
///
/// A process can reach an IPv4 endpoint through an IPv6 socket (`::ffff:169.254.169.254`; Linux then runs only the
/// IPv6 connect hook), so both spellings must be the same key.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Address([u32; 4]);

impl Address {
    /// From an IPv4 address as it stands in memory, in network order.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self([0, 0, 0xffff_u32.to_be(), word])
    }

    /// From the words of an IPv6 address as they stand in memory, in network order.
    #[inline(always)]
    pub const fn from_v6_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// Its words in network order, as they stand in memory.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        self.0
    }

    /// Whether it stands for an IPv4 address.
    #[inline(always)]
    pub const fn is_mapped(self) -> bool {
        matches!(self.0, [0, 0, prefix, _] if prefix == 0xffff_u32.to_be())
    }

    /// One of 64 bits, by the last word. With the bits of all protected addresses in one mask, an address whose bit is
    /// not in it is none of them, and needs no look-up.
    #[inline(always)]
    pub const fn bit(self) -> u64 {
        // A multiplication spreads neighbouring addresses; its six highest bits depend on all of the word.
        1 << (self.0[3].wrapping_mul(0x9e37_79b1) >> 26)
    }

    /// The address as people write it: an IPv4-mapped one in its IPv4 form.
    pub const fn to_ip(self) -> IpAddr {
        Ipv6Addr::from_octets(zerocopy::transmute!(self.0)).to_canonical()
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => Self(zerocopy::transmute!(v6.octets())),
        }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(ip: Ipv4Addr) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(ip.octets()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_and_its_mapped_form_are_one_key() {
        let v4: IpAddr = "169.254.169.254".parse().expect("valid");
        let mapped: IpAddr = "::ffff:169.254.169.254".parse().expect("valid");
        assert_eq!(Address::from(v4), Address::from(mapped));
        assert_eq!(Address::from(mapped).to_ip(), v4);
    }

    #[test]
    fn an_ipv6_address_keeps_its_form() {
        let v6: IpAddr = "fd00:ec2::254".parse().expect("valid");
        assert_eq!(Address::from(v6).to_ip(), v6);
    }
}
