//! A port for tests: what it receives is put in by hand, what it sends is kept.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::packet::Sum;
use crate::port::{Burst, Capabilities, Counters, Frame, Full, Link, Outgoing, Port};

pub(super) const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 2];

#[derive(Debug)]
pub(super) struct Tape {
    pub(super) capabilities: Capabilities,
    pub(super) incoming: VecDeque<Frame>,
    pub(super) sent: Vec<Vec<u8>>,
    pub(super) is_up: bool,
    /// Frames that it takes before it is full.
    pub(super) room: usize,
}

impl Tape {
    pub(super) fn new(queue: u16) -> Self {
        Self {
            capabilities: Capabilities {
                mac: OURS,
                mtu: 9000,
                queue,
                queues: queue + 1,
                verifies_checksums: false,
                fills_ipv4_checksum: false,
                fills_tcp_checksum: false,
                segments_ipv4: None,
                segment_bytes_min: 1,
                receive_frames: 4096,
                pieces_max: 8,
                holds_loans: false,
            },
            incoming: VecDeque::new(),
            sent: vec![],
            is_up: true,
            room: usize::MAX,
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
            burst.push(frame);
        }
    }

    fn transmit(&mut self, frame: &Outgoing<'_>) -> Result<(), Full> {
        if self.sent.len() >= self.room {
            return Err(Full);
        }
        let pieces = frame.payload.iter().flat_map(|piece| piece.bytes());
        self.sent
            .push(frame.head.iter().chain(pieces).copied().collect());
        Ok(())
    }

    fn flush(&mut self) {}

    fn counters(&self) -> Counters {
        Counters::default()
    }

    fn link(&mut self) -> Link {
        Link {
            up: self.is_up,
            mbit_per_s: None,
        }
    }

    fn wakes(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}

/// An Ethernet frame.
pub(super) fn ethernet(
    dest: [u8; 6],
    source: [u8; 6],
    vlan: Option<u16>,
    ethertype: u16,
    packet: &[u8],
) -> Vec<u8> {
    let mut frame = [dest, source].concat();
    if let Some(vlan) = vlan {
        frame.extend([0x81, 0]);
        frame.extend(vlan.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    frame
}

/// An ARP packet.
pub(super) fn arp(
    operation: u16,
    sender: ([u8; 6], [u8; 4]),
    target: ([u8; 6], [u8; 4]),
) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    packet.extend(sender.0);
    packet.extend(sender.1);
    packet.extend(target.0);
    packet.extend(target.1);
    packet
}

/// An IPv4 packet.
pub(super) fn ipv4(source: [u8; 4], dest: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let total = u16::try_from(20 + payload.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(source);
    packet.extend(dest);
    let mut sum = Sum::new();
    sum.add(&packet);
    packet[10..12].copy_from_slice(&sum.checksum().to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv6 packet.
pub(super) fn ipv6(
    source: Ipv6Addr,
    dest: Ipv6Addr,
    protocol: u8,
    hops: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([protocol, hops]);
    packet.extend(source.octets());
    packet.extend(dest.octets());
    packet.extend(payload);
    packet
}

/// An ICMP message with its checksum.
pub(super) fn icmpv4(kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    let mut sum = Sum::new();
    sum.add(&message);
    message[2..4].copy_from_slice(&sum.checksum().to_be_bytes());
    message
}

/// An ICMPv6 message with its checksum.
pub(super) fn icmpv6(source: Ipv6Addr, dest: Ipv6Addr, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    let len = u32::try_from(message.len()).unwrap();
    let mut sum = Sum::pseudo_header(source.into(), dest.into(), 58, len);
    sum.add(&message);
    message[2..4].copy_from_slice(&sum.checksum().to_be_bytes());
    message
}

/// A TCP segment in its IPv4 packet.
pub(super) fn tcp(
    from: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
    seq: u32,
    ack: u32,
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut segment = vec![];
    segment.extend(from.1.to_be_bytes());
    segment.extend(to.1.to_be_bytes());
    segment.extend(seq.to_be_bytes());
    segment.extend(ack.to_be_bytes());
    segment.extend([0x50, flags, 0xFF, 0xFF, 0, 0, 0, 0]);
    segment.extend(payload);
    let len = u32::try_from(segment.len()).unwrap();
    let mut sum = Sum::pseudo_header(IpAddr::V4(from.0), IpAddr::V4(to.0), 6, len);
    sum.add(&segment);
    segment[16..18].copy_from_slice(&sum.checksum().to_be_bytes());
    ipv4(from.0.octets(), to.0.octets(), 6, &segment)
}
