//! Namespaces: which are found, which are refused and why, and what changes under way.

use std::sync::Arc;
use std::time::Duration;

use super::bed::Bed;
use crate::backend::nvme::facts::{NamespaceState, Selector};
use crate::backend::nvme::link::ToKeeper;
use crate::backend::nvme::model::faults::{Action, Match};
use crate::backend::nvme::model::{ModelOptions, NamespaceOptions};
use crate::backend::nvme::spec::command::admin;
use crate::backend::nvme::spec::entry::NamespaceId;
use crate::backend::nvme::spec::registers::Version;
use crate::backend::nvme::spec::status::Status;

fn namespaces(all: impl IntoIterator<Item = NamespaceOptions>) -> ModelOptions {
    ModelOptions {
        namespaces: all.into_iter().collect(),
        ..ModelOptions::default()
    }
}

fn plain() -> NamespaceOptions {
    NamespaceOptions::default()
}

#[test]
fn a_namespace_is_found_by_each_of_its_names() {
    let second = NamespaceOptions {
        block_shift: 12,
        nguid: [7; 16],
        eui64: [8; 8],
        uuid: [9; 16],
        noiob: 256,
        nsfeat: 0b1_0010,
        nawupf: 15,
        npdg: 7,
        ..plain()
    };
    let mut bed = Bed::ready(namespaces([plain(), second]));
    for wanted in [
        Selector::Id(NamespaceId(2)),
        Selector::Nguid([7; 16]),
        Selector::Eui64([8; 8]),
        Selector::Uuid([9; 16]),
    ] {
        let found = bed.find(wanted).unwrap();
        let geometry = found.geometry;
        assert_eq!(geometry.namespace, NamespaceId(2));
        assert_eq!((geometry.block_shift, found.blocks()), (12, 4096));
        assert_eq!(
            (geometry.boundary_blocks, geometry.atomic_blocks),
            (256, 16)
        );
        assert_eq!(geometry.deallocate_granularity, 8);
        assert!(geometry.unmapped_reads_zeroes && geometry.write_zeroes_deallocates);
        let again = bed.find(wanted).unwrap_err();
        assert!(again.0.contains("belongs to another"), "{again}");
        bed.send(ToKeeper::Release(NamespaceId(2)));
    }
    // One that was answered too late has nothing.
    let (answer, answered) = std::sync::mpsc::sync_channel(1);
    drop(answered);
    bed.send(ToKeeper::Find(Selector::Id(NamespaceId(2)), answer));
    let found = bed.find(Selector::Id(NamespaceId(2))).unwrap();
    assert_eq!(found.geometry.namespace, NamespaceId(2));
    let which = bed.find(Selector::Only).unwrap_err();
    assert!(which.0.contains("[1, 2]"), "{which}");
    let none = bed.find(Selector::Nguid([1; 16])).unwrap_err();
    assert!(none.0.contains("no such active namespace"), "{none}");
    bed.close();
}

#[test]
fn what_a_namespace_cannot_be_served_for_is_said() {
    let with = |change: &dyn Fn(&mut NamespaceOptions)| {
        let mut options = plain();
        change(&mut options);
        let mut bed = Bed::ready(namespaces([options]));
        let refused = bed.find(Selector::Only).unwrap_err();
        let report = bed.report().unwrap();
        assert_eq!(report.namespaces[0].refused.as_ref(), Some(&refused.0));
        bed.close();
        refused.0
    };
    assert!(with(&|options| options.metadata = 8).contains("8 bytes of metadata"));
    assert!(with(&|options| options.block_shift = 13).contains("blocks of 2^13 bytes"));
    let protected = with(&|options| (options.metadata, options.protection) = (8, 1));
    assert!(protected.contains("type 1"), "{protected}");
}

#[test]
fn controllers_before_1_1_have_no_list() {
    let inactive = NamespaceOptions {
        active: false,
        ..plain()
    };
    let options = ModelOptions {
        version: Version(0x0001_0000),
        ..namespaces([inactive.clone(), plain(), inactive])
    };
    let mut bed = Bed::ready(options);
    let found = bed.find(Selector::Only).unwrap();
    assert_eq!(found.geometry.namespace, NamespaceId(2));
    assert_eq!(
        found.geometry.identifiers.uuid, None,
        "no descriptors either"
    );
    bed.close();
}

#[test]
fn a_controller_without_namespaces_is_ready_for_some() {
    let inactive = NamespaceOptions {
        active: false,
        ..plain()
    };
    let mut bed = Bed::ready(namespaces([inactive]));
    let none = bed.find(Selector::Only).unwrap_err();
    assert!(none.0.contains("no active namespace"), "{none}");
    let activate = |options: &mut NamespaceOptions| options.active = true;
    bed.model.change_namespace(NamespaceId(1), activate);
    bed.pass(Duration::from_secs(2));
    bed.find(Selector::Only).unwrap();
    bed.close();
}

#[test]
fn a_namespace_that_cannot_be_looked_at_is_not_gone() {
    let mut bed = Bed::ready(ModelOptions::default());
    let namespace = bed.find(Selector::Only).unwrap();
    bed.pass(Duration::from_secs(1));
    let identified = bed.model.counters().admin[&admin::IDENTIFY];
    bed.model.faults(|plan| {
        let on = Match::admin(admin::IDENTIFY);
        plan.nth(on, 1, Action::Status(Status::INTERNAL));
    });
    let grow = |options: &mut NamespaceOptions| options.blocks = 8192;
    bed.model.change_namespace(NamespaceId(1), grow);
    bed.pass(Duration::from_secs(1));
    assert!(bed.model.counters().admin[&admin::IDENTIFY] > identified);
    assert_eq!(namespace.state(), NamespaceState::Active);
    assert_eq!(namespace.blocks(), 4096, "as it was last seen");
    bed.close();
}

#[test]
fn a_namespace_that_was_never_seen_is_looked_at_again() {
    for (status, again) in [
        (Status::INTERNAL, true),
        (Status::INTERNAL.with_do_not_retry(), false),
    ] {
        let mut bed = Bed::new(ModelOptions::default());
        // The controller, the list, and then the namespace.
        let on = Match::admin(admin::IDENTIFY);
        bed.model
            .faults(|plan| plan.nth(on, 2, Action::Status(status)));
        bed.until("ready", |bed| bed.controller.limits().is_some());
        bed.find(Selector::Only).unwrap_err();
        bed.pass(Duration::from_secs(62));
        assert_eq!(bed.find(Selector::Only).is_ok(), again, "{status}");
        bed.close();
    }
}

#[test]
fn a_namespace_grows_goes_and_comes_back() {
    let mut bed = Bed::ready(ModelOptions::default());
    let namespace = bed.find(Selector::Only).unwrap();
    let change = |bed: &mut Bed, change: fn(&mut NamespaceOptions), is_so: NamespaceState| {
        bed.model.change_namespace(NamespaceId(1), change);
        let told = Arc::clone(&namespace);
        bed.until("the change", |_| told.state() == is_so);
    };
    bed.model
        .change_namespace(NamespaceId(1), |options| options.blocks = 8192);
    bed.until("more blocks", |_| namespace.blocks() == 8192);
    change(&mut bed, |it| it.active = false, NamespaceState::Missing);
    change(&mut bed, |it| it.active = true, NamespaceState::Active);
    change(&mut bed, |it| it.block_shift = 12, NamespaceState::Changed);
    change(&mut bed, |it| it.block_shift = 9, NamespaceState::Active);
    change(&mut bed, |it| it.uuid = [1; 16], NamespaceState::Changed);
    let restore = |it: &mut NamespaceOptions| it.uuid = NamespaceOptions::default().uuid;
    change(&mut bed, restore, NamespaceState::Active);
    // Less than was promised.
    change(&mut bed, |it| it.dlfeat = 0, NamespaceState::Changed);
    let restore = |it: &mut NamespaceOptions| it.dlfeat = NamespaceOptions::default().dlfeat;
    change(&mut bed, restore, NamespaceState::Active);
    assert!(!namespace.geometry.thin);
    change(
        &mut bed,
        |it| it.write_protected = true,
        NamespaceState::ReadOnly,
    );
    change(
        &mut bed,
        |it| it.write_protected = false,
        NamespaceState::Active,
    );
    bed.model
        .change_namespace(NamespaceId(1), |options| options.blocks = 10);
    bed.until("fewer blocks", |_| namespace.blocks() == 10);
    bed.close();
}

#[test]
fn atomic_writes_that_become_shorter_are_another_namespace() {
    let thin = NamespaceOptions {
        nsfeat: 0b11,
        nawupf: 15,
        ..plain()
    };
    let mut bed = Bed::ready(namespaces([thin]));
    let namespace = bed.find(Selector::Only).unwrap();
    assert_eq!(namespace.geometry.atomic_blocks, 16);
    assert!(namespace.geometry.thin, "as it says itself");
    for (nawupf, state) in [
        (14, NamespaceState::Changed),
        (15, NamespaceState::Active),
        (31, NamespaceState::Active),
        (0, NamespaceState::Changed),
    ] {
        bed.model
            .change_namespace(NamespaceId(1), |it| it.nawupf = nawupf);
        bed.pass(Duration::from_secs(1));
        assert_eq!(namespace.state(), state, "{nawupf}");
    }
    bed.close();
}

#[test]
fn identifiers_that_cannot_be_read_again_are_those_of_before() {
    let mut bed = Bed::ready(ModelOptions::default());
    let namespace = bed.find(Selector::Only).unwrap();
    // The list, the namespace, and then what it is called.
    let on = Match::admin(admin::IDENTIFY);
    let fails = Action::Status(Status::INTERNAL);
    bed.model.faults(|plan| plan.nth(on, 2, fails));
    bed.model
        .change_namespace(NamespaceId(1), |it| it.blocks = 5000);
    bed.until("it has grown", |_| namespace.blocks() == 5000);
    assert_eq!(namespace.state(), NamespaceState::Active);
    bed.close();
}

#[test]
fn another_namespace_is_seen_where_descriptors_cannot_be_read() {
    let first = NamespaceOptions {
        nguid: [1; 16],
        ..plain()
    };
    let mut bed = Bed::ready(namespaces([first]));
    let namespace = bed.find(Selector::Only).unwrap();
    let change = |bed: &mut Bed, change: fn(&mut NamespaceOptions), is_so: NamespaceState| {
        bed.model.faults(|plan| {
            plan.clear();
            // The list, the namespace, and then what it is called.
            let on = Match::admin(admin::IDENTIFY);
            plan.nth(on, 2, Action::Status(Status::INTERNAL));
        });
        bed.model.change_namespace(NamespaceId(1), change);
        bed.until("the change", |_| namespace.state() == is_so);
    };
    change(&mut bed, |it| it.nguid = [2; 16], NamespaceState::Changed);
    change(&mut bed, |it| it.nguid = [1; 16], NamespaceState::Active);
    change(&mut bed, |it| it.eui64 = [2; 8], NamespaceState::Changed);
    bed.close();
}

#[test]
fn descriptors_that_are_there_later_make_no_other_namespace() {
    for (status, is_there) in [
        (Status::INVALID_FIELD, true),
        (Status::INTERNAL.with_do_not_retry(), true),
        (Status::INTERNAL, false),
    ] {
        let mut bed = Bed::new(ModelOptions::default());
        // The controller, the list, the namespace, and then what it is called.
        let on = Match::admin(admin::IDENTIFY);
        bed.model
            .faults(|plan| plan.nth(on, 3, Action::Status(status)));
        bed.until("ready", |bed| bed.controller.limits().is_some());
        let found = bed.find(Selector::Only);
        assert_eq!(found.is_ok(), is_there, "{status}");
        // What may be another kind of namespace is looked at once more.
        bed.pass(Duration::from_secs(62));
        let namespace = found.unwrap_or_else(|_| bed.find(Selector::Only).unwrap());
        let named = namespace.geometry.identifiers.uuid.is_some();
        assert_eq!(named, !is_there, "{status}");
        bed.model
            .change_namespace(NamespaceId(1), |it| it.blocks = 5000);
        bed.until("it has grown", |_| namespace.blocks() == 5000);
        assert_eq!(namespace.state(), NamespaceState::Active, "{status}");
        bed.model
            .change_namespace(NamespaceId(1), |it| it.eui64 = [3; 8]);
        let is_other = |_: &Bed| namespace.state() == NamespaceState::Changed;
        bed.until("it is another one", is_other);
        bed.close();
    }
}

#[test]
fn a_list_that_cannot_be_read_makes_nothing_go() {
    // The one that is served has a number that no short list of numbers has.
    let inactive = NamespaceOptions {
        active: false,
        ..plain()
    };
    let mut all = vec![inactive; 299];
    all.push(plain());
    let mut bed = Bed::ready(namespaces(all));
    let namespace = bed.find(Selector::Only).unwrap();
    assert_eq!(namespace.geometry.namespace, NamespaceId(300));
    bed.pass(Duration::from_secs(2));
    bed.model.faults(|plan| {
        let on = Match::admin(admin::IDENTIFY);
        plan.once(on, Action::Status(Status::INTERNAL));
    });
    let grow = |options: &mut NamespaceOptions| options.blocks = 8192;
    bed.model.change_namespace(NamespaceId(300), grow);
    bed.until("it has grown", |_| {
        assert_eq!(namespace.state(), NamespaceState::Active);
        namespace.blocks() == 8192
    });
    bed.close();
}
