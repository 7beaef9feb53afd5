//! From a function in any state to a controller that takes commands (Base Specification 2.0
//! §3.5.1): disable, program, enable, identify, features, number of queues.
//!
//! Every wait for a register ends by a deadline of the controller's own (CAP.TO, CRTO) and at all
//! ones; nothing that the controller says is taken before it was checked.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use super::admin;
use super::{ControllerError, Identity, Life, REGISTER_LOOK, Trouble, good};
use crate::backend::nvme::bar::{BAR_BYTES_MIN, Bar, Function, capabilities, status, version};
use crate::backend::nvme::dma::{DmaSpace, PAGE_BYTES, Shadow};
use crate::backend::nvme::facts::{
    DeallocateLimits, Limits, QUEUE_ENTRIES_MAX, Settings, TRANSFER_BYTES_MAX,
};
use crate::backend::nvme::link::Generation;
use crate::backend::nvme::spec::command::{self, BLOCKS_MAX, Identify, RANGES_MAX, feature};
use crate::backend::nvme::spec::entry::NamespaceId;
use crate::backend::nvme::spec::identify::{
    ControllerData, ControllerType, NvmControllerData, PAGE_BYTES as IDENTIFY_BYTES, Page,
};
use crate::backend::nvme::spec::log::events;
use crate::backend::nvme::spec::registers::{
    Capabilities, Configuration, Status, Version, offset, ready_with_media_timeout,
};

/// How long a controller may take to be ready at most, whatever it says (CRTO says up to 9 h).
const READY_MAX: Duration = Duration::from_secs(128);
/// Queue pairs that are asked for: more cores than this share.
const PAIRS_WANTED: u16 = 128;
/// CC.MPS: pages of 4096 bytes.
const PAGE_SHIFT: u8 = 12;
/// What queue entries are, as powers of two.
const SUBMISSION_SHIFT: u8 = 6;
const COMPLETION_SHIFT: u8 = 4;
/// Bytes of one Write Zeroes where the controller names no limit of its own.
const ZEROES_BYTES_MAX: u64 = (BLOCKS_MAX as u64) << PAGE_SHIFT;

/// What some controllers need beyond the standard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Quirks {
    /// How long a queue is not there yet when its creation has completed.
    pub(super) after_queue: Duration,
    /// Fewest entries of an I/O queue that works.
    pub(super) entries_min: u16,
    /// CSTS.SHST never says that the shutdown is complete.
    pub(super) shutdown_is_stuck: bool,
}

/// Which controllers those are, by PCI vendor and device.
pub(super) fn quirks(function: Option<Function>) -> Quirks {
    let none = Quirks::default();
    let Some(Function { vendor, device }) = function else {
        return none;
    };
    match (vendor, device) {
        // Intel P4500 and P4600.
        (0x8086, 0x0a54 | 0x0a55) => Quirks {
            entries_min: 256,
            ..none
        },
        // VirtualBox.
        (0x80ee, 0x4e56) => Quirks {
            after_queue: Duration::from_millis(100),
            ..none
        },
        // VMware.
        (0x15ad, 0x07f0) => Quirks {
            shutdown_is_stuck: true,
            ..none
        },
        _ => none,
    }
}

impl<B: Bar, D: DmaSpace> Life<B, D> {
    /// Everything up to where queue pairs can be created. Whatever state the controller is in, it
    /// is disabled first.
    pub(super) async fn init(&mut self) -> Result<(), Trouble> {
        self.generation = Generation(self.generation.0.wrapping_add(1));
        let caps = self.capabilities()?;
        self.disable().await?;
        self.enable(caps).await?;
        let version = version(&*self.bar);
        let page = self.identify(Identify::Controller).await?;
        let data = ControllerData::parse(&page);
        check(&data)?;
        let nvm = self.nvm_controller(caps, version).await?;
        self.configure_retries(&data).await?;
        let granted = self.number_of_queues().await?;
        self.configure_events(&data).await?;
        self.configure_shadow(&data, caps).await?;
        let pairs = granted.min(self.pairs_in_bar(caps));
        let limits = limits((caps, &data, nvm), pairs, self.settings, &*self.bar);
        let identity = Identity {
            caps,
            version,
            data,
            limits,
        };
        if let Some(before) = &self.identity {
            still(before, &identity)?;
        }
        // What was promised is what holds, where there is more now. Cores share what queue pairs
        // there are, more of them where there are fewer.
        let limits = self.identity.as_ref().map_or(limits, |before| Limits {
            queue_pairs: limits.queue_pairs,
            ..before.limits
        });
        self.events.begin(&identity.data);
        self.facts.vitals.identified(&identity.data);
        self.identity = Some(Identity { limits, ..identity });
        self.scan().await
    }

    fn capabilities(&self) -> Result<Capabilities, Trouble> {
        let len = self.bar.len();
        if len < BAR_BYTES_MIN {
            return Err(ControllerError::ShortBar(len).into());
        }
        let caps = capabilities(&*self.bar);
        if caps.is_gone() {
            return Err(Trouble::Gone);
        }
        if self.pairs_in_bar(caps) == 0 {
            return Err(ControllerError::ShortBar(len).into());
        }
        let entries = caps.queue_entries_max();
        if entries < 2 {
            return Err(ControllerError::QueueEntries(entries).into());
        }
        if caps.page_shift_min() > PAGE_SHIFT {
            return Err(ControllerError::PageSize(1 << caps.page_shift_min()).into());
        }
        if caps.admin_only() && !caps.nvm_command_set() && !caps.command_sets() {
            return Err(ControllerError::NoCommandSet.into());
        }
        Ok(caps)
    }

    /// Queue pairs whose doorbells lie in the BAR.
    fn pairs_in_bar(&self, caps: Capabilities) -> u16 {
        let stride = caps.doorbell_stride();
        let doorbells = self.bar.len().saturating_sub(offset::DOORBELLS) / stride;
        // The last one needs no stride, but its four bytes.
        let rest = (self.bar.len() - offset::DOORBELLS) % stride;
        let doorbells = doorbells + usize::from(rest >= 4);
        let pairs = (doorbells / 2).saturating_sub(1);
        u16::try_from(pairs).unwrap_or(u16::MAX).min(PAIRS_WANTED)
    }

    /// CC.EN = 0 until CSTS.RDY = 0: the controller makes no access to memory then.
    pub(super) async fn disable(&mut self) -> Result<(), Trouble> {
        self.enabled = false;
        let timeout = capabilities(&*self.bar).ready_timeout();
        let configuration = self.bar.r32(offset::CC);
        let was = self.csts_even_fatal()?;
        // A link that came up between the two reads.
        if configuration == u32::MAX {
            self.gone = true;
            return Err(Trouble::Gone);
        }
        if was.is_fatal() {
            // What firmware keeps that has crashed, nobody says.
            self.lose_cache("it had failed (CSTS.CFS)");
        }
        if Configuration::is_enabled(configuration) {
            if !was.is_ready() && !was.is_fatal() {
                // It is being enabled, which is not to be taken back half way.
                self.await_ready(true, timeout).await?;
            }
            self.bar.w32(offset::CC, configuration & !1);
            let late = self
                .bar
                .function()
                .map_or(Duration::ZERO, Function::ready_late);
            if !late.is_zero() {
                self.pause(self.now() + late).await?;
            }
        }
        if self.await_ready(false, timeout).await? {
            return Ok(());
        }
        Err(ControllerError::StaysReady(timeout).into())
    }

    /// As `csts`, for a controller that may have failed.
    pub(super) fn csts_even_fatal(&mut self) -> Result<Status, Trouble> {
        let csts = status(&*self.bar);
        if csts.is_gone() {
            self.gone = true;
            return Err(Trouble::Gone);
        }
        Ok(csts)
    }

    /// Whether CSTS.RDY has become `wanted` in time. A controller that has failed never becomes
    /// ready.
    async fn await_ready(&mut self, wanted: bool, timeout: Duration) -> Result<bool, Trouble> {
        let until = self.now() + timeout;
        loop {
            let csts = self.csts_even_fatal()?;
            if csts.is_ready() == wanted {
                return Ok(true);
            }
            if csts.is_fatal() && wanted {
                return Ok(false);
            }
            if self.now() >= until {
                return Ok(false);
            }
            self.turn(REGISTER_LOOK).await?;
        }
    }

    async fn enable(&mut self, caps: Capabilities) -> Result<(), Trouble> {
        self.admin.program(&*self.bar, caps)?;
        let configuration = Configuration {
            enable: true,
            all_command_sets: caps.command_sets(),
            page_shift: PAGE_SHIFT,
        };
        self.bar.w32(offset::CC, configuration.register());
        self.unanswered = false;
        let mut timeout = caps.ready_timeout();
        if caps.ready_with_media() && self.bar.len() >= offset::CRTO + 4 {
            let said = ready_with_media_timeout(self.bar.r32(offset::CRTO));
            timeout = timeout.max(said.min(READY_MAX));
        }
        if !self.await_ready(true, timeout).await? {
            self.csts()?;
            return Err(ControllerError::NeverReady(timeout).into());
        }
        self.enabled = true;
        Ok(())
    }

    /// A data structure of Identify.
    pub(super) async fn identify(&mut self, what: Identify) -> Result<Box<Page>, Trouble> {
        let entry = self.command_with_data(command::identify(what)).await?;
        good(&entry, "Identify")?;
        Ok(self.identify_data())
    }

    pub(super) fn identify_data(&self) -> Box<Page> {
        let mut page = Box::new([0; IDENTIFY_BYTES]);
        self.admin.copy_data(0..IDENTIFY_BYTES, &mut *page);
        page
    }

    /// Limits that only newer controllers know of.
    async fn nvm_controller(
        &mut self,
        caps: Capabilities,
        version: Version,
    ) -> Result<NvmControllerData, Trouble> {
        let none = NvmControllerData::default();
        if !caps.command_sets() && version < Version::V2_0 {
            return Ok(none);
        }
        let entry = command::identify(Identify::NvmController);
        let entry = self.command_with_data(entry).await?;
        if !entry.status().is_success() {
            return Ok(none);
        }
        Ok(NvmControllerData::parse(&self.identify_data()))
    }

    /// How many queue pairs there may be (§5.27.1.5), at least one.
    async fn number_of_queues(&mut self) -> Result<u16, Trouble> {
        let wanted = command::queues_wanted(PAIRS_WANTED);
        let none = NamespaceId::NONE;
        let entry = command::set_feature(feature::NUMBER_OF_QUEUES, none, wanted);
        let entry = self.command(entry).await?;
        good(&entry, "Set Features (Number of Queues)")?;
        let granted = command::queues_granted(entry.result());
        Ok(u16::try_from(granted).unwrap_or(u16::MAX))
    }

    /// Has statuses name delays of retries (§5.27.1.18: ACRE), where the controller knows any. One
    /// that refuses names none.
    async fn configure_retries(&mut self, data: &ControllerData) -> Result<(), Trouble> {
        self.facts.set_retry_delays(data.retry_delays);
        if data.retry_delays == [0; 3] {
            return Ok(());
        }
        self.admin.clear_data();
        self.admin.put_data(&[1, 0, 0, 0]);
        let none = NamespaceId::NONE;
        let mut entry = command::set_feature(feature::HOST_BEHAVIOR, none, 0);
        entry.set_prps(self.admin.data()?.0, 0);
        self.command(entry).await?;
        Ok(())
    }

    /// Which events are told (§5.27.1.8). A controller that knows some of them tells those.
    async fn configure_events(&mut self, data: &ControllerData) -> Result<(), Trouble> {
        let namespaces = if data.tells_namespaces {
            events::NAMESPACES
        } else {
            0
        };
        let firmware = if data.tells_firmware {
            events::FIRMWARE
        } else {
            0
        };
        for value in [events::HEALTH | namespaces | firmware, events::HEALTH] {
            let none = NamespaceId::NONE;
            let entry = command::set_feature(feature::ASYNCHRONOUS_EVENTS, none, value);
            if self.command(entry).await?.status().is_success() {
                return Ok(());
            }
        }
        // It keeps its own choice.
        Ok(())
    }

    /// Shadow doorbells (§5.8), new ones each time: cores may still write to the old ones.
    async fn configure_shadow(
        &mut self,
        data: &ControllerData,
        caps: Capabilities,
    ) -> Result<(), Trouble> {
        self.shadow = None;
        if !data.shadow_doorbells
            || !Shadow::<D>::covers(caps.completion_doorbell(1) - offset::DOORBELLS)
        {
            return Ok(());
        }
        let Ok(shadow) = admin::shadow(&self.space) else {
            // They only spare time.
            return Ok(());
        };
        let (doorbells, indices) = shadow.iovas()?;
        let mut entry = command::doorbell_buffer_config();
        entry.set_prps(doorbells.0, indices.0);
        let shadow = Arc::new(shadow);
        // Kept until the controller is disabled, whatever it answers or does not.
        self.shadow = Some(Arc::clone(&shadow));
        self.admin.use_shadow(shadow);
        if !self.command(entry).await?.status().is_success() {
            self.admin.drop_shadow();
            self.shadow = None;
        }
        Ok(())
    }
}

/// Whether it is a controller that can be served at all.
fn check(data: &ControllerData) -> Result<(), ControllerError> {
    if !matches!(data.kind, ControllerType::NotReported | ControllerType::Io) {
        return Err(ControllerError::Kind(data.kind));
    }
    let shifts = (data.submission_shift, data.completion_shift);
    if shifts.0 > SUBMISSION_SHIFT || shifts.1 > COMPLETION_SHIFT {
        return Err(ControllerError::EntrySizes(shifts.0, shifts.1));
    }
    Ok(())
}

/// What is used of what it can do.
fn limits(
    (caps, data, nvm): (Capabilities, &ControllerData, NvmControllerData),
    queue_pairs: u16,
    settings: Settings,
    bar: &impl Bar,
) -> Limits {
    let transfer = data.transfer_bytes_max(caps.page_shift_min());
    let most = u64::from(TRANSFER_BYTES_MAX);
    let page = PAGE_BYTES as u64;
    let bytes = transfer.unwrap_or(most).min(most) / page * page;
    let entries = settings.queue_entries.clamp(2, QUEUE_ENTRIES_MAX);
    let entries = entries.max(quirks(bar.function()).entries_min);
    let entries_max = u16::try_from(caps.queue_entries_max()).unwrap_or(u16::MAX);
    // Without a limit of their own they keep to that of transfers: some are slow.
    let zeroes = nvm
        .write_zeroes_pages_shift
        .and_then(|shift| 1_u64.checked_shl(u32::from(caps.page_shift_min()) + u32::from(shift)))
        .or(transfer)
        .unwrap_or(ZEROES_BYTES_MAX)
        .clamp(page, ZEROES_BYTES_MAX);
    let deallocate = DeallocateLimits {
        ranges: nvm
            .ranges_max
            .map_or_else(|| u16::try_from(RANGES_MAX).expect("256"), u16::from),
        range_blocks: nvm.range_blocks_max.unwrap_or(u32::MAX),
        blocks: nvm.deallocate_blocks_max.unwrap_or(u64::MAX),
    };
    Limits {
        queue_entries: entries.min(entries_max),
        queue_pairs,
        transfer_bytes: u32::try_from(bytes.max(page)).expect("at most 1 MiB"),
        write_zeroes_bytes: data.write_zeroes.then_some(zeroes),
        deallocate: data.deallocate.then_some(deallocate),
        write_cache: data.write_cache,
    }
}

/// Whether a controller that was reset is the one that it was, and can do what was promised.
fn still(before: &Identity, now: &Identity) -> Result<(), ControllerError> {
    let changed = |what: &str, before: &dyn Debug, now: &dyn Debug| {
        Err(ControllerError::Changed(format!(
            "{what} was {before:?} and is {now:?}"
        )))
    };
    let (old, new) = (&before.data, &now.data);
    if old.serial != new.serial {
        return changed("its serial number", &old.serial, &new.serial);
    }
    if old.model != new.model {
        return changed("its model", &old.model, &new.model);
    }
    let (old, new) = (before.limits, now.limits);
    let less = new.queue_entries < old.queue_entries
        || new.transfer_bytes < old.transfer_bytes
        || new.write_zeroes_bytes < old.write_zeroes_bytes
        || new.write_cache != old.write_cache
        || match (old.deallocate, new.deallocate) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(old), Some(new)) => {
                new.ranges < old.ranges
                    || new.range_blocks < old.range_blocks
                    || new.blocks < old.blocks
            }
        };
    if less || before.caps.doorbell_stride() != now.caps.doorbell_stride() {
        return changed("what it can do", &old, &new);
    }
    Ok(())
}
