//! A network device of which only the host's side costs anything: what a card's DMA engine would do
//! happens when the other end asks for its frames.
//!
//! The near end takes a frame to be sent as a descriptor (headers copied, payload lent), and hands
//! out received frames that are in memory already. The far end builds both. So the time spent in
//! calls of the near end is what a core pays for a real device's frames, without its PCI accesses.
//!
//! A stack that writes whole packets into memory of the device ([`Near::room`]) is not copied from
//! either.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use iiblockdaemon::mem::Loan;
use iiblockdaemon::port::buffers::Buffers;
use iiblockdaemon::port::offload::Wire;
use iiblockdaemon::port::{
    BURST, Burst, Capabilities, Checksum, Counters, Frame, Full, HEAD_BYTES_MAX, Link, Offload,
    Outgoing, Piece, Port,
};

/// Descriptors of one ring, as large cards have them.
const RING: usize = 4096;
/// Bytes of a [`Room`]: the longest IP packet and what stands before it.
pub const ROOM_BYTES: usize = 65_536 + HEAD_BYTES_MAX;

/// Memory of the device for one frame to be sent.
pub type Room = Box<[u8; ROOM_BYTES]>;

/// A frame to be sent, as a card's descriptors hold it.
#[derive(Debug)]
struct Descriptor {
    head: Vec<u8>,
    payload: Vec<Part>,
    offload: Offload,
}

#[derive(Debug)]
enum Part {
    Bytes(Vec<u8>),
    Loan(Loan),
    /// A frame in the device's own memory, and where its payload lies.
    Built(Room, Range<usize>),
}

#[derive(Debug)]
struct Cable {
    /// Sent by the near end, not fetched yet.
    sent: VecDeque<Descriptor>,
    /// Descriptors that were fetched, to be used again.
    spare: Vec<Descriptor>,
    /// Memory of frames that were fetched, the last one on top.
    rooms: Vec<Room>,
    /// For the near end.
    ready: VecDeque<Frame>,
    buffers: Buffers,
}

/// The end whose cost is measured.
#[derive(Debug)]
pub struct Near {
    cable: Rc<RefCell<Cable>>,
    capabilities: Capabilities,
    counters: Counters,
    copied: u64,
    lent: u64,
}

/// The end that does the device's work.
#[derive(Debug)]
pub struct Far {
    cable: Rc<RefCell<Cable>>,
    capabilities: Capabilities,
    counters: Counters,
    /// Segments of the oldest descriptor that were handed out already.
    cut: usize,
}

/// Both ends of one device. `mtu` in bytes; with `offloads` it computes and verifies checksums, and
/// cuts IPv4 packets of up to 64 KiB.
pub fn pair(mtu: u16, offloads: bool) -> (Near, Far) {
    let capabilities = |mac: u8| Capabilities {
        mac: [2, 0, 0, 0, 0, mac],
        mtu,
        queue: 0,
        queues: 1,
        verifies_checksums: offloads,
        fills_ipv4_checksum: offloads,
        fills_tcp_checksum: offloads,
        segments_ipv4: offloads.then_some(u16::MAX),
        segment_bytes_min: 1,
        receive_frames: 2 * RING,
        pieces_max: 16,
        holds_loans: true,
    };
    let cable = Rc::new(RefCell::new(Cable {
        sent: VecDeque::with_capacity(RING),
        spare: Vec::with_capacity(RING),
        rooms: Vec::with_capacity(RING),
        ready: VecDeque::with_capacity(RING),
        buffers: Buffers::new(2 * RING, usize::from(mtu) + 64),
    }));
    let near = Near {
        cable: Rc::clone(&cable),
        capabilities: capabilities(1),
        counters: Counters::default(),
        copied: 0,
        lent: 0,
    };
    let far = Far {
        cable,
        capabilities: capabilities(2),
        counters: Counters::default(),
        cut: 0,
    };
    (near, far)
}

impl Near {
    /// Bytes of payload that it was given to copy.
    pub fn copied(&self) -> u64 {
        self.copied
    }

    /// Bytes of payload that it sent from where they were.
    pub fn lent(&self) -> u64 {
        self.lent
    }

    /// There is no descriptor left.
    pub fn is_full(&self) -> bool {
        self.cable.borrow().sent.len() == RING
    }

    /// Memory for a frame, with stale contents.
    pub fn room(&self) -> Room {
        let room = self.cable.borrow_mut().rooms.pop();
        room.unwrap_or_else(|| {
            let memory = vec![0; ROOM_BYTES].into_boxed_slice();
            memory.try_into().expect("just as long")
        })
    }

    /// Sends what was written into such memory: `head` bytes of headers, `len` bytes in all.
    ///
    /// # Errors
    /// As of [`Port::transmit`]; the frame is lost.
    pub fn transmit_built(
        &mut self,
        room: Room,
        (head, len): (usize, usize),
        offload: Offload,
    ) -> Result<(), Full> {
        let mut cable = self.cable.borrow_mut();
        if cable.sent.len() == RING {
            cable.rooms.push(room);
            return Err(Full);
        }
        let mut descriptor = cable.spare();
        descriptor.head.extend_from_slice(&room[..head]);
        descriptor.offload = offload;
        descriptor.payload.push(Part::Built(room, head..len));
        cable.sent.push_back(descriptor);
        self.counters.sent += 1;
        Ok(())
    }
}

impl Cable {
    fn spare(&mut self) -> Descriptor {
        self.spare.pop().unwrap_or_else(|| Descriptor {
            head: Vec::with_capacity(128),
            payload: Vec::with_capacity(16),
            offload: Offload::default(),
        })
    }
}

impl Port for Near {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn receive(&mut self, burst: &mut Burst) {
        let mut cable = self.cable.borrow_mut();
        while burst.len() < BURST
            && let Some(frame) = cable.ready.pop_front()
        {
            self.counters.received += 1;
            burst.push(frame);
        }
    }

    fn transmit(&mut self, frame: &Outgoing<'_>) -> Result<(), Full> {
        let mut cable = self.cable.borrow_mut();
        if cable.sent.len() == RING {
            return Err(Full);
        }
        let mut descriptor = cable.spare();
        descriptor.head.extend_from_slice(frame.head);
        descriptor.offload = frame.offload;
        for piece in frame.payload {
            let bytes = piece.bytes().len() as u64;
            descriptor.payload.push(match piece {
                Piece::Bytes(copied) => {
                    self.copied += bytes;
                    Part::Bytes(copied.to_vec())
                }
                Piece::Loan(loan) => {
                    self.lent += bytes;
                    Part::Loan(Loan::clone(loan))
                }
            });
        }
        cable.sent.push_back(descriptor);
        self.counters.sent += 1;
        Ok(())
    }

    fn flush(&mut self) {}

    fn counters(&self) -> Counters {
        self.counters
    }

    fn link(&mut self) -> Link {
        UP
    }

    fn wakes(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

const UP: Link = Link {
    up: true,
    mbit_per_s: None,
};

impl Far {
    /// Does with one descriptor what a card does with it: frames on the wire, for whoever is there.
    fn fetch(&mut self, burst: &mut Burst) -> bool {
        let mut cable = self.cable.borrow_mut();
        let cable = &mut *cable;
        let Some(mut descriptor) = cable.sent.pop_front() else {
            return false;
        };
        let pieces: Vec<Piece<'_>> = descriptor
            .payload
            .iter()
            .map(|part| match part {
                Part::Bytes(bytes) => Piece::Bytes(bytes),
                Part::Loan(loan) => Piece::Loan(loan),
                Part::Built(room, payload) => Piece::Bytes(&room[payload.clone()]),
            })
            .collect();
        let frame = Outgoing {
            head: &descriptor.head,
            payload: &pieces,
            offload: descriptor.offload,
        };
        let wire = Wire::of(&frame);
        for index in self.cut..wire.frames() {
            if burst.is_full() {
                self.cut = index;
                drop(pieces);
                cable.sent.push_front(descriptor);
                return false;
            }
            let mut bytes = vec![0; wire.len(index)];
            wire.write(index, &mut bytes);
            let mut received = Frame::copied(&bytes);
            received.checksum = Checksum::Good;
            self.counters.received += 1;
            burst.push(received);
        }
        self.cut = 0;
        drop(pieces);
        descriptor.head.clear();
        for part in descriptor.payload.drain(..) {
            if let Part::Built(room, _) = part {
                cable.rooms.push(room);
            }
        }
        cable.spare.push(descriptor);
        true
    }
}

impl Port for Far {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn receive(&mut self, burst: &mut Burst) {
        while !burst.is_full() && self.fetch(burst) {}
    }

    fn transmit(&mut self, frame: &Outgoing<'_>) -> Result<(), Full> {
        let mut cable = self.cable.borrow_mut();
        let wire = Wire::of(frame);
        if cable.ready.len() + wire.frames() > RING {
            return Err(Full);
        }
        for index in 0..wire.frames() {
            let buffer = cable.buffers.take(wire.len(index));
            let mut buffer = buffer.ok_or(Full)?;
            wire.write(index, &mut buffer);
            let mut frame = Frame::new(buffer);
            if self.capabilities.verifies_checksums {
                frame.checksum = Checksum::Good;
            }
            cable.ready.push_back(frame);
        }
        self.counters.sent += 1;
        Ok(())
    }

    fn flush(&mut self) {}

    fn counters(&self) -> Counters {
        self.counters
    }

    fn link(&mut self) -> Link {
        UP
    }

    fn wakes(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
