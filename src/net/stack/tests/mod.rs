//! The stack over ports without a network behind them, in virtual time.

mod control;
mod flows;
mod moving;
mod opening;
mod pair;
mod tape;
mod waits;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::model::{Address, Network, Portal, Settings};
use super::{AddressState, Event, Stack};
use crate::port::Frame;
use tape::Tape;

const MS: Duration = Duration::from_millis(1);

fn network(vlan: Option<u16>, addresses: &[&str]) -> Network {
    let addresses = addresses.iter().map(|text| {
        let (ip, prefix) = text.split_once('/').unwrap();
        Address {
            ip: ip.parse().unwrap(),
            prefix: prefix.parse().unwrap(),
        }
    });
    Network {
        vlan,
        pcp: 3,
        dscp: 10,
        addresses: addresses.collect(),
        routes: vec![],
    }
}

/// 10.0.0.1 and fd00::1 without a tag, 10.0.7.1 and fd00:7::1 in VLAN 7; portals on 3260.
fn settings() -> Settings {
    let networks = vec![
        network(None, &["10.0.0.1/24", "fd00::1/64"]),
        network(Some(7), &["10.0.7.1/24", "fd00:7::1/64"]),
    ];
    let portals = networks.iter().flat_map(|network| {
        network.addresses.iter().map(|address| Portal {
            address: (address.ip, 3260).into(),
            tag: 1,
        })
    });
    Settings {
        portals: portals.collect(),
        networks,
        secret: [7; 32],
        flows_max: 64,
        half_open_max: 8,
        keepalive: Duration::from_secs(30),
        user_timeout: Duration::from_secs(60),
        probe_interval: super::model::PROBE_INTERVAL,
    }
}

/// A stack whose addresses are in use, and the time at which they are.
fn ready(settings: Settings) -> (Stack<Tape>, Instant) {
    let mut now = crate::net::some_instant();
    let mut stack = Stack::new(Tape::new(0), &Arc::new(settings), now).unwrap();
    let mut left: usize = stack
        .settings()
        .networks
        .iter()
        .map(|network| network.addresses.len())
        .sum();
    while left > 0 {
        stack.tick(now);
        while let Some(event) = stack.next_event() {
            let Event::Address(news) = event else {
                panic!("{event:?} before anything came");
            };
            assert_eq!(news.state, AddressState::Ours);
            left -= 1;
        }
        now += 100 * MS;
    }
    // The announcements too.
    while let Some(at) = stack.deadline() {
        now = now.max(at);
        stack.tick(now);
    }
    stack.port_mut().sent.clear();
    (stack, now)
}

/// Puts frames in and gives what is sent because of them.
fn answers(stack: &mut Stack<Tape>, now: Instant, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let frames = frames.iter().map(|bytes| Frame::copied(bytes));
    stack.port_mut().incoming.extend(frames);
    while stack.receive(now) {}
    while stack.transmit(now) {}
    std::mem::take(&mut stack.port_mut().sent)
}

fn events(stack: &mut Stack<Tape>) -> Vec<Event> {
    std::iter::from_fn(|| stack.next_event()).collect()
}
