//! What the reactor does with flows, and what it is told of them.

use std::time::{Duration, Instant};

use super::Stack;
use super::event::{Event, Lost, Received};
use super::live::{Entry, Live, Phase};
use super::model::{FlowId, FlowKey};
use crate::mem::Piece;
use crate::net::Moved;
use crate::port::Port;

/// How long a flow may take to end after the reactor is done with it: FIN-WAIT, CLOSING and
/// LAST-ACK together.
const LINGER: Duration = Duration::from_secs(20);
/// Pieces of what came after a finish that are dropped at once.
const DRAIN_MAX: usize = 4096;

impl<P: Port> Stack<P> {
    /// The next bytes of a flow, owned by the caller from here on.
    ///
    /// # Errors
    /// [`Lost`]: the connection failed; everything that was received in order before was taken.
    pub fn take(&mut self, flow: FlowId) -> Result<Received, Lost> {
        let slot = self.table.slot(flow).ok_or(Lost::Unknown)?;
        let live = self.live_mut(slot).ok_or(Lost::Unknown)?;
        let received = live.flow.take();
        if let Ok(Received::WouldBlock) = received {
            live.told_readable = false;
            if let Some(lost) = live.lost {
                return Err(lost);
            }
        }
        if let Ok(Received::Data(_)) = received {
            // The window may have to be told.
            self.dirty.push(slot);
        }
        received
    }

    /// Takes what fits of `pieces`: how many bytes, at least one, or [`Moved::WouldBlock`]. After
    /// less than all of them [`Event::Writable`] comes when there is room again. Bytes are copied,
    /// parts of buffers are lent until the peer has acknowledged them.
    ///
    /// # Errors
    /// [`Lost`]: the connection failed or was finished.
    pub fn send(&mut self, flow: FlowId, pieces: &[Piece<'_>]) -> Result<Moved, Lost> {
        let slot = self.table.slot(flow).ok_or(Lost::Unknown)?;
        let live = self.live_mut(slot).ok_or(Lost::Unknown)?;
        if let Some(lost) = live.lost {
            return Err(lost);
        }
        if live.phase == Phase::Finishing {
            return Err(Lost::Unknown);
        }
        let moved = live.flow.send(pieces)?;
        let wanted: usize = pieces.iter().map(Piece::len).sum();
        live.wants_room = match moved {
            Moved::Bytes(taken) => taken < wanted,
            Moved::WouldBlock => wanted > 0,
            Moved::Closed => return Err(Lost::Unknown),
        };
        if let Moved::Bytes(_) = moved {
            self.dirty.push(slot);
        }
        Ok(moved)
    }

    /// Ends the sending side behind everything that was sent. The caller is done with the flow:
    /// what still arrives is dropped, and it goes by itself when both sides are done, or after a
    /// bounded time.
    pub fn finish(&mut self, flow: FlowId) {
        let until = self.latest + LINGER;
        let Some(slot) = self.table.slot(flow) else {
            return;
        };
        let Some(live) = self.live_mut(slot) else {
            return;
        };
        if live.lost.is_some() {
            return self.remove(slot);
        }
        if live.phase == Phase::Finishing {
            return;
        }
        live.flow.finish();
        live.phase = Phase::Finishing;
        live.until = Some(until);
        self.timers.arm(slot, until);
        self.mark_dirty(slot);
        self.settle(slot);
    }

    /// Resets the connection and forgets it at once.
    pub fn abort(&mut self, flow: FlowId) {
        let now = self.latest;
        let Some(slot) = self.table.slot(flow) else {
            return;
        };
        if let Some(live) = self.live_mut(slot) {
            if live.lost.is_none() {
                live.flow.abort();
                self.send_last(slot, now);
            }
            self.remove(slot);
        }
    }

    /// Resets every connection that is left, except those whose peers have everything, and flushes
    /// the port.
    pub fn abort_all(&mut self, now: Instant) {
        self.begin(now);
        for slot in 0..self.table.slots() {
            match self.live_mut(slot).map(|live| live.flow.has_delivered()) {
                Some(true) => self.remove(slot),
                Some(false) => self.abort(self.table.id(slot)),
                None => {}
            }
        }
        self.core.port.flush();
    }

    /// Both ends of a flow.
    pub fn ends(&self, flow: FlowId) -> Option<FlowKey> {
        let slot = self.table.slot(flow)?;
        let (key, entry) = self.table.entry(slot)?;
        entry.live().map(|_| *key)
    }

    /// Bytes that are kept for a flow: received and not taken, with the frames they are in, and
    /// sent and not acknowledged.
    pub fn held_bytes(&self, flow: FlowId) -> usize {
        let slot = self.table.slot(flow);
        let entry = slot.and_then(|slot| self.table.entry(slot));
        let live = entry.and_then(|(_, entry)| entry.live());
        live.map_or(0, |live| live.flow.held_bytes())
    }

    /// Flows of this core, half-open and ending ones too.
    pub fn flows(&self) -> usize {
        self.table.len() - self.forwarded
    }

    /// Bytes that were taken by [`Self::send`] and that the peer has not acknowledged: what is lent
    /// to the flow is among them.
    pub fn unacknowledged(&self, flow: FlowId) -> usize {
        let slot = self.table.slot(flow);
        let entry = slot.and_then(|slot| self.table.entry(slot));
        let live = entry.and_then(|(_, entry)| entry.live());
        live.map_or(0, |live| live.flow.unacknowledged())
    }

    /// The peer has acknowledged everything that was sent, the end behind it included, or the flow
    /// is gone.
    pub fn has_delivered(&self, flow: FlowId) -> bool {
        let slot = self.table.slot(flow);
        let entry = slot.and_then(|slot| self.table.entry(slot));
        let live = entry.and_then(|(_, entry)| entry.live());
        live.is_none_or(|live| live.flow.has_delivered())
    }

    /// Whether one more flow may be. Where there is no room, one that has delivered its end, and
    /// only waits for the peer's (FIN-WAIT-2), makes some.
    pub(super) fn make_room(&mut self) -> bool {
        if self.has_room() {
            return true;
        }
        while let Some(id) = self.over.pop_front() {
            if let Some(slot) = self.table.slot(id) {
                self.remove(slot);
                break;
            }
        }
        self.has_room()
    }

    /// Notes that a flow has delivered its end.
    fn note_over(&mut self, slot: u32) {
        // Half of the list may be gone: it is never longer than twice the table.
        if self.over.len() >= self.settings.flows_max.saturating_mul(2) {
            let table = &self.table;
            self.over.retain(|&id| table.slot(id).is_some());
        }
        self.over.push_back(self.table.id(slot));
    }

    /// Connections that were finished and have not delivered everything, their end included.
    pub fn unfinished(&self) -> usize {
        let lives = self.table.values().filter_map(Entry::live);
        let owes = |live: &&Live| live.phase == Phase::Finishing && !live.flow.has_delivered();
        lives.filter(owes).count()
    }

    pub(super) fn live_mut(&mut self, slot: u32) -> Option<&mut Live> {
        self.table.value_mut(slot).and_then(Entry::live_mut)
    }

    /// Tells what has become of a flow since it was looked at last.
    pub(super) fn settle(&mut self, slot: u32) {
        let id = self.table.id(slot);
        let Some(live) = self.live_mut(slot) else {
            return;
        };
        if let Some(lost) = live.flow.lost() {
            return self.lose(slot, lost);
        }
        if live.phase == Phase::Open {
            let (readable, writable) = live.news();
            return self.tell_open(id, readable, writable);
        }
        match live.phase {
            Phase::HalfOpen { tag } if live.flow.is_established() => {
                live.phase = Phase::Open;
                live.until = None;
                self.half_open -= 1;
                self.core.counters.opened += 1;
                self.tell_opened(slot, tag);
            }
            Phase::Connecting if live.flow.is_established() => {
                live.phase = Phase::Open;
                live.until = None;
                self.events.push_back(Event::Connected(id));
            }
            Phase::HalfOpen { .. } | Phase::Connecting | Phase::Open => {}
            Phase::Finishing => {
                for _ in 0..DRAIN_MAX {
                    if !matches!(live.flow.take(), Ok(Received::Data(_))) {
                        break;
                    }
                }
                if live.flow.is_closed() {
                    self.remove(slot);
                } else if live.flow.time_wait().is_some() {
                    self.wait_for(slot);
                } else if !live.is_over && live.flow.has_delivered() {
                    live.is_over = true;
                    self.note_over(slot);
                }
                return;
            }
        }
        let Some(live) = self.live_mut(slot) else {
            return;
        };
        if live.phase == Phase::Open {
            let (readable, writable) = live.news();
            self.tell_open(id, readable, writable);
        }
    }

    pub(super) fn tell_opened(&mut self, slot: u32, tag: u16) {
        let flow = self.table.id(slot);
        if let Some((&key, _)) = self.table.entry(slot) {
            self.events.push_back(Event::Opened { flow, key, tag });
        }
    }

    fn tell_open(&mut self, id: FlowId, readable: bool, writable: bool) {
        if readable {
            self.events.push_back(Event::Readable(id));
        }
        if writable {
            self.events.push_back(Event::Writable(id));
        }
    }

    /// Forgets a flow, or a forwarding.
    pub(super) fn remove(&mut self, slot: u32) {
        self.timers.disarm(slot);
        match self.table.remove(slot) {
            Some((key, Entry::Live(live))) => {
                self.half_open -= usize::from(matches!(live.phase, Phase::HalfOpen { .. }));
                if live.attached {
                    self.events.push_back(Event::Gone { key, left: None });
                }
            }
            Some((_, Entry::Elsewhere { .. })) => self.forwarded -= 1,
            None => {}
        }
    }
}
