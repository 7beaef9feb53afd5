//! What cores and the control thread tell each other.
//!
//! Every message belongs to a connection, a session or a task, which bounds how many there can be;
//! but for devices that come, once for each unit, and news of units, of which a look each second
//! sends a few.

use std::net::SocketAddr;
use std::sync::Arc;

use super::flows::{Away, PortIndex};
use crate::backend::{Backing, UnitIndex};
use crate::control::directory::{Admission, Core, SessionName, Verdict};
use crate::control::event::Event;
use crate::iscsi::negotiated::Negotiated;
use crate::iscsi::session::{ResetScope, SessionIndex, TaskId};
use crate::net::Stream;
use crate::net::host;
use crate::net::stack::model::{FlowKey, Neighbour};
use crate::net::stack::{AddressNews, TimeWait};
use crate::pdu::LoginResponse;
use crate::scsi::{Change, Decision, News, Nexus, NonVolatile, Outcome};

/// Names a connection of a core, now and never again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectionKey(pub u64);

/// To a data core.
#[derive(Debug)]
pub enum ToCore {
    /// A connection that was just accepted.
    Accepted {
        stream: host::Stream,
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
    Handoff {
        handoff: Box<Handoff>,
        /// The flow that it is over, if any: [`Handoff::stream`] names it where it was.
        away: Option<Box<Away>>,
    },
    /// A flow that came from here is over. `left`: what is still to be answered for it, here.
    FlowGone {
        port: PortIndex,
        key: FlowKey,
        left: Option<Box<TimeWait>>,
    },
    /// Another queue of a port has learned where a neighbour is.
    Learned {
        port: PortIndex,
        neighbour: Neighbour,
    },
    /// Another queue of a port has learned what became of an address.
    Address { port: PortIndex, news: AddressNews },
    /// A login that supersedes the session of this name here lost its connection: the session ends
    /// all the same, and only then is the name free.
    Abandoned {
        name: SessionName,
        tsih: u16,
        order: u64,
    },
    /// The session of this TSIH has opened after a later login had taken its place: end it.
    Forgotten { tsih: u16 },
    /// The device of a unit that began without one; what it is comes as news to the unit's home.
    Attach {
        unit: UnitIndex,
        backing: Arc<Backing>,
    },
    /// To a unit's home: decide about this.
    Asked { unit: UnitIndex, ask: Box<Ask> },
    /// From a unit's home: what was asked for has been done or refused.
    Answered {
        asker: Asker,
        result: Result<(), Outcome>,
    },
    /// To a unit's home: what a decision left is on disk, or could not be written.
    Saved { unit: UnitIndex, saved: bool },
    /// To a unit's home: tell when its job is over.
    JobAwaited { unit: UnitIndex, owner: Owner },
    /// From a unit's home: its job is over.
    JobEnded {
        unit: UnitIndex,
        owner: Owner,
        result: Result<(), Outcome>,
    },
    /// To a unit's home: let nobody else change these blocks.
    FreezeAsked { freeze: Freeze },
    /// From a unit's home: hold what others submit for these blocks, and acknowledge when nothing
    /// of it is at a device.
    Freeze { freeze: Freeze },
    /// To a unit's home: a core holds these blocks.
    FreezeAcknowledged { freeze: Freeze },
    /// From a unit's home: all cores hold them.
    Frozen { owner: Owner },
    /// To a unit's home: the owner has finished.
    ThawAsked { unit: UnitIndex, owner: Owner },
    /// From a unit's home: let go.
    Thaw { unit: UnitIndex, owner: Owner },
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
    /// Apply what the home of `unit` has decided.
    Decided {
        unit: UnitIndex,
        decision: Arc<Decision>,
        asker: Asker,
    },
}

/// The core that decides about a unit.
pub fn home(unit: UnitIndex, cores: usize) -> Core {
    usize::from(unit.0) % cores
}

/// Something that a unit's home is asked for.
#[derive(Debug)]
pub struct Ask {
    pub asker: Asker,
    pub wish: Wish,
}

/// What it is asked for.
#[derive(Debug)]
pub enum Wish {
    Change {
        change: Change,
        by: Arc<Nexus>,
    },
    /// What nobody asks for and nobody refuses.
    News(News),
}

/// Who waits for a home's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asker {
    /// A task of a session.
    Task(Owner),
    /// The reset `id` of a core.
    Reset { core: Core, id: u64 },
    /// The unit's job, at its end.
    Job(UnitIndex),
    /// Nobody.
    None,
}

/// A task, among those of all cores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    pub core: Core,
    pub session: SessionIndex,
    pub task: TaskId,
}

/// Blocks of a unit that only one task may change, or also read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Freeze {
    pub unit: UnitIndex,
    pub lba: u64,
    pub blocks: u64,
    /// Others may not read them either.
    pub reads: bool,
    pub owner: Owner,
}

impl Freeze {
    pub fn overlaps(&self, unit: UnitIndex, lba: u64, blocks: u64) -> bool {
        self.unit == unit
            && self.lba < lba.saturating_add(blocks)
            && lba < self.lba.saturating_add(self.blocks)
    }
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
    /// A connection has come to this core by a port.
    Arrived {
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
    /// Write this and tell `core`, the unit's home.
    Save {
        unit: UnitIndex,
        core: Core,
        state: Box<NonVolatile>,
    },
    /// Look at the backing objects again.
    LookAgain,
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
