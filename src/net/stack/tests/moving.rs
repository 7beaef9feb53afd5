//! Two queues of one device: flows that move, and frames that come to the wrong one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::model::{FlowId, FlowKey, Settings};
use super::super::{Event, Lost, Received, Stack};
use super::pair::{client_settings, pattern, take_all};
use super::settings;
use crate::mem::Piece;
use crate::net::Moved;
use crate::port::Frame;
use crate::port::memory::{self, Config, End};

const TURNS_MAX: usize = 100_000;

struct Cores {
    now: Instant,
    client: Stack<End>,
    servers: Vec<Stack<End>>,
    told_client: Vec<Event>,
    /// Other than what cores pass to each other.
    told: [Vec<Event>; 2],
    strays: usize,
}

impl Cores {
    fn new() -> Self {
        Self::of(settings())
    }

    fn of(settings: Settings) -> Self {
        let now = crate::net::some_instant();
        let (mut left, right) = memory::mesh(&Config::default(), 1, 2).unwrap();
        let settings = Arc::new(settings);
        let servers = right.into_iter();
        let mut cores = Self {
            now,
            client: Stack::new(left.remove(0), &Arc::new(client_settings(64)), now).unwrap(),
            servers: servers
                .map(|end| Stack::new(end, &settings, now).unwrap())
                .collect(),
            told_client: vec![],
            told: [vec![], vec![]],
            strays: 0,
        };
        cores.run(Duration::from_secs(5));
        for told in &mut cores.told {
            told.retain(|event| !matches!(event, Event::Address(_)));
            assert!(told.is_empty(), "{told:?}");
        }
        cores.told_client.clear();
        cores
    }

    fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..TURNS_MAX {
            let mut busy = turn(&mut self.client, self.now);
            self.told_client
                .extend(std::iter::from_fn(|| self.client.next_event()));
            for core in 0..2 {
                busy |= turn(&mut self.servers[core], self.now);
                while let Some(event) = self.servers[core].next_event() {
                    busy = true;
                    self.pass(core, event);
                }
            }
            quiet = if busy { 0 } else { quiet + 1 };
            if quiet == 2 {
                return;
            }
        }
        panic!("it never ends");
    }

    /// What a reactor does with the events that are for other cores.
    fn pass(&mut self, core: usize, event: Event) {
        let other = &mut self.servers[1 - core];
        match event {
            Event::Stray { to, frame } => {
                assert_eq!(to, 1 - core);
                self.strays += 1;
                other.receive_frame(self.now, frame);
            }
            Event::Foreign(frame) => {
                let bytes: Vec<u8> = frame.slices().flatten().copied().collect();
                other.receive_frame(self.now, Frame::copied(&bytes));
            }
            Event::Learned(neighbour) => other.learn(neighbour, self.now),
            Event::Address(news) => {
                other.learn_address(news, self.now);
                self.told[core].push(event);
            }
            Event::Gone { key, left } => {
                other.forget_forwarding(key, left, self.now);
                self.told[core].push(Event::Gone { key, left: None });
            }
            _ => self.told[core].push(event),
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..TURNS_MAX {
            self.settle();
            let servers = self.servers.iter().map(Stack::deadline);
            let times = servers.chain([self.client.deadline()]);
            match times.flatten().min() {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("it never ends");
    }

    /// A connection: at the client, its core, and at that core.
    fn connect(&mut self) -> (FlowId, usize, FlowId, FlowKey) {
        let (local, peer) = ("10.0.0.2:0", "10.0.0.1:3260");
        let (local, peer) = (local.parse().unwrap(), peer.parse().unwrap());
        let call = self.client.connect(local, peer, None, self.now).unwrap();
        self.run(Duration::from_millis(20));
        self.told_client.clear();
        let found = (0..2).find_map(|core| match self.told[core].pop() {
            Some(Event::Opened { flow, key, .. }) => Some((core, flow, key)),
            _ => None,
        });
        let (core, flow, key) = found.expect("some core has it");
        (call, core, flow, key)
    }

    /// All bytes from the client to a core and back.
    fn exchange(&mut self, call: FlowId, core: usize, flow: FlowId, bytes: &[u8]) {
        let mut sent = 0;
        let (mut there, mut back) = (vec![], vec![]);
        let mut returned = 0;
        for _ in 0..TURNS_MAX {
            if sent < bytes.len()
                && let Moved::Bytes(count) = self
                    .client
                    .send(call, &[Piece::Bytes(&bytes[sent..])])
                    .unwrap()
            {
                sent += count;
            }
            self.run(Duration::from_millis(1));
            there.extend(take_all(&mut self.servers[core], flow).unwrap());
            if returned < there.len()
                && let Moved::Bytes(count) = self.servers[core]
                    .send(flow, &[Piece::Bytes(&there[returned..])])
                    .unwrap()
            {
                returned += count;
            }
            self.run(Duration::from_millis(1));
            back.extend(take_all(&mut self.client, call).unwrap());
            if back.len() == bytes.len() {
                assert!(back == bytes);
                return;
            }
        }
        panic!("{} of {} bytes came back", back.len(), bytes.len());
    }
}

fn turn(stack: &mut Stack<End>, now: Instant) -> bool {
    let busy = stack.receive(now);
    stack.tick(now);
    stack.transmit(now) || busy
}

#[test]
fn both_queues_take_connections() {
    let mut cores = Cores::new();
    let mut taken = [0; 2];
    for _ in 0..32 {
        let (call, core, flow, _) = cores.connect();
        taken[core] += 1;
        cores.exchange(call, core, flow, &pattern(5000));
    }
    assert!(taken.iter().all(|&count| count > 0), "{taken:?}");
}

#[test]
fn a_flow_moves_with_its_unread_bytes_and_its_frames_follow_it() {
    let mut cores = Cores::new();
    let (call, core, flow, key) = cores.connect();
    let other = 1 - core;
    cores.exchange(call, core, flow, &pattern(100_000));
    cores.client.send(call, &[Piece::Bytes(b"unread")]).unwrap();
    cores.run(Duration::from_millis(5));
    // Something of ours is still on its way.
    cores.servers[core]
        .send(flow, &[Piece::Bytes(b"unsent")])
        .unwrap();
    let detached = cores.servers[core].detach(flow, other).unwrap();
    assert_eq!(detached.key(), key);
    assert_eq!(cores.servers[core].flows(), 0);
    assert!(cores.servers[core].ends(flow).is_none());
    let detached = std::thread::spawn(move || detached).join().unwrap();
    let now = cores.now;
    let moved = cores.servers[other].attach(detached, now).unwrap();
    assert_eq!(cores.servers[other].ends(moved), Some(key));
    cores.run(Duration::from_millis(20));
    let readable = cores.told[other]
        .iter()
        .any(|event| matches!(event, Event::Readable(flow) if *flow == moved));
    assert!(readable, "{:?}", cores.told);
    assert_eq!(
        take_all(&mut cores.servers[other], moved).unwrap(),
        b"unread"
    );
    assert_eq!(take_all(&mut cores.client, call).unwrap(), b"unsent");
    assert!(cores.strays > 0, "an acknowledgement came to the old core");
    cores.exchange(call, other, moved, &pattern(1_000_000));
    cores.client.finish(call);
    cores.run(Duration::from_millis(20));
    assert!(matches!(
        cores.servers[other].take(moved),
        Ok(Received::Closed)
    ));
    cores.servers[other].finish(moved);
    cores.run(Duration::from_secs(65));
    let gone = cores.told[other]
        .iter()
        .filter(|event| matches!(event, Event::Gone { key: ends, .. } if *ends == key));
    assert_eq!(gone.count(), 1);
    // The old core has forgotten: the same ends may come again.
    let strays = cores.strays;
    let call = cores
        .client
        .connect(key.peer, key.local, None, cores.now)
        .unwrap();
    cores.run(Duration::from_millis(20));
    assert!(cores.client.ends(call).is_some());
    assert_eq!(cores.strays, strays);
    assert_eq!(cores.servers[core].flows(), 1);
}

#[test]
fn an_aborted_flow_that_had_moved_is_told_to_be_gone() {
    let mut cores = Cores::new();
    let (_call, core, flow, key) = cores.connect();
    let detached = cores.servers[core].detach(flow, 1 - core).unwrap();
    assert!(cores.servers[core].detach(flow, 1 - core).is_none(), "once");
    let now = cores.now;
    let moved = cores.servers[1 - core].attach(detached, now).unwrap();
    assert!(
        cores.servers[1 - core].detach(moved, core).is_none(),
        "never back"
    );
    cores.servers[1 - core].abort(moved);
    cores.run(Duration::from_millis(20));
    let gone = |event: &Event| matches!(event, Event::Gone { key: ends, .. } if *ends == key);
    assert!(cores.told[1 - core].iter().any(gone));
    let lost = cores.told_client.iter();
    assert_eq!(
        lost.filter(|event| matches!(event, Event::Lost(_))).count(),
        1
    );
    // What comes now is nobody's.
    assert_eq!(cores.servers[0].flows() + cores.servers[1].flows(), 0);
}

#[test]
fn a_flow_for_which_there_is_no_room_is_reset() {
    let mut cores = Cores::of(Settings {
        flows_max: 1,
        ..settings()
    });
    let (first, core, flow, key) = cores.connect();
    let other = 1 - core;
    // Until the other core has one, too.
    let local = "10.0.0.2:0".parse().unwrap();
    let peer = "10.0.0.1:3260".parse().unwrap();
    for _ in 0..64 {
        cores.client.connect(local, peer, None, cores.now).unwrap();
        cores.run(Duration::from_millis(20));
        if cores.servers[other].flows() == 1 {
            break;
        }
    }
    assert_eq!(cores.servers[other].flows(), 1);
    cores.told_client.clear();
    let detached = cores.servers[core].detach(flow, other).unwrap();
    let now = cores.now;
    assert!(cores.servers[other].attach(detached, now).is_none());
    cores.servers[core].forget_forwarding(key, None, now);
    cores.run(Duration::from_millis(20));
    let lost = |event: &Event| matches!(event, Event::Lost(flow) if *flow == first);
    assert!(
        cores.told_client.iter().any(lost),
        "{:?}",
        cores.told_client
    );
    assert_eq!(cores.client.take(first).unwrap_err(), Lost::Reset);
}

#[test]
fn a_newer_syn_of_a_moved_flow_goes_to_the_core_that_its_frames_come_to() {
    let mut cores = Cores::new();
    let (call, core, flow, key) = cores.connect();
    let other = 1 - core;
    let detached = cores.servers[core].detach(flow, other).unwrap();
    let now = cores.now;
    let moved = cores.servers[other].attach(detached, now).unwrap();
    cores.servers[other].finish(moved);
    cores.run(Duration::from_millis(5));
    cores.client.finish(call);
    cores.run(Duration::from_millis(20));
    assert_eq!(cores.servers[core].waits.len(), 1);
    assert_eq!(cores.servers[other].waits.len(), 0);
    let strays = cores.strays;
    for told in &mut cores.told {
        told.clear();
    }
    let now = cores.now;
    cores
        .client
        .connect(key.peer, key.local, None, now)
        .unwrap();
    // At once, not when the SYN comes again.
    cores.run(Duration::from_millis(20));
    let opened = |event: &Event| matches!(event, Event::Opened { .. });
    assert!(cores.told[core].iter().any(opened), "{:?}", cores.told);
    assert!(!cores.told[other].iter().any(opened));
    assert_eq!(
        (cores.servers[core].flows(), cores.servers[other].flows()),
        (1, 0)
    );
    assert_eq!((cores.servers[core].waits.len(), cores.strays), (0, strays));
}

/// What is left of moved flows takes no place where new ones come in.
#[test]
fn flows_that_moved_and_ended_leave_room_for_others() {
    let mut cores = Cores::of(Settings {
        flows_max: 2,
        ..settings()
    });
    for _ in 0..10 {
        let (call, core, flow, key) = cores.connect();
        let other = 1 - core;
        let detached = cores.servers[core].detach(flow, other).unwrap();
        let now = cores.now;
        let moved = cores.servers[other].attach(detached, now).unwrap();
        cores.servers[other].finish(moved);
        cores.run(Duration::from_millis(5));
        cores.client.finish(call);
        cores.run(Duration::from_millis(20));
        assert!(cores.servers[core].waits.has(&key));
        assert!(!cores.servers[other].waits.has(&key));
        for told in &mut cores.told {
            told.clear();
        }
    }
    let forwarded = cores.servers.iter().map(|server| server.forwarded);
    assert_eq!(forwarded.sum::<usize>(), 0);
}

/// Flows that are elsewhere have the last places of the table.
#[test]
fn a_flow_without_a_place_in_the_table_is_reset() {
    let mut cores = Cores::of(Settings {
        flows_max: 1,
        ..settings()
    });
    let (local, peer) = ("10.0.0.2:0", "10.0.0.1:3260");
    let (local, peer) = (local.parse().unwrap(), peer.parse().unwrap());
    let mut away = vec![];
    let mut last = None;
    for _ in 0..64 {
        let call = cores.client.connect(local, peer, None, cores.now).unwrap();
        cores.run(Duration::from_millis(20));
        if let Some(Event::Opened { flow, .. }) = cores.told[0].pop() {
            away.push(cores.servers[0].detach(flow, 1).unwrap());
        }
        if let Some(Event::Opened { flow, .. }) = cores.told[1].pop() {
            last = Some((call, flow));
        }
        if away.len() == 2 && last.is_some() {
            break;
        }
    }
    let (call, flow) = last.expect("one came to the second queue");
    assert_eq!(
        (cores.servers[0].flows(), cores.servers[0].forwarded),
        (0, 2)
    );
    assert!(!cores.servers[0].has_room());
    let detached = cores.servers[1].detach(flow, 0).unwrap();
    let now = cores.now;
    assert!(cores.servers[0].attach(detached, now).is_none());
    cores.run(Duration::from_millis(20));
    assert_eq!(cores.client.take(call).unwrap_err(), Lost::Reset);
}
