//! Who may use a target: patterns over initiator names and networks of addresses.
//!
//! Both lists must admit an initiator; an empty list admits everyone. An IPv4 address that arrives
//! mapped into IPv6 (a socket that is bound to `::`) is compared as the IPv4 address that it is.

use std::net::IpAddr;

use ipnet::IpNet;

use super::names::{IscsiName, NamePattern};

/// An access list. Immutable; the default admits everyone.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Acl {
    initiators: Vec<NamePattern>,
    addresses: Vec<IpNet>,
}

/// Which of the two lists did not admit an initiator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AclDenial {
    /// No pattern matches the initiator's name.
    Initiator,
    /// No network contains the initiator's address.
    Address,
}

impl Acl {
    /// A list that admits names that match one of `initiators` from one of the networks
    /// `addresses`.
    pub fn new(initiators: Vec<NamePattern>, addresses: Vec<IpNet>) -> Self {
        Self {
            initiators,
            addresses,
        }
    }

    /// Whether this initiator may come from this address, and if not, which list is in its way.
    pub fn check(&self, initiator: &IscsiName, address: IpAddr) -> Result<(), AclDenial> {
        if !admits_name(&self.initiators, initiator) {
            return Err(AclDenial::Initiator);
        }
        let address = address.to_canonical();
        let inside = |network: &IpNet| network.contains(&address);
        if self.addresses.is_empty() || self.addresses.iter().any(inside) {
            Ok(())
        } else {
            Err(AclDenial::Address)
        }
    }
}

/// Whether one of `patterns` matches, or there are none.
pub fn admits_name(patterns: &[NamePattern], initiator: &IscsiName) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(initiator))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(initiators: &[&str], addresses: &[&str]) -> Acl {
        Acl::new(
            initiators
                .iter()
                .map(|p| NamePattern::new(p).unwrap())
                .collect(),
            addresses.iter().map(|n| n.parse().unwrap()).collect(),
        )
    }

    #[test]
    fn both_lists_must_admit_and_an_empty_list_admits_all() {
        let debian = IscsiName::parse("iqn.1993-08.org.debian:01:abc").unwrap();
        let inside: IpAddr = "10.1.2.3".parse().unwrap();
        let outside: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(Acl::default().check(&debian, outside), Ok(()));
        let both = acl(
            &["iqn.2000-01.x:*", "iqn.1993-08.org.debian:*"],
            &["10.0.0.0/8"],
        );
        assert_eq!(both.check(&debian, inside), Ok(()));
        assert_eq!(both.check(&debian, outside), Err(AclDenial::Address));
        let other = acl(&["iqn.2000-01.x:*"], &["10.0.0.0/8"]);
        assert_eq!(other.check(&debian, inside), Err(AclDenial::Initiator));
    }

    #[test]
    fn a_mapped_address_is_the_address_that_it_maps() {
        let debian = IscsiName::parse("iqn.1993-08.org.debian:01:abc").unwrap();
        let v4 = acl(&[], &["127.0.0.0/8"]);
        assert_eq!(
            v4.check(&debian, "::ffff:127.0.0.1".parse().unwrap()),
            Ok(())
        );
        assert_eq!(
            v4.check(&debian, "::1".parse().unwrap()),
            Err(AclDenial::Address)
        );
        let v6 = acl(&[], &["fd00::/8", "::1/128"]);
        assert_eq!(v6.check(&debian, "::1".parse().unwrap()), Ok(()));
        assert_eq!(
            v6.check(&debian, "fe80::1".parse().unwrap()),
            Err(AclDenial::Address)
        );
    }
}
