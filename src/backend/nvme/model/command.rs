//! Commands as a controller reads them: bytes at the standard's offsets (NVM Express Base
//! Specification 2.0 §3.3.3.1), and which bits of each command are reserved.
//!
//! On purpose nothing of the driver's own words is used here: a mistake in those is to be seen.

/// Opcodes of the admin queue (§5).
pub(super) mod admin {
    pub(in super::super) const DELETE_SQ: u8 = 0x00;
    pub(in super::super) const CREATE_SQ: u8 = 0x01;
    pub(in super::super) const GET_LOG_PAGE: u8 = 0x02;
    pub(in super::super) const DELETE_CQ: u8 = 0x04;
    pub(in super::super) const CREATE_CQ: u8 = 0x05;
    pub(in super::super) const IDENTIFY: u8 = 0x06;
    pub(in super::super) const ABORT: u8 = 0x08;
    pub(in super::super) const SET_FEATURES: u8 = 0x09;
    pub(in super::super) const GET_FEATURES: u8 = 0x0a;
    pub(in super::super) const ASYNC_EVENT: u8 = 0x0c;
    pub(in super::super) const KEEP_ALIVE: u8 = 0x18;
    pub(in super::super) const DBBUF_CONFIG: u8 = 0x7c;
}

/// Opcodes of I/O queues (NVM Command Set Specification 1.0 §3.2).
pub(super) mod nvm {
    pub(in super::super) const FLUSH: u8 = 0x00;
    pub(in super::super) const WRITE: u8 = 0x01;
    pub(in super::super) const READ: u8 = 0x02;
    pub(in super::super) const COMPARE: u8 = 0x05;
    pub(in super::super) const WRITE_ZEROES: u8 = 0x08;
    pub(in super::super) const DATASET_MANAGEMENT: u8 = 0x09;
    pub(in super::super) const VERIFY: u8 = 0x0c;
}

/// How a command ended, as it stands in a completion: SCT in bits 10:8, SC in bits 7:0, DNR in
/// bit 14.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Code(pub(super) u16);

impl Code {
    pub(super) const SUCCESS: Self = Self(0);
    pub(super) const INVALID_OPCODE: Self = Self(0x4001);
    pub(super) const INVALID_FIELD: Self = Self(0x4002);
    pub(super) const ID_CONFLICT: Self = Self(0x4003);
    pub(super) const DATA_TRANSFER: Self = Self(0x0004);
    pub(super) const ABORTED: Self = Self(0x0007);
    pub(super) const SQ_DELETED: Self = Self(0x0008);
    pub(super) const INVALID_NAMESPACE: Self = Self(0x400b);
    pub(super) const SEQUENCE: Self = Self(0x400c);
    pub(super) const PRP_OFFSET: Self = Self(0x4013);
    pub(super) const WRITE_PROTECTED: Self = Self(0x4020);
    pub(super) const LBA_RANGE: Self = Self(0x4080);
    pub(super) const CQ_INVALID: Self = Self(0x4100);
    pub(super) const QID_INVALID: Self = Self(0x4101);
    pub(super) const QUEUE_SIZE: Self = Self(0x4102);
    pub(super) const ABORT_LIMIT: Self = Self(0x4103);
    pub(super) const EVENT_LIMIT: Self = Self(0x4105);
    pub(super) const LOG_PAGE: Self = Self(0x4109);
    pub(super) const QUEUE_DELETION: Self = Self(0x410c);
    pub(super) const SIZE_LIMIT: Self = Self(0x4183);
    pub(super) const COMPARE_FAILURE: Self = Self(0x0285);
}

/// An entry of a submission queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command(pub(super) [u8; 64]);

impl Command {
    /// CDW `nth`, 0 to 15.
    pub(super) fn dword(&self, nth: usize) -> u32 {
        let (dwords, _) = self.0.as_chunks::<4>();
        u32::from_le_bytes(dwords[nth])
    }

    /// The lower half of CDW `nth`.
    pub(super) fn low(&self, nth: usize) -> u16 {
        u16::from_le_bytes([self.0[4 * nth], self.0[4 * nth + 1]])
    }

    /// The upper half of CDW `nth`.
    pub(super) fn high(&self, nth: usize) -> u16 {
        u16::from_le_bytes([self.0[4 * nth + 2], self.0[4 * nth + 3]])
    }

    pub(super) fn opcode(&self) -> u8 {
        self.0[0]
    }

    pub(super) fn cid(&self) -> u16 {
        self.high(0)
    }

    pub(super) fn nsid(&self) -> u32 {
        self.dword(1)
    }

    fn quad(&self, nth: usize) -> u64 {
        u64::from(self.dword(nth)) | u64::from(self.dword(nth + 1)) << 32
    }

    pub(super) fn prp1(&self) -> u64 {
        self.quad(6)
    }

    pub(super) fn prp2(&self) -> u64 {
        self.quad(8)
    }

    pub(super) fn slba(&self) -> u64 {
        self.quad(10)
    }

    /// NLB, counted from 1.
    pub(super) fn blocks(&self) -> u64 {
        u64::from(self.low(12)) + 1
    }

    /// FUA of Write and Write Zeroes.
    pub(super) fn fua(&self) -> bool {
        self.dword(12) & 1 << 30 != 0
    }

    /// The first reserved thing that is not zero, in words.
    pub(super) fn reserved(&self, on_admin: bool) -> Option<String> {
        let form = Form::of(self.opcode(), on_admin)?;
        let reserved = [
            ("CDW0", self.dword(0) & 0x0000_ff00),
            ("NSID", self.dword(1) & !form.nsid),
            ("CDW2", self.dword(2)),
            ("CDW3", self.dword(3)),
            ("MPTR", self.dword(4) | self.dword(5)),
            ("PRP1", (self.dword(6) | self.dword(7)) & !form.prp1),
            ("PRP2", (self.dword(8) | self.dword(9)) & !form.prp2),
        ];
        let own = (0..6).map(|nth| {
            let name = ["CDW10", "CDW11", "CDW12", "CDW13", "CDW14", "CDW15"][nth];
            (name, self.dword(10 + nth) & !form.dwords[nth])
        });
        let wrong = reserved.into_iter().chain(own).find(|(_, bits)| *bits != 0);
        wrong.map(|(name, bits)| format!("{name} has bits {bits:#x} that are reserved"))
    }

    /// Whether the opcode is one that this model knows.
    pub(super) fn is_known(&self, on_admin: bool) -> bool {
        Form::of(self.opcode(), on_admin).is_some()
    }
}

/// Which bits of a command mean something.
struct Form {
    nsid: u32,
    prp1: u32,
    prp2: u32,
    /// CDW10 to CDW15.
    dwords: [u32; 6],
}

const ALL: u32 = u32::MAX;

impl Form {
    const fn new(nsid: u32, prp1: u32, prp2: u32, dwords: [u32; 6]) -> Self {
        Self {
            nsid,
            prp1,
            prp2,
            dwords,
        }
    }

    fn of(opcode: u8, on_admin: bool) -> Option<Self> {
        if on_admin {
            Self::of_admin(opcode)
        } else {
            Self::of_nvm(opcode)
        }
    }

    fn of_admin(opcode: u8) -> Option<Self> {
        Some(match opcode {
            admin::DELETE_SQ | admin::DELETE_CQ => Self::new(0, 0, 0, [0xffff, 0, 0, 0, 0, 0]),
            admin::CREATE_SQ => Self::new(0, ALL, 0, [ALL, 0xffff_0007, 0xffff, 0, 0, 0]),
            admin::CREATE_CQ => Self::new(0, ALL, 0, [ALL, 0xffff_0003, 0, 0, 0, 0]),
            admin::GET_LOG_PAGE => Self::new(ALL, ALL, ALL, [ALL, ALL, ALL, ALL, ALL, 0]),
            admin::IDENTIFY => {
                let dwords = [0xffff_00ff, 0xff00_ffff, 0, 0, 0x7f, 0];
                Self::new(ALL, ALL, ALL, dwords)
            }
            admin::ABORT => Self::new(0, 0, 0, [ALL, 0, 0, 0, 0, 0]),
            admin::SET_FEATURES => {
                Self::new(ALL, ALL, ALL, [0x8000_00ff, ALL, ALL, ALL, 0x7f, ALL])
            }
            admin::GET_FEATURES => Self::new(ALL, ALL, ALL, [0x7ff, ALL, 0, 0, 0x7f, 0]),
            admin::ASYNC_EVENT | admin::KEEP_ALIVE => Self::new(0, 0, 0, [0; 6]),
            admin::DBBUF_CONFIG => Self::new(0, ALL, ALL, [0; 6]),
            _ => return None,
        })
    }

    /// The namespaces have no protection information, so PRINFO and what belongs to it is zero.
    fn of_nvm(opcode: u8) -> Option<Self> {
        Some(match opcode {
            nvm::FLUSH => Self::new(ALL, 0, 0, [0; 6]),
            nvm::WRITE => {
                let dwords = [ALL, ALL, 0xc000_ffff, 0xff, 0, 0];
                Self::new(ALL, ALL, ALL, dwords)
            }
            nvm::READ => Self::new(ALL, ALL, ALL, [ALL, ALL, 0xc000_ffff, 0xff, 0, 0]),
            nvm::COMPARE => Self::new(ALL, ALL, ALL, [ALL, ALL, 0xc000_ffff, 0, 0, 0]),
            nvm::WRITE_ZEROES => Self::new(ALL, 0, 0, [ALL, ALL, 0xc200_ffff, 0, 0, 0]),
            nvm::VERIFY => Self::new(ALL, 0, 0, [ALL, ALL, 0xc000_ffff, 0, 0, 0]),
            nvm::DATASET_MANAGEMENT => Self::new(ALL, ALL, ALL, [0xff, 0x7, 0, 0, 0, 0]),
            _ => return None,
        })
    }
}

/// A completion, as it stands in memory (§3.3.3.2): the last dword has the phase tag.
pub(super) struct Posted {
    pub(super) result: u32,
    pub(super) sqhd: u16,
    pub(super) sqid: u16,
    pub(super) cid: u16,
    pub(super) code: Code,
    pub(super) phase: bool,
}

impl Posted {
    /// The first 12 bytes, and the dword behind them.
    pub(super) fn encode(&self) -> ([u8; 12], u32) {
        let mut first = [0; 12];
        first[..4].copy_from_slice(&self.result.to_le_bytes());
        first[8..10].copy_from_slice(&self.sqhd.to_le_bytes());
        first[10..].copy_from_slice(&self.sqid.to_le_bytes());
        let status = u32::from(self.code.0) << 1 | u32::from(self.phase);
        (first, status << 16 | u32::from(self.cid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A command with these dwords.
    fn command(dwords: &[(usize, u32)]) -> Command {
        let mut bytes = [0; 64];
        for (nth, value) in dwords {
            bytes[4 * nth..4 * nth + 4].copy_from_slice(&value.to_le_bytes());
        }
        Command(bytes)
    }

    #[test]
    fn fields_are_where_the_standard_has_them() {
        let read = command(&[
            (0, 0x1234_0002),
            (1, 7),
            (6, 0x1000),
            (7, 1),
            (8, 0x2000),
            (9, 2),
            (10, 0x89ab_cdef),
            (11, 0x0123_4567),
            (12, 0x4000_0007),
        ]);
        assert_eq!((read.opcode(), read.cid(), read.nsid()), (2, 0x1234, 7));
        assert_eq!((read.prp1(), read.prp2()), (0x1_0000_1000, 0x2_0000_2000));
        assert_eq!(read.slba(), 0x0123_4567_89ab_cdef);
        assert_eq!((read.blocks(), read.fua()), (8, true));
        assert_eq!(read.reserved(false), None);
    }

    #[test]
    fn reserved_bits_are_found_wherever_they_are() {
        let wrong = |dwords: &[(usize, u32)], on_admin| {
            let found = command(dwords).reserved(on_admin);
            found.map(|text| text.split(' ').next().unwrap().to_owned())
        };
        for (nth, name) in [(2, "CDW2"), (3, "CDW3"), (4, "MPTR"), (13, "CDW13")] {
            let found = wrong(&[(0, 5), (nth, 1)], false);
            assert_eq!(found.as_deref(), Some(name));
        }
        assert_eq!(wrong(&[(0, 0x4002)], false).as_deref(), Some("CDW0"), "SGL");
        assert_eq!(
            wrong(&[(0, 0x0100)], false).as_deref(),
            Some("CDW0"),
            "fused"
        );
        assert_eq!(
            wrong(&[(6, 0x1000)], false).as_deref(),
            Some("PRP1"),
            "flush"
        );
        assert_eq!(
            wrong(&[(0, 1), (12, 1 << 25)], false).as_deref(),
            Some("CDW12")
        );
        assert_eq!(wrong(&[(0, 8), (12, 1 << 25)], false), None, "DEAC");
        assert_eq!(wrong(&[(0, 9), (10, 256)], false).as_deref(), Some("CDW10"));
        assert_eq!(wrong(&[(0, 0x0c), (1, 1)], true).as_deref(), Some("NSID"));
        assert_eq!(wrong(&[(0, 5), (11, 4)], true).as_deref(), Some("CDW11"));
        assert_eq!(wrong(&[(0, 1), (11, 4)], true), None, "a priority");
        assert!(!command(&[(0, 0x99)]).is_known(false));
        assert!(command(&[(0, 0x7c)]).is_known(true));
    }

    #[test]
    fn a_completion_has_its_phase_and_status_in_the_last_dword() {
        let posted = Posted {
            result: 0x0102_0304,
            sqhd: 0x1122,
            sqid: 3,
            cid: 0xabcd,
            code: Code(0x4281),
            phase: true,
        };
        let (first, last) = posted.encode();
        assert_eq!(first, [4, 3, 2, 1, 0, 0, 0, 0, 0x22, 0x11, 3, 0]);
        assert_eq!(last, 0x8503_abcd);
    }
}
