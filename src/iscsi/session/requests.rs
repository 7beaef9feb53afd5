//! Requests beside SCSI: NOP, text, logout, and the Reject of what cannot be taken
//! (RFC 7143 §11.9 to §11.11, §11.14, §11.15, §11.17 to §11.19).

use crate::pdu::{
    AsyncEvent, AsyncMessage, Bhs, Itt, LogoutReason, LogoutRequest, LogoutResponse,
    LogoutResponseCode, LunField, NopIn, NopOut, Reject, RejectReason, TextRequest, TextResponse,
    Ttt,
};

use super::super::text::FULL_FEATURE_TEXT_MAX_BYTES as TEXT_BYTES_MAX;
use super::super::text_phase::{self, TextSession};
use super::connection::{ConnectionIndex, Kind, Sink, TextExchange};
use super::{Closes, Env, Session};

/// Text bytes that go into one Text Response whatever the initiator takes.
const TEXT_SEGMENT_MAX: usize = 8192;

impl TextExchange {
    fn reset(&mut self) {
        self.request.clear();
        self.answer.clear();
        self.answered = 0;
        self.ttt = None;
    }
}

impl Session {
    /// RFC 7143 §11.18: the ping data come back, as far as the initiator takes them.
    pub(super) fn begin_nop_out(&mut self, env: &mut Env<'_>, on: ConnectionIndex) -> (Kind, Sink) {
        let bhs = self.connections[on].bhs();
        let nop = NopOut::parse(bhs);
        let length = bhs.data_segment_length() as usize;
        let limit = self.connections[on].initiator_max_recv_data_segment_length as usize;
        let wanted = if nop.itt.is_reserved() {
            0
        } else {
            length.min(limit)
        };
        let room = env.pool.available() >= env.floor + crate::mem::Pool::chunks_for(wanted);
        let buf = if wanted > 0 && room {
            env.pool.alloc(wanted)
        } else {
            None
        };
        (Kind::Nop(nop), Sink::Ping { buf, at: 0 })
    }

    pub(super) fn end_nop_out(
        &mut self,
        env: &mut Env<'_>,
        on: ConnectionIndex,
        nop: &NopOut,
        sink: Sink,
    ) {
        if nop.itt.is_reserved() {
            // RFC 7143 §11.18.1: an answer to our ping; never answered again.
            if self.connections[on]
                .ping
                .is_some_and(|(ttt, _)| ttt == nop.ttt)
            {
                self.connections[on].ping = None;
            }
            return;
        }
        if !self.take_cmd_sn(env, nop.immediate, nop.cmd_sn) {
            self.counters.ignored_pdus += 1;
            return;
        }
        let response = NopIn {
            lun: LunField([0; 8]),
            itt: nop.itt,
            ttt: Ttt::RESERVED,
            stat_sn: self.next_stat_sn(on),
            exp_cmd_sn: self.window.exp_cmd_sn(),
            max_cmd_sn: self.window.max_cmd_sn(),
        };
        match sink {
            Sink::Ping { buf: Some(buf), at } if self.connections[on].attached => {
                let transmit = &mut self.connections[on].transmit;
                let held = transmit.hold(buf);
                transmit.push_payload(response.emit(), &held, 0..at);
                transmit.release(held);
            }
            _ => self.send(on, response.emit(), &[]),
        }
    }

    /// Tells ExpCmdSN and MaxCmdSN, on one connection for all, as soon as one has room.
    pub(super) fn tell_window(&mut self) {
        let on = self
            .connections
            .attached()
            .find(|on| !self.connections[*on].transmit.is_congested());
        if let Some(on) = on {
            self.window_untold = false;
            self.send_nop_in(on, Ttt::RESERVED);
        }
    }

    /// A NOP-In of our own; with a tag it asks for an answer (RFC 7143 §11.19).
    pub(super) fn send_nop_in(&mut self, on: ConnectionIndex, ttt: Ttt) {
        let nop = NopIn {
            lun: LunField([0; 8]),
            itt: Itt::RESERVED,
            ttt,
            // RFC 7143 §11.19: it carries the next StatSN and does not advance it.
            stat_sn: self.connections[on].stat_sn,
            exp_cmd_sn: self.window.exp_cmd_sn(),
            max_cmd_sn: self.window.max_cmd_sn(),
        };
        self.send(on, nop.emit(), &[]);
    }

    pub(super) fn begin_text(&mut self, on: ConnectionIndex) -> (Kind, Sink) {
        let bhs = self.connections[on].bhs();
        let length = bhs.data_segment_length() as usize;
        let Ok(request) = TextRequest::parse(bhs) else {
            return (Kind::Reject(RejectReason::InvalidPduField), Sink::Discard);
        };
        if self.has_held_text(on) {
            // RFC 7143 §11.10: one text request of a connection at a time.
            return (Kind::Reject(RejectReason::ProtocolError), Sink::Discard);
        }
        let text = &mut self.connections[on].text;
        // RFC 7143 §11.10.4: a request that continues names our tag; one that does not starts
        // afresh.
        if request.ttt.is_reserved() {
            text.reset();
        } else if text.ttt != Some(request.ttt) {
            text.reset();
            return (Kind::Reject(RejectReason::ProtocolError), Sink::Discard);
        }
        if text.request.len() + length > TEXT_BYTES_MAX {
            text.reset();
            return (Kind::Reject(RejectReason::ProtocolError), Sink::Discard);
        }
        (Kind::Text(request), Sink::Text)
    }

    pub(super) fn end_text(
        &mut self,
        env: &mut Env<'_>,
        on: ConnectionIndex,
        bhs: &Bhs,
        request: &TextRequest,
    ) {
        self.connections[on].last_text = env.now;
        if !self.in_window(request.immediate, request.cmd_sn) {
            self.counters.ignored_pdus += 1;
            return;
        }
        let asks_for_more =
            self.connections[on].text.answered < self.connections[on].text.answer.len();
        if request.continue_ {
            self.take_cmd_sn(env, request.immediate, request.cmd_sn);
            // RFC 7143 §11.10.2: an empty response asks for the rest.
            self.respond_text(on, request.itt, 0, false);
            return;
        }
        if !asks_for_more {
            let asked = std::mem::take(&mut self.connections[on].text.request);
            let session = TextSession::of(
                &self.negotiated,
                self.connections[on].local,
                self.connections[on].peer,
            );
            let Ok(answer) = text_phase::answer(&asked, session, env.nodes) else {
                // RFC 7143 §7.3: the CmdSN of what is rejected does not count as received.
                self.connections[on].text.reset();
                self.reject(on, bhs, RejectReason::ProtocolError);
                return;
            };
            self.connections[on].text.answer = answer.text;
            if let Some(length) = answer.initiator_max_recv_data_segment_length {
                self.connections[on].initiator_max_recv_data_segment_length = length;
            }
            self.connections[on].text.answered = 0;
        }
        self.take_cmd_sn(env, request.immediate, request.cmd_sn);
        let limit = self.connections[on].initiator_max_recv_data_segment_length as usize;
        let left = self.connections[on].text.answer.len() - self.connections[on].text.answered;
        let now = left.min(limit).min(TEXT_SEGMENT_MAX);
        self.respond_text(on, request.itt, now, now == left && request.final_);
    }

    /// Sends the next `bytes` of the answer. The last one ends the exchange.
    fn respond_text(&mut self, on: ConnectionIndex, itt: Itt, bytes: usize, last: bool) {
        let text = &mut self.connections[on].text;
        let from = text.answered;
        text.answered += bytes;
        let more = text.answered < text.answer.len();
        let segment = text.answer[from..from + bytes].to_vec();
        let ttt = if last {
            text.reset();
            Ttt::RESERVED
        } else {
            *text.ttt.get_or_insert_with(|| {
                self.ttt = self.ttt.wrapping_add(1);
                Ttt(0xfffd_0000 | u32::from(self.ttt))
            })
        };
        let response = TextResponse {
            final_: last,
            continue_: more,
            lun: LunField([0; 8]),
            itt,
            ttt,
            stat_sn: self.next_stat_sn(on),
            exp_cmd_sn: self.window.exp_cmd_sn(),
            max_cmd_sn: self.window.max_cmd_sn(),
        };
        self.send(on, response.emit(), &segment);
    }

    /// RFC 7143 §11.14: closes the session or one of its connections, which need not be the one
    /// that the request came on. The last connection takes the session with it. Removing a
    /// connection for recovery needs ErrorRecoveryLevel 2.
    pub(super) fn logout_request(&mut self, env: &mut Env<'_>, on: ConnectionIndex, bhs: &Bhs) {
        let Ok(request) = LogoutRequest::parse(bhs) else {
            self.reject(on, bhs, RejectReason::InvalidPduField);
            return;
        };
        let closes = match request.reason {
            LogoutReason::CloseSession => Ok(Closes::Session),
            LogoutReason::CloseConnection => match self.connections.by_cid(request.cid) {
                Some(other) if self.connections.are_several() => Ok(Closes::Connection(other)),
                Some(_) => Ok(Closes::Session),
                None => Err(LogoutResponseCode::CidNotFound),
            },
            LogoutReason::RemoveConnectionForRecovery => {
                Err(LogoutResponseCode::RecoveryNotSupported)
            }
        };
        if self.is_logging_out(closes.ok()) {
            self.reject(on, bhs, RejectReason::ProtocolError);
            return;
        }
        if !self.take_cmd_sn(env, request.immediate, request.cmd_sn) {
            self.counters.ignored_pdus += 1;
            return;
        }
        match closes {
            Ok(closes) => self.log_out(env, on, request.itt, closes),
            Err(code) => self.respond_logout(on, request.itt, code),
        }
    }

    /// Answers a logout.
    pub(super) fn respond_logout(
        &mut self,
        on: ConnectionIndex,
        itt: Itt,
        code: LogoutResponseCode,
    ) {
        let response = LogoutResponse {
            response: code,
            itt,
            stat_sn: self.next_stat_sn(on),
            exp_cmd_sn: self.window.exp_cmd_sn(),
            max_cmd_sn: self.window.max_cmd_sn(),
            time2wait: 0,
            time2retain: 0,
        };
        self.send(on, response.emit(), &[]);
    }

    /// Asks the initiator to log out within `seconds` (RFC 7143 §11.9.1, event 1).
    pub fn ask_to_log_out(&mut self, seconds: u16) {
        for on in self.connections.indices() {
            let connection = &self.connections[on];
            if connection.attached && connection.transmit.has_room() {
                self.request_logout(on, seconds);
            }
        }
    }

    fn request_logout(&mut self, on: ConnectionIndex, seconds: u16) {
        let message = AsyncMessage {
            lun: LunField([0; 8]),
            stat_sn: self.next_stat_sn(on),
            exp_cmd_sn: self.window.exp_cmd_sn(),
            max_cmd_sn: self.window.max_cmd_sn(),
            event: AsyncEvent::LogoutRequested,
            parameter1: 0,
            parameter2: 0,
            parameter3: seconds,
            vcode: 0,
        };
        self.send(on, message.emit(), &[]);
    }

    /// RFC 7143 §11.17: says why a PDU was not taken, with its header.
    pub(super) fn reject(&mut self, on: ConnectionIndex, bhs: &Bhs, reason: RejectReason) {
        self.counters.rejects += 1;
        let reject = Reject {
            reason,
            stat_sn: self.next_stat_sn(on),
            exp_cmd_sn: self.window.exp_cmd_sn(),
            max_cmd_sn: self.window.max_cmd_sn(),
            data_sn: 0,
        };
        self.send(on, reject.emit(), bhs.bytes());
    }
}
