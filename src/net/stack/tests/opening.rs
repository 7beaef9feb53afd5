//! Who is let in: what a SYN has to bring.

use std::net::Ipv4Addr;

use super::super::Dropped;
use super::super::model::{FlowKey, Settings};
use super::super::packet::emit::{Bare, LinkHeader};
use super::super::packet::{Flags, Seq};
use super::tape::{OURS, THEIRS};
use super::{answers, ready, settings};

/// With a flow at once, and with a cookie.
#[test]
fn peers_of_small_segments_are_dropped_and_counted_by_that_reason() {
    for half_open_max in [8, 0] {
        let (mut stack, now) = ready(Settings {
            half_open_max,
            ..settings()
        });
        let syn = |port: u16, mss: u16| {
            let peer = (Ipv4Addr::from([10, 0, 0, 2]), port);
            let key = FlowKey {
                local: peer.into(),
                peer: ([10, 0, 0, 1], 3260).into(),
                vlan: None,
            };
            let link = LinkHeader {
                dest: OURS,
                source: THEIRS,
                tag: None,
            };
            let bare = Bare {
                mss: Some(mss),
                window: 1000,
                ..Bare::new(key, Seq(1), Seq(0), Flags::SYN)
            };
            bare.to_frame(&link, &[])
        };
        let small = [syn(40000, 0), syn(40001, 1), syn(40002, 215)];
        assert!(answers(&mut stack, now, &small).is_empty());
        assert_eq!(stack.counters().dropped(Dropped::SmallSegments), 3);
        assert_eq!(stack.counters().dropped_in_all(), 3, "each for one reason");
        assert_eq!((stack.counters().syns, stack.flows()), (3, 0));
        assert_eq!(answers(&mut stack, now, &[syn(40003, 216)]).len(), 1);
        assert_eq!(stack.counters().dropped_in_all(), 3, "216 is served");
        let cookies = u64::from(half_open_max == 0);
        assert_eq!(stack.counters().cookies_sent, cookies);
    }
}
