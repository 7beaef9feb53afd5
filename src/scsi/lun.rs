//! The eight-byte logical unit number (SAM-5, logical unit number): decoded from a command, encoded
//! for REPORT LUNS.
//!
//! Single-level addressing by three methods: peripheral device (bus 0), flat space, and extended
//! flat space. Our LUNs are 16 bits wide. Whatever else the field may say (a bus, a second level, a
//! method of a later standard) names no unit of ours: [`LunAddress::Unsupported`], never an error,
//! because SAM-5 has such commands answered as those to a missing unit.

/// LUNs below this one are encoded by the peripheral device method, which every initiator knows.
const PERIPHERAL_LUNS: u16 = 256;

/// LUNs below this one fit the flat space method's 14 bits.
const FLAT_LUNS: u16 = 1 << 14;

/// What the LUN field of a command means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LunAddress {
    /// A number that a logical unit may be mapped at.
    Lun(u16),
    WellKnown(WellKnownLun),
    /// Well-formed or not, it addresses nothing that this target can have.
    Unsupported,
}

/// SAM-5, the well known logical units.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WellKnownLun {
    ReportLuns,
    AccessControls,
    TargetLogPages,
    SecurityProtocol,
    ManagementProtocol,
    TargetCommands,
}

impl LunAddress {
    /// Decodes the LUN field of a PDU. Every value of the 64 bits has a meaning.
    pub fn decode(field: [u8; 8]) -> Self {
        let [first, second, third, fourth, rest @ ..] = field;
        let two_byte_form = third == 0 && fourth == 0 && rest == [0; 4];
        match (first >> 6, first & 0x3f) {
            // SAM-5: peripheral device addressing; bus 0 is this target.
            (0b00, 0) if two_byte_form => Self::Lun(u16::from(second)),
            // SAM-5: flat space addressing, 14 bits.
            (0b01, high) if two_byte_form => Self::Lun(u16::from_be_bytes([high, second])),
            // SAM-5: extended well known unit addressing, length 00b, method 1h.
            (0b11, 0b00_0001) if two_byte_form => Self::well_known(second),
            // SAM-5: extended flat space addressing, length 01b (four bytes), method 2h.
            (0b11, 0b01_0010) if second == 0 && rest == [0; 4] => {
                Self::Lun(u16::from_be_bytes([third, fourth]))
            }
            _ => Self::Unsupported,
        }
    }

    fn well_known(number: u8) -> Self {
        match number {
            0x01 => Self::WellKnown(WellKnownLun::ReportLuns),
            0x02 => Self::WellKnown(WellKnownLun::AccessControls),
            0x03 => Self::WellKnown(WellKnownLun::TargetLogPages),
            0x04 => Self::WellKnown(WellKnownLun::SecurityProtocol),
            0x05 => Self::WellKnown(WellKnownLun::ManagementProtocol),
            0x06 => Self::WellKnown(WellKnownLun::TargetCommands),
            _ => Self::Unsupported,
        }
    }
}

/// Encodes a LUN by the simplest method that can say it: peripheral below 256, flat space below
/// 16,384, extended flat space above.
pub fn encode(lun: u16) -> [u8; 8] {
    let [high, low] = lun.to_be_bytes();
    if lun < PERIPHERAL_LUNS {
        [0, low, 0, 0, 0, 0, 0, 0]
    } else if lun < FLAT_LUNS {
        [0x40 | high, low, 0, 0, 0, 0, 0, 0]
    } else {
        [0xd2, 0, high, low, 0, 0, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn peripheral_method_names_luns_of_bus_0_only() {
        assert_eq!(
            LunAddress::decode([0, 5, 0, 0, 0, 0, 0, 0]),
            LunAddress::Lun(5)
        );
        assert_eq!(
            LunAddress::decode([1, 5, 0, 0, 0, 0, 0, 0]),
            LunAddress::Unsupported
        );
    }

    #[test]
    fn flat_method_names_the_same_unit_as_the_peripheral_method() {
        assert_eq!(
            LunAddress::decode([0x40, 5, 0, 0, 0, 0, 0, 0]),
            LunAddress::Lun(5)
        );
        assert_eq!(
            LunAddress::decode([0x7f, 0xff, 0, 0, 0, 0, 0, 0]),
            LunAddress::Lun(0x3fff)
        );
    }

    #[test]
    fn extended_flat_method_reaches_all_16_bits_and_no_more() {
        assert_eq!(
            LunAddress::decode([0xd2, 0, 0xff, 0xff, 0, 0, 0, 0]),
            LunAddress::Lun(0xffff)
        );
        assert_eq!(
            LunAddress::decode([0xd2, 1, 0, 0, 0, 0, 0, 0]),
            LunAddress::Unsupported
        );
    }

    #[test]
    fn report_luns_well_known_unit_is_known_as_such() {
        assert_eq!(
            LunAddress::decode([0xc1, 1, 0, 0, 0, 0, 0, 0]),
            LunAddress::WellKnown(WellKnownLun::ReportLuns)
        );
        assert_eq!(
            LunAddress::decode([0xc1, 0x77, 0, 0, 0, 0, 0, 0]),
            LunAddress::Unsupported
        );
    }

    #[test]
    fn second_level_and_logical_unit_method_address_nothing() {
        assert_eq!(
            LunAddress::decode([0, 5, 0, 1, 0, 0, 0, 0]),
            LunAddress::Unsupported
        );
        assert_eq!(
            LunAddress::decode([0, 5, 0, 0, 0, 0, 0, 1]),
            LunAddress::Unsupported
        );
        assert_eq!(
            LunAddress::decode([0x80, 5, 0, 0, 0, 0, 0, 0]),
            LunAddress::Unsupported
        );
    }

    proptest! {
        #[test]
        fn every_lun_survives_encoding(lun in any::<u16>()) {
            prop_assert_eq!(LunAddress::decode(encode(lun)), LunAddress::Lun(lun));
        }
    }
}
