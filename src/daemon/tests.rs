//! Starts and ends of daemons that have an NVMe controller: the model of one.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use crate::backend::nvme::any::{AnyBar, AnySpace};
use crate::backend::nvme::keeper;
use crate::backend::nvme::model::{Model, ModelOptions};
use crate::backend::nvme::unit::Unit;
use crate::backend::{Kind, NvmeSettings, Selector, Spec};
use crate::config::{Backend, CoreList, Portal};

/// A unit on the only namespace of `model`, which is opened as one at `address`.
fn unit(address: &str, model: &Model) -> Arc<Backing> {
    let hardware = || {
        let bar = Arc::new(AnyBar::Model(model.bar()));
        Ok((bar, Arc::new(AnySpace::Model(model.space()))))
    };
    let handle = keeper::open_at(address, NvmeSettings::default(), hardware).unwrap();
    let unit = Unit::open(address, handle, Selector::Only).unwrap();
    Backing::of_namespace(unit, &Spec::new(Kind::Null { bytes: 0 })).unwrap()
}

/// A daemon of two cores with one unit, that listens at `portal`.
fn config(directory: &TempDir, portal: SocketAddr) -> Config {
    let mut config = Config::embedded(directory.path());
    config.cores.list = CoreList::Count(2);
    config.cores.pin = false;
    config.memory.pool_bytes_per_core = 32 << 20;
    config.memory.pages = crate::config::Pages::Normal;
    config.portal_groups[0].portals = vec![Portal {
        address: portal,
        port: None,
        optional: false,
    }];
    config.logical_units[0].backend = Backend::Null { size: 1 << 20 };
    config
}

fn start(
    address: &'static str,
    model: &Arc<Model>,
    portal: SocketAddr,
) -> Result<Daemon, StartError> {
    let directory = TempDir::new().unwrap();
    let state = StateDir::open(directory.path()).unwrap();
    let served = Arc::clone(model);
    let hooks = Hooks {
        wrap: Some(Box::new(move |_, _| unit(address, &served))),
        ..Hooks::default()
    };
    Daemon::start(&config(&directory, portal), state, &hooks)
}

#[test]
fn a_start_that_fails_closes_its_controllers() {
    let model = Arc::new(Model::new(ModelOptions::default()));
    let _worker = model.run_in_background();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let refused = start("0000:f1:00.0", &model, address).unwrap_err();
    assert!(refused.to_string().contains("cannot listen"), "{refused}");
    assert_eq!(model.counters().shutdowns, 1);
    assert_eq!(model.mappings(), 0);
}

#[test]
fn a_daemon_that_ends_closes_its_controllers() {
    // One core is the guest of the other.
    let model = Arc::new(Model::new(ModelOptions {
        queue_pairs: 1,
        ..ModelOptions::default()
    }));
    let _worker = model.run_in_background();
    let daemon = start("0000:f2:00.0", &model, "127.0.0.1:0".parse().unwrap()).unwrap();
    daemon.stopper().stop();
    daemon.serve(None).unwrap();
    assert_eq!(model.counters().shutdowns, 1);
    assert_eq!(model.mappings(), 0, "cores have given back what they had");
}
