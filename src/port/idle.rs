//! [`IdlePort`]: a port on its way to the thread that will poll it. Some belong to their thread
//! once they are polled, and are not to be sent to another.

use super::fault::{Fault, Rates};
use super::memory::End;
use super::remote::Remote;
use super::tap::Tap;
use super::{AnyPort, Capabilities, Port, dpdk};
use crate::mem::Pool;

/// A port that no thread polls yet.
#[derive(Debug)]
pub enum IdlePort {
    Memory(End),
    /// Another with faults in front, for tests.
    Faulty {
        inner: Box<Self>,
        receive: Rates,
        transmit: Rates,
        seed: u64,
    },
    Tap(Tap),
    Dpdk(dpdk::IdleQueue),
    Remote(Remote),
}

impl IdlePort {
    /// Frames may come by it.
    pub fn receives(&self) -> bool {
        match self {
            Self::Faulty { inner, .. } => inner.receives(),
            Self::Memory(_) | Self::Tap(_) | Self::Dpdk(_) => true,
            Self::Remote(_) => false,
        }
    }

    /// What it can do.
    pub fn capabilities(&self) -> Capabilities {
        match self {
            Self::Memory(end) => end.capabilities().clone(),
            Self::Faulty { inner, .. } => inner.capabilities(),
            Self::Tap(port) => port.capabilities().clone(),
            Self::Dpdk(queue) => queue.capabilities(),
            Self::Remote(port) => port.capabilities().clone(),
        }
    }

    /// Makes it the calling thread's. `pool` is what will be sent from.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn adopt(self, pool: &Pool) -> Result<AnyPort, String> {
        Ok(match self {
            Self::Memory(end) => AnyPort::Memory(end),
            Self::Faulty {
                inner,
                receive,
                transmit,
                seed,
            } => {
                let inner = inner.adopt(pool)?;
                AnyPort::Fault(Box::new(Fault::new(inner, receive, transmit, seed)))
            }
            Self::Tap(port) => AnyPort::Tap(port),
            Self::Dpdk(queue) => {
                let adopted = queue.adopt(Some(pool));
                AnyPort::Dpdk(adopted.map_err(|error| error.to_string())?)
            }
            Self::Remote(port) => AnyPort::Remote(port),
        })
    }
}
