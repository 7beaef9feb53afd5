//! MODE SELECT (6) and (10) (SPC-4).
//!
//! The parameter list has the header that MODE SENSE returns, perhaps a block descriptor, and pages
//! of [`mode_pages`]. All of it is checked before anything changes, here for an early answer and
//! again by the unit's home core, which alone decides: of two commands that contend neither undoes
//! what the other did. With SP = 1 the values that result are saved too, and come back after a
//! reset and a restart.
//!
//! Where WCE goes from 1 to 0 the cache is flushed twice: before the change, so that a flush that
//! fails changes nothing, and after it, for what was written in between.

use super::mode_pages::{self, ModeParameters};
use crate::backend::Operation;
use crate::scsi::change::Change;
use crate::scsi::sense::{self, Access, Sense};
use crate::scsi::task::{
    Begin, Context, Event, Machine, Step, Task, Transfer, UnitCall, wrong_event,
};
use crate::scsi::unit::LogicalUnit;

/// Longest parameter list that is taken, in bytes: all pages with a block descriptor several times.
const LIST_BYTES_MAX: u16 = 1024;

/// The two forms of the command and of its header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Six,
    Ten,
}

impl Form {
    /// Where the CDB has PARAMETER LIST LENGTH.
    const fn list_length_at(self) -> u16 {
        match self {
            Self::Six => 4,
            Self::Ten => 7,
        }
    }
}

/// What a MODE SELECT asks the unit's home core for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModeSelection {
    form: Form,
    list: Box<[u8]>,
    /// SP: the values are saved.
    pub save: bool,
}

/// A MODE SELECT that is under way.
#[derive(Debug)]
pub struct ModeSelect {
    form: Form,
    save: bool,
    /// What is asked for next, once the cache is flushed.
    selection: Option<Box<ModeSelection>>,
    /// The cache must be flushed again when the change is made.
    flush: bool,
}

pub(in crate::scsi) fn start_6(call: &mut UnitCall<'_>) -> Begin {
    start(call, Form::Six, u16::from(call.command.cdb.u8(4)))
}

pub(in crate::scsi) fn start_10(call: &mut UnitCall<'_>) -> Begin {
    start(call, Form::Ten, call.command.cdb.be16(7))
}

fn start(call: &UnitCall<'_>, form: Form, list_bytes: u16) -> Begin {
    let cdb = &call.command.cdb;
    if list_bytes == 0 {
        // SPC-4, PARAMETER LIST LENGTH: zero is no error.
        return Task::good(Transfer::None);
    }
    // SPC-4 MODE SELECT: PF = 0 says that the pages are in no format that a standard knows.
    if !cdb.bit(1, 4) {
        return Err(Sense::invalid_field_in_cdb(1, Some(4)));
    }
    let transfer = Transfer::Out(u64::from(list_bytes));
    let data_out_bytes = u32::from(list_bytes);
    if data_out_bytes > call.command.data_out_bytes || list_bytes > LIST_BYTES_MAX {
        let sense = Sense::parameter_list_length_error(form.list_length_at());
        return Task::refused(transfer, sense);
    }
    let select = ModeSelect {
        form,
        save: cdb.bit(1, 0),
        selection: None,
        flush: false,
    };
    let step = Step::Collect {
        data_out_bytes,
        scratch_bytes: 0,
    };
    Ok((Task::new(Machine::ModeSelect(select), transfer), step))
}

impl ModeSelect {
    pub(in crate::scsi) fn resume(
        &mut self,
        cx: &Context<'_>,
        event: &Event,
    ) -> Result<Step, Sense> {
        match event {
            Event::Collected {
                data_out: Some(buf),
                ..
            } => {
                let unit = cx.unit().expect("a mapped unit stays mapped");
                let list = buf.to_vec().into_boxed_slice();
                let selection = ModeSelection {
                    form: self.form,
                    list,
                    save: self.save,
                };
                let after = selection.parameters(unit)?;
                let stops = (unit.mode() - after).contains(ModeParameters::WCE);
                self.flush = stops && unit.not_ready().is_none();
                self.selection = Some(Box::new(selection));
                Ok(if self.flush {
                    Step::Submit(Operation::Flush)
                } else {
                    self.next()
                })
            }
            Event::Completed { result: Ok(()), .. } => Ok(self.next()),
            Event::Completed {
                result: Err(error), ..
            } => Err(sense::from_io_error(*error, Access::Write)),
            Event::Changed(_) if self.flush => Ok(Step::Submit(Operation::Flush)),
            Event::Changed(_) => Ok(Step::GOOD),
            Event::Collected { data_out: None, .. } | Event::Streamed(_) | Event::Frozen => {
                wrong_event("MODE SELECT", event)
            }
        }
    }

    /// The change, or the end when it is made.
    fn next(&mut self) -> Step {
        self.selection.take().map_or(Step::GOOD, |selection| {
            Step::Change(Change::ModeSelect(selection))
        })
    }
}

impl ModeSelection {
    /// What the unit's parameters are after this.
    ///
    /// # Errors
    /// The sense data for what cannot be in the list.
    pub fn parameters(&self, unit: &LogicalUnit) -> Result<ModeParameters, Sense> {
        let cut = Sense::parameter_list_length_error(self.form.list_length_at());
        let list = &*self.list;
        // SPC-4, mode parameter header: MODE DATA LENGTH is reserved here. SBC-3: so is the
        // device-specific parameter. MEDIUM TYPE is that of all block devices.
        let (medium_type_at, long_lba, length_at, descriptor_bytes, rest) = match self.form {
            Form::Six => {
                let [_, _, _, length, rest @ ..] = list else {
                    return Err(cut);
                };
                (1, false, 3, u16::from(*length), rest)
            }
            Form::Ten => {
                let [_, _, _, _, flags, _, high, low, rest @ ..] = list else {
                    return Err(cut);
                };
                let length = u16::from_be_bytes([*high, *low]);
                (2, flags & 1 != 0, 6, length, rest)
            }
        };
        if list[usize::from(medium_type_at)] != 0 {
            return Err(Sense::invalid_field_in_parameter_list(medium_type_at, None));
        }
        let header = length_at + if self.form == Form::Six { 1 } else { 2 };
        let expected = if long_lba { 16 } else { 8 };
        if descriptor_bytes != 0 && descriptor_bytes != expected {
            return Err(Sense::invalid_field_in_parameter_list(length_at, None));
        }
        let (descriptor, pages) = rest
            .split_at_checked(usize::from(descriptor_bytes))
            .ok_or(cut)?;
        check_descriptor(unit, descriptor, header)?;
        let offset = header + descriptor_bytes;
        mode_pages::select(unit, pages, offset, self.form.list_length_at())
    }
}

/// SBC-3, mode parameter block descriptors: neither the capacity nor the block size can be changed.
/// A number of blocks of zero leaves it as it is, and all ones asks for the whole.
fn check_descriptor(unit: &LogicalUnit, descriptor: &[u8], at: u16) -> Result<(), Sense> {
    let info = unit.info();
    let short = u32::try_from(info.blocks).unwrap_or(u32::MAX);
    let (blocks_are_right, block_size, block_size_at) = match *descriptor {
        [a, b, c, d, _, e, f, g] => {
            let blocks = u32::from_be_bytes([a, b, c, d]);
            let right = [0, u32::MAX, short].contains(&blocks);
            (right, u32::from_be_bytes([0, e, f, g]), 5)
        }
        [a, b, c, d, e, f, g, h, _, _, _, _, i, j, k, l] => {
            let blocks = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
            let right = [0, u64::MAX, info.blocks].contains(&blocks);
            (right, u32::from_be_bytes([i, j, k, l]), 12)
        }
        _ => return Ok(()),
    };
    if !blocks_are_right {
        return Err(Sense::invalid_field_in_parameter_list(at, None));
    }
    if block_size != info.block_size {
        return Err(Sense::invalid_field_in_parameter_list(
            at + block_size_at,
            None,
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::backend::IoError;
    use crate::scsi::change::Change;
    use crate::scsi::sense::{AdditionalSense, Sense, SenseFormat, SenseKey};
    use crate::scsi::spc::mode_pages::Qerr;
    use crate::scsi::task::Transfer;
    use crate::scsi::testbed::{self, Bench, Done};
    use crate::scsi::unit_attention::{NexusUnit, UnitAttention};

    const PF: u8 = 0x10;
    const SP: u8 = 0x01;
    const CONTROL: [u8; 12] = [0x0a, 0x0a, 0x20, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0];
    const CACHING: [u8; 20] = [
        0x08, 0x12, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    const WRITE: [u8; 10] = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];

    fn select_6(flags: u8, bytes: usize) -> [u8; 6] {
        [0x15, flags, 0, 0, u8::try_from(bytes).unwrap(), 0]
    }

    fn select_10(flags: u8, bytes: usize) -> [u8; 10] {
        let [a, b] = u16::try_from(bytes).unwrap().to_be_bytes();
        [0x55, flags, 0, 0, 0, 0, 0, a, b, 0]
    }

    /// A list for the 6-byte form without block descriptor.
    fn list(pages: &[&[u8]]) -> Vec<u8> {
        [&[0; 4], &*pages.concat()].concat()
    }

    /// A page with one byte changed.
    fn with(page: &[u8], at: usize, value: u8) -> Vec<u8> {
        let mut page = page.to_vec();
        page[at] = value;
        page
    }

    #[track_caller]
    fn refused(bench: &mut Bench, list: &[u8], byte: u16, bit: Option<u8>) {
        let before = bench.unit().clone();
        let answer = bench.write(&select_6(PF | SP, list.len()), list);
        let sense = Sense::invalid_field_in_parameter_list(byte, bit);
        assert_eq!((answer.sense(), &answer.done[..]), (sense, &[][..]));
        assert_eq!(*bench.unit(), before);
    }

    fn set(bench: &mut Bench, flags: u8, page: &[u8]) {
        let list = list(&[page]);
        bench.write(&select_6(flags, list.len()), &list).good();
    }

    fn current(bench: &mut Bench, control: u8, page: u8, subpage: u8) -> Vec<u8> {
        let cdb = [0x1a, 8, control << 6 | page, subpage, 255, 0];
        bench.read(&cdb, 255).good()[4..].to_vec()
    }

    #[test]
    fn every_changeable_bit_of_the_control_page_takes_effect() {
        let mut bench = Bench::new(8);
        set(&mut bench, PF, &with(&CONTROL, 2, 0x24));
        assert_eq!(bench.unit().sense_format(), SenseFormat::Descriptor);
        assert_eq!(current(&mut bench, 0, 0x0a, 0)[2], 0x24);
        for (qerr, means) in [
            (0x12, Qerr::AbortTaskSet),
            (0x16, Qerr::AbortNexus),
            (0x10, Qerr::Continue),
        ] {
            set(&mut bench, PF, &with(&CONTROL, 3, qerr));
            assert_eq!(bench.unit().qerr(), means);
        }
        assert!(!bench.unit().tas());
        set(&mut bench, PF, &with(&CONTROL, 5, 0x40));
        assert!(bench.unit().tas());
        assert_eq!(bench.unit().sense_format(), SenseFormat::Fixed);
    }

    #[test]
    fn software_write_protect_refuses_writes_until_it_is_cleared() {
        let mut bench = Bench::new(8);
        set(&mut bench, PF, &with(&CONTROL, 4, 0x08));
        bench.read(&READ, 512).good();
        bench.write(&WRITE, &[1; 512]).refused_with(
            SenseKey::DataProtect,
            AdditionalSense::SOFTWARE_WRITE_PROTECTED,
        );
        assert_eq!(bench.read(&[0x1a, 0, 0x0a, 0, 4, 0], 4).good()[2], 0x90);
        set(&mut bench, PF, &CONTROL);
        bench.write(&WRITE, &[1; 512]).good();
    }

    #[test]
    fn write_cache_that_is_turned_off_is_flushed_and_makes_writes_durable() {
        let mut bench = Bench::new(8);
        let off = list(&[&with(&CACHING, 2, 0)]);
        let answer = bench.write(&select_6(PF, off.len()), &off);
        assert_eq!(answer.done, [Done::Flush, Done::Flush]);
        answer.good();
        let fua = |answer: &[Done]| matches!(answer, [Done::Write { fua: true, .. }]);
        assert!(fua(&bench.write(&WRITE, &[1; 512]).done));
        let on = list(&[&CACHING]);
        let answer = bench.write(&select_6(PF, on.len()), &on);
        assert_eq!(answer.done, []);
        answer.good();
        assert!(!fua(&bench.write(&WRITE, &[1; 512]).done));
    }

    #[test]
    fn cache_that_cannot_be_flushed_stays_on() {
        let mut bench = Bench::new(8);
        bench.fault = Some(IoError::WriteCacheLost);
        let off = list(&[&with(&CACHING, 2, 0)]);
        let answer = bench.write(&select_6(PF, off.len()), &off);
        assert_eq!(answer.sense().key, SenseKey::HardwareError);
        assert_eq!(current(&mut bench, 0, 0x08, 0)[2], 4);
    }

    #[test]
    fn reset_brings_back_what_was_saved_and_only_that() {
        let mut bench = Bench::new(8);
        set(&mut bench, PF | SP, &with(&CONTROL, 5, 0x40));
        assert!(bench.saved);
        bench.saved = false;
        set(&mut bench, PF, &with(&with(&CONTROL, 5, 0x40), 2, 0x24));
        assert!(!bench.saved);
        assert_eq!(current(&mut bench, 3, 0x0a, 0)[2..6], [0x20, 0x10, 0, 0x40]);
        assert_eq!(current(&mut bench, 2, 0x0a, 0)[2..6], [0x20, 0x10, 0, 0]);
        bench.change(&Change::Reset).unwrap();
        assert_eq!(current(&mut bench, 0, 0x0a, 0)[2..6], [0x20, 0x10, 0, 0x40]);
        let kept = bench.unit().non_volatile().clone();
        let mut restarted = Bench::new(8);
        restarted.unit.as_mut().unwrap().restore(kept);
        assert!(restarted.unit().tas());
    }

    #[test]
    fn others_are_told_of_a_change_and_the_nexus_that_made_it_is_not() {
        let mut bench = Bench::new(8);
        set(&mut bench, PF, &CONTROL);
        assert_eq!(bench.others.take(), None);
        set(&mut bench, PF, &with(&CONTROL, 5, 0x40));
        let told = bench.others.take();
        assert_eq!(told, Some(UnitAttention::ModeParametersChanged));
        assert_eq!(bench.nexus.take(), None);
    }

    #[test]
    fn several_pages_and_both_forms_with_their_descriptors() {
        let mut bench = Bench::new(8);
        let pages = [&with(&CONTROL, 5, 0x40)[..], &with(&CACHING, 2, 0)].concat();
        let short = [0, 0, 0, 0, 0, 0, 2, 0];
        let mut long = [0; 16];
        long[7] = 8;
        long[14] = 2;
        for (header, descriptor) in [
            (&[0, 0, 0, 0, 0, 0, 0, 0][..], &[][..]),
            (&[0, 0, 0, 0, 0, 0, 0, 8], &short),
            (&[0, 0, 0, 0, 1, 0, 0, 16], &long),
        ] {
            let list = [header, descriptor, &pages].concat();
            bench.write(&select_10(PF, list.len()), &list).good();
            assert!(bench.unit().tas() && bench.unit().write_through());
            bench.change(&Change::Reset).unwrap();
            assert!(!bench.unit().tas() && !bench.unit().write_through());
        }
        let list = [&[0, 0, 0, 8][..], &short, &pages].concat();
        let answer = bench.write(&select_6(PF, list.len()), &list);
        assert_eq!(answer.transfer, Transfer::Out(44));
        answer.good();
        assert!(bench.unit().tas());
    }

    #[test]
    fn what_mode_sense_returns_is_accepted_when_ps_is_cleared() {
        let mut bench = Bench::new(8);
        for (page, subpage) in [(0x3f, 0xff), (0x0a, 1), (0x1c, 2)] {
            let cdb = [0x5a, 0, page, subpage, 0, 0, 0, 4, 0, 0];
            let mut list = bench.read(&cdb, 1024).good();
            let mut at = 16;
            while at < list.len() {
                list[at] &= 0x7f;
                at += match list[at] & 0x40 {
                    0 => usize::from(list[at + 1]) + 2,
                    _ => usize::from(u16::from_be_bytes([list[at + 2], list[at + 3]])) + 4,
                };
            }
            bench.write(&select_10(PF, list.len()), &list).good();
        }
        assert_eq!(bench.others.take(), None);
    }

    #[test]
    fn bits_that_cannot_be_changed_are_pointed_at_and_nothing_is_applied() {
        let mut bench = Bench::new(8);
        // TST, DPICZ, the queue algorithm, UA_INTLCK_CTRL, BUSY TIMEOUT PERIOD.
        for (at, value, bit) in [
            (2, 0x00, 5),
            (2, 0x28, 3),
            (3, 0x00, 4),
            (4, 0x20, 5),
            (8, 0xfe, 0),
        ] {
            let bad = with(&CONTROL, at, value);
            refused(
                &mut bench,
                &list(&[&bad]),
                4 + u16::try_from(at).unwrap(),
                Some(bit),
            );
        }
        let list = list(&[&with(&CACHING, 2, 0), &with(&CONTROL, 11, 1)]);
        refused(&mut bench, &list, 4 + 20 + 11, Some(0));
    }

    #[test]
    fn reserved_qerr_unknown_pages_and_wrong_lengths_are_pointed_at() {
        let mut bench = Bench::new(8);
        refused(&mut bench, &list(&[&with(&CONTROL, 3, 0x14)]), 7, Some(2));
        refused(&mut bench, &list(&[&with(&CONTROL, 0, 0x8a)]), 4, Some(7));
        refused(&mut bench, &list(&[&[0x05, 0]]), 4, Some(5));
        refused(&mut bench, &list(&[&[0x4a, 9, 0, 0]]), 5, None);
        refused(&mut bench, &list(&[&[0x4a, 0, 0, 10, 0, 0]]), 5, None);
        refused(&mut bench, &list(&[&with(&CONTROL, 1, 9)]), 5, None);
        refused(&mut bench, &list(&[&[0x4a, 1, 0xff, 0xff]]), 6, None);
        refused(&mut bench, &with(&list(&[&CONTROL]), 1, 5), 1, None);
        refused(&mut bench, &with(&list(&[&CONTROL]), 3, 7), 3, None);
        let resize = [&[0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 2, 0][..], &CONTROL].concat();
        refused(&mut bench, &resize, 4, None);
        let reformat = [&[0, 0, 0, 8, 0, 0, 0, 8, 0, 0, 4, 0][..], &CONTROL].concat();
        refused(&mut bench, &reformat, 9, None);
    }

    #[test]
    fn lists_that_are_cut_anywhere_are_a_length_error() {
        let mut bench = Bench::new(8);
        let whole = list(&[&with(&CONTROL, 5, 0x40), &CACHING]);
        for length in 1..whole.len() {
            let between_pages = length == 4 || length == 4 + CONTROL.len();
            if between_pages {
                continue;
            }
            let answer = bench.write(&select_6(PF, length), &whole[..length]);
            assert_eq!(answer.sense(), Sense::parameter_list_length_error(4));
        }
        assert!(!bench.unit().tas());
        let answer = bench.write(&select_6(PF, whole.len()), &whole[..20]);
        assert_eq!(answer.sense(), Sense::parameter_list_length_error(4));
        let answer = bench.write(&select_10(PF, 2000), &[0; 2000]);
        assert_eq!(answer.sense(), Sense::parameter_list_length_error(7));
        let descriptor = [0, 0, 0, 8, 0, 0];
        let answer = bench.write(&select_6(PF, 6), &descriptor);
        assert_eq!(answer.sense(), Sense::parameter_list_length_error(4));
    }

    #[test]
    fn empty_list_changes_nothing_and_pf_must_be_set_else() {
        let mut bench = Bench::new(8);
        bench.plain(&select_6(SP, 0)).good();
        bench.plain(&select_10(PF, 0)).good();
        let list = list(&[&CONTROL]);
        bench
            .write(&select_6(0, list.len()), &list)
            .invalid_field(1, Some(4));
    }

    #[test]
    fn read_only_mapping_may_not_change_the_unit_for_others() {
        let mut bench = Bench::with_info(testbed::info(512, 8));
        bench.nexus = NexusUnit::new(true);
        let list = list(&[&with(&CONTROL, 4, 0x08)]);
        bench
            .write(&select_6(PF, list.len()), &list)
            .refused_with(SenseKey::DataProtect, AdditionalSense::WRITE_PROTECTED);
    }
}
