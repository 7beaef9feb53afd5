//! DPDK from start to end, in a process of its own: it can be started only once.
#![cfg(feature = "dpdk")]

use std::fs;

use iiblockdaemon::mem::{CHUNK_BYTES, Pages, Pool};
use iiblockdaemon::port::dpdk::{Device, DeviceSettings, Eal, EalError, EalSettings};
use iiblockdaemon::port::{Burst, Offload, Outgoing, Piece, Port};

/// The names of this process's threads.
fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}

/// One core's life: sends out of a pool of its own, and ends with frames and loans in hand.
fn core(device: &Device, queue: u16) {
    let pool = Pool::new(4 * CHUNK_BYTES, Pages::Normal).unwrap();
    let mut queue = device.queue(queue).unwrap().adopt(Some(&pool)).unwrap();
    let mut buf = pool.alloc(1400).unwrap();
    buf.fill(0, 1400, 7);
    let mut loans = Vec::new();
    buf.lend(0..1400, |loan| loans.push(loan));
    drop(buf);
    let frame = Outgoing {
        head: &[0xff; 54],
        payload: &[Piece::Loan(&loans[0])],
        offload: Offload::default(),
    };
    let mut held = Vec::new();
    for _ in 0..100 {
        queue.transmit(&frame).unwrap();
        queue.flush();
        let mut burst = Burst::new();
        queue.receive(&mut burst);
        held.extend(burst.into_iter().take(1));
    }
    queue.transmit(&frame).unwrap();
    assert_eq!((queue.counters().sent, held.len()), (100, 100));
    drop((held, queue, loans));
    assert_eq!(pool.available(), 4);
}

/// Frames that go to the other process and back.
const ECHOES: u32 = 2000;
/// Polls until a frame that does not come is given up.
const PATIENCE: u64 = 200_000_000;

/// One end of a vhost-user socket: the guest sends and wants everything back, the host sends it.
fn end(device: &str, is_guest: bool) {
    let settings = EalSettings {
        memory_mib: 64,
        huge: false,
        vdevs: vec![device.to_owned()],
        ..EalSettings::default()
    };
    let eal = Eal::start(&settings).unwrap_or_else(|error| panic!("{error}"));
    let settings = DeviceSettings {
        mtu: 9000,
        frames: 256,
        rx_descriptors: 256,
        tx_descriptors: 256,
        ..DeviceSettings::default()
    };
    let name = device.split(',').next().unwrap();
    let device = Device::open(&eal, name, &settings).unwrap_or_else(|error| panic!("{error}"));
    let mut queue = device.queue(0).unwrap().adopt(None).unwrap();
    let frame = |number: u32| {
        let mut bytes = vec![0x5a; 9014];
        bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
        bytes[14..18].copy_from_slice(&number.to_be_bytes());
        bytes
    };
    let (mut done, mut polls) = (0, 0);
    let mut is_out = false;
    while done < ECHOES {
        polls += 1;
        assert!(polls < PATIENCE, "{done} frames: {:?}", queue.counters());
        let expected = frame(done);
        let mut burst = Burst::new();
        queue.receive(&mut burst);
        let has_come = burst.pop().inspect(|came| {
            let bytes: Vec<u8> = came.slices().flatten().copied().collect();
            assert!(bytes == expected, "frame {done} is as it was sent");
        });
        let sends = if is_guest {
            !is_out && queue.link().up
        } else {
            has_come.is_some()
        };
        if sends {
            let (head, payload) = expected.split_at(54);
            let outgoing = Outgoing {
                head,
                payload: &[Piece::Bytes(payload)],
                offload: Offload::default(),
            };
            queue.transmit(&outgoing).unwrap();
            is_out = true;
        }
        if has_come.is_some() {
            done += 1;
            is_out = false;
        }
        queue.flush();
    }
    // The host's last frame may still be on its way when its end goes.
    while !is_guest && queue.link().up && polls < PATIENCE {
        polls += 1;
        queue.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "one end of the test below, which runs it"]
    fn an_end() {
        let device = std::env::var("IIBD_TEST_DEVICE").unwrap();
        end(&device, device.contains("virtio"));
    }

    #[test]
    fn a_socket_joins_two_processes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let path = path.to_str().unwrap();
        let spawn = |device: String| {
            std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "tests::an_end", "--ignored", "--nocapture"])
                .env("IIBD_TEST_DEVICE", device)
                .spawn()
                .unwrap()
        };
        let mut host = spawn(format!("net_vhost0,iface={path}"));
        while !std::path::Path::new(path).exists() {
            assert!(host.try_wait().unwrap().is_none(), "the host has ended");
            std::thread::yield_now();
        }
        let mut guest = spawn(format!(
            "net_virtio_user0,path={path},packed_vq=1,queue_size=256"
        ));
        assert!(guest.wait().unwrap().success());
        assert!(host.wait().unwrap().success());
    }

    #[test]
    fn it_starts_once_refuses_too_much_and_ends_without_a_trace() {
        start_and_end(false);
    }

    #[test]
    #[ignore = "needs 64 free huge pages of 2 MiB; run alone: DPDK starts once per process"]
    fn the_same_out_of_huge_pages() {
        start_and_end(true);
    }

    fn start_and_end(huge: bool) {
        let settings = EalSettings {
            cpus: vec![0],
            memory_mib: 128,
            huge,
            single_file_segments: huge,
            vdevs: vec!["net_null0,size=200".to_owned(), "net_null1".to_owned()],
            ..EalSettings::default()
        };
        let before = rustix::thread::sched_getaffinity(None).unwrap();
        let eal = Eal::start(&settings).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(rustix::thread::sched_getaffinity(None).unwrap(), before);
        assert!(threads().contains(&"dpdk-eal".to_owned()));
        let small = DeviceSettings {
            queues: 2,
            frames: 200,
            ..DeviceSettings::default()
        };
        let large = DeviceSettings {
            frames: 1_000_000,
            ..small.clone()
        };
        let text = Device::open(&eal, "net_null1", &large)
            .unwrap_err()
            .to_string();
        assert!(text.contains("raise DPDK's memory"), "{text}");
        let device = Device::open(&eal, "net_null0", &small).unwrap();
        assert_eq!(Eal::start(&settings).unwrap_err(), EalError::Started);
        std::thread::scope(|scope| {
            for queue in [0, 1] {
                let device = &device;
                scope.spawn(move || core(device, queue));
            }
        });
        drop(eal);
        assert!(
            threads().contains(&"dpdk-eal".to_owned()),
            "a device is left"
        );
        drop(device);
        let left = threads();
        assert!(!left.contains(&"dpdk-eal".to_owned()), "{left:?}");
        assert_eq!(Eal::start(&settings).unwrap_err(), EalError::Started);
    }
}
