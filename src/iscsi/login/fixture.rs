//! What the tests of login, discovery and nodes have in common: a target, a context, and an
//! initiator that sends requests and reads answers.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Admission, Context, Limits, Login, LoginStep, Reason};
use crate::iscsi::acl::Acl;
use crate::iscsi::auth::{AuthPolicy, ChapAlgorithm, ChapPolicy, Credentials, Secret};
use crate::iscsi::names::IscsiName;
use crate::iscsi::negotiated::Negotiated;
use crate::iscsi::node::{Availability, DigestPolicy, Nodes, TargetNode};
use crate::pdu::{Cid, CmdSn, Isid, Itt, LoginRequest, LoginResponse, Stage, StatSn, Tsih};

pub(crate) const TARGET: &str = "iqn.2026-11.io.x:disk0";
pub(crate) const WHO: &str =
    "InitiatorName=iqn.1993-08.org.debian:01:a|TargetName=iqn.2026-11.io.x:disk0";
pub(crate) const DISCOVERY: &str =
    "InitiatorName=iqn.1993-08.org.debian:01:a|SessionType=Discovery";

pub(crate) const SECURITY: Stage = Stage::SecurityNegotiation;
pub(crate) const OPERATIONAL: Stage = Stage::LoginOperationalNegotiation;
pub(crate) const FULL: Stage = Stage::FullFeaturePhase;

pub(crate) fn name(text: &str) -> IscsiName {
    IscsiName::parse(text).unwrap()
}

/// A target behind portal group 1 that admits everyone.
pub(crate) fn target(text: &str) -> TargetNode {
    TargetNode {
        name: name(text),
        alias: None,
        availability: Availability::Available,
        portal_groups: vec![1],
        acl: Acl::default(),
        auth: Arc::default(),
        header_digest: DigestPolicy::Optional,
        data_digest: DigestPolicy::Optional,
        max_connections: 4,
        luns: vec![],
        redirect: None,
    }
}

pub(crate) fn credentials(user: &str, secret: &str) -> Credentials {
    Credentials {
        user: user.into(),
        secret: Secret::new(secret.into()),
    }
}

pub(crate) fn chap(mutual: bool, algorithms: &[ChapAlgorithm]) -> Arc<AuthPolicy> {
    let ours = mutual.then(|| credentials("disk", "secret-of-target"));
    let policy = ChapPolicy::new(credentials("joe", "secret-of-joe"), ours, algorithms).unwrap();
    Arc::new(AuthPolicy::Chap(Box::new(policy)))
}

/// The target side of a test.
pub(crate) struct World {
    pub(crate) nodes: Nodes,
    pub(crate) limits: Limits,
    pub(crate) portal_group_tag: u16,
    pub(crate) peer: SocketAddr,
    pub(crate) admission: Admission,
}

impl World {
    /// One target, changed by `change`.
    pub(crate) fn new(change: impl FnOnce(&mut TargetNode)) -> Self {
        let mut node = target(TARGET);
        change(&mut node);
        Self {
            nodes: Nodes::new(vec![Arc::new(node)], vec![], Arc::default()),
            limits: Limits::default(),
            portal_group_tag: 1,
            peer: "10.0.0.9:40000".parse().unwrap(),
            admission: Admission::Open,
        }
    }

    pub(crate) fn context(&self) -> Context<'_> {
        Context {
            nodes: &self.nodes,
            portal_group_tag: self.portal_group_tag,
            local: "10.0.0.1:3260".parse().unwrap(),
            peer: self.peer,
            limits: &self.limits,
            admission: self.admission,
        }
    }
}

/// A request that stays in `csg`.
pub(crate) fn request(csg: Stage) -> LoginRequest {
    LoginRequest {
        transit: false,
        continue_: false,
        csg,
        nsg: Stage::default(),
        version_max: 0,
        version_min: 0,
        isid: Isid([0x40, 0, 0, 1, 0, 0]),
        tsih: Tsih(0),
        itt: Itt(7),
        cid: Cid(1),
        cmd_sn: CmdSn(100),
        exp_stat_sn: StatSn(500),
    }
}

/// A request that asks for the transition from `csg` to `nsg`.
pub(crate) fn transit(csg: Stage, nsg: Stage) -> LoginRequest {
    LoginRequest {
        transit: true,
        nsg,
        ..request(csg)
    }
}

/// What an initiator sees.
#[derive(Debug)]
pub(crate) enum Seen {
    Reply {
        response: LoginResponse,
        text: String,
    },
    Final {
        negotiated: Box<Negotiated>,
        response: LoginResponse,
        text: String,
    },
    Refused {
        reason: Reason,
        response: LoginResponse,
        line: String,
    },
}

/// An initiator in the middle of a login.
pub(crate) struct Initiator<'a> {
    pub(crate) world: &'a World,
    pub(crate) login: Option<Login>,
    pub(crate) random: u8,
}

impl<'a> Initiator<'a> {
    pub(crate) fn new(world: &'a World) -> Self {
        Self {
            world,
            login: Some(Login::new()),
            random: 0,
        }
    }

    /// Sends pairs that `|` separates.
    pub(crate) fn send(&mut self, request: LoginRequest, text: &str) -> Seen {
        let mut data = text.replace('|', "\0").into_bytes();
        if !data.is_empty() {
            data.push(0);
        }
        self.send_bytes(request, &data)
    }

    pub(crate) fn send_bytes(&mut self, request: LoginRequest, data: &[u8]) -> Seen {
        let login = self.login.take().expect("the login has not ended");
        let first = self.random;
        self.random = self.random.wrapping_add(1);
        let mut random = |bytes: &mut [u8]| bytes.fill(first);
        let readable = |text: Vec<u8>| String::from_utf8(text).unwrap().replace('\0', "|");
        match login.handle(&self.world.context(), &request, data, &mut random) {
            LoginStep::Reply {
                response,
                text,
                next,
            } => {
                self.login = Some(next);
                Seen::Reply {
                    response,
                    text: readable(text),
                }
            }
            LoginStep::Final {
                negotiated,
                response,
                text,
            } => Seen::Final {
                negotiated,
                response,
                text: readable(text),
            },
            LoginStep::Refuse { response, refusal } => {
                assert_eq!(refusal.status(), response.status);
                let line = refusal.to_string();
                Seen::Refused {
                    reason: refusal.reason,
                    response,
                    line,
                }
            }
        }
    }
}

impl Seen {
    /// The text and whether the transition was made, of a login that goes on.
    #[track_caller]
    pub(crate) fn reply(self) -> (String, bool) {
        match self {
            Self::Reply { response, text } => (text, response.transit),
            other => panic!("not a reply: {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn refused(self) -> Reason {
        match self {
            Self::Refused { reason, .. } => reason,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn complete(self) -> (Box<Negotiated>, String) {
        match self {
            Self::Final {
                negotiated, text, ..
            } => (negotiated, text),
            other => panic!("not final: {other:?}"),
        }
    }
}
