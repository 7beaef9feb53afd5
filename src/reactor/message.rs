//! What cores and the control thread tell each other.
//!
//! Every message belongs to a connection, a session or a task, which bounds how many there can be.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::backend::UnitIndex;
use crate::control::directory::{Admission, Core, SessionName, Verdict};
use crate::control::event::Event;
use crate::iscsi::negotiated::Negotiated;
use crate::iscsi::session::ResetScope;
use crate::net::Stream;
use crate::pdu::LoginResponse;
use crate::scsi::Change;

/// Names a connection of a core, now and never again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectionKey(pub u64);

/// To a data core.
#[derive(Debug)]
pub enum ToCore {
    /// A connection that was just accepted.
    Accepted {
        stream: Stream,
        portal_group_tag: u16,
    },
    /// The directory's word on a login.
    Placed {
        key: ConnectionKey,
        verdict: Verdict,
        /// Counts up with every verdict: of two logins to one name the later has the larger one.
        order: u64,
        /// The name that was asked for, back again.
        name: Option<SessionName>,
    },
    /// A connection whose session lives here.
    Handoff(Box<Handoff>),
    /// A login that supersedes the session of this name here lost its connection: the session ends
    /// all the same, and only then is the name free.
    Abandoned {
        name: SessionName,
        tsih: u16,
        order: u64,
    },
    /// The session of this TSIH has opened after a later login had taken its place: end it.
    Forgotten { tsih: u16 },
    /// Do this and acknowledge to `from`.
    Barrier { from: Core, id: u64, work: Work },
    /// A core has done the work of barrier `id`.
    Acknowledged { id: u64 },
    /// Take no more logins and ask every initiator to log out within so many seconds.
    Quiesce { seconds: u16 },
    /// Close every connection, finish what is at the devices, and flush.
    Stop,
    /// Every core has finished.
    End,
}

/// What a barrier does on every core.
#[derive(Clone, Debug)]
pub enum Work {
    Reset(Arc<ResetScope>),
    Change { unit: UnitIndex, change: Change },
}

/// To the control thread.
#[derive(Debug)]
pub enum ToControl {
    Admit {
        core: Core,
        key: ConnectionKey,
        admission: Admission,
    },
    /// The session of this TSIH serves its initiator.
    Opened {
        tsih: u16,
        core: Core,
    },
    /// The session of this TSIH is gone, or never came to be.
    Ended {
        tsih: u16,
        core: Core,
    },
    /// A connection of this core is gone.
    Gone {
        core: Core,
    },
    /// A connection moved from one core to another.
    Moved {
        from: Core,
        to: Core,
    },
    Tell(Box<Event>),
    /// End the daemon: in order the first time, at once the second.
    Shutdown,
    /// A core has ended, with nothing outstanding.
    Stopped {
        core: Core,
    },
}

/// A connection on its way to the core of its session: everything that belongs to it.
#[derive(Debug)]
pub struct Handoff {
    pub stream: Stream,
    /// Bytes that were received and not looked at.
    pub unread: Vec<u8>,
    pub negotiated: Box<Negotiated>,
    pub response: LoginResponse,
    pub text: Vec<u8>,
    pub verdict: Verdict,
    /// See [`ToCore::Placed`].
    pub order: u64,
}

impl Handoff {
    pub fn peer(&self) -> SocketAddr {
        self.stream.peer()
    }
}
