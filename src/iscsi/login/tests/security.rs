//! The security stage, scripted: AuthMethod and CHAP (RFC 7143 §12, §12.1.3; RFC 1994).
//!
//! The initiator's side is computed here with the hash crates alone, so that the engine does not
//! check itself.

use md5::Digest;

use crate::iscsi::auth::{AuthPolicy, ChapAlgorithm};
use crate::iscsi::binary::{self, BinaryError};
use crate::iscsi::keys::Key;
use crate::iscsi::login::Reason;
use crate::iscsi::login::fixture::*;
use crate::iscsi::negotiated::SessionType;
use crate::iscsi::node::Nodes;
use crate::pdu::LoginStatus;

fn oracle(algorithm: u8, identifier: u8, secret: &str, challenge: &[u8]) -> String {
    let mut input = vec![identifier];
    input.extend(secret.as_bytes());
    input.extend(challenge);
    let hash = match algorithm {
        5 => md5::Md5::digest(&input).to_vec(),
        6 => sha1::Sha1::digest(&input).to_vec(),
        7 => sha2::Sha256::digest(&input).to_vec(),
        8 => sha3::Sha3_256::digest(&input).to_vec(),
        other => panic!("no algorithm {other}"),
    };
    hash.iter()
        .fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// What the target asked: algorithm, identifier, challenge.
fn asked(text: &str) -> (u8, u8, Vec<u8>) {
    let value = |key: &str| {
        let pair = text
            .split('|')
            .find_map(|pair| pair.strip_prefix(&format!("{key}=")));
        pair.unwrap_or_else(|| panic!("no {key} in {text}"))
            .to_owned()
    };
    let challenge = binary::decode(&value("CHAP_C"), 64).unwrap();
    (
        value("CHAP_A").parse().unwrap(),
        value("CHAP_I").parse().unwrap(),
        challenge,
    )
}

fn world(mutual: bool) -> World {
    World::new(|target| target.auth = chap(mutual, &ChapAlgorithm::ALL))
}

/// A login that has come to the challenge.
fn challenged<'a>(world: &'a World, algorithms: &str) -> (Initiator<'a>, (u8, u8, Vec<u8>)) {
    let mut initiator = Initiator::new(world);
    initiator.random = 0x5a;
    let who = format!("{WHO}|AuthMethod=CHAP,None");
    let (text, made) = initiator.send(transit(SECURITY, OPERATIONAL), &who).reply();
    assert_eq!(
        (text.as_str(), made),
        ("TargetPortalGroupTag=1|AuthMethod=CHAP|", false)
    );
    let (text, made) = initiator
        .send(request(SECURITY), &format!("CHAP_A={algorithms}"))
        .reply();
    assert!(!made);
    (initiator, asked(&text))
}

#[test]
fn each_algorithm_logs_in_and_has_a_challenge_of_its_hash_length() {
    let world = world(false);
    for (number, length) in [(5, 16), (6, 20), (7, 32), (8, 32)] {
        let (mut initiator, (algorithm, identifier, challenge)) =
            challenged(&world, &number.to_string());
        assert_eq!((algorithm, challenge.len()), (number, length));
        let response = oracle(number, identifier, "secret-of-joe", &challenge);
        let answer = format!("CHAP_N=joe|CHAP_R={response}");
        let (text, made) = initiator
            .send(transit(SECURITY, OPERATIONAL), &answer)
            .reply();
        assert_eq!((text.as_str(), made), ("", true));
        let (negotiated, _) = initiator.send(transit(OPERATIONAL, FULL), "").complete();
        assert!(negotiated.authenticated && !negotiated.mutually_authenticated);
    }
}

#[test]
fn a_response_may_be_base64_or_upper_case() {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let world = world(false);
    let (mut initiator, (_, identifier, challenge)) = challenged(&world, "5");
    let hex = oracle(5, identifier, "secret-of-joe", &challenge);
    let answer = format!("CHAP_N=joe|CHAP_R=0X{}", hex[2..].to_uppercase());
    initiator.send(transit(SECURITY, FULL), &answer).complete();

    let (mut initiator, (_, identifier, challenge)) = challenged(&world, "5");
    let hex = oracle(5, identifier, "secret-of-joe", &challenge);
    let bits = u128::from_str_radix(&hex[2..], 16).unwrap();
    let digit = |shift: u32| char::from(ALPHABET[(bits >> shift & 63) as usize]);
    let mut base64: String = (0..21).map(|i| digit(128 - 6 * (i + 1))).collect();
    base64.push(char::from(ALPHABET[(bits << 4 & 63) as usize]));
    let answer = format!("CHAP_N=joe|CHAP_R=0b{base64}==");
    initiator.send(transit(SECURITY, FULL), &answer).complete();
}

#[test]
fn both_sides_may_prove_themselves() {
    let world = world(true);
    for number in [5, 6, 7, 8] {
        let (mut initiator, (_, identifier, challenge)) = challenged(&world, &number.to_string());
        let response = oracle(number, identifier, "secret-of-joe", &challenge);
        let answer = format!("CHAP_N=joe|CHAP_R={response}|CHAP_I=200|CHAP_C=0x0102030405");
        let (text, made) = initiator
            .send(transit(SECURITY, OPERATIONAL), &answer)
            .reply();
        let ours = oracle(number, 200, "secret-of-target", &[1, 2, 3, 4, 5]);
        assert_eq!((text, made), (format!("CHAP_N=disk|CHAP_R={ours}|"), true));
        let (negotiated, _) = initiator.send(transit(OPERATIONAL, FULL), "").complete();
        assert!(negotiated.authenticated && negotiated.mutually_authenticated);
    }
}

#[test]
fn an_initiator_need_not_ask_for_the_targets_proof() {
    let world = world(true);
    let (mut initiator, (_, identifier, challenge)) = challenged(&world, "7");
    let response = oracle(7, identifier, "secret-of-joe", &challenge);
    let answer = format!("CHAP_N=joe|CHAP_R={response}");
    let (negotiated, text) = initiator.send(transit(SECURITY, FULL), &answer).complete();
    assert!(negotiated.authenticated && !negotiated.mutually_authenticated && text.is_empty());
}

// The method and the list of algorithms may come in one request.
#[test]
fn the_algorithms_may_come_with_the_method() {
    let world = world(false);
    let mut initiator = Initiator::new(&world);
    let who = format!("{WHO}|AuthMethod=CHAP|CHAP_A=9,7,5");
    let (text, _) = initiator.send(request(SECURITY), &who).reply();
    assert_eq!(asked(&text).0, 7);
}

// RFC 7143 §12.1.3.
#[test]
fn the_first_allowed_algorithm_of_the_list_is_taken_and_unknown_ones_never() {
    let world = world(false);
    for (offered, chosen) in [("5,6,7,8", 5), ("8,7,6,5", 8), ("99,0,6", 6), ("7", 7)] {
        assert_eq!(challenged(&world, offered).1.0, chosen);
    }
    let strong = World::new(|target| target.auth = chap(false, &[ChapAlgorithm::Sha256]));
    assert_eq!(challenged(&strong, "5,6,7,8").1.0, 7);
    for (world, offered) in [(&strong, "5,6"), (&world, "9,99"), (&world, "None")] {
        let mut initiator = Initiator::new(world);
        initiator
            .send(request(SECURITY), &format!("{WHO}|AuthMethod=CHAP"))
            .reply();
        let refused = initiator
            .send(request(SECURITY), &format!("CHAP_A={offered}"))
            .refused();
        assert_eq!(refused, Reason::NoChapAlgorithm);
    }
}

#[test]
fn challenges_and_identifiers_are_fresh_in_each_login() {
    let world = world(false);
    let ask = |random| {
        let mut initiator = Initiator::new(&world);
        initiator.random = random;
        let who = format!("{WHO}|AuthMethod=CHAP|CHAP_A=5");
        asked(&initiator.send(request(SECURITY), &who).reply().0)
    };
    assert_eq!(ask(1), (5, 1, vec![1; 16]));
    assert_eq!(ask(2), (5, 2, vec![2; 16]));
}

// RFC 1994 §4.1: nothing tells which of the two was wrong.
#[test]
fn a_wrong_user_and_a_wrong_secret_get_the_same_answer() {
    let world = world(false);
    let answer = |user: &str, secret: &str| {
        let (mut initiator, (_, identifier, challenge)) = challenged(&world, "7");
        let response = oracle(7, identifier, secret, &challenge);
        let answer = format!("CHAP_N={user}|CHAP_R={response}");
        let seen = initiator.send(transit(SECURITY, OPERATIONAL), &answer);
        let Seen::Refused {
            reason,
            response,
            line,
        } = seen
        else {
            panic!("{seen:?}")
        };
        assert!(!line.contains(secret) && !line.contains("CHAP_R"), "{line}");
        (reason, response, line)
    };
    let wrong = answer("joe", "wrong-secret-x");
    assert_eq!(wrong.0, Reason::ChapFailed);
    assert_eq!(wrong.1.status, LoginStatus::AUTHENTICATION_FAILURE);
    assert_eq!(wrong, answer("jack-the-unknown", "secret-of-joe"));
    assert_eq!(wrong, answer("", "wrong-secret-x"));
}

#[test]
fn a_wrong_initiator_gets_no_proof_of_ours() {
    let world = world(true);
    let (mut initiator, (_, identifier, challenge)) = challenged(&world, "7");
    let response = oracle(7, identifier, "wrong", &challenge);
    let answer = format!("CHAP_N=joe|CHAP_R={response}|CHAP_I=1|CHAP_C=0x01");
    let refused = initiator
        .send(transit(SECURITY, OPERATIONAL), &answer)
        .refused();
    assert_eq!(refused, Reason::ChapFailed);
}

// RFC 7143 §12.1.3.
#[test]
fn our_challenge_must_not_come_back() {
    let world = world(true);
    let (mut initiator, (_, identifier, challenge)) = challenged(&world, "7");
    let response = oracle(7, identifier, "secret-of-joe", &challenge);
    let back = binary::encode(&challenge);
    let answer = format!("CHAP_N=joe|CHAP_R={response}|CHAP_I=1|CHAP_C={back}");
    let refused = initiator
        .send(transit(SECURITY, OPERATIONAL), &answer)
        .refused();
    assert_eq!(refused, Reason::ChapReflected);
}

#[test]
fn each_step_has_its_keys() {
    let one_way = world(false);
    let mutual = world(true);
    let order = Reason::ChapOrder;
    let begin = |text: &str| {
        let text = format!("{WHO}|{text}");
        Initiator::new(&one_way)
            .send(request(SECURITY), &text)
            .refused()
    };
    assert_eq!(begin("CHAP_A=5"), order(Key::AuthMethod));
    assert_eq!(begin("CHAP_N=joe|CHAP_R=0x00"), order(Key::AuthMethod));
    assert_eq!(begin("AuthMethod=CHAP|CHAP_N=joe"), order(Key::ChapN));
    assert_eq!(
        begin("AuthMethod=CHAP|CHAP_A=5|CHAP_I=1"),
        order(Key::ChapI)
    );
    for (text, reason) in [
        ("CHAP_N=joe", order(Key::ChapR)),
        ("CHAP_R=0x00", order(Key::ChapN)),
        ("CHAP_I=1|CHAP_C=0x01", order(Key::ChapI)),
        ("CHAP_N=joe|CHAP_R=0x00|CHAP_I=1", order(Key::ChapC)),
        ("CHAP_N=joe|CHAP_R=0x00|CHAP_C=0x01", order(Key::ChapI)),
        ("CHAP_A=5", Reason::DuplicateKey(Key::ChapA)),
        ("AuthMethod=None", Reason::DuplicateKey(Key::AuthMethod)),
        (
            "CHAP_N=joe|CHAP_R=12",
            Reason::ChapBinary(Key::ChapR, BinaryError::NoPrefix),
        ),
        (
            "CHAP_N=joe|CHAP_R=0xzz",
            Reason::ChapBinary(Key::ChapR, BinaryError::BadDigit),
        ),
        (
            "CHAP_N=joe|CHAP_R=0x00|CHAP_I=256|CHAP_C=0x01",
            Reason::ChapNumber(Key::ChapI),
        ),
        (
            "CHAP_N=joe|CHAP_R=0x00|CHAP_I=1|CHAP_C=0bA",
            Reason::ChapBinary(Key::ChapC, BinaryError::BadPadding),
        ),
    ] {
        let (mut initiator, _) = challenged(&mutual, "5");
        let refused = initiator.send(request(SECURITY), text).refused();
        assert_eq!(refused, reason, "{text}");
        assert!(matches!(reason, Reason::DuplicateKey(_)) || refused.status().detail == 1);
    }
    let (mut initiator, _) = challenged(&mutual, "5");
    let long = format!("CHAP_N=joe|CHAP_R=0x{}", "00".repeat(33));
    let refused = initiator.send(request(SECURITY), &long).refused();
    assert_eq!(
        refused,
        Reason::ChapBinary(Key::ChapR, BinaryError::TooLong)
    );
}

#[test]
fn mutual_chap_without_a_secret_for_it_is_refused() {
    let world = world(false);
    let (mut initiator, (_, identifier, challenge)) = challenged(&world, "7");
    let response = oracle(7, identifier, "secret-of-joe", &challenge);
    let answer = format!("CHAP_N=joe|CHAP_R={response}|CHAP_I=1|CHAP_C=0x01");
    let refused = initiator.send(transit(SECURITY, FULL), &answer).refused();
    assert_eq!(refused, Reason::NoMutualSecret);
}

// RFC 7143 §6.3.2: where CHAP is required there is no way around it.
#[test]
fn security_cannot_be_left_out_where_it_is_required() {
    let world = world(false);
    let required = Reason::AuthenticationRequired;
    for first in [transit(OPERATIONAL, FULL), request(OPERATIONAL)] {
        assert_eq!(Initiator::new(&world).send(first, WHO).refused(), required);
    }
    for first in [transit(SECURITY, OPERATIONAL), transit(SECURITY, FULL)] {
        assert_eq!(Initiator::new(&world).send(first, WHO).refused(), required);
    }
    let none = format!("{WHO}|AuthMethod=None");
    let refused = Initiator::new(&world)
        .send(transit(SECURITY, FULL), &none)
        .refused();
    assert_eq!(refused, Reason::ChapNotOffered);
    // Asking for the transition in the middle of CHAP does not make it.
    let (mut initiator, _) = challenged(&world, "5");
    assert_eq!(
        initiator.send(transit(SECURITY, FULL), "").reply(),
        (String::new(), false)
    );
}

#[test]
fn an_initiator_that_insists_on_chap_is_told_where_there_is_none() {
    let world = World::new(|_| {});
    for methods in ["CHAP", "KRB5,CHAP", ""] {
        let text = format!("{WHO}|AuthMethod={methods}");
        let refused = Initiator::new(&world)
            .send(request(SECURITY), &text)
            .refused();
        assert_eq!(refused, Reason::NoneNotOffered);
        assert_eq!(refused.status(), LoginStatus::AUTHENTICATION_FAILURE);
    }
}

#[test]
fn discovery_has_credentials_of_its_own() {
    let mut world = World::new(|_| {});
    let targets = world.nodes.targets().to_vec();
    world.nodes = Nodes::new(targets, vec![], chap(false, &ChapAlgorithm::ALL));
    assert!(matches!(**world.nodes.discovery(), AuthPolicy::Chap(_)));
    let refused = Initiator::new(&world)
        .send(transit(SECURITY, FULL), DISCOVERY)
        .refused();
    assert_eq!(refused, Reason::AuthenticationRequired);
    Initiator::new(&world)
        .send(transit(SECURITY, FULL), WHO)
        .complete();

    let mut initiator = Initiator::new(&world);
    let who = format!("{DISCOVERY}|AuthMethod=CHAP|CHAP_A=8");
    let (text, _) = initiator.send(request(SECURITY), &who).reply();
    let (_, identifier, challenge) = asked(&text);
    let response = oracle(8, identifier, "secret-of-joe", &challenge);
    let answer = format!("CHAP_N=joe|CHAP_R={response}");
    let (negotiated, _) = initiator.send(transit(SECURITY, FULL), &answer).complete();
    assert!(negotiated.authenticated);
    assert_eq!(negotiated.session_type, SessionType::Discovery);
}
