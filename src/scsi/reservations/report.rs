//! What PERSISTENT RESERVE IN returns (SPC-4 §6.15).
//!
//! The length fields say how long all of it is; what does not fit the buffer or the ALLOCATION
//! LENGTH is left out.

use super::{Kind, LU_SCOPE, Registrant, Registration, Reservations, transport_id};
use crate::scsi::nexus::Nexus;
use crate::scsi::parameter::ParameterData;

/// The service actions of PERSISTENT RESERVE IN (SPC-4 §6.15.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Report {
    ReadKeys,
    ReadReservation,
    ReportCapabilities,
    ReadFullStatus,
}

/// Bytes of a full status descriptor before its TransportID.
const FULL_STATUS_BYTES: usize = 24;

/// REPORT CAPABILITIES: CRH, SIP_C, ATP_C and PTPL_C are all ones.
const CAPABLE: u8 = 1 << 4 | 1 << 3 | 1 << 2 | 1 << 0;

/// TMV, and ALLOW COMMANDS 011b: TEST UNIT READY passes every reservation; MODE SENSE, READ BUFFER
/// and their kind pass Write Exclusive.
const TYPES_VALID_AND_ALLOWED: u8 = 1 << 7 | 0b011 << 4;

impl Reservations {
    /// Writes what a report has to say to a nexus.
    pub fn report(&self, report: Report, reader: &Nexus, out: &mut ParameterData) {
        match report {
            Report::ReadKeys => self.read_keys(out),
            Report::ReadReservation => self.read_reservation(out),
            Report::ReportCapabilities => self.report_capabilities(out),
            Report::ReadFullStatus => self.read_full_status(reader, out),
        }
    }

    /// §6.15.2: the key of every registrant, also where several have the same.
    fn read_keys(&self, out: &mut ParameterData) {
        self.put_header(self.registrations.len() * 8, out);
        for registration in &self.registrations {
            out.put_be64(registration.key);
        }
    }

    /// §6.15.3: all registrants' reservation has the key zero.
    fn read_reservation(&self, out: &mut ParameterData) {
        let Some(held) = &self.reservation else {
            self.put_header(0, out);
            return;
        };
        let holder = held.holder.as_ref().and_then(|holder| {
            self.registrations
                .iter()
                .find(|one| one.registrant == *holder)
        });
        self.put_header(16, out);
        out.put_be64(holder.map_or(0, |one| one.key));
        out.put_be32(0);
        out.put(&[0, scope_type(held.kind), 0, 0]);
    }

    /// §6.15.4.
    fn report_capabilities(&self, out: &mut ParameterData) {
        out.put_be16(8);
        out.put(&[CAPABLE, TYPES_VALID_AND_ALLOWED | u8::from(self.aptpl)]);
        // PERSISTENT RESERVATION TYPE MASK: in its first byte the bit of a type's code, in its
        // second the one type whose code is eight.
        let mask = Kind::ALL
            .into_iter()
            .fold(0_u16, |mask, kind| match kind as u8 {
                8 => mask | 1,
                code => mask | 1 << (8 + code),
            });
        out.put_be16(mask);
        out.put_be16(0);
    }

    /// §6.15.5.
    fn read_full_status(&self, reader: &Nexus, out: &mut ParameterData) {
        let descriptors = self
            .registrations
            .iter()
            .map(|one| FULL_STATUS_BYTES + transport_id::len(&one.registrant));
        self.put_header(descriptors.sum(), out);
        for Registration { registrant, key } in &self.registrations {
            out.put_be64(*key);
            out.put_be32(0);
            let kind = self.reservation.as_ref().map(|held| held.kind);
            let held_as = kind
                .filter(|_| self.holds(registrant))
                .map_or(0, scope_type);
            // ALL_TG_PT is zero: what one command registers at all ports is one registration each.
            out.put(&[u8::from(held_as != 0), held_as]);
            out.put_be32(0);
            out.put_be16(relative_port(registrant, reader));
            let bytes = transport_id::len(registrant);
            out.put_be32(u32::try_from(bytes).expect("TransportIDs are short"));
            transport_id::put(registrant, out);
        }
    }

    fn put_header(&self, additional: usize, out: &mut ParameterData) {
        out.put_be32(self.generation);
        out.put_be32(u32::try_from(additional).expect("registrations are bounded"));
    }
}

fn scope_type(kind: Kind) -> u8 {
    LU_SCOPE << 4 | kind as u8
}

/// RELATIVE TARGET PORT IDENTIFIER of a registrant: as it is called now where the reader's target
/// has the port, else as it was called when it was registered.
fn relative_port(registrant: &Registrant, reader: &Nexus) -> u16 {
    reader
        .ports()
        .iter()
        .find(|port| registrant.is_at(port))
        .unwrap_or_else(|| registrant.port())
        .relative_port()
}
