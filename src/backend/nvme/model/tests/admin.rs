//! Registers and admin commands, as a driver meets them.

use super::harness::{CC, CSTS, ENABLED, Pair, Words, broken, plain};
use crate::backend::nvme::bar::{Bar, Presence};
use crate::backend::nvme::dma::DmaPages;
use crate::backend::nvme::model::events::Happening;
use crate::backend::nvme::model::faults::Lie;
use crate::backend::nvme::model::{Model, ModelOptions, NamespaceOptions, Rule};
use crate::backend::nvme::spec::entry::NamespaceId;
use crate::backend::nvme::spec::identify::{
    self, ControllerData, Identifiers, NamespaceData, NvmControllerData,
};
use crate::backend::nvme::spec::log::{Event, EventKind, Health};
use crate::backend::nvme::spec::registers::{Capabilities, Version};
use crate::mem::Pages;

const NOTICE: Happening = Happening {
    kind: 2,
    information: 0,
    log_page: 4,
};

/// Identify into the data: its status.
fn identify(pair: &mut Pair, model: &Model, cns: u32, nsid: u32) -> u16 {
    let words = Words::new(6, 9, nsid).with(10, cns);
    let data = pair.data();
    pair.run(model, words.prps(data, 0))
}

fn page(pair: &Pair) -> identify::Page {
    pair.read_data(4096).try_into().unwrap()
}

#[test]
fn registers_say_what_the_options_say() {
    let model = Model::new(ModelOptions {
        mqes: 63,
        dstrd: 2,
        cap_to: 3,
        crwmt: Some(5),
        css: 0x41,
        ..ModelOptions::default()
    });
    let bar = model.bar();
    let cap = Capabilities(bar.r64(0));
    assert_eq!((cap.queue_entries_max(), cap.doorbell_stride()), (64, 16));
    assert_eq!(cap.ready_timeout().as_millis(), 1500);
    assert!(cap.contiguous_queues() && cap.ready_with_media());
    assert!(cap.nvm_command_set() && cap.command_sets() && !cap.admin_only());
    assert_eq!((cap.page_shift_min(), cap.page_shift_max()), (12, 16));
    assert_eq!((bar.r32(8), bar.r32(0x68)), (0x0001_0400, 5));
    assert_eq!((bar.r32(CC), bar.r32(CSTS), bar.len()), (0, 0, 8192));
}

#[test]
fn ready_follows_enable_and_disable_in_its_own_time() {
    let model = plain();
    let mut pair = Pair::admin_disabled(&model);
    pair.bar.w32(CC, ENABLED);
    assert_eq!(pair.bar.r32(CSTS), 0);
    model.settle();
    assert_eq!(pair.bar.r32(CSTS), 1);
    assert_eq!(identify(&mut pair, &model, 1, 0), 0);
    pair.bar.w32(CC, ENABLED - 1);
    assert_eq!(pair.bar.r32(CSTS), 1);
    model.settle();
    assert_eq!(pair.bar.r32(CSTS), 0);
    pair.enable(&model);
    assert_eq!(identify(&mut pair, &model, 1, 0), 0);
    let counters = model.counters();
    assert_eq!((counters.enabled, counters.disabled), (2, 1));
}

#[test]
fn the_drivers_parsers_read_what_identify_returns() {
    let model = Model::new(ModelOptions {
        version: Version::V2_0,
        mdts: 5,
        awupf: 3,
        oacs_dbbuf: true,
        wzsl: 4,
        dmrl: 8,
        dmrsl: 1000,
        dmsl: 5000,
        namespaces: vec![
            NamespaceOptions::default(),
            NamespaceOptions {
                active: false,
                ..NamespaceOptions::default()
            },
            NamespaceOptions {
                blocks: 77,
                block_shift: 12,
                format: 17,
                nsfeat: 2,
                nawupf: 15,
                noiob: 64,
                nguid: [5; 16],
                ..NamespaceOptions::default()
            },
        ],
        ..ModelOptions::default()
    });
    let mut pair = Pair::admin(&model);
    assert_eq!(identify(&mut pair, &model, 1, 0), 0);
    let controller = ControllerData::parse(&page(&pair));
    assert_eq!(controller.transfer_bytes_max(12), Some(128 << 10));
    assert_eq!(
        (&*controller.serial, controller.namespaces_max),
        ("MODEL0001", 3)
    );
    assert!(controller.shadow_doorbells && controller.write_cache && controller.deallocate);
    assert_eq!(controller.atomic_power_fail_blocks, 4);
    assert_eq!((controller.aborts_max, controller.events_max), (4, 4));
    assert_eq!(identify(&mut pair, &model, 2, 0), 0);
    let active: Vec<_> = identify::namespaces(&page(&pair)).collect();
    assert_eq!(active, [NamespaceId(1), NamespaceId(3)]);
    assert_eq!(identify(&mut pair, &model, 0, 3), 0);
    let namespace = NamespaceData::parse(&page(&pair));
    assert_eq!((namespace.blocks, namespace.format.block_shift), (77, 12));
    assert_eq!(namespace.format.metadata_bytes, 0);
    assert!(namespace.own_atomics && namespace.deallocated_reads_zeroes);
    assert_eq!(
        (namespace.atomic_power_fail, namespace.optimal_boundary),
        (15, 64)
    );
    assert_eq!(identify(&mut pair, &model, 3, 3), 0);
    let identifiers = Identifiers::parse(&page(&pair));
    assert_eq!(identifiers.nguid, Some([5; 16]));
    assert_eq!(
        (identifiers.uuid.unwrap()[0], identifiers.command_set),
        (b'a', Some(0))
    );
    assert_eq!(identify(&mut pair, &model, 6, 0), 0);
    let limits = NvmControllerData::parse(&page(&pair));
    assert_eq!(limits.write_zeroes_pages_shift, Some(4));
    assert_eq!(
        (limits.ranges_max, limits.range_blocks_max),
        (Some(8), Some(1000))
    );
    // One that is not active is there and empty; none is an error.
    assert_eq!(identify(&mut pair, &model, 0, 2), 0);
    assert_eq!(NamespaceData::parse(&page(&pair)).blocks, 0);
    assert_eq!(identify(&mut pair, &model, 0, 4), 0x400b);
    assert_eq!(identify(&mut pair, &model, 0x99, 0), 0x4002);
    model.faults(|plan| {
        plan.identify.push(Lie {
            page: 1,
            nsid: None,
            offset: 4,
            bytes: b"LIE".to_vec(),
        });
    });
    assert_eq!(identify(&mut pair, &model, 1, 0), 0);
    assert_eq!(ControllerData::parse(&page(&pair)).serial, "LIEEL0001");
}

#[test]
fn an_old_controller_does_not_know_the_newer_structures() {
    let model = Model::new(ModelOptions {
        version: Version(0x0001_0000),
        ..ModelOptions::default()
    });
    let mut pair = Pair::admin(&model);
    assert_eq!(identify(&mut pair, &model, 0, 1), 0);
    for cns in [2, 3, 5, 6] {
        assert_ne!(identify(&mut pair, &model, cns, 1), 0, "CNS {cns}");
    }
}

#[test]
fn queues_are_granted_created_used_and_deleted() {
    let model = plain();
    let mut admin = Pair::admin(&model);
    assert_eq!(admin.ask_for(&model, 9), 0x0003_0003);
    let mut pair = Pair::created(&model, &mut admin, 4);
    assert_eq!(pair.run(&model, Words::new(0, 1, 1)), 0);
    // Commands that are outstanding end with their queue, one way or the other.
    pair.submit(Words::new(0, 2, 1));
    assert_eq!(model.step(1), 1);
    assert_eq!(admin.run(&model, Words::new(0, 3, 0).with(10, 4)), 0);
    assert_eq!(pair.peek().unwrap().id().0, 2);
    assert_eq!(admin.run(&model, Words::new(4, 3, 0).with(10, 4)), 0);
    let counters = model.counters();
    assert_eq!((counters.queues_created, counters.queues_deleted), (2, 2));
    assert_eq!(
        admin.ask_for(&model, 2),
        0x0001_0001,
        "there are none again"
    );
    model.faults(|plan| plan.grant_queues = Some(0x0000_0007));
    assert_eq!(admin.ask_for(&model, 8), 7);
}

#[test]
fn events_come_once_until_their_page_is_read() {
    let model = plain();
    let mut pair = Pair::admin(&model);
    let configure = Words::new(9, 1, 0).with(10, 0x0b).with(11, 0x11f);
    assert_eq!(pair.run(&model, configure), 0);
    pair.submit(Words::new(0x0c, 100, 0));
    pair.submit(Words::new(0x0c, 101, 0));
    model.settle();
    assert!(pair.reap().is_none());
    model.change_namespace(NamespaceId(1), |namespace| namespace.blocks = 99);
    model.happen(NOTICE, 3);
    model.settle();
    let event = pair.reap().unwrap();
    assert!([100, 101].contains(&event.id().0));
    let event = Event::parse(event.result());
    assert_eq!(
        (event.kind, event.log_page),
        (EventKind::NamespaceChanged, 4)
    );
    assert!(pair.reap().is_none(), "masked");
    let data = pair.data();
    let log = Words::new(2, 5, u32::MAX).with(10, 1023 << 16 | 4);
    assert_eq!(pair.run(&model, log.prps(data, 0)), 0);
    let changed: Vec<_> = identify::namespaces(&page(&pair)).collect();
    assert_eq!(changed, [NamespaceId(1)]);
    model.settle();
    assert!(pair.reap().is_some(), "the next");
    model.change_health(|log| log[0] = 8);
    pair.submit(Words::new(0x0c, 102, 0));
    model.settle();
    let event = Event::parse(pair.reap().unwrap().result());
    assert_eq!((event.kind, event.log_page), (EventKind::Health(0), 2));
    let log = Words::new(2, 5, u32::MAX).with(10, 127 << 16 | 2);
    assert_eq!(pair.run(&model, log.prps(data, 0)), 0);
    let health = Health::parse(&pair.read_data(512).try_into().unwrap());
    assert!(health.warnings.read_only());
    assert_eq!((health.kelvin, health.spare), (300, 100));
}

#[test]
fn aborts_end_what_they_name() {
    let model = plain();
    let mut admin = Pair::admin(&model);
    admin.ask_for(&model, 1);
    let mut pair = Pair::created(&model, &mut admin, 1);
    let abort = |admin: &mut Pair, cid: u32| {
        admin.submit(Words::new(8, 7, 0).with(10, cid << 16 | 1));
        model.settle();
        admin.reap().unwrap().result()
    };
    model.faults(|plan| {
        use crate::backend::nvme::model::faults::{Action, Match};
        plan.once(Match::io(0), Action::Drop);
    });
    pair.submit(Words::new(0, 33, 1));
    model.settle();
    assert!(pair.peek().is_none() && model.is_idle());
    assert_eq!(abort(&mut admin, 33), 0);
    assert_eq!(pair.reap().unwrap().status().field(), 7);
    assert_eq!(abort(&mut admin, 33), 1, "there is none");
    model.faults(|plan| plan.abort_answers = Some(true));
    assert_eq!(abort(&mut admin, 33), 0, "so it says");
}

#[test]
fn a_shutdown_flushes_and_is_told() {
    let model = plain();
    let mut admin = Pair::admin(&model);
    admin.ask_for(&model, 1);
    let mut pair = Pair::created(&model, &mut admin, 1);
    let data = pair.data();
    pair.fill(512, 1);
    let write = Words::new(1, 1, 1).blocks(0, 1).prps(data, 0);
    assert_eq!(pair.run(&model, write), 0);
    assert_eq!(admin.run(&model, Words::new(0, 3, 0).with(10, 1)), 0);
    assert_eq!(admin.run(&model, Words::new(4, 3, 0).with(10, 1)), 0);
    admin.bar.w32(CC, ENABLED | 1 << 14);
    assert_eq!(admin.bar.r32(CSTS), 1 | 1 << 2);
    model.settle();
    assert_eq!(admin.bar.r32(CSTS), 1 | 2 << 2);
    assert_eq!(model.durable_block(NamespaceId(1), 0), [1; 512]);
    admin.bar.w32(CC, ENABLED - 1);
    model.settle();
    assert_eq!(admin.bar.r32(CSTS), 0);
    assert_eq!(model.counters().shutdowns, 1);
}

#[test]
fn a_reset_of_the_function_brings_the_defaults() {
    let model = plain();
    let pair = Pair::admin(&model);
    assert_ne!(pair.bar.r64(0x28), 0);
    pair.bar.reset().unwrap();
    assert_eq!((pair.bar.r32(CC), pair.bar.r32(CSTS)), (0, 0));
    assert_eq!(pair.bar.r64(0x28), 0);
    model.faults(|plan| plan.reset_fails = true);
    assert!(pair.bar.reset().is_err());
}

#[test]
fn a_function_leaves_and_comes_back() {
    let model = plain();
    let pair = Pair::admin(&model);
    assert_eq!(pair.bar.presence(), Presence::Here);
    model.want();
    assert_eq!(pair.bar.presence(), Presence::Wanted);
    assert_eq!(pair.bar.r32(CSTS), 1, "still there");
    pair.bar.release();
    assert_eq!(pair.bar.presence(), Presence::Gone);
    assert_eq!(pair.bar.r32(CSTS), u32::MAX);
    pair.bar.reopen().unwrap();
    assert_eq!(pair.bar.presence(), Presence::Here);
    assert_eq!(pair.bar.r32(CC), 0);
    model.remove();
    assert_eq!(
        (pair.bar.presence(), pair.bar.r64(0)),
        (Presence::Gone, u64::MAX)
    );
    pair.bar.w32(CC, ENABLED);
    pair.bar.release();
    assert!(pair.bar.reopen().is_err());
    model.plug();
    pair.bar.reopen().unwrap();
    let mut pair = Pair::admin(&model);
    assert_eq!(identify(&mut pair, &model, 1, 0), 0);
}

#[test]
fn shadow_doorbells_spare_the_registers() {
    let model = Model::new(ModelOptions {
        oacs_dbbuf: true,
        ..ModelOptions::default()
    });
    let mut admin = Pair::admin(&model);
    let shadow = DmaPages::new(&model.space(), 8192, Pages::Normal).unwrap();
    let (doorbells, events) = (
        shadow.iova(0..4096).unwrap(),
        shadow.iova(4096..8192).unwrap(),
    );
    let configure = Words::new(0x7c, 1, 0).prps(doorbells.0, events.0);
    assert_eq!(admin.run(&model, configure), 0);
    admin.ask_for(&model, 1);
    let mut pair = Pair::created(&model, &mut admin, 1);
    let mut shadow = shadow;
    let before = model.counters().doorbells;
    // It sleeps at the event index 0, and looks again before it goes back to sleep.
    pair.put(Words::new(0, 1, 1));
    shadow.write_u32(8, 1);
    model.settle();
    assert_eq!(model.counters().io.get(&0), None);
    pair.ring();
    pair.put(Words::new(0, 2, 1));
    shadow.write_u32(8, 2);
    model.settle();
    assert_eq!(model.counters().io[&0], 2);
    assert_eq!(model.counters().doorbells, before + 1);
    assert_eq!(shadow.read_u32(4096 + 8), 2);
    // The head is found in its shadow too.
    shadow.write_u32(12, 2);
    pair.put(Words::new(0, 3, 1));
    shadow.write_u32(8, 3);
    pair.ring();
    model.settle();
    assert_eq!(model.counters().io[&0], 3);
    shadow.write_u32(8, 8);
    pair.bar.w32(pair.doorbells.0, 3);
    model.settle();
    assert_eq!(broken(&model), [Rule::DoorbellValue], "in the shadow too");
    shadow.write_u32(8, 3);
    shadow.write_u32(12, 7);
    pair.put(Words::new(0, 4, 1));
    shadow.write_u32(8, 4);
    pair.ring();
    model.settle();
    assert_eq!(broken(&model), [Rule::CompletionOverrun]);
}

#[test]
fn without_rules_broken_there_is_no_verdict() {
    let model = plain();
    let mut pair = Pair::admin(&model);
    assert_eq!(identify(&mut pair, &model, 1, 0), 0);
    assert_eq!(broken(&model), []);
}
