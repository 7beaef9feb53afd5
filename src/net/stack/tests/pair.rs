//! Two stacks with a cable between them, in virtual time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::model::{FlowId, FlowKey, Settings};
use super::super::{Event, Lost, Received, Stack};
use super::{MS, network, settings};
use crate::mem::Piece;
use crate::net::Moved;
use crate::port::memory::{self, Config, End};

/// Turns in which nothing moves but time, at most: a test that needs more is stuck.
const TURNS_MAX: usize = 1_000_000;

#[derive(Debug)]
pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) server: Stack<End>,
    pub(super) client: Stack<End>,
    /// Told by the server, and by the client, and not looked at yet.
    pub(super) told: [Vec<Event>; 2],
}

/// 10.0.0.2 and fd00::2 without a tag, 10.0.7.2 and fd00:7::2 in VLAN 7; no portals.
pub(super) fn client_settings(flows_max: usize) -> Settings {
    Settings {
        networks: vec![
            network(None, &["10.0.0.2/24", "fd00::2/64"]),
            network(Some(7), &["10.0.7.2/24", "fd00:7::2/64"]),
        ],
        portals: vec![],
        secret: [9; 32],
        flows_max,
        ..settings()
    }
}

impl Pair {
    pub(super) fn new(server: Settings) -> Self {
        Self::over(server, &Config::default())
    }

    /// Both with their addresses in use.
    pub(super) fn over(server: Settings, config: &Config) -> Self {
        let now = crate::net::some_instant();
        let client = client_settings(server.flows_max);
        let (left, right) = memory::pair(config).unwrap();
        let mut pair = Self {
            now,
            server: Stack::new(left, &Arc::new(server), now).unwrap(),
            client: Stack::new(right, &Arc::new(client), now).unwrap(),
            told: [vec![], vec![]],
        };
        pair.run(Duration::from_secs(5));
        for side in &mut pair.told {
            let all = side
                .drain(..)
                .all(|event| matches!(event, Event::Address(_)));
            assert!(all, "nothing else has happened");
        }
        pair
    }

    /// One turn of both, until neither has anything to do.
    pub(super) fn settle(&mut self) {
        // What one sends in its last turn is the other's next.
        let mut quiet = 0;
        for _ in 0..TURNS_MAX {
            let mut busy = false;
            for (stack, told) in [&mut self.server, &mut self.client]
                .into_iter()
                .zip(&mut self.told)
            {
                busy |= stack.receive(self.now);
                stack.tick(self.now);
                busy |= stack.transmit(self.now);
                let events = std::iter::from_fn(|| stack.next_event());
                // There is no other core.
                told.extend(events.filter(|event| !matches!(event, Event::Learned(_))));
            }
            quiet = if busy { 0 } else { quiet + 1 };
            if quiet == 2 {
                return;
            }
        }
        panic!("it never ends");
    }

    /// Lets time pass up to the next timer, if that is not beyond `end`.
    fn leap(&mut self, end: Instant) -> bool {
        let times = [self.server.deadline(), self.client.deadline()];
        match times.into_iter().flatten().min() {
            Some(at) if at <= end => {
                self.now = self.now.max(at);
                true
            }
            _ => false,
        }
    }

    /// Everything that happens in so long.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..TURNS_MAX {
            self.settle();
            if !self.leap(end) {
                self.now = end;
                return;
            }
        }
        panic!("it never ends");
    }

    /// A connection from the client to a portal: at the client, at the server, and its ends as the
    /// server sees them.
    pub(super) fn connect(
        &mut self,
        local: &str,
        peer: &str,
        vlan: Option<u16>,
    ) -> (FlowId, FlowId, FlowKey) {
        let (local, peer) = (local.parse().unwrap(), peer.parse().unwrap());
        let call = self.client.connect(local, peer, vlan, self.now).unwrap();
        self.run(20 * MS);
        let client = self.told[1]
            .iter()
            .position(|event| matches!(event, Event::Connected(flow) if *flow == call));
        self.told[1].remove(client.expect("the client is connected"));
        let server = self.told[0]
            .iter()
            .position(|event| matches!(event, Event::Opened { .. }));
        let Event::Opened { flow, key, tag } = self.told[0].remove(server.expect("and the server"))
        else {
            unreachable!();
        };
        assert_eq!((tag, key.local, key.vlan), (1, peer, vlan));
        (call, flow, key)
    }

    /// Sends all of `bytes` from one side and takes them at the other.
    pub(super) fn carry(&mut self, from: (Side, FlowId), to: (Side, FlowId), bytes: &[u8]) {
        let mut sent = 0;
        let mut taken = Vec::with_capacity(bytes.len());
        for _ in 0..TURNS_MAX {
            if sent < bytes.len() {
                let pieces = [Piece::Bytes(&bytes[sent..])];
                match self.stack(from.0).send(from.1, &pieces).unwrap() {
                    Moved::Bytes(count) => sent += count,
                    Moved::WouldBlock => {}
                    Moved::Closed => panic!("sending is not closed by the peer"),
                }
            }
            self.settle();
            taken.extend(take_all(self.stack(to.0), to.1).unwrap());
            if taken.len() == bytes.len() {
                assert!(taken == bytes, "other bytes than were sent");
                return;
            }
            self.settle();
            let far = self.now + Duration::from_secs(60);
            if sent == bytes.len() && !self.leap(far) {
                break;
            }
        }
        panic!("{} of {} bytes came", taken.len(), bytes.len());
    }

    pub(super) fn stack(&mut self, side: Side) -> &mut Stack<End> {
        match side {
            Side::Server => &mut self.server,
            Side::Client => &mut self.client,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Server,
    Client,
}

/// Everything that there is to be taken.
pub(super) fn take_all(stack: &mut Stack<End>, flow: FlowId) -> Result<Vec<u8>, Lost> {
    let mut bytes = vec![];
    loop {
        match stack.take(flow)? {
            Received::Data(chunk) => {
                assert!(!chunk.is_empty());
                bytes.extend(chunk.slices().flatten());
            }
            Received::WouldBlock | Received::Closed => return Ok(bytes),
        }
    }
}

/// Bytes that say where they are.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    let mut bytes = vec![];
    for at in 0..len.div_ceil(4) {
        bytes.extend(u32::try_from(at).unwrap().to_be_bytes());
    }
    bytes.truncate(len);
    bytes
}
