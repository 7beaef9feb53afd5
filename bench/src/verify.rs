//! A verifying initiator: every block that is read has to be the one that was written last.
//!
//! Each block carries its own number and a version of it, repeated over the whole block, so that a
//! block of another place, of another time, or one that is torn, is told from the right one.
//! Sessions take turns on one unit.

use iiblockdaemon::testing::tcp::{Failure, Line, TcpInitiator};
use serde::Serialize;

/// Blocks of one command, at most.
const BLOCKS_MAX: u32 = 512;
/// Of so many commands one is a WRITE.
const WRITES_EVERY: u64 = 3;

/// What was moved and found right.
#[derive(Clone, Copy, Default, Debug, Serialize)]
pub struct Verified {
    pub reads: u64,
    pub writes: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
}

/// What the unit has to hold.
#[derive(Debug)]
pub struct Model {
    lun: u8,
    block_bytes: u32,
    /// Of each block; 0: not written yet.
    versions: Vec<u32>,
    random: u64,
    data: Vec<u8>,
    verified: Verified,
}

/// Why verifying ended early.
#[derive(Debug)]
pub enum Wrong {
    Failure(Failure),
    /// The first block that is not what it has to be.
    Block {
        lba: u64,
        version: u32,
        found: [u8; STAMP_BYTES],
    },
    /// Fewer bytes than were asked for.
    Short {
        lba: u64,
        bytes: usize,
    },
}

const STAMP_BYTES: usize = 16;

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failure(failure) => write!(f, "{failure}"),
            Self::Block {
                lba,
                version,
                found,
            } => write!(f, "block {lba} is not its version {version}: {found:02x?}"),
            Self::Short { lba, bytes } => write!(f, "only {bytes} bytes came from block {lba} on"),
        }
    }
}

fn stamp(lba: u64, version: u32, at: usize) -> [u8; STAMP_BYTES] {
    let mut stamp = [0; STAMP_BYTES];
    stamp[..8].copy_from_slice(&lba.to_be_bytes());
    stamp[8..12].copy_from_slice(&version.to_be_bytes());
    let at = u32::try_from(at).unwrap_or(u32::MAX);
    stamp[12..].copy_from_slice(&at.to_be_bytes());
    stamp
}

/// What was there before the first version is not ours to know.
fn compare(lba: u64, version: u32, block: &[u8]) -> Result<(), Wrong> {
    let mut stamps = block.chunks_exact(STAMP_BYTES).enumerate();
    let wrong = stamps.find(|(at, found)| *found != stamp(lba, version, *at));
    match wrong {
        Some((_, found)) if version != 0 => Err(Wrong::Block {
            lba,
            version,
            found: found.try_into().unwrap_or_default(),
        }),
        _ => Ok(()),
    }
}

impl Model {
    /// A unit of `blocks` blocks (as many of it as are used) of `block_bytes` bytes.
    pub fn new(lun: u8, blocks: usize, block_bytes: u32) -> Self {
        Self {
            lun,
            block_bytes,
            versions: vec![0; blocks],
            random: 0x9e37_79b9_7f4a_7c15,
            data: Vec::new(),
            verified: Verified::default(),
        }
    }

    pub fn verified(&self) -> Verified {
        self.verified
    }

    /// One command by this session: a WRITE of new versions, or a READ that is compared.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn step<L: Line>(&mut self, session: &mut TcpInitiator<L>) -> Result<(), Wrong> {
        let unit = u32::try_from(self.versions.len()).unwrap_or(u32::MAX);
        let most = BLOCKS_MAX.min(unit);
        let count = 1 + u32::try_from(self.draw() % u64::from(most)).unwrap_or(0);
        let lba = self.draw() % u64::from(unit - count + 1);
        if self.draw().is_multiple_of(WRITES_EVERY) {
            self.write(session, lba, count)
        } else {
            self.read(session, lba, count)
        }
    }

    fn write<L: Line>(
        &mut self,
        session: &mut TcpInitiator<L>,
        lba: u64,
        count: u32,
    ) -> Result<(), Wrong> {
        let block = usize::try_from(self.block_bytes).unwrap_or(usize::MAX);
        self.data.clear();
        for lba in lba..lba + u64::from(count) {
            let index = usize::try_from(lba).unwrap_or(usize::MAX);
            self.versions[index] += 1;
            for at in 0..block / STAMP_BYTES {
                let stamp = stamp(lba, self.versions[index], at);
                self.data.extend_from_slice(&stamp);
            }
        }
        session
            .write_blocks(self.lun, lba, &self.data, self.block_bytes)
            .map_err(Wrong::Failure)?;
        self.verified.writes += 1;
        self.verified.bytes_written += self.data.len() as u64;
        Ok(())
    }

    fn read<L: Line>(
        &mut self,
        session: &mut TcpInitiator<L>,
        lba: u64,
        count: u32,
    ) -> Result<(), Wrong> {
        let data = session
            .read_blocks(self.lun, lba, count, self.block_bytes)
            .map_err(Wrong::Failure)?;
        let block = usize::try_from(self.block_bytes).unwrap_or(usize::MAX);
        let bytes = data.len();
        if Some(bytes) != usize::try_from(count).unwrap_or(0).checked_mul(block) {
            return Err(Wrong::Short { lba, bytes });
        }
        for (lba, found) in (lba..).zip(data.chunks_exact(block)) {
            let version = self.versions[usize::try_from(lba).unwrap_or(usize::MAX)];
            compare(lba, version, found)?;
        }
        self.verified.reads += 1;
        self.verified.bytes_read += bytes as u64;
        Ok(())
    }

    /// Xorshift (Marsaglia): good enough to pick places with.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_another_place_or_time_or_a_torn_one_is_told() {
        let block = |lba, version| -> Vec<u8> {
            let stamps = (0..512 / STAMP_BYTES).flat_map(|at| stamp(lba, version, at));
            stamps.collect()
        };
        compare(7, 3, &block(7, 3)).unwrap();
        compare(7, 0, &[0; 512]).unwrap();
        compare(7, 3, &block(8, 3)).unwrap_err();
        compare(7, 3, &block(7, 2)).unwrap_err();
        let torn = [&block(7, 3)[..256], &block(7, 2)[256..]].concat();
        compare(7, 3, &torn).unwrap_err();
        let turned = [&block(7, 3)[256..], &block(7, 3)[..256]].concat();
        compare(7, 3, &turned).unwrap_err();
    }
}
