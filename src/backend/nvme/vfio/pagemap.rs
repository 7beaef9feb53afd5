//! Where memory really is, for devices that no IOMMU guards (/proc/self/pagemap).
//!
//! Only of huge pages: the kernel moves ordinary ones, whether they are locked or not.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use super::super::dma::{Iova, MapError, RUNS_MAX, Run};

/// What pagemap counts in, and the bytes of an entry.
const PAGE_BYTES: usize = 4096;
const ENTRY_BYTES: usize = 8;
const PRESENT: u64 = 1 << 63;
const FRAME_BITS: u64 = (1 << 55) - 1;

/// Fills `runs` with where `len` bytes from `base` on are.
pub(super) fn runs_of(base: NonNull<u8>, len: usize, runs: &mut Vec<Run>) -> Result<(), MapError> {
    let scattered = |why: &str| MapError::Scattered(why.to_owned());
    let smaps = fs::read_to_string("/proc/self/smaps")
        .map_err(|error| MapError::Scattered(format!("/proc/self/smaps: {error}")))?;
    let base = base.addr().get();
    let page = page_bytes(&smaps, base).ok_or_else(|| scattered("no such mapping"))?;
    if page <= PAGE_BYTES || !base.is_multiple_of(page) {
        return Err(scattered("these are ordinary pages"));
    }
    let pagemap = File::open("/proc/self/pagemap")
        .map_err(|error| MapError::Scattered(format!("/proc/self/pagemap: {error}")))?;
    let frame = |offset: usize| {
        let at = (base + offset) / PAGE_BYTES * ENTRY_BYTES;
        let mut entry = [0; ENTRY_BYTES];
        pagemap.read_exact_at(&mut entry, at as u64).ok()?;
        frame_of(u64::from_le_bytes(entry))
    };
    join(len, page, frame, runs)
}

/// The physical address that an entry tells. `None`: the page is not in memory, or we may not know
/// where it is.
fn frame_of(entry: u64) -> Option<u64> {
    let frame = entry & FRAME_BITS;
    (entry & PRESENT != 0 && frame != 0).then(|| frame * PAGE_BYTES as u64)
}

/// Pages that lie behind one another become one run.
fn join(
    len: usize,
    page: usize,
    frame: impl Fn(usize) -> Option<u64>,
    runs: &mut Vec<Run>,
) -> Result<(), MapError> {
    for offset in (0..len).step_by(page) {
        let address = frame(offset).ok_or_else(|| {
            let why = "the kernel does not say where they are (CAP_SYS_ADMIN is needed for that)";
            MapError::Scattered(why.to_owned())
        })?;
        let bytes = page.min(len - offset);
        match runs.last_mut() {
            Some(run) if run.iova.0 + run.len as u64 == address => run.len += bytes,
            _ => runs.push(Run {
                offset,
                len: bytes,
                iova: Iova(address),
            }),
        }
    }
    if runs.len() > RUNS_MAX {
        let why = format!("{} pieces are more than {RUNS_MAX}", runs.len());
        return Err(MapError::Scattered(why));
    }
    Ok(())
}

/// Bytes of the pages that the mapping at `address` is made of, out of /proc/self/smaps.
fn page_bytes(smaps: &str, address: usize) -> Option<usize> {
    let mut inside = false;
    for line in smaps.lines() {
        let first = line.split_ascii_whitespace().next()?;
        if let Some((start, end)) = first.split_once('-') {
            let number = |text| usize::from_str_radix(text, 16).ok();
            if let (Some(start), Some(end)) = (number(start), number(end)) {
                inside = (start..end).contains(&address);
            }
        } else if inside && first == "KernelPageSize:" {
            let kib: usize = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
            return kib.checked_mul(1024);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{InPlace, Pages, Region};

    const SMAPS: &str = "\
7f0000000000-7f0000200000 rw-p 00000000 00:0f 123 /anon_hugepage (deleted)
Size:               2048 kB
KernelPageSize:     2048 kB
MMUPageSize:        2048 kB
VmFlags: rd wr mr mw me ht
7f0000200000-7f0000201000 rw-p 00000000 00:00 0 [stack]
KernelPageSize:        4 kB
";

    #[test]
    fn a_mapping_says_what_its_pages_are() {
        assert_eq!(page_bytes(SMAPS, 0x7f00_001f_ffff), Some(2 << 20));
        assert_eq!(page_bytes(SMAPS, 0x7f00_0020_0000), Some(4096));
        assert_eq!(page_bytes(SMAPS, 0x7f00_0020_1000), None);
        assert_eq!(page_bytes("", 0), None);
        assert_eq!(page_bytes("0-1000 rw-p\nKernelPageSize: x kB", 0), None);
    }

    #[test]
    fn pages_behind_one_another_are_one_run() {
        let frames = [10_u64, 12, 14, 20, 22, 4];
        let frame = |offset: usize| Some(frames[offset / 8192] << 12);
        let mut runs = Vec::new();
        join(6 * 8192, 8192, frame, &mut runs).unwrap();
        let run = |offset, len, at: u64| Run {
            offset,
            len,
            iova: Iova(at << 12),
        };
        let wanted = [
            run(0, 3 * 8192, 10),
            run(3 * 8192, 2 * 8192, 20),
            run(5 * 8192, 8192, 4),
        ];
        assert_eq!(runs, wanted);
        let hidden = join(8192, 8192, |_| None, &mut Vec::new());
        assert!(matches!(hidden, Err(MapError::Scattered(why)) if why.contains("CAP_SYS_ADMIN")));
    }

    #[test]
    fn entries_without_an_address_are_none() {
        assert_eq!(frame_of(PRESENT | 5), Some(5 * 4096));
        assert_eq!(
            frame_of(PRESENT | 1 << 55 | 5),
            Some(5 * 4096),
            "soft-dirty"
        );
        assert_eq!(frame_of(5), None);
        assert_eq!(frame_of(PRESENT), None, "hidden");
    }

    #[test]
    fn ordinary_pages_are_refused() {
        let region = Region::new(8192, Pages::Normal).unwrap();
        let (base, len) = region.memory();
        let mut runs = Vec::new();
        let refused = runs_of(base, len, &mut runs);
        assert!(matches!(refused, Err(MapError::Scattered(why)) if why.contains("ordinary")));
        assert_eq!(runs, []);
    }
}
