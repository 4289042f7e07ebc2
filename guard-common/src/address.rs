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
#[repr(C, align(4))]
pub struct Address([u8; 16]);

impl Address {
    /// From the four bytes of an IPv4 address as they stand in memory, in network order.
    #[inline(always)]
    pub const fn from_v4_octets(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// From the sixteen bytes of an IPv6 address as they stand in memory, in network order.
    #[inline(always)]
    pub const fn from_v6_octets(octets: [u8; 16]) -> Self {
        Self(octets)
    }

    /// The address as people write it: an IPv4-mapped one in its IPv4 form.
    pub const fn to_ip(self) -> IpAddr {
        Ipv6Addr::from_octets(self.0).to_canonical()
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => Self::from_v6_octets(v6.octets()),
        }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(ip: Ipv4Addr) -> Self {
        Self::from_v4_octets(ip.octets())
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
