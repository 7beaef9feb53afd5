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
//! Bounded: there are [`TIME_WAITS_MAX`], whose memory is taken at start; one more takes the place
//! of the one that has been there for longest.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Stack;
use super::counters::Dropped;
use super::event::Event;
use super::guard::{Guard, Stage, Verdict, View};
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
/// Connections in TIME-WAIT of one core, at most.
pub(super) const TIME_WAITS_MAX: usize = 4096;
/// The numbers of a new connection of the same ends begin so far behind those of the old one, at
/// least (RFC 1122 §4.2.2.13 asks that they do).
const NUMBERS_APART: u32 = 1 << 17;

/// What is left of a connection.
#[derive(Clone, Debug)]
pub(super) struct TimeWait {
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

/// All of one core.
pub(super) struct Waits {
    table: Table<Waiting>,
    /// In the order of their ends, except that those whose time began anew may be due later. Some
    /// are gone.
    order: VecDeque<(Instant, FlowId)>,
    max: usize,
}

struct Waiting {
    wait: TimeWait,
    until: Instant,
    /// Another core forwards its frames.
    attached: bool,
}

/// One that is not waited for any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Over {
    pub(super) key: FlowKey,
    pub(super) attached: bool,
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
    pub(super) const fn bytes_each() -> usize {
        Table::<Waiting>::bytes_each() + 2 * size_of::<(Instant, FlowId)>()
    }

    /// Whether a connection with these ends is waited for.
    pub(super) fn has(&self, key: &FlowKey) -> bool {
        self.table.find(key).is_some()
    }

    /// Waits for a connection. What had to go for it; [`Waits::pop`] first lets those go whose time
    /// is over.
    pub(super) fn insert(&mut self, wait: TimeWait, attached: bool, now: Instant) -> Option<Over> {
        let over = if self.table.len() >= self.max {
            self.pop_oldest()
        } else {
            None
        };
        let until = now + TIME_WAIT;
        let waiting = Waiting {
            wait,
            until,
            attached,
        };
        let key = waiting.wait.key;
        if let Some(slot) = self.table.insert(key, waiting) {
            if self.order.len() >= Self::order_max(self.max) {
                let table = &self.table;
                self.order.retain(|&(_, id)| table.slot(id).is_some());
            }
            self.order.push_back((until, self.table.id(slot)));
        }
        over
    }

    /// A segment of one. `None`: none is waited for with these ends.
    pub(super) fn hear(&mut self, now: Instant, segment: &Segment) -> Option<Heard> {
        let slot = self.table.find(&segment.key)?;
        let waiting = self.table.value_mut(slot)?;
        let heard = waiting.wait.hear(now, segment);
        if let Heard::Answer { again: true, .. } = heard {
            waiting.until = now + TIME_WAIT;
        }
        Some(heard)
    }

    /// Lets one go before its time.
    pub(super) fn remove(&mut self, key: &FlowKey) -> Option<Over> {
        let slot = self.table.find(key)?;
        self.take(slot)
    }

    /// One whose time is over.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Over> {
        while let Some(&(at, id)) = self.order.front() {
            if at > now {
                return None;
            }
            self.order.pop_front();
            let Some(slot) = self.table.slot(id) else {
                continue;
            };
            let until = self.table.value_mut(slot).map_or(at, |it| it.until);
            if until <= now {
                return self.take(slot);
            }
            self.order.push_back((until, id));
        }
        None
    }

    /// When the next one's time is over, at the earliest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.order.front().map(|&(at, _)| at)
    }

    fn pop_oldest(&mut self) -> Option<Over> {
        while let Some((_, id)) = self.order.pop_front() {
            if let Some(slot) = self.table.slot(id) {
                return self.take(slot);
            }
        }
        None
    }

    fn take(&mut self, slot: u32) -> Option<Over> {
        let (key, Waiting { attached, .. }) = self.table.remove(slot)?;
        Some(Over { key, attached })
    }
}

impl<P: Port> Stack<P> {
    /// A segment that belongs to no flow that is there.
    pub(super) fn flowless(&mut self, now: Instant, place: usize, segment: &Segment, frame: Frame) {
        match self.waits.hear(now, segment) {
            None => self.stranger(now, place, segment, frame, None),
            Some(Heard::Silence) => self.core.counters.drop(Dropped::Guarded),
            Some(Heard::Answer { answer, .. }) => {
                self.core.counters.drop(Dropped::Guarded);
                let dest = segment.link.source;
                self.control.bare(&answer, dest, &mut around!(self, place));
            }
            Some(Heard::Reopens { after }) => {
                self.core.counters.time_wait_reused += 1;
                let over = self.waits.remove(&segment.key);
                let attached = over.is_some_and(|over| over.attached);
                self.tell_over(over);
                if attached {
                    // Its frames come to another core, which forgets the old flow now and takes the
                    // SYN when it comes again.
                    return self.core.counters.drop(Dropped::NoFlow);
                }
                self.stranger(now, place, segment, frame, Some(after));
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
        // Its frames still come from there.
        let attached = std::mem::take(&mut live.attached);
        self.remove(slot);
        self.end_waits(now);
        let over = self.waits.insert(wait, attached, now);
        self.tell_over(over);
    }

    /// Lets those go whose time is over.
    pub(super) fn end_waits(&mut self, now: Instant) {
        while let Some(over) = self.waits.pop(now) {
            self.tell_over(Some(over));
        }
    }

    fn tell_over(&mut self, over: Option<Over>) {
        if let Some(over) = over.filter(|over| over.attached) {
            self.events.push_back(Event::Gone(over.key));
        }
    }
}
