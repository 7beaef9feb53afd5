//! A connection of `floor`: the few PDUs that the load generator sends, answered without a thought.

use crate::stream::{Outbox, receive};
use iiblockdaemon::pdu::{
    BHS_LEN, Bhs, CmdSn, DataDigest, Itt, LoginRequest, LoginResponse, LoginStatus, LogoutRequest,
    LogoutResponse, LogoutResponseCode, Opcode, R2t, Residual, ScsiCommand, ScsiDataIn,
    ScsiDataOut, ScsiResponse, ScsiResponseCode, Stage, StatSn, Tsih, Ttt, digest_to_wire,
    header_digest,
};
use std::collections::HashMap;
use std::io::{self, Write as _};
use std::net::TcpStream;
use std::ops::Range;

const DIGEST_BYTES: usize = 4;
const BLOCK_BYTES: usize = 512;
/// Data segments of login and the like, the only ones that are kept whole.
const TEXT_MAX: usize = 8192;
/// The command window; deeper than any queue of the load generator.
const WINDOW: u32 = 2048;

/// A flat piece of memory. Its first block holds what is not user data: answers to READ CAPACITY.
#[derive(Debug)]
pub struct Disk {
    bytes: Vec<u8>,
}

/// Bytes at the front of the memory that serve READ CAPACITY (16).
const PREFIX_BYTES: usize = 4096;

impl Disk {
    pub fn new(size: usize) -> Self {
        // Written, so that each page is there.
        let mut bytes: Vec<u8> = vec![1; PREFIX_BYTES + size];
        let last = u64::try_from(size / BLOCK_BYTES)
            .expect("64 bits")
            .saturating_sub(1);
        bytes[..8].copy_from_slice(&last.to_be_bytes());
        bytes[8..12].copy_from_slice(&512_u32.to_be_bytes());
        bytes[12..32].fill(0);
        Self { bytes }
    }

    fn range(lba: u64, length: usize) -> Option<Range<usize>> {
        let start = usize::try_from(lba)
            .ok()?
            .checked_mul(BLOCK_BYTES)?
            .checked_add(PREFIX_BYTES)?;
        Some(start..start.checked_add(length)?)
    }
}

/// A write that has not all of its data.
#[derive(Clone, Copy, Debug)]
struct Write {
    place: usize,
    received: usize,
    expected: usize,
    command: ScsiCommand,
}

#[derive(Debug)]
enum Expect {
    Header {
        have: usize,
    },
    /// Payload to `place` of the disk, or to `text`.
    Payload {
        place: Option<usize>,
        missing: usize,
        then: usize,
        bhs: Bhs,
    },
    /// Padding and digest.
    Skip {
        missing: usize,
        bhs: Bhs,
    },
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    outbox: Outbox,
    header: [u8; BHS_LEN + DIGEST_BYTES],
    expect: Expect,
    text: Vec<u8>,
    writes: HashMap<Itt, Write>,
    header_digest: bool,
    data_digest: bool,
    stat_sn: StatSn,
    exp_cmd_sn: CmdSn,
    digest: DataDigest,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Connection {
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            outbox: Outbox::default(),
            header: [0; BHS_LEN + DIGEST_BYTES],
            expect: Expect::Header { have: 0 },
            text: Vec::new(),
            writes: HashMap::new(),
            header_digest: false,
            data_digest: false,
            stat_sn: StatSn(1),
            exp_cmd_sn: CmdSn(1),
            digest: DataDigest::new(),
        }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn wants_write(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Receives once, answers, sends once.
    pub fn turn(&mut self, scratch: &mut [u8], disk: &mut Disk) -> io::Result<()> {
        if let Some(count) = receive(&self.stream, scratch)? {
            self.take(&scratch[..count], disk)?;
        }
        let mut stream = &self.stream;
        self.outbox
            .send(&disk.bytes, |slices| stream.write_vectored(slices))
    }

    fn take(&mut self, mut bytes: &[u8], disk: &mut Disk) -> io::Result<()> {
        let header_bytes = |it: &Self| BHS_LEN + if it.header_digest { DIGEST_BYTES } else { 0 };
        loop {
            match &mut self.expect {
                Expect::Header { have } => {
                    if bytes.is_empty() {
                        return Ok(());
                    }
                    let have_now = *have;
                    let wanted = header_bytes(self);
                    let step = bytes.len().min(wanted - have_now);
                    self.header[have_now..have_now + step].copy_from_slice(&bytes[..step]);
                    bytes = &bytes[step..];
                    self.expect = Expect::Header {
                        have: have_now + step,
                    };
                    if have_now + step == wanted {
                        let bhs = self.header.first_chunk().expect("longer than a header");
                        self.begin(Bhs::new(*bhs))?;
                    }
                }
                Expect::Payload {
                    place,
                    missing,
                    then,
                    bhs,
                } => {
                    let step = bytes.len().min(*missing);
                    let (now, rest) = bytes.split_at(step);
                    bytes = rest;
                    match place {
                        Some(place) => {
                            let range = *place..*place + step;
                            let target = disk.bytes.get_mut(range).ok_or_else(|| bad("range"))?;
                            target.copy_from_slice(now);
                            *place += step;
                        }
                        None => self.text.extend_from_slice(now),
                    }
                    *missing -= step;
                    let is_whole = *missing == 0;
                    let (then, bhs) = (*then, *bhs);
                    if self.data_digest {
                        self.digest.update(now);
                    }
                    if !is_whole {
                        return Ok(());
                    }
                    self.expect = Expect::Skip { missing: then, bhs };
                }
                Expect::Skip { missing, bhs } => {
                    let step = bytes.len().min(*missing);
                    bytes = &bytes[step..];
                    *missing -= step;
                    if *missing > 0 {
                        return Ok(());
                    }
                    let bhs = *bhs;
                    std::hint::black_box(
                        std::mem::replace(&mut self.digest, DataDigest::new()).finish(),
                    );
                    self.expect = Expect::Header { have: 0 };
                    self.act(&bhs, disk)?;
                }
            }
        }
    }

    /// A header is whole: where its data segment goes.
    fn begin(&mut self, bhs: Bhs) -> io::Result<()> {
        if self.header_digest {
            std::hint::black_box(header_digest(bhs.bytes()));
        }
        let length = usize::try_from(bhs.data_segment_length()).expect("24 bits fit");
        if length == 0 {
            self.expect = Expect::Skip { missing: 0, bhs };
            return Ok(());
        }
        let place = match bhs.opcode() {
            Ok(Opcode::ScsiCommand) => {
                let command = ScsiCommand::parse(&bhs).map_err(|_| bad("command"))?;
                Some(
                    Disk::range(lba(&command), 0)
                        .ok_or_else(|| bad("range"))?
                        .start,
                )
            }
            Ok(Opcode::ScsiDataOut) => {
                let out = ScsiDataOut::parse(&bhs);
                let write = self.writes.get(&out.itt).ok_or_else(|| bad("tag"))?;
                Some(write.place + usize::try_from(out.buffer_offset).expect("32 bits fit"))
            }
            _ if length <= TEXT_MAX => None,
            _ => return Err(bad("text too long")),
        };
        let digest = if self.data_digest { DIGEST_BYTES } else { 0 };
        let padding = length.next_multiple_of(4) - length;
        self.expect = Expect::Payload {
            place,
            missing: length,
            then: padding + digest,
            bhs,
        };
        Ok(())
    }

    fn act(&mut self, bhs: &Bhs, disk: &Disk) -> io::Result<()> {
        let received = usize::try_from(bhs.data_segment_length()).expect("24 bits fit");
        match bhs.opcode() {
            Ok(Opcode::ScsiCommand) => {
                self.exp_cmd_sn = bhs.cmd_sn().next();
                let command = ScsiCommand::parse(bhs).map_err(|_| bad("command"))?;
                if command.write {
                    self.write(command, received)
                } else {
                    self.read(&command, disk)
                }
            }
            Ok(Opcode::ScsiDataOut) => {
                let out = ScsiDataOut::parse(bhs);
                let write = self.writes.get_mut(&out.itt).ok_or_else(|| bad("tag"))?;
                write.received += received;
                let write = *write;
                if out.final_ {
                    self.next_step(write)
                } else {
                    Ok(())
                }
            }
            Ok(Opcode::LoginRequest) => self.login(bhs),
            Ok(Opcode::LogoutRequest) => self.logout(bhs),
            _ => Err(bad("opcode")),
        }
    }

    fn read(&mut self, command: &ScsiCommand, disk: &Disk) -> io::Result<()> {
        let length = usize::try_from(command.expected_data_transfer_length).expect("32 bits fit");
        let range = match command.cdb[0] {
            0x88 => Disk::range(lba(command), length).ok_or_else(|| bad("range"))?,
            0x9e => 0..length.min(32),
            _ if length == 0 => 0..0,
            _ => return Err(bad("operation code")),
        };
        if range.is_empty() {
            return self.respond(command.itt);
        }
        let pdu = ScsiDataIn {
            final_: true,
            acknowledge: false,
            status: Some((0, Residual::None)),
            lun: Default::default(),
            itt: command.itt,
            ttt: Ttt::RESERVED,
            stat_sn: self.take_stat_sn(),
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.exp_cmd_sn.plus(WINDOW),
            data_sn: 0,
            buffer_offset: 0,
        };
        let payload = disk.bytes.get(range.clone()).ok_or_else(|| bad("range"))?;
        self.push(pdu.emit(), range.len());
        self.outbox.push_payload(range);
        if self.data_digest {
            let mut digest = DataDigest::new();
            digest.update(payload);
            self.outbox.push_headers(&digest_to_wire(digest.finish()));
        }
        Ok(())
    }

    fn write(&mut self, command: ScsiCommand, received: usize) -> io::Result<()> {
        let place = Disk::range(lba(&command), 0)
            .ok_or_else(|| bad("range"))?
            .start;
        let expected = usize::try_from(command.expected_data_transfer_length).expect("32 bits fit");
        if received == expected {
            return self.respond(command.itt);
        }
        let write = Write {
            place,
            received,
            expected,
            command,
        };
        self.writes.insert(command.itt, write);
        if command.final_ {
            self.next_step(write)
        } else {
            Ok(())
        }
    }

    /// A sequence is over: ask for the rest, or answer.
    fn next_step(&mut self, write: Write) -> io::Result<()> {
        let itt = write.command.itt;
        if write.received >= write.expected {
            self.writes.remove(&itt);
            return self.respond(itt);
        }
        let number = |size: usize| u32::try_from(size).expect("it came from 32 bits");
        let pdu = R2t {
            lun: write.command.lun,
            itt,
            ttt: Ttt(1),
            stat_sn: self.stat_sn,
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.exp_cmd_sn.plus(WINDOW),
            r2t_sn: 0,
            buffer_offset: number(write.received),
            desired_length: number(write.expected - write.received),
        };
        self.push(pdu.emit(), 0);
        Ok(())
    }

    fn respond(&mut self, itt: Itt) -> io::Result<()> {
        let pdu = ScsiResponse {
            response: ScsiResponseCode::CompletedAtTarget,
            status: 0,
            status_qualifier: 0,
            residual: Residual::None,
            bidi_residual: Residual::None,
            itt,
            snack_tag: 0,
            stat_sn: self.take_stat_sn(),
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.exp_cmd_sn.plus(WINDOW),
            exp_data_sn: 0,
        };
        self.push(pdu.emit(), 0);
        Ok(())
    }

    fn login(&mut self, bhs: &Bhs) -> io::Result<()> {
        let request = LoginRequest::parse(bhs).map_err(|_| bad("login"))?;
        let text = std::mem::take(&mut self.text);
        let text = String::from_utf8(text).map_err(|_| bad("text"))?;
        let mut answer = String::new();
        let (mut header, mut data) = (self.header_digest, self.data_digest);
        for (key, value) in text.split('\0').filter_map(|pair| pair.split_once('=')) {
            let first = value.split(',').next().unwrap_or(value);
            match key {
                "InitiatorName" | "TargetName" | "SessionType" | "InitiatorAlias" => continue,
                "HeaderDigest" => header = first == "CRC32C",
                "DataDigest" => data = first == "CRC32C",
                _ => {}
            }
            let value = if key == "MaxRecvDataSegmentLength" {
                "262144"
            } else {
                first
            };
            answer.push_str(&format!("{key}={value}\0"));
        }
        self.exp_cmd_sn = request.cmd_sn;
        let is_last = request.transit && request.nsg == Stage::FullFeaturePhase;
        let response = LoginResponse {
            transit: request.transit,
            continue_: false,
            csg: request.csg,
            nsg: request.nsg,
            version_max: 0,
            version_active: 0,
            isid: request.isid,
            tsih: Tsih(u16::from(is_last)),
            itt: request.itt,
            stat_sn: self.take_stat_sn(),
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.exp_cmd_sn.plus(WINDOW),
            status: LoginStatus::SUCCESS,
        };
        self.push(response.emit(), answer.len());
        answer.push_str(&"\0\0\0"[..answer.len().next_multiple_of(4) - answer.len()]);
        self.outbox.push_headers(answer.as_bytes());
        if is_last {
            (self.header_digest, self.data_digest) = (header, data);
        }
        Ok(())
    }

    fn logout(&mut self, bhs: &Bhs) -> io::Result<()> {
        let request = LogoutRequest::parse(bhs).map_err(|_| bad("logout"))?;
        let response = LogoutResponse {
            response: LogoutResponseCode::Closed,
            itt: request.itt,
            stat_sn: self.take_stat_sn(),
            exp_cmd_sn: self.exp_cmd_sn.next(),
            max_cmd_sn: self.exp_cmd_sn.plus(WINDOW),
            time2wait: 0,
            time2retain: 0,
        };
        self.push(response.emit(), 0);
        Ok(())
    }

    fn push(&mut self, bhs: Bhs, data_bytes: usize) {
        let length = u32::try_from(data_bytes).expect("a data segment has 24 bits");
        let bhs = bhs.with_lengths(0, length);
        self.outbox.push_headers(bhs.bytes());
        if self.header_digest {
            self.outbox
                .push_headers(&digest_to_wire(header_digest(bhs.bytes())));
        }
    }

    fn take_stat_sn(&mut self) -> StatSn {
        let stat_sn = self.stat_sn;
        self.stat_sn = stat_sn.next();
        stat_sn
    }
}

/// LOGICAL BLOCK ADDRESS of a 16-byte CDB (SBC-4).
fn lba(command: &ScsiCommand) -> u64 {
    let bytes = command.cdb[2..10].try_into().expect("eight bytes");
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use iiblockdaemon::testing::Config;
    use iiblockdaemon::testing::tcp::TcpInitiator;
    use std::net::{Ipv4Addr, TcpListener};
    use std::time::Duration;

    /// The strict initiator writes and reads back in every data phase.
    #[test]
    fn data_come_back() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let mut disk = Disk::new(1 << 20);
            let mut scratch = vec![0; 256 * 1024];
            for _ in 0..2 {
                let mut connection = Connection::new(listener.accept().unwrap().0);
                while connection.turn(&mut scratch, &mut disk).is_ok() {}
            }
        });
        for digests in [false, true] {
            let config = Config::new("iqn.i", "iqn.t").with_digests(digests, digests);
            let timeout = Duration::from_secs(10);
            let mut it = TcpInitiator::connect(address, config, timeout).unwrap();
            assert_eq!(it.read_capacity(0).unwrap(), (2048, 512));
            for blocks in [1_u32, 8, 128, 200, 512] {
                let size = usize::try_from(blocks * 512).unwrap();
                let data: Vec<u8> = (1..=250).cycle().take(size).collect();
                it.write_blocks(0, 3, &data, 512).unwrap();
                assert!(
                    it.read_blocks(0, 3, blocks, 512).unwrap() == data,
                    "{blocks}"
                );
            }
            it.logout().unwrap();
        }
        server.join().unwrap();
    }
}
