//! [`Waits`]: connections in TIME-WAIT (RFC 9293 §3.6.1).
//!
//! The end that closes first, or both that close at once, cannot know that its last
//! acknowledgment has come. If it is lost the peer sends its FIN again, with an interval that
//! doubles each time, and a reset in answer would tell a peer that has everything that it has
//! lost something. So what is needed to answer is kept for [`TIME_WAIT`] behind the peer's last
//! FIN: a few numbers and what the guard knows, not the connection with its rings.
//!
//! Until then a SYN of the same ends begins a new connection only if it is newer than all that was
//! heard of the old one (RFC 6191, RFC 1122 §4.2.2.13), and a reset ends nothing (RFC 1337).
//!
//! What is left of a flow that came from another core goes back there, where its frames come to, so
//! that nothing is forwarded for it ([`Event::Gone`], [`Stack::forget_forwarding`]).
//!
//! Bounded: there are [`TIME_WAITS_MAX`], whose memory is taken at start; one more takes the place
//! of the one whose time ends first.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Stack;
use super::counters::Dropped;
use super::event::Event;
use super::guard::{Guard, Stage, Verdict, View};
use super::ingress::Came;
use super::live::Entry;
use super::model::{FlowId, FlowKey};
use super::packet::emit::Bare;
use super::packet::{Flags, Segment, Seq, Timestamps};
use super::table::Table;
use super::wire::clock;
use crate::port::{Frame, Port};

/// Two segment lifetimes of 30 s each, what Linux and FreeBSD take them for. The standard's own
/// guess, of 1981, is 2 minutes each (RFC 9293 §3.4.2).
pub(super) const TIME_WAIT: Duration = Duration::from_secs(60);
/// Connections in TIME-WAIT of one stack, so of one port of a core, at most.
pub(super) const TIME_WAITS_MAX: usize = 4096;
/// The numbers of a new connection of the same ends begin so far behind those of the old one, at
/// least (RFC 1122 §4.2.2.13 asks that they do).
const NUMBERS_APART: u32 = 1 << 17;

/// What is left of a connection in TIME-WAIT.
#[derive(Clone, Debug)]
pub struct TimeWait {
    pub(super) key: FlowKey,
    pub(super) guard: Guard,
    /// Behind the peer's FIN: RCV.NXT.
    pub(super) rcv_nxt: Seq,
    /// Behind ours: SND.NXT.
    pub(super) snd_nxt: Seq,
    /// The window that the peer was told last, as in the header.
    pub(super) window: u16,
    pub(super) dscp: u8,
    /// When the clock of its timestamps began, and what they showed then.
    pub(super) epoch: Instant,
    pub(super) ticks: u32,
}

/// What becomes of a segment.
#[derive(Clone, Debug)]
pub(super) enum Heard {
    /// That is the answer. `again`: it was the peer's FIN again, so that the time begins anew.
    Answer { answer: Bare, again: bool },
    /// Nothing.
    Silence,
    /// A new connection begins, whose numbers are to begin behind `after`.
    Reopens { after: Seq },
}

impl TimeWait {
    pub(super) fn hear(&mut self, now: Instant, segment: &Segment) -> Heard {
        if segment.is_opening() && self.reopens(segment) {
            let after = self.snd_nxt.plus(NUMBERS_APART);
            return Heard::Reopens { after };
        }
        let again = segment.is_fin() && segment.end() == self.rcv_nxt;
        let answers = match self.guard.check(now, segment, &self.view()) {
            Verdict::Pass(_) | Verdict::Drop(_) => false,
            Verdict::Answer(_) => true,
            // Each FIN that comes again; of what takes no number only a few.
            Verdict::Reply(..) => !segment.is_empty() || self.guard.may_challenge(now),
        };
        if !answers {
            return Heard::Silence;
        }
        let value = clock(self.epoch, now).wrapping_add(self.ticks);
        let times = self.guard.recent().map(|echo| Timestamps { value, echo });
        let answer = Bare {
            window: self.window,
            dscp: self.dscp,
            timestamps: times,
            ..Bare::new(self.key, self.snd_nxt, self.rcv_nxt, Flags::ACK)
        };
        Heard::Answer { answer, again }
    }

    /// That SYN is newer than everything that was heard (RFC 9293 §3.10.7.4, RFC 6191).
    fn reopens(&self, syn: &Segment) -> bool {
        let told = syn.options.timestamps;
        match told.zip(self.guard.recent()) {
            Some((told, recent)) if told.value != recent => Seq(told.value).is_after(Seq(recent)),
            _ => syn.seq.is_after(self.rcv_nxt),
        }
    }

    fn view(&self) -> View {
        View {
            stage: Stage::Standing,
            rcv_nxt: self.rcv_nxt,
            // Nothing can follow the peer's FIN.
            room: 0,
            snd_una: self.snd_nxt,
            snd_max: self.snd_nxt,
        }
    }
}

/// All of one stack.
pub(super) struct Waits {
    table: Table<Waiting>,
    /// In the order of their ends. Some are gone, and of some the time has begun anew: those are
    /// here again, further behind.
    order: VecDeque<(Instant, FlowId)>,
    max: usize,
}

struct Waiting {
    wait: TimeWait,
    until: Instant,
}

impl Waits {
    pub(super) fn new(max: usize) -> Self {
        Self {
            table: Table::new(max),
            order: VecDeque::with_capacity(Self::order_max(max)),
            max,
        }
    }

    const fn order_max(max: usize) -> usize {
        max.saturating_mul(2)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    #[cfg(test)]
    pub(super) fn order_len(&self) -> usize {
        self.order.len()
    }

    #[cfg(test)]
    pub(super) const fn bytes_each() -> usize {
        Table::<Waiting>::bytes_each() + 2 * size_of::<(Instant, FlowId)>()
    }

    /// Whether a connection with these ends is waited for.
    pub(super) fn has(&self, key: &FlowKey) -> bool {
        self.table.find(key).is_some()
    }

    /// Waits for a connection, in the place of an older one with the same ends, or of the one whose
    /// time ends first if there are too many; [`Waits::pop`] first lets those go whose time is
    /// over.
    pub(super) fn insert(&mut self, wait: TimeWait, now: Instant) {
        let key = wait.key;
        self.remove(&key);
        if self.table.len() >= self.max {
            self.pop_first();
        }
        let until = now + TIME_WAIT;
        if let Some(slot) = self.table.insert(key, Waiting { wait, until }) {
            self.put_in_order(until, slot);
        }
    }

    /// A segment of one. `None`: none is waited for with these ends.
    pub(super) fn hear(&mut self, now: Instant, segment: &Segment) -> Option<Heard> {
        let slot = self.table.find(&segment.key)?;
        let waiting = self.table.value_mut(slot)?;
        let heard = waiting.wait.hear(now, segment);
        let until = now + TIME_WAIT;
        if matches!(heard, Heard::Answer { again: true, .. }) && until > waiting.until {
            waiting.until = until;
            self.put_in_order(until, slot);
        }
        Some(heard)
    }

    /// Lets one go before its time. `false`: there is none.
    pub(super) fn remove(&mut self, key: &FlowKey) -> bool {
        let slot = self.table.find(key);
        slot.and_then(|slot| self.table.remove(slot)).is_some()
    }

    /// Lets one go whose time is over.
    pub(super) fn pop(&mut self, now: Instant) -> Option<FlowKey> {
        while self.deadline()? <= now {
            let place = self.order.pop_front()?;
            if let Some(slot) = current(&self.table, place) {
                return self.table.remove(slot).map(|(key, _)| key);
            }
        }
        None
    }

    /// When the next one's time is over, at the earliest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.order.front().map(|&(at, _)| at)
    }

    fn pop_first(&mut self) -> Option<FlowKey> {
        while let Some(place) = self.order.pop_front() {
            if let Some(slot) = current(&self.table, place) {
                return self.table.remove(slot).map(|(key, _)| key);
            }
        }
        None
    }

    /// None ends later than at `until`. At least half of a list that is full is not current.
    fn put_in_order(&mut self, until: Instant, slot: u32) {
        if self.order.len() >= Self::order_max(self.max) {
            let table = &self.table;
            self.order.retain(|&place| current(table, place).is_some());
        }
        self.order.push_back((until, self.table.id(slot)));
    }
}

/// The slot of one that is waited for until just then.
fn current(table: &Table<Waiting>, (at, id): (Instant, FlowId)) -> Option<u32> {
    let slot = table.slot(id)?;
    let (_, waiting) = table.entry(slot)?;
    (waiting.until == at).then_some(slot)
}

impl<P: Port> Stack<P> {
    /// A segment that belongs to no flow that is there.
    pub(super) fn flowless(
        &mut self,
        now: Instant,
        place: usize,
        segment: &Segment,
        frame: Frame,
        came: Came,
    ) {
        if came == Came::Elsewhere {
            // Its flow has been here, and the core that its frames come to is about to learn that
            // it is gone: that core answers what comes again.
            return self.core.counters.drop(Dropped::NoFlow);
        }
        match self.waits.hear(now, segment) {
            None => self.stranger(now, place, segment, frame, None),
            Some(Heard::Silence) => self.core.counters.drop(Dropped::Guarded),
            Some(Heard::Answer { answer, .. }) => {
                self.core.counters.drop(Dropped::Guarded);
                let dest = segment.link.source;
                self.control.bare(&answer, dest, &mut around!(self, place));
            }
            Some(Heard::Reopens { after }) => {
                self.stranger(now, place, segment, frame, Some(after));
                // A SYN that was not taken has ended nothing.
                if self.table.find(&segment.key).is_some() {
                    self.core.counters.time_wait_reused += 1;
                    self.waits.remove(&segment.key);
                }
            }
        }
    }

    /// Waits for what may be left of a flow in the network, instead of keeping it.
    pub(super) fn wait_for(&mut self, slot: u32) {
        let now = self.latest;
        // The answer to the peer's FIN.
        self.send_last(slot, now);
        let Some(live) = self.table.value_mut(slot).and_then(Entry::live_mut) else {
            return;
        };
        let Some(wait) = live.flow.time_wait() else {
            return self.remove(slot);
        };
        let is_attached = std::mem::take(&mut live.attached);
        self.remove(slot);
        if is_attached {
            self.events.push_back(Event::Gone {
                key: wait.key,
                left: Some(Box::new(wait)),
            });
        } else {
            self.keep_waiting(wait, now);
        }
    }

    pub(super) fn keep_waiting(&mut self, wait: TimeWait, now: Instant) {
        self.end_waits(now);
        self.waits.insert(wait, now);
    }

    /// Lets those go whose time is over.
    pub(super) fn end_waits(&mut self, now: Instant) {
        while self.waits.pop(now).is_some() {}
    }
}
