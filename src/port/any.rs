//! [`AnyPort`]: a port of any kind, told apart once per call and not by a pointer.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use super::fault::Fault;
use super::remote::Remote;
use super::tap::Tap;
use super::{Burst, Capabilities, Counters, Full, Link, Outgoing, Port, dpdk, memory};

/// The kinds of ports that a core can have.
#[cfg_attr(
    feature = "dpdk",
    expect(
        clippy::large_enum_variant,
        reason = "a core has a port or two, and every frame goes through them"
    )
)]
#[derive(Debug)]
pub enum AnyPort {
    Memory(memory::End),
    Fault(Box<Fault<Self>>),
    Tap(Tap),
    Dpdk(dpdk::Queue),
    Remote(Remote),
}

/// The same call on whichever port it is.
macro_rules! on {
    ($any:expr, $port:ident => $call:expr) => {
        match $any {
            AnyPort::Memory($port) => $call,
            AnyPort::Fault($port) => $call,
            AnyPort::Tap($port) => $call,
            AnyPort::Dpdk($port) => $call,
            AnyPort::Remote($port) => $call,
        }
    };
}

impl AnyPort {
    /// Frames may come by it.
    pub fn receives(&self) -> bool {
        !matches!(self, Self::Remote(_))
    }
}

impl Port for AnyPort {
    fn capabilities(&self) -> &Capabilities {
        on!(self, port => port.capabilities())
    }

    fn receive(&mut self, burst: &mut Burst) {
        on!(self, port => port.receive(burst));
    }

    fn transmit(&mut self, frame: &Outgoing<'_>) -> Result<(), Full> {
        on!(self, port => port.transmit(frame))
    }

    fn flush(&mut self) {
        on!(self, port => port.flush());
    }

    fn counters(&self) -> Counters {
        on!(self, port => port.counters())
    }

    fn link(&mut self) -> Link {
        on!(self, port => port.link())
    }

    fn wakes(&self) -> Option<BorrowedFd<'_>> {
        on!(self, port => port.wakes())
    }

    fn set_now(&mut self, now: Instant) {
        on!(self, port => port.set_now(now));
    }

    fn deadline(&self) -> Option<Instant> {
        on!(self, port => port.deadline())
    }
}
