//! I/O commands of the model (NVM Command Set Specification 1.0 §3.2).

use std::sync::Arc;

use super::command::{Code, Command, nvm};
use super::disk::{Change, Disk};
use super::machine::Machine;
use super::prp::{self, Wrong};
use super::verdict::Rule;

/// Bytes of one range of Dataset Management.
const RANGE_BYTES: usize = 16;

impl Machine {
    pub(super) fn nvm(&mut self, command: &Command) -> Code {
        *self.counters.io.entry(command.opcode()).or_default() += 1;
        if command.reserved(false).is_some() {
            return Code::INVALID_FIELD;
        }
        let ran = match command.opcode() {
            nvm::FLUSH => self.flush(command),
            nvm::READ => self.read(command),
            nvm::WRITE => self.write(command, self.is_through(command)),
            nvm::COMPARE => self.compare(command),
            nvm::WRITE_ZEROES => self.write_zeroes(command),
            nvm::DATASET_MANAGEMENT => self.deallocate(command),
            nvm::VERIFY => self.verify(command),
            _ => Err(Code::INVALID_OPCODE),
        };
        ran.err().unwrap_or(Code::SUCCESS)
    }

    /// The place of an active namespace.
    pub(super) fn disk_of(&self, nsid: u32) -> Result<usize, Code> {
        let at = usize::try_from(nsid).ok().and_then(|id| id.checked_sub(1));
        at.filter(|&at| self.disks.get(at).is_some_and(|disk| disk.options.active))
            .ok_or(Code::INVALID_NAMESPACE)
    }

    fn supports(&mut self, bit: u16, command: &Command) -> Result<(), Code> {
        if self.options.oncs & 1 << bit != 0 {
            return Ok(());
        }
        let detail = format!("opcode {:#04x} is not in ONCS", command.opcode());
        self.break_rule(Rule::Unsupported, detail);
        Err(Code::INVALID_OPCODE)
    }

    /// The namespace and the range of a command, checked against its size.
    fn range(&self, command: &Command) -> Result<(usize, u64, u64), Code> {
        let at = self.disk_of(command.nsid())?;
        let (lba, blocks) = (command.slba(), command.blocks());
        let end = lba.checked_add(blocks);
        if end.is_none_or(|end| end > self.disks[at].options.blocks) {
            return Err(Code::LBA_RANGE);
        }
        Ok((at, lba, blocks))
    }

    /// As [`range`](Self::range), for commands with data, whose pieces it finds.
    fn transfer(&mut self, command: &Command) -> Result<(usize, u64, prp::Pieces), Code> {
        let (at, lba, blocks) = self.range(command)?;
        let bytes = blocks * self.disks[at].block_bytes() as u64;
        self.check_length(bytes, command)?;
        let pieces = prp::pieces(&self.space, command, bytes);
        Ok((at, lba, pieces.map_err(|wrong| self.refuse_prp(&wrong))?))
    }

    /// MDTS.
    pub(super) fn check_length(&mut self, bytes: u64, command: &Command) -> Result<(), Code> {
        let pages = u32::from(self.options.mdts);
        if pages != 0 && bytes > 4096_u64 << pages {
            let opcode = command.opcode();
            let detail = format!("opcode {opcode:#04x} with {bytes} bytes, above MDTS");
            self.break_rule(Rule::Limit, detail);
            return Err(Code::INVALID_FIELD);
        }
        Ok(())
    }

    pub(super) fn refuse_prp(&mut self, wrong: &Wrong) -> Code {
        match *wrong {
            Wrong::Entry(what, entry) => {
                self.break_rule(Rule::Prp, format!("{what}: {entry:#x}"));
                Code::PRP_OFFSET
            }
            Wrong::List(at) => {
                self.break_rule(Rule::Unmapped, format!("a PRP list at {at:#x}"));
                Code::DATA_TRANSFER
            }
        }
    }

    /// The driver's data.
    fn data_in(&mut self, pieces: &prp::Pieces) -> Result<Vec<u8>, Code> {
        let mut data = Vec::new();
        for &(at, len) in pieces {
            let from = data.len();
            data.resize(from + len, 0);
            if let Err(refused) = self.space.read_data(at, &mut data[from..]) {
                self.refuse(refused, at, "data of a command");
                return Err(Code::DATA_TRANSFER);
            }
        }
        self.counters.bytes_in += data.len() as u64;
        Ok(data)
    }

    fn is_through(&self, command: &Command) -> bool {
        command.fua() || !self.events.caches || self.options.vwc & 1 == 0
    }

    fn flush(&mut self, command: &Command) -> Result<(), Code> {
        if command.nsid() == u32::MAX {
            if self.options.vwc >> 1 & 3 != 3 {
                let detail = "Flush of all namespaces, which VWC does not say".to_owned();
                self.break_rule(Rule::Unsupported, detail);
                return Err(Code::INVALID_NAMESPACE);
            }
            self.disks.iter_mut().for_each(Disk::flush);
        } else {
            let at = self.disk_of(command.nsid())?;
            self.disks[at].flush();
        }
        Ok(())
    }

    fn read(&mut self, command: &Command) -> Result<(), Code> {
        let (at, lba, pieces) = self.transfer(command)?;
        let mut data = Vec::new();
        for lba in lba..lba + command.blocks() {
            self.disks[at].read(lba, &mut data);
        }
        let mut rest = &data[..];
        for (to, len) in pieces {
            let (now, after) = rest.split_at(len);
            rest = after;
            if let Err(refused) = self.space.write_data(to, now) {
                self.refuse(refused, to, "data of a command");
                return Err(Code::DATA_TRANSFER);
            }
        }
        self.counters.bytes_out += data.len() as u64;
        Ok(())
    }

    fn write(&mut self, command: &Command, through: bool) -> Result<(), Code> {
        let (at, lba, pieces) = self.transfer(command)?;
        self.check_writable(at)?;
        let data = self.data_in(&pieces)?;
        let disk = &mut self.disks[at];
        disk.write(change(lba, &data, disk.block_bytes()), through);
        Ok(())
    }

    fn check_writable(&self, at: usize) -> Result<(), Code> {
        if self.disks[at].options.write_protected {
            return Err(Code::WRITE_PROTECTED);
        }
        Ok(())
    }

    fn compare(&mut self, command: &Command) -> Result<(), Code> {
        self.supports(0, command)?;
        let (at, lba, pieces) = self.transfer(command)?;
        let theirs = self.data_in(&pieces)?;
        let mut ours = Vec::new();
        for lba in lba..lba + command.blocks() {
            self.disks[at].read(lba, &mut ours);
        }
        if ours == theirs {
            Ok(())
        } else {
            Err(Code::COMPARE_FAILURE)
        }
    }

    /// A limit of so many pages, as a power of two; 0 is none.
    fn check_pages(&mut self, shift: u8, bytes: u64, what: &str) -> Result<(), Code> {
        if shift != 0 && bytes > 4096_u64 << shift.min(32) {
            self.break_rule(Rule::Limit, format!("{bytes} bytes, above {what}"));
            return Err(Code::INVALID_FIELD);
        }
        Ok(())
    }

    fn verify(&mut self, command: &Command) -> Result<(), Code> {
        self.supports(7, command)?;
        let (at, _, blocks) = self.range(command)?;
        let bytes = blocks * self.disks[at].block_bytes() as u64;
        self.check_pages(self.options.vsl, bytes, "VSL")
    }

    fn write_zeroes(&mut self, command: &Command) -> Result<(), Code> {
        self.supports(3, command)?;
        let (at, lba, blocks) = self.range(command)?;
        self.check_writable(at)?;
        let disk = &self.disks[at];
        let (bytes, dlfeat) = (disk.block_bytes(), disk.options.dlfeat);
        self.check_pages(self.options.wzsl, blocks * bytes as u64, "WZSL")?;
        let wanted = command.dword(12) & 1 << 25 != 0;
        // Deallocated they must read as zeroes, which not every namespace has (DLFEAT).
        let deallocates = wanted && dlfeat & 8 != 0 && dlfeat & 7 == 1;
        if wanted && !deallocates {
            let detail = "Write Zeroes with DEAC, which DLFEAT does not say".to_owned();
            self.break_rule(Rule::Unsupported, detail);
        }
        let zeroes: Arc<[u8]> = vec![0; bytes].into();
        let content = (!deallocates).then_some(zeroes);
        let all = lba..lba + blocks;
        let change = all.map(|lba| (lba, content.clone())).collect();
        let through = self.is_through(command);
        self.disks[at].write(change, through);
        Ok(())
    }

    fn deallocate(&mut self, command: &Command) -> Result<(), Code> {
        self.supports(2, command)?;
        let at = self.disk_of(command.nsid())?;
        self.check_writable(at)?;
        let count = usize::from(command.low(10) & 0xff) + 1;
        let bytes = (count * RANGE_BYTES) as u64;
        let pieces = prp::pieces(&self.space, command, bytes);
        let pieces = pieces.map_err(|wrong| self.refuse_prp(&wrong))?;
        let mut list = Vec::new();
        for (from, len) in pieces {
            let start = list.len();
            list.resize(start + len, 0);
            if let Err(refused) = self.space.read(from, &mut list[start..]) {
                self.refuse(refused, from, "ranges of Dataset Management");
                return Err(Code::DATA_TRANSFER);
            }
        }
        let (ranges, _) = list.as_chunks::<RANGE_BYTES>();
        let ranges: Vec<(u64, u64)> = ranges.iter().map(range).collect();
        self.check_ranges(at, &ranges)?;
        if command.dword(11) & 4 == 0 {
            return Ok(());
        }
        for (lba, blocks) in ranges {
            let change = (lba..lba + blocks).map(|lba| (lba, None)).collect();
            let through = self.is_through(command);
            self.disks[at].write(change, through);
        }
        Ok(())
    }

    fn check_ranges(&mut self, at: usize, ranges: &[(u64, u64)]) -> Result<(), Code> {
        let size = self.disks[at].options.blocks;
        let inside = |&(lba, blocks): &(u64, u64)| {
            let end = lba.checked_add(blocks);
            end.is_some_and(|end| end <= size)
        };
        if !ranges.iter().all(inside) {
            return Err(Code::LBA_RANGE);
        }
        let limits = &self.options;
        let total: u64 = ranges.iter().map(|(_, blocks)| blocks).sum();
        let longest = ranges.iter().map(|(_, blocks)| *blocks).max().unwrap_or(0);
        let over = |limit: u64, value: u64| limit != 0 && value > limit;
        if over(limits.dmrl.into(), ranges.len() as u64)
            || over(limits.dmrsl.into(), longest)
            || over(limits.dmsl, total)
        {
            let many = ranges.len();
            let detail = format!("{many} ranges of {longest} blocks at most, {total} in all");
            self.break_rule(Rule::Limit, detail);
            return Err(Code::SIZE_LIMIT);
        }
        Ok(())
    }

    /// A write that power loss meets half way: part of it is as good as in the cache.
    pub(super) fn tear(&mut self, command: &Command) {
        if command.opcode() == nvm::WRITE {
            // Whatever comes of it: nobody hears it.
            let _ = self.write(command, false);
        }
    }
}

/// What data does to blocks from `lba` on.
fn change(lba: u64, data: &[u8], block_bytes: usize) -> Change {
    let blocks = data.chunks(block_bytes).map(|block| Some(Arc::from(block)));
    (lba..).zip(blocks).collect()
}

/// First block and blocks; the context attributes are not looked at.
fn range(bytes: &[u8; RANGE_BYTES]) -> (u64, u64) {
    let [_, _, _, _, a, b, c, d, lba @ ..] = *bytes;
    let blocks = u32::from_le_bytes([a, b, c, d]);
    (u64::from_le_bytes(lba), blocks.into())
}
