//! The connections of a session: who joins, who leaves, who comes back, and what ends with one
//! that fails (RFC 7143 §4.2.2, §6.3.4, §7.1.5, §11.14).
//!
//! A login of another CID joins as long as MaxConnections allows it. One of a CID that is there
//! takes that connection's place: the old connection is closed at once, its tasks are aborted, and
//! the login is answered when the devices have let go of them, so that no old write can land behind
//! the answer. A connection that was logged out leaves alone; one that fails takes the session and
//! all others with it, since ErrorRecoveryLevel is 0.

use arrayvec::ArrayVec;

use super::Reactor;
use super::connections::Phase;
use super::message::{ConnectionKey, Handoff};
use super::sessions::{Entry, login_event};
use crate::control::event::{Event, Obituary};
use crate::iscsi::login::Reason;
use crate::iscsi::session::{
    CONNECTIONS_MAX, ConnectionIndex, Ending, Fault, Guard, Scope, SessionIndex,
};
use crate::pdu::Cid;

/// The connections of one session.
pub(super) type Links = ArrayVec<Link, { CONNECTIONS_MAX as usize }>;

/// A connection of a session.
#[derive(Debug)]
pub(super) struct Link {
    on: ConnectionIndex,
    cid: Cid,
    /// Absent while the devices still have something of it and its successor waits.
    key: Option<ConnectionKey>,
    /// Of its login; see [`super::message::ToCore::Placed`].
    order: u64,
    /// Takes its place when its tasks are gone.
    successor: Option<Box<Handoff>>,
}

impl Link {
    pub(super) fn leading(cid: Cid, order: u64) -> Self {
        Self {
            on: ConnectionIndex::LEADING,
            cid,
            key: None,
            order,
            successor: None,
        }
    }

    /// The order of the latest login that concerns this place.
    fn latest(&self) -> u64 {
        let successor = self.successor.as_ref().map(|handoff| handoff.order);
        successor.unwrap_or(self.order)
    }
}

impl Entry {
    fn link(&mut self, on: ConnectionIndex) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.on == on)
    }
}

impl Reactor {
    /// A login for a session that is here.
    pub(super) fn join(&mut self, index: SessionIndex, handoff: Box<Handoff>) {
        let joined = self.joined();
        let joined_max = self.joined_max;
        let entry = self.entry(index).expect("find() has found it");
        let session = &entry.session;
        if entry.links.is_empty() || entry.is_superseded() || session.is_closing() {
            self.refuse_handoff(*handoff, Reason::NoSuchSession);
            return;
        }
        let cid = handoff.negotiated.cid;
        let max = session.negotiated().parameters.max_connections;
        if entry.links.iter().any(|link| link.cid == cid) {
            self.reinstate(index, cid, handoff);
        } else if entry.links.len() >= usize::from(max.min(CONNECTIONS_MAX)) {
            self.refuse_handoff(*handoff, Reason::TooManyConnections);
        } else if joined >= joined_max || !session.has_place() {
            self.refuse_handoff(*handoff, Reason::OutOfResources);
        } else {
            self.attach(index, *handoff, None);
        }
    }

    /// Connections of this core beyond the first of each session.
    fn joined(&self) -> usize {
        let entries = self.sessions.iter().flatten();
        entries
            .map(|entry| entry.links.len().saturating_sub(1))
            .sum()
    }

    /// RFC 7143 §6.3.4: the CID is there already. The old connection is logged out without a word.
    fn reinstate(&mut self, index: SessionIndex, cid: Cid, handoff: Box<Handoff>) {
        let any_order = !self.lent.guards.hold(Guard::ReinstatementOrder);
        let entry = self.entry(index).expect("join() has looked");
        let link = entry.links.iter_mut().find(|link| link.cid == cid);
        let link = link.expect("join() has looked");
        // Logins from several cores may arrive in another order than the directory took them in.
        let (dropped, wins) = if handoff.order > link.latest() || any_order {
            (link.successor.replace(handoff), true)
        } else {
            (Some(handoff), false)
        };
        if let Some(dropped) = dropped {
            self.dismiss(dropped.stream);
        }
        if wins {
            self.close_link(index, cid);
            self.after_session(index);
        }
    }

    /// Ends the connection of a link whose successor waits.
    fn close_link(&mut self, index: SessionIndex, cid: Cid) {
        let entry = self.entry(index).expect("reinstate() has looked");
        let link = entry.links.iter_mut().find(|link| link.cid == cid);
        let link = link.expect("reinstate() has looked");
        let on = link.on;
        let Some(key) = link.key.take() else {
            return;
        };
        let why = "the initiator logged in again with the same CID";
        self.tell_end(index, (on, Some(key)), why, Scope::Connection, false);
        self.close_connection(key);
        let at = usize::from(index.0);
        let entry = self.sessions[at].as_mut().expect("still there");
        entry.session.leave(&mut self.lent.env(), on);
        entry.session.keep_place(on);
    }

    /// Adds a connection to a session: a new one, or in the place of one that has left.
    fn attach(&mut self, index: SessionIndex, handoff: Handoff, place: Option<ConnectionIndex>) {
        let core = self.core;
        let Handoff {
            stream,
            unread,
            negotiated,
            mut response,
            text,
            order,
            ..
        } = handoff;
        let ends = (stream.peer(), stream.local());
        let at = usize::from(index.0);
        let entry = self.sessions[at].as_mut().expect("callers have looked");
        response.tsih = crate::pdu::Tsih(entry.tsih);
        let last = (&response, text.as_slice());
        let env = &mut self.lent.env();
        let on = entry.session.attach(env, place, &negotiated, last, ends);
        let how = match entry.link(on).filter(|_| place.is_some()) {
            Some(link) => {
                link.order = order;
                "connection reinstated"
            }
            None => {
                entry.links.push(Link {
                    on,
                    cid: negotiated.cid,
                    key: None,
                    order,
                    successor: None,
                });
                "connection joined"
            }
        };
        let luns = entry.session.luns();
        let event = login_event(&negotiated, luns, &stream, entry.tsih, core, how);
        self.tell(Event::LoggedIn(Box::new(event)));
        self.connect(index, on, stream, unread);
    }

    /// Gives a connection of a session its stream and what was received on it.
    pub(super) fn connect(
        &mut self,
        index: SessionIndex,
        on: ConnectionIndex,
        stream: crate::net::Stream,
        unread: Vec<u8>,
    ) {
        match self.add_connection(stream, Phase::Session(index, on), unread) {
            Some(key) => {
                let entry = self.entry(index).expect("just made");
                entry.link(on).expect("just made").key = Some(key);
                self.mark_dirty(key);
                self.take_unread(key);
            }
            None => self.end_session_at(index, on, "its socket cannot be watched", false),
        }
    }

    /// After every call to a session: sends are due on some of its connections, one has ended, or
    /// the devices have let go of one whose successor waits.
    pub(super) fn after_links(&mut self, index: SessionIndex) {
        let mut at = 0;
        while let Some(entry) = self.entry(index)
            && let Some(link) = entry.links.get(at)
        {
            at += 1;
            let on = link.on;
            let Some(key) = link.key else {
                if entry.session.has_left(on) && self.let_successor_in(index, on) {
                    return;
                }
                continue;
            };
            let ending = entry.session.ending(on);
            let ends_now = ending.filter(|ending| ending.at_once).cloned();
            let has_words = ending.is_some() || !entry.session.transmit_queue(on).is_empty();
            if let Some(ending) = ends_now {
                self.end_connection(index, on, &ending);
                return;
            }
            if has_words {
                self.mark_dirty(key);
            }
        }
    }

    /// The tasks of a connection are gone, and another one takes its place. `false`: nobody waits.
    fn let_successor_in(&mut self, index: SessionIndex, on: ConnectionIndex) -> bool {
        let entry = self.entry(index).expect("callers have looked");
        let link = entry.link(on).expect("callers have looked");
        match link.successor.take() {
            Some(handoff) => {
                self.attach(index, *handoff, Some(on));
                self.after_session(index);
                true
            }
            None => false,
        }
    }

    /// All is said on a connection that ends: it leaves, or the session ends with it.
    pub(super) fn end_connection(
        &mut self,
        index: SessionIndex,
        on: ConnectionIndex,
        ending: &Ending,
    ) {
        let in_order = ending.why == Fault::LoggedOut;
        self.end_with(index, on, ending.scope, &ending.why.to_string(), in_order);
    }

    /// A connection has failed, or was closed by its peer.
    pub(super) fn connection_lost(&mut self, index: SessionIndex, on: ConnectionIndex, why: &str) {
        if let Some(entry) = self.entry(index) {
            let scope = entry.session.lost_with(on);
            self.end_with(index, on, scope, why, false);
        }
    }

    fn end_with(
        &mut self,
        index: SessionIndex,
        on: ConnectionIndex,
        scope: Scope,
        why: &str,
        in_order: bool,
    ) {
        let Some(entry) = self.entry(index) else {
            return;
        };
        if scope == Scope::Session || entry.links.len() <= 1 {
            self.end_session_at(index, on, why, in_order);
            return;
        }
        let Some(at) = entry.links.iter().position(|link| link.on == on) else {
            return;
        };
        let Link { key, successor, .. } = entry.links.remove(at);
        self.tell_end(index, (on, key), why, Scope::Connection, in_order);
        if let Some(key) = key {
            self.close_connection(key);
        }
        if let Some(handoff) = successor {
            self.dismiss(handoff.stream);
        }
        let entry = self.sessions[usize::from(index.0)].as_mut();
        let entry = entry.expect("still there");
        entry.session.leave(&mut self.lent.env(), on);
        self.after_session(index);
    }

    /// Ends all connections of a session. The session goes when it is drained.
    pub(super) fn end_session_because(&mut self, index: SessionIndex, why: &str, in_order: bool) {
        let Some(entry) = self.entry(index) else {
            return;
        };
        let first = entry.links.first().map(|link| link.on);
        self.end_session_at(
            index,
            first.unwrap_or(ConnectionIndex::LEADING),
            why,
            in_order,
        );
    }

    /// The same, with the connection that it is because of.
    fn end_session_at(
        &mut self,
        index: SessionIndex,
        on: ConnectionIndex,
        why: &str,
        in_order: bool,
    ) {
        let Some(entry) = self.entry(index) else {
            return;
        };
        let key = entry.link(on).and_then(|link| link.key);
        if !entry.links.is_empty() {
            self.tell_end(index, (on, key), why, Scope::Session, in_order);
            let entry = self.entry(index).expect("still there");
            for Link { key, successor, .. } in std::mem::take(&mut entry.links) {
                if let Some(key) = key {
                    self.close_connection(key);
                }
                if let Some(handoff) = successor {
                    self.dismiss(handoff.stream);
                }
            }
            let entry = self.sessions[usize::from(index.0)].as_mut();
            let entry = entry.expect("still there");
            entry.session.detach(&mut self.lent.env());
        }
        self.bury(index);
    }

    fn close_connection(&mut self, key: ConnectionKey) {
        let connection = self.remove_connection(key);
        let connection = connection.expect("a session's connection is in the table");
        self.part_with(connection.stream);
    }

    /// Tells how a connection came to its end, and what ended with it.
    fn tell_end(
        &mut self,
        index: SessionIndex,
        (on, key): (ConnectionIndex, Option<ConnectionKey>),
        why: &str,
        scope: Scope,
        in_order: bool,
    ) {
        let peer = key.and_then(|key| self.connection(key));
        let peer = peer.map(|connection| connection.stream.peer());
        let entry = self.entry(index).expect("callers have looked");
        let session = &entry.session;
        let negotiated = session.negotiated();
        let target = negotiated.target.as_ref();
        let obituary = Obituary {
            initiator: negotiated.initiator_name.as_str().to_owned(),
            target: target.map(|node| node.name.as_str().to_owned()),
            peer: peer.unwrap_or_else(|| session.peer(on)),
            tsih: entry.tsih,
            cid: session.cid(on).0,
            scope,
            others: entry.links.iter().filter(|link| link.on != on).count(),
            in_order,
            why: why.to_owned(),
            tasks_in_flight: session.tasks_under_way(),
            unsent_bytes: session.transmit_queue(on).len(),
            last_opcodes: session.last_opcodes(on),
            counters: session.counters(),
        };
        self.tell(Event::Ended(Box::new(obituary)));
    }
}
