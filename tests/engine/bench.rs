//! A session with everything that a core lends it, and devices that complete when they are told.

use iiblockdaemon::backend::{Designators, DeviceInfo, IoError, Operation, Request, UnitIndex};
use iiblockdaemon::iscsi::acl::Acl;
use iiblockdaemon::iscsi::auth::AuthPolicy;
use iiblockdaemon::iscsi::names::IscsiName;
use iiblockdaemon::iscsi::negotiated::{Negotiated, Parameters, SessionType};
use iiblockdaemon::iscsi::node::{
    Availability, DigestPolicy, LunMapping, Nodes, PortalGroup, TargetNode,
};
use iiblockdaemon::iscsi::session::{
    ConnectionIndex, Effect, Env, Fault, Guards, Progress, Session, SessionIndex, Timeouts, unpack,
};
use iiblockdaemon::iscsi::transmit::SLICES_MAX;
use iiblockdaemon::mem::{CHUNK_BYTES, Pages, Pool};
use iiblockdaemon::pdu::{Cid, CmdSn, Isid, Itt, LoginResponse, LoginStatus, Stage, StatSn, Tsih};
use iiblockdaemon::reactor::clock;
use iiblockdaemon::scsi::{Identity, LogicalUnit, ParameterData, Update};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) const FIRST_CMD_SN: u32 = u32::MAX - 20;
const FIRST_STAT_SN: u32 = u32::MAX - 10;
const BLOCKS: u64 = 4096;

/// What was negotiated, and how much memory there is.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) initial_r2t: bool,
    pub(crate) immediate_data: bool,
    pub(crate) first_burst_length: u32,
    pub(crate) max_burst_length: u32,
    pub(crate) max_outstanding_r2t: u16,
    pub(crate) initiator_max_recv_data_segment_length: u32,
    pub(crate) pool_chunks: usize,
}

/// See the module.
pub(crate) struct Bench {
    pub(crate) session: Session,
    at_device: Vec<Request>,
    requests: Vec<Request>,
    effects: Vec<Effect>,
    units: Vec<LogicalUnit>,
    nodes: Arc<Nodes>,
    data_in: ParameterData,
    now: Instant,
    floor: usize,
    negotiated: Negotiated,
    // Last: what holds buffers goes before it.
    pool: Pool,
}

impl Bench {
    pub(crate) fn new(setup: &Setup) -> Self {
        let pool = Pool::new(setup.pool_chunks * CHUNK_BYTES, Pages::Normal).unwrap();
        let (target, nodes) = nodes();
        let negotiated = negotiated(setup, target);
        let mut units = vec![unit()];
        let (mut requests, mut effects) = (Vec::new(), Vec::new());
        let mut data_in = ParameterData::new();
        let now = clock::now();
        let floor = Pool::chunks_for(setup.first_burst_length as usize);
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
            guards: &Guards::default(),
        };
        let session = Session::new(
            SessionIndex(0),
            Box::new(negotiated.clone()),
            (&login_response(&negotiated), &[]),
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
            at_device: Vec::new(),
            requests,
            effects,
            units,
            nodes,
            data_in,
            now,
            floor,
            negotiated,
            pool,
        }
    }

    pub(crate) fn with<T>(&mut self, step: impl FnOnce(&mut Session, &mut Env<'_>) -> T) -> T {
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
            guards: &Guards::default(),
        };
        let result = step(&mut self.session, &mut env);
        self.at_device.append(&mut self.requests);
        result
    }

    pub(crate) fn receive(&mut self, input: &mut &[u8]) -> Result<Progress, Fault> {
        self.receive_on(ConnectionIndex::LEADING, input)
    }

    pub(crate) fn receive_on(
        &mut self,
        on: ConnectionIndex,
        input: &mut &[u8],
    ) -> Result<Progress, Fault> {
        self.with(|session, env| session.receive(env, on, input))
    }

    pub(crate) fn poll(&mut self) {
        self.with(Session::poll);
    }

    pub(crate) fn tick(&mut self, time: Duration) -> Result<(), Fault> {
        self.now += time;
        self.with(|session, env| session.tick(env).map_err(|(_, fault)| fault))
    }

    /// Takes up to `bytes` of what is to be sent.
    pub(crate) fn send(&mut self, bytes: usize, wire: &mut Vec<u8>) {
        self.send_on(ConnectionIndex::LEADING, bytes, wire);
    }

    pub(crate) fn send_on(&mut self, on: ConnectionIndex, bytes: usize, wire: &mut Vec<u8>) {
        let mut slices = arrayvec::ArrayVec::<_, SLICES_MAX>::new();
        self.session.transmit_queue(on).gather(&mut slices);
        let before = wire.len();
        for slice in &slices {
            let room = bytes - (wire.len() - before);
            wire.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        drop(slices);
        let taken = wire.len() - before;
        self.session.sent(on, self.now, taken);
    }

    pub(crate) fn at_device(&self) -> usize {
        self.at_device.len()
    }

    /// Ends one request, well or not.
    pub(crate) fn complete(&mut self, which: usize, error: Option<IoError>) {
        if self.at_device.is_empty() {
            return;
        }
        let which = which % self.at_device.len();
        let Request {
            operation, token, ..
        } = self.at_device.swap_remove(which);
        let (lba, blocks) = operation.range();
        assert!(lba + blocks <= BLOCKS, "a range inside the unit");
        if let Operation::Read { blocks, buf, .. } | Operation::Write { blocks, buf, .. } =
            &operation
        {
            assert_eq!(
                buf.len(),
                *blocks as usize * 512,
                "a buffer of the range's length"
            );
        }
        let mut buf = operation.into_buf();
        if let Some(buf) = &mut buf {
            let length = buf.len();
            buf.fill(0, length, 0x5a);
        }
        let (_, task) = unpack(token.finish());
        let result = error.map_or(Ok(()), Err);
        self.with(|session, env| session.complete(env, task, result, buf));
    }

    /// Every core has done what was asked. `false`: nothing was.
    pub(crate) fn acknowledge(&mut self, which: usize) -> bool {
        if self.effects.is_empty() {
            return false;
        }
        let which = which % self.effects.len();
        match self.effects.swap_remove(which) {
            Effect::Change {
                task,
                unit,
                change,
                by,
                ..
            } => {
                let replica = &mut self.units[usize::from(unit.0)];
                let decided = replica.decide(&change, &by);
                if let Ok(Some(update)) = decided.as_ref().map(|decision| &decision.update) {
                    replica.apply(update);
                }
                let result = decided.map(|decision| {
                    self.with(|session, env| session.decided(env, unit, &decision, Some(task)));
                });
                self.with(|session, env| session.changed(env, task, result));
            }
            Effect::Freeze { task, .. } => {
                self.with(|session, env| session.frozen(env, task));
            }
            Effect::Thaw { .. } => {}
            Effect::AwaitJob { task, unit, .. } => {
                self.units[usize::from(unit.0)].apply(&Update::Sanitized(true));
                self.with(|session, env| session.job_ended(env, task, unit, Ok(())));
            }
            Effect::Reset { management, .. } | Effect::NexusReset { management, .. } => {
                self.with(|session, env| session.reset_done(env, management));
            }
        }
        true
    }

    /// The connection is lost; devices finish, and the session is drained.
    pub(crate) fn detach(&mut self) {
        self.with(Session::detach);
        loop {
            if self.at_device() > 0 {
                self.complete(0, None);
            } else if !self.acknowledge(0) {
                break;
            }
        }
        assert!(
            self.session.is_drained(),
            "devices are done, the session is not"
        );
        assert!(
            self.session
                .transmit_queue(ConnectionIndex::LEADING)
                .is_empty()
        );
    }

    /// The same session on another connection.
    pub(crate) fn attach(&mut self) {
        self.attach_as(0, None);
    }

    /// A further connection, or one in the place of one that has left.
    pub(crate) fn attach_as(
        &mut self,
        cid: u16,
        place: Option<ConnectionIndex>,
    ) -> ConnectionIndex {
        let login = Negotiated {
            cid: Cid(cid),
            ..self.negotiated.clone()
        };
        let response = login_response(&login);
        self.with(|session, env| session.attach(env, place, &login, (&response, &[]), ends()))
    }

    /// The session ends; every chunk is back.
    pub(crate) fn close(mut self) {
        self.detach();
        let Self {
            session,
            mut requests,
            mut effects,
            mut units,
            nodes,
            mut data_in,
            now,
            floor,
            pool,
            ..
        } = self;
        session.close(&mut Env {
            now,
            unix_ms: 0,
            pool: &pool,
            floor,
            units: &mut units,
            nodes: &nodes,
            requests: &mut requests,
            effects: &mut effects,
            data_in: &mut data_in,
            guards: &Guards::default(),
        });
        assert_eq!(pool.reserved(), 0, "what is reserved goes back");
        assert_eq!(pool.available(), pool.chunks(), "every chunk is back");
    }
}

fn ends() -> (SocketAddr, SocketAddr) {
    let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    (address(1), address(3260))
}

fn nodes() -> (Arc<TargetNode>, Arc<Nodes>) {
    let lun = |lun| LunMapping {
        lun,
        unit: 0,
        read_only: lun == 1,
        initiators: Vec::new(),
        queue_depth: None,
    };
    let target = Arc::new(TargetNode {
        redirect: None,
        name: IscsiName::parse("iqn.2026-11.io.iiblockdaemon:t").unwrap(),
        alias: None,
        availability: Availability::Available,
        portal_groups: vec![1],
        acl: Acl::new(Vec::new(), Vec::new()),
        auth: Arc::new(AuthPolicy::None),
        header_digest: DigestPolicy::Optional,
        data_digest: DigestPolicy::Optional,
        max_connections: 4,
        luns: vec![lun(0), lun(1)],
    });
    let groups = vec![PortalGroup {
        tag: 1,
        portals: vec![ends().1],
    }];
    let nodes = Nodes::new(
        vec![Arc::clone(&target)],
        groups,
        Arc::new(AuthPolicy::None),
    );
    (target, Arc::new(nodes))
}

fn unit() -> LogicalUnit {
    let identity = Identity::new("DISK", "1.0", "1", 1, [1; 16]).unwrap();
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
    assert_eq!(UnitIndex(0).0, 0, "the only unit");
    LogicalUnit::new(identity, info, false)
}

fn negotiated(setup: &Setup, target: Arc<TargetNode>) -> Negotiated {
    Negotiated {
        session_type: SessionType::Normal,
        initiator_name: IscsiName::parse("iqn.2026-11.io.iiblockdaemon:i").unwrap(),
        initiator_alias: None,
        node_architecture: None,
        target: Some(target),
        portal_group_tag: 1,
        isid: Isid([0x80, 0, 0, 0, 0, 1]),
        tsih: Tsih(0),
        cid: Cid(0),
        cmd_sn: CmdSn(FIRST_CMD_SN),
        next_stat_sn: StatSn(FIRST_STAT_SN.wrapping_add(1)),
        authenticated: false,
        mutually_authenticated: false,
        parameters: Parameters {
            header_digest: false,
            data_digest: false,
            initiator_max_recv_data_segment_length: setup.initiator_max_recv_data_segment_length,
            target_max_recv_data_segment_length: 262_144,
            max_connections: 1,
            initial_r2t: setup.initial_r2t,
            immediate_data: setup.immediate_data,
            max_burst_length: setup.max_burst_length,
            first_burst_length: setup.first_burst_length,
            default_time2wait_s: 2,
            default_time2retain_s: 0,
            max_outstanding_r2t: setup.max_outstanding_r2t,
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
