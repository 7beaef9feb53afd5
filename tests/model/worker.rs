//! One initiator: submits, compares what comes back with its zones, and has its connection cut.

use super::disk::{Stamp, Zone};
use super::random::Random;
use super::{INITIATOR, TARGET, TIMEOUT, UNITS};
use iiblockdaemon::pdu::{LunField, TaskManagementFunction};
use iiblockdaemon::testing::tcp::{Failure, TcpInitiator};
use iiblockdaemon::testing::{
    Auth, Command, Config, DataOut, Direction, Event, Nop, Scsi, ScsiOutcome, TaskHandle,
    TaskManagement,
};
use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

const ZONE_BYTES: u32 = 1 << 20;
/// The longest transfer of one command.
const TRANSFER_BYTES_MAX: u32 = 384 * 1024;
const OUTSTANDING_MAX: usize = 24;

const UNIT_ATTENTION: u8 = 0x06;
const MISCOMPARE: u8 = 0x0e;

/// LOGICAL UNIT RESETs of all workers, which end commands of the others without an answer: how many
/// were submitted, and how many are over.
static RESETS: AtomicU64 = AtomicU64::new(0);
static RESETS_OVER: AtomicU64 = AtomicU64::new(0);

/// What is done to a run so that the model has something to find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mischief {
    None,
    /// Somebody else writes what was never answered, after the login that ended it.
    LateLanding,
}

#[derive(Clone, Debug)]
enum Kind {
    Read {
        since: u64,
    },
    Write(Stamp),
    /// With `BYTCHK`: whether the data are those of the disk.
    Verify {
        since: u64,
        same: bool,
    },
    /// LOGICAL UNIT RESET.
    Reset,
    Other,
}

#[derive(Clone, Debug)]
struct Op {
    unit: usize,
    range: Range<usize>,
    kind: Kind,
}

/// See the module.
pub(crate) struct Worker {
    address: SocketAddr,
    index: u16,
    random: Random,
    mischief: Mischief,
    zones: Vec<Zone>,
    outstanding: HashMap<TaskHandle, Op>,
    answered: u64,
    resets_seen: u64,
    /// A login was sent and given up: should the target take it later than ours, it ends ours.
    may_be_superseded: bool,
}

impl Worker {
    pub(crate) fn new(address: SocketAddr, index: u16, random: Random, mischief: Mischief) -> Self {
        let zone = |unit: usize| {
            let blocks = u64::from(ZONE_BYTES / UNITS[unit].block_bytes);
            let first = u64::from(index) * blocks;
            Zone::new(UNITS[unit], first, usize::try_from(blocks).expect("small"))
        };
        Self {
            address,
            index,
            random,
            mischief,
            zones: (0..UNITS.len()).map(zone).collect(),
            outstanding: HashMap::new(),
            answered: 0,
            resets_seen: 0,
            may_be_superseded: false,
        }
    }

    /// Works until `go` says no more, then reads everything back. Returns the number of answers.
    pub(crate) fn run(&mut self, operations: u32, go: impl Fn() -> bool) -> u64 {
        let mut it = self.login();
        for _ in 0..operations {
            if !go() {
                break;
            }
            let room = OUTSTANDING_MAX - self.outstanding.len();
            for _ in 0..self.random.below(room as u64 + 1) {
                self.submit(&mut it);
            }
            let cut = self.random.one_in(40);
            let goes_on = !cut && self.answers(&mut it);
            if !goes_on {
                it = self.cut(it);
            }
        }
        while !self.outstanding.is_empty() {
            if !self.one_answer(&mut it) {
                it = self.cut(it);
            }
        }
        self.read_all(it);
        self.answered
    }

    fn read_all(&mut self, mut it: TcpInitiator) {
        for unit in 0..UNITS.len() {
            loop {
                let all = 0..self.zones[unit].len();
                let since = self.zones[unit].tick();
                let mut failed = false;
                for from in all.step_by(64) {
                    let range = from..from + 64;
                    let command = self.read_command(unit, &range, 1);
                    match it.execute(command) {
                        Ok(outcome) if outcome.is_good() => {
                            self.zones[unit].check_read(range, since, &outcome.data_in);
                        }
                        Ok(outcome) => {
                            assert!(is_unit_attention(&outcome), "{outcome:?}");
                            failed = true;
                        }
                        Err(failure) => {
                            self.excuse(&failure);
                            it = self.login();
                            failed = true;
                        }
                    }
                }
                if !failed {
                    break;
                }
            }
        }
    }

    /// Logs in, with other parameters every time. Everything before it has ended.
    fn login(&mut self) -> TcpInitiator {
        self.resets_seen = RESETS_OVER.load(SeqCst);
        let config = self.config();
        let mut it = match TcpInitiator::connect(self.address, config, TIMEOUT) {
            Ok(it) => it,
            Err(failure) => {
                self.excuse(&failure);
                return self.login();
            }
        };
        for lun in 0..UNITS.len() {
            let lun = u8::try_from(lun).expect("four units");
            if let Err(failure) = it.clear_unit_attentions(lun) {
                self.excuse(&failure);
                return self.login();
            }
        }
        for (_, op) in self.outstanding.drain() {
            match op.kind {
                Kind::Write(stamp) => self.zones[op.unit].abandon(op.range, stamp),
                Kind::Reset => {
                    RESETS_OVER.fetch_add(1, SeqCst);
                }
                Kind::Read { .. } | Kind::Verify { .. } | Kind::Other => {}
            }
        }
        self.zones.iter_mut().for_each(Zone::settle);
        it
    }

    fn config(&mut self) -> Config {
        let random = &mut self.random;
        let max_burst = random.pick(&[4096_u32, 16_384, 65_536, 262_144]);
        let first_burst = random.pick(&[512_u32, 4096, 65_536]).min(max_burst);
        let yes_no = |yes| if yes { "Yes" } else { "No" };
        let name = format!("{INITIATOR}{}", self.index);
        let auth = if random.one_in(2) {
            Auth::Skip
        } else {
            Auth::None
        };
        Config {
            auth,
            ..Config::new(&name, TARGET)
        }
        .with_isid_qualifier(self.index)
        .with_digests(random.one_in(2), random.one_in(2))
        .with_key("MaxBurstLength", &max_burst.to_string())
        .with_key("FirstBurstLength", &first_burst.to_string())
        .with_key("InitialR2T", yes_no(random.one_in(2)))
        .with_key("ImmediateData", yes_no(random.one_in(2)))
        .with_key("MaxOutstandingR2T", &(1 + random.below(4)).to_string())
        .with_key(
            "MaxRecvDataSegmentLength",
            &random.pick(&[512_u32, 8192, 65_536, 262_144]).to_string(),
        )
    }

    /// Takes some answers. `false`: the connection is over.
    fn answers(&mut self, it: &mut TcpInitiator) -> bool {
        for _ in 0..self.random.below(self.outstanding.len() as u64 + 1) {
            if self.outstanding.is_empty() {
                break;
            }
            if !self.one_answer(it) {
                return false;
            }
        }
        true
    }

    fn one_answer(&mut self, it: &mut TcpInitiator) -> bool {
        match it.next_event() {
            Ok(event) => self.on_event(event),
            Err(failure) => {
                self.excuse(&failure);
                false
            }
        }
    }

    /// Only what this test has brought about may end a connection.
    fn excuse(&self, failure: &Failure) {
        let reset = RESETS.load(SeqCst) != self.resets_seen;
        let excused = match failure {
            Failure::TimedOut | Failure::NotGood(_) => reset,
            Failure::Closed | Failure::Io(_) => self.may_be_superseded,
            _ => false,
        };
        assert!(excused, "{}: {failure}", self.index);
    }

    fn on_event(&mut self, event: Event) -> bool {
        match event {
            Event::Scsi { task, outcome } => {
                let op = self.outstanding.remove(&task).expect("one of ours");
                self.answered += 1;
                self.judge(op, &outcome)
            }
            Event::Aborted { task } => {
                if let Some(op) = self.outstanding.remove(&task)
                    && let Kind::Write(stamp) = op.kind
                {
                    self.zones[op.unit].abandon(op.range, stamp);
                }
                true
            }
            Event::TaskManagement { task, .. } | Event::Nop { task, .. } => {
                let op = self.outstanding.remove(&task);
                if matches!(op.map(|op| op.kind), Some(Kind::Reset)) {
                    RESETS_OVER.fetch_add(1, SeqCst);
                }
                true
            }
            Event::NopIn { .. } => true,
            other => panic!("unexpected: {other:?}"),
        }
    }

    fn judge(&mut self, op: Op, outcome: &ScsiOutcome) -> bool {
        let zone = &mut self.zones[op.unit];
        if is_unit_attention(outcome) {
            // Another worker has reset the unit: what else we had there will not be answered.
            if let Kind::Write(stamp) = op.kind {
                zone.refuse(op.range, stamp);
            }
            return false;
        }
        match op.kind {
            Kind::Verify { since, .. } if zone.is_disturbed(op.range.clone(), since) => {
                return true;
            }
            Kind::Verify { same: false, .. } => {
                let code = outcome.sense_code();
                assert!(
                    matches!(code, Some((MISCOMPARE, ..))),
                    "{}: VERIFY of other data: {outcome:?}",
                    zone.geometry.name
                );
                return true;
            }
            _ => assert!(
                outcome.is_good(),
                "{}: {op:?}: {outcome:?}",
                zone.geometry.name
            ),
        }
        match op.kind {
            Kind::Read { since } => zone.check_read(op.range, since, &outcome.data_in),
            Kind::Write(stamp) => zone.complete(op.range, stamp),
            Kind::Verify { .. } | Kind::Reset | Kind::Other => {}
        }
        true
    }

    fn submit(&mut self, it: &mut TcpInitiator) {
        let (command, op) = self.command();
        let task = it.engine().submit(command);
        self.outstanding.insert(task, op);
        if self.random.one_in(3) {
            // What cannot be sent now shows when answers are waited for.
            let _ = it.flush();
        }
    }

    fn command(&mut self) -> (Command, Op) {
        let unit = usize::try_from(self.random.below(UNITS.len() as u64)).expect("small");
        let range = self.range(unit);
        let plain = |kind| Op {
            unit,
            range: range.clone(),
            kind,
        };
        match self.random.below(40) {
            0..=12 => {
                let since = self.zones[unit].tick();
                let form = self.random.below(3);
                let command = self.read_command(unit, &range, form);
                (Command::Scsi(command), plain(Kind::Read { since }))
            }
            13..=29 => {
                let stamp = self.zones[unit].begin(range.clone(), false);
                let command = self.write_command(unit, &range, stamp);
                (Command::Scsi(command), plain(Kind::Write(stamp)))
            }
            30 | 31 => {
                let stamp = self.zones[unit].begin(range.clone(), false);
                let block = DataOut::new(self.zones[unit].same_pattern(stamp));
                let cdb = self.cdb(0x93, 0, unit, &range);
                let scsi = Scsi::new(lun(unit), &cdb, Direction::Out(block));
                (Command::Scsi(scsi), plain(Kind::Write(stamp)))
            }
            32 => {
                // WRITE SAME (16) with NDOB, with and without UNMAP.
                let stamp = self.zones[unit].begin(range.clone(), true);
                let flags = self.random.pick(&[0x01, 0x09]);
                let cdb = self.cdb(0x93, flags, unit, &range);
                let scsi = Scsi::new(lun(unit), &cdb, Direction::None);
                (Command::Scsi(scsi), plain(Kind::Write(stamp)))
            }
            33 => {
                let stamp = self.zones[unit].begin(range.clone(), true);
                let command = self.unmap_command(unit, &range);
                (Command::Scsi(command), plain(Kind::Write(stamp)))
            }
            34 | 35 => self.verify(unit, range),
            36 => {
                let cdb = self.cdb(self.random.clone().pick(&[0x35, 0x91]), 0, unit, &range);
                let scsi = Scsi::new(lun(unit), &cdb, Direction::None);
                (Command::Scsi(scsi), plain(Kind::Other))
            }
            37 => {
                let nop = Nop {
                    immediate: self.random.one_in(2),
                    data: vec![0x5a; usize::try_from(self.random.below(400)).expect("small")],
                };
                (Command::Nop(nop), plain(Kind::Other))
            }
            _ => self.management(unit),
        }
    }

    /// A run of blocks; short ones more often.
    fn range(&mut self, unit: usize) -> Range<usize> {
        let block_bytes = UNITS[unit].block_bytes;
        let bytes = self
            .random
            .pick(&[block_bytes, 4096, 16_384, 65_536, TRANSFER_BYTES_MAX]);
        let longest = u64::from((bytes / block_bytes).max(1));
        let blocks = 1 + self.random.below(longest);
        let zone = self.zones[unit].len() as u64;
        let from = self.random.below(zone - blocks + 1);
        let index = |at: u64| usize::try_from(at).expect("small");
        index(from)..index(from + blocks)
    }

    fn read_command(&mut self, unit: usize, range: &Range<usize>, form: u64) -> Scsi {
        let opcode = [0x28, 0x88, 0xa8][usize::try_from(form).expect("one of three")];
        let cdb = self.cdb(opcode, 0, unit, range);
        let bytes = u32::try_from(range.len()).expect("small") * UNITS[unit].block_bytes;
        Scsi::new(lun(unit), &cdb, Direction::In(bytes))
    }

    fn write_command(&mut self, unit: usize, range: &Range<usize>, stamp: Stamp) -> Scsi {
        let bytes = self.zones[unit].pattern(range.clone(), stamp);
        let opcode = self.random.pick(&[0x2a, 0x8a, 0xaa]);
        let fua = if self.random.one_in(8) { 0x08 } else { 0 };
        let cdb = self.cdb(opcode, fua, unit, range);
        let data = if self.random.one_in(3) {
            DataOut::solicited(bytes)
        } else {
            DataOut::new(bytes)
        };
        Scsi::new(lun(unit), &cdb, Direction::Out(data))
    }

    fn unmap_command(&mut self, unit: usize, range: &Range<usize>) -> Scsi {
        let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
        let lba = self.zones[unit].first_lba + range.start as u64;
        list.extend_from_slice(&lba.to_be_bytes());
        list.extend_from_slice(&u32::try_from(range.len()).expect("small").to_be_bytes());
        list.extend_from_slice(&[0; 4]);
        let cdb = [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0];
        Scsi::new(lun(unit), &cdb, Direction::Out(DataOut::new(list)))
    }

    /// VERIFY without data, or with data where the model knows what is there.
    fn verify(&mut self, unit: usize, range: Range<usize>) -> (Command, Op) {
        let busy = self.outstanding.values().any(|op| {
            let write = matches!(op.kind, Kind::Write(_));
            write && op.unit == unit && op.range.start < range.end && range.start < op.range.end
        });
        let since = self.zones[unit].tick();
        let known = self.zones[unit].known(range.clone()).filter(|_| !busy);
        let (flags, data, same) = match known {
            Some(mut bytes) => {
                let same = self.random.one_in(2);
                let last = bytes.len() - 1;
                bytes[last] ^= u8::from(!same);
                (0x02, Direction::Out(DataOut::new(bytes)), same)
            }
            None => (0, Direction::None, true),
        };
        let cdb = self.cdb(self.random.clone().pick(&[0x2f, 0x8f]), flags, unit, &range);
        let op = Op {
            unit,
            range,
            kind: Kind::Verify { since, same },
        };
        (Command::Scsi(Scsi::new(lun(unit), &cdb, data)), op)
    }

    fn management(&mut self, unit: usize) -> (Command, Op) {
        let function = match self.random.below(12) {
            0..=5 => TaskManagementFunction::AbortTask,
            6..=8 => TaskManagementFunction::AbortTaskSet,
            9 | 10 => TaskManagementFunction::ClearTaskSet,
            _ => TaskManagementFunction::LogicalUnitReset,
        };
        let mut unit = unit;
        let mut referenced = None;
        if function == TaskManagementFunction::AbortTask {
            let scsi = |op: &Op| matches!(op.kind, Kind::Read { .. } | Kind::Write(_));
            let victim = self.outstanding.iter().find(|(_, op)| scsi(op));
            referenced = victim.map(|(task, op)| {
                unit = op.unit;
                *task
            });
        }
        let reset = function == TaskManagementFunction::LogicalUnitReset;
        let op = Op {
            unit,
            range: 0..0,
            kind: if reset { Kind::Reset } else { Kind::Other },
        };
        if function == TaskManagementFunction::AbortTask && referenced.is_none() {
            return (Command::Nop(Nop::default()), op);
        }
        if reset {
            RESETS.fetch_add(1, SeqCst);
        }
        let request = TaskManagement {
            immediate: self.random.one_in(2),
            function,
            lun: LunField([0, lun(unit), 0, 0, 0, 0, 0, 0]),
            referenced,
        };
        (Command::TaskManagement(request), op)
    }

    fn cdb(&self, opcode: u8, flags: u8, unit: usize, range: &Range<usize>) -> Vec<u8> {
        let lba = self.zones[unit].first_lba + range.start as u64;
        let blocks = u32::try_from(range.len()).expect("small");
        let short = u32::try_from(lba).expect("a small disk").to_be_bytes();
        let mut cdb = vec![opcode, flags];
        match opcode >> 5 {
            1 => {
                cdb.extend_from_slice(&short);
                cdb.push(0);
                let count = u16::try_from(blocks).expect("small");
                cdb.extend_from_slice(&count.to_be_bytes());
                cdb.push(0);
            }
            5 => {
                cdb.extend_from_slice(&short);
                cdb.extend_from_slice(&blocks.to_be_bytes());
                cdb.extend_from_slice(&[0; 2]);
            }
            _ => {
                cdb.extend_from_slice(&lba.to_be_bytes());
                cdb.extend_from_slice(&blocks.to_be_bytes());
                cdb.extend_from_slice(&[0; 2]);
            }
        }
        cdb
    }

    /// Loses the connection in one of many ways and logs in again.
    fn cut(&mut self, mut it: TcpInitiator) -> TcpInitiator {
        self.may_be_superseded = false;
        let mut kept = None;
        match self.random.below(4) {
            0 => drop(it),
            1 => {
                // In the middle of something.
                for _ in 0..1 + self.random.below(4) {
                    let (command, op) = self.command();
                    let task = it.engine().submit(command);
                    self.outstanding.insert(task, op);
                }
                let mut bytes = Vec::new();
                it.engine().poll_transmit(&mut bytes);
                self.send_part(&it, &bytes);
            }
            2 => self.give_up_login(),
            _ => kept = Some(it),
        }
        let unanswered = self.unanswered_write();
        let mut new = self.login();
        drop(kept);
        if let (Mischief::LateLanding, Some(op)) = (self.mischief, unanswered) {
            self.land_late(&mut new, &op);
        }
        new
    }

    fn send_part(&mut self, it: &TcpInitiator, bytes: &[u8]) {
        let part = self.random.below(bytes.len() as u64 + 1);
        let part = usize::try_from(part).expect("a part of a slice");
        // The socket does not block and may be closed: any part is as good as another.
        let _ = it.stream().write(&bytes[..part]);
    }

    /// A login of which the target sees a part, or all, and whose answer nobody waits for.
    fn give_up_login(&mut self) {
        let config = Config {
            auth: Auth::Skip,
            ..self.config()
        };
        let mut it = TcpInitiator::open(self.address, config, TIMEOUT).expect("a connection");
        let mut bytes = Vec::new();
        it.engine().poll_transmit(&mut bytes);
        if self.random.one_in(2) {
            self.may_be_superseded = true;
            // A fresh connection takes a few hundred bytes at once.
            let _ = it.stream().write(&bytes);
        } else {
            self.send_part(&it, &bytes[..bytes.len() - 1]);
        }
    }

    fn unanswered_write(&self) -> Option<Op> {
        let mut writes = self.outstanding.values();
        writes.find(|op| matches!(op.kind, Kind::Write(_))).cloned()
    }

    /// Writes what was never answered, as somebody whom the model does not know, if it was not
    /// there.
    fn land_late(&mut self, it: &mut TcpInitiator, op: &Op) {
        let Kind::Write(stamp) = op.kind else { return };
        let range = op.range.start..op.range.start + 1;
        let block_bytes = UNITS[op.unit].block_bytes;
        let lba = self.zones[op.unit].first_lba + range.start as u64;
        let since = self.zones[op.unit].tick();
        let Ok(old) = it.read_blocks(lun(op.unit), lba, 1, block_bytes) else {
            return;
        };
        self.zones[op.unit].check_read(range.clone(), since, &old);
        let new = self.zones[op.unit].pattern(range.clone(), stamp);
        let other = Config::new("iqn.2026-11.io.iiblockdaemon:rogue", TARGET)
            .with_isid_qualifier(self.index);
        let mut rogue = TcpInitiator::connect(self.address, other, TIMEOUT).expect("a login");
        rogue
            .clear_unit_attentions(lun(op.unit))
            .expect("it is ready");
        rogue
            .write_blocks(lun(op.unit), lba, &new, block_bytes)
            .expect("a write");
        let since = self.zones[op.unit].tick();
        if let Ok(now) = it.read_blocks(lun(op.unit), lba, 1, block_bytes) {
            self.zones[op.unit].check_read(range, since, &now);
        }
    }
}

fn lun(unit: usize) -> u8 {
    u8::try_from(unit).expect("four units")
}

fn is_unit_attention(outcome: &ScsiOutcome) -> bool {
    matches!(outcome.sense_code(), Some((UNIT_ATTENTION, ..)))
}
