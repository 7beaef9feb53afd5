//! Devices of DPDK without hardware: rings of this process, a device that swallows everything, and
//! both ends of a veth pair. DPDK runs without huge pages, so only the last needs a privilege.

use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use dpdk_sys as sys;

use super::chain::Chain;
use super::mempool::Mempool;
use super::*;
use crate::mem::{self, CHUNK_BYTES, Loan, Pages, Pool};
use crate::port::suite::{self, Ends, Rig};
use crate::port::{
    BURST, Burst, Counters, ETHERNET_BYTES, Full, HEAD_BYTES_MAX, Offload, Outgoing, Piece, Port,
    VLAN_BYTES,
};

/// Calls to `receive` and `flush` until a frame that does not come is given up.
const PATIENCE: u32 = 2_000_000;
/// An ethertype for experiments (IEEE 802): nobody else on a veth sends it.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

fn eal() -> &'static Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    EAL.get_or_init(|| {
        let settings = EalSettings {
            memory_mib: 512,
            huge: false,
            ..EalSettings::default()
        };
        Eal::start(&settings).unwrap_or_else(|error| panic!("{error}"))
    })
}

fn settings(queues: u16, mtu: u16) -> DeviceSettings {
    DeviceSettings {
        queues,
        mtu,
        rx_descriptors: 256,
        tx_descriptors: 256,
        frames: 256,
        ..DeviceSettings::default()
    }
}

fn adopt(device: &Device, queue: u16) -> Queue {
    device.queue(queue).unwrap().adopt(None).unwrap()
}

/// The first bytes of a frame, from `number`.
fn head(number: u32, bytes: usize) -> Vec<u8> {
    let mut head = vec![0xff; 6];
    head.extend([2, 0, 0, 0, 0, 9]);
    head.extend(ETHERTYPE);
    head.extend(number.to_be_bytes());
    head.resize(bytes, 0x5a);
    head
}

fn plain<'a>(head: &'a [u8], payload: &'a [Piece<'a>]) -> Outgoing<'a> {
    Outgoing {
        head,
        payload,
        offload: Offload::default(),
    }
}

fn contents(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|at| u8::try_from(at % 251).unwrap().wrapping_add(seed))
        .collect()
}

/// Waits for the next frame of ours.
fn next(from: &mut Queue, to: &mut Queue) -> Vec<u8> {
    for _ in 0..PATIENCE {
        from.flush();
        let mut burst = Burst::new();
        let mut one = Burst::new();
        to.receive(&mut burst);
        one.extend(
            burst
                .into_iter()
                .filter(|frame| frame.head()[12..14] == ETHERTYPE),
        );
        assert!(one.len() <= 1, "one was sent");
        if let Some(frame) = one.pop() {
            let whole: Vec<u8> = frame.slices().flatten().copied().collect();
            assert_eq!(whole.len(), frame.len());
            assert!(frame.held_bytes() >= frame.len());
            assert!(frame.head().len() >= frame.len().min(HEAD_BYTES_MAX));
            return whole;
        }
    }
    panic!("no frame comes: {:?} {:?}", from.counters(), to.counters());
}

/// Frames of all lengths pass unchanged, longer ones are refused, and all is counted.
fn lengths_pass(from: &mut Queue, to: &mut Queue) {
    let mtu = usize::from(from.capabilities().mtu);
    let before = from.counters();
    let mut sent = 0;
    for packet in [46, 60, 576, 1000, 1499, 1500, 4096, 8999, 9000] {
        if packet > mtu {
            continue;
        }
        let (head, payload) = (head(sent, 54), contents(packet + ETHERNET_BYTES - 54, 7));
        let (first, second) = payload.split_at(payload.len() / 3);
        let pieces = [Piece::Bytes(first), Piece::Bytes(second)];
        from.transmit(&plain(&head, &pieces)).unwrap();
        assert_eq!(next(from, to), [head, payload].concat());
        sent += 1;
    }
    let long = contents(mtu + ETHERNET_BYTES - 54 + 1, 1);
    let pieces = [Piece::Bytes(&long)];
    from.transmit(&plain(&head(0, 54), &pieces)).unwrap();
    from.transmit(&plain(&head(0, HEAD_BYTES_MAX + 1), &[]))
        .unwrap();
    from.transmit(&plain(&[0; 13], &[])).unwrap();
    from.flush();
    let after = from.counters();
    assert_eq!(after.refused - before.refused, 3);
    assert_eq!(after.sent - before.sent, u64::from(sent));
    // With a tag a frame is longer, and its packet is not.
    let mut tagged = head(1, 54);
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    let payload = contents(mtu + ETHERNET_BYTES + VLAN_BYTES - tagged.len(), 3);
    let pieces = [Piece::Bytes(&payload)];
    from.transmit(&plain(&tagged, &pieces)).unwrap();
    assert_eq!(from.counters().refused, after.refused);
}

/// A tagged frame of the full MTU arrives with its tag.
fn receive_tagged(from: &mut Queue, to: &mut Queue) {
    for _ in 0..PATIENCE {
        from.flush();
        let mut burst = Burst::new();
        to.receive(&mut burst);
        let is_tagged = |frame: &crate::port::Frame| frame.head()[12..16] == [0x81, 0, 0, 5];
        if let Some(frame) = burst.iter().find(|frame| is_tagged(frame)) {
            let mtu = usize::from(to.capabilities().mtu);
            assert_eq!(frame.len(), mtu + ETHERNET_BYTES + VLAN_BYTES);
            return;
        }
    }
    panic!("the tagged frame does not come: {:?}", to.counters());
}

fn loans(pool: &Pool, bytes: &[u8]) -> Vec<Loan> {
    let mut buf = pool.alloc(bytes.len()).unwrap();
    buf.copy_from(0, bytes);
    let mut loans = Vec::new();
    buf.lend(0..bytes.len(), |loan| loans.push(loan));
    loans
}

/// Lent payload arrives, and every loan has ended when the queue holds nothing.
fn lent_payload_passes(from: &mut Queue, to: &mut Queue) {
    let pool = Pool::new(8 * CHUNK_BYTES, Pages::Normal).unwrap();
    let payload = contents(usize::from(from.capabilities().mtu) - 100, 11);
    for number in 0..600 {
        let lent = loans(&pool, &payload);
        let (left, right) = (lent[0].part(0..700), lent[0].part(700..payload.len()));
        drop(lent);
        let pieces = [
            Piece::Loan(&left),
            Piece::Bytes(b"between"),
            Piece::Loan(&right),
        ];
        let head = head(number, 60);
        from.transmit(&plain(&head, &pieces)).unwrap();
        let held = if from.capabilities().holds_loans {
            2
        } else {
            0
        };
        assert_eq!(from.lent(), held);
        drop((left, right));
        let expected = [&head[..], &payload[..700], b"between", &payload[700..]].concat();
        assert_eq!(next(from, to), expected);
        assert_eq!((from.lent(), pool.available()), (0, 8));
    }
}

#[test]
fn rings_carry_frames_of_every_length_both_ways() {
    let names = ["net_ring_a", "net_ring_b"];
    let (left, right) = Device::ring_pair(eal(), names, &settings(1, 9000)).unwrap();
    assert_eq!(left.driver(), "net_ring");
    let (mut a, mut b) = (adopt(&left, 0), adopt(&right, 0));
    assert!(left.queue(0).is_none() && left.queue(1).is_none());
    assert!(a.link().up && a.wakes().is_none() && !a.capabilities().holds_loans);
    lengths_pass(&mut a, &mut b);
    receive_tagged(&mut a, &mut b);
    lengths_pass(&mut b, &mut a);
    receive_tagged(&mut b, &mut a);
    lent_payload_passes(&mut a, &mut b);
    let names: Vec<String> = left.xstats().into_iter().map(|(name, _)| name).collect();
    assert!(
        names.iter().any(|name| name == "tx_good_packets"),
        "{names:?}"
    );
    // Both ways all came: there is nothing to complain of, also not behind the end.
    assert_eq!(left.troubles(), []);
    drop(a);
    assert_eq!(left.troubles(), []);
    assert_eq!(b.counters().lost_by_device, 0);
}

#[test]
fn a_full_device_is_back_pressure_and_then_a_counted_loss() {
    let names = ["net_ring_c", "net_ring_d"];
    let (left, right) = Device::ring_pair(eal(), names, &settings(1, 1500)).unwrap();
    let (mut a, mut b) = (adopt(&left, 0), adopt(&right, 0));
    let mut taken = 0;
    let frame = |number| head(number, 60);
    // Nobody receives: the ring fills, then the queue does.
    while a.transmit(&plain(&frame(taken), &[])) == Ok(()) {
        taken += 1;
        a.flush();
        assert!(taken < 2000, "the queue is bounded");
    }
    let sent = a.counters().sent;
    assert!(
        sent >= 255 && u64::from(taken) - sent == 128,
        "{taken} {sent}"
    );
    assert_eq!(a.transmit(&plain(&frame(0), &[])), Err(Full));
    while a.counters().transmit_errors == 0 {
        a.flush();
    }
    assert_eq!(a.counters().transmit_errors, 1);
    a.transmit(&plain(&frame(taken), &[])).unwrap();
    // All but the one that was dropped arrive, in order.
    let mut numbers = Vec::new();
    for _ in 0..PATIENCE {
        let mut burst = Burst::new();
        b.receive(&mut burst);
        assert!(burst.len() <= BURST);
        let number = |frame: &crate::port::Frame| {
            u32::from_be_bytes(frame.head()[14..18].try_into().unwrap())
        };
        numbers.extend(burst.iter().map(number));
        a.flush();
        if numbers.len() == taken as usize {
            break;
        }
    }
    let lost = u32::try_from(sent).unwrap();
    let expected: Vec<u32> = (0..=taken).filter(|&number| number != lost).collect();
    assert_eq!(numbers, expected);
    assert_eq!(b.counters().received, u64::from(taken));
}

#[test]
fn frames_may_be_dropped_on_another_thread_and_keep_their_buffers_until_then() {
    let names = ["net_ring_e", "net_ring_f"];
    let (left, right) = Device::ring_pair(eal(), names, &settings(1, 1500)).unwrap();
    let (mut a, mut b) = (adopt(&left, 0), adopt(&right, 0));
    let mut held = Vec::new();
    for number in 0..200 {
        a.transmit(&plain(&head(number, 60), &[])).unwrap();
        a.flush();
        let mut burst = Burst::new();
        b.receive(&mut burst);
        held.extend(burst);
    }
    assert_eq!(held.len(), 200);
    let in_use = || left.tx_buffers_in_use();
    assert_eq!(in_use(), 200);
    std::thread::spawn(move || drop(held)).join().unwrap();
    assert_eq!(in_use(), 0);
}

#[test]
fn a_device_that_lets_go_at_once_is_lent_payload() {
    let device = Device::open(eal(), "net_null7", &settings(2, 1500)).unwrap();
    let mut queue = adopt(&device, 1);
    assert!(queue.capabilities().holds_loans);
    assert_eq!(
        (queue.capabilities().queue, queue.capabilities().queues),
        (1, 2)
    );
    let pool = Pool::new(4 * CHUNK_BYTES, Pages::Normal).unwrap();
    let lent = loans(&pool, &contents(1400, 1));
    for _ in 0..100 {
        let pieces = [Piece::Loan(&lent[0])];
        queue.transmit(&plain(&head(0, 60), &pieces)).unwrap();
    }
    assert_eq!(queue.lent(), 100);
    drop(lent);
    assert_eq!(pool.available(), 3);
    queue.flush();
    assert_eq!((queue.lent(), pool.available()), (0, 4));
    assert_eq!(queue.counters().sent, 100);
    // What still waits when the queue ends is given back too.
    let lent = loans(&pool, &contents(1400, 1));
    queue
        .transmit(&plain(&head(0, 60), &[Piece::Loan(&lent[0])]))
        .unwrap();
    drop((queue, lent));
    assert_eq!(pool.available(), 4);
    let again = Device::open(eal(), "net_null7", &settings(2, 1500)).unwrap_err();
    assert_eq!(again, DeviceError::Opened("net_null7".to_owned()));
    drop(device.queue(0).unwrap().adopt(None).unwrap());
    drop(device);
    drop(Device::open(eal(), "net_null7", &settings(1, 1500)).unwrap());
}

#[test]
fn a_frame_in_more_buffers_than_the_device_takes_is_copied() {
    let device = Device::open(eal(), "net_null9", &settings(1, 9000)).unwrap();
    let mut queue = adopt(&device, 0);
    queue.limits_mut().buffers = 4;
    queue.limits_mut().lent = 3000;
    let pool = Pool::new(8 * CHUNK_BYTES, Pages::Normal).unwrap();
    let (head, payload) = (head(1, 60), contents(8000, 3));
    let whole = [&head[..], &payload].concat();
    let lent = loans(&pool, &payload);
    assert_eq!(lent.len(), 1);
    let lengths = |queue: &Queue| {
        queue
            .last_waiting()
            .iter()
            .map(Vec::len)
            .collect::<Vec<_>>()
    };
    // What is too long for a buffer lies in several.
    let pieces = [Piece::Loan(&lent[0])];
    queue.transmit(&plain(&head, &pieces)).unwrap();
    assert_eq!(lengths(&queue), [60, 2667, 2667, 2666]);
    assert!(queue.last_waiting().concat() == whole);
    assert_eq!(queue.lent(), 3);
    // One more is too many: by itself, and where short pieces stand between the others.
    let parts = [0..2000, 2000..4000, 4000..6000, 6000..8000].map(|part| lent[0].part(part));
    let four = [0, 1, 2, 3].map(|at| Piece::Loan(&parts[at]));
    let between = [
        Piece::Loan(&parts[0]),
        Piece::Bytes(&payload[2000..2048]),
        Piece::Loan(&parts[1]),
        Piece::Bytes(&payload[2000..2048]),
    ];
    for (pieces, bytes) in [(&four, 8060), (&between, 4156)] {
        queue.transmit(&plain(&head, pieces)).unwrap();
        let contents = queue.last_waiting().concat();
        let expected: Vec<u8> = pieces
            .iter()
            .flat_map(|piece| piece.bytes())
            .copied()
            .collect();
        assert!(contents[..60] == head && contents[60..] == expected[..]);
        let mut copied = vec![2048; bytes / 2048];
        copied.push(bytes % 2048);
        assert_eq!((lengths(&queue), queue.lent()), (copied, 3));
    }
    drop((lent, parts));
    queue.flush();
    assert_eq!((queue.lent(), pool.available()), (0, 8));
    assert_eq!(queue.counters().sent_bytes, 8060 + 8060 + 4156);
}

/// As long as a frame that the device cuts, in more buffers than one that is lent may have.
#[test]
fn a_frame_of_which_nothing_is_lent_is_copied_once() {
    let device = Device::open(eal(), "net_null11", &settings(1, 9000)).unwrap();
    let mut queue = adopt(&device, 0);
    queue.limits_mut().buffers = 2;
    let (head, payload) = (head(1, 60), contents(8000, 3));
    // 16 chunks: two of them is all that the device may keep.
    let pool = Pool::new(16 * CHUNK_BYTES, Pages::Normal).unwrap();
    queue.lend_from(&pool);
    let lent = loans(&pool, &payload);
    let copied_by = |queue: &mut Queue, piece: Piece<'_>, bytes: usize| {
        let before = mem::copied::bytes();
        queue.transmit(&plain(&head, &[piece])).unwrap();
        assert!(queue.last_waiting().concat()[60..] == payload[..bytes]);
        mem::copied::bytes() - before
    };
    assert_eq!(copied_by(&mut queue, Piece::Bytes(&payload), 8000), 8060);
    assert_eq!(copied_by(&mut queue, Piece::Loan(&lent[0]), 8000), 60);
    let more = loans(&pool, &payload);
    assert_eq!(copied_by(&mut queue, Piece::Loan(&more[0]), 8000), 60);
    // It has its part.
    assert_eq!(copied_by(&mut queue, Piece::Loan(&lent[0]), 8000), 8060);
    queue.flush();
    assert_eq!(queue.lent(), 0);
}

#[test]
fn a_device_keeps_a_part_of_the_pool_and_no_more() {
    let device = Device::open(eal(), "net_null10", &settings(1, 1500)).unwrap();
    let mut queue = adopt(&device, 0);
    let pool = Pool::new(32 * CHUNK_BYTES, Pages::Normal).unwrap();
    queue.lend_from(&pool);
    let bytes = contents(1000, 5);
    for _ in 0..2 {
        for number in 0..12 {
            let lent = loans(&pool, &bytes);
            let pieces = [Piece::Loan(&lent[0])];
            queue.transmit(&plain(&head(number, 60), &pieces)).unwrap();
            assert!(queue.last_waiting().concat()[60..] == bytes);
            drop(lent);
            let expected = usize::try_from(number + 1).unwrap().min(4);
            assert_eq!((queue.lent(), pool.lent()), (expected, expected));
        }
        queue.flush();
        assert_eq!((queue.lent(), pool.available()), (0, 32));
    }
    // Parts of one chunk are one, as frames of 1,500 bytes are.
    let lent = loans(&pool, &contents(CHUNK_BYTES, 5));
    for number in 0..11 {
        let part = lent[0].part(number * 1448..(number + 1) * 1448);
        queue
            .transmit(&plain(&head(0, 60), &[Piece::Loan(&part)]))
            .unwrap();
    }
    assert_eq!((queue.lent(), pool.lent()), (11, 1));
    queue.flush();
    // Memory that is not of the pool is copied.
    let other = Pool::new(CHUNK_BYTES, Pages::Normal).unwrap();
    let lent = loans(&other, &bytes);
    let pieces = [Piece::Loan(&lent[0])];
    queue.transmit(&plain(&head(0, 60), &pieces)).unwrap();
    assert_eq!(queue.lent(), 0);
}

#[test]
fn a_frame_in_pieces_gets_its_headers_in_one() {
    let names = ["net_ring_g", "net_ring_h"];
    let (left, right) = Device::ring_pair(eal(), names, &settings(1, 9000)).unwrap();
    let (a, mut b) = (adopt(&left, 0), adopt(&right, 0));
    let large = Mempool::new(63, 1000, -1).unwrap();
    let small = Mempool::new(127, 64, -1).unwrap();
    let whole = [head(1, 40), contents(5000, 9)].concat();
    for (pool, is_received) in [(&large, true), (&small, false)] {
        let mut chain = Chain::new(pool, &whole[..20]).unwrap();
        chain.close();
        chain.copy(&whole[20..60]).unwrap();
        chain.close();
        chain.copy(&whole[60..]).unwrap();
        let mut mbuf = chain.into_raw();
        // SAFETY: a whole chain of ours, and a queue of this thread.
        let sent = unsafe { sys::iibd_transmit(a.port_number(), 0, &raw mut mbuf, 1) };
        assert_eq!(sent, 1);
        let mut burst = Burst::new();
        b.receive(&mut burst);
        assert_eq!(burst.len(), usize::from(is_received));
        if let Some(frame) = burst.pop() {
            assert!(frame.head().len() >= 128 && frame.slices().count() > 3);
            let bytes: Vec<u8> = frame.slices().flatten().copied().collect();
            assert!(bytes == whole);
        }
        assert_eq!(pool.in_use(), 0);
    }
    assert_eq!(b.counters().receive_errors, 1);
}

#[test]
fn what_cannot_be_had_is_explained() {
    let open = |name: &str, settings: &DeviceSettings| {
        Device::open(eal(), name, settings).unwrap_err().to_string()
    };
    let text = open("net_nil0", &settings(1, 1500));
    assert!(
        text.contains("no driver takes it: net_nil is misspelt"),
        "{text}"
    );
    let text = open("eth0", &settings(1, 1500));
    assert!(
        text.contains("neither a PCI address nor a virtual device"),
        "{text}"
    );
    let text = open("0000:ff:1f.7", &settings(1, 1500));
    assert!(text.contains("dpdk-devbind.py"), "{text}");
    let text = open("net_null8", &settings(5000, 1500));
    assert!(
        text.contains("5000 queues are asked for, it has 1024"),
        "{text}"
    );
    let text = open("net_null8", &settings(1, 500));
    assert!(text.contains("the least is 576"), "{text}");
    let again = Eal::start(&EalSettings {
        huge: false,
        ..EalSettings::default()
    });
    assert_eq!(again.unwrap_err(), EalError::Started);
}

/// A number that no device's name has yet.
fn fresh() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(100);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Buffers of both ends that are free, from some number down: what matters is that all come back.
fn free_buffers(ends: &Ends<Queue, Queue>) -> usize {
    let in_use = ends.left.all_buffers_in_use() + ends.right.all_buffers_in_use();
    1_000_000 - in_use as usize
}

struct Rings {
    mtu: u16,
}

impl Rig for Rings {
    type Left = Queue;
    type Right = Queue;

    fn open(&self) -> Ends<Queue, Queue> {
        let names = [0, 1].map(|_| format!("net_ring_{}", fresh()));
        let settings = settings(1, self.mtu);
        let (left, right) = Device::ring_pair(eal(), [&names[0], &names[1]], &settings).unwrap();
        Ends {
            left: adopt(&left, 0),
            right: adopt(&right, 0),
        }
    }

    fn buffers(&self, ends: &Ends<Queue, Queue>) -> usize {
        free_buffers(ends)
    }
}

#[test]
fn rings_pass_the_suite() {
    suite::run(&Rings { mtu: 1500 });
    suite::run(&Rings { mtu: 9000 });
}

/// Two devices on a veth pair.
struct Packets {
    veth: Veth,
    mtu: u16,
}

impl Rig for Packets {
    type Left = Queue;
    type Right = Queue;

    fn open(&self) -> Ends<Queue, Queue> {
        let ends = [self.veth.0, self.veth.1].map(|interface| {
            let device = format!("net_af_packet{}", fresh());
            adopt(&af_packet(&device, interface, self.mtu, 1), 0)
        });
        let [left, right] = ends;
        Ends { left, right }
    }

    fn buffers(&self, ends: &Ends<Queue, Queue>) -> usize {
        free_buffers(ends)
    }

    /// The kernel's ring is full before anybody reads it, and the driver does not tell.
    fn loses_unseen(&self) -> bool {
        true
    }
}

#[test]
#[ignore = "makes a veth pair: needs root or unshare -rn; run by .ci/run in a namespace"]
fn af_packet_passes_the_suite() {
    for (mtu, text) in [(1500, "1500"), (9000, "9000")] {
        let veth = Veth::new("iibdk6", "iibdk7", text);
        suite::run(&Packets { veth, mtu });
    }
}

/// The two ends of a vhost-user socket, both in this process.
struct Sockets {
    folder: tempfile::TempDir,
    mtu: u16,
}

impl Rig for Sockets {
    type Left = Queue;
    type Right = Queue;

    fn open(&self) -> Ends<Queue, Queue> {
        let path = self.folder.path().join(format!("{}", fresh()));
        let path = path.to_str().unwrap();
        let open = |device: &str| {
            let device = Device::open(eal(), device, &settings(1, self.mtu));
            device.unwrap_or_else(|error| panic!("{error}"))
        };
        let host = open(&format!("net_vhost{},iface={path}", fresh()));
        let guest = open(&format!(
            "net_virtio_user{},path={path},packed_vq=1,queue_size=256",
            fresh()
        ));
        let mut left = adopt(&host, 0);
        let right = adopt(&guest, 0);
        for _ in 0..PATIENCE {
            if left.link().up {
                break;
            }
        }
        assert!(left.link().up, "they found each other");
        Ends { left, right }
    }

    fn buffers(&self, ends: &Ends<Queue, Queue>) -> usize {
        free_buffers(ends)
    }

    /// A sum that the guest leaves to the device is left to nobody.
    fn leaves_sums_out(&self) -> bool {
        true
    }
}

#[test]
fn vhost_and_virtio_user_pass_the_suite() {
    let folder = tempfile::tempdir().unwrap();
    suite::run(&Sockets { folder, mtu: 9000 });
}

/// A veth pair, removed when it is dropped.
struct Veth(&'static str, &'static str);

impl Veth {
    fn new(name: &'static str, peer: &'static str, mtu: &str) -> Self {
        let veth = Self(name, peer);
        ip(&["link", "add", name, "type", "veth", "peer", "name", peer]);
        for end in [name, peer] {
            ip(&["link", "set", end, "addrgenmode", "none", "mtu", mtu, "up"]);
        }
        veth
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        ip(&["link", "del", self.0]);
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().unwrap();
    assert!(status.success(), "ip {arguments:?}");
}

fn af_packet(name: &str, interface: &str, mtu: u16, queues: u16) -> Device {
    let ring = if mtu > 1500 {
        "framesz=16384,blocksz=65536,framecnt=64"
    } else {
        "framesz=2048,blocksz=8192,framecnt=256"
    };
    let device = format!("{name},iface={interface},qpairs={queues},qdisc_bypass=1,{ring}");
    Device::open(eal(), &device, &settings(queues, mtu)).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
#[ignore = "makes a veth pair: needs root or unshare -rn; run by .ci/run in a namespace"]
fn af_packet_carries_frames_over_a_veth_pair() {
    for (mtu, text, names) in [
        (1500, "1500", ["net_af_packet10", "net_af_packet11"]),
        (9000, "9000", ["net_af_packet12", "net_af_packet13"]),
    ] {
        let _veth = Veth::new("iibdk0", "iibdk1", text);
        let left = af_packet(names[0], "iibdk0", mtu, 1);
        let right = af_packet(names[1], "iibdk1", mtu, 1);
        let (mut a, mut b) = (adopt(&left, 0), adopt(&right, 0));
        assert!(a.capabilities().holds_loans && a.link().up);
        assert_ne!(a.capabilities().mac, b.capabilities().mac);
        lengths_pass(&mut a, &mut b);
        receive_tagged(&mut a, &mut b);
        lengths_pass(&mut b, &mut a);
        receive_tagged(&mut b, &mut a);
        lent_payload_passes(&mut a, &mut b);
        assert_eq!(b.counters().receive_errors, 0);
    }
}

#[test]
#[ignore = "makes a veth pair: needs root or unshare -rn; run by .ci/run in a namespace"]
fn af_packet_spreads_flows_over_two_queues() {
    let _veth = Veth::new("iibdk2", "iibdk3", "9000");
    let left = af_packet("net_af_packet14", "iibdk2", 9000, 2);
    let right = af_packet("net_af_packet15", "iibdk3", 9000, 2);
    let mut senders = [adopt(&left, 0), adopt(&left, 1)];
    let mut receivers = [adopt(&right, 0), adopt(&right, 1)];
    let mut counts = [0u32; 2];
    // UDP packets of 64 flows: the kernel hashes addresses and ports.
    for flow in 0..64u16 {
        let mut frame = head(0, 14);
        frame[12..14].copy_from_slice(&[8, 0]);
        frame.extend([
            0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2,
        ]);
        frame.extend((4000 + flow).to_be_bytes());
        frame.extend([0x12, 0x34, 0, 26, 0, 0]);
        frame.resize(60, 0);
        let sender = &mut senders[usize::from(flow % 2)];
        sender.transmit(&plain(&frame, &[])).unwrap();
        sender.flush();
    }
    for _ in 0..PATIENCE {
        for (receiver, count) in receivers.iter_mut().zip(&mut counts) {
            let mut burst = Burst::new();
            receiver.receive(&mut burst);
            let ours = burst.iter().filter(|frame| frame.head()[12..14] == [8, 0]);
            *count += u32::try_from(ours.count()).unwrap();
        }
        if counts[0] + counts[1] == 64 {
            break;
        }
    }
    assert_eq!(counts[0] + counts[1], 64, "{counts:?}");
    assert!(counts.iter().all(|&count| count > 8), "{counts:?}");
    let total = |counters: [Counters; 2]| counters[0].received + counters[1].received;
    assert!(total([receivers[0].counters(), receivers[1].counters()]) >= 64);
}

#[test]
#[ignore = "makes a veth pair: needs root or unshare -rn; run by .ci/run in a namespace"]
fn af_packet_with_a_ring_too_small_for_the_mtu_names_the_remedy() {
    let _veth = Veth::new("iibdk4", "iibdk5", "9000");
    let name = "net_af_packet16,iface=iibdk4";
    let text = Device::open(eal(), name, &settings(1, 9000))
        .unwrap_err()
        .to_string();
    assert!(text.contains("framesz=16384,blocksz=65536"), "{text}");
    let name = "net_af_packet17,iface=iibdk4";
    let text = Device::open(eal(), name, &settings(2, 1500))
        .unwrap_err()
        .to_string();
    assert!(text.contains("qpairs=N"), "{text}");
    let name = "net_af_packet18,iface=iibdk9";
    let text = Device::open(eal(), name, &settings(1, 1500))
        .unwrap_err()
        .to_string();
    assert!(text.contains("net_af_packet18"), "{text}");
}
