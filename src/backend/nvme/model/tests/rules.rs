//! Each check of the model is seen to fire.

use super::harness::{CC, CSTS, DATA, ENABLED, ENTRIES, Pair, Words, broken, plain};
use crate::backend::nvme::bar::Bar;
use crate::backend::nvme::dma::{DmaPages, DmaSpace, Iova, Run};
use crate::backend::nvme::model::faults::{Action, Match};
use crate::backend::nvme::model::{Model, ModelOptions, NamespaceOptions, Rule};
use crate::mem::Pages;

const WRITE: u8 = 1;
const READ: u8 = 2;

fn with(options: ModelOptions) -> (Model, Pair) {
    let model = Model::new(options);
    let pair = Pair::new(&model);
    (model, pair)
}

#[test]
fn memory_that_is_not_mapped_is_never_touched() {
    let model = plain();
    let mut pair = Pair::new(&model);
    let read = Words::new(READ, 1, 1).blocks(0, 8);
    assert_eq!(pair.run(&model, read.prps(0x1000, 0)), 4);
    assert_eq!(broken(&model), [Rule::Unmapped]);
    // Over the end of its mapping.
    let last = pair.data() + super::harness::DATA_BYTES as u64 - 4096;
    let read = Words::new(READ, 1, 1).blocks(0, 16);
    assert_eq!(pair.run(&model, read.prps(last, last + 4096)), 4);
    assert_eq!(broken(&model), [Rule::Unmapped]);
    // Mapped no more when it is carried out.
    let buffer = DmaPages::new(&model.space(), 4096, Pages::Normal).unwrap();
    let at = buffer.iova(0..4096).unwrap().0;
    pair.submit(Words::new(READ, 1, 1).blocks(0, 8).prps(at, 0));
    drop(buffer);
    model.settle();
    assert_eq!(broken(&model), [Rule::Unmapped]);
}

#[test]
fn data_without_an_owner_is_never_touched() {
    let model = plain();
    let mut pair = Pair::new(&model);
    let buffer = crate::mem::Region::new(8192, Pages::Normal).unwrap();
    let start = buffer.base();
    let mut runs = Vec::new();
    let space = model.space();
    // SAFETY: the region stays until the end of the test, and nobody refers to its bytes.
    unsafe { space.map(start, 8192, &mut runs) }.unwrap();
    model.watch((start, 8192));
    model.own((start, 512), 1);
    let read = |blocks| {
        Words::new(READ, 1, 1)
            .blocks(0, blocks)
            .prps(runs[0].iova.0, 0)
    };
    assert_eq!(pair.run(&model, read(1)), 0);
    assert_eq!(broken(&model), []);
    assert_eq!(pair.run(&model, read(2)), 4);
    assert_eq!(broken(&model), [Rule::NotOwned]);
    model.disown(start, 1);
    let write = Words::new(WRITE, 1, 1).blocks(0, 1).prps(runs[0].iova.0, 0);
    assert_eq!(pair.run(&model, write), 4);
    assert_eq!(broken(&model), [Rule::NotOwned]);
}

#[test]
fn registers_are_written_only_as_they_may_be() {
    let model = plain();
    let bar = model.bar();
    for (offset, value) in [
        (0, 1),
        (8, 1),
        (CSTS, 2),
        (0x20, 5),
        (0x28, 5),
        (0x24, 0x1000),
    ] {
        bar.w32(offset, value);
        assert_eq!(
            broken(&model),
            [Rule::Register],
            "{value:#x} at {offset:#x}"
        );
    }
    bar.w32(CC, 0x0100_0000);
    assert_eq!(broken(&model), [Rule::Register]);
    assert_eq!(bar.r32(0x1000), 0);
    assert_eq!(broken(&model), [Rule::Register], "doorbells are not read");
}

#[test]
fn what_is_fixed_while_enabled_is_not_changed() {
    let model = plain();
    let pair = Pair::admin(&model);
    for offset in [0x24, 0x28, 0x2c, 0x30, 0x34] {
        let before = pair.bar.r32(offset);
        pair.bar.w32(offset, 0x4000);
        assert_eq!(broken(&model), [Rule::Enabled], "{offset:#x}");
        assert_eq!(pair.bar.r32(offset), before);
    }
    pair.bar.w32(CC, ENABLED | 1 << 7);
    assert_eq!(broken(&model), [Rule::Enabled]);
}

#[test]
fn enable_waits_for_ready() {
    let model = plain();
    let pair = Pair::admin_disabled(&model);
    pair.bar.w32(CC, ENABLED);
    pair.bar.w32(CC, ENABLED - 1);
    assert_eq!(broken(&model), [Rule::NotSettled]);
    let pair = Pair::admin(&model);
    pair.bar.w32(CC, ENABLED - 1);
    pair.bar.w32(CC, ENABLED);
    assert_eq!(broken(&model), [Rule::NotSettled]);
}

#[test]
fn a_controller_is_enabled_as_it_can_be() {
    for wrong in [ENABLED | 5 << 7, ENABLED | 6 << 4, ENABLED | 1 << 11] {
        let model = plain();
        let pair = Pair::admin_disabled(&model);
        pair.bar.w32(CC, wrong);
        model.settle();
        assert_eq!(broken(&model), [Rule::Configuration], "{wrong:#x}");
        assert_eq!(pair.bar.r32(CSTS), 2, "it fails");
    }
    let model = plain();
    model.bar().w32(CC, ENABLED);
    assert_eq!(broken(&model), [Rule::Configuration], "no admin queue");
}

#[test]
fn doorbells_are_rung_only_for_what_is_there() {
    let model = plain();
    let bar = model.bar();
    bar.w32(0x1000, 1);
    assert_eq!(broken(&model), [Rule::DoorbellDisabled]);
    let mut pair = Pair::new(&model);
    for (offset, value, rule) in [
        (0x1010, 1, Rule::DoorbellUnknown),
        (0x1014, 1, Rule::DoorbellUnknown),
        (0x1008, ENTRIES.into(), Rule::DoorbellValue),
        (0x100c, ENTRIES.into(), Rule::DoorbellValue),
        (0x1008, 0, Rule::DoorbellSame),
        (0x100c, 0, Rule::DoorbellSame),
        (0x100c, 1, Rule::CompletionOverrun),
    ] {
        pair.bar.w32(offset, value);
        assert_eq!(broken(&model), [rule], "{value} at {offset:#x}");
    }
    for cid in 0..ENTRIES - 1 {
        pair.submit(Words::new(0, cid, 1));
    }
    pair.submit(Words::new(0, 99, 1));
    assert_eq!(broken(&model), [Rule::SubmissionOverrun]);
    let wide = Model::new(ModelOptions {
        dstrd: 1,
        ..ModelOptions::default()
    });
    let _pair = Pair::new(&wide);
    wide.bar().w32(0x1014, 1);
    assert_eq!(broken(&wide), [Rule::DoorbellUnknown], "between two");
}

#[test]
fn reserved_and_unknown_things_in_commands_are_seen() {
    let model = plain();
    let mut pair = Pair::new(&model);
    assert_eq!(pair.run(&model, Words::new(0, 1, 1).with(2, 1)), 0x4002);
    assert_eq!(broken(&model), [Rule::Reserved]);
    assert_eq!(pair.run(&model, Words::new(0x99, 1, 1)), 0x4001);
    assert_eq!(broken(&model), [Rule::Unsupported]);
    let data = pair.data();
    let read = Words::new(READ, 1, 1).blocks(0, 8).prps(data + 2, 0);
    assert_eq!(pair.run(&model, read), 0x4013);
    assert_eq!(broken(&model), [Rule::Prp]);
    let read = Words::new(READ, 1, 1).blocks(0, 8).prps(data, data + 4096);
    assert_eq!(pair.run(&model, read), 0x4013, "PRP2 for nothing");
    assert_eq!(broken(&model), [Rule::Prp]);
    let read = Words::new(READ, 1, 1).blocks(0, 32).prps(data, 0x10);
    assert_eq!(pair.run(&model, read), 4, "a list that is not there");
    assert_eq!(broken(&model), [Rule::Unmapped]);
}

#[test]
fn commands_that_were_not_offered_are_seen() {
    let (model, mut pair) = with(ModelOptions {
        oncs: 0,
        vwc: 0b101,
        namespaces: vec![NamespaceOptions {
            dlfeat: 0,
            ..NamespaceOptions::default()
        }],
        ..ModelOptions::default()
    });
    let data = pair.data();
    for words in [
        Words::new(5, 1, 1).blocks(0, 1).prps(data, 0),
        Words::new(8, 1, 1).blocks(0, 1),
        Words::new(9, 1, 1).with(11, 4).prps(data, 0),
        Words::new(0x0c, 1, 1).blocks(0, 1),
    ] {
        assert_eq!(pair.run(&model, words), 0x4001);
        assert_eq!(broken(&model), [Rule::Unsupported]);
    }
    assert_eq!(pair.run(&model, Words::new(0, 1, u32::MAX)), 0x400b);
    assert_eq!(broken(&model), [Rule::Unsupported], "a flush of all");
    let (model, mut pair) = with(ModelOptions {
        namespaces: vec![NamespaceOptions {
            dlfeat: 0,
            ..NamespaceOptions::default()
        }],
        ..ModelOptions::default()
    });
    let zeroes = Words::new(8, 1, 1).blocks(0, 1).with(12, 1 << 25);
    assert_eq!(pair.run(&model, zeroes), 0);
    assert_eq!(broken(&model), [Rule::Unsupported], "DEAC");
    assert_eq!(
        pair.run(&model, Words::new(0, 1, u32::MAX)),
        0,
        "VWC says so"
    );
}

#[test]
fn limits_are_kept() {
    let (model, mut pair) = with(ModelOptions {
        mdts: 1,
        vsl: 1,
        wzsl: 1,
        dmrl: 2,
        dmrsl: 10,
        dmsl: 15,
        ..ModelOptions::default()
    });
    let data = pair.data();
    let list = data + 4096;
    for nth in 0..3 {
        let at = DATA + 4096 + 8 * nth;
        pair.pages.write_u64(at, data + 8192 + 4096 * nth as u64);
    }
    for words in [
        Words::new(READ, 1, 1).blocks(0, 17).prps(data, list),
        Words::new(8, 1, 1).blocks(0, 17),
        Words::new(0x0c, 1, 1).blocks(0, 17),
    ] {
        assert_eq!(pair.run(&model, words), 0x4002);
        assert_eq!(broken(&model), [Rule::Limit]);
    }
    let mut ranges = |lengths: &[u32]| {
        for (nth, length) in lengths.iter().enumerate() {
            let at = DATA + 16 * nth;
            pair.pages.write_u32(at + 4, *length);
            pair.pages.write_u64(at + 8, 100 * nth as u64);
        }
        let count = u32::try_from(lengths.len()).unwrap() - 1;
        let words = Words::new(9, 1, 1).with(10, count).with(11, 4);
        (pair.run(&model, words.prps(data, 0)), broken(&model))
    };
    assert_eq!(ranges(&[10, 5]), (0, vec![]));
    for over in [&[1, 1, 1][..], &[11], &[10, 6]] {
        assert_eq!(ranges(over), (0x4183, vec![Rule::Limit]));
    }
}

#[test]
fn a_cid_is_used_once_at_a_time() {
    let model = plain();
    let mut pair = Pair::new(&model);
    pair.put(Words::new(0, 5, 1));
    pair.submit(Words::new(0, 5, 1));
    model.settle();
    assert_eq!(broken(&model), [Rule::CommandId]);
    let ends: Vec<u16> = std::iter::from_fn(|| pair.reap())
        .map(|end| end.status().field())
        .collect();
    assert!(ends.contains(&0) && ends.contains(&0x4003));
    // A command whose completion is lost is outstanding still.
    model.faults(|plan| plan.once(Match::io(0), Action::Drop));
    pair.submit(Words::new(0, 6, 1));
    pair.submit(Words::new(0, 6, 1));
    model.settle();
    assert_eq!(broken(&model), [Rule::CommandId]);
}

#[test]
fn queues_are_made_and_unmade_in_order() {
    let model = plain();
    let mut admin = Pair::admin(&model);
    let pages = DmaPages::new(&model.space(), DATA, Pages::Normal).unwrap();
    let check = |found: (u16, u16), expected: (u16, u16), rule| {
        assert_eq!(found, expected);
        assert_eq!(broken(&model), [rule]);
    };
    // Before the number of queues is set, and beyond it.
    let found = admin.create(&model, 1, &pages);
    check(found, (0x4101, 0x4101), Rule::Queue);
    admin.ask_for(&model, 2);
    let found = admin.create(&model, 3, &pages);
    check(found, (0x4101, 0x4101), Rule::Queue);
    assert_eq!(admin.create(&model, 1, &pages), (0, 0));
    let found = admin.create(&model, 1, &pages);
    check(found, (0x4101, 0x4101), Rule::Queue);
    // The completion queue first; a size of one; not contiguous; not at a page.
    let base = pages.iova(0..4096).unwrap().0;
    for (words, status, rule) in [
        (Words::new(4, 1, 0).with(10, 1), 0x410c, Rule::Queue),
        (Words::new(0, 1, 0).with(10, 2), 0x4101, Rule::Queue),
        (
            Words::new(5, 1, 0).with(10, 2).with(11, 1),
            0x4102,
            Rule::Queue,
        ),
        (
            Words::new(5, 1, 0).with(10, 7 << 16 | 2),
            0x4002,
            Rule::Queue,
        ),
        (
            Words::new(5, 1, 0)
                .with(10, 7 << 16 | 2)
                .with(11, 1)
                .prps(base + 64, 0),
            0x4013,
            Rule::Prp,
        ),
        (
            Words::new(1, 1, 0)
                .with(10, 7 << 16 | 2)
                .with(11, 2 << 16 | 1)
                .prps(base, 0),
            0x4100,
            Rule::Queue,
        ),
        (Words::new(9, 1, 0).with(10, 7), 0x400c, Rule::Queue),
    ] {
        assert_eq!(admin.run(&model, words), status);
        assert_eq!(broken(&model), [rule]);
    }
    // Old completions in a new queue would be taken for true.
    let mut dirty = DmaPages::new(&model.space(), DATA, Pages::Normal).unwrap();
    dirty.write_u32(4096 + 12, 1 << 16);
    assert_eq!(admin.create(&model, 2, &dirty), (0, 0));
    assert_eq!(broken(&model), [], "there is time until the first command");
    admin.bar.w32(0x1010, 1);
    model.settle();
    assert_eq!(broken(&model), [Rule::Queue]);
    admin.bar.w32(CC, ENABLED | 1 << 14);
    assert_eq!(broken(&model), [Rule::Shutdown]);
    admin.submit(Words::new(6, 1, 0));
    assert_eq!(
        broken(&model),
        [Rule::DoorbellDisabled],
        "behind a shutdown"
    );
}

#[test]
fn more_events_and_aborts_than_it_takes_are_seen() {
    let model = Model::new(ModelOptions {
        aerl: 0,
        acl: 0,
        ..ModelOptions::default()
    });
    let mut admin = Pair::admin(&model);
    admin.submit(Words::new(0x0c, 1, 0));
    model.settle();
    assert_eq!(admin.run(&model, Words::new(0x0c, 2, 0)), 0x4105);
    assert_eq!(broken(&model), [Rule::Limit]);
    admin.put(Words::new(8, 3, 0).with(10, 1));
    admin.submit(Words::new(8, 4, 0).with(10, 1));
    model.step(2);
    model.settle();
    let ends: Vec<u16> = std::iter::from_fn(|| admin.reap())
        .map(|end| end.status().field())
        .collect();
    if ends.contains(&0x4103) {
        assert_eq!(broken(&model), [Rule::Limit]);
    } else {
        assert_eq!(broken(&model), [], "one behind the other");
    }
    assert_eq!(admin.run(&model, Words::new(0x7c, 5, 0)), 0x4001);
    assert_eq!(broken(&model), [Rule::Unsupported], "shadow doorbells");
    assert_eq!(
        admin.run(&model, Words::new(9, 5, 0).with(10, 0x7f)),
        0x4002
    );
    assert_eq!(broken(&model), [Rule::Unsupported], "a feature");
}

#[test]
fn cores_write_doorbells_and_touch_nothing_else() {
    let model = plain();
    let mut pair = Pair::new(&model);
    let core = model.as_core();
    pair.submit(Words::new(0, 1, 1));
    assert_eq!(broken(&model), []);
    pair.bar.r32(CSTS);
    assert_eq!(broken(&model), [Rule::CoreAccess]);
    pair.bar.w32(0x0c, 0);
    assert_eq!(broken(&model), [Rule::CoreAccess]);
    drop(core);
    pair.bar.r32(CSTS);
    assert_eq!(broken(&model), []);
}

#[test]
fn memory_is_unmapped_once() {
    let model = plain();
    let (offset, len, iova) = (0, 4096, Iova(4096));
    model.space().unmap(&[Run { offset, len, iova }]).unwrap();
    assert_eq!(broken(&model), [Rule::Unmap]);
}

#[test]
#[should_panic(expected = "the driver has broken rules")]
fn a_test_that_looks_away_fails() {
    let model = plain();
    model.bar().w32(0x1000, 1);
}
