//! A logical unit as one core knows it: who it is, what its device can do, whether it is ready.
//!
//! Every core holds a replica, so that commands read it without sharing. A replica changes only by
//! [`LogicalUnit::apply`], which all cores call with what the unit's home core has decided, and by
//! what its device reports ([`LogicalUnit::set_ready`]). It holds no memory outside itself but the
//! device information, so a clone for each core is cheap.
//!
//! The identity does not follow from the name of the unit: it is made once and kept, so that a
//! renamed unit is still the same disk to its initiators.

use std::sync::Arc;

use arrayvec::ArrayString;
use thiserror::Error;

use super::activity::Activity;
use super::asymmetric_access::PortGroups;
use super::change::{KeptSanitize, NonVolatile};
use super::copy::token::{TokenKey, Tokens};
use super::job::{SANITIZE_COMMAND_FAILED, Sanitize};
use super::provisioning::{Level, Policy, Provisioning};
use super::reservations::{Matching, Reservations};
use super::sbc::prevent_allow_medium_removal::Medium;
use super::sense::{AdditionalSense, Sense, SenseFormat, SenseKey, SenseSpecific};
use super::spc::echo_buffer::Echo;
use super::spc::mode_pages::{ModeParameters, Qerr};
use crate::backend::{Designators, DeviceInfo, Operation, Usage};

/// T10 VENDOR IDENTIFICATION of every unit, exactly 8 characters.
pub const VENDOR: &str = "IIBLOCKD";

/// Longest product name, in characters (INQUIRY's field).
pub const PRODUCT_CHARS_MAX: usize = 16;

/// Longest product revision, in characters (INQUIRY's field).
pub const REVISION_CHARS_MAX: usize = 4;

/// Longest serial number, in characters.
pub const SERIAL_CHARS_MAX: usize = 64;

/// Longest target name, in bytes (RFC 7143 §4.2.7).
pub const TARGET_NAME_BYTES_MAX: usize = 223;

/// Longest address in VPD page 85h, in bytes.
pub const MANAGEMENT_URL_BYTES_MAX: usize = 255;

/// Block size that a unit reports as long as its device never was attached.
const BLOCK_SIZE_UNKNOWN: u32 = 512;

/// What names a logical unit for ever.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    product: ArrayString<PRODUCT_CHARS_MAX>,
    revision: ArrayString<REVISION_CHARS_MAX>,
    serial: ArrayString<SERIAL_CHARS_MAX>,
    naa: u64,
    uuid: [u8; 16],
}

/// Why an identity was refused. SPC-4's ASCII fields have the characters 20h to 7Eh.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum IdentityError {
    #[error("{field} is longer than {max} characters")]
    TooLong { field: &'static str, max: usize },
    #[error("{field} has a character that is not printable ASCII")]
    NotPrintable { field: &'static str },
    #[error("{field} is empty")]
    Empty { field: &'static str },
}

impl Identity {
    /// `naa`: 60 bits of the locally assigned NAA designator; its upper four bits are replaced by
    /// the format 3h (SPC-4, NAA Locally Assigned designator). `uuid`: in the order of RFC 4122's
    /// fields.
    pub fn new(
        product: &str,
        revision: &str,
        serial: &str,
        naa: u64,
        uuid: [u8; 16],
    ) -> Result<Self, IdentityError> {
        Ok(Self {
            product: text("product", product)?,
            revision: text("revision", revision)?,
            serial: text("serial", serial)?,
            naa: naa & 0x0fff_ffff_ffff_ffff | 0x3000_0000_0000_0000,
            uuid,
        })
    }

    pub fn product(&self) -> &str {
        &self.product
    }

    pub fn revision(&self) -> &str {
        &self.revision
    }

    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The NAA designator, format 3h included.
    pub fn naa(&self) -> u64 {
        self.naa
    }

    pub fn uuid(&self) -> &[u8; 16] {
        &self.uuid
    }
}

fn text<const MAX: usize>(
    field: &'static str,
    value: &str,
) -> Result<ArrayString<MAX>, IdentityError> {
    if value.is_empty() {
        return Err(IdentityError::Empty { field });
    }
    if !value.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
        return Err(IdentityError::NotPrintable { field });
    }
    ArrayString::from(value).map_err(|_| IdentityError::TooLong { field, max: MAX })
}

/// Whether the device behind a unit can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadyState {
    Ready,
    NotReady(NotReadyReason),
}

/// Why it cannot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotReadyReason {
    /// The backing object is missing or was refused: someone must look at it.
    Missing,
    /// It is being attached or recovered, and needs only time.
    BecomingReady,
    /// It failed, cause not known.
    Failed,
    /// It was taken away, and may come back.
    Absent,
}

impl NotReadyReason {
    const fn additional_sense(self) -> AdditionalSense {
        match self {
            Self::Missing => AdditionalSense::MANUAL_INTERVENTION_REQUIRED,
            Self::BecomingReady => AdditionalSense::BECOMING_READY,
            Self::Failed => AdditionalSense::LOGICAL_UNIT_NOT_READY,
            Self::Absent => AdditionalSense::MEDIUM_NOT_PRESENT,
        }
    }
}

/// One core's replica of a logical unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogicalUnit {
    identity: Identity,
    info: DeviceInfo,
    read_only: bool,
    ready: ReadyState,
    started: bool,
    /// Whether commands can use the medium: ready, started, not ejected, and no sanitize operation
    /// goes on or has failed.
    usable: bool,
    /// PROGRESS INDICATION of a sanitize operation.
    sanitize_progress: u16,
    long_cdbs: bool,
    pub(super) medium: Medium,
    /// The current values; `write_protected` and `write_through` follow from them.
    mode: ModeParameters,
    write_protected: bool,
    write_through: bool,
    /// How far SET TIMESTAMP has put the timestamp ahead of the clock, modulo 2^48.
    pub(super) timestamp_ahead_ms: Option<u64>,
    pub(super) echo: Option<Arc<Echo>>,
    management_url: Option<Arc<str>>,
    activity: Activity,
    pub(super) kept: NonVolatile,
    reservations: Arc<Reservations>,
    /// ROD tokens for its blocks.
    pub(super) tokens: Tokens,
    port_groups: PortGroups,
    provisioning: Provisioning,
}

impl LogicalUnit {
    /// A unit whose device is attached. `read_only`: configured so; a read-only device makes its
    /// unit read-only too.
    pub fn new(identity: Identity, info: DeviceInfo, read_only: bool) -> Self {
        let read_only = read_only || info.read_only;
        let mut unit = Self {
            identity,
            info,
            read_only,
            ready: ReadyState::Ready,
            started: true,
            usable: true,
            sanitize_progress: 0,
            long_cdbs: false,
            medium: Medium::default(),
            mode: ModeParameters::empty(),
            write_protected: false,
            write_through: false,
            timestamp_ahead_ms: None,
            echo: None,
            management_url: None,
            activity: Activity::new(1),
            kept: NonVolatile::default(),
            reservations: Arc::default(),
            tokens: Tokens::default(),
            port_groups: PortGroups::default(),
            provisioning: Provisioning::default(),
        };
        unit.set_mode(unit.mode_default());
        unit
    }

    /// A unit without a device: it answers who it is, and NOT READY to everything else.
    /// `read_only`: configured so.
    pub fn without_device(identity: Identity, read_only: bool, reason: NotReadyReason) -> Self {
        let info = DeviceInfo {
            block_size: BLOCK_SIZE_UNKNOWN,
            physical_block_exponent: 0,
            blocks: 0,
            read_only: false,
            write_cache: false,
            unmap: false,
            unmap_reads_zeroes: false,
            unmap_granularity: 1,
            atomic_write_blocks: 0,
            cryptographic_erase: false,
            non_rotating: true,
            thin: false,
            designators: Designators::default(),
        };
        let mut unit = Self::new(identity, info, read_only);
        unit.set_ready(ReadyState::NotReady(reason));
        unit
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Bytes in a logical block.
    pub fn block_size(&self) -> u32 {
        self.info.block_size
    }

    /// Whether nobody may write, whatever the mapping says.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    pub fn ready(&self) -> ReadyState {
        self.ready
    }

    /// Whether nobody may write now: as [`read_only`](Self::read_only) or by SWP of the Control
    /// mode page.
    pub fn write_protected(&self) -> bool {
        self.write_protected
    }

    /// The format of sense data, which the D_SENSE bit of the Control mode page selects
    /// (SPC-4, Control mode page).
    pub fn sense_format(&self) -> SenseFormat {
        if self.mode.contains(ModeParameters::D_SENSE) {
            SenseFormat::Descriptor
        } else {
            SenseFormat::Fixed
        }
    }

    /// Whether every write is to be on the medium when it is answered: the device has a volatile
    /// cache, and WCE of the Caching mode page is 0.
    pub fn write_through(&self) -> bool {
        self.write_through
    }

    /// What the device is to do where `operation` is asked for: without WCE, writes are durable.
    pub fn durable(&self, mut operation: Operation) -> Operation {
        if let Operation::Write { fua, .. } | Operation::WriteZeroes { fua, .. } = &mut operation {
            *fua |= self.write_through;
        }
        operation
    }

    /// TAS of the Control mode page: tasks that another nexus aborts end with TASK ABORTED.
    pub fn tas(&self) -> bool {
        self.mode.contains(ModeParameters::TAS)
    }

    /// QERR of the Control mode page.
    pub fn qerr(&self) -> Qerr {
        self.mode.qerr()
    }

    /// The current values of the mode parameters.
    pub fn mode(&self) -> ModeParameters {
        self.mode
    }

    /// What of them MODE SELECT may change: a cache that is not there cannot be turned on.
    pub fn mode_changeable(&self) -> ModeParameters {
        if self.info.write_cache {
            ModeParameters::all()
        } else {
            ModeParameters::all() - ModeParameters::WCE
        }
    }

    /// The default values.
    pub fn mode_default(&self) -> ModeParameters {
        let mut mode = ModeParameters::empty();
        mode.set(ModeParameters::WCE, self.info.write_cache);
        mode
    }

    /// The saved values: the default ones as long as none were saved, and for what cannot be
    /// changed on this device.
    pub fn mode_saved(&self) -> ModeParameters {
        let default = self.mode_default();
        let changeable = self.mode_changeable();
        let saved = self.kept.mode.unwrap_or(default);
        saved & changeable | (default - changeable)
    }

    /// What is kept of current values that are to be saved: what cannot be changed here stays as it
    /// was, for a device that can and comes later.
    pub(super) fn mode_to_keep(&self, current: ModeParameters) -> ModeParameters {
        let changeable = self.mode_changeable();
        let before = self.kept.mode.unwrap_or(ModeParameters::all());
        current & changeable | (before - changeable)
    }

    pub(super) fn set_mode(&mut self, mode: ModeParameters) {
        self.mode = mode;
        self.write_protected = self.read_only || mode.contains(ModeParameters::SWP);
        self.write_through = self.info.write_cache && !mode.contains(ModeParameters::WCE);
    }

    /// The same bits, set as MODE SELECT would.
    #[cfg(test)]
    pub(crate) fn set_task_control(&mut self, tas: bool, qerr: Qerr) {
        let mut mode = self.mode;
        mode.set(ModeParameters::TAS, tas);
        mode.set(ModeParameters::QERR_LOW, qerr != Qerr::Continue);
        mode.set(ModeParameters::QERR_HIGH, qerr == Qerr::AbortNexus);
        self.set_mode(mode);
    }

    /// The device came, went or recovered.
    pub fn set_ready(&mut self, ready: ReadyState) {
        self.ready = ready;
        self.update_usable();
    }

    /// The device has come that was missing: what was kept of the unit holds for it.
    pub(super) fn set_device(&mut self, info: &DeviceInfo) {
        self.info = info.clone();
        self.read_only |= info.read_only;
        self.set_mode(self.mode_saved());
        self.set_ready(ReadyState::Ready);
    }

    pub(super) fn set_started(&mut self, started: bool) {
        self.started = started;
        self.update_usable();
    }

    fn update_usable(&mut self) {
        self.usable = self.ready == ReadyState::Ready
            && self.started
            && !self.medium.ejected
            && self.kept.sanitize.is_none();
    }

    /// Whether nothing keeps commands from the medium: there is no [`Self::not_ready`].
    pub(super) fn is_usable(&self) -> bool {
        self.usable
    }

    pub(super) fn set_sanitize(&mut self, kept: Option<KeptSanitize>) {
        self.kept.sanitize = kept;
        self.sanitize_progress = 0;
        self.update_usable();
    }

    pub(super) fn set_sanitize_progress(&mut self, progress: u16) {
        self.sanitize_progress = progress;
    }

    /// The sanitize operation that has begun and not ended.
    pub fn sanitizing(&self) -> Option<&Sanitize> {
        let kept = self.kept.sanitize.as_ref().filter(|kept| !kept.failed);
        kept.map(|kept| &kept.what)
    }

    /// What almost every command is told meanwhile (SBC-3 §4.11).
    pub(super) fn sanitize_in_progress(&self) -> Option<Sense> {
        self.sanitizing().map(|_| Sense {
            specific: SenseSpecific::Progress(self.sanitize_progress),
            ..Sense::new(SenseKey::NotReady, AdditionalSense::SANITIZE_IN_PROGRESS)
        })
    }

    /// What almost every command is told after a sanitize operation that failed (SBC-3 §4.11).
    pub(super) fn sanitize_failed(&self) -> Option<Sense> {
        let failed = self.kept.sanitize.as_ref().filter(|kept| kept.failed);
        failed.map(|_| SANITIZE_COMMAND_FAILED)
    }

    /// Serves the 32-byte forms of the block commands; called before the unit serves anybody.
    pub fn serve_long_cdbs(&mut self) {
        self.long_cdbs = true;
    }

    /// Whether the 32-byte forms of the block commands are served.
    pub(super) fn long_cdbs(&self) -> bool {
        self.long_cdbs
    }

    /// The medium can be taken out (RMB of INQUIRY); called before the unit serves anybody.
    pub fn make_removable(&mut self) {
        self.medium.removable = true;
    }

    /// Where the daemon is managed, for VPD page 85h: at most [`MANAGEMENT_URL_BYTES_MAX`]; called
    /// before the unit serves anybody.
    pub fn set_management_url(&mut self, url: Option<Arc<str>>) {
        self.management_url = url.filter(|url| url.len() <= MANAGEMENT_URL_BYTES_MAX);
    }

    pub fn management_url(&self) -> Option<&str> {
        self.management_url.as_deref()
    }

    /// Gives each of so many cores counters of its own; called before the unit serves anybody.
    pub fn count_on(&mut self, cores: usize) {
        self.activity = Activity::new(cores);
    }

    /// The replica of `core`.
    pub fn replica(&self, core: usize) -> Self {
        Self {
            activity: self.activity.on(core),
            ..self.clone()
        }
    }

    pub(super) fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Whether the medium can be taken out.
    pub fn removable(&self) -> bool {
        self.medium.removable
    }

    /// What survives the end of the daemon.
    pub fn non_volatile(&self) -> &NonVolatile {
        &self.kept
    }

    /// Says how registrants are told apart; called before [`restore`](Self::restore).
    pub fn match_registrants_by(&mut self, matching: Matching) {
        self.reservations = Arc::new(Reservations::restored(matching, &Default::default()));
    }

    /// What the secrets of its ROD tokens are made from; set before the unit serves anybody.
    pub fn set_token_key(&mut self, key: TokenKey) {
        self.tokens.set_key(key);
    }

    /// Takes up what the daemon kept when it last ran; called before the unit serves anybody.
    pub fn restore(&mut self, kept: NonVolatile) {
        let matching = self.reservations.matching();
        self.reservations = Arc::new(Reservations::restored(matching, &kept.reservations));
        self.kept = NonVolatile {
            reservations: self.reservations.persistent(),
            ..kept
        };
        self.update_usable();
        self.set_mode(self.mode_saved());
    }

    /// Who is registered and who holds what.
    pub fn reservations(&self) -> &Reservations {
        &self.reservations
    }

    pub(super) fn set_reservations(&mut self, next: Arc<Reservations>) {
        self.kept.reservations = next.persistent();
        self.reservations = next;
    }

    /// The states of the ports that lead to the unit.
    pub fn port_groups(&self) -> &PortGroups {
        &self.port_groups
    }

    /// Replaces them: what is configured, before the unit serves anybody, and later what was
    /// decided.
    pub fn set_port_groups(&mut self, groups: PortGroups) {
        self.port_groups = groups;
    }

    /// Space behind the blocks, and what is configured of it.
    pub fn provisioning(&self) -> &Provisioning {
        &self.provisioning
    }

    /// What is configured of the unit's space; called before the unit serves anybody.
    pub fn set_space_policy(&mut self, policy: Policy) {
        self.provisioning.policy = policy;
    }

    pub(super) fn set_usage(&mut self, usage: Usage, level: Level) {
        self.provisioning.usage = Some(usage);
        self.provisioning.level = level;
    }

    /// The device holds so many logical blocks now.
    pub(super) fn set_capacity(&mut self, blocks: u64) {
        self.info.blocks = blocks;
    }

    /// Whether START STOP UNIT let the unit run.
    pub fn started(&self) -> bool {
        self.started
    }

    /// Why a command that needs the medium cannot have it now.
    pub fn not_ready(&self) -> Option<Sense> {
        if self.usable {
            return None;
        }
        if self.ready == ReadyState::Ready && self.kept.sanitize.is_some() {
            return self
                .sanitize_in_progress()
                .or_else(|| self.sanitize_failed());
        }
        let additional = match self.ready {
            ReadyState::NotReady(reason) => reason.additional_sense(),
            ReadyState::Ready if self.medium.ejected => AdditionalSense::MEDIUM_NOT_PRESENT,
            ReadyState::Ready => AdditionalSense::INITIALIZING_COMMAND_REQUIRED,
        };
        Some(Sense::new(SenseKey::NotReady, additional))
    }
}

/// The target port that a session came in by: one portal group of one target.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PortIdentity {
    target_name: ArrayString<TARGET_NAME_BYTES_MAX>,
    portal_group_tag: u16,
    relative_port: u16,
}

impl PortIdentity {
    /// `relative_port`: RELATIVE TARGET PORT IDENTIFIER, from 1, unique in the target. `None` when
    /// the name is longer than RFC 7143 allows.
    pub fn new(target_name: &str, portal_group_tag: u16, relative_port: u16) -> Option<Self> {
        let target_name = ArrayString::from(target_name).ok()?;
        Some(Self {
            target_name,
            portal_group_tag,
            relative_port,
        })
    }

    pub fn target_name(&self) -> &str {
        &self.target_name
    }

    pub fn portal_group_tag(&self) -> u16 {
        self.portal_group_tag
    }

    pub fn relative_port(&self) -> u16 {
        self.relative_port
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::change::Update;
    use crate::scsi::testbed;

    #[test]
    fn naa_is_always_format_3h() {
        let identity = Identity::new("disk", "0001", "S1", u64::MAX, [0; 16]).unwrap();
        assert_eq!(identity.naa(), 0x3fff_ffff_ffff_ffff);
    }

    #[test]
    fn identity_names_the_field_that_does_not_fit() {
        let long = "x".repeat(SERIAL_CHARS_MAX + 1);
        assert_eq!(
            Identity::new("disk", "0001", &long, 0, [0; 16]),
            Err(IdentityError::TooLong {
                field: "serial",
                max: SERIAL_CHARS_MAX
            })
        );
        assert_eq!(
            Identity::new("d\u{e9}", "0001", "S", 0, [0; 16]),
            Err(IdentityError::NotPrintable { field: "product" })
        );
        assert_eq!(
            Identity::new("disk", "", "S", 0, [0; 16]),
            Err(IdentityError::Empty { field: "revision" })
        );
    }

    #[test]
    fn read_only_device_makes_a_read_only_unit() {
        let mut info = testbed::info(512, 8);
        info.read_only = true;
        assert!(LogicalUnit::new(testbed::identity(), info, false).read_only());
    }

    #[test]
    fn stopped_unit_asks_to_be_started() {
        let mut unit = LogicalUnit::new(testbed::identity(), testbed::info(512, 8), false);
        assert_eq!(unit.not_ready(), None);
        unit.apply(&Update::Started(false));
        let sense = unit.not_ready().unwrap();
        assert_eq!(
            sense.additional,
            AdditionalSense::INITIALIZING_COMMAND_REQUIRED
        );
        unit.set_ready(ReadyState::NotReady(NotReadyReason::Failed));
        let sense = unit.not_ready().unwrap();
        assert_eq!(sense.additional, AdditionalSense::LOGICAL_UNIT_NOT_READY);
    }

    #[test]
    fn missing_device_needs_someone_to_look() {
        let unit = LogicalUnit::without_device(testbed::identity(), false, NotReadyReason::Missing);
        let sense = unit.not_ready().unwrap();
        assert_eq!(sense.key, SenseKey::NotReady);
        assert_eq!(sense.additional, AdditionalSense::new(0x04, 0x03));
    }

    #[test]
    fn target_name_is_bounded() {
        assert!(PortIdentity::new(&"n".repeat(TARGET_NAME_BYTES_MAX), 1, 1).is_some());
        assert_eq!(
            PortIdentity::new(&"n".repeat(TARGET_NAME_BYTES_MAX + 1), 1, 1),
            None
        );
    }
}
