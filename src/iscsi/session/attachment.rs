//! Connections of a session that come and go (RFC 7143 §4.2.2, §6.3.4, §11.14).
//!
//! The leading login makes the session with its first connection; further logins attach others, up
//! to MaxConnections. One that leaves, because it was logged out or is reinstated, takes its tasks
//! with it and nothing else: CmdSN, the window and the tasks of the others go on. Its place is free
//! when the last of its tasks is gone ([`Session::has_left`]), and only then its CID may be
//! attached again. A connection that fails takes the session with it, since ErrorRecoveryLevel is
//! 0: that is for the caller to do, with [`Session::detach`].

use std::net::SocketAddr;
use std::time::Instant;

use arrayvec::ArrayVec;

use super::super::negotiated::Negotiated;
use super::super::transmit::TransmitQueue;
use super::connection::{Connection, ConnectionIndex, Ending, LastOpcodes, Scope, TextExchange};
use super::window::Window;
use super::{Answer, Closes, Env, Fault, HeldCommand, LOGOUTS_MAX, MANAGEMENT_MAX, Session};
use crate::pdu::{Cid, Framer, Itt, LoginResponse, LogoutResponseCode};

impl Closes {
    fn reaches(self, on: ConnectionIndex) -> bool {
        match self {
            Self::Session => true,
            Self::Connection(other) => other == on,
        }
    }
}

impl Session {
    /// A connection as its login leaves it, with the final response as the first to be sent.
    pub(super) fn connection(
        negotiated: &Negotiated,
        window: &Window,
        (response, text): (&LoginResponse, &[u8]),
        (peer, local): (SocketAddr, SocketAddr),
        now: Instant,
    ) -> Connection {
        let parameters = &negotiated.parameters;
        let mut framer = Framer::new(crate::pdu::Limits {
            max_data_segment: parameters.target_max_recv_data_segment_length,
            max_ahs: crate::pdu::AHS_BYTES_MAX,
        });
        framer.set_digests(parameters.header_digest, parameters.data_digest);
        let mut transmit = TransmitQueue::new();
        let response = LoginResponse {
            exp_cmd_sn: window.exp_cmd_sn(),
            max_cmd_sn: window.max_cmd_sn(),
            ..*response
        };
        let queued = transmit.push(response.emit(), text);
        assert!(queued, "an empty queue has room for one response");
        transmit.set_digests(parameters.header_digest, parameters.data_digest);
        Connection {
            cid: negotiated.cid,
            attached: true,
            kept: false,
            deaf: false,
            ending: None,
            initiator_max_recv_data_segment_length: parameters
                .initiator_max_recv_data_segment_length,
            peer,
            local,
            framer,
            arriving: None,
            transmit,
            stat_sn: negotiated.next_stat_sn,
            acknowledged: negotiated.next_stat_sn,
            text: TextExchange::default(),
            last_opcodes: LastOpcodes::default(),
            read_ahead: 0,
            last_received: now,
            last_payload: now,
            last_text: now,
            ping: None,
            last_sent: now,
        }
    }

    /// Adds a connection. CmdSN goes on where it is; `login` brings what belongs to the connection,
    /// `last` and `ends` are as for [`Session::new`]. `place` is that of a connection of the same
    /// CID that has left, see [`Self::keep_place`]. The caller keeps to MaxConnections.
    pub fn attach(
        &mut self,
        env: &mut Env<'_>,
        place: Option<ConnectionIndex>,
        login: &Negotiated,
        last: (&LoginResponse, &[u8]),
        ends: (SocketAddr, SocketAddr),
    ) -> ConnectionIndex {
        self.raise_window(env);
        let connection = Self::connection(login, &self.window, last, ends, env.now);
        match place.or_else(|| self.free_place()) {
            Some(on) => {
                self.connections[on] = connection;
                on
            }
            None => self.connections.push(connection),
        }
    }

    /// The place of a connection that has left and does not come back.
    fn free_place(&self) -> Option<ConnectionIndex> {
        self.connections.indices().find(|on| {
            let connection = &self.connections[*on];
            !connection.attached && !connection.kept && self.has_left(*on)
        })
    }

    /// Whether there is a place for a further connection: those that have left have one until their
    /// last task is gone.
    pub fn has_place(&self) -> bool {
        self.connections.have_unused() || self.free_place().is_some()
    }

    /// One connection is gone and the others go on: every task of it is aborted without an answer.
    pub fn leave(&mut self, env: &mut Env<'_>, on: ConnectionIndex) {
        let connection = &mut self.connections[on];
        connection.attached = false;
        connection.arriving = None;
        self.forget_requests_of(on);
        let suspended = self.ordering.suspend();
        for slot in 0..self.tasks.capacity() {
            if self
                .tasks
                .slot(slot)
                .is_some_and(|task| task.connection == on)
            {
                self.abort(env, slot, None);
            }
        }
        self.expire_aborted(env);
        self.resume_ordering(env, suspended);
        // Only now: until here tasks had buffers in it.
        self.connections[on].transmit = TransmitQueue::closed();
        self.finish_management(env);
        self.manage_early(env);
    }

    /// Whether a logout is under way that makes another one pointless.
    pub(super) fn is_logging_out(&self, closes: Option<Closes>) -> bool {
        self.management.iter().any(|pending| match pending.answer {
            Answer::Logout(Closes::Session) => true,
            Answer::Logout(pending) => Some(pending) == closes,
            Answer::Function | Answer::ColdReset | Answer::NexusReset => false,
        })
    }

    /// RFC 7143 §11.15: a Logout Response says that the tasks of what is closed are gone, so it
    /// waits for what is at the devices. Other connections that are closed are not listened to any
    /// more; the one that asked has nothing more to say (§11.14).
    pub(super) fn log_out(
        &mut self,
        env: &mut Env<'_>,
        on: ConnectionIndex,
        itt: Itt,
        closes: Closes,
    ) {
        let id = self.begin_management(on, itt, false, Answer::Logout(closes));
        for other in self.connections.indices() {
            if other != on && closes.reaches(other) {
                self.connections[other].deaf = true;
                self.connections[other].arriving = None;
            }
        }
        let suspended = self.ordering.suspend();
        for slot in 0..self.tasks.capacity() {
            let task = self.tasks.slot(slot);
            if task.is_some_and(|task| closes.reaches(task.connection)) {
                self.abort(env, slot, Some(id));
                self.let_go_of_peer(env, slot);
            }
        }
        self.resume_ordering(env, suspended);
        self.gathered(env, id);
    }

    /// Nothing is left of what a logout closes.
    pub(super) fn logged_out(&mut self, on: ConnectionIndex, itt: Itt, closes: Closes) {
        self.respond_logout(on, itt, LogoutResponseCode::Closed);
        match closes {
            Closes::Session => self.end_after(on, Fault::LoggedOut, Scope::Session),
            Closes::Connection(other) if other == on => {
                self.end_after(on, Fault::LoggedOut, Scope::Connection);
            }
            Closes::Connection(other) => self.end_at_once(other),
        }
    }

    /// Ends a connection, and what `scope` says with it, when all is sent that it has to say.
    pub(super) fn end_after(&mut self, on: ConnectionIndex, why: Fault, scope: Scope) {
        self.connections[on].ending = Some(Ending {
            why,
            scope,
            at_once: false,
        });
    }

    /// A connection was logged out on another one.
    fn end_at_once(&mut self, on: ConnectionIndex) {
        self.connections[on].ending = Some(Ending {
            why: Fault::LoggedOut,
            scope: Scope::Connection,
            at_once: true,
        });
    }

    /// Another connection of the same CID will come to the place of this one, which has left.
    pub fn keep_place(&mut self, on: ConnectionIndex) {
        self.connections[on].kept = true;
    }

    /// Nobody is left to be answered on this connection, and nobody there acknowledges anything.
    fn forget_requests_of(&mut self, on: ConnectionIndex) {
        self.early.retain(|early| early.connection != on);
        self.forget_held_requests_of(on);
        for pending in &mut self.management {
            pending.acknowledgements[on.at()] = None;
        }
        for at in 0..self.management.len() {
            let pending = self.management[at];
            // What it has asked for is done all the same, without a word.
            if let Answer::Logout(Closes::Connection(other)) = pending.answer
                && pending.connection == on
                && other != on
            {
                self.end_at_once(other);
            }
        }
        self.management.retain(|pending| pending.connection != on);
        // A task remembers only those that there are, which bounds them.
        let waiting: ArrayVec<u32, { MANAGEMENT_MAX + LOGOUTS_MAX }> =
            self.management.iter().map(|pending| pending.id).collect();
        for slot in 0..self.tasks.capacity() {
            if let Some(task) = self.tasks.slot(slot) {
                task.aborted_by.retain(|by| waiting.contains(by));
            }
        }
    }

    /// All connections are gone: every task is aborted. The session may be dropped once
    /// [`Self::is_drained`].
    pub fn detach(&mut self, env: &mut Env<'_>) {
        for on in self.connections.indices() {
            self.connections[on].attached = false;
            self.connections[on].arriving = None;
        }
        self.waiting.clear();
        self.management.clear();
        self.early.clear();
        self.held.fill(HeldCommand::Missing);
        self.held_requests.clear();
        let suspended = self.ordering.suspend();
        for slot in 0..self.tasks.capacity() {
            if self.tasks.slot(slot).is_some() {
                self.abort(env, slot, None);
            }
        }
        self.expire_aborted(env);
        self.resume_ordering(env, suspended);
        // Only now: until here tasks had buffers in it.
        for on in self.connections.indices() {
            self.connections[on].transmit = TransmitQueue::closed();
        }
    }

    /// No device, and no other core, has anything of this session.
    pub fn is_drained(&self) -> bool {
        self.tasks.is_empty()
    }

    /// The same of one connection.
    pub fn has_left(&self, on: ConnectionIndex) -> bool {
        self.tasks.iter().all(|task| task.connection != on)
    }

    /// Its CID, while it is here and after it has left.
    pub fn cid(&self, on: ConnectionIndex) -> Cid {
        self.connections[on].cid
    }

    /// The other end of a connection.
    pub fn peer(&self, on: ConnectionIndex) -> SocketAddr {
        self.connections[on].peer
    }

    /// The session is being logged out: it takes no further connection.
    pub fn is_closing(&self) -> bool {
        let ends = |on| {
            self.ending(on)
                .is_some_and(|ending| ending.scope == Scope::Session)
        };
        self.is_logging_out(None) || self.connections.indices().any(ends)
    }

    /// Set once the last response of a connection has been queued: when all is sent, it ends.
    pub fn ending(&self, on: ConnectionIndex) -> Option<&Ending> {
        self.connections[on].ending.as_ref()
    }

    /// What ends when this connection is lost now: with a logout under way that reaches it, the
    /// initiator may close it, and it goes alone; else the session fails with it (RFC 7143 §7.1.5:
    /// ErrorRecoveryLevel 0 has session recovery only).
    pub fn lost_with(&self, on: ConnectionIndex) -> Scope {
        if let Some(ending) = self.ending(on) {
            return ending.scope;
        }
        let leaves = self.management.iter().any(|pending| match pending.answer {
            Answer::Logout(Closes::Connection(other)) => other == on,
            Answer::Logout(Closes::Session) => pending.connection != on,
            Answer::Function | Answer::ColdReset | Answer::NexusReset => false,
        });
        if leaves {
            Scope::Connection
        } else {
            Scope::Session
        }
    }
}
