//! One SCSI task of a session, from the arrival of its command to its answer.
//!
//! ```text
//!          ┌► Held (CmdSN gap) ┐           ┌─► Device ─────┐
//! Arriving ┴───────────────────┴► a step ──┼─► Collecting ─┼► a step … ► Draining ► answered
//!              └► Blocked ┘                ├─► Streaming ──┤  (the peer still sends what
//!               (task set)                 ├─► Changing ───┤   nobody wants)
//!                                          └─► Awaiting ───┘
//! ```
//!
//! Buffers: `reserved` chunks of the pool belong to the task until it turns them into `data` or
//! returns them; `data` moves into the device with the request and back with its completion.

use std::time::Instant;

use arrayvec::ArrayVec;

use crate::backend::UnitIndex;
use crate::mem::DmaBuf;
use crate::pdu::{CmdSn, Itt, LunField, ScsiCommand, Ttt};
use crate::scsi::{Cdb, Command, Outcome, TaskAttribute};

use super::super::transmit::Held;
use super::MANAGEMENT_MAX;
use super::connection::ConnectionIndex;
use super::table::TaskId;

/// R2Ts that one task may have outstanding: what we offer as MaxOutstandingR2T.
pub const OUTSTANDING_R2T_MAX: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// The command's own data segment is still on its way.
    Arriving,
    /// Complete, but a command with a lower CmdSN is missing.
    Held,
    /// Delivered, but its task set has others go first (SAM-5 §8.7).
    Blocked,
    /// Waits for Data-Out, or for buffers for it.
    Collecting,
    /// At the unit's device.
    Device,
    /// Data-In is read, or sent.
    Streaming,
    /// Waits for other cores: for a change, or for blocks that nobody else shall change.
    Changing,
    /// Decided; what it aborts has to leave the devices before its answer says so.
    Clearing,
    /// Waits for the end of a unit's job, which lets go of it at any time.
    Awaiting,
    /// Decided; waits for the end of data that the peer is entitled to send.
    Draining,
}

/// An R2T that is not yet answered in full (RFC 7143 §11.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct OutstandingR2t {
    pub(super) ttt: Ttt,
    pub(super) offset: u32,
    pub(super) length: u32,
    pub(super) received: u32,
    pub(super) data_sn: u32,
}

/// Data-Out of a task: what is wanted, what came, what was asked for.
#[derive(Debug, Default)]
pub(super) struct DataOut {
    pub(super) buf: Option<DmaBuf>,
    /// Bytes that the command wants, once it said so.
    pub(super) wanted: u32,
    /// Further buffer that the command wants beside them, taken together with theirs.
    pub(super) scratch: u32,
    pub(super) scratch_buf: Option<DmaBuf>,
    /// Contiguous bytes that came unsolicited: the command's own and those of Data-Out.
    pub(super) unsolicited: u32,
    pub(super) unsolicited_data_sn: u32,
    /// The F bit that ends unsolicited data has not come.
    pub(super) unsolicited_open: bool,
    /// Bytes that R2Ts have brought.
    pub(super) solicited: u32,
    /// First byte that no R2T has asked for.
    pub(super) next_offset: u32,
    pub(super) r2t_sn: u32,
    pub(super) r2ts: ArrayVec<OutstandingR2t, OUTSTANDING_R2T_MAX>,
}

impl DataOut {
    /// Of a command that has just come; what the last one had is given back already.
    fn begin(&mut self, unsolicited_open: bool) {
        let Self {
            buf,
            wanted,
            scratch,
            scratch_buf,
            unsolicited,
            unsolicited_data_sn,
            unsolicited_open: open,
            solicited,
            next_offset,
            r2t_sn,
            r2ts,
        } = self;
        assert!(buf.is_none() && scratch_buf.is_none(), "given back");
        (*wanted, *scratch, *unsolicited, *unsolicited_data_sn) = (0, 0, 0, 0);
        *open = unsolicited_open;
        (*solicited, *next_offset, *r2t_sn) = (0, 0, 0);
        r2ts.clear();
    }

    /// Chunks of the pool that it holds.
    pub(super) fn chunks(&self) -> usize {
        let chunks = |buf: &Option<DmaBuf>| buf.as_ref().map_or(0, DmaBuf::chunks);
        chunks(&self.buf) + chunks(&self.scratch_buf)
    }

    /// The peer is still entitled to send something.
    pub(super) fn open(&self) -> bool {
        self.unsolicited_open || !self.r2ts.is_empty()
    }
}

/// Data-In of a task.
#[derive(Debug, Default)]
pub(super) struct DataIn {
    /// Next block to read and how many are left to read; zero for parameter data.
    pub(super) lba: u64,
    pub(super) blocks: u32,
    /// Bytes the command has to give, before the initiator's expectation cuts it.
    pub(super) presented: u64,
    /// Bytes that will be sent.
    pub(super) limit: u32,
    pub(super) sent: u32,
    pub(super) data_sn: u32,
    /// A piece is being read, of so many bytes.
    pub(super) reading: bool,
    pub(super) reading_bytes: usize,
    /// Bytes that a piece under way at the device will add.
    pub(super) piece: Option<Piece>,
    /// Known once everything was read.
    pub(super) outcome: Option<Outcome>,
}

impl DataIn {
    /// Of a command that has just come; what the last one had is given back already.
    fn begin(&mut self) {
        let Self {
            lba,
            blocks,
            presented,
            limit,
            sent,
            data_sn,
            reading,
            reading_bytes,
            piece,
            outcome,
        } = self;
        assert!(piece.is_none(), "given back");
        (*lba, *blocks, *presented) = (0, 0, 0);
        (*limit, *sent, *data_sn) = (0, 0, 0);
        (*reading, *reading_bytes) = (false, 0);
        *outcome = None;
    }
}

/// A buffer from which Data-In PDUs are being cut.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) held: Held,
    pub(super) offset: usize,
    pub(super) end: usize,
}

/// Which requests have aborted a task: all of those that may be waiting, a logout of its connection
/// and one of the session.
pub(super) type AbortedBy = ArrayVec<u32, { MANAGEMENT_MAX + 2 }>;

#[derive(Debug)]
pub(super) struct Task {
    pub(super) id: TaskId,
    /// Its allegiance (RFC 7143 §4.2.3): data, R2Ts and status go this way and no other.
    pub(super) connection: ConnectionIndex,
    pub(super) itt: Itt,
    pub(super) lun: LunField,
    pub(super) cmd_sn: CmdSn,
    pub(super) immediate: bool,
    pub(super) read: bool,
    pub(super) write: bool,
    /// Expected Data Transfer Length.
    pub(super) expected: u32,
    pub(super) command: Command,
    /// Index of the LUN in the session's map, if it is mapped.
    pub(super) mapped: Option<u16>,
    pub(super) scsi: Option<crate::scsi::Task>,
    pub(super) state: State,
    /// Chunks of the pool that stand behind this task and are not in a buffer.
    pub(super) reserved: usize,
    pub(super) data_out: DataOut,
    pub(super) data_in: DataIn,
    /// Decided while the peer was still sending.
    pub(super) verdict: Option<Outcome>,
    /// What its operation at the device changes.
    pub(super) changing: (UnitIndex, u64, u64),
    /// It keeps others from changing blocks of this unit.
    pub(super) freeze: Option<UnitIndex>,
    /// Counted among those that others of its task set may have to wait for.
    pub(super) in_order: bool,
    /// 1 first to 15 last, 0 behind them (SAM-5 §8.3).
    pub(super) priority: u8,
    /// Its CHECK CONDITION ends other tasks, and follows them.
    pub(super) clears: bool,
    /// Aborted, and to be answered with TASK ABORTED.
    pub(super) tells_aborted: bool,
    /// Will not be answered as it went; stays while the device or the peer has something of it.
    pub(super) aborted: bool,
    /// The task management requests that wait for this one to be gone.
    pub(super) aborted_by: AbortedBy,
    pub(super) last_progress: Instant,
    /// In the session's queue of those that wait for buffers or for room to send.
    pub(super) waits: bool,
}

/// A command as it comes into the table.
#[derive(Debug)]
pub(super) struct Arrived<'a> {
    pub(super) connection: ConnectionIndex,
    pub(super) command: &'a ScsiCommand,
    pub(super) cdb: Cdb,
    pub(super) mapped: Option<u16>,
    pub(super) priority: u8,
    pub(super) now: Instant,
}

/// What is left of a task that has ended: what its answer and its task set ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) connection: ConnectionIndex,
    pub(super) itt: Itt,
    pub(super) lun: LunField,
    pub(super) mapped: Option<u16>,
    pub(super) in_order: bool,
}

impl Task {
    /// The place of a task, before the first one begins in it.
    pub(super) fn vacant(now: Instant) -> Self {
        Self {
            id: TaskId { slot: 0, serial: 0 },
            connection: ConnectionIndex::LEADING,
            itt: Itt::RESERVED,
            lun: LunField([0; 8]),
            cmd_sn: CmdSn(0),
            immediate: false,
            read: false,
            write: false,
            expected: 0,
            command: Command {
                cdb: Cdb::new(&[0; 16]),
                attribute: TaskAttribute::Simple,
                data_out_bytes: 0,
                data_in_bytes: 0,
            },
            mapped: None,
            scsi: None,
            state: State::Arriving,
            reserved: 0,
            data_out: DataOut::default(),
            data_in: DataIn::default(),
            verdict: None,
            changing: (UnitIndex(0), 0, 0),
            freeze: None,
            in_order: false,
            priority: 0,
            clears: false,
            tells_aborted: false,
            aborted: false,
            aborted_by: AbortedBy::new(),
            last_progress: now,
            waits: false,
        }
    }

    /// A command has come and takes the place of a task that has ended: every field is set anew,
    /// and no buffer, nor anything else that would have to be given back, is among the old ones.
    pub(super) fn begin(&mut self, as_id: TaskId, arrived: &Arrived<'_>) {
        let Self {
            id,
            connection,
            itt,
            lun,
            cmd_sn,
            immediate,
            read,
            write,
            expected,
            command,
            mapped,
            scsi,
            state,
            reserved,
            data_out,
            data_in,
            verdict,
            changing,
            freeze,
            in_order,
            priority,
            clears,
            tells_aborted,
            aborted,
            aborted_by,
            last_progress,
            waits,
        } = self;
        let pdu = arrived.command;
        *id = as_id;
        *connection = arrived.connection;
        (*itt, *lun, *cmd_sn) = (pdu.itt, pdu.lun, pdu.cmd_sn);
        (*immediate, *read, *write) = (pdu.immediate, pdu.read, pdu.write);
        *expected = pdu.expected_data_transfer_length;
        command.cdb = arrived.cdb;
        command.attribute = attribute(pdu.attribute);
        command.data_out_bytes = if pdu.write { *expected } else { 0 };
        command.data_in_bytes = if pdu.read { *expected } else { 0 };
        *mapped = arrived.mapped;
        assert!(scsi.is_none() && freeze.is_none() && *reserved == 0, "gone");
        *state = State::Arriving;
        data_out.begin(pdu.write && !pdu.final_);
        data_in.begin();
        *verdict = None;
        *changing = (UnitIndex(0), 0, 0);
        *priority = arrived.priority;
        (*in_order, *clears, *tells_aborted) = (false, false, false);
        *aborted = false;
        aborted_by.clear();
        *last_progress = arrived.now;
        *waits = false;
    }

    /// What is still asked of it when it has left the table.
    pub(super) fn ended(&self) -> Ended {
        Ended {
            connection: self.connection,
            itt: self.itt,
            lun: self.lun,
            mapped: self.mapped,
            in_order: self.in_order,
        }
    }

    /// The device owns a buffer of this task, or will touch the medium for it.
    pub(super) fn at_device(&self) -> bool {
        self.state == State::Device || self.data_in.reading
    }

    /// Its operation at the device changes some of these blocks.
    pub(super) fn changes(&self, unit: UnitIndex, lba: u64, blocks: u64) -> bool {
        let (own_unit, own_lba, own_blocks) = self.changing;
        self.state == State::Device
            && own_unit == unit
            && own_lba < lba.saturating_add(blocks)
            && lba < own_lba.saturating_add(own_blocks)
    }

    /// Neither a device nor another core has anything of this task: it may go.
    pub(super) fn is_free(&self) -> bool {
        !self.at_device() && self.state != State::Changing
    }
}

fn attribute(wire: crate::pdu::TaskAttribute) -> TaskAttribute {
    match wire {
        crate::pdu::TaskAttribute::Untagged | crate::pdu::TaskAttribute::Simple => {
            TaskAttribute::Simple
        }
        crate::pdu::TaskAttribute::Ordered => TaskAttribute::Ordered,
        crate::pdu::TaskAttribute::HeadOfQueue => TaskAttribute::HeadOfQueue,
        crate::pdu::TaskAttribute::Aca => TaskAttribute::Aca,
    }
}
