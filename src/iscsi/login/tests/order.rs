//! Stages, transitions, continuation and what must stay the same (RFC 7143 §6.3, §11.12, §11.13).

use crate::iscsi::login::Reason;
use crate::iscsi::login::fixture::*;
use crate::iscsi::negotiated::SessionType;
use crate::iscsi::text::{KEYS_MAX, LOGIN_DATA_SEGMENT_MAX_BYTES, TextError, pairs};
use crate::pdu::{
    Bhs, Cid, CmdSn, FormatError, Isid, Itt, LoginRequest, LoginStatus, StatSn, Tsih,
};

use super::super::{LOGIN_REQUESTS_MAX, Login, LoginStep};

#[test]
fn a_login_without_security_ends_after_one_request() {
    let world = World::new(|target| target.alias = Some("a disk".into()));
    let seen = Initiator::new(&world).send(transit(OPERATIONAL, FULL), WHO);
    let Seen::Final {
        negotiated,
        response,
        text,
    } = seen
    else {
        panic!("{seen:?}")
    };
    assert_eq!(
        text,
        "TargetPortalGroupTag=1|TargetAlias=a disk|MaxRecvDataSegmentLength=262144|"
    );
    assert!(response.transit && !response.continue_);
    assert_eq!((response.csg, response.nsg), (OPERATIONAL, FULL));
    assert_eq!(response.status, LoginStatus::SUCCESS);
    assert_eq!((response.version_max, response.version_active), (0, 0));
    assert_eq!((response.itt, response.tsih), (Itt(7), Tsih(0)));
    assert_eq!(response.isid, request(FULL).isid);
    assert_eq!(response.stat_sn, StatSn(500));
    assert_eq!(
        (response.exp_cmd_sn, response.max_cmd_sn),
        (CmdSn(100), CmdSn(163))
    );
    assert_eq!(negotiated.next_stat_sn, StatSn(501));
    assert_eq!(negotiated.cmd_sn, CmdSn(100));
    assert_eq!((negotiated.tsih, negotiated.cid), (Tsih(0), Cid(1)));
    assert_eq!(negotiated.session_type, SessionType::Normal);
    assert_eq!(
        negotiated.initiator_name,
        name("iqn.1993-08.org.debian:01:a")
    );
    assert_eq!(
        negotiated
            .target
            .as_ref()
            .map(|target| target.name.as_str()),
        Some(TARGET)
    );
    assert_eq!(negotiated.portal_group_tag, 1);
    assert!(!negotiated.authenticated && !negotiated.mutually_authenticated);
}

#[test]
fn all_stages_in_turn_count_stat_sn_up() {
    let world = World::new(|_| {});
    let mut initiator = Initiator::new(&world);
    let who = format!("{WHO}|AuthMethod=CHAP,None");
    let Seen::Reply { response, text } = initiator.send(transit(SECURITY, OPERATIONAL), &who)
    else {
        panic!()
    };
    assert_eq!(text, "TargetPortalGroupTag=1|AuthMethod=None|");
    assert_eq!((response.transit, response.nsg), (true, OPERATIONAL));
    assert_eq!(response.stat_sn, StatSn(500));
    let Seen::Reply { response, text } = initiator.send(request(OPERATIONAL), "HeaderDigest=None")
    else {
        panic!()
    };
    assert_eq!(text, "MaxRecvDataSegmentLength=262144|HeaderDigest=None|");
    assert_eq!((response.transit, response.stat_sn), (false, StatSn(501)));
    let (negotiated, text) = initiator.send(transit(OPERATIONAL, FULL), "").complete();
    assert_eq!((text.as_str(), negotiated.next_stat_sn), ("", StatSn(503)));
}

// RFC 7143 §6.3: security straight to full feature phase leaves all parameters at their defaults.
#[test]
fn full_feature_phase_may_follow_the_security_stage() {
    let world = World::new(|_| {});
    let (negotiated, text) = Initiator::new(&world)
        .send(transit(SECURITY, FULL), WHO)
        .complete();
    assert_eq!(text, "TargetPortalGroupTag=1|");
    let parameters = &negotiated.parameters;
    assert_eq!(parameters.target_max_recv_data_segment_length, 8192);
    assert!(parameters.initial_r2t && parameters.immediate_data && !parameters.header_digest);
}

#[test]
fn a_discovery_session_needs_no_target_and_is_told_no_portal_group() {
    let world = World::new(|_| {});
    let seen = Initiator::new(&world).send(transit(OPERATIONAL, FULL), DISCOVERY);
    let (negotiated, text) = seen.complete();
    assert_eq!(text, "MaxRecvDataSegmentLength=262144|");
    assert_eq!(negotiated.session_type, SessionType::Discovery);
    assert!(negotiated.target.is_none());
}

#[test]
fn an_initiator_that_never_asks_for_the_transition_runs_into_the_bound() {
    let world = World::new(|_| {});
    let mut initiator = Initiator::new(&world);
    initiator.send(request(OPERATIONAL), WHO).reply();
    for _ in 1..LOGIN_REQUESTS_MAX {
        assert_eq!(
            initiator.send(request(OPERATIONAL), "").reply(),
            (String::new(), false)
        );
    }
    let last = initiator.send(request(OPERATIONAL), "").refused();
    assert_eq!(last, Reason::TooManyRequests);
}

// RFC 7143 §6.2 and §11.12.2: text over several PDUs, cut anywhere.
#[test]
fn the_initiators_text_may_go_on_in_further_requests() {
    let world = World::new(|_| {});
    let mut initiator = Initiator::new(&world);
    let text = format!("{WHO}\0HeaderDigest=CRC32C,None\0").replace('|', "\0");
    let (head, tail) = text.as_bytes().split_at(20);
    let (middle, tail) = tail.split_at(30);
    for part in [head, middle] {
        let more = LoginRequest {
            continue_: true,
            ..request(OPERATIONAL)
        };
        let Seen::Reply { response, text } = initiator.send_bytes(more, part) else {
            panic!()
        };
        assert_eq!(
            (text.as_str(), response.transit, response.continue_),
            ("", false, false)
        );
    }
    let (negotiated, text) = initiator
        .send_bytes(transit(OPERATIONAL, FULL), tail)
        .complete();
    assert!(text.ends_with("HeaderDigest=CRC32C|"), "{text}");
    assert!(negotiated.parameters.header_digest);
}

/// Enough unknown keys that the answer takes two PDUs.
fn many_keys() -> String {
    let long = |i: usize| format!("|X-{i:0>61}=");
    let keys: String = (0..KEYS_MAX - 2).map(long).collect();
    format!("{WHO}{keys}")
}

// RFC 7143 §6.2: our own text goes on as well, and the transition waits for its end.
#[test]
fn our_text_goes_on_in_further_responses() {
    let world = World::new(|_| {});
    let mut initiator = Initiator::new(&world);
    let mut data = many_keys().replace('|', "\0").into_bytes();
    data.push(0);
    let seen = initiator.send_bytes(
        LoginRequest {
            continue_: true,
            ..request(OPERATIONAL)
        },
        &data[..LOGIN_DATA_SEGMENT_MAX_BYTES],
    );
    assert_eq!(seen.reply(), (String::new(), false));
    let rest = &data[LOGIN_DATA_SEGMENT_MAX_BYTES..];
    let Seen::Reply {
        response,
        text: first,
    } = initiator.send_bytes(transit(OPERATIONAL, FULL), rest)
    else {
        panic!()
    };
    assert_eq!(first.len(), LOGIN_DATA_SEGMENT_MAX_BYTES);
    assert!(response.continue_ && !response.transit);
    let seen = initiator.send(transit(OPERATIONAL, FULL), "");
    let Seen::Final {
        response,
        text: second,
        ..
    } = seen
    else {
        panic!("{seen:?}")
    };
    assert!(response.transit && !response.continue_);
    let whole = format!("{first}{second}").replace('|', "\0");
    let answers = pairs(whole.as_bytes()).unwrap();
    let unknown = answers
        .iter()
        .filter(|(_, value)| *value == "NotUnderstood")
        .count();
    assert_eq!(unknown, KEYS_MAX - 2);
}

#[test]
fn text_before_the_end_of_ours_is_refused() {
    let world = World::new(|_| {});
    let big = |initiator: &mut Initiator<'_>| {
        let mut data = many_keys().replace('|', "\0").into_bytes();
        data.push(0);
        let more = LoginRequest {
            continue_: true,
            ..request(OPERATIONAL)
        };
        initiator.send_bytes(more, &data[..8000]).reply();
        initiator
            .send_bytes(request(OPERATIONAL), &data[8000..])
            .reply();
    };
    let mut initiator = Initiator::new(&world);
    big(&mut initiator);
    let refused = initiator
        .send(request(OPERATIONAL), "HeaderDigest=None")
        .refused();
    assert_eq!(refused, Reason::TextBeforeEndOfOurs);
    let mut initiator = Initiator::new(&world);
    big(&mut initiator);
    let more = LoginRequest {
        continue_: true,
        ..request(OPERATIONAL)
    };
    assert_eq!(
        initiator.send(more, "").refused(),
        Reason::TextBeforeEndOfOurs
    );
}

#[test]
fn each_bound_on_text_holds_at_its_last_byte() {
    let world = World::new(|_| {});
    let more = LoginRequest {
        continue_: true,
        ..request(OPERATIONAL)
    };
    let full = vec![b'A'; LOGIN_DATA_SEGMENT_MAX_BYTES];
    let mut over = full.clone();
    over.push(b'A');
    let refused = Initiator::new(&world).send_bytes(more, &over).refused();
    assert_eq!(refused, Reason::SegmentTooLong);
    let mut initiator = Initiator::new(&world);
    for _ in 0..8 {
        initiator.send_bytes(more, &full).reply();
    }
    assert_eq!(
        initiator.send_bytes(more, b"A").refused(),
        Reason::Text(TextError::TooLong)
    );
}

// RFC 7143 §11.12: what one login's requests have in common.
#[test]
fn what_must_stay_the_same_through_a_login() {
    let world = World::new(|_| {});
    for (change, reason) in [
        (
            LoginRequest {
                itt: Itt(8),
                ..request(OPERATIONAL)
            },
            Reason::IttChanged,
        ),
        (
            LoginRequest {
                isid: Isid([0; 6]),
                ..request(OPERATIONAL)
            },
            Reason::IsidChanged,
        ),
        (
            LoginRequest {
                tsih: Tsih(1),
                ..request(OPERATIONAL)
            },
            Reason::TsihChanged,
        ),
        (
            LoginRequest {
                cid: Cid(2),
                ..request(OPERATIONAL)
            },
            Reason::CidChanged,
        ),
        (
            LoginRequest {
                cmd_sn: CmdSn(101),
                ..request(OPERATIONAL)
            },
            Reason::CmdSnChanged,
        ),
        (
            request(SECURITY),
            Reason::StageMismatch {
                expected: OPERATIONAL,
                got: SECURITY,
            },
        ),
        (
            request(FULL),
            Reason::StageMismatch {
                expected: OPERATIONAL,
                got: FULL,
            },
        ),
    ] {
        let mut initiator = Initiator::new(&world);
        initiator.send(request(OPERATIONAL), WHO).reply();
        assert_eq!(initiator.send(change, "").refused(), reason);
    }
}

#[test]
fn stages_are_left_forwards_only() {
    let world = World::new(|_| {});
    for (from, to) in [
        (SECURITY, SECURITY),
        (OPERATIONAL, OPERATIONAL),
        (OPERATIONAL, SECURITY),
    ] {
        let refused = Initiator::new(&world)
            .send(transit(from, to), WHO)
            .refused();
        assert_eq!(refused, Reason::BadTransition { from, to });
    }
    let refused = Initiator::new(&world).send(request(FULL), WHO).refused();
    assert_eq!(refused, Reason::BeginsInFullFeaturePhase);
    let mut initiator = Initiator::new(&world);
    initiator.send(transit(SECURITY, OPERATIONAL), WHO).reply();
    let refused = initiator.send(request(SECURITY), "").refused();
    assert_eq!(
        refused,
        Reason::StageMismatch {
            expected: OPERATIONAL,
            got: SECURITY
        }
    );
}

// RFC 7143 §11.12.4.
#[test]
fn only_a_range_of_versions_with_ours_in_it_will_do() {
    let world = World::new(|_| {});
    let newer = LoginRequest {
        version_max: 2,
        version_min: 1,
        ..request(OPERATIONAL)
    };
    let Seen::Refused {
        reason, response, ..
    } = Initiator::new(&world).send(newer, WHO)
    else {
        panic!()
    };
    assert_eq!(reason, Reason::UnsupportedVersion);
    assert_eq!(response.status, LoginStatus::UNSUPPORTED_VERSION);
    let both = LoginRequest {
        version_max: 1,
        ..transit(OPERATIONAL, FULL)
    };
    Initiator::new(&world).send(both, WHO).complete();
}

#[test]
fn a_header_that_cannot_be_read_is_echoed_and_refused() {
    let world = World::new(|_| {});
    let mut bytes = *request(OPERATIONAL).emit().bytes();
    bytes[1] = 0b0000_1000;
    let bhs = Bhs::new(bytes);
    let error = LoginRequest::parse(&bhs).unwrap_err();
    assert_eq!(error, FormatError::ReservedStage(2));
    let LoginStep::Refuse { response, refusal } =
        Login::new().refuse_header(&world.context(), &bhs, error)
    else {
        panic!()
    };
    assert_eq!(refusal.reason, Reason::Header(error));
    assert_eq!(response.status, LoginStatus::INITIATOR_ERROR);
    assert_eq!((response.itt, response.isid), (Itt(7), request(FULL).isid));
    assert_eq!(response.stat_sn, StatSn(500));
}

// RFC 7143 §11.12.6: a TSIH that is not zero is the session directory's affair, and the keys of the
// leading connection are not sent again.
#[test]
fn a_login_that_joins_a_session_is_surfaced() {
    let world = World::new(|_| {});
    let join = LoginRequest {
        tsih: Tsih(9),
        ..transit(OPERATIONAL, FULL)
    };
    let who = format!("{WHO}|HeaderDigest=CRC32C");
    let (negotiated, _) = Initiator::new(&world).send(join, &who).complete();
    assert_eq!(negotiated.tsih, Tsih(9));
    assert!(negotiated.parameters.header_digest);
    let leading = format!("{WHO}|MaxBurstLength=65536");
    let refused = Initiator::new(&world).send(join, &leading).refused();
    assert_eq!(
        refused,
        Reason::NotLeading(crate::iscsi::keys::Key::MaxBurstLength)
    );
}
