//! Data from the initiator: immediate, unsolicited, and asked for by R2T (RFC 7143 §4.2.5.2, §11.7,
//! §11.8).
//!
//! DataPDUInOrder and DataSequenceInOrder are Yes, so each stream of data is contiguous: a gap
//! means that something is missing, and the task ends with an error once the peer has sent what it
//! may.

use crate::mem::{DmaBuf, Pool};
use crate::pdu::{R2t, RejectReason, ScsiCommand, ScsiDataOut, Ttt};
use crate::scsi::{AdditionalSense, Event};

use super::command::{
    INCORRECT_AMOUNT_OF_DATA, PROTOCOL_SERVICE_CRC_ERROR, UNEXPECTED_UNSOLICITED_DATA,
    aborted_command,
};
use super::connection::{ConnectionIndex, Kind, Sink};
use super::table::TaskId;
use super::task::{OUTSTANDING_R2T_MAX, OutstandingR2t, State, Task};
use super::{Env, Guard, Session};

/// The part of the pool that the large commands of one session may hold together.
const SESSION_PART: usize = 4;

impl Session {
    /// A command with `immediate` bytes of data behind it has a task: checks what it may send
    /// unasked, and gives that a place.
    pub(super) fn begin_immediate_data(
        &mut self,
        env: &mut Env<'_>,
        id: TaskId,
        command: &ScsiCommand,
        immediate: u32,
    ) -> Sink {
        let parameters = &self.negotiated.parameters;
        let (initial_r2t, immediate_data) = (parameters.initial_r2t, parameters.immediate_data);
        let first_burst = parameters.first_burst_length;
        let own = self.window.chunks_per_command();
        let task = self.tasks.slot(id.slot).expect("just inserted");
        if !task.immediate {
            task.reserved = own;
        }
        if task.verdict.is_some() {
            // RFC 7143 §13.10: nothing follows that would have to be waited for.
            task.data_out.unsolicited_open &= !initial_r2t;
            return Sink::Discard;
        }
        let wrong = if immediate > 0 && !(immediate_data && command.write) {
            Some(UNEXPECTED_UNSOLICITED_DATA)
        } else if task.data_out.unsolicited_open && initial_r2t {
            // RFC 7143 §13.10: with InitialR2T=Yes nothing unsolicited follows the command.
            task.data_out.unsolicited_open = false;
            Some(UNEXPECTED_UNSOLICITED_DATA)
        } else if immediate > command.expected_data_transfer_length.min(first_burst) {
            Some(INCORRECT_AMOUNT_OF_DATA)
        } else {
            None
        };
        if let Some(additional) = wrong {
            task.verdict = Some(aborted_command(additional));
            return Sink::Discard;
        }
        if !command.write {
            return Sink::Discard;
        }
        let unsolicited = if task.data_out.unsolicited_open {
            command.expected_data_transfer_length.min(first_burst)
        } else {
            immediate
        };
        if unsolicited == 0 {
            return Sink::Discard;
        }
        let Some(buf) = task.take_buffer(env.pool, env.floor, unsolicited as usize) else {
            // Only an immediate command can be without: it has no place in the window.
            task.verdict = Some(crate::scsi::Outcome::busy());
            return Sink::Discard;
        };
        task.data_out.buf = Some(buf);
        task.data_out.unsolicited = immediate;
        Sink::Task { id, at: 0 }
    }

    /// A Data-Out PDU: finds its task and its place, and checks that it is the one to come.
    pub(super) fn begin_data_out(&mut self, env: &Env<'_>, on: ConnectionIndex) -> (Kind, Sink) {
        let bhs = self.connections[on].bhs();
        let data = ScsiDataOut::parse(bhs);
        let length = bhs.data_segment_length();
        // Data of a task that is over may still be under way (an abort crossed it): not an error.
        let Some(slot) = self.tasks.by_itt(data.itt) else {
            return (Kind::Ignore, Sink::Discard);
        };
        let first_burst = self.negotiated.parameters.first_burst_length;
        let task = self.tasks.slot(slot).expect("by_itt() found it");
        let id = task.id;
        if task.connection != on && env.guards.hold(Guard::DataFollowTheirCommand) {
            // RFC 7143 §4.2.3: data go the way that their command came.
            return (Kind::Reject(RejectReason::ProtocolError), Sink::Discard);
        }
        let (at, wrong) = if data.ttt.is_reserved() {
            if !task.data_out.unsolicited_open {
                return (Kind::Ignore, Sink::Discard);
            }
            (
                task.data_out.unsolicited,
                task.unsolicited_error(&data, length, first_burst),
            )
        } else {
            let Some(r2t) = task.data_out.r2ts.iter().find(|r2t| r2t.ttt == data.ttt) else {
                return (Kind::Ignore, Sink::Discard);
            };
            // What was received is counted also when it was wrong: such a place is not used.
            let at = r2t.offset.saturating_add(r2t.received);
            (at, r2t.error(&data, length))
        };
        let kind = Kind::DataOut {
            id,
            ttt: data.ttt,
            length,
            last: data.final_,
        };
        if let Some(additional) = wrong {
            task.verdict
                .get_or_insert_with(|| aborted_command(additional));
        }
        let unwanted = task.verdict.is_some() || task.aborted || task.data_out.buf.is_none();
        let sink = if unwanted {
            Sink::Discard
        } else {
            Sink::Task { id, at }
        };
        (kind, sink)
    }

    /// A Data-Out PDU is whole.
    pub(super) fn end_data_out(
        &mut self,
        env: &mut Env<'_>,
        id: TaskId,
        ttt: Ttt,
        length: u32,
        last: bool,
    ) {
        let Some(task) = self.tasks.find(id) else {
            return;
        };
        if ttt.is_reserved() {
            task.data_out.unsolicited = task.data_out.unsolicited.saturating_add(length);
            task.data_out.unsolicited_data_sn = task.data_out.unsolicited_data_sn.wrapping_add(1);
            task.data_out.unsolicited_open = !last;
            task.data_out.next_offset = task.data_out.unsolicited;
        } else if let Some(at) = task.data_out.r2ts.iter().position(|r2t| r2t.ttt == ttt) {
            let r2t = &mut task.data_out.r2ts[at];
            r2t.received = r2t.received.saturating_add(length);
            r2t.data_sn = r2t.data_sn.wrapping_add(1);
            let whole = r2t.received == r2t.length;
            task.data_out.solicited = task.data_out.solicited.saturating_add(length);
            if last {
                task.data_out.r2ts.remove(at);
                if !whole {
                    task.verdict
                        .get_or_insert_with(|| aborted_command(INCORRECT_AMOUNT_OF_DATA));
                }
            }
        }
        self.after_data_out(env, id.slot);
    }

    /// Goes on with a task whose data situation has changed.
    fn after_data_out(&mut self, env: &mut Env<'_>, slot: u16) {
        let task = self.tasks.slot(slot).expect("callers have found it");
        if task.aborted {
            if !task.data_out.open() && task.is_free() {
                self.finish_aborted(env, slot);
            }
            return;
        }
        match (task.state, task.verdict) {
            (State::Collecting | State::Draining, Some(verdict)) if !task.data_out.open() => {
                env.data_in.clear();
                self.finish(env, slot, verdict);
            }
            (State::Collecting, None) => self.collect(env, slot),
            // Not delivered yet: its verdict, if any, is looked at then.
            _ => {}
        }
    }

    /// Finds room for what the command wants, asks for what is missing, and hands it over when it
    /// is all there. All buffers of a command are taken at once, so that commands never wait for
    /// each other in a circle.
    pub(super) fn collect(&mut self, env: &mut Env<'_>, slot: u16) {
        let task = self.tasks.slot(slot).expect("callers have found it");
        if task.verdict.is_some() || task.aborted {
            return;
        }
        if !task.has_collecting_buffers() && !self.find_collecting_buffers(env, slot) {
            return;
        }
        let task = self.tasks.slot(slot).expect("still there");
        if task.data_out.unsolicited_open || !self.ask_for_data(slot) {
            return;
        }
        let task = self.tasks.slot(slot).expect("asking removes nothing");
        let wanted = task.data_out.wanted as usize;
        let scratch = task.data_out.scratch_buf.take();
        let mut data_out = task.data_out.buf.take();
        if let Some(buf) = &mut data_out {
            buf.truncate(wanted);
        }
        let data_out = data_out.filter(|_| wanted > 0);
        self.resume(env, slot, Event::Collected { data_out, scratch });
    }

    /// Takes the buffers that a command lacks. `false`: it waits for room.
    fn find_collecting_buffers(&mut self, env: &Env<'_>, slot: u16) -> bool {
        let task = self.tasks.slot(slot).expect("callers have found it");
        let id = task.id;
        let room = if task.collecting_chunks() > task.reserved {
            self.room_for_collecting(env, slot)
        } else {
            0
        };
        let task = self.tasks.slot(slot).expect("still there");
        let taken = task.take_collecting_buffers(env.pool, room);
        if !taken {
            self.wait(id);
        }
        taken
    }

    /// How many chunks beyond its reservation a command may take now: what the pool has above the
    /// floor, as long as the large commands of this session together leave the others their part.
    fn room_for_collecting(&self, env: &Env<'_>, slot: u16) -> usize {
        let beyond = env.pool.available().saturating_sub(env.floor);
        let held: usize = self
            .tasks
            .iter()
            // What waits in a task set has no more than its own reservation, and may wait for the
            // very task that asks.
            .filter(|task| task.id.slot != slot && task.state != State::Blocked)
            .map(|task| task.data_out.chunks())
            .sum();
        let quota = env.pool.chunks() / SESSION_PART;
        // The only one may always go on, or a small pool would never serve a large command.
        if held == 0 {
            beyond
        } else {
            beyond.min(quota.saturating_sub(held))
        }
    }

    /// Sends R2Ts for what is still missing (RFC 7143 §11.8). `true`: nothing is.
    fn ask_for_data(&mut self, slot: u16) -> bool {
        let max_burst = self.negotiated.parameters.max_burst_length;
        let outstanding_max =
            usize::from(self.negotiated.parameters.max_outstanding_r2t).min(OUTSTANDING_R2T_MAX);
        loop {
            let task = self.tasks.slot(slot).expect("callers have found it");
            let data = &task.data_out;
            if data.next_offset >= data.wanted {
                return data.r2ts.is_empty();
            }
            if data.r2ts.len() >= outstanding_max {
                return false;
            }
            let on = task.connection;
            if !self.connections[on].transmit.has_room() {
                let id = task.id;
                self.wait(id);
                return false;
            }
            self.ttt = self.ttt.wrapping_add(1);
            let ttt = Ttt(u32::from(slot) << 16 | u32::from(self.ttt));
            let length = max_burst.min(data.wanted - data.next_offset);
            let task = self.tasks.slot(slot).expect("still there");
            let offset = task.data_out.next_offset;
            let r2t_sn = task.data_out.r2t_sn;
            task.data_out.next_offset += length;
            task.data_out.r2t_sn = r2t_sn.wrapping_add(1);
            task.data_out.r2ts.push(OutstandingR2t {
                ttt,
                offset,
                length,
                received: 0,
                data_sn: 0,
            });
            let (lun, itt) = (task.lun, task.itt);
            let r2t = R2t {
                lun,
                itt,
                ttt,
                // RFC 7143 §11.8: it carries the next StatSN and does not advance it.
                stat_sn: self.connections[on].stat_sn,
                exp_cmd_sn: self.window.exp_cmd_sn(),
                max_cmd_sn: self.window.max_cmd_sn(),
                r2t_sn,
                buffer_offset: offset,
                desired_length: length,
            };
            self.send(on, r2t.emit(), &[]);
        }
    }
}

impl Task {
    /// What is wrong with an unsolicited Data-Out PDU, if anything.
    fn unsolicited_error(
        &self,
        data: &ScsiDataOut,
        length: u32,
        first_burst: u32,
    ) -> Option<AdditionalSense> {
        let out = &self.data_out;
        let end = u64::from(data.buffer_offset) + u64::from(length);
        let limit = u64::from(self.expected.min(first_burst));
        if data.data_sn != out.unsolicited_data_sn || data.buffer_offset != out.unsolicited {
            // RFC 7143 §7.9: something before it is missing.
            return Some(PROTOCOL_SERVICE_CRC_ERROR);
        }
        (end > limit).then_some(INCORRECT_AMOUNT_OF_DATA)
    }

    /// A buffer of `bytes` out of the task's own reservation and, for what that does not cover, out
    /// of what the pool has beyond the floor.
    pub(super) fn take_buffer(
        &mut self,
        pool: &Pool,
        floor: usize,
        bytes: usize,
    ) -> Option<DmaBuf> {
        let need = Pool::chunks_for(bytes);
        if need <= self.reserved {
            self.reserved -= need;
            let buf = pool.alloc_reserved(bytes);
            return Some(buf.expect("what a task has reserved is there"));
        }
        let mut buf = DmaBuf::empty();
        self.extend(pool, floor, &mut buf, bytes).then_some(buf)
    }

    /// Nothing of wanted data and scratch is lacking.
    fn has_collecting_buffers(&self) -> bool {
        let out = &self.data_out;
        let have = out.buf.as_ref().map_or(0, DmaBuf::len);
        have >= out.wanted as usize && (out.scratch == 0 || out.scratch_buf.is_some())
    }

    /// Chunks that wanted data and scratch still lack.
    fn collecting_chunks(&self) -> usize {
        let out = &self.data_out;
        let have = out.buf.as_ref().map_or(0, DmaBuf::chunks);
        let data = Pool::chunks_for(out.wanted as usize).saturating_sub(have);
        let scratch = if out.scratch_buf.is_some() {
            0
        } else {
            out.scratch as usize
        };
        data + Pool::chunks_for(scratch)
    }

    /// Takes them, all or nothing; `room` chunks may come from beyond the reservation.
    fn take_collecting_buffers(&mut self, pool: &Pool, room: usize) -> bool {
        if self.collecting_chunks().saturating_sub(self.reserved) > room {
            return false;
        }
        let out = &self.data_out;
        let have = out.buf.as_ref().map_or(0, DmaBuf::len);
        let more = (out.wanted as usize).saturating_sub(have);
        let missing_scratch = if out.scratch_buf.is_some() {
            0
        } else {
            out.scratch as usize
        };
        if more > 0 {
            let mut buf = self.data_out.buf.take().unwrap_or_else(DmaBuf::empty);
            let taken = self.extend(pool, 0, &mut buf, more);
            assert!(taken, "room was counted");
            self.data_out.buf = Some(buf);
        }
        if missing_scratch > 0 {
            let scratch = self.take_buffer(pool, 0, missing_scratch);
            self.data_out.scratch_buf = Some(scratch.expect("room was counted"));
        }
        true
    }

    /// Makes `buf` longer by `more` bytes. What the reservation covers is always there.
    fn extend(&mut self, pool: &Pool, floor: usize, buf: &mut DmaBuf, more: usize) -> bool {
        let need = Pool::chunks_for(buf.len() + more) - buf.chunks();
        let beyond = need.saturating_sub(self.reserved);
        if beyond > 0 && pool.available() < beyond + floor {
            return false;
        }
        // One core owns the pool: nobody takes the chunks between these two lines.
        let own = need.min(self.reserved);
        pool.unreserve(own);
        let extended = pool.extend(buf, more);
        assert!(extended, "{need} chunks were found to be there");
        self.reserved -= own;
        true
    }
}

impl OutstandingR2t {
    /// What is wrong with a Data-Out PDU that answers this R2T, if anything.
    fn error(&self, data: &ScsiDataOut, length: u32) -> Option<AdditionalSense> {
        if data.data_sn != self.data_sn
            || u64::from(data.buffer_offset) != u64::from(self.offset) + u64::from(self.received)
        {
            return Some(PROTOCOL_SERVICE_CRC_ERROR);
        }
        let end = u64::from(self.received) + u64::from(length);
        let short = data.final_ && end < u64::from(self.length);
        (end > u64::from(self.length) || short).then_some(INCORRECT_AMOUNT_OF_DATA)
    }
}
