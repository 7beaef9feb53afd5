//! Namespaces of the model of a controller, with its keeper's thread and a thread that it works in,
//! under the shared suite.

use std::sync::Arc;

use super::super::nvme::any::{AnyBar, AnySpace};
use super::super::nvme::facts::{Selector, Settings};
use super::super::nvme::keeper;
use super::super::nvme::model::{Model, ModelOptions, NamespaceOptions};
use super::super::nvme::unit::Unit;
use super::super::spec::{Kind, OpenError, Spec};
use super::super::suite::{self, DEVICE_BYTES_MIN};
use super::super::{Backing, Options, Set, UnitIndex};

const SEED: u64 = 0x6e76_6d65;

/// Serves the only namespace of a controller to `test`, and shuts the controller down.
fn serve(
    options: ModelOptions,
    (block_size, write_cache): (u32, bool),
    test: impl FnOnce(&Arc<Backing>),
) {
    let model = Model::new(options);
    let worker = model.run_in_background();
    let hardware = (
        Arc::new(AnyBar::Model(model.bar())),
        Arc::new(AnySpace::Model(model.space())),
    );
    let (handle, keeper) = keeper::start("model", hardware, Settings::default()).unwrap();
    let unit = Unit::open("model", handle, Selector::Only).unwrap();
    let spec = Spec {
        block_size,
        write_cache,
        ..Spec::new(Kind::Null { bytes: 0 })
    };
    let backing = Backing::of_namespace(unit, &spec).unwrap();
    test(&backing);
    drop(backing);
    keeper.join().unwrap();
    drop(worker);
    assert_eq!(model.counters().shutdowns, 1, "its end was announced");
    assert_eq!(model.mappings(), 0, "nothing is left to the device");
}

fn options(block_shift: u8) -> ModelOptions {
    let namespace = NamespaceOptions {
        blocks: DEVICE_BYTES_MIN >> block_shift,
        block_shift,
        ..NamespaceOptions::default()
    };
    ModelOptions {
        seed: SEED,
        namespaces: vec![namespace],
        ..ModelOptions::default()
    }
}

#[test]
fn nvme_passes_the_suite() {
    serve(options(9), (512, true), |backing| {
        let info = backing.info();
        assert!(info.write_cache && info.unmap && info.unmap_reads_zeroes);
        suite::run(|| Arc::clone(backing), true, SEED);
    });
}

#[test]
fn a_poor_nvme_controller_passes_the_suite_too() {
    let poor = ModelOptions {
        // Queues of four entries, transfers of two pages, no optional command, no cache.
        mqes: 3,
        mdts: 1,
        oncs: 0,
        vwc: 0,
        queue_pairs: 1,
        ..options(12)
    };
    serve(poor, (4096, false), |backing| {
        let info = backing.info();
        assert!(!info.write_cache && !info.unmap);
        suite::run(|| Arc::clone(backing), true, SEED);
    });
}

#[test]
fn a_core_without_a_pool_cannot_have_a_controller() {
    serve(options(9), (512, true), |backing| {
        let mut set = Set::new(&Options::default()).unwrap();
        let refused = set.attach(UnitIndex(0), backing);
        assert!(matches!(refused, Err(OpenError::Nvme { .. })));
    });
}
