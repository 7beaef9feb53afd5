//! SCSI commands under way and the rules of their data phases (RFC 7143 §11.4, §11.7, §11.8).
//!
//! An R2T is answered only when the initiator is next asked for bytes to send, never while it takes
//! bytes in: whatever arrives in between was sent by a target that could not have seen the answer
//! yet, so the count of outstanding R2Ts and "no status before the data" are judged fairly.

use super::negotiation::Negotiated;
use crate::pdu::{
    CmdSn, LunField, R2t, Residual, ScsiDataIn, ScsiResponse, ScsiResponseCode, TaskAttribute, Ttt,
};
use crate::testing::Violation;
use crate::testing::violation::ensure;
use std::collections::VecDeque;

/// SAM-5 §5.3: the status that brings sense data.
const CHECK_CONDITION: u8 = 0x02;
const GOOD: u8 = 0x00;

/// A SCSI command to be sent.
#[derive(Clone, Debug)]
pub struct Scsi {
    pub lun: LunField,
    /// 6 to 16 bytes, or up to 260 with the rest in an AHS.
    pub cdb: Vec<u8>,
    pub attribute: TaskAttribute,
    /// Immediate delivery (the I bit), not immediate data.
    pub immediate: bool,
    pub data: Direction,
}

impl Scsi {
    /// A simple, numbered command to a LUN below 256.
    pub fn new(lun: u8, cdb: &[u8], data: Direction) -> Self {
        Self {
            lun: LunField([0, lun, 0, 0, 0, 0, 0, 0]),
            cdb: cdb.to_vec(),
            attribute: TaskAttribute::Simple,
            immediate: false,
            data,
        }
    }
}

/// What data a command moves, as the initiator tells the target.
#[derive(Clone, Debug)]
pub enum Direction {
    None,
    /// Expected Data Transfer Length of a read, in bytes.
    In(u32),
    Out(DataOut),
    /// Both; the number is the expected length of the read.
    Both(DataOut, u32),
}

/// Data for the target and how they travel.
#[derive(Clone, Debug)]
pub struct DataOut {
    /// Also sets the Expected Data Transfer Length.
    pub bytes: Vec<u8>,
    /// Immediate data in the command PDU.
    pub immediate: DataPhase,
    /// Unsolicited Data-Out PDUs behind it.
    pub unsolicited: DataPhase,
    /// Leave R2Ts unanswered until [`Initiator::release`](super::Initiator::release).
    pub held: bool,
}

impl DataOut {
    /// As much unsolicited as was negotiated, the rest on request.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            immediate: DataPhase::AsNegotiated,
            unsolicited: DataPhase::AsNegotiated,
            held: false,
        }
    }

    /// All of it on request.
    pub fn solicited(bytes: Vec<u8>) -> Self {
        Self {
            immediate: DataPhase::Never,
            unsolicited: DataPhase::Never,
            ..Self::new(bytes)
        }
    }
}

/// How much of what was negotiated an unsolicited phase uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DataPhase {
    AsNegotiated,
    Never,
    /// At most so many bytes.
    AtMost(u32),
}

impl DataPhase {
    fn limit(self, negotiated: u32) -> u32 {
        match self {
            Self::AsNegotiated => negotiated,
            Self::Never => 0,
            Self::AtMost(bytes) => negotiated.min(bytes),
        }
    }
}

/// How a SCSI command ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScsiOutcome {
    pub response: ScsiResponseCode,
    /// SAM-5 status byte.
    pub status: u8,
    pub residual: Residual,
    /// Of the read half of a bidirectional command.
    pub bidi_residual: Residual,
    /// Without its length prefix; empty unless the status is CHECK CONDITION.
    pub sense: Vec<u8>,
    /// What was read, as long as what arrived.
    pub data_in: Vec<u8>,
    /// The status came in the last Data-In.
    pub collapsed: bool,
}

impl ScsiOutcome {
    pub fn is_good(&self) -> bool {
        self.response == ScsiResponseCode::CompletedAtTarget && self.status == GOOD
    }

    /// Sense key, ASC and ASCQ of fixed (70h, 71h) or descriptor (72h, 73h) sense data (SPC-4
    /// §4.5).
    pub fn sense_code(&self) -> Option<(u8, u8, u8)> {
        let at = |index: usize| self.sense.get(index).copied();
        match at(0)? & 0x7f {
            0x70 | 0x71 => Some((at(2)? & 0x0f, at(12)?, at(13)?)),
            0x72 | 0x73 => Some((at(1)? & 0x0f, at(2)?, at(3)?)),
            _ => None,
        }
    }
}

/// An R2T that is not answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenR2t {
    pub(super) ttt: Ttt,
    pub(super) offset: u32,
    pub(super) length: u32,
}

/// A SCSI command that was sent and has no status yet.
#[derive(Debug)]
pub(super) struct ScsiTask {
    pub(super) command: Scsi,
    pub(super) cmd_sn: CmdSn,
    /// Place in the order of sending, over all tasks of the connection.
    pub(super) sent_as: u64,
    pub(super) held: bool,
    pub(super) open_r2ts: VecDeque<OpenR2t>,
    /// Data-In so far.
    data_in: Vec<u8>,
    /// Bytes since the last F bit.
    burst: u32,
    /// Data-In PDUs and R2Ts of a command share one count (§11.7.5, §11.8.1).
    next_data_sn: u32,
    data_in_pdus: u32,
    /// Everything below was sent unsolicited or asked for.
    out_end: u32,
    /// Bytes sent unsolicited or asked for.
    out_covered: u32,
}

impl ScsiTask {
    pub(super) fn new(command: Scsi, cmd_sn: CmdSn, sent_as: u64, plan: &OutPlan) -> Self {
        let held = command.data_out().is_some_and(|data| data.held);
        let unsolicited = plan.immediate + plan.unsolicited;
        Self {
            command,
            cmd_sn,
            sent_as,
            held,
            open_r2ts: VecDeque::new(),
            data_in: Vec::new(),
            burst: 0,
            next_data_sn: 0,
            data_in_pdus: 0,
            out_end: unsolicited,
            out_covered: unsolicited,
        }
    }

    fn received(&self) -> u32 {
        u32::try_from(self.data_in.len()).expect("bounded by the expected length")
    }

    pub(super) fn on_data_in(
        &mut self,
        pdu: &ScsiDataIn,
        data: &[u8],
        negotiated: &Negotiated,
    ) -> Result<(), Violation> {
        let Some(expected) = self.command.read_length() else {
            let detail = format!("{:?} for a command that reads nothing", pdu.itt);
            return Err(Violation::new(
                crate::testing::Rule::DataInWithoutRead,
                detail,
            ));
        };
        self.take_data_sn(pdu.data_sn, "Data-In")?;
        self.data_in_pdus += 1;
        ensure!(
            pdu.ttt.is_reserved() || pdu.acknowledge,
            DataInTag,
            "{:?} without the A bit",
            pdu.ttt
        );
        ensure!(
            !pdu.acknowledge || negotiated.error_recovery_level > 0,
            DataInAcknowledge,
            "an A bit at error recovery level 0"
        );
        let received = self.received();
        ensure!(
            pdu.buffer_offset == received,
            DataInOffset,
            "offset {} after {received} bytes in order",
            pdu.buffer_offset
        );
        let length = u32::try_from(data.len()).expect("24 bits fit");
        ensure!(
            length <= expected - received,
            DataInBeyondExpected,
            "{length} bytes at {received} of {expected}"
        );
        self.burst += length;
        ensure!(
            self.burst <= negotiated.max_burst_length,
            DataInBurst,
            "{} bytes without F, MaxBurstLength is {}",
            self.burst,
            negotiated.max_burst_length
        );
        self.data_in.extend_from_slice(data);
        if pdu.final_ {
            self.burst = 0;
        }
        if let Some((status, _)) = pdu.status {
            ensure!(
                pdu.final_ && status != CHECK_CONDITION,
                DataInStatus,
                "status {status:#04x} with F = {}",
                pdu.final_
            );
        }
        Ok(())
    }

    pub(super) fn on_r2t(&mut self, r2t: &R2t, negotiated: &Negotiated) -> Result<(), Violation> {
        let Some(expected) = self.command.data_out().map(DataOut::length) else {
            let detail = format!("{:?} for a command that writes nothing", r2t.itt);
            return Err(Violation::new(
                crate::testing::Rule::R2tWithoutWrite,
                detail,
            ));
        };
        self.take_data_sn(r2t.r2t_sn, "R2T")?;
        ensure!(
            r2t.lun == self.command.lun,
            R2tTag,
            "{:?} for a command to {:?}",
            r2t.lun,
            self.command.lun
        );
        let is_twice = self.open_r2ts.iter().any(|open| open.ttt == r2t.ttt);
        ensure!(!r2t.ttt.is_reserved() && !is_twice, R2tTag, "{:?}", r2t.ttt);
        let (offset, length) = (r2t.buffer_offset, r2t.desired_length);
        let end = offset.checked_add(length);
        ensure!(
            length > 0
                && length <= negotiated.max_burst_length
                && end.is_some_and(|end| end <= expected),
            R2tRange,
            "{length} bytes at {offset} of {expected}, MaxBurstLength is {}",
            negotiated.max_burst_length
        );
        // At error recovery level 0 nothing is asked for twice, and sequences come in order.
        ensure!(
            offset >= self.out_end,
            R2tRange,
            "offset {offset}, but everything up to {} was sent or asked for",
            self.out_end
        );
        self.out_end = offset + length;
        self.out_covered += length;
        self.open_r2ts.push_back(OpenR2t {
            ttt: r2t.ttt,
            offset,
            length,
        });
        let outstanding = self.open_r2ts.len();
        ensure!(
            u32::try_from(outstanding).is_ok_and(|n| n <= negotiated.max_outstanding_r2t),
            MaxOutstandingR2t,
            "{outstanding} R2Ts outstanding of {}",
            negotiated.max_outstanding_r2t
        );
        Ok(())
    }

    fn take_data_sn(&mut self, data_sn: u32, what: &str) -> Result<(), Violation> {
        let expected = self.next_data_sn;
        if what == "R2T" {
            ensure!(
                data_sn == expected,
                R2tSn,
                "expected {expected}, received {data_sn}"
            );
        }
        ensure!(
            data_sn == expected,
            DataSn,
            "expected {expected}, received {data_sn}"
        );
        self.next_data_sn = self.next_data_sn.wrapping_add(1);
        Ok(())
    }

    /// The end by a SCSI Response.
    pub(super) fn on_response(
        self,
        response: &ScsiResponse,
        data: &[u8],
    ) -> Result<ScsiOutcome, Violation> {
        let completed = response.response == ScsiResponseCode::CompletedAtTarget;
        // §11.4.8: the count, or zero where the field is reserved (no Data-In was sent).
        ensure!(
            response.exp_data_sn == self.next_data_sn
                || (response.exp_data_sn == 0 && (self.data_in_pdus == 0 || !completed)),
            ExpDataSn,
            "{} after {} Data-In and R2T PDUs",
            response.exp_data_sn,
            self.next_data_sn
        );
        let sense = if completed {
            sense(response.status, data)?
        } else {
            Vec::new()
        };
        self.finish(Ending {
            response: response.response,
            status: response.status,
            residual: response.residual,
            bidi_residual: response.bidi_residual,
            sense,
            collapsed: false,
        })
    }

    /// The end by a Data-In with the S bit.
    pub(super) fn on_collapsed_status(
        self,
        status: u8,
        residual: Residual,
    ) -> Result<ScsiOutcome, Violation> {
        self.finish(Ending {
            response: ScsiResponseCode::CompletedAtTarget,
            status,
            residual,
            bidi_residual: Residual::None,
            sense: Vec::new(),
            collapsed: true,
        })
    }

    fn finish(self, ending: Ending) -> Result<ScsiOutcome, Violation> {
        // §11.4.2: a target that still expects data waits for the F bit before it answers.
        ensure!(
            self.open_r2ts.is_empty(),
            ResponseBeforeData,
            "status {:#04x} while R2Ts are unanswered: {:?}",
            ending.status,
            self.open_r2ts
        );
        if ending.response == ScsiResponseCode::CompletedAtTarget {
            let (out_residual, in_residual) = match &self.command.data {
                Direction::Both(..) => (ending.residual, ending.bidi_residual),
                _ => (ending.residual, ending.residual),
            };
            if let Some(expected) = self.command.read_length() {
                check_read_residual(expected, self.received(), in_residual, ending.status)?;
            }
            if let Some(expected) = self.command.data_out().map(DataOut::length) {
                self.check_write_residual(expected, out_residual, ending.status)?;
            }
            if matches!(self.command.data, Direction::None) {
                check_no_data_residual(ending.residual)?;
            }
        }
        Ok(ScsiOutcome {
            response: ending.response,
            status: ending.status,
            residual: ending.residual,
            bidi_residual: ending.bidi_residual,
            sense: ending.sense,
            data_in: self.data_in,
            collapsed: ending.collapsed,
        })
    }

    fn check_write_residual(
        &self,
        expected: u32,
        residual: Residual,
        status: u8,
    ) -> Result<(), Violation> {
        check_count(expected, residual)?;
        let is_whole = matches!(residual, Residual::None | Residual::Overflow(_));
        ensure!(
            status != GOOD || !is_whole || self.out_covered == expected,
            MissingData,
            "GOOD, but only {} of {expected} bytes were taken",
            self.out_covered
        );
        Ok(())
    }
}

/// What the last PDU of a task says.
struct Ending {
    response: ScsiResponseCode,
    status: u8,
    residual: Residual,
    bidi_residual: Residual,
    sense: Vec<u8>,
    collapsed: bool,
}

/// §11.4.5.1: a flag comes with a count above zero, and no more is missing than was expected.
fn check_count(expected: u32, residual: Residual) -> Result<(), Violation> {
    let sound = match residual {
        Residual::None => true,
        Residual::Overflow(count) => count > 0,
        Residual::Underflow(count) => (1..=expected).contains(&count),
    };
    ensure!(sound, Residual, "{residual:?} of {expected} expected bytes");
    Ok(())
}

fn check_read_residual(
    expected: u32,
    received: u32,
    residual: Residual,
    status: u8,
) -> Result<(), Violation> {
    check_count(expected, residual)?;
    let missing = match residual {
        Residual::Underflow(count) => count,
        // Data may be missing without a count only when the command failed.
        Residual::None | Residual::Overflow(_) if status != GOOD => return Ok(()),
        Residual::None | Residual::Overflow(_) => 0,
    };
    ensure!(
        received.checked_add(missing) == Some(expected),
        Residual,
        "{received} of {expected} bytes arrived, the target says {residual:?}"
    );
    Ok(())
}

/// A command for which the initiator expects no data can only overflow.
fn check_no_data_residual(residual: Residual) -> Result<(), Violation> {
    check_count(0, residual)
}

/// §11.4.7: CHECK CONDITION brings sense data behind their length.
fn sense(status: u8, data: &[u8]) -> Result<Vec<u8>, Violation> {
    if status != CHECK_CONDITION {
        return Ok(Vec::new());
    }
    let sense = data.split_first_chunk::<2>().and_then(|(length, rest)| {
        rest.get(..usize::from(u16::from_be_bytes(*length)))
            .filter(|sense| !sense.is_empty())
    });
    let Some(sense) = sense else {
        let detail = format!(
            "CHECK CONDITION with a data segment of {} bytes",
            data.len()
        );
        return Err(Violation::new(crate::testing::Rule::Sense, detail));
    };
    Ok(sense.to_vec())
}

impl Scsi {
    pub(super) fn read_length(&self) -> Option<u32> {
        match &self.data {
            Direction::In(length) | Direction::Both(_, length) => Some(*length),
            Direction::None | Direction::Out(_) => None,
        }
    }

    pub(super) fn data_out(&self) -> Option<&DataOut> {
        match &self.data {
            Direction::Out(data) | Direction::Both(data, _) => Some(data),
            Direction::None | Direction::In(_) => None,
        }
    }

    /// The Expected Data Transfer Length field.
    pub(super) fn expected_length(&self) -> u32 {
        match &self.data {
            Direction::None => 0,
            Direction::In(length) => *length,
            Direction::Out(data) | Direction::Both(data, _) => data.length(),
        }
    }

    /// The first 16 bytes of the CDB.
    pub(super) fn short_cdb(&self) -> [u8; 16] {
        let mut cdb = [0; 16];
        let length = self.cdb.len().min(16);
        cdb[..length].copy_from_slice(&self.cdb[..length]);
        cdb
    }

    /// Extended CDB and bidirectional read length (RFC 7143 §11.2.2.3, §11.2.2.4).
    pub(super) fn ahs(&self) -> Vec<u8> {
        let mut ahs = Vec::new();
        if let Some(rest) = self.cdb.get(16..).filter(|rest| !rest.is_empty()) {
            push_ahs(&mut ahs, 1, rest);
        }
        if let Direction::Both(_, length) = &self.data {
            push_ahs(&mut ahs, 2, &length.to_be_bytes());
        }
        ahs
    }
}

/// AHSLength counts the reserved byte behind the type, not the padding.
fn push_ahs(ahs: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    let length = u16::try_from(bytes.len() + 1).expect("a CDB is short");
    ahs.extend_from_slice(&length.to_be_bytes());
    ahs.extend_from_slice(&[kind, 0]);
    ahs.extend_from_slice(bytes);
    ahs.resize(ahs.len().next_multiple_of(4), 0);
}

impl DataOut {
    fn length(&self) -> u32 {
        u32::try_from(self.bytes.len()).expect("Expected Data Transfer Length has 32 bits")
    }
}

/// How many bytes of a command go out without being asked for (RFC 7143 §4.2.5.2, §13.10, §13.11).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct OutPlan {
    pub(super) immediate: u32,
    pub(super) unsolicited: u32,
}

impl OutPlan {
    pub(super) fn new(command: &Scsi, negotiated: &Negotiated) -> Self {
        let Some(data) = command.data_out() else {
            return Self::default();
        };
        let first_burst = negotiated.first_burst_length.min(data.length());
        let segment = negotiated.target_max_recv_data_segment_length;
        let immediate = if negotiated.immediate_data {
            first_burst.min(segment)
        } else {
            0
        };
        let immediate = data.immediate.limit(immediate);
        let rest = if negotiated.initial_r2t {
            0
        } else {
            first_burst - immediate
        };
        Self {
            immediate,
            unsolicited: data.unsolicited.limit(rest),
        }
    }
}
