//! An iSCSI initiator without IO: bytes in, bytes out, and a judge of what the target sends.
//!
//! ```text
//! submit ─► queue ─► (window open) ─► poll_transmit ─► bytes ─► target
//! poll_event ◄── outcome ◄── checks ◄── whole PDUs ◄── receive ◄── bytes
//! ```
//!
//! One [`Initiator`] is one connection; [`Initiator::further`] plans another one of its session.
//! After [`Initiator::receive`] call [`Initiator::poll_event`] until it is empty and
//! [`Initiator::poll_transmit`] once. A broken rule of RFC 7143 comes back from `receive` as a
//! [`Violation`]; the connection is then of no more use. For hostile tests, [`Initiator::send`]
//! takes any PDU and [`Initiator::send_bytes`] any bytes at all.

mod chap;
mod config;
mod dispatch;
mod login;
mod negotiation;
mod serials;
mod task;
#[cfg(test)]
mod tests;
mod transmit;
mod wire;

pub use chap::{Chap, ChapEncoding, ChapFault, ChapPeer, chap_response};
pub use config::{Auth, Config, Joins, Login, SessionType};
pub use negotiation::Negotiated;
pub use serials::Numbers;
pub use task::{DataOut, DataPhase, Direction, Scsi, ScsiOutcome};
pub use wire::{DigestMode, Pdu, RawPdu};

use crate::pdu::{
    AsyncMessage, Bhs, Cid, CmdSn, Itt, LoginStatus, LogoutReason, LogoutResponseCode, LunField,
    RejectReason, TaskManagementFunction, TaskManagementResponseCode, Ttt,
};
use crate::testing::Violation;
use login::LoginPhase;
use serials::Serials;
use std::collections::{HashSet, VecDeque};
use task::ScsiTask;
use wire::{Digests, Inbox};

/// More events than this and whoever drives the initiator has forgotten to poll them.
const EVENTS_MAX: usize = 1 << 16;
/// The tags of a connection begin at its CID, shifted by this.
const TAGS_SHIFT: u32 = 24;

/// Names a submitted command until its last event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TaskHandle(pub Itt);

/// What the initiator can be asked to send.
#[derive(Clone, Debug)]
pub enum Command {
    Scsi(Scsi),
    Nop(Nop),
    /// Keys of one text negotiation; longer answers are collected.
    Text(Vec<(String, String)>),
    TaskManagement(TaskManagement),
    Logout {
        reason: LogoutReason,
        cid: Cid,
    },
}

/// A ping that wants its data back.
#[derive(Clone, Default, Debug)]
pub struct Nop {
    pub immediate: bool,
    pub data: Vec<u8>,
}

/// A task management function (RFC 7143 §11.5).
#[derive(Clone, Copy, Debug)]
pub struct TaskManagement {
    pub immediate: bool,
    pub function: TaskManagementFunction,
    pub lun: LunField,
    /// Of ABORT TASK.
    pub referenced: Option<TaskHandle>,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Full feature phase begins; see [`Initiator::negotiated`].
    LoggedIn,
    LoginRefused(LoginStatus),
    Scsi {
        task: TaskHandle,
        outcome: ScsiOutcome,
    },
    Nop {
        task: TaskHandle,
        data: Vec<u8>,
    },
    Text {
        task: TaskHandle,
        keys: Vec<(String, String)>,
    },
    TaskManagement {
        task: TaskHandle,
        response: TaskManagementResponseCode,
    },
    /// A task management function is complete and took this command with it.
    Aborted {
        task: TaskHandle,
    },
    Logout {
        task: TaskHandle,
        response: LogoutResponseCode,
        time2wait_s: u16,
        time2retain_s: u16,
    },
    /// The target's own ping; a valid `ttt` was answered unless [`Config::answer_nop_in`] is off.
    NopIn {
        lun: LunField,
        ttt: Ttt,
        data: Vec<u8>,
    },
    Async {
        message: AsyncMessage,
        data: Vec<u8>,
    },
    /// The target will not act on a PDU that began with `header`. If that was a command, it is
    /// over.
    Reject {
        reason: RejectReason,
        header: Bhs,
        task: Option<TaskHandle>,
    },
    /// An answer to a PDU that was sent by hand.
    Raw(Pdu),
}

/// Where the connection stands.
#[derive(Debug)]
enum Phase {
    /// Not started: the first `poll_transmit` begins the login.
    New,
    Login(Box<LoginPhase>),
    Manual,
    FullFeature,
    /// Refused, or logged out.
    Ended,
}

/// A command that was sent and is not answered.
#[derive(Debug)]
enum Task {
    Scsi(Box<ScsiTask>),
    Nop {
        data: Vec<u8>,
    },
    Text {
        text: Vec<u8>,
    },
    Management {
        request: TaskManagement,
        sent_as: u64,
    },
    Logout {
        /// It closes this connection.
        ends: bool,
    },
}

/// One connection of an initiator.
#[derive(Debug)]
pub struct Initiator {
    config: Config,
    phase: Phase,
    inbox: Inbox,
    digests: Digests,
    serials: Serials,
    negotiated: Negotiated,
    /// Bytes to be sent before anything that is generated later.
    out: Vec<u8>,
    events: VecDeque<Event>,
    /// Submitted, not sent: waiting for the command window or the end of login.
    queue: VecDeque<(Itt, Command)>,
    tasks: TaskTable,
    /// Tags of PDUs that were sent by hand.
    raw_tags: HashSet<Itt>,
    next_itt: u32,
    sent: u64,
    broken: Option<Violation>,
}

impl Initiator {
    pub fn new(config: Config) -> Self {
        let phase = match config.login {
            Login::Automatic => Phase::New,
            Login::Manual => Phase::Manual,
        };
        Self {
            phase,
            inbox: Inbox::default(),
            digests: Digests::default(),
            serials: match &config.joins {
                Some(joins) => Serials::joining(&joins.cmd_sn),
                None => Serials::new(config.cmd_sn),
            },
            negotiated: Negotiated::default(),
            out: Vec::new(),
            events: VecDeque::new(),
            queue: VecDeque::new(),
            tasks: TaskTable::default(),
            raw_tags: HashSet::new(),
            // RFC 7143 §11.2.1.8: tags are the session's.
            next_itt: 1 + (u32::from(config.cid.0) << TAGS_SHIFT),
            sent: 0,
            broken: None,
            config,
        }
    }

    /// Queues a command. It goes out with [`Self::poll_transmit`] when login is over and, unless it
    /// is immediate, the command window has room; commands that wait keep their order.
    pub fn submit(&mut self, command: Command) -> TaskHandle {
        let itt = self.take_itt();
        self.queue.push_back((itt, command));
        TaskHandle(itt)
    }

    /// Answers the R2Ts of a command that was submitted with [`DataOut::held`].
    pub fn release(&mut self, task: TaskHandle) {
        if let Some(Task::Scsi(scsi)) = self.tasks.find(task.0) {
            scsi.held = false;
        }
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The plan of a further connection of this session, to be used while the session is there. It
    /// says nothing of the keys that only the leading login may speak of (RFC 7143 §13, use LO),
    /// and shares CmdSN. With the CID of this one it reinstates this connection.
    pub fn further(&self, cid: Cid) -> Config {
        let of_connection = ["HeaderDigest", "DataDigest", "MaxRecvDataSegmentLength"];
        let mut config = self.config.clone();
        config
            .keys
            .retain(|(key, _)| of_connection.contains(&key.as_str()));
        Config {
            tsih: self.negotiated.tsih,
            joins: Some(Joins {
                cmd_sn: self.serials.shared(),
                negotiated: self.negotiated.clone(),
            }),
            cid,
            ..config
        }
    }

    pub fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    pub fn numbers(&self) -> Numbers {
        self.serials.numbers()
    }

    /// Whether login is over and no logout was answered.
    pub fn is_full_feature(&self) -> bool {
        matches!(self.phase, Phase::FullFeature)
    }

    /// Commands wait for the command window.
    pub fn waits_for_window(&self) -> bool {
        self.is_full_feature() && !self.queue.is_empty()
    }

    /// Commands that were submitted and have had no last event.
    pub fn outstanding(&self) -> usize {
        self.queue.len() + self.tasks.len()
    }

    /// R2Ts of a command that the initiator has not answered yet.
    pub fn open_r2ts(&mut self, task: TaskHandle) -> usize {
        match self.tasks.find(task.0) {
            Some(Task::Scsi(scsi)) => scsi.open_r2ts.len(),
            _ => 0,
        }
    }

    /// Whether the target is in the middle of a PDU.
    pub fn is_mid_pdu(&self) -> bool {
        self.inbox.is_mid_pdu()
    }

    /// A tag that no other command has, for a PDU built by hand. Everything that the target sends
    /// with it comes as [`Event::Raw`].
    pub fn take_raw_tag(&mut self) -> Itt {
        let itt = self.take_itt();
        self.raw_tags.insert(itt);
        itt
    }

    /// The CmdSN for a PDU built by hand, used up unless it is for immediate delivery.
    pub fn take_cmd_sn(&mut self, immediate: bool) -> CmdSn {
        self.serials.take_cmd_sn(immediate)
    }

    /// Sends a PDU as it stands, before anything that was not sent yet.
    pub fn send(&mut self, pdu: &RawPdu) {
        self.digests.emit(pdu, &mut self.out);
    }

    /// Sends bytes as they stand.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Ends a [`Login::Manual`] login with what the test negotiated.
    pub fn enter_full_feature(&mut self, negotiated: Negotiated) {
        self.set_digests(negotiated.header_digest, negotiated.data_digest);
        self.negotiated = negotiated;
        self.phase = Phase::FullFeature;
        self.emit_event(Event::LoggedIn);
    }

    fn emit_event(&mut self, event: Event) {
        assert!(
            self.events.len() < EVENTS_MAX,
            "poll_event was not called for {EVENTS_MAX} events"
        );
        self.events.push_back(event);
    }

    fn take_itt(&mut self) -> Itt {
        let itt = Itt(self.next_itt);
        self.next_itt = self.next_itt.wrapping_add(1);
        if Itt(self.next_itt).is_reserved() {
            self.next_itt = 1;
        }
        itt
    }
}

/// Tasks by tag, in the order of sending.
#[derive(Default, Debug)]
struct TaskTable {
    tasks: VecDeque<(Itt, Task)>,
}

impl TaskTable {
    fn len(&self) -> usize {
        self.tasks.len()
    }

    fn position(&self, itt: Itt) -> Option<usize> {
        self.tasks.iter().position(|(tag, _)| *tag == itt)
    }

    fn find(&mut self, itt: Itt) -> Option<&mut Task> {
        self.tasks
            .iter_mut()
            .find(|(tag, _)| *tag == itt)
            .map(|(_, task)| task)
    }

    fn insert(&mut self, itt: Itt, task: Task) {
        self.tasks.push_back((itt, task));
    }

    fn remove(&mut self, itt: Itt) -> Option<Task> {
        self.position(itt)
            .and_then(|at| self.tasks.remove(at))
            .map(|(_, task)| task)
    }
}
