//! LOG SENSE (SPC-4), with the pages that we know something for.
//!
//! | page    | content                                                                   |
//! |---------|---------------------------------------------------------------------------|
//! | 00h     | supported pages; 00h/FFh with subpages                                    |
//! | 0Ch     | logical block provisioning: space used and left, where that is known       |
//! | 0Dh     | temperature: not known                                                    |
//! | 19h     | general statistics: commands and blocks, read and written                 |
//! | 2Fh     | informational exceptions: none, temperature unknown                       |
//!
//! There are no thresholds, nothing is saved, and parameters that changed are not told apart, so
//! only cumulative values can be asked for. Start-stop cycles and self-test results are pages of
//! devices that have them. The time that commands take is not measured: the processing
//! and idle intervals of page 19h, which SPC-4 wants there, are zero.

use crate::scsi::parameter::ParameterData;
use crate::scsi::sense::Sense;
use crate::scsi::task::{Begin, Task, UnitCall};
use crate::scsi::unit::LogicalUnit;

/// One page: its code, its subpage code, and what it writes behind the header.
struct LogPage(u8, u8, Content);

/// What is in a page.
enum Content {
    /// A list of pages, with subpages or without.
    Pages { subpages: bool },
    /// Log parameters, ascending by code.
    Parameters(&'static [LogParameter]),
}

/// PARAMETER CODE, PARAMETER LENGTH, and the value.
struct LogParameter(u16, u8, fn(&mut ParameterData, &LogicalUnit));

static PAGES: [LogPage; 6] = [
    LogPage(0x00, 0x00, Content::Pages { subpages: false }),
    LogPage(0x00, 0xff, Content::Pages { subpages: true }),
    LogPage(
        LOGICAL_BLOCK_PROVISIONING,
        0x00,
        Content::Parameters(&[
            LogParameter(0x0001, 0x08, available_resources),
            LogParameter(0x0002, 0x08, used_resources),
        ]),
    ),
    LogPage(
        0x0d,
        0x00,
        Content::Parameters(&[
            LogParameter(0x0000, 0x02, temperature),
            LogParameter(0x0001, 0x02, temperature),
        ]),
    ),
    LogPage(
        0x19,
        0x00,
        Content::Parameters(&[
            LogParameter(0x0001, 0x40, general_statistics),
            LogParameter(0x0002, 0x08, idle_time),
            LogParameter(0x0003, 0x08, time_interval),
        ]),
    ),
    LogPage(
        0x2f,
        0x00,
        Content::Parameters(&[LogParameter(0x0000, 0x04, informational_exceptions)]),
    ),
];

/// SBC-3, Logical Block Provisioning log page; absent where the space behind the unit is not known.
const LOGICAL_BLOCK_PROVISIONING: u8 = 0x0c;

/// SCOPE of a resource count: it is this unit's own, or shared with others.
const DEDICATED: u8 = 0b01;
const NOT_DEDICATED: u8 = 0b10;

/// SPF of the page header.
const SUBPAGE_FORMAT: u8 = 0x40;

/// DS of the page header: nothing of the page is saved.
const DISABLE_SAVE: u8 = 0x80;

/// Parameter control byte: FORMAT AND LINKING, binary list.
const BINARY_LIST: u8 = 0b11;

/// PC: cumulative values.
const CUMULATIVE: u8 = 0b01;

/// A temperature that is not known.
const TEMPERATURE_UNKNOWN: u8 = 0xff;

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    let (page, subpage, pointer) = (cdb.u8(2) & 0x3f, cdb.u8(3), cdb.be16(5));
    if cdb.u8(2) >> 6 != CUMULATIVE {
        return Err(Sense::invalid_field_in_cdb(2, Some(7)));
    }
    let LogPage(.., content) = find(call.unit, page, subpage)?;
    let data = &mut *call.data_in;
    let subpage_format = if subpage == 0 { 0 } else { SUBPAGE_FORMAT };
    data.put(&[DISABLE_SAVE | subpage_format | page, subpage, 0, 0]);
    match content {
        // SPC-4, PARAMETER POINTER: a list of pages has no parameter to begin with.
        Content::Pages { .. } if pointer != 0 => {
            return Err(Sense::invalid_field_in_cdb(5, None));
        }
        Content::Pages { subpages } => {
            // The list itself is not listed with the bits of its header.
            for LogPage(page, subpage, _) in PAGES.iter().filter(|it| it.exists(call.unit)) {
                match (subpages, *subpage) {
                    (false, 0) => data.put_u8(*page),
                    (false, _) => {}
                    (true, subpage) => data.put(&[*page, subpage]),
                }
            }
        }
        Content::Parameters(all) => {
            // SPC-4, PARAMETER POINTER: it may not lie behind the last parameter.
            if all
                .last()
                .is_none_or(|LogParameter(code, ..)| pointer > *code)
            {
                return Err(Sense::invalid_field_in_cdb(5, None));
            }
            let wanted = all.iter().filter(|LogParameter(code, ..)| *code >= pointer);
            for LogParameter(code, length, value) in wanted {
                data.put_be16(*code);
                data.put(&[BINARY_LIST, *length]);
                value(data, call.unit);
            }
        }
    }
    data.patch_length_be16(2);
    Task::parameter_data(data, u32::from(cdb.be16(7)))
}

impl LogPage {
    /// Whether this unit has the page.
    fn exists(&self, unit: &LogicalUnit) -> bool {
        self.0 != LOGICAL_BLOCK_PROVISIONING || unit.provisioning().resources().is_some()
    }
}

fn find(unit: &LogicalUnit, page: u8, subpage: u8) -> Result<&'static LogPage, Sense> {
    let mut rows = PAGES
        .iter()
        .filter(|it| it.0 == page && it.exists(unit))
        .peekable();
    if rows.peek().is_none() {
        return Err(Sense::invalid_field_in_cdb(2, Some(5)));
    }
    rows.find(|LogPage(_, code, _)| *code == subpage)
        .ok_or(Sense::invalid_field_in_cdb(3, None))
}

/// SBC-3, Available LBA Mapping Resource Count log parameter, in threshold sets.
fn available_resources(data: &mut ParameterData, unit: &LogicalUnit) {
    let resources = unit.provisioning().resources();
    data.put_be32(resources.map_or(0, |resources| resources.available));
    data.put(&[NOT_DEDICATED, 0, 0, 0]);
}

/// SBC-3, Used LBA Mapping Resource Count log parameter, in threshold sets.
fn used_resources(data: &mut ParameterData, unit: &LogicalUnit) {
    let resources = unit.provisioning().resources();
    data.put_be32(resources.map_or(0, |resources| resources.used));
    data.put(&[DEDICATED, 0, 0, 0]);
}

/// SPC-4, General Access Statistics and Performance log parameter.
fn general_statistics(data: &mut ParameterData, unit: &LogicalUnit) {
    let totals = unit.activity().totals();
    data.put_be64(totals.read_commands);
    data.put_be64(totals.write_commands);
    data.put_be64(totals.blocks_written); // received
    data.put_be64(totals.blocks_read); // transmitted
    data.put_zeroes(32); // processing intervals and weights
}

/// SPC-4, Idle Time log parameter.
fn idle_time(data: &mut ParameterData, _unit: &LogicalUnit) {
    data.put_be64(0);
}

/// SPC-4, Time Interval log parameter: what an interval would be, as an integer and the negative
/// exponent of ten that it is multiplied by.
fn time_interval(data: &mut ParameterData, _unit: &LogicalUnit) {
    data.put_be32(3);
    data.put_be32(1);
}

/// SPC-4, Informational Exceptions General log parameter.
/// SPC-4, Temperature log page: no device of ours tells its own, nor what it should be.
fn temperature(data: &mut ParameterData, _unit: &LogicalUnit) {
    data.put(&[0, TEMPERATURE_UNKNOWN]);
}

fn informational_exceptions(data: &mut ParameterData, _unit: &LogicalUnit) {
    data.put(&[0, 0, TEMPERATURE_UNKNOWN, 0]);
}

#[cfg(test)]
mod tests {
    use crate::backend::Usage;
    use crate::scsi::News;
    use crate::scsi::testbed::Bench;

    fn log_sense(page: u8, subpage: u8, pointer: u8, length: u8) -> [u8; 10] {
        [0x4d, 0, 0x40 | page, subpage, 0, 0, pointer, 0, length, 0]
    }

    #[test]
    fn supported_pages_are_listed_and_each_can_be_read() {
        let mut bench = Bench::new(8);
        let data = bench.read(&log_sense(0, 0, 0, 255), 255).good();
        assert_eq!(data, [0x80, 0, 0, 4, 0x00, 0x0d, 0x19, 0x2f]);
        let data = bench.read(&log_sense(0, 0xff, 0, 255), 255).good();
        let list = [0x00, 0x00, 0x00, 0xff, 0x0d, 0x00, 0x19, 0x00, 0x2f, 0x00];
        assert_eq!(data[..4], [0xc0, 0xff, 0, 10]);
        assert_eq!(data[4..], list);
        for page in list.chunks(2) {
            let data = bench.read(&log_sense(page[0], page[1], 0, 255), 255).good();
            let follow = usize::from(u16::from_be_bytes([data[2], data[3]]));
            assert_eq!(
                (data[0] & 0x3f, data[1], data.len()),
                (page[0], page[1], follow + 4)
            );
        }
    }

    #[test]
    fn space_is_reported_in_threshold_sets_where_it_is_known() {
        let mut bench = Bench::new(8);
        bench
            .read(&log_sense(0x0c, 0, 0, 255), 255)
            .invalid_field(2, Some(5));
        let usage = Usage {
            used: 3 << 20,
            available: (5 << 20) + 1,
        };
        let unit = bench.unit.as_mut().unwrap();
        let decision = unit.decide_news(&News::Usage(usage));
        unit.apply(&decision.update.unwrap());
        let data = bench.read(&log_sense(0x0c, 0, 0, 255), 255).good();
        assert_eq!(data[..4], [0x8c, 0, 0, 24]);
        assert_eq!(data[4..16], [0, 1, 3, 8, 0, 0, 0, 5, 2, 0, 0, 0]);
        assert_eq!(data[16..], [0, 2, 3, 8, 0, 0, 0, 3, 1, 0, 0, 0]);
        let list = bench.read(&log_sense(0, 0, 0, 255), 255).good();
        assert_eq!(list, [0x80, 0, 0, 5, 0x00, 0x0c, 0x0d, 0x19, 0x2f]);
        // The size of a threshold set is told with it, whether there are thresholds or not.
        let cdb = [0x12, 1, 0xb2, 0, 255, 0];
        assert_eq!(bench.read(&cdb, 255).good()[4], 11);
    }

    #[test]
    fn general_statistics_count_commands_and_blocks() {
        let mut bench = Bench::new(100);
        for blocks in [1, 7] {
            bench
                .read(&[0x28, 0, 0, 0, 0, 0, 0, 0, blocks, 0], 4096)
                .good();
        }
        bench
            .write(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 3, 0], &[1; 3 * 512])
            .good();
        let data = bench.read(&log_sense(0x19, 0, 0, 255), 255).good();
        assert_eq!(data[..8], [0x99, 0, 0, 92, 0, 1, 3, 0x40]);
        let field = |at: usize| u64::from_be_bytes(*data[8 + 8 * at..].first_chunk().unwrap());
        assert_eq!([field(0), field(1), field(2), field(3)], [2, 1, 3, 8]);
        assert_eq!(data[40..72], [0; 32]);
        assert_eq!(data[72..84], [0, 2, 3, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(data[84..], [0, 3, 3, 8, 0, 0, 0, 3, 0, 0, 0, 1]);
    }

    #[test]
    fn no_exception_is_reported_and_the_temperature_is_unknown() {
        let data = Bench::new(8).read(&log_sense(0x2f, 0, 0, 255), 255).good();
        assert_eq!(data, [0xaf, 0, 0, 8, 0, 0, 3, 4, 0, 0, 0xff, 0]);
        let data = Bench::new(8).read(&log_sense(0x0d, 0, 0, 255), 255).good();
        let expected = [0x8d, 0, 0, 12, 0, 0, 3, 2, 0, 0xff, 0, 1, 3, 2, 0, 0xff];
        assert_eq!(data, expected);
    }

    #[test]
    fn parameter_pointer_skips_and_may_not_lie_behind_the_last() {
        let mut bench = Bench::new(8);
        assert_eq!(
            bench.read(&log_sense(0x19, 0, 1, 255), 255).good().len(),
            96
        );
        let from_2 = bench.read(&log_sense(0x19, 0, 2, 255), 255).good();
        assert_eq!((from_2.len(), &from_2[4..6]), (28, &[0, 2][..]));
        for (page, pointer) in [(0x19, 4), (0x2f, 1), (0x00, 1)] {
            bench
                .read(&log_sense(page, 0, pointer, 255), 255)
                .invalid_field(5, None);
        }
    }

    #[test]
    fn unknown_pages_other_values_and_saving_are_invalid_fields() {
        let mut bench = Bench::new(8);
        bench
            .read(&log_sense(0x0e, 0, 0, 255), 255)
            .invalid_field(2, Some(5));
        bench
            .read(&log_sense(0x19, 1, 0, 255), 255)
            .invalid_field(3, None);
        for control in [0, 2, 3] {
            let cdb = [0x4d, 0, control << 6 | 0x19, 0, 0, 0, 0, 0, 255, 0];
            bench.read(&cdb, 255).invalid_field(2, Some(7));
        }
        for flag in [0, 1] {
            let cdb = [0x4d, 1 << flag, 0x59, 0, 0, 0, 0, 0, 255, 0];
            bench.read(&cdb, 255).invalid_field(1, Some(flag));
        }
    }

    #[test]
    fn pages_are_cut_to_the_allocation_length() {
        let mut bench = Bench::new(8);
        let whole = bench.read(&log_sense(0x19, 0, 0, 255), 255).good();
        for length in [0, 1, 3, 4, 95, 96, 97] {
            let data = bench.read(&log_sense(0x19, 0, 0, length), 255).good();
            assert_eq!(data, whole[..usize::from(length).min(96)]);
        }
    }
}
