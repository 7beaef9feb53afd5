//! Commands: opcodes, the identifiers of features and log pages, and a builder of each command that
//! is used (NVM Express Base Specification 2.0 §5, NVM Command Set Specification 1.0 §3.2 and §4).
//!
//! Builders take what the standard counts from zero as it is counted by people: numbers of blocks,
//! of entries, of bytes. Ranges are the caller's; a value that does not fit its field panics.

use super::entry::{CommandId, NamespaceId, QueueId, SubmissionEntry};

/// Opcodes of the admin command set (§5, figure "Opcodes for Admin Commands").
pub(crate) mod admin {
    pub(crate) const DELETE_SUBMISSION_QUEUE: u8 = 0x00;
    pub(crate) const CREATE_SUBMISSION_QUEUE: u8 = 0x01;
    pub(crate) const LOG_PAGE: u8 = 0x02;
    pub(crate) const DELETE_COMPLETION_QUEUE: u8 = 0x04;
    pub(crate) const CREATE_COMPLETION_QUEUE: u8 = 0x05;
    pub(crate) const IDENTIFY: u8 = 0x06;
    pub(crate) const ABORT: u8 = 0x08;
    pub(crate) const SET_FEATURES: u8 = 0x09;
    pub(crate) const FEATURES: u8 = 0x0a;
    pub(crate) const ASYNCHRONOUS_EVENT: u8 = 0x0c;
    pub(crate) const DOORBELL_BUFFER_CONFIG: u8 = 0x7c;
}

/// Opcodes of the NVM command set (NVM Command Set §3.2).
pub(crate) mod io {
    pub(crate) const FLUSH: u8 = 0x00;
    pub(crate) const WRITE: u8 = 0x01;
    pub(crate) const READ: u8 = 0x02;
    pub(crate) const WRITE_ZEROES: u8 = 0x08;
    pub(crate) const DATASET_MANAGEMENT: u8 = 0x09;
}

/// Feature identifiers (§5.27.1).
pub(crate) mod feature {
    pub(crate) const NUMBER_OF_QUEUES: u8 = 0x07;
    pub(crate) const ASYNCHRONOUS_EVENTS: u8 = 0x0b;
    pub(crate) const HOST_BEHAVIOR: u8 = 0x16;
}

/// Log page identifiers (§5.16.1).
pub(crate) mod log {
    pub(crate) const ERRORS: u8 = 0x01;
    pub(crate) const HEALTH: u8 = 0x02;
    pub(crate) const FIRMWARE_SLOTS: u8 = 0x03;
    pub(crate) const CHANGED_NAMESPACES: u8 = 0x04;
}

/// CNS values of Identify (§5.17.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Identify {
    /// 00h, of the NVM command set.
    Namespace(NamespaceId),
    /// 01h.
    Controller,
    /// 02h: namespaces above this one.
    ActiveNamespaces(NamespaceId),
    /// 03h.
    Descriptors(NamespaceId),
    /// 06h, of the NVM command set.
    NvmController,
}

/// Write, Write Zeroes: FUA (CDW12 bit 30).
const FUA: u32 = 1 << 30;
/// Write Zeroes: DEAC (CDW12 bit 25).
const DEALLOCATE: u32 = 1 << 25;
/// Dataset Management: AD (CDW11 bit 2).
const ATTRIBUTE_DEALLOCATE: u32 = 1 << 2;
/// Create I/O queue: physically contiguous (CDW11 bit 0).
const CONTIGUOUS: u32 = 1;

/// Blocks of one command at most: NLB is 16 bits and counts from 0.
pub(crate) const BLOCKS_MAX: u32 = 1 << 16;
/// Ranges of one Dataset Management at most (NVM Command Set §3.2.3).
pub(crate) const RANGES_MAX: usize = 256;
/// Bytes of one such range.
pub(crate) const RANGE_BYTES: usize = 16;

/// What counts from zero in a field of 16 bits.
fn zero_based16(count: u32, what: &str) -> u32 {
    assert!(
        (1..=1 << 16).contains(&count),
        "{count} {what} in one command"
    );
    count - 1
}

/// Identify (§5.17); the data is 4096 bytes.
pub(crate) fn identify(what: Identify) -> SubmissionEntry {
    let (cns, namespace) = match what {
        Identify::Namespace(namespace) => (0x00, namespace),
        Identify::Controller => (0x01, NamespaceId::NONE),
        Identify::ActiveNamespaces(above) => (0x02, above),
        Identify::Descriptors(namespace) => (0x03, namespace),
        Identify::NvmController => (0x06, NamespaceId::NONE),
    };
    SubmissionEntry::new(admin::IDENTIFY, namespace).with_dword(10, cns)
}

/// Get Log Page (§5.16), the first `bytes` bytes of it, a multiple of 4 below 256 KiB. The event
/// that named the page may come again afterwards (RAE = 0).
pub(crate) fn log_page(page: u8, namespace: NamespaceId, bytes: u32) -> SubmissionEntry {
    assert!(bytes.is_multiple_of(4), "a log page is read in dwords");
    let dwords = zero_based16(bytes / 4, "dwords of a log page");
    SubmissionEntry::new(admin::LOG_PAGE, namespace).with_dword(10, dwords << 16 | u32::from(page))
}

/// Set Features (§5.27), not saved.
pub(crate) fn set_feature(feature: u8, namespace: NamespaceId, value: u32) -> SubmissionEntry {
    SubmissionEntry::new(admin::SET_FEATURES, namespace)
        .with_dword(10, feature.into())
        .with_dword(11, value)
}

/// The value that asks for so many I/O queue pairs, 1 to 65,534 (§5.27.1.5).
pub(crate) fn queues_wanted(pairs: u16) -> u32 {
    assert!((1..u16::MAX).contains(&pairs), "{pairs} queue pairs");
    let count = u32::from(pairs - 1);
    count << 16 | count
}

/// How many pairs were granted, out of dword 0 of the completion.
pub(crate) fn queues_granted(result: u32) -> u32 {
    (result & 0xffff).min(result >> 16) + 1
}

/// Create I/O Completion Queue (§5.4), polled: no interrupts. PRP1 is the ring.
pub(crate) fn create_completion_queue(queue: QueueId, entries: u32) -> SubmissionEntry {
    let size = zero_based16(entries, "entries of a queue");
    SubmissionEntry::new(admin::CREATE_COMPLETION_QUEUE, NamespaceId::NONE)
        .with_dword(10, size << 16 | u32::from(queue.0))
        .with_dword(11, CONTIGUOUS)
}

/// Create I/O Submission Queue (§5.5) that completes to the queue of the same number.
pub(crate) fn create_submission_queue(queue: QueueId, entries: u32) -> SubmissionEntry {
    let size = zero_based16(entries, "entries of a queue");
    SubmissionEntry::new(admin::CREATE_SUBMISSION_QUEUE, NamespaceId::NONE)
        .with_dword(10, size << 16 | u32::from(queue.0))
        .with_dword(11, u32::from(queue.0) << 16 | CONTIGUOUS)
}

/// Delete I/O Submission Queue (§5.7), which goes before its completion queue.
pub(crate) fn delete_submission_queue(queue: QueueId) -> SubmissionEntry {
    SubmissionEntry::new(admin::DELETE_SUBMISSION_QUEUE, NamespaceId::NONE)
        .with_dword(10, queue.0.into())
}

/// Delete I/O Completion Queue (§5.6).
pub(crate) fn delete_completion_queue(queue: QueueId) -> SubmissionEntry {
    SubmissionEntry::new(admin::DELETE_COMPLETION_QUEUE, NamespaceId::NONE)
        .with_dword(10, queue.0.into())
}

/// Abort (§5.1) of a command of a submission queue. Bit 0 of the result: it was not aborted.
pub(crate) fn abort(queue: QueueId, id: CommandId) -> SubmissionEntry {
    SubmissionEntry::new(admin::ABORT, NamespaceId::NONE)
        .with_dword(10, u32::from(id.0) << 16 | u32::from(queue.0))
}

/// Asynchronous Event Request (§5.2).
pub(crate) fn asynchronous_event() -> SubmissionEntry {
    SubmissionEntry::new(admin::ASYNCHRONOUS_EVENT, NamespaceId::NONE)
}

/// Doorbell Buffer Config (§5.8): PRP1 is the page of shadow doorbells, PRP2 that of event indices.
pub(crate) fn doorbell_buffer_config() -> SubmissionEntry {
    SubmissionEntry::new(admin::DOORBELL_BUFFER_CONFIG, NamespaceId::NONE)
}

/// Blocks of a namespace that a command works on, 1 to [`BLOCKS_MAX`] of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Blocks {
    pub(crate) namespace: NamespaceId,
    pub(crate) lba: u64,
    pub(crate) count: u32,
}

fn on_blocks(opcode: u8, blocks: Blocks, flags: u32) -> SubmissionEntry {
    let count = zero_based16(blocks.count, "blocks");
    SubmissionEntry::new(opcode, blocks.namespace)
        .with_lba(blocks.lba)
        .with_dword(12, count | flags)
}

/// Read (NVM Command Set §3.2.4).
pub(crate) fn read(blocks: Blocks) -> SubmissionEntry {
    on_blocks(io::READ, blocks, 0)
}

/// Write (§3.2.6).
pub(crate) fn write(blocks: Blocks, fua: bool) -> SubmissionEntry {
    on_blocks(io::WRITE, blocks, if fua { FUA } else { 0 })
}

/// Write Zeroes (§3.2.8); with `deallocate` the controller may give the blocks up.
pub(crate) fn write_zeroes(blocks: Blocks, fua: bool, deallocate: bool) -> SubmissionEntry {
    let fua = if fua { FUA } else { 0 };
    let deallocate = if deallocate { DEALLOCATE } else { 0 };
    on_blocks(io::WRITE_ZEROES, blocks, fua | deallocate)
}

/// Flush (Base Specification §7.1).
pub(crate) fn flush(namespace: NamespaceId) -> SubmissionEntry {
    SubmissionEntry::new(io::FLUSH, namespace)
}

/// Dataset Management that deallocates (NVM Command Set §3.2.3): the data is so many [`range`]s.
pub(crate) fn deallocate(namespace: NamespaceId, ranges: usize) -> SubmissionEntry {
    assert!((1..=RANGES_MAX).contains(&ranges), "{ranges} ranges");
    let count = u32::try_from(ranges - 1).expect("at most 255");
    SubmissionEntry::new(io::DATASET_MANAGEMENT, namespace)
        .with_dword(10, count)
        .with_dword(11, ATTRIBUTE_DEALLOCATE)
}

/// A range of Dataset Management, without context attributes.
pub(crate) fn range(lba: u64, blocks: u32) -> [u8; RANGE_BYTES] {
    let mut bytes = [0; RANGE_BYTES];
    bytes[4..8].copy_from_slice(&blocks.to_le_bytes());
    bytes[8..].copy_from_slice(&lba.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: Blocks = Blocks {
        namespace: NamespaceId(3),
        lba: 0x0001_0002_0003_0004,
        count: 8,
    };

    fn dwords(entry: &SubmissionEntry) -> [u32; 4] {
        [10, 11, 12, 13].map(|nth| entry.dword(nth))
    }

    #[test]
    fn blocks_count_from_zero() {
        let entry = read(BLOCKS);
        assert_eq!((entry.opcode(), entry.namespace()), (0x02, NamespaceId(3)));
        assert_eq!(dwords(&entry), [0x0003_0004, 0x0001_0002, 7, 0]);
        let most = Blocks {
            count: BLOCKS_MAX,
            ..BLOCKS
        };
        assert_eq!(read(most).dword(12), 0xffff);
        assert_eq!(write(BLOCKS, false).dword(12), 7);
        assert_eq!(write(BLOCKS, true).dword(12), 0x4000_0007);
        assert_eq!(write_zeroes(BLOCKS, true, true).dword(12), 0x4200_0007);
        assert_eq!(write_zeroes(BLOCKS, false, false).dword(12), 7);
    }

    #[test]
    #[should_panic(expected = "65537 blocks in one command")]
    fn more_blocks_than_a_command_has_are_a_mistake() {
        read(Blocks {
            count: BLOCKS_MAX + 1,
            ..BLOCKS
        });
    }

    #[test]
    fn queues_are_numbered_and_sized() {
        let created = create_completion_queue(QueueId(2), 1024);
        assert_eq!(created.opcode(), 0x05);
        assert_eq!(dwords(&created), [0x03ff_0002, 1, 0, 0]);
        let created = create_submission_queue(QueueId(2), 65_536);
        assert_eq!(created.opcode(), 0x01);
        assert_eq!(dwords(&created), [0xffff_0002, 0x0002_0001, 0, 0]);
        assert_eq!(delete_submission_queue(QueueId(2)).opcode(), 0x00);
        assert_eq!(delete_completion_queue(QueueId(2)).opcode(), 0x04);
        assert_eq!(delete_completion_queue(QueueId(2)).dword(10), 2);
        let aborted = abort(QueueId(2), CommandId(0x1234));
        assert_eq!((aborted.opcode(), aborted.dword(10)), (0x08, 0x1234_0002));
    }

    #[test]
    fn the_smaller_number_of_queues_is_what_was_granted() {
        assert_eq!(queues_wanted(4), 0x0003_0003);
        assert_eq!(queues_granted(0x0003_0007), 4);
        assert_eq!(queues_granted(0x0007_0000), 1);
        assert_eq!(queues_granted(u32::MAX), 65_536);
    }

    #[test]
    fn identify_and_logs_say_what_they_want() {
        let descriptors = identify(Identify::Descriptors(NamespaceId(9)));
        assert_eq!(
            (descriptors.opcode(), descriptors.namespace()),
            (0x06, NamespaceId(9))
        );
        assert_eq!(descriptors.dword(10), 3);
        assert_eq!(identify(Identify::NvmController).dword(10), 6);
        let health = log_page(log::HEALTH, NamespaceId::ALL, 512);
        assert_eq!((health.opcode(), health.dword(10)), (0x02, 0x007f_0002));
        assert_eq!(health.namespace(), NamespaceId::ALL);
        let cache = set_feature(6, NamespaceId::NONE, 1);
        assert_eq!(dwords(&cache), [6, 1, 0, 0]);
        assert_eq!(asynchronous_event().opcode(), 0x0c);
        assert_eq!(doorbell_buffer_config().opcode(), 0x7c);
    }

    #[test]
    fn deallocation_has_its_ranges_apart() {
        let entry = deallocate(NamespaceId(1), 256);
        assert_eq!(dwords(&entry), [255, 4, 0, 0]);
        let bytes = range(0x1122_3344_5566_7788, 0x99aa_bbcc);
        assert_eq!(bytes[..4], [0; 4]);
        assert_eq!(bytes[4..8], [0xcc, 0xbb, 0xaa, 0x99]);
        assert_eq!(bytes[8..], [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        assert_eq!(
            flush(NamespaceId::ALL).to_bytes()[..8],
            [0, 0, 0, 0, 255, 255, 255, 255]
        );
    }
}
