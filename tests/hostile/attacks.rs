//! What hostile peers do. Each attack returns when it is over; it asserts what the attacker sees.

use super::random::Random;
use super::{PATIENCE, STRANGERS_MAX, TARGET, TIMEOUT, honest};
use iiblockdaemon::pdu::{BHS_LEN, Bhs};
use iiblockdaemon::reactor::clock;
use iiblockdaemon::testing::tcp::{TcpInitiator, read_16, write_16};
use iiblockdaemon::testing::{Command, Config, DataOut, Direction, Initiator, RawPdu, Scsi};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub(crate) type Attack = fn(SocketAddr, &mut Random);

pub(crate) const ATTACKS: &[(&str, Attack)] = &[
    ("random bytes", random_bytes),
    ("truncated logins", truncated_logins),
    ("huge lengths", huge_lengths),
    ("one byte at a time", one_byte_at_a_time),
    (
        "garbage in full feature phase",
        garbage_in_full_feature_phase,
    ),
    ("almost valid PDUs", almost_valid_pdus),
    ("10,000 connections", ten_thousand_connections),
    ("silent connections", silent_connections),
    ("refused logins that stay", refused_logins_that_stay),
    ("a peer that never reads", never_reads),
    ("a peer that never sends its data", never_sends_its_data),
    ("immediate NOP-Outs", nop_flood),
    ("pings up to the brim", pings_up_to_the_brim),
    ("rejects", reject_flood),
    ("text", text_flood),
    ("data without end", data_without_end),
];

/// Logins that an honest initiator tries in a crowd.
const ATTEMPTS_MAX: u32 = 20;

const IMMEDIATE: u8 = 0x40;
const FINAL: u8 = 0x80;
const NOP_OUT: u8 = 0x00;
const SCSI_COMMAND: u8 = 0x01;
const TASK_MANAGEMENT_REQUEST: u8 = 0x02;
const LOGIN_REQUEST: u8 = 0x03;
const TEXT_REQUEST: u8 = 0x04;
const SCSI_DATA_OUT: u8 = 0x05;
const SNACK: u8 = 0x10;

fn config(qualifier: u16) -> Config {
    Config::new("iqn.2026-11.io.iiblockdaemon:hostile", TARGET).with_isid_qualifier(qualifier)
}

fn log_in(address: SocketAddr, config: Config) -> TcpInitiator {
    let mut it = TcpInitiator::connect(address, config, TIMEOUT).expect("a login");
    it.clear_unit_attentions(0).expect("the unit is ready");
    it
}

fn bytes(random: &mut Random, count: u64) -> Vec<u8> {
    (0..count).map(|_| random.next().to_be_bytes()[7]).collect()
}

fn size(count: u64) -> usize {
    usize::try_from(count).expect("small")
}

/// Drops what comes until the other side ends the connection. `false`: it did not within
/// `patience`.
fn is_closed_within(stream: &TcpStream, patience: Duration) -> bool {
    let until = clock::now() + patience;
    let mut scratch = vec![0; 64 * 1024];
    stream.set_nonblocking(false).expect("a socket");
    loop {
        let left = until.saturating_duration_since(clock::now());
        if left.is_zero() {
            return false;
        }
        stream.set_read_timeout(Some(left)).expect("a socket");
        match (&*stream).read(&mut scratch) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return true,
        }
    }
}

/// Sends everything, dropping what comes meanwhile. `false`: the other side ended the connection.
fn push_through(stream: &TcpStream, mut bytes: &[u8]) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    let mut scratch = vec![0; 256 * 1024];
    let patience = Timespec::try_from(TIMEOUT).expect("seconds");
    while !bytes.is_empty() {
        let mut fds = [PollFd::new(stream, PollFlags::IN | PollFlags::OUT)];
        let ready = poll(&mut fds, Some(&patience)).expect("a socket");
        assert!(ready > 0, "the daemon neither reads nor writes");
        let ready = fds[0].revents();
        if ready.contains(PollFlags::OUT) {
            match (&*stream).write(bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
        if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            match (&*stream).read(&mut scratch) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
    }
    true
}

/// A header of which only these fields are set.
fn header(opcode: u8, flags: u8, data: usize, itt: u32) -> [u8; BHS_LEN] {
    let mut bhs = [0; BHS_LEN];
    bhs[0] = opcode;
    bhs[1] = flags;
    let data = u32::try_from(data).expect("small").to_be_bytes();
    bhs[5..8].copy_from_slice(&data[1..]);
    bhs[16..20].copy_from_slice(&itt.to_be_bytes());
    bhs[20..24].copy_from_slice(&u32::MAX.to_be_bytes());
    bhs
}

fn first_login_bytes(qualifier: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    Initiator::new(config(qualifier)).poll_transmit(&mut bytes);
    bytes
}

fn random_bytes(address: SocketAddr, random: &mut Random) {
    for _ in 0..300 {
        let stream = TcpStream::connect(address).expect("a connection");
        let count = 1 + random.below(4096);
        let junk = bytes(random, count);
        push_through(&stream, &junk);
    }
}

fn truncated_logins(address: SocketAddr, random: &mut Random) {
    let login = first_login_bytes(100);
    for _ in 0..300 {
        let stream = TcpStream::connect(address).expect("a connection");
        let part = size(random.below(login.len() as u64));
        push_through(&stream, &login[..part]);
    }
}

fn huge_lengths(address: SocketAddr, _: &mut Random) {
    for (ahs, data) in [
        (0, 0x00ff_ffff),
        (255, 0),
        (255, 0x00ff_ffff),
        (0, 0x0001_0000),
    ] {
        let mut bhs = header(LOGIN_REQUEST | IMMEDIATE, 0x87, data, 1);
        bhs[4] = ahs;
        let stream = TcpStream::connect(address).expect("a connection");
        push_through(&stream, &bhs);
        // Either at once, or because the rest never comes.
        assert!(is_closed_within(&stream, PATIENCE), "{ahs} {data}");
        let it = log_in(address, config(101));
        let mut bhs = header(SCSI_COMMAND, FINAL, data, 0x7000_0000);
        bhs[4] = ahs;
        if data > 262_144 {
            push_through(it.stream(), &bhs);
            assert!(is_closed_within(it.stream(), PATIENCE), "{ahs} {data}");
        }
    }
}

fn one_byte_at_a_time(address: SocketAddr, _: &mut Random) {
    let mut it = TcpInitiator::open(address, config(102), TIMEOUT).expect("a connection");
    let mut login = Vec::new();
    it.engine().poll_transmit(&mut login);
    for byte in login {
        assert!(push_through(it.stream(), &[byte]));
    }
    it.login().expect("a slow login is a login");
    it.clear_unit_attentions(0).expect("it is ready");
    let cdb = write_16(4096, 2, false);
    let data = Direction::Out(DataOut::new(vec![0x77; 1024]));
    let task = it.engine().submit(Command::Scsi(Scsi::new(0, &cdb, data)));
    let mut write = Vec::new();
    it.engine().poll_transmit(&mut write);
    for byte in write {
        assert_eq!(it.stream().write(&[byte]).expect("room for a byte"), 1);
    }
    it.wait(task).expect("an answer");
    assert_eq!(
        it.read_blocks(0, 4096, 2, 512).expect("a read"),
        [0x77; 1024]
    );
}

fn garbage_in_full_feature_phase(address: SocketAddr, random: &mut Random) {
    for _ in 0..60 {
        let digests = random.one_in(2);
        let it = log_in(address, config(103).with_digests(digests, digests));
        let count = 1 + random.below(20_000);
        let junk = bytes(random, count);
        push_through(it.stream(), &junk);
    }
}

/// Right opcodes and lengths, everything else at random.
fn almost_valid_pdus(address: SocketAddr, random: &mut Random) {
    for _ in 0..60 {
        let mut it = log_in(address, config(104));
        for _ in 0..60 {
            let mut bhs: [u8; BHS_LEN] = bytes(random, 48).try_into().expect("48 bytes");
            let opcodes = [
                NOP_OUT,
                SCSI_COMMAND,
                TASK_MANAGEMENT_REQUEST,
                TEXT_REQUEST,
                SCSI_DATA_OUT,
                SNACK,
                LOGIN_REQUEST,
            ];
            bhs[0] = random.pick(&opcodes) | random.pick(&[0, IMMEDIATE]);
            // Near numbers and small tags hit something.
            let cmd_sn = it
                .engine()
                .numbers()
                .cmd_sn
                .plus(u32::try_from(random.below(4)).expect("small"));
            bhs[24..28].copy_from_slice(&cmd_sn.0.to_be_bytes());
            bhs[16..20]
                .copy_from_slice(&u32::try_from(random.below(4)).expect("small").to_be_bytes());
            bhs[8..16].fill(0);
            if bhs[0] & 0x3f == TASK_MANAGEMENT_REQUEST {
                // No resets: they are meant to reach others.
                bhs[1] = FINAL | random.pick(&[1, 2, 4, 8, 0x7f]);
            } else if random.one_in(2) {
                bhs[32] = random.pick(&[0x28, 0x2a, 0x88, 0x8a, 0x12, 0xa0, 0x42, 0x93, 0x8f]);
                // Away from the honest session's blocks.
                bhs[33..40].copy_from_slice(&[0, 0, 0, 0x40, 0, 0, 0]);
            } else {
                // An opcode that nobody has.
                bhs[32] = 0xff;
            }
            let (ahs, data) = (random.below(5), random.pick(&[0, 1, 24, 512, 2000]));
            let pdu = RawPdu {
                ahs: bytes(random, 4 * ahs),
                ..RawPdu::new(Bhs::new(bhs), bytes(random, data))
            };
            it.engine().send(&pdu);
        }
        let mut all = Vec::new();
        it.engine().poll_transmit(&mut all);
        push_through(it.stream(), &all);
    }
}

fn ten_thousand_connections(address: SocketAddr, random: &mut Random) {
    let login = first_login_bytes(105);
    for round in 0..50 {
        let burst: Vec<_> = (0..200)
            .map(|_| TcpStream::connect(address).expect("a connection"))
            .collect();
        for mut stream in &burst {
            let part = random.pick(&[0, 0, 0, 1, 47, 48, 60]);
            // It may have had to give way already.
            let _ = stream.write(&login[..part]);
        }
        if round % 10 == 0 {
            // In the crowd a newcomer may have to give way before it has said a word, but not for
            // long.
            let mut attempts = (0..ATTEMPTS_MAX).filter_map(|_| honest(address, 3).ok());
            let mut newcomer = attempts.next().expect("a login in a crowd");
            newcomer.logout().expect("an end in order");
        }
    }
}

fn silent_connections(address: SocketAddr, _: &mut Random) {
    let silent: Vec<_> = (0..STRANGERS_MAX + 8)
        .map(|_| TcpStream::connect(address).expect("a connection"))
        .collect();
    let mut newcomer = honest(address, 3).expect("a login beside silent connections");
    newcomer.logout().expect("an end in order");
    assert!(
        is_closed_within(&silent[0], TIMEOUT),
        "the oldest gives way"
    );
    for (at, stream) in silent.iter().enumerate() {
        assert!(
            is_closed_within(stream, PATIENCE),
            "login timeout of number {at}"
        );
    }
}

/// Each is refused, and neither reads the refusal nor closes.
fn refused_logins_that_stay(address: SocketAddr, _: &mut Random) {
    let mut refused = Vec::new();
    for at in 0..4 * STRANGERS_MAX {
        let target = format!("{TARGET}-that-is-not-{at}");
        let config = Config::new("iqn.2026-11.io.iiblockdaemon:hostile", &target);
        let mut bytes = Vec::new();
        Initiator::new(config).poll_transmit(&mut bytes);
        let stream = TcpStream::connect(address).expect("a connection");
        // Not read: the refusal stays in the kernel.
        let _ = (&stream).write(&bytes);
        refused.push(stream);
    }
    for stream in &refused {
        assert!(is_closed_within(stream, PATIENCE));
    }
}

fn never_reads(address: SocketAddr, _: &mut Random) {
    let config = config(106).with_key("MaxRecvDataSegmentLength", "262144");
    let mut it = log_in(address, config);
    let mut wanted = Vec::new();
    for at in 0..600_u32 {
        let cdb = read_16(0, 512);
        it.engine()
            .submit(Command::Scsi(Scsi::new(0, &cdb, Direction::In(512 * 512))));
        let bhs = header(NOP_OUT | IMMEDIATE, FINAL, 65_536, 0x6000_0000 + at);
        it.engine().send_bytes(&bhs);
        it.engine().send_bytes(&vec![0x55; 65_536]);
        it.engine().poll_transmit(&mut wanted);
    }
    let stream = it.stream();
    let until = clock::now() + PATIENCE;
    let mut rest = &wanted[..];
    loop {
        let left = until.saturating_duration_since(clock::now());
        assert!(!left.is_zero(), "it may take as long as it likes");
        let mut fds = [PollFd::new(stream, PollFlags::OUT)];
        let left = Timespec::try_from(left).expect("seconds");
        let _ = poll(&mut fds, Some(&left)).expect("a socket");
        if fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        match (&*stream).write(rest) {
            Ok(sent) => rest = &rest[sent..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        assert!(
            !rest.is_empty(),
            "the daemon takes everything of a peer that reads nothing"
        );
    }
}

fn never_sends_its_data(address: SocketAddr, _: &mut Random) {
    let config = config(107)
        .with_key("ImmediateData", "No")
        .with_key("InitialR2T", "Yes");
    let mut it = log_in(address, config);
    for _ in 0..100 {
        let data = DataOut {
            held: true,
            ..DataOut::solicited(vec![0xee; 512 * 1024])
        };
        let cdb = write_16(8192, 1024, false);
        it.engine()
            .submit(Command::Scsi(Scsi::new(0, &cdb, Direction::Out(data))));
    }
    it.flush().expect("commands without data");
    assert!(is_closed_within(it.stream(), PATIENCE));
}

fn flood(address: SocketAddr, qualifier: u16, pdu: impl Fn(u32) -> Vec<u8>) {
    let it = log_in(address, config(qualifier));
    let mut at = 0;
    for _ in 0..40 {
        let mut batch = Vec::new();
        for _ in 0..500 {
            at += 1;
            batch.extend_from_slice(&pdu(0x6000_0000 + at));
        }
        assert!(push_through(it.stream(), &batch), "a flood is no fault");
    }
    // Whatever was left out of it, the connection still answers.
    let last = header(NOP_OUT | IMMEDIATE, FINAL, 0, 0x5eed_5eed);
    assert!(push_through(it.stream(), &last));
    let mut seen = Vec::new();
    let until = clock::now() + TIMEOUT;
    let stream = it.stream();
    stream.set_nonblocking(false).expect("a socket");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a socket");
    let mut scratch = vec![0; 64 * 1024];
    while !seen
        .windows(4)
        .any(|tag| tag == 0x5eed_5eed_u32.to_be_bytes())
    {
        assert!(clock::now() < until, "no answer to the last PDU of a flood");
        let read = (&*stream).read(&mut scratch).expect("an answer");
        assert!(read > 0, "closed after a flood");
        let keep = seen.len().saturating_sub(8);
        seen.drain(..keep);
        seen.extend_from_slice(&scratch[..read]);
    }
}

fn nop_flood(address: SocketAddr, _: &mut Random) {
    flood(address, 108, |itt| {
        header(NOP_OUT | IMMEDIATE, FINAL, 0, itt).to_vec()
    });
}

/// Just as many pings at once as make the daemon pause behind the last of them: it goes on.
fn pings_up_to_the_brim(address: SocketAddr, _: &mut Random) {
    let it = log_in(address, config(112));
    let mut stream = it.stream();
    stream.set_nonblocking(false).expect("a socket");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a socket");
    for count in 900..=980 {
        let pings: Vec<_> = (0..count)
            .flat_map(|itt| header(NOP_OUT | IMMEDIATE, FINAL, 0, itt))
            .collect();
        stream.write_all(&pings).expect("room for a few pings");
        let mut answers = vec![0; pings.len()];
        let read = stream.read_exact(&mut answers);
        assert!(read.is_ok(), "{count} pings at once: {read:?}");
    }
}

fn reject_flood(address: SocketAddr, _: &mut Random) {
    flood(address, 109, |itt| header(SNACK, FINAL, 0, itt).to_vec());
}

fn text_flood(address: SocketAddr, _: &mut Random) {
    flood(address, 110, |itt| {
        let text = b"SendTargets=\0X-unknown=1\0\0\0\0";
        let mut pdu = header(TEXT_REQUEST | IMMEDIATE, FINAL, text.len(), itt).to_vec();
        pdu.extend_from_slice(text);
        pdu
    });
}

/// Data-Out PDUs that answer nothing, or the same R2T again and again.
fn data_without_end(address: SocketAddr, _: &mut Random) {
    let it = log_in(address, config(111));
    let mut pdu = header(SCSI_DATA_OUT, 0, 65_536, 1).to_vec();
    pdu.extend_from_slice(&vec![0xdd; 65_536]);
    for _ in 0..200 {
        assert!(
            push_through(it.stream(), &pdu),
            "data of no task are dropped"
        );
    }
}
