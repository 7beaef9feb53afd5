//! Mode pages (SPC-4 and SBC-3, mode parameters): one row each with its current values and what of
//! them could be changed.
//!
//! Nothing is changeable until there is MODE SELECT, so the changeable values are zeroes; what the
//! unit's device decides (the write cache) is current and default value alike.

use crate::scsi::parameter::ParameterData;
use crate::scsi::unit::LogicalUnit;

/// One page or subpage.
#[derive(Debug)]
pub(super) struct ModePage {
    pub(super) page: u8,
    pub(super) subpage: u8,
    /// Bytes behind the page's header.
    length: u16,
    /// Writes those bytes' current values; they are zero before.
    current: fn(&mut [u8], &LogicalUnit),
}

/// All pages, ascending by page and subpage.
pub(super) static PAGES: [ModePage; 7] = [
    ModePage {
        page: 0x01,
        subpage: 0,
        length: 0x0a,
        current: all_zero,
    },
    ModePage {
        page: 0x02,
        subpage: 0,
        length: 0x0e,
        current: all_zero,
    },
    ModePage {
        page: 0x08,
        subpage: 0,
        length: 0x12,
        current: caching,
    },
    ModePage {
        page: 0x0a,
        subpage: 0,
        length: 0x0a,
        current: control,
    },
    ModePage {
        page: 0x0a,
        subpage: 1,
        length: 0x1c,
        current: all_zero,
    },
    ModePage {
        page: 0x1a,
        subpage: 0,
        length: 0x26,
        current: all_zero,
    },
    ModePage {
        page: 0x1c,
        subpage: 0,
        length: 0x0a,
        current: informational_exceptions,
    },
];

/// Longest page behind its header.
const PAGE_BYTES_MAX: usize = 0x26;

/// SPF, subpage format.
const SUBPAGE_FORMAT: u8 = 0x40;

/// Which values of a page are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Values {
    Current,
    Changeable,
    Default,
}

impl ModePage {
    /// Writes the page with its header (SPC-4, page_0 and sub_page formats).
    pub(super) fn write(&self, data: &mut ParameterData, unit: &LogicalUnit, values: Values) {
        if self.subpage == 0 {
            data.put_u8(self.page);
            data.put_u8(self.length.to_be_bytes()[1]);
        } else {
            data.put_u8(SUBPAGE_FORMAT | self.page);
            data.put_u8(self.subpage);
            data.put_be16(self.length);
        }
        let mut bytes = [0; PAGE_BYTES_MAX];
        let bytes = &mut bytes[..usize::from(self.length)];
        match values {
            Values::Current | Values::Default => (self.current)(bytes, unit),
            Values::Changeable => {}
        }
        data.put(bytes);
    }
}

/// Pages whose fields all stand at zero here: Read-Write Error Recovery (01h; the device's own
/// defaults), Disconnect-Reconnect (02h; no limits beside the session's keys, RFC 7143 §13),
/// Control Extension (0Ah/01h) and Power Condition (1Ah; no timers).
fn all_zero(_bytes: &mut [u8], _unit: &LogicalUnit) {}

/// SBC-3, Caching mode page.
fn caching(bytes: &mut [u8], unit: &LogicalUnit) {
    const WCE: u8 = 1 << 2;
    if unit.info().write_cache {
        bytes[0] = WCE;
    }
}

/// SPC-4, Control mode page. One task set for each I_T nexus (TST = 001b), which may reorder
/// without restriction; sense data in fixed format; no bound on how long BUSY lasts.
fn control(bytes: &mut [u8], _unit: &LogicalUnit) {
    const TST_PER_NEXUS: u8 = 0b001 << 5;
    const REORDER: u8 = 0x1 << 4;
    bytes[0] = TST_PER_NEXUS;
    bytes[1] = REORDER;
    bytes[6..8].fill(0xff);
}

/// SPC-4, Informational Exceptions Control mode page: no informational exceptions are reported.
fn informational_exceptions(bytes: &mut [u8], _unit: &LogicalUnit) {
    const DEXCPT: u8 = 1 << 3;
    bytes[0] = DEXCPT;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_ascending_and_fit_their_buffer() {
        let order: Vec<_> = PAGES.iter().map(|page| (page.page, page.subpage)).collect();
        assert!(order.is_sorted());
        assert!(
            PAGES
                .iter()
                .all(|page| usize::from(page.length) <= PAGE_BYTES_MAX)
        );
    }
}
