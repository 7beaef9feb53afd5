//! Faults at the rates asked for, all counted, the same for the same seed; and ports of other
//! cores.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::any::AnyPort;
use super::fault::{Fault, Faults, Rates};
use super::memory::{Config, End, Overflow, pair};
use super::memory_tests::{is_readable, receive, segment, send};
use super::remote::{Asked, Remote, Requests};
use super::suite::{self, Ends, Rig};
use super::{Burst, Capabilities, Counters, Frame, Full, Link, Offload, Outgoing, Port};

struct Faulty;

impl Rig for Faulty {
    type Left = Fault<End>;
    type Right = Fault<End>;

    fn open(&self) -> Ends<Fault<End>, Fault<End>> {
        let config = Config {
            fills_ipv4_checksum: true,
            fills_tcp_checksum: true,
            verifies_checksums: true,
            segments_ipv4: Some(u16::MAX),
            ..Config::default()
        };
        let (left, right) = pair(&config).unwrap();
        // What happens nearly never still takes every path.
        let rates = Rates {
            delay: Duration::from_nanos(1),
            ..Rates::default()
        };
        Ends {
            left: Fault::new(left, Rates::default(), rates, 1),
            right: Fault::new(right, Rates::default(), Rates::default(), 2),
        }
    }

    fn buffers(&self, ends: &Ends<Fault<End>, Fault<End>>) -> usize {
        ends.left.inner().buffers_available() + ends.right.inner().buffers_available()
    }
}

const FRAMES: u16 = 10_000;

#[expect(clippy::disallowed_methods, reason = "any time will do to start with")]
fn start() -> Instant {
    Instant::now()
}

/// What comes through with faults on one way: ports of the frames, and what went wrong.
fn pass(rates: Rates, seed: u64, on_receive: bool) -> (Vec<Vec<u8>>, Faults) {
    let (left, right) = pair(&Config::default()).unwrap();
    let (there, here) = if on_receive {
        (Rates::default(), rates)
    } else {
        (rates, Rates::default())
    };
    let mut left = Fault::new(left, Rates::default(), there, seed);
    let mut right = Fault::new(right, here, Rates::default(), seed);
    let mut time = start();
    let mut came: Vec<Vec<u8>> = vec![];
    let copies = |frames: Vec<Frame>| frames.into_iter().map(|frame| frame.head().to_vec());
    for port in 0..FRAMES {
        time += Duration::from_micros(1);
        left.set_now(time);
        right.set_now(time);
        send(&mut left, &segment(port, u16::MAX));
        came.extend(copies(receive(&mut right)));
    }
    while let Some(due) = [left.deadline(), right.deadline()]
        .into_iter()
        .flatten()
        .min()
    {
        time = time.max(due);
        left.set_now(time);
        right.set_now(time);
        left.flush();
        came.extend(copies(receive(&mut right)));
    }
    came.extend(copies(receive(&mut right)));
    let faults = if on_receive {
        right.faults().0
    } else {
        left.faults().1
    };
    let (sent, got) = (left.counters(), right.counters());
    assert_eq!(sent.sent, u64::from(FRAMES) + left.faults().1.duplicated);
    assert_eq!(got.received, came.len() as u64);
    let lost = faults.lost + faults.overflowed;
    assert_eq!(
        got.received + lost,
        u64::from(FRAMES) + faults.duplicated,
        "{faults:?}"
    );
    (came, faults)
}

fn port_of(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[34], bytes[35]])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 5 % of the frames, and somewhat more or less.
    const RATE: u32 = 50_000;
    const EXPECTED: std::ops::Range<u64> = 400..600;

    #[test]
    fn a_port_with_faults_that_never_happen_passes_the_suite() {
        suite::run(&Faulty);
    }

    #[test]
    fn loss_duplication_and_corruption_happen_as_often_as_asked() {
        for on_receive in [false, true] {
            let rates = Rates {
                loss: RATE,
                ..Rates::default()
            };
            let (came, faults) = pass(rates, 1, on_receive);
            assert!(EXPECTED.contains(&faults.lost), "{faults:?}");
            assert!(
                came.is_sorted_by(|a, b| port_of(a) < port_of(b)),
                "the rest in order"
            );

            let rates = Rates {
                duplication: RATE,
                ..Rates::default()
            };
            let (came, faults) = pass(rates, 2, on_receive);
            assert!(EXPECTED.contains(&faults.duplicated), "{faults:?}");
            let twice = came.windows(2).filter(|two| two[0] == two[1]).count();
            assert_eq!(twice as u64, faults.duplicated);

            let rates = Rates {
                corruption: RATE,
                ..Rates::default()
            };
            let (came, faults) = pass(rates, 3, on_receive);
            assert!(EXPECTED.contains(&faults.corrupted), "{faults:?}");
            let bits = |frame: &Vec<u8>, port| -> u32 {
                let right = segment(port, u16::MAX);
                frame
                    .iter()
                    .zip(right)
                    .map(|(a, b)| (a ^ b).count_ones())
                    .sum()
            };
            let flipped: Vec<u32> = came
                .iter()
                .zip(0..)
                .map(|(f, port)| bits(f, port))
                .collect();
            assert!(flipped.iter().all(|&bits| bits <= 1));
            assert_eq!(u64::from(flipped.iter().sum::<u32>()), faults.corrupted);
        }
    }

    #[test]
    fn reordered_frames_let_others_pass_and_come() {
        for on_receive in [false, true] {
            let rates = Rates {
                reordering: RATE,
                reorder_distance: 3,
                ..Rates::default()
            };
            let (came, faults) = pass(rates, 4, on_receive);
            assert!(EXPECTED.contains(&faults.reordered), "{faults:?}");
            let ports: Vec<u16> = came.iter().map(|frame| port_of(frame)).collect();
            let late = ports.windows(2).filter(|two| two[0] > two[1]).count() as u64;
            assert!(
                late > 350 && late <= faults.reordered,
                "{late} of {faults:?}"
            );
            let far = ports
                .iter()
                .zip(0..)
                .map(|(&port, at)| i32::from(port) - at);
            assert!(
                far.map(i32::abs).max().unwrap() < 12,
                "nobody is held for long"
            );
        }
    }

    #[test]
    fn delayed_frames_come_when_they_are_due_and_not_before() {
        let (left, right) = pair(&Config::default()).unwrap();
        let delay = Duration::from_millis(5);
        let rates = Rates {
            delay,
            ..Rates::default()
        };
        let mut left = Fault::new(left, Rates::default(), rates, 1);
        let mut right = Fault::new(right, rates, Rates::default(), 1);
        let time = start();
        left.set_now(time);
        right.set_now(time);
        send(&mut left, &segment(1, 2));
        assert_eq!(left.deadline(), Some(time + delay));
        left.set_now(time + delay - Duration::from_nanos(1));
        left.flush();
        assert!(receive(&mut right).is_empty());
        left.set_now(time + delay);
        left.flush();
        assert_eq!(left.deadline(), None);
        right.set_now(time + delay);
        assert!(receive(&mut right).is_empty());
        assert_eq!(right.deadline(), Some(time + 2 * delay));
        right.set_now(time + 2 * delay);
        assert_eq!(receive(&mut right).len(), 1);
        assert_eq!(right.deadline(), None);
    }

    #[test]
    fn the_same_seed_gives_the_same_faults_and_another_seed_others() {
        let rates = Rates {
            loss: RATE,
            duplication: RATE,
            corruption: RATE,
            reordering: RATE,
            reorder_distance: 5,
            jitter: Duration::from_micros(3),
            ..Rates::default()
        };
        for on_receive in [false, true] {
            let first = pass(rates, 7, on_receive);
            assert!(first == pass(rates, 7, on_receive));
            assert!(first != pass(rates, 8, on_receive));
        }
    }

    struct ByAnotherCore;

    struct Owned {
        remote: Remote,
        requests: Requests,
        end: End,
    }

    impl Port for Owned {
        fn capabilities(&self) -> &Capabilities {
            self.remote.capabilities()
        }

        fn receive(&mut self, burst: &mut Burst) {
            self.end.receive(burst);
        }

        fn transmit(&mut self, frame: &Outgoing<'_>) -> Result<(), Full> {
            self.remote.transmit(frame)
        }

        fn flush(&mut self) {
            self.requests.send_to(&mut self.end);
            self.end.flush();
        }

        fn counters(&self) -> Counters {
            Counters {
                received: self.end.counters().received,
                received_bytes: self.end.counters().received_bytes,
                missed: self.end.counters().missed,
                ..self.remote.counters()
            }
        }

        fn link(&mut self) -> Link {
            self.remote.link()
        }

        fn wakes(&self) -> Option<BorrowedFd<'_>> {
            None
        }
    }

    impl Rig for ByAnotherCore {
        type Left = Owned;
        type Right = Owned;

        fn open(&self) -> Ends<Owned, Owned> {
            let config = Config {
                fills_ipv4_checksum: true,
                fills_tcp_checksum: true,
                segments_ipv4: Some(u16::MAX),
                ..Config::default()
            };
            let (left, right) = pair(&config).unwrap();
            let owned = |end: End| {
                let requests = Requests::new(end.capabilities(), 64).unwrap();
                Owned {
                    remote: requests.remote(),
                    requests,
                    end,
                }
            };
            Ends {
                left: owned(left),
                right: owned(right),
            }
        }

        fn buffers(&self, ends: &Ends<Owned, Owned>) -> usize {
            ends.left.end.buffers_available() + ends.right.end.buffers_available()
        }
    }

    #[test]
    fn what_another_core_sends_passes_the_suite() {
        suite::run(&ByAnotherCore);
    }

    #[test]
    fn a_full_ring_drops_and_who_sends_counts() {
        let (left, mut right) = pair(&Config::default()).unwrap();
        let mut left = AnyPort::Memory(left);
        let mut requests = Requests::new(left.capabilities(), 40).unwrap();
        let mut remotes = [requests.remote(), requests.remote()];
        std::thread::scope(|scope| {
            for remote in &mut remotes {
                scope.spawn(|| (0..30).for_each(|port| send(remote, &segment(port, 9))));
            }
        });
        let counters = remotes.each_ref().map(|remote| remote.counters());
        let dropped: u64 = counters.iter().map(|c| c.transmit_errors).sum();
        assert_eq!(dropped, 20);
        assert_eq!(counters.iter().map(|c| c.sent).sum::<u64>(), 40);
        assert_eq!(requests.send_to(&mut left), Asked::More, "one burst");
        left.flush();
        assert_eq!(requests.send_to(&mut left), Asked::Done);
        left.flush();
        assert_eq!(receive(&mut right).len() + receive(&mut right).len(), 40);
        send(&mut remotes[0], &segment(1, 9));
        assert_eq!(requests.send_to(&mut left), Asked::Done);
        let head = segment(1, 9);
        let whole = Outgoing {
            head: &head,
            payload: &[],
            offload: Offload::default(),
        };
        assert_eq!(remotes[0].transmit(&whole), Ok(()));
    }

    #[test]
    fn a_full_port_is_told_apart_and_rings_no_bell() {
        let config = Config {
            buffers: 3,
            overflow: Overflow::Hold,
            ..Config::default()
        };
        let (left, mut right) = pair(&config).unwrap();
        let mut left = AnyPort::Memory(left);
        let mut requests = Requests::new(left.capabilities(), 8).unwrap();
        let mut remote = requests.remote();
        (0..8).for_each(|port| send(&mut remote, &segment(port, 9)));
        let mut came = 0;
        let mut blocked = 0;
        while requests.send_to(&mut left) == Asked::Blocked {
            assert!(!is_readable(requests.wakes()), "it would wake for nothing");
            left.flush();
            came += receive(&mut right).len();
            blocked += 1;
            assert!(blocked <= 8, "no frame is on its way");
        }
        left.flush();
        came += receive(&mut right).len();
        assert!(blocked > 0, "the port was never full");
        assert_eq!(came, 8);
        send(&mut remote, &segment(8, 9));
        assert!(is_readable(requests.wakes()));
    }
}
