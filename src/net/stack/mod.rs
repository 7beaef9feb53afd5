//! TCP of our own over a [`crate::port::Port`]: smoltcp does the protocol of each flow, this module
//! everything around it.
//!
//! ```text
//! port ─► burst ─► packet ─► flow table ─► guard ─► smoltcp ─► bytes for the reactor
//!                    └─ ARP, neighbour discovery, ICMP, strangers ─► control interface
//! port ◄─ frames ◄─ head of smoltcp's, payload of the sender's ◄─ dirty flows, timers
//! ```

/// What a handler of the control interface works with: the parts of a stack beside it.
macro_rules! around {
    ($stack:ident, $place:expr) => {
        $crate::net::stack::control::Around {
            port: &mut $stack.core.port,
            counters: &mut $stack.core.counters,
            neighbours: &mut $stack.neighbours,
            network: &$stack.settings.networks[$place],
        }
    };
}

mod control;
mod counters;
mod egress;
mod event;
mod flow;
mod flows;
#[cfg(any(test, feature = "testing"))]
pub mod goodput;
pub mod guard;
mod held;
mod ingress;
pub mod isn;
mod limit;
mod live;
pub mod loss;
pub mod model;
mod moving;
pub mod mtu;
mod neighbours;
mod opening;
pub mod packet;
mod routes;
mod sent;
mod table;
#[cfg(test)]
mod tests;
mod timers;
mod turns;
mod waits;
mod wire;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::mem::Pages;
use crate::port::{Burst, Frame, Port};
use control::Control;
pub use counters::{Dropped, StackCounters};
pub use event::{AddressNews, AddressState, Chunk, Event, Lost, Received};
use guard::Rules;
use ingress::Came;
use isn::Numbers;
use live::Entry;
use model::{FlowId, Neighbour, Settings};
pub use moving::Detached;
use neighbours::Neighbours;
use routes::{Networks, PathMtus};
use table::Table;
use timers::Wheel;
use turns::Turns;
pub use waits::TimeWait;
use waits::{TIME_WAITS_MAX, Waits};
use wire::Core;

/// Flows that live on other cores and whose frames come here, at most, for each flow that may be.
const FORWARDED_PER_FLOW: usize = 1;
/// Events for which there is room from the start.
const EVENTS: usize = 4096;

/// The TCP of one queue of a network device.
pub struct Stack<P: Port> {
    core: Core<P>,
    settings: Arc<Settings>,
    control: Control,
    networks: Networks,
    neighbours: Neighbours,
    paths: PathMtus,
    /// What flows hold segments to.
    rules: Rules,
    numbers: Numbers,
    table: Table<Entry>,
    timers: Wheel,
    /// Flows that may have something to send.
    dirty: Turns,
    /// Flows that do not know where to send.
    waiting: Turns,
    /// [`Neighbours::changes`] when they last looked.
    waiting_since: u64,
    /// The port was full; when to try again.
    blocked: Option<Instant>,
    /// Entries of the table that are no flows of this core.
    forwarded: usize,
    half_open: usize,
    /// Flows that are over but for what may be left of them in the network.
    waits: Waits,
    /// Flows that have delivered their end, the one that did so first in front; some are gone.
    over: VecDeque<FlowId>,
    /// When the last SYN cookie was sent.
    cookie_sent: Option<Instant>,
    /// Where the last call of our own came from.
    last_port: u16,
    events: VecDeque<Event>,
    /// Frames for other cores among the events.
    strays: usize,
    /// Present between two calls. Boxed: to take it out moves no frames.
    burst: Option<Box<Burst>>,
    listening: bool,
    start: Instant,
    /// The latest time that is known.
    latest: Instant,
}

/// Frames of a turn where there are few connections, where the port gives that many at a time.
const SHORT_TURN: usize = 8;
/// Few connections.
const FEW_FLOWS: usize = 8;

/// There is no memory for the rings of connections.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no memory for the rings of connections: {0}")]
pub struct NoRings(String);

impl<P: Port> Stack<P> {
    /// A stack with no connections. Its addresses are served when nobody has objected to them for
    /// a while (RFC 5227): [`Event::Address`] tells. Several queues of one device each have a stack
    /// of their own with the same settings; all but the first take connections when they have
    /// learned from it that they may.
    ///
    /// # Errors
    /// There is no memory for the rings of connections.
    pub fn new(port: P, settings: &Arc<Settings>, now: Instant) -> Result<Self, NoRings> {
        Self::with_pages(port, settings, Pages::Normal, now)
    }

    /// The same, with the rings of connections in such pages: one huge page at most.
    ///
    /// # Errors
    /// As of [`Self::new`].
    pub fn with_pages(
        port: P,
        settings: &Arc<Settings>,
        pages: Pages,
        now: Instant,
    ) -> Result<Self, NoRings> {
        let entries = settings
            .flows_max
            .saturating_mul(1 + FORWARDED_PER_FLOW)
            .max(1);
        let control = Control::new(&port, settings, now);
        let core = Core::new(port, pages).map_err(|error| NoRings(error.to_string()))?;
        Ok(Self {
            core,
            control,
            networks: Networks::new(settings),
            neighbours: Neighbours::new(),
            paths: PathMtus::new(),
            rules: Rules::default(),
            numbers: Numbers::new(&settings.secret, now),
            table: Table::new(entries),
            timers: Wheel::new(entries, now),
            dirty: Turns::new(entries),
            waiting: Turns::new(entries),
            waiting_since: 0,
            blocked: None,
            forwarded: 0,
            half_open: 0,
            waits: Waits::new(TIME_WAITS_MAX),
            over: VecDeque::new(),
            cookie_sent: None,
            last_port: 0,
            events: VecDeque::with_capacity(EVENTS),
            strays: 0,
            burst: Some(Box::new(Burst::new())),
            listening: true,
            start: now,
            latest: now,
            settings: Arc::clone(settings),
        })
    }

    /// A turn begins, or goes on.
    fn begin(&mut self, now: Instant) {
        self.latest = now;
        self.core.port.set_now(now);
    }

    /// Receives at most one burst and works on it. `true`: there was any.
    pub fn receive(&mut self, now: Instant) -> bool {
        self.begin(now);
        let burst = self.burst.take();
        let mut burst = burst.expect("each call puts it back");
        self.fill(&mut burst);
        let any = !burst.is_empty();
        for frame in burst.drain(..) {
            self.work_on(now, frame, Came::Here);
        }
        self.burst = Some(burst);
        any
    }

    /// Few connections get short turns: what a turn has worked on leaves at its end, so that a peer
    /// with all its commands in one burst would wait for the last answer with the first, and then
    /// we for it. Beside many others nobody waits, and a longer turn costs less.
    fn fill(&mut self, burst: &mut Burst) {
        loop {
            let before = burst.len();
            self.core.port.receive(burst);
            let came = burst.len() - before;
            if came < SHORT_TURN || burst.is_full() || self.flows() <= FEW_FLOWS {
                return;
            }
        }
    }

    /// A frame that came by another core ([`Event::Stray`], [`Event::Foreign`]): worked on as if it
    /// had been received here, except that it is not passed on again, and that a segment without a
    /// flow is dropped.
    pub fn receive_frame(&mut self, now: Instant, frame: Frame) {
        self.begin(now);
        self.work_on(now, frame, Came::Elsewhere);
    }

    /// The oldest event that was not told yet.
    pub fn next_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if let Some(Event::Stray { .. } | Event::Foreign(_)) = event {
            self.strays -= 1;
        }
        event
    }

    /// Takes no new connections any more; the standing ones go on.
    pub fn stop_listening(&mut self) {
        self.listening = false;
    }

    /// Where a neighbour is, as another core of this port has learned.
    pub fn learn(&mut self, neighbour: Neighbour, now: Instant) {
        self.neighbours.learn(neighbour, now);
    }

    /// What became of an address, as another core of this port has decided, or heard.
    pub fn learn_address(&mut self, news: AddressNews, now: Instant) {
        self.begin(now);
        self.control.addresses.learn(news, now);
        self.tell_addresses();
    }

    pub fn counters(&self) -> &StackCounters {
        &self.core.counters
    }

    pub fn port(&self) -> &P {
        &self.core.port
    }

    pub fn port_mut(&mut self) -> &mut P {
        &mut self.core.port
    }

    /// Connections from here on hold segments to these rules only.
    #[cfg(any(test, feature = "testing"))]
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// What it was made with.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }
}

impl<P: Port> fmt::Debug for Stack<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("flows", &self.flows())
            .field("half_open", &self.half_open)
            .field("counters", self.counters())
            .finish()
    }
}
