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
use crate::pdu::{CmdSn, Itt, LunField, Ttt};
use crate::scsi::{Command, Outcome};

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
    /// A piece is being read.
    pub(super) reading: bool,
    /// Bytes that a piece under way at the device will add.
    pub(super) piece: Option<Piece>,
    /// Known once everything was read.
    pub(super) outcome: Option<Outcome>,
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

impl Task {
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
