//! A socket of smoltcp as it is, with rings that hold what they say, for a flow to talk to.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::wire::{HardwareAddress, IpCidr, IpEndpoint};

use super::world::byte;

pub(super) struct Plain {
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    pub(super) line: PlainLine,
    start: Instant,
    pub(super) given: usize,
    pub(super) taken: usize,
}

/// IP packets to it and from it.
pub(super) struct PlainLine {
    pub(super) to: VecDeque<Vec<u8>>,
    pub(super) from: VecDeque<Vec<u8>>,
    mtu: usize,
}

impl Plain {
    pub(super) fn connect(
        local: SocketAddr,
        peer: SocketAddr,
        mtu: u16,
        ring: usize,
        now: Instant,
    ) -> Self {
        let mut line = PlainLine {
            to: VecDeque::new(),
            from: VecDeque::new(),
            mtu: usize::from(mtu),
        };
        let config = Config::new(HardwareAddress::Ip);
        let zero = smoltcp::time::Instant::ZERO;
        let mut interface = Interface::new(config, &mut line, zero);
        let bits = if local.is_ipv4() { 32 } else { 128 };
        interface.update_ip_addrs(|all| all.push(IpCidr::new(local.ip().into(), bits)).unwrap());
        let buffer = || SocketBuffer::new(vec![0; ring]);
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(Socket::new(buffer(), buffer()));
        let (to, from) = (IpEndpoint::from(peer), IpEndpoint::from(local));
        let tcp = sockets.get_mut::<Socket<'_>>(socket);
        tcp.connect(interface.context(), to, from).unwrap();
        Self {
            interface,
            sockets,
            socket,
            line,
            start: now,
            given: 0,
            taken: 0,
        }
    }

    /// Sends up to `goal` bytes of side 0, takes and verifies those of side 1.
    pub(super) fn work(&mut self, now: Instant, goal: usize) {
        let micros = i64::try_from((now - self.start).as_micros()).unwrap();
        let time = smoltcp::time::Instant::from_micros(micros + 1);
        self.interface.poll(time, &mut self.line, &mut self.sockets);
        let socket = self.sockets.get_mut::<Socket<'_>>(self.socket);
        while socket.can_send() && self.given < goal {
            let from = self.given;
            let put = |room: &mut [u8]| {
                let len = room.len().min(goal - from);
                (0..len).for_each(|at| room[at] = byte(0, from + at));
                (len, len)
            };
            self.given += socket.send(put).unwrap();
        }
        while socket.can_recv() {
            let from = self.taken;
            let took = socket.recv(|bytes| {
                for (at, is) in bytes.iter().enumerate() {
                    assert_eq!(*is, byte(1, from + at), "byte {}", from + at);
                }
                (bytes.len(), bytes.len())
            });
            self.taken += took.unwrap();
        }
        self.interface.poll(time, &mut self.line, &mut self.sockets);
    }

    pub(super) fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.socket)
    }
}

impl Device for PlainLine {
    type RxToken<'a> = Packet;
    type TxToken<'a> = Way<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Packet, Way<'_>)> {
        let packet = self.to.pop_front()?;
        Some((Packet(packet), Way(&mut self.from)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Way<'_>> {
        Some(Way(&mut self.from))
    }

    /// With all checksums written and verified.
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

pub(super) struct Packet(Vec<u8>);

impl RxToken for Packet {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, work: F) -> R {
        work(&self.0)
    }
}

pub(super) struct Way<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Way<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, work: F) -> R {
        let mut packet = vec![0; len];
        let result = work(&mut packet);
        self.0.push_back(packet);
        result
    }
}
