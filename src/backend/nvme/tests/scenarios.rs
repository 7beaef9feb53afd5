//! Single stories: what goes wrong, and what comes of it.

use std::time::Duration;

use super::rig::{Rig, settings};
use crate::backend::nvme::facts::{NamespaceState, Selector, State};
use crate::backend::nvme::model::faults::{Action, Match};
use crate::backend::nvme::model::{Model, ModelOptions, NamespaceOptions};
use crate::backend::nvme::spec::entry::NamespaceId;
use crate::backend::nvme::spec::status::Status;
use crate::backend::request::{Completion, IoError, Operation};

const FLUSH: u8 = 0;
const WRITE: u8 = 1;
const READ: u8 = 2;
const ONE: NamespaceId = NamespaceId(1);

fn model(options: ModelOptions) -> Model {
    Model::new(options)
}

fn plain() -> Model {
    model(ModelOptions::default())
}

fn write(rig: &Rig, core: usize, lba: u64, blocks: u32, byte: u8) -> Operation {
    let mut buf = rig.buffer(core, blocks as usize * 512);
    buf.fill(0, buf.len(), byte);
    Operation::Write {
        lba,
        blocks,
        buf,
        fua: false,
    }
}

fn read(rig: &Rig, core: usize, lba: u64, blocks: u32) -> Operation {
    let buf = rig.buffer(core, blocks as usize * 512);
    Operation::Read { lba, blocks, buf }
}

fn result(completion: Completion) -> Result<(), IoError> {
    completion.token.finish();
    completion.result
}

#[test]
fn data_goes_there_and_back_over_every_core() {
    let model = plain();
    let mut rig = Rig::new(&model, settings(16), 3);
    for core in 0..3 {
        let lba = 1000 * core as u64;
        let byte = u8::try_from(core).unwrap() + 1;
        let wrote = rig.run(core, write(&rig, core, lba, 100, byte));
        assert_eq!(result(wrote), Ok(()));
        assert_eq!(model.block(ONE, lba + 99), [byte; 512]);
        let other = (core + 1) % 3;
        let read = rig.run(other, read(&rig, other, lba, 100));
        let found = read.buf.as_ref().unwrap().to_vec();
        assert_eq!(result(read), Ok(()));
        assert_eq!(found, vec![byte; 51_200]);
    }
    assert_eq!(result(rig.run(0, Operation::Flush)), Ok(()));
    assert_eq!(model.durable_block(ONE, 2000), [3; 512]);
    rig.close().unwrap();
}

#[test]
fn more_cores_than_queue_pairs_share_them() {
    for queue_pairs in [1, 2] {
        let model = model(ModelOptions {
            queue_pairs,
            ..ModelOptions::default()
        });
        let mut rig = Rig::new(&model, settings(4), 4);
        for nth in 0..200_u64 {
            let core = usize::try_from(nth % 4).unwrap();
            let byte = u8::try_from(nth).unwrap();
            let operation = write(&rig, core, nth, 1, byte);
            rig.submit(core, operation);
            while rig.in_flight() > 40 {
                assert_eq!(result(rig.wait()), Ok(()));
            }
        }
        while rig.in_flight() > 0 {
            assert_eq!(result(rig.wait()), Ok(()));
        }
        for nth in 0..200 {
            assert_eq!(model.block(ONE, nth)[0], u8::try_from(nth).unwrap());
        }
        rig.close().unwrap();
    }
}

#[test]
fn a_core_that_is_held_up_over_a_reset_sends_nothing_of_before() {
    for queue_pairs in [1, 2] {
        let model = model(ModelOptions {
            queue_pairs,
            ..ModelOptions::default()
        });
        let mut rig = Rig::new(&model, settings(16), 2);
        for lba in 0..10 {
            assert_eq!(result(rig.run(0, write(&rig, 0, lba, 1, 1))), Ok(()));
        }
        // What is under way when it stops has not been seen by the controller.
        let late = rig.submit(0, write(&rig, 0, 20, 1, 2));
        rig.held_up = Some(0);
        model.fail();
        rig.pass(Duration::from_secs(8));
        assert_eq!(rig.state(), State::Ready);
        for lba in 0..10 {
            rig.submit(1, write(&rig, 1, lba, 1, 3));
        }
        rig.pass(Duration::from_secs(1));
        // With a queue of its own the other core is served meanwhile.
        let left = if queue_pairs == 1 { 11 } else { 1 };
        assert_eq!(rig.in_flight() - rig.done.len(), left);
        let later = rig.submit(0, write(&rig, 0, 21, 1, 4));
        rig.held_up = None;
        let mut done = Vec::new();
        while rig.in_flight() > 0 {
            let completion = rig.wait();
            done.push(completion.token.tag());
            assert_eq!(result(completion), Ok(()));
        }
        assert!(done.contains(&late) && done.contains(&later));
        for lba in 0..10 {
            assert_eq!(model.block(ONE, lba), [3; 512], "{lba}");
        }
        assert_eq!(model.block(ONE, 20), [2; 512]);
        assert_eq!(model.block(ONE, 21), [4; 512]);
        assert_eq!(model.counters().disabled, 1);
        rig.close().unwrap();
    }
}

#[test]
fn a_guest_whose_host_is_held_up_is_served_by_another() {
    let model = model(ModelOptions {
        queue_pairs: 2,
        ..ModelOptions::default()
    });
    let mut rig = Rig::new(&model, settings(16), 3);
    assert_eq!(result(rig.run(2, write(&rig, 2, 7, 1, 1))), Ok(()));
    rig.held_up = Some(0);
    rig.submit(2, write(&rig, 2, 7, 1, 2));
    rig.submit(2, read(&rig, 2, 7, 1));
    while rig.in_flight() > 0 {
        assert_eq!(result(rig.wait()), Ok(()));
    }
    assert_eq!(model.block(ONE, 7), [2; 512]);
    assert_eq!(model.counters().disabled, 1);
    rig.held_up = None;
    assert_eq!(result(rig.run(0, read(&rig, 0, 7, 1))), Ok(()));
    rig.close().unwrap();
}

#[test]
fn a_lost_completion_is_aborted_and_then_a_lost_abort_is_a_reset() {
    let model = plain();
    let mut rig = Rig::new(&model, settings(16), 1);
    model.faults(|plan| plan.once(Match::io(READ), Action::Drop));
    let late = rig.run(0, read(&rig, 0, 0, 8));
    assert_eq!(result(late), Err(IoError::Aborted));
    assert_eq!(model.counters().disabled, 0);
    model.faults(|plan| {
        plan.once(Match::io(READ), Action::Drop);
        plan.abort_answers = Some(false);
    });
    let late = rig.run(0, read(&rig, 0, 0, 8));
    assert_eq!(result(late), Ok(()), "sent again behind the reset");
    assert_eq!(model.counters().disabled, 1);
    model.faults(|plan| plan.clear());
    rig.close().unwrap();
}

#[test]
fn completions_that_break_rules_reset_the_controller_and_nothing_is_lost() {
    for action in [
        Action::WrongCid(0x7777),
        Action::WrongQueue(3),
        Action::StalePhase,
        Action::Fatal,
    ] {
        let model = plain();
        let mut rig = Rig::new(&model, settings(16), 2);
        model.faults(|plan| plan.nth(Match::io(WRITE), 3, action));
        for nth in 0..20_u8 {
            let core = usize::from(nth % 2);
            let operation = write(&rig, core, nth.into(), 1, nth + 1);
            rig.submit(core, operation);
        }
        while rig.in_flight() > 0 {
            assert_eq!(result(rig.wait()), Ok(()), "{action:?}");
        }
        for nth in 0..20 {
            assert_eq!(model.block(ONE, nth)[0], u8::try_from(nth).unwrap() + 1);
        }
        assert_eq!(model.counters().disabled, 1, "{action:?}");
        model.faults(|plan| plan.clear());
        rig.close().unwrap();
    }
}

#[test]
fn a_controller_that_cannot_be_disabled_has_its_function_reset() {
    let model = plain();
    let mut rig = Rig::new(&model, settings(16), 2);
    model.faults(|plan| {
        plan.once(Match::io(WRITE), Action::Fatal);
        plan.never_disabled = true;
    });
    rig.submit(0, write(&rig, 0, 0, 4, 9));
    rig.submit(1, write(&rig, 1, 8, 4, 9));
    let reset = rig.run_until(|rig| rig.model.counters().function_resets > 0);
    assert!(reset);
    model.faults(|plan| plan.clear());
    while rig.in_flight() > 0 {
        assert_eq!(result(rig.wait()), Ok(()));
    }
    assert_eq!((model.block(ONE, 0)[0], model.block(ONE, 11)[0]), (9, 9));
    rig.close().unwrap();
}

#[test]
fn a_controller_that_nothing_stops_is_let_go_and_keeps_no_buffer() {
    let model = plain();
    let mut rig = Rig::new(&model, settings(16), 1);
    model.faults(|plan| {
        plan.once(Match::io(READ), Action::Drop);
        plan.abort_answers = Some(false);
        plan.never_disabled = true;
        plan.reset_fails = true;
        plan.reopen_fails = true;
    });
    let failed = rig.run(0, read(&rig, 0, 0, 8));
    assert!(failed.buf.is_some(), "nobody writes to it any more");
    assert_eq!(result(failed), Err(IoError::NotReady));
    let pool = rig.cores[0].pool.clone();
    assert!(rig.run_until(|rig| rig.state() == State::Failed));
    assert_eq!(pool.available(), pool.chunks());
    let refused = rig.run(0, Operation::Flush);
    assert_eq!(result(refused), Err(IoError::NotReady));
    // At last it can be had again.
    model.faults(|plan| plan.clear());
    assert!(rig.run_until(|rig| rig.state() == State::Ready));
    drop(pool);
    rig.pass(Duration::from_millis(100));
    assert_eq!(result(rig.run(0, read(&rig, 0, 0, 8))), Ok(()));
    rig.close().unwrap();
}

#[test]
fn a_controller_that_leaves_fails_its_requests_and_serves_again_when_it_is_back() {
    let model = plain();
    let mut rig = Rig::new(&model, settings(16), 2);
    assert_eq!(result(rig.run(0, write(&rig, 0, 5, 1, 5))), Ok(()));
    model.faults(|plan| plan.once(Match::io(READ), Action::Remove));
    rig.submit(0, read(&rig, 0, 5, 1));
    rig.submit(1, write(&rig, 1, 6, 1, 6));
    while rig.in_flight() > 0 {
        assert_eq!(result(rig.wait()), Err(IoError::Absent));
    }
    assert_eq!(rig.state(), State::Gone);
    assert_eq!(result(rig.run(0, Operation::Flush)), Err(IoError::Absent));
    model.plug();
    assert!(rig.run_until(|rig| rig.state() == State::Ready));
    rig.pass(Duration::from_millis(100));
    let back = rig.run(0, read(&rig, 0, 5, 1));
    assert_eq!(back.buf.as_ref().unwrap().to_vec(), [5; 512]);
    assert_eq!(result(back), Ok(()));
    rig.close().unwrap();
}

#[test]
fn a_core_whose_queue_is_not_there_yet_is_told_to_try_again() {
    const CREATE_COMPLETION_QUEUE: u8 = 5;
    let model = plain();
    let mut rig = Rig::new(&model, settings(16), 2);
    model.remove();
    assert!(rig.run_until(|rig| rig.state() == State::Gone));
    assert_eq!(result(rig.run(1, Operation::Flush)), Err(IoError::Absent));
    let second = Match::admin(CREATE_COMPLETION_QUEUE);
    model.faults(|plan| plan.nth(second, 1, Action::Delay(20_000)));
    model.plug();
    assert!(rig.run_until(|rig| rig.state() == State::Ready));
    let mut served = false;
    while !served {
        served = result(rig.run(0, Operation::Flush)).is_ok();
        rig.turn();
    }
    let early = result(rig.run(1, Operation::Flush));
    assert_eq!(early, Err(IoError::Recovering));
    rig.pass(Duration::from_millis(100));
    assert_eq!(result(rig.run(1, Operation::Flush)), Ok(()));
    rig.close().unwrap();
}

#[test]
fn what_was_held_is_not_sent_to_a_namespace_that_is_another_one_now() {
    type Change = fn(&mut NamespaceOptions);
    let changes: [(Change, Change, IoError); 3] = [
        (
            |it| it.eui64 = [7; 8],
            |it| it.eui64 = NamespaceOptions::default().eui64,
            IoError::NotReady,
        ),
        (
            |it| it.block_shift = 12,
            |it| it.block_shift = 9,
            IoError::NotReady,
        ),
        (
            |it| it.active = false,
            |it| it.active = true,
            IoError::Absent,
        ),
    ];
    for queue_pairs in [1, 4] {
        for (change, restore, error) in changes {
            let model = model(ModelOptions {
                queue_pairs,
                ..ModelOptions::default()
            });
            let mut rig = Rig::new(&model, settings(4), 2);
            assert_eq!(result(rig.run(1, write(&rig, 1, 0, 1, 1))), Ok(()));
            // Some are outstanding when it fails, the others wait.
            model.fail();
            for nth in 0..30 {
                rig.submit(nth % 2, write(&rig, nth % 2, 0, 4, 9));
            }
            model.change_namespace(ONE, change);
            while rig.in_flight() > 0 {
                assert_eq!(result(rig.wait()), Err(error), "{queue_pairs}");
            }
            assert_eq!(rig.state(), State::Ready);
            model.change_namespace(ONE, restore);
            let namespace = rig.namespace.clone().unwrap();
            let is_back = |_: &mut Rig| namespace.state() == NamespaceState::Active;
            assert!(rig.run_until(is_back));
            assert_eq!(model.block(ONE, 0), [1; 512]);
            assert_eq!(model.block(ONE, 1), [0; 512]);
            assert_eq!(result(rig.run(0, write(&rig, 0, 1, 1, 2))), Ok(()));
            rig.close().unwrap();
        }
    }
}

/// Acknowledged, and in the write cache as far as anybody can know.
fn cached(rig: &mut Rig) {
    assert_eq!(result(rig.run(0, write(rig, 0, 5, 1, 5))), Ok(()));
}

fn comes_back(rig: &mut Rig) {
    rig.model.remove();
    assert!(rig.run_until(|rig| rig.state() == State::Gone));
    rig.model.plug();
    assert!(rig.run_until(|rig| rig.state() == State::Ready));
    rig.pass(Duration::from_millis(100));
}

#[test]
fn no_flush_vouches_for_writes_of_before_a_removal() {
    let model = plain();
    let mut rig = Rig::new(&model, settings(16), 2);
    // Nothing was written, so nothing can be lost.
    comes_back(&mut rig);
    assert_eq!(result(rig.run(0, Operation::Flush)), Ok(()));
    cached(&mut rig);
    comes_back(&mut rig);
    let lost = Err(IoError::WriteCacheLost);
    for core in [0, 1, 0] {
        assert_eq!(result(rig.run(core, Operation::Flush)), lost);
    }
    assert_eq!(result(rig.run(1, write(&rig, 1, 6, 1, 6))), Ok(()));
    assert_eq!(result(rig.run(1, Operation::Flush)), lost);
    // An operator has seen to it.
    rig.namespace.as_ref().unwrap().set_cache_lost(false);
    assert_eq!(result(rig.run(1, Operation::Flush)), Ok(()));
    rig.close().unwrap();
}

#[test]
fn a_flush_that_is_sent_again_behind_a_reset_says_whether_the_cache_is_lost() {
    for (cause, function, kept) in [
        (Action::WrongCid(0x7777), false, true),
        (Action::WrongCid(0x7777), true, false),
        // Firmware that has crashed may have taken its cache with it.
        (Action::Fatal, false, false),
        (Action::Fatal, true, false),
    ] {
        let model = plain();
        let mut rig = Rig::new(&model, settings(16), 1);
        cached(&mut rig);
        model.faults(|plan| {
            plan.once(Match::io(FLUSH), cause);
            plan.never_disabled = function;
        });
        rig.submit(0, Operation::Flush);
        let reset = |rig: &mut Rig| {
            let counters = rig.model.counters();
            counters.function_resets + counters.disabled > 0
        };
        assert!(rig.run_until(reset));
        model.faults(|plan| plan.clear());
        // Disabling alone keeps the cache.
        let said = if kept {
            Ok(())
        } else {
            Err(IoError::WriteCacheLost)
        };
        assert_eq!(result(rig.wait()), said, "{cause:?}");
        assert_eq!(result(rig.run(0, Operation::Flush)), said, "{cause:?}");
        rig.close().unwrap();
    }
}

#[test]
fn no_flush_vouches_for_what_a_failed_one_was_to_write() {
    let model = plain();
    let mut rig = Rig::new(&model, settings(16), 2);
    cached(&mut rig);
    let fault = Action::Status(Status::WRITE_FAULT);
    model.faults(|plan| plan.once(Match::io(FLUSH), fault));
    assert_eq!(
        result(rig.run(0, Operation::Flush)),
        Err(IoError::WriteFault)
    );
    for core in [1, 0] {
        assert_eq!(
            result(rig.run(core, Operation::Flush)),
            Err(IoError::WriteCacheLost)
        );
    }
    rig.close().unwrap();
}

#[test]
fn without_a_write_cache_there_is_none_to_lose() {
    let model = model(ModelOptions {
        vwc: 0,
        ..ModelOptions::default()
    });
    let mut rig = Rig::new(&model, settings(16), 1);
    cached(&mut rig);
    comes_back(&mut rig);
    assert_eq!(result(rig.run(0, Operation::Flush)), Ok(()));
    rig.close().unwrap();
}

#[test]
fn a_function_that_the_kernel_wants_is_let_go() {
    const DELETE_SUBMISSION_QUEUE: u8 = 0;
    for (deletes, ends, kept) in [
        (true, true, true),
        (false, true, true),
        (true, false, false),
    ] {
        let model = plain();
        let mut rig = Rig::new(&model, settings(16), 1);
        cached(&mut rig);
        model.faults(|plan| {
            if !deletes {
                let on = Match::admin(DELETE_SUBMISSION_QUEUE);
                plan.always(on, Action::Status(Status::INTERNAL));
            }
            plan.stuck_shutdown = !ends;
        });
        model.want();
        assert!(rig.run_until(|rig| rig.state() == State::Gone));
        assert!(
            rig.run_until(|rig| rig.state() == State::Ready),
            "it was put back"
        );
        rig.pass(Duration::from_millis(100));
        // Its write cache was on the medium when it was let go.
        let said = if kept {
            Ok(())
        } else {
            Err(IoError::WriteCacheLost)
        };
        assert_eq!(
            result(rig.run(0, Operation::Flush)),
            said,
            "{deletes} {ends}"
        );
        model.faults(|plan| plan.clear());
        rig.close().unwrap();
    }
}

#[test]
fn removal_at_any_step_of_the_start_is_survived() {
    let started = || {
        let model = plain();
        let rig = Rig::new(&model, settings(16), 1);
        let steps = model.counters();
        rig.close().unwrap();
        steps.completed
    };
    assert!(started() > 5);
    for at in 1..120 {
        let model = plain();
        model.faults(|plan| plan.remove_at = Some(at));
        let mut rig = Rig::starting(&model, settings(16));
        rig.set_steps(1);
        let over = rig.run_until(|rig| rig.ended().is_some() || rig.state() != State::Starting);
        assert!(over, "at step {at}");
        assert_eq!(model.verdict(), [], "at step {at}");
        let ended_well = rig.ended().is_none_or(Result::is_err);
        assert!(ended_well, "at step {at}");
    }
}

#[test]
fn every_step_of_the_start_may_fail_and_says_so() {
    for opcode in [0x06, 0x09, 0x02] {
        for nth in 0..4 {
            for action in [
                Action::Drop,
                Action::Status(Status::INTERNAL),
                Action::WrongCid(0x7777),
                Action::StalePhase,
                Action::Fatal,
                Action::Remove,
            ] {
                let model = plain();
                model.faults(|plan| plan.nth(Match::admin(opcode), nth, action));
                let mut rig = Rig::starting(&model, settings(16));
                let over = |rig: &mut Rig| rig.ended().is_some() || rig.state() == State::Ready;
                assert!(rig.run_until(over), "{opcode:#x} {nth} {action:?}");
                assert_eq!(model.verdict(), [], "{opcode:#x} {nth} {action:?}");
            }
        }
    }
}

#[test]
fn a_controller_that_is_never_ready_is_given_up_in_time() {
    let model = plain();
    model.faults(|plan| plan.never_ready = true);
    let mut rig = Rig::starting(&model, settings(16));
    let before = rig.now;
    assert!(rig.run_until(|rig| rig.ended().is_some()));
    assert!(rig.ended().unwrap().is_err());
    let took = rig.now - before;
    assert!(
        took > Duration::from_secs(9) && took < Duration::from_secs(60),
        "{took:?}"
    );
}

#[test]
fn statuses_become_what_initiators_are_told() {
    let model = plain();
    let mut rig = Rig::new(&model, settings(16), 1);
    for (status, error) in [
        (Status::UNRECOVERED_READ, IoError::Medium),
        (Status::ABORTED, IoError::Aborted),
        (Status::LBA_OUT_OF_RANGE, IoError::OutOfRange),
    ] {
        model.faults(|plan| plan.once(Match::io(READ), Action::Status(status)));
        assert_eq!(
            result(rig.run(0, read(&rig, 0, 0, 1))),
            Err(error),
            "{status}"
        );
    }
    // What is not ready for a moment is asked again.
    let busy = Action::Status(Status::NAMESPACE_NOT_READY);
    model.faults(|plan| plan.once(Match::io(FLUSH), busy));
    assert_eq!(result(rig.run(0, Operation::Flush)), Ok(()));
    rig.close().unwrap();
}

#[test]
fn a_storm_of_events_and_changes_is_taken_in() {
    use crate::backend::nvme::model::events::Happening;
    let model = plain();
    let mut rig = Rig::new(&model, settings(16), 1);
    for kind in 0..3 {
        let event = Happening {
            kind,
            information: 0,
            log_page: [1, 2, 4][usize::from(kind)],
        };
        model.happen(event, 500);
    }
    model.change_namespace(ONE, |namespace| namespace.blocks = 5000);
    let namespace = rig.namespace.clone().unwrap();
    assert!(rig.run_until(|_| namespace.blocks() == 5000));
    assert_eq!(result(rig.run(0, write(&rig, 0, 4999, 1, 1))), Ok(()));
    rig.pass(Duration::from_secs(10));
    let told = model.counters().events;
    assert!((20..60).contains(&told), "{told}");
    rig.close().unwrap();
}

#[test]
fn an_orderly_end_deletes_every_queue_and_says_goodbye() {
    for seed in 0..20 {
        let model = model(ModelOptions {
            seed,
            ..ModelOptions::default()
        });
        let rig = Rig::new(&model, settings(16), 4);
        rig.close().unwrap();
        let counters = model.counters();
        assert_eq!(counters.queues_created, counters.queues_deleted, "{seed}");
        assert_eq!((counters.shutdowns, counters.disabled), (1, 1), "{seed}");
    }
}

#[test]
fn a_shutdown_that_is_stuck_ends_all_the_same() {
    let model = plain();
    let rig = Rig::new(&model, settings(16), 1);
    model.faults(|plan| plan.stuck_shutdown = true);
    rig.close().unwrap();
}

#[test]
fn namespaces_are_found_by_their_names_or_refused() {
    let model = model(ModelOptions {
        namespaces: vec![
            NamespaceOptions::default(),
            NamespaceOptions {
                metadata: 8,
                ..NamespaceOptions::default()
            },
            NamespaceOptions {
                block_shift: 12,
                nguid: [3; 16],
                eui64: [3; 8],
                uuid: [3; 16],
                ..NamespaceOptions::default()
            },
        ],
        ..ModelOptions::default()
    });
    let mut rig = Rig::new(&model, settings(16), 1);
    let third = rig.find(Selector::Nguid([3; 16])).unwrap();
    assert_eq!(third.geometry.namespace, NamespaceId(3));
    assert_eq!(third.geometry.block_shift, 12);
    assert!(rig.find(Selector::Id(NamespaceId(2))).is_err(), "metadata");
    rig.find(Selector::Id(NamespaceId(9))).unwrap_err();
    assert!(
        rig.find(Selector::Id(NamespaceId(3))).is_err(),
        "it is served"
    );
    drop(third);
    rig.close().unwrap();
}
