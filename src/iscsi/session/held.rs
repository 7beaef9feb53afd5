//! Requests beside SCSI commands that are ahead of a gap in CmdSN (RFC 7143 §4.2.2.1): a NOP-Out, a
//! text, a task management or a logout request that is not immediate waits for its turn, as a
//! command does, and is dealt with when all before it have been delivered.
//!
//! With one connection a gap is rare (a digest error, a command that is sent again); with several
//! it is ordinary. Bounds: [`HELD_REQUESTS_MAX`] of a session; the next one is rejected and may be
//! sent again. The text of a held request stays in its connection's exchange, which takes no other
//! meanwhile. Ping data are in the core's pool, beyond the session's window: one ping that has some
//! may wait, and a gap that does not close ends the connection of what waits (`timers`).

use std::time::Instant;

use crate::pdu::{Bhs, CmdSn, RejectReason};

use super::connection::{ConnectionIndex, Kind, Sink};
use super::window::Place;
use super::{Env, HeldCommand, Session};

/// Requests of one session that may wait for a lower CmdSN.
pub(super) const HELD_REQUESTS_MAX: usize = 16;

/// One that waits; its place in the window is [`HeldCommand::Request`].
#[derive(Debug)]
pub(super) struct HeldRequest {
    cmd_sn: CmdSn,
    on: ConnectionIndex,
    bhs: Bhs,
    kind: Kind,
    sink: Sink,
    /// It waits from then on.
    since: Instant,
}

/// Whether it has memory of the pool.
fn has_buffer(sink: &Sink) -> bool {
    matches!(sink, Sink::Ping { buf: Some(_), .. })
}

impl Session {
    /// A request is whole: deals with it now, or when its CmdSN is due. What is outside the window
    /// or there already is dropped (RFC 7143 §4.2.2.1).
    pub(super) fn take_turn(
        &mut self,
        env: &mut Env<'_>,
        on: ConnectionIndex,
        bhs: Bhs,
        kind: Kind,
        sink: Sink,
    ) {
        // RFC 7143 §11.18.1: an answer to our ping has no CmdSN of its own.
        let answer = matches!(&kind, Kind::Nop(nop) if nop.itt.is_reserved());
        if bhs.immediate() || answer {
            self.serve(env, on, &bhs, &kind, sink);
            return;
        }
        let cmd_sn = bhs.cmd_sn();
        if self.connections.is_arriving(cmd_sn) {
            self.counters.ignored_pdus += 1;
            return;
        }
        match self.window.place(cmd_sn) {
            Place::Next => self.serve(env, on, &bhs, &kind, sink),
            Place::Ahead(_) if *self.held_at(cmd_sn) != HeldCommand::Missing => {
                self.counters.ignored_pdus += 1;
            }
            Place::Ahead(_) if self.has_no_room_for(&sink) => {
                // RFC 7143 §7.3: its CmdSN does not count as received.
                self.reject(on, &bhs, RejectReason::TooManyImmediateCommands);
            }
            Place::Ahead(_) => {
                *self.held_at(cmd_sn) = HeldCommand::Request;
                self.held_requests.push(HeldRequest {
                    cmd_sn,
                    on,
                    bhs,
                    kind,
                    sink,
                    since: env.now,
                });
            }
            Place::Outside => self.counters.ignored_pdus += 1,
        }
    }

    /// A further request cannot wait: they are too many, or it is the second with ping data.
    fn has_no_room_for(&self, sink: &Sink) -> bool {
        let mut held = self.held_requests.iter();
        self.held_requests.is_full()
            || (has_buffer(sink) && held.any(|held| has_buffer(&held.sink)))
    }

    /// Since when the oldest request of this connection waits for its turn. Payload on any
    /// connection counts as progress: it may be that of the command which is missing.
    pub(super) fn held_since(&self, on: ConnectionIndex) -> Option<Instant> {
        let held = self.held_requests.iter().filter(|held| held.on == on);
        let oldest = held.map(|held| held.since).min()?;
        let others = self.connections.indices();
        others
            .map(|other| self.connections[other].last_payload)
            .chain([oldest])
            .max()
    }

    /// The turn of the request that holds this CmdSN has come.
    pub(super) fn request_due(&mut self, env: &mut Env<'_>, cmd_sn: CmdSn) {
        let mut held = self.held_requests.iter();
        let Some(at) = held.position(|held| held.cmd_sn == cmd_sn) else {
            unreachable!("a place that is marked has its request");
        };
        let held = self.held_requests.swap_remove(at);
        self.serve(env, held.on, &held.bhs, &held.kind, held.sink);
    }

    /// A connection has left: what it has taken with it may come again on another one.
    pub(super) fn forget_held_requests_of(&mut self, on: ConnectionIndex) {
        while let Some(at) = self.held_requests.iter().position(|held| held.on == on) {
            let cmd_sn = self.held_requests.remove(at).cmd_sn;
            *self.held_at(cmd_sn) = HeldCommand::Missing;
        }
    }

    /// Whether a text of this connection waits for its turn.
    pub(super) fn has_held_text(&self, on: ConnectionIndex) -> bool {
        let mut held = self.held_requests.iter();
        held.any(|held| held.on == on && matches!(held.kind, Kind::Text(_)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Fault;
    use super::super::bench::{Answer, Bench};
    use super::*;
    use crate::pdu::{
        Itt, LunField, NopOut, Opcode, Reject, ScsiCommand, StatSn, TaskManagementFunction,
        TaskManagementRequest, TaskManagementResponseCode, TextRequest, Ttt,
    };

    fn nop(bench: &mut Bench, itt: u32, cmd_sn: CmdSn) {
        ping(bench, itt, cmd_sn, &[]);
    }

    fn ping(bench: &mut Bench, itt: u32, cmd_sn: CmdSn, data: &[u8]) {
        let nop = NopOut {
            immediate: false,
            lun: LunField([0; 8]),
            itt: Itt(itt),
            ttt: Ttt::RESERVED,
            cmd_sn,
            exp_stat_sn: StatSn(0),
        };
        bench.send_pdu(nop.emit(), data);
    }

    fn text(bench: &mut Bench, itt: u32, cmd_sn: CmdSn) {
        let text = TextRequest {
            immediate: false,
            final_: true,
            continue_: false,
            lun: LunField([0; 8]),
            itt: Itt(itt),
            ttt: Ttt::RESERVED,
            cmd_sn,
            exp_stat_sn: StatSn(0),
        };
        bench.send_pdu(text.emit(), b"X-a=1\0");
    }

    fn abort_task_set(bench: &mut Bench, itt: u32, cmd_sn: CmdSn) {
        let request = TaskManagementRequest {
            immediate: false,
            function: TaskManagementFunction::AbortTaskSet,
            lun: LunField([0; 8]),
            itt: Itt(itt),
            referenced_itt: Itt::RESERVED,
            cmd_sn,
            exp_stat_sn: StatSn(0),
            ref_cmd_sn: CmdSn(0),
            exp_data_sn: 0,
        };
        bench.send_pdu(request.emit(), &[]);
    }

    fn opcodes(bench: &mut Bench) -> Vec<Opcode> {
        let pdus = bench.pdus();
        pdus.iter().map(|(bhs, _)| bhs.opcode().unwrap()).collect()
    }

    /// RFC 7143 §4.2.3.3: what was sent before it is aborted by it, also when it comes later.
    #[test]
    fn task_management_ahead_of_a_gap_reaches_the_command_that_fills_it() {
        let mut bench = Bench::new();
        let first = bench.cmd_sn;
        abort_task_set(&mut bench, 50, first.next());
        assert_eq!(bench.answers(), []);
        bench.send_write(1, 0);
        assert_eq!((bench.answers(), bench.requests.len()), (vec![], 1));
        bench.complete();
        let complete = TaskManagementResponseCode::FunctionComplete;
        assert_eq!(bench.answers(), [Answer::Management(50, complete)]);
        // Its CmdSN is used up.
        bench.cmd_sn = bench.cmd_sn.next();
        bench.send_write(2, 0);
        bench.complete();
        assert_eq!(bench.answers(), [Answer::Status(2, 0, None)]);
    }

    #[test]
    fn requests_ahead_of_a_gap_are_answered_in_order_when_it_closes() {
        let mut bench = Bench::new();
        let first = bench.cmd_sn;
        nop(&mut bench, 50, first.plus(3));
        text(&mut bench, 51, first.plus(2));
        abort_task_set(&mut bench, 52, first.plus(1));
        // Twice: the place is taken. Too far: outside.
        nop(&mut bench, 53, first.plus(3));
        nop(&mut bench, 54, first.plus(1000));
        assert_eq!(opcodes(&mut bench), []);
        bench.send_write(1, 1);
        let wanted = [
            Opcode::TaskManagementResponse,
            Opcode::TextResponse,
            Opcode::NopIn,
        ];
        assert_eq!(opcodes(&mut bench), wanted);
        bench.complete();
        assert_eq!(bench.session.command_window().0, first.plus(4));
    }

    #[test]
    fn a_second_text_and_one_request_too_many_are_rejected() {
        let mut bench = Bench::new();
        let first = bench.cmd_sn;
        text(&mut bench, 50, first.plus(1));
        text(&mut bench, 51, first.plus(2));
        let reason = |bench: &mut Bench| Reject::parse(&bench.pdus()[0].0).reason;
        assert_eq!(reason(&mut bench), RejectReason::ProtocolError);
        for n in 2..17 {
            nop(&mut bench, 100 + n, first.plus(n));
        }
        assert_eq!(opcodes(&mut bench), []);
        nop(&mut bench, 200, first.plus(17));
        assert_eq!(reason(&mut bench), RejectReason::TooManyImmediateCommands);
        bench.send_write(1, 1);
        let answers = opcodes(&mut bench);
        assert_eq!(answers[0], Opcode::TextResponse);
        assert_eq!(answers[1..], [Opcode::NopIn; 15]);
        bench.complete();
    }

    #[test]
    fn one_ping_with_data_waits_and_the_next_may_come_again() {
        let mut bench = Bench::new();
        let first = bench.cmd_sn;
        let free = |bench: &mut Bench| bench.call(|_, env| env.pool.available());
        let before = free(&mut bench);
        ping(&mut bench, 50, first.plus(1), &[1; 512]);
        let one = free(&mut bench);
        assert_eq!(one, before - crate::mem::Pool::chunks_for(512));
        ping(&mut bench, 51, first.plus(2), &[2; 512]);
        let (bhs, header) = bench.pdus().remove(0);
        let reason = Reject::parse(&bhs).reason;
        assert_eq!(reason, RejectReason::TooManyImmediateCommands);
        assert_eq!(header[16..20], 51_u32.to_be_bytes());
        assert_eq!(free(&mut bench), one, "what is rejected has given it back");
        // One without data takes nothing.
        nop(&mut bench, 52, first.plus(3));
        bench.send(&Bench::command(1, 1, [0; 16], 0), &[]);
        let wanted = [Opcode::ScsiResponse, Opcode::NopIn];
        let pdus = bench.pdus();
        let sent: Vec<_> = pdus.iter().map(|(bhs, _)| bhs.opcode().unwrap()).collect();
        assert_eq!(sent, wanted);
        assert_eq!(pdus[1].1, [1; 512]);
        ping(&mut bench, 51, first.plus(2), &[2; 512]);
        let pdus = bench.pdus();
        let tags: Vec<_> = pdus
            .iter()
            .map(|(bhs, _)| bhs.initiator_task_tag().0)
            .collect();
        assert_eq!(tags, [51, 52]);
        assert_eq!(pdus[0].1, [2; 512]);
        assert_eq!(bench.session.command_window().0, first.plus(4));
    }

    #[test]
    fn a_gap_that_stays_ends_the_connection_of_what_waits() {
        let mut bench = Bench::new();
        let (limit, moment) = (Duration::from_secs(5), Duration::from_millis(1));
        let gap = bench.cmd_sn;
        nop(&mut bench, 50, gap.plus(1));
        assert_eq!(bench.tick(limit), Ok(()));
        // A later one does not make the first younger.
        nop(&mut bench, 51, gap.plus(2));
        let ended = bench.tick(moment);
        let leading = ConnectionIndex::LEADING;
        assert_eq!(ended, Err((leading, Fault::NoProgress(limit))));
        // Closed, it is forgotten.
        bench.send(&Bench::command(1, 1, [0; 16], 0), &[]);
        assert_eq!(opcodes(&mut bench).len(), 3);
        assert_eq!(bench.tick(limit * 2), Ok(()));
    }

    #[test]
    fn payload_on_any_connection_keeps_what_waits_for_its_turn() {
        let mut bench = Bench::new();
        let (most, moment) = (Duration::from_secs(5), Duration::from_millis(1));
        let other = bench.attach(1);
        let gap = bench.cmd_sn;
        let bytes = ScsiCommand {
            cmd_sn: gap,
            ..Bench::write(1, 0)
        };
        nop(&mut bench, 50, gap.plus(1));
        assert_eq!(bench.tick(most), Ok(()));
        // Half of the command that is missing.
        let header = bytes.emit().with_lengths(0, 512);
        let half = [&header.bytes()[..], &[7; 256]].concat();
        bench.call(|session, env| session.receive(env, other, &mut &half[..]).unwrap());
        assert_eq!(bench.tick(most), Ok(()));
        let ended = bench.tick(moment).map_err(|(_, fault)| fault);
        assert_eq!(ended, Err(Fault::NoProgress(most)));
    }

    #[test]
    fn a_session_that_ends_forgets_what_it_held() {
        let mut bench = Bench::new();
        let ahead = bench.cmd_sn.next();
        nop(&mut bench, 50, ahead);
        bench.call(Session::detach);
        assert!(bench.session.is_drained() && bench.session.held_requests.is_empty());
    }
}
