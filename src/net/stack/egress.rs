//! What is sent, and what is done when its time has come.
//!
//! Flows that may have something to send wait in one list, in the order in which that came up. Each
//! is given a share of a turn and goes to the end of the list when it has more, so that none
//! starves another.

use std::time::{Duration, Instant};

use super::Stack;
use super::event::{Event, Lost};
use super::flow::Egress;
use super::live::{Entry, Phase};
use crate::port::Port;

/// Flows that a turn lets send, at most.
const FLOWS_PER_TURN: usize = 128;
/// Frames that one of them sends before it is another's turn.
const FRAMES_PER_FLOW: usize = 16;
/// A full port is tried again after this.
const PORT_RETRY: Duration = Duration::from_millis(1);
/// A peer with which nothing went on for so long may have moved to another station: it is asked
/// for.
pub(super) const SILENCE: Duration = Duration::from_secs(2);

impl<P: Port> Stack<P> {
    /// Sends what flows have to send, a bounded amount of it, and flushes the port. To be called
    /// in each turn, after everything that may give flows something to send. `true`: there is more
    /// to do at once.
    pub fn transmit(&mut self, now: Instant) -> bool {
        self.begin(now);
        self.wake_waiting();
        // A frame of a flow that is gone may wait, too.
        let is_full = !self.core.resume();
        self.blocked = is_full.then(|| now + PORT_RETRY);
        let turns = if is_full { 0 } else { FLOWS_PER_TURN };
        for _ in 0..turns {
            let Some(slot) = self.dirty.pop() else {
                break;
            };
            if !self.let_send(slot, now) {
                self.blocked = Some(now + PORT_RETRY);
                break;
            }
        }
        self.core.port.flush();
        self.blocked.is_none() && !self.dirty.is_empty()
    }

    /// Works on the timers that are due. Cheap when none is.
    pub fn tick(&mut self, now: Instant) {
        self.begin(now);
        while let Some(slot) = self.timers.pop(now) {
            self.time_is_up(slot, now);
        }
        self.end_waits(now);
        self.tick_control(now);
    }

    /// When `tick` or `transmit` has something to do again, at the earliest.
    pub fn deadline(&self) -> Option<Instant> {
        let any = !self.dirty.is_empty() || self.core.is_full();
        let unsent = (self.blocked.is_none() && any).then_some(self.latest);
        let times = [
            unsent,
            self.blocked,
            self.core.port.deadline(),
            self.timers.deadline(),
            self.waits.deadline(),
            self.control.addresses.deadline(),
            self.neighbours.deadline(),
        ];
        times.into_iter().flatten().min()
    }

    pub(super) fn mark_dirty(&mut self, slot: u32) {
        if self.live_mut(slot).is_some() {
            self.dirty.push(slot);
        }
    }

    /// One flow's share of a turn. `false`: the port is full, and the flow is first in the list
    /// again.
    fn let_send(&mut self, slot: u32, now: Instant) -> bool {
        let Some(live) = self.live_mut(slot) else {
            return true;
        };
        if live.is_unresolved && live.lost.is_some() {
            return true;
        }
        if !self.relink(slot, now) {
            self.waiting.push(slot);
            if let Some(until) = self.live_mut(slot).and_then(|live| live.until) {
                self.timers.arm(slot, until);
            }
            return true;
        }
        let Some(live) = self.table.value_mut(slot).and_then(Entry::live_mut) else {
            return true;
        };
        match live.flow.egress(now, &mut self.core, FRAMES_PER_FLOW) {
            Egress::Done => self.arm(slot, now),
            Egress::More => self.mark_dirty(slot),
            Egress::Full => {
                self.dirty.put_back(slot);
                return false;
            }
        }
        self.settle(slot);
        true
    }

    /// Arms the timer of a flow for whatever comes first.
    pub(super) fn arm(&mut self, slot: u32, now: Instant) {
        if let Some(live) = self.live_mut(slot) {
            let times = [live.flow.deadline(now), live.until, live.path.deadline()];
            if let Some(at) = times.into_iter().flatten().min() {
                self.timers.arm(slot, at);
            }
        }
    }

    fn time_is_up(&mut self, slot: u32, now: Instant) {
        let Some(live) = self.live_mut(slot) else {
            return;
        };
        if let Some(mtu) = live.path.retry(now) {
            self.widen(slot, mtu, now);
        }
        let Some(live) = self.live_mut(slot) else {
            return;
        };
        if live.until.is_none_or(|until| until > now) {
            if now.saturating_duration_since(live.heard) >= SILENCE {
                self.look_up_hop(slot, now);
            }
            return self.mark_dirty(slot);
        }
        live.until = None;
        match live.phase {
            Phase::HalfOpen { .. } => {
                self.core.counters.half_open_expired += 1;
                self.remove(slot);
            }
            Phase::Connecting => self.lose(slot, Lost::TimedOut),
            Phase::Open => {}
            Phase::Finishing => {
                // A peer that has everything, and does not end its own side, is told nothing.
                if !live.flow.has_delivered() {
                    live.flow.abort();
                    self.send_last(slot, now);
                }
                self.remove(slot);
            }
        }
    }

    /// Tries the link's own length on a path that did not carry it a while ago.
    fn widen(&mut self, slot: u32, mtu: u16, now: Instant) {
        if let Some(live) = self.table.value_mut(slot).and_then(Entry::live_mut) {
            live.flow.set_path_mtu(now, mtu, &mut self.core);
        }
    }

    /// What an aborted flow still has to say; it is not tried again.
    pub(super) fn send_last(&mut self, slot: u32, now: Instant) {
        let Some(live) = self.table.value_mut(slot).and_then(Entry::live_mut) else {
            return;
        };
        if !live.is_unresolved {
            let _ = live.flow.egress(now, &mut self.core, 1);
        }
    }

    /// Flows that wait to know where to send look again when something was learned.
    fn wake_waiting(&mut self) {
        if self.waiting.is_empty() || self.waiting_since == self.neighbours.changes() {
            return;
        }
        self.waiting_since = self.neighbours.changes();
        for _ in 0..self.waiting.len() {
            if let Some(slot) = self.waiting.pop() {
                self.mark_dirty(slot);
            }
        }
    }

    /// Brings the link header of a flow up to what is known. `false`: nothing is known yet.
    fn relink(&mut self, slot: u32, now: Instant) -> bool {
        let changes = self.neighbours.changes();
        let Some(live) = self.live_mut(slot) else {
            return false;
        };
        if live.changes == changes {
            return !live.is_unresolved;
        }
        live.changes = changes;
        // A peer of our own network is where its stream goes on.
        let silent = now.saturating_duration_since(live.heard) >= SILENCE;
        if !live.is_routed && !live.is_unresolved && !silent {
            return true;
        }
        self.look_up_hop(slot, now)
    }

    /// Looks up the next station on the way to a flow's peer. `false`: nothing is known yet.
    pub(super) fn look_up_hop(&mut self, slot: u32, now: Instant) -> bool {
        let Some((key, entry)) = self.table.entry(slot) else {
            return false;
        };
        let Some(live) = entry.live() else {
            return false;
        };
        let (vlan, place) = (key.vlan, live.place);
        let mac = self.neighbours.look_up(vlan, live.hop, now);
        let link = mac.map(|mac| {
            let network = &self.settings.networks[place];
            self.control.link_to(network, mac)
        });
        let Some(live) = self.live_mut(slot) else {
            return false;
        };
        if let Some(link) = link {
            live.flow.set_link(link);
            live.is_unresolved = false;
        }
        !live.is_unresolved
    }

    /// A flow failed: the reactor is told, if it knows of it.
    pub(super) fn lose(&mut self, slot: u32, lost: Lost) {
        let id = self.table.id(slot);
        let Some(live) = self.live_mut(slot) else {
            return;
        };
        if live.lost.is_some() {
            return;
        }
        live.lost = Some(lost);
        let told = matches!(live.phase, Phase::Connecting | Phase::Open);
        match lost {
            Lost::Reset => self.core.counters.resets_received += 1,
            Lost::TimedOut => self.core.counters.timed_out += 1,
            Lost::Failed | Lost::Unknown => {}
        }
        if told {
            self.events.push_back(Event::Lost(id));
        } else {
            self.remove(slot);
        }
    }
}
