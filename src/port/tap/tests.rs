//! Two TAP devices joined by a bridge, in a network namespace of the test's own.

use std::collections::HashMap;
use std::num::NonZeroU16;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::memory_tests::segment;
use super::super::suite::{self, Ends, Rig};
use super::super::{Burst, Offload, Outgoing, Piece, Port};
use super::{Config, Tap, TapError, open};

/// The thread has a network of its own from here on, which goes with it.
fn own_network() {
    // SAFETY: it changes which network this thread and its children see, and no memory.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Two devices, joined.
struct Bridged {
    mtu: u16,
    offload: [bool; 2],
}

impl Bridged {
    fn device(&self, name: &str, offload: bool) -> Tap {
        let config = Config {
            mtu: self.mtu,
            offload,
            ..Config::new(name)
        };
        let tap = open(&config).unwrap().pop().unwrap();
        ip(&format!("link set {name} master hub"));
        tap
    }
}

impl Rig for Bridged {
    type Left = Tap;
    type Right = Tap;

    fn open(&self) -> Ends<Tap, Tap> {
        Ends {
            left: self.device("left", self.offload[0]),
            right: self.device("right", self.offload[1]),
        }
    }

    fn buffers(&self, ends: &Ends<Tap, Tap>) -> usize {
        let (left, right) = (
            ends.left.buffers_available(),
            ends.right.buffers_available(),
        );
        left.0 + left.1 + right.0 + right.1
    }

    fn leaves_sums_out(&self) -> bool {
        true
    }

    fn joins_segments(&self) -> bool {
        self.offload == [true, true]
    }
}

/// In a thread of its own, so that the others keep their network.
fn in_own_network(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            own_network();
            ip("link add hub type bridge");
            ip("link set hub mtu 9000 up");
            test();
        });
        thread.join().unwrap();
    });
}

#[test]
fn names_mtus_and_queues_are_checked_before_anything_is_made() {
    for name in ["", "sixteen-bytes-xx", "a/b", "a b", "tap%d", "..", "a:1"] {
        let refused = open(&Config::new(name)).unwrap_err();
        assert!(matches!(refused, TapError::Name(_)), "{name}: {refused}");
    }
    let mut config = Config::new("never");
    config.mtu = 575;
    assert!(matches!(open(&config), Err(TapError::Mtu { mtu: 575, .. })));
    config.mtu = 65522;
    assert!(matches!(open(&config), Err(TapError::Mtu { .. })));
    config.mtu = 1500;
    config.queues = 0;
    assert!(matches!(open(&config), Err(TapError::Queues { .. })));
    let denied = super::failed(&config, "attach to it")(std::io::ErrorKind::Other.into());
    assert!(
        denied.to_string().contains("cannot attach to it"),
        "{denied}"
    );
    let denied = super::failed(&config, "attach to it")(std::io::Error::from_raw_os_error(1));
    assert!(denied.to_string().contains("CAP_NET_ADMIN"), "{denied}");
}

#[test]
#[ignore = "needs root: makes TAP devices in a network namespace; run by .ci/run"]
fn taps_pass_the_suite_with_and_without_offloads() {
    in_own_network(|| {
        for mtu in [1500, 9000] {
            for offload in [[false, false], [true, true], [true, false], [false, true]] {
                suite::run(&Bridged { mtu, offload });
            }
        }
    });
}

#[test]
#[ignore = "needs root: makes TAP devices in a network namespace; run by .ci/run"]
fn a_device_of_several_queues_is_made_attached_to_and_refused_with_the_reason() {
    in_own_network(|| {
        let config = Config {
            queues: 4,
            ..Config::new("many")
        };
        let mut queues = open(&config).unwrap();
        assert_eq!(queues.len(), 4);
        for (queue, at) in queues.iter_mut().zip(0..) {
            let can = queue.capabilities();
            assert_eq!((can.queue, can.queues), (at, 4));
            assert_eq!(can.mac[0] & 0x03, 0x02, "administered here, one station");
            assert!(queue.link().up);
            assert!(queue.wakes().is_some());
        }
        ip("link set many down");
        assert!(!queues[0].link().up);
        drop(queues);
        // It is gone: a device of another kind can have the name.
        ip("link add many type bridge");
        let refused = open(&config).unwrap_err();
        assert!(matches!(refused, TapError::Kind(_)), "{refused}");
        ip("link delete many");
        ip("tuntap add dev many mode tap");
        let refused = open(&config).unwrap_err();
        assert!(matches!(refused, TapError::Kind(_)), "{refused}");
        ip("tuntap delete dev many mode tap");
        ip("tuntap add dev many mode tap multi_queue vnet_hdr");
        ip("link set many mtu 4000");
        let again = open(&config).unwrap();
        // Made before, set and brought up now.
        let shown = ip("-o link show many");
        assert!(
            shown.contains("mtu 1500") && shown.contains(",UP"),
            "{shown}"
        );
        assert_eq!(again.len(), 4);
        drop(again);
        ip("link delete many");
    });
}

#[test]
#[ignore = "needs root: makes TAP devices in a network namespace; run by .ci/run"]
fn a_device_is_one_daemon_s_until_its_last_queue_ends() {
    in_own_network(|| {
        ip("tuntap add dev kept mode tap multi_queue vnet_hdr");
        for name in ["made", "kept"] {
            let config = Config {
                queues: 2,
                ..Config::new(name)
            };
            let mut queues = open(&config).unwrap();
            let is_refused = || {
                let refused = open(&config).unwrap_err();
                assert!(matches!(&refused, TapError::Busy(_)), "{refused}");
                assert!(refused.to_string().contains(name), "{refused}");
            };
            is_refused();
            queues.pop();
            is_refused();
            assert!(open(&Config::new("other")).is_ok(), "another is free");
            queues.pop();
            assert_eq!(open(&config).unwrap().len(), 2, "it is free again");
        }
    });
}

#[test]
#[ignore = "needs root: makes TAP devices in a network namespace; run by .ci/run"]
fn a_device_that_is_removed_wakes_nobody_and_is_a_link_that_stays_down() {
    in_own_network(|| {
        let mut tap = open(&Config::new("brief")).unwrap().pop().unwrap();
        assert!(tap.link().up);
        ip("link delete brief");
        let now = Timespec::default();
        let sleeps_on = tap.wakes().unwrap();
        let mut fds = [PollFd::new(&sleeps_on, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&now)), Ok(1), "whoever sleeps is woken");
        assert!(fds[0].revents().contains(PollFlags::ERR));
        let mut burst = Burst::new();
        tap.receive(&mut burst);
        assert!(burst.is_empty() && tap.wakes().is_none(), "and only once");
        // One of the same name is another one.
        ip("tuntap add dev brief mode tap multi_queue vnet_hdr");
        ip("link set brief up");
        assert!(!tap.link().up);
        let head = segment(1, 2);
        let frame = Outgoing {
            head: &head,
            payload: &[],
            offload: Offload::default(),
        };
        assert_eq!(tap.transmit(&frame), Ok(()));
        let counted = tap.counters();
        assert_eq!((counted.sent, counted.transmit_errors), (0, 1));
        tap.receive(&mut burst);
        assert!(burst.is_empty());
    });
}

#[test]
#[ignore = "needs root: makes TAP devices in a network namespace; run by .ci/run"]
fn what_finds_no_long_buffer_is_missed_and_what_is_joined_lies_in_one() {
    in_own_network(|| {
        let device = |name, long_buffers| {
            let config = Config {
                long_buffers,
                ..Config::new(name)
            };
            let tap = open(&config).unwrap().pop().unwrap();
            ip(&format!("link set {name} master hub"));
            tap
        };
        let (mut left, mut right) = (device("left", 1), device("right", 1));
        let mut head = segment(1, 2);
        head[..6].fill(0xff);
        head[16..18].copy_from_slice(&10_040u16.to_be_bytes());
        head[46] = 0x50;
        let payload = vec![7; 10_000];
        let frame = Outgoing {
            head: &head,
            payload: &[Piece::Bytes(&payload)],
            offload: Offload {
                l2_len: 14,
                l3_len: 20,
                l4_len: 20,
                ipv6: false,
                ipv4_checksum: true,
                tcp_checksum: true,
                segment_bytes: NonZeroU16::new(1000),
            },
        };
        let mut joined = vec![];
        for missed in 0..3 {
            assert_eq!(left.transmit(&frame), Ok(()));
            // A bridge hands on at once, behind what the kernel itself had to say.
            let mut burst = Burst::new();
            right.receive(&mut burst);
            joined.extend(burst.into_iter().filter(|frame| frame.len() == 10_054));
            assert_eq!((joined.len(), right.counters().missed), (1, missed));
        }
        assert_eq!(joined[0].segment_bytes, NonZeroU16::new(1000));
        drop(joined);
        assert_eq!(right.buffers_available().1, 1);
    });
}

#[test]
#[ignore = "needs root: makes TAP devices in a network namespace; run by .ci/run"]
fn flows_spread_over_the_queues_and_each_keeps_to_one() {
    const FLOWS: u16 = 64;
    in_own_network(|| {
        let device = |name, queues| {
            let config = Config {
                queues,
                ..Config::new(name)
            };
            let queues = open(&config).unwrap();
            ip(&format!("link set {name} master hub"));
            queues
        };
        let (mut left, mut right) = (device("left", 1), device("right", 4));
        let mut queue_of = HashMap::new();
        for round in 0..3 {
            for flow in 0..FLOWS {
                let mut frame = segment(flow, u16::MAX);
                frame[..6].fill(0xff);
                let frame = Outgoing {
                    head: &frame,
                    payload: &[],
                    // A bridge may look at the sum of the IP header.
                    offload: Offload {
                        l2_len: 14,
                        l3_len: 20,
                        ipv4_checksum: true,
                        ..Offload::default()
                    },
                };
                assert_eq!(left[0].transmit(&frame), Ok(()));
                left[0].flush();
                let mut seen = vec![];
                for (queue, at) in right.iter_mut().zip(0..) {
                    let mut burst = Burst::new();
                    queue.receive(&mut burst);
                    let ours = burst.iter().filter(|frame| frame.len() == 54);
                    seen.extend(ours.map(|_| at));
                }
                assert_eq!(seen.len(), 1, "flow {flow}, round {round}");
                let before = queue_of.insert(flow, seen[0]);
                assert!(before.is_none_or(|queue| queue == seen[0]), "flow {flow}");
            }
        }
        for queue in 0..4 {
            let flows = queue_of.values().filter(|&&at| at == queue).count();
            assert!(flows > 4, "queue {queue} has {flows} of {FLOWS} flows");
        }
    });
}
