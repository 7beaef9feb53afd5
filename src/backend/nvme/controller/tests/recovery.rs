//! The ladder of resets, removal and return.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::bed::{Bed, Core, Told, until_told};
use crate::backend::nvme::dma::Quiet;
use crate::backend::nvme::facts::{NamespaceState, Selector, State};
use crate::backend::nvme::link::{Breach, Generation, Handle, Note};
use crate::backend::nvme::model::faults::{Action, Lie, Match};
use crate::backend::nvme::model::{ModelBar, ModelOptions, ModelSpace};
use crate::backend::nvme::spec::command::admin;
use crate::backend::nvme::spec::entry::{CommandId, NamespaceId};

const FIRST: Generation = Generation(1);

/// A controller with a core that has a queue pair.
fn opened(options: ModelOptions) -> (Bed, Handle<ModelBar, ModelSpace>, Core) {
    let mut bed = Bed::ready(options);
    let handle = bed.handle();
    let mut core = Core::join(&handle);
    until_told(&mut bed, &mut [&mut core], &Told::Open(FIRST, 1));
    (bed, handle, core)
}

fn open_again(nth: u32) -> Told {
    Told::Open(Generation(nth), 1)
}

fn end((mut bed, handle, mut core): (Bed, Handle<ModelBar, ModelSpace>, Core)) {
    bed.model.faults(|plan| plan.clear());
    core.leave();
    bed.close();
    drop(handle);
    drop(bed.controller);
    assert_eq!(bed.model.mappings(), 0);
}

#[test]
fn a_controller_that_has_failed_is_disabled_and_serves_again() {
    for cause in 0..4 {
        let (mut bed, handle, mut core) = opened(ModelOptions::default());
        match cause {
            0 => bed.model.fail(),
            1 => {
                let breach = Breach::UnknownCommand(7);
                core.end.send(Note::Broken(FIRST, breach)).unwrap();
            }
            2 => core
                .end
                .send(Note::Late {
                    generation: FIRST,
                    id: CommandId(3),
                    again: true,
                    at: bed.now,
                })
                .unwrap(),
            _ => {
                // The next health log is never answered.
                let on = Match::admin(admin::LOG_PAGE);
                bed.model.faults(|plan| plan.once(on, Action::Drop));
            }
        }
        let told = until_told(&mut bed, &mut [&mut core], &open_again(2));
        let way = [Told::Halt, Told::Quiet(Quiet::Disabled), open_again(2)];
        assert_eq!(told, [way], "{cause}");
        assert_eq!(bed.controller.state(), State::Ready);
        assert_eq!(bed.facts.counters.controller_resets.load(Relaxed), 1);
        end((bed, handle, core));
    }
}

#[test]
fn a_controller_that_wants_hours_to_be_ready_has_minutes() {
    // CRTO says 9 h.
    let options = ModelOptions {
        crwmt: Some(u16::MAX),
        ..ModelOptions::default()
    };
    let (mut bed, handle, core) = opened(options);
    bed.model.faults(|plan| plan.never_ready = true);
    let began = bed.now;
    bed.model.fail();
    // Each rung of the ladder waits once.
    for _ in 0..4 {
        bed.pass(Duration::from_secs(110));
        if bed.controller.state() == State::Failed {
            break;
        }
    }
    assert_eq!(bed.controller.state(), State::Failed);
    assert!(bed.now - began > Duration::from_secs(128));
    end((bed, handle, core));
}

#[test]
fn notes_of_a_time_before_the_reset_are_void() {
    let (mut bed, handle, mut core) = opened(ModelOptions::default());
    bed.model.fail();
    until_told(&mut bed, &mut [&mut core], &open_again(2));
    let (generation, id, again) = (FIRST, CommandId(3), true);
    core.end
        .send(Note::Late {
            generation,
            id,
            again,
            at: bed.now,
        })
        .unwrap();
    let breach = Breach::WrongQueue(1);
    core.end.send(Note::Broken(FIRST, breach)).unwrap();
    bed.pass(Duration::from_secs(1));
    assert_eq!(core.told(), []);
    assert_eq!(bed.facts.counters.controller_resets.load(Relaxed), 1);
    end((bed, handle, core));
}

#[test]
fn a_late_command_is_aborted_before_anything_is_reset() {
    let (mut bed, handle, core) = opened(ModelOptions::default());
    for id in 0..10 {
        let note = Note::Late {
            generation: FIRST,
            id: CommandId(id),
            again: false,
            at: bed.now,
        };
        core.end.send(note).unwrap();
    }
    bed.pass(Duration::from_secs(1));
    let aborted = bed.model.counters().admin;
    assert_eq!(aborted.get(&admin::ABORT), Some(&10));
    assert_eq!(bed.facts.counters.aborts.load(Relaxed), 10);
    assert_eq!(bed.facts.counters.timeouts.load(Relaxed), 10);
    assert_eq!(bed.controller.state(), State::Ready);
    end((bed, handle, core));
}

#[test]
fn a_command_is_not_aborted_by_an_identifier_that_may_be_anothers() {
    let (mut bed, handle, core) = opened(ModelOptions::default());
    for id in 0..10 {
        let note = Note::Late {
            generation: FIRST,
            id: CommandId(id),
            again: false,
            at: bed.now,
        };
        core.end.send(note).unwrap();
    }
    // The controller takes four at once, and these take longer than an identifier rests.
    bed.controller.poll(bed.now);
    bed.now += Duration::from_millis(600);
    bed.pass(Duration::from_secs(1));
    let aborted = bed.model.counters().admin;
    assert_eq!(aborted.get(&admin::ABORT), Some(&4));
    assert_eq!(bed.facts.counters.timeouts.load(Relaxed), 10);
    assert_eq!(bed.controller.state(), State::Ready);
    end((bed, handle, core));
}

#[test]
fn a_controller_that_cannot_be_disabled_has_its_function_reset() {
    let (mut bed, handle, mut core) = opened(ModelOptions::default());
    bed.model.faults(|plan| plan.never_disabled = true);
    bed.model.fail();
    let told = until_told(&mut bed, &mut [&mut core], &open_again(2));
    let way = [Told::Halt, Told::Quiet(Quiet::FunctionReset), open_again(2)];
    assert_eq!(told, [way]);
    assert_eq!(bed.facts.counters.function_resets.load(Relaxed), 1);
    end((bed, handle, core));
}

/// Nothing stops it: it is let go, and the kernel resets it.
const LET_GO: [Told; 3] = [
    Told::Halt,
    Told::Quiet(Quiet::Unreachable),
    Told::Open(Generation(2), 1),
];

#[test]
fn a_function_that_cannot_be_reset_is_let_go_and_opened_again() {
    for unsupported in [false, true] {
        let (mut bed, handle, mut core) = opened(ModelOptions::default());
        bed.model.faults(|plan| {
            plan.never_disabled = true;
            plan.reset_unsupported = unsupported;
            plan.reset_fails = !unsupported;
        });
        bed.model.fail();
        let told = until_told(&mut bed, &mut [&mut core], &open_again(2));
        assert_eq!(told, [LET_GO]);
        assert_eq!(bed.facts.counters.function_resets.load(Relaxed), 1);
        assert_eq!(bed.facts.absences(), 0, "it was not away");
        end((bed, handle, core));
    }
}

#[test]
fn an_error_of_the_bus_is_over_when_the_function_was_reset_or_let_go() {
    for unsupported in [false, true] {
        let (mut bed, handle, mut core) = opened(ModelOptions::default());
        bed.model
            .faults(|plan| plan.reset_unsupported = unsupported);
        bed.model.fail_bus();
        let began = bed.now;
        until_told(&mut bed, &mut [&mut core], &open_again(2));
        assert!(bed.now - began < Duration::from_secs(5));
        assert_eq!(bed.controller.state(), State::Ready);
        bed.pass(Duration::from_secs(60));
        assert_eq!(core.told(), []);
        end((bed, handle, core));
    }
}

#[test]
fn no_ladder_ends_without_a_proof() {
    let (mut bed, handle, mut core) = opened(ModelOptions::default());
    bed.model.faults(|plan| {
        plan.never_disabled = true;
        plan.reset_fails = true;
        plan.reopen_fails = true;
    });
    bed.model.fail();
    let told = until_told(&mut bed, &mut [&mut core], &Told::Fail);
    let [halt, quiet, _] = LET_GO;
    assert_eq!(told, [[halt, quiet, Told::Fail]]);
    bed.state(State::Failed);
    let refused = bed.find(Selector::Only).unwrap_err();
    assert!(refused.0.contains("has failed"), "{refused}");
    // More ladders say nothing new.
    bed.pass(Duration::from_secs(100));
    assert_eq!(core.told(), []);
    assert_eq!(bed.controller.state(), State::Failed);
    assert_eq!(bed.facts.counters.function_resets.load(Relaxed), 0);
    assert!(bed.facts.absences() > 0, "it may be another one then");
    let mut late = Core::join(&handle);
    bed.turn();
    assert_eq!(late.told(), [Told::Fail], "who comes now need not wait");
    bed.model.faults(|plan| plan.reopen_fails = false);
    until_told(&mut bed, &mut [&mut late], &Told::Open(Generation(2), 2));
    assert_eq!(core.told(), [open_again(2)]);
    bed.state(State::Ready);
    late.leave();
    end((bed, handle, core));
}

#[test]
fn what_breaks_down_again_and_again_is_quiet_before_it_is_left_alone() {
    let (mut bed, handle, mut core) = opened(ModelOptions::default());
    // Three recoveries with little service behind them; then nothing stops it.
    for nth in 2..5 {
        bed.model.fail();
        until_told(&mut bed, &mut [&mut core], &open_again(nth));
    }
    bed.model.faults(|plan| plan.never_disabled = true);
    bed.model.fail();
    let told = until_told(&mut bed, &mut [&mut core], &Told::Fail);
    let [halt, quiet, _] = LET_GO;
    assert_eq!(told, [[halt, quiet, Told::Fail]]);
    bed.state(State::Failed);
    assert_eq!(bed.facts.counters.function_resets.load(Relaxed), 0);
    until_told(&mut bed, &mut [&mut core], &open_again(5));
    end((bed, handle, core));
}

#[test]
fn an_absence_is_counted_whatever_comes_behind_it() {
    let (mut bed, handle, mut core) = opened(ModelOptions::default());
    assert_eq!(bed.facts.absences(), 0);
    bed.model.remove();
    until_told(&mut bed, &mut [&mut core], &Told::Fail);
    assert_eq!((bed.facts.absences(), bed.facts.state()), (1, State::Gone));
    // It is back, and does not become ready at first.
    bed.model.faults(|plan| plan.never_ready = true);
    bed.model.plug();
    bed.state(State::Failed);
    bed.model.faults(|plan| plan.clear());
    bed.state(State::Ready);
    assert_eq!(bed.facts.absences(), 1);
    // A reset is no absence.
    bed.model.fail();
    bed.state(State::Recovering);
    bed.state(State::Ready);
    assert_eq!(bed.facts.absences(), 1);
    core.obey();
    end((bed, handle, core));
}

#[test]
fn only_what_was_not_flushed_is_lost_with_the_cache() {
    for (flushed, again) in [(false, false), (true, false), (true, true)] {
        let (mut bed, handle, mut core) = opened(ModelOptions::default());
        let namespace = bed.find(Selector::Only).unwrap();
        namespace.cached();
        if flushed {
            let flush = namespace.begins_flush();
            namespace.flushed(flush);
        }
        if again {
            namespace.cached();
        }
        bed.model.remove();
        until_told(&mut bed, &mut [&mut core], &Told::Fail);
        let lost = !flushed || again;
        assert_eq!(namespace.cache_lost(), lost, "{flushed} {again}");
        bed.model.plug();
        until_told(&mut bed, &mut [&mut core], &open_again(2));
        assert_eq!(namespace.cache_lost(), lost);
        end((bed, handle, core));
    }
}

#[test]
fn what_was_written_before_an_end_in_order_is_not_lost_later() {
    let (mut bed, handle, mut core) = opened(ModelOptions::default());
    let namespace = bed.find(Selector::Only).unwrap();
    namespace.cached();
    bed.model.want();
    until_told(&mut bed, &mut [&mut core], &open_again(2));
    bed.model.remove();
    until_told(&mut bed, &mut [&mut core], &Told::Fail);
    assert!(!namespace.cache_lost(), "nothing was written since");
    bed.model.plug();
    until_told(&mut bed, &mut [&mut core], &open_again(3));
    namespace.cached();
    bed.model.remove();
    until_told(&mut bed, &mut [&mut core], &Told::Fail);
    assert!(namespace.cache_lost());
    bed.model.plug();
    until_told(&mut bed, &mut [&mut core], &open_again(4));
    end((bed, handle, core));
}

#[test]
fn with_a_core_that_does_not_answer_the_cache_may_be_lost() {
    let (mut bed, handle, mut core) = opened(ModelOptions::default());
    let namespace = bed.find(Selector::Only).unwrap();
    core.is_stuck = true;
    bed.model.remove();
    until_told(&mut bed, &mut [&mut core], &Told::Fail);
    assert!(
        namespace.cache_lost(),
        "it may have taken completions since"
    );
    core.is_stuck = false;
    core.end.send(Note::Halted).unwrap();
    bed.model.plug();
    until_told(&mut bed, &mut [&mut core], &open_again(2));
    end((bed, handle, core));
}

#[test]
fn a_core_that_does_not_answer_holds_up_nobody() {
    let (mut bed, handle, mut core) = opened(ModelOptions::default());
    let mut other = Core::join(&handle);
    let second = |nth| Told::Open(Generation(nth), 2);
    until_told(&mut bed, &mut [&mut other], &second(1));
    core.is_stuck = true;
    let began = bed.now;
    bed.model.fail();
    until_told(
        &mut bed,
        &mut [&mut core, &mut other],
        &Told::Quiet(Quiet::Disabled),
    );
    let took = bed.now - began;
    assert!(
        took >= Duration::from_secs(5) && took < Duration::from_secs(8),
        "{took:?}"
    );
    until_told(&mut bed, &mut [&mut other], &second(2));
    // Whoever comes does not get its queue, and neither does a later reset give it away.
    let mut late = Core::join(&handle);
    until_told(&mut bed, &mut [&mut late], &Told::Open(Generation(2), 3));
    bed.model.fail();
    until_told(&mut bed, &mut [&mut other], &second(3));
    assert_eq!(core.told(), [], "one Halt is enough");
    core.is_stuck = false;
    core.end.send(Note::Halted).unwrap();
    let told = until_told(&mut bed, &mut [&mut core], &open_again(3));
    assert_eq!(told, [[open_again(3)]]);
    other.leave();
    late.leave();
    end((bed, handle, core));
}

#[test]
fn a_core_that_owes_an_answer_keeps_the_only_queue() {
    let options = ModelOptions {
        queue_pairs: 1,
        ..ModelOptions::default()
    };
    let (mut bed, handle, mut core) = opened(options);
    let mut guest = Core::join(&handle);
    until_told(&mut bed, &mut [&mut guest], &Told::Share(FIRST));
    core.is_stuck = true;
    bed.model.fail();
    until_told(&mut bed, &mut [&mut guest], &Told::Quiet(Quiet::Disabled));
    // The rest goes on: health is read each minute.
    let logs = |bed: &Bed| bed.model.counters().admin.get(&admin::LOG_PAGE).copied();
    bed.state(State::Ready);
    bed.pass(Duration::from_secs(1));
    let before = logs(&bed);
    bed.pass(Duration::from_secs(150));
    assert!(logs(&bed) > before, "{before:?}");
    assert_eq!(guest.told(), []);
    core.leave();
    let told = until_told(&mut bed, &mut [&mut guest], &open_again(2));
    assert_eq!(told, [[open_again(2)]]);
    end((bed, handle, guest));
}

#[test]
fn a_controller_that_is_taken_away_comes_back() {
    for wanted in [false, true] {
        let (mut bed, handle, mut core) = opened(ModelOptions::default());
        let namespace = bed.find(Selector::Only).unwrap();
        if wanted {
            bed.model.want();
        } else {
            bed.model.remove();
        }
        let told = until_told(&mut bed, &mut [&mut core], &Told::Fail);
        let way = [Told::Halt, Told::Quiet(Quiet::Unreachable), Told::Fail];
        assert_eq!(told, [way]);
        if !wanted {
            assert_eq!(bed.controller.state(), State::Gone);
            let refused = bed.find(Selector::Id(namespace.geometry.namespace));
            assert!(refused.unwrap_err().0.contains("taken away"));
            bed.pass(Duration::from_secs(30));
            bed.model.plug();
        }
        until_told(&mut bed, &mut [&mut core], &open_again(2));
        bed.state(State::Ready);
        assert_eq!(namespace.state(), NamespaceState::Active);
        // One that is still there is told before it is let go.
        let goodbyes = if wanted { 1 } else { 0 };
        assert_eq!(bed.model.counters().shutdowns, goodbyes);
        end((bed, handle, core));
    }
}

#[test]
fn a_goodbye_that_is_never_answered_ends_in_time() {
    let (mut bed, handle, mut core) = opened(ModelOptions::default());
    bed.model.faults(|plan| plan.stuck_shutdown = true);
    let began = bed.now;
    bed.model.want();
    until_told(&mut bed, &mut [&mut core], &Told::Fail);
    assert!(bed.now - began < Duration::from_secs(6));
    until_told(&mut bed, &mut [&mut core], &open_again(2));
    end((bed, handle, core));
}

#[test]
fn log_pages_that_are_never_answered_are_not_asked_for_any_more() {
    let (mut bed, handle, mut core) = opened(ModelOptions::default());
    let on = Match::admin(admin::LOG_PAGE);
    bed.model.faults(|plan| plan.always(on, Action::Drop));
    until_told(&mut bed, &mut [&mut core], &open_again(3));
    for _ in 0..30 {
        bed.pass(Duration::from_secs(10));
        assert_eq!(bed.controller.state(), State::Ready);
    }
    assert_eq!(core.told(), []);
    assert_eq!(bed.facts.counters.controller_resets.load(Relaxed), 2);
    end((bed, handle, core));
}

#[test]
fn a_log_page_that_was_late_once_in_a_while_is_read_all_the_same() {
    let (mut bed, handle, mut core) = opened(ModelOptions::default());
    let namespace = bed.find(Selector::Only).unwrap();
    for hang in 0..4 {
        let on = Match::admin(admin::LOG_PAGE);
        bed.model.faults(|plan| plan.once(on, Action::Drop));
        until_told(&mut bed, &mut [&mut core], &open_again(2 + hang));
        // Each is masked until its page was read.
        for blocks in [5000, 6000] {
            let blocks = blocks + u64::from(hang);
            bed.model
                .change_namespace(NamespaceId(1), |it| it.blocks = blocks);
            bed.until("it has grown", |_| namespace.blocks() == blocks);
        }
        bed.pass(Duration::from_secs(90));
    }
    end((bed, handle, core));
}

#[test]
fn cores_share_where_a_reset_leaves_fewer_queue_pairs() {
    let (mut bed, handle, mut core) = opened(ModelOptions::default());
    let mut other = Core::join(&handle);
    until_told(&mut bed, &mut [&mut other], &Told::Open(FIRST, 2));
    bed.model.faults(|plan| plan.grant_queues = Some(0));
    bed.model.fail();
    let shares = Told::Share(Generation(2));
    for _ in 0..10_000 {
        bed.turn();
        core.obey();
        other.obey();
    }
    let told = [core.told(), other.told()].concat();
    assert!(
        told.contains(&open_again(2)) && told.contains(&shares),
        "{told:?}"
    );
    assert_eq!(bed.controller.state(), State::Ready);
    other.leave();
    end((bed, handle, core));
}

#[test]
fn another_controller_in_its_place_is_not_it() {
    let (mut bed, handle, mut core) = opened(ModelOptions::default());
    bed.model.remove();
    bed.state(State::Recovering);
    until_told(&mut bed, &mut [&mut core], &Told::Fail);
    let serial = Lie {
        page: 1,
        nsid: None,
        offset: 4,
        bytes: b"OTHER".to_vec(),
    };
    bed.model.faults(|plan| plan.identify.push(serial));
    bed.model.plug();
    bed.state(State::Failed);
    assert_eq!(core.told(), []);
    // The right one, at last.
    bed.model.remove();
    bed.state(State::Gone);
    bed.model.faults(|plan| plan.clear());
    bed.model.plug();
    // Four times it was initialised as the other one: in its place, disabled, reset, let go.
    until_told(&mut bed, &mut [&mut core], &open_again(6));
    end((bed, handle, core));
}

#[test]
fn a_controller_may_go_at_any_step_of_its_recovery() {
    let mut survived = false;
    for steps in 0..3000 {
        let (mut bed, handle, mut core) = opened(ModelOptions::default());
        bed.model.fail();
        for _ in 0..steps {
            bed.turn();
            core.obey();
        }
        if core.told().contains(&open_again(2)) {
            survived = true;
            end((bed, handle, core));
            break;
        }
        bed.model.remove();
        bed.until("gone", |bed| {
            bed.controller.state() == State::Gone || { false }
        });
        bed.model.plug();
        let mut serves = false;
        for _ in 0..100_000 {
            bed.turn();
            let told = core.told();
            serves |= told.iter().any(|it| matches!(it, Told::Open(..)));
            if serves {
                break;
            }
        }
        assert!(serves, "after {steps} turns");
        end((bed, handle, core));
    }
    assert!(survived, "a recovery is shorter than that");
}

#[test]
fn an_end_with_slow_deletions_is_told_in_time() {
    const CORES: u16 = 16;
    let mut bed = Bed::ready(ModelOptions {
        queue_pairs: CORES,
        ..ModelOptions::default()
    });
    let handle = bed.handle();
    let mut cores: Vec<_> = (0..CORES).map(|_| Core::join(&handle)).collect();
    for (core, queue) in cores.iter_mut().zip(1..) {
        until_told(&mut bed, &mut [core], &Told::Open(FIRST, queue));
    }
    // Some 8 s each, which is in time.
    for opcode in [
        admin::DELETE_SUBMISSION_QUEUE,
        admin::DELETE_COMPLETION_QUEUE,
    ] {
        let slow = Action::Delay(64_000);
        bed.model
            .faults(|plan| plan.always(Match::admin(opcode), slow));
    }
    let began = bed.now;
    bed.close();
    let took = bed.now - began;
    assert!(
        took > Duration::from_secs(25) && took < Duration::from_secs(40),
        "{took:?}"
    );
    assert_eq!(bed.model.counters().shutdowns, 1);
    assert!(bed.model.counters().queues_deleted > 0);
}

#[test]
fn an_end_changes_nothing_of_what_was_configured() {
    let mut bed = Bed::ready(ModelOptions::default());
    // What it says of its command sets was true when it was enabled.
    bed.model.faults(|plan| plan.command_sets = Some(0x41));
    bed.close();
    assert_eq!(bed.model.counters().shutdowns, 1);
    assert_eq!(bed.model.verdict(), []);
}

#[test]
fn closing_ends_a_recovery_and_an_absence() {
    for cause in 0..3 {
        let (mut bed, handle, mut core) = opened(ModelOptions::default());
        match cause {
            0 => bed.model.fail(),
            1 => bed.model.remove(),
            _ => {
                bed.model.faults(|plan| {
                    plan.never_disabled = true;
                    plan.reset_fails = true;
                    plan.reopen_fails = true;
                });
                bed.model.fail();
            }
        }
        until_told(&mut bed, &mut [&mut core], &Told::Halt);
        if cause > 0 {
            until_told(&mut bed, &mut [&mut core], &Told::Fail);
        }
        core.leave();
        let began = bed.now;
        bed.close();
        assert!(bed.now - began < Duration::from_secs(30));
        drop(handle);
    }
}
