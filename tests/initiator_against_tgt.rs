//! Our initiator, the judge of every other test, against a target that none of us wrote.
//!
//! Needs `tgtd` (Debian package tgt) and root, therefore ignored by default:
//! `cargo test --test initiator_against_tgt -- --ignored`.

#![expect(
    clippy::tests_outside_test_module,
    reason = "this whole file is a test"
)]

#[path = "common/tgt.rs"]
mod tgt;

use iiblockdaemon::pdu::{LoginStatus, LunField, TaskManagementFunction};
use iiblockdaemon::testing::tcp::{Failure, TcpInitiator, read_16, write_16};
use iiblockdaemon::testing::{
    Auth, Chap, ChapEncoding, ChapFault, ChapPeer, Command, Config, DataOut, Direction, Event, Nop,
    Scsi, TaskManagement,
};
use std::time::Duration;
use tgt::{TARGET, Tgt};

const INITIATOR: &str = "iqn.2026-11.io.iiblockdaemon:test";
const TIMEOUT: Duration = Duration::from_secs(10);
const LUN: u8 = 1;
const BLOCK_BYTES: u32 = 512;

/// tgt leaves stale bytes in reserved fields and no ISID in a refusal, so that check is off.
fn config() -> Config {
    Config {
        strict_fields: false,
        ..Config::new(INITIATOR, TARGET)
    }
}

fn connect(tgt: &Tgt, config: Config) -> TcpInitiator {
    let mut it = TcpInitiator::connect(tgt.address, config, TIMEOUT).unwrap();
    it.clear_unit_attentions(LUN).unwrap();
    it
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..=250)
        .cycle()
        .take(length)
        .map(|byte: u8| seed.wrapping_add(byte))
        .collect()
}

#[test]
#[ignore = "needs root and tgtd: the test stage of .ci/run runs it"]
fn data_come_back_with_every_combination_of_digests_and_data_phases() {
    let tgt = Tgt::start();
    for name in ["HeaderDigest", "DataDigest"] {
        let value = "CRC32C,None";
        tgt.admin(&[
            "--op", "update", "--mode", "target", "--tid", "1", "-n", name, "-v", value,
        ]);
    }
    for (name, value) in [("InitialR2T", "No"), ("MaxOutstandingR2T", "8")] {
        tgt.admin(&[
            "--op", "update", "--mode", "target", "--tid", "1", "-n", name, "-v", value,
        ]);
    }
    let mut seed = 0_u8;
    for digests in 0..4 {
        for (initial_r2t, immediate) in [("Yes", "No"), ("Yes", "Yes"), ("No", "No"), ("No", "Yes")]
        {
            let config = config()
                .with_digests(digests & 1 != 0, digests & 2 != 0)
                .with_key("InitialR2T", initial_r2t)
                .with_key("ImmediateData", immediate)
                .with_key("MaxBurstLength", "16384")
                .with_key("FirstBurstLength", "4096")
                .with_key("MaxRecvDataSegmentLength", "12288");
            let mut it = connect(&tgt, config);
            let negotiated = it.engine().negotiated().clone();
            assert_eq!(negotiated.header_digest, digests & 1 != 0);
            assert_eq!(negotiated.data_digest, digests & 2 != 0);
            assert_eq!(negotiated.initial_r2t, initial_r2t == "Yes");
            assert_eq!(negotiated.immediate_data, immediate == "Yes");
            assert_eq!(negotiated.max_burst_length, 16384);
            for blocks in [1_u32, 8, 9, 64, 255] {
                seed = seed.wrapping_add(1);
                let data = pattern((blocks as usize) * 512, seed);
                it.write_blocks(LUN, 100, &data, BLOCK_BYTES).unwrap();
                // tgt sends more than MaxBurstLength without F, hence no longer reads.
                let mut back = Vec::new();
                for (at, piece) in data.chunks(16384).enumerate() {
                    let lba = 100 + 32 * at as u64;
                    let blocks = u32::try_from(piece.len()).unwrap() / BLOCK_BYTES;
                    back.extend(it.read_blocks(LUN, lba, blocks, BLOCK_BYTES).unwrap());
                }
                assert!(back == data, "{blocks} blocks");
            }
            it.logout().unwrap();
        }
    }
}

#[test]
#[ignore = "needs root and tgtd: the test stage of .ci/run runs it"]
fn many_commands_at_once_all_end_once() {
    let tgt = Tgt::start();
    let mut it = connect(&tgt, config());
    let mut tasks = Vec::new();
    for n in 0..200_u8 {
        let data = DataOut::new(pattern(4096, n));
        let cdb = write_16(u64::from(n) * 8, 8, false);
        let command = Scsi::new(LUN, &cdb, Direction::Out(data));
        tasks.push(it.engine().submit(Command::Scsi(command)));
    }
    for task in tasks {
        let event = it.wait(task).unwrap();
        assert!(matches!(event, Event::Scsi { outcome, .. } if outcome.is_good()));
    }
    for n in 0..200_u8 {
        let command = Scsi::new(LUN, &read_16(u64::from(n) * 8, 8), Direction::In(4096));
        assert_eq!(it.execute_good(command).unwrap().data_in, pattern(4096, n));
    }
    assert_eq!(it.engine().outstanding(), 0);
    it.logout().unwrap();
}

#[test]
#[ignore = "needs root and tgtd: the test stage of .ci/run runs it"]
fn chap_proves_both_sides_and_a_wrong_secret_is_refused() {
    let tgt = Tgt::start();
    let account = |user, password| {
        tgt.admin(&[
            "--op", "new", "--mode", "account", "-u", user, "-p", password,
        ]);
    };
    account("alice", "twelve chars");
    account("target", "other secret");
    let bind = ["--op", "bind", "--mode", "account", "--tid", "1", "-u"];
    tgt.admin(&[&bind[..], &["alice"]].concat());
    tgt.admin(&[&bind[..], &["target", "--outgoing"]].concat());
    let chap = |secret: &str, mutual: Option<&str>, encoding| Chap {
        user: "alice".into(),
        secret: secret.into(),
        algorithms: vec![99, 6, 5],
        encoding,
        mutual: mutual.map(|secret| ChapPeer {
            user: "target".into(),
            secret: secret.into(),
            identifier: 42,
            challenge: pattern(16, 3),
        }),
        fault: ChapFault::None,
    };
    let with = |chap| Config {
        auth: Auth::Chap {
            chap,
            or_none: false,
        },
        ..config()
    };
    for encoding in [ChapEncoding::Hex, ChapEncoding::Base64] {
        for mutual in [None, Some("other secret")] {
            connect(&tgt, with(chap("twelve chars", mutual, encoding)))
                .logout()
                .unwrap();
        }
    }
    let refused = |config| TcpInitiator::connect(tgt.address, config, TIMEOUT).unwrap_err();
    let wrong = refused(with(chap("wrong secret", None, ChapEncoding::Hex)));
    assert!(
        matches!(
            wrong,
            Failure::LoginRefused(LoginStatus::AUTHENTICATION_FAILURE)
        ),
        "{wrong}"
    );
    let unproved = refused(with(chap(
        "twelve chars",
        Some("not the one"),
        ChapEncoding::Hex,
    )));
    assert!(matches!(unproved, Failure::Violation(_)), "{unproved}");
}

#[test]
#[ignore = "needs root and tgtd: the test stage of .ci/run runs it"]
fn nop_text_discovery_and_task_management_work() {
    let tgt = Tgt::start();
    let discovery = Config {
        strict_fields: false,
        ..Config::discovery(INITIATOR)
    };
    let targets = TcpInitiator::discover(tgt.address, discovery, TIMEOUT).unwrap();
    assert_eq!(
        targets,
        [(TARGET.to_owned(), vec![format!("{},1", tgt.address)])]
    );
    let mut it = connect(&tgt, config());
    let nop = it
        .submit(Command::Nop(Nop {
            immediate: false,
            data: pattern(100, 1),
        }))
        .unwrap();
    assert!(matches!(it.wait(nop).unwrap(), Event::Nop { data, .. } if data == pattern(100, 1)));
    assert_eq!(it.read_capacity(LUN).unwrap(), ((64 << 20) / 512, 512));
    let held = DataOut {
        held: true,
        ..DataOut::solicited(pattern(4096, 1))
    };
    let write = Scsi::new(LUN, &write_16(0, 8, false), Direction::Out(held));
    let write = it.submit(Command::Scsi(write)).unwrap();
    let abort = TaskManagement {
        immediate: true,
        function: TaskManagementFunction::AbortTask,
        lun: LunField([0, LUN, 0, 0, 0, 0, 0, 0]),
        referenced: Some(write),
    };
    let abort = it.submit(Command::TaskManagement(abort)).unwrap();
    let event = it.wait(abort).unwrap();
    assert!(matches!(event, Event::TaskManagement { .. }), "{event:?}");
}
