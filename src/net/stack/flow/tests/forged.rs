//! Segments of somebody who knows the ends of a connection, and not where its streams are.

use std::time::Duration;

use super::super::super::event::Received;
use super::reversed;
use super::world::{World, WorldConfig, byte};
use crate::net::stack::packet::emit::Bare;
use crate::net::stack::packet::{Flags, Parsed, Seq, Timestamps, parse};
use crate::port::Frame;

/// A timestamp that is newer than any of a test.
const NEWER: u32 = 0x3FFF_FFFF;

/// Brings a segment to an end as if it were its peer's; whether it was believed.
fn forge(world: &mut World, side: usize, [seq, ack]: [u32; 2], time: u32, payload: &[u8]) -> bool {
    let segment = Bare {
        window: 5000,
        timestamps: Some(Timestamps {
            value: time,
            echo: 0,
        }),
        ..Bare::new(
            reversed(world.ends[side].key),
            Seq(seq),
            Seq(ack),
            Flags::ACK,
        )
    };
    let frame = Frame::copied(&segment.to_frame(&world.ends[1 - side].link, payload));
    let Parsed::Tcp(segment) = parse(&frame).unwrap() else {
        panic!("it is a segment");
    };
    let (now, end) = (world.now, &mut world.ends[side]);
    let flow = end.flow.as_mut().unwrap();
    flow.segment(now, &segment, frame, &mut end.core)
}

#[test]
fn what_has_no_place_in_the_stream_acknowledges_nothing() {
    // Before the window, behind it, far away; with data and without.
    for (seq, payload) in [
        (999, &b""[..]),
        (0, b""),
        (0x4444_4444, b""),
        (0xC444_4444, b""),
        (0x4444_4444, b"data"),
        (0xC444_4444, b"data"),
        (900, b"data"),
    ] {
        let mut world = World::new(&WorldConfig::default());
        world.connect();
        world.transfer([200_000, 1000]);
        world.faults.lost = 1.0;
        let given = world.ends[0].given;
        world.write(0, given + 20_000);
        world.turn();
        world.faults.lost = 0.0;
        let (una, max) = world.flow(0).under_way();
        assert!(una.is_before(max));
        let seq = Seq(0x8000_0001).plus(seq).0;
        assert!(!forge(&mut world, 0, [seq, max.0 - 1], NEWER, payload));
        assert_eq!(world.flow(0).under_way(), (una, max));
        world.transfer([0, 0]);
        world.transfer([100_000, 100_000]);
        world.close();
    }
}

#[test]
fn the_handshake_ends_with_the_right_number_only() {
    // Where the stream begins, and elsewhere; with data and without.
    for (seq, payload) in [
        (2, &b""[..]),
        (2, b"EVIL EVIL EVIL"),
        (0x4444_4444, b""),
        (0x4444_4444, b"EVIL"),
    ] {
        for ack in [0x1234_5678, 0xF000_0000, 0x8000_0000, 0x8000_0002] {
            let mut world = World::new(&WorldConfig {
                rtt: Duration::from_millis(10),
                ..WorldConfig::default()
            });
            world.open(0, None);
            world.until(|world| world.ends[1].flow.is_some());
            let before = world.flow(1).under_way();
            assert!(!forge(&mut world, 1, [seq, ack], 1, payload));
            assert_eq!(world.flow(1).under_way(), before);
            assert!(!world.flow(1).is_established());
            world.until(|world| (0..2).all(|side| world.flow(side).is_established()));
            world.ends[1].takes = 0;
            world.write(0, 1000);
            world.until(|world| world.flow(1).is_readable());
            let Ok(Received::Data(chunk)) = world.flow(1).take() else {
                panic!("there is something");
            };
            let expected: Vec<u8> = (0..chunk.len()).map(|at| byte(0, at)).collect();
            assert!(chunk.slices().flatten().eq(&expected));
            world.ends[1].taken = chunk.len();
            world.ends[1].takes = usize::MAX;
            world.transfer([100_000, 100_000]);
            world.close();
        }
    }
}

#[test]
fn a_timestamp_counts_only_with_a_segment_that_does() {
    // Right but for the acknowledgment; right but for its place, before the window and behind it.
    for numbers in [
        [1002, 0x4000_0000],
        [1002, 0x8000_4000],
        [1001, 0x8000_03E9],
        [0x4444_4444, 0x8000_03E9],
    ] {
        let mut world = World::new(&WorldConfig::default());
        world.connect();
        world.transfer([1000, 1000]);
        assert!(!forge(&mut world, 1, numbers, NEWER, b""));
        let start = world.now;
        world.transfer([100_000, 100_000]);
        assert!(world.now - start < Duration::from_secs(1));
        world.close();
    }
}
