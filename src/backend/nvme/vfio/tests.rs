//! What can be opened, by trees that look like /sys; and a real controller, where there is one.

use super::super::bar::{self, Bar, Presence};
use std::time::{Duration, Instant};

use super::super::dma::{DmaPages, DmaSpace, MapError, Mapping};
use super::super::spec::{command, registers::offset};
use super::sysfs::tests::Fake;
use super::*;
use crate::mem::{CHUNK_BYTES, Pages, Pool};

#[test]
fn only_controllers_that_are_bound_can_be_opened() {
    let fake = Fake::new();
    let address: PciAddress = "0000:5e:00.0".parse().unwrap();
    let opened = || usable(fake.root(), address);
    assert_eq!(opened(), Err(OpenError::Missing(address)));
    fake.function("0000:5e:00.0", "0x020000", "vfio-pci");
    let class = 0x02_00_00;
    assert_eq!(opened(), Err(OpenError::Class { address, class }));
    fake.function("0000:5e:00.0", "0x010802", "nvme");
    let driver = "nvme".to_owned();
    let refused = opened().unwrap_err();
    assert_eq!(refused, OpenError::Driver { address, driver });
    let text = refused.to_string();
    assert!(
        text.contains("iiblockdaemon nvme bind 0000:5e:00.0"),
        "{text}"
    );
    fake.function("0000:5e:00.0", "0x010802", "vfio-pci");
    assert_eq!(opened().unwrap().driver.as_deref(), Some("vfio-pci"));
}

#[test]
fn what_vfio_would_refuse_is_refused_by_name() {
    let fake = Fake::new();
    fake.function("0000:5e:00.0", "0x010802", "vfio-pci");
    let address: PciAddress = "0000:5e:00.0".parse().unwrap();
    let opened = |api, unsafe_noiommu| {
        let options = OpenOptions {
            unsafe_noiommu,
            api,
        };
        let function = usable(fake.root(), address).unwrap();
        Opened::new(&function, options, &Events::new().unwrap()).unwrap_err()
    };
    assert_eq!(opened(Api::Any, true), OpenError::NoGroup);
    assert_eq!(opened(Api::Device, false), OpenError::NoDeviceFile);
    let device = "sys/bus/pci/devices/0000:5e:00.0";
    fake.link(
        &format!("{device}/iommu_group"),
        "../../../kernel/iommu_groups/4000000",
    );
    fake.file(
        "sys/bus/pci/kernel/iommu_groups/4000000/name",
        "vfio-noiommu\n",
    );
    fake.link(
        &format!("{device}/iommu_group"),
        "../../kernel/iommu_groups/4000000",
    );
    assert_eq!(opened(Api::Any, false), OpenError::Unguarded);
    fake.file(&format!("{device}/vfio-dev/vfio4000000/dev"), "");
    let without_iommu = opened(Api::Device, false);
    assert_eq!(without_iommu, OpenError::NoDeviceFile, "iommufd needs one");
}

/// Opens a real controller, by each way that this kernel has. The script in `tests/vm` runs this.
#[test]
#[ignore = "needs IIBD_TEST_NVME, the address of an NVMe controller that is bound to vfio-pci"]
fn a_real_controller_is_opened_and_reset_and_given_back() {
    let address = std::env::var("IIBD_TEST_NVME").unwrap();
    let address: PciAddress = address.parse().unwrap();
    let function = function_at(address).unwrap();
    let mut ways = vec![Api::Group];
    if function.character.is_some() {
        ways.push(Api::Device);
    }
    for api in ways {
        let options = OpenOptions {
            api,
            unsafe_noiommu: false,
        };
        let (bar, space) = open(address, options).unwrap();
        serve(&bar, &space);
        drop(bar);
        println!("{api:?}: opened, mapped, reset, released, reopened");
    }
}

/// Everything that a function can be asked for without commands.
fn serve(bar: &VfioBar, space: &Arc<VfioSpace>) {
    let seen = (bar::capabilities(bar), bar::version(bar));
    println!(
        "CAP {:#018x} VS {:#x} BAR {:#x}",
        seen.0.0,
        seen.1.0,
        bar.len()
    );
    assert_ne!(seen.0.0, u64::MAX);
    assert_eq!(bar.presence(), Presence::Here);
    let again = open(bar_address(), OpenOptions::default());
    assert!(matches!(again, Err(OpenError::Busy(_))), "{again:?}");
    let pool = Pool::new(64 * CHUNK_BYTES, Pages::Normal).unwrap();
    let mapping = Mapping::new(space, pool).unwrap();
    let pages = DmaPages::new(space, 8192, Pages::Normal).unwrap();
    let iova = pages.iova(0..8192).unwrap();
    assert!(iova.0 > 0);
    let mut rings = DmaPages::new(space, 3 * PAGE_BYTES, Pages::Normal).unwrap();
    identify(bar, &mut rings);
    bar.reset().unwrap();
    assert_eq!(bar.r32(offset::CC), 0, "a register is at its default");
    assert!(!bar::status(bar).is_ready());
    assert_eq!((bar::capabilities(bar), bar::version(bar)), seen);
    mapping.revoke().unwrap();
    bar.release();
    assert_eq!(bar.presence(), Presence::Gone);
    assert_eq!(bar.r32(0), u32::MAX);
    bar.w32(0x1000, 1);
    let held = DmaPages::new(space, 4096, Pages::Normal).unwrap();
    bar.reopen().unwrap();
    assert_eq!((bar::capabilities(bar), bar::version(bar)), seen);
    // What was mapped before is mapped for the function that came back.
    identify(bar, &mut rings);
    bar.reset().unwrap();
    drop(rings);
    assert_eq!(bar.presence(), Presence::Here);
    assert_eq!(pages.iova(0..8192).unwrap(), iova);
    drop((held, pages));
    let nothing: Result<(), MapError> = space.unmap(&[]);
    assert_eq!(nothing, Ok(()));
}

/// Enables the controller with admin queues in `rings`, has it identify itself there, and prints
/// its serial number.
fn identify(bar: &VfioBar, rings: &mut DmaPages<VfioSpace>) {
    let at = |page: usize| {
        let first = page * PAGE_BYTES;
        rings.iova(first..first + PAGE_BYTES).unwrap().0
    };
    let (submissions, completions, data) = (at(0), at(1), at(2));
    rings.zero(0..3 * PAGE_BYTES);
    bar.w32(offset::AQA, 0x000f_000f);
    bar.w64(offset::ASQ, submissions);
    bar.w64(offset::ACQ, completions);
    // IOCQES 4, IOSQES 6, EN.
    bar.w32(offset::CC, 4 << 20 | 6 << 16 | 1);
    within(|| bar::status(bar).is_ready());
    let mut entry = command::identify(command::Identify::Controller);
    entry.set_prps(data, 0);
    rings.put_command(0, &entry);
    bar.w32(offset::DOORBELLS, 1);
    within(|| rings.completion(PAGE_BYTES, true).is_some());
    let completion = rings.completion(PAGE_BYTES, true).unwrap();
    assert_eq!(
        (completion.status().kind(), completion.status().code()),
        (0, 0)
    );
    let mut serial = [0; 20];
    rings.copy_out(2 * PAGE_BYTES + 4, &mut serial);
    println!("serial {:?}", String::from_utf8_lossy(&serial).trim());
    assert!(serial[0].is_ascii_graphic());
}

/// Looks again and again, for ten seconds at most.
#[expect(
    clippy::disallowed_methods,
    reason = "a device of this machine takes its own time"
)]
fn within(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < end, "the controller does not answer");
        std::thread::yield_now();
    }
}

fn bar_address() -> PciAddress {
    std::env::var("IIBD_TEST_NVME").unwrap().parse().unwrap()
}
