//! The command window: order, duplicates, gaps, immediate commands, its depth (RFC 7143 §4.2.2.1).

use super::by_hand::{
    ABORTED_COMMAND, GOOD, check_condition, next_reject, next_status, send, write_by_hand,
};
use super::served::{BLOCK, Served, config, login, pattern, ping, until};
use iiblockdaemon::iscsi::session::Guard;
use iiblockdaemon::pdu::{CmdSn, LunField, NopOut, RejectReason, Ttt};
use iiblockdaemon::testing::tcp::write_16;
use iiblockdaemon::testing::{Command, DataOut, Direction, Event, RawPdu, Scsi};

#[test]
fn commands_outside_the_window_are_ignored() {
    let served = Served::start(config());
    let mut it = served.session(login());
    let mut command = write_by_hand(&mut it, 0, 1);
    let cmd_sn = command.cmd_sn;
    let max = it.engine().numbers().max_cmd_sn;
    for outside in [
        cmd_sn.minus(1),
        cmd_sn.minus(1000),
        max.next(),
        CmdSn(cmd_sn.0 ^ 1 << 31),
    ] {
        command.cmd_sn = outside;
        send(&mut it, &command, &[9; 512]);
        ping(&mut it).unwrap();
        assert_eq!(it.engine().numbers().exp_cmd_sn, cmd_sn);
    }
    assert!(it.engine().poll_event().is_none());
    command.cmd_sn = cmd_sn;
    send(&mut it, &command, &[5; 512]);
    assert_eq!(next_status(&mut it), GOOD);
    // Received before: a duplicate.
    send(&mut it, &command, &[6; 512]);
    ping(&mut it).unwrap();
    assert!(it.read_blocks(0, 0, 1, BLOCK).unwrap() == [5; 512]);
}

/// Sends three writes of one block, the first one last. The block as it is at the end.
fn out_of_order(served: &Served) -> (Vec<u8>, usize) {
    let mut it = served.session(login());
    let commands: Vec<_> = (0..3).map(|_| write_by_hand(&mut it, 0, 1)).collect();
    send(&mut it, &commands[2], &[2; 512]);
    send(&mut it, &commands[1], &[1; 512]);
    // Twice: the place is taken.
    send(&mut it, &commands[1], &[7; 512]);
    ping(&mut it).unwrap();
    let before = usize::from(served.faults[0].seen() > 0);
    send(&mut it, &commands[0], &[0; 512]);
    for _ in 0..3 {
        assert_eq!(next_status(&mut it), GOOD);
    }
    (it.read_blocks(0, 0, 1, BLOCK).unwrap(), before)
}

#[test]
fn commands_ahead_of_a_gap_are_delivered_in_order_when_it_closes() {
    let (block, before) = out_of_order(&Served::start(config()));
    assert_eq!((block, before), (vec![2; 512], 0));
}

#[test]
fn commands_that_are_delivered_out_of_order_are_noticed() {
    let served = Served::start(config()).without(Guard::CmdSnOrder);
    let (block, before) = out_of_order(&served);
    assert_eq!((block, before), (vec![0; 512], 1));
}

#[test]
fn immediate_commands_beyond_the_reserve_are_rejected() {
    let served = Served::start(config());
    let mut it = served.session(login());
    served.faults[0].hold_writes(true);
    let mut command = write_by_hand(&mut it, 0, 1);
    command.immediate = true;
    let mut rejected = 0;
    for n in 0..12_u8 {
        command.itt = it.engine().take_raw_tag();
        send(&mut it, &command, &[n; 512]);
        ping(&mut it).unwrap();
        if served.faults[0].held() < u64::from(n) + 1 {
            let (reason, header) = next_reject(&mut it);
            assert_eq!(reason, RejectReason::TooManyImmediateCommands);
            assert_eq!(header.initiator_task_tag(), command.itt);
            rejected += 1;
        }
    }
    assert_eq!(rejected, 12 - 8);
    served.faults[0].hold_writes(false);
    for _ in 0..8 {
        assert_eq!(next_status(&mut it), GOOD);
    }
    // Room again.
    command.itt = it.engine().take_raw_tag();
    send(&mut it, &command, &[1; 512]);
    assert_eq!(next_status(&mut it), GOOD);
}

/// SAM-5 §5.11: both commands are lost, and the initiator is told when neither can land any more.
#[test]
fn a_tag_that_is_in_use_is_an_overlapped_command() {
    let served = Served::start(config());
    let mut it = served.session(login());
    served.faults[0].hold_writes(true);
    let first = write_by_hand(&mut it, 0, 1);
    send(&mut it, &first, &[1; 512]);
    let mut second = write_by_hand(&mut it, 1, 1);
    let own = std::mem::replace(&mut second.itt, first.itt);
    send(&mut it, &second, &[2; 512]);
    for _ in 0..20 {
        ping(&mut it).unwrap();
    }
    assert!(
        it.engine().poll_event().is_none(),
        "the first is at the device"
    );
    served.faults[0].hold_writes(false);
    assert_eq!(
        next_status(&mut it),
        check_condition((ABORTED_COMMAND, 0x4e, 0x00))
    );
    // Sent again as it was, it is a duplicate: its CmdSN is behind the window.
    send(&mut it, &second, &[3; 512]);
    ping(&mut it).unwrap();
    assert!(it.engine().poll_event().is_none());
    second.itt = own;
    second.cmd_sn = it.engine().take_cmd_sn(false);
    send(&mut it, &second, &[3; 512]);
    assert_eq!(next_status(&mut it), GOOD);
    assert!(it.read_blocks(0, 1, 1, BLOCK).unwrap() == [3; 512]);
}

#[test]
fn the_window_closes_at_its_depth_and_opens_again() {
    let served = Served::start(config());
    // One buffer a command, so that memory allows the whole depth.
    let mut it = served.session(login().with_key("FirstBurstLength", "16384"));
    served.faults[0].hold_writes(true);
    let tasks: Vec<_> = (0..200_u64)
        .map(|lba| {
            let data = Direction::Out(DataOut::new(pattern(512, 1)));
            it.submit(Command::Scsi(Scsi::new(0, &write_16(lba, 1, false), data)))
                .unwrap()
        })
        .collect();
    // Its own queue waits for the window, so this ping is sent by hand.
    let mut watcher = served.session(login().with_isid_qualifier(2));
    until(&mut watcher, || served.faults[0].held() == 128);
    let nop = NopOut {
        immediate: true,
        lun: LunField([0; 8]),
        itt: it.engine().take_raw_tag(),
        ttt: Ttt::RESERVED,
        cmd_sn: it.engine().numbers().cmd_sn,
        exp_stat_sn: it.engine().numbers().exp_stat_sn,
    };
    it.send_pdu(&RawPdu::new(nop.emit(), Vec::new())).unwrap();
    it.next_raw().unwrap();
    // The engine has refused any window that went back; now it is closed.
    let numbers = it.engine().numbers();
    assert_eq!(numbers.max_cmd_sn, numbers.exp_cmd_sn.minus(1));
    assert_eq!(numbers.cmd_sn, numbers.exp_cmd_sn);
    served.faults[0].hold_writes(false);
    for task in tasks {
        let event = it.wait(task).unwrap();
        assert!(matches!(event, Event::Scsi { outcome, .. } if outcome.is_good()));
    }
    ping(&mut it).unwrap();
    let numbers = it.engine().numbers();
    assert!(numbers.max_cmd_sn.distance_from(numbers.exp_cmd_sn) >= 120);
}
