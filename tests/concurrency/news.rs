//! What befalls a unit by itself or by one nexus is told to every other, on every core, once
//! (SAM-5 §5.14): access states, thresholds, capacities.

use std::fs::OpenOptions;

use super::acts::{attention, other, settle};
use super::served::{
    BLOCK, DISK_BYTES, INITIATOR, Served, TARGET, TIMEOUT, TOML_MEMORY, config, configuration_file,
    folder, login, pattern, toml_head, toml_target, toml_unit, two_cores,
};
use iiblockdaemon::backend::Usage;
use iiblockdaemon::config::{Access, Backend, Config, Engine, PortalGroup, SoftThreshold};
use iiblockdaemon::daemon::Hooks;
use iiblockdaemon::testing::tcp::{TcpInitiator, read_16, write_16};
use iiblockdaemon::testing::{self, DataOut, Direction, Scsi};

/// Looks that a test waits for something at most.
const LOOKS_MAX: usize = 100_000;

const CAPACITY_CHANGED: (u8, u8, u8) = (0x06, 0x2a, 0x09);
const ACCESS_CHANGED: (u8, u8, u8) = (0x06, 0x2a, 0x06);
const THRESHOLD_REACHED: (u8, u8, u8) = (0x06, 0x38, 0x07);
const STANDBY: (u8, u8, u8) = (0x02, 0x04, 0x0b);
const NO_SPACE: (u8, u8, u8) = (0x07, 0x27, 0x07);
const TRY_AGAIN: (u8, u8, u8) = (0x02, 0x04, 0x14);

fn ready(it: &mut TcpInitiator) -> Option<(u8, u8, u8)> {
    let outcome = it.execute(Scsi::new(0, &[0; 6], Direction::None)).unwrap();
    outcome.sense_code()
}

/// Everything that a nexus is told, up to and with `last`.
fn told_until(it: &mut TcpInitiator, last: (u8, u8, u8)) -> Vec<(u8, u8, u8)> {
    let mut told = Vec::new();
    for _ in 0..LOOKS_MAX {
        told.extend(ready(it));
        if told.last() == Some(&last) {
            return told;
        }
    }
    panic!("{last:02x?} was not told within {LOOKS_MAX} commands, but {told:02x?}");
}

/// Two sessions on each of two cores.
fn sessions(served: &Served) -> Vec<TcpInitiator> {
    let on = |n: u16| served.session_on(usize::from(n % 2), other(n), &[0]);
    (0..4).map(on).collect()
}

/// One unit in a file, on two cores.
fn in_a_file(dir: &std::path::Path) -> Config {
    let mut config = two_cores();
    config.logical_units[0].backend = Backend::File {
        path: dir.join("disk"),
        size: Some(DISK_BYTES),
        engine: Engine::Auto,
        direct: None,
    };
    config
}

#[test]
fn a_unit_that_grows_tells_every_nexus_once_and_serves_its_new_blocks_on_every_core() {
    let dir = folder();
    let served = Served::start(in_a_file(dir.path()));
    let mut sessions = sessions(&served);
    let resize = |bytes| {
        let disk = OpenOptions::new().write(true).open(dir.path().join("disk"));
        disk.unwrap().set_len(bytes).unwrap();
        served.stopper().look_again();
    };
    for grown in [DISK_BYTES + (1 << 20), DISK_BYTES + (3 << 20)] {
        resize(grown);
        let blocks = grown / u64::from(BLOCK);
        for (at, session) in sessions.iter_mut().enumerate() {
            let told = told_until(session, CAPACITY_CHANGED);
            assert_eq!(told, [CAPACITY_CHANGED], "once, to session {at}");
            assert_eq!(session.read_capacity(0).unwrap(), (blocks, BLOCK));
            let data = pattern(BLOCK as usize, u32::try_from(at).unwrap());
            session.write_blocks(0, blocks - 1, &data, BLOCK).unwrap();
            let back = session.read_blocks(0, blocks - 1, 1, BLOCK).unwrap();
            assert_eq!(back, data, "session {at}");
        }
        settle(&mut sessions.iter_mut().collect::<Vec<_>>());
        for session in &mut sessions {
            assert_eq!(ready(session), None);
        }
    }
}

#[test]
fn a_unit_does_not_shrink_with_its_file() {
    let dir = folder();
    let served = Served::start(in_a_file(dir.path()));
    let mut session = served.session_on(1, login(), &[0]);
    let resize = |bytes| {
        let disk = OpenOptions::new().write(true).open(dir.path().join("disk"));
        disk.unwrap().set_len(bytes).unwrap();
        served.stopper().look_again();
    };
    let whole = (DISK_BYTES / u64::from(BLOCK), BLOCK);
    resize(DISK_BYTES / 2);
    assert_eq!(session.read_capacity(0).unwrap(), whole);
    // Growth of the other kind is news; the shrinking before it was none.
    resize(DISK_BYTES + (1 << 20));
    assert_eq!(
        told_until(&mut session, CAPACITY_CHANGED),
        [CAPACITY_CHANGED]
    );
}

#[test]
fn each_crossing_of_the_soft_threshold_is_told_to_every_nexus_once() {
    let dir = folder();
    let mut config = in_a_file(dir.path());
    config.logical_units[0].thin.soft_threshold = Some(SoftThreshold::Percent(80));
    let served = Served::start(config);
    let mut sessions = sessions(&served);
    let claim = |percent: u64| {
        served.faults[0].claim_usage(Usage {
            used: percent << 20,
            available: (100 - percent) << 20,
        });
        served.stopper().look_again();
    };
    claim(79);
    claim(80);
    for session in &mut sessions {
        assert_eq!(told_until(session, THRESHOLD_REACHED), [THRESHOLD_REACHED]);
    }
    // More of the same, and less within the hysteresis, are no news; the growth that comes with
    // them says that they were looked at.
    for (percent, grown) in [(90, 1), (77, 2)] {
        let disk = OpenOptions::new().write(true).open(dir.path().join("disk"));
        disk.unwrap().set_len(DISK_BYTES + (grown << 20)).unwrap();
        claim(percent);
        for session in &mut sessions {
            assert_eq!(told_until(session, CAPACITY_CHANGED), [CAPACITY_CHANGED]);
        }
    }
    settle(&mut sessions.iter_mut().collect::<Vec<_>>());
    for session in &mut sessions {
        assert_eq!(ready(session), None);
    }
}

/// What a write to these blocks ends with.
fn write(it: &mut TcpInitiator, lba: u64) -> Option<(u8, u8, u8)> {
    let data = Direction::Out(DataOut::new(pattern(BLOCK as usize, 1)));
    let outcome = it.execute(Scsi::new(0, &write_16(lba, 1, false), data));
    outcome.unwrap().sense_code()
}

/// Gives the page of this block back.
fn unmap(it: &mut TcpInitiator, lba: u64) {
    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
    list.extend(lba.to_be_bytes());
    list.extend([0, 0, 0, 8, 0, 0, 0, 0]);
    let cdb = [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    let data = Direction::Out(DataOut::new(list));
    it.execute_good(Scsi::new(0, &cdb, data)).unwrap();
}

#[test]
fn at_its_capacity_a_unit_refuses_what_needs_space_until_there_is_some() {
    for (retry, refusal) in [(false, NO_SPACE), (true, TRY_AGAIN)] {
        let mut config = two_cores();
        config.logical_units[0].thin.capacity = Some(4 << 20);
        if retry {
            let thin = &mut config.logical_units[0].thin;
            thin.out_of_space = iiblockdaemon::config::OutOfSpace::Retry;
        }
        let served = Served::start(config);
        let claim = |mib: u64| {
            served.faults[0].claim_usage(Usage {
                used: mib << 20,
                available: 100 << 20,
            });
            served.stopper().look_again();
        };
        // Far apart: a page of memory may be as large as 2 MiB.
        let (written, unwritten) = (0, (8 << 20) / u64::from(BLOCK));
        for core in [0, 1] {
            claim(3);
            let mut session = served.session_on(core, other(9), &[0]);
            let lba = unwritten + u64::try_from(core).unwrap() * 8192;
            assert_eq!(write(&mut session, written), None);
            claim(4);
            let refused = (0..LOOKS_MAX).find_map(|_| {
                let refused = write(&mut session, lba);
                if refused.is_none() {
                    // It came before the look.
                    unmap(&mut session, lba);
                }
                refused
            });
            assert_eq!(refused, Some(refusal), "core {core}");
            assert_eq!(write(&mut session, written), None, "it has its space");
            session.read_blocks(0, lba, 1, BLOCK).unwrap();
            unmap(&mut session, lba);
            claim(3);
            let again = (0..LOOKS_MAX).find(|_| write(&mut session, lba).is_none());
            assert!(again.is_some(), "there is space again");
        }
    }
}

/// The unit behind two portal groups, one portal each.
fn two_groups(explicit_alua: bool) -> Config {
    let mut config = config();
    config.cores = two_cores().cores;
    let second = PortalGroup {
        tag: 9,
        access: Access::NonOptimized,
        preferred: true,
        ..config.portal_groups[0].clone()
    };
    config.portal_groups.push(second);
    config.targets[0].portal_groups = vec![1, 9];
    config.logical_units[0].explicit_alua = explicit_alua;
    config
}

/// A session on a core through the portal of the first or of the second group.
fn through(served: &Served, group: usize, core: usize, n: u16) -> TcpInitiator {
    served.next_core(core);
    let login = testing::Config::new(INITIATOR, TARGET).with_isid_qualifier(200 + n);
    let address = match group {
        0 => served.address(),
        _ => served.addresses[group],
    };
    let mut it = TcpInitiator::connect(address, login, TIMEOUT).unwrap();
    for lun in [0, 1] {
        // What is pending after a login, whatever the port is for.
        assert_eq!(attention(&mut it, lun), Some((0x06, 0x29)));
    }
    it
}

fn set_state(it: &mut TcpInitiator, state: u8, group: u8) {
    let mut cdb = [0; 12];
    (cdb[0], cdb[1], cdb[9]) = (0xa4, 0x0a, 8);
    let list = vec![0, 0, 0, 0, state, 0, 0, group];
    let data = Direction::Out(DataOut::new(list));
    it.execute_good(Scsi::new(0, &cdb, data)).unwrap();
}

fn report(it: &mut TcpInitiator) -> Vec<u8> {
    let mut cdb = [0; 12];
    (cdb[0], cdb[1], cdb[9]) = (0xa3, 0x0a, 255);
    let outcome = it.execute_good(Scsi::new(0, &cdb, Direction::In(255)));
    outcome.unwrap().data_in
}

#[test]
fn an_access_state_that_is_set_holds_on_every_core_when_it_is_answered() {
    let served = Served::start(two_groups(true));
    let mut asker = through(&served, 0, 0, 1);
    let mut same_port = through(&served, 0, 1, 2);
    let mut hindered = [through(&served, 1, 0, 3), through(&served, 1, 1, 4)];
    let groups = report(&mut same_port);
    assert_eq!(groups[..4], [0, 0, 0, 24]);
    assert_eq!(groups[4..12], [0x00, 0x4f, 0, 1, 0, 0, 0, 1]);
    assert_eq!(groups[16..24], [0x81, 0x4f, 0, 9, 0, 0, 0, 1]);
    for _ in 0..3 {
        set_state(&mut asker, 0x02, 9);
        assert_eq!(ready(&mut asker), None, "it asked for that itself");
        assert_eq!(ready(&mut same_port), Some(ACCESS_CHANGED));
        assert_eq!(ready(&mut same_port), None);
        for session in &mut hindered {
            assert_eq!(ready(session), Some(ACCESS_CHANGED));
            assert_eq!(ready(session), Some(STANDBY));
            let read = Scsi::new(0, &read_16(0, 1), Direction::In(BLOCK));
            let outcome = session.execute(read).unwrap();
            assert_eq!(outcome.sense_code(), Some(STANDBY));
            assert_eq!(report(session)[16..24], [0x82, 0x4f, 0, 9, 0, 1, 0, 1]);
            assert_eq!(
                attention(session, 1),
                None,
                "the other unit has its own states"
            );
        }
        set_state(&mut asker, 0x00, 9);
        for session in hindered.iter_mut().chain([&mut same_port]) {
            assert_eq!(ready(session), Some(ACCESS_CHANGED));
            assert_eq!(ready(session), None);
            session.read_blocks(0, 0, 1, BLOCK).unwrap();
        }
    }
}

#[test]
fn a_group_that_begins_in_standby_is_left_only_by_the_operator_where_states_are_implicit() {
    let mut config = two_groups(false);
    config.portal_groups[1].access = Access::Standby;
    let served = Served::start(config);
    let mut it = through(&served, 1, 1, 1);
    assert_eq!(ready(&mut it), Some(STANDBY));
    let mut cdb = [0; 12];
    (cdb[0], cdb[1], cdb[9]) = (0xa4, 0x0a, 8);
    let list = Direction::Out(DataOut::new(vec![0, 0, 0, 0, 0, 0, 0, 9]));
    let outcome = it.execute(Scsi::new(0, &cdb, list)).unwrap();
    assert_eq!(outcome.sense_code(), Some((0x05, 0x24, 0x00)));
    assert_eq!(ready(&mut it), Some(STANDBY));
}

/// SIGHUP after `access` was changed in the file: an implicit transition of every unit.
#[test]
fn the_operator_changes_access_states_while_the_daemon_serves() {
    let unit = |name: &str| toml_unit(name, TOML_MEMORY);
    let toml = [
        toml_head(2, 32),
        unit("disk0"),
        unit("disk1"),
        toml_target(TARGET, "", &["disk0", "disk1"]),
    ]
    .concat();
    let served = Served::from_toml(&toml, Hooks::default);
    let connect = |n: u16| {
        let login = login().with_isid_qualifier(300 + n);
        let mut it = TcpInitiator::connect(served.address(), login, TIMEOUT).unwrap();
        for lun in [0, 1] {
            it.clear_unit_attentions(lun).unwrap();
        }
        it
    };
    let mut sessions: Vec<_> = (0..4).map(connect).collect();
    let write = |toml: &str| {
        configuration_file(served.dir(), toml);
        served.stopper().look_again();
    };
    // What is no configuration changes nothing; what says nothing new neither.
    write("access = 1");
    write(&toml);
    for (access, state) in [("standby", Some(STANDBY)), ("non-optimized", None)] {
        let changed = format!("tag = 1\naccess = \"{access}\"\n");
        write(&toml.replace("tag = 1\n", &changed));
        for session in &mut sessions {
            // Between the news and the look the old state holds: it is no condition.
            let mut told = told_until(session, ACCESS_CHANGED);
            told.retain(|code| code.0 == 0x06);
            assert_eq!(told, [ACCESS_CHANGED], "to {access}");
            assert_eq!(ready(session), state, "{access}");
            for _ in 0..LOOKS_MAX {
                // The other unit changes by itself, and tells it too.
                if attention(session, 1) == Some((0x06, 0x2a)) {
                    break;
                }
            }
            assert_eq!(attention(session, 1), state.map(|(key, asc, _)| (key, asc)));
        }
    }
}
