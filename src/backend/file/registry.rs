//! Which objects this process has open, and what the system says of block devices.
//!
//! Locks already refuse a second owner; the registry is there to name the first one, also when the
//! two paths differ (symlinks, hard links, two nodes of one device). Control side only.

use std::fs;
use std::path::{Path, PathBuf};
#[expect(
    clippy::disallowed_types,
    reason = "opening and closing on the control side only"
)]
use std::sync::Mutex;
use std::sync::PoisonError;

use rustix::fs::{Stat, major, minor};

use crate::backend::spec::OpenError;

/// What makes two paths one object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ObjectId {
    File { device: u64, inode: u64 },
    Device { number: u64 },
}

impl ObjectId {
    pub(super) fn file(stat: &Stat) -> Self {
        Self::File {
            device: stat.st_dev,
            inode: stat.st_ino,
        }
    }

    pub(super) fn device(stat: &Stat) -> Self {
        Self::Device {
            number: stat.st_rdev,
        }
    }
}

#[expect(
    clippy::disallowed_types,
    reason = "opening and closing on the control side only"
)]
static OPEN: Mutex<Vec<(ObjectId, PathBuf)>> = Mutex::new(Vec::new());

/// An entry of the registry, which goes when it is dropped.
#[derive(Debug)]
pub(super) struct Registration(ObjectId);

impl Drop for Registration {
    fn drop(&mut self) {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(id, _)| *id != self.0);
    }
}

pub(super) fn register(id: ObjectId, path: &Path) -> Result<Registration, OpenError> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, other)) = open.iter().find(|(known, _)| *known == id) {
        return Err(OpenError::SameObject {
            path: path.into(),
            other: other.clone(),
        });
    }
    open.push((id, path.into()));
    Ok(Registration(id))
}

/// Why a device that is claimed cannot be had.
pub(super) fn busy(path: &Path, number: u64) -> OpenError {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    match mount_point(&mounts, &device_name(number)) {
        Some(mount_point) => OpenError::Mounted {
            path: path.into(),
            mount_point,
        },
        None => OpenError::Busy { path: path.into() },
    }
}

/// Where the device with this `major:minor` is mounted (proc(5): third field the device, fifth the
/// mount point).
fn mount_point(mountinfo: &str, device: &str) -> Option<String> {
    let line = mountinfo
        .lines()
        .find(|line| line.split(' ').nth(2) == Some(device))?;
    line.split(' ').nth(4).map(str::to_owned)
}

pub(super) fn is_rotating(number: u64) -> bool {
    queue_value(number, "rotational") == Some(1)
}

/// Bytes that the disk reads or writes at least.
pub(super) fn logical_block_size(number: u64) -> Option<u64> {
    queue_value(number, "logical_block_size")
}

/// Smallest useful discard in bytes, if the device can discard at all.
pub(super) fn discard_granularity(number: u64) -> Option<u64> {
    queue_value(number, "discard_max_bytes").filter(|&most| most > 0)?;
    queue_value(number, "discard_granularity").filter(|&bytes| bytes > 0)
}

/// A number out of sysfs' queue folder of a device, or of the disk that a partition is on.
fn queue_value(number: u64, name: &str) -> Option<u64> {
    let device = format!("/sys/dev/block/{}", device_name(number));
    [
        format!("{device}/queue/{name}"),
        format!("{device}/../queue/{name}"),
    ]
    .iter()
    .find_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok())
}

fn device_name(number: u64) -> String {
    format!("{}:{}", major(number), minor(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_found_by_device_number() {
        let info = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                    30 22 8:1 / /srv/disk rw - xfs /dev/sda1 rw\n";
        assert_eq!(mount_point(info, "8:1").as_deref(), Some("/srv/disk"));
        assert_eq!(mount_point(info, "8:2"), None);
    }
}
