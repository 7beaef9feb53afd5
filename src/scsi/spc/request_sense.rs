//! REQUEST SENSE (SPC-4).
//!
//! Always GOOD status; the answer is in the parameter data, in the format that the DESC bit asks
//! for: LOGICAL UNIT NOT SUPPORTED where nothing is mapped, else a pending unit attention, which is
//! thereby cleared (SAM-5, clearing unit attention conditions), else what TEST UNIT READY would
//! say, else NO SENSE.

use crate::scsi::sense::{AdditionalSense, SENSE_BYTES_MAX, Sense, SenseFormat};
use crate::scsi::task::{Begin, Command, Context, Task};
use crate::scsi::unit_attention::NexusUnit;

pub(in crate::scsi) fn start(cx: &mut Context<'_>, command: &Command) -> Begin {
    let sense = current(cx);
    let format = if command.cdb.bit(1, 0) {
        SenseFormat::Descriptor
    } else {
        SenseFormat::Fixed
    };
    let mut bytes = [0; SENSE_BYTES_MAX];
    let len = sense.encode(format, &mut bytes);
    cx.data_in.put(&bytes[..len]);
    Task::parameter_data(cx.data_in, u32::from(command.cdb.u8(4)))
}

fn current(cx: &mut Context<'_>) -> Sense {
    let Some(unit) = cx.unit() else {
        return Sense::illegal_request(AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED);
    };
    let nexus = cx.nexus();
    let hindrance = nexus.as_ref().and_then(|nexus| nexus.hindrance().refusal());
    if let Some(condition) = nexus.and_then(NexusUnit::take) {
        return condition.sense();
    }
    if let Some(sense) = hindrance {
        return sense;
    }
    unit.not_ready().unwrap_or(Sense::NO_SENSE)
}

#[cfg(test)]
mod tests {
    use crate::scsi::change::Update;
    use crate::scsi::testbed::Bench;
    use crate::scsi::unit_attention::UnitAttention;

    const FIXED: [u8; 6] = [0x03, 0, 0, 0, 252, 0];
    const DESCRIPTOR: [u8; 6] = [0x03, 1, 0, 0, 252, 0];

    #[test]
    fn nothing_pending_is_no_sense_in_either_format() {
        let mut bench = Bench::new(8);
        let mut fixed = [0; 18];
        fixed[0] = 0x70;
        fixed[7] = 10;
        assert_eq!(bench.read(&FIXED, 252).good(), fixed);
        assert_eq!(
            bench.read(&DESCRIPTOR, 252).good(),
            [0x72, 0, 0, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn pending_unit_attention_is_returned_and_cleared() {
        let mut bench = Bench::new(8);
        bench.nexus.raise(UnitAttention::CapacityChanged);
        let data = bench.read(&DESCRIPTOR, 252).good();
        assert_eq!(data[..4], [0x72, 0x06, 0x2a, 0x09]);
        bench.plain(&[0; 6]).good();
    }

    #[test]
    fn stopped_unit_is_not_ready() {
        let mut bench = Bench::new(8);
        bench.unit.as_mut().unwrap().apply(&Update::Started(false));
        let data = bench.read(&FIXED, 252).good();
        assert_eq!((data[2], data[12], data[13]), (0x02, 0x04, 0x02));
    }

    #[test]
    fn where_no_unit_is_mapped_the_sense_data_say_so_with_good_status() {
        let mut bench = Bench::new(8);
        bench.unit = None;
        let data = bench.read(&FIXED, 252).good();
        assert_eq!((data[2], data[12], data[13]), (0x05, 0x25, 0x00));
    }

    #[test]
    fn sense_data_are_cut_to_the_allocation_length() {
        let mut bench = Bench::new(8);
        for length in [0, 1, 17, 18, 19, 255] {
            let data = bench.read(&[0x03, 0, 0, 0, length, 0], 255).good();
            assert_eq!(data.len(), usize::from(length.min(18)));
        }
    }
}
