//! The device that smoltcp sees: packets of one flow, made on the way out, made up on the way in.
//!
//! ```text
//! smoltcp ─► headers, arbitrary payload ─► scratch ─► link header + headers, payload out of Sent
//! smoltcp ◄─ headers, arbitrary payload ◄─ scratch ◄─ headers of a segment that was let through
//! ```
//!
//! A [`Wire`] is there for one call of smoltcp only; what lasts is in [`Core`], which all flows of
//! a core share, and in the flow's [`Line`]. smoltcp believes every packet sent that it makes, so
//! it is let make one only while nothing waits for the port: a packet that finds the port full is
//! kept, and goes first next time.

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroUsize};
use std::time::Instant;

use arrayvec::ArrayVec;
use smoltcp::phy::{self, ChecksumCapabilities, Device, DeviceCapabilities, Medium, PacketMeta};

use super::counters::{Dropped, StackCounters};
use super::held::Budget;
use super::loss::Recovery;
use super::model::FlowKey;
use super::packet::emit::{Bare, LinkHeader, PACKET_HEAD_BYTES_MAX};
use super::packet::{Flags, Seq, Sum, ethertype, protocol};
use super::sent::{Cuts, PIECES_MAX, Pieces, Sent};
use crate::mem::alias::AliasError;
use crate::mem::{Alias, Loan, Pages};
use crate::port::offload::SEGMENTS_MAX;
use crate::port::{Full, HEAD_BYTES_MAX, Offload, Outgoing, Piece, Port};

/// The longest packet that smoltcp makes or is given: IP's own limit, with room to spare.
const SCRATCH_BYTES: usize = 65_536 + PACKET_HEAD_BYTES_MAX;

/// Options of a segment with data, at most.
const OPTIONS_BYTES_MAX: u16 = 40;

/// Bytes of the IP headers that smoltcp makes.
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;

/// What the flows of one stack share.
#[derive(Debug)]
pub(super) struct Core<P> {
    pub(super) port: P,
    pub(super) counters: StackCounters,
    pub(super) alias: Alias,
    /// What its flows keep of the port's frames.
    pub(super) budget: Budget,
    scratch: Scratch,
}

#[derive(Debug)]
struct Scratch {
    /// Packets for smoltcp: headers, and bytes that mean nothing behind them.
    incoming: Box<[u8]>,
    /// Packets of smoltcp's.
    outgoing: Box<[u8]>,
    /// Payload of more parts than a frame may have.
    gathered: Box<[u8]>,
    kept: Kept,
}

/// A frame for which the port had no room.
#[derive(Debug, Default)]
struct Kept {
    waits: bool,
    head: Head,
    /// The bytes of all copied parts.
    bytes: Vec<u8>,
    parts: ArrayVec<KeptPart, { PIECES_MAX + 1 }>,
    offload: Offload,
}

#[derive(Debug)]
enum KeptPart {
    /// So many of the copied bytes.
    Bytes(usize),
    Loan(Loan),
}

type Head = ArrayVec<u8, HEAD_BYTES_MAX>;

impl<P: Port> Core<P> {
    /// # Errors
    /// There is no memory for rings.
    pub(super) fn new(port: P, pages: Pages) -> Result<Self, AliasError> {
        let memory = || vec![0; SCRATCH_BYTES].into_boxed_slice();
        // The other half is for what is received next, and for what was handed out.
        let budget = Budget::new(port.capabilities().receive_frames / 2);
        Ok(Self {
            port,
            budget,
            counters: StackCounters::default(),
            alias: Alias::new(pages)?,
            scratch: Scratch {
                incoming: memory(),
                outgoing: memory(),
                gathered: memory(),
                kept: Kept::default(),
            },
        })
    }

    /// Where the headers of a packet for smoltcp are written.
    pub(super) fn incoming(&mut self) -> &mut [u8; PACKET_HEAD_BYTES_MAX] {
        self.scratch
            .incoming
            .first_chunk_mut()
            .expect("the scratch is longer than headers")
    }

    /// Gives the port the frame that it had no room for. `false`: it still has none.
    pub(super) fn resume(&mut self) -> bool {
        let kept = &mut self.scratch.kept;
        if kept.waits && kept.transmit(&mut self.port).is_err() {
            self.port.flush();
            if kept.transmit(&mut self.port).is_err() {
                return false;
            }
        }
        kept.clear();
        true
    }

    /// A frame waits for the port.
    pub(super) fn is_full(&self) -> bool {
        self.scratch.kept.waits
    }

    /// Sends a segment of our own making; one for which there is no room is lost.
    pub(super) fn answer(&mut self, answer: &Bare, link: &LinkHeader) {
        let mut head = [0; HEAD_BYTES_MAX];
        let len = answer.emit(link, &mut head);
        let frame = Outgoing {
            head: &head[..len],
            payload: &[],
            offload: Offload::default(),
        };
        if self.port.transmit(&frame) == Err(Full) {
            self.counters.drop(Dropped::PortFull);
        }
    }
}

impl Kept {
    fn keep(&mut self, frame: &Outgoing<'_>) {
        self.clear();
        self.waits = true;
        self.head.extend(frame.head.iter().copied());
        self.offload = frame.offload;
        for piece in frame.payload {
            self.parts.push(match piece {
                Piece::Bytes(bytes) => {
                    // A copy of headers while the port is full.
                    self.bytes.extend_from_slice(bytes);
                    KeptPart::Bytes(bytes.len())
                }
                Piece::Loan(loan) => KeptPart::Loan((*loan).clone()),
            });
        }
    }

    fn transmit(&self, port: &mut impl Port) -> Result<(), Full> {
        let mut bytes = &self.bytes[..];
        let mut payload = Pieces::new();
        for part in &self.parts {
            payload.push(match part {
                KeptPart::Bytes(len) => {
                    let (now, later) = bytes.split_at(*len);
                    bytes = later;
                    Piece::Bytes(now)
                }
                KeptPart::Loan(loan) => Piece::Loan(loan),
            });
        }
        port.transmit(&Outgoing {
            head: &self.head,
            payload: &payload,
            offload: self.offload,
        })
    }

    fn clear(&mut self) {
        self.waits = false;
        self.head.clear();
        self.bytes.clear();
        self.parts.clear();
    }
}

/// What a flow knows about its way out, and what went out on it.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) key: FlowKey,
    /// Before every packet.
    pub(super) link: LinkHeader,
    /// Differentiated services code point, 0 to 63.
    pub(super) dscp: u8,
    /// The longest IP packet of the path.
    pub(super) mtu: u16,
    /// The longest payload of a segment that the peer takes.
    pub(super) peer_mss: u16,
    /// Nothing goes out: smoltcp is led through a handshake that has taken place already.
    pub(super) mute: bool,
    /// The sequence number of our SYN, when it was sent.
    pub(super) isn: Option<Seq>,
    /// Behind the last sequence number that was sent.
    pub(super) snd_max: Seq,
    /// Behind the last packet that was sent, an old one too.
    pub(super) snd_end: Seq,
    /// Behind the last sequence number that the peer lets us send.
    pub(super) snd_edge: Seq,
    /// Behind the last sequence number that the peer was told it may send.
    pub(super) rcv_edge: Seq,
    /// How far windows that we send are shifted.
    pub(super) shift: u8,
    /// What is known of losses.
    pub(super) recovery: Recovery,
    /// When the peer was asked whether it is there, and has not answered since.
    pub(super) asked: Option<Instant>,
    /// Since when the peer owes an answer: something was sent, and nothing has come from it since.
    pub(super) owed: Option<Instant>,
    /// A packet was to go out whose bytes nobody has.
    pub(super) broken: bool,
    /// The time of the last call of smoltcp.
    pub(super) now: Instant,
    /// The same on the flow's own clock; `None` before the first.
    pub(super) time: Option<smoltcp::time::Instant>,
    /// What our timestamps showed then, in milliseconds.
    pub(super) clock: u32,
}

impl Line {
    /// Bytes of payload in a full segment, with all options that there may be.
    fn segment_bytes_least(&self) -> u16 {
        let headers = if is_ipv4(&self.key) { 40 } else { 60 };
        let whole = self.mtu.saturating_sub(headers).min(self.peer_mss);
        whole.saturating_sub(OPTIONS_BYTES_MAX)
    }
}

/// The device of one flow, for one call of smoltcp.
pub(super) struct Wire<'a, P> {
    pub(super) core: &'a mut Core<P>,
    pub(super) line: &'a mut Line,
    pub(super) sent: &'a Sent,
    /// Bytes of the packet that waits in the scratch for smoltcp.
    pub(super) incoming: Option<usize>,
}

impl<P: Port> Device for Wire<'_, P> {
    type RxToken<'b>
        = RxToken<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = TxToken<'b, P>
    where
        Self: 'b;

    fn receive(
        &mut self,
        _now: smoltcp::time::Instant,
    ) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let len = self.incoming.take()?;
        let (scratch, line) = (&mut self.core.scratch, &mut *self.line);
        let packet = RxToken {
            packet: scratch.incoming.get(..len)?,
        };
        let answer = TxToken {
            port: &mut self.core.port,
            counters: &mut self.core.counters,
            outgoing: &mut scratch.outgoing,
            gathered: &mut scratch.gathered,
            kept: &mut scratch.kept,
            line,
            sent: self.sent,
            segment_bytes: None,
        };
        Some((packet, answer))
    }

    fn transmit(&mut self, _now: smoltcp::time::Instant) -> Option<Self::TxToken<'_>> {
        let scratch = &mut self.core.scratch;
        if scratch.kept.waits && !self.line.mute {
            return None;
        }
        Some(TxToken {
            port: &mut self.core.port,
            counters: &mut self.core.counters,
            outgoing: &mut scratch.outgoing,
            gathered: &mut scratch.gathered,
            kept: &mut scratch.kept,
            line: self.line,
            sent: self.sent,
            segment_bytes: None,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let port = self.core.port.capabilities();
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = usize::from(self.line.mtu);
        capabilities.checksum = ChecksumCapabilities::ignored();
        // Never for IPv6: smoltcp 0.14 drops such packets.
        let segment = self.line.segment_bytes_least();
        if let Some(bytes) = port.segments_ipv4
            && port.fills_ipv4_checksum
            && port.fills_tcp_checksum
            && bytes >= self.line.mtu
            && segment >= port.segment_bytes_min
        {
            let longest = usize::from(bytes).min(SEGMENTS_MAX * usize::from(segment));
            capabilities.segmentation.tcpv4 = NonZeroUsize::new(longest);
        }
        capabilities
    }
}

/// A packet for smoltcp.
pub(super) struct RxToken<'a> {
    packet: &'a [u8],
}

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, work: F) -> R {
        work(self.packet)
    }
}

/// Room for a packet of smoltcp's.
pub(super) struct TxToken<'a, P> {
    port: &'a mut P,
    counters: &'a mut StackCounters,
    outgoing: &'a mut [u8],
    gathered: &'a mut [u8],
    kept: &'a mut Kept,
    line: &'a mut Line,
    sent: &'a Sent,
    segment_bytes: Option<NonZeroU16>,
}

impl<P: Port> phy::TxToken for TxToken<'_, P> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, work: F) -> R {
        let Self { outgoing, .. } = self;
        let packet = &mut outgoing[..len];
        let result = work(packet);
        let packet = &packet[..];
        let out = Out {
            port: self.port,
            counters: self.counters,
            gathered: self.gathered,
            kept: self.kept,
            sent: self.sent,
            segment_bytes: self.segment_bytes,
        };
        if let Some(packet) = Packet::parse(packet) {
            let again = note(self.line, &packet);
            if !self.line.mute {
                out.counters.retransmits += u64::from(again);
                let was_sent = out.send(self.line, &packet, again);
                self.line.broken |= !was_sent;
            }
        }
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment_bytes = meta.segmentation_offload_size;
    }
}

/// A packet of smoltcp's.
struct Packet<'a> {
    headers: &'a [u8],
    ip_bytes: usize,
    seq: Seq,
    ack: Seq,
    flags: Flags,
    window: u16,
    payload_len: usize,
}

impl<'a> Packet<'a> {
    /// `None` for what smoltcp does not make here: anything but whole TCP segments.
    fn parse(packet: &'a [u8]) -> Option<Self> {
        let ip_bytes = match packet.first()? >> 4 {
            4 => IPV4_BYTES,
            6 => IPV6_BYTES,
            _ => return None,
        };
        let tcp: &[u8; 20] = packet.get(ip_bytes..)?.first_chunk()?;
        let headers = packet.get(..ip_bytes + usize::from(tcp[12] >> 4) * 4)?;
        Some(Self {
            headers,
            ip_bytes,
            seq: Seq(u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]])),
            ack: Seq(u32::from_be_bytes([tcp[8], tcp[9], tcp[10], tcp[11]])),
            flags: Flags::from_bits_truncate(tcp[13]),
            window: u16::from_be_bytes([tcp[14], tcp[15]]),
            payload_len: packet.len() - headers.len(),
        })
    }

    fn is_ipv6(&self) -> bool {
        self.ip_bytes == IPV6_BYTES
    }
}

/// Takes note of what goes out; says whether it has gone out before.
fn note(line: &mut Line, packet: &Packet<'_>) -> bool {
    let (syn, fin) = (Flags::SYN, Flags::FIN);
    if packet.flags.contains(Flags::RST) {
        // The answer to what is no segment of this connection has a number of that one.
        return false;
    }
    if packet.flags.contains(syn) && line.isn.is_none() {
        line.isn = Some(packet.seq);
        line.snd_max = packet.seq;
    }
    if packet.flags.contains(Flags::ACK) {
        // The window of a SYN is never shifted (RFC 7323 §2.2).
        let shift = if packet.flags.contains(syn) {
            0
        } else {
            line.shift
        };
        line.rcv_edge = packet.ack.plus(u32::from(packet.window) << shift);
    }
    let len = u32::try_from(packet.payload_len).unwrap_or(0)
        + u32::from(packet.flags.intersects(syn))
        + u32::from(packet.flags.intersects(fin));
    if len == 1 && packet.seq.plus(1) == line.snd_max && !packet.flags.intersects(syn | fin) {
        // A probe, or a very last byte once more.
        line.asked.get_or_insert(line.now);
    }
    if len != 0 {
        line.owed.get_or_insert(line.now);
    }
    let again = len != 0 && packet.seq.is_before(line.snd_max);
    line.snd_end = packet.seq.plus(len);
    line.snd_max = line.snd_max.max(line.snd_end);
    if len != 0 && !packet.flags.contains(syn) {
        line.recovery.sent(line.now, packet.seq, len);
    }
    again
}

/// The way out of one packet.
struct Out<'a, P> {
    port: &'a mut P,
    counters: &'a mut StackCounters,
    gathered: &'a mut [u8],
    kept: &'a mut Kept,
    sent: &'a Sent,
    segment_bytes: Option<NonZeroU16>,
}

impl<P: Port> Out<'_, P> {
    /// `again`: it begins with what has gone out before. `false`: nobody has its bytes, so that
    /// nothing was sent.
    #[must_use]
    fn send(self, line: &Line, packet: &Packet<'_>, again: bool) -> bool {
        let len = packet.payload_len;
        let is_held = self.sent.holds(packet.seq.0, len);
        // A keepalive probe has a byte that was acknowledged long ago (RFC 9293 §3.8.4); what it
        // is does not matter.
        if len != 0 && !is_held && !(len == 1 && again) {
            return false;
        }
        let (mut cuts, mut payload) = (Cuts::default(), Pieces::new());
        let got = self.sent.pieces(packet.seq.0, len, &mut cuts, &mut payload);
        let rest = &mut self.gathered[..len - got];
        if !is_held {
            rest.fill(0);
        } else if !rest.is_empty() {
            let from = packet.seq.plus(u32::try_from(got).unwrap_or(u32::MAX));
            self.sent.copy_to(from.0, rest);
        }
        if !rest.is_empty() {
            payload.push(Piece::Bytes(rest));
        }
        let capabilities = self.port.capabilities();
        let (ipv4, tcp) = (
            capabilities.fills_ipv4_checksum && !packet.is_ipv6(),
            capabilities.fills_tcp_checksum,
        );
        let (head, mut offload) = head(line, packet, &payload, ipv4, tcp);
        offload.segment_bytes = self.segment_bytes;
        let frame = Outgoing {
            head: &head,
            payload: &payload,
            offload,
        };
        if self.port.transmit(&frame) == Err(Full) {
            self.port.flush();
            if self.port.transmit(&frame) == Err(Full) {
                if self.kept.waits {
                    // Only an answer to a received segment comes here; another will follow.
                    self.counters.drop(Dropped::PortFull);
                } else {
                    self.kept.keep(&frame);
                }
            }
        }
        true
    }
}

/// All headers of a packet. `ipv4`, `tcp`: the port writes these checksums.
fn head(
    line: &Line,
    packet: &Packet<'_>,
    payload: &[Piece<'_>],
    ipv4: bool,
    tcp: bool,
) -> (Head, Offload) {
    let mut bytes = [0; HEAD_BYTES_MAX];
    let ethertype = if packet.is_ipv6() {
        ethertype::IPV6
    } else {
        ethertype::IPV4
    };
    let l2 = line.link.emit(ethertype, &mut bytes);
    let len = l2 + packet.headers.len();
    bytes[l2..len].copy_from_slice(packet.headers);
    let (ip, segment) = bytes[l2..len].split_at_mut(packet.ip_bytes);
    mark(ip, line.dscp);
    stamp(segment, line.clock);
    if !packet.is_ipv6() {
        ip[10..12].fill(0);
        if !ipv4 {
            let mut sum = Sum::new();
            sum.add(ip);
            ip[10..12].copy_from_slice(&sum.checksum().to_be_bytes());
        }
    }
    if packet.payload_len == 0
        && !packet
            .flags
            .intersects(Flags::SYN | Flags::FIN | Flags::RST)
    {
        // While smoltcp sends again it writes old numbers into acknowledgments too, and the peer
        // drops them as old (RFC 9293 §3.10.7.4). Two ends that both do would never get out of it.
        let seq = line.snd_max.min(line.snd_edge).max(packet.seq);
        segment[4..8].copy_from_slice(&seq.0.to_be_bytes());
    }
    segment[16..18].fill(0);
    let total = u32::try_from(segment.len() + packet.payload_len).unwrap_or(u32::MAX);
    let (local, peer) = (line.key.local.ip(), line.key.peer.ip());
    let mut sum = Sum::pseudo_header(local, peer, protocol::TCP, total);
    let field = if tcp {
        sum.folded()
    } else {
        sum.add(segment);
        payload.iter().for_each(|piece| sum.add(piece.bytes()));
        sum.checksum()
    };
    segment[16..18].copy_from_slice(&field.to_be_bytes());
    let small = |len: usize| u8::try_from(len).expect("headers are shorter than 256 bytes");
    let offload = Offload {
        l2_len: small(l2),
        l3_len: small(packet.ip_bytes),
        l4_len: small(segment.len()),
        ipv6: packet.is_ipv6(),
        ipv4_checksum: ipv4,
        tcp_checksum: tcp,
        segment_bytes: None,
    };
    let mut head = Head::from(bytes);
    head.truncate(len);
    (head, offload)
}

/// Writes the code point into an IP header.
fn mark(ip: &mut [u8], dscp: u8) {
    let class = (dscp & 0x3F) << 2;
    if ip[0] >> 4 == 4 {
        ip[1] = class;
    } else {
        ip[0] = 0x60 | class >> 4;
        ip[1] = class << 4 | ip[1] & 0x0F;
    }
}

/// Writes our clock into the timestamps option, where there is one: smoltcp's has none.
fn stamp(segment: &mut [u8], clock: u32) {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const TIMESTAMPS: u8 = 8;
    let mut at = 20;
    while let Some(&kind) = segment.get(at) {
        match kind {
            END => return,
            NOTHING => at += 1,
            TIMESTAMPS => {
                if let Some(value) = segment.get_mut(at + 2..at + 6) {
                    value.copy_from_slice(&clock.to_be_bytes());
                }
                return;
            }
            _ => match segment.get(at + 1) {
                Some(&len) if len >= 2 => at += usize::from(len),
                _ => return,
            },
        }
    }
}

/// The clock of timestamps: milliseconds since `epoch`, wrapping.
pub(super) fn clock(epoch: Instant, now: Instant) -> u32 {
    let millis = now.saturating_duration_since(epoch).as_millis() & u128::from(u32::MAX);
    u32::try_from(millis).expect("32 bits are left")
}

/// Whether both ends have an IPv4 address.
pub(super) fn is_ipv4(key: &FlowKey) -> bool {
    matches!(
        (key.local, key.peer),
        (SocketAddr::V4(_), SocketAddr::V4(_))
    )
}
