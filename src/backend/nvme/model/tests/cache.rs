//! The volatile cache, power cuts, and the commands that write without data.

use super::harness::{DATA, Pair, Words};
use crate::backend::nvme::bar::Bar;
use crate::backend::nvme::model::{Model, ModelOptions, NamespaceOptions};
use crate::backend::nvme::spec::entry::NamespaceId;

const ONE: NamespaceId = NamespaceId(1);
const FUA: u32 = 1 << 30;

fn with(seed: u64, vwc: u8, dlfeat: u8) -> (Model, Pair) {
    let model = Model::new(ModelOptions {
        seed,
        vwc,
        namespaces: vec![NamespaceOptions {
            dlfeat,
            ..NamespaceOptions::default()
        }],
        ..ModelOptions::default()
    });
    let pair = Pair::new(&model);
    (model, pair)
}

fn write(pair: &mut Pair, model: &Model, lba: u64, byte: u8, flags: u32) {
    pair.fill(512, byte);
    let data = pair.data();
    let words = Words::new(1, 1, 1).blocks(lba, 1).with(12, flags);
    assert_eq!(pair.run(model, words.prps(data, 0)), 0);
}

fn first(model: &Model, lba: u64) -> u8 {
    model.block(ONE, lba)[0]
}

#[test]
fn a_power_cut_spares_what_was_flushed_or_forced() {
    let mut lost = 0;
    for seed in 0..40 {
        let (model, mut pair) = with(seed, 0b111, 1);
        write(&mut pair, &model, 0, 1, 0);
        assert_eq!(pair.run(&model, Words::new(0, 1, 1)), 0);
        write(&mut pair, &model, 1, 2, FUA);
        write(&mut pair, &model, 2, 3, 0);
        model.power_cut();
        assert_eq!(pair.bar.r32(0x1c), u32::MAX);
        model.power_on();
        assert_eq!(pair.bar.r32(0x1c), 0);
        assert_eq!((first(&model, 0), first(&model, 1)), (1, 2));
        lost += usize::from(first(&model, 2) == 0);
    }
    assert!((5..35).contains(&lost), "{lost} of 40 cached writes");
}

#[test]
fn without_a_cache_every_write_is_on_the_medium() {
    for seed in 0..20 {
        let (model, mut pair) = with(seed, 0, 1);
        write(&mut pair, &model, 0, 1, 0);
        model.power_cut();
        model.power_on();
        assert_eq!(first(&model, 0), 1);
    }
}

#[test]
fn a_write_in_flight_may_be_torn_by_a_power_cut() {
    let survivors = |seed| {
        let (model, mut pair) = with(seed, 0, 1);
        pair.fill(4096, 9);
        let data = pair.data();
        pair.submit(Words::new(1, 1, 1).blocks(0, 8).prps(data, 0));
        model.step(1);
        model.power_cut();
        model.power_on();
        (0..8).filter(|lba| first(&model, *lba) == 9).count()
    };
    let found: Vec<usize> = (0..60).map(survivors).collect();
    assert!(found.contains(&0) && found.iter().any(|&blocks| blocks > 0 && blocks < 8));
}

#[test]
fn zeroes_and_deallocation_read_as_the_namespace_says() {
    for (dlfeat, reads) in [(0, 0xdb), (1, 0), (2, 0xff)] {
        let (model, mut pair) = with(1, 7, dlfeat | 8);
        for lba in 0..4 {
            write(&mut pair, &model, lba, 7, 0);
        }
        assert_eq!(pair.run(&model, Words::new(8, 1, 1).blocks(0, 1)), 0);
        assert_eq!(first(&model, 0), 0);
        assert!(model.is_allocated(ONE, 0));
        if dlfeat == 1 {
            let zeroes = Words::new(8, 1, 1).blocks(1, 1).with(12, 1 << 25);
            assert_eq!(pair.run(&model, zeroes), 0);
            assert!(!model.is_allocated(ONE, 1));
            assert_eq!(first(&model, 1), 0);
        }
        pair.pages.write_u64(DATA, 1 << 32);
        pair.pages.write_u64(DATA + 8, 2);
        pair.pages.write_u64(DATA + 16, 1 << 32);
        pair.pages.write_u64(DATA + 24, 4095);
        let data = pair.data();
        let words = Words::new(9, 1, 1).with(10, 1).prps(data, 0);
        assert_eq!(pair.run(&model, words), 0, "no attribute, no deallocation");
        assert_eq!(first(&model, 2), 7);
        assert_eq!(pair.run(&model, words.with(11, 4)), 0);
        assert_eq!((first(&model, 2), first(&model, 3)), (reads, 7));
        pair.pages.write_u64(DATA + 24, 4096);
        assert_eq!(
            pair.run(&model, words.with(11, 4)),
            0x4080,
            "beyond the end"
        );
    }
}

#[test]
fn ranges_and_comparisons_are_checked() {
    let (model, mut pair) = with(1, 7, 1);
    write(&mut pair, &model, 4095, 5, 0);
    let data = pair.data();
    for (opcode, lba, blocks, status) in [
        (2, 4095, 1, 0),
        (2, 4095, 2, 0x4080),
        (1, 4096, 1, 0x4080),
        (5, 4095, 1, 0),
        (0x0c, u64::MAX, 1, 0x4080),
        (8, 4090, 7, 0x4080),
        (0x0c, 0, 4096, 0),
    ] {
        let has_data = matches!(opcode, 1 | 2 | 5);
        let words = Words::new(opcode, 1, 1).blocks(lba, blocks);
        let words = words.prps(if has_data { data } else { 0 }, 0);
        assert_eq!(pair.run(&model, words), status, "{opcode} {lba} {blocks}");
    }
    pair.fill(512, 6);
    let compare = Words::new(5, 1, 1).blocks(4095, 1).prps(data, 0);
    assert_eq!(pair.run(&model, compare), 0x0285);
    let other = Words::new(2, 1, 2).blocks(0, 1).prps(data, 0);
    assert_eq!(pair.run(&model, other), 0x400b);
    model.change_namespace(ONE, |namespace| namespace.write_protected = true);
    let write = Words::new(1, 1, 1).blocks(0, 1).prps(data, 0);
    assert_eq!(pair.run(&model, write), 0x4020);
}
