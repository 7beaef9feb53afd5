//! Mode pages (SPC-4 and SBC-3, mode parameters): one row each with the values that never change
//! and the bits that MODE SELECT may change.
//!
//! What is changeable is one bit of [`ModeParameters`] for each bit of a page, so that current,
//! default, saved and changeable values, MODE SENSE and MODE SELECT all follow from the row. A new
//! changeable bit is a name there and an entry in its row.

use bitflags::bitflags;

use crate::scsi::parameter::ParameterData;
use crate::scsi::sense::Sense;
use crate::scsi::unit::LogicalUnit;

bitflags! {
    /// The changeable bits of all mode pages of a unit. Their names are kept on disk.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct ModeParameters: u16 {
        /// Caching: completed writes may wait in a volatile cache.
        const WCE = 1 << 0;
        /// Control: sense data are in descriptor format.
        const D_SENSE = 1 << 1;
        /// Control: QERR is 01b or 11b.
        const QERR_LOW = 1 << 2;
        /// Control: QERR is 11b (10b is reserved).
        const QERR_HIGH = 1 << 3;
        /// Control: software write protect.
        const SWP = 1 << 4;
        /// Control: tasks aborted by another nexus end with TASK ABORTED.
        const TAS = 1 << 5;
    }
}

/// What a command that ends with CHECK CONDITION does to the others (SPC-4, QERR field).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Qerr {
    /// 00b: they go on.
    Continue,
    /// 01b: all in the task set are aborted.
    AbortTaskSet,
    /// 11b: those of the same nexus are aborted.
    AbortNexus,
}

impl ModeParameters {
    /// The QERR field.
    pub fn qerr(self) -> Qerr {
        if self.contains(Self::QERR_HIGH) {
            Qerr::AbortNexus
        } else if self.contains(Self::QERR_LOW) {
            Qerr::AbortTaskSet
        } else {
            Qerr::Continue
        }
    }
}

/// A bit of a page that MODE SELECT may change: the byte behind the page's header, the bit in it.
#[derive(Debug)]
struct Changeable(u8, u8, ModeParameters);

/// One page or subpage.
#[derive(Debug)]
pub(super) struct ModePage {
    pub(super) page: u8,
    pub(super) subpage: u8,
    /// Bytes behind the page's header.
    length: u16,
    /// Writes what is not zero of the bits that MODE SELECT never changes.
    fixed: fn(&mut [u8], &LogicalUnit),
    changeable: &'static [Changeable],
}

impl ModePage {
    const fn new(page: u8, subpage: u8, length: u16) -> Self {
        Self {
            page,
            subpage,
            length,
            fixed: |_, _| {},
            changeable: &[],
        }
    }
}

/// All pages, ascending by page and subpage.
pub(super) static PAGES: [ModePage; 9] = [
    // SBC-3, Read-Write Error Recovery: the device's own way, nothing is reported of it.
    ModePage::new(0x01, 0, 0x0a),
    // SPC-4, Disconnect-Reconnect: no limits beside the session's keys (RFC 7143 §13).
    ModePage::new(0x02, 0, 0x0e),
    // SBC-3, Caching.
    ModePage {
        changeable: &[Changeable(0, 2, ModeParameters::WCE)],
        ..ModePage::new(0x08, 0, 0x12)
    },
    ModePage {
        fixed: control,
        changeable: &[
            Changeable(0, 2, ModeParameters::D_SENSE),
            Changeable(1, 1, ModeParameters::QERR_LOW),
            Changeable(1, 2, ModeParameters::QERR_HIGH),
            Changeable(2, 3, ModeParameters::SWP),
            Changeable(3, 6, ModeParameters::TAS),
        ],
        ..ModePage::new(0x0a, 0, 0x0a)
    },
    ModePage {
        fixed: control_extension,
        ..ModePage::new(0x0a, 1, 0x1c)
    },
    // SBC-3, Application Tag: no descriptor, since there is no protection information.
    ModePage::new(0x0a, 2, 0x0c),
    // SPC-4, Power Condition: no timers.
    ModePage::new(0x1a, 0, 0x26),
    ModePage {
        fixed: informational_exceptions,
        ..ModePage::new(0x1c, 0, 0x0a)
    },
    // SBC-3, Logical Block Provisioning: one threshold descriptor.
    ModePage {
        fixed: logical_block_provisioning,
        ..ModePage::new(0x1c, 2, 0x14)
    },
];

/// Longest page behind its header.
const PAGE_BYTES_MAX: usize = 0x26;

/// PS, the page can be saved.
const PARAMETERS_SAVEABLE: u8 = 0x80;
/// SPF, subpage format.
const SUBPAGE_FORMAT: u8 = 0x40;

/// Which values of a page are asked for (SPC-4, PC field).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Values {
    Current,
    Changeable,
    Default,
    Saved,
}

impl ModePage {
    /// Writes the page with its header (SPC-4, page_0 and sub_page formats).
    pub(super) fn write(&self, data: &mut ParameterData, unit: &LogicalUnit, values: Values) {
        let saveable = if self.changeable.is_empty() {
            0
        } else {
            PARAMETERS_SAVEABLE
        };
        if self.subpage == 0 {
            data.put_u8(saveable | self.page);
            data.put_u8(self.length.to_be_bytes()[1]);
        } else {
            data.put_u8(saveable | SUBPAGE_FORMAT | self.page);
            data.put_u8(self.subpage);
            data.put_be16(self.length);
        }
        let bytes = match values {
            Values::Current => self.values(unit, unit.mode()),
            Values::Default => self.values(unit, unit.mode_default()),
            Values::Saved => self.values(unit, unit.mode_saved()),
            Values::Changeable => self.bits(unit.mode_changeable()),
        };
        data.put(&bytes[..usize::from(self.length)]);
    }

    fn values(&self, unit: &LogicalUnit, parameters: ModeParameters) -> [u8; PAGE_BYTES_MAX] {
        let mut bytes = self.bits(parameters);
        (self.fixed)(&mut bytes, unit);
        bytes
    }

    /// The bits of the page that stand for `parameters`.
    fn bits(&self, parameters: ModeParameters) -> [u8; PAGE_BYTES_MAX] {
        let mut bytes = [0; PAGE_BYTES_MAX];
        for Changeable(byte, bit, name) in self.changeable {
            if parameters.contains(*name) {
                bytes[usize::from(*byte)] |= 1 << bit;
            }
        }
        bytes
    }

    /// Takes a page of a parameter list, as `bytes` behind its header, which begin at `offset` of
    /// the list. Bits that cannot be changed must be as they are (SPC-4, MODE SELECT).
    fn select(
        &self,
        bytes: &[u8],
        offset: u16,
        mut parameters: ModeParameters,
        unit: &LogicalUnit,
    ) -> Result<ModeParameters, Sense> {
        let current = self.values(unit, parameters);
        let changeable = self.bits(unit.mode_changeable());
        for ((at, byte), (is, mask)) in (offset..).zip(bytes).zip(current.iter().zip(changeable)) {
            let offending = (byte ^ is) & !mask;
            if offending != 0 {
                let bit = 7 - offending.leading_zeros().to_be_bytes()[3];
                return Err(Sense::invalid_field_in_parameter_list(at, Some(bit)));
            }
        }
        for Changeable(byte, bit, name) in self.changeable {
            let set = bytes
                .get(usize::from(*byte))
                .map_or(0, |byte| byte >> bit & 1);
            parameters.set(*name, set == 1);
        }
        // SPC-4, QERR field: 10b is reserved.
        let qerr = parameters & (ModeParameters::QERR_LOW | ModeParameters::QERR_HIGH);
        if qerr == ModeParameters::QERR_HIGH {
            return Err(Sense::invalid_field_in_parameter_list(offset + 1, Some(2)));
        }
        Ok(parameters)
    }
}

/// Takes the pages of a MODE SELECT, which begin at `offset` of its parameter list, and returns
/// what the parameters are then. `length_at`: where the CDB has PARAMETER LIST LENGTH.
///
/// # Errors
/// The sense data of the first page that cannot be; nothing of any page counts then.
pub(super) fn select(
    unit: &LogicalUnit,
    mut pages: &[u8],
    mut offset: u16,
    length_at: u16,
) -> Result<ModeParameters, Sense> {
    let cut = Sense::parameter_list_length_error(length_at);
    let mut parameters = unit.mode();
    while let [first, ..] = *pages {
        if first & PARAMETERS_SAVEABLE != 0 {
            return Err(Sense::invalid_field_in_parameter_list(offset, Some(7)));
        }
        let (subpage, length, length_field, header) = if first & SUBPAGE_FORMAT == 0 {
            let [_, length, ..] = *pages else {
                return Err(cut);
            };
            (0, u16::from(length), 1, 2)
        } else {
            let [_, subpage, high, low, ..] = *pages else {
                return Err(cut);
            };
            (subpage, u16::from_be_bytes([high, low]), 2, 4)
        };
        let code = first & 0x3f;
        if PAGES.iter().all(|row| row.page != code) {
            return Err(Sense::invalid_field_in_parameter_list(offset, Some(5)));
        }
        let subpage_format = first & SUBPAGE_FORMAT != 0;
        let row = PAGES
            .iter()
            .find(|row| (row.page, row.subpage) == (code, subpage))
            .filter(|row| (row.subpage != 0) == subpage_format)
            .ok_or_else(|| Sense::invalid_field_in_parameter_list(offset + 1, None))?;
        if row.length != length {
            return Err(Sense::invalid_field_in_parameter_list(
                offset + length_field,
                None,
            ));
        }
        let end = usize::from(header + length);
        let Some((page, rest)) = pages.split_at_checked(end) else {
            return Err(cut);
        };
        let body = &page[usize::from(header)..];
        parameters = row.select(body, offset + header, parameters, unit)?;
        offset += header + length;
        pages = rest;
    }
    Ok(parameters)
}

/// SPC-4, Control mode page. One task set for each I_T nexus (TST = 001b), which may reorder
/// without restriction; no bound on how long BUSY lasts; no extended self-test.
fn control(bytes: &mut [u8], _unit: &LogicalUnit) {
    const TST_PER_NEXUS: u8 = 0b001 << 5;
    const REORDER: u8 = 0x1 << 4;
    bytes[0] |= TST_PER_NEXUS;
    bytes[1] |= REORDER;
    bytes[6..8].fill(0xff);
}

/// SPC-4, Control Extension mode page: the clock is also set by the host (TCMOS), and SET TIMESTAMP
/// goes before that (SCSIP). Asymmetric access states are also changed by the target itself
/// (IALUAE), as TPGS of the standard INQUIRY data says.
fn control_extension(bytes: &mut [u8], _unit: &LogicalUnit) {
    const TCMOS: u8 = 1 << 2;
    const SCSIP: u8 = 1 << 1;
    const IALUAE: u8 = 1 << 0;
    bytes[0] = TCMOS | SCSIP | IALUAE;
}

/// SPC-4, Informational Exceptions Control mode page: no informational exceptions are reported.
fn informational_exceptions(bytes: &mut [u8], _unit: &LogicalUnit) {
    const DEXCPT: u8 = 1 << 3;
    bytes[0] = DEXCPT;
}

/// SBC-3, Logical Block Provisioning mode page: the soft threshold that is enforced, if one is. The
/// configuration decides about it, so nothing here can be changed.
fn logical_block_provisioning(bytes: &mut [u8], unit: &LogicalUnit) {
    const ENABLED: u8 = 1 << 7;
    /// THRESHOLD ARMING: reached from below; THRESHOLD TYPE is soft, 000b.
    const INCREASING: u8 = 0b001;
    const USED_RESOURCES: u8 = 0x02;
    let thresholds = unit.provisioning().thresholds();
    let soft = thresholds.and_then(|thresholds| thresholds.soft_used);
    if let (Some(count), Some([flags, resource, _, _, a, b, c, d])) =
        (soft, bytes.get_mut(THRESHOLD_AT..THRESHOLD_AT + 8))
    {
        (*flags, *resource) = (ENABLED | INCREASING, USED_RESOURCES);
        [*a, *b, *c, *d] = count.to_be_bytes();
    }
}

/// Where the threshold descriptor begins behind the header of its page.
const THRESHOLD_AT: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Usage;
    use crate::scsi::News;
    use crate::scsi::provisioning::{Policy, Threshold};
    use crate::scsi::testbed::Bench;

    #[test]
    fn pages_are_ascending_and_fit_their_buffer() {
        let order: Vec<_> = PAGES.iter().map(|page| (page.page, page.subpage)).collect();
        assert!(order.is_sorted_by(|one, next| one < next));
        assert!(
            PAGES
                .iter()
                .all(|page| usize::from(page.length) <= PAGE_BYTES_MAX)
        );
    }

    #[test]
    fn each_changeable_bit_is_in_one_page_and_not_among_the_fixed_bits() {
        let bench = Bench::new(8);
        let mut all = ModeParameters::empty();
        for page in &PAGES {
            let fixed = page.values(bench.unit(), ModeParameters::empty());
            for Changeable(byte, bit, name) in page.changeable {
                assert!(u16::from(*byte) < page.length);
                assert_eq!(fixed[usize::from(*byte)] & 1 << bit, 0);
                assert!(!all.intersects(*name), "{name:?}");
                all |= *name;
            }
        }
        assert_eq!(all, ModeParameters::all());
    }

    #[test]
    fn provisioning_page_reports_the_soft_threshold_that_is_enforced() {
        let mut bench = Bench::new(8);
        let sense = [0x5a, 0x08, 0x1c, 2, 0, 0, 0, 0, 255, 0];
        let data = bench.read(&sense, 255).good();
        assert_eq!(data[8..12], [0x5c, 2, 0, 0x14]);
        assert_eq!(data[12..], [0; 20]);
        let unit = bench.unit.as_mut().unwrap();
        unit.set_space_policy(Policy {
            soft: Some(Threshold::Percent(80)),
            ..Policy::default()
        });
        let usage = Usage {
            used: 1 << 20,
            available: 99 << 20,
        };
        let update = unit.decide_news(&News::Usage(usage)).update.unwrap();
        unit.apply(&update);
        let data = bench.read(&sense, 255).good();
        assert_eq!(data[12..24], [0; 12]);
        assert_eq!(data[24..], [0x81, 2, 0, 0, 0, 0, 0, 80]);
    }
}
