//! Who may not log in, which status each reason has, and what the operator reads
//! (RFC 7143 §11.13.5).

use std::sync::Arc;

use crate::iscsi::acl::Acl;
use crate::iscsi::keys::Key;
use crate::iscsi::login::fixture::*;
use crate::iscsi::login::{Admission, Login, LoginStep, Reason, refuse_final};
use crate::iscsi::names::{NameError, NamePattern};
use crate::iscsi::node::{Availability, Nodes, Redirect};
use crate::iscsi::text::TextError;
use crate::pdu::{CmdSn, LoginStatus, Stage, StatSn, Tsih};

fn first(world: &World, text: &str) -> (Reason, LoginStatus, String) {
    let seen = Initiator::new(world).send(transit(OPERATIONAL, FULL), text);
    let Seen::Refused {
        reason,
        response,
        line,
    } = seen
    else {
        panic!("{seen:?}")
    };
    assert!(!response.transit && !response.continue_);
    (reason, response.status, line)
}

#[test]
fn what_is_missing_or_malformed_in_the_first_sequence_is_named() {
    let world = World::new(|_| {});
    let initiator = "InitiatorName=iqn.1993-08.org.debian:01:a";
    for (text, reason, status) in [
        ("", Reason::NoInitiatorName, LoginStatus::MISSING_PARAMETER),
        (
            &format!("TargetName={TARGET}"),
            Reason::NoInitiatorName,
            LoginStatus::MISSING_PARAMETER,
        ),
        (
            initiator,
            Reason::NoTargetName,
            LoginStatus::MISSING_PARAMETER,
        ),
        (
            &format!("{WHO}|SessionType=Other"),
            Reason::UnknownSessionType,
            LoginStatus::SESSION_TYPE_NOT_SUPPORTED,
        ),
        (
            "InitiatorName=joe|TargetName=x",
            Reason::BadName(Key::InitiatorName, NameError::UnknownType),
            LoginStatus::INITIATOR_ERROR,
        ),
        (
            &format!("{initiator}|TargetName=iqn.2026"),
            Reason::BadName(Key::TargetName, NameError::BadDate),
            LoginStatus::INITIATOR_ERROR,
        ),
        (
            &format!("{WHO}|TargetName={TARGET}"),
            Reason::Text(TextError::DuplicateKey),
            LoginStatus::INITIATOR_ERROR,
        ),
        (
            "x",
            Reason::Text(TextError::NoEquals),
            LoginStatus::INITIATOR_ERROR,
        ),
    ] {
        let (got, got_status, _) = first(&world, text);
        assert_eq!((got, got_status), (reason, status), "{text}");
    }
}

// RFC 7143 §4.2.7.2: names are compared in their normal form.
#[test]
fn a_name_in_capitals_is_the_same_name() {
    let world = World::new(|_| {});
    let text = WHO.replace("iqn.2026-11.io.x:disk0", "IQN.2026-11.IO.X:Disk0");
    Initiator::new(&world)
        .send(transit(OPERATIONAL, FULL), &text)
        .complete();
}

#[test]
fn an_unknown_target_is_not_found_and_the_nearest_name_is_told() {
    let world = World::new(|_| {});
    let (reason, status, line) = first(&world, &WHO.replace("disk0", "dsk0"));
    assert_eq!(
        (reason, status),
        (Reason::TargetNotFound, LoginStatus::NOT_FOUND)
    );
    assert_eq!(
        line,
        "login refused (0203): no such target is configured; from 10.0.0.9:40000 to \
         10.0.0.1:3260, portal group 1; initiator iqn.1993-08.org.debian:01:a; target \
         iqn.2026-11.io.x:dsk0; the nearest configured name is iqn.2026-11.io.x:disk0; to mend it: \
         use the target name iqn.2026-11.io.x:disk0 on the initiator"
    );
    let (_, _, line) = first(&world, &WHO.replace("disk0", "something-quite-different"));
    assert!(line.ends_with("add [[target]] name = \"iqn.2026-11.io.x:something-quite-different\""));
    assert!(!line.contains("nearest"), "{line}");
}

#[test]
fn each_way_in_which_a_target_is_not_to_be_had_has_its_own_status() {
    let pattern = |text| vec![NamePattern::new(text).unwrap()];
    let other = World::new(|target| target.acl = Acl::new(pattern("*:b"), vec![]));
    let (reason, status, line) = first(&other, WHO);
    assert_eq!(
        (reason, status),
        (Reason::InitiatorDenied, LoginStatus::AUTHORIZATION_FAILURE)
    );
    assert!(line.ends_with(
        "to mend it: add \"iqn.1993-08.org.debian:01:a\" to initiators of [[target]] name = \
         \"iqn.2026-11.io.x:disk0\""
    ));

    let networks = vec!["192.0.2.0/24".parse().unwrap()];
    let elsewhere = World::new(|target| target.acl = Acl::new(vec![], networks));
    let (reason, status, line) = first(&elsewhere, WHO);
    assert_eq!(
        (reason, status),
        (Reason::AddressDenied, LoginStatus::AUTHORIZATION_FAILURE)
    );
    assert!(line.contains("add \"10.0.0.9\" to addresses"), "{line}");

    let removed = World::new(|target| target.availability = Availability::Removed);
    let (reason, status, _) = first(&removed, WHO);
    assert_eq!(
        (reason, status),
        (Reason::TargetRemoved, LoginStatus::TARGET_REMOVED)
    );

    let away = World::new(|target| target.availability = Availability::Unavailable);
    let (reason, status, _) = first(&away, WHO);
    assert_eq!(
        (reason, status),
        (Reason::TargetUnavailable, LoginStatus::SERVICE_UNAVAILABLE)
    );

    let behind = World::new(|target| target.portal_groups = vec![2, 3]);
    let (reason, status, line) = first(&behind, WHO);
    assert_eq!(
        (reason, status),
        (Reason::TargetNotOnPortal, LoginStatus::NOT_FOUND)
    );
    assert!(line.contains("add 1 to portal_groups"), "{line}");
}

#[test]
fn a_daemon_without_room_or_about_to_stop_says_so() {
    let mut world = World::new(|_| {});
    for (admission, reason, status) in [
        (
            Admission::ShuttingDown,
            Reason::ShuttingDown,
            LoginStatus::SERVICE_UNAVAILABLE,
        ),
        (
            Admission::OutOfResources,
            Reason::OutOfResources,
            LoginStatus::OUT_OF_RESOURCES,
        ),
    ] {
        world.admission = admission;
        for who in [WHO, DISCOVERY] {
            let (got, got_status, _) = first(&world, who);
            assert_eq!((got, got_status), (reason, status));
        }
    }
}

#[test]
fn the_session_directory_can_still_refuse_what_was_agreed_on() {
    let world = World::new(|_| {});
    let seen = Initiator::new(&world).send(transit(OPERATIONAL, FULL), WHO);
    let Seen::Final {
        mut negotiated,
        response,
        ..
    } = seen
    else {
        panic!()
    };
    negotiated.tsih = Tsih(5);
    for (reason, status) in [
        (Reason::NoSuchSession, LoginStatus::SESSION_DOES_NOT_EXIST),
        (
            Reason::TooManyConnections,
            LoginStatus::TOO_MANY_CONNECTIONS,
        ),
        (Reason::OutOfResources, LoginStatus::OUT_OF_RESOURCES),
    ] {
        let (refused, refusal) = refuse_final(&world.context(), &negotiated, &response, reason);
        assert_eq!((refused.status, refusal.reason), (status, reason));
        assert!(!refused.transit);
        assert_eq!(
            (refused.nsg, refused.csg),
            (Stage::SecurityNegotiation, OPERATIONAL)
        );
        assert_eq!((refused.tsih, refused.stat_sn), (Tsih(5), response.stat_sn));
        assert!(refusal.to_string().contains(TARGET));
    }
}

#[test]
fn the_caller_can_refuse_at_any_time() {
    let world = World::new(|_| {});
    let context = world.context();
    let step = Login::new().refuse(&context, &request(SECURITY), Reason::OutOfResources);
    let LoginStep::Refuse { response, refusal } = step else {
        panic!()
    };
    assert_eq!(refusal.reason, Reason::OutOfResources);
    assert_eq!(
        (response.stat_sn, response.exp_cmd_sn),
        (StatSn(500), CmdSn(100))
    );

    let mut initiator = Initiator::new(&world);
    initiator.send(request(SECURITY), WHO).reply();
    let login = initiator.login.take().unwrap();
    let step = login.refuse(&context, &request(SECURITY), Reason::ShuttingDown);
    let LoginStep::Refuse { response, refusal } = step else {
        panic!()
    };
    assert_eq!(response.stat_sn, StatSn(501));
    assert!(refusal.to_string().contains(TARGET));
}

#[test]
fn what_a_peer_writes_is_escaped_in_the_line() {
    let world = World::new(|_| {});
    let (_, _, line) = first(&world, "InitiatorName=a\nb\u{1b}[0m|TargetName=x");
    assert!(
        line.contains("initiator a\\nb\\u{1b}[0m; target x"),
        "{line}"
    );
    let (_, _, line) = first(
        &world,
        &format!("InitiatorName={}|TargetName=x", "y".repeat(5000)),
    );
    assert!(line.len() < 1000, "{}", line.len());
}

// A refusal must stay cheap: the search for the nearest name is bounded, not the configuration.
#[test]
fn many_targets_do_not_hide_that_one_is_missing() {
    let mut world = World::new(|_| {});
    let targets = (0..5000)
        .map(|i| Arc::new(target(&format!("iqn.2026-11.io.x:t{i}"))))
        .collect();
    world.nodes = Nodes::new(targets, vec![], Arc::default());
    let (reason, _, line) = first(&world, WHO);
    assert_eq!(reason, Reason::TargetNotFound);
    assert!(line.contains("nearest"), "{line}");
}

/// RFC 7143 §11.13.5, §13.8: the new address without a portal group tag, before anything is proved,
/// to those who may know of the target, and only where it holds.
#[test]
fn a_target_that_moved_says_where_to() {
    let to = "[2001:db8::1]:3260".parse().unwrap();
    let moved = |permanent, groups: &[u16]| {
        let groups = groups.to_vec();
        World::new(|target| {
            target.portal_groups = vec![1, 2];
            target.auth = chap(false, &[crate::iscsi::auth::ChapAlgorithm::Sha256]);
            target.redirect = Some(Redirect {
                to,
                permanent,
                portal_groups: groups,
            });
        })
    };
    for (permanent, status) in [
        (false, LoginStatus::TARGET_MOVED_TEMPORARILY),
        (true, LoginStatus::TARGET_MOVED_PERMANENTLY),
    ] {
        let world = moved(permanent, &[1]);
        let seen = Initiator::new(&world).send(request(SECURITY), WHO);
        let Seen::Refused {
            reason, response, ..
        } = seen
        else {
            panic!("{seen:?}")
        };
        assert_eq!(reason, Reason::TargetMoved { to, permanent });
        assert_eq!(response.status, status);
        assert_eq!(reason.text(), b"TargetAddress=[2001:db8::1]:3260\0");
    }
    let (reason, ..) = first(&moved(false, &[2]), WHO);
    assert_eq!(reason, Reason::AuthenticationRequired, "not at this group");
    let mut world = World::new(|target| {
        target.acl = Acl::new(vec![NamePattern::new("*:b").unwrap()], vec![]);
        target.redirect = Some(Redirect {
            to,
            permanent: false,
            portal_groups: vec![1],
        });
    });
    world.portal_group_tag = 1;
    assert_eq!(first(&world, WHO).0, Reason::InitiatorDenied);
    assert!(Reason::TargetRemoved.text().is_empty());
}
