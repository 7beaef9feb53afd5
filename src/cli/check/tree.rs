//! Reads what /proc, /sys and /dev say, below a root of the caller's choice.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// More of a file than this is not looked at: the longest, a routing table, is cut there.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// CPUs that a list of them can name.
const CPUS_MAX: usize = 65_536;

/// A file system, `/` or what a test made to look like it.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Tree {
    root: PathBuf,
}

impl Tree {
    pub(in crate::cli) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The text of a file without the blanks around it; `None` when it is not there.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let mut bytes = Vec::new();
        let file = File::open(self.root.join(path)).ok()?;
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// A file that holds one decimal number.
    pub(super) fn number<N: std::str::FromStr>(&self, path: &str) -> Option<N> {
        self.text(path)?.parse().ok()
    }

    /// A file that holds a list of CPUs, `0-3,8`.
    pub(super) fn cpus(&self, path: &str) -> Option<Vec<usize>> {
        self.text(path).map(|text| cpu_list(&text))
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    /// Whether this process may read and write it.
    pub(super) fn usable(&self, path: &str) -> bool {
        access(self.root.join(path), Access::READ_OK | Access::WRITE_OK).is_ok()
    }

    /// The last part of where a symbolic link leads.
    pub(super) fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.root.join(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// The names in a directory, sorted; none when it is not there.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.join(path)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort_unstable();
        names
    }

    /// What follows `key` in a file of lines such as /proc/meminfo.
    pub(super) fn value(&self, path: &str, key: &str) -> Option<String> {
        let text = self.text(path)?;
        let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
        Some(rest.trim().to_owned())
    }
}

/// Numbers of a list such as `0-3,8`; what is no number is left out.
pub(super) fn cpu_list(text: &str) -> Vec<usize> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let part = part.trim();
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let Ok(first) = first.parse::<usize>() else {
            continue;
        };
        let last = last.parse::<usize>().unwrap_or(first);
        cpus.extend((first..=last).take(CPUS_MAX));
    }
    cpus
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_read_as_the_kernel_writes_them() {
        assert_eq!(cpu_list("0-3,8"), [0, 1, 2, 3, 8]);
        assert_eq!(cpu_list("7"), [7]);
        assert_eq!(cpu_list(""), [0; 0]);
        assert_eq!(cpu_list("(null)"), [0; 0]);
        assert_eq!(cpu_list("0-18446744073709551615").len(), CPUS_MAX);
    }
}
