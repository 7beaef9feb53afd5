//! The far end of a connection: no TCP, but what a test needs to say exactly what it wants.

use std::net::{IpAddr, SocketAddr};

use iiblockdaemon::net::stack::model::FlowId;

use super::wire::{ACK, FIN, PSH, SYN, Segment};
use super::world::{OURS, OURS_TAGGED, OURS6, PCP, PEER, PEER_TAGGED, PEER6, PORTAL, VLAN, World};

/// What is sent in one segment by [`Peer::send`].
pub(crate) const SEGMENT: usize = 1400;

/// What a peer offers in its SYN.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    pub(crate) mss: u16,
    pub(crate) window_shift: Option<u8>,
    pub(crate) timestamps: bool,
    pub(crate) sack: bool,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            mss: 1460,
            window_shift: Some(7),
            timestamps: true,
            sack: true,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) own: SocketAddr,
    pub(crate) target: SocketAddr,
    pub(crate) vlan: Option<u16>,
    /// The next number of its own: SND.NXT.
    pub(crate) seq: u32,
    /// The next that it waits for: RCV.NXT.
    pub(crate) ack: u32,
    /// What it says its window is, as in the header.
    pub(crate) window: u16,
    pub(crate) offer: Offer,
    /// The stack sends timestamps.
    timestamps: bool,
    /// Its clock is ahead of the world's by so many ms.
    pub(crate) clock: u32,
    /// The latest timestamp of the stack's.
    pub(crate) echo: u32,
    /// The shift of the stack's window.
    pub(crate) their_shift: u8,
    pub(crate) their_mss: u16,
    /// The stream that the stack sent, in order.
    pub(crate) received: Vec<u8>,
    pub(crate) finished: bool,
    pub(crate) flow: Option<FlowId>,
}

impl Peer {
    /// An end on `port` at the peer's usual address, not connected.
    pub(crate) fn new(port: u16) -> Self {
        Self::at(SocketAddr::new(PEER.into(), port))
    }

    pub(crate) fn v6(port: u16) -> Self {
        Self::at(SocketAddr::new(PEER6.into(), port))
    }

    pub(crate) fn tagged(port: u16) -> Self {
        let mut peer = Self::at(SocketAddr::new(PEER_TAGGED.into(), port));
        peer.target = SocketAddr::new(OURS_TAGGED.into(), PORTAL);
        peer.vlan = Some(VLAN);
        peer
    }

    pub(crate) fn at(own: SocketAddr) -> Self {
        let target: IpAddr = if own.is_ipv4() {
            OURS.into()
        } else {
            OURS6.into()
        };
        Self {
            own,
            target: SocketAddr::new(target, PORTAL),
            vlan: None,
            seq: 0x7FFF_F000,
            ack: 0,
            window: 0xFFFF,
            offer: Offer::default(),
            timestamps: false,
            clock: 1_000_000,
            echo: 0,
            their_shift: 0,
            their_mss: 536,
            received: Vec::new(),
            finished: false,
            flow: None,
        }
    }

    /// A standing connection.
    pub(crate) fn connected(world: &mut World, port: u16) -> Self {
        let mut peer = Self::new(port);
        peer.connect(world);
        peer
    }

    /// A segment of this connection with no payload.
    pub(crate) fn segment(&self, world: &World, flags: u8) -> Segment {
        let mut segment = Segment::new(self.own, self.target);
        segment.vlan = self.vlan;
        segment.pcp = PCP;
        segment.seq = self.seq;
        segment.ack = if flags & ACK != 0 { self.ack } else { 0 };
        segment.flags = flags;
        segment.window = self.window;
        if self.timestamps {
            segment.options = timestamps_option(self.time(world), self.echo);
        }
        segment
    }

    /// TSval of now.
    pub(crate) fn time(&self, world: &World) -> u32 {
        let ms = u32::try_from(world.time().as_millis()).unwrap();
        self.clock.wrapping_add(ms)
    }

    pub(crate) fn syn(&self, world: &World) -> Segment {
        let mut syn = self.segment(world, SYN);
        syn.ack = 0;
        syn.window = 0xFFFF;
        let mss = self.offer.mss.to_be_bytes();
        syn.options = vec![2, 4, mss[0], mss[1]];
        if self.offer.sack {
            syn.options.extend([1, 1, 4, 2]);
        }
        if self.offer.timestamps {
            syn.options.extend(timestamps_option(self.time(world), 0));
        }
        if let Some(shift) = self.offer.window_shift {
            syn.options.extend([1, 3, 3, shift]);
        }
        syn
    }

    /// Sends a SYN; the answer, if it was a SYN-ACK, is taken note of.
    pub(crate) fn ask(&mut self, world: &mut World) -> Option<Segment> {
        let syn = self.syn(world);
        self.seq = syn.end();
        world.inject(&syn.frame());
        let answers = world.sent_to(self.own);
        let answer = answers.into_iter().find(|segment| segment.has(SYN | ACK))?;
        assert_eq!(answer.ack, self.seq, "a SYN-ACK acknowledges the SYN");
        self.ack = answer.end();
        self.their_mss = answer.mss().expect("a SYN-ACK has an MSS");
        self.their_shift = match self.offer.window_shift {
            Some(_) => answer.window_shift().unwrap_or(0),
            None => {
                assert_eq!(
                    answer.window_shift(),
                    None,
                    "what was not offered is not taken"
                );
                0
            }
        };
        if let Some((value, echo)) = answer.timestamps() {
            assert!(self.offer.timestamps, "what was not offered is not taken");
            assert_eq!(echo, self.time(world), "the SYN's timestamp is echoed");
            self.timestamps = true;
            self.echo = value;
        }
        Some(answer)
    }

    /// The whole handshake.
    pub(crate) fn connect(&mut self, world: &mut World) {
        self.ask(world).expect("the SYN is answered");
        self.acknowledge(world);
        self.flow = Some(world.opened().expect("the connection is opened"));
    }

    pub(crate) fn flow(&self) -> FlowId {
        self.flow.expect("it is connected")
    }

    pub(crate) fn acknowledge(&self, world: &mut World) {
        let ack = self.segment(world, ACK);
        world.inject(&ack.frame());
    }

    /// The segments that carry `bytes` from the next number on, which moves behind them.
    pub(crate) fn data(&mut self, world: &World, bytes: &[u8], each: usize) -> Vec<Segment> {
        let mut segments = Vec::new();
        for piece in bytes.chunks(each) {
            let mut segment = self.segment(world, ACK | PSH);
            segment.payload = piece.to_vec();
            self.seq = segment.end();
            segments.push(segment);
        }
        segments
    }

    /// Sends all of it at once, whatever the stack's window.
    pub(crate) fn send(&mut self, world: &mut World, bytes: &[u8]) {
        for segment in self.data(world, bytes, SEGMENT) {
            world.put(&segment.frame());
        }
        world.turn();
    }

    pub(crate) fn finish(&mut self, world: &mut World) {
        let fin = self.segment(world, FIN | ACK);
        self.seq = fin.end();
        world.inject(&fin.frame());
    }

    /// Takes what the stack has sent to this end: bytes in order go to `received`. Says what it
    /// saw. Nothing is acknowledged yet.
    pub(crate) fn look(&mut self, world: &mut World) -> Vec<Segment> {
        let segments = world.sent_to(self.own);
        for segment in &segments {
            if let Some((value, _)) = segment.timestamps() {
                self.echo = value;
            }
            let skip = self.ack.wrapping_sub(segment.seq);
            let bytes = segment.payload.len();
            if let Some(new) = usize::try_from(skip).ok().filter(|&skip| skip <= bytes) {
                self.received.extend(&segment.payload[new..]);
                self.ack = segment.seq.wrapping_add(u32::try_from(bytes).unwrap());
                if segment.has(FIN) {
                    self.ack = self.ack.wrapping_add(1);
                    self.finished = true;
                }
            }
        }
        segments
    }

    /// Looks and acknowledges until the stack has no more to say.
    pub(crate) fn follow(&mut self, world: &mut World) {
        for _ in 0..100_000 {
            let before = self.ack;
            if self.look(world).is_empty() {
                return;
            }
            if self.ack != before {
                self.acknowledge(world);
            }
        }
        panic!("the stack finds no end");
    }

    /// One message there and one back: the connection stands.
    pub(crate) fn lives(&mut self, world: &mut World) {
        let flow = self.flow();
        let question = self.seq.to_be_bytes();
        self.send(world, &question);
        assert_eq!(world.bytes(flow), question, "the connection carries data");
        self.follow(world);
        let before = self.received.len();
        let answer = b"and it answers";
        assert_eq!(world.write(flow, answer), answer.len());
        self.follow(world);
        assert_eq!(
            &self.received[before..],
            answer,
            "the connection carries data back"
        );
    }

    /// What of the stack's answers are bare acknowledgments of where it stands.
    pub(crate) fn challenges(&self, segments: &[Segment]) -> usize {
        segments
            .iter()
            .filter(|segment| segment.flags == ACK && segment.payload.is_empty())
            .inspect(|segment| assert_eq!(segment.ack, self.seq, "it says what it waits for"))
            .count()
    }
}

/// Two bytes of nothing, then the option (RFC 7323 appendix A).
pub(crate) fn timestamps_option(value: u32, echo: u32) -> Vec<u8> {
    let mut option = vec![1, 1, 8, 10];
    option.extend(value.to_be_bytes());
    option.extend(echo.to_be_bytes());
    option
}
