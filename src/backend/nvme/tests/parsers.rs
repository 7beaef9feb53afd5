//! Whatever bytes a controller returns, parsers read them: no panic, no value outside its bounds.

use proptest::prelude::*;

use crate::backend::nvme::spec::entry::CompletionEntry;
use crate::backend::nvme::spec::identify::{
    ControllerData, Identifiers, NamespaceData, NvmControllerData, PAGE_BYTES, Page, namespaces,
};
use crate::backend::nvme::spec::log::{ERROR_BYTES, ErrorEntry, Event, HEALTH_BYTES, Health};
use crate::backend::nvme::spec::registers::{Capabilities, Status, Version};

/// Pages of noise, of one byte, or of short records.
fn page() -> impl Strategy<Value = Box<Page>> {
    let noise = proptest::collection::vec(any::<u8>(), PAGE_BYTES);
    let one = any::<u8>().prop_map(|byte| vec![byte; PAGE_BYTES]);
    let records = proptest::collection::vec((0_u8..6, any::<u8>()), PAGE_BYTES / 4);
    let records = records.prop_map(|records| {
        let bytes = records.iter().flat_map(|(kind, len)| [*kind, *len, 0, 0]);
        bytes.collect::<Vec<_>>()
    });
    prop_oneof![noise, one, records].prop_map(|bytes| bytes.try_into().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn identify_pages_of_any_bytes_are_read(page in page(), shift in 12_u8..28) {
        let data = ControllerData::parse(&page);
        prop_assert!(data.transfer_bytes_max(shift).is_none_or(|bytes| bytes.is_power_of_two()));
        prop_assert!((1..=256).contains(&data.aborts_max));
        prop_assert!((1..=256).contains(&data.events_max));
        prop_assert!((1..=65_536).contains(&data.atomic_power_fail_blocks));
        let printable = |text: &str| text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        prop_assert!(printable(&data.serial) && printable(&data.subsystem));
        let namespace = NamespaceData::parse(&page);
        prop_assert!(namespace.protection < 8 && namespace.deallocate_granularity > 0);
        let found = Identifiers::parse(&page).or(&namespace);
        prop_assert!(found.nguid != Some([0; 16]) && found.eui64 != Some([0; 8]));
        let limits = NvmControllerData::parse(&page);
        prop_assert!(limits.ranges_max != Some(0) && limits.range_blocks_max != Some(0));
        let listed: Vec<_> = namespaces(&page).collect();
        prop_assert!(listed.is_sorted() && listed.len() <= PAGE_BYTES / 4);
        prop_assert!(listed.iter().all(|id| id.0 > 0));
    }

    #[test]
    fn logs_and_registers_of_any_bits_are_read(page in page(), bits in any::<u64>()) {
        let health: &[u8; HEALTH_BYTES] = page.first_chunk().unwrap();
        prop_assert!(Health::parse(health).warnings.sentences().count() <= 6);
        let (entries, _) = page.as_chunks::<ERROR_BYTES>();
        for entry in entries {
            prop_assert!(ErrorEntry::parse(entry).is_none_or(|entry| entry.count > 0));
        }
        let caps = Capabilities(bits);
        prop_assert!((1..=65_536).contains(&caps.queue_entries_max()));
        prop_assert!(caps.doorbell_stride().is_power_of_two());
        prop_assert!(caps.completion_doorbell(u16::MAX) > caps.submission_doorbell(u16::MAX));
        prop_assert!(!caps.ready_timeout().is_zero());
        let [low, .., high] = bits.to_le_bytes();
        let half = u32::from_le_bytes([low, high, low, high]);
        let status = Status(half);
        prop_assert!(!(status.is_gone() && (status.is_ready() || status.is_fatal())));
        prop_assert!(!Version(half).to_string().is_empty());
        let _ = (Event::parse(half), status.shutdown());
    }

    #[test]
    fn completions_of_any_bytes_are_read(bytes in any::<[u8; 16]>()) {
        let entry = CompletionEntry::from_bytes(bytes);
        prop_assert_eq!(entry.to_bytes(), bytes);
        prop_assert!(entry.status().field() < 1 << 15);
        prop_assert!(!entry.status().to_string().is_empty());
    }
}
