//! What the tests of the commands stand on: a unit, a model of its disk, and a driver that carries
//! out the steps of a task as transport and device would.

use std::sync::Arc;

use super::asymmetric_access::PortGroups;
use super::cdb::Cdb;
use super::change::Change;
use super::copy::operations::Operations;
use super::job::{FAILED, Job, JobEvent, JobStep};
use super::nexus::{InitiatorPort, MappedLun, Nexus};
use super::parameter::ParameterData;
use super::sense::{AdditionalSense, Sense, SenseKey};
use super::task::{Command, Context, Event, Outcome, Status, Step, Task, TaskAttribute, Transfer};
use super::unit::{Identity, LogicalUnit, PortIdentity};
use super::unit_attention::NexusUnit;
use crate::backend::{Designators, DeviceInfo, IoError, LbaRun, Operation, UnitIndex};
use crate::mem::{DmaBuf, Pages, Pool};

/// Steps that no command of a test comes near.
const STEPS_MAX: usize = 10_000;

const POOL_BYTES: usize = 8 * 1024 * 1024;

/// The time that commands are told.
pub(super) const UNIX_MS: u64 = 1_767_225_600_000;

const FIRST: UnitIndex = UnitIndex(0);

/// How a command looks that was not answered.
const ABORTED: Outcome = Outcome {
    status: Status::TaskAborted,
    sense: None,
};

pub(super) fn identity() -> Identity {
    Identity::new(
        "disk",
        "0001",
        "SERIAL42",
        0x0123_4567_89ab_cdef,
        *b"0123456789abcdef",
    )
    .unwrap()
}

pub(super) fn info(block_size: u32, blocks: u64) -> DeviceInfo {
    DeviceInfo {
        block_size,
        physical_block_exponent: 3,
        blocks,
        read_only: false,
        write_cache: true,
        unmap: true,
        unmap_reads_zeroes: true,
        unmap_granularity: 8,
        atomic_write_blocks: 0,
        cryptographic_erase: false,
        non_rotating: true,
        thin: true,
        designators: Designators::default(),
    }
}

/// The nexus of one initiator with this port of the target.
pub(super) fn nexus(port: PortIdentity) -> Arc<Nexus> {
    let initiator = InitiatorPort::new("iqn.2026-11.io.example:host", [0x80, 0, 0, 0, 0, 1]);
    let ports = vec![port.clone()];
    Arc::new(Nexus::new(initiator.unwrap(), port, ports))
}

/// The nexus of another initiator.
pub(super) fn other_nexus() -> Arc<Nexus> {
    let port = PortIdentity::new("iqn.2026-11.io.example:disk", 1, 2).unwrap();
    let initiator = InitiatorPort::new("iqn.2026-11.io.example:other", [0x80, 0, 0, 0, 0, 2]);
    let ports = vec![port.clone()];
    Arc::new(Nexus::new(initiator.unwrap(), port, ports))
}

/// An operation that reached the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Done {
    Read {
        lba: u64,
        blocks: u32,
    },
    Write {
        lba: u64,
        blocks: u32,
        fua: bool,
    },
    Flush,
    Freeze {
        lba: u64,
        blocks: u64,
    },
    Unmap {
        lba: u64,
        blocks: u64,
    },
    WriteZeroes {
        lba: u64,
        blocks: u64,
        may_unmap: bool,
    },
}

/// What the initiator and the device saw of one command.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    pub(super) transfer: Transfer,
    /// Parameter data or blocks, no more than the initiator takes.
    pub(super) data: Vec<u8>,
    pub(super) done: Vec<Done>,
}

impl Answer {
    /// The command ended well; its data.
    #[track_caller]
    pub(super) fn good(self) -> Vec<u8> {
        assert_eq!(
            self.outcome,
            Outcome {
                status: Status::Good,
                sense: None
            }
        );
        self.data
    }

    /// The command ended with CHECK CONDITION.
    #[track_caller]
    pub(super) fn sense(&self) -> Sense {
        assert_eq!(self.outcome.status, Status::CheckCondition);
        self.outcome
            .sense
            .expect("CHECK CONDITION comes with sense data")
    }

    /// The command was refused with these codes and no operation reached the device.
    #[track_caller]
    pub(super) fn refused_with(&self, key: SenseKey, additional: AdditionalSense) {
        let sense = self.sense();
        assert_eq!((sense.key, sense.additional), (key, additional));
        assert_eq!(self.done, []);
    }

    #[track_caller]
    pub(super) fn illegal(&self, additional: AdditionalSense) {
        self.refused_with(SenseKey::IllegalRequest, additional);
    }

    /// INVALID FIELD IN CDB that points at `byte` and `bit`.
    #[track_caller]
    pub(super) fn invalid_field(&self, byte: u16, bit: Option<u8>) {
        assert_eq!(self.sense(), Sense::invalid_field_in_cdb(byte, bit));
        assert_eq!(self.done, []);
    }
}

/// A further unit of the same session, at LUN 1.
#[derive(Debug)]
pub(super) struct Second {
    pub(super) unit: LogicalUnit,
    pub(super) nexus: NexusUnit,
    pub(super) disk: Vec<u8>,
    /// The session does not see it.
    pub(super) hidden: bool,
}

/// One logical unit on a disk in memory, seen by one nexus.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) unit: Option<LogicalUnit>,
    pub(super) nexus: NexusUnit,
    /// What another nexus is told.
    pub(super) others: NexusUnit,
    /// Something was saved.
    pub(super) saved: bool,
    pub(super) luns: Vec<u16>,
    pub(super) disk: Vec<u8>,
    pub(super) second: Option<Second>,
    /// The third-party copies of the session.
    pub(super) copies: Operations,
    /// The time that commands are told.
    pub(super) unix_ms: u64,
    /// Ends a command, unanswered, instead of its next steps after so many operations of a device.
    pub(super) abort_after: Option<usize>,
    /// Fails every operation of the device.
    pub(super) fault: Option<IoError>,
    /// Fails every operation of a job that outlives its command.
    pub(super) job_fault: Option<IoError>,
    job: Option<Job>,
    /// Ranges without memory behind them, as (LBA, blocks): what GET LBA STATUS is told.
    pub(super) holes: Vec<(u64, u64)>,
    i_t: Arc<Nexus>,
    data_in: ParameterData,
    pool: Pool,
}

impl Bench {
    /// A disk of `blocks` blocks of 512 bytes whose bytes differ from block to block.
    pub(super) fn new(blocks: u64) -> Self {
        Self::with_info(info(512, blocks))
    }

    pub(super) fn with_info(info: DeviceInfo) -> Self {
        let bytes = info.blocks * u64::from(info.block_size);
        let disk = (0..bytes)
            .map(|at| (at / 512 * 7 + at % 512 + 1).to_le_bytes()[0])
            .collect();
        let mut bench = Self::with_unit(LogicalUnit::new(identity(), info, false));
        bench.disk = disk;
        bench
    }

    /// The same with a medium that can be taken out.
    pub(super) fn removable(blocks: u64) -> Self {
        let mut bench = Self::new(blocks);
        bench.unit.as_mut().unwrap().make_removable();
        bench
    }

    /// A unit without a disk behind it: for commands that do not get that far.
    pub(super) fn with_unit(mut unit: LogicalUnit) -> Self {
        unit.serve_long_cdbs();
        Self {
            unit: Some(unit),
            nexus: NexusUnit::new(false),
            others: NexusUnit::new(false),
            saved: false,
            luns: vec![0],
            disk: Vec::new(),
            second: None,
            copies: Operations::default(),
            unix_ms: UNIX_MS,
            abort_after: None,
            fault: None,
            job_fault: None,
            job: None,
            holes: Vec::new(),
            i_t: nexus(PortIdentity::new("iqn.2026-11.io.example:disk", 1, 2).unwrap()),
            data_in: ParameterData::new(),
            pool: Pool::new(POOL_BYTES, Pages::Normal).unwrap(),
        }
    }

    /// A further unit, of `blocks` blocks, whose bytes are not those of the first.
    pub(super) fn with_second(mut self, info: DeviceInfo) -> Self {
        let bytes = info.blocks * u64::from(info.block_size);
        let disk = (0..bytes)
            .map(|at| (at / 512 * 11 + at % 512 + 77).to_le_bytes()[0])
            .collect();
        let identity = Identity::new(
            "disk",
            "0001",
            "SERIAL43",
            0x0fed_cba9_8765_4321,
            *b"fedcba9876543210",
        );
        self.second = Some(Second {
            unit: LogicalUnit::new(identity.unwrap(), info, false),
            nexus: NexusUnit::new(false),
            disk,
            hidden: false,
        });
        self
    }

    /// The session has agreed on iSCSIProtocolLevel 2.
    pub(super) fn speak_rfc_7144(&mut self) {
        self.i_t = Arc::new(Nexus::clone(&self.i_t).with_rfc_7144(true));
    }

    /// Changes who asks.
    pub(super) fn set_initiator(&mut self, isid: [u8; 6]) {
        let initiator = InitiatorPort::new("iqn.2026-11.io.example:other", isid);
        let port = self.i_t.port().clone();
        let ports = vec![port.clone()];
        self.i_t = Arc::new(Nexus::new(initiator.unwrap(), port, ports));
        self.copies = Operations::default();
    }

    /// The target's ports as (portal group tag, RELATIVE TARGET PORT IDENTIFIER); the nexus comes
    /// in by the first.
    pub(super) fn set_ports(&mut self, ports: &[(u16, u16)]) {
        let name = self.i_t.port().target_name();
        let port = |(tag, relative): &(u16, u16)| PortIdentity::new(name, *tag, *relative);
        let ports: Vec<_> = ports.iter().map(|it| port(it).unwrap()).collect();
        let initiator = self.i_t.initiator().clone();
        self.i_t = Arc::new(Nexus::new(initiator, ports[0].clone(), ports));
    }

    pub(super) fn set_port_groups(&mut self, groups: PortGroups) {
        let unit = self.unit.as_mut().unwrap();
        unit.set_port_groups(groups);
        self.nexus.refresh(unit, &self.i_t);
    }

    pub(super) fn unit(&self) -> &LogicalUnit {
        self.unit.as_ref().unwrap()
    }

    /// A command that moves no data.
    pub(super) fn plain(&mut self, cdb: &[u8]) -> Answer {
        self.run(cdb, &[], 0)
    }

    /// A command whose initiator takes up to `expected` bytes.
    pub(super) fn read(&mut self, cdb: &[u8], expected: u32) -> Answer {
        self.run(cdb, &[], expected)
    }

    /// A command whose initiator sends `data`.
    pub(super) fn write(&mut self, cdb: &[u8], data: &[u8]) -> Answer {
        self.run(cdb, data, 0)
    }

    pub(super) fn run(&mut self, cdb: &[u8], data_out: &[u8], data_in_bytes: u32) -> Answer {
        let (basic, extended) = cdb.split_at(cdb.len().min(16));
        let mut bytes = [0; 16];
        bytes[..basic.len()].copy_from_slice(basic);
        let command = Command {
            cdb: Cdb::with_extended(&bytes, extended).unwrap(),
            attribute: TaskAttribute::Simple,
            data_out_bytes: u32::try_from(data_out.len()).unwrap(),
            data_in_bytes,
        };
        let mut done = Vec::new();
        let mut streamed = Vec::new();
        self.data_in.clear();
        let (mut task, mut step) = self.with_context(|cx| Task::start(cx, &command));
        for _ in 0..STEPS_MAX {
            if self.abort_after.is_some_and(|after| done.len() >= after) {
                task.abandon(&mut self.copies);
                return Answer {
                    outcome: ABORTED,
                    transfer: task.transfer(),
                    data: Vec::new(),
                    done,
                };
            }
            let event = match step {
                Step::Finish(outcome) => {
                    let mut data = if streamed.is_empty() {
                        self.data_in.as_bytes().to_vec()
                    } else {
                        streamed
                    };
                    data.truncate(usize::try_from(data_in_bytes).unwrap());
                    return Answer {
                        outcome,
                        transfer: task.transfer(),
                        data,
                        done,
                    };
                }
                Step::Collect {
                    data_out_bytes,
                    scratch_bytes,
                } => {
                    assert!(data_out_bytes <= command.data_out_bytes);
                    let data = &data_out[..usize::try_from(data_out_bytes).unwrap()];
                    let mut collected = self.buf(data_out_bytes);
                    if let Some(buf) = &mut collected {
                        buf.copy_from(0, data);
                    }
                    Event::Collected {
                        data_out: collected,
                        scratch: self.buf(scratch_bytes),
                    }
                }
                Step::Submit(operation) => self.execute(FIRST, operation, &mut done),
                Step::SubmitTo { unit, operation } => self.execute(unit, operation, &mut done),
                Step::Freeze { lba, blocks, .. } => {
                    done.push(Done::Freeze { lba, blocks });
                    Event::Frozen
                }
                Step::Stream { lba, blocks } => {
                    done.push(Done::Read { lba, blocks });
                    let result = self.fault.map_or(Ok(()), Err);
                    if result.is_ok() {
                        streamed.extend_from_slice(self.range(FIRST, lba, u64::from(blocks)));
                    }
                    Event::Streamed(result)
                }
                Step::Change(change) => Event::Changed(self.change(&change)),
                Step::ChangeOf { unit, change } => {
                    let by = Arc::clone(&self.i_t);
                    Event::Changed(self.change_of(unit, &change, &by))
                }
                Step::AwaitJob => Event::Changed(self.finish_job()),
            };
            step = self.with_context(|cx| task.resume(cx, event));
        }
        panic!("the command did not end: {cdb:02x?}");
    }

    /// Does what the home core and all others would.
    pub(super) fn change(&mut self, change: &Change) -> Result<(), Outcome> {
        let by = Arc::clone(&self.i_t);
        self.change_by(change, &by)
    }

    /// The same, asked for by this nexus.
    pub(super) fn change_by(&mut self, change: &Change, by: &Arc<Nexus>) -> Result<(), Outcome> {
        self.change_of(FIRST, change, by)
    }

    pub(super) fn change_of(
        &mut self,
        index: UnitIndex,
        change: &Change,
        by: &Arc<Nexus>,
    ) -> Result<(), Outcome> {
        let (unit, nexus) = match &mut self.second {
            Some(second) if index != FIRST => (&mut second.unit, &mut second.nexus),
            _ => (self.unit.as_mut().unwrap(), &mut self.nexus),
        };
        let decision = unit.decide(change, by)?;
        self.saved |= decision.save;
        let other = other_nexus();
        if let Some(update) = &decision.update {
            unit.apply(update);
        }
        for (whom, condition) in &decision.attentions {
            if whom.includes(&self.i_t) {
                nexus.raise(*condition);
            }
            if whom.includes(&other) {
                self.others.raise(*condition);
            }
        }
        nexus.refresh(unit, &self.i_t);
        if let Some(what) = &decision.job {
            self.job = Some(Job::new(what, self.unit().info()));
        }
        Ok(())
    }

    /// Runs the job that a command has begun to its end, as the home core would.
    pub(super) fn finish_job(&mut self) -> Result<(), Outcome> {
        let mut job = self.job.take().expect("a command has begun one");
        let mut event = JobEvent::Begin;
        for _ in 0..STEPS_MAX {
            event = match job.next(event) {
                JobStep::Buffer(bytes) => {
                    let bytes = u32::try_from(bytes).unwrap();
                    JobEvent::Buffer(self.buf(bytes).unwrap())
                }
                JobStep::Submit(operation) => {
                    let fault = std::mem::replace(&mut self.fault, self.job_fault);
                    let completed = self.execute(UnitIndex(0), operation, &mut Vec::new());
                    self.fault = fault;
                    let Event::Completed { result, buf } = completed else {
                        panic!("{completed:?}")
                    };
                    JobEvent::Completed { result, buf }
                }
                JobStep::Wait => JobEvent::Again,
                JobStep::Done(result) => {
                    self.change(&Change::Sanitized(result.is_ok()))?;
                    return result.map_err(|_| FAILED);
                }
            };
        }
        panic!("the job did not end");
    }

    fn with_context<R>(&mut self, call: impl FnOnce(&mut Context<'_>) -> R) -> R {
        let mapped = |lun: &u16| MappedLun {
            lun: *lun,
            unit: UnitIndex(0),
            nexus: self.nexus,
        };
        let mut map: Vec<_> = self.luns.iter().map(mapped).collect();
        let mut units: Vec<_> = self.unit.iter().cloned().collect();
        if let Some(second) = &self.second {
            units.push(second.unit.clone());
            if !second.hidden {
                map.push(MappedLun {
                    lun: 1,
                    unit: UnitIndex(1),
                    nexus: second.nexus,
                });
            }
        }
        let result = call(&mut Context {
            units: &units,
            map: &mut map,
            at: self.unit.is_some().then_some(0),
            i_t: &self.i_t,
            data_in: &mut self.data_in,
            copies: &mut self.copies,
            unix_ms: self.unix_ms,
        });
        if let Some(addressed) = map.first() {
            self.nexus = addressed.nexus;
        }
        result
    }

    /// A buffer of exactly `bytes` bytes, filled with what no test writes.
    fn buf(&self, bytes: u32) -> Option<DmaBuf> {
        let bytes = usize::try_from(bytes).unwrap();
        let mut buf = (bytes > 0).then(|| self.pool.alloc(bytes).unwrap())?;
        buf.fill(0, bytes, 0xee);
        Some(buf)
    }

    fn block_size(&self, index: UnitIndex) -> u32 {
        match &self.second {
            Some(second) if index != FIRST => second.unit.block_size(),
            _ => self.unit().block_size(),
        }
    }

    fn range(&mut self, index: UnitIndex, lba: u64, blocks: u64) -> &mut [u8] {
        let block_size = u64::from(self.block_size(index));
        let from = usize::try_from(lba * block_size).unwrap();
        let to = usize::try_from((lba + blocks) * block_size).unwrap();
        match &mut self.second {
            Some(second) if index != FIRST => &mut second.disk[from..to],
            _ => &mut self.disk[from..to],
        }
    }

    fn execute(&mut self, index: UnitIndex, operation: Operation, done: &mut Vec<Done>) -> Event {
        let result = self.fault.map_or(Ok(()), Err);
        let ok = result.is_ok();
        let block_bytes = usize::try_from(self.block_size(index)).unwrap();
        let operation = match &self.second {
            Some(second) if index != FIRST => second.unit.durable(operation),
            _ => self.unit().durable(operation),
        };
        let buf = match operation {
            Operation::Read {
                lba,
                blocks,
                mut buf,
            } => {
                done.push(Done::Read { lba, blocks });
                assert_eq!(buf.len(), usize::try_from(blocks).unwrap() * block_bytes);
                if ok {
                    buf.copy_from(0, self.range(index, lba, u64::from(blocks)));
                }
                Some(buf)
            }
            Operation::Write {
                lba,
                blocks,
                buf,
                fua,
            } => {
                done.push(Done::Write { lba, blocks, fua });
                assert_eq!(buf.len(), usize::try_from(blocks).unwrap() * block_bytes);
                if ok {
                    buf.copy_to(0, self.range(index, lba, u64::from(blocks)));
                }
                Some(buf)
            }
            Operation::LbaStatus { lba, mut buf } => {
                let hole = self
                    .holes
                    .iter()
                    .find(|(at, n)| (*at..at + n).contains(&lba));
                let next = self
                    .holes
                    .iter()
                    .map(|(at, _)| *at)
                    .filter(|at| *at > lba)
                    .min();
                let run = match hole {
                    Some((at, n)) => LbaRun {
                        blocks: at + n - lba,
                        mapped: false,
                    },
                    None => LbaRun {
                        blocks: next.unwrap_or(u64::MAX) - lba,
                        mapped: true,
                    },
                };
                run.emit(&mut buf);
                Some(buf)
            }
            Operation::Flush => {
                done.push(Done::Flush);
                None
            }
            Operation::Unmap { lba, blocks } => {
                done.push(Done::Unmap { lba, blocks });
                if ok {
                    self.range(index, lba, blocks).fill(0);
                }
                None
            }
            Operation::WriteZeroes {
                lba,
                blocks,
                may_unmap,
                ..
            } => {
                done.push(Done::WriteZeroes {
                    lba,
                    blocks,
                    may_unmap,
                });
                if ok {
                    self.range(index, lba, blocks).fill(0);
                }
                None
            }
        };
        // A device that has failed may keep the buffer.
        let buf = buf.filter(|_| ok);
        Event::Completed { result, buf }
    }
}
