//! READs and WRITEs: every kind of data phase, how Data-In is cut, residuals (RFC 7143 §11.4.5,
//! §11.7).

use super::by_hand::{by_hand, execute, send};
use super::served::{BLOCK, Served, config, login, pattern};
use iiblockdaemon::pdu::{Residual, ScsiDataIn};
use iiblockdaemon::testing::tcp::{read_16, write_16};
use iiblockdaemon::testing::{Command, DataOut, DataPhase, Direction, Event, Pdu, Scsi};

#[test]
fn written_data_come_back_through_every_kind_of_data_phase() {
    let served = Served::start(config());
    let mut round = 0;
    for (burst, segment) in [("512", "512"), ("65536", "8192"), ("262144", "262144")] {
        for outstanding in ["1", "4"] {
            for (initial_r2t, immediate) in
                [("Yes", "No"), ("Yes", "Yes"), ("No", "No"), ("No", "Yes")]
            {
                round += 1;
                let login = login()
                    .with_digests(round % 2 == 0, round % 3 == 0)
                    .with_key("MaxBurstLength", burst)
                    .with_key(
                        "FirstBurstLength",
                        if burst == "512" { "512" } else { "16384" },
                    )
                    .with_key("MaxRecvDataSegmentLength", segment)
                    .with_key("MaxOutstandingR2T", outstanding)
                    .with_key("InitialR2T", initial_r2t)
                    .with_key("ImmediateData", immediate);
                let mut it = served.session(login);
                let agreed = it.engine().negotiated().clone();
                assert_eq!(agreed.max_burst_length.to_string(), burst);
                assert_eq!(agreed.max_outstanding_r2t.to_string(), outstanding);
                assert_eq!(agreed.initial_r2t, initial_r2t == "Yes");
                assert_eq!(agreed.immediate_data, immediate == "Yes");
                assert_eq!(agreed.header_digest, round % 2 == 0);
                assert_eq!(agreed.data_digest, round % 3 == 0);
                for blocks in [1, 2, 33, 129, 1100] {
                    let data = pattern((blocks * BLOCK) as usize, round * 10_000 + blocks);
                    it.write_blocks(0, 64, &data, BLOCK).unwrap();
                    let back = it.read_blocks(0, 64, blocks, BLOCK).unwrap();
                    assert!(back == data, "{blocks} blocks, burst {burst}");
                }
                it.logout().unwrap();
            }
        }
    }
}

#[test]
fn unsolicited_data_of_any_length_are_completed_by_r2ts() {
    let served = Served::start(config());
    let mut it = served.session(login());
    let bytes = 200 * BLOCK;
    for (n, (immediate, unsolicited)) in [
        (DataPhase::Never, DataPhase::Never),
        (DataPhase::Never, DataPhase::AtMost(512)),
        (DataPhase::AtMost(4), DataPhase::Never),
        (DataPhase::AtMost(1000), DataPhase::AtMost(3000)),
        (DataPhase::AsNegotiated, DataPhase::AsNegotiated),
    ]
    .into_iter()
    .enumerate()
    {
        let data = DataOut {
            immediate,
            unsolicited,
            ..DataOut::new(pattern(bytes as usize, u32::try_from(n).unwrap()))
        };
        let cdb = write_16(0, 200, false);
        let wanted = data.bytes.clone();
        it.execute_good(Scsi::new(0, &cdb, Direction::Out(data)))
            .unwrap();
        assert!(it.read_blocks(0, 0, 200, BLOCK).unwrap() == wanted);
    }
}

#[test]
fn many_commands_at_once_end_once_each() {
    let served = Served::start(config());
    let mut it = served.session(login());
    served.faults[0].delay_polls(5);
    let tasks: Vec<_> = (0..300_u32)
        .map(|n| {
            let data = DataOut::new(pattern(4096, n));
            let cdb = write_16(u64::from(n) * 8, 8, false);
            let command = Scsi::new(0, &cdb, Direction::Out(data));
            it.engine().submit(Command::Scsi(command))
        })
        .collect();
    for task in tasks {
        let event = it.wait(task).unwrap();
        assert!(matches!(event, Event::Scsi { outcome, .. } if outcome.is_good()));
    }
    for n in 0..300_u32 {
        let back = it.read_blocks(0, u64::from(n) * 8, 8, BLOCK).unwrap();
        assert!(back == pattern(4096, n));
    }
}

/// RFC 7143 §11.7: F ends every MaxBurstLength, DataSN counts, the last PDU has the status.
#[test]
fn data_in_is_cut_by_segment_and_burst_and_the_last_pdu_has_the_status() {
    let served = Served::start(config());
    let login = login()
        .with_key("MaxRecvDataSegmentLength", "3072")
        .with_key("MaxBurstLength", "8192");
    let mut it = served.session(login);
    let data = pattern(20 * 1024, 3);
    it.write_blocks(0, 0, &data, BLOCK).unwrap();
    let command = by_hand(&mut it, read_16(0, 40), 20 * 1024);
    send(&mut it, &command, &[]);
    let mut back = Vec::new();
    let mut in_burst = 0;
    for data_sn in 0.. {
        let Pdu { bhs, data: part } = it.next_raw().unwrap();
        let pdu = ScsiDataIn::parse(&bhs).unwrap();
        assert_eq!(pdu.data_sn, data_sn);
        assert_eq!(pdu.buffer_offset as usize, back.len());
        assert!(part.len() <= 3072);
        in_burst += part.len();
        assert!(in_burst <= 8192);
        back.extend(part);
        let last = back.len() == data.len();
        assert_eq!(pdu.final_, in_burst == 8192 || last);
        assert_eq!(pdu.status, last.then_some((0, Residual::None)));
        if pdu.final_ {
            in_burst = 0;
        }
        if last {
            break;
        }
    }
    assert!(back == data);
    let outcome = execute(&mut it, &read_16(0, 40), Direction::In(20 * 1024));
    assert!(outcome.is_good() && outcome.collapsed);
}

#[test]
fn reads_report_how_much_more_or_less_was_expected() {
    let served = Served::start(config());
    let mut it = served.session(login().with_key("MaxRecvDataSegmentLength", "512"));
    let data = pattern(4096, 1);
    it.write_blocks(0, 0, &data, BLOCK).unwrap();
    for (expected, residual) in [
        (4096, Residual::None),
        (4000, Residual::Overflow(96)),
        (1, Residual::Overflow(4095)),
        (5000, Residual::Underflow(904)),
    ] {
        let outcome = execute(&mut it, &read_16(0, 8), Direction::In(expected));
        assert!(outcome.is_good(), "{expected}: {outcome:?}");
        assert_eq!(outcome.residual, residual);
        assert_eq!(outcome.data_in, data[..4096.min(expected as usize)]);
    }
    let outcome = execute(&mut it, &read_16(0, 8), Direction::None);
    assert_eq!(outcome.residual, Residual::Overflow(4096));
    let outcome = execute(&mut it, &[0; 6], Direction::In(100));
    assert!(outcome.is_good());
    assert_eq!(outcome.residual, Residual::Underflow(100));
}

#[test]
fn parameter_data_are_cut_to_what_is_asked_and_what_is_expected() {
    let served = Served::start(config());
    let mut it = served.session(login().with_key("MaxRecvDataSegmentLength", "512"));
    let inquiry = |length: u8| [0x12, 0, 0, 0, length, 0];
    let whole = execute(&mut it, &inquiry(255), Direction::In(255));
    let size = u32::try_from(whole.data_in.len()).unwrap();
    assert!(size >= 36);
    assert_eq!(whole.residual, Residual::Underflow(255 - size));
    let cut = execute(&mut it, &inquiry(20), Direction::In(20));
    assert_eq!((cut.data_in.len(), cut.residual), (20, Residual::None));
    assert_eq!(cut.data_in, whole.data_in[..20]);
    let short = execute(&mut it, &inquiry(36), Direction::In(10));
    assert_eq!(
        (short.data_in.len(), short.residual),
        (10, Residual::Overflow(26))
    );
    let long = execute(&mut it, &inquiry(20), Direction::In(1000));
    assert_eq!(
        (long.data_in.len(), long.residual),
        (20, Residual::Underflow(980))
    );
}

#[test]
fn writes_report_how_much_more_or_less_was_expected() {
    let served = Served::start(config());
    let mut it = served.session(login());
    let data = pattern(8192, 1);
    // More than the command says: the rest is not written.
    let more = DataOut::new(data.clone());
    let outcome = execute(&mut it, &write_16(0, 8, false), Direction::Out(more));
    assert!(outcome.is_good());
    assert_eq!(outcome.residual, Residual::Underflow(4096));
    assert!(it.read_blocks(0, 0, 8, BLOCK).unwrap() == data[..4096]);
    assert!(it.read_blocks(0, 8, 8, BLOCK).unwrap() == [0; 4096]);
    // Less: the residual says what is missing, and nothing beyond the data is touched.
    let less = DataOut::new(pattern(2048, 2));
    let outcome = execute(&mut it, &write_16(8, 8, false), Direction::Out(less));
    assert_eq!(outcome.residual, Residual::Overflow(2048));
    assert!(it.read_blocks(0, 12, 4, BLOCK).unwrap() == [0; 2048]);
    let none = execute(&mut it, &write_16(8, 8, false), Direction::None);
    assert_eq!(none.residual, Residual::Overflow(4096));
    assert!(it.read_blocks(0, 12, 4, BLOCK).unwrap() == [0; 2048]);
}
