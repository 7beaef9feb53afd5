//! What the kernel says of a PCI function in /sys, below a root that is given.

use std::fs;
use std::path::{Path, PathBuf};

use super::PciAddress;

const DEVICES: &str = "sys/bus/pci/devices";
/// PCI Code and ID Assignment: mass storage, non-volatile memory, NVM Express.
const NVME_CLASS: u32 = 0x01_08_02;

/// A PCI function as /sys shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Function {
    pub(crate) address: PciAddress,
    pub(crate) vendor: u16,
    pub(crate) device: u16,
    /// Base class, subclass and programming interface.
    pub(crate) class: u32,
    /// Bound to it.
    pub(crate) driver: Option<String>,
    /// The IOMMU group; without one the IOMMU is off.
    pub(crate) group: Option<u32>,
    /// The group is there for vfio's mode without an IOMMU.
    pub(crate) unguarded: bool,
    pub(crate) numa_node: Option<u32>,
    pub(crate) link: Option<Link>,
    /// The name of its file in /dev/vfio/devices, where the kernel has such.
    pub(crate) character: Option<String>,
}

/// A PCI Express link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Link {
    /// As the kernel says it: `16.0 GT/s PCIe`.
    pub(crate) speed: String,
    pub(crate) lanes: u32,
    /// What both ends could do.
    pub(crate) speed_max: String,
    pub(crate) lanes_max: u32,
}

impl Link {
    /// It is slower or narrower than it could be: a slot of the wrong kind, or a bad contact.
    pub(crate) fn is_degraded(&self) -> bool {
        self.speed != self.speed_max || self.lanes != self.lanes_max
    }
}

impl Function {
    /// The function at an address below `root`; `None` where there is none.
    pub(crate) fn read(root: &Path, address: PciAddress) -> Option<Self> {
        let dir = directory(root, address);
        let hex = |name: &str| {
            let text = text(&dir.join(name))?;
            u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
        };
        let short = |name: &str| u16::try_from(hex(name)?).ok();
        let group = dir.join("iommu_group");
        Some(Self {
            address,
            vendor: short("vendor")?,
            device: short("device")?,
            class: hex("class")?,
            driver: link_name(&dir.join("driver")),
            group: link_name(&group).and_then(|name| name.parse().ok()),
            unguarded: text(&group.join("name")).is_some_and(|name| name == "vfio-noiommu"),
            // -1 where it is of none.
            numa_node: text(&dir.join("numa_node")).and_then(|node| node.parse().ok()),
            link: read_link(&dir),
            character: device_file(&dir.join("vfio-dev")),
        })
    }

    /// All NVMe controllers below `root`, in the order of their addresses.
    pub(crate) fn nvme_controllers(root: &Path) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(root.join(DEVICES)) else {
            return Vec::new();
        };
        let addresses = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let functions = addresses.filter_map(|address| Self::read(root, address));
        let mut found: Vec<Self> = functions.filter(Self::is_nvme).collect();
        found.sort_unstable_by_key(|function| function.address);
        found
    }

    pub(crate) fn is_nvme(&self) -> bool {
        self.class == NVME_CLASS
    }
}

/// Where /sys has a function.
pub(crate) fn directory(root: &Path, address: PciAddress) -> PathBuf {
    root.join(DEVICES).join(address.to_string())
}

fn read_link(dir: &Path) -> Option<Link> {
    let number = |name: &str| text(&dir.join(name))?.parse().ok();
    Some(Link {
        speed: text(&dir.join("current_link_speed"))?,
        lanes: number("current_link_width")?,
        speed_max: text(&dir.join("max_link_speed"))?,
        lanes_max: number("max_link_width")?,
    })
}

/// A file's text without the blanks around it.
pub(crate) fn text(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// The last part of where a symbolic link leads.
pub(crate) fn link_name(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// The name of the device that has a number; kernels without such files list it without one.
fn device_file(dir: &Path) -> Option<String> {
    let mut entries = fs::read_dir(dir).ok()?.flatten();
    let numbered = entries.find(|entry| entry.path().join("dev").exists())?;
    numbered.file_name().into_string().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A directory that looks like the root of a machine.
    pub(in super::super) struct Fake(pub(in super::super) tempfile::TempDir);

    impl Fake {
        pub(in super::super) fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        pub(in super::super) fn root(&self) -> &Path {
            self.0.path()
        }

        pub(in super::super) fn file(&self, path: &str, text: &str) {
            let path = self.root().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        pub(in super::super) fn link(&self, path: &str, to: &str) {
            let path = self.root().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let _ = fs::remove_file(&path);
            symlink(to, path).unwrap();
        }

        pub(in super::super) fn function(&self, address: &str, class: &str, driver: &str) {
            let dir = format!("{DEVICES}/{address}");
            self.file(&format!("{dir}/vendor"), "0x144d\n");
            self.file(&format!("{dir}/device"), "0xa826\n");
            self.file(&format!("{dir}/class"), &format!("{class}\n"));
            self.file(&format!("{dir}/numa_node"), "-1\n");
            if !driver.is_empty() {
                let to = format!("../../../bus/pci/drivers/{driver}");
                self.link(&format!("{dir}/driver"), &to);
            }
        }
    }

    #[test]
    fn a_function_is_as_sys_shows_it() {
        let fake = Fake::new();
        let address: PciAddress = "0000:5e:00.0".parse().unwrap();
        assert_eq!(Function::read(fake.root(), address), None);
        fake.function("0000:5e:00.0", "0x010802", "nvme");
        let read = || Function::read(fake.root(), address).unwrap();
        let bare = read();
        assert_eq!(bare.driver.as_deref(), Some("nvme"));
        assert_eq!((bare.vendor, bare.device), (0x144d, 0xa826));
        let absent = (bare.group, bare.numa_node, bare.link, bare.character);
        assert_eq!(absent, (None, None, None, None));
        let dir = format!("{DEVICES}/{address}");
        fake.file(&format!("{dir}/numa_node"), "1\n");
        fake.link(
            &format!("{dir}/iommu_group"),
            "../../../../kernel/iommu_groups/42",
        );
        fake.file(&format!("{dir}/vfio-dev/vfio3/uevent"), "");
        assert_eq!(read().character, None, "a kernel without device files");
        fake.file(&format!("{dir}/vfio-dev/vfio3/dev"), "511:3\n");
        for (name, value) in [
            ("current_link_speed", "8.0 GT/s PCIe\n"),
            ("current_link_width", "4\n"),
            ("max_link_speed", "16.0 GT/s PCIe\n"),
            ("max_link_width", "4\n"),
        ] {
            fake.file(&format!("{dir}/{name}"), value);
        }
        let full = read();
        assert_eq!((full.group, full.numa_node), (Some(42), Some(1)));
        assert_eq!(full.character.as_deref(), Some("vfio3"));
        assert!(full.link.unwrap().is_degraded());
        fake.file(&format!("{dir}/current_link_speed"), "16.0 GT/s PCIe\n");
        assert!(!read().link.unwrap().is_degraded());
        assert!(!read().unguarded);
    }

    #[test]
    fn controllers_are_found_by_their_class() {
        let fake = Fake::new();
        assert_eq!(Function::nvme_controllers(fake.root()), []);
        fake.function("0000:5f:00.0", "0x010802", "vfio-pci");
        fake.function("0000:3b:00.0", "0x020000", "ice");
        fake.function("0000:5e:00.0", "0x010802", "");
        fake.file(&format!("{DEVICES}/nonsense/class"), "0x010802\n");
        fake.file(&format!("{DEVICES}/0000:60:00.0/class"), "no number\n");
        let found = Function::nvme_controllers(fake.root());
        let shown: Vec<_> = found
            .iter()
            .map(|f| (f.address.to_string(), f.driver.as_deref()))
            .collect();
        assert_eq!(
            shown,
            [
                ("0000:5e:00.0".to_owned(), None),
                ("0000:5f:00.0".to_owned(), Some("vfio-pci"))
            ]
        );
    }
}
