//! Packets written and read by hand, byte by byte: nothing here knows the stack's own parser.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const URG: u8 = 0x20;

/// Hardware addresses: the stack's and the peer's.
pub(crate) const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Bytes of an Ethernet header.
pub(crate) const LINK: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;

/// A TCP segment from the peer, or one that the stack sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Segment {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) vlan: Option<u16>,
    pub(crate) pcp: u8,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    /// As in the header, padded.
    pub(crate) options: Vec<u8>,
    /// Options of the IPv4 header, a multiple of 4 bytes.
    pub(crate) ip_options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Segment {
    pub(crate) fn new(from: SocketAddr, to: SocketAddr) -> Self {
        Self {
            from,
            to,
            vlan: None,
            pcp: 0,
            seq: 0,
            ack: 0,
            flags: 0,
            window: 0xFFFF,
            urgent: 0,
            options: Vec::new(),
            ip_options: Vec::new(),
            payload: Vec::new(),
        }
    }

    pub(crate) fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// The number behind its last.
    pub(crate) fn end(&self) -> u32 {
        let bytes = u32::try_from(self.payload.len()).unwrap();
        let control = u32::from(self.has(SYN)) + u32::from(self.has(FIN));
        self.seq.wrapping_add(bytes).wrapping_add(control)
    }

    /// The value of an option, if it has it.
    pub(crate) fn option(&self, kind: u8) -> Option<&[u8]> {
        let mut rest = &self.options[..];
        while let Some((&first, behind)) = rest.split_first() {
            match first {
                0 => return None,
                1 => rest = behind,
                _ => {
                    let len = usize::from(*behind.first()?);
                    let (this, next) = rest.split_at_checked(len)?;
                    if first == kind {
                        return this.get(2..);
                    }
                    rest = next;
                }
            }
        }
        None
    }

    pub(crate) fn mss(&self) -> Option<u16> {
        let value = self.option(2)?;
        Some(u16::from_be_bytes(value.try_into().ok()?))
    }

    pub(crate) fn window_shift(&self) -> Option<u8> {
        self.option(3)?.first().copied()
    }

    /// TSval and TSecr.
    pub(crate) fn timestamps(&self) -> Option<(u32, u32)> {
        let value = self.option(8)?;
        let number = |at: usize| Some(u32::from_be_bytes(value.get(at..at + 4)?.try_into().ok()?));
        Some((number(0)?, number(4)?))
    }

    /// The whole frame, all checksums right.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let packet = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ipv4(from, to, 6, &self.ip_options, &self.tcp()),
            (IpAddr::V6(from), IpAddr::V6(to)) => ipv6(from, to, 6, &self.tcp()),
            _ => panic!("both ends of a segment are of one IP version"),
        };
        let ethertype = if self.from.is_ipv4() { 0x0800 } else { 0x86DD };
        link(
            PEER_MAC,
            OUR_MAC,
            self.vlan.map(|id| (id, self.pcp)),
            ethertype,
            &packet,
        )
    }

    fn tcp(&self) -> Vec<u8> {
        let mut tcp = Vec::with_capacity(TCP + self.options.len() + self.payload.len());
        tcp.extend(self.from.port().to_be_bytes());
        tcp.extend(self.to.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        let words = u8::try_from((TCP + self.options.len()) / 4).unwrap();
        tcp.extend([words << 4, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0, 0]);
        tcp.extend(self.urgent.to_be_bytes());
        tcp.extend(&self.options);
        tcp.extend(&self.payload);
        let sum = !transport_sum(self.from.ip(), self.to.ip(), 6, &tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        tcp
    }

    /// Reads a frame that the stack sent; `None`: it holds no TCP. Everything in it has to be
    /// right, checksums too.
    pub(crate) fn read(frame: &[u8]) -> Option<Self> {
        let packet = Packet::read(frame);
        if packet.protocol != 6 {
            return None;
        }
        let tcp = &packet.payload;
        let (from, to) = (packet.from?, packet.to?);
        assert_eq!(
            transport_sum(from, to, 6, tcp),
            0xFFFF,
            "the TCP checksum is right"
        );
        let number = |at: usize| u16::from_be_bytes(tcp[at..at + 2].try_into().unwrap());
        let long = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().unwrap());
        let header = usize::from(tcp[12] >> 4) * 4;
        assert!(
            header >= TCP && header <= tcp.len(),
            "the TCP header is whole"
        );
        Some(Self {
            from: SocketAddr::new(from, number(0)),
            to: SocketAddr::new(to, number(2)),
            vlan: packet.tag.map(|tag| tag.0),
            pcp: packet.tag.map_or(0, |tag| tag.1),
            seq: long(4),
            ack: long(8),
            flags: tcp[13],
            window: number(14),
            urgent: number(18),
            options: tcp[TCP..header].to_vec(),
            ip_options: Vec::new(),
            payload: tcp[header..].to_vec(),
        })
    }
}

/// A frame of the stack's, taken apart as far as IP.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) dest: [u8; 6],
    /// VLAN ID and priority.
    pub(crate) tag: Option<(u16, u8)>,
    pub(crate) ethertype: u16,
    pub(crate) from: Option<IpAddr>,
    pub(crate) to: Option<IpAddr>,
    pub(crate) protocol: u8,
    /// Behind the IP header; of a frame without IP, behind the link header.
    pub(crate) payload: Vec<u8>,
}

impl Packet {
    pub(crate) fn read(frame: &[u8]) -> Self {
        assert!(frame.len() >= LINK, "a frame has a link header");
        assert_eq!(
            frame[6..12],
            OUR_MAC,
            "the stack sends from its own address"
        );
        let number = |at: usize| u16::from_be_bytes(frame[at..at + 2].try_into().unwrap());
        let (tag, at) = match number(12) {
            0x8100 => {
                let control = number(14);
                let priority = u8::try_from(control >> 13).unwrap();
                (Some((control & 0xFFF, priority)), 16)
            }
            _ => (None, 12),
        };
        let mut packet = Self {
            dest: frame[..6].try_into().unwrap(),
            tag,
            ethertype: number(at),
            from: None,
            to: None,
            protocol: 0,
            payload: frame[at + 2..].to_vec(),
        };
        match packet.ethertype {
            0x0800 => packet.read_ipv4(),
            0x86DD => packet.read_ipv6(),
            _ => {}
        }
        packet
    }

    fn read_ipv4(&mut self) {
        let bytes = std::mem::take(&mut self.payload);
        let header = usize::from(bytes[0] & 15) * 4;
        assert_eq!(sum(&bytes[..header]), 0xFFFF, "the IPv4 checksum is right");
        let len = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        let address = |at: usize| {
            let octets: [u8; 4] = bytes[at..at + 4].try_into().unwrap();
            Some(IpAddr::V4(Ipv4Addr::from(octets)))
        };
        (self.from, self.to) = (address(12), address(16));
        self.protocol = bytes[9];
        self.payload = bytes[header..len].to_vec();
    }

    fn read_ipv6(&mut self) {
        let bytes = std::mem::take(&mut self.payload);
        let len = usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
        let address = |at: usize| {
            let octets: [u8; 16] = bytes[at..at + 16].try_into().unwrap();
            Some(IpAddr::V6(Ipv6Addr::from(octets)))
        };
        (self.from, self.to) = (address(8), address(24));
        self.protocol = bytes[6];
        self.payload = bytes[IPV6..IPV6 + len].to_vec();
    }
}

/// A link header, with a tag of (VLAN ID, priority), before `packet`.
pub(crate) fn link(
    from: [u8; 6],
    to: [u8; 6],
    tag: Option<(u16, u8)>,
    ethertype: u16,
    packet: &[u8],
) -> Vec<u8> {
    let mut frame = [to, from].concat();
    if let Some((id, priority)) = tag {
        frame.extend(0x8100_u16.to_be_bytes());
        frame.extend((u16::from(priority) << 13 | id).to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    frame
}

pub(crate) fn ipv4(
    from: Ipv4Addr,
    to: Ipv4Addr,
    protocol: u8,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let header = IPV4 + options.len();
    let words = u8::try_from(header / 4).unwrap();
    let len = u16::try_from(header + payload.len()).unwrap();
    let mut packet = vec![0x40 | words, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(options);
    let sum = !sum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

pub(crate) fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

/// An ICMP message, its checksum right: `rest` is what follows the checksum.
pub(crate) fn icmp(from: IpAddr, to: IpAddr, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    let packet = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let sum = !sum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            ipv4(from, to, 1, &[], &message)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let sum = !transport_sum(from.into(), to.into(), 58, &message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            ipv6(from, to, 58, &message)
        }
        _ => panic!("both ends are of one IP version"),
    };
    let ethertype = if from.is_ipv4() { 0x0800 } else { 0x86DD };
    link(PEER_MAC, OUR_MAC, None, ethertype, &packet)
}

/// An ARP packet between Ethernet stations.
pub(crate) fn arp(
    operation: u16,
    sender: ([u8; 6], Ipv4Addr),
    target: ([u8; 6], Ipv4Addr),
) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    packet.extend(sender.0);
    packet.extend(sender.1.octets());
    packet.extend(target.0);
    packet.extend(target.1.octets());
    packet
}

/// The ones' complement sum (RFC 1071).
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u64::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut sum: u64 = words.sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// The sum of a pseudo-header and what it is about.
fn transport_sum(from: IpAddr, to: IpAddr, protocol: u8, bytes: &[u8]) -> u16 {
    let mut all = Vec::with_capacity(40 + bytes.len());
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            all.extend(from.octets());
            all.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            all.extend(from.octets());
            all.extend(to.octets());
        }
        _ => panic!("both ends are of one IP version"),
    }
    all.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    all.extend([0, 0, 0, protocol]);
    all.extend(bytes);
    sum(&all)
}
