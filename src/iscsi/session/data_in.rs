//! Data to the initiator: blocks read in pieces as room allows, and parameter data (RFC 7143
//! §11.7).
//!
//! A piece is read into buffers, cut into Data-In PDUs of at most the initiator's
//! MaxRecvDataSegmentLength, and let go when its last byte is sent. The last PDU carries the status
//! if that is not an error (RFC 7143 §11.7.2: no sense data fit there). F ends each sequence of
//! MaxBurstLength bytes. Nothing is copied.

use crate::backend::{IoError, Operation};
use crate::mem::DmaBuf;
use crate::pdu::{Residual, ScsiDataIn, Ttt};
use crate::scsi::{Event, Outcome, Transfer};

use super::table::TaskId;
use super::task::{Piece, State};
use super::{Env, Session};

/// Bytes read at a time. A READ that is longer takes the next piece when this one is on its way.
const PIECE_BYTES: u32 = 256 * 1024;

/// How far a piece was cut into PDUs.
enum Cut {
    /// All of it is queued.
    Whole,
    /// And the task has ended.
    Over,
    /// Something is left, for which the connection has no room now.
    NoRoom,
}

/// What the initiator expected against what there was (RFC 7143 §11.4.5).
pub(super) fn residual(expected: u32, moved: u64) -> Residual {
    let expected = u64::from(expected);
    let clamp = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
    match moved.cmp(&expected) {
        std::cmp::Ordering::Less => Residual::Underflow(clamp(expected - moved)),
        std::cmp::Ordering::Equal => Residual::None,
        std::cmp::Ordering::Greater => Residual::Overflow(clamp(moved - expected)),
    }
}

impl Session {
    /// A command reads `blocks` from `lba` on and sends them.
    pub(super) fn begin_stream(&mut self, env: &mut Env<'_>, slot: u16, lba: u64, blocks: u32) {
        let block = self.block_bytes(env, slot);
        let task = self.tasks.slot(slot).expect("callers have found it");
        let presented = match task.scsi.as_ref().map(crate::scsi::Task::transfer) {
            Some(Transfer::In(bytes)) => bytes,
            _ => u64::from(blocks) * u64::from(block),
        };
        // What the initiator does not take is not read.
        let limit = u64::from(task.command.data_in_bytes).min(presented);
        let data = &mut task.data_in;
        data.lba = lba;
        data.presented = presented;
        data.limit = u32::try_from(limit).expect("at most data_in_bytes");
        data.blocks = if limit == u64::from(blocks) * u64::from(block) {
            blocks
        } else {
            data.limit.div_ceil(block)
        };
        task.state = State::Streaming;
        if data.blocks == 0 {
            self.resume(env, slot, Event::Streamed(Ok(())));
        } else {
            self.stream(env, slot);
        }
    }

    fn block_bytes(&mut self, env: &Env<'_>, slot: u16) -> u32 {
        let unit = self.unit_of(slot).expect("only a mapped unit reads");
        env.units[usize::from(unit.0)].block_size()
    }

    /// Reads the next piece and sends what there is, as far as there is room.
    pub(super) fn stream(&mut self, env: &mut Env<'_>, slot: u16) {
        let task = self.tasks.slot(slot).expect("callers have found it");
        let id = task.id;
        if task.data_in.piece.is_some() {
            match self.cut(env, slot) {
                Cut::NoRoom => return self.wait(id),
                Cut::Over => return,
                Cut::Whole => {}
            }
        }
        let task = self.tasks.slot(slot).expect("it goes with its last PDU");
        if task.data_in.blocks > 0 && !task.data_in.reading && !self.read_piece(env, slot) {
            self.wait(id);
        }
    }

    /// Submits the read of the next piece. `false`: no room or no buffer now.
    fn read_piece(&mut self, env: &mut Env<'_>, slot: u16) -> bool {
        let unit = self.unit_of(slot).expect("only a mapped unit reads");
        let block = env.units[usize::from(unit.0)].block_size();
        let task = self.tasks.slot(slot).expect("callers have found it");
        let on = task.connection;
        let connection = &self.connections[on];
        if !connection.transmit.has_room_beside(connection.read_ahead) {
            return false;
        }
        let mut blocks = task.data_in.blocks;
        if u64::from(blocks) * u64::from(block) > u64::from(PIECE_BYTES) {
            blocks = PIECE_BYTES / block;
        }
        let mut buf = task.take_buffer(env.pool, env.floor, (blocks * block) as usize);
        if buf.is_none() {
            // Memory is short: what stands behind the command itself is always there.
            let own = u32::try_from(task.reserved * crate::mem::CHUNK_BYTES).unwrap_or(u32::MAX);
            blocks = blocks.min(own / block);
            if blocks > 0 {
                buf = task.take_buffer(env.pool, env.floor, (blocks * block) as usize);
            }
        }
        let Some(buf) = buf else {
            return false;
        };
        let bytes = buf.len();
        let (id, lba) = (task.id, task.data_in.lba);
        task.data_in.reading = true;
        task.data_in.reading_bytes = bytes;
        task.data_in.lba += u64::from(blocks);
        task.data_in.blocks -= blocks;
        self.connections[on].read_ahead += bytes;
        let request = self.request(unit, id, Operation::Read { lba, blocks, buf });
        env.requests.push(request);
        true
    }

    /// A piece was read, or failed; a device that cannot let go of the buffer then keeps it.
    pub(super) fn piece_read(
        &mut self,
        env: &mut Env<'_>,
        id: TaskId,
        result: Result<(), IoError>,
        buf: Option<DmaBuf>,
    ) {
        let task = self.tasks.slot(id.slot).expect("complete() has found it");
        task.data_in.reading = false;
        let bytes = std::mem::take(&mut task.data_in.reading_bytes);
        let connection = &mut self.connections[task.connection];
        connection.read_ahead = connection.read_ahead.saturating_sub(bytes);
        if task.aborted {
            drop(buf);
            self.finish_aborted(env, id.slot);
            return;
        }
        if let Err(error) = result {
            drop(buf);
            self.resume(env, id.slot, Event::Streamed(Err(error)));
            return;
        }
        let buf = buf.expect("a good read brings its buffer back");
        let left = (task.data_in.limit - task.data_in.sent) as usize;
        let end = buf.len().min(left);
        let held = connection.transmit.hold(buf);
        task.data_in.piece = Some(Piece {
            held,
            offset: 0,
            end,
        });
        if task.data_in.blocks == 0 {
            // All was read: the command decides now, so that the last PDU can carry its status.
            self.resume(env, id.slot, Event::Streamed(Ok(())));
        } else {
            self.stream(env, id.slot);
        }
    }

    /// Sends the parameter data of a command that is decided.
    pub(super) fn send_parameter_data(&mut self, env: &mut Env<'_>, slot: u16, outcome: Outcome) {
        let task = self.tasks.slot(slot).expect("callers have found it");
        let presented = env.data_in.len();
        let limit = presented.min(task.command.data_in_bytes as usize);
        if limit == 0 {
            self.respond(env, slot, outcome, presented as u64);
            return;
        }
        let Some(mut buf) = task.take_buffer(env.pool, env.floor, limit) else {
            // Only an immediate command can be without a buffer.
            self.respond(env, slot, Outcome::busy(), 0);
            return;
        };
        buf.copy_from(0, &env.data_in.as_bytes()[..limit]);
        task.state = State::Streaming;
        task.data_in.presented = presented as u64;
        task.data_in.limit = u32::try_from(limit).expect("bounded by the parameter buffer");
        task.data_in.outcome = Some(outcome);
        task.data_in.piece = Some(Piece {
            held: self.connections[task.connection].transmit.hold(buf),
            offset: 0,
            end: limit,
        });
        self.stream(env, slot);
    }

    /// Cuts Data-In PDUs from the piece in hand, as far as there is room. Ends the task with its
    /// last byte.
    fn cut(&mut self, env: &mut Env<'_>, slot: u16) -> Cut {
        let max_burst = self.negotiated.parameters.max_burst_length;
        loop {
            let task = self.tasks.slot(slot).expect("callers have found it");
            let connection = &mut self.connections[task.connection];
            if !connection.transmit.has_room() {
                return Cut::NoRoom;
            }
            let data = &mut task.data_in;
            let piece = data.piece.as_mut().expect("callers have looked");
            let offset = data.sent;
            let of_burst = if offset < max_burst {
                offset
            } else {
                offset % max_burst
            };
            let in_burst = (max_burst - of_burst) as usize;
            let length = (piece.end - piece.offset)
                .min(connection.initiator_max_recv_data_segment_length as usize)
                .min(in_burst);
            let length_u32 = u32::try_from(length).expect("bounded by MaxBurstLength");
            let at_end = offset + length_u32 == data.limit;
            if at_end && data.outcome.is_some() {
                self.cut_last(env, slot, length);
                return Cut::Over;
            }
            let pdu = ScsiDataIn {
                final_: at_end || length == in_burst,
                acknowledge: false,
                status: None,
                lun: task.lun,
                itt: task.itt,
                ttt: Ttt::RESERVED,
                stat_sn: crate::pdu::StatSn(0),
                exp_cmd_sn: self.window.exp_cmd_sn(),
                max_cmd_sn: self.window.max_cmd_sn(),
                data_sn: data.data_sn,
                buffer_offset: offset,
            };
            let range = piece.offset..piece.offset + length;
            piece.offset += length;
            let done = piece.offset == piece.end;
            data.sent += length_u32;
            data.data_sn = data.data_sn.wrapping_add(1);
            task.last_progress = env.now;
            self.counters.bytes_out += length as u64;
            let transmit = &mut connection.transmit;
            transmit.push_payload(pdu.emit(), &piece.held, range);
            if done {
                let piece = data.piece.take().expect("still there");
                transmit.release(piece.held);
                return Cut::Whole;
            }
        }
    }

    /// The last Data-In PDU of a command, with its status.
    fn cut_last(&mut self, env: &mut Env<'_>, slot: u16, length: usize) {
        let task = self.tasks.slot(slot).expect("callers have found it");
        let outcome = task.data_in.outcome.expect("callers have looked");
        let piece = task.data_in.piece.take().expect("callers have looked");
        let residual = residual(task.expected, task.data_in.presented);
        let (data_sn, buffer_offset) = (task.data_in.data_sn, task.data_in.sent);
        let task = self.retire(env, slot);
        let pdu = ScsiDataIn {
            final_: true,
            acknowledge: false,
            status: Some((outcome.status as u8, residual)),
            lun: task.lun,
            itt: task.itt,
            ttt: Ttt::RESERVED,
            stat_sn: self.next_stat_sn(task.connection),
            exp_cmd_sn: self.window.exp_cmd_sn(),
            max_cmd_sn: self.window.max_cmd_sn(),
            data_sn,
            buffer_offset,
        };
        self.counters.bytes_out += length as u64;
        let range = piece.offset..piece.offset + length;
        let transmit = &mut self.connections[task.connection].transmit;
        transmit.push_payload(pdu.emit(), &piece.held, range);
        transmit.release(piece.held);
        self.leave_task_set(env, &task);
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::{Answer, Bench};
    use super::*;
    use crate::pdu::{ScsiCommand, TaskManagementFunction, TaskManagementResponseCode};

    /// A READ (16) of one block.
    fn read(itt: u32) -> ScsiCommand {
        let mut cdb = [0; 16];
        (cdb[0], cdb[13]) = (0x88, 1);
        ScsiCommand {
            read: true,
            write: false,
            ..Bench::command(itt, 0, cdb, 512)
        }
    }

    #[test]
    fn a_device_that_fails_may_keep_the_buffer() {
        let mut bench = Bench::new();
        bench.send(&read(1), &[]);
        let kept = bench.fail_and_keep(IoError::Absent);
        assert_eq!(kept.map(|buf| buf.len()), Some(512));
        let absent = Some((2, 0x3a, 0));
        let told = Answer::Status(1, 2, absent);
        assert_eq!(bench.answers(), [told]);
        // An aborted one.
        bench.send(&read(2), &[]);
        bench.manage(3, TaskManagementFunction::AbortTask, 0, 2);
        assert_eq!(bench.answers(), []);
        assert!(bench.fail_and_keep(IoError::NotReady).is_some());
        let complete = TaskManagementResponseCode::FunctionComplete;
        assert_eq!(bench.answers(), [Answer::Management(3, complete)]);
        // A write.
        bench.send_write(4, 0);
        assert!(bench.fail_and_keep(IoError::NotReady).is_some());
        assert_eq!(bench.answers(), [Answer::Status(4, 2, Some((2, 4, 0)))]);
    }
}
