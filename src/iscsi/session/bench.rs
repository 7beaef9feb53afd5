//! What the tests of the engine stand on: one session that has just logged in, a device that does
//! nothing until it is told to, and an initiator that sends PDUs and reads the answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;

use super::{ConnectionIndex, Effect, Env, Fault, Guards, Session, SessionIndex, Timeouts, unpack};
use crate::backend::{Designators, DeviceInfo, IoError, Request};
use crate::iscsi::login::fixture::{FULL, Initiator, OPERATIONAL, WHO, World, transit};
use crate::iscsi::node::{LunMapping, Nodes};
use crate::mem::{DmaBuf, Pages, Pool};
use crate::pdu::{
    BHS_LEN, Bhs, Cid, CmdSn, Itt, LoginResponse, LunField, Opcode, ScsiCommand, ScsiResponse,
    StatSn, TaskAttribute, TaskManagementFunction, TaskManagementRequest, TaskManagementResponse,
    TaskManagementResponseCode,
};
use crate::scsi::{Identity, LogicalUnit, ParameterData};

const POOL_BYTES: usize = 32 << 20;
const BLOCKS: u64 = 1024;

/// See the module. Two units, at LUN 0 and 1.
pub(super) struct Bench {
    pub(super) session: Session,
    pub(super) units: Vec<LogicalUnit>,
    pub(super) effects: Vec<Effect>,
    /// At the device, oldest first.
    pub(super) requests: Vec<Request>,
    pool: Pool,
    nodes: Arc<Nodes>,
    guards: Guards,
    data_in: Box<ParameterData>,
    now: Instant,
    login_response: LoginResponse,
    pub(super) cmd_sn: CmdSn,
}

/// What came back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// Tag, status, and sense key, ASC and ASCQ.
    Status(u32, u8, Option<(u8, u8, u8)>),
    Management(u32, TaskManagementResponseCode),
    Other(Opcode),
}

fn unit(serial: &str) -> LogicalUnit {
    let info = DeviceInfo {
        block_size: 512,
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
        thin: true,
        designators: Designators::default(),
    };
    let identity = Identity::new("disk", "0001", serial, 1, [1; 16]).unwrap();
    LogicalUnit::new(identity, info, false)
}

impl Bench {
    /// With these operational keys, `|` between them, and this change to each LUN mapping.
    pub(super) fn with(keys: &str, change: impl Fn(&mut LunMapping)) -> Self {
        let world = World::new(|target| {
            target.luns = (0..2)
                .map(|lun| {
                    let mut mapping = LunMapping {
                        lun,
                        unit: lun,
                        read_only: false,
                        initiators: vec![],
                        queue_depth: None,
                    };
                    change(&mut mapping);
                    mapping
                })
                .collect();
        });
        let text = format!("{WHO}|InitialR2T=No|ImmediateData=Yes{keys}");
        let mut it = Initiator::new(&world);
        let seen = it.send(transit(OPERATIONAL, FULL), &text);
        let super::super::login::fixture::Seen::Final {
            negotiated,
            response,
            text,
        } = seen
        else {
            panic!("{seen:?}");
        };
        let cmd_sn = negotiated.cmd_sn;
        let pool = Pool::new(POOL_BYTES, Pages::Normal).unwrap();
        let nodes = Arc::new(Nodes::default());
        let guards = Guards::default();
        let mut units = vec![unit("S0"), unit("S1")];
        let mut data_in = Box::new(ParameterData::new());
        let (mut requests, mut effects) = (Vec::new(), Vec::new());
        #[expect(clippy::disallowed_methods, reason = "an arbitrary instant will do")]
        let now = Instant::now();
        let timeouts = Timeouts {
            ping_interval: None,
            ping_timeout: Duration::from_secs(5),
            no_progress: Duration::from_secs(5),
        };
        let ends = (world.peer, "10.0.0.1:3260".parse().unwrap());
        let session = Session::new(
            SessionIndex(0),
            negotiated,
            (&response, text.as_bytes()),
            ends,
            timeouts,
            &mut Env {
                now,
                unix_ms: 0,
                pool: &pool,
                floor: 0,
                units: &mut units,
                nodes: &nodes,
                guards: &guards,
                requests: &mut requests,
                effects: &mut effects,
                data_in: &mut data_in,
            },
        );
        let mut bench = Self {
            session: session.unwrap(),
            units,
            effects,
            requests,
            pool,
            nodes,
            guards,
            data_in,
            now,
            login_response: response,
            cmd_sn,
        };
        // The Login Response, and the power on that each LUN has to tell.
        bench.take_bytes(ConnectionIndex::LEADING);
        for lun in [0, 1] {
            bench.send(&Self::command(900, lun, [0; 16], 0), &[]);
        }
        let told = bench.answers();
        assert!(
            told.iter()
                .all(|answer| matches!(answer, Answer::Status(_, 2, _)))
        );
        bench
    }

    pub(super) fn new() -> Self {
        Self::with("", |_| {})
    }

    /// Calls the engine with the world around it.
    pub(super) fn call<R>(&mut self, act: impl FnOnce(&mut Session, &mut Env<'_>) -> R) -> R {
        act(
            &mut self.session,
            &mut Env {
                now: self.now,
                unix_ms: 0,
                pool: &self.pool,
                floor: 0,
                units: &mut self.units,
                nodes: &self.nodes,
                guards: &self.guards,
                requests: &mut self.requests,
                effects: &mut self.effects,
                data_in: &mut self.data_in,
            },
        )
    }

    /// A further connection of the session.
    pub(super) fn attach(&mut self, cid: u16) -> ConnectionIndex {
        let mut login = self.session.negotiated().clone();
        login.cid = Cid(cid);
        let response = self.login_response;
        let ends = (
            "10.0.0.2:1024".parse().unwrap(),
            "10.0.0.1:3260".parse().unwrap(),
        );
        let on =
            self.call(|session, env| session.attach(env, None, &login, (&response, &[]), ends));
        self.take_bytes(on);
        on
    }

    /// Time passes, and the session looks at the clock.
    pub(super) fn tick(&mut self, time: Duration) -> Result<(), (ConnectionIndex, Fault)> {
        self.now += time;
        self.call(Session::tick)
    }

    /// A command without data, or a write of `bytes`; `send` gives it its CmdSN.
    pub(super) fn command(itt: u32, lun: u8, cdb: [u8; 16], bytes: u32) -> ScsiCommand {
        ScsiCommand {
            immediate: false,
            final_: true,
            read: false,
            write: bytes > 0,
            attribute: TaskAttribute::Simple,
            priority: 0,
            lun: LunField([0, lun, 0, 0, 0, 0, 0, 0]),
            itt: Itt(itt),
            expected_data_transfer_length: bytes,
            cmd_sn: CmdSn(0),
            exp_stat_sn: StatSn(0),
            cdb,
        }
    }

    /// A WRITE (16) of one block.
    pub(super) fn write(itt: u32, lun: u8) -> ScsiCommand {
        let mut cdb = [0; 16];
        cdb[0] = 0x8a;
        cdb[13] = 1;
        Self::command(itt, lun, cdb, 512)
    }

    pub(super) fn send(&mut self, command: &ScsiCommand, data: &[u8]) {
        let mut command = *command;
        command.cmd_sn = self.cmd_sn;
        if !command.immediate {
            self.cmd_sn = self.cmd_sn.next();
        }
        self.send_pdu(command.emit(), data);
    }

    /// Writes one block with immediate data.
    pub(super) fn send_write(&mut self, itt: u32, lun: u8) {
        self.send(&Self::write(itt, lun), &[7; 512]);
    }

    pub(super) fn manage(&mut self, itt: u32, function: TaskManagementFunction, lun: u8, of: u32) {
        let request = TaskManagementRequest {
            immediate: true,
            function,
            lun: LunField([0, lun, 0, 0, 0, 0, 0, 0]),
            itt: Itt(itt),
            referenced_itt: Itt(of),
            cmd_sn: self.cmd_sn,
            exp_stat_sn: StatSn(0),
            ref_cmd_sn: CmdSn(0),
            exp_data_sn: 0,
        };
        self.send_pdu(request.emit(), &[]);
    }

    pub(super) fn send_pdu(&mut self, bhs: Bhs, data: &[u8]) {
        self.send_pdu_on(ConnectionIndex::LEADING, bhs, data);
    }

    pub(super) fn send_pdu_on(&mut self, on: ConnectionIndex, bhs: Bhs, data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap();
        let mut bytes = bhs.with_lengths(0, length).bytes().to_vec();
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        self.call(|session, env| session.receive(env, on, &mut &bytes[..]))
            .unwrap();
    }

    /// The device is done with its oldest request.
    pub(super) fn complete(&mut self) {
        let Request {
            operation, token, ..
        } = self.requests.remove(0);
        let (_, task) = unpack(token.finish());
        let buf = operation.into_buf();
        self.call(|session, env| session.complete(env, task, Ok(()), buf));
    }

    /// The device has failed at its oldest request and keeps the buffer, which this returns.
    pub(super) fn fail_and_keep(&mut self, error: IoError) -> Option<DmaBuf> {
        let Request {
            operation, token, ..
        } = self.requests.remove(0);
        let (_, task) = unpack(token.finish());
        self.call(|session, env| session.complete(env, task, Err(error), None));
        operation.into_buf()
    }

    fn take_bytes(&mut self, on: ConnectionIndex) -> Vec<u8> {
        let mut all = Vec::new();
        while !self.session.transmit_queue(on).is_empty() {
            let mut slices = ArrayVec::new();
            self.session.transmit_queue(on).gather(&mut slices);
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            drop(slices);
            self.session.sent(on, self.now, bytes.len());
            all.extend(bytes);
        }
        all
    }

    /// What was sent since the last call.
    pub(super) fn answers(&mut self) -> Vec<Answer> {
        self.pdus()
            .into_iter()
            .map(|(bhs, data)| match bhs.opcode() {
                Ok(Opcode::ScsiResponse) => {
                    let response = ScsiResponse::parse(&bhs).unwrap();
                    let sense = data.get(2..).filter(|sense| sense.len() >= 14);
                    let code = sense.map(|sense| (sense[2] & 0x0f, sense[12], sense[13]));
                    Answer::Status(response.itt.0, response.status, code)
                }
                Ok(Opcode::TaskManagementResponse) => {
                    let response = TaskManagementResponse::parse(&bhs);
                    Answer::Management(response.itt.0, response.response)
                }
                other => Answer::Other(other.unwrap()),
            })
            .collect()
    }

    /// The same as they stand.
    pub(super) fn pdus(&mut self) -> Vec<(Bhs, Vec<u8>)> {
        self.pdus_on(ConnectionIndex::LEADING)
    }

    pub(super) fn pdus_on(&mut self, on: ConnectionIndex) -> Vec<(Bhs, Vec<u8>)> {
        let bytes = self.take_bytes(on);
        let mut rest = &bytes[..];
        let mut pdus = Vec::new();
        while let Some((header, behind)) = rest.split_first_chunk::<BHS_LEN>() {
            let bhs = Bhs::new(*header);
            let length = bhs.data_segment_length() as usize;
            pdus.push((bhs, behind[..length].to_vec()));
            rest = &behind[length.next_multiple_of(4)..];
        }
        pdus
    }
}
