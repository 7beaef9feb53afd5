//! The state directory: what the daemon has to remember over restarts.
//!
//! A file in it is replaced whole or not at all. The steps: write `NAME.tmp`, fsync it, link what
//! was there to `NAME.prev`, rename over `NAME`, fsync the directory. Wherever this is cut, `NAME`
//! holds either the old or the new bytes. When the last step fails, what was there is put back. A
//! file that fails its checksum is set aside as
//! `NAME.corrupt`, and `NAME.prev` is used. One daemon owns the directory, by a lock on `lock`.

use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

mod identity;
mod unit;

pub use identity::{Identities, Identity};

const LOCK: &str = "lock";
/// The largest state file that is read.
const FILE_LEN_MAX: u64 = 64 * 1024 * 1024;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(
        "state_dir = {}: cannot {action}: {source}\n  help: choose a directory that this user may \
         write to, with state_dir under [daemon] or with --state-dir", path.display()
    )]
    Io {
        path: PathBuf,
        action: &'static str,
        source: io::Error,
    },
    #[error(
        "state_dir = {}: another daemon{} uses it\n  help: stop that one, or give this one a state \
         directory of its own", path.display(), by_process(pid.as_ref())
    )]
    Locked { path: PathBuf, pid: Option<u32> },
    #[error(
        "{}: damaged, and so is the generation before it\n  help: restore the file from a backup; \
         removing it and its .prev gives every logical unit a new identity, which initiators take \
         for new disks", path.display()
    )]
    Damaged { path: PathBuf },
    #[error(
        "{}: damaged; it says who may write to the logical unit, so the unit is not served without \
         it\n  help: restore the file from a backup, or from its .prev if no reservation was \
         changed since that was written; removing the file serves the unit without the \
         reservations and settings that were kept of it", path.display()
    )]
    DamagedUnit { path: PathBuf },
    #[error(
        "{}: has version {version}, which this version of the daemon does not know\n  help: run \
         the version that has written it; removing the file serves the unit without the \
         reservations and settings that were kept of it", path.display()
    )]
    UnitVersion { path: PathBuf, version: u32 },
    #[error("the system gave no random bits: {0}")]
    Random(getrandom::Error),
}

fn by_process(pid: Option<&u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// Where state is kept when the configuration does not say: what systemd's `StateDirectory=` names,
/// `/var/lib/iiblockdaemon` for root, else the user's state directory by the XDG rules. `None` when
/// the environment names no absolute one.
pub fn default_dir() -> Option<PathBuf> {
    let home = |key| {
        env::var_os(key)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    // systemd separates several directories by colons; the unit names one.
    if let Some(dir) = home("STATE_DIRECTORY") {
        return Some(dir);
    }
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/iiblockdaemon"));
    }
    let base = home("XDG_STATE_HOME").or_else(|| home("HOME").map(|dir| dir.join(".local/state")));
    base.map(|base| base.join("iiblockdaemon"))
}

/// A state directory that this process owns until the value is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Held for its lock.
    _lock: File,
}

/// Where the bytes of a state file came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    Current,
    /// The current one was damaged or missing.
    Previous,
}

impl StateDir {
    /// Creates the directory (mode 0700) where it is missing, and takes its lock.
    ///
    /// # Errors
    /// [`StateError::Io`], or [`StateError::Locked`] with the process that holds it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let error = |action| {
            move |source| StateError::Io {
                path: path.to_owned(),
                action,
                source,
            }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(error("create the directory"))?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK))
            .map_err(error("open the lock"))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let pid = lock
                    .read_to_string(&mut text)
                    .ok()
                    .and_then(|_| text.trim().parse().ok());
                return Err(StateError::Locked {
                    path: path.to_owned(),
                    pid,
                });
            }
            Err(errno) => return Err(error("lock the directory")(errno.into())),
        }
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(error("write the lock"))?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the file `name` by `bytes`, durably, and keeps what was there as `name.prev`.
    ///
    /// # Errors
    /// [`StateError::Io`]; the file is then as it was, and so it is read by the next daemon. Two
    /// things are not promised, both after a failed sync of the directory: that a loss of power
    /// leaves the old bytes and not the new ones, and, where the error says that the previous
    /// generation could not be put back, that the file is the old one at all.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        self.write_and(name, bytes, || File::open(&self.path)?.sync_all())
    }

    /// [`write`](Self::write) with what makes names durable.
    fn write_and(
        &self,
        name: &str,
        bytes: &[u8],
        sync: impl Fn() -> io::Result<()>,
    ) -> Result<(), StateError> {
        let file = self.path.join(name);
        let error = |action| {
            let path = file.clone();
            move |source| StateError::Io {
                path,
                action,
                source,
            }
        };
        let temporary = self.sibling(name, "tmp");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options
            .open(&temporary)
            .and_then(|mut out| out.write_all(bytes).and_then(|()| out.sync_all()))
            .map_err(error("write the new generation"))?;
        let kept = self
            .keep_previous(name)
            .map_err(error("keep the previous generation"))?;
        fs::rename(&temporary, &file).map_err(error("put the new generation in place"))?;
        let Err(failure) = sync() else {
            return Ok(());
        };
        let action = match self.put_back(name, kept) {
            Ok(()) => "make the new generation durable",
            Err(_) => "make the new generation durable, nor put the previous one back",
        };
        // Whether this one goes well changes nothing of what can be promised.
        let _ = sync();
        Err(error(action)(failure))
    }

    /// Makes `name.prev` what `name` is. A link, so that `name` never goes away meanwhile. `false`:
    /// there is no `name`.
    fn keep_previous(&self, name: &str) -> io::Result<bool> {
        let link = self.sibling(name, "prev.tmp");
        remove_if_there(&link)?;
        match fs::hard_link(self.path.join(name), &link) {
            Ok(()) => fs::rename(&link, self.sibling(name, "prev")).map(|()| true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Undoes a replacement: what was refused must not come back with the next start. `kept`: what
    /// [`keep_previous`](Self::keep_previous) said.
    fn put_back(&self, name: &str, kept: bool) -> io::Result<()> {
        let file = self.path.join(name);
        if kept {
            fs::rename(self.sibling(name, "prev"), file)
        } else {
            remove_if_there(&file)
        }
    }

    /// Reads the file `name` by `parse`, which answers `None` for damaged bytes; then the
    /// generation before it. `None` when there is neither.
    ///
    /// # Errors
    /// [`StateError::Damaged`] when something is there but no generation is whole.
    pub fn read<T>(
        &self,
        name: &str,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<(T, Generation)>, StateError> {
        let current = self.read_bytes(&self.path.join(name))?;
        if let Some(value) = current.as_deref().and_then(&parse) {
            return Ok(Some((value, Generation::Current)));
        }
        let previous = self.read_bytes(&self.sibling(name, "prev"))?;
        match previous.as_deref().and_then(&parse) {
            Some(value) => {
                if current.is_some() {
                    self.set_aside(name)?;
                }
                Ok(Some((value, Generation::Previous)))
            }
            None if current.is_none() && previous.is_none() => Ok(None),
            None => Err(StateError::Damaged {
                path: self.path.join(name),
            }),
        }
    }

    /// Renames a damaged file, lest the next write keep it as the previous generation.
    fn set_aside(&self, name: &str) -> Result<(), StateError> {
        let file = self.path.join(name);
        fs::rename(&file, self.sibling(name, "corrupt")).map_err(|source| StateError::Io {
            path: file,
            action: "set the damaged file aside",
            source,
        })
    }

    fn read_bytes(&self, path: &Path) -> Result<Option<Vec<u8>>, StateError> {
        let mut bytes = Vec::new();
        let read =
            File::open(path).and_then(|file| file.take(FILE_LEN_MAX).read_to_end(&mut bytes));
        match read {
            Ok(_) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateError::Io {
                path: path.to_owned(),
                action: "read the file",
                source,
            }),
        }
    }

    fn sibling(&self, name: &str, suffix: &str) -> PathBuf {
        self.path.join(format!("{name}.{suffix}"))
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn text(bytes: &[u8]) -> Option<String> {
        String::from_utf8(bytes.to_vec())
            .ok()
            .filter(|text| text.starts_with("good"))
    }

    #[test]
    fn the_directory_is_made_private_and_locked() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let state = StateDir::open(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
        let error = StateDir::open(&path).unwrap_err();
        assert!(matches!(error, StateError::Locked { pid, .. } if pid == Some(std::process::id())));
        assert!(
            error
                .to_string()
                .contains(&format!("(process {})", std::process::id()))
        );
        drop(state);
        StateDir::open(&path).unwrap();
    }

    #[test]
    fn a_path_that_cannot_be_made_is_named_with_the_remedy() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("file"), "").unwrap();
        let error = StateDir::open(&root.path().join("file/state"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("file/state: cannot create the directory"),
            "{error}"
        );
        assert!(error.contains("help: choose a directory"), "{error}");
    }

    #[test]
    fn a_write_replaces_the_file_and_keeps_the_previous_generation() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path()).unwrap();
        assert!(state.read("x", text).unwrap().is_none());
        state.write("x", b"good 1").unwrap();
        state.write("x", b"good 2").unwrap();
        state.write("x", b"good 3").unwrap();
        assert_eq!(fs::read(root.path().join("x")).unwrap(), b"good 3");
        assert_eq!(fs::read(root.path().join("x.prev")).unwrap(), b"good 2");
        assert!(!root.path().join("x.tmp").exists());
        assert_eq!(
            state.read("x", text).unwrap(),
            Some(("good 3".to_owned(), Generation::Current))
        );
    }

    #[test]
    fn a_write_that_cannot_be_made_durable_leaves_the_file_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path()).unwrap();
        let fail = || Err(io::Error::from(ErrorKind::StorageFull));
        let error = state.write_and("x", b"good 1", fail).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("make the new generation durable:")
        );
        assert!(state.read("x", text).unwrap().is_none());
        state.write("x", b"good 2").unwrap();
        state.write("x", b"good 3").unwrap();
        for _ in 0..2 {
            state.write_and("x", b"good 4", fail).unwrap_err();
            let found = state.read("x", text).unwrap();
            assert_eq!(found, Some(("good 3".to_owned(), Generation::Current)));
        }
        state.write("x", b"good 5").unwrap();
        assert_eq!(fs::read(root.path().join("x")).unwrap(), b"good 5");
        assert_eq!(fs::read(root.path().join("x.prev")).unwrap(), b"good 3");
        // Only the generation before is there: it is what is read again.
        fs::remove_file(root.path().join("x")).unwrap();
        state.write_and("x", b"good 6", fail).unwrap_err();
        let found = state.read("x", text).unwrap();
        assert_eq!(found, Some(("good 3".to_owned(), Generation::Previous)));
    }

    /// Each state that a kill can leave behind, by the files that are then there.
    #[test]
    fn a_write_that_was_killed_at_any_step_leaves_a_whole_file() {
        let cases: [(&[(&str, &str)], &str); 4] = [
            (&[("x", "good 1"), ("x.tmp", "go")], "good 1"),
            (&[("x", "good 1"), ("x.tmp", "good 2")], "good 1"),
            (
                &[
                    ("x", "good 1"),
                    ("x.tmp", "good 2"),
                    ("x.prev.tmp", "good 1"),
                ],
                "good 1",
            ),
            (
                &[("x", "good 2"), ("x.prev", "good 1"), ("x.tmp", "good 3")],
                "good 2",
            ),
        ];
        for (files, expected) in cases {
            let root = tempfile::tempdir().unwrap();
            for (name, content) in files {
                fs::write(root.path().join(name), content).unwrap();
            }
            let state = StateDir::open(root.path()).unwrap();
            let found = state.read("x", text).unwrap();
            assert_eq!(
                found,
                Some((expected.to_owned(), Generation::Current)),
                "{files:?}"
            );
            state.write("x", b"good 9").unwrap();
            assert_eq!(fs::read(root.path().join("x")).unwrap(), b"good 9");
            assert_eq!(
                fs::read(root.path().join("x.prev")).unwrap(),
                expected.as_bytes()
            );
            assert!(
                !root.path().join("x.tmp").exists() && !root.path().join("x.prev.tmp").exists()
            );
        }
    }

    #[test]
    fn a_damaged_file_gives_way_to_the_previous_generation_and_never_replaces_it() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path()).unwrap();
        state.write("x", b"good 1").unwrap();
        state.write("x", b"good 2").unwrap();
        fs::write(root.path().join("x"), "bad").unwrap();
        let found = state.read("x", text).unwrap();
        assert_eq!(found, Some(("good 1".to_owned(), Generation::Previous)));
        assert_eq!(fs::read(root.path().join("x.corrupt")).unwrap(), b"bad");
        state.write("x", b"good 3").unwrap();
        assert_eq!(fs::read(root.path().join("x.prev")).unwrap(), b"good 1");
        fs::write(root.path().join("x"), "bad").unwrap();
        fs::write(root.path().join("x.prev"), "bad").unwrap();
        assert!(matches!(
            state.read("x", text),
            Err(StateError::Damaged { .. })
        ));
    }
}
