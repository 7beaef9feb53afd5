//! One logical unit and the sessions that see it, driven command by command: what the cores do for
//! them is done at once.

use std::sync::Arc;

use crate::backend::UnitIndex;
use crate::mem::{Pages, Pool};
use crate::scsi::cdb::Cdb;
use crate::scsi::change::Change;
use crate::scsi::copy::operations::Operations;
use crate::scsi::nexus::{self, InitiatorPort, MappedLun, Nexus, Whom};
use crate::scsi::parameter::ParameterData;
use crate::scsi::reservations::{Matching, Reservations};
use crate::scsi::sense::{AdditionalSense, Sense, SenseKey};
use crate::scsi::task::{Command, Context, Event, Outcome, Status, Step, Task, TaskAttribute};
use crate::scsi::testbed;
use crate::scsi::unit::{LogicalUnit, PortIdentity};
use crate::scsi::unit_attention::{NexusUnit, UnitAttention};

pub(super) const TARGET: &str = "iqn.2026-11.io.example:disk";
pub(super) const NAME_A: &str = "iqn.2026-11.io.example:a";
pub(super) const NAME_B: &str = "iqn.2026-11.io.example:b";
const POOL_BYTES: usize = 1024 * 1024;
const STEPS_MAX: usize = 10;

/// The portal group tag of the target's first port; the others follow.
const FIRST_TAG: u16 = 10;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) i_t: Arc<Nexus>,
    pub(super) map: Vec<MappedLun>,
}

/// How a command ended.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    pub(super) data: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub(super) fn good(self) -> Vec<u8> {
        assert_eq!(self.outcome.status, Status::Good, "{:?}", self.outcome);
        self.data
    }

    #[track_caller]
    pub(super) fn conflict(self) {
        assert_eq!(self.outcome, Outcome::reservation_conflict());
    }

    #[track_caller]
    pub(super) fn illegal(self, additional: AdditionalSense) {
        let sense = self.outcome.sense.expect("CHECK CONDITION");
        assert_eq!(
            (sense.key, sense.additional),
            (SenseKey::IllegalRequest, additional)
        );
    }

    #[track_caller]
    pub(super) fn sense(self, sense: Sense) {
        assert_eq!(self.outcome, Outcome::check_condition(sense));
    }
}

#[derive(Debug)]
pub(super) struct Room {
    pub(super) unit: [LogicalUnit; 1],
    pub(super) sessions: Vec<Session>,
    /// Whose commands the last decision aborted.
    pub(super) abort: Whom,
    /// How many decisions had to be kept on disk.
    pub(super) saves: usize,
    pool: Pool,
    data_in: ParameterData,
}

/// A port of the target, the first of which is number one.
pub(super) fn port(number: u16) -> PortIdentity {
    PortIdentity::new(TARGET, FIRST_TAG + number - 1, number).unwrap()
}

pub(super) fn nexus(name: &str, isid: u8, at: u16, ports: u16) -> Arc<Nexus> {
    let initiator = InitiatorPort::new(name, [0x80, 0, 0, 0, 0, isid]).unwrap();
    let ports = (1..=ports).map(port).collect();
    Arc::new(Nexus::new(initiator, port(at), ports))
}

impl Room {
    /// A unit with nobody in it.
    pub(super) fn new(matching: Matching) -> Self {
        let mut unit = LogicalUnit::new(testbed::identity(), testbed::info(512, 64), false);
        unit.match_registrants_by(matching);
        Self {
            unit: [unit],
            sessions: Vec::new(),
            abort: Whom::Nobody,
            saves: 0,
            pool: Pool::new(POOL_BYTES, Pages::Normal).unwrap(),
            data_in: ParameterData::new(),
        }
    }

    /// Two initiators at one port.
    pub(super) fn of_two() -> Self {
        let mut room = Self::new(Matching::Port);
        room.log_in(nexus(NAME_A, 1, 1, 2));
        room.log_in(nexus(NAME_B, 1, 1, 2));
        room
    }

    /// A session opens; its number.
    pub(super) fn log_in(&mut self, i_t: Arc<Nexus>) -> usize {
        let mut map = vec![MappedLun {
            lun: 0,
            unit: UnitIndex(0),
            nexus: NexusUnit::new(false),
        }];
        nexus::refresh(&mut map, &i_t, UnitIndex(0), &self.unit[0]);
        self.sessions.push(Session { i_t, map });
        self.sessions.len() - 1
    }

    /// A session ends and the same nexus comes back.
    pub(super) fn log_in_again(&mut self, session: usize) {
        let i_t = Arc::clone(&self.sessions[session].i_t);
        self.change(&Change::NexusLost, &i_t).unwrap();
        let new = self.log_in(i_t);
        self.sessions.swap_remove(session);
        assert_eq!(new, self.sessions.len());
    }

    pub(super) fn reset(&mut self) {
        let i_t = Arc::clone(&self.sessions[0].i_t);
        self.change(&Change::Reset, &i_t).unwrap();
    }

    /// The daemon is killed and started again: what was kept is all that is left.
    pub(super) fn restart(&mut self, matching: Matching) {
        let kept = self.unit[0].non_volatile().clone();
        let mut unit = LogicalUnit::new(testbed::identity(), testbed::info(512, 64), false);
        unit.match_registrants_by(matching);
        unit.restore(kept);
        self.unit = [unit];
        for i_t in std::mem::take(&mut self.sessions) {
            self.log_in(i_t.i_t);
        }
    }

    pub(super) fn state(&self) -> &Reservations {
        self.unit[0].reservations()
    }

    pub(super) fn nexus_unit(&mut self, session: usize) -> &mut NexusUnit {
        &mut self.sessions[session].map[0].nexus
    }

    /// Takes all that a nexus has to be told.
    pub(super) fn attentions(&mut self, session: usize) -> Vec<UnitAttention> {
        let nexus = self.nexus_unit(session);
        std::iter::from_fn(|| nexus.take()).collect()
    }

    fn change(&mut self, change: &Change, by: &Arc<Nexus>) -> Result<(), Outcome> {
        let decision = self.unit[0].decide(change, by)?;
        let kept = self.unit[0].non_volatile().clone();
        if let Some(update) = &decision.update {
            self.unit[0].apply(update);
        }
        assert_eq!(decision.save, kept != *self.unit[0].non_volatile());
        self.saves += usize::from(decision.save);
        for session in &mut self.sessions {
            nexus::refresh(&mut session.map, &session.i_t, UnitIndex(0), &self.unit[0]);
            nexus::tell(
                &mut session.map,
                &session.i_t,
                UnitIndex(0),
                &decision.attentions,
            );
        }
        // PERSISTENT RESERVE IN only asks for what is known.
        if !matches!(change, Change::Fence) {
            self.abort = decision.abort;
        }
        Ok(())
    }

    /// Whether reservations alone keep a command from beginning; nothing is changed.
    pub(super) fn conflicts(&mut self, session: usize, cdb: &[u8]) -> bool {
        let before = self.sessions[session].map.clone();
        let (_, step) = self.start(session, cdb, 0);
        self.sessions[session].map = before;
        matches!(step, Step::Finish(outcome) if outcome.status == Status::ReservationConflict)
    }

    fn start(&mut self, session: usize, cdb: &[u8], data_out_bytes: u32) -> (Task, Step) {
        let mut bytes = [0; 16];
        bytes[..cdb.len()].copy_from_slice(cdb);
        let command = Command {
            cdb: Cdb::new(&bytes),
            attribute: TaskAttribute::Simple,
            data_out_bytes,
            data_in_bytes: u32::MAX,
        };
        self.with_context(session, |cx| Task::start(cx, &command))
    }

    fn with_context<R>(&mut self, session: usize, call: impl FnOnce(&mut Context<'_>) -> R) -> R {
        let Session { i_t, map } = &mut self.sessions[session];
        call(&mut Context {
            units: &self.unit,
            map,
            at: Some(0),
            i_t,
            data_in: &mut self.data_in,
            unix_ms: 0,
            copies: &mut Operations::default(),
        })
    }

    /// A whole command, of those that touch no blocks.
    pub(super) fn run(&mut self, session: usize, cdb: &[u8], list: &[u8]) -> Answer {
        self.data_in.clear();
        let sent = u32::try_from(list.len()).unwrap();
        let (mut task, mut step) = self.start(session, cdb, sent);
        for _ in 0..STEPS_MAX {
            let event = match step {
                Step::Finish(outcome) => {
                    let data = self.data_in.as_bytes().to_vec();
                    return Answer { outcome, data };
                }
                Step::Collect { data_out_bytes, .. } => {
                    let bytes = usize::try_from(data_out_bytes).unwrap();
                    let mut buf = self.pool.alloc(bytes).unwrap();
                    buf.copy_from(0, &list[..bytes]);
                    Event::Collected {
                        data_out: Some(buf),
                        scratch: None,
                    }
                }
                Step::Change(change) => {
                    let i_t = Arc::clone(&self.sessions[session].i_t);
                    Event::Changed(self.change(&change, &i_t))
                }
                other => panic!("{cdb:02x?} asks for {other:?}"),
            };
            step = self.with_context(session, |cx| task.resume(cx, event));
        }
        panic!("{cdb:02x?} does not end");
    }

    /// PERSISTENT RESERVE OUT with `flags` in byte 20 of a basic list.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a list is made where it is sent"
    )]
    pub(super) fn out(&mut self, session: usize, action: u8, kind: u8, list: List) -> Answer {
        let bytes = list.bytes();
        self.run(session, &out_cdb(action, kind, bytes.len()), &bytes)
    }

    /// PERSISTENT RESERVE IN with room for everything.
    pub(super) fn read(&mut self, session: usize, action: u8) -> Vec<u8> {
        self.run(session, &[0x5e, action, 0, 0, 0, 0, 0, 0xff, 0xff, 0], &[])
            .good()
    }

    /// The keys that READ KEYS reports, and PRGENERATION.
    pub(super) fn keys(&mut self, session: usize) -> (u32, Vec<u64>) {
        let data = self.read(session, READ_KEYS);
        let keys = data[8..]
            .chunks(8)
            .map(|key| u64::from_be_bytes(key.try_into().unwrap()));
        let keys: Vec<_> = keys.collect();
        let length = u32::from_be_bytes(data[4..8].try_into().unwrap());
        assert_eq!(length as usize, keys.len() * 8);
        (u32::from_be_bytes(data[..4].try_into().unwrap()), keys)
    }

    pub(super) fn register(&mut self, session: usize, key: u64, new_key: u64) -> Answer {
        self.out(session, REGISTER, 0, List::new(key, new_key))
    }

    pub(super) fn reserve(&mut self, session: usize, key: u64, kind: u8) -> Answer {
        self.out(session, RESERVE, kind, List::new(key, 0))
    }
}

pub(super) const REGISTER: u8 = 0;
pub(super) const RESERVE: u8 = 1;
pub(super) const RELEASE: u8 = 2;
pub(super) const CLEAR: u8 = 3;
pub(super) const PREEMPT: u8 = 4;
pub(super) const PREEMPT_AND_ABORT: u8 = 5;
pub(super) const REGISTER_AND_IGNORE: u8 = 6;
pub(super) const REGISTER_AND_MOVE: u8 = 7;
pub(super) const READ_KEYS: u8 = 0;
pub(super) const READ_RESERVATION: u8 = 1;
pub(super) const REPORT_CAPABILITIES: u8 = 2;
pub(super) const READ_FULL_STATUS: u8 = 3;

pub(super) const TEST_UNIT_READY: [u8; 6] = [0; 6];
pub(super) const READ_10: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
pub(super) const WRITE_10: [u8; 10] = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
pub(super) const RESERVE_6: [u8; 6] = [0x16, 0, 0, 0, 0, 0];
pub(super) const RELEASE_6: [u8; 6] = [0x17, 0, 0, 0, 0, 0];
pub(super) const RESERVE_10: [u8; 10] = [0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0];
pub(super) const RELEASE_10: [u8; 10] = [0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0];

pub(super) fn out_cdb(action: u8, kind: u8, list_bytes: usize) -> [u8; 10] {
    let [a, b, c, d] = u32::try_from(list_bytes).unwrap().to_be_bytes();
    [0x5f, action, kind, 0, 0, a, b, c, d, 0]
}

/// A parameter list in the making.
#[derive(Clone, Debug)]
pub(super) enum List {
    Basic {
        key: u64,
        new_key: u64,
        flags: u8,
        /// With SPEC_I_PT, which is set by itself.
        ids: Option<Vec<Vec<u8>>>,
    },
    Move {
        key: u64,
        new_key: u64,
        flags: u8,
        port: u16,
        id: Vec<u8>,
    },
}

pub(super) const APTPL: u8 = 1;
pub(super) const ALL_TG_PT: u8 = 4;
pub(super) const SPEC_I_PT: u8 = 8;
pub(super) const UNREG: u8 = 2;

impl List {
    pub(super) fn new(key: u64, new_key: u64) -> Self {
        Self::with_flags(key, new_key, 0)
    }

    pub(super) fn with_flags(key: u64, new_key: u64, flags: u8) -> Self {
        Self::Basic {
            key,
            new_key,
            flags,
            ids: None,
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; 24];
        let (Self::Basic { key, new_key, .. } | Self::Move { key, new_key, .. }) = self;
        bytes[..8].copy_from_slice(&key.to_be_bytes());
        bytes[8..16].copy_from_slice(&new_key.to_be_bytes());
        let length = |ids: usize| u32::try_from(ids).unwrap().to_be_bytes();
        match self {
            Self::Basic { flags, ids, .. } => {
                bytes[20] = *flags;
                if let Some(ids) = ids {
                    bytes[20] |= SPEC_I_PT;
                    let ids = ids.concat();
                    bytes.extend(length(ids.len()));
                    bytes.extend(ids);
                }
            }
            Self::Move {
                flags, port, id, ..
            } => {
                bytes[17] = *flags;
                bytes[18..20].copy_from_slice(&port.to_be_bytes());
                bytes[20..24].copy_from_slice(&length(id.len()));
                bytes.extend(id);
            }
        }
        bytes
    }
}

/// A TransportID; without an ISID it names the initiator as a whole.
pub(super) fn transport_id(name: &str, isid: Option<u8>) -> Vec<u8> {
    let (format, text) = match isid {
        None => (0x05, name.to_owned()),
        Some(isid) => (0x45, format!("{name},i,0x8000000000{isid:02x}")),
    };
    let mut bytes = vec![format, 0, 0, 0];
    bytes.extend(text.as_bytes());
    let padded = (text.len() + 1).next_multiple_of(4).max(20);
    bytes.resize(4 + padded, 0);
    bytes[3] = u8::try_from(padded).unwrap();
    bytes
}
