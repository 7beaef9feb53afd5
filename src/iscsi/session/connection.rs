//! What belongs to one connection of a session: framing, what is arriving, what waits to be sent
//! (RFC 7143 §4.2.2.2, §4.2.3: StatSN and the allegiance of commands are the connection's).
//!
//! A session keeps its connections in a slab whose places are used again. A place whose connection
//! is gone stays as it is, with nothing to send, until the last task of that connection is gone
//! too; only then another connection may take it. So an index in a task never means another
//! connection than the one that its command came on.

use std::net::SocketAddr;
use std::time::Instant;

use std::ops::{Index, IndexMut};

use crate::mem::DmaBuf;
use crate::pdu::{Bhs, Cid, CmdSn, Framer, NopOut, StatSn, TextRequest, Ttt};

use super::super::transmit::TransmitQueue;
use super::Fault;
use super::table::TaskId;

/// Connections that one session may have: the most that MaxConnections is negotiated to.
pub const CONNECTIONS_MAX: u16 = 8;

/// Which connection of a session: an index into its slab.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectionIndex(u8);

impl ConnectionIndex {
    /// The connection of the leading login.
    pub const LEADING: Self = Self(0);

    /// As an index of an array with a place for each connection.
    pub(super) const fn at(self) -> usize {
        self.0 as usize
    }
}

impl Connection {
    /// The header of the PDU that is arriving, or has just come.
    #[inline]
    pub(super) fn bhs(&self) -> &Bhs {
        &self.framer.header().bhs
    }

    /// What comes on it is listened to, and answered.
    pub(super) fn serves(&self) -> bool {
        self.attached && !self.deaf && self.ending.is_none()
    }
}

/// How a connection ends that has nothing more to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ending {
    pub why: Fault,
    pub scope: Scope,
    /// It does not wait until all is sent: it was logged out on another connection, maybe because
    /// it is of no use any more.
    pub at_once: bool,
}

/// What ends with a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    Connection,
    Session,
}

/// The connections of a session. Places are indices, and are used again.
#[derive(Debug)]
pub(super) struct Connections(Vec<Connection>);

impl Connections {
    pub(super) fn new(leading: Connection) -> Self {
        Self(vec![leading])
    }

    /// Every place that was ever used, with its index.
    pub(super) fn indices(&self) -> impl Iterator<Item = ConnectionIndex> + use<> {
        let places = u8::try_from(self.0.len()).expect("at most CONNECTIONS_MAX");
        (0..places).map(ConnectionIndex)
    }

    /// Those that serve.
    pub(super) fn attached(&self) -> impl Iterator<Item = ConnectionIndex> {
        self.indices().filter(|on| self[*on].attached)
    }

    /// There is one.
    pub(super) fn are_attached(&self) -> bool {
        self.0.iter().any(|connection| connection.attached)
    }

    /// There is more than one.
    pub(super) fn are_several(&self) -> bool {
        self.0.len() > 1 && self.attached().nth(1).is_some()
    }

    /// The one with this CID, unless it is on its way out.
    pub(super) fn by_cid(&self, cid: Cid) -> Option<ConnectionIndex> {
        self.attached()
            .find(|on| self[*on].cid == cid && self[*on].ending.is_none())
    }

    /// A command with this CmdSN is being received, on one of several connections: it has not
    /// counted yet, but its place is taken.
    pub(super) fn is_arriving(&self, cmd_sn: CmdSn) -> bool {
        self.0.len() > 1
            && self.0.iter().any(|connection| match &connection.arriving {
                Some(Arriving {
                    kind: Kind::Command { .. },
                    ..
                }) => {
                    let bhs = connection.bhs();
                    !bhs.immediate() && bhs.cmd_sn() == cmd_sn
                }
                _ => false,
            })
    }

    /// There is a place that was never used.
    pub(super) fn have_unused(&self) -> bool {
        self.0.len() < usize::from(CONNECTIONS_MAX)
    }

    /// Takes a place that was never used.
    pub(super) fn push(&mut self, connection: Connection) -> ConnectionIndex {
        let at = u8::try_from(self.0.len()).expect("at most CONNECTIONS_MAX");
        assert!(self.have_unused(), "callers look for a place first");
        self.0.push(connection);
        ConnectionIndex(at)
    }
}

impl Index<ConnectionIndex> for Connections {
    type Output = Connection;

    fn index(&self, at: ConnectionIndex) -> &Connection {
        &self.0[usize::from(at.0)]
    }
}

impl IndexMut<ConnectionIndex> for Connections {
    fn index_mut(&mut self, at: ConnectionIndex) -> &mut Connection {
        &mut self.0[usize::from(at.0)]
    }
}

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

/// A PDU whose header has come ([`Connection::bhs`]) and whose end has not.
#[derive(Debug)]
pub(super) struct Arriving {
    pub(super) kind: Kind,
    pub(super) sink: Sink,
}

/// The opcodes that were received last.
#[derive(Debug, Default)]
pub(super) struct LastOpcodes {
    ring: [u8; 8],
    count: usize,
}

impl LastOpcodes {
    pub(super) fn push(&mut self, opcode: u8) {
        self.ring[self.count % 8] = opcode;
        self.count = self.count.wrapping_add(1);
    }

    /// Oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = u8> {
        let first = self.count.saturating_sub(self.ring.len());
        (first..self.count).map(|at| self.ring[at % 8])
    }
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
    /// It serves; otherwise it is gone, and only tasks that a device still has point here.
    pub(super) attached: bool,
    /// Its CID comes back, to this place.
    pub(super) kept: bool,
    /// It is being logged out from elsewhere: nothing that still comes on it is served.
    pub(super) deaf: bool,
    /// Set once its last response has been queued.
    pub(super) ending: Option<Ending>,
    /// Longest data segment that we may send on it: the initiator's MaxRecvDataSegmentLength.
    pub(super) initiator_max_recv_data_segment_length: u32,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) framer: Framer,
    pub(super) arriving: Option<Arriving>,
    pub(super) transmit: TransmitQueue,
    pub(super) stat_sn: StatSn,
    /// ExpStatSN as the initiator said it last: what has a lower one has arrived there.
    pub(super) acknowledged: StatSn,
    pub(super) text: TextExchange,
    /// What was received last, oldest first: for the obituary.
    pub(super) last_opcodes: LastOpcodes,
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
