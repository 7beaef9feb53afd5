//! How much of a link one flow fills, by simulation in virtual time: no clock, no threads, the same
//! result for the same seed.
//!
//! ```text
//! sender: smoltcp [+ Recovery] ── 10 Gbit/s, loss or reordering, RTT/2 ──► receiver: smoltcp
//!                              ◄──────── acknowledgments, RTT/2 ─────────
//! ```
//!
//! The sender always has something to send, the receiver takes everything at once. Both have rings
//! of [`RING_BYTES`], so what is under way is bounded by that. Packets are kept as their headers;
//! what they carry is never looked at.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use super::loss::{Advice, CLOCK_SCALE, Heard, Recovery};
use super::packet::Seq;
use crate::mem::alias::RING_BYTES;

/// Bits per second of the link, each way.
pub const LINK_BITS: u64 = 10_000_000_000;
/// Bytes of a frame beside its IP packet: Ethernet header and check sequence, preamble, gap.
const FRAME_BYTES: u64 = 38;
/// Headers of IPv4 and TCP with options, at most.
const HEAD_BYTES: usize = 20 + 60;
const PACKET_BYTES: usize = 9000;

/// How the link behaves.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// Longest IP packet, in bytes.
    pub mtu: u16,
    /// Time of a round trip.
    pub rtt: Duration,
    /// Of a million data packets, so many are lost.
    pub lost_ppm: u32,
    /// Of a million data packets, so many come 2 to 10 packets late.
    pub late_ppm: u32,
}

/// How the sender is helped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Help {
    /// How many times as fast its clock runs.
    pub scale: u32,
    /// [`Recovery`] stands before it.
    pub recovery: bool,
}

impl Help {
    pub const NONE: Self = Self {
        scale: 1,
        recovery: false,
    };
    pub const CLOCK: Self = Self {
        scale: CLOCK_SCALE,
        recovery: false,
    };
    pub const FULL: Self = Self {
        scale: CLOCK_SCALE,
        recovery: true,
    };
}

/// What the simulation saw.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Outcome {
    /// Payload that arrived in order, per second of virtual time behind the first fifth.
    pub gbit_per_s: f64,
    /// The longest time in which nothing arrived in order.
    pub longest_stall: Duration,
}

/// What a loss-driven flow reaches after Mathis et al. (1997): MSS/RTT·1.22/√p, at most what the
/// link and the window let through, in Gbit/s.
pub fn mathis_gbit_per_s(path: &Path) -> f64 {
    let mss = f64::from(path.mtu) - 40.0;
    let rtt = path.rtt.as_secs_f64();
    let frame = mss + 40.0 + FRAME_BYTES as f64;
    let link = LINK_BITS as f64 * mss / frame;
    let serial = frame * 8.0 / LINK_BITS as f64;
    let window = RING_BYTES as f64 * 8.0 / (rtt + serial);
    let cap = link.min(window);
    let p = f64::from(path.lost_ppm) / 1e6;
    let rate = if p == 0.0 {
        cap
    } else {
        cap.min(mss * 8.0 / rtt * 1.22 / p.sqrt())
    };
    rate / 1e9
}

/// A packet under way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    head: [u8; HEAD_BYTES],
    len: usize,
}

impl Packet {
    fn word(&self, at: usize) -> u32 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|index| self.head[20 + at + index]);
        u32::from_be_bytes([a, b, c, d])
    }

    fn payload_len(&self) -> usize {
        self.len - 20 - self.tcp_bytes()
    }

    fn tcp_bytes(&self) -> usize {
        usize::from(self.head[32] >> 4) * 4
    }
}

/// What an end's packets go through: those that came, and those that go.
struct Wire {
    mtu: u16,
    received: Option<Packet>,
    sent: VecDeque<Packet>,
    scratch: Rc<RefCell<Vec<u8>>>,
}

struct Coming(Packet, Rc<RefCell<Vec<u8>>>);
struct Going<'a>(&'a mut VecDeque<Packet>, Rc<RefCell<Vec<u8>>>);

impl RxToken for Coming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        let mut scratch = self.1.borrow_mut();
        let head = self.0.len.min(HEAD_BYTES);
        scratch[..head].copy_from_slice(&self.0.head[..head]);
        f(&scratch[..self.0.len])
    }
}

impl TxToken for Going<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut scratch = self.1.borrow_mut();
        let result = f(&mut scratch[..len]);
        let mut head = [0; HEAD_BYTES];
        let head_len = len.min(HEAD_BYTES);
        head[..head_len].copy_from_slice(&scratch[..head_len]);
        self.0.push_back(Packet { head, len });
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Coming;
    type TxToken<'a> = Going<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Coming, Going<'_>)> {
        let packet = self.received.take()?;
        let going = Going(&mut self.sent, Rc::new(RefCell::new(vec![0; PACKET_BYTES])));
        Some((Coming(packet, Rc::clone(&self.scratch)), going))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Going<'_>> {
        Some(Going(&mut self.sent, Rc::clone(&self.scratch)))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = usize::from(self.mtu);
        capabilities.checksum.ipv4 = Checksum::None;
        capabilities.checksum.tcp = Checksum::None;
        capabilities
    }
}

/// One end of the flow.
struct End {
    iface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    wire: Wire,
    scale: u32,
    recovery: Option<Recovery>,
    start: Instant,
}

impl End {
    fn new(address: u8, path: &Path, scale: u32, start: Instant) -> Self {
        let mut wire = Wire {
            mtu: path.mtu,
            received: None,
            sent: VecDeque::new(),
            scratch: Rc::new(RefCell::new(vec![0; PACKET_BYTES])),
        };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = u64::from(address);
        let zero = smoltcp::time::Instant::ZERO;
        let mut iface = Interface::new(config, &mut wire, zero);
        iface.update_ip_addrs(|addresses| {
            let ip = IpAddress::v4(10, 0, 0, address);
            addresses
                .push(IpCidr::new(ip, 24))
                .expect("there is room for one address");
        });
        let buffer = || tcp::SocketBuffer::new(vec![0; RING_BYTES]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        Self {
            iface,
            sockets,
            handle,
            wire,
            scale,
            recovery: None,
            start,
        }
    }

    fn flow_time(&self, now: u64) -> smoltcp::time::Instant {
        let micros = now * u64::from(self.scale) / 1000 + 1_000_000;
        smoltcp::time::Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    fn receive(&mut self, now: u64, packet: Packet) {
        let at = self.start + Duration::from_nanos(now);
        let advice = self.recovery.as_mut().map(|recovery| {
            let heard = Heard {
                ack: Seq(packet.word(8)),
                window: u16::from_be_bytes([packet.head[34], packet.head[35]]),
                is_empty: packet.payload_len() == 0,
                // The only option behind the handshake.
                has_sack: packet.tcp_bytes() > 20,
                echo: None,
            };
            recovery.acknowledged(at, &heard)
        });
        let Some(advice) = advice else {
            self.feed(now, packet);
            return;
        };
        self.follow(now, packet, advice);
    }

    fn follow(&mut self, now: u64, packet: Packet, advice: Advice) {
        let mut seen = packet;
        seen.head[34..36].copy_from_slice(&advice.window.to_be_bytes());
        if advice.pass {
            self.feed(now, seen);
        }
        self.duplicate(now, seen, advice.duplicates);
    }

    /// Feeds made-up duplicates, made of a packet that came.
    fn duplicate(&mut self, now: u64, like: Packet, count: u8) {
        let Some((ack, window)) = self.recovery.as_ref().map(Recovery::duplicate) else {
            return;
        };
        let mut made_up = like;
        made_up.head[28..32].copy_from_slice(&ack.0.to_be_bytes());
        made_up.head[32] = 5 << 4;
        made_up.head[34..36].copy_from_slice(&window.to_be_bytes());
        made_up.len = 40;
        made_up.head[2..4].copy_from_slice(&40_u16.to_be_bytes());
        for _ in 0..count {
            self.feed(now, made_up);
        }
    }

    fn feed(&mut self, now: u64, packet: Packet) {
        self.wire.received = Some(packet);
        let time = self.flow_time(now);
        self.iface
            .poll_ingress_single(time, &mut self.wire, &mut self.sockets);
    }

    fn egress(&mut self, now: u64) {
        let time = self.flow_time(now);
        while self
            .iface
            .poll_egress(time, &mut self.wire, &mut self.sockets)
            != PollResult::None
        {}
        let at = self.start + Duration::from_nanos(now);
        if let Some(recovery) = &mut self.recovery {
            for packet in &self.wire.sent {
                let len = u32::try_from(packet.payload_len()).unwrap_or(u32::MAX);
                recovery.sent(at, Seq(packet.word(4)), len);
            }
        }
    }

    /// When it wants to act again, in nanoseconds.
    fn deadline(&mut self, now: u64) -> Option<u64> {
        let time = self.flow_time(now);
        let flow = self.iface.poll_at(time, &self.sockets).map(|at| {
            let micros = u64::try_from(at.total_micros() - 1_000_000).unwrap_or(0);
            (micros * 1000).div_ceil(u64::from(self.scale))
        });
        let recovery = self.recovery.as_ref().and_then(Recovery::deadline);
        let recovery = recovery.map(|at| {
            let nanos = at.saturating_duration_since(self.start).as_nanos();
            u64::try_from(nanos).unwrap_or(u64::MAX)
        });
        flow.into_iter().chain(recovery).min()
    }
}

/// A packet arrives, or an end wants to act.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival { at_receiver: bool, packet: Packet },
    Wake { receiver: bool },
}

struct World {
    path: Path,
    ends: [End; 2],
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    next_event: u64,
    /// When each direction's line is free.
    free_at: [u64; 2],
    /// The earliest wake-up that is on its way, for each end.
    wake_at: [u64; 2],
    random: u64,
    last_from_receiver: Option<Packet>,
    received: u64,
}

const SENDER: usize = 0;
const RECEIVER: usize = 1;

impl World {
    fn new(path: Path, help: Help, seed: u64) -> Self {
        let start = crate::net::some_instant();
        let mut sender = End::new(1, &path, help.scale, start);
        let mut receiver = End::new(2, &path, 1, start);
        receiver
            .socket()
            .listen(3260)
            .expect("the socket is new and the port is not 0");
        let remote = (IpAddress::v4(10, 0, 0, 2), 3260);
        let context = sender.iface.context();
        sender
            .sockets
            .get_mut::<tcp::Socket<'_>>(sender.handle)
            .connect(context, remote, 40000)
            .expect("the socket is new and the ports are not 0");
        let mut world = Self {
            path,
            ends: [sender, receiver],
            events: BinaryHeap::new(),
            next_event: 0,
            free_at: [0; 2],
            wake_at: [u64::MAX; 2],
            random: seed | 1,
            last_from_receiver: None,
            received: 0,
        };
        world.act(0, SENDER);
        world.shake_hands(help);
        world
    }

    /// Until both ends are connected; nothing is lost meanwhile.
    fn shake_hands(&mut self, help: Help) {
        while !self.ends[RECEIVER].socket().may_send() || !self.ends[SENDER].socket().may_send() {
            let Some(Reverse((now, _, event))) = self.events.pop() else {
                return;
            };
            if let Event::Arrival {
                at_receiver: true,
                packet,
            } = event
                && help.recovery
                && self.ends[SENDER].recovery.is_none()
            {
                self.ends[SENDER].recovery = Some(Recovery::new(Seq(packet.word(4)).plus(1), true));
            }
            self.handle(now, event);
        }
    }

    /// A number below `bound`, by xorshift64*.
    fn random(&mut self, bound: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) % bound
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.events.push(Reverse((at, self.next_event, event)));
        self.next_event += 1;
    }

    fn handle(&mut self, now: u64, event: Event) {
        let who = match event {
            Event::Arrival {
                at_receiver,
                packet,
            } => {
                let who = usize::from(at_receiver);
                if !at_receiver {
                    self.last_from_receiver = Some(packet);
                }
                self.ends[who].receive(now, packet);
                who
            }
            Event::Wake { receiver } => {
                let who = usize::from(receiver);
                self.wake_at[who] = u64::MAX;
                self.probe(now, who);
                who
            }
        };
        self.act(now, who);
    }

    fn probe(&mut self, now: u64, who: usize) {
        let end = &mut self.ends[who];
        let at = end.start + Duration::from_nanos(now);
        let count = end.recovery.as_mut().map_or(0, |it| it.expired(at, 0));
        if let Some(like) = self.last_from_receiver {
            self.ends[who].duplicate(now, like, count);
        }
    }

    /// The application takes and gives, and the end sends.
    fn act(&mut self, now: u64, who: usize) {
        let end = &mut self.ends[who];
        let socket = end.socket();
        if who == RECEIVER {
            while socket.can_recv() {
                let taken = socket.recv(|data| (data.len(), data.len())).unwrap_or(0);
                self.received += u64::try_from(taken).unwrap_or(0);
            }
        } else {
            while socket.can_send() {
                let given = socket.send(|room| (room.len(), room.len()));
                if given.unwrap_or(0) == 0 {
                    break;
                }
            }
        }
        end.egress(now);
        while let Some(packet) = self.ends[who].wire.sent.pop_front() {
            self.put_on_line(now, who, packet);
        }
        if let Some(at) = self.ends[who].deadline(now) {
            let at = at.max(now + 1000);
            if at < self.wake_at[who] {
                self.wake_at[who] = at;
                let receiver = who == RECEIVER;
                self.schedule(at, Event::Wake { receiver });
            }
        }
    }

    fn put_on_line(&mut self, now: u64, who: usize, packet: Packet) {
        let bytes = u64::try_from(packet.len).unwrap_or(u64::MAX) + FRAME_BYTES;
        let serial = bytes * 8 * 1_000_000_000 / LINK_BITS;
        let leaves = self.free_at[who].max(now) + serial;
        self.free_at[who] = leaves;
        let half = u64::try_from(self.path.rtt.as_nanos()).unwrap_or(u64::MAX) / 2;
        let mut arrives = leaves + half;
        if who == SENDER && packet.payload_len() > 0 {
            if self.random(1_000_000) < u64::from(self.path.lost_ppm) {
                return;
            }
            if self.random(1_000_000) < u64::from(self.path.late_ppm) {
                arrives += serial * (2 + self.random(9));
            }
        }
        let at_receiver = who == SENDER;
        self.schedule(
            arrives,
            Event::Arrival {
                at_receiver,
                packet,
            },
        );
    }
}

/// One flow over `path` for that long in virtual time.
pub fn simulate(path: Path, help: Help, duration: Duration, seed: u64) -> Outcome {
    let mut world = World::new(path, help, seed);
    let end = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let begin = end / 5;
    let (mut before, mut last, mut stall, mut seen) = (0, begin, 0, 0);
    while let Some(Reverse((now, _, event))) = world.events.pop() {
        if now > end {
            break;
        }
        world.handle(now, event);
        if now < begin {
            before = world.received;
            seen = world.received;
            continue;
        }
        if world.received != seen {
            stall = stall.max(now - last);
            last = now;
            seen = world.received;
        }
    }
    stall = stall.max(end - last);
    let bits = (world.received - before) as f64 * 8.0;
    Outcome {
        gbit_per_s: bits / (end - begin) as f64,
        longest_stall: Duration::from_nanos(stall),
    }
}

/// Lost packets of a million in each row of the table; the last row has reordering instead.
const LOSSES_PPM: [u32; 4] = [0, 100, 1000, 10_000];
const LATE_PPM: u32 = 10_000;

/// The table of `docs/ARCHITECTURE.md`, for each path and each help: goodput in Gbit/s, mean of
/// `seeds` runs.
pub fn table(duration: Duration, seeds: u64) -> String {
    let mut table = String::from(
        "| MTU | RTT | path | Mathis | as it is | clock ×5 | and `Recovery` | longest stall |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for mtu in [1500, 9000] {
        for rtt_us in [100, 1000, 10_000] {
            let losses = LOSSES_PPM.map(|lost| (lost, 0));
            for (lost_ppm, late_ppm) in losses.into_iter().chain([(0, LATE_PPM)]) {
                let path = Path {
                    mtu,
                    rtt: Duration::from_micros(rtt_us),
                    lost_ppm,
                    late_ppm,
                };
                row(&mut table, path, duration, seeds);
            }
        }
    }
    table
}

fn row(table: &mut String, path: Path, duration: Duration, seeds: u64) {
    let kind = match path.late_ppm {
        0 => format!("loss {} %", f64::from(path.lost_ppm) / 1e4),
        late => format!("reordering {} %", f64::from(late) / 1e4),
    };
    let (mtu, rtt, mathis) = (path.mtu, path.rtt, mathis_gbit_per_s(&path));
    let _ = write!(table, "| {mtu} | {rtt:?} | {kind} | {mathis:.2} |");
    let mut stall = Duration::ZERO;
    for help in [Help::NONE, Help::CLOCK, Help::FULL] {
        let runs = (0..seeds).map(|seed| simulate(path, help, duration, 0x5EED + seed * 7919));
        let (sum, longest) = runs.fold((0.0, Duration::ZERO), |(sum, longest), run| {
            (sum + run.gbit_per_s, longest.max(run.longest_stall))
        });
        let _ = write!(table, " {:.2} |", sum / seeds as f64);
        stall = longest;
    }
    let _ = writeln!(table, " {} ms |", stall.as_millis());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goodput(mtu: u16, rtt_us: u64, lost_ppm: u32, late_ppm: u32, help: Help) -> Outcome {
        let path = Path {
            mtu,
            rtt: Duration::from_micros(rtt_us),
            lost_ppm,
            late_ppm,
        };
        simulate(path, help, Duration::from_millis(200), 0x5EED)
    }

    #[test]
    fn a_clean_link_is_filled() {
        assert!(goodput(9000, 100, 0, 0, Help::FULL).gbit_per_s > 9.5);
        assert!(goodput(9000, 1000, 0, 0, Help::FULL).gbit_per_s > 8.0);
        assert!(goodput(1500, 100, 0, 0, Help::FULL).gbit_per_s > 9.0);
    }

    #[test]
    fn losses_cost_no_timeout() {
        for (mtu, lost_ppm, least) in [(9000, 1000, 6.0), (9000, 10_000, 1.5), (1500, 1000, 2.5)] {
            let helped = goodput(mtu, 100, lost_ppm, 0, Help::FULL);
            assert!(helped.gbit_per_s > least, "{mtu} {lost_ppm}: {helped:?}");
            // The flow's own timeout is 200 ms.
            assert!(helped.longest_stall < Duration::from_millis(50));
            let alone = goodput(mtu, 100, lost_ppm, 0, Help::NONE);
            assert!(alone.gbit_per_s < helped.gbit_per_s / 1.5);
        }
    }

    #[test]
    fn reordering_costs_little() {
        let helped = goodput(9000, 1000, 0, 10_000, Help::FULL);
        let alone = goodput(9000, 1000, 0, 10_000, Help::NONE);
        assert!(helped.gbit_per_s > 6.0, "{helped:?}");
        assert!(alone.gbit_per_s < 2.0, "{alone:?}");
    }

    #[test]
    fn a_run_is_the_same_each_time() {
        let run = || goodput(1500, 100, 1000, 1000, Help::FULL);
        assert_eq!(run(), run());
    }

    #[test]
    fn mathis_is_capped_by_link_and_window() {
        let path = |lost_ppm, rtt_us| Path {
            mtu: 9000,
            rtt: Duration::from_micros(rtt_us),
            lost_ppm,
            late_ppm: 0,
        };
        let rate = |lost, rtt| mathis_gbit_per_s(&path(lost, rtt));
        assert!((rate(0, 100) - 9.91).abs() < 0.01);
        assert!((rate(0, 10_000) - 0.838).abs() < 0.001);
        // 8960·8/1 ms·1.22/√0.001.
        assert!((rate(1000, 1000) - 2.765).abs() < 0.001);
    }
}
