//! Requests, completions and what a device says of itself.
//!
//! Pure vocabulary: no device, no IO. Block addresses and counts are in the logical blocks of the
//! unit ([`DeviceInfo::block_size`]); lengths in bytes say so in their names.

use crate::mem::DmaBuf;

/// Which logical unit of this process: an index into every core's table of units.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UnitIndex(pub u16);

/// Proof that a request is outstanding. Moved into the device with the request and given back with
/// its completion; the owner consumes it with [`Token::finish`]. Dropping an unfinished one is a
/// programmer error, since it would be a request that nobody answers.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an outstanding request must be completed"]
pub struct Token(u64);

impl Token {
    /// A token that carries `tag`, whose meaning is the owner's own.
    pub fn new(tag: u64) -> Self {
        Self(tag)
    }

    /// The owner's tag, without giving the token up.
    pub fn tag(&self) -> u64 {
        self.0
    }

    /// Ends the token's life and returns its tag.
    pub fn finish(self) -> u64 {
        let tag = self.0;
        std::mem::forget(self);
        tag
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        assert!(
            std::thread::panicking(),
            "token {:#x} dropped: its request was never completed",
            self.0
        );
    }
}

/// What a device is asked to do. Ranges were checked against the capacity by `scsi`; a device
/// checks them again and answers [`IoError::OutOfRange`], because a file may have shrunk.
#[derive(Debug)]
pub enum Operation {
    /// Fill `buf` (exactly `blocks × block_size` bytes) from `lba` on.
    Read { lba: u64, blocks: u32, buf: DmaBuf },
    /// Write `buf` (exactly `blocks × block_size` bytes) at `lba`. With `fua` the completion means
    /// that the blocks are on the medium (SBC-4, FUA bit).
    Write {
        lba: u64,
        blocks: u32,
        buf: DmaBuf,
        fua: bool,
    },
    /// Everything that was completed before this was submitted goes to the medium.
    Flush,
    /// The blocks are no longer needed; afterwards they read as zeroes if
    /// [`DeviceInfo::unmap_reads_zeroes`] says so.
    Unmap { lba: u64, blocks: u64 },
    /// The blocks read as zeroes afterwards; they may be deallocated only with `may_unmap`.
    WriteZeroes {
        lba: u64,
        blocks: u64,
        fua: bool,
        may_unmap: bool,
    },
    /// Say whether the block `lba` has memory behind it, and for how many blocks from there on the
    /// same holds: `buf` is [`LbaRun::BYTES`] bytes and is filled with an [`LbaRun`]. Changes
    /// nothing.
    LbaStatus { lba: u64, buf: DmaBuf },
}

impl Operation {
    /// The first block and the number of blocks; a flush has none.
    pub fn range(&self) -> (u64, u64) {
        match *self {
            Self::Read { lba, blocks, .. } | Self::Write { lba, blocks, .. } => {
                (lba, u64::from(blocks))
            }
            Self::Unmap { lba, blocks } | Self::WriteZeroes { lba, blocks, .. } => (lba, blocks),
            Self::LbaStatus { lba, .. } => (lba, 1),
            Self::Flush => (0, 0),
        }
    }

    /// Whether blocks may read differently afterwards.
    pub fn changes_blocks(&self) -> bool {
        match self {
            Self::Write { .. } | Self::Unmap { .. } | Self::WriteZeroes { .. } => true,
            Self::Read { .. } | Self::Flush | Self::LbaStatus { .. } => false,
        }
    }

    /// The buffer, when the operation is given up.
    pub fn into_buf(self) -> Option<DmaBuf> {
        match self {
            Self::Read { buf, .. } | Self::Write { buf, .. } | Self::LbaStatus { buf, .. } => {
                Some(buf)
            }
            Self::Flush | Self::Unmap { .. } | Self::WriteZeroes { .. } => None,
        }
    }
}

/// Blocks in a row of which the same is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LbaRun {
    /// How many, at least 1. It may be less than there are, and may reach beyond the end.
    pub blocks: u64,
    /// Memory is behind them, or it is not known that there is none.
    pub mapped: bool,
}

impl LbaRun {
    /// Bytes of an encoded run: `blocks`, little-endian, and a byte that is 1 where mapped.
    pub const BYTES: usize = 9;

    /// Fills the buffer of [`Operation::LbaStatus`].
    pub fn emit(self, buf: &mut DmaBuf) {
        buf.copy_from(0, &self.blocks.to_le_bytes());
        buf.copy_from(8, &[u8::from(self.mapped)]);
    }

    /// Reads what a device has filled in.
    pub fn parse(buf: &DmaBuf) -> Self {
        let (mut blocks, mut mapped) = ([0; 8], [0]);
        buf.copy_to(0, &mut blocks);
        buf.copy_to(8, &mut mapped);
        Self {
            blocks: u64::from_le_bytes(blocks).max(1),
            mapped: mapped != [0],
        }
    }
}

/// One operation on one unit.
#[derive(Debug)]
pub struct Request {
    pub unit: UnitIndex,
    pub operation: Operation,
    /// It may take space although the limit of the unit is reached
    /// ([`Backing::set_limit_reached`](super::Backing::set_limit_reached)).
    pub past_limit: bool,
    pub token: Token,
}

/// What there is to know of an operation beside itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// `false` is the fault that ignores FUA.
    pub(crate) durable: bool,
    /// It may take space although the limit is reached.
    pub(crate) past_limit: bool,
}

impl Manner {
    pub(crate) fn new(durable: bool, past_limit: bool) -> Self {
        Self {
            durable,
            past_limit,
        }
    }
}

/// The end of a request. The buffer comes back, also when the operation failed, unless the device
/// may still write to it: then it failed, and the device keeps the buffer until it has let go.
#[derive(Debug)]
pub struct Completion {
    pub token: Token,
    pub result: Result<(), IoError>,
    pub buf: Option<DmaBuf>,
}

/// Why an operation failed. `scsi::sense` maps each to exact sense data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IoError {
    /// The medium failed to read or write (EIO and its kin).
    #[error("the medium cannot be read or written")]
    Medium,
    /// No space is left to back the blocks.
    #[error("no space is left to back the blocks")]
    NoSpace,
    /// The device refuses writes.
    #[error("the device refuses writes")]
    WriteProtected,
    /// The device is missing, was taken away, or is being recovered.
    #[error("the device is missing or not ready")]
    NotReady,
    /// The blocks are beyond what the device holds now.
    #[error("the blocks are beyond what the device holds now")]
    OutOfRange,
    /// The device cannot do this operation.
    #[error("the device cannot do this")]
    Unsupported,
    /// Memory, queue or handle trouble inside this process or its kernel.
    #[error("this process or its kernel is short of something")]
    Resource,
    /// An earlier flush failed: acknowledged writes may be lost until an operator clears it.
    #[error("an earlier flush failed: acknowledged writes may be lost (restart to clear)")]
    WriteCacheLost,
    /// The device failed by itself, or cannot make sense of what it was told.
    #[error("the device has failed internally")]
    Hardware,
    /// The device was told, or has decided, to give the operation up.
    #[error("the device has aborted the operation")]
    Aborted,
    /// The medium failed to write, and the device says so apart from other trouble of the medium.
    #[error("the medium cannot be written")]
    WriteFault,
    /// The device denies access to the blocks.
    #[error("the device denies access to the blocks")]
    Denied,
    /// The device is being recovered: the same operation may go later.
    #[error("the device is becoming ready")]
    Recovering,
    /// The medium is being sanitized.
    #[error("the medium is being sanitized")]
    Sanitizing,
    /// The medium is being formatted.
    #[error("the medium is being formatted")]
    Formatting,
    /// The device was taken away.
    #[error("the device is not there")]
    Absent,
}

/// What a device says of itself. Constant while it is attached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceInfo {
    /// Bytes in a logical block: 512 or 4096.
    pub block_size: u32,
    /// Logical blocks per physical block, as an exponent of two (0 = 512n or 4Kn, 3 = 512e).
    pub physical_block_exponent: u8,
    /// Capacity in logical blocks.
    pub blocks: u64,
    pub read_only: bool,
    /// Completed writes may sit in a volatile cache until a flush.
    pub write_cache: bool,
    pub unmap: bool,
    pub unmap_reads_zeroes: bool,
    /// Smallest useful unmap, in logical blocks; at least 1.
    pub unmap_granularity: u32,
    /// Blocks written all or nothing across power loss; 0 when nothing is guaranteed.
    pub atomic_write_blocks: u32,
    /// What is unmapped or zeroed can be recovered by nobody, whatever means they have: it was held
    /// nowhere but in memory that is given back.
    pub cryptographic_erase: bool,
    /// The medium does not rotate (VPD B1h).
    pub non_rotating: bool,
    /// Space is taken as blocks are written, and may run out before they do (VPD B2h).
    pub thin: bool,
    pub designators: Designators,
}

/// What the medium itself is named by, where it has such names (VPD 83h).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Designators {
    /// Of 16 bytes: an NGUID.
    pub nguid: Option<[u8; 16]>,
    pub eui64: Option<[u8; 8]>,
    /// RFC 4122, in its byte order.
    pub uuid: Option<[u8; 16]>,
}

/// Space behind a unit's blocks, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// What its blocks take now.
    pub used: u64,
    /// What they could still take.
    pub available: u64,
}
