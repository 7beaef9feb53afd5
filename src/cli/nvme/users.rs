//! Who uses the devices of a controller without having claimed them: processes that have them open,
//! loop devices, and the kernel's own NVMe target.
//!
//! Memory of a device that a process has mapped, or files that it has given to the kernel, are not
//! seen where it has closed its own.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::usage::{BLOCKS, Found, if_any};
use super::{Device, Machine};

/// The kernel's number for the namespace of processes that it starts with: the others are in it.
const ALL_PROCESSES: &str = "pid:[4026531836]";
/// Where the kernel's target tells what it serves.
const TARGET: &str = "sys/kernel/config/nvmet/subsystems";

/// A device with the name of its file, as in `/dev/nvme0n1`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) device: Device,
}

/// What of the kernel uses some of `nodes`, by the names of files.
pub(super) fn kernel(machine: &Machine<'_>, nodes: &[Node], found: &mut Found) {
    for name in known(found, "loop devices", BLOCKS, machine.names(BLOCKS)) {
        if !name.starts_with("loop") {
            continue;
        }
        // Without a file there is no such directory.
        let below = format!("{BLOCKS}/{name}/loop/backing_file");
        let what = format!("what /dev/{name} is made of");
        let text = known(found, &what, &below, if_any(machine.read(&below)));
        if text.is_empty() {
            continue;
        }
        let file = text.strip_suffix(" (deleted)").unwrap_or(&text);
        if let Some(node) = named(machine, nodes, (&what, file), found) {
            found.uses.push(format!("{node} is a part of {name}"));
        }
    }
    target(machine, nodes, found);
}

/// The kernel's NVMe target.
fn target(machine: &Machine<'_>, nodes: &[Node], found: &mut Found) {
    let what = "what the kernel's NVMe target serves";
    let mut subsystems = machine.names(TARGET);
    if !machine.path("sys/module/nvmet").exists() {
        subsystems = if_any(subsystems);
    }
    for subsystem in known(found, what, TARGET, subsystems) {
        let below = format!("{TARGET}/{subsystem}/namespaces");
        for namespace in known(found, what, &below, machine.names(&below)) {
            let below = format!("{below}/{namespace}");
            // It has nothing open before it is enabled.
            if machine.text(&format!("{below}/enable")).as_deref() == Some("0") {
                continue;
            }
            let below = format!("{below}/device_path");
            let file = known(found, what, &below, machine.read(&below));
            if file.is_empty() {
                continue;
            }
            if let Some(node) = named(machine, nodes, (what, &file), found) {
                let line = format!("{node} is served by the kernel's NVMe target as {subsystem}");
                found.uses.push(line);
            }
        }
    }
}

/// Which of `nodes` the kernel names by `file`.
fn named<'n>(
    machine: &Machine<'_>,
    nodes: &'n [Node],
    (what, file): (&str, &str),
    found: &mut Found,
) -> Option<&'n str> {
    let by_name = nodes.iter().find(|node| node.name == file);
    let by_number = || {
        let below = file.trim_start_matches('/');
        let device = machine.bus.device(&machine.path(below));
        let device = known(found, what, below, device)?;
        nodes.iter().find(|node| node.device == device)
    };
    by_name.or_else(by_number).map(|node| node.name.as_str())
}

/// Which processes have some of `nodes` open, but for this one.
pub(super) fn processes(machine: &Machine<'_>, nodes: &[Node], found: &mut Found) {
    let view = "proc/self/ns/pid";
    match fs::read_link(machine.path(view)) {
        Ok(link) if link == Path::new(ALL_PROCESSES) => {}
        // A kernel without namespaces of processes.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Ok(_) => {
            let error = io::Error::other("those outside of this container are not seen");
            found.not_known("processes", view, &error);
        }
        Err(error) => found.not_known("processes", view, &error),
    }
    let own = std::process::id().to_string();
    let all = known(found, "processes", "proc", machine.names("proc"));
    let number = |name: &&String| name.bytes().all(|b| b.is_ascii_digit()) && **name != own;
    let mut unseen = None;
    for process in all.iter().filter(number) {
        match open_in(machine, process, nodes) {
            Ok(open) if open.is_empty() => {}
            Ok(open) => {
                let name = machine.text(&format!("proc/{process}/comm"));
                let name = name.unwrap_or_default();
                let line = |node| format!("{node} is open in process {process} ({name})");
                found.uses.extend(open.into_iter().map(line));
            }
            Err((below, error)) => {
                let (count, ..) = unseen.get_or_insert((0_usize, below, error));
                *count += 1;
            }
        }
    }
    if let Some((count, below, error)) = unseen {
        found.not_known(
            &format!("what processes have open ({count})"),
            &below,
            &error,
        );
    }
}

/// Which of `nodes` a process has open; none of one that has ended. An error goes with its path.
fn open_in<'n>(
    machine: &Machine<'_>,
    process: &str,
    nodes: &'n [Node],
) -> Result<BTreeSet<&'n str>, (String, io::Error)> {
    let below = format!("proc/{process}/fd");
    let mut open = BTreeSet::new();
    let files = match machine.names(&below) {
        Ok(files) => files,
        Err(error) if has_ended(&error) => return Ok(open),
        Err(error) => return Err((below, error)),
    };
    for file in files {
        let below = format!("{below}/{file}");
        match machine.bus.device(&machine.path(&below)) {
            Ok(Some(device)) => {
                let same = nodes.iter().filter(|node| node.device == device);
                open.extend(same.map(|node| node.name.as_str()));
            }
            Ok(None) => {}
            Err(error) if has_ended(&error) => {}
            Err(error) if is_elsewhere(machine, &below, &error) => {}
            Err(error) => return Err((below, error)),
        }
    }
    Ok(open)
}

/// Not even root may look at files of a user's own file system (FUSE), where there are no devices.
/// They have names of their own; one that may be a device's is not taken for such a file.
fn is_elsewhere(machine: &Machine<'_>, below: &str, error: &io::Error) -> bool {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    denied && fs::read_link(machine.path(below)).is_ok_and(|name| !name.starts_with("/dev"))
}

/// The process has ended, or closed the file.
fn has_ended(error: &io::Error) -> bool {
    let gone = error.kind() == io::ErrorKind::NotFound;
    gone || Errno::from_io_error(error) == Some(Errno::SRCH)
}

/// What was found, or nothing with a line that says so.
fn known<T: Default>(found: &mut Found, what: &str, below: &str, result: io::Result<T>) -> T {
    result.unwrap_or_else(|error| {
        found.not_known(what, below, &error);
        T::default()
    })
}
