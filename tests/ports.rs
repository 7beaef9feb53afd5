//! A daemon with a TCP of its own over ports: what differs from host sockets. A session joined from
//! a port whose queue another core polls, host portals beside it, loss on the wire, peers that go
//! in the middle of a write or without a word, many connections at once, and the copies and
//! allocations that each READ and WRITE costs.

#![expect(
    clippy::tests_outside_test_module,
    reason = "this whole file is a test"
)]

#[path = "common/heap.rs"]
mod heap;
#[path = "common/served.rs"]
mod served;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use std::time::Duration;

use iiblockdaemon::backend::NvmeModel;
use iiblockdaemon::daemon::Hooks;
use iiblockdaemon::mem::copied;
use iiblockdaemon::pdu::{Cid, LoginStatus};
use iiblockdaemon::port::fault::Rates;
use iiblockdaemon::port::memory::{End, mesh};
use iiblockdaemon::port::{IdlePort, memory};
use iiblockdaemon::testing;
use iiblockdaemon::testing::tcp::{Failure, TcpInitiator, write_16};
use iiblockdaemon::testing::{Command, DataOut, Direction, Scsi};
use served::relay::{self, Relay};
use served::{
    BLOCK, INITIATOR, MEMORY_PORT, Served, TARGET, TIMEOUT, TOML_CHAP, TOML_MEMORY, cable, chap,
    config, login, pattern, ping, put_on_port, toml_head, toml_target, toml_unit, two_cores,
};

const BLOCKS: u32 = 256;

fn ends(queues: u16) -> (Vec<End>, End) {
    let (near, mut far) = mesh(&cable(), queues, 1).unwrap();
    (near, far.pop().unwrap())
}

fn idle(ends: Vec<End>) -> Vec<IdlePort> {
    ends.into_iter().map(IdlePort::Memory).collect()
}

/// Writes and reads back, in several sizes, and says what it wrote last.
fn write_and_read(it: &mut TcpInitiator, lba: u64, seed: u32) {
    for blocks in [1, 17, BLOCKS] {
        let data = pattern((blocks * BLOCK) as usize, seed ^ blocks);
        it.write_blocks(0, lba, &data, BLOCK).unwrap();
        let back = it.read_blocks(0, lba, blocks, BLOCK).unwrap();
        assert!(back == data, "{blocks} blocks at {lba} came back different");
    }
}

#[test]
fn sessions_of_both_cores_write_read_and_log_out() {
    let mut config = two_cores();
    put_on_port(&mut config, vec![0, 1]);
    let (near, far) = ends(2);
    let served = Served::start_with(config, idle(near), Some(IdlePort::Memory(far)));
    let mut both: Vec<_> = (0..2)
        .map(|core| {
            let login = login().with_isid_qualifier(u16::try_from(core).unwrap());
            served.session_on(core, login, &[0])
        })
        .collect();
    for (at, it) in both.iter_mut().enumerate() {
        write_and_read(it, 4096 * at as u64, 7);
    }
    for it in &mut both {
        it.logout().unwrap();
    }
    served.stop().unwrap();
}

/// Core 1 has no queue: what it sends goes by core 0, and what comes for it too.
#[test]
fn a_connection_by_a_port_joins_a_session_of_a_core_without_a_queue() {
    let mut config = two_cores();
    let host = config.portal_groups[0].portals.clone();
    put_on_port(&mut config, vec![0]);
    config.portal_groups[0].portals.extend(host);
    let (near, far) = ends(1);
    let served = Served::start_with(config, idle(near), Some(IdlePort::Memory(far)));
    let [portal, over_socket] = served.addresses[..] else {
        panic!("two portals")
    };
    assert_eq!(portal, SocketAddr::from((relay::SERVER, relay::PORT)));
    let over_port = served.address();
    served.next_core(1);
    let login = login().with_key("MaxConnections", "2");
    let mut first = TcpInitiator::connect(over_socket, login, TIMEOUT).unwrap();
    first.clear_unit_attentions(0).unwrap();
    let further = first.engine().further(Cid(1));
    let mut second = TcpInitiator::connect(over_port, further, TIMEOUT).unwrap();
    let tsih = first.engine().negotiated().tsih;
    assert_eq!(second.engine().negotiated().tsih, tsih);
    write_and_read(&mut second, 64, 3);
    write_and_read(&mut first, 640, 4);
    let back = second.read_blocks(0, 640, BLOCKS, BLOCK).unwrap();
    assert_eq!(back, first.read_blocks(0, 640, BLOCKS, BLOCK).unwrap());
    first.logout().unwrap();
    second.wait_closed().unwrap();
    served.stop().unwrap();
}

#[test]
fn one_percent_of_loss_both_ways_changes_no_byte() {
    let mut config = two_cores();
    put_on_port(&mut config, vec![0, 1]);
    let (near, far) = ends(2);
    let rates = Rates {
        loss: 10_000,
        ..Rates::default()
    };
    let faulty = |(seed, end): (usize, End)| {
        let seed = 0x10 + seed as u64;
        IdlePort::Faulty {
            inner: Box::new(IdlePort::Memory(end)),
            receive: rates,
            transmit: rates,
            seed,
        }
    };
    let queues = near.into_iter().enumerate().map(faulty).collect();
    let served = Served::start_with(config, queues, Some(IdlePort::Memory(far)));
    for core in 0..2 {
        let login = login().with_isid_qualifier(u16::try_from(core).unwrap());
        let mut it = served.session_on(core, login, &[0]);
        for round in 0..20 {
            write_and_read(&mut it, 1024 * core as u64, round);
        }
        it.logout().unwrap();
    }
    served.stop().unwrap();
}

/// A write of which only a part has come.
fn begin_write(it: &mut TcpInitiator) {
    let data = DataOut::solicited(pattern(64 * 1024, 1));
    let command = Scsi::new(0, &write_16(0, 128, false), Direction::Out(data));
    it.engine().submit(Command::Scsi(command));
    it.flush().unwrap();
}

#[test]
fn a_peer_that_goes_in_the_middle_of_a_write_leaves_nothing_behind() {
    let mut config = two_cores();
    put_on_port(&mut config, vec![0, 1]);
    let (near, far) = ends(2);
    let served = Served::start_with(config, idle(near), Some(IdlePort::Memory(far)));
    let before = pattern(64 * 1024, 9);
    let mut witness = served.session_on(1, login().with_isid_qualifier(99), &[0]);
    witness.write_blocks(0, 0, &before, BLOCK).unwrap();
    for round in 0..8 {
        let core = round % 2;
        let mut it = served.session_on(core, login(), &[0]);
        // The command has come when its R2T does, and its data never follow.
        begin_write(&mut it);
        drop(it);
        ping(&mut witness).unwrap();
    }
    assert_eq!(witness.read_blocks(0, 0, 128, BLOCK).unwrap(), before);
    witness.logout().unwrap();
    served.stop().unwrap();
}

#[test]
fn refused_logins_hear_why_and_make_room() {
    let mut config = two_cores();
    // One stranger at a time on each core.
    config.limits.unauthenticated_connections = 2;
    put_on_port(&mut config, vec![0, 1]);
    let (near, far) = ends(2);
    let served = Served::start_with(config, idle(near), Some(IdlePort::Memory(far)));
    for round in 0..16 {
        let mut it = served.open(
            round % 2,
            testing::Config::new(INITIATOR, "iqn.2026-11.io:no"),
        );
        let refused = it.login();
        assert!(
            matches!(refused, Err(Failure::LoginRefused(LoginStatus::NOT_FOUND))),
            "{refused:?}"
        );
        it.wait_closed().unwrap();
    }
    let mut it = served.session_on(1, login(), &[0]);
    write_and_read(&mut it, 0, 1);
    it.logout().unwrap();
    served.stop().unwrap();
}

#[test]
fn a_peer_that_goes_without_a_word_does_not_keep_the_daemon_from_stopping() {
    let mut config = config();
    put_on_port(&mut config, vec![0]);
    let (near, far) = ends(1);
    let mut served = Served::start_with(config, idle(near), Some(IdlePort::Memory(far)));
    let mut it = served.session_on(0, login(), &[0]);
    write_and_read(&mut it, 0, 1);
    begin_write(&mut it);
    // With its stack and its end of the cable.
    served.relay = None;
    served.stop().unwrap();
}

#[test]
fn many_connections_at_once_each_get_their_own_bytes() {
    const SESSIONS: u16 = 120;
    let mut config = two_cores();
    config.limits.sessions = SESSIONS.into();
    config.limits.unauthenticated_connections = SESSIONS.into();
    // All are opened before the first logs in, however slow this machine is.
    config.limits.login_timeout = Duration::from_secs(120);
    put_on_port(&mut config, vec![0, 1]);
    let (near, far) = ends(2);
    let served = Served::start_with(config, idle(near), Some(IdlePort::Memory(far)));
    let mut all: Vec<_> = (0..SESSIONS)
        .map(|at| served.open(usize::from(at % 2), login().with_isid_qualifier(at)))
        .collect();
    for it in &mut all {
        it.login().unwrap();
        it.clear_unit_attentions(0).unwrap();
    }
    let data = |at: usize| pattern(8 * BLOCK as usize, u32::try_from(at).unwrap());
    let tasks: Vec<_> = all
        .iter_mut()
        .enumerate()
        .map(|(at, it)| {
            let data = Direction::Out(DataOut::new(data(at)));
            let command = Scsi::new(0, &write_16(8 * at as u64, 8, false), data);
            it.submit(Command::Scsi(command)).unwrap()
        })
        .collect();
    for (it, task) in all.iter_mut().zip(tasks) {
        let event = it.wait(task).unwrap();
        assert!(matches!(event, testing::Event::Scsi { outcome, .. } if outcome.is_good()));
    }
    for (at, it) in all.iter_mut().enumerate() {
        // Each reads what its neighbour has written.
        let at = (at + 1) % usize::from(SESSIONS);
        let back = it.read_blocks(0, 8 * at as u64, 8, BLOCK).unwrap();
        assert_eq!(back, data(at));
    }
    for it in &mut all {
        it.logout().unwrap();
    }
    served.stop().unwrap();
}

/// What the data core had copied when it last was asked for random bytes.
static COPIED: AtomicU64 = AtomicU64::new(0);

/// Runs on the data core, with each login.
fn look_at_copies(bytes: &mut [u8]) {
    COPIED.store(copied::bytes(), SeqCst);
    getrandom::fill(bytes).expect("the kernel's random source answers");
}

/// The same for another test.
fn look_at_the_heap(bytes: &mut [u8]) {
    heap::count_this_thread();
    getrandom::fill(bytes).expect("the kernel's random source answers");
}

/// A daemon of one core on a port, whose logins call `look` there, with a unit of this backend.
fn watched(look: fn(&mut [u8]), backend: &str) -> Served {
    let toml = [
        &toml_head(1, 64).replace("127.0.0.1:0", "10.9.0.1:3260"),
        "[limits]\nnop_interval_s = 0\n[[port]]\nname = \"memory\"\ntype = \"tap\"\n\
         device = \"none\"\nmtu = 9000\naddresses = [\"10.9.0.1/24\"]\n",
        &toml_unit("disk", backend),
        &toml_target(TARGET, TOML_CHAP, &["disk"]),
    ]
    .concat();
    let cable = memory::Config {
        fills_tcp_checksum: true,
        fills_ipv4_checksum: true,
        verifies_checksums: true,
        ..cable()
    };
    let (near, far) = memory::pair(&cable).unwrap();
    let hooks = move || Hooks {
        random: Some(look),
        ports: vec![(MEMORY_PORT.to_owned(), vec![IdlePort::Memory(near)])].into(),
        ..Hooks::default()
    };
    let mut served = Served::from_toml(&toml, hooks);
    served.relay = Some(Relay::start(IdlePort::Memory(far), 1));
    served
}

fn log_in(served: &Served, qualifier: u16) -> TcpInitiator {
    let config = testing::Config {
        auth: chap(),
        ..login().with_isid_qualifier(qualifier)
    };
    let mut it = TcpInitiator::connect(served.address(), config, TIMEOUT).unwrap();
    it.clear_unit_attentions(0).unwrap();
    it
}

/// Bytes that the data core has copied so far.
fn copied_so_far(served: &Served) -> u64 {
    log_in(served, 77).logout().unwrap();
    COPIED.load(SeqCst)
}

/// A namespace of the model of a controller, behind the driver of our own.
fn namespace(address: &str) -> (NvmeModel, String) {
    let model = NvmeModel::at(address, 1 << 15);
    (
        model,
        format!(r#"{{ type = "nvme", address = "{address}" }}"#),
    )
}

#[test]
fn a_write_is_copied_once_and_a_read_not_at_all() {
    assert_copies_of_a_port(TOML_MEMORY);
    // From the frames to the controller, and from the controller to the frames.
    let (model, backend) = namespace("0000:a2:00.0");
    assert_copies_of_a_port(&backend);
    let moved = (model.commands(2), model.commands(1));
    assert!(moved.0 >= 50 && moved.1 >= 50, "{moved:?} reads and writes");
}

fn assert_copies_of_a_port(backend: &str) {
    const TIMES: u64 = 50;
    let served = watched(look_at_copies, backend);
    let mut it = log_in(&served, 0);
    let bytes = u64::from(BLOCKS * BLOCK);
    let data = pattern((BLOCKS * BLOCK) as usize, 5);
    it.write_blocks(0, 0, &data, BLOCK).unwrap();
    let idle = copied_so_far(&served);
    let login = copied_so_far(&served) - idle;
    let begun = copied_so_far(&served);
    for _ in 0..TIMES {
        it.write_blocks(0, 0, &data, BLOCK).unwrap();
    }
    let written = copied_so_far(&served);
    let copied = written - begun - login;
    assert_eq!(copied, TIMES * bytes, "copy 1 of 1 to {backend}");
    for _ in 0..TIMES {
        assert!(it.read_blocks(0, 0, BLOCKS, BLOCK).unwrap() == data);
    }
    let copied = copied_so_far(&served) - written - login;
    assert_eq!(copied, 0, "no copy from {backend}");
    it.logout().unwrap();
    served.stop().unwrap();
}

#[test]
fn reads_and_writes_over_a_port_leave_the_heap_alone() {
    let (_model, nvme) = namespace("0000:a3:00.0");
    for backend in [TOML_MEMORY, &nvme] {
        let served = watched(look_at_the_heap, backend);
        let before = heap::counts();
        let mut it = log_in(&served, 0);
        assert!(heap::counts().0 > before.0, "nothing is counted");
        heap::assert_left_alone(&mut it);
        it.logout().unwrap();
        served.stop().unwrap();
    }
}
