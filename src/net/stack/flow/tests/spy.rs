//! A port that tells what was sent through it, and refuses or panics when it is told to.

use std::ops::Range;
use std::os::fd::BorrowedFd;

use crate::port::{Burst, Capabilities, Counters, Full, Link, Outgoing, Piece, Port, memory};

pub(in super::super) struct Spy {
    inner: memory::End,
    /// Addresses of lent payload, in the order of sending.
    pub(super) lent: Vec<Range<usize>>,
    /// Bytes of payload that were to be copied.
    pub(super) copied: usize,
    /// Payload of the longest frame.
    pub(super) longest: usize,
    /// Refuses every so many frames; 0: none.
    pub(super) refuses: usize,
    /// Panics with the next frame.
    pub(super) panics: bool,
    sent: usize,
}

impl Spy {
    pub(super) fn new(inner: memory::End) -> Self {
        Self {
            inner,
            lent: Vec::new(),
            copied: 0,
            longest: 0,
            refuses: 0,
            panics: false,
            sent: 0,
        }
    }
}

impl Port for Spy {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn receive(&mut self, burst: &mut Burst) {
        self.inner.receive(burst);
    }

    fn transmit(&mut self, frame: &Outgoing<'_>) -> Result<(), Full> {
        assert!(!self.panics, "as it was told");
        self.sent += 1;
        // Not after a flush, either.
        if self.refuses != 0 && self.sent % self.refuses < 2 {
            return Err(Full);
        }
        self.inner.transmit(frame)?;
        let mut len = 0;
        for piece in frame.payload {
            let bytes = piece.bytes().as_ptr_range();
            len += piece.bytes().len();
            match piece {
                Piece::Loan(_) => self.lent.push(bytes.start as usize..bytes.end as usize),
                Piece::Bytes(bytes) => self.copied += bytes.len(),
            }
        }
        self.longest = self.longest.max(len);
        Ok(())
    }

    fn flush(&mut self) {
        self.inner.flush();
    }

    fn counters(&self) -> Counters {
        self.inner.counters()
    }

    fn link(&mut self) -> Link {
        self.inner.link()
    }

    fn wakes(&self) -> Option<BorrowedFd<'_>> {
        self.inner.wakes()
    }
}
