//! What becomes of a received frame.

use std::time::Instant;

use super::Stack;
use super::counters::Dropped;
use super::egress::SILENCE;
use super::event::Event;
use super::live::Entry;
use super::model::Neighbour;
use super::packet::{self, Icmp, IcmpMessage, Link, Parsed, Quoted, Segment, Seq};
use crate::port::{Frame, Port};

/// Frames for other cores that wait to be told, at most; more are dropped.
const STRAYS_MAX: usize = 1024;

/// How a frame came to this stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Came {
    /// By its own port.
    Here,
    /// From another core, which has it from the same device. It is not passed on again.
    Elsewhere,
}

impl<P: Port> Stack<P> {
    pub(super) fn work_on(&mut self, now: Instant, frame: Frame, came: Came) {
        self.core.counters.frames += 1;
        // Looked at where it is: a segment is too long to be moved for nothing.
        match &packet::parse(&frame) {
            Ok(Parsed::Tcp(segment)) => return self.segment(now, segment, frame, came),
            Ok(Parsed::Arp(arp)) => {
                if let Some(place) = self.network_of(&arp.link) {
                    let learned = self.control.arp(now, arp, &mut around!(self, place));
                    self.tell_learned(learned);
                }
            }
            Ok(Parsed::Icmpv4(icmp) | Parsed::Icmpv6(icmp)) => self.icmp(now, icmp, frame, came),
            Ok(Parsed::Other(..)) => self.core.counters.drop(Dropped::OtherProtocol),
            Err(reason) => return self.core.counters.drop_malformed(*reason),
        }
        self.tell_addresses();
    }

    /// The place in the settings of the network that a frame came in; `None`: it was not for us,
    /// and is counted.
    fn network_of(&mut self, link: &Link) -> Option<usize> {
        if !self.control.is_for_us(link) {
            self.core.counters.drop(Dropped::OtherStation);
            return None;
        }
        let place = self.networks.find(link.vlan);
        if place.is_none() {
            self.core.counters.drop(Dropped::OtherVlan);
        }
        place
    }

    fn segment(&mut self, now: Instant, segment: &Segment, frame: Frame, came: Came) {
        let Some(place) = self.network_of(&segment.link) else {
            return;
        };
        let Some(slot) = self.table.find(&segment.key) else {
            return self.flowless(now, place, segment, frame, came);
        };
        match self.table.value_mut(slot) {
            Some(Entry::Live(_)) => self.pass_on(now, slot, segment, frame),
            Some(&mut Entry::Elsewhere { to }) => self.stray(to, frame, came),
            None => self.flowless(now, place, segment, frame, came),
        }
    }

    /// Gives a flow its segment.
    pub(super) fn pass_on(&mut self, now: Instant, slot: u32, segment: &Segment, frame: Frame) {
        let Some(live) = self.table.value_mut(slot).and_then(Entry::live_mut) else {
            return;
        };
        let before = live.flow.progress();
        let passed = live.flow.segment(now, segment, frame, &mut self.core);
        let moved = !live.is_routed && live.flow.link().dest != segment.link.source;
        let goes_on = passed && goes_on(before, live.flow.progress(), segment);
        let silent = moved && now.saturating_duration_since(live.heard) >= SILENCE;
        if goes_on {
            live.heard = now;
        }
        if passed && moved {
            self.follow(now, slot, segment, goes_on, silent);
        }
        self.dirty.push(slot);
        self.settle(slot);
    }

    /// A reply goes to where the stream goes on, except through a router, which may have other ways
    /// in and out. Anyone can make up a segment that passes, but only the peer knows the number
    /// that comes next: a segment that brings the stream no further moves nothing. `silent`:
    /// nothing had gone on with the peer for long.
    #[cold]
    fn follow(&mut self, now: Instant, slot: u32, segment: &Segment, goes_on: bool, silent: bool) {
        let Some(live) = self.table.value_mut(slot).and_then(Entry::live_mut) else {
            return;
        };
        if goes_on {
            let network = &self.settings.networks[live.place];
            let link = self.control.link_to(network, segment.link.source);
            live.flow.set_link(link);
            live.is_unresolved = false;
        } else if silent {
            // Perhaps it does not hear us where it was.
            self.look_up_hop(slot, now);
        }
    }

    fn icmp(&mut self, now: Instant, icmp: &Icmp, frame: Frame, came: Came) {
        let Some(place) = self.network_of(&icmp.link) else {
            return;
        };
        if let IcmpMessage::TooBig { mtu, quoted } = icmp.message {
            let is_in_use = self
                .control
                .addresses
                .is_in_use(icmp.link.vlan, icmp.ip.dest);
            return match quoted.filter(|_| is_in_use && !icmp.link.is_group()) {
                Some(quoted) => self.too_big(now, mtu, &quoted, frame, came),
                None => self.core.counters.drop(Dropped::BadPathMessage),
            };
        }
        let learned = self
            .control
            .icmp(now, icmp, &frame, &mut around!(self, place));
        self.tell_learned(learned);
    }

    /// A packet of ours did not fit on its way (RFC 1191, RFC 8201). Believed only if the flow has
    /// sent what is quoted.
    fn too_big(&mut self, now: Instant, mtu: u32, quoted: &Quoted, frame: Frame, came: Came) {
        let slot = self.table.find(&quoted.key);
        let entry = slot.and_then(|slot| Some((slot, self.table.value_mut(slot)?)));
        let (slot, live) = match entry {
            Some((slot, Entry::Live(live))) => (slot, live),
            Some((_, Entry::Elsewhere { to })) => {
                let to = *to;
                return self.stray(to, frame, came);
            }
            None => {
                // The router's address is not the flow's peer's, so it may have come to any queue.
                let others = self.core.port.capabilities().queues > 1;
                if !others || came == Came::Elsewhere {
                    return self.core.counters.drop(Dropped::BadPathMessage);
                }
                if self.strays >= STRAYS_MAX || !self.control.allows_foreign_message(now) {
                    return self.core.counters.drop(Dropped::Limited);
                }
                self.strays += 1;
                self.events.push_back(Event::Foreign(frame));
                return;
            }
        };
        let (snd_una, snd_max) = live.flow.under_way();
        // What anyone can make up must not use up what is allowed.
        if quoted.seq.is_before(snd_una) || !quoted.seq.is_before(snd_max) {
            return self.core.counters.drop(Dropped::BadPathMessage);
        }
        if !self.control.allows_path_message(now) {
            return self.core.counters.drop(Dropped::Limited);
        }
        let Some(mtu) = live.path.too_big(now, mtu, quoted, snd_una, snd_max) else {
            return self.core.counters.drop(Dropped::BadPathMessage);
        };
        live.flow.set_path_mtu(now, mtu, &mut self.core);
        self.core.counters.path_mtus += 1;
        let key = quoted.key;
        self.paths.note(key.vlan, key.peer.ip(), mtu, now);
        self.mark_dirty(slot);
    }

    /// A frame of a flow of another core.
    fn stray(&mut self, to: usize, frame: Frame, came: Came) {
        if came == Came::Elsewhere || self.strays >= STRAYS_MAX {
            return self.core.counters.drop(Dropped::NoFlow);
        }
        self.strays += 1;
        self.core.counters.strays += 1;
        self.events.push_back(Event::Stray { to, frame });
    }

    fn tell_learned(&mut self, learned: Option<Neighbour>) {
        if let Some(neighbour) = learned {
            self.events.push_back(Event::Learned(neighbour));
        }
    }

    pub(super) fn tell_addresses(&mut self) {
        while let Some(news) = self.control.addresses.news() {
            self.events.push_back(Event::Address(news));
        }
    }

    /// Probes, announces and asks, as it is time to.
    pub(super) fn tick_control(&mut self, now: Instant) {
        while let Some((at, place)) = self.control.addresses.due(now) {
            self.control
                .work_on_address(now, at, &mut around!(self, place));
        }
        self.tell_addresses();
        while let Some(question) = self.neighbours.question(now) {
            if let Some(place) = self.networks.find(question.vlan) {
                self.control.ask(&question, &mut around!(self, place));
            }
        }
    }
}

/// Whether a segment has brought the stream further, from `before` to `after`: the next number that
/// is expected of the peer, and the first of ours that it has not acknowledged.
fn goes_on(before: (Seq, Seq), after: (Seq, Seq), segment: &Segment) -> bool {
    let ((rcv_nxt, snd_una), (next, una)) = (before, after);
    next != rcv_nxt || (una != snd_una && segment.seq == rcv_nxt)
}
