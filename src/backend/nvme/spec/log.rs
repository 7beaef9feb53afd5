//! Log pages and asynchronous events (NVM Express Base Specification 2.0 §5.16.1, §5.2.1).

use super::Fields;
use super::entry::{CommandId, NamespaceId, QueueId};
use super::status::Status;

/// Bytes of the SMART / Health Information log.
pub(crate) const HEALTH_BYTES: usize = 512;
/// Bytes of an entry of the Error Information log.
pub(crate) const ERROR_BYTES: usize = 64;

/// What the health log warns of (its first byte).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Warnings(pub(crate) u8);

impl Warnings {
    /// Each with its words.
    const ALL: [(u8, &'static str); 6] = [
        (0, "the spare capacity is below its threshold"),
        (1, "a temperature is over or under its threshold"),
        (2, "reliability is degraded by media or internal errors"),
        (3, "the media are read only"),
        (4, "the backup of the volatile memory has failed"),
        (5, "the persistent memory region has become unreliable"),
    ];

    /// What it says, one sentence each.
    pub(crate) fn sentences(self) -> impl Iterator<Item = &'static str> {
        let set = move |(bit, text): (u8, _)| (self.0 & 1 << bit != 0).then_some(text);
        Self::ALL.into_iter().filter_map(set)
    }

    /// Bit 3: writes fail.
    pub(crate) const fn read_only(self) -> bool {
        self.0 & 1 << 3 != 0
    }
}

/// SMART / Health Information, log page 02h (§5.16.1.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Health {
    pub(crate) warnings: Warnings,
    /// Composite temperature in kelvin.
    pub(crate) kelvin: u16,
    /// In percent, and where it warns.
    pub(crate) spare: u8,
    pub(crate) spare_threshold: u8,
    /// In percent of what the vendor expects; may be over 100.
    pub(crate) used: u8,
    /// In units of 512,000 bytes.
    pub(crate) units_read: u128,
    pub(crate) units_written: u128,
    /// That it was busy with commands.
    pub(crate) busy_minutes: u128,
    pub(crate) power_cycles: u128,
    pub(crate) power_on_hours: u128,
    pub(crate) unsafe_shutdowns: u128,
    pub(crate) media_errors: u128,
    /// Entries that the error log has had.
    pub(crate) errors_logged: u128,
    /// Minutes above the warning and the critical temperature.
    pub(crate) warning_minutes: u32,
    pub(crate) critical_minutes: u32,
}

impl Health {
    pub(crate) fn parse(page: &[u8; HEALTH_BYTES]) -> Self {
        let page = Fields(page);
        Self {
            warnings: Warnings(page.byte(0)),
            kelvin: page.u16(1),
            spare: page.byte(3),
            spare_threshold: page.byte(4),
            used: page.byte(5),
            units_read: page.u128(32),
            units_written: page.u128(48),
            busy_minutes: page.u128(96),
            power_cycles: page.u128(112),
            power_on_hours: page.u128(128),
            unsafe_shutdowns: page.u128(144),
            media_errors: page.u128(160),
            errors_logged: page.u128(176),
            warning_minutes: page.u32(192),
            critical_minutes: page.u32(196),
        }
    }
}

/// An entry of the Error Information log, page 01h (§5.16.1.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ErrorEntry {
    /// Never 0; 0 marks an entry that is not used.
    pub(crate) count: u64,
    pub(crate) queue: QueueId,
    pub(crate) id: CommandId,
    pub(crate) status: Status,
    pub(crate) lba: u64,
    pub(crate) namespace: NamespaceId,
}

impl ErrorEntry {
    /// `None`: the entry is not used.
    pub(crate) fn parse(entry: &[u8; ERROR_BYTES]) -> Option<Self> {
        let entry = Fields(entry);
        let count = entry.u64(0);
        (count != 0).then(|| Self {
            count,
            queue: QueueId(entry.u16(8)),
            id: CommandId(entry.u16(10)),
            status: Status::from_field(entry.u16(12) >> 1),
            lba: entry.u64(16),
            namespace: NamespaceId(entry.u32(24)),
        })
    }
}

/// An asynchronous event, out of dword 0 of its completion (§5.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Event {
    pub(crate) kind: EventKind,
    /// The page whose reading lets further events of this kind come; 0 where there is none.
    pub(crate) log_page: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EventKind {
    /// Type 0, with its information field.
    Error(u8),
    /// Type 1.
    Health(u8),
    /// Type 2, information 00h.
    NamespaceChanged,
    /// Type 2, information 01h.
    FirmwareActivation,
    /// Any other (type, information).
    Other(u8, u8),
}

impl Event {
    pub(crate) fn parse(result: u32) -> Self {
        let [kind, information, log_page, _] = result.to_le_bytes();
        let kind = match (kind & 7, information) {
            (0, information) => EventKind::Error(information),
            (1, information) => EventKind::Health(information),
            (2, 0) => EventKind::NamespaceChanged,
            (2, 1) => EventKind::FirmwareActivation,
            (kind, information) => EventKind::Other(kind, information),
        };
        Self { kind, log_page }
    }
}

/// Values of the feature Asynchronous Event Configuration (§5.27.1.8).
pub(crate) mod events {
    /// All critical warnings of the health log.
    pub(crate) const HEALTH: u32 = 0x1f;
    pub(crate) const NAMESPACES: u32 = 1 << 8;
    pub(crate) const FIRMWARE: u32 = 1 << 9;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_read_field_by_field() {
        let mut page = [0; HEALTH_BYTES];
        page[..6].copy_from_slice(&[0b1001, 0x2b, 0x01, 90, 10, 105]);
        for (at, value) in [(32, 1_u128), (48, 2), (112, 3), (128, 4), (144, 5)] {
            page[at..at + 16].copy_from_slice(&value.to_le_bytes());
        }
        page[160..176].copy_from_slice(&u128::MAX.to_le_bytes());
        page[176..192].copy_from_slice(&7_u128.to_le_bytes());
        page[192..200].copy_from_slice(&[8, 0, 0, 0, 9, 0, 0, 0]);
        let health = Health::parse(&page);
        assert_eq!(health.kelvin, 299);
        assert_eq!(
            (health.spare, health.spare_threshold, health.used),
            (90, 10, 105)
        );
        assert_eq!((health.units_read, health.units_written), (1, 2));
        assert_eq!((health.power_cycles, health.power_on_hours), (3, 4));
        assert_eq!(
            (health.unsafe_shutdowns, health.media_errors),
            (5, u128::MAX)
        );
        assert_eq!(health.errors_logged, 7);
        assert_eq!((health.warning_minutes, health.critical_minutes), (8, 9));
        assert!(health.warnings.read_only());
        let said: Vec<_> = health.warnings.sentences().collect();
        assert_eq!(
            said,
            [
                "the spare capacity is below its threshold",
                "the media are read only"
            ]
        );
        assert_eq!(Warnings(0xc0).sentences().count(), 0, "reserved bits");
    }

    #[test]
    fn an_error_entry_is_there_only_with_a_count() {
        let mut entry = [0; ERROR_BYTES];
        entry[8..14].copy_from_slice(&[3, 0, 0x34, 0x12, 0x03, 0xc5]);
        entry[16..24].copy_from_slice(&77_u64.to_le_bytes());
        entry[24] = 2;
        assert_eq!(ErrorEntry::parse(&entry), None);
        entry[0] = 1;
        let parsed = ErrorEntry::parse(&entry).unwrap();
        assert_eq!((parsed.queue, parsed.id), (QueueId(3), CommandId(0x1234)));
        assert!(parsed.status.is(Status::UNRECOVERED_READ));
        assert_eq!((parsed.lba, parsed.namespace), (77, NamespaceId(2)));
    }

    #[test]
    fn events_name_the_page_that_lets_the_next_come() {
        let event = Event::parse(0x0004_0002);
        assert_eq!(event.kind, EventKind::NamespaceChanged);
        assert_eq!(event.log_page, 4);
        assert_eq!(Event::parse(0x0002_0101).kind, EventKind::Health(1));
        assert_eq!(Event::parse(0x0001_0300).kind, EventKind::Error(3));
        assert_eq!(
            Event::parse(0x0003_0102).kind,
            EventKind::FirmwareActivation
        );
        assert_eq!(Event::parse(u32::MAX).kind, EventKind::Other(7, 255));
    }
}
