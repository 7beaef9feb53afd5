//! Controller registers (NVM Express Base Specification 2.0 §3.1.3 and the PCIe Transport
//! Specification 1.0 §3.1): where they are, and their fields.
//!
//! Little-endian. A device that is gone reads as all ones, which [`Capabilities::is_gone`] and
//! [`Status::is_gone`] say; no working controller reads like that.

use std::time::Duration;

/// Offsets of registers from the start of BAR0, in bytes.
pub(crate) mod offset {
    /// Controller Capabilities, 8 bytes.
    pub(crate) const CAP: usize = 0x00;
    /// Version.
    pub(crate) const VS: usize = 0x08;
    /// Controller Configuration.
    pub(crate) const CC: usize = 0x14;
    /// Controller Status.
    pub(crate) const CSTS: usize = 0x1c;
    /// NVM Subsystem Reset.
    /// Admin Queue Attributes.
    pub(crate) const AQA: usize = 0x24;
    /// Admin Submission Queue Base Address, 8 bytes.
    pub(crate) const ASQ: usize = 0x28;
    /// Admin Completion Queue Base Address, 8 bytes.
    pub(crate) const ACQ: usize = 0x30;
    /// Controller Ready Timeouts.
    pub(crate) const CRTO: usize = 0x68;
    /// The first doorbell.
    pub(crate) const DOORBELLS: usize = 0x1000;
}

/// Unit of the times in CAP and CRTO.
const TIMEOUT_UNIT: Duration = Duration::from_millis(500);
/// Most entries of an admin queue (§3.1.3.8).
pub(crate) const ADMIN_ENTRIES_MAX: u16 = 4096;

/// The bits `low..low + width` of a register.
const fn bits(value: u64, low: u32, width: u32) -> u64 {
    (value >> low) & ((1 << width) - 1)
}

/// As [`bits`], for fields of at most 16 bits.
const fn bits16(value: u64, low: u32, width: u32) -> u16 {
    assert!(width <= 16);
    let bytes = bits(value, low, width).to_le_bytes();
    u16::from_le_bytes([bytes[0], bytes[1]])
}

/// As [`bits`], for fields of at most 8 bits.
const fn bits8(value: u64, low: u32, width: u32) -> u8 {
    assert!(width <= 8);
    bits(value, low, width).to_le_bytes()[0]
}

const fn bit(value: u64, at: u32) -> bool {
    bits(value, at, 1) == 1
}

/// CAP, Controller Capabilities (§3.1.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Capabilities(pub(crate) u64);

impl Capabilities {
    pub(crate) const fn is_gone(self) -> bool {
        self.0 == u64::MAX
    }

    /// Entries of an I/O queue at most: MQES + 1, so 2 to 65,536 (a controller that says 1 lies).
    pub(crate) const fn queue_entries_max(self) -> u32 {
        bits16(self.0, 0, 16) as u32 + 1
    }

    /// CQR: queues must be physically contiguous.
    #[cfg(test)]
    pub(crate) const fn contiguous_queues(self) -> bool {
        bit(self.0, 16)
    }

    /// TO: how long CSTS.RDY may take to follow CC.EN. (0 says nothing: one unit then.)
    pub(crate) fn ready_timeout(self) -> Duration {
        TIMEOUT_UNIT * u32::from(bits8(self.0, 24, 8)).max(1)
    }

    /// Bytes from one doorbell to the next: 4 << DSTRD, 4 to 128 KiB.
    pub(crate) const fn doorbell_stride(self) -> usize {
        4 << bits8(self.0, 32, 4)
    }

    /// CSS bit 0: the NVM command set.
    pub(crate) const fn nvm_command_set(self) -> bool {
        bit(self.0, 37)
    }

    /// CSS bit 6: one or more I/O command sets, to be told with CC.CSS = 110b.
    pub(crate) const fn command_sets(self) -> bool {
        bit(self.0, 43)
    }

    /// CSS bit 7: no I/O command set at all.
    pub(crate) const fn admin_only(self) -> bool {
        bit(self.0, 44)
    }

    /// MPSMIN: smallest memory page, as a power of two of bytes (12 and more).
    pub(crate) const fn page_shift_min(self) -> u8 {
        12 + bits8(self.0, 48, 4)
    }

    /// MPSMAX: largest memory page, as a power of two of bytes.
    #[cfg(test)]
    pub(crate) const fn page_shift_max(self) -> u8 {
        12 + bits8(self.0, 52, 4)
    }

    /// CRMS bit 0 (CRWMS): it becomes ready with its media, within CRTO.CRWMT.
    pub(crate) const fn ready_with_media(self) -> bool {
        bit(self.0, 59)
    }

    /// Where the doorbell of a submission queue's tail is (PCIe Transport §3.1.2.1).
    pub(crate) const fn submission_doorbell(self, queue: u16) -> usize {
        offset::DOORBELLS + 2 * queue as usize * self.doorbell_stride()
    }

    /// Where the doorbell of a completion queue's head is (PCIe Transport §3.1.2.2).
    pub(crate) const fn completion_doorbell(self, queue: u16) -> usize {
        offset::DOORBELLS + (2 * queue as usize + 1) * self.doorbell_stride()
    }
}

/// VS, Version (§3.1.3.2). Ordered as versions are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Version(pub(crate) u32);

impl Version {
    pub(crate) const V1_1: Self = Self(0x0001_0100);
    pub(crate) const V1_3: Self = Self(0x0001_0300);
    pub(crate) const V2_0: Self = Self(0x0002_0000);
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [tertiary, minor, major, high] = self.0.to_le_bytes();
        let major = u16::from_le_bytes([major, high]);
        write!(f, "{major}.{minor}")?;
        if tertiary != 0 {
            write!(f, ".{tertiary}")?;
        }
        Ok(())
    }
}

/// What CC is to say; [`Configuration::register`] is the register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Configuration {
    pub(crate) enable: bool,
    /// CSS: `false` the NVM command set (000b), `true` all that are supported (110b).
    pub(crate) all_command_sets: bool,
    /// MPS as a power of two of bytes, 12 to 27.
    pub(crate) page_shift: u8,
}

impl Configuration {
    /// CC (§3.1.3.5): round robin, submission entries of 2^6 and completion entries of 2^4 bytes.
    pub(crate) const fn register(self) -> u32 {
        let pages = self.page_shift.saturating_sub(12) as u32 & 0xf;
        let command_sets = if self.all_command_sets { 6 << 4 } else { 0 };
        (self.enable as u32) | command_sets | pages << 7 | 6 << 16 | 4 << 20
    }

    /// A register that was read, with a normal shutdown announced (SHN).
    pub(crate) const fn shut_down(register: u32) -> u32 {
        register & !(3 << 14) | 1 << 14
    }

    /// CC.EN of a register that was read.
    pub(crate) const fn is_enabled(register: u32) -> bool {
        register & 1 == 1
    }
}

/// CSTS.SHST (§3.1.3.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ShutdownStatus {
    Normal,
    Occurring,
    Complete,
    Reserved,
}

/// CSTS, Controller Status (§3.1.3.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Status(pub(crate) u32);

impl Status {
    pub(crate) const fn is_gone(self) -> bool {
        self.0 == u32::MAX
    }

    /// RDY. Never of a device that is gone.
    pub(crate) const fn is_ready(self) -> bool {
        !self.is_gone() && self.0 & 1 == 1
    }

    /// CFS: the controller has failed in a way that no completion can tell.
    pub(crate) const fn is_fatal(self) -> bool {
        !self.is_gone() && self.0 & 2 == 2
    }

    pub(crate) const fn shutdown(self) -> ShutdownStatus {
        match (self.0 >> 2) & 3 {
            0 => ShutdownStatus::Normal,
            1 => ShutdownStatus::Occurring,
            2 => ShutdownStatus::Complete,
            _ => ShutdownStatus::Reserved,
        }
    }
}

/// AQA, Admin Queue Attributes (§3.1.3.8), for queues of 2 to [`ADMIN_ENTRIES_MAX`] entries.
pub(crate) fn admin_queue_attributes(submissions: u16, completions: u16) -> u32 {
    let good = 2..=ADMIN_ENTRIES_MAX;
    assert!(
        good.contains(&submissions) && good.contains(&completions),
        "an admin queue has 2 to {ADMIN_ENTRIES_MAX} entries"
    );
    u32::from(completions - 1) << 16 | u32::from(submissions - 1)
}

/// CRTO, Controller Ready Timeouts (§3.1.3.17): CRWMT, how long it takes to be ready with its
/// media. Meant only with [`Capabilities::ready_with_media`].
pub(crate) fn ready_with_media_timeout(crto: u32) -> Duration {
    TIMEOUT_UNIT * u32::from(bits16(crto.into(), 0, 16)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// QEMU 7.2's controller: MQES 2047, CQR, TO 15, CSS NVM and I/O sets, MPSMAX 4.
    const QEMU: Capabilities = Capabilities(0x0040_0820_0f01_07ff);

    #[test]
    fn capabilities_of_a_known_controller() {
        assert_eq!(QEMU.queue_entries_max(), 2048);
        assert!(QEMU.contiguous_queues());
        assert_eq!(QEMU.ready_timeout(), Duration::from_millis(7500));
        assert_eq!(QEMU.doorbell_stride(), 4);
        assert!(QEMU.nvm_command_set() && QEMU.command_sets() && !QEMU.admin_only());
        assert!(!QEMU.ready_with_media());
        assert_eq!((QEMU.page_shift_min(), QEMU.page_shift_max()), (12, 16));
        assert!(!QEMU.is_gone());
        assert!(Capabilities(u64::MAX).is_gone());
    }

    #[test]
    fn each_capability_has_its_bit() {
        let only = |at: u32| Capabilities(1 << at);
        assert!(only(44).admin_only());
        assert!(only(59).ready_with_media());
        assert_eq!(Capabilities(0xffff).queue_entries_max(), 65_536);
        assert_eq!(
            Capabilities(0).ready_timeout(),
            Duration::from_millis(500),
            "no wait of no time"
        );
        assert_eq!(Capabilities(3 << 48).page_shift_min(), 15);
    }

    #[test]
    fn doorbells_follow_the_stride() {
        assert_eq!(QEMU.submission_doorbell(0), 0x1000);
        assert_eq!(QEMU.completion_doorbell(0), 0x1004);
        assert_eq!(QEMU.submission_doorbell(3), 0x1018);
        let wide = Capabilities(2 << 32);
        assert_eq!(wide.doorbell_stride(), 16);
        assert_eq!(wide.submission_doorbell(1), 0x1020);
        assert_eq!(wide.completion_doorbell(1), 0x1030);
        let widest = Capabilities(0xf << 32);
        assert_eq!(widest.doorbell_stride(), 128 << 10);
    }

    #[test]
    fn configuration_and_status_have_their_bits() {
        let on = Configuration {
            enable: true,
            all_command_sets: false,
            page_shift: 12,
        };
        assert_eq!(on.register(), 0x0046_0001);
        assert_eq!(Configuration::shut_down(0x0046_8001), 0x0046_4001);
        assert!(Configuration::is_enabled(on.register()));
        let leaving = Configuration {
            all_command_sets: true,
            page_shift: 13,
            ..on
        };
        let leaving = Configuration::shut_down(leaving.register());
        assert_eq!(leaving, 0x0046_40e1);
        assert!(Status(1).is_ready() && !Status(1).is_fatal());
        assert!(Status(3).is_fatal());
        assert_eq!(Status(1).shutdown(), ShutdownStatus::Normal);
        assert_eq!(Status(5).shutdown(), ShutdownStatus::Occurring);
        assert_eq!(Status(9).shutdown(), ShutdownStatus::Complete);
        assert_eq!(Status(13).shutdown(), ShutdownStatus::Reserved);
        let gone = Status(u32::MAX);
        assert!(gone.is_gone() && !gone.is_ready() && !gone.is_fatal());
    }

    #[test]
    fn versions_are_ordered_and_readable() {
        assert!(Version(0x0001_0000) < Version::V1_1 && Version::V1_3 < Version::V2_0);
        assert_eq!(Version::V1_3.to_string(), "1.3");
        assert_eq!(Version(0x0001_0201).to_string(), "1.2.1");
    }

    #[test]
    fn sizes_and_times_of_the_admin_registers() {
        assert_eq!(admin_queue_attributes(32, 64), 0x003f_001f);
        assert_eq!(admin_queue_attributes(4096, 4096), 0x0fff_0fff);
        assert_eq!(
            ready_with_media_timeout(0x0001_0004),
            Duration::from_secs(2)
        );
    }

    #[test]
    #[should_panic(expected = "an admin queue has 2 to 4096 entries")]
    fn an_admin_queue_of_one_entry_is_a_mistake() {
        admin_queue_attributes(1, 64);
    }
}
