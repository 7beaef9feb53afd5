//! Arbitrary initiators: no panic, an end within the bounds, and no way around what must be proved.

use proptest::prelude::*;

use crate::iscsi::auth::ChapAlgorithm;
use crate::iscsi::keys::TABLE;
use crate::iscsi::login::fixture::*;
use crate::iscsi::login::{LOGIN_REQUESTS_MAX, LoginStep};
use crate::iscsi::text::LOGIN_DATA_SEGMENT_MAX_BYTES;
use crate::pdu::{Cid, CmdSn, LoginRequest, Stage, Tsih};

/// One request as an initiator may send it that knows the keys but not the rules.
#[derive(Clone, Debug)]
struct Move {
    csg: Stage,
    transit_to: Option<Stage>,
    continue_: bool,
    spoiled: u8,
    text: Vec<u8>,
}

fn stage() -> impl Strategy<Value = Stage> {
    prop_oneof![4 => Just(SECURITY), 4 => Just(OPERATIONAL), 1 => Just(FULL)]
}

fn pair() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("Yes".to_owned()),
        Just("CHAP,None".to_owned()),
        Just("CRC32C".to_owned()),
        Just("iqn.1993-08.org.debian:01:a".to_owned()),
        Just(TARGET.to_owned()),
        Just("Discovery".to_owned()),
        "(0x)?[0-9]{1,9}",
        "[ -~]{0,20}",
    ];
    let key = prop_oneof![
        (0..TABLE.len()).prop_map(|at| TABLE[at].name.to_owned()),
        "[A-Za-z][A-Za-z0-9.-]{0,20}",
    ];
    (key, value).prop_map(|(key, value)| format!("{key}={value}\0"))
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        2 => Just(format!("{WHO}\0").replace('|', "\0").into_bytes()),
        2 => Just(format!("{DISCOVERY}\0").replace('|', "\0").into_bytes()),
        1 => Just(b"AuthMethod=CHAP\0CHAP_A=5\0".to_vec()),
        1 => Just(b"CHAP_N=joe\0CHAP_R=0x00112233445566778899aabbccddeeff\0".to_vec()),
        4 => proptest::collection::vec(pair(), 0..6).prop_map(|all| all.concat().into_bytes()),
        1 => proptest::collection::vec(any::<u8>(), 0..60),
        2 => Just(vec![]),
    ]
}

fn step() -> impl Strategy<Value = Move> {
    let spoiled = prop_oneof![20 => Just(0_u8), 1 => any::<u8>()];
    (
        stage(),
        proptest::option::of(stage()),
        any::<bool>(),
        spoiled,
        text(),
    )
        .prop_map(|(csg, transit_to, continue_, spoiled, text)| Move {
            csg,
            transit_to,
            continue_: continue_ && transit_to.is_none(),
            spoiled,
            text,
        })
}

impl Move {
    fn request(&self) -> LoginRequest {
        let plain = self
            .transit_to
            .map_or_else(|| request(self.csg), |to| transit(self.csg, to));
        let mut request = LoginRequest {
            continue_: self.continue_,
            ..plain
        };
        match self.spoiled {
            1 => request.tsih = Tsih(3),
            2 => request.cid = Cid(3),
            3 => request.cmd_sn = CmdSn(u32::MAX),
            4 => request.version_min = 9,
            _ => {}
        }
        request
    }
}

/// Plays all moves; says whether the login succeeded.
fn play(world: &World, moves: &[Move]) -> bool {
    let mut login = Some(super::super::Login::new());
    for step in moves {
        let Some(current) = login.take() else { break };
        let request = step.request();
        let mut random = |bytes: &mut [u8]| bytes.fill(0x77);
        match current.handle(&world.context(), &request, &step.text, &mut random) {
            LoginStep::Reply {
                response,
                text,
                next,
            } => {
                assert!(text.len() <= LOGIN_DATA_SEGMENT_MAX_BYTES);
                assert!(response.status.is_success());
                assert!(!response.transit || request.transit, "we never go first");
                assert!(!(response.transit && response.continue_));
                login = Some(next);
            }
            LoginStep::Final {
                negotiated,
                response,
                text,
            } => {
                assert!(text.len() <= LOGIN_DATA_SEGMENT_MAX_BYTES);
                assert!(response.transit && response.nsg == FULL && !response.continue_);
                let parameters = &negotiated.parameters;
                assert!((512..=0x00ff_ffff).contains(&parameters.max_burst_length));
                assert!(parameters.first_burst_length <= parameters.max_burst_length);
                assert!(parameters.initiator_max_recv_data_segment_length >= 512);
                assert_eq!(parameters.error_recovery_level, 0);
                assert!((1..=4).contains(&parameters.max_connections));
                return true;
            }
            LoginStep::Refuse { response, refusal } => {
                assert!(!response.status.is_success() && !response.transit);
                assert!(refusal.to_string().len() < 2500);
                assert!(!format!("{refusal:?}{refusal}").contains("secret-of"));
                return false;
            }
        }
    }
    assert!(moves.len() <= LOGIN_REQUESTS_MAX as usize || login.is_none());
    false
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_requests_never_panic(moves in proptest::collection::vec(step(), 1..12)) {
        play(&World::new(|_| {}), &moves);
    }

    #[test]
    fn no_order_of_requests_gets_around_chap(moves in proptest::collection::vec(step(), 1..12)) {
        let mut world = World::new(|target| target.auth = chap(true, &ChapAlgorithm::ALL));
        let targets = world.nodes.targets().to_vec();
        let auth = chap(false, &ChapAlgorithm::ALL);
        world.nodes = crate::iscsi::node::Nodes::new(targets, vec![], auth);
        prop_assert!(!play(&world, &moves));
    }
}

#[test]
fn a_login_ends_within_its_bound_of_requests() {
    let moves: Vec<_> = (0..=LOGIN_REQUESTS_MAX)
        .map(|i| Move {
            csg: SECURITY,
            transit_to: None,
            continue_: false,
            spoiled: 0,
            text: if i == 0 {
                format!("{WHO}\0").replace('|', "\0").into_bytes()
            } else {
                format!("X-{i}=\0").into_bytes()
            },
        })
        .collect();
    assert!(!play(&World::new(|_| {}), &moves));
}
