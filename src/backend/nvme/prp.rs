//! Data pointers: PRP entries and the list page of a command (NVM Express Base Specification 2.0
//! §4.1.1).
//!
//! The first entry may begin anywhere at a dword, all later ones begin at a page, and all but the
//! last go to the end of their page. Two entries stand in the command; more stand in a list of one
//! page, whose last entry is never used as a pointer to another list, since
//! [`TRANSFER_BYTES_MAX`](super::facts::TRANSFER_BYTES_MAX) does not need one.

use super::dma::{DmaPages, DmaSpace, Iova, PAGE_BYTES};
use super::spec::entry::SubmissionEntry;

/// Entries of a list page.
pub(crate) const LIST_ENTRIES: usize = PAGE_BYTES / 8;
const PAGE: u64 = PAGE_BYTES as u64;

/// The page of a command's list: 4096 bytes of `pages` from `offset` on.
#[derive(Debug)]
pub(crate) struct ListPage<'a, D: DmaSpace> {
    pub(crate) pages: &'a mut DmaPages<D>,
    /// A multiple of 4096.
    pub(crate) offset: usize,
}

/// The memory cannot be described: its pieces do not meet at pages, or there are too many.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("memory of a transfer that PRP entries cannot describe")]
pub(crate) struct Unaligned;

/// Points `entry` at `pieces`, in order: (where the device sees it, length in bytes, at least 1).
pub(crate) fn build<D: DmaSpace>(
    entry: &mut SubmissionEntry,
    list: &mut ListPage<'_, D>,
    pieces: impl Iterator<Item = (Iova, usize)>,
) -> Result<(), Unaligned> {
    let mut first = None;
    let mut second = None;
    let mut listed = 0;
    // Where the last page ended, which must be at a page if there is another one.
    let mut end = 0;
    for (at, page) in pieces.flat_map(pages_of) {
        let Some(_) = first else {
            if !at.is_multiple_of(4) {
                return Err(Unaligned);
            }
            (first, end) = (Some(at), at.wrapping_add(page));
            continue;
        };
        if !at.is_multiple_of(PAGE) || !end.is_multiple_of(PAGE) {
            return Err(Unaligned);
        }
        end = at.wrapping_add(page);
        let Some(second) = second else {
            second = Some(at);
            continue;
        };
        if listed == 0 {
            list.pages.write_u64(list.offset, second);
            listed = 1;
        }
        if listed == LIST_ENTRIES {
            return Err(Unaligned);
        }
        list.pages.write_u64(list.offset + 8 * listed, at);
        listed += 1;
    }
    let first = first.ok_or(Unaligned)?;
    let second = match listed {
        0 => second.unwrap_or(0),
        _ => {
            // A controller that reads on finds no page of an earlier command there, but address 0,
            // where nothing is. Without a list there is no such place: PRP2 is a page of data,
            // which it would read as a list. So nothing is ever sent to a namespace whose blocks
            // may have grown.
            if listed < LIST_ENTRIES {
                list.pages.write_u64(list.offset + 8 * listed, 0);
            }
            let range = list.offset..list.offset + PAGE_BYTES;
            list.pages.iova(range).map_err(|_| Unaligned)?.0
        }
    };
    entry.set_prps(first, second);
    Ok(())
}

/// The parts of a piece that lie in one page each: (address, bytes).
fn pages_of((at, len): (Iova, usize)) -> impl Iterator<Item = (u64, u64)> {
    let (mut at, mut left) = (at.0, len as u64);
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let part = left.min(PAGE - at % PAGE);
        let from = at;
        at = at.wrapping_add(part);
        left -= part;
        Some((from, part))
    })
}

#[cfg(test)]
mod tests {
    use super::super::facts::TRANSFER_BYTES_MAX;
    use super::super::flat::{Flat, flat};
    use super::super::spec::entry::NamespaceId;
    use super::*;
    use crate::mem::Pages;

    const LIST_AT: usize = 2 * PAGE_BYTES;

    fn pages() -> DmaPages<Flat> {
        DmaPages::new(&flat(), 4 * PAGE_BYTES, Pages::Normal).unwrap()
    }

    fn built(pages: &mut DmaPages<Flat>, pieces: &[(u64, usize)]) -> Result<(u64, u64), Unaligned> {
        let mut entry = SubmissionEntry::new(1, NamespaceId(1));
        let offset = LIST_AT;
        let pieces = pieces.iter().map(|&(at, len)| (Iova(at), len));
        build(&mut entry, &mut ListPage { pages, offset }, pieces)?;
        Ok(entry.prps())
    }

    /// What a controller makes of the entries: the bytes' addresses in runs.
    fn walked(pages: &DmaPages<Flat>, prps: (u64, u64), len: usize) -> Vec<(u64, usize)> {
        let list = pages.iova(LIST_AT..LIST_AT + PAGE_BYTES).unwrap().0;
        let part = usize::try_from(PAGE - prps.0 % PAGE).unwrap().min(len);
        let mut runs = vec![(prps.0, part)];
        let mut left = len - part;
        let mut add = |at: u64, part: usize| {
            assert!(
                at.is_multiple_of(PAGE),
                "entries behind the first are pages"
            );
            match runs.last_mut() {
                Some((from, len)) if *from + *len as u64 == at => *len += part,
                _ => runs.push((at, part)),
            }
        };
        if left > PAGE_BYTES {
            assert_eq!(prps.1, list);
            for nth in 0..left.div_ceil(PAGE_BYTES) {
                let at = LIST_AT + 8 * nth;
                let (low, high) = (pages.read_u32(at), pages.read_u32(at + 4));
                let part = left.min(PAGE_BYTES);
                add(u64::from(low) | u64::from(high) << 32, part);
                left -= part;
            }
        } else if left > 0 {
            add(prps.1, left);
        } else {
            assert_eq!(prps.1, 0, "reserved where one page is enough");
        }
        runs
    }

    #[test]
    fn every_offset_and_length_of_one_piece_is_walked_back() {
        let mut pages = pages();
        let base = 0x0012_3456_7000;
        let most = TRANSFER_BYTES_MAX as usize;
        let lengths = (1..40)
            .map(|nth| nth * 512)
            .chain([4, 4092, 4100, most - 512, most]);
        for len in lengths {
            for offset in (0..PAGE).step_by(if len < 9000 { 4 } else { 508 }) {
                let at = base + offset;
                let prps = built(&mut pages, &[(at, len)]).unwrap();
                assert_eq!(walked(&pages, prps, len), [(at, len)], "{offset} {len}");
            }
        }
    }

    #[test]
    fn behind_a_list_is_no_page_of_an_earlier_one() {
        let mut pages = pages();
        let most = TRANSFER_BYTES_MAX as usize;
        for count in (3..=257).rev() {
            let len = (count * PAGE_BYTES).min(most + 512);
            built(&mut pages, &[(0x0012_3456_7000, len)]).unwrap();
            let listed = len.div_ceil(PAGE_BYTES) - 1;
            let at = LIST_AT + 8 * listed;
            assert_eq!((pages.read_u32(at), pages.read_u32(at + 4)), (0, 0));
            assert_ne!(pages.read_u32(at - 8), 0);
        }
    }

    #[test]
    fn pieces_that_meet_at_pages_are_one_transfer() {
        let mut pages = pages();
        let chunks = [
            (0x1_0e00, 0x3200),
            (0x9_0000, 0x4000),
            (0x5_0000, 0x8000),
            (0x7_f000, 0x0200),
        ];
        let prps = built(&mut pages, &chunks).unwrap();
        let len = chunks.iter().map(|(_, len)| len).sum();
        assert_eq!(walked(&pages, prps, len), chunks);
        // Two pages stand in the command, also when they lie apart.
        let prps = built(&mut pages, &[(0x1_0e00, 0x200), (0x9_0000, 0x1000)]);
        assert_eq!(prps, Ok((0x1_0e00, 0x9_0000)));
        // The same page again and again, as for writing zeroes.
        let zeroes = [(0x3_0000, PAGE_BYTES); 256];
        let prps = built(&mut pages, &zeroes).unwrap();
        assert_eq!(walked(&pages, prps, 256 * PAGE_BYTES), zeroes);
    }

    #[test]
    fn what_does_not_meet_at_pages_is_refused() {
        let mut pages = pages();
        for pieces in [
            &[][..],
            &[(0x1002, 512)],
            &[(0x1000, 512), (0x2000, 512)],
            &[(0x1000, 4096), (0x2200, 512)],
            &[(0x1000, 4096), (0x3000, 512), (0x4000, 512)],
            &[(0x1000, 4096), (0x3000, 4096), (0x5004, 4)],
        ] {
            assert_eq!(built(&mut pages, pieces), Err(Unaligned), "{pieces:x?}");
        }
    }

    #[test]
    fn a_list_ends_with_its_page() {
        let mut pages = pages();
        pages.write_u64(LIST_AT + PAGE_BYTES, 0x5a5a);
        let most = (1 + LIST_ENTRIES) * PAGE_BYTES;
        let prps = built(&mut pages, &[(0x10_0000, most)]).unwrap();
        assert_eq!(walked(&pages, prps, most), [(0x10_0000, most)]);
        let more = built(&mut pages, &[(0x10_0000, most + 1)]);
        assert_eq!(more, Err(Unaligned));
        assert_eq!(pages.read_u32(LIST_AT + PAGE_BYTES), 0x5a5a);
    }
}
