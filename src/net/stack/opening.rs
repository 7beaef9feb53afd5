//! How flows begin: a SYN to a portal, a SYN cookie that comes back, or a call of our own.
//!
//! A SYN that is worth it makes a flow at once, which answers it. When too many handshakes are
//! under way the answer is a cookie (RFC 4987 §3.6) and nothing is kept until it comes back. What
//! is no portal is refused.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Stack;
use super::counters::Dropped;
use super::flow::{self, Flow, Opening};
use super::isn::{COOKIE_PERIOD, SEGMENT_BYTES_MIN};
use super::live::{Entry, Live, Phase};
use super::model::{FlowId, FlowKey, Network, Portal, Settings};
use super::mtu::PathMtu;
use super::packet::emit::{Bare, LinkHeader};
use super::packet::{Flags, Segment, Seq, Timestamps};
use super::routes::{Hop, next_hop};
use super::wire;
use crate::port::{Frame, Port};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// First of the ports that calls of our own come from (RFC 6335 §6).
const PORTS_FIRST: u16 = 49152;
/// Ports tried for one call.
const PORT_TRIES: u16 = 1024;

impl<P: Port> Stack<P> {
    /// A segment that belongs to no flow. `after`: it is a SYN that may take the place of a
    /// connection in TIME-WAIT, which is still there; the numbers of the new one are behind this.
    pub(super) fn stranger(
        &mut self,
        now: Instant,
        place: usize,
        segment: &Segment,
        frame: Frame,
        after: Option<Seq>,
    ) {
        let local = segment.key.local;
        match self.control.addresses.state(segment.key.vlan, local.ip()) {
            None => return self.core.counters.drop(Dropped::OtherAddress),
            Some(state) if !state.is_in_use() => {
                return self.core.counters.drop(Dropped::AddressNotInUse);
            }
            Some(_) => {}
        }
        let portal = self.portal(place, local);
        match portal {
            Some(portal) if segment.is_opening() && self.listening => {
                drop(frame);
                self.syn(now, place, segment, portal, after);
            }
            Some(portal)
                if segment.is_ack()
                    && !segment.is_syn()
                    && !segment.is_rst()
                    && self.listening
                    && self.are_cookies_out(now) =>
            {
                self.cookie(now, place, segment, frame, portal);
            }
            Some(_) if segment.is_opening() => {
                self.refuse(now, place, segment, Dropped::NotListening);
            }
            Some(_) | None => self.refuse(now, place, segment, Dropped::NoFlow),
        }
    }

    /// Opens a connection from one of our addresses; port 0 picks one. [`super::Event::Connected`]
    /// or [`super::Event::Lost`] tells how it went. `None`: the address is not ours, there is no
    /// way to the peer, or no room.
    pub fn connect(
        &mut self,
        local: SocketAddr,
        peer: SocketAddr,
        vlan: Option<u16>,
        now: Instant,
    ) -> Option<FlowId> {
        self.begin(now);
        let place = self.networks.find(vlan)?;
        let network = &self.settings.networks[place];
        let hop = next_hop(network, peer.ip())?;
        if !self.control.addresses.is_in_use(vlan, local.ip()) || !self.has_room() {
            return None;
        }
        let key = self.free_key(FlowKey { vlan, local, peer })?;
        let (hop, is_routed) = match hop {
            Hop::OnLink => (peer.ip(), false),
            Hop::Via(router) => (router, true),
        };
        let mac = self.neighbours.look_up(vlan, hop, now);
        let network = &self.settings.networks[place];
        // Nothing is sent before the station is known.
        let link = self.control.link_to(network, mac.unwrap_or_default());
        let settings = Arc::clone(&self.settings);
        let opening = self.opening(now, &settings, place, key, link);
        let flow = Flow::connect(&opening, &mut self.core)?;
        let live = Live {
            is_routed,
            is_unresolved: mac.is_none(),
            ..self.live(flow, Phase::Connecting, place, hop, now)
        };
        let slot = self.table.insert(key, Entry::Live(live))?;
        self.arm(slot, now);
        self.mark_dirty(slot);
        Some(self.table.id(slot))
    }

    /// Whether one more flow may be: there are not too many, and flows of other cores have not
    /// taken their places in the table.
    pub(super) fn has_room(&self) -> bool {
        self.flows() < self.settings.flows_max && !self.table.is_full()
    }

    fn refuse(&mut self, now: Instant, place: usize, segment: &Segment, reason: Dropped) {
        self.control
            .refuse(now, segment, reason, &mut around!(self, place));
    }

    /// The portal at `local`, an address of the network at `place`. A portal is in one network: the
    /// first that has its address.
    fn portal(&self, place: usize, local: SocketAddr) -> Option<Portal> {
        let at = |portal: &Portal| (portal.address.ip(), portal.address.port());
        let mut portals = self.settings.portals.iter();
        let portal = portals.find(|portal| at(portal) == (local.ip(), local.port()))?;
        let has = |network: &Network| network.addresses.iter().any(|it| it.ip == local.ip());
        let networks = &self.settings.networks;
        (networks.iter().position(has) == Some(place)).then_some(*portal)
    }

    /// A SYN to a portal. `after`: as of `stranger`.
    fn syn(
        &mut self,
        now: Instant,
        place: usize,
        segment: &Segment,
        portal: Portal,
        after: Option<Seq>,
    ) {
        self.core.counters.syns += 1;
        if segment
            .options
            .mss
            .is_some_and(|mss| mss < SEGMENT_BYTES_MIN)
        {
            return self.core.counters.drop(Dropped::SmallSegments);
        }
        if !self.make_room() {
            return self.core.counters.drop(Dropped::NoRoom);
        }
        if self.half_open >= self.settings.half_open_max {
            if after.is_some() {
                // A cookie cannot be made behind a number. The peer tries again, and whatever has
                // other ends, or comes when TIME-WAIT is over, gets one.
                return self.core.counters.drop(Dropped::NoRoom);
            }
            return self.send_cookie(now, place, segment);
        }
        let link = self.link_back(now, place, segment);
        let settings = Arc::clone(&self.settings);
        let mut opening = self.opening(now, &settings, place, segment.key, link);
        if let Some(after) = after.filter(|&after| !opening.isn.is_after(after)) {
            opening.isn = after;
        }
        let Some(flow) = Flow::accept(&opening, segment, &mut self.core) else {
            return self.core.counters.drop(Dropped::NoRoom);
        };
        let phase = Phase::HalfOpen { tag: portal.tag };
        if self.admit(now, place, segment, flow, phase).is_some() {
            self.half_open += 1;
        } else {
            self.core.counters.drop(Dropped::NoRoom);
        }
    }

    /// Answers a SYN with a cookie; nothing is kept (RFC 4987 §3.6).
    fn send_cookie(&mut self, now: Instant, place: usize, segment: &Segment) {
        let clock = wire::clock(self.start, now);
        let Some(cookie) = self.numbers.cookie(segment, clock, now) else {
            return self.core.counters.drop(Dropped::NoRoom);
        };
        let echo = segment.options.timestamps.map(|times| times.value);
        let link = self.link_back(now, place, segment);
        let mtu = self.core.port.capabilities().mtu;
        let path = self
            .paths
            .limit(segment.key.vlan, segment.key.peer.ip(), mtu, now);
        let answer = Bare {
            window: u16::MAX,
            dscp: self.settings.networks[place].dscp,
            mss: Some(flow::segment_bytes(&segment.key, path)),
            window_scale: cookie.window_scale.map(|_| flow::WINDOW_SHIFT),
            sack_permitted: cookie.sack_permitted,
            timestamps: cookie
                .timestamp
                .zip(echo)
                .map(|(value, echo)| Timestamps { value, echo }),
            ..Bare::new(
                segment.key,
                cookie.isn,
                segment.seq.plus(1),
                Flags::SYN | Flags::ACK,
            )
        };
        self.core.counters.cookies_sent += 1;
        self.cookie_sent = Some(now);
        self.control
            .bare(&answer, link.dest, &mut around!(self, place));
    }

    /// An acknowledgement that may bring a cookie back.
    fn cookie(
        &mut self,
        now: Instant,
        place: usize,
        segment: &Segment,
        frame: Frame,
        portal: Portal,
    ) {
        let Some(contents) = self.numbers.open(segment, now) else {
            return self.refuse(now, place, segment, Dropped::BadCookie);
        };
        if !self.has_room() {
            return self.core.counters.drop(Dropped::NoRoom);
        }
        let link = self.link_back(now, place, segment);
        let settings = Arc::clone(&self.settings);
        let opening = Opening {
            isn: contents.isn,
            ..self.opening(now, &settings, place, segment.key, link)
        };
        let flow = Flow::accept_cookie(&opening, segment, &contents, &mut self.core);
        let Some(flow) = flow else {
            return self.core.counters.drop(Dropped::NoRoom);
        };
        let Some(slot) = self.admit(now, place, segment, flow, Phase::Open) else {
            return;
        };
        self.core.counters.cookies_accepted += 1;
        self.core.counters.opened += 1;
        self.tell_opened(slot, portal.tag);
        // It may bring the first bytes, too.
        self.pass_on(now, slot, segment, frame);
    }

    /// A cookie may still come back.
    fn are_cookies_out(&self, now: Instant) -> bool {
        self.cookie_sent
            .is_some_and(|sent| now.saturating_duration_since(sent) < COOKIE_PERIOD * 2)
    }

    /// Puts a flow that a peer has opened into the table.
    fn admit(
        &mut self,
        now: Instant,
        place: usize,
        segment: &Segment,
        flow: Box<Flow>,
        phase: Phase,
    ) -> Option<u32> {
        let peer = segment.key.peer.ip();
        let router = self.router_to(place, peer);
        let live = Live {
            is_routed: router.is_some(),
            ..self.live(flow, phase, place, router.unwrap_or(peer), now)
        };
        let slot = self.table.insert(segment.key, Entry::Live(live))?;
        self.arm(slot, now);
        self.mark_dirty(slot);
        Some(slot)
    }

    /// What is kept of a new flow. `hop`: the next station on the way to its peer.
    pub(super) fn live(
        &self,
        flow: Box<Flow>,
        phase: Phase,
        place: usize,
        hop: IpAddr,
        now: Instant,
    ) -> Live {
        let mtu = self.core.port.capabilities().mtu;
        Live {
            path: PathMtu::known(mtu, hop.is_ipv6(), flow.path_mtu(), now),
            flow,
            phase,
            place,
            hop,
            is_routed: false,
            heard: now,
            is_unresolved: false,
            changes: self.neighbours.changes(),
            is_over: false,
            attached: false,
            told_readable: false,
            wants_room: false,
            lost: None,
            until: (phase != Phase::Open).then_some(now + HANDSHAKE),
        }
    }

    fn opening<'a>(
        &self,
        now: Instant,
        settings: &'a Settings,
        place: usize,
        key: FlowKey,
        link: LinkHeader,
    ) -> Opening<'a> {
        let mtu = self.core.port.capabilities().mtu;
        Opening {
            settings,
            network: &settings.networks[place],
            key,
            isn: self.numbers.isn(&key, now),
            path_mtu: self.paths.limit(key.vlan, key.peer.ip(), mtu, now),
            link,
            rules: self.rules,
            ticks: wire::clock(self.start, now),
            now,
        }
    }

    fn router_to(&self, place: usize, peer: IpAddr) -> Option<IpAddr> {
        match next_hop(&self.settings.networks[place], peer) {
            Some(Hop::Via(router)) => Some(router),
            Some(Hop::OnLink) | None => None,
        }
    }

    /// Where a reply goes: to the router that the peer is behind, as far as that is known, or else
    /// to the station that the segment came from.
    fn link_back(&mut self, now: Instant, place: usize, segment: &Segment) -> LinkHeader {
        let router = self.router_to(place, segment.key.peer.ip());
        let known =
            router.and_then(|router| self.neighbours.look_up(segment.key.vlan, router, now));
        let network = &self.settings.networks[place];
        self.control
            .link_to(network, known.unwrap_or(segment.link.source))
    }

    /// The key with a port that is free, if none was asked for.
    fn free_key(&mut self, key: FlowKey) -> Option<FlowKey> {
        if key.local.port() != 0 {
            return self.is_free(&key).then_some(key);
        }
        let ports = u16::MAX - PORTS_FIRST;
        for _ in 0..PORT_TRIES {
            self.last_port = (self.last_port + 1) % ports;
            let mut key = key;
            key.local.set_port(PORTS_FIRST + self.last_port);
            if self.is_free(&key) {
                return Some(key);
            }
        }
        None
    }

    fn is_free(&self, key: &FlowKey) -> bool {
        self.table.find(key).is_none() && !self.waits.has(key)
    }
}
