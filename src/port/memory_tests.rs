//! What ports in memory do beyond the suite: queues, sleeping, and what happens when they go.

use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::suite::{self, Ends, Rig};
use super::{Burst, Counters, Frame, Offload, Outgoing, Piece, Port};
use crate::port::memory::{Config, End, Overflow, mesh, pair};

struct Memory(Config);

impl Rig for Memory {
    type Left = End;
    type Right = End;

    fn open(&self) -> Ends<End, End> {
        let (left, right) = pair(&self.0).unwrap();
        Ends { left, right }
    }

    fn buffers(&self, ends: &Ends<End, End>) -> usize {
        ends.left.buffers_available() + ends.right.buffers_available()
    }
}

/// A segment of a flow between two hosts, told apart by their ports.
pub(super) fn segment(from: u16, to: u16) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
    let (here, there) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let way = if from < to {
        [here, there]
    } else {
        [there, here]
    };
    frame.extend(way.concat());
    frame.extend([from, to].map(u16::to_be_bytes).concat());
    frame.resize(54, 0);
    frame
}

pub(super) fn send(end: &mut impl Port, bytes: &[u8]) {
    let (head, payload) = bytes.split_at(bytes.len().min(54));
    let frame = Outgoing {
        head,
        payload: &[Piece::Bytes(payload)],
        offload: Offload::default(),
    };
    assert_eq!(end.transmit(&frame), Ok(()));
    end.flush();
}

pub(super) fn receive(end: &mut impl Port) -> Vec<Frame> {
    let mut burst = Burst::new();
    end.receive(&mut burst);
    burst.into_iter().collect()
}

fn is_awake(end: &End) -> bool {
    is_readable(end.wakes().unwrap())
}

pub(super) fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&at_once)).unwrap() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_ports_in_memory_pass_the_suite() {
        suite::run(&Memory(Config::default()));
    }

    #[test]
    fn ports_in_memory_with_every_offload_pass_the_suite() {
        for overflow in [Overflow::Hold, Overflow::Miss] {
            suite::run(&Memory(Config {
                mtu: 9000,
                ring: 300,
                buffers: 400,
                overflow,
                wakes: true,
                verifies_checksums: true,
                fills_ipv4_checksum: true,
                fills_tcp_checksum: true,
                segments_ipv4: Some(u16::MAX),
                pieces_max: 3,
                ..Config::default()
            }));
        }
    }

    #[test]
    fn fewer_buffers_than_room_in_the_ring_pass_the_suite() {
        for overflow in [Overflow::Hold, Overflow::Miss] {
            suite::run(&Memory(Config {
                buffers: 70,
                overflow,
                ..Config::default()
            }));
        }
    }

    #[test]
    fn both_directions_of_a_flow_meet_the_same_queue_and_flows_spread() {
        let (mut left, mut right) = mesh(&Config::default(), 4, 4).unwrap();
        let mut per_queue = [0usize; 4];
        for port in 2000..2400 {
            send(&mut left[0], &segment(port, 3260));
            send(&mut right[3], &segment(3260, port));
            for queue in 0..4 {
                let (there, back) = (receive(&mut right[queue]), receive(&mut left[queue]));
                assert_eq!(there.len(), back.len(), "port {port}");
                per_queue[queue] += there.len();
            }
        }
        assert_eq!(per_queue.iter().sum::<usize>(), 400);
        assert!(per_queue.iter().all(|&flows| flows > 60), "{per_queue:?}");
        let queues: Vec<_> = left.iter().map(|end| end.capabilities().queue).collect();
        assert_eq!(queues, [0, 1, 2, 3]);
        assert_eq!(left[1].capabilities().queues, 4);
        // What belongs to no flow comes in at the first queue.
        let mut broadcast = segment(1, 2);
        broadcast[0] = 0xff;
        send(&mut left[2], &broadcast);
        assert_eq!(receive(&mut right[0]).len(), 1);
    }

    #[test]
    fn a_sleeper_wakes_for_the_first_frame_and_sleeps_when_all_are_taken() {
        let config = Config {
            wakes: true,
            ..Config::default()
        };
        let (mut left, mut right) = pair(&config).unwrap();
        for _ in 0..3 {
            assert!(!is_awake(&right));
            for port in 0..40 {
                send(&mut left, &segment(port, 3260));
            }
            assert!(is_awake(&right));
            assert_eq!(receive(&mut right).len(), 32);
            assert!(is_awake(&right), "eight are left");
            assert_eq!(receive(&mut right).len(), 8);
        }
        assert!(!is_awake(&right));
        let (plain, _other) = pair(&Config::default()).unwrap();
        assert!(plain.wakes().is_none());
    }

    #[test]
    fn two_threads_lose_nothing_and_every_wake_is_seen() {
        const FRAMES: u16 = 20_000;
        let config = Config {
            wakes: true,
            ring: 64,
            ..Config::default()
        };
        let (mut left, mut right) = pair(&config).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for port in 0..FRAMES {
                    let bytes = segment(port, u16::MAX);
                    let frame = Outgoing {
                        head: &bytes,
                        payload: &[],
                        offload: Offload::default(),
                    };
                    while left.transmit(&frame).is_err() {
                        left.flush();
                        std::thread::yield_now();
                    }
                    left.flush();
                }
                while left.counters().sent < u64::from(FRAMES) {
                    left.flush();
                    std::thread::yield_now();
                }
            });
            let mut next = 0;
            while next < FRAMES {
                let fd = right.wakes().unwrap();
                let mut fds = [PollFd::new(&fd, PollFlags::IN)];
                let patience = Timespec {
                    tv_sec: 10,
                    tv_nsec: 0,
                };
                assert_eq!(poll(&mut fds, Some(&patience)), Ok(1), "woken for {next}");
                for frame in receive(&mut right) {
                    assert_eq!(frame.head(), segment(next, u16::MAX));
                    next += 1;
                }
            }
        });
        let sent = left.counters();
        assert_eq!((sent.sent, right.counters().received), (20_000, 20_000));
    }

    #[test]
    fn the_link_goes_down_with_the_other_device_and_what_it_held_comes_back() {
        let (mut left, mut right) = pair(&Config::default()).unwrap();
        assert!(left.link().up);
        send(&mut left, &segment(1, 2));
        let held = receive(&mut right);
        send(&mut left, &segment(1, 2));
        drop(right);
        assert!(!left.link().up);
        send(&mut left, &segment(1, 2));
        assert_eq!(
            left.counters(),
            Counters {
                sent: 3,
                sent_bytes: 3 * 54,
                ..Counters::default()
            }
        );
        assert_eq!(held[0].head(), segment(1, 2), "a frame outlives its port");
    }
}
