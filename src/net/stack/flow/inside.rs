//! Every call of smoltcp there is. A panic in one of them is the end of the flow: its state means
//! nothing any more, so that it is never called again, and everything that it holds is let go.

use std::panic::{self, AssertUnwindSafe};
use std::time::Instant;

use smoltcp::iface::PollResult;
use smoltcp::socket::tcp::Socket;

use super::{Body, Flow, HANDSHAKE_SILENCE, Seen};
use crate::net::stack::event::Lost;
use crate::net::stack::guard::Stage;
use crate::net::stack::held::Held;
use crate::net::stack::loss::FlowClock;
use crate::net::stack::packet::Seq;
use crate::net::stack::packet::emit::{Bare, LinkHeader};
use crate::net::stack::wire::{Core, Wire};
use crate::port::{ETHERNET_BYTES, HEAD_BYTES_MAX, Port};

impl Body {
    /// Works on the socket. `None`: the flow has failed, or does now.
    pub(super) fn with_socket<R>(&mut self, work: impl FnOnce(&mut Socket<'_>) -> R) -> Option<R> {
        let handle = self.socket;
        self.caught(|body| body.sockets.with(|set| work(set.get_mut(handle))))
    }

    /// Does not call smoltcp once it has panicked.
    fn caught<R>(&mut self, work: impl FnOnce(&mut Self) -> R) -> Option<R> {
        if self.lost == Some(Lost::Failed) {
            return None;
        }
        let result = panic::catch_unwind(AssertUnwindSafe(|| work(self)));
        if result.is_err() {
            self.panics = 1;
            self.lost = Some(Lost::Failed);
        }
        result.ok()
    }
}

impl Flow {
    /// Gives smoltcp the packet of `len` bytes whose headers are in the scratch.
    pub(super) fn ingress<P: Port>(&mut self, now: Instant, core: &mut Core<P>, len: usize) {
        let time = self.body.tell_time(now);
        let Self { body, sent } = self;
        let _ = body.caught(|body| {
            let mut wire = Wire {
                core: &mut *core,
                line: &mut body.line,
                sent,
                incoming: Some(len),
            };
            let interface = &mut body.interface;
            body.sockets.with(|set| {
                interface.poll_ingress_single(time, &mut wire, set);
            });
        });
        self.look();
        let _ = self.has_failed(core);
    }

    /// Gives smoltcp a packet that never came.
    pub(super) fn made_up<P: Port>(&mut self, now: Instant, packet: &Bare, core: &mut Core<P>) {
        let mut frame = [0; HEAD_BYTES_MAX];
        let link = LinkHeader {
            tag: None,
            ..self.body.line.link
        };
        let end = packet.emit(&link, &mut frame);
        let packet = &frame[ETHERNET_BYTES..end];
        core.incoming()[..packet.len()].copy_from_slice(packet);
        self.ingress(now, core, packet.len());
    }

    /// Lets smoltcp send one packet, if it wants. `None`: the flow has failed.
    pub(super) fn poll_egress<P: Port>(
        &mut self,
        now: Instant,
        core: &mut Core<P>,
    ) -> Option<bool> {
        let time = self.body.tell_time(now);
        let Self { body, sent } = self;
        let result = body.caught(|body| {
            let mut wire = Wire {
                core: &mut *core,
                line: &mut body.line,
                sent,
                incoming: None,
            };
            let interface = &mut body.interface;
            body.sockets
                .with(|set| interface.poll_egress(time, &mut wire, set))
        });
        if self.body.line.broken {
            self.fail();
        }
        if self.has_failed(core) {
            return None;
        }
        result.map(|result| result == PollResult::SocketStateChanged)
    }

    /// When smoltcp has something to do.
    pub(super) fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        let time = self.body.tell_time(now);
        let at = self.body.caught(|body| {
            let interface = &mut body.interface;
            body.sockets.with(|set| interface.poll_at(time, set))
        });
        let clock = FlowClock::new(self.body.epoch);
        at.flatten().map(|at| clock.when(at))
    }

    /// Nothing about the flow can be believed any more.
    pub(super) fn fail(&mut self) {
        self.body.lost = Some(Lost::Failed);
        self.body.seen = Seen::NOTHING;
        let held = &mut self.body.held;
        *held = Held::within(held.next(), held.budget());
        self.sent.acknowledge(self.sent.end());
    }

    /// Whether it failed; the core is told of it.
    pub(super) fn has_failed<P: Port>(&mut self, core: &mut Core<P>) -> bool {
        if self.body.lost != Some(Lost::Failed) {
            return false;
        }
        if self.body.panics != 0 {
            self.fail();
        }
        core.counters.panics += u64::from(std::mem::take(&mut self.body.panics));
        true
    }

    /// Looks at what smoltcp says now, and lets go of what was acknowledged.
    pub(super) fn look(&mut self) {
        let seen = self.body.with_socket(|socket| Seen::of(socket));
        let Some(seen) = seen.filter(|_| !self.body.line.broken) else {
            return self.fail();
        };
        self.body.seen = seen;
        let left = u32::try_from(seen.unacknowledged).unwrap_or(u32::MAX);
        self.sent.acknowledge(self.sent.end().wrapping_sub(left));
        let window = self.body.guard.window_bytes();
        self.body.line.snd_edge = Seq(self.sent.una()).plus(window);
        self.set_silence();
    }

    /// How long smoltcp waits for the peer: only for the end of the handshake. After it the flow
    /// sees to that itself.
    fn set_silence(&mut self) {
        let silence = match self.body.seen.stage() {
            Stage::Calling | Stage::Answering => Some(HANDSHAKE_SILENCE),
            Stage::Standing => None,
        };
        if silence != self.body.silence {
            self.body.silence = silence;
            let silence = silence.map(FlowClock::scaled);
            let _ = self.body.with_socket(|socket| socket.set_timeout(silence));
        }
    }
}
