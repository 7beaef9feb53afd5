//! Our own addresses: none is served before it was found out that no other station has it
//! (RFC 5227 §2.1, RFC 4862 §5.4), and each is announced when it is.
//!
//! The first queue of a device probes, announces and decides. What comes back reaches any queue:
//! the others tell what they hear, and serve an address when the first has said that it is ours.
//! What another station has is probed for again after a while.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::super::event::{AddressNews, AddressState};
use super::super::model::{Network, Settings};
use super::super::routes;

/// Probes for one address (RFC 5227 §1.1: PROBE_NUM).
const PROBES: u32 = 3;
/// While the link is down it is looked at again after so long.
const LINK_INTERVAL: Duration = Duration::from_millis(500);
/// An address that another station has is probed for again after so long.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// Announcements of one address (RFC 5227 §1.1: ANNOUNCE_NUM).
const ANNOUNCEMENTS: u32 = 2;
/// Between them (RFC 5227 §1.1: ANNOUNCE_INTERVAL).
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);
/// An address is defended once in so long (RFC 5227 §1.1: DEFEND_INTERVAL).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(in super::super) struct Addresses {
    own: Vec<Own>,
    news: VecDeque<AddressNews>,
    /// This is the first queue.
    decides: bool,
    probe_interval: Duration,
}

#[derive(Debug)]
struct Own {
    /// Place of the network in the settings.
    network: usize,
    vlan: Option<u16>,
    ip: IpAddr,
    state: AddressState,
    /// Probes or announcements sent in this state.
    sent: u32,
    next: Option<Instant>,
    defended: Option<Instant>,
}

/// What is to be sent about an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Probe(IpAddr),
    Announce(IpAddr),
}

/// What to make of another station's claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Claim {
    /// The address is none of ours.
    Fair,
    /// It is one of ours.
    Conflict,
    /// So, and it is time to say that we have it.
    Defend,
}

impl Addresses {
    pub(super) fn new(settings: &Settings, decides: bool, now: Instant) -> Self {
        let networks = settings.networks.iter().enumerate();
        let own = networks.flat_map(|(place, network)| {
            network.addresses.iter().map(move |address| Own {
                network: place,
                vlan: network.vlan,
                ip: address.ip,
                state: AddressState::Tentative,
                sent: 0,
                next: decides.then_some(now),
                defended: None,
            })
        });
        Self {
            own: own.collect(),
            news: VecDeque::new(),
            decides,
            probe_interval: settings.probe_interval,
        }
    }

    /// What is known of an address of that network; `None`: it is not ours.
    pub(in super::super) fn state(&self, vlan: Option<u16>, ip: IpAddr) -> Option<AddressState> {
        let own = self.own.iter();
        own.clone()
            .find(|own| own.ip == ip && own.vlan == vlan)
            .map(|own| own.state)
    }

    pub(in super::super) fn is_in_use(&self, vlan: Option<u16>, ip: IpAddr) -> bool {
        self.state(vlan, ip).is_some_and(AddressState::is_in_use)
    }

    /// Which address of ours to ask from: one in the same network, of the same version.
    pub(super) fn source(
        &self,
        vlan: Option<u16>,
        dest: IpAddr,
        network: &Network,
    ) -> Option<IpAddr> {
        let same = network.addresses.iter().filter(|address| {
            address.ip.is_ipv4() == dest.is_ipv4() && self.is_in_use(vlan, address.ip)
        });
        let near = same.clone().find(|address| routes::contains(address, dest));
        near.or_else(|| same.clone().next())
            .map(|address| address.ip)
    }

    /// Somebody probes for an address. While it is not ours yet, that is a conflict.
    pub(super) fn probed(&mut self, now: Instant, vlan: Option<u16>, ip: IpAddr, mac: [u8; 6]) {
        if self.state(vlan, ip) == Some(AddressState::Tentative) {
            self.set(now, vlan, ip, AddressState::Duplicate { mac });
        }
    }

    /// Another station says that it has that address.
    pub(super) fn claimed(
        &mut self,
        now: Instant,
        vlan: Option<u16>,
        ip: IpAddr,
        mac: [u8; 6],
    ) -> Claim {
        let Some(own) = self.find(vlan, ip) else {
            return Claim::Fair;
        };
        match own.state {
            AddressState::Tentative => {
                self.set(now, vlan, ip, AddressState::Duplicate { mac });
                Claim::Conflict
            }
            AddressState::Duplicate { .. } => Claim::Conflict,
            AddressState::Ours | AddressState::Contested { .. } => {
                let defended = own.defended;
                let past = defended.map(|at| now.saturating_duration_since(at));
                if past.is_some_and(|past| past < DEFEND_INTERVAL) {
                    return Claim::Conflict;
                }
                own.defended = Some(now);
                self.set(now, vlan, ip, AddressState::Contested { mac });
                Claim::Defend
            }
        }
    }

    /// Another core has decided, or heard something about which this one has to decide: a station
    /// that has the address beats that nobody has objected.
    pub(in super::super) fn learn(&mut self, news: AddressNews, now: Instant) {
        let Some(state) = self
            .state(news.vlan, news.ip)
            .filter(|it| *it != news.state)
        else {
            return;
        };
        match (self.decides, news.state) {
            (true, AddressState::Duplicate { .. })
                if !matches!(state, AddressState::Duplicate { .. }) =>
            {
                self.set(now, news.vlan, news.ip, news.state);
            }
            (false, _) if news.is_decided => {
                if let Some(own) = self.find(news.vlan, news.ip) {
                    own.state = news.state;
                }
            }
            _ => {}
        }
    }

    /// News that were not told yet.
    pub(in super::super) fn news(&mut self) -> Option<AddressNews> {
        self.news.pop_front()
    }

    /// An address that is to be worked on, and the place of its network.
    pub(in super::super) fn due(&self, now: Instant) -> Option<(usize, usize)> {
        let mut own = self.own.iter().enumerate();
        own.find(|(_, own)| own.next.is_some_and(|next| next <= now))
            .map(|(at, own)| (at, own.network))
    }

    pub(in super::super) fn deadline(&self) -> Option<Instant> {
        self.own.iter().filter_map(|own| own.next).min()
    }

    /// The next step for one address. Nothing is probed while the link is down: no answer could
    /// come.
    pub(super) fn work(&mut self, now: Instant, at: usize, is_up: bool) -> Option<Step> {
        let interval = self.probe_interval;
        let own = self.own.get_mut(at)?;
        own.next = None;
        let (vlan, ip) = (own.vlan, own.ip);
        match own.state {
            AddressState::Tentative if !is_up => {
                own.sent = 0;
                own.next = Some(now + LINK_INTERVAL);
                None
            }
            AddressState::Tentative if own.sent < PROBES => {
                own.sent += 1;
                own.next = Some(now + interval);
                Some(Step::Probe(ip))
            }
            AddressState::Tentative => {
                self.set(now, vlan, ip, AddressState::Ours);
                None
            }
            AddressState::Ours | AddressState::Contested { .. } if own.sent < ANNOUNCEMENTS => {
                own.sent += 1;
                own.next = (own.sent < ANNOUNCEMENTS).then_some(now + ANNOUNCE_INTERVAL);
                Some(Step::Announce(ip))
            }
            AddressState::Ours | AddressState::Contested { .. } => None,
            AddressState::Duplicate { .. } => {
                self.set(now, vlan, ip, AddressState::Tentative);
                None
            }
        }
    }

    fn find(&mut self, vlan: Option<u16>, ip: IpAddr) -> Option<&mut Own> {
        let mut own = self.own.iter_mut();
        own.find(|own| own.ip == ip && own.vlan == vlan)
    }

    fn set(&mut self, now: Instant, vlan: Option<u16>, ip: IpAddr, state: AddressState) {
        let is_decided = self.decides;
        let Some(own) = self.find(vlan, ip) else {
            return;
        };
        let was_in_use = own.state.is_in_use();
        own.state = state;
        // An address in use goes on being announced, however often it is contested.
        if is_decided && !(was_in_use && state.is_in_use()) {
            own.sent = 0;
            let is_other_s = matches!(state, AddressState::Duplicate { .. });
            own.next = Some(if is_other_s { now + RETRY_AFTER } else { now });
        }
        self.news.push_back(AddressNews {
            vlan,
            ip,
            state,
            is_decided,
        });
    }
}
