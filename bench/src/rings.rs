//! A peer of our stack: smoltcp as its users run it, with rings in which the payload really lies.
//!
//! ```text
//! frame ─ smoltcp copies ─► receive ring ─ the application copies ─► buffer of the write
//! buffer of the read ─ the application copies ─► transmit ring ─ smoltcp copies ─► frame
//! ```
//!
//! What is not smoltcp's is made to cost next to nothing, so that a difference is a difference of
//! rings: each connection has an interface of its own (no scan over sockets), found by one look at
//! a table of ports; interfaces of which there is no news are not polled; nothing checks segments,
//! repairs losses, or looks after neighbours. smoltcp writes into memory of the device.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::num::NonZeroUsize;
use std::time::Instant;

use iiblockdaemon::mem::{self, DmaBuf};
use iiblockdaemon::port::sum::Sum;
use iiblockdaemon::port::{BURST, Burst, ETHERNET_BYTES, Frame, Offload, Outgoing, Port};
use smoltcp::iface::{
    Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet,
};
use smoltcp::phy::{self, ChecksumCapabilities, Device, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use crate::dma::{Near, ROOM_BYTES};
use crate::ends::{End, Writes};

/// Bytes of each of the two rings of a connection, as ours have.
pub const RING_BYTES: usize = (1 << 20) - 1;
/// Bytes of an IPv4 header as smoltcp makes it.
const IPV4_BYTES: usize = 20;
/// Of a TCP header, at most.
const TCP_BYTES_MAX: usize = 60;
/// Where the peer's port is, behind the IP header.
const SOURCE_PORT: usize = 0;
/// Where the checksum is, behind the IP header.
const TCP_CHECKSUM: usize = 16;
const PROTOCOL_TCP: u8 = 6;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// A request for an IPv4 address behind an Ethernet header (RFC 826).
const ARP_REQUEST: [u8; 8] = [0, 1, 0x08, 0, 6, 4, 0, 1];
const ARP_BYTES: usize = ETHERNET_BYTES + 28;

/// See the module.
pub struct Rings {
    port: Near,
    address: Ipv4Addr,
    service: u16,
    began: Instant,
    burst: Burst,
    connections: Vec<Connection>,
    /// By the peer's port.
    by_port: Vec<Option<usize>>,
    /// Connections that something came for; each once.
    touched: Vec<usize>,
    /// Connections that were established so far.
    opened: usize,
}

struct Connection {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    /// Before every packet.
    link: [u8; ETHERNET_BYTES],
    /// It is among [`Rings::touched`].
    touched: bool,
    established: bool,
}

impl std::fmt::Debug for Rings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rings")
            .field("connections", &self.connections.len())
            .finish_non_exhaustive()
    }
}

impl Rings {
    /// A server of one port of `address`.
    pub fn new(port: Near, (address, service): (Ipv4Addr, u16), now: Instant) -> Self {
        Self {
            port,
            address,
            service,
            began: now,
            burst: Burst::new(),
            connections: Vec::new(),
            by_port: vec![None; 1 << 16],
            touched: Vec::new(),
            opened: 0,
        }
    }

    fn time(&self, now: Instant) -> smoltcp::time::Instant {
        let micros = now.saturating_duration_since(self.began).as_micros();
        smoltcp::time::Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    /// Gives each frame that has come to its connection. `false`: none has.
    fn receive_burst(&mut self, now: Instant) -> bool {
        let time = self.time(now);
        let mut burst = std::mem::take(&mut self.burst);
        self.port.receive(&mut burst);
        let any = !burst.is_empty();
        for frame in burst.drain(..) {
            self.receive_frame(time, &frame);
        }
        self.burst = burst;
        any
    }

    fn receive_frame(&mut self, time: smoltcp::time::Instant, frame: &Frame) {
        let bytes = frame.head();
        let Some((ethernet, packet)) = bytes.split_first_chunk::<ETHERNET_BYTES>() else {
            return;
        };
        if ethernet[12..] == ETHERTYPE_ARP {
            return self.answer_arp(bytes);
        }
        let ours = ethernet[12..] == ETHERTYPE_IPV4
            && packet.len() >= IPV4_BYTES + IPV4_BYTES
            && packet[9] == PROTOCOL_TCP
            && packet[16..20] == self.address.octets();
        if !ours {
            return;
        }
        let tcp = usize::from(packet[0] & 0x0F) * 4;
        let Some(source) = packet.get(tcp + SOURCE_PORT..tcp + SOURCE_PORT + 2) else {
            return;
        };
        let source = usize::from(u16::from_be_bytes([source[0], source[1]]));
        let at = match self.by_port[source] {
            Some(at) => at,
            None => self.listen(source, ethernet),
        };
        let connection = &mut self.connections[at];
        connection.poll_ingress(&mut self.port, time, packet);
        if !connection.touched {
            connection.touched = true;
            self.touched.push(at);
        }
    }

    fn answer_arp(&mut self, request: &[u8]) {
        let mac = self.port.capabilities().mac;
        let Some(arp) = request.get(ETHERNET_BYTES..ARP_BYTES) else {
            return;
        };
        if arp[..8] != ARP_REQUEST || arp[24..28] != self.address.octets() {
            return;
        }
        let mut answer = [0; ARP_BYTES];
        answer[..6].copy_from_slice(&request[6..12]);
        answer[6..12].copy_from_slice(&mac);
        answer[12..14].copy_from_slice(&ETHERTYPE_ARP);
        answer[14..22].copy_from_slice(&ARP_REQUEST);
        answer[21] = 2;
        answer[22..28].copy_from_slice(&mac);
        answer[28..32].copy_from_slice(&self.address.octets());
        answer[32..42].copy_from_slice(&arp[8..18]);
        // Who gets no answer asks again.
        let _ = self.port.transmit(&Outgoing {
            head: &answer,
            payload: &[],
            offload: Offload::default(),
        });
    }

    /// A connection for what comes from that port of the peer's.
    fn listen(&mut self, source: usize, ethernet: &[u8; ETHERNET_BYTES]) -> usize {
        let mut link = [0; ETHERNET_BYTES];
        link[..6].copy_from_slice(&ethernet[6..12]);
        link[6..12].copy_from_slice(&self.port.capabilities().mac);
        link[12..].copy_from_slice(&ETHERTYPE_IPV4);
        let at = self.connections.len();
        let ends = (self.address, self.service);
        let connection = Connection::listening(&mut self.port, link, ends, at);
        self.connections.push(connection);
        self.by_port[source] = Some(at);
        at
    }

    /// What smoltcp has to send on the connections that something came for.
    fn poll_touched(&mut self, now: Instant) {
        let time = self.time(now);
        while let Some(at) = self.touched.pop() {
            let connection = &mut self.connections[at];
            connection.touched = false;
            connection.poll_egress(&mut self.port, time);
            if !connection.established && connection.socket().state() == State::Established {
                connection.established = true;
                self.opened += 1;
            }
        }
    }

    fn touch(&mut self, at: usize) {
        if !std::mem::replace(&mut self.connections[at].touched, true) {
            self.touched.push(at);
        }
    }
}

impl End for Rings {
    fn receive(&mut self, now: Instant, mut into: Option<&mut Writes>) {
        while self.receive_burst(now) {
            for &at in &self.touched {
                let socket = self.connections[at].socket();
                while socket.can_recv() {
                    let taken = socket.recv(|bytes| {
                        if let Some(writes) = &mut into {
                            writes.put(bytes);
                        }
                        (bytes.len(), bytes.len())
                    });
                    if !taken.is_ok_and(|len| len > 0) {
                        break;
                    }
                }
            }
        }
    }

    fn answer(&mut self, now: Instant) {
        self.poll_touched(now);
    }

    fn send(&mut self, connection: usize, buf: &DmaBuf) -> bool {
        let socket = self.connections[connection].socket();
        let mut sent = 0;
        for slice in buf.slices() {
            let mut rest = slice;
            // The ring wraps round once at most.
            while !rest.is_empty() {
                let taken = socket.send(|ring| {
                    let len = ring.len().min(rest.len());
                    mem::copy(&mut ring[..len], &rest[..len]);
                    (len, len)
                });
                let Ok(len @ 1..) = taken else {
                    return false;
                };
                rest = &rest[len..];
                sent += len;
            }
        }
        self.touch(connection);
        sent == buf.len()
    }

    fn transmit(&mut self, now: Instant) {
        self.poll_touched(now);
    }

    fn acknowledged(&mut self, now: Instant) {
        while self.receive_burst(now) {}
    }

    fn settle(&mut self, now: Instant) {
        self.poll_touched(now);
    }

    fn opened(&self) -> usize {
        self.opened
    }

    fn unacknowledged(&self, connection: usize) -> usize {
        let connection = &self.connections[connection];
        let socket = connection.sockets.get::<Socket<'_>>(connection.handle);
        socket.send_queue()
    }

    fn port(&self) -> &Near {
        &self.port
    }
}

impl Connection {
    fn listening(
        port: &mut Near,
        link: [u8; ETHERNET_BYTES],
        (address, service): (Ipv4Addr, u16),
        seed: usize,
    ) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = u64::try_from(seed).unwrap_or(0);
        let mut wire = Wire {
            port,
            link: &link,
            incoming: None,
        };
        let mut interface = Interface::new(config, &mut wire, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let address = IpCidr::new(IpAddress::Ipv4(address), 24);
            let added = addresses.push(address);
            debug_assert!(added.is_ok(), "a new interface has room for an address");
        });
        let ring = || SocketBuffer::new(vec![0; RING_BYTES]);
        let mut socket = Socket::new(ring(), ring());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket.set_congestion_control(CongestionControl::Cubic);
        socket.listen(service).expect("a closed socket, a port");
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self {
            interface,
            sockets,
            handle,
            link,
            touched: false,
            established: false,
        }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    fn poll_ingress(&mut self, port: &mut Near, time: smoltcp::time::Instant, packet: &[u8]) {
        let mut wire = Wire {
            port,
            link: &self.link,
            incoming: Some(packet),
        };
        let interface = &mut self.interface;
        let done = interface.poll_ingress_single(time, &mut wire, &mut self.sockets);
        debug_assert_ne!(done, PollIngressSingleResult::None, "there is a packet");
    }

    fn poll_egress(&mut self, port: &mut Near, time: smoltcp::time::Instant) {
        let mut wire = Wire {
            port,
            link: &self.link,
            incoming: None,
        };
        // Bounded by the window.
        while self
            .interface
            .poll_egress(time, &mut wire, &mut self.sockets)
            == PollResult::SocketStateChanged
        {}
    }
}

/// The device of a connection, for one call of smoltcp.
struct Wire<'a> {
    port: &'a mut Near,
    link: &'a [u8; ETHERNET_BYTES],
    incoming: Option<&'a [u8]>,
}

impl Device for Wire<'_> {
    type RxToken<'b>
        = RxToken<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = TxToken<'b>
    where
        Self: 'b;

    fn receive(&mut self, _now: smoltcp::time::Instant) -> Option<(RxToken<'_>, TxToken<'_>)> {
        let packet = RxToken(self.incoming.take()?);
        Some((packet, self.token()))
    }

    fn transmit(&mut self, _now: smoltcp::time::Instant) -> Option<TxToken<'_>> {
        (!self.port.is_full()).then(|| self.token())
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let port = self.port.capabilities();
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = usize::from(port.mtu);
        capabilities.max_burst_size = Some(BURST);
        if port.fills_ipv4_checksum && port.fills_tcp_checksum && port.verifies_checksums {
            capabilities.checksum = ChecksumCapabilities::ignored();
            let longest = port.segments_ipv4.map(usize::from);
            capabilities.segmentation.tcpv4 = longest.and_then(NonZeroUsize::new);
        }
        capabilities
    }
}

impl Wire<'_> {
    fn token(&mut self) -> TxToken<'_> {
        TxToken {
            port: self.port,
            link: self.link,
            segment_bytes: None,
        }
    }
}

struct RxToken<'a>(&'a [u8]);

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, work: F) -> R {
        work(self.0)
    }
}

struct TxToken<'a> {
    port: &'a mut Near,
    link: &'a [u8; ETHERNET_BYTES],
    segment_bytes: Option<NonZeroU16>,
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, work: F) -> R {
        let mut room = self.port.room();
        let end = ETHERNET_BYTES + len;
        debug_assert!(end <= ROOM_BYTES, "no packet is longer than IP allows");
        room[..ETHERNET_BYTES].copy_from_slice(self.link);
        let packet = &mut room[ETHERNET_BYTES..end];
        let result = work(packet);
        let tcp_bytes = usize::from(packet[IPV4_BYTES + 12] >> 4) * 4;
        let offload = self.offload(packet, tcp_bytes);
        let head = ETHERNET_BYTES + IPV4_BYTES + tcp_bytes.min(TCP_BYTES_MAX);
        // What finds no room is lost, and sent again.
        let _ = self.port.transmit_built(room, (head, end), offload);
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment_bytes = meta.segmentation_offload_size;
    }
}

impl TxToken<'_> {
    /// What the device is asked for; the checksum field gets what it then has to hold.
    fn offload(&self, packet: &mut [u8], tcp_bytes: usize) -> Offload {
        if !self.port.capabilities().fills_tcp_checksum {
            return Offload::default();
        }
        let mut sum = Sum::new();
        sum.add(&packet[12..20]);
        sum.add(&[0, PROTOCOL_TCP]);
        let len = u32::try_from(packet.len() - IPV4_BYTES).unwrap_or(u32::MAX);
        sum.add(&len.to_be_bytes());
        let field = IPV4_BYTES + TCP_CHECKSUM;
        packet[field..field + 2].copy_from_slice(&sum.folded().to_be_bytes());
        let bytes = |len: usize| u8::try_from(len).expect("headers are short");
        Offload {
            l2_len: bytes(ETHERNET_BYTES),
            l3_len: bytes(IPV4_BYTES),
            l4_len: bytes(tcp_bytes),
            ipv6: false,
            ipv4_checksum: true,
            tcp_checksum: true,
            segment_bytes: self.segment_bytes,
        }
    }
}
