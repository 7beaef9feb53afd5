//! What is of no flow: ARP, neighbour discovery and echo, answered per network.
//!
//! A question is answered to the station that it came from, out of the address that was asked for,
//! in the VLAN that it came in; questions about addresses that are not ours, or not in use yet, are
//! not answered. How much is answered in a second is limited. Errors are never generated: what
//! nobody speaks here is dropped and counted.

mod addresses;
mod frames;

use std::net::IpAddr;
use std::time::Instant;

pub(super) use addresses::Addresses;

use super::counters::{Dropped, StackCounters};
use super::limit::Limit;
use super::model::{Neighbour, Network, Settings};
use super::neighbours::{Neighbours, Question};
use super::packet::emit::{Bare, LinkHeader, Tag};
use super::packet::{Arp, Icmp, IcmpMessage, Link, Segment};
use super::routes;
use crate::port::{Frame, HEAD_BYTES_MAX, Offload, Outgoing, Piece, Port};
use frames::{Advertisement, ArpPacket};

/// Resets to strangers in a second.
const RESETS_PER_SECOND: u32 = 1000;
/// Echo requests answered in a second.
const ECHOES_PER_SECOND: u32 = 1000;
/// ARP requests and neighbour solicitations answered in a second.
const ANSWERS_PER_SECOND: u32 = 1000;
/// Neighbours told to other cores in a second.
const TOLD_PER_SECOND: u32 = 1000;
/// Messages about paths acted upon in a second, and as many shown to other cores.
const PATH_MESSAGES_PER_SECOND: u32 = 1000;
/// What everybody on an Ethernet hears.
pub(super) const BROADCAST: [u8; 6] = [0xFF; 6];

const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;

/// See the module.
#[derive(Debug)]
pub(super) struct Control {
    mac: [u8; 6],
    pub(super) addresses: Addresses,
    resets: Limit,
    echoes: Limit,
    answers: Limit,
    told: Limit,
    paths: Limit,
    foreign: Limit,
}

/// How a station spoke of itself.
#[derive(Clone, Copy, Debug)]
struct Said {
    /// In a question to us that was answered, so that it is likely to be needed soon.
    aimed: bool,
    /// Because it was asked.
    answers: bool,
}

/// What a handler works with besides itself.
pub(super) struct Around<'a, P> {
    pub(super) port: &'a mut P,
    pub(super) counters: &'a mut StackCounters,
    pub(super) neighbours: &'a mut Neighbours,
    /// The network that it is about.
    pub(super) network: &'a Network,
}

impl Control {
    pub(super) fn new<P: Port>(port: &P, settings: &Settings, now: Instant) -> Self {
        let mac = port.capabilities().mac;
        Self {
            mac,
            addresses: Addresses::new(settings, port.capabilities().queue == 0, now),
            resets: Limit::new(RESETS_PER_SECOND, now),
            echoes: Limit::new(ECHOES_PER_SECOND, now),
            answers: Limit::new(ANSWERS_PER_SECOND, now),
            told: Limit::new(TOLD_PER_SECOND, now),
            paths: Limit::new(PATH_MESSAGES_PER_SECOND, now),
            foreign: Limit::new(PATH_MESSAGES_PER_SECOND, now),
        }
    }

    /// Whether a frame was sent to this station or to a group.
    pub(super) fn is_for_us(&self, link: &Link) -> bool {
        link.dest == self.mac || link.is_group()
    }

    /// Whether the other cores may be shown one more message about a path.
    pub(super) fn allows_foreign_message(&mut self, now: Instant) -> bool {
        self.foreign.allows(now)
    }

    /// Whether one more message about a path of ours may be acted upon.
    pub(super) fn allows_path_message(&mut self, now: Instant) -> bool {
        self.paths.allows(now)
    }

    /// The link header of what goes to one station of a network.
    pub(super) fn link_to(&self, network: &Network, dest: [u8; 6]) -> LinkHeader {
        LinkHeader {
            dest,
            source: self.mac,
            tag: network.vlan.map(|vlan| Tag {
                vlan,
                pcp: network.pcp,
            }),
        }
    }

    /// An ARP packet (RFC 826, RFC 5227). What was learned from it, for other cores.
    pub(super) fn arp<P: Port>(
        &mut self,
        now: Instant,
        arp: &Arp,
        around: &mut Around<'_, P>,
    ) -> Option<Neighbour> {
        let vlan = around.network.vlan;
        if arp.sender_mac == self.mac {
            return None;
        }
        let target = IpAddr::V4(arp.target);
        let sender = IpAddr::V4(arp.sender);
        if arp.sender.is_unspecified() {
            // A probe: somebody wants to know whether the address is free.
            self.addresses.probed(now, vlan, target, arp.sender_mac);
        } else if self.is_conflict(now, sender, arp.sender_mac, around) {
            return None;
        }
        let is_ours = self.addresses.is_in_use(vlan, target);
        let is_asked = arp.operation == ARP_REQUEST && is_ours;
        // Who is not answered is not remembered either.
        let is_ignored = is_asked && !self.answer_arp(now, arp, around);
        if is_ignored || arp.sender.is_unspecified() {
            return None;
        }
        let neighbour = Neighbour {
            vlan,
            ip: sender,
            mac: arp.sender_mac,
        };
        let answers = arp.operation == ARP_REPLY && arp.link.dest == self.mac;
        self.learned(
            now,
            neighbour,
            Said {
                aimed: is_asked,
                answers,
            },
            around,
        )
    }

    /// A message of ICMP that is not about a path. What was learned from it, for other cores.
    pub(super) fn icmp<P: Port>(
        &mut self,
        now: Instant,
        icmp: &Icmp,
        frame: &Frame,
        around: &mut Around<'_, P>,
    ) -> Option<Neighbour> {
        match icmp.message {
            IcmpMessage::EchoRequest { .. } => {
                self.echo(now, icmp, frame, around);
                None
            }
            IcmpMessage::NeighbourSolicitation { target, source_mac } => {
                self.solicited(now, icmp, target.into(), source_mac, around)
            }
            IcmpMessage::NeighbourAdvertisement {
                target,
                target_mac,
                solicited,
                overrides,
                ..
            } => {
                let neighbour = Neighbour {
                    vlan: around.network.vlan,
                    ip: target.into(),
                    mac: target_mac.unwrap_or(icmp.link.source),
                };
                self.advertised(now, neighbour, solicited, overrides, around)
            }
            IcmpMessage::TooBig { .. } | IcmpMessage::Other { .. } => {
                around.counters.drop(Dropped::OtherProtocol);
                None
            }
        }
    }

    /// Refuses a segment that belongs to nobody, for that reason (RFC 9293 §3.10.7.1).
    pub(super) fn refuse<P: Port>(
        &mut self,
        now: Instant,
        segment: &Segment,
        reason: Dropped,
        around: &mut Around<'_, P>,
    ) {
        around.counters.drop(reason);
        // A reset in answer to a reset would go to and fro for ever.
        if segment.is_rst() || !self.resets.allows(now) {
            return;
        }
        around.counters.resets_sent += 1;
        self.bare(&Bare::reset_for(segment), segment.link.source, around);
    }

    /// Sends a segment without payload to a station.
    pub(super) fn bare<P: Port>(&self, segment: &Bare, dest: [u8; 6], around: &mut Around<'_, P>) {
        let mut head = [0; HEAD_BYTES_MAX];
        let link = self.link_to(around.network, dest);
        let len = segment.emit(&link, &mut head);
        around.send(&head[..len], &[]);
    }

    /// Asks where an address is.
    pub(super) fn ask<P: Port>(&self, question: &Question, around: &mut Around<'_, P>) {
        let Some(source) = self
            .addresses
            .source(question.vlan, question.ip, around.network)
        else {
            return;
        };
        around.counters.neighbours_asked += 1;
        self.solicit(Some(source), question.ip, question.mac, around);
    }

    /// Probes and announces addresses as it is time to (RFC 5227 §2.1, §2.3; RFC 4862 §5.4). To be
    /// called for each address that [`Addresses::due`] names.
    pub(super) fn work_on_address<P: Port>(
        &mut self,
        now: Instant,
        at: usize,
        around: &mut Around<'_, P>,
    ) {
        let is_up = around.port.link().up;
        match self.addresses.work(now, at, is_up) {
            Some(addresses::Step::Probe(ip)) => self.solicit(None, ip, None, around),
            Some(addresses::Step::Announce(ip)) => self.announce(ip, around),
            None => {}
        }
    }

    /// A station says that it has an address of ours, which is defended (RFC 5227 §2.4).
    fn is_conflict<P: Port>(
        &mut self,
        now: Instant,
        ip: IpAddr,
        mac: [u8; 6],
        around: &mut Around<'_, P>,
    ) -> bool {
        let claim = self.addresses.claimed(now, around.network.vlan, ip, mac);
        if claim == addresses::Claim::Defend {
            self.announce(ip, around);
        }
        claim != addresses::Claim::Fair
    }

    /// `false`: there were too many questions.
    fn answer_arp<P: Port>(&mut self, now: Instant, arp: &Arp, around: &mut Around<'_, P>) -> bool {
        if !self.answers.allows(now) {
            around.counters.drop(Dropped::Limited);
            return false;
        }
        around.counters.neighbours_told += 1;
        let packet = ArpPacket {
            operation: ARP_REPLY,
            sender_mac: self.mac,
            sender: arp.target,
            target_mac: arp.sender_mac,
            target: arp.sender,
        };
        let link = self.link_to(around.network, arp.sender_mac);
        packet.send(&link, around);
        true
    }

    fn echo<P: Port>(
        &mut self,
        now: Instant,
        icmp: &Icmp,
        frame: &Frame,
        around: &mut Around<'_, P>,
    ) {
        // Echoes to groups are not answered: one question would bring many answers.
        if icmp.link.is_group() || !self.addresses.is_in_use(around.network.vlan, icmp.ip.dest) {
            around.counters.drop(Dropped::OtherAddress);
            return;
        }
        if !self.echoes.allows(now) {
            around.counters.drop(Dropped::Limited);
            return;
        }
        around.counters.echoes += 1;
        let link = self.link_to(around.network, icmp.link.source);
        frames::send_echo_reply(icmp, frame, &link, around);
    }

    /// A neighbour solicitation (RFC 4861 §7.2.3, RFC 4862 §5.4.3).
    fn solicited<P: Port>(
        &mut self,
        now: Instant,
        icmp: &Icmp,
        target: IpAddr,
        source_mac: Option<[u8; 6]>,
        around: &mut Around<'_, P>,
    ) -> Option<Neighbour> {
        let vlan = around.network.vlan;
        if icmp.link.source == self.mac {
            return None;
        }
        let is_probe = icmp.ip.source.is_unspecified();
        if is_probe {
            self.addresses.probed(now, vlan, target, icmp.link.source);
        }
        if !self.addresses.is_in_use(vlan, target) {
            around.counters.drop(Dropped::OtherAddress);
            return None;
        }
        if !self.answers.allows(now) {
            around.counters.drop(Dropped::Limited);
            return None;
        }
        around.counters.neighbours_told += 1;
        let mac = source_mac.unwrap_or(icmp.link.source);
        let advertisement = Advertisement {
            target,
            to: (!is_probe).then_some(icmp.ip.source),
            mac: self.mac,
        };
        let dest = if is_probe { frames::ALL_NODES_MAC } else { mac };
        advertisement.send(&self.link_to(around.network, dest), around);
        if is_probe {
            return None;
        }
        let neighbour = Neighbour {
            vlan,
            ip: icmp.ip.source,
            mac,
        };
        let said = Said {
            aimed: true,
            answers: false,
        };
        self.learned(now, neighbour, said, around)
    }

    /// A neighbour advertisement (RFC 4861 §7.2.5, RFC 4862 §5.4.4).
    fn advertised<P: Port>(
        &mut self,
        now: Instant,
        neighbour: Neighbour,
        answers: bool,
        overrides: bool,
        around: &mut Around<'_, P>,
    ) -> Option<Neighbour> {
        if neighbour.mac == self.mac {
            return None;
        }
        if self.is_conflict(now, neighbour.ip, neighbour.mac, around) {
            return None;
        }
        // Another station speaks for it: what is known first counts.
        if !overrides && around.neighbours.is_elsewhere(neighbour) {
            return None;
        }
        let said = Said {
            aimed: false,
            answers,
        };
        self.learned(now, neighbour, said, around)
    }

    /// Keeps what a station says of itself, if it can be one of this network.
    fn learned<P: Port>(
        &mut self,
        now: Instant,
        neighbour: Neighbour,
        said: Said,
        around: &mut Around<'_, P>,
    ) -> Option<Neighbour> {
        let on_link = routes::next_hop(around.network, neighbour.ip) == Some(routes::Hop::OnLink);
        if !on_link || neighbour.mac[0] & 1 != 0 || neighbour.mac == [0; 6] {
            return None;
        }
        let is_news = if said.aimed {
            around.neighbours.learn(neighbour, now)
        } else {
            around.neighbours.update(neighbour, now)
        };
        // Another core may have asked, and not know yet what is no news here.
        ((is_news || said.answers) && self.told.allows(now)).then_some(neighbour)
    }

    /// Tells everybody in the network where an address of ours is.
    fn announce<P: Port>(&self, ip: IpAddr, around: &mut Around<'_, P>) {
        match ip {
            IpAddr::V4(ip) => {
                let packet = ArpPacket {
                    operation: ARP_REQUEST,
                    sender_mac: self.mac,
                    sender: ip,
                    target_mac: [0; 6],
                    target: ip,
                };
                packet.send(&self.link_to(around.network, BROADCAST), around);
            }
            IpAddr::V6(_) => {
                let advertisement = Advertisement {
                    target: ip,
                    to: None,
                    mac: self.mac,
                };
                let link = self.link_to(around.network, frames::ALL_NODES_MAC);
                advertisement.send(&link, around);
            }
        }
    }

    /// Asks for an address; without a source it is a probe. `mac`: only that station is asked.
    fn solicit<P: Port>(
        &self,
        source: Option<IpAddr>,
        target: IpAddr,
        mac: Option<[u8; 6]>,
        around: &mut Around<'_, P>,
    ) {
        match (target, source) {
            (IpAddr::V4(target), source) => {
                let sender = match source {
                    Some(IpAddr::V4(sender)) => sender,
                    Some(IpAddr::V6(_)) | None => std::net::Ipv4Addr::UNSPECIFIED,
                };
                let packet = ArpPacket {
                    operation: ARP_REQUEST,
                    sender_mac: self.mac,
                    sender,
                    target_mac: [0; 6],
                    target,
                };
                let dest = mac.unwrap_or(BROADCAST);
                packet.send(&self.link_to(around.network, dest), around);
            }
            (IpAddr::V6(target), source) => {
                frames::send_solicitation(self, source, target, mac, around);
            }
        }
    }
}

impl<P: Port> Around<'_, P> {
    /// Gives a frame to the port. There is no second try: whoever asked asks again.
    fn send(&mut self, head: &[u8], payload: &[Piece<'_>]) {
        let frame = Outgoing {
            head,
            payload,
            offload: Offload::default(),
        };
        if self.port.transmit(&frame).is_err() {
            self.counters.drop(Dropped::PortFull);
        }
    }
}
