//! How the units of a core get their devices: at its start, and later where one was missing then.

use std::sync::Arc;

use super::Reactor;
use crate::backend::{self, Backing, UnitIndex};
use crate::control::event::Event;
use crate::mem::{Pages, Pool};
use crate::scsi::{LogicalUnit, NotReadyReason, ReadyState};

/// The core's devices, none yet, which are given buffers of `pool`.
pub(super) fn make(
    options: &backend::Options,
    pool: &Pool,
    pages: Pages,
) -> Result<backend::Set, String> {
    let mut backends = backend::Set::new(options).map_err(|error| error.to_string())?;
    backends.use_pool(pool, pages);
    Ok(backends)
}

/// Attaches what can be attached. A unit whose device this core cannot drive is not ready here, and
/// the rest is served.
pub(super) fn attach(
    backends: &mut backend::Set,
    backings: &[Option<Arc<Backing>>],
    units: &mut [LogicalUnit],
) -> Vec<Event> {
    let mut troubles = Vec::new();
    for (index, (backing, unit)) in backings.iter().zip(units).enumerate() {
        let Some(backing) = backing else { continue };
        let at = UnitIndex(u16::try_from(index).expect("the configuration bounds the units"));
        if let Err(error) = backends.attach(at, backing) {
            unit.set_ready(ReadyState::NotReady(NotReadyReason::Failed));
            troubles.push(Event::Trouble(format!("NOT READY: {error}")));
        }
    }
    troubles
}

impl Reactor {
    /// The device of a unit that began without one. That it is ready comes as news, behind this. A
    /// core that cannot drive it answers NOT READY, and the rest is served. An NVMe controller is
    /// given the core's buffers here, for which it stands still (some 10 ms for each GiB in huge
    /// pages, 300 ms in ordinary ones).
    pub(super) fn device_came(&mut self, unit: UnitIndex, backing: &Arc<Backing>) {
        if let Err(error) = self.backends.attach(unit, backing) {
            self.tell(Event::Trouble(format!("NOT READY: {error}")));
        }
    }
}
