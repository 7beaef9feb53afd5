//! Every device under the shared suite, and what is particular to files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::file::FileObject;
use super::suite::{self, DEVICE_BYTES_MIN, Driver};
use super::*;

mod nvme;
mod waiting;

const SEED: u64 = 20_261_122;

/// A folder on the disk of the build, where O_DIRECT and io_uring are at home.
fn disk_folder() -> TempDir {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    fs::create_dir_all(&target).unwrap();
    tempfile::tempdir_in(target).unwrap()
}

fn file_spec(path: &Path, engine: Engine, direct: Option<bool>) -> Spec {
    let path = path.to_owned();
    Spec::new(Kind::File {
        path,
        bytes: Some(DEVICE_BYTES_MIN),
        engine,
        direct,
    })
}

fn run_file(name: &str, adjust: impl Fn(&mut Spec), engine: Engine, direct: Option<bool>) {
    let folder = disk_folder();
    let mut spec = file_spec(&folder.path().join(name), engine, direct);
    adjust(&mut spec);
    suite::run(|| Backing::open(&spec).unwrap(), true, SEED);
}

/// Whether this machine lets us have a ring; tests that need one say so when it does not.
fn io_uring_is_refused() -> bool {
    let refused = io_uring::IoUring::new(2).is_err();
    if refused {
        println!("skipped: io_uring is refused on this machine");
    }
    refused
}

#[test]
fn memory_passes_the_suite() {
    for block_size in [512, 4096] {
        let kind = Kind::Memory {
            bytes: DEVICE_BYTES_MIN,
        };
        let spec = Spec {
            block_size,
            ..Spec::new(kind)
        };
        suite::run(|| Backing::open(&spec).unwrap(), true, SEED);
    }
}

#[test]
fn null_passes_the_suite_and_shows_nobody_elses_data() {
    let spec = Spec::new(Kind::Null {
        bytes: DEVICE_BYTES_MIN,
    });
    let backing = Backing::open(&spec).unwrap();
    let mut driver = Driver::new(&backing);
    // The driver fills the buffer with ee before the read.
    assert_eq!(driver.read(0, 512, 8192), Ok(vec![0; 8192]));
    driver.finish();
    suite::run(|| Backing::open(&spec).unwrap(), false, SEED);
}

#[test]
fn prefetch_takes_any_range_and_unit() {
    let backing = Backing::open(&Spec::new(Kind::Memory {
        bytes: DEVICE_BYTES_MIN,
    }))
    .unwrap();
    let mut set = Set::new(&Options::default()).unwrap();
    assert_eq!(set.attach(UnitIndex(0), &backing), Ok("memory"));
    for lba in [
        0,
        1,
        backing.info().blocks - 1,
        backing.info().blocks,
        u64::MAX,
    ] {
        for blocks in [0, 1, 9, u64::MAX] {
            set.prefetch(UnitIndex(0), lba, blocks);
            set.prefetch(UnitIndex(u16::MAX), lba, blocks);
        }
    }
    assert_eq!(set.in_flight(), 0);
}

#[test]
fn long_zeroings_of_memory_go_step_by_step() {
    let bytes = 200 << 20;
    let backing = Backing::open(&Spec::new(Kind::Memory { bytes })).unwrap();
    let mut driver = Driver::new(&backing);
    let last = bytes / 512 - 1;
    assert_eq!(driver.write(last, 512, &[7; 512], false), Ok(()));
    let zero = driver.submit(Operation::Unmap {
        lba: 0,
        blocks: bytes / 512,
    });
    assert!(driver.set.needs_poll());
    driver.turn();
    assert_eq!(driver.set.in_flight(), 1, "one turn does only a part");
    assert_eq!(driver.wait(zero).0, Ok(()));
    assert_eq!(driver.read(last, 512, 512), Ok(vec![0; 512]));
    driver.finish();
}

#[test]
fn file_through_io_uring_passes_the_suite() {
    if io_uring_is_refused() {
        return;
    }
    run_file("direct", |_| {}, Engine::IoUring, None);
    run_file("cached", |_| {}, Engine::IoUring, Some(false));
}

#[test]
fn file_through_helper_threads_passes_the_suite() {
    run_file("direct", |_| {}, Engine::Sync, None);
    run_file("cached", |_| {}, Engine::Sync, Some(false));
}

#[test]
fn file_with_4k_blocks_and_without_write_cache_passes_the_suite() {
    let adjust = |spec: &mut Spec| {
        spec.block_size = 4096;
        spec.write_cache = false;
    };
    run_file("through", adjust, Engine::Auto, None);
}

#[test]
fn file_on_tmpfs_uses_plain_calls_and_passes_the_suite() {
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else {
        println!("skipped: no /dev/shm to write to");
        return;
    };
    let spec = file_spec(&folder.path().join("disk"), Engine::Auto, None);
    let backing = Backing::open(&spec).unwrap();
    let mut set = Set::new(&Options::default()).unwrap();
    assert_eq!(set.attach(UnitIndex(0), &backing), Ok("sync"));
    drop(set);
    suite::run(|| Arc::clone(&backing), true, SEED);
}

#[test]
fn missing_file_is_created_sparse_and_kept_afterwards() {
    use std::os::unix::fs::MetadataExt;
    let folder = disk_folder();
    let path = folder.path().join("disk");
    let spec = file_spec(&path, Engine::Auto, None);
    let backing = Backing::open(&spec).unwrap();
    assert_eq!(backing.info().blocks, DEVICE_BYTES_MIN / 512);
    assert_eq!(backing.notes()[0], "created");
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.len(), meta.mode() & 0o777), (DEVICE_BYTES_MIN, 0o600));
    assert!(meta.blocks() < 64, "sparse: {} sectors", meta.blocks());
    let mut driver = Driver::new(&backing);
    assert_eq!(driver.write(9, 512, &[0xab; 1024], true), Ok(()));
    driver.finish();
    drop(backing);
    let backing = Backing::open(&spec).unwrap();
    let mut driver = Driver::new(&backing);
    assert_eq!(driver.read(9, 512, 1024), Ok(vec![0xab; 1024]));
    driver.finish();
}

#[test]
fn files_grow_to_their_size_and_never_shrink() {
    let folder = disk_folder();
    let path = folder.path().join("disk");
    let open = |bytes| {
        let (path, engine) = (path.clone(), Engine::Auto);
        let kind = Kind::File {
            path,
            bytes,
            engine,
            direct: None,
        };
        Backing::open(&Spec::new(kind))
            .map(|backing| (backing.info().blocks, backing.notes().join("; ")))
    };
    assert_eq!(open(None), Err(OpenError::Missing { path: path.clone() }));
    assert!(matches!(open(Some(100)), Err(OpenError::Empty { .. })));
    assert!(!path.exists(), "an impossible size creates nothing");
    assert_eq!(open(Some(1 << 20)).unwrap().0, 2048);
    let (blocks, notes) = open(Some(2 << 20)).unwrap();
    assert_eq!(blocks, 4096);
    assert!(notes.contains("grown from 1048576 to 2097152"), "{notes}");
    let (blocks, notes) = open(Some(1 << 20)).unwrap();
    assert_eq!(
        (blocks, fs::metadata(&path).unwrap().len()),
        (4096, 2 << 20)
    );
    assert!(notes.contains("never shrunk"), "{notes}");
    assert_eq!(open(None).unwrap().0, 4096);
}

#[test]
fn one_object_belongs_to_one_unit_whatever_its_name() {
    let folder = disk_folder();
    let (path, link) = (folder.path().join("disk"), folder.path().join("link"));
    let hard = folder.path().join("hard");
    let first = Backing::open(&file_spec(&path, Engine::Auto, None)).unwrap();
    symlink(&path, &link).unwrap();
    fs::hard_link(&path, &hard).unwrap();
    for name in [&path, &link, &hard] {
        let error = Backing::open(&file_spec(name, Engine::Auto, None)).unwrap_err();
        assert_eq!(
            error,
            OpenError::SameObject {
                path: name.clone(),
                other: path.clone()
            }
        );
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
    }
    drop(first);
    assert!(
        Backing::open(&file_spec(&link, Engine::Auto, None)).is_ok(),
        "given up on close"
    );
}

#[test]
fn a_file_that_another_process_locks_is_refused() {
    let folder = disk_folder();
    let path = folder.path().join("disk");
    drop(Backing::open(&file_spec(&path, Engine::Auto, None)).unwrap());
    // A lock of this process that the registry does not know stands for another process.
    let other = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    file::lock_for_tests(&other);
    let error = Backing::open(&file_spec(&path, Engine::Auto, None)).unwrap_err();
    assert_eq!(error, OpenError::Locked { path: path.clone() });
    drop(other);
    Backing::open(&file_spec(&path, Engine::Auto, None)).unwrap();
}

#[test]
fn a_file_that_shrinks_is_out_of_range_and_never_grows_back_silently() {
    for engine in [Engine::Auto, Engine::Sync] {
        for direct in [None, Some(false)] {
            let folder = disk_folder();
            let path = folder.path().join("disk");
            let backing = Backing::open(&file_spec(&path, engine, direct)).unwrap();
            let mut driver = Driver::new(&backing);
            assert_eq!(driver.write(0, 512, &[1; 4096], false), Ok(()));
            let cut = fs::OpenOptions::new().write(true).open(&path).unwrap();
            cut.set_len(1 << 20).unwrap();
            let lba = (4 << 20) / 512;
            driver.turn();
            assert_eq!(driver.read(lba, 512, 4096), Err(IoError::OutOfRange));
            assert_eq!(
                driver.read(2048 - 4, 512, 4096),
                Err(IoError::OutOfRange),
                "across the cut"
            );
            assert_eq!(
                driver.write(lba, 512, &[2; 4096], false),
                Err(IoError::OutOfRange)
            );
            let zero = Operation::WriteZeroes {
                lba,
                blocks: 8,
                fua: false,
                may_unmap: false,
            };
            assert_eq!(driver.run(zero).0, Err(IoError::OutOfRange));
            assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 20, "still cut");
            assert_eq!(
                driver.read(0, 512, 4096),
                Ok(vec![1; 4096]),
                "what is left is served"
            );
            driver.finish();
        }
    }
}

#[test]
fn after_a_lost_cache_changes_are_refused_on_every_core_until_cleared() {
    let folder = disk_folder();
    let backing = Backing::open(&file_spec(
        &folder.path().join("disk"),
        Engine::Auto,
        Some(false),
    ))
    .unwrap();
    let mut cores = [Driver::new(&backing), Driver::new(&backing)];
    backing.lose_write_cache();
    for core in &mut cores {
        assert_eq!(
            core.write(0, 512, &[1; 512], true),
            Err(IoError::WriteCacheLost)
        );
        assert_eq!(core.run(Operation::Flush).0, Err(IoError::WriteCacheLost));
        assert_eq!(
            core.run(Operation::Unmap { lba: 0, blocks: 8 }).0,
            Err(IoError::WriteCacheLost)
        );
        assert_eq!(core.read(0, 512, 512), Ok(vec![0; 512]), "reads go on");
    }
    assert!(backing.write_cache_lost());
    backing.clear_write_cache_lost();
    for core in cores.iter_mut() {
        assert_eq!(core.write(0, 512, &[1; 512], true), Ok(()));
    }
    cores.into_iter().for_each(Driver::finish);
}

#[test]
fn read_only_devices_refuse_changes_and_leave_the_file_alone() {
    let folder = disk_folder();
    let path = folder.path().join("disk");
    fs::write(&path, [9; 8192]).unwrap();
    let mut spec = file_spec(&path, Engine::Auto, None);
    spec.read_only = true;
    let backing = Backing::open(&spec).unwrap();
    assert_eq!((backing.info().blocks, backing.info().unmap), (16, false));
    let mut driver = Driver::new(&backing);
    assert_eq!(
        driver.write(0, 512, &[1; 512], false),
        Err(IoError::WriteProtected)
    );
    assert_eq!(
        driver.run(Operation::Unmap { lba: 0, blocks: 1 }).0,
        Err(IoError::WriteProtected)
    );
    assert_eq!(driver.read(15, 512, 512), Ok(vec![9; 512]));
    driver.finish();
    drop(backing);
    assert_eq!(fs::read(&path).unwrap(), [9; 8192]);
    spec.kind = Kind::File {
        path: folder.path().join("none"),
        bytes: Some(8192),
        engine: Engine::Auto,
        direct: None,
    };
    assert!(
        matches!(Backing::open(&spec), Err(OpenError::Missing { .. })),
        "never created read-only"
    );
}

#[test]
fn a_last_part_of_a_block_stays_unused_and_is_said() {
    let folder = disk_folder();
    let path = folder.path().join("disk");
    fs::write(&path, [0; 4096 + 100]).unwrap();
    let kind = Kind::File {
        path,
        bytes: None,
        engine: Engine::Auto,
        direct: None,
    };
    let backing = Backing::open(&Spec {
        block_size: 4096,
        ..Spec::new(kind)
    })
    .unwrap();
    assert_eq!(backing.info().blocks, 1);
    assert!(
        backing.notes().join(" ").contains("100 bytes"),
        "{:?}",
        backing.notes()
    );
}

#[test]
fn what_cannot_be_opened_says_why_and_what_to_do() {
    let folder = disk_folder();
    let open = |kind| Backing::open(&Spec::new(kind)).unwrap_err();
    let missing = folder.path().join("no/such/folder/disk");
    let error = open(file_spec(&missing, Engine::Auto, None).kind);
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
    assert!(error.to_string().contains("create the folder"), "{error}");
    let error = open(file_spec(folder.path(), Engine::Auto, None).kind);
    assert!(error.to_string().contains("not a folder"), "{error}");
    let plain = folder.path().join("plain");
    fs::write(&plain, [0; 512]).unwrap();
    let error = open(Kind::Block {
        path: plain,
        engine: Engine::Auto,
    });
    assert!(
        error.to_string().contains("backend type \"file\""),
        "{error}"
    );
    let error = open(Kind::Memory { bytes: 100 });
    assert_eq!(
        error,
        OpenError::Empty {
            bytes: 100,
            block_size: 512
        }
    );
    let odd = Spec {
        block_size: 520,
        ..Spec::new(Kind::Null { bytes: 1 << 20 })
    };
    assert_eq!(Backing::open(&odd).unwrap_err(), OpenError::BlockSize(520));
    let odd = Spec {
        physical_block_size: 256,
        ..Spec::new(Kind::Null { bytes: 1 << 20 })
    };
    assert!(matches!(
        Backing::open(&odd),
        Err(OpenError::PhysicalBlockSize { .. })
    ));
}

#[test]
fn block_sizes_show_in_what_the_device_says() {
    let info = |block_size, physical_block_size| {
        let kind = Kind::Null { bytes: 1 << 20 };
        let spec = Spec {
            block_size,
            physical_block_size,
            ..Spec::new(kind)
        };
        let info = Backing::open(&spec).unwrap().info().clone();
        (info.blocks, info.physical_block_exponent)
    };
    assert_eq!(info(512, 512), (2048, 0));
    assert_eq!(info(512, 4096), (2048, 3));
    assert_eq!(info(4096, 4096), (256, 0));
}

/// A full disk. Only root can mount a small one.
#[test]
fn a_full_disk_is_no_space_and_everything_else_goes_on() {
    let folder = disk_folder();
    let Some(mount) = SmallDisk::mount(folder.path()) else {
        println!("skipped: mounting a small tmpfs is not allowed here");
        return;
    };
    for engine in [Engine::Auto, Engine::IoUring, Engine::Sync] {
        if engine == Engine::IoUring && io_uring_is_refused() {
            continue;
        }
        let path = mount.0.join("disk");
        let backing = Backing::open(&file_spec(&path, engine, None)).unwrap();
        let mut driver = Driver::new(&backing);
        assert_eq!(driver.write(0, 512, &vec![5; 512 << 10], false), Ok(()));
        let full = driver.write(4096, 512, &vec![6; 2 << 20], false);
        assert_eq!(full, Err(IoError::NoSpace), "{engine:?}");
        assert_eq!(driver.read(0, 512, 512 << 10), Ok(vec![5; 512 << 10]));
        driver.finish();
        drop(backing);
        fs::remove_file(path).unwrap();
    }
}

/// A tmpfs of 1 MiB, unmounted on drop.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path) -> Option<Self> {
        let mut mount = std::process::Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=1m", "iibd-test"])
            .arg(folder);
        let done = mount.stderr(std::process::Stdio::null()).status().ok()?;
        done.success().then(|| Self(folder.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_core_that_ends_with_operations_under_way_frees_nothing_they_use() {
    let folder = disk_folder();
    for engine in [Engine::Auto, Engine::Sync] {
        let path = folder.path().join(format!("{engine:?}"));
        let backing = Backing::open(&file_spec(&path, engine, None)).unwrap();
        let mut driver = Driver::new(&backing);
        for zone in 0..16 {
            driver.submit(driver.write_operation(zone * 256, 512, &vec![8; 64 << 10], false));
        }
        driver.set.kick(suite::now());
        let pool = driver.pool.clone();
        assert!(driver.set.in_flight() > 0);
        drop(driver);
        assert!(
            pool.available() < pool.chunks(),
            "buffers under way are not given out again"
        );
        drop(backing);
        // What they work on stays ours too.
        let again = Backing::open(&file_spec(&path, engine, None));
        assert!(matches!(again, Err(OpenError::SameObject { .. })));
    }
}

/// Many flushes and synchronous writes through the page cache, from two cores: they take turns.
#[test]
fn synchronous_calls_through_the_cache_take_turns_and_all_complete() {
    let folder = disk_folder();
    for engine in [Engine::Auto, Engine::Sync] {
        let path = folder.path().join(format!("{engine:?}"));
        let backing = Backing::open(&file_spec(&path, engine, Some(false))).unwrap();
        let mut cores = [Driver::new(&backing), Driver::new(&backing)];
        let mut tags = Vec::new();
        for lba in 0..6 {
            for (core, driver) in cores.iter_mut().enumerate() {
                let write = driver.write_operation(lba * 8, 512, &[9; 512], true);
                tags.push((core, driver.submit(write)));
                tags.push((core, driver.submit(Operation::Flush)));
            }
        }
        // Each sleeps until it is signalled, also by the end of the other's turn.
        while cores.iter().any(|core| core.set.in_flight() > 0) {
            cores.iter_mut().for_each(Driver::turn);
        }
        for (core, tag) in tags {
            assert_eq!(cores[core].wait(tag).0, Ok(()));
        }
        cores.into_iter().for_each(Driver::finish);
    }
}

fn object(backing: &Backing) -> &FileObject {
    match backing.device() {
        backing::Device::File(object) => object,
        other => panic!("not a file: {other:?}"),
    }
}

/// With O_DIRECT too, the file system zeroes less than one of its blocks in the page cache.
#[test]
fn small_edges_of_unmaps_put_a_direct_file_into_the_cache() {
    let folder = disk_folder();
    let path = folder.path().join("disk");
    let backing = Backing::open(&file_spec(&path, Engine::Auto, None)).unwrap();
    let object = object(&backing);
    if object.is_cached() {
        println!("skipped: no O_DIRECT here");
        return;
    }
    let mut driver = Driver::new(&backing);
    let granule = u64::from(backing.info().unmap_granularity);
    let unmap = |lba, blocks| Operation::Unmap { lba, blocks };
    assert_eq!(driver.run(unmap(granule, granule)).0, Ok(()));
    assert_eq!(driver.write(0, 512, &[1; 512], true), Ok(()));
    assert!(!object.is_cached(), "whole blocks need no cache");
    assert_eq!(driver.run(unmap(granule, granule - 1)).0, Ok(()));
    assert!(object.is_cached());
    assert_eq!(driver.write(0, 512, &[2; 512], true), Ok(()));
    assert_eq!(driver.run(Operation::Flush).0, Ok(()));
    assert_eq!(driver.read(0, 512, 512), Ok(vec![2; 512]));
    driver.finish();
}

/// A loop device over a file, taken apart on drop. Only root can make one.
struct LoopDevice {
    device: PathBuf,
    _folder: TempDir,
}

impl LoopDevice {
    fn new() -> Option<Self> {
        let folder = disk_folder();
        let file = folder.path().join("image");
        fs::File::create(&file)
            .unwrap()
            .set_len(DEVICE_BYTES_MIN)
            .unwrap();
        let mut losetup = std::process::Command::new("losetup");
        let made = losetup
            .args(["--find", "--show"])
            .arg(&file)
            .output()
            .ok()?;
        let device = String::from_utf8(made.stdout).ok()?.trim().to_owned();
        if !made.status.success() || device.is_empty() {
            return None;
        }
        Some(Self {
            device: device.into(),
            _folder: folder,
        })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup")
            .arg("--detach")
            .arg(&self.device)
            .status();
    }
}

#[test]
fn block_devices_pass_the_suite_and_are_ours_alone() {
    for engine in [Engine::Auto, Engine::Sync] {
        let Some(disk) = LoopDevice::new() else {
            println!("skipped: loop devices cannot be made here");
            return;
        };
        let spec = Spec::new(Kind::Block {
            path: disk.device.clone(),
            engine,
        });
        let backing = Backing::open(&spec).unwrap();
        assert_eq!(backing.info().blocks, DEVICE_BYTES_MIN / 512);
        let again = Backing::open(&spec).unwrap_err();
        assert!(matches!(again, OpenError::SameObject { .. }), "{again}");
        suite::run(|| Arc::clone(&backing), true, SEED);
        if backing.info().unmap {
            let mut driver = Driver::new(&backing);
            assert_eq!(
                driver
                    .run(Operation::Unmap {
                        lba: 0,
                        blocks: 4096
                    })
                    .0,
                Ok(())
            );
            driver.finish();
        }
        drop(backing);
        // Somebody else's claim is respected.
        let other = rustix::fs::open(
            &disk.device,
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::EXCL,
            rustix::fs::Mode::empty(),
        );
        let other = other.unwrap();
        let busy = Backing::open(&spec).unwrap_err();
        assert_eq!(
            busy,
            OpenError::Busy {
                path: disk.device.clone()
            }
        );
        drop(other);
    }
}
