//! What Identify returns (NVM Express Base Specification 2.0 §5.17, NVM Command Set Specification
//! 1.0 §4.1.5): the controller, a namespace, its identifiers, the list of namespaces.
//!
//! Sizes and limits that the standard writes as exponents or from zero are plain numbers here;
//! "no limit" is `None`.

use super::Fields;
use super::entry::NamespaceId;
use super::registers::Version;

/// Bytes of every Identify data structure.
pub(crate) const PAGE_BYTES: usize = 4096;

/// One data structure.
pub(crate) type Page = [u8; PAGE_BYTES];

/// Offsets in the Identify Controller data structure (§5.17.2.1).
mod controller {
    pub(super) const VID: usize = 0;
    pub(super) const SN: usize = 4;
    pub(super) const MN: usize = 24;
    pub(super) const FR: usize = 64;
    pub(super) const MDTS: usize = 77;
    pub(super) const CNTLID: usize = 78;
    pub(super) const VER: usize = 80;
    pub(super) const RTD3E: usize = 88;
    pub(super) const OAES: usize = 92;
    pub(super) const CTRATT: usize = 96;
    pub(super) const CNTRLTYPE: usize = 111;
    pub(super) const CRDT1: usize = 128;
    pub(super) const OACS: usize = 256;
    pub(super) const ACL: usize = 258;
    pub(super) const AERL: usize = 259;
    pub(super) const ELPE: usize = 262;
    pub(super) const WCTEMP: usize = 266;
    pub(super) const CCTEMP: usize = 268;
    pub(super) const SQES: usize = 512;
    pub(super) const CQES: usize = 513;
    pub(super) const NN: usize = 516;
    pub(super) const ONCS: usize = 520;
    pub(super) const VWC: usize = 525;
    pub(super) const AWUPF: usize = 528;
    pub(super) const SUBNQN: usize = 768;
    pub(super) const SUBNQN_BYTES: usize = 256;
}

/// What kind of controller it is (CNTRLTYPE).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ControllerType {
    /// Before 1.4 it was not said.
    NotReported,
    Io,
    Discovery,
    Administrative,
    Reserved(u8),
}

/// Identify Controller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ControllerData {
    pub(crate) vendor: u16,
    pub(crate) serial: String,
    pub(crate) model: String,
    pub(crate) firmware: String,
    /// MDTS: pages (of CAP.MPSMIN) of one transfer, as a power of two.
    pub(crate) transfer_pages_shift: Option<u8>,
    pub(crate) id: u16,
    pub(crate) version: Version,
    /// RTD3E: how long a shutdown takes, in microseconds; 0 is not said.
    pub(crate) shutdown_us: u32,
    /// OAES bit 8: a change of a namespace is told.
    pub(crate) tells_namespaces: bool,
    /// OAES bit 9: that new firmware is active is told.
    pub(crate) tells_firmware: bool,
    /// CTRATT.
    pub(crate) attributes: u32,
    pub(crate) kind: ControllerType,
    /// CRDT1 to CRDT3: delays of retries, in units of 100 ms.
    pub(crate) retry_delays: [u16; 3],
    /// OACS bit 8: Doorbell Buffer Config.
    pub(crate) shadow_doorbells: bool,
    /// ACL + 1: Aborts outstanding at once.
    pub(crate) aborts_max: u16,
    /// AERL + 1: Asynchronous Event Requests outstanding at once.
    pub(crate) events_max: u16,
    /// ELPE + 1: entries of the error log.
    pub(crate) error_entries: u16,
    /// WCTEMP and CCTEMP, in kelvin; 0 is not said.
    pub(crate) warning_kelvin: u16,
    pub(crate) critical_kelvin: u16,
    /// SQES: smallest entry of a submission queue, as a power of two.
    pub(crate) submission_shift: u8,
    /// CQES, likewise.
    pub(crate) completion_shift: u8,
    /// NN: the highest NSID.
    pub(crate) namespaces_max: u32,
    /// ONCS: optional commands.
    pub(crate) compare: bool,
    pub(crate) deallocate: bool,
    pub(crate) write_zeroes: bool,
    pub(crate) verify: bool,
    /// VWC bit 0: there is a volatile write cache.
    pub(crate) write_cache: bool,
    /// AWUPF + 1, in logical blocks.
    pub(crate) atomic_power_fail_blocks: u32,
    pub(crate) subsystem: String,
}

impl ControllerData {
    pub(crate) fn parse(page: &Page) -> Self {
        use controller as at;
        let page = Fields(page);
        let optional = page.u16(at::ONCS);
        let events = page.u32(at::OAES);
        let from_zero = |at| u32::from(page.u16(at)) + 1;
        Self {
            vendor: page.u16(at::VID),
            serial: page.text(at::SN, at::MN - at::SN),
            model: page.text(at::MN, at::FR - at::MN),
            firmware: page.text(at::FR, 8),
            transfer_pages_shift: Some(page.byte(at::MDTS)).filter(|&shift| shift != 0),
            id: page.u16(at::CNTLID),
            version: Version(page.u32(at::VER)),
            shutdown_us: page.u32(at::RTD3E),
            tells_namespaces: events & 1 << 8 != 0,
            tells_firmware: events & 1 << 9 != 0,
            attributes: page.u32(at::CTRATT),
            kind: match page.byte(at::CNTRLTYPE) {
                0 => ControllerType::NotReported,
                1 => ControllerType::Io,
                2 => ControllerType::Discovery,
                3 => ControllerType::Administrative,
                other => ControllerType::Reserved(other),
            },
            retry_delays: [0, 2, 4].map(|nth| page.u16(at::CRDT1 + nth)),
            shadow_doorbells: page.u16(at::OACS) & 1 << 8 != 0,
            aborts_max: u16::from(page.byte(at::ACL)) + 1,
            events_max: u16::from(page.byte(at::AERL)) + 1,
            error_entries: u16::from(page.byte(at::ELPE)) + 1,
            warning_kelvin: page.u16(at::WCTEMP),
            critical_kelvin: page.u16(at::CCTEMP),
            submission_shift: page.byte(at::SQES) & 0xf,
            completion_shift: page.byte(at::CQES) & 0xf,
            namespaces_max: page.u32(at::NN),
            compare: optional & 1 << 0 != 0,
            deallocate: optional & 1 << 2 != 0,
            write_zeroes: optional & 1 << 3 != 0,
            verify: optional & 1 << 7 != 0,
            write_cache: page.bit(at::VWC, 0),
            atomic_power_fail_blocks: from_zero(at::AWUPF),
            subsystem: page.text(at::SUBNQN, at::SUBNQN_BYTES),
        }
    }

    /// Bytes of one transfer at most, where `page_shift` is CAP.MPSMIN's.
    pub(crate) fn transfer_bytes_max(&self, page_shift: u8) -> Option<u64> {
        let shift = u32::from(page_shift) + u32::from(self.transfer_pages_shift?);
        1_u64.checked_shl(shift)
    }
}

/// Identify Controller of the NVM command set, CNS 06h (NVM Command Set §4.1.5.4): limits of
/// commands, each `None` where the controller knows none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct NvmControllerData {
    /// WZSL: pages (of CAP.MPSMIN) of one Write Zeroes, as a power of two.
    pub(crate) write_zeroes_pages_shift: Option<u8>,
    /// DMRL: ranges of one Dataset Management.
    pub(crate) ranges_max: Option<u8>,
    /// DMRSL: blocks of one range.
    pub(crate) range_blocks_max: Option<u32>,
    /// DMSL: blocks of all ranges of one command.
    pub(crate) deallocate_blocks_max: Option<u64>,
}

impl NvmControllerData {
    pub(crate) fn parse(page: &Page) -> Self {
        let page = Fields(page);
        let shift = |at| Some(page.byte(at)).filter(|&shift| shift != 0);
        Self {
            write_zeroes_pages_shift: shift(1),
            ranges_max: shift(3),
            range_blocks_max: Some(page.u32(4)).filter(|&blocks| blocks != 0),
            deallocate_blocks_max: Some(page.u64(8)).filter(|&blocks| blocks != 0),
        }
    }
}

/// Offsets in the Identify Namespace data structure (NVM Command Set §4.1.5.1).
mod namespace {
    pub(super) const NSZE: usize = 0;
    pub(super) const NCAP: usize = 8;
    pub(super) const NSFEAT: usize = 24;
    pub(super) const NLBAF: usize = 25;
    pub(super) const FLBAS: usize = 26;
    pub(super) const DPS: usize = 29;
    pub(super) const DLFEAT: usize = 33;
    pub(super) const NAWUPF: usize = 36;
    pub(super) const NABO: usize = 42;
    pub(super) const NABSPF: usize = 44;
    pub(super) const NOIOB: usize = 46;
    pub(super) const NPDG: usize = 68;
    pub(super) const NSATTR: usize = 99;
    pub(super) const NGUID: usize = 104;
    pub(super) const EUI64: usize = 120;
    pub(super) const LBAF: usize = 128;
    /// Formats that there may be.
    pub(super) const FORMATS: usize = 64;
}

/// What a namespace says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NamespaceData {
    /// NSZE: logical blocks; 0 where the namespace is not active.
    pub(crate) blocks: u64,
    /// NCAP: those that may be allocated at once.
    pub(crate) capacity: u64,
    /// NSFEAT bit 0: it is thin provisioned.
    pub(crate) thin: bool,
    /// NSFEAT bit 1: the atomic sizes below are its own.
    pub(crate) own_atomics: bool,
    /// NSFEAT bit 4: the preferred granularities below are meant.
    pub(crate) own_granularities: bool,
    pub(crate) format: Format,
    /// DPS bits 2:0: type of protection information; 0 there is none.
    pub(crate) protection: u8,
    /// DLFEAT bits 2:0 = 001b: deallocated blocks read as zeroes.
    pub(crate) deallocated_reads_zeroes: bool,
    /// DLFEAT bit 3: Write Zeroes can deallocate.
    pub(crate) write_zeroes_deallocates: bool,
    /// NAWUPF as it is: from zero, meant with `own_atomics`.
    pub(crate) atomic_power_fail: u16,
    /// NABO and NABSPF as they are: an atomic write may not cross a multiple of NABSPF + 1 blocks
    /// behind NABO, where NABSPF is not 0.
    pub(crate) boundary_offset: u16,
    pub(crate) boundary_power_fail: u16,
    /// NOIOB: blocks between boundaries that a command should not cross; 0 there are none.
    pub(crate) optimal_boundary: u16,
    /// NPDG + 1, in blocks: the preferred size of deallocations.
    pub(crate) deallocate_granularity: u32,
    /// NSATTR bit 0: currently write protected.
    pub(crate) write_protected: bool,
    /// All zeroes where there is none.
    pub(crate) nguid: [u8; 16],
    pub(crate) eui64: [u8; 8],
}

/// How the blocks of a namespace look (FLBAS and its LBA format).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Format {
    /// LBADS: bytes of a logical block, as a power of two. Anything; 9 and 12 are served.
    pub(crate) block_shift: u8,
    /// MS: bytes of metadata with each block.
    pub(crate) metadata_bytes: u16,
    /// FLBAS bit 4: the metadata lies behind each block's data.
    pub(crate) extended: bool,
}

impl NamespaceData {
    pub(crate) fn parse(page: &Page) -> Self {
        use namespace as at;
        let fields = Fields(page);
        Self {
            blocks: fields.u64(at::NSZE),
            capacity: fields.u64(at::NCAP),
            thin: fields.bit(at::NSFEAT, 0),
            own_atomics: fields.bit(at::NSFEAT, 1),
            own_granularities: fields.bit(at::NSFEAT, 4),
            format: Format::parse(fields),
            protection: fields.byte(at::DPS) & 7,
            deallocated_reads_zeroes: fields.byte(at::DLFEAT) & 7 == 1,
            write_zeroes_deallocates: fields.bit(at::DLFEAT, 3),
            atomic_power_fail: fields.u16(at::NAWUPF),
            boundary_offset: fields.u16(at::NABO),
            boundary_power_fail: fields.u16(at::NABSPF),
            optimal_boundary: fields.u16(at::NOIOB),
            deallocate_granularity: u32::from(fields.u16(at::NPDG)) + 1,
            write_protected: fields.bit(at::NSATTR, 0),
            nguid: fields.bytes(at::NGUID),
            eui64: fields.bytes(at::EUI64),
        }
    }
}

impl Format {
    fn parse(page: Fields<'_>) -> Self {
        use namespace as at;
        let flbas = page.byte(at::FLBAS);
        // With at most 16 formats the upper bits of the index are reserved.
        let high = if page.byte(at::NLBAF) > 15 {
            usize::from(flbas >> 5 & 3)
        } else {
            0
        };
        let index = high << 4 | usize::from(flbas & 0xf);
        debug_assert!(index < at::FORMATS);
        let format = page.u32(at::LBAF + 4 * index);
        let [low, high, block_shift, _] = format.to_le_bytes();
        Self {
            block_shift,
            metadata_bytes: u16::from_le_bytes([low, high]),
            extended: flbas & 1 << 4 != 0,
        }
    }
}

/// Identifiers of a namespace, from the descriptor list or the namespace itself. In the order of
/// bytes in which they are written down.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Identifiers {
    pub(crate) nguid: Option<[u8; 16]>,
    pub(crate) eui64: Option<[u8; 8]>,
    pub(crate) uuid: Option<[u8; 16]>,
    /// Command set (CSI); 0 is NVM. Absent before 2.0.
    pub(crate) command_set: Option<u8>,
}

impl Identifiers {
    /// From the Namespace Identification Descriptor list, CNS 03h (§5.17.2.3). What is of no known
    /// type or of a wrong length is passed over; a length of 0 ends the list, and so does one that
    /// leads out of the page.
    pub(crate) fn parse(page: &Page) -> Self {
        let mut found = Self::default();
        let mut rest = &page[..];
        while let [kind, len, _, _, after @ ..] = rest {
            let Some((value, behind)) = after.split_at_checked(usize::from(*len)) else {
                break;
            };
            match (kind, value) {
                (_, []) => break,
                (1, value) => found.eui64 = value.try_into().ok(),
                (2, value) => found.nguid = value.try_into().ok(),
                (3, value) => found.uuid = value.try_into().ok(),
                (4, [set]) => found.command_set = Some(*set),
                _ => {}
            }
            rest = behind;
        }
        found.without_zeroes()
    }

    /// With what Identify Namespace says where the list says nothing.
    pub(crate) fn or(mut self, namespace: &NamespaceData) -> Self {
        self.nguid = self.nguid.or(Some(namespace.nguid));
        self.eui64 = self.eui64.or(Some(namespace.eui64));
        self.without_zeroes()
    }

    /// Whether one of `old` is another one now, or is missing. One more says nothing: it could not
    /// be read before.
    pub(crate) fn differ_from(&self, old: &Self) -> bool {
        fn other<T: PartialEq>(old: &Option<T>, new: &Option<T>) -> bool {
            old.is_some() && old != new
        }
        other(&old.nguid, &self.nguid)
            || other(&old.eui64, &self.eui64)
            || other(&old.uuid, &self.uuid)
            || other(&old.command_set, &self.command_set)
    }

    /// All zeroes stand for none.
    fn without_zeroes(self) -> Self {
        Self {
            nguid: self.nguid.filter(|id| *id != [0; 16]),
            eui64: self.eui64.filter(|id| *id != [0; 8]),
            uuid: self.uuid.filter(|id| *id != [0; 16]),
            ..self
        }
    }
}

/// NSIDs of one page of a namespace list, up to the first that is 0 or not above the one before it:
/// CNS 02h (§5.17.2.2) and the changed namespaces (§5.16.1.5).
pub(crate) fn namespaces(page: &Page) -> impl Iterator<Item = NamespaceId> {
    let (entries, _) = page.as_chunks::<4>();
    let mut last = 0;
    entries
        .iter()
        .map(|entry| u32::from_le_bytes(*entry))
        .take_while(move |&id| id > std::mem::replace(&mut last, id))
        .map(NamespaceId)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(fields: &[(usize, &[u8])]) -> Page {
        let mut page = [0; PAGE_BYTES];
        for (at, bytes) in fields {
            page[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        page
    }

    #[test]
    fn a_controller_is_read_field_by_field() {
        let data = ControllerData::parse(&page(&[
            (0, &[0x36, 0x1b, 0xf4, 0x1a]),
            (4, b"serial 1            "),
            (24, b"QEMU NVMe Ctrl                          "),
            (64, b"7.2.22\0\0"),
            (77, &[7, 0x34, 0x12, 0, 4, 1, 0]),
            (88, &[0x40, 0x42, 0x0f, 0]),
            (92, &[0, 3, 0, 0]),
            (111, &[1]),
            (128, &[1, 0, 2, 0, 3, 0]),
            (256, &[0, 1, 3, 4, 0, 1, 62]),
            (266, &[0x57, 1, 0x75, 1]),
            (512, &[0x66, 0x44, 0, 0, 0, 1, 0, 0, 0x8d, 0, 1, 0, 0, 7]),
            (526, &[127, 0, 0, 0, 0, 0, 0, 0]),
            (768, b"nqn.2019-08.org.qemu:serial\0"),
        ]));
        assert_eq!(data.vendor, 0x1b36);
        assert_eq!(
            (&*data.serial, &*data.model, &*data.firmware),
            ("serial 1", "QEMU NVMe Ctrl", "7.2.22")
        );
        assert_eq!(data.transfer_bytes_max(12), Some(512 << 10));
        assert_eq!((data.id, data.version), (0x1234, Version(0x0001_0400)));
        assert_eq!(data.shutdown_us, 1_000_000);
        assert!(data.tells_namespaces && data.tells_firmware);
        assert_eq!(data.kind, ControllerType::Io);
        assert_eq!(data.retry_delays, [1, 2, 3]);
        assert!(data.shadow_doorbells);
        assert_eq!((data.aborts_max, data.events_max), (4, 5));
        assert_eq!(data.error_entries, 63);
        assert_eq!((data.warning_kelvin, data.critical_kelvin), (343, 373));
        assert_eq!((data.submission_shift, data.completion_shift), (6, 4));
        assert_eq!(data.namespaces_max, 256);
        assert!(data.compare && data.deallocate && data.write_zeroes && data.verify);
        assert!(data.write_cache);
        assert_eq!(data.atomic_power_fail_blocks, 1);
        assert_eq!(data.subsystem, "nqn.2019-08.org.qemu:serial");
    }

    #[test]
    fn a_controller_without_limits_or_options_says_so() {
        let data = ControllerData::parse(&[0; PAGE_BYTES]);
        assert_eq!(data.transfer_bytes_max(12), None);
        assert_eq!(data.kind, ControllerType::NotReported);
        assert!(!data.write_cache && !data.deallocate && !data.shadow_doorbells);
        let limits = NvmControllerData::parse(&[0; PAGE_BYTES]);
        assert_eq!(limits, NvmControllerData::default());
    }

    #[test]
    fn text_that_is_none_is_made_printable_and_a_shift_too_far_is_no_limit() {
        let data = ControllerData::parse(&[0xff; PAGE_BYTES]);
        assert_eq!(data.serial, "?".repeat(20));
        assert_eq!(data.transfer_bytes_max(27), None);
        assert_eq!(data.kind, ControllerType::Reserved(255));
        let escape = ControllerData::parse(&page(&[(4, b"\x1b[31mred")]));
        assert_eq!(escape.serial, "?[31mred");
    }

    #[test]
    fn limits_of_the_command_set() {
        let mut bytes = vec![5, 4, 0, 64, 0, 0, 1, 0];
        bytes.extend(0x0123_4567_89ab_cdef_u64.to_le_bytes());
        let limits = NvmControllerData::parse(&page(&[(0, &bytes)]));
        assert_eq!(
            limits,
            NvmControllerData {
                write_zeroes_pages_shift: Some(4),
                ranges_max: Some(64),
                range_blocks_max: Some(0x1_0000),
                deallocate_blocks_max: Some(0x0123_4567_89ab_cdef),
            }
        );
    }

    #[test]
    fn a_namespace_is_read_field_by_field() {
        let data = NamespaceData::parse(&page(&[
            (0, &0x10_0000_u64.to_le_bytes()),
            (8, &0x0f_0000_u64.to_le_bytes()),
            (16, &0x0e_0000_u64.to_le_bytes()),
            (24, &[0b1_0011, 7, 0b1_0111]),
            (33, &[0b1001, 7, 0, 3, 0, 1, 0]),
            (42, &[5, 0, 15, 0, 0, 1]),
            (64, &[7, 0]),
            (68, &[63, 0]),
            (99, &[1]),
            (104, &[9; 16]),
            (120, &[8; 8]),
            (128 + 4 * 7, &[0, 0, 12, 0]),
        ]));
        assert_eq!((data.blocks, data.capacity), (0x10_0000, 0x0f_0000));
        assert!(data.thin && data.own_atomics && data.own_granularities);
        assert_eq!(
            data.format,
            Format {
                block_shift: 12,
                metadata_bytes: 0,
                extended: true
            }
        );
        assert!(data.deallocated_reads_zeroes && data.write_zeroes_deallocates);
        assert_eq!(data.atomic_power_fail, 3);
        assert_eq!((data.boundary_offset, data.boundary_power_fail), (5, 15));
        assert_eq!(data.optimal_boundary, 256);
        assert_eq!(data.deallocate_granularity, 64);
        assert!(data.write_protected);
        assert_eq!((data.nguid, data.eui64), ([9; 16], [8; 8]));
    }

    #[test]
    fn the_format_index_has_six_bits_only_where_there_are_so_many() {
        let with = |formats: u8| {
            page(&[
                (25, &[formats, 0b110_0001]),
                (128 + 4, &[0, 0, 9, 0]),
                (128 + 4 * 49, &[8, 0, 12, 0]),
            ])
        };
        assert_eq!(NamespaceData::parse(&with(15)).format.block_shift, 9);
        let far = NamespaceData::parse(&with(63)).format;
        assert_eq!((far.block_shift, far.metadata_bytes), (12, 8));
        // Every index that there can be lies in the page.
        assert_eq!(
            NamespaceData::parse(&[0xff; PAGE_BYTES])
                .format
                .metadata_bytes,
            0xffff
        );
    }

    #[test]
    fn identifiers_come_from_their_list_or_from_the_namespace() {
        let mut list = vec![1, 8, 0, 0];
        list.extend([7; 8]);
        list.extend([3, 16, 0, 0]);
        list.extend([6; 16]);
        list.extend([0xee, 3, 0, 0, 1, 2, 3]);
        list.extend([4, 1, 0, 0, 0]);
        let found = Identifiers::parse(&page(&[(0, &list)]));
        assert_eq!(found.eui64, Some([7; 8]));
        assert_eq!(found.uuid, Some([6; 16]));
        assert_eq!((found.nguid, found.command_set), (None, Some(0)));
        let namespace = NamespaceData::parse(&page(&[(104, &[5; 16]), (120, &[4; 8])]));
        let both = found.or(&namespace);
        assert_eq!((both.nguid, both.eui64), (Some([5; 16]), Some([7; 8])));
        let none = Identifiers::default().or(&NamespaceData::parse(&[0; PAGE_BYTES]));
        assert_eq!(none, Identifiers::default());
    }

    #[test]
    fn a_list_that_lies_about_its_lengths_ends_where_the_page_does() {
        assert_eq!(
            Identifiers::parse(&[0xff; PAGE_BYTES]),
            Identifiers::default()
        );
        // A UUID of 15 bytes is none; zeroes are none.
        let mut list = vec![3, 15, 0, 0];
        list.extend([1; 15]);
        list.extend([2, 16, 0, 0]);
        list.extend([0; 16]);
        assert_eq!(
            Identifiers::parse(&page(&[(0, &list)])),
            Identifiers::default()
        );
        // The last descriptor is cut off by the end of the page.
        let mut bytes = [0x0e; PAGE_BYTES];
        for at in (0..PAGE_BYTES).step_by(18) {
            bytes[at] = 9;
        }
        let _ = Identifiers::parse(&bytes);
    }

    #[test]
    fn a_list_of_namespaces_ends_with_zero_or_with_nonsense() {
        let ids = |list: &[u32]| {
            let bytes: Vec<u8> = list.iter().flat_map(|id| id.to_le_bytes()).collect();
            namespaces(&page(&[(0, &bytes)]))
                .map(|id| id.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(ids(&[1, 2, 7, 0, 9]), [1, 2, 7]);
        assert_eq!(ids(&[3, 3, 4]), [3]);
        assert_eq!(ids(&[5, 1]), [5]);
        assert_eq!(ids(&[]), [0; 0]);
        let most: Vec<u32> = (1..=1024).collect();
        assert_eq!(ids(&most).len(), 1024);
    }
}
