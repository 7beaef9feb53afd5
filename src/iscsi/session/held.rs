//! Requests beside SCSI commands that are ahead of a gap in CmdSN (RFC 7143 §4.2.2.1): a NOP-Out, a
//! text, a task management or a logout request that is not immediate waits for its turn, as a
//! command does, and is dealt with when all before it have been delivered.
//!
//! With one connection a gap is rare (a digest error, a command that is sent again); with several
//! it is ordinary. Bounds: [`HELD_REQUESTS_MAX`] of a session; the next one is rejected and may be
//! sent again. The text of a held request stays in its connection's exchange, which takes no other
//! meanwhile.

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
            Place::Ahead(_) if self.held_requests.is_full() => {
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
                });
            }
            Place::Outside => self.counters.ignored_pdus += 1,
        }
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
    use super::super::bench::{Answer, Bench};
    use super::*;
    use crate::pdu::{
        Itt, LunField, NopOut, Opcode, Reject, StatSn, TaskManagementFunction,
        TaskManagementRequest, TaskManagementResponseCode, TextRequest, Ttt,
    };

    fn nop(bench: &mut Bench, itt: u32, cmd_sn: CmdSn) {
        let nop = NopOut {
            immediate: false,
            lun: LunField([0; 8]),
            itt: Itt(itt),
            ttt: Ttt::RESERVED,
            cmd_sn,
            exp_stat_sn: StatSn(0),
        };
        bench.send_pdu(nop.emit(), &[]);
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
    fn a_session_that_ends_forgets_what_it_held() {
        let mut bench = Bench::new();
        let ahead = bench.cmd_sn.next();
        nop(&mut bench, 50, ahead);
        bench.call(Session::detach);
        assert!(bench.session.is_drained() && bench.session.held_requests.is_empty());
    }
}
