//! Connections without a session: the login, its place, and the last words of one that is refused.

use std::time::Duration;

use super::Reactor;
use super::connections::Phase;
use super::message::{ConnectionKey, ToControl};
use crate::control::directory::{Admission, SessionName};
use crate::control::event::Event;
use crate::iscsi::handshake::{Greeting, Handshake};
use crate::iscsi::login;
use crate::iscsi::negotiated::{Negotiated, SessionType};
use crate::iscsi::session::{ConnectionIndex, SessionIndex};

/// How long a closed connection may take to read our last words.
const LINGER: Duration = Duration::from_secs(2);

impl Reactor {
    pub(super) fn break_greeting(&mut self, key: ConnectionKey, why: &str) {
        if let Some(connection) = self.connection(key) {
            let (peer, local) = (connection.stream.peer(), connection.stream.local());
            self.tell(Event::LoginBroken {
                peer,
                local,
                why: why.to_owned(),
            });
            self.drop_connection(key);
        }
    }

    pub(super) fn greeting_bytes(&mut self, key: ConnectionKey, input: &mut &[u8]) {
        let slot = key.slot();
        let Some(connection) = self.connections[slot].as_mut() else {
            return;
        };
        let (peer, local) = (connection.stream.peer(), connection.stream.local());
        let Phase::Greeting {
            handshake,
            portal_group_tag,
            ..
        } = &mut connection.phase
        else {
            return;
        };
        let portal_group_tag = *portal_group_tag;
        let cx = login::Context {
            nodes: &self.lent.nodes,
            portal_group_tag,
            local,
            peer,
            limits: &self.login_limits,
            admission: self.admission,
        };
        let mut random = self.random;
        let Some(greeting) = guarded(|| handshake.receive(&cx, input, &mut random)) else {
            self.login_panics += 1;
            let why = format!(
                "the login of {peer} made this program panic ({} times since the start); the connection \
                 is closed: please report it",
                self.login_panics
            );
            self.tell(Event::Trouble(why));
            self.drop_connection(key);
            *input = &[];
            return;
        };
        match greeting {
            Ok(Greeting::GoesOn) => self.mark_dirty(key),
            Ok(Greeting::Refused(refusal)) => {
                self.tell(Event::LoginRefused(refusal));
                self.linger(key);
                *input = &[];
            }
            Ok(Greeting::Final {
                negotiated,
                response,
                text,
            }) => {
                let phase = Phase::Placing {
                    negotiated,
                    response,
                    text,
                    portal_group_tag,
                };
                self.ask_directory(key, phase);
            }
            Err(fault) => {
                self.break_greeting(key, &fault.to_string());
                *input = &[];
            }
        }
    }

    /// A login is complete but for its place.
    fn ask_directory(&mut self, key: ConnectionKey, phase: Phase) {
        let Phase::Placing { negotiated, .. } = &phase else {
            unreachable!("only a complete login is placed");
        };
        let admission = Admission {
            name: session_name(negotiated),
            tsih: negotiated.tsih.0,
            core: self.core,
        };
        // What was not sent yet goes out before the final response does.
        self.flush_connection(key);
        let Some(connection) = self.connection(key) else {
            return;
        };
        if connection.has_unsent_words() {
            // An initiator that does not read its answers has no use for the last one.
            self.break_greeting(key, "it did not read the answers to its login");
            return;
        }
        connection.phase = phase;
        self.control.send(ToControl::Admit {
            core: self.core,
            key,
            admission,
        });
    }

    /// Refuses a login that the directory or this core has no place for.
    pub(super) fn refuse(&mut self, key: ConnectionKey, reason: login::Reason) {
        let slot = key.slot();
        let Some(connection) = self.connections[slot].as_mut() else {
            return;
        };
        let (peer, local) = (connection.stream.peer(), connection.stream.local());
        let Phase::Placing {
            negotiated,
            response,
            portal_group_tag,
            ..
        } = &connection.phase
        else {
            return;
        };
        let cx = login::Context {
            nodes: &self.lent.nodes,
            portal_group_tag: *portal_group_tag,
            local,
            peer,
            limits: &self.login_limits,
            admission: self.admission,
        };
        let (response, refusal) = login::refuse_final(&cx, negotiated, response, reason);
        let mut handshake = Box::new(Handshake::new());
        handshake.answer(&response, &[]);
        connection.phase = Phase::Lingering {
            last_words: handshake,
            until: self.lent.now + LINGER,
        };
        self.tell(Event::LoginRefused(refusal));
        self.mark_dirty(key);
    }

    /// A greeting is over: its last words go out, then the connection ends.
    pub(super) fn linger(&mut self, key: ConnectionKey) {
        let until = self.lent.now + LINGER;
        let Some(connection) = self.connection(key) else {
            return;
        };
        let phase = std::mem::replace(
            &mut connection.phase,
            Phase::Session(SessionIndex(u16::MAX), ConnectionIndex::LEADING),
        );
        let last_words = match phase {
            Phase::Greeting { handshake, .. } => handshake,
            _ => Box::new(Handshake::new()),
        };
        // It still counts among those without a session: a refusal is cheap to provoke.
        connection.phase = Phase::Lingering { last_words, until };
        self.mark_dirty(key);
    }
}

/// What the directory knows a session by; discovery sessions it does not know.
pub(super) fn session_name(negotiated: &Negotiated) -> Option<SessionName> {
    let target = negotiated.target.as_ref()?;
    (negotiated.session_type == SessionType::Normal).then(|| SessionName {
        initiator: negotiated.initiator_name.as_str().to_owned(),
        isid: negotiated.isid.0,
        target: target.name.as_str().to_owned(),
        portal_group_tag: negotiated.portal_group_tag,
    })
}

/// Unpredictable bytes for challenges. Without a random source no login can be trusted: each ends.
pub fn fill_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the kernel's random source answers");
}

/// Runs what touches the state of one stranger alone. `None`: it panicked, and what it has touched
/// is thrown away with its connection.
fn guarded<T>(step: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(step)).ok()
}
