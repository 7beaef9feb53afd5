//! What belongs to one connection of a session: framing, what is arriving, what waits to be sent.

use std::net::SocketAddr;
use std::time::Instant;

use arrayvec::ArrayVec;

use crate::mem::DmaBuf;
use crate::pdu::{Bhs, Cid, Framer, NopOut, StatSn, TextRequest, Ttt};

use super::super::transmit::TransmitQueue;
use super::table::TaskId;

/// Where the data segment that is arriving goes.
#[derive(Debug)]
pub(super) enum Sink {
    Discard,
    /// Into the task's buffer, from this offset on.
    Task {
        id: TaskId,
        at: u32,
    },
    Text,
    Ping {
        buf: Option<DmaBuf>,
        at: usize,
    },
}

/// What the PDU that is arriving will be when it is whole.
#[derive(Debug)]
pub(super) enum Kind {
    /// Nothing more is to be done with it.
    Ignore,
    /// Refused; the reason is answered when it is whole.
    Reject(crate::pdu::RejectReason),
    Command {
        id: TaskId,
    },
    DataOut {
        id: TaskId,
        ttt: Ttt,
        length: u32,
        last: bool,
    },
    Nop(NopOut),
    Text(TextRequest),
    /// No data segment, or one without meaning: all is in the header.
    Header,
}

#[derive(Debug)]
pub(super) struct Arriving {
    pub(super) bhs: Bhs,
    pub(super) kind: Kind,
    pub(super) sink: Sink,
}

/// A text exchange that goes on in further PDUs (RFC 7143 §11.10, §11.11).
#[derive(Debug, Default)]
pub(super) struct TextExchange {
    /// What has come of the request.
    pub(super) request: Vec<u8>,
    /// What is left of the answer.
    pub(super) answer: Vec<u8>,
    pub(super) answered: usize,
    /// The tag under which the initiator asks for the rest.
    pub(super) ttt: Option<Ttt>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) cid: Cid,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) framer: Framer,
    pub(super) arriving: Option<Arriving>,
    pub(super) transmit: TransmitQueue,
    pub(super) stat_sn: StatSn,
    pub(super) text: TextExchange,
    /// What was received last, oldest first: for the obituary.
    pub(super) last_opcodes: ArrayVec<u8, 8>,
    /// Bytes of pieces that are being read for this connection.
    pub(super) read_ahead: usize,
    pub(super) last_received: Instant,
    /// A text request came.
    pub(super) last_text: Instant,
    /// Payload came that a task wanted.
    pub(super) last_payload: Instant,
    /// A NOP-In of ours waits for its answer since.
    pub(super) ping: Option<(Ttt, Instant)>,
    pub(super) last_sent: Instant,
}
