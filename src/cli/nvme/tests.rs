//! A machine of files, with a kernel that binds drivers.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::rc::Rc;

use tempfile::TempDir;

use super::*;

const ADDRESS: &str = "0000:5e:00.0";
const DEVICES: &str = "sys/bus/pci/devices";

type Guarded = Rc<RefCell<BTreeSet<String>>>;

/// A device is this process's while it lives.
#[derive(Debug)]
struct Holds(Guarded, String);

impl Drop for Holds {
    fn drop(&mut self) {
        assert!(self.0.borrow_mut().remove(&self.1), "it is held once");
    }
}

/// Does with /sys what the kernel would.
#[derive(Debug)]
struct Fake {
    dir: TempDir,
    /// Device files that somebody has.
    held: RefCell<Vec<String>>,
    /// A namespace that appears when the disks are taken.
    late: RefCell<&'static str>,
    /// Devices that this process has for itself.
    guarded: Guarded,
    /// The driver that takes controllers that have no override.
    default: RefCell<&'static str>,
    /// What cannot be written or, of devices, looked at.
    refuses: RefCell<&'static str>,
}

impl Fake {
    fn root(&self) -> &Path {
        self.dir.path()
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn dir(&self, path: &str) {
        fs::create_dir_all(self.root().join(path)).unwrap();
    }

    /// Takes a file or a directory away.
    fn without(&self, path: &str) {
        let path = self.root().join(path);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }

    fn link(&self, path: &str, to: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        symlink(to, path).unwrap();
    }

    /// A controller that the kernel has, with a disk of two partitions.
    fn new() -> Self {
        let fake = Self {
            dir: tempfile::tempdir().unwrap(),
            held: RefCell::default(),
            late: RefCell::default(),
            guarded: Guarded::default(),
            default: RefCell::new("nvme"),
            refuses: RefCell::new("nothing"),
        };
        let device = format!("{DEVICES}/{ADDRESS}");
        fake.file(&format!("{device}/vendor"), "0x144d\n");
        fake.file(&format!("{device}/device"), "0xa826\n");
        fake.file(&format!("{device}/class"), "0x010802\n");
        fake.file(&format!("{device}/numa_node"), "1\n");
        fake.file(&format!("{device}/driver_override"), "(null)\n");
        fake.link(
            &format!("{device}/iommu_group"),
            "../../../../kernel/iommu_groups/42",
        );
        fake.file("sys/bus/pci/drivers/vfio-pci/module", "");
        fake.file("sys/bus/pci/drivers/nvme/module", "");
        fake.file(&format!("sys/kernel/iommu_groups/42/devices/{ADDRESS}"), "");
        fake.file("dev/vfio/42", "");
        fake.file("dev/nvme0n1", "b 259:0");
        fake.file("dev/nvme0n1p1", "b 259:1");
        fake.file("dev/nvme0", "c 239:0");
        fake.file("dev/ng0n1", "c 238:0");
        fake.file("sys/class/nvme-generic/ng0n1/dev", "238:0\n");
        fake.link("proc/self/ns/pid", "pid:[4026531836]");
        fake.file("proc/1/comm", "systemd\n");
        fake.file("dev/null", "c 1:3");
        fake.link("proc/1/fd/0", "../../../dev/null");
        fake.link("proc/1/fd/1", "socket:[77]");
        fake.file("proc/1/fd/2", "text");
        fake.dir("proc/2/fd");
        fake.file(
            "proc/swaps",
            "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n",
        );
        fake.file(
            "proc/self/mountinfo",
            "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n23 22 0:5 / /proc rw - proc proc rw\n",
        );
        for (name, number) in [
            ("nvme0n1", "259:0"),
            ("nvme0n1p1", "259:1"),
            ("nvme0n1p2", "259:2"),
        ] {
            fake.file(
                &format!("sys/class/block/{name}/dev"),
                &format!("{number}\n"),
            );
            fake.file(&format!("sys/class/block/nvme0n1/{name}/partition"), "");
            fake.dir(&format!("sys/class/block/{name}/holders"));
        }
        fake.driver("nvme");
        fake
    }

    fn driver(&self, driver: &str) {
        let device = format!("{DEVICES}/{ADDRESS}");
        let _ = fs::remove_file(self.root().join(format!("{device}/driver")));
        let _ = fs::remove_dir_all(self.root().join(format!("{device}/nvme")));
        if !driver.is_empty() {
            self.link(
                &format!("{device}/driver"),
                &format!("../../drivers/{driver}"),
            );
        }
        if driver == "nvme" {
            for (name, text) in [
                ("model", "SSD 9\n"),
                ("serial", "S1 \n"),
                ("firmware_rev", "F2\n"),
            ] {
                self.file(&format!("{device}/nvme/nvme0/{name}"), text);
            }
            self.file(&format!("{device}/nvme/nvme0/nvme0c0n1/x"), "");
            self.file(&format!("{device}/nvme/nvme0/ng0n1/x"), "");
            self.file(&format!("{device}/nvme/nvme0/dev"), "239:0\n");
        }
    }

    fn machine(&self) -> Machine<'_> {
        Machine {
            root: self.root().to_owned(),
            bus: self,
        }
    }

    fn bind(&self) -> Result<String, String> {
        binding::bind(&self.machine(), ADDRESS.parse().unwrap(), false)
    }

    fn unbind(&self) -> Result<String, String> {
        binding::unbind(&self.machine(), ADDRESS.parse().unwrap())
    }

    /// (driver, override)
    fn state(&self) -> (String, String) {
        let device = format!("{DEVICES}/{ADDRESS}");
        let driver = fs::read_link(self.root().join(format!("{device}/driver")));
        let driver = driver.map(|to| to.file_name().unwrap().to_string_lossy().into_owned());
        let text = self.machine().text(&format!("{device}/driver_override"));
        (driver.unwrap_or_default(), text.unwrap())
    }
}

impl Bus for Fake {
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        let below = path.strip_prefix(self.root()).unwrap().to_str().unwrap();
        if below.ends_with(*self.refuses.borrow()) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let device = format!("{DEVICES}/{ADDRESS}");
        if below == format!("{device}/driver_override") {
            fs::write(path, text)?;
        } else if below == format!("{device}/driver/unbind") {
            assert_eq!(text, ADDRESS);
            if self.state() == pair("nvme", "vfio-pci") {
                let guarded = self.guarded.borrow();
                assert!(guarded.iter().eq(["259:0"]), "nobody else may begin");
            }
            self.driver("");
        } else if below == "sys/bus/pci/drivers_probe" {
            assert_eq!(text, ADDRESS);
            assert!(self.guarded.borrow().is_empty(), "it is let go");
            let (driver, wanted) = self.state();
            assert_eq!(driver, "", "it is free");
            match wanted.as_str() {
                "" => self.driver(*self.default.borrow()),
                "vfio-pci" if *self.refuses.borrow() == "vfio-pci" => {}
                wanted => self.driver(wanted),
            }
        } else {
            panic!("{below}");
        }
        Ok(())
    }

    fn hold(&self, path: &Path, device: &Device) -> io::Result<Guard> {
        assert_eq!(device.kind, Kind::Block);
        if self.is_held(path) {
            return Err(Errno::BUSY.into());
        }
        if self.device(path)?.as_ref() != Some(device) {
            return Err(io::Error::other("it is another device"));
        }
        if !self.late.borrow().is_empty() {
            let name = self.late.take();
            self.file(&format!("{DEVICES}/{ADDRESS}/nvme/nvme0/{name}/x"), "");
        }
        let guard = Holds(Rc::clone(&self.guarded), device.number.clone());
        self.guarded.borrow_mut().insert(device.number.clone());
        Ok(Box::new(guard))
    }

    /// A device file holds its kind and its number here.
    fn device(&self, path: &Path) -> io::Result<Option<Device>> {
        if path.ends_with(*self.refuses.borrow()) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let text = fs::read_to_string(path)?;
        let device = |(kind, number): (&str, &str)| {
            let kind = match kind {
                "b" => Kind::Block,
                "c" => Kind::Character,
                _ => return None,
            };
            let number = number.to_owned();
            Some(Device { kind, number })
        };
        Ok(text.split_once(' ').and_then(device))
    }

    fn is_held(&self, path: &Path) -> bool {
        let below = path.strip_prefix(self.root()).unwrap().to_str().unwrap();
        self.held.borrow().iter().any(|held| held == below)
    }
}

fn pair(driver: &str, wanted: &str) -> (String, String) {
    (driver.to_owned(), wanted.to_owned())
}

#[test]
fn a_controller_is_given_to_vfio_and_back() {
    let fake = Fake::new();
    let text = fake.bind().unwrap();
    assert!(
        text.contains("is with vfio-pci now, before with nvme"),
        "{text}"
    );
    assert!(text.contains("give it back with: iiblockdaemon nvme unbind 0000:5e:00.0"));
    assert_eq!(fake.state(), pair("vfio-pci", "vfio-pci"));
    assert!(fake.bind().unwrap().contains("already"));
    assert_eq!(fake.unbind().unwrap(), "0000:5e:00.0 is with nvme now\n");
    assert_eq!(fake.state(), pair("nvme", ""));
    assert!(fake.unbind().unwrap().contains("is with nvme already"));
}

#[test]
fn what_the_host_uses_is_not_taken() {
    let refused = |fake: &Fake, why: &str| {
        let error = fake.bind().unwrap_err();
        assert!(
            error.contains("is used by this host") && error.contains(why),
            "{error}\n{why}"
        );
        assert_eq!(fake.state(), pair("nvme", "(null)"));
    };
    let fake = Fake::new();
    fake.file(
        "proc/self/mountinfo",
        "22 1 259:1 / /srv rw,x - ext4 /dev/nvme0n1p1 rw\n",
    );
    refused(&fake, "/dev/nvme0n1p1 is mounted at /srv");
    // btrfs has numbers of its own.
    fake.file(
        "proc/self/mountinfo",
        "22 1 0:40 / /data rw - btrfs /dev/nvme0n1 rw\n",
    );
    refused(&fake, "/dev/nvme0n1 is mounted at /data");
    fake.file("proc/self/mountinfo", "");
    fake.file("sys/fs/btrfs/0a1b/devices/nvme0n1p2", "");
    refused(&fake, "/dev/nvme0n1p2 is a part of the mounted btrfs 0a1b");
    let fake = Fake::new();
    fake.file(
        "proc/swaps",
        "Filename Type\n/dev/nvme0n1p2 partition 1 0 -2\n",
    );
    refused(&fake, "/dev/nvme0n1p2 is swap space");
    let fake = Fake::new();
    fake.file("sys/class/block/nvme0n1p1/holders/dm-3", "");
    fake.file("sys/class/block/dm-3/dm/name", "vg0-root\n");
    refused(
        &fake,
        "/dev/nvme0n1p1 is a part of dm-3 (device mapper: vg0-root)",
    );
    fake.file("sys/class/block/nvme0n1/holders/md127", "");
    refused(&fake, "/dev/nvme0n1 is a part of md127");
    let fake = Fake::new();
    fake.held.borrow_mut().push("dev/nvme0n1".to_owned());
    refused(&fake, "/dev/nvme0n1 is held by a file system or a process");
}

/// Nothing is known to use the controller, and it is not taken, for that reason.
fn not_known(fake: &Fake, why: &str) {
    let error = fake.bind().unwrap_err();
    assert!(
        error.contains("whether this host uses it cannot be told"),
        "{error}"
    );
    assert!(
        error.contains(&format!("not known: {why}: ")),
        "{error}\n{why}"
    );
    assert!(
        error.contains("do this as root, outside containers"),
        "{error}"
    );
    assert_eq!(fake.state(), pair("nvme", "(null)"));
    assert!(fake.guarded.borrow().is_empty(), "it is nobody's again");
}

#[test]
fn what_cannot_be_looked_at_counts_as_used() {
    let block = "sys/class/block";
    for (absent, why) in [
        ("dev/nvme0n1", "who has nvme0n1: /dev/nvme0n1"),
        (
            "proc/self/mountinfo",
            "what is mounted: /proc/self/mountinfo",
        ),
        ("proc/swaps", "what is swap space: /proc/swaps"),
        (
            "sys/class/block/nvme0n1/dev",
            "its number: /sys/class/block/nvme0n1/dev",
        ),
        (
            "sys/class/block/nvme0n1p2/dev",
            "its number: /sys/class/block/nvme0n1p2/dev",
        ),
        (
            "sys/class/block/nvme0n1p2/holders",
            "what /dev/nvme0n1p2 is a part of: /sys/class/block/nvme0n1p2/holders",
        ),
        (
            "sys/class/block/nvme0n1",
            "its partitions: /sys/class/block/nvme0n1",
        ),
    ] {
        let fake = Fake::new();
        fake.without(absent);
        not_known(&fake, why);
        // Told as far as it can be.
        let text = list::as_text(&list::controllers(&fake.machine()));
        let told = text.contains(&format!("  not known: {why}: "));
        assert_eq!(told, absent != "dev/nvme0n1", "{text}");
    }
    // A kernel without swap.
    let fake = Fake::new();
    fake.without("proc/swaps");
    fake.file("proc/filesystems", "nodev proc\n");
    fake.bind().unwrap();
    // Another device has that name here.
    let fake = Fake::new();
    fake.file("dev/nvme0n1", "b 8:0");
    not_known(&fake, "who has nvme0n1: /dev/nvme0n1");
    // Directories that are none cannot be read, whoever asks.
    let fake = Fake::new();
    fake.file("sys/fs/btrfs", "");
    not_known(&fake, "what btrfs has: /sys/fs/btrfs");
    let fake = Fake::new();
    fake.without(&format!("{block}/nvme0n1p1/holders"));
    fake.file(&format!("{block}/nvme0n1p1/holders"), "");
    not_known(
        &fake,
        "what /dev/nvme0n1p1 is a part of: /sys/class/block/nvme0n1p1/holders",
    );
    let (fake, names) = (Fake::new(), format!("{DEVICES}/{ADDRESS}/nvme"));
    fake.without(&names);
    fake.file(&names, "");
    not_known(&fake, &format!("its namespaces: /{names}"));
    fake.without(&names);
    not_known(&fake, &format!("its namespaces: /{names}"));
    let error = fake.bind().unwrap_err();
    assert!(
        error.contains("the kernel is still setting it up"),
        "{error}"
    );
}

#[test]
fn a_namespace_that_appears_meanwhile_is_not_taken() {
    let fake = Fake::new();
    *fake.late.borrow_mut() = "nvme0c0n2";
    let error = fake.bind().unwrap_err();
    assert!(
        error.contains("its namespaces: they change just now"),
        "{error}"
    );
    assert_eq!(fake.state(), pair("nvme", "(null)"));
}

#[test]
fn what_is_used_without_a_claim_is_not_taken() {
    let refused = |fake: &Fake, why: &str| {
        let error = fake.bind().unwrap_err();
        assert!(error.contains("is used by this host"), "{error}");
        assert!(error.contains(why), "{error}\n{why}");
        assert!(!error.contains("not known"), "{error}");
        assert_eq!(fake.state(), pair("nvme", "(null)"));
        assert!(fake.guarded.borrow().is_empty(), "it is nobody's again");
    };
    // By whatever name: a container has names of its own.
    let fake = Fake::new();
    fake.file("disk", "b 259:1");
    fake.link("proc/77/fd/9", "../../../disk");
    fake.file("proc/77/comm", "qemu\n");
    refused(&fake, "/dev/nvme0n1p1 is open in process 77 (qemu)");
    for (node, name) in [
        ("dev/nvme0", "/dev/nvme0 is"),
        ("dev/ng0n1", "/dev/ng0n1 is"),
    ] {
        fake.link("proc/77/fd/9", &format!("../../../{node}"));
        refused(&fake, &format!("{name} open in process 77 (qemu)"));
    }
    // Closed, and this process itself.
    fake.without("proc/77");
    fake.link(
        &format!("proc/{}/fd/3", std::process::id()),
        "../../../dev/nvme0n1",
    );
    fake.bind().unwrap();
    let fake = Fake::new();
    let backing = "sys/class/block/loop0/loop/backing_file";
    fake.dir("sys/class/block/loop1");
    fake.file(backing, "/dev/nvme0n1p2 (deleted)\n");
    refused(&fake, "/dev/nvme0n1p2 is a part of loop0");
    fake.file("disk", "b 259:1");
    fake.file(backing, "/disk\n");
    refused(&fake, "/dev/nvme0n1p1 is a part of loop0");
    let text = list::as_text(&list::controllers(&fake.machine()));
    assert!(text.contains("in use: /dev/nvme0n1p1 is a part of loop0"));
    fake.file("image", "no device");
    fake.file(backing, "/image\n");
    let served = "sys/kernel/config/nvmet/subsystems/nqn.x/namespaces/1";
    fake.link("dev/disk/by-id/x", "../../nvme0n1");
    fake.file(&format!("{served}/device_path"), "/dev/disk/by-id/x\n");
    fake.file(&format!("{served}/enable"), "1\n");
    refused(
        &fake,
        "/dev/nvme0n1 is served by the kernel's NVMe target as nqn.x",
    );
    fake.file(&format!("{served}/enable"), "0\n");
    fake.bind().unwrap();
}

#[test]
fn users_that_cannot_be_seen_count() {
    let fake = Fake::new();
    fake.file("proc/77/fd", "");
    fake.file("proc/78/fd", "");
    not_known(&fake, "what processes have open (2): /proc/77/fd");
    let fake = Fake::new();
    *fake.refuses.borrow_mut() = "1/fd/0";
    fake.link("proc/1/fd/0", "/dev/nvme0n1");
    not_known(&fake, "what processes have open (1): /proc/1/fd/0");
    // A file of a user's own file system.
    fake.link("proc/1/fd/0", "/home/user/far/text");
    fake.bind().unwrap();
    let fake = Fake::new();
    fake.link("proc/self/ns/pid", "pid:[4026532200]");
    not_known(&fake, "processes: /proc/self/ns/pid");
    fake.without("proc/self/ns/pid");
    fake.bind().unwrap();
    let fake = Fake::new();
    fake.file("sys/class/block/loop0/loop/backing_file", "/mnt/x\n");
    not_known(&fake, "what /dev/loop0 is made of: /mnt/x");
    // The target is there, and where it is told what to do is not.
    let fake = Fake::new();
    fake.dir("sys/module/nvmet");
    let subsystems = "sys/kernel/config/nvmet/subsystems";
    not_known(
        &fake,
        &format!("what the kernel's NVMe target serves: /{subsystems}"),
    );
    fake.dir(&format!("{subsystems}/nqn.x/namespaces/1"));
    not_known(
        &fake,
        &format!(
            "what the kernel's NVMe target serves: /{subsystems}/nqn.x/namespaces/1/device_path"
        ),
    );
    let fake = Fake::new();
    let number = format!("{DEVICES}/{ADDRESS}/nvme/nvme0/dev");
    fake.without(&number);
    not_known(&fake, &format!("its number: /{number}"));
    let fake = Fake::new();
    let number = "sys/class/nvme-generic/ng0n1/dev";
    fake.without("sys/class/nvme-generic");
    fake.dir(number);
    not_known(&fake, &format!("its number: /{number}"));
}

#[test]
fn the_kernel_says_what_a_file_is() {
    let null = Kernel.device(Path::new("/dev/null")).unwrap().unwrap();
    assert_eq!((null.kind, null.number.as_str()), (Kind::Character, "1:3"));
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Kernel.device(dir.path()).unwrap(), None);
    drop(Kernel.hold(Path::new("/dev/null"), &null).unwrap());
    let other = Device {
        kind: Kind::Block,
        ..null
    };
    let error = Kernel.hold(Path::new("/dev/null"), &other).unwrap_err();
    assert!(error.to_string().contains("not the device 1:3"), "{error}");
    let absent = Kernel.hold(Path::new("/nowhere"), &other).unwrap_err();
    assert_eq!(absent.kind(), io::ErrorKind::NotFound);
    // This process has its own files open, and is not told of them.
    let machine = Machine {
        root: PathBuf::from("/"),
        bus: &Kernel,
    };
    let names = machine.names("proc/self/fd").unwrap();
    assert!(names.len() >= 3, "{names:?}");
}

#[test]
fn a_controller_with_a_driver_of_user_space_is_not_taken() {
    for other in ["uio_pci_generic", "igb_uio", "pci-stub", "xen-pciback"] {
        let fake = Fake::new();
        let wanted = format!("{DEVICES}/{ADDRESS}/driver_override");
        fake.driver(other);
        fake.file(&wanted, other);
        let error = fake.bind().unwrap_err();
        assert!(
            error.contains(&format!("is with {other}: who drives it")),
            "{error}"
        );
        assert!(error.contains(&format!("drivers/{other}/unbind")));
        assert_eq!(fake.state(), pair(other, other));
        // Nor is it told to be another's.
        let text = fake.unbind().unwrap();
        assert!(text.contains(&format!("is with {other} already")));
        assert_eq!(fake.state(), pair(other, other));
        // An override of ours is.
        fake.file(&wanted, "vfio-pci\n");
        fake.unbind().unwrap();
        assert_eq!(fake.state(), pair(other, ""));
    }
    let fake = Fake::new();
    fake.driver("");
    let text = fake.bind().unwrap();
    assert!(text.contains("before with no driver"), "{text}");
}

#[test]
fn giving_back_needs_no_looks() {
    let fake = Fake::new();
    fake.bind().unwrap();
    for gone in ["proc", "dev", "sys/class/block", "sys/kernel/iommu_groups"] {
        fake.without(gone);
    }
    assert_eq!(fake.unbind().unwrap(), "0000:5e:00.0 is with nvme now\n");
}

#[test]
fn what_is_used_is_told_beside_what_is_not_known() {
    let fake = Fake::new();
    fake.without("dev/nvme0n1");
    fake.file(
        "proc/swaps",
        "Filename Type\n/dev/nvme0n1p2 partition 1 0 -2\n",
    );
    let error = fake.bind().unwrap_err();
    for part in [
        "0000:5e:00.0 is used by this host:\n  /dev/nvme0n1p2 is swap space\n",
        "\n  not known: who has nvme0n1: /dev/nvme0n1: ",
        "outside containers",
        "stop what uses it first",
    ] {
        assert!(error.contains(part), "{error}\n{part}");
    }
}

#[test]
fn listing_takes_no_disk_from_anybody() {
    let fake = Fake::new();
    // Whoever takes it finds that, as `mount` would.
    fake.held.borrow_mut().push("dev/nvme0n1".to_owned());
    let text = list::as_text(&list::controllers(&fake.machine()));
    assert!(
        text.contains("nvme0n1\n") && !text.contains("in use"),
        "{text}"
    );
    assert!(
        fake.bind()
            .unwrap_err()
            .contains("is held by a file system or a process")
    );
}

#[test]
fn a_controller_that_is_not_taken_stays_the_kernels() {
    let fake = Fake::new();
    *fake.refuses.borrow_mut() = "vfio-pci";
    let error = fake.bind().unwrap_err();
    assert!(
        error.contains("vfio-pci did not take 0000:5e:00.0; it is as it was"),
        "{error}"
    );
    assert_eq!(fake.state(), pair("nvme", ""));
    *fake.refuses.borrow_mut() = "driver_override";
    let error = fake.bind().unwrap_err();
    assert!(error.contains("this needs root"), "{error}");
    assert_eq!(fake.state(), pair("nvme", ""));
    *fake.refuses.borrow_mut() = "driver/unbind";
    let error = fake.bind().unwrap_err();
    assert!(error.contains("taking it from nvme: "), "{error}");
    assert!(
        error.ends_with("this needs root; it is as it was"),
        "{error}"
    );
    assert_eq!(fake.state().0, "nvme");
    let fake = Fake::new();
    fs::remove_dir_all(fake.root().join("sys/bus/pci/drivers/vfio-pci")).unwrap();
    assert!(fake.bind().unwrap_err().contains("modprobe vfio-pci"));
    let fake = Fake::new();
    fs::remove_file(fake.root().join(format!("{DEVICES}/{ADDRESS}/iommu_group"))).unwrap();
    assert!(fake.bind().unwrap_err().contains("the IOMMU is off"));
    fake.file(&format!("{DEVICES}/{ADDRESS}/class"), "0x020000\n");
    assert!(fake.bind().unwrap_err().contains("is no NVMe controller"));
    let absent = binding::bind(&fake.machine(), "0000:00:1f.7".parse().unwrap(), false);
    assert!(
        absent
            .unwrap_err()
            .contains("there is no PCI device 0000:00:1f.7")
    );
}

#[test]
fn a_controller_in_use_is_not_given_back() {
    let fake = Fake::new();
    fake.bind().unwrap();
    fake.held.borrow_mut().push("dev/vfio/42".to_owned());
    let error = fake.unbind().unwrap_err();
    assert!(error.contains("a process has /dev/vfio/42 open"), "{error}");
    assert_eq!(fake.state(), pair("vfio-pci", "vfio-pci"));
    fake.held.borrow_mut().clear();
    // The kernel's driver is not loaded.
    *fake.default.borrow_mut() = "";
    assert!(fake.unbind().unwrap_err().contains("modprobe nvme"));
    assert_eq!(fake.state(), pair("", ""));
    *fake.default.borrow_mut() = "nvme";
    assert_eq!(fake.unbind().unwrap(), "0000:5e:00.0 is with nvme now\n");
}

#[test]
fn a_controller_in_use_by_its_own_file_is_not_given_back() {
    let fake = Fake::new();
    fake.bind().unwrap();
    // A kernel without files of groups.
    fake.without("dev/vfio/42");
    let number = format!("{DEVICES}/{ADDRESS}/vfio-dev/vfio3/dev");
    fake.file(&number, "511:3\n");
    fake.file("dev/vfio/devices/vfio3", "c 511:3");
    fake.file("proc/77/comm", "iiblockdaemon\n");
    fake.link("proc/77/fd/9", "../../../dev/vfio/devices/vfio3");
    let error = fake.unbind().unwrap_err();
    assert!(
        error.contains("/dev/vfio/devices/vfio3 is open in process 77 (iiblockdaemon)"),
        "{error}"
    );
    assert!(error.contains("stop the daemon first"), "{error}");
    assert_eq!(fake.state(), pair("vfio-pci", "vfio-pci"));
    fake.without("proc/77/fd/9");
    // What cannot be seen keeps nobody from giving it back.
    fake.file("proc/78/fd", "");
    assert_eq!(fake.unbind().unwrap(), "0000:5e:00.0 is with nvme now\n");
}

#[test]
fn a_controller_that_nothing_guards_is_taken_when_that_is_said() {
    let fake = Fake::new();
    let group = format!("{DEVICES}/{ADDRESS}/iommu_group");
    fake.without(&group);
    let bind = || binding::bind(&fake.machine(), ADDRESS.parse().unwrap(), true);
    let error = fake.bind().unwrap_err();
    assert!(
        error.contains("the IOMMU is off") && error.contains("--unsafe-noiommu"),
        "{error}"
    );
    let mode = "sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
    for off in ["", "N\n"] {
        if !off.is_empty() {
            fake.file(mode, off);
        }
        let error = bind().unwrap_err();
        assert!(error.contains(&format!("echo 1 > /{mode}")), "{error}");
        assert_eq!(fake.state(), pair("nvme", "(null)"));
    }
    fake.file(mode, "Y\n");
    fake.held.borrow_mut().push("dev/nvme0n1".to_owned());
    let error = bind().unwrap_err();
    assert!(error.contains("is used by this host"), "{error}");
    fake.held.borrow_mut().clear();
    let text = bind().unwrap();
    assert!(text.contains("is with vfio-pci now"), "{text}");
    // vfio makes it.
    fake.file("sys/kernel/iommu_groups/0/name", "vfio-noiommu\n");
    fake.link(&group, "../../../../kernel/iommu_groups/0");
    fake.held.borrow_mut().push("dev/vfio/noiommu-0".to_owned());
    let error = fake.unbind().unwrap_err();
    assert!(error.contains("/dev/vfio/noiommu-0 open"), "{error}");
    fake.held.borrow_mut().clear();
    assert_eq!(fake.unbind().unwrap(), "0000:5e:00.0 is with nvme now\n");
}

#[test]
fn neighbours_in_the_group_are_named() {
    let fake = Fake::new();
    let other = "0000:5e:00.1";
    let device = format!("{DEVICES}/{other}");
    for (name, text) in [
        ("vendor", "0x1\n"),
        ("device", "0x2\n"),
        ("class", "0x020000\n"),
    ] {
        fake.file(&format!("{device}/{name}"), text);
    }
    fake.link(&format!("{device}/driver"), "../../drivers/ice");
    fake.file(&format!("sys/kernel/iommu_groups/42/devices/{other}"), "");
    let text = fake.bind().unwrap();
    assert!(
        text.contains("shares its IOMMU group with 0000:5e:00.1, which is with ice"),
        "{text}"
    );
}

#[test]
fn controllers_are_listed_with_who_has_them() {
    let fake = Fake::new();
    let device = format!("{DEVICES}/{ADDRESS}");
    for (name, text) in [
        ("current_link_speed", "8.0 GT/s PCIe\n"),
        ("current_link_width", "4\n"),
        ("max_link_speed", "16.0 GT/s PCIe\n"),
        ("max_link_width", "4\n"),
    ] {
        fake.file(&format!("{device}/{name}"), text);
    }
    fake.file(
        "proc/self/mountinfo",
        "22 1 259:1 / /srv rw - ext4 /dev/nvme0n1p1 rw\n",
    );
    let found = list::controllers(&fake.machine());
    assert_eq!(
        list::as_text(&found),
        "0000:5e:00.0  nvme       SSD 9, serial S1, firmware F2: nvme0n1\n  \
         IOMMU group 42, NUMA node 1, link 8.0 GT/s PCIe x4 (it could do more)\n  \
         in use: /dev/nvme0n1p1 is mounted at /srv\n"
    );
    fake.file("proc/self/mountinfo", "");
    fake.bind().unwrap();
    let found = list::controllers(&fake.machine());
    let text = list::as_text(&found);
    assert!(
        text.starts_with("0000:5e:00.0  vfio-pci   144d:a826\n  IOMMU group 42"),
        "{text}"
    );
    let json: serde_json::Value = serde_json::from_str(&list::as_json(&found)).unwrap();
    assert_eq!(json[0]["driver"], "vfio-pci");
    assert_eq!(json[0]["link_lanes"], 4);
    assert_eq!(json[0]["model"], serde_json::Value::Null);
    assert_eq!(
        list::as_text(&[]),
        "no NVMe controllers on this machine's PCI bus\n"
    );
}
