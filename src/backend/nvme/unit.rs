//! [`Unit`]: a namespace that is served, and its controller.

use std::sync::Arc;
use std::time::Duration;

use super::any::{AnyBar, AnySpace};
use super::bar::Bar;
use super::dma::DmaSpace;
use super::facts::{Namespace, NamespaceState, Selector, Settings, State};
use super::keeper;
use super::link::Handle;
use super::vfio::{self, AddressError, OpenOptions, PciAddress};
use crate::backend::request::DeviceInfo;
use crate::backend::spec::{OpenError, Spec};

/// How long a namespace may take to be found: a reset may be under way.
const FIND: Duration = Duration::from_secs(60);

/// What a logical unit has of a controller. The namespace is free again when it goes.
#[derive(Debug)]
pub(crate) struct Unit<B: Bar, D: DmaSpace> {
    /// Of the controller, for messages.
    name: String,
    pub(crate) handle: Arc<Handle<B, D>>,
    pub(crate) namespace: Arc<Namespace>,
}

/// Whether a unit can be used, and why not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Readiness {
    Ready,
    /// Its controller is being reset.
    Recovering,
    /// Its controller was given up, or it is another namespace now.
    Failed,
    /// Its controller or its namespace was taken away.
    Absent,
}

impl Unit<AnyBar, AnySpace> {
    /// Opens the controller at `address` through VFIO, if it is not open yet, and the namespace
    /// `wanted` of it. Waits for the controller to be ready.
    ///
    /// # Errors
    /// Why that is not possible, and what can be done about it.
    pub(crate) fn at(
        address: &str,
        wanted: Selector,
        (settings, unsafe_noiommu): (Settings, bool),
    ) -> Result<Self, OpenError> {
        let refuse = |why: String| OpenError::Nvme {
            address: address.to_owned(),
            why,
        };
        let parsed: PciAddress = address
            .parse()
            .map_err(|error: AddressError| refuse(error.to_string()))?;
        // However it was written.
        let name = parsed.to_string();
        let hardware = || {
            let options = OpenOptions {
                unsafe_noiommu,
                ..OpenOptions::default()
            };
            let (bar, space) = vfio::open(parsed, options).map_err(|error| error.to_string())?;
            Ok((Arc::new(AnyBar::Vfio(bar)), Arc::new(AnySpace::Vfio(space))))
        };
        let handle = keeper::open_at(&name, settings, hardware).map_err(refuse)?;
        Self::open(&name, handle, wanted)
    }
}

impl<B: Bar, D: DmaSpace> Unit<B, D> {
    /// Has the namespace `wanted` of the controller `name` served. Waits for the keeper.
    ///
    /// # Errors
    /// Why it cannot be, in the keeper's words.
    pub(crate) fn open(
        name: &str,
        handle: Arc<Handle<B, D>>,
        wanted: Selector,
    ) -> Result<Self, OpenError> {
        let refuse = |why: String| OpenError::Nvme {
            address: name.to_owned(),
            why,
        };
        let found = handle.find(wanted, FIND);
        let namespace = found.map_err(|refusal| refuse(refusal.0))?;
        Ok(Self {
            name: name.to_owned(),
            handle,
            namespace,
        })
    }

    /// The controller's address, for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What the unit says of itself.
    ///
    /// # Errors
    /// That `spec` asks for other blocks than the namespace has.
    pub(crate) fn info(&self, spec: &Spec) -> Result<DeviceInfo, OpenError> {
        let (limits, geometry) = (&self.handle.limits, &self.namespace.geometry);
        let block_size = 1_u32 << geometry.block_shift;
        if spec.block_size != block_size {
            let why = format!(
                "the blocks of its namespace are {block_size} bytes, not block_size = {}; set \
                 block_size = {block_size}, or format the namespace (nvme format --block-size)",
                spec.block_size
            );
            let address = self.name.clone();
            return Err(OpenError::Nvme { address, why });
        }
        let blocks = self.namespace.blocks();
        let mut info = spec.info(blocks.saturating_mul(block_size.into()))?;
        info.read_only |= self.namespace.state() == NamespaceState::ReadOnly;
        geometry.tell(limits, &mut info);
        Ok(info)
    }

    /// How often it was away, this time with them; wraps around. To be read before
    /// [`readiness`](Self::readiness): one that has moved is not of the time before.
    pub(crate) fn absences(&self) -> u32 {
        let of_controller = self.handle.facts.absences();
        of_controller.wrapping_add(self.namespace.absences())
    }

    /// Whether it can be used now.
    pub(crate) fn readiness(&self) -> Readiness {
        match self.handle.facts.state() {
            State::Starting | State::Recovering => Readiness::Recovering,
            State::Failed | State::Closed => Readiness::Failed,
            State::Gone => Readiness::Absent,
            State::Ready => match self.namespace.state() {
                NamespaceState::Active | NamespaceState::ReadOnly => Readiness::Ready,
                NamespaceState::Missing => Readiness::Absent,
                NamespaceState::Changed => Readiness::Failed,
            },
        }
    }
}

impl<B: Bar, D: DmaSpace> Drop for Unit<B, D> {
    fn drop(&mut self) {
        self.handle.release(self.namespace.geometry.namespace);
    }
}
