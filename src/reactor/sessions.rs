//! Sessions of a core: where a login goes, reinstatement, and how a session ends
//! (RFC 7143 §6.3.5).
//!
//! A session that ends aborts its tasks and stays until its devices have let go of them; a new
//! session that is to take its place waits for that. So no old write can land after the answer to
//! the login that superseded it. What concerns single connections of a session is in `links`.

use std::sync::Arc;

use super::Reactor;
use super::connections::Phase;
use super::greeting::session_name;
use super::links::{Link, Links};
use super::message::{ConnectionKey, Handoff, ToControl, ToCore};
use crate::control::directory::{Core, SessionName, Verdict};
use crate::control::event::{Event, Login};
use crate::iscsi::login::{Offered, Reason};
use crate::iscsi::negotiated::Negotiated;
use crate::iscsi::session::{ConnectionIndex, Guard, Session, SessionIndex};
use crate::mem::Pool;
use crate::net::stack::Chunk;
use crate::scsi::Nexus;

/// What of the pool may be promised to sessions for their first command: the rest is for the
/// others.
const FLOOR_SHARE: usize = 4;

/// A session and its connections.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) session: Session,
    pub(super) tsih: u16,
    /// Empty while what it had at the devices is waited for.
    pub(super) links: Links,
    /// Of its login; see [`ToCore::Placed`].
    order: u64,
    /// Takes this one's place when it is drained.
    successor: Option<Successor>,
    /// In the queue of those that wait for buffers or room.
    pub(super) waits: bool,
}

/// Who comes after a session that is being drained.
#[derive(Debug)]
enum Successor {
    Connection(Box<Handoff>),
    /// The connection of the login that superseded it is gone: its TSIH goes with the session.
    Nobody {
        tsih: u16,
        order: u64,
    },
}

impl Successor {
    fn order(&self) -> u64 {
        match self {
            Self::Connection(handoff) => handoff.order,
            Self::Nobody { order, .. } => *order,
        }
    }

    /// The TSIH of a new session; a connection that joins brings none.
    fn tsih(&self) -> Option<u16> {
        match self {
            Self::Connection(handoff) => match handoff.verdict {
                Verdict::New { tsih } | Verdict::Reinstate { tsih, .. } => Some(tsih),
                Verdict::Join { .. } | Verdict::NoSuchSession | Verdict::Full => None,
            },
            Self::Nobody { tsih, .. } => Some(*tsih),
        }
    }
}

impl Entry {
    /// A later login is going to take its place.
    pub(super) fn is_superseded(&self) -> bool {
        self.successor.is_some()
    }

    /// The order of the latest login that concerns this place.
    fn latest(&self) -> u64 {
        let successor = self.successor.as_ref().map_or(0, Successor::order);
        self.order.max(successor)
    }
}

impl Reactor {
    /// The directory has decided about one of our connections.
    pub(super) fn placed(
        &mut self,
        key: ConnectionKey,
        verdict: Verdict,
        order: u64,
        name: Option<SessionName>,
    ) {
        let Some(connection) = self.connection(key) else {
            // It is gone meanwhile: so is the session that was to be.
            self.session_never_came(verdict, order, name);
            return;
        };
        if !matches!(connection.phase, Phase::Placing { .. }) {
            self.session_never_came(verdict, order, name);
            return;
        }
        match verdict {
            Verdict::NoSuchSession => self.refuse(key, Reason::NoSuchSession),
            Verdict::Full => self.refuse(key, Reason::OutOfResources),
            Verdict::New { .. } | Verdict::Reinstate { .. } | Verdict::Join { .. } => {
                self.move_to_session(key, verdict, order);
            }
        }
    }

    /// A login whose connection died before its session was made. What it superseded must still
    /// end.
    fn session_never_came(&mut self, verdict: Verdict, order: u64, name: Option<SessionName>) {
        match (verdict, name) {
            (Verdict::New { tsih }, _) => self.control.send(ToControl::Ended {
                tsih,
                core: self.core,
            }),
            (Verdict::Reinstate { core, tsih, .. }, Some(name)) => {
                if core == self.core {
                    self.abandoned(&name, tsih, order);
                } else {
                    self.cores[core].send(ToCore::Abandoned { name, tsih, order });
                }
            }
            (Verdict::Reinstate { .. }, None) => {
                unreachable!("only a session with a name is reinstated")
            }
            (Verdict::Join { .. } | Verdict::NoSuchSession | Verdict::Full, _) => {}
        }
    }

    /// The login `order` superseded the session `name` and then lost its connection. The directory
    /// may forget the name when the session is drained and not before, or the next login would be a
    /// new session on any core, beside writes of the old one.
    pub(super) fn abandoned(&mut self, name: &SessionName, tsih: u16, order: u64) {
        match self.find_name(name) {
            Some(index) => {
                if self.succeed(index, Successor::Nobody { tsih, order }) {
                    self.end_session_because(
                        index,
                        "the initiator logged in again with the same ISID",
                        false,
                    );
                }
            }
            None => self.control.send(ToControl::Ended {
                tsih,
                core: self.core,
            }),
        }
    }

    /// Takes a connection out of the table and brings it to the core of its session.
    fn move_to_session(&mut self, key: ConnectionKey, verdict: Verdict, order: u64) {
        let Some(connection) = self.remove_connection(key) else {
            return;
        };
        let Phase::Placing {
            negotiated,
            response,
            text,
            ..
        } = connection.phase
        else {
            unreachable!("placed() has looked");
        };
        let core = match verdict {
            Verdict::Reinstate { core, .. } | Verdict::Join { core, .. } => core,
            _ => self.core,
        };
        let stream = connection.stream;
        let mut unread = connection.unread;
        for slice in connection.chunk.iter().flat_map(Chunk::slices) {
            unread.extend_from_slice(slice);
        }
        let handoff = Box::new(Handoff {
            stream,
            unread,
            negotiated,
            response,
            text,
            verdict,
            order,
        });
        if core == self.core {
            self.place(handoff);
        } else {
            self.control.send(ToControl::Moved {
                from: self.core,
                to: core,
            });
            if self.lent.guards.hold(Guard::HandoffsGoAtOnce) {
                self.hand_over(core, handoff);
            } else {
                self.handoffs.push((core, handoff));
                self.lent.guards.count_handoff();
            }
        }
    }

    /// Lets go of connections that a test has kept.
    pub(super) fn release_handoffs(&mut self) {
        if self.lent.guards.hold(Guard::HandoffsGoAtOnce) {
            for (core, handoff) in std::mem::take(&mut self.handoffs) {
                self.hand_over(core, handoff);
            }
        }
    }

    /// A connection was lost on its way to `core`, the core of its session.
    pub(super) fn never_arrived(&mut self, core: Core, handoff: &Handoff) {
        self.control.send(ToControl::Gone { core });
        let name = session_name(&handoff.negotiated);
        self.session_never_came(handoff.verdict, handoff.order, name);
    }

    /// A connection whose session is, or will be, here.
    pub(super) fn place(&mut self, handoff: Box<Handoff>) {
        if self.stopping {
            // It was under way between two cores when they were told to stop.
            self.dismiss(handoff.stream);
            return;
        }
        match handoff.verdict {
            Verdict::New { tsih } | Verdict::Reinstate { tsih, .. } => {
                // By name and not by the TSIH that it supersedes: logins from several cores may
                // arrive in another order than the directory took them in.
                let name = session_name(&handoff.negotiated);
                match name.and_then(|name| self.find_name(&name)) {
                    Some(index) if self.lent.guards.hold(Guard::ReinstatementWaits) => {
                        if self.succeed(index, Successor::Connection(handoff)) {
                            self.end_session_because(
                                index,
                                "the initiator logged in again with the same ISID",
                                false,
                            );
                        }
                    }
                    Some(index) => {
                        self.open_session(handoff, tsih, "new session before its time");
                        self.end_session_because(index, "its successor did not wait", false);
                    }
                    None => self.open_session(handoff, tsih, "new session"),
                }
            }
            Verdict::Join { tsih, .. } => match self.find(tsih) {
                Some(index) => self.join(index, handoff),
                None => self.refuse_handoff(*handoff, Reason::NoSuchSession),
            },
            Verdict::NoSuchSession | Verdict::Full => unreachable!("placed() has refused it"),
        }
    }

    /// Remembers who takes a session's place. One that waited for the same place is dropped: it was
    /// superseded itself. `false`: so is this one, by a later login that was here before it.
    fn succeed(&mut self, index: SessionIndex, successor: Successor) -> bool {
        let any_order = !self.lent.guards.hold(Guard::ReinstatementOrder);
        let entry = self.entry(index).expect("callers have found it");
        let (dropped, wins) = if successor.order() > entry.latest() || any_order {
            (entry.successor.replace(successor), true)
        } else {
            (Some(successor), false)
        };
        if let Some(Successor::Connection(handoff)) = dropped {
            self.dismiss(handoff.stream);
        }
        wins
    }

    /// The session of this name, which may be one that is being drained.
    fn find_name(&self, name: &SessionName) -> Option<SessionIndex> {
        let at = self.sessions.iter().position(|entry| {
            let entry = entry.as_ref();
            entry.is_some_and(|entry| has_name(entry.session.negotiated(), name))
        })?;
        Some(SessionIndex(u16::try_from(at).expect("a table of u16")))
    }

    /// The session of this TSIH, or the one whose place it is going to take.
    fn find(&self, tsih: u16) -> Option<SessionIndex> {
        let at = self.sessions.iter().position(|entry| {
            entry.as_ref().is_some_and(|entry| {
                let successor = entry.successor.as_ref().and_then(Successor::tsih);
                entry.tsih == tsih || successor == Some(tsih)
            })
        })?;
        Some(SessionIndex(u16::try_from(at).expect("a table of u16")))
    }

    /// The TSIH of the session at this place, if it is still that of the nexus that asked: sessions
    /// have a [`Nexus`] of their own each, also where one takes the place of another.
    pub(super) fn tsih_of(&mut self, index: SessionIndex, by: &Arc<Nexus>) -> Option<u16> {
        let entry = self.entry(index)?;
        Arc::ptr_eq(entry.session.i_t(), by).then_some(entry.tsih)
    }

    pub(super) fn entry(&mut self, index: SessionIndex) -> Option<&mut Entry> {
        self.sessions.get_mut(usize::from(index.0))?.as_mut()
    }

    fn open_session(&mut self, mut handoff: Box<Handoff>, tsih: u16, how: &'static str) {
        let Some(index) = self.free_session(&handoff) else {
            self.control.send(ToControl::Ended {
                tsih,
                core: self.core,
            });
            self.refuse_handoff(*handoff, Reason::OutOfResources);
            return;
        };
        handoff.response.tsih = crate::pdu::Tsih(tsih);
        let Handoff {
            stream,
            unread,
            negotiated,
            response,
            text,
            order,
            ..
        } = *handoff;
        let (peer, local) = (stream.peer(), stream.local());
        let mut links = Links::new();
        links.push(Link::leading(negotiated.cid, order));
        let env = &mut self.lent.env();
        let session = Session::new(
            index,
            negotiated,
            (&response, &text),
            (peer, local),
            self.timeouts,
            env,
        );
        let Some(session) = session else {
            unreachable!("free_session() has made sure of the memory");
        };
        let luns = session.luns();
        let event = login_event(session.negotiated(), luns, &stream, tsih, self.core, how);
        self.tell(Event::LoggedIn(Box::new(event)));
        let entry = Entry {
            session,
            tsih,
            links,
            order,
            successor: None,
            waits: false,
        };
        self.sessions[usize::from(index.0)] = Some(entry);
        self.update_floor();
        self.control.send(ToControl::Opened {
            tsih,
            core: self.core,
        });
        self.connect(index, ConnectionIndex::LEADING, stream, unread);
    }

    /// The directory does not know a session that has opened: a later login superseded it while its
    /// connection was on its way here, and was gone itself before it came.
    pub(super) fn forgotten(&mut self, tsih: u16) {
        if !self.lent.guards.hold(Guard::ReinstatementOrder) {
            return;
        }
        let found = self.sessions.iter().position(|entry| {
            let entry = entry.as_ref();
            entry.is_some_and(|entry| entry.tsih == tsih)
        });
        if let Some(at) = found {
            let index = SessionIndex(u16::try_from(at).expect("a table of u16"));
            self.end_session_because(index, "a later login had taken its place", false);
        }
    }

    /// A free place in the table, if there is memory for the session's share.
    fn free_session(&mut self, handoff: &Handoff) -> Option<SessionIndex> {
        let share = Pool::chunks_for(handoff.negotiated.unsolicited_bytes());
        let promised = self.lent.floor + share;
        if promised > self.lent.pool.chunks() / FLOOR_SHARE || self.lent.pool.available() < share {
            return None;
        }
        let at = match self.sessions.iter().position(Option::is_none) {
            Some(at) => at,
            None => {
                self.sessions.push(None);
                self.sessions.len() - 1
            }
        };
        // The last index is nobody's.
        u16::try_from(at)
            .ok()
            .filter(|at| *at < u16::MAX)
            .map(SessionIndex)
    }

    fn update_floor(&mut self) {
        let share =
            |entry: &Entry| Pool::chunks_for(entry.session.negotiated().unsolicited_bytes());
        self.lent.floor = self.sessions.iter().flatten().map(share).sum();
    }

    pub(super) fn refuse_handoff(&mut self, handoff: Handoff, reason: Reason) {
        let Handoff {
            stream,
            negotiated,
            response,
            text,
            ..
        } = handoff;
        let portal_group_tag = negotiated.portal_group_tag;
        let phase = Phase::Placing {
            negotiated,
            response,
            text,
            portal_group_tag,
        };
        if let Some(key) = self.add_connection(stream, phase, Vec::new()) {
            self.refuse(key, reason);
        }
    }

    /// After every call to a session: sends are due, and maybe it waits, or is over.
    pub(super) fn after_session(&mut self, index: SessionIndex) {
        let Some(entry) = self.entry(index) else {
            return;
        };
        if entry.session.has_waiting() && !entry.waits {
            entry.waits = true;
            self.waiting.push_back(index);
        }
        let entry = self.entry(index).expect("still there");
        if entry.links.is_empty() {
            self.bury(index);
        } else {
            self.after_links(index);
        }
    }

    /// Goes on with sessions that waited for buffers.
    pub(super) fn serve_waiting(&mut self) {
        for _ in 0..self.waiting.len() {
            let Some(index) = self.waiting.pop_front() else {
                return;
            };
            let at = usize::from(index.0);
            let Some(entry) = self.sessions[at].as_mut() else {
                continue;
            };
            entry.waits = false;
            entry.session.poll(&mut self.lent.env());
            self.after_session(index);
        }
    }

    /// Ends a drained session that has no connection, and lets its successor in.
    pub(super) fn bury(&mut self, index: SessionIndex) {
        let at = usize::from(index.0);
        let Some(entry) = self.sessions[at].as_mut() else {
            return;
        };
        if !entry.links.is_empty() || !entry.session.is_drained() {
            return;
        }
        let entry = self.sessions[at].take().expect("it is there");
        let i_t = Arc::clone(entry.session.i_t());
        let units: Vec<_> = entry.session.units().collect();
        entry.session.close(&mut self.lent.env());
        self.nexus_lost(&units, &i_t);
        self.update_floor();
        self.control.send(ToControl::Ended {
            tsih: entry.tsih,
            core: self.core,
        });
        let tsih = entry.successor.as_ref().and_then(Successor::tsih);
        match (entry.successor, tsih) {
            (Some(Successor::Connection(handoff)), Some(tsih)) => {
                self.open_session(handoff, tsih, "session reinstated");
            }
            (Some(Successor::Nobody { .. }), Some(tsih)) => {
                self.control.send(ToControl::Ended {
                    tsih,
                    core: self.core,
                });
            }
            (_, _) => {}
        }
    }

    pub(super) fn close_all(&mut self, why: &str) {
        for at in 0..self.sessions.len() {
            let index = SessionIndex(u16::try_from(at).expect("a table of u16"));
            if let Some(entry) = self.entry(index) {
                if let Some(Successor::Connection(handoff)) = entry.successor.take() {
                    self.dismiss(handoff.stream);
                }
                self.end_session_because(index, why, true);
            }
        }
        for slot in 0..self.connections.len() {
            if let Some(connection) = &self.connections[slot] {
                let key = connection.key;
                if matches!(connection.phase, Phase::Lingering { .. }) {
                    self.release_connection(key);
                } else {
                    self.drop_connection(key);
                }
            }
        }
    }

    pub(super) fn tick_sessions(&mut self) {
        for at in 0..self.sessions.len() {
            let index = SessionIndex(u16::try_from(at).expect("a table of u16"));
            let Some(entry) = self.sessions[at].as_mut() else {
                continue;
            };
            match entry.session.tick(&mut self.lent.env()) {
                Ok(()) => self.after_session(index),
                Err((on, fault)) => self.connection_lost(index, on, &fault.to_string()),
            }
        }
    }
}

fn has_name(negotiated: &Negotiated, name: &SessionName) -> bool {
    let target = negotiated.target.as_ref();
    negotiated.isid.0 == name.isid
        && negotiated.portal_group_tag == name.portal_group_tag
        && negotiated.initiator_name.as_str() == name.initiator
        && target.is_some_and(|target| target.name.as_str() == name.target)
}

pub(super) fn login_event(
    negotiated: &Negotiated,
    luns: usize,
    stream: &crate::net::Stream,
    tsih: u16,
    core: usize,
    how: &'static str,
) -> Login {
    Login {
        initiator: negotiated.initiator_name.as_str().to_owned(),
        target: negotiated
            .target
            .as_ref()
            .map(|target| target.name.as_str().to_owned()),
        peer: stream.peer(),
        local: stream.local(),
        tsih,
        cid: negotiated.cid.0,
        core,
        how,
        authenticated: negotiated.authenticated,
        mutual: negotiated.mutually_authenticated,
        header_digest: negotiated.parameters.header_digest,
        data_digest: negotiated.parameters.data_digest,
        luns,
        node_architecture: negotiated
            .node_architecture
            .as_deref()
            .map(|text| Offered::new(text).as_str().to_owned()),
    }
}
