//! The protected addresses of a node, by name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use guard_common::{Address, EndpointId, MAX_ENDPOINTS};

/// The endpoints that this node guards. Their place in the table is the id that the kernel knows them by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints(Vec<Endpoint>);

/// One protected endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name in policies, metrics and logs.
    pub name: String,
    pub addresses: Vec<IpAddr>,
}

/// Why an endpoint from the command line can't be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EndpointError {
    #[error("endpoint `{0}` is not of the form NAME=ADDRESS[,ADDRESS…]")]
    Form(String),
    #[error("endpoint name `{0}` may have only lower-case letters, digits and `-`")]
    Name(String),
    #[error("endpoint `{name}`: `{address}` is not an IP address")]
    Address { name: String, address: String },
    #[error("address {address} belongs to the endpoint `{first}` and to `{second}`")]
    Shared { address: IpAddr, first: String, second: String },
    #[error("more than {MAX_ENDPOINTS} endpoints")]
    TooMany,
}

impl Endpoints {
    /// The name of the endpoint that all is about.
    pub const IMDS: &str = "imds";

    /// The endpoints of AWS: the instance metadata service, the EKS Pod Identity agent, and ECS task credentials.
    pub fn aws() -> Self {
        let v4 = |last_two: [u8; 2]| IpAddr::V4(Ipv4Addr::new(169, 254, last_two[0], last_two[1]));
        let v6 = |last: u16| IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, last));
        let endpoint = |name: &str, addresses| Endpoint { name: name.to_owned(), addresses };
        Self(vec![
            endpoint(Self::IMDS, vec![v4([169, 254]), v6(0x254)]),
            endpoint("pod-identity", vec![v4([170, 23]), v6(0x23)]),
            endpoint("ecs", vec![v4([170, 2])]),
        ])
    }

    /// Those of AWS with what `--endpoint NAME=ADDRESS[,ADDRESS…]` adds: a new endpoint, or more addresses of one.
    pub fn with(additions: &[String]) -> Result<Self, EndpointError> {
        let mut table = Self::aws();
        for addition in additions {
            table.add(addition)?;
        }
        Ok(table)
    }

    fn add(&mut self, addition: &str) -> Result<(), EndpointError> {
        let (name, addresses) =
            addition.split_once('=').ok_or_else(|| EndpointError::Form(addition.to_owned()))?;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        {
            return Err(EndpointError::Name(name.to_owned()));
        }
        for address in addresses.split(',') {
            let ip: IpAddr = address
                .trim()
                .parse()
                .map_err(|_| EndpointError::Address { name: name.to_owned(), address: address.to_owned() })?;
            let ip = Address::from(ip).to_ip();
            match self.0.iter().find(|endpoint| endpoint.addresses.contains(&ip)) {
                Some(owner) if owner.name == name => continue,
                Some(owner) => {
                    let (first, second) = (owner.name.clone(), name.to_owned());
                    return Err(EndpointError::Shared { address: ip, first, second });
                }
                None => {}
            }
            match self.id(name) {
                Some(id) => self.0[usize::from(id)].addresses.push(ip),
                None if self.0.len() == MAX_ENDPOINTS => return Err(EndpointError::TooMany),
                None => self.0.push(Endpoint { name: name.to_owned(), addresses: vec![ip] }),
            }
        }
        Ok(())
    }

    /// All endpoints with their ids.
    pub fn iter(&self) -> impl Iterator<Item = (EndpointId, &Endpoint)> {
        (0..).zip(&self.0)
    }

    /// The id of the endpoint with this name.
    pub fn id(&self, name: &str) -> Option<EndpointId> {
        self.iter().find(|(_, endpoint)| endpoint.name == name).map(|(id, _)| id)
    }

    /// The name of the endpoint with this id.
    pub fn name(&self, id: EndpointId) -> Option<&str> {
        self.0.get(usize::from(id)).map(|endpoint| endpoint.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_added_to_an_endpoint_or_makes_a_new_one() {
        let table = Endpoints::with(&["imds=100.100.100.200".into(), "vault=10.0.0.9,fd00::9".into()])
            .expect("valid");
        let imds = table.iter().find(|(_, endpoint)| endpoint.name == "imds").expect("built in").1;
        assert_eq!(imds.addresses.len(), 3);
        assert_eq!(table.id("vault"), Some(3));
        assert_eq!(table.name(3), Some("vault"));
    }

    #[test]
    fn what_can_not_be_used_is_refused_with_its_reason() {
        let cases = [
            ("imds", "endpoint `imds` is not of the form NAME=ADDRESS[,ADDRESS…]"),
            ("My=10.0.0.1", "endpoint name `My` may have only lower-case letters, digits and `-`"),
            ("x=10.0.0", "endpoint `x`: `10.0.0` is not an IP address"),
            ("x=::ffff:169.254.169.254", "address 169.254.169.254 belongs to the endpoint `imds` and to `x`"),
        ];
        for (addition, expected) in cases {
            let error = Endpoints::with(&[addition.to_owned()]).expect_err(addition);
            assert_eq!(error.to_string(), expected);
        }
        let many: Vec<_> = (0..9).map(|n| format!("e{n}=10.0.0.{n}")).collect();
        assert_eq!(Endpoints::with(&many), Err(EndpointError::TooMany));
    }
}
