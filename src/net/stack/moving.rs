//! Flows that go to another core, and frames that come to the wrong one.

use std::time::Instant;

use super::Stack;
use super::flow;
use super::live::{Entry, Live, Phase};
use super::model::{FlowId, FlowKey};
use super::routes::{Hop, next_hop};
use super::waits::TimeWait;
use crate::port::Port;

/// A connection on its way to another core's stack.
#[derive(Debug)]
pub struct Detached {
    key: FlowKey,
    flow: flow::Detached,
    wants_room: bool,
}

impl Detached {
    pub fn key(&self) -> FlowKey {
        self.key
    }
}

impl<P: Port> Stack<P> {
    /// Takes a flow out for another core. Its frames come out as [`super::Event::Stray`] from now
    /// on, until [`Stack::forget_forwarding`]. `None`, and nothing changed: there is no such flow,
    /// it is not open, or it came from another core itself.
    pub fn detach(&mut self, id: FlowId, to: usize) -> Option<Detached> {
        let slot = self.table.slot(id)?;
        let live = self.live_mut(slot)?;
        if live.phase != Phase::Open || live.attached || live.lost.is_some() {
            return None;
        }
        self.timers.disarm(slot);
        let (key, entry) = self.table.remove(slot)?;
        let Entry::Live(live) = entry else {
            return None;
        };
        // The slot was freed just now.
        if self.table.insert(key, Entry::Elsewhere { to }).is_some() {
            self.forwarded += 1;
        }
        Some(Detached {
            key,
            wants_room: live.wants_room,
            flow: live.flow.detach(),
        })
    }

    /// Takes over a flow of another core. `None`: there is no room, no network with its VLAN, or
    /// another flow with its ends; the flow is reset, and gone.
    pub fn attach(&mut self, detached: Detached, now: Instant) -> Option<FlowId> {
        self.begin(now);
        let Detached {
            key,
            flow,
            wants_room,
        } = detached;
        // It was here before, and comes back.
        if let Some(slot) = self.table.find(&key)
            && let Some((_, Entry::Elsewhere { .. })) = self.table.entry(slot)
        {
            self.remove(slot);
        }
        // What is left of an older one with the same ends.
        self.waits.remove(&key);
        let mut flow = flow::Flow::attach(flow, &mut self.core);
        let is_here = self.table.find(&key).is_some();
        let place = self.networks.find(key.vlan);
        let Some(place) = place.filter(|_| !is_here && self.make_room()) else {
            flow.abort();
            flow.egress(now, &mut self.core, 1);
            return None;
        };
        let (hop, is_routed) = match next_hop(&self.settings.networks[place], key.peer.ip()) {
            Some(Hop::Via(router)) => (router, true),
            Some(Hop::OnLink) | None => (key.peer.ip(), false),
        };
        let live = Live {
            is_routed,
            attached: true,
            wants_room,
            ..self.live(flow, Phase::Open, place, hop, now)
        };
        // There is room, as was seen above, and no other with these ends.
        let slot = self.table.insert(key, Entry::Live(live))?;
        self.mark_dirty(slot);
        self.settle(slot);
        Some(self.table.id(slot))
    }

    /// The flow that was detached with these ends is over. `left`: what its last core has told with
    /// [`super::Event::Gone`], which is answered here from now on.
    pub fn forget_forwarding(&mut self, key: FlowKey, left: Option<Box<TimeWait>>, now: Instant) {
        self.begin(now);
        if let Some(slot) = self.table.find(&key)
            && let Some((_, Entry::Elsewhere { .. })) = self.table.entry(slot)
        {
            self.remove(slot);
            if let Some(wait) = left {
                self.keep_waiting(*wait, now);
            }
        }
    }
}
