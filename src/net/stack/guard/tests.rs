//! Each rule against the TCP that needs it: the danger is there without the rule, and gone with it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::wire::{HardwareAddress, IpCidr};

use super::*;
use crate::mem::alias::RING_BYTES;
use crate::net::stack::model::FlowKey;
use crate::net::stack::packet::emit::{Bare, LinkHeader, PACKET_HEAD_BYTES_MAX};
use crate::net::stack::packet::{Parsed, Timestamps, parse};
use crate::port::Frame;

const LINK: LinkHeader = LinkHeader {
    dest: [2, 0, 0, 0, 0, 1],
    source: [2, 0, 0, 0, 0, 2],
    tag: None,
};
/// The peer's initial sequence number: the stream crosses the wrap.
const IRS: Seq = Seq(u32::MAX - 1000);
/// A ring whose capacity is a power of two.
const BAD_RING: usize = 1 << 20;

/// The byte at `at` of the peer's stream.
fn byte(at: u32) -> u8 {
    at.wrapping_mul(0x9E37_79B1).to_be_bytes()[0]
}

fn bytes(at: u32, len: usize) -> Vec<u8> {
    (at..).take(len).map(byte).collect()
}

/// Where smoltcp takes packets from and leaves them.
#[derive(Default)]
struct Wire {
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received, Sending<'_>)> {
        let packet = self.received.pop_front()?;
        Some((Received(packet), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 9000;
        capabilities.checksum.ipv4 = Checksum::None;
        capabilities.checksum.tcp = Checksum::None;
        capabilities
    }
}

/// A flow behind its guard, and what its peer knows.
struct Bench {
    iface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    wire: Wire,
    guard: Guard,
    start: Instant,
    elapsed_ms: u64,
    /// As the peer sees it.
    key: FlowKey,
    /// Our initial sequence number.
    isn: Seq,
    snd_max: Seq,
    stage: Stage,
    ring: usize,
    /// What the application took.
    taken: Vec<u8>,
    enqueued: u32,
    timestamp: Option<u32>,
}

impl Bench {
    /// An established connection that has not sent anything after its SYN-ACK.
    fn new(rules: Rules, ring: usize) -> Self {
        Self::with_timestamp(rules, ring, None)
    }

    fn with_timestamp(rules: Rules, ring: usize, timestamp: Option<u32>) -> Self {
        let mut wire = Wire::default();
        let config = Config::new(HardwareAddress::Ip);
        let zero = smoltcp::time::Instant::ZERO;
        let mut iface = Interface::new(config, &mut wire, zero);
        let local: SocketAddr = "10.0.0.1:3260".parse().unwrap();
        iface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(local.ip().into(), 32)).unwrap();
        });
        let buffer = |len| tcp::SocketBuffer::new(vec![0xEE; len]);
        let mut socket = tcp::Socket::new(buffer(ring), buffer(ring));
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        if timestamp.is_some() {
            socket.set_tsval_generator(Some(|| 1));
        }
        socket.listen(local.port()).unwrap();
        let mut sockets = SocketSet::new(vec![]);
        let handle = sockets.add(socket);
        let mut bench = Self {
            iface,
            sockets,
            handle,
            wire,
            guard: Guard::new(rules),
            start: crate::net::some_instant(),
            elapsed_ms: 1,
            key: FlowKey {
                vlan: None,
                local: "10.0.0.2:40000".parse().unwrap(),
                peer: local,
            },
            isn: Seq(0),
            snd_max: Seq(0),
            stage: Stage::Answering,
            ring,
            taken: Vec::new(),
            enqueued: 0,
            timestamp,
        };
        bench.shake_hands();
        bench
    }

    fn shake_hands(&mut self) {
        let mut syn = self.bare(0, Flags::SYN);
        syn.seq = IRS;
        syn.mss = Some(8960);
        syn.window_scale = Some(0);
        let frame = Frame::copied(&syn.to_frame(&LINK, &[]));
        let Parsed::Tcp(segment) = parse(&frame).unwrap() else {
            panic!("not TCP");
        };
        self.feed(&segment, &frame, Adjusted::whole(&segment));
        self.egress();
        let answer = self.wire.sent.pop_front().unwrap();
        self.isn = Seq(u32::from_be_bytes(answer[24..28].try_into().unwrap()));
        self.snd_max = self.isn.plus(1);
        let is_timed = self.timestamp.is_some();
        self.guard.learn(self.now(), &segment, is_timed, self.isn);
        let ack = self.bare(0, Flags::ACK);
        assert!(matches!(self.send(&ack, &[]), Verdict::Pass(_)));
        self.stage = Stage::Standing;
        assert_eq!(self.state(), tcp::State::Established);
    }

    /// A segment of the peer, at `at` of its stream, which acknowledges the SYN-ACK.
    fn bare(&self, at: u32, flags: Flags) -> Bare {
        let mut bare = Bare::new(self.key, IRS.plus(1).plus(at), self.isn.plus(1), flags);
        bare.window = 60_000;
        bare.timestamps = self.timestamp.map(|value| Timestamps { value, echo: 1 });
        bare
    }

    /// What the peer sends comes to the guard, and if that lets it, to the flow.
    fn send(&mut self, bare: &Bare, payload: &[u8]) -> Verdict {
        let frame = Frame::copied(&bare.to_frame(&LINK, payload));
        let Parsed::Tcp(segment) = parse(&frame).unwrap() else {
            panic!("not TCP");
        };
        let view = self.view();
        let verdict = self.guard.check(self.now(), &segment, &view);
        if let Verdict::Pass(adjusted) | Verdict::Reply(_, adjusted) = verdict {
            self.feed(&segment, &frame, adjusted);
        }
        verdict
    }

    fn feed(&mut self, segment: &Segment, frame: &Frame, adjusted: Adjusted) {
        let mut head = [0; PACKET_HEAD_BYTES_MAX];
        let len = adjusted.emit(segment, frame, &mut head);
        let payload = &frame.head()[adjusted.payload(segment)];
        self.wire
            .received
            .push_back([&head[..len], payload].concat());
        let now = self.flow_now();
        self.iface
            .poll_ingress_single(now, &mut self.wire, &mut self.sockets);
    }

    /// The flow sends what it wants to.
    fn egress(&mut self) {
        let now = self.flow_now();
        self.iface
            .poll_egress(now, &mut self.wire, &mut self.sockets);
        for packet in &self.wire.sent {
            let seq = Seq(u32::from_be_bytes(packet[24..28].try_into().unwrap()));
            let head = 20 + usize::from(packet[32] >> 4) * 4;
            let end = seq.plus(u32::try_from(packet.len() - head).unwrap());
            self.snd_max = self.snd_max.max(end);
        }
    }

    /// The application takes what there is.
    fn take(&mut self) {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
        while socket.can_recv() {
            let taken = &mut self.taken;
            socket
                .recv(|data| {
                    taken.extend_from_slice(data);
                    (data.len(), ())
                })
                .unwrap();
        }
    }

    /// The application sends.
    fn enqueue(&mut self, len: usize) {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
        assert_eq!(socket.send_slice(&vec![7; len]), Ok(len));
        self.enqueued += u32::try_from(len).unwrap();
    }

    fn view(&self) -> View {
        let socket = self.socket();
        let queued = socket.recv_queue();
        let received = u32::try_from(self.taken.len() + queued).unwrap();
        let is_over = !matches!(
            socket.state(),
            tcp::State::SynReceived | tcp::State::Established
        );
        let unacknowledged = u32::try_from(socket.send_queue()).unwrap();
        let acknowledged = self.enqueued - unacknowledged;
        View {
            stage: self.stage,
            rcv_nxt: IRS.plus(1).plus(received).plus(u32::from(is_over)),
            room: u32::try_from(self.ring - queued).unwrap(),
            snd_una: self.isn.plus(1).plus(acknowledged),
            snd_max: self.snd_max,
        }
    }

    fn socket(&self) -> &tcp::Socket<'static> {
        self.sockets.get(self.handle)
    }

    fn state(&self) -> tcp::State {
        self.socket().state()
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.elapsed_ms)
    }

    fn flow_now(&self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_millis(i64::try_from(self.elapsed_ms).unwrap())
    }

    fn is_true_to_the_stream(&self) -> bool {
        self.taken == bytes(0, self.taken.len())
    }
}

/// 1.1 MB in one go, before the flow has sent anything but its SYN-ACK.
fn flood(rules: Rules, ring: usize) -> Option<usize> {
    let mut bench = Bench::new(rules, ring);
    catch_unwind(AssertUnwindSafe(|| {
        for at in (0..1_100_000).step_by(50_000) {
            let segment = bench.bare(at, Flags::ACK);
            bench.send(&segment, &bytes(at, 50_000));
        }
        bench.take();
        assert!(bench.is_true_to_the_stream());
        bench.taken.len()
    }))
    .ok()
}

#[test]
fn a_burst_beyond_the_ring_neither_panics_nor_is_believed() {
    let without = Rules::default().without(Rule::WithinRoom);
    assert_eq!(flood(Rules::default(), BAD_RING), Some(BAD_RING));
    assert_eq!(flood(without, BAD_RING), None, "smoltcp has become safe");
}

#[test]
fn a_ring_one_short_of_a_power_of_two_is_not_overrun() {
    let without = Rules::default().without(Rule::WithinRoom);
    let window = 65535 << 4;
    assert_eq!(flood(without, RING_BYTES), Some(window));
    assert_eq!(flood(Rules::default(), RING_BYTES), Some(window));
    assert!(window <= RING_BYTES && RING_BYTES + 1 == 1 << 20);
}

/// Bytes behind the end of the ring first, then all before them. `None`: smoltcp has noticed, which
/// it does in debug builds only.
fn send_beyond(rules: Rules, ring: usize) -> Option<bool> {
    catch_unwind(AssertUnwindSafe(|| is_kept_beyond(rules, ring))).ok()
}

fn is_kept_beyond(rules: Rules, ring: usize) -> bool {
    let mut bench = Bench::new(rules, ring);
    let beyond = bench.bare(1 << 20, Flags::ACK);
    bench.send(&beyond, &bytes(1 << 20, 8000));
    for at in (0..1 << 20).step_by(1 << 15) {
        let segment = bench.bare(at, Flags::ACK);
        bench.send(&segment, &bytes(at, 1 << 15));
        bench.take();
    }
    assert!(bench.taken.len() >= 65535 << 4);
    bench.is_true_to_the_stream()
}

#[test]
fn bytes_behind_the_ring_are_not_given_out_as_something_else() {
    let without = Rules::default().without(Rule::WithinRoom);
    assert_eq!(send_beyond(Rules::default(), BAD_RING), Some(true));
    let unsafely = send_beyond(without, BAD_RING);
    assert_ne!(unsafely, Some(true), "smoltcp has become safe");
    assert_eq!(send_beyond(without, RING_BYTES), Some(true));
}

#[test]
fn a_fin_does_not_end_the_stream_short_of_its_bytes() {
    let end = |rules| {
        let mut bench = Bench::new(rules, 4096);
        let segment = bench.bare(0, Flags::ACK | Flags::FIN);
        bench.send(&segment, &bytes(0, 6000));
        bench.take();
        assert_eq!(bench.taken.len(), 4096);
        bench.state()
    };
    assert_eq!(end(Rules::default()), tcp::State::Established);
    let without = Rules::default().without(Rule::FinBehindItsData);
    assert_eq!(end(without), tcp::State::CloseWait);
}

#[test]
fn a_fin_behind_all_its_bytes_ends_the_stream() {
    let mut bench = Bench::new(Rules::default(), 6000);
    let segment = bench.bare(0, Flags::ACK | Flags::FIN);
    bench.send(&segment, &bytes(0, 6000));
    bench.take();
    assert_eq!(bench.state(), tcp::State::CloseWait);
    assert!(bench.taken.len() == 6000 && bench.is_true_to_the_stream());
}

#[test]
fn a_closed_window_is_told_to_who_probes_it() {
    let mut bench = Bench::new(Rules::default(), 4096);
    let fill = bench.bare(0, Flags::ACK);
    bench.send(&fill, &bytes(0, 4096));
    let probe = bench.bare(4096, Flags::ACK);
    let answer = Verdict::Answer(Rule::WithinRoom);
    assert_eq!(bench.send(&probe, &bytes(4096, 1)), answer);
    assert_eq!(bench.socket().recv_queue(), 4096);
}

#[test]
fn only_a_reset_with_the_exact_number_ends_a_connection() {
    let reset = |rules, at: u32| {
        let mut bench = Bench::new(rules, RING_BYTES);
        let segment = bench.bare(at, Flags::RST);
        let verdict = bench.send(&segment, &[]);
        (verdict, bench.state())
    };
    let answer = Verdict::Answer(Rule::ExactReset);
    let drop = Verdict::Drop(Rule::ExactReset);
    let established = tcp::State::Established;
    assert_eq!(reset(Rules::default(), 1), (answer, established));
    assert_eq!(reset(Rules::default(), 1_000_000), (answer, established));
    assert_eq!(reset(Rules::default(), 2_000_000), (drop, established));
    assert_eq!(reset(Rules::default(), u32::MAX), (drop, established));
    assert_eq!(reset(Rules::default(), 0).1, tcp::State::Closed);
    let without = Rules::default().without(Rule::ExactReset);
    assert_eq!(reset(without, 1).1, tcp::State::Closed);
}

#[test]
fn a_syn_on_a_standing_connection_is_challenged() {
    let syn = |rules| {
        let mut bench = Bench::new(rules, RING_BYTES);
        let segment = bench.bare(5000, Flags::SYN);
        let verdict = bench.send(&segment, &[]);
        assert_eq!(bench.state(), tcp::State::Established);
        verdict
    };
    assert_eq!(syn(Rules::default()), Verdict::Answer(Rule::NoSecondSyn));
    let without = Rules::default().without(Rule::NoSecondSyn);
    assert!(!matches!(syn(without), Verdict::Answer(_)));
}

#[test]
fn challenges_have_a_limit_that_time_lifts() {
    let mut bench = Bench::new(Rules::default(), RING_BYTES);
    let segment = bench.bare(5, Flags::RST);
    let answer = Verdict::Answer(Rule::ExactReset);
    for _ in 0..CHALLENGES_MAX {
        assert_eq!(bench.send(&segment, &[]), answer);
    }
    let drop = Verdict::Drop(Rule::ExactReset);
    assert_eq!(bench.send(&segment, &[]), drop);
    bench.elapsed_ms += 4_999;
    assert_eq!(bench.send(&segment, &[]), drop);
    bench.elapsed_ms += 1;
    assert_eq!(bench.send(&segment, &[]), answer);
}

#[test]
fn an_overtaken_acknowledgment_does_not_cost_its_data() {
    let reorder = |rules| {
        let mut bench = Bench::new(rules, RING_BYTES);
        bench.enqueue(1000);
        bench.egress();
        let mut newer = bench.bare(1000, Flags::ACK);
        newer.ack = bench.snd_max;
        bench.send(&newer, &bytes(1000, 1000));
        // It was sent first, and acknowledges nothing of the 1000 bytes.
        let older = bench.bare(0, Flags::ACK);
        bench.send(&older, &bytes(0, 1000));
        bench.take();
        assert!(bench.is_true_to_the_stream());
        bench.taken.len()
    };
    assert_eq!(reorder(Rules::default()), 2000);
    let without = Rules::default().without(Rule::OvertakenAck);
    assert_eq!(reorder(without), 0);
}

#[test]
fn overtaken_acknowledgments_do_not_look_like_duplicates() {
    let mut bench = Bench::new(Rules::default(), RING_BYTES);
    bench.enqueue(30_000);
    bench.egress();
    bench.egress();
    let mut newer = bench.bare(0, Flags::ACK);
    newer.ack = bench.isn.plus(1 + 1000);
    bench.send(&newer, &[]);
    for ahead in [0, 0, 100, 200] {
        let older = bench.bare(ahead, Flags::ACK);
        let drop = Verdict::Drop(Rule::OvertakenAck);
        assert_eq!(bench.send(&older, &[]), drop);
    }
    // One that asks whether we are there is answered by the flow.
    let asking = bench.bare(u32::MAX, Flags::ACK);
    bench.wire.sent.clear();
    assert!(matches!(
        bench.send(&asking, &[]),
        Verdict::Reply(Rule::InWindow, _)
    ));
    assert_eq!(bench.wire.sent.len(), 1);
}

#[test]
fn bytes_that_were_never_sent_are_not_acknowledged() {
    let acknowledge = |rules, ahead: u32| {
        let mut bench = Bench::new(rules, RING_BYTES);
        let byte = bench.bare(0, Flags::ACK);
        bench.send(&byte, &bytes(0, 1));
        let mut small = bench.bare(1, Flags::ACK);
        small.window = 1000;
        bench.send(&small, &[]);
        bench.enqueue(10_000);
        bench.egress();
        assert_eq!(bench.snd_max, bench.isn.plus(1 + 1000));
        let mut segment = bench.bare(1, Flags::ACK);
        segment.ack = bench.snd_max.plus(ahead);
        let verdict = bench.send(&segment, &[]);
        (verdict, bench.socket().send_queue())
    };
    let answer = Verdict::Answer(Rule::AckOfSent);
    assert_eq!(acknowledge(Rules::default(), 0).1, 9000);
    assert_eq!(acknowledge(Rules::default(), 1), (answer, 10_000));
    assert_eq!(acknowledge(Rules::default(), 4000), (answer, 10_000));
    // More than a window ago: RFC 5961 §5.2.
    assert_eq!(acknowledge(Rules::default(), 0x9000_0000).0, answer);
    let without = Rules::default().without(Rule::AckOfSent);
    assert_eq!(acknowledge(without, 4000).1, 5000);
}

#[test]
fn a_late_segment_does_not_open_the_window_again() {
    let reorder = |rules| {
        let mut bench = Bench::new(rules, RING_BYTES);
        bench.enqueue(4000);
        bench.egress();
        let mut newer = bench.bare(1000, Flags::ACK);
        newer.ack = bench.snd_max;
        newer.window = 500;
        bench.send(&newer, &bytes(1000, 1000));
        let older = bench.bare(0, Flags::ACK);
        bench.send(&older, &bytes(0, 1000));
        bench.enqueue(4000);
        bench.wire.sent.clear();
        bench.egress();
        bench.snd_max.since(newer.ack)
    };
    assert_eq!(reorder(Rules::default()), 500);
    let without = Rules::default().without(Rule::NewestWindow);
    assert!(reorder(without) > 500);
}

#[test]
fn a_segment_of_an_earlier_round_is_told_by_its_timestamp() {
    let wrap = |rules| {
        let mut bench = Bench::with_timestamp(rules, RING_BYTES, Some(u32::MAX - 5));
        let first = bench.bare(0, Flags::ACK);
        bench.send(&first, &bytes(0, 1000));
        bench.timestamp = Some(3);
        let second = bench.bare(1000, Flags::ACK);
        bench.send(&second, &bytes(1000, 1000));
        // The number that is expected next, but four gigabytes ago.
        bench.timestamp = Some(2);
        let old = bench.bare(2000, Flags::ACK);
        let verdict = bench.send(&old, &bytes(77, 1000));
        bench.timestamp = None;
        let none = bench.bare(2000, Flags::ACK);
        let untimed = bench.send(&none, &[]);
        bench.take();
        (verdict, untimed, bench.is_true_to_the_stream())
    };
    let (verdict, untimed, is_true) = wrap(Rules::default());
    assert_eq!(verdict, Verdict::Answer(Rule::NotWrapped));
    assert_eq!(untimed, Verdict::Drop(Rule::NotWrapped));
    assert!(is_true);
    let without = Rules::default().without(Rule::NotWrapped);
    assert!(!wrap(without).2);
}

#[test]
fn a_timestamp_that_is_weeks_old_shuts_nobody_out() {
    let mut bench = Bench::with_timestamp(Rules::default(), RING_BYTES, Some(1000));
    bench.timestamp = Some(999);
    bench.elapsed_ms += 23 * 24 * 3600 * 1000;
    let segment = bench.bare(0, Flags::ACK);
    assert_eq!(
        bench.send(&segment, &bytes(0, 10)),
        Verdict::Answer(Rule::NotWrapped)
    );
    bench.elapsed_ms += 24 * 3600 * 1000;
    assert!(matches!(
        bench.send(&segment, &bytes(0, 10)),
        Verdict::Pass(_)
    ));
}

#[test]
fn a_forged_timestamp_off_the_front_of_the_stream_is_not_remembered() {
    let mut bench = Bench::with_timestamp(Rules::default(), RING_BYTES, Some(1000));
    bench.timestamp = Some(0x7000_0000);
    let ahead = bench.bare(500_000, Flags::ACK);
    bench.send(&ahead, &bytes(500_000, 10));
    let behind = bench.bare(u32::MAX - 5_000_000, Flags::ACK);
    bench.send(&behind, &[1; 10]);
    bench.timestamp = Some(1001);
    let segment = bench.bare(0, Flags::ACK);
    assert!(matches!(
        bench.send(&segment, &bytes(0, 10)),
        Verdict::Pass(_)
    ));
}

#[test]
fn the_first_syn_again_is_left_to_the_timer() {
    let mut bench = Bench::new(Rules::default(), RING_BYTES);
    bench.stage = Stage::Answering;
    let mut syn = bench.bare(0, Flags::SYN);
    syn.seq = IRS;
    assert_eq!(bench.send(&syn, &[]), Verdict::Drop(Rule::NoSecondSyn));
    syn.seq = IRS.plus(77);
    assert_eq!(bench.send(&syn, &[]), Verdict::Answer(Rule::NoSecondSyn));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever comes in whatever order: no panic, and never a byte that the peer has not sent.
    #[test]
    fn a_stream_out_of_any_segments_is_the_peer_s(
        segments in proptest::collection::vec(
            (
                0_u32..150_000,
                0_usize..40_000,
                any::<u8>(),
                any::<i16>(),
                any::<u16>(),
                any::<bool>(),
            ),
            1..60,
        ),
        is_bad_ring in any::<bool>(),
    ) {
        let ring = if is_bad_ring { 1 << 16 } else { (1 << 16) - 1 };
        let mut bench = Bench::new(Rules::default(), ring);
        bench.enqueue(20_000);
        bench.egress();
        for (at, len, kind, ack, window, turn) in segments {
            let flags = match kind {
                0..=4 => Flags::RST,
                5..=9 => Flags::SYN,
                10..=14 => Flags::FIN,
                15..=19 => Flags::SYN | Flags::ACK,
                _ => Flags::ACK,
            };
            let mut segment = bench.bare(at, flags);
            segment.ack = bench.isn.plus(1).plus(i32::from(ack).cast_unsigned());
            segment.window = window;
            // Resets with the exact number are the peer's, and end the test early.
            bench.send(&segment, &bytes(at, len));
            if turn {
                bench.take();
                bench.egress();
                bench.wire.sent.clear();
            }
            bench.elapsed_ms += 1;
        }
        bench.take();
        prop_assert!(bench.is_true_to_the_stream());
    }
}
