//! What every port must do, as one suite: run against two connected ends by each port's own tests.
//!
//! Panics say what was broken. Frames of others (a host's neighbour discovery, say) are ignored:
//! the suite's frames are TCP with ports of its own. `broken` shows that each check finds its
//! breach.

mod broken;
mod frames;

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::checksum::verify;
use super::{BURST, Burst, Checksum, Counters, Frame, Full, Piece, Port};
use crate::mem::{CHUNK_BYTES, Loan, Pages, Pool};
use frames::{Ip, Made, number, payload};

/// How long a frame may take before the suite gives up.
const PATIENCE: Duration = Duration::from_secs(3);
/// Frames sent while nobody receives, at most, to find out where a queue is full.
const FLOOD: u32 = 20_000;

/// As many as a burst has room for.
const FRAMES: u32 = 32;
const _: () = assert!(FRAMES as usize == BURST);

/// Two connected ends.
pub(crate) struct Ends<A, B> {
    pub(crate) left: A,
    pub(crate) right: B,
}

/// How ends are made, and what cannot be seen from the trait.
pub(crate) trait Rig {
    type Left: Port;
    type Right: Port;

    /// Fresh ends.
    fn open(&self) -> Ends<Self::Left, Self::Right>;

    /// Buffers with which the two could receive frames now. A frame may still be in one, so the
    /// suite asks until it likes the answer.
    fn buffers(&self, ends: &Ends<Self::Left, Self::Right>) -> usize;

    /// A frame may be lost on the way for want of room without either end knowing it (a kernel's
    /// or a hub's queue lies in between).
    fn loses_unseen(&self) -> bool {
        false
    }

    /// A frame that was never on a wire may come without its sum, as good.
    fn leaves_sums_out(&self) -> bool {
        false
    }

    /// Segments that were cut from one packet come joined.
    fn joins_segments(&self) -> bool {
        false
    }
}

/// Runs everything.
pub(crate) fn run(rig: &impl Rig) {
    frames_pass_both_ways_in_order_and_whole(rig);
    a_burst_is_filled_and_never_overfilled(rig);
    a_sleeper_is_woken(rig);
    what_nobody_receives_is_counted_and_the_port_recovers(rig);
    every_buffer_comes_back(rig);
    the_mtu_holds_both_ways(rig);
    loans_end_once_sent(rig);
    more_pieces_than_the_port_takes_are_copied_together(rig);
    offloads_are_done_as_declared(rig);
    wrong_sums_are_not_called_good(rig);
    packets_are_cut_right(rig);
    what_cannot_be_sent_is_refused_and_counted(rig);
}

#[expect(
    clippy::disallowed_methods,
    reason = "who drives a port has a clock, as a core has"
)]
fn now() -> Instant {
    Instant::now()
}

/// One way from an end to another.
struct Way<'a, A, B> {
    from: &'a mut A,
    to: &'a mut B,
}

impl<A: Port, B: Port> Way<'_, A, B> {
    /// Sends, receiving and dropping nothing: panics if it stays full.
    fn send(&mut self, made: &Made) {
        self.send_as(made, &made.pieces());
    }

    /// The same with the payload in other pieces.
    fn send_as(&mut self, made: &Made, payload: &[Piece<'_>]) {
        let frame = made.outgoing(payload);
        assert_eq!(self.from.transmit(&frame), Ok(()), "an idle port has room");
        self.from.flush();
    }

    fn made(&self, nth: u32, len: usize) -> Made {
        Made::new(Ip::V4, nth, len, &*self.from, &*self.to)
    }

    /// The next `count` frames of ours.
    fn receive(&mut self, count: usize) -> Vec<Frame> {
        let mut ours = Vec::new();
        let end = now() + PATIENCE;
        while ours.len() < count {
            assert!(now() < end, "{} of {count} frames came", ours.len());
            let mut burst = Burst::new();
            self.to.set_now(now());
            self.to.receive(&mut burst);
            ours.extend(burst.into_iter().filter(frames::is_ours));
            self.from.set_now(now());
            self.from.flush();
        }
        assert_eq!(ours.len(), count, "more frames came than were sent");
        ours
    }
}

fn whole(frame: &Frame) -> Vec<u8> {
    let bytes: Vec<u8> = frame.slices().flatten().copied().collect();
    assert_eq!(bytes.len(), frame.len(), "the pieces make up the frame");
    assert!(
        bytes.starts_with(frame.head()),
        "the head is its first piece"
    );
    assert!(frame.held_bytes() >= bytes.len(), "a frame holds its bytes");
    bytes
}

fn frames_pass_both_ways_in_order_and_whole<R: Rig>(rig: &R) {
    let mut ends = rig.open();
    let before = (ends.left.counters(), ends.right.counters());
    let mut way = Way {
        from: &mut ends.left,
        to: &mut ends.right,
    };
    let mut bytes = 0;
    for (nth, len) in (0..200).zip((6..).step_by(7)) {
        let made = way.made(nth, len);
        way.send(&made);
        bytes += made.bytes().len() as u64;
        let came = way.receive(1);
        assert_eq!(whole(&came[0]), made.bytes(), "frame {nth} as it was sent");
    }
    let after = (ends.left.counters(), ends.right.counters());
    assert_eq!(after.0.sent - before.0.sent, 200, "sent frames are counted");
    assert_eq!(
        after.0.sent_bytes - before.0.sent_bytes,
        bytes,
        "sent bytes are counted"
    );
    assert!(
        after.1.received - before.1.received >= 200,
        "received frames are counted"
    );
    assert!(
        after.1.received_bytes - before.1.received_bytes >= bytes,
        "received bytes are counted"
    );
    let mut back = Way {
        from: &mut ends.right,
        to: &mut ends.left,
    };
    let made = back.made(7, 100);
    back.send(&made);
    assert_eq!(
        whole(&back.receive(1)[0]),
        made.bytes(),
        "the other way too"
    );
}

fn a_burst_is_filled_and_never_overfilled<R: Rig>(rig: &R) {
    let mut ends = rig.open();
    let mut way = Way {
        from: &mut ends.left,
        to: &mut ends.right,
    };
    // Fewer than any queue has room for.
    for nth in 0..FRAMES {
        let made = way.made(nth, 64);
        way.send(&made);
    }
    let mut seen = vec![];
    let end = now() + PATIENCE;
    while seen.len() < BURST {
        assert!(now() < end, "{} frames came", seen.len());
        // Room for three behind what the caller already has.
        let mut burst = Burst::new();
        let mark = vec![0xaa; 20];
        while burst.len() < BURST - 3 {
            burst.push(Frame::copied(&mark));
        }
        way.to.set_now(now());
        way.to.receive(&mut burst);
        let (old, new) = burst.split_at(BURST - 3);
        assert!(
            old.iter().all(|frame| frame.head() == mark),
            "what was in the burst stays first"
        );
        seen.extend(new.iter().filter(|f| frames::is_ours(f)).map(number));
        way.from.flush();
    }
    let sent: Vec<u32> = (0..FRAMES).collect();
    assert_eq!(seen, sent, "oldest first, none lost, none twice");
}

fn a_sleeper_is_woken<R: Rig>(rig: &R) {
    let mut ends = rig.open();
    let mut way = Way {
        from: &mut ends.left,
        to: &mut ends.right,
    };
    for nth in 0..3 {
        // Nothing is left over that would wake it anyway.
        let mut burst = Burst::new();
        way.to.receive(&mut burst);
        let made = way.made(nth, 100);
        way.send(&made);
        if let Some(fd) = way.to.wakes() {
            let mut fds = [PollFd::new(&fd, PollFlags::IN)];
            let patience = Timespec::try_from(PATIENCE).expect("a few seconds");
            let woken = poll(&mut fds, Some(&patience));
            assert_eq!(woken, Ok(1), "frame {nth} wakes who sleeps");
        }
        assert_eq!(number(&way.receive(1)[0]), nth);
    }
}

/// What came in and was not given, by the receiver's own account.
fn lost(counters: &Counters) -> u64 {
    counters.missed + counters.receive_errors
}

fn what_nobody_receives_is_counted_and_the_port_recovers<R: Rig>(rig: &R) {
    let mut ends = rig.open();
    let before = (ends.left.counters(), ends.right.counters());
    let mut way = Way {
        from: &mut ends.left,
        to: &mut ends.right,
    };
    let mut taken = 0u64;
    let mut is_full = false;
    for nth in 0..FLOOD {
        let made = way.made(nth, 64);
        let pieces = made.pieces();
        let frame = made.outgoing(&pieces);
        is_full = way.from.transmit(&frame) == Err(Full);
        if is_full {
            way.from.flush();
            is_full = way.from.transmit(&frame) == Err(Full);
        }
        if is_full {
            break;
        }
        taken += 1;
    }
    way.from.flush();
    // Everything that is in between comes out, in order, and no frame twice.
    let (mut next, mut idle) = (0, now());
    let (mut given, mut ours) = (0u64, 0u64);
    while now() < idle + Duration::from_millis(50) {
        let mut burst = Burst::new();
        way.to.set_now(now());
        way.to.receive(&mut burst);
        given += burst.len() as u64;
        for frame in burst.iter().filter(|frame| frames::is_ours(frame)) {
            ours += 1;
            let nth = number(frame);
            assert!(nth >= next, "frame {nth} came after frame {}", next - 1);
            next = nth + 1;
            idle = now();
        }
        way.from.set_now(now());
        way.from.flush();
    }
    if is_full {
        assert_eq!(u64::from(next), taken, "a frame that was taken was lost");
    }
    // By what was given, not by what the receiver says that it gave: one that drops behind its own
    // counter would agree with itself.
    let (sent, to) = (way.from.counters().sent, way.to.counters());
    assert_eq!(
        to.received - before.1.received,
        given,
        "received is what the caller was given"
    );
    if !rig.loses_unseen() {
        let sent = sent - before.0.sent;
        let lost = lost(&to) - lost(&before.1);
        assert!(
            ours + lost >= sent,
            "{sent} sent, {ours} came, {lost} counted as lost"
        );
    }
    let made = way.made(FLOOD, 64);
    way.send(&made);
    assert_eq!(number(&way.receive(1)[0]), FLOOD, "after the flood");
    let after = (ends.left.counters(), ends.right.counters());
    let left = after.0.sent + after.0.transmit_errors + after.0.refused
        - (before.0.sent + before.0.transmit_errors + before.0.refused);
    assert_eq!(left, taken + 1, "each frame that was taken is counted once");
}

fn every_buffer_comes_back<R: Rig>(rig: &R) {
    let mut ends = rig.open();
    let all = rig.buffers(&ends);
    for thread in [false, true] {
        let mut way = Way {
            from: &mut ends.left,
            to: &mut ends.right,
        };
        let mut held = vec![];
        for nth in 0..2 * FRAMES {
            let made = way.made(nth, 500);
            way.send(&made);
            held.extend(way.receive(1));
        }
        if thread {
            std::thread::scope(|scope| {
                scope.spawn(move || drop(held));
            });
        } else {
            drop(held);
        }
        let end = now() + PATIENCE;
        while rig.buffers(&ends) != all {
            assert!(
                now() < end,
                "{} of {all} buffers came back",
                rig.buffers(&ends)
            );
            let mut burst = Burst::new();
            ends.left.receive(&mut burst);
            burst.clear();
            ends.right.receive(&mut burst);
        }
    }
}

fn the_mtu_holds_both_ways<R: Rig>(rig: &R) {
    let mut ends = rig.open();
    check_mtu(&mut ends.left, &mut ends.right);
    check_mtu(&mut ends.right, &mut ends.left);
}

fn check_mtu(from: &mut impl Port, to: &mut impl Port) {
    let mtu = usize::from(from.capabilities().mtu.min(to.capabilities().mtu));
    let mut way = Way { from, to };
    for (nth, ip) in [(0, Ip::V4), (1, Ip::V6), (2, Ip::Tagged)] {
        let len = mtu - ip.header_bytes();
        let made = Made::new(ip, nth, len, &*way.from, &*way.to);
        way.send(&made);
        assert_eq!(
            whole(&way.receive(1)[0]),
            made.bytes(),
            "a frame of the MTU, {ip:?}"
        );
        let before = way.from.counters();
        let long = Made::new(ip, 100 + nth, len + 1, &*way.from, &*way.to);
        let long_mtu = usize::from(way.from.capabilities().mtu);
        if long_mtu == mtu {
            way.send(&long);
            let after = way.from.counters();
            assert_eq!(
                after.refused,
                before.refused + 1,
                "a byte more is refused, {ip:?}"
            );
            assert_eq!(after.sent, before.sent, "and not sent");
        }
        let next = way.made(200 + nth, 10);
        way.send(&next);
        assert_eq!(number(&way.receive(1)[0]), 200 + nth, "nothing else came");
    }
}

fn loans(pool: &Pool, bytes: &[u8], step: usize) -> Vec<Loan> {
    let mut buf = pool.alloc(bytes.len()).expect("the pool is large enough");
    buf.copy_from(0, bytes);
    let mut loans = vec![];
    for from in (0..bytes.len()).step_by(step) {
        buf.lend(from..(from + step).min(bytes.len()), |loan| {
            loans.push(loan);
        });
    }
    loans
}

fn loans_end_once_sent<R: Rig>(rig: &R) {
    let mut ends = rig.open();
    let pool = Pool::new(4 * CHUNK_BYTES, Pages::Normal).expect("a small pool");
    let mut way = Way {
        from: &mut ends.left,
        to: &mut ends.right,
    };
    for nth in 0..20 {
        let made = way.made(nth, 1000);
        let lent = loans(&pool, made.payload(), 600);
        // Bytes and loans in one frame.
        let mut pieces = vec![Piece::Bytes(&made.payload()[..300])];
        let rest = lent[0].part(300..600);
        pieces.push(Piece::Loan(&rest));
        pieces.extend(lent[1..].iter().map(Piece::Loan));
        way.send_as(&made, &pieces);
        drop((rest, lent));
        assert_eq!(whole(&way.receive(1)[0]), made.bytes(), "lent bytes arrive");
    }
    let end = now() + PATIENCE;
    while pool.available() < 4 {
        assert!(now() < end, "loans are kept: {pool:?}");
        way.from.flush();
    }
}

fn more_pieces_than_the_port_takes_are_copied_together<R: Rig>(rig: &R) {
    let mut ends = rig.open();
    let pool = Pool::new(4 * CHUNK_BYTES, Pages::Normal).expect("a small pool");
    let mut way = Way {
        from: &mut ends.left,
        to: &mut ends.right,
    };
    let pieces_max = way.from.capabilities().pieces_max;
    for count in [1, pieces_max, pieces_max + 1, 3 * pieces_max + 1] {
        let count = count.clamp(6, 1300);
        let made = way.made(1, count);
        let lent = loans(&pool, made.payload(), 1);
        let pieces: Vec<_> = lent.iter().map(Piece::Loan).collect();
        way.send_as(&made, &pieces);
        assert_eq!(
            whole(&way.receive(1)[0]),
            made.bytes(),
            "{count} pieces arrive"
        );
    }
}

fn offloads_are_done_as_declared<R: Rig>(rig: &R) {
    let mut ends = rig.open();
    let mut way = Way {
        from: &mut ends.left,
        to: &mut ends.right,
    };
    let can = way.from.capabilities().clone();
    for (nth, ip) in [(0, Ip::V4), (1, Ip::V6), (2, Ip::Tagged)] {
        for len in [7, 8, 33, 1001] {
            let mut made = Made::new(ip, nth, len, &*way.from, &*way.to);
            let right = made.bytes().to_vec();
            made.leave_checksums(can.fills_ipv4_checksum, can.fills_tcp_checksum);
            way.send(&made);
            let came = &way.receive(1)[0];
            assert_ne!(
                came.checksum,
                Checksum::Bad,
                "right sums are not called bad"
            );
            if came.checksum != Checksum::Good || !rig.leaves_sums_out() {
                assert_eq!(whole(came), right, "sums are right on the wire, {ip:?}");
            }
        }
    }
}

fn wrong_sums_are_not_called_good<R: Rig>(rig: &R) {
    let mut ends = rig.open();
    let mut way = Way {
        from: &mut ends.left,
        to: &mut ends.right,
    };
    for (nth, ip) in [(0, Ip::V4), (1, Ip::V6), (2, Ip::Tagged)] {
        let mut made = Made::new(ip, nth, 100, &*way.from, &*way.to);
        made.damage_tcp_checksum();
        way.send(&made);
        let came = &way.receive(1)[0];
        assert_ne!(came.checksum, Checksum::Good, "a wrong sum, {ip:?}");
        assert_eq!(whole(came), made.bytes());
    }
}

fn packets_are_cut_right<R: Rig>(rig: &R) {
    let mut ends = rig.open();
    let mut way = Way {
        from: &mut ends.left,
        to: &mut ends.right,
    };
    let can = way.from.capabilities().clone();
    let Some(longest) = can.segments_ipv4 else {
        return;
    };
    for (step, len) in [
        (1000, 999),
        (1000, 1000),
        (1000, 1001),
        (536, 9000),
        (1460, 60_000),
    ] {
        let step = step.min(usize::from(can.mtu) - 40);
        let len = len.min(usize::from(longest) - 40);
        let mut made = way.made(9, len);
        made.cut_into(step);
        way.send(&made);
        let mut bytes = vec![];
        while bytes.len() < len {
            let frame = &way.receive_some()[..];
            for frame in frame {
                check_segment(&made, frame, step, &mut bytes);
                let joined = frame.segment_bytes.map(|bytes| usize::from(bytes.get()));
                let expected = (rig.joins_segments() && len > step).then_some(step);
                assert_eq!(joined, expected, "the size of what was joined");
                if frame.checksum != Checksum::Good || !rig.leaves_sums_out() {
                    let said = verify(&whole(frame));
                    assert_eq!(said, Checksum::Good, "each segment has right sums");
                }
            }
        }
        assert_eq!(bytes, made.payload(), "{len} bytes in segments of {step}");
    }
}

impl<A: Port, B: Port> Way<'_, A, B> {
    /// One frame of ours or more.
    fn receive_some(&mut self) -> Vec<Frame> {
        let mut burst = Burst::new();
        let end = now() + PATIENCE;
        loop {
            assert!(now() < end, "no segment came");
            self.to.set_now(now());
            self.to.receive(&mut burst);
            let ours: Vec<_> = burst.drain(..).filter(frames::is_ours).collect();
            self.from.flush();
            if !ours.is_empty() {
                return ours;
            }
        }
    }
}

/// One segment, or several that the receiving device has joined again.
fn check_segment(made: &Made, frame: &Frame, step: usize, bytes: &mut Vec<u8>) {
    let raw = whole(frame);
    if frame.segment_bytes.is_none() {
        assert!(
            payload(&raw).len() <= step,
            "each segment has at most {step} bytes"
        );
    }
    let last = bytes.len() + payload(&raw).len() == made.payload().len();
    if !last && frame.segment_bytes.is_none() {
        assert_eq!(
            payload(&raw).len(),
            step,
            "only the last segment is shorter"
        );
    }
    let before = u32::try_from(bytes.len()).expect("short");
    assert_eq!(frames::sequence(&raw), made.sequence().wrapping_add(before));
    assert_eq!(frames::is_pushed(&raw), last, "only the last one has PSH");
    bytes.extend_from_slice(payload(&raw));
}

fn what_cannot_be_sent_is_refused_and_counted<R: Rig>(rig: &R) {
    let mut ends = rig.open();
    let mut way = Way {
        from: &mut ends.left,
        to: &mut ends.right,
    };
    let can = way.from.capabilities().clone();
    let mut wrong = vec![];
    if !can.fills_ipv4_checksum || !can.fills_tcp_checksum {
        let mut made = way.made(1, 100);
        made.leave_checksums(!can.fills_ipv4_checksum, !can.fills_tcp_checksum);
        wrong.push(made);
    }
    let mut cut = way.made(2, 1000);
    cut.cut_into(if can.segments_ipv4.is_some() { 1 } else { 500 });
    wrong.push(cut);
    let mut ipv6 = Made::new(Ip::V6, 3, 1000, &*way.from, &*way.to);
    ipv6.cut_into(500);
    wrong.push(ipv6);
    for made in wrong {
        let before = way.from.counters();
        way.send(&made);
        let after = way.from.counters();
        assert_eq!(
            after.refused,
            before.refused + 1,
            "refused: {:?}",
            made.outgoing(&[]).offload
        );
        assert_eq!(after.sent, before.sent, "what is refused is not sent");
    }
    let made = way.made(77, 10);
    way.send(&made);
    assert_eq!(number(&way.receive(1)[0]), 77, "nothing else came");
}
