//! Two cores with a flow each, joined by a line with seeded faults. Time passes only here.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::spy::Spy;
use crate::mem::{CHUNK_BYTES, Pages, Piece, Pool};
use crate::net::Moved;
use crate::net::stack::counters::StackCounters;
use crate::net::stack::event::Received;
use crate::net::stack::flow::{Egress, Flow, Opening, WINDOW_SHIFT, segment_bytes};
use crate::net::stack::guard::Rules;
use crate::net::stack::isn::Numbers;
use crate::net::stack::model::{FlowKey, Network, Settings};
use crate::net::stack::packet::emit::{Bare, LinkHeader};
use crate::net::stack::packet::{self, Flags, Parsed, Segment, Seq, Timestamps};
use crate::net::stack::waits::{Heard, TimeWait};
use crate::net::stack::wire::Core;
use crate::port::{Burst, Frame, Port, memory};

/// A reader that has not taken everything comes back after so long.
const READ_TIME: Duration = Duration::from_micros(20);

/// What happens to frames, each with its probability.
#[derive(Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) lost: f64,
    pub(super) late: f64,
    pub(super) doubled: f64,
}

#[derive(Clone)]
pub(super) struct WorldConfig {
    pub(super) seed: u64,
    pub(super) ipv6: bool,
    pub(super) isn: [u32; 2],
    pub(super) faults: Faults,
    /// There and back.
    pub(super) rtt: Duration,
    pub(super) port: memory::Config,
}

impl Default for WorldConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            ipv6: false,
            isn: [1, 0x8000_0000],
            faults: Faults::default(),
            rtt: Duration::from_micros(200),
            port: memory::Config::default(),
        }
    }
}

/// What the timestamps of cookies show.
pub(super) const COOKIE_CLOCK: u32 = 1_000_000;

/// A generator of numbers: splitmix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    #[expect(clippy::cast_precision_loss, reason = "a probability")]
    pub(super) fn happens(&mut self, probability: f64) -> bool {
        (self.next() as f64) < probability * u64::MAX as f64
    }
}

/// The byte at `at` of the stream that end `side` sends.
pub(super) fn byte(side: usize, at: usize) -> u8 {
    let mixed = (at as u64 ^ (side as u64) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_be_bytes()[0]
}

pub(super) struct End {
    pub(super) core: Core<Spy>,
    pub(super) flow: Option<Box<Flow>>,
    /// What is left of it.
    pub(super) wait: Option<TimeWait>,
    pub(super) key: FlowKey,
    isn: Seq,
    pub(super) link: LinkHeader,
    pub(super) pool: Pool,
    /// Frames on their way here, by their arrival.
    pub(super) inbox: BTreeMap<(Instant, u64), Frame>,
    /// Bytes given to the flow, and taken from it.
    pub(super) given: usize,
    pub(super) taken: usize,
    pub(super) closed: bool,
    /// Takes of what has come that it does in one turn.
    pub(super) takes: usize,
    /// Longer packets that come here are lost.
    pub(super) path_mtu: usize,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) ends: [End; 2],
    pub(super) random: Random,
    pub(super) faults: Faults,
    rtt: Duration,
    settings: Settings,
    network: Network,
    mtu: u16,
    order: u64,
    /// SYNs are answered with cookies.
    pub(super) numbers: Option<Numbers>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for end in &self.ends {
            writeln!(
                f,
                "{} given, {} taken, {} on the way, {:?}, {:?}",
                end.given,
                end.taken,
                end.inbox.len(),
                end.flow,
                end.core.counters
            )?;
        }
        Ok(())
    }
}

fn addresses(ipv6: bool) -> [SocketAddr; 2] {
    let ip = |last: u8| -> IpAddr {
        if ipv6 {
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into()).into()
        } else {
            Ipv4Addr::new(10, 0, 0, last).into()
        }
    };
    [SocketAddr::new(ip(1), 50_000), SocketAddr::new(ip(2), 3260)]
}

impl World {
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant will do to start with"
    )]
    pub(super) fn new(config: &WorldConfig) -> Self {
        let [one, two] = addresses(config.ipv6);
        let (left, right) = memory::pair(&config.port).unwrap();
        let end = |port: memory::End, local, peer, side: usize| End {
            core: Core::new(Spy::new(port), Pages::Normal).unwrap(),
            flow: None,
            wait: None,
            key: FlowKey {
                vlan: None,
                local,
                peer,
            },
            isn: Seq(config.isn[side]),
            link: LinkHeader {
                source: config.port.macs[side],
                dest: config.port.macs[1 - side],
                tag: None,
            },
            pool: Pool::new(256 * CHUNK_BYTES, Pages::Normal).unwrap(),
            inbox: BTreeMap::new(),
            given: 0,
            taken: 0,
            closed: false,
            takes: usize::MAX,
            path_mtu: usize::MAX,
        };
        Self {
            now: Instant::now(),
            ends: [end(left, one, two, 0), end(right, two, one, 1)],
            random: Random(config.seed),
            faults: config.faults,
            rtt: config.rtt,
            settings: Settings {
                networks: Vec::new(),
                portals: Vec::new(),
                secret: [0; 32],
                flows_max: 1,
                half_open_max: 1,
                keepalive: Duration::from_secs(60),
                user_timeout: Duration::from_secs(30),
                probe_interval: crate::net::stack::model::PROBE_INTERVAL,
            },
            network: Network {
                vlan: None,
                pcp: 0,
                dscp: 10,
                addresses: Vec::new(),
                routes: Vec::new(),
            },
            mtu: config.port.mtu,
            order: 0,
            numbers: None,
        }
    }

    pub(super) fn counters(&self, side: usize) -> &StackCounters {
        &self.ends[side].core.counters
    }

    pub(super) fn flow(&mut self, side: usize) -> &mut Flow {
        self.ends[side].flow.as_mut().unwrap()
    }

    /// Begins a connection of an end: by a SYN, or of its own.
    pub(super) fn open(&mut self, side: usize, syn: Option<&Segment>) {
        let end = &mut self.ends[side];
        let opening = Opening {
            settings: &self.settings,
            network: &self.network,
            key: end.key,
            isn: end.isn,
            path_mtu: self.mtu,
            link: end.link,
            rules: Rules::default(),
            ticks: 0,
            now: self.now,
        };
        end.flow = match syn {
            Some(syn) => Flow::accept(&opening, syn, &mut end.core),
            None => Flow::connect(&opening, &mut end.core),
        };
        assert!(end.flow.is_some());
    }

    /// Both ends stand.
    pub(super) fn connect(&mut self) {
        self.open(0, None);
        self.until(|world| {
            let stands = |end: &End| end.flow.as_ref().is_some_and(|flow| flow.is_established());
            world.ends.iter().all(stands)
        });
    }

    /// Each end sends so many bytes more, and gets the other's.
    pub(super) fn transfer(&mut self, bytes: [usize; 2]) {
        let goal: [usize; 2] = std::array::from_fn(|side| self.ends[side].given + bytes[side]);
        self.until(|world| {
            for (side, &goal) in goal.iter().enumerate() {
                world.write(side, goal);
            }
            (0..2).all(|side| world.ends[side].taken == goal[1 - side])
        });
    }

    /// Both ends finish, and are over.
    pub(super) fn close(&mut self) {
        for side in 0..2 {
            self.flow(side).finish();
        }
        self.are_over();
    }

    /// Both ends end, and everything was given back.
    pub(super) fn are_over(&mut self) {
        self.until(|world| {
            let gone = |end: &End| end.flow.as_ref().is_none_or(|flow| flow.is_closed());
            let over = |end: &End| end.closed && gone(end);
            world.ends.iter().all(over)
        });
        let lost = |end: &End| end.flow.as_ref().is_some_and(|flow| flow.lost().is_some());
        assert!(!self.ends.iter().any(lost), "{self:?}");
        for end in &mut self.ends {
            end.flow = None;
            end.wait = None;
            end.inbox.clear();
            assert_eq!(end.pool.available(), end.pool.chunks());
        }
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.turn();
            self.pass(end);
        }
    }

    /// Runs until that is so, which must be within bounds.
    pub(super) fn until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let limit = self.now + Duration::from_secs(600);
        loop {
            for _ in 0..2 {
                self.turn();
                if done(self) {
                    return;
                }
            }
            assert!(self.now < limit, "it does not come to its end: {self:?}");
            self.pass(limit);
        }
    }

    /// Gives the flow of an end something to send, in pieces of all kinds, up to `goal` bytes.
    pub(super) fn write(&mut self, side: usize, goal: usize) {
        loop {
            let (header, data) = (self.random.below(60), self.random.below(40_000) + 1);
            let end = &mut self.ends[side];
            let Some(flow) = end.flow.as_mut() else {
                return;
            };
            let header = header.min(goal - end.given);
            let data = data.min(goal - end.given - header);
            if header + data == 0 {
                return;
            }
            let from = end.given;
            let bytes: Vec<u8> = (from..from + header).map(|at| byte(side, at)).collect();
            let Some(mut buf) = end.pool.alloc(data + 7) else {
                return;
            };
            let body: Vec<u8> = (0..data).map(|at| byte(side, from + header + at)).collect();
            buf.copy_from(7, &body);
            let pieces = [Piece::Bytes(&bytes), Piece::Buffer(&buf, 7..7 + data)];
            match flow.send(&pieces).unwrap() {
                Moved::Bytes(taken) => {
                    end.given += taken;
                    if taken < header + data {
                        return;
                    }
                }
                Moved::WouldBlock => return,
                Moved::Closed => panic!("a send is never told of the peer's end"),
            }
        }
    }

    /// Everything that can happen now.
    pub(super) fn turn(&mut self) {
        for side in 0..2 {
            self.receive(side);
            self.read(side);
            self.send(side);
        }
    }

    fn receive(&mut self, side: usize) {
        while let Some((&key, _)) = self.ends[side].inbox.first_key_value()
            && key.0 <= self.now
        {
            let frame = self.ends[side].inbox.remove(&key).unwrap();
            let Parsed::Tcp(segment) = packet::parse(&frame).unwrap() else {
                panic!("only TCP is sent");
            };
            assert_eq!(segment.key, self.ends[side].key);
            if self.ends[side].wait.is_some() {
                self.hear_last(side, &segment);
                continue;
            }
            if self.ends[side].flow.is_none() && self.strange(side, &segment) {
                continue;
            }
            let end = &mut self.ends[side];
            if let Some(flow) = &mut end.flow {
                let _ = flow.segment(self.now, &segment, frame, &mut end.core);
            }
        }
    }

    /// What comes where a flow is in TIME-WAIT.
    fn hear_last(&mut self, side: usize, segment: &Segment) {
        let end = &mut self.ends[side];
        let wait = end.wait.as_mut().expect("there is one");
        match wait.hear(self.now, segment) {
            Heard::Answer { answer, .. } => end.core.answer(&answer, &end.link),
            Heard::Silence => {}
            Heard::Reopens { .. } => panic!("nobody begins a second connection"),
        }
    }

    /// What comes where there is no flow. `true`: that was all about it.
    fn strange(&mut self, side: usize, segment: &Segment) -> bool {
        let Some(numbers) = self.numbers.clone() else {
            if segment.is_opening() {
                self.open(side, Some(segment));
            }
            return true;
        };
        let (now, end) = (self.now, &mut self.ends[side]);
        if segment.is_opening() {
            let cookie = numbers.cookie(segment, COOKIE_CLOCK, now).unwrap();
            let times = cookie.timestamp.zip(segment.options.timestamps);
            let answer = Bare {
                window: u16::MAX,
                mss: Some(segment_bytes(&end.key, self.mtu)),
                window_scale: cookie.window_scale.map(|_| WINDOW_SHIFT),
                sack_permitted: cookie.sack_permitted,
                timestamps: times.map(|(value, theirs)| Timestamps {
                    value,
                    echo: theirs.value,
                }),
                ..Bare::new(
                    segment.key,
                    cookie.isn,
                    segment.seq.plus(1),
                    Flags::SYN | Flags::ACK,
                )
            };
            end.core.answer(&answer, &end.link);
            return true;
        }
        let Some(cookie) = numbers.open(segment, now) else {
            return true;
        };
        let opening = Opening {
            settings: &self.settings,
            network: &self.network,
            key: end.key,
            isn: end.isn,
            path_mtu: self.mtu,
            link: end.link,
            rules: Rules::default(),
            now,
            ticks: 0,
        };
        end.flow = Flow::accept_cookie(&opening, segment, &cookie, &mut end.core);
        assert!(end.flow.as_ref().is_some_and(|flow| flow.is_established()));
        false
    }

    fn read(&mut self, side: usize) {
        let end = &mut self.ends[side];
        let Some(flow) = end.flow.as_mut() else {
            return;
        };
        for _ in 0..end.takes {
            match flow.take() {
                Ok(Received::Data(chunk)) => {
                    for is in chunk.slices().flatten() {
                        assert_eq!(*is, byte(1 - side, end.taken), "byte {}", end.taken);
                        end.taken += 1;
                    }
                }
                Ok(Received::WouldBlock) | Err(_) => return,
                Ok(Received::Closed) => {
                    end.closed = true;
                    return;
                }
            }
        }
    }

    pub(super) fn send(&mut self, side: usize) {
        loop {
            let end = &mut self.ends[side];
            let result = match &mut end.flow {
                Some(flow) => flow.egress(self.now, &mut end.core, 16),
                None => Egress::Done,
            };
            if let Some(wait) = end.flow.as_ref().and_then(|flow| flow.time_wait()) {
                // The peer's end has come, and everything before it was taken.
                end.closed = true;
                end.wait = Some(wait);
                end.flow = None;
            }
            end.core.port.flush();
            self.carry(1 - side);
            if result == Egress::Done {
                return;
            }
        }
    }

    /// Takes what has come to a port onto the line.
    fn carry(&mut self, side: usize) {
        loop {
            let mut burst = Burst::new();
            self.ends[side].core.port.receive(&mut burst);
            if burst.is_empty() {
                return;
            }
            for frame in burst {
                let is_long = frame.len() - 14 > self.ends[side].path_mtu;
                if is_long || self.random.happens(self.faults.lost) {
                    continue;
                }
                if self.random.happens(self.faults.doubled) {
                    let bytes: Vec<u8> = frame.slices().flatten().copied().collect();
                    self.arrive(side, Frame::copied(&bytes));
                }
                self.arrive(side, frame);
            }
        }
    }

    /// A frame comes to an end after its time on the line.
    pub(super) fn arrive(&mut self, side: usize, frame: Frame) {
        let mut time = self.rtt / 2;
        if self.random.happens(self.faults.late) {
            let late = self.random.below(300);
            time += Duration::from_micros(u64::try_from(late).unwrap());
        }
        self.order += 1;
        let key = (self.now + time, self.order);
        self.ends[side].inbox.insert(key, frame);
    }

    /// Lets time pass until something happens, `limit` at most.
    fn pass(&mut self, limit: Instant) {
        let now = self.now;
        let next = self.ends.iter_mut().flat_map(|end| {
            let arrival = end.inbox.first_key_value().map(|(key, _)| key.0);
            let timer = end.flow.as_mut().and_then(|flow| flow.deadline(now));
            let unread = |flow: &Flow| flow.is_readable() && flow.lost().is_none();
            let reads = end.takes != 0 && end.flow.as_deref().is_some_and(unread);
            let reads = (reads && !end.closed).then_some(now + READ_TIME);
            [arrival, timer, reads]
        });
        let next = next.flatten().min().unwrap_or(limit);
        self.now = next.max(now + Duration::from_nanos(100)).min(limit);
    }
}
