//! Events and health.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use super::bed::Bed;
use crate::backend::nvme::facts::{NamespaceState, Selector, State};
use crate::backend::nvme::model::events::Happening;
use crate::backend::nvme::model::faults::{Action, Match};
use crate::backend::nvme::model::{ModelOptions, NamespaceOptions};
use crate::backend::nvme::spec::command::admin;
use crate::backend::nvme::spec::status::Status;

#[test]
fn health_is_read_at_once_and_every_minute() {
    let mut bed = Bed::ready(ModelOptions::default());
    bed.pass(Duration::from_secs(1));
    let read = |bed: &Bed| bed.model.counters().admin[&admin::LOG_PAGE];
    let first = read(&bed);
    assert!(bed.report().unwrap().health.is_some());
    bed.pass(Duration::from_secs(600));
    let more = read(&bed) - first;
    assert!((9..=11).contains(&more), "{more} times in ten minutes");
    bed.close();
}

#[test]
fn a_report_waits_for_the_first_look_at_the_health() {
    let mut bed = Bed::new(ModelOptions::default());
    assert!(bed.report().unwrap().health.is_some());
    bed.close();
    // Where it cannot be read, there is a report without.
    let mut bed = Bed::new(ModelOptions::default());
    bed.model.faults(|plan| {
        let log = Match::admin(admin::LOG_PAGE);
        plan.always(log, Action::Status(Status::INVALID_FIELD));
    });
    assert_eq!(bed.report().unwrap().health, None);
    bed.close();
}

#[test]
fn a_warning_is_heard_and_media_that_are_read_only_protect_their_units() {
    let mut bed = Bed::ready(ModelOptions::default());
    let namespace = bed.find(Selector::Only).unwrap();
    bed.pass(Duration::from_secs(1));
    bed.model.change_health(|log| log[0] = 0b1000);
    let told = namespace.clone();
    bed.until("read only", |_| told.state() == NamespaceState::ReadOnly);
    assert!(bed.report().unwrap().health.unwrap().warnings.read_only());
    assert_eq!(bed.facts.counters.events.load(Relaxed), 1);
    bed.model.change_health(|log| log[0] = 0);
    bed.until("active", |_| namespace.state() == NamespaceState::Active);
    bed.close();
}

#[test]
fn a_storm_of_events_is_listened_to_once_a_second() {
    let mut bed = Bed::ready(ModelOptions::default());
    bed.pass(Duration::from_secs(2));
    let sent = |bed: &Bed| bed.model.counters().admin[&admin::ASYNCHRONOUS_EVENT];
    let before = sent(&bed);
    // Each is masked until the health log is read, and then there is the next.
    let health = Happening {
        kind: 1,
        information: 1,
        log_page: 2,
    };
    bed.model.happen(health, 5000);
    bed.pass(Duration::from_secs(10));
    let more = sent(&bed) - before;
    assert!((8..=20).contains(&more), "{more} requests in 10 s");
    assert_eq!(bed.controller.state(), State::Ready);
    bed.close();
}

#[test]
fn a_log_that_always_says_more_is_read_once_a_second() {
    let mut bed = Bed::ready(ModelOptions::default());
    bed.pass(Duration::from_secs(2));
    let more = Action::Status(Status::from_field(0x2000 | Status::INTERNAL.field()));
    let on = Match::admin(admin::LOG_PAGE);
    bed.model.faults(|plan| plan.always(on, more));
    let error = Happening {
        kind: 0,
        information: 3,
        log_page: 1,
    };
    bed.model.happen(error, 1);
    let fetched = bed.model.counters().fetched;
    bed.pass(Duration::from_secs(10));
    let more = bed.model.counters().fetched - fetched;
    assert!((8..=40).contains(&more), "{more} commands in 10 s");
    assert_eq!(bed.controller.state(), State::Ready);
    bed.model.faults(|plan| plan.clear());
    bed.close();
}

#[test]
fn the_error_log_is_read_when_it_says_more_of_a_command_of_a_core() {
    let mut bed = Bed::ready(ModelOptions::default());
    bed.pass(Duration::from_secs(2));
    let read = |bed: &Bed| bed.model.counters().admin[&admin::LOG_PAGE];
    let before = read(&bed);
    bed.facts.add_failure(Status::INTERNAL, 7);
    bed.pass(Duration::from_secs(1));
    assert_eq!(read(&bed), before, "there is no more to say");
    let more = Status::from_field(0x2000 | Status::INTERNAL.field());
    bed.facts.add_failure(more, 7);
    bed.pass(Duration::from_secs(1));
    assert_eq!(read(&bed), before + 1, "once");
    bed.close();
}

#[test]
fn events_of_every_kind_are_heard_again_and_again() {
    let mut bed = Bed::ready(ModelOptions::default());
    let kinds = [(0, 3, 1), (1, 1, 2), (2, 0, 4), (2, 1, 3), (6, 0, 2)];
    for round in 0..3 {
        for (kind, information, log_page) in kinds {
            let heard = bed.facts.counters.events.load(Relaxed);
            let event = Happening {
                kind,
                information,
                log_page,
            };
            bed.model.happen(event, 1);
            bed.until("it is heard", |bed| {
                bed.facts.counters.events.load(Relaxed) > heard
            });
            bed.pass(Duration::from_millis(500));
        }
        assert_eq!(bed.controller.state(), State::Ready, "{round}");
    }
    bed.close();
}

/// Counts what is logged.
#[derive(Default)]
struct Logged(AtomicUsize);

impl tracing::Subscriber for Logged {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Relaxed);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_controller_that_tells_lies_fills_no_log() {
    let namespaces = vec![NamespaceOptions::default(); 40];
    let mut bed = Bed::ready(ModelOptions {
        namespaces,
        ..ModelOptions::default()
    });
    bed.pass(Duration::from_secs(2));
    bed.model.faults(|plan| {
        let on = Match::admin(admin::IDENTIFY);
        plan.always(on, Action::Status(Status::INTERNAL));
    });
    let logged = Arc::new(Logged::default());
    tracing::subscriber::with_default(Arc::clone(&logged), || {
        for (kind, information, log_page) in [(0, 3, 1), (2, 0, 4), (2, 1, 3), (6, 0, 2)] {
            let event = Happening {
                kind,
                information,
                log_page,
            };
            bed.model.happen(event, 1000);
        }
        bed.pass(Duration::from_secs(10));
    });
    let lines = logged.0.load(Relaxed);
    // Of each second's, eight are of the error log.
    assert!((10..=200).contains(&lines), "{lines} lines in 10 s");
    assert_eq!(bed.controller.state(), State::Ready);
    bed.model.faults(|plan| plan.clear());
    bed.close();
}

#[test]
fn what_failed_just_before_the_end_is_told() {
    let lines = |fails: bool| {
        let mut bed = Bed::ready(ModelOptions::default());
        bed.pass(Duration::from_secs(1));
        bed.facts.add_failure(Status::INTERNAL, 1);
        bed.turn();
        if fails {
            bed.facts.add_failure(Status::INTERNAL, 2);
        }
        let logged = Arc::new(Logged::default());
        tracing::subscriber::with_default(Arc::clone(&logged), || bed.close());
        logged.0.load(Relaxed)
    };
    assert_eq!(lines(true), lines(false) + 1);
}
