//! [`NvmeModel`]: the model in the place of a PCI function, for tests and benches of whole daemons.
//!
//! The controller is opened under an address before anybody asks for it; whoever opens a unit with
//! that address in this process then has the model and not the machine's own device. Nothing of the
//! daemon or the driver is changed for that but what the registers are behind.

use std::sync::Arc;

use super::{Model, ModelOptions, NamespaceOptions, Worker};
use crate::backend::nvme::any::{AnyBar, AnySpace};
use crate::backend::nvme::bar::Bar;
use crate::backend::nvme::facts::Settings;
use crate::backend::nvme::keeper;
use crate::backend::nvme::link::Handle;
use crate::backend::nvme::spec::entry::NamespaceId;

/// Its only namespace.
const NAMESPACE: NamespaceId = NamespaceId(1);
/// Interrupt Mask Set, which means nothing here.
const INTMS: usize = 0x0c;

/// A controller with one namespace of 512-byte blocks, a volatile write cache and four queue pairs,
/// which works in a thread of its own. See the module.
#[derive(Debug)]
pub struct NvmeModel {
    model: Model,
    bar: Arc<AnyBar>,
    worker: Option<Worker>,
    /// So that it stays until a unit has it.
    handle: Option<Arc<Handle<AnyBar, AnySpace>>>,
}

impl NvmeModel {
    /// A controller at `address` (as `0000:5e:00.0`), which nobody else in this process uses, with
    /// a namespace of so many blocks.
    ///
    /// # Panics
    /// The driver cannot open it.
    pub fn at(address: &str, blocks: u64) -> Self {
        let namespace = NamespaceOptions {
            blocks,
            ..NamespaceOptions::default()
        };
        let model = Model::new(ModelOptions {
            namespaces: vec![namespace],
            ..ModelOptions::default()
        });
        let worker = Some(model.run_in_background());
        let bar = Arc::new(AnyBar::Model(model.bar()));
        let hardware = || {
            let space = Arc::new(AnySpace::Model(model.space()));
            Ok((Arc::clone(&bar), space))
        };
        let handle = keeper::open_at(address, Settings::default(), hardware);
        Self {
            handle: Some(handle.expect("the model is a good controller")),
            bar,
            worker,
            model,
        }
    }

    /// From now on only units keep the controller from being shut down.
    pub fn leave_to_units(&mut self) {
        self.handle = None;
    }

    /// Nothing happens any more but in [`settle`](Self::settle).
    pub fn stop(&mut self) {
        self.worker = None;
    }

    /// It works in a thread of its own again.
    pub fn resume(&mut self) {
        self.worker = Some(self.model.run_in_background());
    }

    /// Everything happens that the driver has asked for.
    pub fn settle(&self) {
        self.model.settle();
    }

    /// It stops with a fatal status (CSTS.CFS).
    pub fn fail(&self) {
        self.model.fail();
    }

    /// It is taken out of its slot.
    pub fn remove(&self) {
        self.model.remove();
    }

    /// It is in its slot again.
    pub fn plug(&self) {
        self.model.plug();
    }

    /// A block as a read would return it.
    pub fn block(&self, lba: u64) -> Vec<u8> {
        self.model.block(NAMESPACE, lba)
    }

    /// A block as a power failure now would leave it.
    pub fn durable_block(&self, lba: u64) -> Vec<u8> {
        self.model.durable_block(NAMESPACE, lba)
    }

    /// Whether the block has not been deallocated since it was written.
    pub fn is_allocated(&self, lba: u64) -> bool {
        self.model.is_allocated(NAMESPACE, lba)
    }

    /// I/O commands of this opcode that were carried out.
    pub fn commands(&self, opcode: u8) -> u64 {
        self.model.counters().io.get(&opcode).copied().unwrap_or(0)
    }

    /// Times that it was enabled, the first one with them.
    pub fn enabled(&self) -> u64 {
        self.model.counters().enabled
    }

    /// Shutdowns that were announced to it.
    pub fn shutdowns(&self) -> u64 {
        self.model.counters().shutdowns
    }

    /// Writes to registers; those of data cores are doorbells.
    pub fn register_writes(&self) -> u64 {
        self.model.counters().register_writes
    }

    /// Bytes that it reaches: of pools, queues and lists.
    pub fn mapped_bytes(&self) -> usize {
        self.model.mapped_bytes()
    }

    /// The cost of a register's write, without what it does.
    pub fn write_nothing(&self) {
        self.bar.w32(INTMS, 0);
    }
}

impl Drop for NvmeModel {
    /// Unless units still have it, it is shut down first: whoever has its address next waits for
    /// nothing.
    fn drop(&mut self) {
        if self.worker.is_none() {
            self.resume();
        }
        self.handle = None;
        keeper::finish_all();
    }
}
