//! The stacks of a core: one for each port, over its own queue of it or by way of a core that has
//! one; and the connections that their flows are.
//!
//! ```text
//! ring of other cores ─► stacks: a burst each ─► news ─► readable connections ─► PDUs
//! connections ─► flows ─► timers ─► stacks: transmit
//! ```
//!
//! A flow belongs to one core. When its connection moves to the core of its session, the core that
//! its frames come to passes them on by a ring, which may lose them: the peer sends them again. The
//! ring is looked at only when every message that came before its frames has been handled, so no
//! frame overtakes the connection that it is for.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;

use super::message::{ConnectionKey, Handoff, ToControl, ToCore};
use super::{Reactor, SCRATCH_BYTES};
use crate::control::directory::Core;
use crate::control::event::Event as News;
use crate::control::ring::Outbox;
use crate::mem::{Pages, Pool};
use crate::net::stack::model::{FlowId, FlowKey, Settings};
use crate::net::stack::{AddressState, Chunk, Detached, Event, Lost, Received, Stack};
use crate::net::{Flow, Stream};
use crate::port::remote::{Asked, Requests};
use crate::port::{AnyPort, Frame, IdlePort, Port};

/// Frames that wait for one core to take them over from others.
const PASSED_MAX: usize = 512;
/// Those of them that one turn looks at.
const PASSED_BURST: usize = 64;
/// News of one stack in one turn; what is left is for the next.
const NEWS_MAX: usize = 1024;
/// The shortest sleep of a core with a port that cannot wake it.
const NAP_MIN: Duration = Duration::from_micros(50);
/// The longest: what such a port adds to the latency of a core that has nothing to do.
const NAP_MAX: Duration = Duration::from_millis(1);
/// A full port is asked again after this to send what other cores want sent.
const REQUESTS_RETRY: Duration = Duration::from_millis(1);
/// What flows may take at the end to deliver what was sent, and their end.
const FAREWELL: Duration = Duration::from_secs(1);

/// A port, by its place in the configuration.
pub type PortIndex = usize;

/// A port's part in a core: its queue, and what is served there.
#[derive(Debug)]
pub struct Attachment {
    pub port: PortIndex,
    pub queue: IdlePort,
    /// What cores without a queue want sent by this one.
    pub requests: Option<Requests>,
    pub settings: Arc<Settings>,
}

/// Frames that cores have received for each other: a bounded ring for each core.
#[derive(Clone, Debug)]
pub struct FrameRings(Arc<[ArrayQueue<(PortIndex, Frame)>]>);

impl FrameRings {
    pub fn new(cores: usize) -> Self {
        Self((0..cores).map(|_| ArrayQueue::new(PASSED_MAX)).collect())
    }
}

/// A flow on its way to the core of its session.
#[derive(Debug)]
pub struct Away {
    pub port: PortIndex,
    /// Where its frames come to.
    pub from: Core,
    pub flow: Detached,
}

/// Frames of other cores that may be looked at when every message that came before them has been
/// handled.
#[derive(Clone, Copy, Default, Debug)]
struct Passed {
    frames: usize,
    /// Messages that may have come before them, and were not handled yet.
    behind: usize,
}

impl Passed {
    /// How many frames it is time to look at.
    fn take_turn(&mut self) -> usize {
        if self.behind > 0 {
            return 0;
        }
        let due = self.frames.min(PASSED_BURST);
        self.frames -= due;
        due
    }
}

/// What a core has of ports.
#[derive(Debug)]
pub(super) struct Flows {
    stacks: Vec<PortStack>,
    rings: FrameRings,
    passed: Passed,
    /// Connections over flows that have something to take; each at most once.
    readable: VecDeque<ConnectionKey>,
    /// A port cannot wake the core.
    naps: bool,
    nap: Duration,
    /// Frames for other cores that were dropped.
    not_passed: u64,
    /// Connections that came while the control thread did not keep up.
    turned_away: u64,
    /// The end of the daemon waits for flows until then.
    farewell: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
struct PortStack {
    port: PortIndex,
    stack: Stack<AnyPort>,
    /// By slot of the flow: whose it is.
    owners: Vec<Option<(FlowId, ConnectionKey)>>,
    requests: Option<Requests>,
    /// The port was full; when to try their requests again.
    requests_retry: Option<Instant>,
    /// Where flows that were taken over came from.
    origins: Vec<(FlowKey, Core)>,
}

impl PortStack {
    fn new(
        attachment: Attachment,
        (pool, pages): (&Pool, Pages),
        now: Instant,
    ) -> Result<Self, String> {
        let Attachment {
            port,
            queue,
            requests,
            settings,
        } = attachment;
        let stack = Stack::with_pages(queue.adopt(pool)?, &settings, pages, now);
        Ok(Self {
            port,
            stack: stack.map_err(|error| error.to_string())?,
            requests,
            requests_retry: None,
            owners: Vec::with_capacity(settings.flows_max),
            origins: Vec::new(),
        })
    }

    fn owner(&self, flow: FlowId) -> Option<ConnectionKey> {
        let (id, key) = (*self.owners.get(flow.slot())?)?;
        (id == flow).then_some(key)
    }
}

impl Flows {
    /// # Errors
    /// A sentence for the operator.
    pub(super) fn new(
        attachments: Vec<Attachment>,
        rings: FrameRings,
        memory: (&Pool, Pages),
        now: Instant,
    ) -> Result<Self, String> {
        let stacks = attachments.into_iter();
        let stacks = stacks.map(|it| PortStack::new(it, memory, now));
        let stacks = stacks.collect::<Result<Vec<_>, _>>()?;
        let mut ports = stacks.iter().map(|it| it.stack.port());
        let naps = ports.any(|port| port.receives() && port.wakes().is_none());
        Ok(Self {
            stacks,
            rings,
            passed: Passed::default(),
            readable: VecDeque::with_capacity(64),
            naps,
            nap: NAP_MIN,
            not_passed: 0,
            turned_away: 0,
            farewell: None,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.stacks.is_empty()
    }

    /// What the core sleeps on until a frame comes, or another core wants one sent.
    pub(super) fn wakes(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.stacks.iter().flat_map(|it| {
            let requests = it.requests.as_ref().map(Requests::wakes);
            it.stack.port().wakes().into_iter().chain(requests)
        })
    }

    /// The core never sleeps for long, because a port cannot wake it.
    pub(super) fn naps(&self) -> bool {
        self.naps
    }

    /// The stack that `flow` is one of.
    pub(super) fn stack(&mut self, flow: Flow) -> &mut Stack<AnyPort> {
        &mut self.stacks[flow.stack].stack
    }

    /// From now on news of `flow` concern `key`.
    pub(super) fn own(&mut self, flow: Flow, key: ConnectionKey) {
        let owners = &mut self.stacks[flow.stack].owners;
        let slot = flow.id.slot();
        if owners.len() <= slot {
            owners.resize(slot + 1, None);
        }
        owners[slot] = Some((flow.id, key));
    }

    /// News of `flow` concern nobody any more.
    pub(super) fn disown(&mut self, flow: Flow) {
        if let Some(owner) = self.stacks[flow.stack].owners.get_mut(flow.id.slot())
            && owner.is_some_and(|(id, _)| id == flow.id)
        {
            *owner = None;
        }
    }

    /// Ends a connection behind everything that was sent on it.
    pub(super) fn finish(&mut self, stream: Stream) {
        match stream {
            Stream::Host(stream) => stream.finish(),
            Stream::Flow(flow) => self.stack(flow).finish(flow.id),
        }
    }

    /// A flow that was finished has delivered everything, its end included. Sockets do not tell.
    pub(super) fn has_delivered(&self, stream: &Stream) -> bool {
        match stream {
            Stream::Host(_) => false,
            Stream::Flow(flow) => self.stacks[flow.stack].stack.has_delivered(flow.id),
        }
    }

    /// Ends a connection at once.
    pub(super) fn drop_stream(&mut self, stream: Stream) {
        match stream {
            Stream::Host(stream) => drop(stream),
            Stream::Flow(flow) => self.stack(flow).abort(flow.id),
        }
    }

    /// Notes the frames that other cores have passed on to `core` so far, unless earlier ones are
    /// still to be looked at. `messages`: how many wait in the core's inbox.
    pub(super) fn note_passed(&mut self, core: Core, messages: impl FnOnce() -> usize) {
        if self.passed.frames == 0 {
            self.passed.frames = self.passed(core);
            // Read behind the frames: what came before them is among these.
            self.passed.behind = if self.passed.frames > 0 {
                messages()
            } else {
                0
            };
        }
    }

    /// So many messages were handled, of those that waited longest.
    pub(super) fn handled(&mut self, messages: usize) {
        self.passed.behind = self.passed.behind.saturating_sub(messages);
    }

    /// Frames that other cores have passed on to `core` so far.
    pub(super) fn passed(&self, core: Core) -> usize {
        if self.stacks.is_empty() {
            0
        } else {
            self.rings.0[core].len()
        }
    }

    /// How long the core may sleep as far as ports are concerned.
    pub(super) fn sleep_max(&self, now: Instant) -> Option<Duration> {
        let stacks = self.stacks.iter();
        let deadlines = stacks.flat_map(|it| [it.stack.deadline(), it.requests_retry]);
        let deadline = deadlines.flatten().min();
        let until = deadline.map(|deadline| deadline.saturating_duration_since(now));
        let nap = self.naps.then_some(self.nap);
        match (until, nap) {
            (Some(until), Some(nap)) => Some(until.min(nap)),
            (until, nap) => until.or(nap),
        }
    }

    /// A sleep has ended: the next may be longer, or starts over after work.
    pub(super) fn slept(&mut self, worked: bool) {
        self.nap = if worked {
            NAP_MIN
        } else {
            (self.nap * 2).min(NAP_MAX)
        };
    }

    pub(super) fn stop_listening(&mut self) {
        for it in &mut self.stacks {
            it.stack.stop_listening();
        }
    }

    /// All connections were closed: flows get a while to deliver what was sent.
    pub(super) fn say_farewell(&mut self, now: Instant) {
        self.farewell = Some(now + FAREWELL);
    }

    /// No flow has anything to deliver any more, or they have had their time.
    pub(super) fn are_done(&self, now: Instant) -> bool {
        let done = |it: &PortStack| it.stack.unfinished() == 0;
        self.farewell.is_some_and(|until| now >= until) || self.stacks.iter().all(done)
    }

    /// Ends the flows that are left, and gives the ports back. Everything that was lent to them is
    /// back afterwards.
    pub(super) fn close(&mut self, now: Instant) {
        for it in &mut self.stacks {
            it.stack.abort_all(now);
        }
        self.stacks.clear();
    }

    /// A line for each port: what came and went.
    pub(super) fn accounts(&self, core: Core) -> Vec<String> {
        let account = |it: &PortStack| {
            let stack = it.stack.counters();
            format!(
                "port {} on core {core}: {}; {} connections, {} segments sent again, \
                 {} frames dropped, {} frames lost between cores, {} connections turned away",
                it.port,
                frames(it.stack.port()),
                stack.opened,
                stack.retransmits,
                stack.dropped_in_all(),
                self.not_passed,
                self.turned_away,
            )
        };
        self.stacks.iter().map(account).collect()
    }
}

impl Reactor {
    /// Frames in, and what they come to.
    pub(super) fn receive_frames(&mut self) -> bool {
        if self.flows.is_empty() {
            return false;
        }
        let now = self.lent.now;
        let mut worked = self.receive_passed();
        for at in 0..self.flows.stacks.len() {
            worked |= self.flows.stacks[at].stack.receive(now);
            worked |= self.take_news(at);
        }
        for _ in 0..self.flows.readable.len() {
            let key = self.flows.readable.pop_front().expect("counted");
            worked = true;
            self.receive_flow(key);
        }
        worked
    }

    fn receive_passed(&mut self) -> bool {
        let now = self.lent.now;
        let due = self.flows.passed.take_turn();
        for _ in 0..due {
            let Some((port, frame)) = self.flows.rings.0[self.core].pop() else {
                break;
            };
            let stacks = &mut self.flows.stacks;
            if let Some(it) = stacks.iter_mut().find(|it| it.port == port) {
                it.stack.receive_frame(now, frame);
            }
        }
        due > 0
    }

    /// Timers, and frames out. `true`: there is more to do at once.
    pub(super) fn transmit_frames(&mut self) -> bool {
        let now = self.lent.now;
        let mut more = false;
        for at in 0..self.flows.stacks.len() {
            let PortStack {
                stack,
                requests,
                requests_retry,
                ..
            } = &mut self.flows.stacks[at];
            stack.tick(now);
            if let Some(requests) = requests {
                let asked = requests.send_to(stack.port_mut());
                more |= asked == Asked::More;
                *requests_retry = (asked == Asked::Blocked).then(|| now + REQUESTS_RETRY);
            }
            more |= stack.transmit(now);
            more |= self.take_news(at);
        }
        more || !self.flows.readable.is_empty()
    }

    /// `true`: there was any.
    fn take_news(&mut self, at: usize) -> bool {
        for taken in 0..NEWS_MAX {
            let Some(event) = self.flows.stacks[at].stack.next_event() else {
                return taken > 0;
            };
            self.heard(at, event);
        }
        true
    }

    fn heard(&mut self, at: usize, event: Event) {
        let port = self.flows.stacks[at].port;
        match event {
            Event::Opened { flow, key, tag } => {
                let flow = Flow {
                    stack: at,
                    id: flow,
                    key,
                };
                self.opened(flow, tag);
            }
            Event::Readable(flow) => {
                if let Some(key) = self.flows.stacks[at].owner(flow) {
                    self.set_readable(key);
                }
            }
            Event::Writable(flow) => {
                if let Some(key) = self.flows.stacks[at].owner(flow) {
                    self.mark_dirty(key);
                }
            }
            Event::Lost(flow) => {
                if let Some(key) = self.flows.stacks[at].owner(flow) {
                    let why = self.flows.stacks[at].stack.send(flow, &[]);
                    self.lost(key, &why.err().unwrap_or(Lost::Failed).to_string());
                }
            }
            Event::Learned(neighbour) => {
                self.tell_cores(|| ToCore::Learned { port, neighbour });
            }
            Event::Address(news) => {
                if let AddressState::Duplicate { mac } = news.state
                    && news.is_decided
                {
                    let [a, b, c, d, e, f] = mac;
                    self.tell(News::Trouble(format!(
                        "port {port}: {} is also the address of another station, \
                         {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}: nothing is served there",
                        news.ip
                    )));
                }
                let others = self.cores.iter_mut().enumerate();
                for (_, outbox) in others.filter(|(core, _)| *core != self.core) {
                    outbox.send(ToCore::Address { port, news });
                }
            }
            Event::Stray { to, frame } => self.pass_on(to, port, frame),
            Event::Foreign(frame) => {
                let own = self.core;
                for to in (0..self.cores.len()).filter(|to| *to != own) {
                    self.pass_on(to, port, copy_of(&frame));
                }
            }
            Event::Gone { key, left } => {
                let origins = &mut self.flows.stacks[at].origins;
                if let Some(found) = origins.iter().position(|(known, _)| *known == key) {
                    let (_, from) = origins.swap_remove(found);
                    self.cores[from].send(ToCore::FlowGone { port, key, left });
                }
            }
            // Nothing here opens connections.
            Event::Connected(_) => {}
        }
    }

    /// A stranger has come by a port. Each makes messages for the control thread, so while that
    /// does not keep up none is let in, as is the case with sockets.
    fn opened(&mut self, flow: Flow, tag: u16) {
        if self.control.is_waiting() {
            self.flows.turned_away += 1;
            self.flows.drop_stream(Stream::Flow(flow));
            return;
        }
        self.control.send(ToControl::Arrived { core: self.core });
        self.greet(Stream::Flow(flow), tag);
    }

    /// What the others can find out for themselves is not kept for those that do not keep up.
    fn tell_cores(&mut self, message: impl Fn() -> ToCore) {
        for (core, outbox) in self.cores.iter_mut().enumerate() {
            if core != self.core && !outbox.is_waiting() {
                outbox.send(message());
            }
        }
    }

    fn pass_on(&mut self, to: Core, port: PortIndex, frame: Frame) {
        // A message that the frame must not overtake may be waiting.
        let ready = to != self.core && !self.cores.get(to).is_none_or(Outbox::is_waiting);
        if ready && self.flows.rings.0[to].push((port, frame)).is_ok() {
            self.cores[to].wake();
        } else {
            self.flows.not_passed += 1;
        }
    }

    /// What another core of a port has to say to this one's stack.
    pub(super) fn heard_of_port(&mut self, port: PortIndex, say: impl FnOnce(&mut Stack<AnyPort>)) {
        let mut stacks = self.flows.stacks.iter_mut();
        if let Some(it) = stacks.find(|it| it.port == port) {
            say(&mut it.stack);
        }
    }

    /// There may be something to take from a flow.
    pub(super) fn set_readable(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.connection(key) {
            connection.readable = true;
            if !connection.queued {
                connection.queued = true;
                self.flows.readable.push_back(key);
            }
        }
    }

    /// Takes what has come on a flow, no more than is its share of a turn.
    fn receive_flow(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connection(key) else {
            return;
        };
        connection.queued = false;
        let Stream::Flow(flow) = connection.stream else {
            return;
        };
        let mut share = SCRATCH_BYTES;
        loop {
            let slot = self.connections.get_mut(key.slot());
            let found = slot.and_then(Option::as_mut).filter(|it| it.key == key);
            let Some(connection) = found else {
                return;
            };
            if !connection.watch_read || !connection.unread.is_empty() {
                // It is paused: the flow's window closes by itself.
                return;
            }
            if share == 0 {
                self.set_readable(key);
                return;
            }
            let chunk = match connection.chunk.take() {
                Some(chunk) => chunk,
                None => match self.flows.stack(flow).take(flow.id) {
                    Ok(Received::Data(chunk)) => chunk,
                    Ok(Received::WouldBlock) => {
                        connection.readable = false;
                        return;
                    }
                    Ok(Received::Closed) => return self.lost(key, "the initiator closed it"),
                    Err(lost) => return self.lost(key, &lost.to_string()),
                },
            };
            share = share.saturating_sub(chunk.len());
            self.take_chunk(key, chunk);
        }
    }

    /// Hands a chunk on; what cannot be taken now stays with the connection, as it is.
    fn take_chunk(&mut self, key: ConnectionKey, mut chunk: Chunk) {
        let mut taken = 0;
        for slice in chunk.slices() {
            let left = self.offer(key, slice);
            taken += slice.len() - left;
            let paused = self.connection(key).is_none_or(|it| !it.watch_read);
            if left > 0 || paused {
                break;
            }
        }
        chunk.skip(taken);
        if !chunk.is_empty()
            && let Some(connection) = self.connection(key)
        {
            connection.chunk = Some(chunk);
        }
        self.settle(key);
    }

    /// Brings a connection to the core of its session.
    pub(super) fn hand_over(&mut self, to: Core, handoff: Box<Handoff>) {
        let away = match handoff.stream {
            Stream::Host(_) => None,
            Stream::Flow(flow) => {
                let it = &mut self.flows.stacks[flow.stack];
                let Some(detached) = it.stack.detach(flow.id, to) else {
                    self.flows.drop_stream(Stream::Flow(flow));
                    return self.never_arrived(to, &handoff);
                };
                Some(Box::new(Away {
                    port: it.port,
                    from: self.core,
                    flow: detached,
                }))
            }
        };
        self.cores[to].send(ToCore::Handoff { handoff, away });
    }

    /// A connection whose session is, or will be, here.
    pub(super) fn arrived(&mut self, mut handoff: Box<Handoff>, away: Option<Box<Away>>) {
        if let Some(away) = away {
            let Away { port, from, flow } = *away;
            let key = flow.key();
            let now = self.lent.now;
            let at = self.flows.stacks.iter().position(|it| it.port == port);
            let attached = at.and_then(|at| {
                let it = &mut self.flows.stacks[at];
                let id = it.stack.attach(flow, now)?;
                it.origins.push((key, from));
                Some(Flow { stack: at, id, key })
            });
            let Some(flow) = attached else {
                let left = None;
                self.cores[from].send(ToCore::FlowGone { port, key, left });
                return self.never_arrived(self.core, &handoff);
            };
            handoff.stream = Stream::Flow(flow);
        }
        self.place(handoff);
    }
}

/// What came and went by a port. Frames of a core without a queue are sent, and counted as that, by
/// the core with the queue: here they were only handed to it.
fn frames(port: &AnyPort) -> String {
    let counted = port.counters();
    if !port.receives() {
        return format!(
            "no queue, {} frames ({} bytes) handed to a core with one, {} dropped because too \
             many waited there, {} that cannot be sent",
            counted.sent, counted.sent_bytes, counted.transmit_errors, counted.refused,
        );
    }
    format!(
        "{} frames ({} bytes) received, {} sent ({} bytes), {} missed, {} damaged, {} not sent, \
         {} lost by the device on the way out",
        counted.received,
        counted.received_bytes,
        counted.sent,
        counted.sent_bytes,
        counted.missed,
        counted.receive_errors,
        counted.refused.saturating_add(counted.transmit_errors),
        counted.lost_by_device,
    )
}

fn copy_of(frame: &Frame) -> Frame {
    let mut bytes = Vec::with_capacity(frame.len());
    for slice in frame.slices() {
        bytes.extend_from_slice(slice);
    }
    let mut copy = Frame::copied(&bytes);
    copy.checksum = frame.checksum;
    copy
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::{Burst, HEAD_BYTES_MAX, Offload, Outgoing, memory};

    fn flows() -> Flows {
        let pool = Pool::new(crate::mem::CHUNK_BYTES, Pages::Normal).unwrap();
        let now = crate::net::some_instant();
        let memory = (&pool, Pages::Normal);
        Flows::new(vec![], FrameRings::new(1), memory, now).unwrap()
    }

    #[test]
    fn a_port_without_a_queue_tells_its_drops_and_counts_no_frame_as_sent() {
        let (left, mut right) = memory::pair(&memory::Config::default()).unwrap();
        let mut owner = AnyPort::Memory(left);
        let mut requests = Requests::new(owner.capabilities(), 2).unwrap();
        let mut remote = AnyPort::Remote(requests.remote());
        let frame = Outgoing {
            head: &[2; 60],
            payload: &[],
            offload: Offload::default(),
        };
        for _ in 0..5 {
            remote.transmit(&frame).unwrap();
        }
        let long = Outgoing {
            head: &[2; HEAD_BYTES_MAX + 1],
            ..frame
        };
        remote.transmit(&long).unwrap();
        assert_eq!(
            frames(&remote),
            "no queue, 2 frames (120 bytes) handed to a core with one, 3 dropped because too many \
             waited there, 1 that cannot be sent"
        );
        assert_eq!(requests.send_to(&mut owner), Asked::Done);
        owner.flush();
        let told = frames(&owner);
        assert!(told.contains(" 2 sent (120 bytes), 0 missed"), "{told}");
        let mut burst = Burst::new();
        right.receive(&mut burst);
        assert_eq!(burst.len(), 2);
    }

    #[test]
    fn frames_wait_for_the_messages_before_them_and_for_no_others() {
        let mut flows = flows();
        flows.passed = Passed {
            frames: 100,
            behind: 80,
        };
        flows.handled(INBOX_TURN);
        assert_eq!(flows.passed.take_turn(), 0, "messages before them wait");
        // Others have come meanwhile, which are not theirs.
        flows.note_passed(0, || 500);
        flows.handled(INBOX_TURN);
        assert_eq!(flows.passed.take_turn(), PASSED_BURST);
        flows.note_passed(0, || 500);
        assert_eq!(flows.passed.take_turn(), 100 - PASSED_BURST);
        assert_eq!(flows.passed.take_turn(), 0, "there are no more");
    }

    const INBOX_TURN: usize = 64;
}
