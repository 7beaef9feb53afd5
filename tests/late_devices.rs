//! A daemon whose devices are missing when it starts, or are refused: over TCP, what an initiator
//! sees until they come, when they come, and that they are its own then.

#![expect(
    clippy::tests_outside_test_module,
    reason = "this whole file is a test"
)]
#![expect(
    clippy::disallowed_types,
    reason = "the log of all threads of a daemon"
)]

#[path = "common/served.rs"]
mod served;

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use iiblockdaemon::backend::{Backing, Engine, Kind, NvmeModel, Spec};
use iiblockdaemon::daemon::Hooks;
use iiblockdaemon::testing::tcp::TcpInitiator;
use iiblockdaemon::testing::{Direction, Scsi};
use served::{
    BLOCK, Served, TARGET, TIMEOUT, TOML_MEMORY, login, pattern, toml_head, toml_target, toml_unit,
};

/// Commands in which something has to come to pass: a device is looked for every 5 s.
const COMMANDS_MAX: u32 = 5_000_000;
const BLOCKS: u64 = 2048;

/// Sense key, ASC, ASCQ (SPC-4, annex of assignments).
type Sense = (u8, u8, u8);
const UNIT_ATTENTION: u8 = 0x06;
const MANUAL_INTERVENTION_REQUIRED: Sense = (0x02, 0x04, 0x03);
const MEDIUM_MAY_HAVE_CHANGED: Sense = (UNIT_ATTENTION, 0x28, 0x00);

/// The errors that all daemons of this process log.
#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Log {
    /// How often an error was logged with all of `parts` in it.
    fn count(&self, parts: &[&str]) -> usize {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let has_all = |line: &&String| parts.iter().all(|part| line.contains(part));
        lines.iter().filter(has_all).count()
    }
}

struct Writer(Arc<Log>);

struct Text(String);

impl tracing::field::Visit for Text {
    fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0 += &format!("{value:?} ");
    }
}

impl tracing::Subscriber for Writer {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let mut lines = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(text.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

fn log() -> Arc<Log> {
    static LOG: OnceLock<Arc<Log>> = OnceLock::new();
    let log = LOG.get_or_init(|| {
        let log = Arc::new(Log::default());
        tracing::subscriber::set_global_default(Writer(Arc::clone(&log))).expect("the only one");
        log
    });
    Arc::clone(log)
}

/// A daemon of two cores with `unit` at LUN 0 and a memory disk at LUN 1.
fn serve(name: &str, unit: &str) -> Served {
    let toml = toml_head(2, 32)
        + unit
        + &toml_unit("memory", TOML_MEMORY)
        + &toml_target(TARGET, "", &[name, "memory"]);
    Served::from_toml(&toml, Hooks::default)
}

/// What TEST UNIT READY says of LUN 0; nothing where it is GOOD.
fn test_unit_ready(it: &mut TcpInitiator) -> Option<Sense> {
    let command = Scsi::new(0, &[0; 6], Direction::None);
    let outcome = it.execute(command).expect("an answer");
    assert!(outcome.is_good() || outcome.sense_code().is_some());
    outcome.sense_code()
}

/// Another nexus for each `number`, which has heard of the power on.
fn session(served: &Served, number: u16) -> TcpInitiator {
    let login = login().with_isid_qualifier(number);
    let mut it = TcpInitiator::connect(served.address(), login, TIMEOUT).expect("a login");
    it.clear_unit_attentions(1).expect("the memory disk");
    while test_unit_ready(&mut it).is_some_and(|(key, ..)| key == UNIT_ATTENTION) {}
    it
}

/// Says MANUAL INTERVENTION REQUIRED until `done`.
fn is_missing_until(it: &mut TcpInitiator, done: impl Fn() -> bool) {
    for _ in 0..COMMANDS_MAX {
        assert_eq!(test_unit_ready(it), Some(MANUAL_INTERVENTION_REQUIRED));
        if done() {
            return;
        }
    }
    panic!("it did not come to pass");
}

/// Waits for the device, which is told once and is there then.
fn comes(it: &mut TcpInitiator) {
    for _ in 0..COMMANDS_MAX {
        match test_unit_ready(it) {
            Some(MANUAL_INTERVENTION_REQUIRED) => {}
            said => {
                assert_eq!(said, Some(MEDIUM_MAY_HAVE_CHANGED));
                assert_eq!(test_unit_ready(it), None, "told once");
                assert_eq!(it.read_capacity(0).unwrap(), (BLOCKS, BLOCK));
                return;
            }
        }
    }
    panic!("it did not come");
}

fn file(path: &Path) -> Spec {
    Spec::new(Kind::File {
        path: path.to_owned(),
        bytes: None,
        engine: Engine::Auto,
        direct: None,
    })
}

#[test]
fn a_file_that_is_missing_at_the_start_is_served_when_it_comes() {
    let log = log();
    let backend = r#"{ type = "file", path = "DIR/later/disk" }"#;
    let served = serve("late-file", &toml_unit("late-file", backend));
    let mut here = session(&served, 1);
    let mut there = session(&served, 2);
    let name = "logical_unit \"late-file\"";
    assert_eq!(log.count(&[name, "does not exist"]), 1);

    // One that holds no block is refused, and the rest serves.
    let path = served.dir().join("later/disk");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    std::fs::write(&path, []).unwrap();
    is_missing_until(&mut here, || log.count(&[name, "holds no block"]) > 0);
    let on_memory = pattern(4096, 3);
    there.write_blocks(1, 0, &on_memory, BLOCK).unwrap();

    let bytes = usize::try_from(BLOCKS * u64::from(BLOCK)).unwrap();
    let data = pattern(bytes, 1);
    let made = served.dir().join("made");
    std::fs::write(&made, &data).unwrap();
    std::fs::rename(&made, &path).unwrap();
    comes(&mut here);
    comes(&mut there);
    assert_eq!(log.count(&[name]), 2, "one line for each reason");
    // It is the unit's alone, as from the start.
    let taken = Backing::open(&file(&path)).expect_err("it is open");
    assert!(taken.to_string().contains("same object"), "{taken}");

    let half = u32::try_from(BLOCKS / 2).unwrap();
    for it in [&mut here, &mut there] {
        let back = it.read_blocks(0, 0, half, BLOCK).expect("a read");
        assert!(back == data[..bytes / 2]);
    }
    let new = pattern(4096, 2);
    here.write_blocks(0, 8, &new, BLOCK).expect("a write");
    assert!(there.read_blocks(0, 8, 8, BLOCK).expect("a read") == new);
    here.logout().expect("a logout in order");
    there.logout().expect("a logout in order");
    let written = std::fs::File::open(&path).unwrap();
    served.stop().expect("the daemon ends in order");
    let mut back = vec![0; 4096];
    std::os::unix::fs::FileExt::read_exact_at(&written, &mut back, 8 * u64::from(BLOCK)).unwrap();
    assert!(back == new, "it is flushed at the end, as others are");
}

#[test]
fn a_controller_that_is_missing_at_the_start_is_served_when_it_comes() {
    const ADDRESS: &str = "0000:d8:00.0";
    let log = log();
    let backend = format!("{{ type = \"nvme\", address = \"{ADDRESS}\" }}");
    let served = serve("late-nvme", &toml_unit("late-nvme", &backend));
    let name = "logical_unit \"late-nvme\"";
    assert_eq!(log.count(&[name, "there is no PCI device"]), 1);
    let mut here = session(&served, 1);
    let mut there = session(&served, 2);
    is_missing_until(&mut here, || true);

    let mut model = NvmeModel::at(ADDRESS, BLOCKS);
    comes(&mut here);
    comes(&mut there);
    model.leave_to_units();
    let data = pattern(16 * 512, 1);
    here.write_blocks(0, 100, &data, BLOCK).expect("a write");
    assert!(there.read_blocks(0, 100, 16, BLOCK).expect("a read") == data);
    here.logout().expect("a logout in order");
    there.logout().expect("a logout in order");
    served.stop().expect("the daemon ends in order");
    assert_eq!(model.shutdowns(), 1);
    assert_eq!(model.mapped_bytes(), 0, "nothing is left to it");
}

#[test]
fn a_namespace_of_other_blocks_is_refused_once() {
    const ADDRESS: &str = "0000:d9:00.0";
    let log = log();
    let backend = format!("{{ type = \"nvme\", address = \"{ADDRESS}\" }}");
    let unit = toml_unit("late-4k", &backend) + "block_size = 4096\n";
    let served = serve("late-4k", &unit);
    let mut it = session(&served, 1);
    let model = NvmeModel::at(ADDRESS, BLOCKS);
    let name = "logical_unit \"late-4k\"";
    is_missing_until(&mut it, || log.count(&[name, "set block_size = 512"]) > 0);
    assert_eq!(log.count(&[name]), 2);
    assert_eq!(model.commands(0x01), 0);
    it.logout().expect("a logout in order");
    served.stop().expect("the daemon ends in order");
    assert_eq!(log.count(&[name]), 2, "one line for each reason");
}
