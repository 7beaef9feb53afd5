//! One session of the engine without sockets, or of a whole core over frames, for counting
//! instructions.
//!
//! The program answers `--commands` READ (10) or WRITE (10) commands of 4 KiB, one after the other:
//! bytes of the command in, the device's completion in, bytes of the answer out. The device answers
//! at once and copies nothing, no clock is read and no system call is made between two commands, so
//! that the number of instructions depends on the code alone. `bench/instructions.sh` runs it twice
//! with different counts under valgrind's cachegrind and divides the difference.
//!
//! With `--over frames` the same commands go through a core's reactor and TCP (`bench::lone`),
//! `--depth` of them at a time: the initiator sends so many, the core turns until all are answered.
//! callgrind then counts what happens inside of `bench::lone::targets_turn`; the initiator is left
//! out. Time is real there, so that timers make the figures differ by a few instructions.

use arrayvec::ArrayVec;
use bench::lone::{self, Wire};
use clap::{Parser, ValueEnum};
use iiblockdaemon::backend::{Designators, DeviceInfo, Operation, Request};
use iiblockdaemon::iscsi::acl::Acl;
use iiblockdaemon::iscsi::auth::AuthPolicy;
use iiblockdaemon::iscsi::names::IscsiName;
use iiblockdaemon::iscsi::negotiated::{Negotiated, Parameters, SessionType};
use iiblockdaemon::iscsi::node::{
    Availability, DigestPolicy, LunMapping, Nodes, PortalGroup, TargetNode,
};
use iiblockdaemon::iscsi::session::{
    ConnectionIndex, Effect, Env, Guards, Session, SessionIndex, Timeouts, unpack,
};
use iiblockdaemon::iscsi::transmit::SLICES_MAX;
use iiblockdaemon::mem::{CHUNK_BYTES, Pages, Pool};
use iiblockdaemon::pdu::{
    BHS_LEN, Cid, CmdSn, Isid, Itt, LoginResponse, LoginStatus, Stage, StatSn, Tsih,
};
use iiblockdaemon::reactor::clock;
use iiblockdaemon::scsi::{Identity, LogicalUnit, ParameterData};
use iiblockdaemon::testing::tcp::TcpInitiator;
use iiblockdaemon::testing::{Config, Numbers};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

const BLOCK_BYTES: u32 = 512;
const BLOCKS: u64 = 1 << 20;
/// Blocks of one command: 4 KiB.
const COMMAND_BLOCKS: u8 = 8;
const COMMAND_BYTES: usize = COMMAND_BLOCKS as usize * BLOCK_BYTES as usize;
const POOL_CHUNKS: usize = 256;
const TARGET: &str = "iqn.2026-11.io.iiblockdaemon:bench";
const INITIATOR: &str = "iqn.2026-11.io.iiblockdaemon:initiator";
/// Commands outstanding that can be asked for: fewer than the window.
const DEPTH_MAX: u32 = 64;
/// Turns in which commands are answered, or never.
const TURNS_MAX: u32 = 10_000;
const LOGIN_TIMEOUT: Duration = Duration::from_secs(60);
const FIRST_CMD_SN: u32 = 1;
/// Opcodes of RFC 7143 §11.2.1.2 that may answer.
const SCSI_RESPONSE: u8 = 0x21;
const DATA_IN: u8 = 0x25;

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Way {
    Read,
    Write,
}

/// Work whose instructions are counted from outside.
#[derive(Debug, Parser)]
struct Options {
    #[arg(long, value_enum)]
    way: Way,
    #[arg(long, default_value_t = 1000)]
    commands: u32,
    #[arg(long, value_enum, default_value_t = Over::Nothing)]
    over: Over,
    /// Commands at a time, over frames.
    #[arg(long, default_value_t = 8)]
    depth: u32,
}

/// What commands come by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Over {
    /// The engine alone.
    Nothing,
    Frames,
}

/// A session and all that a core lends it.
struct Bench {
    session: Session,
    requests: Vec<Request>,
    effects: Vec<Effect>,
    units: Vec<LogicalUnit>,
    nodes: Arc<Nodes>,
    guards: Guards,
    data_in: ParameterData,
    now: Instant,
    floor: usize,
    // Last: what holds buffers goes before it.
    pool: Pool,
}

impl Bench {
    fn new() -> Self {
        let pool = Pool::new(POOL_CHUNKS * CHUNK_BYTES, Pages::Normal).expect("a small pool");
        let (target, nodes) = nodes(ends().1);
        let negotiated = negotiated(target);
        let (mut units, guards) = (vec![unit()], Guards::default());
        let (mut requests, mut effects) = (Vec::with_capacity(16), Vec::with_capacity(16));
        let mut data_in = ParameterData::new();
        let now = clock::now();
        let floor = Pool::chunks_for(negotiated.parameters.first_burst_length as usize);
        let response = login_response(&negotiated);
        let mut env = Env {
            now,
            unix_ms: 0,
            pool: &pool,
            floor,
            units: &mut units,
            nodes: &nodes,
            requests: &mut requests,
            effects: &mut effects,
            data_in: &mut data_in,
            guards: &guards,
        };
        let session = Session::new(
            SessionIndex(0),
            Box::new(negotiated),
            (&response, &[]),
            ends(),
            Timeouts {
                ping_interval: None,
                ping_timeout: Duration::from_secs(30),
                no_progress: Duration::from_secs(3600),
            },
            &mut env,
        )
        .expect("there is memory for one command");
        Self {
            session,
            requests,
            effects,
            units,
            nodes,
            guards,
            data_in,
            now,
            floor,
            pool,
        }
    }

    fn with<T>(&mut self, step: impl FnOnce(&mut Session, &mut Env<'_>) -> T) -> T {
        let mut env = Env {
            now: self.now,
            unix_ms: 0,
            pool: &self.pool,
            floor: self.floor,
            units: &mut self.units,
            nodes: &self.nodes,
            requests: &mut self.requests,
            effects: &mut self.effects,
            data_in: &mut self.data_in,
            guards: &self.guards,
        };
        step(&mut self.session, &mut env)
    }

    /// One command from its first byte to the last of its answer. `None`: it did not end well.
    fn command(&mut self, pdu: &[u8]) -> Option<()> {
        let mut input = pdu;
        self.with(|session, env| session.receive(env, ConnectionIndex::LEADING, &mut input))
            .ok()?;
        while let Some(Request {
            operation, token, ..
        }) = self.requests.pop()
        {
            let moved = match &operation {
                Operation::Read { buf, .. } | Operation::Write { buf, .. } => buf.len(),
                _ => 0,
            };
            (moved == COMMAND_BYTES).then_some(())?;
            let buf = operation.into_buf();
            let (_, task) = unpack(token.finish());
            self.with(|session, env| session.complete(env, task, Ok(()), buf));
        }
        self.with(Session::poll);
        self.drain()
    }

    /// Takes all that is to be sent; its last PDU has to carry GOOD status.
    fn drain(&mut self) -> Option<()> {
        let mut answered = None;
        loop {
            let mut slices = ArrayVec::<_, SLICES_MAX>::new();
            self.session
                .transmit_queue(ConnectionIndex::LEADING)
                .gather(&mut slices);
            let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
            for bhs in slices.iter().filter(|slice| slice.len() >= BHS_LEN) {
                match (bhs[0], bhs[1] & 0x01, bhs[3]) {
                    (SCSI_RESPONSE, _, 0) | (DATA_IN, 1, 0) => answered = Some(()),
                    _ => {}
                }
            }
            drop(slices);
            if bytes == 0 {
                return answered;
            }
            self.session.sent(ConnectionIndex::LEADING, self.now, bytes);
        }
    }
}

/// Command number `n`: header, and the data of a write as immediate data (RFC 7143 §11.3).
fn command_pdu(
    way: Way,
    n: u32,
    (cmd_sn, exp_stat_sn): (u32, u32),
    out: &mut [u8; BHS_LEN + COMMAND_BYTES],
) -> usize {
    let lba = n.wrapping_mul(u32::from(COMMAND_BLOCKS)) % (1 << 19);
    let (flags, opcode, data) = match way {
        Way::Read => (0xc1, 0x28, 0),
        Way::Write => (0xa1, 0x2a, COMMAND_BYTES),
    };
    out[..BHS_LEN].fill(0);
    out[0] = 0x01;
    out[1] = flags;
    let length = u32::try_from(data).expect("4096").to_be_bytes();
    out[5..8].copy_from_slice(&length[1..]);
    out[16..20].copy_from_slice(&n.to_be_bytes());
    let expected = u32::try_from(COMMAND_BYTES).expect("4096");
    out[20..24].copy_from_slice(&expected.to_be_bytes());
    out[24..28].copy_from_slice(&cmd_sn.to_be_bytes());
    out[28..32].copy_from_slice(&exp_stat_sn.to_be_bytes());
    out[32] = opcode;
    out[34..38].copy_from_slice(&lba.to_be_bytes());
    out[40] = COMMAND_BLOCKS;
    BHS_LEN + data
}

fn ends() -> (SocketAddr, SocketAddr) {
    let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    (address(1), address(3260))
}

fn name(text: &str) -> IscsiName {
    IscsiName::parse(text).expect("a name of RFC 7143 §4.2.7")
}

fn nodes(portal: SocketAddr) -> (Arc<TargetNode>, Arc<Nodes>) {
    let lun = LunMapping {
        queue_depth: None,
        lun: 0,
        unit: 0,
        read_only: false,
        initiators: Vec::new(),
    };
    let target = Arc::new(TargetNode {
        name: name(TARGET),
        alias: None,
        availability: Availability::Available,
        portal_groups: vec![lone::PORTAL_GROUP],
        acl: Acl::new(Vec::new(), Vec::new()),
        auth: Arc::new(AuthPolicy::None),
        header_digest: DigestPolicy::Optional,
        data_digest: DigestPolicy::Optional,
        max_connections: 1,
        luns: vec![lun],
        redirect: None,
    });
    let groups = vec![PortalGroup {
        tag: lone::PORTAL_GROUP,
        portals: vec![portal],
    }];
    let nodes = Nodes::new(
        vec![Arc::clone(&target)],
        groups,
        Arc::new(AuthPolicy::None),
    );
    (target, Arc::new(nodes))
}

fn identity() -> Identity {
    Identity::new("DISK", "1.0", "1", 1, [1; 16]).expect("short texts")
}

fn unit() -> LogicalUnit {
    let info = DeviceInfo {
        thin: false,
        designators: Designators::default(),
        block_size: BLOCK_BYTES,
        physical_block_exponent: 3,
        blocks: BLOCKS,
        read_only: false,
        write_cache: true,
        unmap: true,
        unmap_reads_zeroes: true,
        unmap_granularity: 8,
        atomic_write_blocks: 0,
        cryptographic_erase: false,
        non_rotating: true,
    };
    LogicalUnit::new(identity(), info, false)
}

fn negotiated(target: Arc<TargetNode>) -> Negotiated {
    Negotiated {
        node_architecture: None,
        session_type: SessionType::Normal,
        initiator_name: name(INITIATOR),
        initiator_alias: None,
        target: Some(target),
        portal_group_tag: lone::PORTAL_GROUP,
        isid: Isid([0x80, 0, 0, 0, 0, 1]),
        tsih: Tsih(0),
        cid: Cid(0),
        cmd_sn: CmdSn(FIRST_CMD_SN),
        next_stat_sn: StatSn(1),
        authenticated: false,
        mutually_authenticated: false,
        parameters: Parameters {
            header_digest: false,
            data_digest: false,
            initiator_max_recv_data_segment_length: 262_144,
            target_max_recv_data_segment_length: 262_144,
            max_connections: 1,
            initial_r2t: false,
            immediate_data: true,
            max_burst_length: 262_144,
            first_burst_length: 65_536,
            default_time2wait_s: 2,
            default_time2retain_s: 0,
            max_outstanding_r2t: 1,
            data_pdu_in_order: true,
            data_sequence_in_order: true,
            error_recovery_level: 0,
            iscsi_protocol_level: 1,
        },
    }
}

fn login_response(negotiated: &Negotiated) -> LoginResponse {
    LoginResponse {
        transit: true,
        continue_: false,
        csg: Stage::LoginOperationalNegotiation,
        nsg: Stage::FullFeaturePhase,
        version_max: 0,
        version_active: 0,
        isid: negotiated.isid,
        tsih: Tsih(1),
        itt: Itt(0),
        stat_sn: negotiated.next_stat_sn.minus(1),
        exp_cmd_sn: negotiated.cmd_sn,
        max_cmd_sn: negotiated.cmd_sn,
        status: LoginStatus::SUCCESS,
    }
}

/// An initiator over frames, of which only what comes back is looked at.
struct Far {
    wire: Wire,
    numbers: Numbers,
    /// Received, not a whole PDU yet.
    input: Vec<u8>,
    sent: u32,
    /// The newest MaxCmdSN.
    max_cmd_sn: u32,
}

impl Far {
    fn login() -> Result<Self, String> {
        let (_, nodes) = nodes(lone::PORTAL);
        let wire = Wire::connect(&nodes, identity())?;
        let config = Config {
            strict_fields: false,
            ..Config::new(INITIATOR, TARGET)
        };
        let mut login = TcpInitiator::over(wire, config, LOGIN_TIMEOUT);
        let text = |failure: iiblockdaemon::testing::tcp::Failure| failure.to_string();
        login.login().map_err(text)?;
        login.clear_unit_attentions(0).map_err(text)?;
        let (wire, numbers, _) = login.into_parts().map_err(text)?;
        Ok(Self {
            wire,
            max_cmd_sn: numbers.max_cmd_sn.0,
            numbers,
            input: Vec::new(),
            sent: 0,
        })
    }

    /// Commands that may be sent now.
    fn window(&self) -> u32 {
        let next = self.numbers.cmd_sn.0.wrapping_add(self.sent);
        let window = self.max_cmd_sn.wrapping_add(1).wrapping_sub(next);
        // One that is closed has its end before the next command.
        if window > 1 << 31 { 0 } else { window }
    }

    /// So many commands at a time, until all are answered.
    fn commands(&mut self, way: Way, count: u32) -> Result<(), String> {
        let mut batch = Vec::new();
        let mut pdu = [0; BHS_LEN + COMMAND_BYTES];
        for ahead in 0..count {
            let serials = (
                self.numbers.cmd_sn.0.wrapping_add(self.sent + ahead),
                self.numbers.exp_stat_sn.0.wrapping_add(self.sent),
            );
            let end = command_pdu(way, self.sent + ahead, serials, &mut pdu);
            batch.extend_from_slice(&pdu[..end]);
        }
        if self.wire.send(&batch) != batch.len() {
            return Err("there is no room for the commands".into());
        }
        let mut answered = 0;
        for _ in 0..TURNS_MAX {
            self.wire.turn();
            self.wire.receive(&mut self.input);
            answered += self.answers()?;
            if answered == count {
                self.sent += count;
                return Ok(());
            }
        }
        Err(format!("{answered} of {count} commands were answered"))
    }

    /// Takes whole PDUs: how many commands ended, all with GOOD.
    fn answers(&mut self) -> Result<u32, String> {
        let (mut at, mut ended) = (0, 0);
        while let Some(bhs) = self.input.get(at..at + BHS_LEN) {
            let data = u32::from_be_bytes([0, bhs[5], bhs[6], bhs[7]]);
            let data = usize::try_from(data).expect("24 bits").next_multiple_of(4);
            let len = BHS_LEN + usize::from(bhs[4]) * 4 + data;
            if self.input.len() < at + len {
                break;
            }
            match (bhs[0], bhs[1] & 0x01, bhs[3]) {
                (SCSI_RESPONSE, _, 0) | (DATA_IN, 1, 0) => {
                    ended += 1;
                    let max_cmd_sn = bhs[32..36].try_into().expect("four bytes");
                    self.max_cmd_sn = u32::from_be_bytes(max_cmd_sn);
                }
                (DATA_IN, 0, _) => {}
                _ => return Err(format!("the target sent {:02x?}", &bhs[..4])),
            }
            at += len;
        }
        self.input.drain(..at);
        Ok(ended)
    }
}

fn over_frames(options: &Options) -> Result<(), String> {
    if !(1..=DEPTH_MAX).contains(&options.depth) {
        return Err(format!("1 to {DEPTH_MAX} commands at a time"));
    }
    let mut far = Far::login()?;
    let before = (far.wire.turns(), far.wire.frames());
    let mut left = options.commands;
    while left > 0 {
        let count = left.min(options.depth).min(far.window());
        if count == 0 {
            return Err("the window is closed".into());
        }
        far.commands(options.way, count)?;
        left -= count;
    }
    let frames = far.wire.frames();
    println!(
        "{} commands, {} turns, {} packets to the target (the device cuts them), {} frames from it",
        options.commands,
        far.wire.turns() - before.0,
        frames.sent - before.1.sent,
        frames.received - before.1.received
    );
    Ok(())
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.over == Over::Frames {
        return match over_frames(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("instructions: {why}");
                ExitCode::FAILURE
            }
        };
    }
    alone(&options)
}

fn alone(options: &Options) -> ExitCode {
    let mut bench = Bench::new();
    // The Login Response, then what every new nexus is told first (TEST UNIT READY until GOOD is
    // not needed: a unit attention would fail the first command below).
    while !bench
        .session
        .transmit_queue(ConnectionIndex::LEADING)
        .is_empty()
    {
        let len = bench.session.transmit_queue(ConnectionIndex::LEADING).len();
        bench.session.sent(ConnectionIndex::LEADING, bench.now, len);
    }
    let mut pdu = [0; BHS_LEN + COMMAND_BYTES];
    let mut bad = 0_u32;
    for n in 0..options.commands {
        let serial = FIRST_CMD_SN.wrapping_add(n);
        let end = command_pdu(options.way, n, (serial, serial), &mut pdu);
        bad += u32::from(bench.command(&pdu[..end]).is_none());
    }
    // Unit attentions of a new nexus take a few commands, no more.
    if bad > 4 {
        eprintln!(
            "{bad} of {} commands did not end with GOOD",
            options.commands
        );
        return ExitCode::FAILURE;
    }
    println!("{} commands", options.commands);
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_over_frames_are_answered_in_few_turns() {
        for way in [Way::Read, Way::Write] {
            let mut far = Far::login().unwrap();
            let (turns, frames) = (far.wire.turns(), far.wire.frames());
            for count in [1, 8, 32] {
                assert!(far.window() >= count, "{} commands", far.window());
                far.commands(way, count).unwrap();
            }
            assert_eq!(far.sent, 41);
            assert!(far.wire.turns() - turns < 41);
            let received = far.wire.frames().received_bytes - frames.received_bytes;
            let sent = far.wire.frames().sent_bytes - frames.sent_bytes;
            let data = 41 * 4096;
            match way {
                Way::Read => assert!(received > data && sent < data, "{received} {sent}"),
                Way::Write => assert!(received < data && sent > data, "{received} {sent}"),
            }
        }
    }

    #[test]
    fn the_engine_alone_answers_with_good_status() {
        for way in [Way::Read, Way::Write] {
            let options = Options {
                way,
                commands: 64,
                over: Over::Nothing,
                depth: 1,
            };
            assert_eq!(alone(&options), ExitCode::SUCCESS);
        }
    }
}
