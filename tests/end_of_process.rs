//! What may end the process and what may not: a panic in a data core does, so that a supervisor
//! starts it afresh; the signal of a file size limit does not. And what a kill must not take.

#![expect(
    clippy::tests_outside_test_module,
    reason = "this whole file is a test"
)]

#[path = "hostile/log_lines.rs"]
#[expect(dead_code, reason = "another test counts all lines")]
mod log_lines;
#[path = "common/served.rs"]
mod served;

use iiblockdaemon::backend::Faults;
use iiblockdaemon::daemon::Hooks;
use iiblockdaemon::testing::tcp::{Failure, TcpInitiator, read_16, write_16};
use iiblockdaemon::testing::{Config, DataOut, Direction, Scsi};
use served::{
    Served, TARGET, TIMEOUT, TOML_CHAP, TOML_MEMORY, chap, faulty, folder, login, toml_head,
    toml_target, toml_unit,
};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

const LOCKED: &str = "iqn.2026-11.io.iiblockdaemon:locked";
/// Set in the process that is to panic.
const CHILD: &str = "END_OF_PROCESS_CHILD";

/// A memory disk behind two targets, of which one wants CHAP.
fn configuration(cores: usize) -> String {
    [
        toml_head(cores, 32),
        toml_unit("disk", TOML_MEMORY),
        toml_target(TARGET, "", &["disk"]),
        toml_target(LOCKED, TOML_CHAP, &["disk"]),
    ]
    .concat()
}

fn session(address: SocketAddr, qualifier: u16) -> Result<TcpInitiator, Failure> {
    let config = login().with_isid_qualifier(qualifier);
    let mut it = TcpInitiator::connect(address, config, TIMEOUT)?;
    it.clear_unit_attentions(0)?;
    Ok(it)
}

/// In the child: a data core panics at its next request.
fn panic_in_a_core() {
    let faults = Arc::new(Faults::default());
    let served = Served::from_toml(&configuration(2), faulty(&faults, |_| true));
    let mut it = session(served.address(), 0).expect("a login");
    faults.panic_next();
    let outcome = it.read_blocks(0, 0, 1, 512);
    panic!("the process outlived a panic of a data core: {outcome:?}");
}

#[test]
fn a_panic_in_a_data_core_ends_the_process() {
    if std::env::var_os(CHILD).is_some() {
        panic_in_a_core();
    }
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--exact",
            "a_panic_in_a_data_core_ends_the_process",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .output()
        .expect("this program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{said}");
    assert!(said.contains("a test asked for this panic"), "{said}");
}

/// A daemon that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the program and reads where it listens.
fn listening(command: &mut Command) -> (Running, SocketAddr) {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut running = Running(child.expect("the program starts"));
    let stdout = running.0.stdout.take().expect("a pipe");
    let address = BufReader::new(stdout)
        .lines()
        .map_while(Result::ok)
        .find_map(|line| {
            let at = line.find("127.0.0.1:")?;
            let address: String = line[at..]
                .chars()
                .take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':'))
                .collect();
            address.parse().ok()
        })
        .expect("it says where it listens");
    (running, address)
}

#[test]
fn a_file_size_limit_is_an_error_and_no_death() {
    let dir = folder();
    let disk = dir.path().join("disk.img");
    std::fs::File::create(&disk)
        .and_then(|file| file.set_len(4 << 20))
        .expect("a disk image");
    // 1 MiB in blocks of 512 bytes (dash and POSIX) or of 1024 (bash): below the 4 MiB of the disk.
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -f 2048 && exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_iiblockdaemon"))
        .args(["--listen", "127.0.0.1:0", "--state-dir"])
        .arg(dir.path().join("state"))
        .arg("--disk")
        .arg(&disk);
    let (mut running, address) = listening(&mut command);
    let mut it = TcpInitiator::connect(address, login(), TIMEOUT).expect("a login");
    it.clear_unit_attentions(0).expect("it is ready");
    it.write_blocks(0, 0, &[1; 4096], 512)
        .expect("below the limit");
    let beyond = (3 << 20) / 512;
    let data = Direction::Out(DataOut::new(vec![2; 4096]));
    let refused = it.execute_good(Scsi::new(0, &write_16(beyond, 8, true), data));
    let Err(Failure::NotGood(outcome)) = refused else {
        panic!("a write beyond the limit: {refused:?}");
    };
    // SPACE ALLOCATION FAILED WRITE PROTECT.
    assert_eq!(outcome.sense_code(), Some((0x07, 0x27, 0x07)));
    assert_eq!(it.read_blocks(0, 0, 8, 512).expect("it lives"), [1; 4096]);
    assert!(running.0.try_wait().expect("a child").is_none());
}

/// The program on one disk in `dir`, and where it listens.
fn serve(dir: &Path) -> (Running, SocketAddr) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iiblockdaemon"));
    command.args(["--listen", "127.0.0.1:0", "--size", "4MiB", "--state-dir"]);
    listening(command.arg(dir.join("state")))
}

/// PERSISTENT RESERVE OUT with APTPL where the action has it.
fn reserve_out(it: &mut TcpInitiator, action: u8, kind: u8, key: u64, new_key: u64) -> u8 {
    let mut list = vec![0; 24];
    list[..8].copy_from_slice(&key.to_be_bytes());
    list[8..16].copy_from_slice(&new_key.to_be_bytes());
    list[20] = 1;
    let cdb = [0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0];
    let command = Scsi::new(0, &cdb, Direction::Out(DataOut::new(list)));
    it.execute(command).expect("an answer").status
}

/// SPC-4 §5.9.5: with APTPL what was acknowledged holds after a kill at any moment.
#[test]
fn reservations_with_aptpl_survive_kill_9() {
    const EXCLUSIVE_ACCESS: u8 = 3;
    const CONFLICT: u8 = 0x18;
    let dir = folder();
    for round in 1..=5 {
        let (mut running, address) = serve(dir.path());
        let mut owner = session(address, 1).expect("a login");
        if round == 1 {
            assert_eq!(reserve_out(&mut owner, 0, 0, 0, round), 0);
            assert_eq!(reserve_out(&mut owner, 1, EXCLUSIVE_ACCESS, round, 0), 0);
        } else {
            assert_eq!(
                reserve_out(&mut owner, 0, 0, round - 1, round),
                0,
                "the last key holds"
            );
        }
        owner
            .write_blocks(0, 0, &[1; 512], 512)
            .expect("its own disk");
        let mut stranger = session(address, 2).expect("a login");
        let read = Scsi::new(0, &read_16(0, 1), Direction::In(512));
        assert_eq!(stranger.execute(read).expect("an answer").status, CONFLICT);
        running.0.kill().expect("it runs");
        running.0.wait().expect("it was running");
    }
    // Without what was kept the unit is not served at all.
    let mut states = std::fs::read_dir(dir.path().join("state")).expect("the state directory");
    let file = states
        .find_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_name()?.to_str()?;
            (name.starts_with("unit-") && name.ends_with(".json")).then_some(path)
        })
        .expect("a file for the unit");
    let whole = std::fs::read(&file).expect("it can be read");
    std::fs::write(&file, &whole[..whole.len() / 2]).expect("it can be cut");
    let output = Command::new(env!("CARGO_BIN_EXE_iiblockdaemon"))
        .args(["--listen", "127.0.0.1:0", "--state-dir"])
        .arg(dir.path().join("state"))
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let named = said.contains(file.to_str().expect("UTF-8"));
    assert!(named && said.contains("help:"), "{said}");
}

/// A panic in the login of one connection closes that connection and is told; sessions on the same
/// core and later logins do not notice.
#[test]
fn a_panic_in_a_login_closes_that_connection_only() {
    let log = log_lines::watch();
    let told_before = log.panics();
    // Challenges want random bytes; AuthMethod=None does not.
    let hooks = || Hooks {
        random: Some(|_| panic!("a test asked for this panic")),
        ..Hooks::default()
    };
    let served = Served::from_toml(&configuration(1), hooks);
    let mut first = session(served.address(), 1).unwrap();
    for _ in 0..3 {
        let config = Config {
            auth: chap(),
            ..Config::new("iqn.2026-11.io.iiblockdaemon:unlucky", LOCKED)
        };
        let ended = TcpInitiator::connect(served.address(), config, TIMEOUT);
        assert!(matches!(ended, Err(Failure::Closed)), "{ended:?}");
        first.write_blocks(0, 0, &[7; 512], 512).unwrap();
    }
    let mut later = session(served.address(), 2).unwrap();
    assert_eq!(later.read_blocks(0, 0, 1, 512).unwrap(), [7; 512]);
    drop(served);
    assert_eq!(log.panics() - told_before, 3, "each is told");
}
