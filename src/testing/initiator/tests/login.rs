//! Login, right and wrong (RFC 7143 §6.3).

use super::*;

#[test]
fn login_goes_through_security_and_operational_stage() {
    let mut it = Stand::new(Config::new("iqn.i", "iqn.t").with_key("X-test", "1"));
    let first = it.login_request();
    assert_eq!(first.0.csg, Stage::SecurityNegotiation);
    assert!(first.1.contains(&("AuthMethod".into(), "None".into())));
    assert!(first.1.contains(&("TargetName".into(), "iqn.t".into())));
    let answers = [("TargetPortalGroupTag", "1"), ("AuthMethod", "None")];
    it.answer_login(&first, Stage::LoginOperationalNegotiation, &answers)
        .unwrap();
    let second = it.login_request();
    assert_eq!(second.0.csg, Stage::LoginOperationalNegotiation);
    assert_eq!(second.0.exp_stat_sn, StatSn(0xffff_ffff));
    let answers: Vec<(&str, &str)> = second
        .1
        .iter()
        .map(|(key, value)| match key.as_str() {
            "X-test" => (key.as_str(), "NotUnderstood"),
            "MaxRecvDataSegmentLength" => (key.as_str(), "16384"),
            _ => (key.as_str(), value.as_str()),
        })
        .collect();
    it.answer_login(&second, Stage::FullFeaturePhase, &answers)
        .unwrap();
    assert_eq!(it.initiator.poll_event(), Some(Event::LoggedIn));
    assert_eq!(
        it.initiator
            .negotiated()
            .target_max_recv_data_segment_length,
        16384
    );
    assert_eq!(it.initiator.negotiated().target_portal_group_tag, Some(1));
    assert_eq!(it.initiator.numbers().exp_stat_sn, StatSn(0));
}

#[test]
fn login_text_in_pieces_is_joined_on_both_sides() {
    let mut it = Stand::new(Config {
        text_piece_bytes: 20,
        ..Config::new("iqn.i", "iqn.t")
    });
    let mut text = Vec::new();
    let last = loop {
        let sent = it.sent();
        text.extend_from_slice(&sent[0].data);
        let request = LoginRequest::parse(&sent[0].bhs).unwrap();
        if !request.continue_ {
            break request;
        }
        assert!(!request.transit && sent[0].data.len() == 20);
        let response = it.login_response(&request);
        it.give(response.emit(), &[]).unwrap();
    };
    assert!(text.ends_with(b"AuthMethod=None\0") && last.transit);
    let mut response = it.login_response(&last);
    (response.transit, response.continue_, response.nsg) = (false, true, Stage::default());
    it.give(response.emit(), b"AuthMethod=").unwrap();
    let more = it.login_request();
    assert!(!more.0.transit && more.1.is_empty());
    let mut response = it.login_response(&more.0);
    response.transit = false;
    it.give(response.emit(), b"None\0").unwrap();
    let again = it.login_request();
    assert!(again.0.transit, "the stage is done and asked to end");
}

#[test]
fn login_rules_are_seen_to_break() {
    let check = |rule, change: &dyn Fn(&mut LoginResponse), keys: &[(&str, &str)]| {
        let mut it = Stand::new(Config {
            auth: Auth::Skip,
            ..Config::new("iqn.i", "iqn.t")
        });
        it.initiator.config.keys = pairs(&[("MaxBurstLength", "8192")]);
        let request = it.login_request();
        let mut response = it.login_response(&request.0);
        change(&mut response);
        breaks(rule, it.give(response.emit(), &emit_text(&pairs(keys))));
        breaks(rule, it.initiator.receive(&[]));
    };
    let good = [("MaxBurstLength", "8192")];
    check(Rule::LoginTsih, &|it| it.tsih = Tsih(0), &good);
    check(Rule::LoginVersion, &|it| it.version_active = 1, &good);
    check(
        Rule::LoginStage,
        &|it| it.csg = Stage::SecurityNegotiation,
        &good,
    );
    check(
        Rule::LoginStage,
        &|it| it.nsg = Stage::LoginOperationalNegotiation,
        &good,
    );
    check(Rule::LoginIdentity, &|it| it.itt = Itt(77), &good);
    check(Rule::LoginIdentity, &|it| it.isid.0[5] ^= 1, &good);
    check(
        Rule::MaxCmdSn,
        &|it| it.max_cmd_sn = it.exp_cmd_sn.minus(2),
        &good,
    );
    check(Rule::KeyUnanswered, &|_| {}, &[]);
    check(Rule::KeyAnswer, &|_| {}, &[("MaxBurstLength", "16384")]);
    check(
        Rule::KeyAnswer,
        &|_| {},
        &[good[0], ("MaxConnections", "2")],
    );
    check(Rule::KeyTwice, &|_| {}, &[good[0], good[0]]);
    check(Rule::ChapMessage, &|_| {}, &[good[0], ("CHAP_A", "5")]);
    check(Rule::KeyAnswer, &|_| {}, &[("AuthMethod", "CHAP")]);
}

#[test]
fn a_refused_login_ends_the_connection() {
    let mut it = Stand::new(Config::new("iqn.i", "iqn.t"));
    let request = it.login_request();
    let mut response = it.login_response(&request.0);
    response.transit = false;
    response.status = LoginStatus::NOT_FOUND;
    it.give(response.emit(), &[]).unwrap();
    assert_eq!(
        it.initiator.poll_event(),
        Some(Event::LoginRefused(LoginStatus::NOT_FOUND))
    );
    assert!(!it.initiator.is_full_feature() && it.sent().is_empty());
}
