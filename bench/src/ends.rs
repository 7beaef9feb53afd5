//! The end of a wire whose cost per packet is measured: our stack, or another in its place.

use std::sync::Arc;
use std::time::Instant;

use iiblockdaemon::mem::{DmaBuf, Piece, Pool};
use iiblockdaemon::net::stack::model::{FlowId, Settings};
use iiblockdaemon::net::stack::{Event, NoRings, Received, Stack};

use crate::dma::Near;

/// Buffers that received bytes are written to in turns.
const BUFFERS: usize = 32;
/// Bytes of each: a first burst.
const BUFFER_BYTES: usize = 64 * 1024;

/// What is measured. Connections are named by their number, from 0 in the order in which they came.
pub trait End {
    /// Works on all frames that have come. What has come in order is given out, `into` buffers or
    /// to nobody.
    fn receive(&mut self, now: Instant, into: Option<&mut Writes>);

    /// Sends what is due after that.
    fn answer(&mut self, now: Instant);

    /// Takes a whole buffer to be sent. `false`: there is no room.
    fn send(&mut self, connection: usize, buf: &DmaBuf) -> bool;

    /// Sends that.
    fn transmit(&mut self, now: Instant);

    /// Works on all frames that have come: acknowledgments.
    fn acknowledged(&mut self, now: Instant);

    /// Whatever else there is to do once in a while; not measured.
    fn settle(&mut self, now: Instant);

    /// Connections that were established so far.
    fn opened(&self) -> usize;

    /// Bytes of a connection that were sent and not acknowledged.
    fn unacknowledged(&self, connection: usize) -> usize;

    /// The device.
    fn port(&self) -> &Near;
}

/// The aligned buffers of writes, filled one after the other.
#[derive(Debug)]
pub struct Writes {
    buffers: Vec<DmaBuf>,
    at: usize,
    filled: usize,
}

impl Writes {
    /// `None`: the pool has too little left.
    pub fn new(pool: &Pool) -> Option<Self> {
        let buffers: Option<Vec<_>> = (0..BUFFERS).map(|_| pool.alloc(BUFFER_BYTES)).collect();
        Some(Self {
            buffers: buffers?,
            at: 0,
            filled: 0,
        })
    }

    /// Copies bytes behind those before.
    pub fn put(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(BUFFER_BYTES - self.filled));
            self.buffers[self.at].copy_from(self.filled, now);
            self.filled += now.len();
            rest = later;
            if self.filled == BUFFER_BYTES {
                (self.at, self.filled) = ((self.at + 1) % BUFFERS, 0);
            }
        }
    }
}

/// Our stack: payload lies in frames and buffers.
#[derive(Debug)]
pub struct Ours {
    stack: Stack<Near>,
    flows: Vec<FlowId>,
}

impl Ours {
    /// # Errors
    /// There is no memory for the rings of connections.
    pub fn new(port: Near, settings: &Arc<Settings>, now: Instant) -> Result<Self, NoRings> {
        Ok(Self {
            stack: Stack::new(port, settings, now)?,
            flows: Vec::new(),
        })
    }
}

impl End for Ours {
    fn receive(&mut self, now: Instant, mut into: Option<&mut Writes>) {
        while self.stack.receive(now) {
            while let Some(event) = self.stack.next_event() {
                let Event::Readable(flow) = event else {
                    continue;
                };
                while let Ok(Received::Data(chunk)) = self.stack.take(flow) {
                    if let Some(writes) = &mut into {
                        chunk.slices().for_each(|slice| writes.put(slice));
                    }
                }
            }
        }
    }

    fn answer(&mut self, now: Instant) {
        self.stack.tick(now);
        self.transmit(now);
    }

    fn send(&mut self, connection: usize, buf: &DmaBuf) -> bool {
        let pieces = [Piece::Buffer(buf, 0..buf.len())];
        self.stack.send(self.flows[connection], &pieces).is_ok()
    }

    fn transmit(&mut self, now: Instant) {
        while self.stack.transmit(now) {}
    }

    fn acknowledged(&mut self, now: Instant) {
        while self.stack.receive(now) {}
    }

    fn settle(&mut self, now: Instant) {
        self.answer(now);
        while let Some(event) = self.stack.next_event() {
            if let Event::Opened { flow, .. } = event {
                self.flows.push(flow);
            }
        }
    }

    fn opened(&self) -> usize {
        self.flows.len()
    }

    fn unacknowledged(&self, connection: usize) -> usize {
        self.stack.unacknowledged(self.flows[connection])
    }

    fn port(&self) -> &Near {
        self.stack.port()
    }
}
