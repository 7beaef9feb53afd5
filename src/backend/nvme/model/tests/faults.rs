//! What a fault plan does to commands and registers.

use super::harness::{CC, CSTS, ENABLED, Pair, Words, broken, plain};
use crate::backend::nvme::bar::Bar;
use crate::backend::nvme::dma::DmaPages;
use crate::backend::nvme::model::faults::{Action, Match};
use crate::backend::nvme::model::{Model, ModelOptions};
use crate::backend::nvme::spec::entry::CompletionEntry;
use crate::backend::nvme::spec::status::Status;
use crate::mem::Pages;

const FLUSH: u8 = 0;

/// What comes of a flush with CID 5 that meets with a fault.
fn met(action: Action) -> (Model, Pair, Option<CompletionEntry>) {
    let model = plain();
    let mut pair = Pair::new(&model);
    model.faults(|plan| plan.once(Match::io(FLUSH), action));
    pair.submit(Words::new(FLUSH, 5, 1));
    model.settle();
    let end = pair.reap();
    (model, pair, end)
}

#[test]
fn completions_lie_as_they_are_told_to() {
    let (_, _, end) = met(Action::WrongCid(9));
    assert_eq!(end.unwrap().id().0, 9);
    let (_, _, end) = met(Action::WrongHead(77));
    assert_eq!(end.unwrap().head(), 77);
    let (_, _, end) = met(Action::WrongQueue(3));
    assert_eq!(end.unwrap().queue().0, 3);
    let (_, _, end) = met(Action::Result(4));
    assert_eq!(end.unwrap().result(), 4);
    let (model, _, end) = met(Action::Status(Status::UNRECOVERED_READ));
    assert!(end.unwrap().status().is(Status::UNRECOVERED_READ));
    assert_eq!(model.counters().io.get(&FLUSH), None, "not carried out");
    let (_, mut pair, end) = met(Action::Duplicate);
    assert_eq!(pair.reap().unwrap().id(), end.unwrap().id());
    let (model, _, end) = met(Action::StalePhase);
    assert!(end.is_none() && model.is_idle());
    let (model, _, end) = met(Action::Drop);
    assert!(end.is_none() && model.is_idle());
}

#[test]
fn late_is_so_many_steps_late() {
    let model = plain();
    let mut pair = Pair::new(&model);
    for action in [Action::Delay(1000), Action::CompleteLate(1000)] {
        let done = model.counters().io.get(&FLUSH).copied().unwrap_or(0);
        model.faults(|plan| plan.once(Match::any_io(), action));
        pair.submit(Words::new(FLUSH, 5, 1));
        model.step(900);
        assert!(pair.peek().is_none() && !model.is_idle());
        let carried_out = model.counters().io.get(&FLUSH).copied().unwrap_or(0);
        assert_eq!(carried_out > done, action == Action::CompleteLate(1000));
        model.step(200);
        assert!(pair.reap().is_some());
    }
}

#[test]
fn a_fatal_controller_does_nothing_more() {
    let (model, mut pair, end) = met(Action::Fatal);
    assert!(end.is_none());
    assert_eq!(pair.bar.r32(CSTS), 3);
    pair.submit(Words::new(FLUSH, 6, 1));
    model.settle();
    assert!(pair.reap().is_none());
    pair.bar.w32(CC, ENABLED - 1);
    model.settle();
    assert_eq!(pair.bar.r32(CSTS), 0);
}

#[test]
fn a_removal_strikes_where_it_is_wanted() {
    let (_, pair, end) = met(Action::Remove);
    assert!(end.is_none());
    assert_eq!(pair.bar.r32(CSTS), u32::MAX);
    let model = plain();
    let mut pair = Pair::new(&model);
    model.faults(|plan| plan.remove_at = Some(2));
    pair.submit(Words::new(FLUSH, 6, 1));
    assert_eq!(model.step(1), 1);
    assert_eq!(pair.bar.r32(CSTS), 1);
    model.step(1);
    assert_eq!(pair.bar.r32(CSTS), u32::MAX);
    assert_eq!(model.in_flight(), 0);
}

#[test]
fn ready_may_be_late_or_never() {
    let model = plain();
    model.faults(|plan| plan.never_ready = true);
    let pair = Pair::admin_disabled(&model);
    pair.bar.w32(CC, ENABLED);
    model.step(1000);
    assert_eq!(pair.bar.r32(CSTS), 0);
    pair.bar.w32(CC, ENABLED - 1);
    assert_eq!(broken(&model), [], "there is nothing to wait for");
    model.faults(|plan| {
        plan.clear();
        plan.ready_late = 500;
    });
    pair.bar.w32(CC, ENABLED);
    model.step(490);
    assert_eq!(pair.bar.r32(CSTS), 0);
    model.step(20);
    assert_eq!(pair.bar.r32(CSTS), 1);
    model.faults(|plan| plan.never_disabled = true);
    pair.bar.w32(CC, ENABLED - 1);
    model.step(1000);
    assert_eq!(pair.bar.r32(CSTS), 1);
    pair.bar.reset().unwrap();
    assert_eq!(pair.bar.r32(CSTS), 0);
}

#[test]
fn commands_may_be_carried_out_until_the_controller_is_disabled() {
    let wrote = |seed| {
        let model = Model::new(ModelOptions {
            seed,
            ..ModelOptions::default()
        });
        let mut pair = Pair::new(&model);
        let data = pair.data();
        pair.fill(512, 1);
        pair.submit(Words::new(2, 1, 1).blocks(0, 1).prps(data, 0));
        model.step(1);
        pair.bar.w32(CC, ENABLED - 1);
        model.settle();
        assert_eq!((pair.bar.r32(CSTS), model.in_flight()), (0, 0));
        pair.read_data(512) == [0; 512]
    };
    assert!((0..50).any(wrote) && !(0..50).all(wrote));
}

#[test]
fn shutdowns_get_stuck_and_mappings_fail() {
    let model = plain();
    let pair = Pair::admin(&model);
    model.faults(|plan| plan.stuck_shutdown = true);
    pair.bar.w32(CC, ENABLED | 1 << 14);
    model.step(1000);
    assert_eq!(pair.bar.r32(CSTS), 1 | 1 << 2);
    model.faults(|plan| plan.map_fails = true);
    DmaPages::new(&model.space(), 4096, Pages::Normal).unwrap_err();
    model.faults(|plan| plan.map_fails = false);
    let pages = DmaPages::new(&model.space(), 4096, Pages::Normal).unwrap();
    let before = model.mappings();
    model.faults(|plan| plan.unmap_fails = true);
    assert!(pages.revoke().is_err());
    assert_eq!(model.mappings(), before);
    model.faults(|plan| plan.reset_unsupported = true);
    assert!(pair.bar.reset().is_err());
}
