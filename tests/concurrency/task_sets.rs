//! The order of tasks in one task set (SAM-5 §8): who starts when, and what aborts leave behind.
//!
//! Writes are held at the device; what has started is what the device has seen.

use super::acts::{good, manage, other, response, settle, write};
use super::served::{BLOCK, Served, config, login, pattern, until};
use iiblockdaemon::iscsi::session::Guard;
use iiblockdaemon::pdu::{
    TaskAttribute, TaskManagementFunction as Function, TaskManagementResponseCode as Code,
};
use iiblockdaemon::testing::tcp::{TcpInitiator, read_16, write_16};
use iiblockdaemon::testing::{Command, DataOut, Direction, Scsi, TaskHandle};

/// A write of one block at `lba`, which is also its pattern's seed.
fn ranked(it: &mut TcpInitiator, lun: u8, lba: u64, attribute: TaskAttribute) -> TaskHandle {
    let seed = u32::try_from(lba).unwrap();
    let data = Direction::Out(DataOut::new(pattern(BLOCK as usize, seed)));
    let command = Scsi {
        attribute,
        ..Scsi::new(lun, &write_16(lba, 1, false), data)
    };
    it.submit(Command::Scsi(command)).unwrap()
}

fn simple(it: &mut TcpInitiator, lba: u64) -> TaskHandle {
    ranked(it, 0, lba, TaskAttribute::Simple)
}

fn ordered(it: &mut TcpInitiator, lba: u64) -> TaskHandle {
    ranked(it, 0, lba, TaskAttribute::Ordered)
}

fn first(it: &mut TcpInitiator, lba: u64) -> TaskHandle {
    ranked(it, 0, lba, TaskAttribute::HeadOfQueue)
}

/// How many writes are at the first disk when everything has gone as far as it can.
fn at_device(served: &Served, it: &mut TcpInitiator) -> u64 {
    settle(&mut [it]);
    served.faults[0].held()
}

/// Two SIMPLE writes run, an ORDERED one and what came behind it do not: how many are there.
fn beside_an_ordered_write(served: &Served) -> u64 {
    let mut it = served.session(login());
    served.faults[0].hold_writes(true);
    let tasks = [
        simple(&mut it, 1),
        simple(&mut it, 2),
        ordered(&mut it, 3),
        simple(&mut it, 4),
        ordered(&mut it, 5),
    ];
    let there = at_device(served, &mut it);
    served.faults[0].hold_writes(false);
    for task in tasks {
        assert!(good(&it.wait(task).unwrap()));
    }
    there
}

#[test]
fn an_ordered_command_waits_and_lets_wait() {
    assert_eq!(beside_an_ordered_write(&Served::start(config())), 2);
}

#[test]
fn commands_that_start_out_of_their_order_are_noticed() {
    let served = Served::start(config()).without(Guard::TaskSetOrder);
    assert_eq!(beside_an_ordered_write(&served), 5);
}

/// One block, written by commands of which each must find the one before it done.
#[test]
fn ordered_writes_of_one_block_land_in_their_order() {
    let served = Served::start(config());
    let mut it = served.session(login());
    served.faults[0].delay_polls(7);
    for round in 0..20_u32 {
        let tasks: Vec<_> = (0..30_u32)
            .map(|n| {
                let data = Direction::Out(DataOut::new(pattern(512, round * 100 + n)));
                let command = Scsi {
                    attribute: TaskAttribute::Ordered,
                    ..Scsi::new(0, &write_16(9, 1, false), data)
                };
                it.submit(Command::Scsi(command)).unwrap()
            })
            .collect();
        for task in tasks {
            assert!(good(&it.wait(task).unwrap()));
        }
        let block = it.read_blocks(0, 9, 1, BLOCK).unwrap();
        assert!(block == pattern(512, round * 100 + 29), "round {round}");
    }
}

#[test]
fn a_head_of_queue_command_starts_at_once_and_holds_up_what_has_not() {
    let served = Served::start(config());
    let mut it = served.session(login());
    served.faults[0].hold_writes(true);
    let running = simple(&mut it, 1);
    let waiting = ordered(&mut it, 2);
    let ahead = first(&mut it, 3);
    let behind = simple(&mut it, 4);
    // The first and the one that passed the queue.
    assert_eq!(at_device(&served, &mut it), 2);
    assert!(!it.has_ended(waiting) && !it.has_ended(behind));
    // Of two that pass the queue neither waits for the other.
    let too = first(&mut it, 5);
    assert_eq!(at_device(&served, &mut it), 3);
    served.faults[0].hold_writes(false);
    for task in [running, waiting, ahead, behind, too] {
        assert!(good(&it.wait(task).unwrap()));
    }
    for lba in 1..=5 {
        let seed = u32::try_from(lba).unwrap();
        assert!(it.read_blocks(0, lba, 1, BLOCK).unwrap() == pattern(512, seed));
    }
}

/// TST = 001b: another LUN and another session have task sets of their own.
#[test]
fn an_ordered_command_holds_up_neither_another_lun_nor_another_session() {
    let served = Served::start(config());
    let mut it = served.session(login());
    let mut second = served.session(other(1));
    served.faults[0].hold_writes(true);
    let running = simple(&mut it, 1);
    let waiting = ordered(&mut it, 2);
    let elsewhere = ranked(&mut it, 1, 3, TaskAttribute::Ordered);
    assert!(good(&it.wait(elsewhere).unwrap()));
    let others = simple(&mut second, 4);
    until(&mut second, || served.faults[0].held() == 2);
    served.faults[0].hold_writes(false);
    assert!(good(&second.wait(others).unwrap()));
    for task in [running, waiting] {
        assert!(good(&it.wait(task).unwrap()));
    }
}

#[test]
fn an_aborted_command_lets_those_behind_it_go() {
    let served = Served::start(config());
    let mut it = served.session(login());
    served.faults[0].hold_writes(true);
    let running = simple(&mut it, 1);
    let waiting = ordered(&mut it, 2);
    let behind = [simple(&mut it, 3), simple(&mut it, 4)];
    assert_eq!(at_device(&served, &mut it), 1);
    let abort = manage(&mut it, Function::AbortTask, 0, Some(waiting));
    assert_eq!(response(&mut it, abort), Code::FunctionComplete);
    assert_eq!(at_device(&served, &mut it), 3);
    served.faults[0].hold_writes(false);
    for task in [running, behind[0], behind[1]] {
        assert!(good(&it.wait(task).unwrap()));
    }
    assert!(it.read_blocks(0, 2, 1, BLOCK).unwrap() == [0; 512]);
}

/// What waits in the task set is gone with it, and never reaches the device.
#[test]
fn abort_task_set_takes_what_waits_and_waits_for_what_runs() {
    let served = Served::start(config());
    let mut it = served.session(login());
    for disk in [0, 1] {
        served.faults[disk].hold_writes(true);
    }
    // A task of the other LUN leaves the first place of the table to one that waits, which is
    // gone before the one that runs is looked at.
    let elsewhere = ranked(&mut it, 1, 9, TaskAttribute::Simple);
    let running = simple(&mut it, 1);
    until(&mut it, || served.faults[0].held() == 1);
    served.faults[1].hold_writes(false);
    assert!(good(&it.wait(elsewhere).unwrap()));
    ordered(&mut it, 2);
    simple(&mut it, 3);
    settle(&mut [&mut it]);
    let abort = manage(&mut it, Function::AbortTaskSet, 0, None);
    settle(&mut [&mut it]);
    assert!(!it.has_ended(abort), "the write at the device goes on");
    assert!(!it.has_ended(running));
    served.faults[0].hold_writes(false);
    assert_eq!(response(&mut it, abort), Code::FunctionComplete);
    for lba in [2, 3] {
        assert!(it.read_blocks(0, lba, 1, BLOCK).unwrap() == [0; 512]);
    }
    // Nothing of the old order is left.
    let after = ordered(&mut it, 4);
    assert!(good(&it.wait(after).unwrap()));
}

#[test]
fn a_session_that_ends_drops_what_waits() {
    let served = Served::start(config());
    let mut it = served.session(login());
    served.faults[0].hold_writes(true);
    simple(&mut it, 1);
    ordered(&mut it, 2);
    simple(&mut it, 3);
    assert_eq!(at_device(&served, &mut it), 1);
    drop(it);
    let mut second = served.session(other(1));
    settle(&mut [&mut second]);
    served.faults[0].hold_writes(false);
    let mut again = served.session(login());
    for lba in [2, 3] {
        assert!(again.read_blocks(0, lba, 1, BLOCK).unwrap() == [0; 512]);
    }
}

/// SAM-5 §8.7: without NORMACA there is nothing that an ACA task could belong to.
#[test]
fn an_aca_command_is_refused() {
    let served = Served::start(config());
    let mut it = served.session(login());
    let command = Scsi {
        attribute: TaskAttribute::Aca,
        ..Scsi::new(0, &read_16(0, 1), Direction::In(512))
    };
    let outcome = it.execute(command).unwrap();
    assert_eq!(outcome.sense_code(), Some((0x05, 0x49, 0x00)));
    // A write is drained first.
    let data = Direction::Out(DataOut::new(vec![1; 512]));
    let command = Scsi {
        attribute: TaskAttribute::Aca,
        ..Scsi::new(0, &write_16(0, 1, false), data)
    };
    let outcome = it.execute(command).unwrap();
    assert_eq!(outcome.sense_code(), Some((0x05, 0x49, 0x00)));
    assert!(it.read_blocks(0, 0, 1, BLOCK).unwrap() == [0; 512]);
}

/// Reads run beside each other and see what an ORDERED write before them wrote; large ones find
/// memory although what waits holds its own.
#[test]
fn a_whole_window_of_mixed_commands_ends() {
    let served = Served::start(config());
    let mut it = served.session(login());
    served.faults[0].delay_polls(3);
    let attributes = [
        TaskAttribute::Simple,
        TaskAttribute::Untagged,
        TaskAttribute::Ordered,
        TaskAttribute::HeadOfQueue,
        TaskAttribute::Simple,
    ];
    let tasks: Vec<_> = (0..600_usize)
        .map(|n| {
            let blocks = 1 + u32::try_from(n * 37 % 700).unwrap();
            let attribute = attributes[n * 7 % attributes.len()];
            let lba = u64::try_from(n).unwrap() * 16;
            let command = if n % 3 == 0 {
                Scsi::new(0, &read_16(lba, blocks), Direction::In(blocks * BLOCK))
            } else {
                let bytes = pattern((blocks * BLOCK) as usize, blocks);
                let data = Direction::Out(DataOut::new(bytes));
                Scsi::new(0, &write_16(lba, blocks, false), data)
            };
            let command = Scsi {
                attribute,
                immediate: false,
                ..command
            };
            it.submit(Command::Scsi(command)).unwrap()
        })
        .collect();
    for task in tasks {
        assert!(good(&it.wait(task).unwrap()));
    }
    let last = write(&mut it, 0, 0, DataOut::new(vec![9; 512]));
    assert!(good(&it.wait(last).unwrap()));
}
