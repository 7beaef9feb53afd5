//! A stack on a port that a test holds both sides of, in a time that a test moves.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iiblockdaemon::mem::Piece;
use iiblockdaemon::net::Moved;
use iiblockdaemon::net::stack::model::{Address, FlowId, Network, Portal, Settings};
use iiblockdaemon::net::stack::{Dropped, Event, Lost, Received, Stack};
use iiblockdaemon::port::buffers::Buffers;
use iiblockdaemon::port::{Burst, Capabilities, Counters, Frame, Full, Link, Outgoing, Port};

use super::wire::{self, OUR_MAC, PEER_MAC, Packet, Segment};

pub(crate) const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(crate) const OURS6: Ipv6Addr = Ipv6Addr::new(0xFD00, 0, 0, 0, 0, 0, 0, 2);
pub(crate) const PEER6: Ipv6Addr = Ipv6Addr::new(0xFD00, 0, 0, 0, 0, 0, 0, 1);
/// In the VLAN beside the untagged network.
pub(crate) const OURS_TAGGED: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 2);
pub(crate) const PEER_TAGGED: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
pub(crate) const VLAN: u16 = 7;
pub(crate) const PCP: u8 = 5;
pub(crate) const PORTAL: u16 = 3260;
pub(crate) const MTU: u16 = 9000;
/// Frames that the port has memory for.
pub(crate) const BUFFERS: usize = 4096;
/// Bytes that each of them takes, whatever it carries.
pub(crate) const BUFFER_BYTES: usize = MTU as usize + 64;
/// Turns in a row that have to come to an end.
const TURNS_MAX: usize = 200_000;

/// Both directions of a wire, in the hands of a test.
#[derive(Debug)]
pub(crate) struct Tape {
    capabilities: Capabilities,
    counters: Counters,
    /// To be received, oldest first.
    pub(crate) incoming: VecDeque<Frame>,
    /// Sent and not looked at.
    pub(crate) outgoing: Vec<Vec<u8>>,
}

impl Tape {
    fn new() -> Self {
        Self {
            capabilities: Capabilities {
                mac: OUR_MAC,
                mtu: MTU,
                queue: 0,
                queues: 1,
                verifies_checksums: false,
                fills_ipv4_checksum: false,
                fills_tcp_checksum: false,
                segments_ipv4: None,
                segment_bytes_min: 1,
                receive_frames: 4096,
                pieces_max: 16,
                holds_loans: false,
            },
            counters: Counters::default(),
            incoming: VecDeque::new(),
            outgoing: Vec::new(),
        }
    }
}

impl Port for Tape {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn receive(&mut self, burst: &mut Burst) {
        while !burst.is_full()
            && let Some(frame) = self.incoming.pop_front()
        {
            self.counters.received += 1;
            burst.push(frame);
        }
    }

    fn transmit(&mut self, frame: &Outgoing<'_>) -> Result<(), Full> {
        assert!(
            !frame.offload.tcp_checksum && !frame.offload.ipv4_checksum,
            "a port that can do nothing is asked for nothing"
        );
        let payload = frame.payload.iter().flat_map(|piece| piece.bytes());
        let bytes: Vec<u8> = frame.head.iter().chain(payload).copied().collect();
        assert!(
            bytes.len() <= usize::from(MTU) + 18,
            "no frame is longer than the MTU allows"
        );
        self.counters.sent += 1;
        self.outgoing.push(bytes);
        Ok(())
    }

    fn flush(&mut self) {}

    fn counters(&self) -> Counters {
        self.counters
    }

    fn link(&mut self) -> Link {
        Link {
            up: true,
            mbit_per_s: None,
        }
    }

    fn wakes(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// What a test may want to be other than usual.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) flows_max: usize,
    pub(crate) half_open_max: usize,
    pub(crate) keepalive: Duration,
    pub(crate) user_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows_max: 64,
            half_open_max: 16,
            keepalive: Duration::from_secs(600),
            user_timeout: Duration::from_secs(1200),
        }
    }
}

pub(crate) struct World {
    pub(crate) stack: Stack<Tape>,
    pub(crate) now: Instant,
    start: Instant,
    pub(crate) buffers: Buffers,
    /// TCP that the stack sent, not looked at yet, with the time of each.
    pub(crate) sent: VecDeque<(Duration, Segment)>,
    /// What else it sent.
    pub(crate) others: Vec<Packet>,
    /// Not looked at yet.
    pub(crate) events: VecDeque<Event>,
}

impl World {
    /// A stack whose addresses are in use.
    pub(crate) fn new(limits: &Limits) -> Self {
        let now = iiblockdaemon::net::some_instant();
        let stack = Stack::new(Tape::new(), &Arc::new(settings(limits)), now);
        let mut world = Self {
            stack: stack.expect("there is memory for the rings"),
            now,
            start: now,
            buffers: Buffers::new(BUFFERS, BUFFER_BYTES),
            sent: VecDeque::new(),
            others: Vec::new(),
            events: VecDeque::new(),
        };
        world.wait(Duration::from_secs(15));
        let ours = world
            .events
            .iter()
            .filter(|event| matches!(event, Event::Address(news) if news.state.is_in_use()))
            .count();
        assert_eq!(
            ours, 3,
            "nobody objected to the three addresses: {:?}",
            world.events
        );
        world.events.clear();
        world.others.clear();
        world
    }

    /// Time since the start.
    pub(crate) fn time(&self) -> Duration {
        self.now.duration_since(self.start)
    }

    /// Puts a frame on the wire. It is worked on by the next turn.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        let mut buffer = self
            .buffers
            .take(bytes.len())
            .expect("a buffer of the port is free");
        buffer.copy_from_slice(bytes);
        self.stack.port_mut().incoming.push_back(Frame::new(buffer));
    }

    /// A frame alone.
    pub(crate) fn inject(&mut self, bytes: &[u8]) {
        self.put(bytes);
        self.turn();
    }

    /// Everything there is to do at this moment.
    pub(crate) fn turn(&mut self) {
        for _ in 0..TURNS_MAX {
            let received = self.stack.receive(self.now);
            self.stack.tick(self.now);
            let more = self.stack.transmit(self.now);
            let answered = self.collect();
            while let Some(event) = self.stack.next_event() {
                self.events.push_back(event);
            }
            if !received && !more && !answered {
                return;
            }
        }
        panic!("the stack finds no end of work in one moment");
    }

    /// Reads what was sent. `true`: something of it was a question that the peer has answered.
    fn collect(&mut self) -> bool {
        let mut answered = false;
        let time = self.time();
        for frame in std::mem::take(&mut self.stack.port_mut().outgoing) {
            if let Some(segment) = Segment::read(&frame) {
                self.sent.push_back((time, segment));
                continue;
            }
            let packet = Packet::read(&frame);
            if let Some(answer) = answer(&packet) {
                self.put(&answer);
                answered = true;
            }
            self.others.push(packet);
        }
        answered
    }

    /// Lets time pass, by the stack's own deadlines.
    pub(crate) fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        self.turn();
        for _ in 0..TURNS_MAX {
            let Some(next) = self.stack.deadline().filter(|&next| next < until) else {
                self.now = until;
                self.turn();
                return;
            };
            // A deadline may be in the past, being a lower bound.
            self.now = next.max(self.now + Duration::from_micros(100)).min(until);
            self.turn();
        }
        panic!("the stack's deadlines do not come to an end");
    }

    /// What came to a flow, and whether the stream is over (`Err`: how it failed).
    pub(crate) fn read(&mut self, flow: FlowId) -> (Vec<u8>, Result<bool, Lost>) {
        let mut bytes = Vec::new();
        loop {
            match self.stack.take(flow) {
                Ok(Received::Data(chunk)) => {
                    assert!(!chunk.is_empty(), "a chunk has bytes");
                    for slice in chunk.slices() {
                        bytes.extend_from_slice(slice);
                    }
                }
                Ok(Received::WouldBlock) => return (bytes, Ok(false)),
                Ok(Received::Closed) => return (bytes, Ok(true)),
                Err(lost) => return (bytes, Err(lost)),
            }
        }
    }

    /// The bytes that came to a flow that goes on.
    pub(crate) fn bytes(&mut self, flow: FlowId) -> Vec<u8> {
        let (bytes, end) = self.read(flow);
        assert_eq!(end, Ok(false), "the stream goes on");
        self.turn();
        bytes
    }

    /// Gives a flow bytes to send; how many it took.
    pub(crate) fn write(&mut self, flow: FlowId, bytes: &[u8]) -> usize {
        let taken = match self.stack.send(flow, &[Piece::Bytes(bytes)]) {
            Ok(Moved::Bytes(taken)) => taken,
            Ok(Moved::WouldBlock | Moved::Closed) => 0,
            Err(lost) => panic!("the flow is lost: {lost}"),
        };
        self.turn();
        taken
    }

    pub(crate) fn dropped(&self, reason: Dropped) -> u64 {
        self.stack.counters().dropped(reason)
    }

    /// Segments that the stack sent to this end and that were not looked at.
    pub(crate) fn sent_to(&mut self, to: SocketAddr) -> Vec<Segment> {
        let all = std::mem::take(&mut self.sent);
        let (for_it, others) = all.into_iter().partition(|(_, segment)| segment.to == to);
        self.sent = others;
        let for_it: VecDeque<(Duration, Segment)> = for_it;
        for_it.into_iter().map(|(_, segment)| segment).collect()
    }

    /// The connection that was opened since the last look.
    pub(crate) fn opened(&mut self) -> Option<FlowId> {
        let at = self
            .events
            .iter()
            .position(|event| matches!(event, Event::Opened { .. }))?;
        match self.events.remove(at) {
            Some(Event::Opened { flow, .. }) => Some(flow),
            _ => None,
        }
    }

    /// Buffers of the port that somebody holds.
    pub(crate) fn held(&self) -> usize {
        BUFFERS - self.buffers.available() - self.stack.port().incoming.len()
    }
}

fn settings(limits: &Limits) -> Settings {
    let address = |ip: IpAddr, prefix| Address { ip, prefix };
    let network = |vlan, addresses| Network {
        vlan,
        pcp: PCP,
        dscp: 0,
        addresses,
        routes: Vec::new(),
    };
    let portal = |ip: IpAddr| Portal {
        address: SocketAddr::new(ip, PORTAL),
        tag: 1,
    };
    Settings {
        networks: vec![
            network(
                None,
                vec![address(OURS.into(), 8), address(OURS6.into(), 64)],
            ),
            network(Some(VLAN), vec![address(OURS_TAGGED.into(), 24)]),
        ],
        portals: vec![
            portal(OURS.into()),
            portal(OURS6.into()),
            portal(OURS_TAGGED.into()),
        ],
        secret: [7; 32],
        flows_max: limits.flows_max,
        half_open_max: limits.half_open_max,
        keepalive: limits.keepalive,
        user_timeout: limits.user_timeout,
        probe_interval: Duration::ZERO,
    }
}

/// The peer's station answers for every address but the stack's own.
fn answer(packet: &Packet) -> Option<Vec<u8>> {
    let asked = &packet.payload;
    let tag = packet.tag;
    if packet.ethertype == 0x0806 && asked[7] == 1 {
        let address = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&asked[at..at + 4]).unwrap());
        let (sender, target) = (address(14), address(24));
        if sender.is_unspecified() || [sender, OURS, OURS_TAGGED].contains(&target) {
            return None; // a probe, an announcement
        }
        let reply = wire::arp(2, (PEER_MAC, target), (OUR_MAC, sender));
        return Some(wire::link(PEER_MAC, OUR_MAC, tag, 0x0806, &reply));
    }
    let (Some(IpAddr::V6(from)), 58, Some(135)) = (packet.from, packet.protocol, asked.first())
    else {
        return None;
    };
    let target = Ipv6Addr::from(<[u8; 16]>::try_from(&asked[8..24]).unwrap());
    if from.is_unspecified() || target == OURS6 {
        return None;
    }
    let mut rest = vec![0x60, 0, 0, 0];
    rest.extend(target.octets());
    rest.extend([2, 1]);
    rest.extend(PEER_MAC);
    let mut frame = wire::icmp(target.into(), from.into(), 136, 0, &rest);
    frame[wire::LINK + 7] = 255; // hops (RFC 4861 §7.1.2)
    Some(frame)
}
