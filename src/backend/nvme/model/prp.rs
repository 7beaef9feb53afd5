//! Where the data of a command is, by its PRP entries (NVM Express Base Specification 2.0 §4.1.1),
//! followed as a controller does and checked rule by rule.

use super::command::Command;
use super::space::Space;

const PAGE: u64 = 4096;

/// Pieces of memory: address, bytes.
pub(super) type Pieces = Vec<(u64, usize)>;

/// What is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Wrong {
    /// A rule is broken: what, and the entry.
    Entry(&'static str, u64),
    /// A list is not mapped.
    List(u64),
}

/// Bytes from `at` to the end of its page, `left` at most.
fn to_page_end(at: u64, left: u64) -> u64 {
    (PAGE - at % PAGE).min(left)
}

/// The pieces of `bytes` bytes of data.
pub(super) fn pieces(space: &Space, command: &Command, bytes: u64) -> Result<Pieces, Wrong> {
    let mut found = Pieces::new();
    let mut left = bytes;
    let mut take = |found: &mut Pieces, at: u64| {
        let taken = to_page_end(at, left);
        left -= taken;
        found.push((at, usize::try_from(taken).expect("at most a page")));
        left
    };
    if bytes == 0 {
        return Ok(found);
    }
    let (first, second) = (command.prp1(), command.prp2());
    if first % 4 != 0 {
        return Err(Wrong::Entry("PRP1 is not at a dword", first));
    }
    let mut left = take(&mut found, first);
    if left == 0 {
        if second != 0 {
            return Err(Wrong::Entry("PRP2 is reserved for so few bytes", second));
        }
        return Ok(found);
    }
    if left <= PAGE {
        if second % PAGE != 0 {
            return Err(Wrong::Entry("PRP2 is not at a page", second));
        }
        take(&mut found, second);
        return Ok(found);
    }
    if second % 8 != 0 {
        return Err(Wrong::Entry("the list is not at a quadword", second));
    }
    let mut list = second;
    while left > 0 {
        let mut bytes = [0; 8];
        space
            .read(list, &mut bytes)
            .map_err(|_| Wrong::List(list))?;
        let entry = u64::from_le_bytes(bytes);
        if entry % PAGE != 0 {
            return Err(Wrong::Entry("an entry of a list is not at a page", entry));
        }
        let is_last_of_page = list % PAGE == PAGE - 8;
        if is_last_of_page && left > PAGE {
            list = entry;
            continue;
        }
        left = take(&mut found, entry);
        list += 8;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{Pages, Region};

    const LIST_PAGES: usize = 2;

    fn with_lists(test: impl FnOnce(&Space, u64)) {
        let region = Region::new(LIST_PAGES * 4096, Pages::Normal).unwrap();
        let mut space = Space::new(1 << 30, 1);
        let mut runs = Vec::new();
        // SAFETY: the region outlives the space, and nobody refers to its bytes.
        unsafe { space.map(region.base(), region.len(), &mut runs) }.unwrap();
        test(&space, runs[0].iova.0);
    }

    fn command(first: u64, second: u64) -> Command {
        let mut bytes = [0; 64];
        bytes[24..32].copy_from_slice(&first.to_le_bytes());
        bytes[32..40].copy_from_slice(&second.to_le_bytes());
        Command(bytes)
    }

    #[test]
    fn up_to_two_pages_need_no_list() {
        with_lists(|space, _| {
            let walk = |first, second, bytes| pieces(space, &command(first, second), bytes);
            assert_eq!(walk(0, 0, 0), Ok(vec![]));
            assert_eq!(walk(0x1004, 0, 4092), Ok(vec![(0x1004, 4092)]));
            let both = vec![(0x1ffc, 4), (0x8000, 4096)];
            assert_eq!(walk(0x1ffc, 0x8000, 4100), Ok(both));
            assert!(walk(0x1002, 0, 512).is_err(), "not at a dword");
            assert!(walk(0x1000, 0x2000, 512).is_err(), "PRP2 is reserved");
            assert!(walk(0x1000, 0x2200, 8192).is_err(), "PRP2 has an offset");
        });
    }

    #[test]
    fn a_list_may_begin_anywhere_and_go_on_in_another_page() {
        with_lists(|space, list| {
            let put = |at: u64, entry: u64| space.write(at, &entry.to_le_bytes()).unwrap();
            let start = list + 4096 - 16;
            put(start, 0x10_0000);
            put(start + 8, list);
            put(list, 0x20_0000);
            put(list + 8, 0x30_0000);
            let walked = pieces(space, &command(0x1800, start), 2048 + 3 * 4096);
            let all = vec![
                (0x1800, 2048),
                (0x10_0000, 4096),
                (0x20_0000, 4096),
                (0x30_0000, 4096),
            ];
            assert_eq!(walked, Ok(all));
            // Two entries are just enough: the last of the page is then data.
            put(start + 8, 0x40_0000);
            let walked = pieces(space, &command(0x1000, start), 2 * 4096 + 512).unwrap();
            assert_eq!(walked[2], (0x40_0000, 512));
            put(start + 8, 0x40_0004);
            pieces(space, &command(0x1000, start), 3 * 4096).unwrap_err();
            pieces(space, &command(0x1000, start + 4), 3 * 4096).unwrap_err();
            let unmapped = pieces(space, &command(0x1000, 0x10), 3 * 4096);
            assert_eq!(unmapped, Err(Wrong::List(0x10)));
        });
    }
}
