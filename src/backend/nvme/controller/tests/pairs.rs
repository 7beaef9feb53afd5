//! Queue pairs: for each core one, or a share of one, and what becomes of them when cores go.

use std::sync::Arc;
use std::time::Duration;

use super::bed::{Bed, Core, Told, until_told};
use crate::backend::nvme::dma::Quiet;
use crate::backend::nvme::facts::State;
use crate::backend::nvme::link::Generation;
use crate::backend::nvme::model::ModelOptions;
use crate::backend::nvme::model::faults::{Action, Match};
use crate::backend::nvme::spec::command::admin;
use crate::backend::nvme::spec::status::Status;

const FIRST: Generation = Generation(1);

fn pairs(queue_pairs: u16) -> ModelOptions {
    ModelOptions {
        queue_pairs,
        ..ModelOptions::default()
    }
}

#[test]
fn each_core_has_a_queue_pair_of_its_own_where_there_are_enough() {
    for (dstrd, dbbuf) in [(0, false), (0, true), (2, true), (4, false)] {
        let options = ModelOptions {
            dstrd,
            oacs_dbbuf: dbbuf,
            ..pairs(4)
        };
        let mut bed = Bed::ready(options);
        let handle = bed.handle();
        let mut cores: Vec<_> = (0..4).map(|_| Core::join(&handle)).collect();
        for (core, queue) in cores.iter_mut().zip(1_u16..) {
            let told = until_told(&mut bed, &mut [core], &Told::Open(FIRST, queue));
            assert_eq!(told, [[Told::Open(FIRST, queue)]]);
            let grant = core.grant.as_ref().unwrap();
            let stride = 4_usize << dstrd;
            let first = 0x1000 + 2 * usize::from(queue) * stride;
            assert_eq!(grant.submission_doorbell, first);
            assert_eq!(grant.completion_doorbell, first + stride);
            assert_eq!(grant.shadow.is_some(), dbbuf);
        }
        assert_eq!(bed.model.counters().queues_created, 8);
        cores.iter_mut().for_each(Core::leave);
        drop(handle);
        bed.until("the end", |bed| bed.controller.ended().is_some());
        assert_eq!(bed.model.counters().queues_deleted, 8);
        drop(cores);
        drop(bed.controller);
        assert_eq!(bed.model.mappings(), 0);
    }
}

#[test]
fn four_cores_share_one_queue_pair() {
    for granted in [None, Some(0)] {
        let mut bed = Bed::new(pairs(if granted.is_none() { 1 } else { 4 }));
        bed.model.faults(|plan| plan.grant_queues = granted);
        bed.until("ready", |bed| bed.controller.limits().is_some());
        let handle = bed.handle();
        let mut cores: Vec<_> = (0..4).map(|_| Core::join(&handle)).collect();
        let [host, guests @ ..] = &mut cores[..] else {
            panic!("four");
        };
        let mut all: Vec<_> = guests.iter_mut().collect();
        until_told(&mut bed, &mut all, &Told::Share(FIRST));
        let told = host.told();
        assert_eq!(told[0], Told::Open(FIRST, 1));
        assert_eq!(told[1..], [Told::Host, Told::Host, Told::Host]);
        for (lane, guest) in host.lanes.iter().zip(&*guests) {
            assert!(Arc::ptr_eq(lane, &guest.lanes[0]));
        }
        cores.iter_mut().for_each(Core::leave);
        bed.model.faults(|plan| plan.clear());
        bed.close();
        drop(handle);
    }
}

#[test]
fn a_controller_that_grants_what_it_has_not_is_shared() {
    let mut bed = Bed::new(pairs(4));
    let refused = Action::Status(Status::INVALID_QUEUE_ID);
    bed.model.faults(|plan| {
        let on = Match::admin(admin::CREATE_COMPLETION_QUEUE);
        plan.nth(on, 1, refused);
        let on = Match::admin(admin::CREATE_SUBMISSION_QUEUE);
        plan.nth(on, 1, refused);
    });
    bed.until("ready", |bed| bed.controller.limits().is_some());
    let handle = bed.handle();
    let mut cores: Vec<_> = (0..2).map(|_| Core::join(&handle)).collect();
    let [host, guest] = &mut cores[..] else {
        panic!("two");
    };
    until_told(&mut bed, &mut [guest], &Told::Share(FIRST));
    assert_eq!(host.told(), [Told::Open(FIRST, 1), Told::Host]);
    assert_eq!(bed.controller.state(), State::Ready);
    cores.iter_mut().for_each(Core::leave);
    bed.model.faults(|plan| plan.clear());
    bed.close();
    drop(handle);
}

#[test]
fn a_controller_that_creates_no_queue_is_reset_and_given_up() {
    let mut bed = Bed::ready(pairs(4));
    let refused = Action::Status(Status::INVALID_QUEUE_SIZE);
    let on = Match::admin(admin::CREATE_COMPLETION_QUEUE);
    bed.model.faults(|plan| plan.always(on, refused));
    let handle = bed.handle();
    let mut core = Core::join(&handle);
    // Each reset works, and then there is no queue again.
    bed.until("resets", |bed| bed.model.counters().disabled >= 2);
    assert_eq!(core.told(), []);
    // That helps for moments only, so that it is left alone for a while.
    let told = until_told(&mut bed, &mut [&mut core], &Told::Fail);
    assert_eq!(told, [[Told::Fail]]);
    assert_eq!(bed.controller.state(), State::Failed);
    let resets = bed.model.counters().disabled;
    assert!(resets <= 4, "{resets}");
    bed.pass(Duration::from_secs(29));
    assert_eq!(bed.model.counters().disabled, resets);
    bed.model.faults(|plan| plan.clear());
    bed.pass(Duration::from_secs(2));
    core.obey();
    assert!(core.grant.is_some());
    core.leave();
    bed.close();
    drop(handle);
}

#[test]
fn a_guest_whose_host_leaves_has_the_queue_pair_then() {
    let mut bed = Bed::ready(pairs(1));
    let handle = bed.handle();
    let (mut host, mut guest) = (Core::join(&handle), Core::join(&handle));
    until_told(&mut bed, &mut [&mut guest], &Told::Share(FIRST));
    host.told();
    host.leave();
    let told = until_told(&mut bed, &mut [&mut guest], &Told::Open(FIRST, 1));
    let way = [
        Told::Halt,
        Told::Quiet(Quiet::QueueDeleted),
        Told::Open(FIRST, 1),
    ];
    assert_eq!(told, [way]);
    assert_eq!(bed.model.counters().disabled, 0, "without a reset");
    assert_eq!(host.told(), [], "nothing more");
    let mut late = Core::join(&handle);
    until_told(&mut bed, &mut [&mut late], &Told::Share(FIRST));
    guest.leave();
    late.leave();
    bed.close();
    drop(handle);
}

#[test]
fn queues_of_a_core_that_has_left_are_anothers() {
    let mut bed = Bed::ready(pairs(2));
    let handle = bed.handle();
    let mut stays = Core::join(&handle);
    let mut cores = vec![];
    until_told(&mut bed, &mut [&mut stays], &Told::Open(FIRST, 1));
    for _ in 0..20 {
        let mut core = Core::join(&handle);
        until_told(&mut bed, &mut [&mut core], &Told::Open(FIRST, 2));
        core.leave();
        cores.push(core);
    }
    stays.leave();
    bed.close();
    drop(handle);
    drop(bed.controller);
    assert_eq!(bed.model.mappings(), 0);
}

#[test]
fn closing_does_not_wait_for_cores_that_stay() {
    let mut bed = Bed::ready(pairs(2));
    let handle = bed.handle();
    let mut core = Core::join(&handle);
    until_told(&mut bed, &mut [&mut core], &Told::Open(FIRST, 1));
    bed.close();
    let told = core.told();
    assert_eq!(told[..2], [Told::Halt, Told::Quiet(Quiet::Disabled)]);
    drop(handle);
}
