//! A port that breaks one rule at a time, to see the suite find it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::event::{EventfdFlags, eventfd};

use super::super::memory::{self, Config, End, Overflow};
use super::super::{
    Burst, Capabilities, Checksum, Counters, Frame, Full, Link, Offload, Outgoing, Piece, Port,
};
use super::{Ends, Rig, run};
use crate::mem::Loan;

/// The rule that is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Breach {
    None,
    /// Every 50th frame is dropped on receipt.
    LosesReceived,
    /// The last frame of a full burst is dropped, and counted as received all the same.
    LosesWhenBusy,
    /// The same, and it is not counted at all.
    LosesUncounted,
    /// A frame that does not fit is said to be taken.
    SwallowsWhenFull,
    /// Frames of a burst come in the wrong order.
    Reorders,
    /// What the caller had in its burst goes.
    ForgetsBurst,
    /// A frame's buffer is kept for ever.
    KeepsBuffers,
    /// A byte more than the MTU is sent.
    SendsLong,
    /// The MTU that it claims is one byte more than passes.
    ClaimsMore,
    /// Refused frames are not counted.
    HidesRefused,
    /// Sent frames are counted twice.
    CountsTwice,
    CountsNoBytes,
    /// Loans are held after the frame has gone.
    KeepsLoans,
    /// Pieces beyond its number are left out.
    DropsPieces,
    /// Checksums are not written.
    SkipsChecksums,
    /// All frames are called good.
    CallsAllGood,
    CallsAllBad,
    /// Segments are one byte longer than asked.
    CutsTooLong,
    /// Once full, always full.
    NeverRecovers,
    /// What it says to sleep on stays silent.
    NeverWakes,
}

const ALL: [Breach; 20] = [
    Breach::LosesReceived,
    Breach::LosesWhenBusy,
    Breach::LosesUncounted,
    Breach::SwallowsWhenFull,
    Breach::Reorders,
    Breach::ForgetsBurst,
    Breach::KeepsBuffers,
    Breach::SendsLong,
    Breach::ClaimsMore,
    Breach::HidesRefused,
    Breach::CountsTwice,
    Breach::CountsNoBytes,
    Breach::KeepsLoans,
    Breach::DropsPieces,
    Breach::SkipsChecksums,
    Breach::CallsAllGood,
    Breach::CallsAllBad,
    Breach::CutsTooLong,
    Breach::NeverRecovers,
    Breach::NeverWakes,
];

struct Broken {
    inner: End,
    breach: Breach,
    capabilities: Capabilities,
    kept: Vec<Frame>,
    kept_loans: Vec<Loan>,
    late: VecDeque<Frame>,
    nth: u64,
    dropped: u64,
    was_full: bool,
    silent: OwnedFd,
}

impl Broken {
    fn new(inner: End, breach: Breach) -> Self {
        let mut capabilities = inner.capabilities().clone();
        match breach {
            Breach::SendsLong => capabilities.mtu -= 1,
            Breach::ClaimsMore => capabilities.mtu += 1,
            _ => {}
        }
        Self {
            inner,
            breach,
            capabilities,
            kept: vec![],
            kept_loans: vec![],
            late: VecDeque::new(),
            nth: 0,
            dropped: 0,
            was_full: false,
            silent: eventfd(0, EventfdFlags::CLOEXEC).expect("one file more"),
        }
    }

    fn received(&mut self, mut frame: Frame, burst: &mut Burst) {
        self.nth += 1;
        match self.breach {
            Breach::LosesReceived if self.nth.is_multiple_of(50) => return,
            Breach::KeepsBuffers => {
                let copy = Frame::copied(frame.head());
                self.kept.push(std::mem::replace(&mut frame, copy));
            }
            Breach::CallsAllGood => frame.checksum = Checksum::Good,
            Breach::CallsAllBad => frame.checksum = Checksum::Bad,
            Breach::Reorders if self.nth.is_multiple_of(2) && self.late.is_empty() => {
                self.late.push_back(frame);
                return;
            }
            _ => {}
        }
        burst.push(frame);
    }
}

impl Port for Broken {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn receive(&mut self, burst: &mut Burst) {
        if self.breach == Breach::ForgetsBurst {
            burst.clear();
        }
        let mut came = Burst::new();
        while came.len() + burst.len() < came.capacity() {
            let before = came.len();
            let mut one = Burst::new();
            while one.remaining_capacity() > 1 {
                one.push(Frame::copied(&[]));
            }
            self.inner.receive(&mut one);
            came.extend(one.pop().filter(|frame| !frame.is_empty()));
            if came.len() == before {
                break;
            }
        }
        let is_busy = matches!(self.breach, Breach::LosesWhenBusy | Breach::LosesUncounted);
        if is_busy && came.is_full() {
            self.dropped += 1;
            came.pop();
        }
        for frame in came {
            self.received(frame, burst);
        }
        if !burst.is_full() {
            burst.extend(self.late.pop_front());
        }
    }

    fn transmit(&mut self, frame: &Outgoing<'_>) -> Result<(), Full> {
        if self.breach == Breach::NeverRecovers && self.was_full {
            return Err(Full);
        }
        let mut frame = frame.clone();
        let few: Vec<Piece<'_>>;
        match self.breach {
            Breach::KeepsLoans => {
                self.kept_loans
                    .extend(frame.payload.iter().filter_map(|piece| match piece {
                        Piece::Loan(loan) => Some((*loan).clone()),
                        Piece::Bytes(_) => None,
                    }));
            }
            Breach::DropsPieces => {
                few = frame
                    .payload
                    .iter()
                    .take(self.capabilities.pieces_max)
                    .copied()
                    .collect();
                frame.payload = &few;
            }
            Breach::SkipsChecksums if frame.offload.segment_bytes.is_none() => {
                frame.offload = Offload::default();
            }
            Breach::CutsTooLong => {
                let longer = frame
                    .offload
                    .segment_bytes
                    .and_then(|bytes| bytes.checked_add(1));
                frame.offload.segment_bytes = longer;
            }
            _ => {}
        }
        let done = self.inner.transmit(&frame);
        self.was_full |= done.is_err();
        if self.breach == Breach::SwallowsWhenFull {
            return Ok(());
        }
        done
    }

    fn flush(&mut self) {
        self.inner.flush();
    }

    fn counters(&self) -> Counters {
        let mut counters = self.inner.counters();
        match self.breach {
            Breach::HidesRefused => counters.refused = 0,
            Breach::CountsTwice => counters.sent *= 2,
            Breach::LosesUncounted => counters.received -= self.dropped,
            Breach::CountsNoBytes => counters.received_bytes = 0,
            _ => {}
        }
        counters
    }

    fn link(&mut self) -> Link {
        self.inner.link()
    }

    fn wakes(&self) -> Option<BorrowedFd<'_>> {
        match self.breach {
            Breach::NeverWakes => Some(self.silent.as_fd()),
            _ => self.inner.wakes(),
        }
    }
}

struct BrokenRig(Breach);

impl Rig for BrokenRig {
    type Left = Broken;
    type Right = Broken;

    fn open(&self) -> Ends<Broken, Broken> {
        let config = Config {
            verifies_checksums: true,
            fills_ipv4_checksum: true,
            fills_tcp_checksum: true,
            segments_ipv4: Some(u16::MAX),
            overflow: Overflow::Hold,
            ring: 256,
            wakes: true,
            ..Config::default()
        };
        let (left, right) = memory::pair(&config).expect("no file is opened");
        Ends {
            left: Broken::new(left, self.0),
            right: Broken::new(right, self.0),
        }
    }

    fn buffers(&self, ends: &Ends<Broken, Broken>) -> usize {
        ends.left.inner.buffers_available() + ends.right.inner.buffers_available()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suite_finds_every_breach() {
        run(&BrokenRig(Breach::None));
        let unseen: Vec<Breach> = ALL
            .into_iter()
            .filter(|&breach| catch_unwind(AssertUnwindSafe(|| run(&BrokenRig(breach)))).is_ok())
            .collect();
        assert_eq!(unseen, [], "these pass the suite");
    }
}
