//! Submission and completion queue entries (NVM Express Base Specification 2.0 §3.3.3).
//!
//! Both are arrays of little-endian dwords, exactly as the controller reads and writes them. A
//! command is built by the functions of [`command`](super::command); what is reserved is zero.

use super::status::Status;

/// Number of a command in its queue (CID): an index into the queue's slots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct CommandId(pub(crate) u16);

/// Number of a queue; 0 is the admin queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct QueueId(pub(crate) u16);

/// Number of a namespace (NSID), from 1 on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NamespaceId(pub(crate) u32);

impl NamespaceId {
    /// No namespace is meant.
    pub(crate) const NONE: Self = Self(0);
    /// All of the controller's.
    pub(crate) const ALL: Self = Self(u32::MAX);
}

/// Bytes of a submission queue entry (CC.IOSQES = 6).
pub(crate) const SUBMISSION_BYTES: usize = 64;
/// Bytes of a completion queue entry (CC.IOCQES = 4).
pub(crate) const COMPLETION_BYTES: usize = 16;

/// A command (§3.3.3.1, figure "Common Command Format").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(64))]
pub(crate) struct SubmissionEntry([u32; 16]);

const _: () = assert!(size_of::<SubmissionEntry>() == SUBMISSION_BYTES);

impl SubmissionEntry {
    /// A command with nothing but its opcode and its namespace; CID and data are set by the queue.
    pub(crate) const fn new(opcode: u8, namespace: NamespaceId) -> Self {
        let mut dwords = [0; 16];
        dwords[0] = opcode as u32;
        dwords[1] = namespace.0;
        Self(dwords)
    }

    /// Sets CDW10 to CDW15; `nth` counts from 10.
    pub(crate) const fn with_dword(mut self, nth: usize, value: u32) -> Self {
        assert!(nth >= 10 && nth <= 15, "command dwords are 10 to 15");
        self.0[nth] = value;
        self
    }

    /// Sets CDW10 and CDW11 to a starting LBA.
    pub(crate) const fn with_lba(self, lba: u64) -> Self {
        let [low, high] = halves(lba);
        self.with_dword(10, low).with_dword(11, high)
    }

    /// Sets the CID.
    pub(crate) const fn set_id(&mut self, id: CommandId) {
        self.0[0] = self.0[0] & 0xffff | (id.0 as u32) << 16;
    }

    /// Sets both PRP entries (§4.1.1); `second` is 0 where one page is enough.
    pub(crate) const fn set_prps(&mut self, first: u64, second: u64) {
        [self.0[6], self.0[7]] = halves(first);
        [self.0[8], self.0[9]] = halves(second);
    }

    pub(crate) const fn opcode(&self) -> u8 {
        self.0[0].to_le_bytes()[0]
    }

    #[cfg(test)]
    pub(crate) const fn id(&self) -> CommandId {
        let [_, _, low, high] = self.0[0].to_le_bytes();
        CommandId(u16::from_le_bytes([low, high]))
    }

    pub(crate) const fn namespace(&self) -> NamespaceId {
        NamespaceId(self.0[1])
    }

    /// Both PRP entries.
    #[cfg(test)]
    pub(crate) const fn prps(&self) -> (u64, u64) {
        (joined(self.0[6], self.0[7]), joined(self.0[8], self.0[9]))
    }

    /// CDW0 to CDW15.
    pub(crate) const fn dword(&self, nth: usize) -> u32 {
        self.0[nth]
    }

    /// CDW10 and CDW11 as a starting LBA.
    #[cfg(test)]
    pub(crate) const fn lba(&self) -> u64 {
        joined(self.0[10], self.0[11])
    }

    /// As the controller reads it.
    #[cfg(test)]
    pub(crate) fn to_bytes(self) -> [u8; SUBMISSION_BYTES] {
        let mut bytes = [0; SUBMISSION_BYTES];
        for (place, dword) in bytes.chunks_exact_mut(4).zip(self.0) {
            place.copy_from_slice(&dword.to_le_bytes());
        }
        bytes
    }

    /// As the controller has read it.
    #[cfg(test)]
    pub(crate) fn from_bytes(bytes: [u8; SUBMISSION_BYTES]) -> Self {
        let (dwords, _) = bytes.as_chunks::<4>();
        Self(std::array::from_fn(|nth| u32::from_le_bytes(dwords[nth])))
    }

    /// The dwords in the controller's byte order, for a volatile store of each.
    pub(crate) const fn to_le_dwords(self) -> [u32; 16] {
        let mut dwords = self.0;
        let mut nth = 0;
        while nth < dwords.len() {
            dwords[nth] = dwords[nth].to_le();
            nth += 1;
        }
        dwords
    }
}

const fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

#[cfg(test)]
const fn joined(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// How a command ended (§3.3.3.2). Nothing in it can be trusted before it was checked against what
/// is outstanding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(16))]
pub(crate) struct CompletionEntry([u32; 4]);

const _: () = assert!(size_of::<CompletionEntry>() == COMPLETION_BYTES);

impl CompletionEntry {
    /// Which dword has the phase tag: it is read first, with Acquire, and the others after it.
    pub(crate) const PHASE_DWORD: usize = 3;

    /// From dwords of this machine's byte order.
    pub(crate) const fn from_dwords(dwords: [u32; 4]) -> Self {
        Self(dwords)
    }

    /// What a controller writes.
    #[cfg(test)]
    pub(crate) fn new(
        result: u32,
        (queue, head): (QueueId, u16),
        id: CommandId,
        status: Status,
        phase: bool,
    ) -> Self {
        let status = u32::from(status.field()) << 17;
        Self([
            result,
            0,
            u32::from(queue.0) << 16 | u32::from(head),
            status | u32::from(phase) << 16 | u32::from(id.0),
        ])
    }

    /// The phase tag of dword 3.
    pub(crate) const fn phase_of(dword: u32) -> bool {
        dword & 1 << 16 != 0
    }

    /// DW0: command specific.
    pub(crate) const fn result(&self) -> u32 {
        self.0[0]
    }

    /// SQHD: how far the controller has read the submission queue.
    #[cfg(test)]
    pub(crate) const fn head(&self) -> u16 {
        let [low, high, _, _] = self.0[2].to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// SQID.
    pub(crate) const fn queue(&self) -> QueueId {
        let [_, _, low, high] = self.0[2].to_le_bytes();
        QueueId(u16::from_le_bytes([low, high]))
    }

    pub(crate) const fn id(&self) -> CommandId {
        let [low, high, _, _] = self.0[3].to_le_bytes();
        CommandId(u16::from_le_bytes([low, high]))
    }

    #[cfg(test)]
    pub(crate) const fn phase(&self) -> bool {
        Self::phase_of(self.0[3])
    }

    pub(crate) const fn status(&self) -> Status {
        let [_, _, low, high] = self.0[3].to_le_bytes();
        Status::from_field(u16::from_le_bytes([low, high]) >> 1)
    }

    /// In this machine's byte order.
    #[cfg(test)]
    pub(crate) const fn dwords(&self) -> [u32; 4] {
        self.0
    }

    #[cfg(test)]
    pub(crate) fn from_bytes(bytes: [u8; COMPLETION_BYTES]) -> Self {
        let (dwords, _) = bytes.as_chunks::<4>();
        Self(std::array::from_fn(|nth| u32::from_le_bytes(dwords[nth])))
    }

    #[cfg(test)]
    pub(crate) fn to_bytes(self) -> [u8; COMPLETION_BYTES] {
        let mut bytes = [0; COMPLETION_BYTES];
        for (place, dword) in bytes.chunks_exact_mut(4).zip(self.0) {
            place.copy_from_slice(&dword.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_lies_as_the_controller_reads_it() {
        let mut entry = SubmissionEntry::new(0x02, NamespaceId(0x0a0b_0c0d))
            .with_lba(0x1122_3344_5566_7788)
            .with_dword(12, 0x8000_0007);
        entry.set_id(CommandId(0xbeef));
        entry.set_prps(0x0000_0001_2345_6000, 0xfedc_ba98_7654_3000);
        let bytes = entry.to_bytes();
        assert_eq!(bytes[..8], [0x02, 0, 0xef, 0xbe, 0x0d, 0x0c, 0x0b, 0x0a]);
        assert!(bytes[8..24].iter().all(|&byte| byte == 0));
        assert_eq!(bytes[24..32], 0x0000_0001_2345_6000_u64.to_le_bytes());
        assert_eq!(bytes[32..40], 0xfedc_ba98_7654_3000_u64.to_le_bytes());
        assert_eq!(bytes[40..48], 0x1122_3344_5566_7788_u64.to_le_bytes());
        assert_eq!(bytes[48..52], [7, 0, 0, 0x80]);
        assert!(bytes[52..].iter().all(|&byte| byte == 0));
        let read = SubmissionEntry::from_bytes(bytes);
        assert_eq!(read, entry);
        assert_eq!(
            (read.opcode(), read.id(), read.namespace(), read.lba()),
            (
                0x02,
                CommandId(0xbeef),
                NamespaceId(0x0a0b_0c0d),
                0x1122_3344_5566_7788
            )
        );
        assert_eq!(read.prps(), (0x0000_0001_2345_6000, 0xfedc_ba98_7654_3000));
        assert_eq!(read.dword(12), 0x8000_0007);
    }

    #[test]
    fn a_slot_used_again_keeps_nothing_of_the_last_id() {
        let mut entry = SubmissionEntry::new(0x05, NamespaceId(1));
        entry.set_id(CommandId(0xffff));
        entry.set_id(CommandId(1));
        assert_eq!(entry.id(), CommandId(1));
        assert_eq!(entry.dword(0), 0x0001_0005);
    }

    #[test]
    fn a_completion_is_read_field_by_field() {
        // Unrecovered Read Error, do not retry, more, phase 1.
        let bytes = [
            0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0, 0x22, 0x11, 0x04, 0x03, 0xcd, 0xab, 0x03, 0xc5,
        ];
        let entry = CompletionEntry::from_bytes(bytes);
        assert_eq!(entry.result(), 0x1234_5678);
        assert_eq!((entry.head(), entry.queue()), (0x1122, QueueId(0x0304)));
        assert_eq!(entry.id(), CommandId(0xabcd));
        assert!(entry.phase());
        let status = entry.status();
        assert_eq!((status.kind(), status.code()), (2, 0x81));
        assert!(status.do_not_retry() && status.more());
        assert_eq!(entry.to_bytes(), bytes);
        let same = CompletionEntry::new(
            0x1234_5678,
            (QueueId(0x0304), 0x1122),
            CommandId(0xabcd),
            status,
            true,
        );
        assert_eq!(same, entry);
    }

    #[test]
    fn the_phase_is_bit_16_of_the_last_dword() {
        assert!(CompletionEntry::phase_of(0x0001_0000));
        assert!(!CompletionEntry::phase_of(0xfffe_ffff));
        let dwords = [1, 2, 3, 4];
        assert_eq!(CompletionEntry::from_dwords(dwords).dwords(), dwords);
    }
}
