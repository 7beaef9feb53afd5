//! The session engine without sockets: any sequence of requests, right and wrong, of completions in
//! any order, of partial sends, aborts and lost connections.
//!
//! Whatever came, at the end: every command that was accepted and not aborted was answered exactly
//! once; StatSN went up by one with each answer; ExpCmdSN and MaxCmdSN never went back; every chunk
//! of the pool is back and nothing is reserved. And how the bytes were cut makes no difference.

#![expect(
    clippy::tests_outside_test_module,
    reason = "this whole file is a test"
)]

#[path = "engine/bench.rs"]
mod bench;
#[path = "engine/peer.rs"]
mod peer;
#[path = "engine/several.rs"]
mod several;
#[path = "engine/wire.rs"]
mod wire;

use bench::{Bench, Setup};
use peer::{Operation, Peer};
use proptest::prelude::*;
use several::{Crowd, Step};

fn setups() -> impl Strategy<Value = Setup> {
    let bursts = prop_oneof![
        Just((512, 4096)),
        Just((8192, 16_384)),
        Just((65_536, 65_536))
    ];
    (
        any::<bool>(),
        any::<bool>(),
        bursts,
        1..=4_u16,
        prop_oneof![Just(512_u32), Just(8192)],
        prop_oneof![Just(48_usize), Just(600)],
    )
        .prop_map(
            |(initial_r2t, immediate_data, bursts, r2ts, segment, chunks)| Setup {
                initial_r2t,
                immediate_data,
                first_burst_length: bursts.0,
                max_burst_length: bursts.1,
                max_outstanding_r2t: r2ts,
                initiator_max_recv_data_segment_length: segment,
                pool_chunks: chunks,
            },
        )
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let command = (
        (0..10_u8, 0..=255_u8, 0..4_u8, 0..3000_u16),
        (any::<bool>(), prop::bool::weighted(0.1), 0..12_u8, 0..6_u8),
    )
        .prop_map(
            |((kind, blocks, expectation, data), (last, now, gap, lun))| Operation::Command {
                kind,
                blocks,
                expectation,
                data,
                last,
                now,
                gap,
                lun,
            },
        );
    let data_out = (
        any::<u8>(),
        any::<bool>(),
        0..8_u8,
        0..8_u8,
        0..9000_u16,
        any::<bool>(),
    )
        .prop_map(
            |(task, solicited, offset, data_sn, bytes, last)| Operation::DataOut {
                task,
                solicited,
                offset,
                data_sn,
                bytes,
                last,
            },
        );
    let manage = (0..12_u8, any::<u8>(), any::<bool>()).prop_map(|(function, task, now)| {
        Operation::Manage {
            function,
            task,
            now,
        }
    });
    let one = prop_oneof![
        10 => command,
        8 => data_out,
        1 => manage,
        1 => (0..9000_u16, any::<bool>()).prop_map(|(bytes, now)| Operation::Nop { bytes, now }),
        1 => (0..3_u8, any::<bool>()).prop_map(|(text, now)| Operation::Text { text, now }),
        1 => (0..64_u8).prop_map(|opcode| Operation::Odd { opcode }),
        8 => (any::<u8>(), 0..12_u8)
            .prop_map(|(which, error)| Operation::Complete { which, error }),
        6 => any::<u16>().prop_map(|bytes| Operation::Send { bytes }),
        3 => Just(Operation::Poll),
        2 => any::<u8>().prop_map(|which| Operation::Acknowledge { which }),
        1 => (0..2000_u16).prop_map(|ms| Operation::Tick { ms }),
        1 => prop_oneof![1 => Just(Operation::Reattach), 2 => Just(Operation::Poll)],
    ];
    prop::collection::vec(one, 0..120)
}

/// What one of several connections sends.
fn requests() -> impl Strategy<Value = Step> {
    let fed = || prop_oneof![3 => Just(u16::MAX), 1 => 0..2000_u16];
    let ahead = || prop_oneof![6 => Just(0_u8), 3 => 1..5_u8, 1 => any::<u8>()];
    let command = (
        (0..8_u8, 0..9_u8, 0..40_u8, 0..40_u8),
        (0..6000_u16, ahead(), any::<u8>(), fed()),
    )
        .prop_map(
            |((line, kind, tag, blocks), (data, ahead, flags, fed))| Step::Command {
                line,
                kind,
                tag,
                blocks,
                data,
                ahead,
                flags,
                fed,
            },
        );
    let data_out = (
        (0..8_u8, any::<u8>(), 0..40_u8),
        (prop::bool::weighted(0.8), 0..9000_u16, any::<bool>(), fed()),
    )
        .prop_map(
            |((line, of, tag), (solicited, bytes, last, fed))| Step::DataOut {
                line,
                of,
                tag,
                solicited,
                bytes,
                last,
                fed,
            },
        );
    let manage = (0..8_u8, 0..8_u8, 0..40_u8, ahead(), any::<bool>()).prop_map(
        |(line, function, tag, ahead, now)| Step::Manage {
            line,
            function,
            tag,
            ahead,
            now,
        },
    );
    let nop = (0..8_u8, any::<bool>(), ahead(), any::<bool>()).prop_map(
        |(line, acknowledges, ahead, now)| Step::Nop {
            line,
            acknowledges,
            ahead,
            now,
        },
    );
    let log_out = (0..8_u8, 0..12_u8, 0..8_u8).prop_map(|(line, reason, other)| Step::LogOut {
        line,
        // Mostly one connection.
        reason: if reason < 3 { reason } else { 1 },
        other,
    });
    prop_oneof![12 => command, 6 => data_out, 2 => manage, 3 => nop, 1 => log_out]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = prop_oneof![
        24 => requests(),
        6 => (0..8_u8, 0..3000_u16).prop_map(|(line, bytes)| Step::Feed { line, bytes }),
        5 => (0..8_u8, any::<u16>()).prop_map(|(line, bytes)| Step::Send { line, bytes }),
        8 => (any::<u8>(), 0..12_u8).prop_map(|(which, error)| Step::Complete { which, error }),
        2 => any::<u8>().prop_map(|which| Step::Acknowledge { which }),
        1 => (0..2000_u16).prop_map(|ms| Step::Tick { ms }),
        4 => Just(Step::Join),
        1 => (0..8_u8).prop_map(|line| Step::Leave { line }),
        1 => (0..8_u8).prop_map(|line| Step::ComeBack { line }),
    ];
    prop::collection::vec(one, 0..160)
}

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn every_accepted_command_is_answered_once_and_all_memory_comes_back(
        setup in setups(),
        operations in operations(),
    ) {
        let mut peer = Peer::new(Bench::new(&setup), None);
        for operation in &operations {
            if !peer.perform(operation) {
                break;
            }
        }
        peer.settle_and_check();
        peer.end();
    }

    #[test]
    fn several_connections_may_do_anything_and_all_memory_comes_back(
        setup in setups(),
        steps in steps(),
    ) {
        let mut crowd = Crowd::new(Bench::new(&setup));
        for step in &steps {
            if !crowd.perform(step) {
                break;
            }
        }
        crowd.end();
    }

    #[test]
    fn a_connection_that_is_lost_anywhere_leaves_nothing_behind(
        setup in setups(),
        operations in operations(),
    ) {
        let mut peer = Peer::new(Bench::new(&setup), None);
        for operation in &operations {
            if !peer.perform(operation) {
                break;
            }
        }
        peer.end();
    }

    #[test]
    fn how_the_bytes_are_cut_makes_no_difference(
        setup in setups(),
        operations in operations(),
        cuts in prop::collection::vec(1..4000_usize, 1..20),
    ) {
        let run = |cuts: Option<Vec<usize>>| {
            let mut peer = Peer::new(Bench::new(&setup), cuts);
            for operation in &operations {
                if !peer.perform(operation) {
                    break;
                }
            }
            peer.settle_and_check();
            let sent = peer.sent_bytes();
            peer.end();
            sent
        };
        let whole = run(None);
        prop_assert!(whole == run(Some(cuts)), "other answers to the same bytes");
        prop_assert!(whole == run(Some(vec![1])), "other answers to single bytes");
    }
}

/// 4 GiB of Data-Out that answers one R2T and never ends: it is counted without overflow.
#[test]
fn data_for_one_r2t_without_end_overflow_nothing() {
    let setup = Setup {
        initial_r2t: true,
        immediate_data: false,
        first_burst_length: 512,
        max_burst_length: 4096,
        max_outstanding_r2t: 2,
        initiator_max_recv_data_segment_length: 8192,
        pool_chunks: 64,
    };
    let mut peer = Peer::new(Bench::new(&setup), None);
    peer.clear_unit_attention();
    peer.perform(&Operation::Command {
        kind: 1,
        blocks: 16,
        expectation: 0,
        data: 0,
        last: true,
        now: false,
        gap: 0,
        lun: 0,
    });
    peer.perform(&Operation::Send { bytes: u16::MAX });
    assert!(peer.data_without_end(16_400, 262_144), "it was asked for");
    peer.settle_and_check();
    peer.end();
}

/// Two requests abort the same write, which is at its device: none is answered before it has ended.
#[test]
fn every_request_that_aborts_a_task_waits_for_it() {
    let setup = Setup {
        initial_r2t: false,
        immediate_data: true,
        first_burst_length: 8192,
        max_burst_length: 8192,
        max_outstanding_r2t: 1,
        initiator_max_recv_data_segment_length: 8192,
        pool_chunks: 64,
    };
    // ABORT TASK and ABORT TASK SET, in any order.
    for functions in [[0, 0], [0, 4], [4, 0], [4, 4]] {
        let mut peer = Peer::new(Bench::new(&setup), None);
        peer.clear_unit_attention();
        peer.perform(&Operation::Command {
            kind: 1,
            blocks: 2,
            expectation: 0,
            data: 1024,
            last: true,
            now: false,
            gap: 0,
            lun: 0,
        });
        for function in functions {
            peer.perform(&Operation::Manage {
                function,
                task: 1,
                now: true,
            });
            assert_eq!(peer.managed(), 0, "answered beside a write at its device");
        }
        peer.perform(&Operation::Complete {
            which: 0,
            error: u8::MAX,
        });
        assert_eq!(peer.managed(), 2);
        peer.settle_and_check();
        peer.end();
    }
}
