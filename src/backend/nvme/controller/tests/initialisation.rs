//! Init: what becomes of it in every state of a controller, and of one that lies.

use std::sync::Arc;
use std::time::Duration;

use super::bed::Bed;
use crate::backend::nvme::bar::Bar;
use crate::backend::nvme::controller::{Controller, ControllerError};
use crate::backend::nvme::facts::{DeallocateLimits, Limits, Settings, State};
use crate::backend::nvme::link::channel;
use crate::backend::nvme::model::faults::{Action, Lie, Match};
use crate::backend::nvme::model::{Model, ModelOptions};
use crate::backend::nvme::spec::command::admin;
use crate::backend::nvme::spec::identify::ControllerType;
use crate::backend::nvme::spec::registers::Version;
use crate::backend::nvme::spec::status::Status;

fn lie(offset: usize, bytes: &[u8]) -> Lie {
    Lie {
        page: 1,
        nsid: None,
        offset,
        bytes: bytes.to_vec(),
    }
}

#[test]
fn a_plain_controller_becomes_ready_and_says_what_it_can() {
    let mut bed = Bed::ready(ModelOptions::default());
    assert_eq!(bed.controller.state(), State::Ready);
    let deallocate = DeallocateLimits {
        ranges: 256,
        range_blocks: u32::MAX,
        blocks: u64::MAX,
    };
    let limits = Limits {
        queue_entries: 256,
        queue_pairs: 4,
        transfer_bytes: 1 << 20,
        write_zeroes_bytes: Some(1 << 20),
        deallocate: Some(deallocate),
        write_cache: true,
    };
    assert_eq!(bed.limits(), limits);
    let report = bed.report().unwrap();
    assert_eq!(report.controller.serial, "MODEL0001");
    assert_eq!(report.namespaces.len(), 1);
    bed.close();
    assert_eq!(bed.model.counters().shutdowns, 1);
}

#[test]
fn limits_are_the_controllers_where_they_are_smaller() {
    let options = ModelOptions {
        version: Version(0x0002_0000),
        css: 0x41,
        mqes: 31,
        mdts: 3,
        queue_pairs: 2,
        vwc: 0,
        oncs: 0b1100,
        wzsl: 2,
        dmrl: 16,
        dmrsl: 1000,
        dmsl: 4000,
        dstrd: 3,
        crwmt: Some(40),
        ..ModelOptions::default()
    };
    let mut bed = Bed::ready(options);
    let limits = bed.limits();
    assert_eq!((limits.queue_entries, limits.queue_pairs), (32, 2));
    assert_eq!(limits.transfer_bytes, 32 << 10);
    assert_eq!(limits.write_zeroes_bytes, Some(16 << 10));
    let deallocate = limits.deallocate.unwrap();
    assert_eq!((deallocate.ranges, deallocate.range_blocks), (16, 1000));
    assert_eq!(deallocate.blocks, 4000);
    assert!(!limits.write_cache);
    bed.close();
}

#[test]
fn what_cannot_be_served_is_refused_by_name() {
    let with = |change: &dyn Fn(&mut ModelOptions)| {
        let mut options = ModelOptions::default();
        change(&mut options);
        Bed::new(options).failure()
    };
    let short = with(&|options| options.bar_bytes = Some(0x1000 + 12));
    assert_eq!(short, ControllerError::ShortBar(0x100c));
    let mqes = with(&|options| options.mqes = 0);
    assert_eq!(mqes, ControllerError::QueueEntries(1));
    let pages = with(&|options| (options.mpsmin, options.mpsmax) = (2, 4));
    assert_eq!(pages, ControllerError::PageSize(16_384));
    let set = with(&|options| options.css = 0x80);
    assert_eq!(set, ControllerError::NoCommandSet);
    let kind = with(&|options| options.cntrltype = 3);
    assert_eq!(kind, ControllerError::Kind(ControllerType::Administrative));
    let mut bed = Bed::new(ModelOptions::default());
    bed.model
        .faults(|plan| plan.identify.push(lie(512, &[0x77])));
    assert_eq!(bed.failure(), ControllerError::EntrySizes(7, 4));
}

#[test]
fn a_bar_of_few_doorbells_has_few_queues() {
    let options = ModelOptions {
        bar_bytes: Some(0x1000 + 8 * 3),
        ..ModelOptions::default()
    };
    let mut bed = Bed::ready(options);
    assert_eq!(bed.limits().queue_pairs, 2);
    bed.close();
}

#[test]
fn registers_that_never_change_are_not_waited_for_for_ever() {
    let mut bed = Bed::new(ModelOptions::default());
    bed.model.faults(|plan| plan.never_ready = true);
    let began = bed.now;
    let timeout = Duration::from_secs(10);
    assert_eq!(bed.failure(), ControllerError::NeverReady(timeout));
    assert!(bed.now - began < Duration::from_secs(60));
    assert_eq!(bed.controller.state(), State::Failed);

    let mut bed = Bed::new(ModelOptions::default());
    bed.model.faults(|plan| plan.ready_late = 5000);
    bed.until("ready", |bed| bed.controller.limits().is_some());
    bed.close();

    let mut bed = Bed::new(ModelOptions::default());
    bed.turn();
    bed.model.fail();
    assert_eq!(bed.failure(), ControllerError::Fatal);
}

/// Admin commands that no init can do without.
const COMMANDS: &[(u8, &str)] = &[
    (admin::IDENTIFY, "Identify"),
    (admin::SET_FEATURES, "Set Features"),
];

#[test]
fn every_command_of_an_init_may_fail_be_lost_or_be_the_last() {
    for &(opcode, name) in COMMANDS {
        let on = || Match::admin(opcode);
        let with = |action| {
            let mut bed = Bed::new(ModelOptions::default());
            bed.model.faults(|plan| plan.once(on(), action));
            bed.failure()
        };
        let refused = with(Action::Status(Status::INTERNAL));
        assert!(
            matches!(refused, ControllerError::Refused { what, status }
                if what.starts_with(name) && status.is(Status::INTERNAL)),
            "{refused:?}"
        );
        let after = Duration::from_secs(10);
        assert_eq!(
            with(Action::Drop),
            ControllerError::Late { what: name, after }
        );
        assert_eq!(with(Action::Fatal), ControllerError::Fatal);
        assert_eq!(with(Action::Remove), ControllerError::Gone);
        for action in [Action::WrongCid(9), Action::WrongQueue(3)] {
            let error = with(action);
            assert!(matches!(error, ControllerError::Breach(_)), "{error:?}");
        }
    }
}

#[test]
fn a_controller_that_says_nothing_true_of_its_head_is_ready() {
    for head in [32, u16::MAX] {
        let mut bed = Bed::new(ModelOptions::default());
        bed.model.faults(|plan| {
            let any = Match {
                admin: Some(true),
                ..Match::default()
            };
            plan.always(any, Action::WrongHead(head));
        });
        bed.until("ready", |bed| bed.controller.limits().is_some());
        bed.pass(Duration::from_secs(200));
        assert_eq!(bed.controller.state(), State::Ready);
        assert_eq!(bed.model.counters().disabled, 0);
        bed.close();
    }
}

#[test]
fn a_controller_that_is_given_up_is_told() {
    let identify = || Match::admin(admin::IDENTIFY);
    for action in [Action::Status(Status::INTERNAL), Action::Drop] {
        let mut bed = Bed::new(ModelOptions::default());
        bed.model.faults(|plan| plan.once(identify(), action));
        bed.failure();
        assert_eq!(bed.model.counters().shutdowns, 1, "{action:?}");
    }
    // One that was never enabled has nothing to shut down, and one that has failed hears nothing.
    let mut bed = Bed::new(ModelOptions {
        mqes: 0,
        ..ModelOptions::default()
    });
    bed.failure();
    assert_eq!(bed.model.counters().shutdowns, 0);
    let mut bed = Bed::new(ModelOptions::default());
    bed.until("an Identify", |bed| {
        bed.model.counters().admin.contains_key(&admin::IDENTIFY)
    });
    bed.close();
    assert_eq!(bed.model.counters().shutdowns, 1, "closed half way");
}

#[test]
fn what_an_init_can_do_without_it_does_without() {
    let options = || ModelOptions {
        version: Version(0x0002_0000),
        css: 0x41,
        crdt: [1, 2, 3],
        oacs_dbbuf: true,
        ..ModelOptions::default()
    };
    // Identify of the NVM command set, of the active list and of descriptors; features of events
    // and of retries; shadow doorbells; the health log.
    let refused = Action::Status(Status::INVALID_FIELD);
    for (on, skip) in [
        (Match::admin(admin::IDENTIFY), 1),
        (Match::admin(admin::IDENTIFY), 2),
        (Match::admin(admin::IDENTIFY), 3),
        (Match::admin(admin::IDENTIFY), 4),
        (Match::admin(admin::SET_FEATURES), 0),
        (Match::admin(admin::SET_FEATURES), 2),
        (Match::admin(admin::DOORBELL_BUFFER_CONFIG), 0),
        (Match::admin(admin::LOG_PAGE), 0),
        (Match::admin(admin::ASYNCHRONOUS_EVENT), 0),
    ] {
        let mut bed = Bed::new(options());
        bed.model.faults(|plan| plan.nth(on.clone(), skip, refused));
        bed.until("ready", |bed| bed.controller.limits().is_some());
        bed.pass(Duration::from_secs(1));
        assert_eq!(bed.controller.state(), State::Ready, "{on:?} {skip}");
        bed.close();
    }
}

#[test]
fn a_controller_may_go_at_any_step() {
    let mut survived = false;
    for step in 1..2000 {
        let mut bed = Bed::new(ModelOptions::default());
        bed.model.faults(|plan| plan.remove_at = Some(step));
        bed.until("ready or not", |bed| {
            bed.controller.limits().is_some() || bed.controller.ended().is_some()
        });
        match bed.controller.ended() {
            Some(ended) => assert_eq!(ended, &Err(ControllerError::Gone), "step {step}"),
            None => {
                survived = true;
                break;
            }
        }
    }
    assert!(survived, "an init is shorter than that");
}

#[test]
fn a_controller_that_was_left_enabled_is_disabled_first() {
    for seed in 0..8 {
        let options = ModelOptions {
            seed,
            ..ModelOptions::default()
        };
        let mut bed = Bed::new(options);
        // As another driver has left it, or is about to: enabled, ready or not yet.
        let bar = bed.model.bar();
        bar.w32(0x24, 0x000f_000f);
        bar.w64(0x28, 0x1000);
        bar.w64(0x30, 0x2000);
        bar.w32(0x14, 0x0046_0001);
        bed.model.step(usize::try_from(seed).unwrap());
        bed.until("ready", |bed| bed.controller.limits().is_some());
        assert_eq!(bed.model.counters().disabled, 1);
        bed.close();
    }
}

#[test]
fn closing_ends_an_init_at_any_step() {
    for turns in 0..400 {
        let mut bed = Bed::new(ModelOptions::default());
        for _ in 0..turns {
            bed.turn();
        }
        bed.close();
        if bed.controller.limits().is_some() {
            return;
        }
    }
    panic!("an init is shorter than that");
}

#[test]
fn shadow_doorbells_are_used_where_there_are_some() {
    // By the letter those of the admin queue are, too; not all controllers look at them.
    for dbbuf_admin in [false, true] {
        let options = ModelOptions {
            oacs_dbbuf: true,
            dbbuf_admin,
            ..ModelOptions::default()
        };
        let mut bed = Bed::ready(options);
        let configured = bed.model.counters().admin;
        assert_eq!(configured.get(&admin::DOORBELL_BUFFER_CONFIG), Some(&1));
        bed.pass(Duration::from_secs(1));
        bed.close();
    }
}

#[test]
fn a_shutdown_that_is_never_complete_is_bounded() {
    let mut bed = Bed::ready(ModelOptions::default());
    bed.model.faults(|plan| plan.stuck_shutdown = true);
    let began = bed.now;
    bed.close();
    assert!(bed.now - began < Duration::from_secs(5), "RTD3E is 1 s");
    assert_eq!(bed.model.mappings(), 0);
}

#[test]
fn a_controller_without_memory_is_refused() {
    let model = Model::new(ModelOptions::default());
    model.faults(|plan| plan.map_fails = true);
    let (_notes, heard) = channel();
    let made = Controller::new(
        "model",
        (model.bar(), model.space()),
        Settings::default(),
        Arc::default(),
        heard,
    );
    made.unwrap_err();
}

#[test]
fn the_start_ends_in_time_whatever_the_controller_says() {
    let mut bed = Bed::new(ModelOptions {
        crwmt: Some(u16::MAX),
        cap_to: u8::MAX,
        ..ModelOptions::default()
    });
    bed.model.faults(|plan| plan.never_ready = true);
    let began = bed.now;
    let allowed = Duration::from_secs(80);
    assert_eq!(bed.failure(), ControllerError::Overdue(allowed));
    let took = bed.now - began;
    assert!(
        took >= allowed && took < allowed + Duration::from_secs(6),
        "{took:?}"
    );
}
