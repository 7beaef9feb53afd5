//! Several connections that send anything at any time, piece by piece, and come and go: nothing
//! panics, every connection's numbers are right, and all memory comes back.

use super::bench::Bench;
use super::wire::Wire;
use iiblockdaemon::backend::IoError;
use iiblockdaemon::iscsi::session::{CONNECTIONS_MAX, ConnectionIndex, Progress, Scope, Session};
use iiblockdaemon::pdu::BHS_LEN;
use std::time::Duration;

const FINAL: u8 = 0x80;
const IMMEDIATE: u8 = 0x40;
const RESERVED_TAG: u32 = u32::MAX;

/// One step. Numbers mean what [`Crowd::perform`] makes of them.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Command {
        line: u8,
        /// WRITE, READ or TEST UNIT READY.
        kind: u8,
        tag: u8,
        blocks: u8,
        data: u16,
        ahead: u8,
        flags: u8,
        fed: u16,
    },
    DataOut {
        line: u8,
        /// Which R2T of which line; or unsolicited data for a tag.
        of: u8,
        tag: u8,
        solicited: bool,
        bytes: u16,
        last: bool,
        fed: u16,
    },
    Manage {
        line: u8,
        function: u8,
        tag: u8,
        ahead: u8,
        now: bool,
    },
    /// A NOP-Out that acknowledges everything, or nothing.
    Nop {
        line: u8,
        acknowledges: bool,
        ahead: u8,
        now: bool,
    },
    LogOut {
        line: u8,
        reason: u8,
        other: u8,
    },
    Feed {
        line: u8,
        bytes: u16,
    },
    Send {
        line: u8,
        bytes: u16,
    },
    Complete {
        which: u8,
        error: u8,
    },
    Acknowledge {
        which: u8,
    },
    Tick {
        ms: u16,
    },
    Join,
    Leave {
        line: u8,
    },
    ComeBack {
        line: u8,
    },
}

/// One connection.
struct Line {
    on: ConnectionIndex,
    cid: u16,
    wire: Wire,
    /// Made, and not received by the session yet.
    unfed: Vec<u8>,
}

/// See the module.
pub(crate) struct Crowd {
    bench: Bench,
    lines: Vec<Line>,
    next_cid: u16,
    over: bool,
}

impl Crowd {
    pub(crate) fn new(bench: Bench) -> Self {
        let leading = Line {
            on: ConnectionIndex::LEADING,
            cid: 0,
            wire: Wire::default(),
            unfed: Vec::new(),
        };
        Self {
            bench,
            lines: vec![leading],
            next_cid: 1,
            over: false,
        }
    }

    /// `false`: the session is over.
    pub(crate) fn perform(&mut self, step: &Step) -> bool {
        match *step {
            Step::Command { .. } => self.command(step),
            Step::DataOut { .. } => self.data_out(step),
            Step::Manage {
                line,
                function,
                tag,
                ahead,
                now,
            } => {
                let function = 1 + function % 8;
                let mut bhs = self.header(0x02, FINAL | function, 200 + tag, now, ahead);
                bhs[20..24].copy_from_slice(&u32::from(tag).to_be_bytes());
                let reference = self.exp_cmd_sn().wrapping_add(u32::from(ahead / 2));
                bhs[32..36].copy_from_slice(&reference.to_be_bytes());
                self.give(line, &bhs, 0, u16::MAX);
            }
            Step::Nop {
                line,
                acknowledges,
                ahead,
                now,
            } => {
                let mut bhs = self.header(0x00, FINAL, 150, now, ahead);
                bhs[20..24].copy_from_slice(&RESERVED_TAG.to_be_bytes());
                if acknowledges {
                    let at = usize::from(line) % self.lines.len();
                    let next = self.lines[at].wire.next_stat_sn();
                    bhs[28..32].copy_from_slice(&next.to_be_bytes());
                }
                self.give(line, &bhs, 40, u16::MAX);
            }
            Step::LogOut {
                line,
                reason,
                other,
            } => {
                let cid = self.lines[usize::from(other) % self.lines.len()].cid;
                let mut bhs = self.header(0x06, FINAL | (reason % 4), 100, true, 0);
                bhs[20..22].copy_from_slice(&cid.to_be_bytes());
                self.give(line, &bhs, 0, u16::MAX);
            }
            Step::Feed { line, bytes } => self.feed(line, usize::from(bytes)),
            Step::Send { line, bytes } => self.send(line, usize::from(bytes)),
            Step::Complete { which, error } => {
                let errors = [IoError::Medium, IoError::NoSpace, IoError::Resource];
                let error = errors.get(usize::from(error)).copied();
                self.bench.complete(usize::from(which), error);
            }
            Step::Acknowledge { which } => {
                self.bench.acknowledge(usize::from(which));
            }
            Step::Tick { ms } => {
                let ticked = self.bench.tick(Duration::from_millis(ms.into()));
                self.over |= ticked.is_err();
            }
            Step::Join => self.join(),
            Step::Leave { line } => {
                let at = usize::from(line) % self.lines.len();
                self.leave(at);
            }
            Step::ComeBack { line } => self.come_back(line),
        }
        self.bench.poll();
        self.end_what_ends();
        !self.over
    }

    fn exp_cmd_sn(&self) -> u32 {
        self.bench.session.command_window().0.0
    }

    fn header(&self, opcode: u8, flags: u8, tag: u8, now: bool, ahead: u8) -> [u8; BHS_LEN] {
        let mut bhs = [0; BHS_LEN];
        bhs[0] = opcode | if now { IMMEDIATE } else { 0 };
        bhs[1] = flags;
        bhs[16..20].copy_from_slice(&u32::from(tag).to_be_bytes());
        let cmd_sn = self.exp_cmd_sn().wrapping_add(u32::from(ahead));
        bhs[24..28].copy_from_slice(&cmd_sn.to_be_bytes());
        bhs
    }

    fn command(&mut self, step: &Step) {
        let Step::Command {
            line,
            kind,
            tag,
            blocks,
            data,
            ahead,
            flags,
            fed,
        } = *step
        else {
            unreachable!("perform() has looked");
        };
        let is_write = kind % 3 == 0;
        let is_read = kind % 3 == 1;
        let open = is_write && flags & 1 != 0;
        let attribute = [1, 1, 1, 1, 2, 3, 4, 1][usize::from(flags >> 1) % 8];
        let direction = u8::from(is_read) << 6 | u8::from(is_write) << 5;
        let first = direction | attribute | if open { 0 } else { FINAL };
        let mut bhs = self.header(0x01, first, tag, flags & 0x10 != 0, ahead);
        let bytes = u32::from(blocks) * 512;
        let expected = if is_write || is_read { bytes } else { 0 };
        bhs[20..24].copy_from_slice(&expected.to_be_bytes());
        bhs[32] = [0x2a, 0x28, 0x00][usize::from(kind % 3)];
        if kind % 3 != 2 {
            bhs[40] = blocks;
        }
        let data = if is_write { data } else { 0 };
        self.give(line, &bhs, usize::from(data), fed);
    }

    fn data_out(&mut self, step: &Step) {
        let Step::DataOut {
            line,
            of,
            tag,
            solicited,
            bytes,
            last,
            fed,
        } = *step
        else {
            unreachable!("perform() has looked");
        };
        let mut bhs = self.header(0x05, if last { FINAL } else { 0 }, tag, false, 0);
        bhs[20..24].copy_from_slice(&RESERVED_TAG.to_be_bytes());
        let mut data_sn = 0;
        let asked: Vec<(usize, usize)> = (0..self.lines.len())
            .flat_map(|at| (0..self.lines[at].wire.r2ts.len()).map(move |r2t| (at, r2t)))
            .collect();
        if solicited && !asked.is_empty() {
            let (at, which) = asked[usize::from(of) % asked.len()];
            let r2t = &mut self.lines[at].wire.r2ts[which];
            bhs[16..20].copy_from_slice(&r2t.itt.to_be_bytes());
            bhs[20..24].copy_from_slice(&r2t.ttt.to_be_bytes());
            bhs[40..44].copy_from_slice(&r2t.offset.to_be_bytes());
            data_sn = r2t.data_sn;
            r2t.offset = r2t.offset.wrapping_add(bytes.into());
            r2t.data_sn += 1;
        }
        bhs[36..40].copy_from_slice(&data_sn.to_be_bytes());
        self.give(line, &bhs, usize::from(bytes), fed);
    }

    /// Makes a PDU for a connection, of which so many bytes arrive now.
    fn give(&mut self, line: u8, bhs: &[u8; BHS_LEN], data: usize, fed: u16) {
        let at = usize::from(line) % self.lines.len();
        let mut pdu = bhs.to_vec();
        let length = u32::try_from(data).expect("small").to_be_bytes();
        pdu[5..8].copy_from_slice(&length[1..]);
        pdu.resize((BHS_LEN + data).next_multiple_of(4), 0x5c);
        pdu[BHS_LEN + data..].fill(0);
        self.lines[at].unfed.extend(pdu);
        self.feed(line, usize::from(fed));
    }

    fn feed(&mut self, line: u8, bytes: usize) {
        let at = usize::from(line) % self.lines.len();
        let on = self.lines[at].on;
        let bytes = bytes.min(self.lines[at].unfed.len());
        let piece: Vec<u8> = self.lines[at].unfed.drain(..bytes).collect();
        let mut rest = &piece[..];
        while !rest.is_empty() && !self.over {
            match self.bench.receive_on(on, &mut rest) {
                Ok(Progress::Done) => assert!(rest.is_empty(), "all was taken"),
                Ok(Progress::Paused) => self.send(line, usize::MAX),
                Err(_) => self.over = true,
            }
        }
    }

    fn send(&mut self, line: u8, bytes: usize) {
        let at = usize::from(line) % self.lines.len();
        let Line { on, wire, .. } = &mut self.lines[at];
        self.bench.send_on(*on, bytes, &mut wire.bytes);
        wire.read();
        self.bench.poll();
    }

    fn join(&mut self) {
        let room = self.lines.len() < usize::from(CONNECTIONS_MAX);
        if room && self.bench.session.has_place() && !self.bench.session.is_closing() {
            let cid = self.next_cid;
            self.next_cid += 1;
            let on = self.bench.attach_as(cid, None);
            self.lines.push(Line {
                on,
                cid,
                wire: Wire::default(),
                unfed: Vec::new(),
            });
        }
    }

    fn leave(&mut self, at: usize) {
        if self.lines.len() == 1 {
            self.over = true;
            return;
        }
        let on = self.lines.remove(at).on;
        self.bench.with(|session, env| session.leave(env, on));
    }

    /// The connection is reinstated: what it has at the devices ends first.
    fn come_back(&mut self, line: u8) {
        let at = usize::from(line) % self.lines.len();
        let on = self.lines[at].on;
        if self.bench.session.is_closing() {
            return;
        }
        self.bench.with(|session, env| session.leave(env, on));
        self.bench.session.keep_place(on);
        while !self.bench.session.has_left(on) {
            if self.bench.at_device() > 0 {
                self.bench.complete(0, None);
            } else {
                assert!(self.bench.acknowledge(0), "somebody has something of it");
            }
        }
        let cid = self.lines[at].cid;
        assert_eq!(self.bench.attach_as(cid, Some(on)), on);
        self.lines[at].wire = Wire::default();
        self.lines[at].unfed.clear();
    }

    /// What whoever drives a session does with connections that have had their last answer.
    fn end_what_ends(&mut self) {
        let mut at = 0;
        while at < self.lines.len() && !self.over {
            let on = self.lines[at].on;
            let session: &Session = &self.bench.session;
            let empty = session.transmit_queue(on).is_empty();
            let ending = session.ending(on);
            match ending.filter(|ending| ending.at_once || empty) {
                Some(ending) if ending.scope == Scope::Session => self.over = true,
                Some(_) => {
                    self.leave(at);
                    at = 0;
                }
                None => at += 1,
            }
        }
    }

    /// All connections are lost and the session ends.
    pub(crate) fn end(self) {
        self.bench.close();
    }
}
