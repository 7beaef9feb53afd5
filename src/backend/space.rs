//! The size of a backing object and the space behind it, while it is open: looked at again by the
//! control side, never by a data core.
//!
//! A device may only grow: cores take the new size from [`Backing::blocks`] with their next
//! request, before any initiator is told. A device that has shrunk keeps its capacity, and what was
//! cut off fails with [`IoError::OutOfRange`](super::IoError::OutOfRange).
//!
//! Where the space that a unit may use is limited, the control side says when the limit is reached,
//! and the device refuses from then on what would take more: writes of blocks that nothing backs.

use rustix::io::Errno;

use super::backing::{Backing, Device};
use super::request::Usage;

/// What a second look at an object's size found, in logical blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    Same,
    Grown { from: u64, to: u64 },
    Shrunk { from: u64, to: u64 },
}

impl Backing {
    /// Looks at the size of the object and takes it when it has grown. May block.
    ///
    /// # Errors
    /// What the system says when it is asked.
    pub fn look_again(&self) -> Result<Size, Errno> {
        let block_size = u64::from(self.info().block_size);
        let now = match self.device() {
            Device::Memory(_) | Device::Null => return Ok(Size::Same),
            Device::File(file) => file.bytes_now()? / block_size,
            Device::Nvme(unit) => unit.namespace.blocks(),
            Device::NvmeKernel(object) => object.look_again()?,
        };
        let from = self.blocks();
        Ok(if now > from {
            self.set_blocks(now);
            Size::Grown { from, to: now }
        } else if now < from {
            Size::Shrunk { from, to: now }
        } else {
            Size::Same
        })
    }

    /// Space that the object takes and could take; `None` where it cannot be known. May block.
    ///
    /// # Errors
    /// What the system says when it is asked.
    pub fn usage(&self) -> Result<Option<Usage>, Errno> {
        if let Some(usage) = self.faults().and_then(super::Faults::usage) {
            return Ok(Some(usage));
        }
        match self.device() {
            Device::Null | Device::Nvme(_) | Device::NvmeKernel(_) => Ok(None),
            Device::Memory(disk) => Ok(Some(disk.usage())),
            Device::File(file) => file.usage(),
        }
    }

    /// Whether the object's usage can be known.
    pub fn knows_usage(&self) -> bool {
        match self.device() {
            Device::Null | Device::Nvme(_) | Device::NvmeKernel(_) => false,
            Device::Memory(_) => true,
            Device::File(file) => file.knows_usage(),
        }
    }

    /// From now on nothing that would take more space succeeds, or it does again.
    pub fn set_limit_reached(&self, reached: bool) {
        match self.device() {
            Device::Null | Device::Nvme(_) | Device::NvmeKernel(_) => {}
            Device::Memory(disk) => disk.set_limit_reached(reached),
            Device::File(file) => file.set_limit_reached(reached),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::backend::suite::{DEVICE_BYTES_MIN, Driver};
    use crate::backend::{Engine, IoError, Kind, Operation, Spec};

    fn folder() -> tempfile::TempDir {
        // On a file system that has holes; cargo may have its target elsewhere.
        let target = env!("CARGO_MANIFEST_DIR").to_owned() + "/target";
        std::fs::create_dir_all(&target).unwrap();
        tempfile::tempdir_in(target).unwrap()
    }

    fn file(path: &Path, engine: Engine) -> Arc<Backing> {
        Backing::open(&Spec::new(Kind::File {
            path: path.to_owned(),
            bytes: Some(DEVICE_BYTES_MIN),
            engine,
            direct: None,
        }))
        .unwrap()
    }

    fn memory() -> Arc<Backing> {
        Backing::open(&Spec::new(Kind::Memory {
            bytes: DEVICE_BYTES_MIN,
        }))
        .unwrap()
    }

    #[test]
    fn a_file_that_grows_serves_its_new_blocks_and_one_that_shrinks_keeps_its_capacity() {
        let folder = folder();
        let path = folder.path().join("disk");
        for engine in [Engine::Auto, Engine::Sync] {
            let _ = std::fs::remove_file(&path);
            let backing = file(&path, engine);
            let mut driver = Driver::new(&backing);
            let before = DEVICE_BYTES_MIN / 512;
            assert_eq!(backing.look_again(), Ok(Size::Same));
            let resize = |bytes| {
                let open = OpenOptions::new().write(true).open(&path).unwrap();
                open.set_len(bytes).unwrap();
            };
            resize(DEVICE_BYTES_MIN + 4096 + 100);
            assert_eq!(
                driver.write(before, 512, &[7; 512], false),
                Err(IoError::OutOfRange),
                "nobody has looked yet"
            );
            let to = before + 8;
            assert_eq!(backing.look_again(), Ok(Size::Grown { from: before, to }));
            assert_eq!(driver.write(to - 1, 512, &[7; 512], false), Ok(()));
            assert_eq!(driver.read(to - 1, 512, 512), Ok(vec![7; 512]));
            assert_eq!(
                driver.write(to, 512, &[7; 512], false),
                Err(IoError::OutOfRange)
            );
            resize(DEVICE_BYTES_MIN);
            assert_eq!(
                backing.look_again(),
                Ok(Size::Shrunk {
                    from: to,
                    to: before
                })
            );
            assert_eq!(backing.blocks(), to);
            assert_eq!(
                driver.write(to - 1, 512, &[7; 512], false),
                Err(IoError::OutOfRange)
            );
            driver.finish();
        }
    }

    #[test]
    fn usage_follows_what_is_written_and_unmapped() {
        let folder = folder();
        for backing in [memory(), file(&folder.path().join("disk"), Engine::Auto)] {
            let mut driver = Driver::new(&backing);
            assert!(backing.knows_usage());
            let empty = backing.usage().unwrap().unwrap();
            let bytes = 2 << 20;
            let data = vec![7; bytes];
            assert_eq!(driver.write(0, 512, &data, true), Ok(()));
            let full = backing.usage().unwrap().unwrap();
            assert!(full.used >= empty.used + (2 << 20), "{empty:?} {full:?}");
            let unmap = Operation::Unmap {
                lba: 0,
                blocks: (2 << 20) / 512,
            };
            assert_eq!(driver.run(unmap).0, Ok(()));
            let after = backing.usage().unwrap().unwrap();
            assert!(after.used < full.used, "{full:?} {after:?}");
            driver.finish();
        }
    }

    #[test]
    fn reading_takes_no_space_and_gives_no_right_to_write_at_the_limit() {
        let folder = folder();
        for backing in [memory(), file(&folder.path().join("disk"), Engine::Auto)] {
            let mut driver = Driver::new(&backing);
            let empty = backing.usage().unwrap().unwrap();
            assert_eq!(driver.read(0, 512, 1 << 20), Ok(vec![0; 1 << 20]));
            assert_eq!(backing.usage().unwrap().unwrap().used, empty.used);
            backing.set_limit_reached(true);
            let data = vec![7; 8192];
            assert_eq!(driver.write(0, 512, &data, false), Err(IoError::NoSpace));
            driver.finish();
        }
    }

    #[test]
    fn at_the_limit_only_what_needs_space_is_refused() {
        let folder = folder();
        let path = folder.path().join("disk");
        for backing in [memory(), file(&path, Engine::Auto)] {
            let mut driver = Driver::new(&backing);
            let data = vec![7; 8192];
            assert_eq!(driver.write(0, 512, &data, true), Ok(()));
            backing.set_limit_reached(true);
            assert_eq!(driver.write(0, 512, &vec![8; 8192], false), Ok(()));
            // 4 MiB on: far from what is backed, whatever the size of a page or an extent.
            let far = (4 << 20) / 512;
            assert_eq!(driver.write(far, 512, &data, false), Err(IoError::NoSpace));
            driver.past_limit = true;
            assert_eq!(
                driver.write(far + 4096, 512, &data, false),
                Ok(()),
                "it may"
            );
            driver.past_limit = false;
            assert_eq!(driver.read(0, 512, 8192), Ok(vec![8; 8192]));
            assert_eq!(driver.read(far, 512, 8192), Ok(vec![0; 8192]));
            let unmap = Operation::Unmap { lba: 0, blocks: 8 };
            assert_eq!(driver.run(unmap).0, Ok(()), "freeing is never refused");
            backing.set_limit_reached(false);
            assert_eq!(driver.write(far, 512, &data, false), Ok(()));
            driver.finish();
        }
    }

    #[test]
    fn the_null_device_has_no_usage_and_never_grows() {
        let backing = Backing::open(&Spec::new(Kind::Null {
            bytes: DEVICE_BYTES_MIN,
        }))
        .unwrap();
        assert_eq!(backing.usage(), Ok(None));
        assert!(!backing.knows_usage());
        assert_eq!(backing.look_again(), Ok(Size::Same));
    }
}
