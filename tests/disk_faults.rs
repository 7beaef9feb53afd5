//! Disks that fail: the initiator gets the exact sense data, everything else goes on.
//!
//! The daemon is the program itself where the fault is one of the file system, and runs inside the
//! test where an error of the disk is put in its way (`Faults`). Tests that mount a file system do
//! so in a mount namespace of their own, want root and are ignored by default: the judge
//! `disk-faults` (`tests/judges`) runs them.

#![expect(
    clippy::tests_outside_test_module,
    reason = "this whole file is a test"
)]

#[path = "common/served.rs"]
mod served;

use iiblockdaemon::backend::{Faults, IoError};
use iiblockdaemon::testing::tcp::{TcpInitiator, read_16, write_16};
use iiblockdaemon::testing::{Config, DataOut, Direction, Scsi};
use served::{
    BLOCK, INITIATOR, Served, configuration_file, faulty, folder, toml_head, toml_target, toml_unit,
};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const TARGET: &str = "iqn.2026-11.io.iiblockdaemon:disks";
const TIMEOUT: Duration = Duration::from_secs(30);
/// Blocks of one write in these tests, 64 KiB.
const PIECE_BLOCKS: u32 = 128;
const PIECE: usize = (PIECE_BLOCKS * BLOCK) as usize;
/// Size of every disk here; the file system that is to fill up is smaller.
const DISK_PIECES: u64 = 1024;

/// Sense key, ASC, ASCQ (SPC-4, annex of assignments).
type Sense = (u8, u8, u8);
const LOGICAL_UNIT_NOT_READY_INTERVENTION: Sense = (0x02, 0x04, 0x03);
const UNRECOVERED_READ_ERROR: Sense = (0x03, 0x11, 0x00);
const WRITE_ERROR: Sense = (0x03, 0x0c, 0x00);
const LBA_OUT_OF_RANGE: Sense = (0x05, 0x21, 0x00);
/// Commands that a test waits at most for what the daemon does once a second.
const LOOKS_MAX: usize = 1_000_000;
const SPACE_ALLOCATION_FAILED: Sense = (0x07, 0x27, 0x07);

/// One logical unit in a configuration: its name is its LUN.
fn configuration(backends: &[String]) -> String {
    let units: Vec<String> = (0..backends.len()).map(|n| format!("disk{n}")).collect();
    let names: Vec<&str> = units.iter().map(String::as_str).collect();
    let mut toml = toml_head(1, 32) + &toml_target(TARGET, "", &names);
    for (name, backend) in names.iter().zip(backends) {
        toml += &toml_unit(name, backend);
    }
    toml
}

fn file_backend(path: &str) -> String {
    format!("{{ type = \"file\", path = \"{path}\", size = \"64MiB\" }}")
}

fn memory_backend() -> String {
    "{ type = \"memory\", size = \"1MiB\" }".to_owned()
}

/// The program in a process of its own, with its log in a file.
struct Program {
    child: Child,
    log: PathBuf,
    address: SocketAddr,
}

impl Program {
    /// Starts it on `toml` (in which DIR stands for `dir`); `before` is a shell command that runs
    /// in its mount namespace first.
    fn start(dir: &Path, toml: &str, before: Option<&str>) -> Self {
        let config = configuration_file(dir, toml);
        let log = dir.join("log");
        let mut command = match before {
            Some(before) => {
                let mut command = Command::new("unshare");
                let script = format!("{before} && exec \"$@\"");
                command.args(["--mount", "--propagation", "private", "sh", "-c"]);
                command.arg(script).arg("sh");
                command.arg(env!("CARGO_BIN_EXE_iiblockdaemon"));
                command
            }
            None => Command::new(env!("CARGO_BIN_EXE_iiblockdaemon")),
        };
        let mut child = command
            .args(["run", "--config"])
            .arg(&config)
            .current_dir(dir)
            .env_remove("RUST_LOG")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).expect("a file can be made"))
            .spawn()
            .expect("the program starts");
        let stdout = child.stdout.take().expect("a pipe");
        let address = BufReader::new(stdout)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("listening on ")?.parse().ok());
        let Some(address) = address else {
            let _ = child.kill();
            let said = fs::read_to_string(&log).unwrap_or_default();
            panic!("it does not say where it listens:\n{said}");
        };
        Self {
            child,
            log,
            address,
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log is there")
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    /// A path as the program sees it, inside its mount namespace.
    fn inside(&self, path: &Path) -> PathBuf {
        let absolute = path
            .strip_prefix("/")
            .expect("temporary paths are absolute");
        Path::new("/proc")
            .join(self.child.id().to_string())
            .join("root")
            .join(absolute)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(address: SocketAddr) -> TcpInitiator {
    TcpInitiator::connect(address, Config::new(INITIATOR, TARGET), TIMEOUT).expect("a login")
}

/// The sense of a command that ends with CHECK CONDITION.
fn sense(it: &mut TcpInitiator, command: Scsi) -> Sense {
    let outcome = it.execute(command).expect("an answer");
    assert_eq!(outcome.status, 0x02, "CHECK CONDITION");
    outcome.sense_code().expect("sense data")
}

fn read(lun: u8, lba: u64, blocks: u32) -> Scsi {
    Scsi::new(lun, &read_16(lba, blocks), Direction::In(blocks * BLOCK))
}

fn write(lun: u8, lba: u64, data: Vec<u8>, fua: bool) -> Scsi {
    let blocks = u32::try_from(data.len()).expect("small") / BLOCK;
    Scsi::new(
        lun,
        &write_16(lba, blocks, fua),
        Direction::Out(DataOut::new(data)),
    )
}

fn test_unit_ready(lun: u8) -> Scsi {
    Scsi::new(lun, &[0; 6], Direction::None)
}

fn piece(number: u64) -> Vec<u8> {
    vec![u8::try_from(number % 251 + 1).expect("below 252"); PIECE]
}

fn first_lba(piece: u64) -> u64 {
    piece * u64::from(PIECE_BLOCKS)
}

/// Fills the file system under LUN 0 by writing, frees `ballast`, writes on. LUN 1 is elsewhere.
fn fill_and_free(program: &mut Program, ballast: &Path, fua: bool) {
    let mut it = connect(program.address);
    it.clear_unit_attentions(0).expect("disk0 is ready");
    it.clear_unit_attentions(1).expect("disk1 is ready");
    let mut written = 0;
    let refused = loop {
        assert!(written < DISK_PIECES, "the file system never fills up");
        let outcome = it
            .execute(write(0, first_lba(written), piece(written), fua))
            .expect("an answer, however full the disk is");
        if !outcome.is_good() {
            break outcome;
        }
        written += 1;
    };
    assert!(written > 0, "the first write had room");
    assert_eq!(refused.status, 0x02);
    assert_eq!(refused.sense_code(), Some(SPACE_ALLOCATION_FAILED));
    // It is full for every write to a new place, again and again; no session is lost by it.
    for distance in 1..4 {
        let place = first_lba(written + distance * 16);
        let again = sense(&mut it, write(0, place, piece(0), fua));
        assert_eq!(again, SPACE_ALLOCATION_FAILED);
    }
    // What was acknowledged is there, and may be written over in its place.
    for number in 0..written {
        let back = it.read_blocks(0, first_lba(number), PIECE_BLOCKS, BLOCK);
        assert!(
            back.expect("reads go on") == piece(number),
            "piece {number}"
        );
    }
    it.execute_good(write(0, 0, piece(77), fua))
        .expect("blocks that have their place take writes");
    // The other unit does not notice.
    it.write_blocks(1, 0, &piece(5), BLOCK)
        .expect("disk1 writes");
    let back = it.read_blocks(1, 0, PIECE_BLOCKS, BLOCK);
    assert!(back.expect("disk1 reads") == piece(5));
    // Room again: the same write works, nothing has to be cleared.
    fs::remove_file(program.inside(ballast)).expect("the ballast is there");
    it.execute_good(write(0, first_lba(written), piece(written), fua))
        .expect("there is room again");
    let flush = [0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    it.execute_good(Scsi::new(0, &flush, Direction::None))
        .expect("SYNCHRONIZE CACHE");
    let back = it.read_blocks(0, first_lba(written), PIECE_BLOCKS, BLOCK);
    assert!(back.expect("it reads back") == piece(written));
    it.logout().expect("a logout in order");
    assert!(program.is_running());
}

/// `mount` (a shell command) puts a small file system onto the folder `fs`; a file of half a MiB in
/// it is the ballast.
fn full_disk(mount: &str, fua: bool) {
    let dir = folder();
    let fs = dir.path().join("fs");
    fs::create_dir(&fs).expect("a folder");
    let toml = configuration(&[file_backend("DIR/fs/disk.img"), memory_backend()]);
    let before = format!("{mount} && head -c 524288 /dev/zero > fs/ballast && sync -f fs/ballast");
    let mut program = Program::start(dir.path(), &toml, Some(&before));
    fill_and_free(&mut program, &fs.join("ballast"), fua);
}

/// A real file system runs short under a unit that is told to warn at half of it: one unit
/// attention, by a look that nobody ordered, well before the file system is full.
#[test]
#[ignore = "mounts: needs root; the judge disk-faults runs it"]
fn a_tmpfs_that_runs_short_warns_the_initiator_once() {
    let dir = folder();
    fs::create_dir(dir.path().join("fs")).expect("a folder");
    let toml = configuration(&[file_backend("DIR/fs/disk.img"), memory_backend()]);
    let second = "[[logical_unit]]\nname = \"disk1\"";
    assert!(toml.contains(second));
    let thin = format!("[logical_unit.thin]\nsoft_threshold = \"50%\"\n{second}");
    let toml = toml.replacen(second, &thin, 1);
    let mount = "mount -t tmpfs -o size=16m none fs";
    let mut program = Program::start(dir.path(), &toml, Some(mount));
    let mut it = connect(program.address);
    it.clear_unit_attentions(0).expect("disk0 is ready");
    let half = (8 << 20) / PIECE as u64 + 1;
    for number in 0..half - 1 {
        it.write_blocks(0, first_lba(number), &piece(number), BLOCK)
            .expect("half of it has space");
    }
    // The look may come before the last.
    let last = write(0, first_lba(half - 1), piece(half - 1), false);
    let commands = std::iter::once(last).chain((0..LOOKS_MAX).map(|_| test_unit_ready(0)));
    let mut answers = commands.map(|command| it.execute(command).expect("an answer"));
    let warned = answers.find_map(|outcome| outcome.sense_code());
    assert_eq!(warned, Some((0x06, 0x38, 0x07)));
    for _ in 0..3 {
        it.execute_good(test_unit_ready(0)).expect("warned once");
    }
    it.write_blocks(0, first_lba(half), &piece(half), BLOCK)
        .expect("there still is space");
    it.logout().expect("a logout in order");
    assert!(program.is_running());
}

#[test]
#[ignore = "mounts: needs root; the judge disk-faults runs it"]
fn a_full_tmpfs_is_space_allocation_failed_until_there_is_room() {
    full_disk("mount -t tmpfs -o size=4m none fs", false);
}

#[test]
#[ignore = "mounts: needs root; the judge disk-faults runs it"]
fn a_full_ext4_is_space_allocation_failed_until_there_is_room() {
    let make = "truncate -s 16M image && mke2fs -q -F -t ext4 -m 0 image && mount -o loop image fs";
    full_disk(make, false);
    full_disk(make, true);
}

#[test]
fn a_file_that_shrinks_loses_what_was_cut_off_and_nothing_else() {
    for engine in ["auto", "sync"] {
        let dir = folder();
        let backend = file_backend("DIR/disk.img");
        let backend = backend.replace(" }", &format!(", engine = \"{engine}\" }}"));
        let toml = configuration(&[backend, memory_backend()]);
        let mut program = Program::start(dir.path(), &toml, None);
        let mut it = connect(program.address);
        it.clear_unit_attentions(0).expect("disk0 is ready");
        it.clear_unit_attentions(1).expect("disk1 is ready");
        for number in 0..8 {
            it.write_blocks(0, first_lba(number), &piece(number), BLOCK)
                .expect("a write");
        }
        // Four pieces and a half are left.
        let cut = 4 * PIECE as u64 + PIECE as u64 / 2;
        let file = OpenOptions::new()
            .write(true)
            .open(dir.path().join("disk.img"));
        file.and_then(|file| file.set_len(cut)).expect("it is cut");
        for number in 0..4 {
            let back = it.read_blocks(0, first_lba(number), PIECE_BLOCKS, BLOCK);
            assert!(
                back.expect("what is left reads") == piece(number),
                "{engine}"
            );
        }
        // Never zeroes, never half a buffer: not across the end, not beyond it.
        let half = it.read_blocks(0, first_lba(4), PIECE_BLOCKS / 2, BLOCK);
        assert!(half.expect("up to the end") == piece(4)[..PIECE / 2]);
        for number in [4, 5, 7, DISK_PIECES - 1] {
            let lost = sense(&mut it, read(0, first_lba(number), PIECE_BLOCKS));
            assert_eq!(lost, LBA_OUT_OF_RANGE, "{engine}: read of piece {number}");
            // A write there would make a hole that reads as zeroes.
            let refused = sense(&mut it, write(0, first_lba(number), piece(9), false));
            assert_eq!(
                refused, LBA_OUT_OF_RANGE,
                "{engine}: write of piece {number}"
            );
        }
        let len = fs::metadata(dir.path().join("disk.img"))
            .expect("it is there")
            .len();
        assert_eq!(len, cut, "{engine}: the file did not grow again");
        it.write_blocks(0, first_lba(1), &piece(99), BLOCK)
            .expect("what is left takes writes");
        it.write_blocks(1, 0, &piece(5), BLOCK)
            .expect("disk1 writes");
        it.logout().expect("a logout in order");
        assert!(program.is_running());
    }
}

#[test]
fn an_error_of_the_disk_in_the_middle_fails_that_command_alone() {
    let faults = Arc::new(Faults::default());
    let toml = configuration(&[file_backend("DIR/disk.img"), memory_backend()]);
    let served = Served::from_toml(&toml, faulty(&faults, |name| name == "disk0"));
    let mut it = connect(served.address());
    it.clear_unit_attentions(0).expect("disk0 is ready");
    it.clear_unit_attentions(1).expect("disk1 is ready");
    it.write_blocks(0, 0, &piece(1), BLOCK).expect("a write");
    let cases = [
        (IoError::Medium, UNRECOVERED_READ_ERROR, WRITE_ERROR),
        (
            IoError::NoSpace,
            SPACE_ALLOCATION_FAILED,
            SPACE_ALLOCATION_FAILED,
        ),
    ];
    for (error, reading, writing) in cases {
        faults.fail_nth(1, error);
        assert_eq!(sense(&mut it, read(0, 0, PIECE_BLOCKS)), reading);
        faults.fail_nth(1, error);
        assert_eq!(sense(&mut it, write(0, 0, piece(2), false)), writing);
        // The next ones, here and on the other unit, are as if nothing had been.
        let back = it.read_blocks(0, 0, PIECE_BLOCKS, BLOCK);
        assert!(
            back.expect("the next read") == piece(1),
            "nothing was written"
        );
        it.write_blocks(0, 0, &piece(1), BLOCK)
            .expect("the next write");
        it.write_blocks(1, 0, &piece(5), BLOCK)
            .expect("disk1 writes");
    }
    // One of the pieces in which a large read is carried out.
    let blocks = 2048;
    faults.fail_nth(3, IoError::Medium);
    assert_eq!(sense(&mut it, read(0, 0, blocks)), UNRECOVERED_READ_ERROR);
    it.read_blocks(0, 0, blocks, BLOCK).expect("the same read");
    it.logout().expect("a logout in order");
}

/// A backend that cannot be opened, and what the log must name: the path and a way out.
struct Wrong {
    backend: String,
    path: &'static str,
    remedy: &'static str,
}

fn wrong_backends() -> Vec<Wrong> {
    let no_size = |path: &str| format!("{{ type = \"file\", path = \"DIR/{path}\" }}");
    let block = |path: &str| format!("{{ type = \"block\", path = \"{path}\" }}");
    let cases = [
        (no_size("missing.img"), "missing.img", "set `size`"),
        (
            file_backend("DIR/nowhere/disk.img"),
            "nowhere/disk.img",
            "create the folder",
        ),
        (
            file_backend("DIR/folder"),
            "folder",
            "name a file, not a folder",
        ),
        (
            file_backend("/dev/null"),
            "/dev/null",
            "name a regular file",
        ),
        (block("DIR/plain"), "plain", "use backend type \"file\""),
        (
            block("DIR/missing-device"),
            "missing-device",
            "mend the path",
        ),
        (file_backend("DIR/socket"), "socket", "attach the device"),
    ];
    let wrong = |(backend, path, remedy)| Wrong {
        backend,
        path,
        remedy,
    };
    cases.into_iter().map(wrong).collect()
}

/// The unit at `lun` is NOT READY and `log` says why.
fn assert_not_ready(it: &mut TcpInitiator, lun: u8, wrong: &Wrong, log: &str) {
    let unit = format!("logical_unit \"disk{lun}\"");
    let line = log
        .lines()
        .find(|line| line.contains("NOT READY") && line.contains(&unit))
        .unwrap_or_else(|| panic!("no line on {unit}:\n{log}"));
    assert!(line.contains(wrong.path), "no path: {line}");
    assert!(line.contains(wrong.remedy), "no remedy: {line}");
    // Unit attentions come first: what is there after them stays.
    let mut last = None;
    for _ in 0..4 {
        last = Some(sense(it, test_unit_ready(lun)));
    }
    assert_eq!(last, Some(LOGICAL_UNIT_NOT_READY_INTERVENTION), "{unit}");
    let refused = sense(it, read(lun, 0, 1));
    assert_eq!(refused, LOGICAL_UNIT_NOT_READY_INTERVENTION, "{unit}");
    let refused = sense(it, write(lun, 0, vec![1; 512], false));
    assert_eq!(refused, LOGICAL_UNIT_NOT_READY_INTERVENTION, "{unit}");
}

#[test]
fn a_missing_or_wrong_backing_object_is_not_ready_and_the_rest_serves() {
    let dir = folder();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("folder")).expect("a folder");
    let _socket = UnixListener::bind(at("socket")).expect("a socket");
    fs::write(at("plain"), [0; 4096]).expect("a file");
    let wrong = wrong_backends();
    let mut backends: Vec<String> = wrong.iter().map(|it| it.backend.clone()).collect();
    backends.push(memory_backend());
    backends.push(file_backend("DIR/good.img"));
    let mut program = Program::start(dir.path(), &configuration(&backends), None);
    let log = program.log();
    let mut it = connect(program.address);
    for (lun, wrong) in (0..).zip(&wrong) {
        assert_not_ready(&mut it, lun, wrong, &log);
    }
    let first_good = u8::try_from(wrong.len()).expect("a few");
    for lun in [first_good, first_good + 1] {
        it.clear_unit_attentions(lun).expect("a good unit is ready");
        it.write_blocks(lun, 0, &piece(3), BLOCK).expect("a write");
        let back = it.read_blocks(lun, 0, PIECE_BLOCKS, BLOCK);
        assert!(back.expect("a read") == piece(3));
    }
    it.logout().expect("a logout in order");
    assert!(program.is_running());
}
