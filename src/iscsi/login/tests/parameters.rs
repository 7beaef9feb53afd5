//! Each operational key with its boundary values (RFC 7143 §6.2, §13).

use crate::iscsi::keys::{Key, TABLE, Use};
use crate::iscsi::login::Reason;
use crate::iscsi::login::fixture::*;
use crate::iscsi::negotiated::Parameters;
use crate::iscsi::node::DigestPolicy;
use crate::pdu::LoginStatus;

/// What a login that offers `keys` at once is answered, without what every login is told.
fn offer(world: &World, who: &str, keys: &str) -> (String, Parameters) {
    let text = format!("{who}|{keys}");
    let seen = Initiator::new(world).send(transit(OPERATIONAL, FULL), &text);
    let (negotiated, text) = seen.complete();
    let told = "TargetPortalGroupTag=1|";
    let text = text.strip_prefix(told).unwrap_or(&text).to_owned();
    let declared = "MaxRecvDataSegmentLength=262144|";
    (
        text.strip_prefix(declared).unwrap().to_owned(),
        negotiated.parameters,
    )
}

// One line per case: what is offered, and what is answered. Limits are those of `Limits::default`.
#[test]
fn each_key_is_answered_by_its_rule() {
    let world = World::new(|_| {});
    for (key, value, answer) in [
        // §13.1, list: the first option that we know.
        ("HeaderDigest", "None", "None"),
        ("HeaderDigest", "CRC32C", "CRC32C"),
        ("HeaderDigest", "CRC32C,None", "CRC32C"),
        ("HeaderDigest", "None,CRC32C", "None"),
        ("HeaderDigest", "X-new,CRC32C,None", "CRC32C"),
        ("HeaderDigest", "crc32c", "Reject"),
        ("HeaderDigest", "", "Reject"),
        ("DataDigest", "CRC32C", "CRC32C"),
        // §13.2, minimum, this target's is 4.
        ("MaxConnections", "1", "1"),
        ("MaxConnections", "3", "3"),
        ("MaxConnections", "65535", "4"),
        ("MaxConnections", "0", "Reject"),
        ("MaxConnections", "65536", "Reject"),
        // §13.10, or.
        ("InitialR2T", "Yes", "Yes"),
        ("InitialR2T", "No", "No"),
        ("InitialR2T", "yes", "Reject"),
        ("InitialR2T", "1", "Reject"),
        // §13.11, and.
        ("ImmediateData", "Yes", "Yes"),
        ("ImmediateData", "No", "No"),
        ("ImmediateData", "", "Reject"),
        // §13.13, minimum.
        ("MaxBurstLength", "511", "Reject"),
        ("MaxBurstLength", "512", "512"),
        ("MaxBurstLength", "0x200", "512"),
        ("MaxBurstLength", "262143", "262143"),
        ("MaxBurstLength", "16777215", "262144"),
        ("MaxBurstLength", "16777216", "Reject"),
        ("MaxBurstLength", "-512", "Reject"),
        ("MaxBurstLength", "99999999999999999999999", "Reject"),
        // §13.14, minimum.
        ("FirstBurstLength", "511", "Reject"),
        ("FirstBurstLength", "512", "512"),
        ("FirstBurstLength", "65537", "65536"),
        ("FirstBurstLength", "16777215", "65536"),
        ("FirstBurstLength", "16777216", "Reject"),
        // §13.15, maximum, ours is 2.
        ("DefaultTime2Wait", "0", "2"),
        ("DefaultTime2Wait", "3", "3"),
        ("DefaultTime2Wait", "3600", "3600"),
        ("DefaultTime2Wait", "3601", "Reject"),
        // §13.16, minimum, ours is 20.
        ("DefaultTime2Retain", "0", "0"),
        ("DefaultTime2Retain", "21", "20"),
        ("DefaultTime2Retain", "3600", "20"),
        ("DefaultTime2Retain", "3601", "Reject"),
        // §13.17, minimum, ours is 4.
        ("MaxOutstandingR2T", "0", "Reject"),
        ("MaxOutstandingR2T", "1", "1"),
        ("MaxOutstandingR2T", "65535", "4"),
        ("MaxOutstandingR2T", "65536", "Reject"),
        // §13.18, §13.19, or, ours is Yes.
        ("DataPDUInOrder", "No", "Yes"),
        ("DataPDUInOrder", "Yes", "Yes"),
        ("DataSequenceInOrder", "No", "Yes"),
        // §13.20, minimum, ours is 0.
        ("ErrorRecoveryLevel", "0", "0"),
        ("ErrorRecoveryLevel", "2", "0"),
        ("ErrorRecoveryLevel", "3", "Reject"),
        // §13.23, list, ours is RFC3720.
        ("TaskReporting", "RFC3720", "RFC3720"),
        (
            "TaskReporting",
            "FastAbort,ResponseFence,RFC3720",
            "RFC3720",
        ),
        ("TaskReporting", "FastAbort", "Reject"),
        // §13.24, minimum, ours is 2.
        ("iSCSIProtocolLevel", "0", "0"),
        ("iSCSIProtocolLevel", "1", "1"),
        ("iSCSIProtocolLevel", "2", "2"),
        ("iSCSIProtocolLevel", "31", "2"),
        ("iSCSIProtocolLevel", "32", "Reject"),
        // §13.25, obsolete.
        ("OFMarker", "Yes", "No"),
        ("IFMarker", "No", "No"),
        ("OFMarkInt", "1~65535", "Reject"),
        ("IFMarkInt", "2048~2048", "Reject"),
        // §6.2, unknown; names are case sensitive.
        ("X-com.example.thing", "Yes", "NotUnderstood"),
        ("X#Something", "Yes", "NotUnderstood"),
        ("MaxBurst", "512", "NotUnderstood"),
        ("Maxburstlength", "512", "NotUnderstood"),
    ] {
        let (text, _) = offer(&world, WHO, &format!("{key}={value}"));
        assert_eq!(text, format!("{key}={answer}|"), "{key}={value}");
    }
}

#[test]
fn what_was_answered_is_what_holds() {
    let world = World::new(|_| {});
    let keys = "HeaderDigest=CRC32C|DataDigest=CRC32C,None|MaxRecvDataSegmentLength=65536|\
                InitialR2T=No|ImmediateData=No|MaxBurstLength=131072|FirstBurstLength=32768|\
                DefaultTime2Wait=5|DefaultTime2Retain=0|MaxOutstandingR2T=3|MaxConnections=8|\
                ErrorRecoveryLevel=2|DataPDUInOrder=No|DataSequenceInOrder=No";
    let (_, parameters) = offer(&world, WHO, keys);
    let expected = Parameters {
        header_digest: true,
        data_digest: true,
        initiator_max_recv_data_segment_length: 65536,
        target_max_recv_data_segment_length: 262_144,
        max_connections: 4,
        initial_r2t: false,
        immediate_data: false,
        max_burst_length: 131_072,
        first_burst_length: 32768,
        default_time2wait_s: 5,
        default_time2retain_s: 0,
        max_outstanding_r2t: 3,
        data_pdu_in_order: true,
        data_sequence_in_order: true,
        error_recovery_level: 0,
        iscsi_protocol_level: 1,
    };
    assert_eq!(parameters, expected);
}

// RFC 7143 §13: what holds when nothing is said, and after a Reject.
#[test]
fn defaults_hold_where_nothing_was_agreed_on() {
    let world = World::new(|_| {});
    for keys in [
        "X-a=b",
        "MaxBurstLength=1|HeaderDigest=no|InitialR2T=maybe|ImmediateData=2",
    ] {
        let (_, parameters) = offer(&world, WHO, keys);
        let expected = Parameters {
            header_digest: false,
            data_digest: false,
            initiator_max_recv_data_segment_length: 8192,
            target_max_recv_data_segment_length: 262_144,
            max_connections: 1,
            initial_r2t: true,
            immediate_data: true,
            max_burst_length: 262_144,
            first_burst_length: 65536,
            default_time2wait_s: 2,
            default_time2retain_s: 20,
            max_outstanding_r2t: 1,
            data_pdu_in_order: true,
            data_sequence_in_order: true,
            error_recovery_level: 0,
            iscsi_protocol_level: 1,
        };
        assert_eq!(parameters, expected, "{keys}");
    }
}

// RFC 7143 §13: "Irrelevant when SessionType=Discovery".
#[test]
fn keys_without_meaning_in_discovery_are_irrelevant_there() {
    let world = World::new(|_| {});
    for row in TABLE.iter().filter(|row| row.irrelevant_in_discovery) {
        let (text, _) = offer(&world, DISCOVERY, &format!("{}=1", row.name));
        assert_eq!(text, format!("{}=Irrelevant|", row.name));
    }
    let (text, parameters) = offer(&world, DISCOVERY, "DataDigest=CRC32C|DefaultTime2Wait=0");
    assert_eq!(text, "DataDigest=CRC32C|DefaultTime2Wait=2|");
    assert!(parameters.data_digest);
}

// RFC 7143 §13.14.
#[test]
fn the_first_burst_depends_on_what_else_is_agreed_on() {
    let world = World::new(|_| {});
    let nothing = "FirstBurstLength=4096|InitialR2T=Yes|ImmediateData=No";
    let (text, _) = offer(&world, WHO, nothing);
    assert_eq!(
        text,
        "InitialR2T=Yes|ImmediateData=No|FirstBurstLength=4096|"
    );
    let (text, parameters) = offer(&world, WHO, "FirstBurstLength=65536|MaxBurstLength=1024");
    assert_eq!(text, "MaxBurstLength=1024|FirstBurstLength=1024|");
    assert_eq!(parameters.first_burst_length, 1024);
    let (_, parameters) = offer(&world, WHO, "MaxBurstLength=1024");
    assert_eq!(parameters.first_burst_length, 1024);
}

// RFC 7143 §13.12: declared, not negotiated, so there is no answer; out of range is an error.
#[test]
fn the_initiators_longest_data_segment_is_taken_as_it_is() {
    let world = World::new(|_| {});
    for length in [512, 16_777_215] {
        let (text, parameters) = offer(&world, WHO, &format!("MaxRecvDataSegmentLength={length}"));
        assert_eq!(text, "");
        assert_eq!(parameters.initiator_max_recv_data_segment_length, length);
    }
    for length in ["511", "16777216", "0", "", "8k"] {
        let text = format!("{WHO}|MaxRecvDataSegmentLength={length}");
        let refused = Initiator::new(&world)
            .send(request(OPERATIONAL), &text)
            .refused();
        assert_eq!(refused, Reason::BadValue(Key::MaxRecvDataSegmentLength));
    }
}

#[test]
fn aliases_are_kept_up_to_255_bytes() {
    let world = World::new(|_| {});
    let send = |length| {
        let text = format!("{WHO}|InitiatorAlias={}", "a".repeat(length));
        Initiator::new(&world).send(transit(OPERATIONAL, FULL), &text)
    };
    let (negotiated, _) = send(255).complete();
    assert_eq!(
        negotiated.initiator_alias.map(|alias| alias.len()),
        Some(255)
    );
    assert_eq!(send(256).refused(), Reason::BadValue(Key::InitiatorAlias));
}

// RFC 7143 §13: "Use" and "Senders" of every key.
#[test]
fn a_key_out_of_its_stage_or_from_the_wrong_side_is_refused() {
    let world = World::new(|_| {});
    for row in TABLE {
        let mut initiator = Initiator::new(&world);
        initiator.send(transit(SECURITY, OPERATIONAL), WHO).reply();
        let key = format!("{}=Yes", row.name);
        let in_security = {
            let text = format!("{WHO}|{key}");
            let seen = Initiator::new(&world).send(request(SECURITY), &text);
            matches!(
                seen,
                Seen::Refused {
                    reason: Reason::WrongStage(_),
                    ..
                }
            )
        };
        let wrong = Reason::WrongStage(row.key);
        match row.use_ {
            _ if !row.initiator_sends => {
                let refused = initiator.send(request(OPERATIONAL), &key).refused();
                assert_eq!(refused, Reason::TargetsKey(row.key));
            }
            Use::First => {
                let refused = initiator.send(request(OPERATIONAL), &key).refused();
                // The names were in the first sequence, so here they come twice.
                let twice = row.key != Key::SessionType;
                let reason = if twice {
                    Reason::DuplicateKey(row.key)
                } else {
                    wrong
                };
                assert_eq!(refused, reason);
            }
            Use::SecurityStage | Use::FullFeature => {
                assert_eq!(initiator.send(request(OPERATIONAL), &key).refused(), wrong);
            }
            Use::Operational | Use::Leading => assert!(in_security, "{}", row.name),
            Use::Any => assert!(!in_security, "{}", row.name),
        }
    }
}

// RFC 7143 §6.2: once in a login.
#[test]
fn a_key_is_negotiated_once() {
    let world = World::new(|_| {});
    let mut initiator = Initiator::new(&world);
    initiator
        .send(request(OPERATIONAL), &format!("{WHO}|MaxBurstLength=512"))
        .reply();
    let refused = initiator
        .send(request(OPERATIONAL), "MaxBurstLength=512")
        .refused();
    assert_eq!(refused, Reason::DuplicateKey(Key::MaxBurstLength));
}

// libiscsi says who it is in the security stage and again in the operational stage.
#[test]
fn an_identity_may_be_said_again_but_not_changed() {
    let world = World::new(|_| {});
    let begin = |who: &str| {
        let mut initiator = Initiator::new(&world);
        initiator
            .send(
                transit(SECURITY, OPERATIONAL),
                &format!("{who}|InitiatorAlias=a"),
            )
            .reply();
        initiator
    };
    let again = format!("{WHO}|SessionType=Normal|InitiatorAlias=a");
    let (negotiated, text) = begin(WHO)
        .send(transit(OPERATIONAL, FULL), &again)
        .complete();
    assert_eq!(text, "MaxRecvDataSegmentLength=262144|");
    assert_eq!(negotiated.initiator_alias.as_deref(), Some("a"));
    let again = format!("{DISCOVERY}|TargetName={TARGET}");
    begin(DISCOVERY)
        .send(transit(OPERATIONAL, FULL), &again)
        .complete();
    for (text, reason) in [
        (
            "InitiatorName=iqn.1993-08.org.debian:01:b",
            Reason::DuplicateKey(Key::InitiatorName),
        ),
        (
            "TargetName=iqn.2026-11.io.x:disk1",
            Reason::DuplicateKey(Key::TargetName),
        ),
        (
            "SessionType=Discovery",
            Reason::WrongStage(Key::SessionType),
        ),
        (
            "InitiatorAlias=b",
            Reason::DuplicateKey(Key::InitiatorAlias),
        ),
    ] {
        assert_eq!(
            begin(WHO).send(request(OPERATIONAL), text).refused(),
            reason
        );
    }
}

#[test]
fn a_digest_that_is_off_is_never_agreed_on() {
    let world = World::new(|target| target.header_digest = DigestPolicy::Off);
    let (text, parameters) = offer(&world, WHO, "HeaderDigest=CRC32C,None");
    assert_eq!(
        (text.as_str(), parameters.header_digest),
        ("HeaderDigest=None|", false)
    );
    let (text, parameters) = offer(&world, WHO, "HeaderDigest=CRC32C");
    assert_eq!(
        (text.as_str(), parameters.header_digest),
        ("HeaderDigest=Reject|", false)
    );
}

#[test]
fn a_required_digest_is_chosen_or_offered_or_the_login_ends() {
    let world = World::new(|target| target.data_digest = DigestPolicy::Required);
    let (text, parameters) = offer(&world, WHO, "DataDigest=None,CRC32C");
    assert_eq!(
        (text.as_str(), parameters.data_digest),
        ("DataDigest=CRC32C|", true)
    );

    let refused = Reason::DigestRequired(Key::DataDigest);
    let none = format!("{WHO}|DataDigest=None");
    let seen = Initiator::new(&world).send(transit(OPERATIONAL, FULL), &none);
    assert_eq!(seen.refused(), refused);
    let seen = Initiator::new(&world).send(transit(SECURITY, FULL), WHO);
    assert_eq!(seen.refused(), refused);

    for (answer, agreed) in [("CRC32C", true), ("None", false), ("Reject", false)] {
        let mut initiator = Initiator::new(&world);
        let (text, transit_made) = initiator.send(transit(OPERATIONAL, FULL), WHO).reply();
        assert!(
            text.ends_with("|DataDigest=CRC32C|") && !transit_made,
            "{text}"
        );
        let answer = format!("DataDigest={answer}");
        let seen = initiator.send(transit(OPERATIONAL, FULL), &answer);
        if agreed {
            let (negotiated, text) = seen.complete();
            assert!(negotiated.parameters.data_digest && text.is_empty());
        } else {
            assert_eq!(seen.refused(), refused);
        }
    }
}

// RFC 7143 §6.2: we offer what we cannot leave at its default, and hold the initiator to the
// answer.
#[test]
fn limits_below_the_defaults_are_offered() {
    let mut world = World::new(|_| {});
    world.limits.max_burst_length = 16384;
    world.limits.first_burst_length = 8192;
    world.limits.immediate_data = false;
    world.limits.initial_r2t = false;
    let offers = "|ImmediateData=No|MaxBurstLength=16384|FirstBurstLength=8192|";
    let begin = || {
        let mut initiator = Initiator::new(&world);
        let text = format!("{WHO}|InitialR2T=No");
        let (text, made) = initiator.send(transit(OPERATIONAL, FULL), &text).reply();
        assert!(text.ends_with(offers) && !made, "{text}");
        initiator
    };
    let answer = "ImmediateData=No|MaxBurstLength=16384|FirstBurstLength=4096";
    let (negotiated, text) = begin().send(transit(OPERATIONAL, FULL), answer).complete();
    assert_eq!(text, "");
    let parameters = negotiated.parameters;
    assert_eq!(
        (parameters.max_burst_length, parameters.first_burst_length),
        (16384, 4096)
    );
    assert!(!parameters.immediate_data);

    for (answer, key) in [
        (
            "ImmediateData=Yes|MaxBurstLength=16384|FirstBurstLength=4096",
            Key::ImmediateData,
        ),
        (
            "ImmediateData=No|MaxBurstLength=16385|FirstBurstLength=4096",
            Key::MaxBurstLength,
        ),
        (
            "ImmediateData=No|MaxBurstLength=512|FirstBurstLength=Irrelevant",
            Key::FirstBurstLength,
        ),
    ] {
        let refused = begin().send(transit(OPERATIONAL, FULL), answer).refused();
        assert_eq!(refused, Reason::BadAnswer(key));
    }
    let refused = begin()
        .send(transit(OPERATIONAL, FULL), "ImmediateData=No")
        .refused();
    assert_eq!(refused, Reason::OfferIgnored(Key::MaxBurstLength));
    assert_eq!(refused.status(), LoginStatus::INITIATOR_ERROR);
}

// RFC 4850: taken note of, not answered.
#[test]
fn a_node_architecture_is_kept_and_not_answered() {
    let world = World::new(|_| {});
    let (text, _) = offer(&world, WHO, "X#NodeArchitecture=x86_64");
    assert_eq!(text, "");
    let send = |value: &str| {
        let text = format!("{WHO}|X#NodeArchitecture={value}");
        Initiator::new(&world).send(transit(OPERATIONAL, FULL), &text)
    };
    let (negotiated, _) = send("x86_64,sles11").complete();
    let kept = negotiated.node_architecture;
    assert_eq!(kept.as_deref(), Some("x86_64,sles11"));
    let long = "a".repeat(256);
    assert_eq!(
        send(&long).refused(),
        Reason::BadValue(Key::NodeArchitecture)
    );
}
