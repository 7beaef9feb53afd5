//! One connection of the load generator: it keeps `depth` commands outstanding and counts their
//! ends.
//!
//! A turn receives once, takes every PDU in the bytes, refills the queue and sends once. Payloads
//! are dropped; of a long one whatever is still in the kernel is dropped there. Header digests are
//! made for what is sent; digests of what is received are skipped, the strict initiator of the
//! tests judges them.

use crate::line::{Flow, Line};
use crate::stream::Outbox;
use hdrhistogram::Histogram;
use iiblockdaemon::pdu::{
    BHS_LEN, Bhs, CmdSn, DataDigest, Itt, LunField, NopOut, Opcode, R2t, ScsiCommand, ScsiDataOut,
    StatSn, TaskAttribute, Ttt, digest_to_wire, header_digest,
};
use iiblockdaemon::testing::tcp::{self, Failure, TcpInitiator, read_16, write_16};
use iiblockdaemon::testing::{Config, Negotiated};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

const DIGEST_BYTES: usize = 4;
/// From this many missing bytes on, the rest of a payload is thrown away inside the kernel.
const DISCARD_MIN: usize = 16 * 1024;
/// The S bit of a Data-In (RFC 7143 §11.7.3).
const DATA_IN_STATUS: u8 = 0x01;
/// Attempts to find a free slot, tag or block never loop longer than the queue is deep.
pub const DEPTH_MAX: usize = 1024;
/// No answer of a target takes longer.
pub const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// What a session does.
#[derive(Clone, Debug)]
pub struct Work {
    pub lun: u8,
    /// Bytes of one command: a multiple of the unit's block size.
    pub io_bytes: u32,
    /// Commands outstanding: 1 to [`DEPTH_MAX`].
    pub depth: usize,
    pub reads_percent: u8,
    pub sequential: bool,
    /// The part of the unit that is used, in bytes from its start.
    pub span_bytes: u64,
    pub header_digest: bool,
    pub data_digest: bool,
}

/// Why a session cannot go on.
#[derive(Debug)]
pub enum Trouble {
    Io(io::Error),
    Setup(Failure),
    /// A command ended with another status than GOOD.
    Status(u8),
    /// The target sent something that this client does not speak.
    Protocol(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "socket: {error}"),
            Self::Setup(failure) => write!(f, "set-up: {failure}"),
            Self::Status(status) => write!(f, "a command ended with status {status:#04x}"),
            Self::Protocol(what) => write!(f, "the target sent {what}"),
        }
    }
}

impl std::error::Error for Trouble {}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Setup(failure)
    }
}

/// What finished commands are counted in.
#[derive(Debug)]
pub struct Tally {
    pub ios: u64,
    /// Nanoseconds from the turn that sent a command to the turn that saw its end.
    pub latency_ns: Histogram<u64>,
}

/// The longest latency that is told from longer ones, in nanoseconds.
const LATENCY_NS_MAX: u64 = 10_000_000_000;
/// Digits that a latency keeps: within 1 %.
const LATENCY_DIGITS: u8 = 2;

impl Default for Tally {
    fn default() -> Self {
        let latency_ns = Histogram::new_with_bounds(100, LATENCY_NS_MAX, LATENCY_DIGITS)
            .expect("the bounds are constants in order");
        Self { ios: 0, latency_ns }
    }
}

/// A command's place in the queue; its tag is the index.
#[derive(Clone, Copy, Default, Debug)]
struct Slot {
    sent_ns: u64,
    outstanding: bool,
}

/// Where the next received byte belongs.
#[derive(Clone, Copy, Debug)]
enum Expect {
    /// `have` bytes of header (and header digest) are in the session's buffer.
    Header { have: usize },
    /// Payload, padding and digest to skip, then the end of a command if that PDU carried its
    /// status.
    Payload { missing: usize, ends: Option<Itt> },
}

/// One connection under load.
#[derive(Debug)]
pub struct Session {
    line: Line,
    work: Work,
    negotiated: Negotiated,
    block_bytes: u32,
    cmd_sn: CmdSn,
    exp_stat_sn: StatSn,
    max_cmd_sn: CmdSn,
    slots: Vec<Slot>,
    free: Vec<u32>,
    header: [u8; BHS_LEN + DIGEST_BYTES],
    expect: Expect,
    outbox: Outbox,
    /// Digests of parts of the shared payload that were sent before.
    digests: Vec<(Range<usize>, [u8; DIGEST_BYTES])>,
    random: u64,
    next_io: u64,
    stopping: bool,
    /// It has had its first turn.
    is_begun: bool,
}

/// How a session of this program logs in.
pub fn config(initiator: &str, target: &str, index: u16, work: &Work) -> Config {
    Config {
        strict_fields: false,
        ..Config::new(initiator, target)
    }
    .with_digests(work.header_digest, work.data_digest)
    .with_isid_qualifier(index)
}

impl Session {
    /// Logs in and makes the unit ready. `index` tells sessions of one run apart.
    pub fn connect(
        address: SocketAddr,
        initiator: &str,
        target: &str,
        index: u16,
        work: Work,
    ) -> Result<Self, Trouble> {
        let config = config(initiator, target, index, &work);
        let login = TcpInitiator::open(address, config, LOGIN_TIMEOUT)?;
        Self::begin(login, index, work, Line::Tcp)
    }

    /// The same over a flow of a stack in this process, which stands.
    pub fn over(
        flow: Flow,
        initiator: &str,
        target: &str,
        index: u16,
        work: Work,
    ) -> Result<Self, Trouble> {
        let config = config(initiator, target, index, &work);
        let login = TcpInitiator::over(flow, config, LOGIN_TIMEOUT);
        Self::begin(login, index, work, Line::Flow)
    }

    fn begin<L: tcp::Line>(
        mut login: TcpInitiator<L>,
        index: u16,
        work: Work,
        line: impl FnOnce(L) -> Line,
    ) -> Result<Self, Trouble> {
        login.login()?;
        login.clear_unit_attentions(work.lun)?;
        let (blocks, block_bytes) = login.read_capacity(work.lun)?;
        let capacity = blocks.saturating_mul(u64::from(block_bytes));
        let io_bytes = u64::from(work.io_bytes);
        if work.span_bytes > capacity || work.span_bytes < io_bytes {
            return Err(Trouble::Protocol(format!(
                "a capacity of {capacity} bytes; the run uses {} in pieces of {io_bytes}",
                work.span_bytes
            )));
        }
        let (stream, numbers, negotiated) = login.into_parts()?;
        assert!(
            (1..=DEPTH_MAX).contains(&work.depth),
            "the command line bounds the depth"
        );
        let depth = u32::try_from(work.depth).expect("bounded by DEPTH_MAX");
        let ios = work.span_bytes / io_bytes;
        Ok(Self {
            line: line(stream),
            negotiated,
            block_bytes,
            cmd_sn: numbers.cmd_sn,
            exp_stat_sn: numbers.exp_stat_sn,
            max_cmd_sn: numbers.max_cmd_sn,
            slots: vec![Slot::default(); work.depth],
            free: (0..depth).rev().collect(),
            header: [0; BHS_LEN + DIGEST_BYTES],
            expect: Expect::Header { have: 0 },
            outbox: Outbox::default(),
            digests: Vec::new(),
            random: (u64::from(index) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            // Sequential sessions begin at places of their own.
            next_io: ios / 16 * (u64::from(index) % 16),
            stopping: false,
            is_begun: false,
            work,
        })
    }

    pub fn line(&self) -> &Line {
        &self.line
    }

    pub fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// Sends no further commands.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// No command is outstanding.
    pub fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// The socket was full; the rest goes when it can be written.
    pub fn wants_write(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Receives once, takes what came, refills the queue and sends. Returns whether anything came.
    pub fn turn(
        &mut self,
        now_ns: impl Fn() -> u64,
        scratch: &mut [u8],
        payload: &[u8],
        tally: &mut Tally,
    ) -> Result<bool, Trouble> {
        if !self.line.may_receive() && self.outbox.is_empty() && self.is_begun {
            return Ok(false);
        }
        self.is_begun = true;
        let came = self.receive(&now_ns, scratch, payload, tally)?;
        self.refill(payload, now_ns());
        let line = &mut self.line;
        self.outbox.send(payload, |slices| line.send(slices))?;
        Ok(came)
    }

    /// Receives once and takes what came. Returns whether anything did.
    fn receive(
        &mut self,
        now_ns: &impl Fn() -> u64,
        scratch: &mut [u8],
        payload: &[u8],
        tally: &mut Tally,
    ) -> Result<bool, Trouble> {
        if let Expect::Payload { missing, .. } = &mut self.expect
            && *missing >= DISCARD_MIN
        {
            let limit = (*missing).min(scratch.len());
            if let Some(discarded) = self.line.discard(&mut scratch[..limit])? {
                *missing -= discarded.unwrap_or(0);
                if let Some(0..) = discarded {
                    self.take(&[], payload, now_ns(), tally)?;
                }
                return Ok(discarded.is_some());
            }
        }
        // The line is lent out while its bytes are taken.
        let mut line = std::mem::replace(&mut self.line, Line::Lent);
        let mut result = Ok(());
        let received = line.receive(scratch, |bytes| {
            if result.is_ok() {
                result = self.take(bytes, payload, now_ns(), tally);
            }
        });
        self.line = line;
        result?;
        Ok(received?.is_some())
    }

    fn take(
        &mut self,
        mut bytes: &[u8],
        payload: &[u8],
        now: u64,
        tally: &mut Tally,
    ) -> Result<(), Trouble> {
        let header_bytes = BHS_LEN
            + if self.negotiated.header_digest {
                DIGEST_BYTES
            } else {
                0
            };
        loop {
            match &mut self.expect {
                Expect::Header { have } => {
                    if bytes.is_empty() {
                        return Ok(());
                    }
                    let step = bytes.len().min(header_bytes - *have);
                    self.header[*have..*have + step].copy_from_slice(&bytes[..step]);
                    *have += step;
                    bytes = &bytes[step..];
                    if *have == header_bytes {
                        let bhs = self.header.first_chunk().expect("longer than a header");
                        self.expect = self.on_header(&Bhs::new(*bhs), payload)?;
                    }
                }
                Expect::Payload { missing, ends } => {
                    let step = bytes.len().min(*missing);
                    *missing -= step;
                    bytes = &bytes[step..];
                    if *missing > 0 {
                        return Ok(());
                    }
                    let ends = *ends;
                    self.expect = Expect::Header { have: 0 };
                    if let Some(itt) = ends {
                        self.finish(itt, now, tally)?;
                    }
                }
            }
        }
    }

    fn on_header(&mut self, bhs: &Bhs, payload: &[u8]) -> Result<Expect, Trouble> {
        let length = bhs.padded_data_length();
        let mut missing = usize::try_from(length).expect("24 bits fit");
        if missing > 0 && self.negotiated.data_digest {
            missing += DIGEST_BYTES;
        }
        if bhs.max_cmd_sn().is_after(self.max_cmd_sn) {
            self.max_cmd_sn = bhs.max_cmd_sn();
        }
        let mut ends = None;
        match bhs.opcode() {
            Ok(Opcode::ScsiDataIn) => {
                if bhs.bytes()[1] & DATA_IN_STATUS != 0 {
                    ends = Some(self.on_status(bhs)?);
                }
            }
            Ok(Opcode::ScsiResponse) => ends = Some(self.on_status(bhs)?),
            Ok(Opcode::R2t) => self.on_r2t(&R2t::parse(bhs), payload)?,
            Ok(Opcode::NopIn) => {
                if !bhs.target_transfer_tag().is_reserved() {
                    self.answer_ping(bhs.lun(), bhs.target_transfer_tag());
                }
            }
            other => return Err(Trouble::Protocol(format!("{other:?}"))),
        }
        Ok(Expect::Payload { missing, ends })
    }

    /// Status stands at the same place in a Data-In and in a SCSI Response.
    fn on_status(&mut self, bhs: &Bhs) -> Result<Itt, Trouble> {
        self.exp_stat_sn = bhs.stat_sn().next();
        match bhs.bytes()[3] {
            0 => Ok(bhs.initiator_task_tag()),
            status => Err(Trouble::Status(status)),
        }
    }

    fn finish(&mut self, itt: Itt, now: u64, tally: &mut Tally) -> Result<(), Trouble> {
        let slot = usize::try_from(itt.0)
            .ok()
            .and_then(|index| self.slots.get_mut(index));
        let Some(slot) = slot.filter(|slot| slot.outstanding) else {
            return Err(Trouble::Protocol(format!(
                "a status for {itt:?}, which is not in use"
            )));
        };
        slot.outstanding = false;
        self.free.push(itt.0);
        tally.ios += 1;
        tally
            .latency_ns
            .saturating_record(now.saturating_sub(slot.sent_ns));
        Ok(())
    }

    /// Fills the queue as far as the command window allows.
    fn refill(&mut self, payload: &[u8], now: u64) {
        while !self.stopping && !self.cmd_sn.is_after(self.max_cmd_sn) {
            let Some(index) = self.free.pop() else { break };
            if let Some(slot) = usize::try_from(index)
                .ok()
                .and_then(|i| self.slots.get_mut(i))
            {
                *slot = Slot {
                    sent_ns: now,
                    outstanding: true,
                };
            }
            self.send_command(Itt(index), payload);
        }
    }

    fn send_command(&mut self, itt: Itt, payload: &[u8]) {
        let random = self.draw();
        let io_bytes = self.work.io_bytes;
        let ios = self.work.span_bytes / u64::from(io_bytes);
        let io = if self.work.sequential {
            self.next_io += 1;
            self.next_io % ios
        } else {
            random % ios
        };
        let blocks = io_bytes / self.block_bytes;
        let lba = io * u64::from(blocks);
        // The upper half of the random number is independent enough of the lower one for this.
        let read = (random >> 32) % 100 < u64::from(self.work.reads_percent);
        let (immediate, unsolicited) = if read { (0, 0) } else { self.unsolicited() };
        let bhs = ScsiCommand {
            immediate: false,
            final_: unsolicited == 0,
            read,
            write: !read,
            attribute: TaskAttribute::Simple,
            priority: 0,
            lun: self.lun(),
            itt,
            expected_data_transfer_length: io_bytes,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            cdb: if read {
                read_16(lba, blocks)
            } else {
                write_16(lba, blocks, false)
            },
        };
        self.cmd_sn = self.cmd_sn.next();
        self.push(bhs.emit(), 0..immediate, payload);
        self.send_burst(
            itt,
            Ttt::RESERVED,
            immediate..immediate + unsolicited,
            payload,
        );
    }

    /// How many bytes of a write go as immediate data and as unsolicited Data-Out (RFC 7143
    /// §4.2.5.2).
    fn unsolicited(&self) -> (usize, usize) {
        let keys = &self.negotiated;
        let first_burst = keys.first_burst_length.min(self.work.io_bytes);
        let segment = keys.target_max_recv_data_segment_length;
        let immediate = if keys.immediate_data {
            first_burst.min(segment)
        } else {
            0
        };
        let rest = if keys.initial_r2t {
            0
        } else {
            first_burst - immediate
        };
        let size = |bytes: u32| usize::try_from(bytes).expect("24 bits fit");
        (size(immediate), size(rest))
    }

    fn on_r2t(&mut self, r2t: &R2t, payload: &[u8]) -> Result<(), Trouble> {
        let start = usize::try_from(r2t.buffer_offset).unwrap_or(usize::MAX);
        let length = usize::try_from(r2t.desired_length).unwrap_or(usize::MAX);
        let end = start.saturating_add(length);
        if end > payload.len() {
            return Err(Trouble::Protocol(format!(
                "an R2T beyond the command: {r2t:?}"
            )));
        }
        self.send_burst(r2t.itt, r2t.ttt, start..end, payload);
        Ok(())
    }

    fn send_burst(&mut self, itt: Itt, ttt: Ttt, range: Range<usize>, payload: &[u8]) {
        let segment = usize::try_from(self.negotiated.target_max_recv_data_segment_length)
            .expect("24 bits fit")
            .max(1);
        let mut data_sn = 0;
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min(start + segment);
            let bhs = ScsiDataOut {
                final_: end == range.end,
                lun: self.lun(),
                itt,
                ttt,
                exp_stat_sn: self.exp_stat_sn,
                data_sn,
                buffer_offset: u32::try_from(start).expect("within one command"),
            };
            self.push(bhs.emit(), start..end, payload);
            data_sn += 1;
            start = end;
        }
    }

    fn answer_ping(&mut self, lun: LunField, ttt: Ttt) {
        let bhs = NopOut {
            immediate: true,
            lun,
            itt: Itt::RESERVED,
            ttt,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
        };
        self.push(bhs.emit(), 0..0, &[]);
    }

    /// Queues one PDU whose data segment is this part of the shared payload.
    fn push(&mut self, bhs: Bhs, range: Range<usize>, payload: &[u8]) {
        let length = u32::try_from(range.len()).expect("a data segment has 24 bits");
        let bhs = bhs.with_lengths(0, length);
        self.outbox.push_headers(bhs.bytes());
        if self.negotiated.header_digest {
            self.outbox
                .push_headers(&digest_to_wire(header_digest(bhs.bytes())));
        }
        if range.is_empty() {
            return;
        }
        // Commands are whole blocks and segments of even size: there is nothing to pad.
        assert!(range.len().is_multiple_of(4), "no padding in this dialect");
        self.outbox.push_payload(range.clone());
        if self.negotiated.data_digest {
            let digest = self.payload_digest(range, payload);
            self.outbox.push_headers(&digest);
        }
    }

    /// All writes send the same bytes, so each part is digested once.
    fn payload_digest(&mut self, range: Range<usize>, payload: &[u8]) -> [u8; DIGEST_BYTES] {
        if let Some((_, digest)) = self.digests.iter().find(|(known, _)| *known == range) {
            return *digest;
        }
        let mut digest = DataDigest::new();
        digest.update(&payload[range.clone()]);
        let digest = digest_to_wire(digest.finish());
        self.digests.push((range, digest));
        digest
    }

    fn lun(&self) -> LunField {
        LunField([0, self.work.lun, 0, 0, 0, 0, 0, 0])
    }

    /// xorshift64*: cheap, and good enough to spread blocks.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
