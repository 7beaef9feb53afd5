//! Where a packet goes next: the networks that we are in, their routes, and the MTU of paths.
//!
//! A network is one VLAN (or the frames without a tag), and a reply leaves by the network that its
//! question came in by: nothing here looks across networks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::model::{Address, Network, Settings};

/// VLAN IDs, and one place for frames without a tag.
const VLANS: usize = 4096;
/// Where those without a tag are in the list.
const UNTAGGED: usize = 0;
/// Destinations whose path MTU is remembered.
const PATHS_MAX: usize = 1024;
/// How long (RFC 8201 §4: at least five minutes, ten are advised).
const PATH_AGE: Duration = Duration::from_secs(600);

/// Finds networks by VLAN.
#[derive(Debug)]
pub(super) struct Networks {
    /// One more than the place in the settings; 0: no network.
    by_vlan: Box<[u16]>,
}

impl Networks {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut by_vlan = vec![0; VLANS].into_boxed_slice();
        for (number, network) in (1..).zip(&settings.networks) {
            if let Some(place) = place(network.vlan).and_then(|place| by_vlan.get_mut(place)) {
                *place = number;
            }
        }
        Self { by_vlan }
    }

    /// The place in the settings of the network with that VLAN.
    pub(super) fn find(&self, vlan: Option<u16>) -> Option<usize> {
        let number = *self.by_vlan.get(place(vlan)?)?;
        usize::from(number).checked_sub(1)
    }
}

fn place(vlan: Option<u16>) -> Option<usize> {
    match vlan {
        None => Some(UNTAGGED),
        Some(vlan) => Some(usize::from(vlan)).filter(|&place| place != UNTAGGED),
    }
}

/// The next station on the way to a destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hop {
    /// The destination itself.
    OnLink,
    /// This router.
    Via(IpAddr),
}

/// The way to `dest` in one network: the longest prefix among its addresses' own networks and its
/// routes, the former where both are equally long. `None`: there is no way.
pub(super) fn next_hop(network: &Network, dest: IpAddr) -> Option<Hop> {
    if is_link_local(dest) {
        return Some(Hop::OnLink);
    }
    let on_link = network.addresses.iter().map(|to| (to, Hop::OnLink));
    let routed = network
        .routes
        .iter()
        .map(|route| (&route.to, Hop::Via(route.via)));
    let matching = routed.chain(on_link).filter(|(to, _)| contains(to, dest));
    matching.max_by_key(|(to, _)| to.prefix).map(|(_, hop)| hop)
}

/// `ip` is in the network of `to`.
pub(super) fn contains(to: &Address, ip: IpAddr) -> bool {
    match (to.ip, ip) {
        (IpAddr::V4(to_ip), IpAddr::V4(ip)) => {
            let differ = to_ip.to_bits() ^ ip.to_bits();
            differ.leading_zeros() >= u32::from(to.prefix).min(32)
        }
        (IpAddr::V6(to_ip), IpAddr::V6(ip)) => {
            let differ = to_ip.to_bits() ^ ip.to_bits();
            differ.leading_zeros() >= u32::from(to.prefix).min(128)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// Of no network in particular, and never behind a router (RFC 3927, RFC 4291 §2.5.6).
fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Paths known to carry less than the port does (RFC 1191, RFC 8201).
#[derive(Debug)]
pub(super) struct PathMtus {
    paths: HashMap<(Option<u16>, IpAddr), (u16, Instant)>,
}

impl PathMtus {
    pub(super) fn new() -> Self {
        Self {
            paths: HashMap::with_capacity(PATHS_MAX),
        }
    }

    /// Notes what a router on the way has said. Only lower values are believed.
    pub(super) fn note(&mut self, vlan: Option<u16>, dest: IpAddr, mtu: u16, now: Instant) {
        if let Some((known, since)) = self.paths.get_mut(&(vlan, dest)) {
            let is_old = now.saturating_duration_since(*since) >= PATH_AGE;
            if mtu <= *known || is_old {
                (*known, *since) = (mtu, now);
            }
            return;
        }
        if self.paths.len() >= PATHS_MAX {
            let oldest = self.paths.iter().min_by_key(|(_, (_, since))| *since);
            if let Some(key) = oldest.map(|(&key, _)| key) {
                self.paths.remove(&key);
            }
        }
        self.paths.insert((vlan, dest), (mtu, now));
    }

    /// The longest IP packet to a destination, where that is less than `mtu`.
    pub(super) fn limit(&self, vlan: Option<u16>, dest: IpAddr, mtu: u16, now: Instant) -> u16 {
        if self.paths.is_empty() {
            return mtu;
        }
        let path = self.paths.get(&(vlan, dest));
        let young = path.filter(|(_, since)| now.saturating_duration_since(*since) < PATH_AGE);
        young.map_or(mtu, |&(limit, _)| limit.min(mtu))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::model::Route;
    use super::*;

    fn address(text: &str) -> Address {
        let (ip, prefix) = text.split_once('/').unwrap();
        Address {
            ip: ip.parse().unwrap(),
            prefix: prefix.parse().unwrap(),
        }
    }

    fn network(addresses: &[&str], routes: &[(&str, &str)]) -> Network {
        Network {
            vlan: None,
            pcp: 0,
            dscp: 0,
            addresses: addresses.iter().map(|text| address(text)).collect(),
            routes: routes
                .iter()
                .map(|(to, via)| Route {
                    to: address(to),
                    via: via.parse().unwrap(),
                })
                .collect(),
        }
    }

    fn hop(network: &Network, dest: &str) -> Option<Hop> {
        next_hop(network, dest.parse().unwrap())
    }

    fn via(router: &str) -> Option<Hop> {
        Some(Hop::Via(router.parse().unwrap()))
    }

    #[test]
    fn the_longest_prefix_wins_and_the_default_gateway_is_last() {
        let network = network(
            &["10.0.0.5/24", "fd00:1::5/64"],
            &[
                ("0.0.0.0/0", "10.0.0.1"),
                ("10.0.0.0/8", "10.0.0.2"),
                ("10.7.0.0/16", "10.0.0.3"),
                ("10.0.0.128/25", "10.0.0.4"),
                ("fd00::/16", "fd00:1::1"),
            ],
        );
        assert_eq!(hop(&network, "10.0.0.9"), Some(Hop::OnLink));
        assert_eq!(hop(&network, "10.0.0.200"), via("10.0.0.4"));
        assert_eq!(hop(&network, "10.7.3.3"), via("10.0.0.3"));
        assert_eq!(hop(&network, "10.8.3.3"), via("10.0.0.2"));
        assert_eq!(hop(&network, "192.0.2.1"), via("10.0.0.1"));
        assert_eq!(hop(&network, "fd00:1::77"), Some(Hop::OnLink));
        assert_eq!(hop(&network, "fd00:2::77"), via("fd00:1::1"));
        assert_eq!(hop(&network, "2001:db8::1"), None);
        assert_eq!(hop(&network, "fe80::1"), Some(Hop::OnLink));
        assert_eq!(hop(&network, "169.254.1.1"), Some(Hop::OnLink));
    }

    #[test]
    fn a_network_is_found_by_its_vlan_only() {
        let mut settings = Settings {
            networks: vec![network(&["10.0.0.5/24"], &[]); 3],
            portals: vec![],
            secret: [0; 32],
            flows_max: 1,
            half_open_max: 1,
            keepalive: Duration::from_secs(1),
            user_timeout: Duration::from_secs(1),
            probe_interval: super::super::model::PROBE_INTERVAL,
        };
        settings.networks[0].vlan = Some(7);
        settings.networks[2].vlan = Some(4094);
        let networks = Networks::new(&settings);
        assert_eq!(networks.find(Some(7)), Some(0));
        assert_eq!(networks.find(None), Some(1));
        assert_eq!(networks.find(Some(4094)), Some(2));
        for vlan in [0, 1, 8, 4095, 4096, u16::MAX] {
            assert_eq!(networks.find(Some(vlan)), None);
        }
    }

    #[test]
    fn a_path_is_narrow_for_a_while() {
        let mut paths = PathMtus::new();
        let start = crate::net::some_instant();
        let ip = IpAddr::from([192, 0, 2, 1]);
        paths.note(None, ip, 1400, start);
        paths.note(None, ip, 1450, start);
        assert_eq!(paths.limit(None, ip, 9000, start), 1400);
        assert_eq!(paths.limit(None, ip, 1300, start), 1300);
        assert_eq!(paths.limit(Some(3), ip, 9000, start), 9000);
        assert_eq!(paths.limit(None, ip, 9000, start + PATH_AGE), 9000);
        for number in 0..5000_u32 {
            paths.note(None, IpAddr::from(number.to_be_bytes()), 1000, start);
        }
        assert_eq!(paths.paths.len(), PATHS_MAX);
    }

    proptest! {
        #[test]
        fn routes_are_those_of_a_plain_search(
            routes in proptest::collection::vec((any::<u32>(), 0_u8..=32), 0..20),
            own in any::<u32>(),
            own_prefix in 8_u8..=30,
            dest in any::<u32>(),
            pick in any::<proptest::sample::Index>(),
            near in any::<bool>(),
        ) {
            // Near some route's network, or nothing would ever match.
            let dest = match routes.get(pick.index(routes.len().max(1))) {
                Some((to, _)) if near => to ^ (dest & 0xFFFF),
                _ => dest,
            };
            let ip = |bits: u32| IpAddr::from(bits.to_be_bytes());
            let network = Network {
                vlan: None,
                pcp: 0,
                dscp: 0,
                addresses: vec![Address { ip: ip(own), prefix: own_prefix }],
                routes: (0..).zip(&routes).map(|(number, &(to, prefix))| Route {
                    to: Address { ip: ip(to), prefix },
                    via: ip(number),
                }).collect(),
            };
            prop_assume!(!is_link_local(ip(dest)));
            // The longest prefix, bit by bit.
            let matched = |to: u32, prefix: u8| {
                (0..u32::from(prefix)).all(|bit| (to << bit) >> 31 == (dest << bit) >> 31)
            };
            let best = routes.iter().filter(|(to, prefix)| matched(*to, *prefix));
            let best = best.map(|(_, prefix)| *prefix).max();
            let own = matched(own, own_prefix).then_some(own_prefix);
            match next_hop(&network, ip(dest)) {
                None => prop_assert!(best.is_none() && own.is_none()),
                Some(Hop::OnLink) => prop_assert!(own.is_some() && own >= best),
                Some(Hop::Via(router)) => {
                    let number = routes.iter().zip(0_u32..).position(|(_, at)| ip(at) == router);
                    let (to, prefix) = routes[number.unwrap()];
                    prop_assert!(matched(to, prefix));
                    prop_assert_eq!(Some(prefix), best);
                    prop_assert!(own < best);
                }
            }
        }
    }
}
