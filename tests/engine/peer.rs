//! The other side of the session: makes PDUs out of operations and remembers what it may expect.

use super::bench::{Bench, FIRST_CMD_SN};
use super::wire::Wire;
use iiblockdaemon::backend::IoError;
use iiblockdaemon::iscsi::session::{ConnectionIndex, Progress};
use iiblockdaemon::pdu::BHS_LEN;
use std::time::Duration;

const FINAL: u8 = 0x80;
const IMMEDIATE: u8 = 0x40;
const RESERVED_TAG: u32 = u32::MAX;
/// Rounds in which everything that is owed must have been given.
const ROUNDS_MAX: usize = 2000;

/// One step. Numbers mean what [`Peer::perform`] makes of them.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Command {
        kind: u8,
        blocks: u8,
        expectation: u8,
        data: u16,
        last: bool,
        now: bool,
        gap: u8,
        lun: u8,
    },
    DataOut {
        task: u8,
        solicited: bool,
        offset: u8,
        data_sn: u8,
        bytes: u16,
        last: bool,
    },
    Manage {
        function: u8,
        task: u8,
        now: bool,
    },
    Nop {
        bytes: u16,
        now: bool,
    },
    Text {
        text: u8,
        now: bool,
    },
    /// A PDU of this opcode with nothing in it.
    Odd {
        opcode: u8,
    },
    Complete {
        which: u8,
        error: u8,
    },
    Send {
        bytes: u16,
    },
    Poll,
    Acknowledge {
        which: u8,
    },
    Tick {
        ms: u16,
    },
    /// The connection is lost and the session goes on with another one.
    Reattach,
}

/// A command that was sent.
#[derive(Debug)]
struct Sent {
    itt: u32,
    cmd_sn: u32,
    /// It must be answered, exactly once, unless it is rejected.
    strict: bool,
    /// It was sent with more unsolicited data to come.
    open: bool,
    unsolicited: u32,
    data_sn: u32,
}

/// See the module.
pub(crate) struct Peer {
    bench: Bench,
    wire: Wire,
    cuts: Option<Vec<usize>>,
    next_cut: usize,
    tasks: Vec<Sent>,
    next_itt: u32,
    next_cmd_sn: u32,
    over: bool,
}

impl Peer {
    /// `cuts`: lengths of the pieces in which bytes are handed over, again and again.
    pub(crate) fn new(bench: Bench, cuts: Option<Vec<usize>>) -> Self {
        Self {
            bench,
            wire: Wire::default(),
            cuts,
            next_cut: 0,
            tasks: Vec::new(),
            next_itt: 1,
            next_cmd_sn: FIRST_CMD_SN,
            over: false,
        }
    }

    /// `false`: the session has ended the connection.
    pub(crate) fn perform(&mut self, operation: &Operation) -> bool {
        match *operation {
            Operation::Command { .. } => self.command(operation),
            Operation::DataOut { .. } => self.data_out(operation),
            Operation::Manage {
                function,
                task,
                now,
            } => self.manage(function, task, now),
            Operation::Nop { bytes, now } => {
                let mut bhs = self.header(0x00, FINAL, now);
                self.number(&mut bhs, now);
                self.give(&bhs, &vec![0x11; usize::from(bytes)]);
            }
            Operation::Text { text, now } => {
                let texts: [&[u8]; 3] = [b"SendTargets=\0", b"X-a=1\0", b"not a key"];
                let mut bhs = self.header(0x04, FINAL, now);
                self.number(&mut bhs, now);
                self.give(&bhs, texts[usize::from(text)]);
            }
            // A logout ends the answers; what it does to a connection is tested elsewhere.
            Operation::Odd { opcode: 0x06 } => {}
            Operation::Odd { opcode } => {
                let bhs = self.header(opcode, FINAL, true);
                self.give(&bhs, &[]);
            }
            Operation::Complete { which, error } => {
                let errors = [IoError::Medium, IoError::NoSpace, IoError::Resource];
                let error = errors.get(usize::from(error)).copied();
                self.bench.complete(usize::from(which), error);
            }
            Operation::Send { bytes } => self.send(usize::from(bytes)),
            Operation::Poll => self.bench.poll(),
            Operation::Acknowledge { which } => {
                self.bench.acknowledge(usize::from(which));
            }
            Operation::Tick { ms } => {
                let ticked = self.bench.tick(Duration::from_millis(u64::from(ms)));
                self.over |= ticked.is_err();
            }
            Operation::Reattach => self.reattach(),
        }
        !self.over
    }

    fn reattach(&mut self) {
        self.wire.read();
        self.bench.detach();
        self.wire.reconnect();
        for task in &mut self.tasks {
            task.strict = false;
            task.open = false;
        }
        self.bench.attach();
        self.next_cmd_sn = self.bench.session.command_window().0.0;
    }

    fn header(&mut self, opcode: u8, flags: u8, now: bool) -> [u8; BHS_LEN] {
        let mut bhs = [0; BHS_LEN];
        bhs[0] = opcode | if now { IMMEDIATE } else { 0 };
        bhs[1] = flags;
        bhs[16..20].copy_from_slice(&self.next_itt.to_be_bytes());
        bhs[20..24].copy_from_slice(&RESERVED_TAG.to_be_bytes());
        bhs[24..28].copy_from_slice(&self.next_cmd_sn.to_be_bytes());
        self.next_itt += 1;
        bhs
    }

    /// Uses the next CmdSN, if the window has it.
    fn number(&mut self, bhs: &mut [u8; BHS_LEN], now: bool) {
        bhs[24..28].copy_from_slice(&self.next_cmd_sn.to_be_bytes());
        if !now && self.is_in_window(self.next_cmd_sn) {
            self.next_cmd_sn = self.next_cmd_sn.wrapping_add(1);
        }
    }

    fn is_in_window(&self, cmd_sn: u32) -> bool {
        let (exp, max) = self.bench.session.command_window();
        let admitted = max.0.wrapping_sub(exp.0).wrapping_add(1);
        cmd_sn.wrapping_sub(exp.0) < admitted
    }

    /// Hands a PDU over, in pieces if so wanted, sending whenever the session pauses.
    fn give(&mut self, bhs: &[u8; BHS_LEN], data: &[u8]) {
        let mut pdu = bhs.to_vec();
        let length = u32::try_from(data.len()).expect("small").to_be_bytes();
        pdu[5..8].copy_from_slice(&length[1..]);
        pdu.extend_from_slice(data);
        pdu.resize(pdu.len().next_multiple_of(4), 0);
        let mut rest = &pdu[..];
        while !rest.is_empty() && !self.over {
            let mut piece = match &self.cuts {
                None => rest,
                Some(cuts) => {
                    self.next_cut += 1;
                    &rest[..cuts[self.next_cut % cuts.len()].min(rest.len())]
                }
            };
            let whole = piece.len();
            match self.bench.receive(&mut piece) {
                Ok(Progress::Done) => assert!(piece.is_empty(), "all was taken"),
                Ok(Progress::Paused) => self.send(usize::MAX),
                Err(_) => self.over = true,
            }
            rest = &rest[whole - piece.len()..];
        }
    }

    fn command(&mut self, operation: &Operation) {
        let Operation::Command {
            kind,
            blocks,
            expectation,
            data,
            last,
            now,
            gap,
            lun,
        } = *operation
        else {
            unreachable!("perform() has looked");
        };
        let kind = kind % 10;
        let is_write = matches!(kind, 1 | 2 | 6 | 7);
        let is_read = matches!(kind, 0 | 3 | 4);
        let moves = match kind {
            0..=2 => u32::from(blocks) * 512,
            3 | 4 => 96,
            6 => 24,
            7 => 512,
            _ => 0,
        };
        let expected = match expectation {
            0 | 1 => moves,
            2 => moves / 2,
            _ => moves + 1000,
        };
        let expected = if is_read || is_write { expected } else { 0 };
        let mut bhs = self.header(0x01, 0, now);
        let itt = self.next_itt - 1;
        let open = is_write && !last;
        bhs[1] = if open { 0 } else { FINAL } | u8::from(is_read) << 6 | u8::from(is_write) << 5;
        // LUN 0, the same unit read-only, or nobody.
        bhs[9] = lun.saturating_sub(3);
        bhs[20..24].copy_from_slice(&expected.to_be_bytes());
        bhs[32..48].copy_from_slice(&cdb(kind, blocks));
        let cmd_sn = self.next_cmd_sn.wrapping_add(match gap {
            9 => 1,
            10 => 3,
            11 => u32::MAX,
            _ => 0,
        });
        bhs[24..28].copy_from_slice(&cmd_sn.to_be_bytes());
        let is_new = cmd_sn.wrapping_sub(self.next_cmd_sn) < 1 << 31;
        let strict = !now && is_new && self.is_in_window(cmd_sn);
        if strict {
            self.next_cmd_sn = cmd_sn.wrapping_add(1);
        }
        let data = if is_write {
            vec![0x22; usize::from(data)]
        } else {
            Vec::new()
        };
        self.tasks.push(Sent {
            itt,
            cmd_sn,
            strict,
            open,
            unsolicited: u32::try_from(data.len()).expect("small"),
            data_sn: 0,
        });
        self.give(&bhs, &data);
    }

    fn data_out(&mut self, operation: &Operation) {
        let Operation::DataOut {
            task,
            solicited,
            offset,
            data_sn,
            bytes,
            last,
        } = *operation
        else {
            unreachable!("perform() has looked");
        };
        let mut bhs = self.header(0x05, if last { FINAL } else { 0 }, false);
        // Zero is right, anything else is not, and mostly it is right.
        let wrong = |number: u8| u32::from(number.saturating_sub(6));
        let length = u32::from(bytes);
        let (itt, ttt, at, sn);
        if solicited {
            let count = self.wire.r2ts.len();
            if count == 0 {
                return;
            }
            let which = usize::from(task) % count;
            let r2t = &mut self.wire.r2ts[which];
            (itt, ttt, at, sn) = (r2t.itt, r2t.ttt, r2t.offset, r2t.data_sn);
            r2t.offset = r2t.offset.wrapping_add(length);
            r2t.data_sn = r2t.data_sn.wrapping_add(1);
            if last {
                self.wire.r2ts.remove(which);
            }
        } else {
            let count = self.tasks.len();
            if count == 0 {
                return;
            }
            let sent = &mut self.tasks[usize::from(task) % count];
            (itt, ttt, at, sn) = (sent.itt, RESERVED_TAG, sent.unsolicited, sent.data_sn);
            sent.unsolicited = sent.unsolicited.wrapping_add(length);
            sent.data_sn = sent.data_sn.wrapping_add(1);
            sent.open &= !last;
        }
        bhs[16..20].copy_from_slice(&itt.to_be_bytes());
        bhs[20..24].copy_from_slice(&ttt.to_be_bytes());
        bhs[36..40].copy_from_slice(&sn.wrapping_add(wrong(data_sn)).to_be_bytes());
        bhs[40..44].copy_from_slice(&at.wrapping_add(wrong(offset)).to_be_bytes());
        self.give(&bhs, &vec![0x33; usize::from(bytes)]);
    }

    fn manage(&mut self, function: u8, task: u8, now: bool) {
        let is_for_nobody = function % 12 == 11;
        let function = [1, 1, 1, 1, 2, 4, 5, 6, 3, 8, 9, 1][usize::from(function) % 12];
        let mut bhs = self.header(0x02, FINAL | function, now);
        self.number(&mut bhs, now);
        if is_for_nobody {
            // What initiators send for a task that has ended: RefCmdSN is the request's own CmdSN.
            let own = bhs[24..28].to_vec();
            bhs[20..24].copy_from_slice(&0x7fff_ffff_u32.to_be_bytes());
            bhs[32..36].copy_from_slice(&own);
        } else if function == 1 {
            let count = self.tasks.len().max(1);
            if let Some(sent) = self.tasks.get_mut(usize::from(task) % count) {
                bhs[20..24].copy_from_slice(&sent.itt.to_be_bytes());
                bhs[32..36].copy_from_slice(&sent.cmd_sn.to_be_bytes());
                sent.strict = false;
            }
        } else {
            for sent in &mut self.tasks {
                sent.strict = false;
            }
        }
        self.give(&bhs, &[]);
    }

    fn send(&mut self, bytes: usize) {
        self.bench.send(bytes, &mut self.wire.bytes);
        self.wire.read();
        self.bench.poll();
    }

    /// The unit attention of a new nexus.
    pub(crate) fn clear_unit_attention(&mut self) {
        self.perform(&Operation::Command {
            kind: 9,
            blocks: 0,
            expectation: 0,
            data: 0,
            last: true,
            now: false,
            gap: 0,
            lun: 0,
        });
        self.send(usize::MAX);
    }

    /// Task management requests that were answered.
    pub(crate) fn managed(&mut self) -> u32 {
        self.send(usize::MAX);
        self.wire.managed
    }

    /// Answers the last R2T with `count` PDUs of `bytes` bytes that never end it. `false`: there is
    /// none.
    pub(crate) fn data_without_end(&mut self, count: u32, bytes: usize) -> bool {
        let Some(r2t) = self.wire.r2ts.last().copied() else {
            return false;
        };
        let data = vec![0x44; bytes];
        for data_sn in 0..count {
            let mut bhs = self.header(0x05, 0, false);
            bhs[16..20].copy_from_slice(&r2t.itt.to_be_bytes());
            bhs[20..24].copy_from_slice(&r2t.ttt.to_be_bytes());
            bhs[36..40].copy_from_slice(&data_sn.to_be_bytes());
            bhs[40..44].copy_from_slice(&r2t.offset.to_be_bytes());
            self.give(&bhs, &data);
        }
        true
    }

    /// Gives everything that is owed until nothing is under way; then every command has had what is
    /// due to it.
    pub(crate) fn settle_and_check(&mut self) {
        let mut rounds = 0;
        while !self.over && !self.round() {
            rounds += 1;
            assert!(
                rounds < ROUNDS_MAX,
                "{} commands hang: {:?}",
                self.bench.session.tasks_under_way(),
                self.bench.session
            );
        }
        for sent in &self.tasks {
            let answers = self.wire.answers.get(&sent.itt).copied().unwrap_or(0);
            let rejects = self.wire.rejected.get(&sent.itt).copied().unwrap_or(0);
            assert!(answers <= 1, "{sent:?} has {answers} answers");
            if sent.strict && !self.over && rejects == 0 {
                assert_eq!(answers, 1, "{sent:?} is not answered");
            }
        }
    }

    /// `true`: nothing is left to do.
    fn round(&mut self) -> bool {
        while self.bench.at_device() > 0 {
            self.bench.complete(0, None);
        }
        while self.bench.acknowledge(0) {}
        self.bench.poll();
        self.send(usize::MAX);
        let r2ts = std::mem::take(&mut self.wire.r2ts);
        for r2t in &r2ts {
            let mut bhs = self.header(0x05, FINAL, false);
            bhs[16..20].copy_from_slice(&r2t.itt.to_be_bytes());
            bhs[20..24].copy_from_slice(&r2t.ttt.to_be_bytes());
            self.give(&bhs, &[]);
        }
        let open: Vec<_> = self.tasks.iter_mut().filter(|sent| sent.open).collect();
        let open: Vec<_> = open
            .into_iter()
            .map(|sent| {
                sent.open = false;
                sent.itt
            })
            .collect();
        for itt in &open {
            let mut bhs = self.header(0x05, FINAL, false);
            bhs[16..20].copy_from_slice(&itt.to_be_bytes());
            self.give(&bhs, &[]);
        }
        let (exp, _) = self.bench.session.command_window();
        let gap = self.next_cmd_sn.wrapping_sub(exp.0);
        let has_gap = gap > 0 && gap < 1 << 31;
        if has_gap {
            let mut bhs = self.header(0x00, FINAL, false);
            bhs[24..28].copy_from_slice(&exp.0.to_be_bytes());
            self.give(&bhs, &[]);
        }
        let nothing = r2ts.is_empty() && open.is_empty() && !has_gap;
        let quiet = self.bench.at_device() == 0
            && self
                .bench
                .session
                .transmit_queue(ConnectionIndex::LEADING)
                .is_empty();
        if nothing && quiet && self.bench.session.tasks_under_way() > 0 {
            // Aborted tasks wait a while for data that the peer does not owe any more.
            self.over |= self.bench.tick(Duration::from_secs(1)).is_err();
        }
        nothing && quiet && self.bench.session.tasks_under_way() == 0
    }

    pub(crate) fn sent_bytes(&self) -> Vec<u8> {
        self.wire.bytes.clone()
    }

    /// The connection is lost and the session ends.
    pub(crate) fn end(self) {
        self.bench.close();
    }
}

fn cdb(kind: u8, blocks: u8) -> [u8; 16] {
    let mut cdb = [0; 16];
    let opcodes = [0x28, 0x2a, 0x2a, 0x12, 0xa0, 0x35, 0x42, 0x41, 0x2f, 0x00];
    cdb[0] = opcodes[usize::from(kind)];
    match kind {
        0..=2 | 8 => {
            // Some of them reach beyond the end of the unit.
            cdb[4] = if kind == 2 { 0x0f } else { 1 };
            cdb[5] = if kind == 2 { 0x80 } else { 0 };
            cdb[8] = blocks;
        }
        3 => cdb[4] = 96,
        4 => cdb[9] = 96,
        6 => cdb[8] = 24,
        7 => cdb[8] = blocks.max(1),
        _ => {}
    }
    cdb
}
