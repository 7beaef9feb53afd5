//! Logical units, nexuses and targets: which of them a session sees, and through which portal.

use super::served::{BLOCK, INITIATOR, Served, TARGET, TIMEOUT, config, login, target, unit};
use iiblockdaemon::config::{
    Access, LunMap, Portal, PortalGroup, Redirect, TargetState, parse_pattern,
};
use iiblockdaemon::pdu::{LoginStatus, LunField};
use iiblockdaemon::testing::tcp::{Failure, TcpInitiator, read_16, write_16};
use iiblockdaemon::testing::{self, DataOut, Direction, Scsi};

fn at(lun: LunField, cdb: &[u8], data: Direction) -> Scsi {
    Scsi {
        lun,
        ..Scsi::new(0, cdb, data)
    }
}

fn report_luns(it: &mut TcpInitiator) -> Vec<[u8; 8]> {
    let mut cdb = [0; 12];
    cdb[0] = 0xa0;
    cdb[6..10].copy_from_slice(&8192_u32.to_be_bytes());
    let outcome = it
        .execute_good(Scsi::new(0, &cdb, Direction::In(8192)))
        .unwrap();
    let list = outcome.data_in[8..].chunks_exact(8);
    list.map(|lun| lun.try_into().unwrap()).collect()
}

#[test]
fn masks_read_only_mappings_and_far_luns() {
    let mut config = config();
    config.logical_units = (0..3).map(|n| unit(&format!("disk{n}"))).collect();
    let map = |lun, unit| LunMap {
        lun,
        unit,
        read_only: false,
        initiators: Vec::new(),
        queue_depth: None,
    };
    config.targets[0].luns = vec![
        map(0, 0),
        LunMap {
            read_only: true,
            ..map(1, 1)
        },
        LunMap {
            initiators: vec![parse_pattern("iqn.2026-11.io.x:*").unwrap()],
            ..map(2, 2)
        },
        map(300, 1),
    ];
    let served = Served::start(config);
    let mut it = served.session(login());
    it.write_blocks(0, 0, &[1; 512], BLOCK).unwrap();
    let peripheral = |lun: u8| LunField([0, lun, 0, 0, 0, 0, 0, 0]);
    // Read-only here, and writable through another LUN: the same blocks.
    let data = Direction::Out(DataOut::new(vec![7; 512]));
    let write = at(peripheral(1), &write_16(5, 1, false), data.clone());
    let outcome = it.execute(write).unwrap();
    assert_eq!(
        outcome.sense_code(),
        Some((0x07, 0x27, 0x00)),
        "write protected"
    );
    let flat = LunField([0x41, 0x2c, 0, 0, 0, 0, 0, 0]);
    let extended = LunField([0xd2, 0, 0x01, 0x2c, 0, 0, 0, 0]);
    let ready = it.execute(at(flat, &[0; 6], Direction::None)).unwrap();
    assert_eq!(
        ready.sense_code().map(|code| code.0),
        Some(0x06),
        "its own nexus"
    );
    it.execute_good(at(flat, &write_16(5, 1, false), data))
        .unwrap();
    for lun in [peripheral(1), flat, extended] {
        let read = at(lun, &read_16(5, 1), Direction::In(512));
        assert_eq!(it.execute_good(read).unwrap().data_in, [7; 512]);
    }
    // The masked one is not there.
    let test = at(peripheral(2), &[0; 6], Direction::None);
    let outcome = it.execute(test.clone()).unwrap();
    assert_eq!(outcome.sense_code(), Some((0x05, 0x25, 0x00)));
    assert_eq!(
        report_luns(&mut it),
        [peripheral(0).0, peripheral(1).0, flat.0]
    );
    let friend = testing::Config::new("iqn.2026-11.io.x:friend", TARGET);
    let mut friend = served.session_on(0, friend, &[0, 1, 2]);
    assert_eq!(report_luns(&mut friend).len(), 4);
    friend.execute_good(test).unwrap();
}

#[test]
fn report_luns_lists_256_of_them() {
    let mut config = config();
    let luns: Vec<(u16, usize)> = (0..256).map(|lun| (lun, usize::from(lun % 2))).collect();
    config.targets[0] = target(TARGET, &luns);
    let served = Served::start(config);
    let mut it = served.session(login());
    let mut cdb = [0; 12];
    cdb[0] = 0xa0;
    cdb[6..10].copy_from_slice(&8192_u32.to_be_bytes());
    let outcome = it
        .execute_good(Scsi::new(0, &cdb, Direction::In(8192)))
        .unwrap();
    assert_eq!(outcome.data_in[..4], (256 * 8_u32).to_be_bytes());
    for (lun, entry) in (0..=255).zip(outcome.data_in[8..].chunks_exact(8)) {
        assert_eq!(entry, [0, lun, 0, 0, 0, 0, 0, 0]);
    }
    it.write_blocks(0, 3, &[9; 512], BLOCK).unwrap();
    it.clear_unit_attentions(254).unwrap();
    assert_eq!(it.read_blocks(254, 3, 1, BLOCK).unwrap(), [9; 512]);
}

#[test]
fn a_new_nexus_is_told_once_of_power_on() {
    let served = Served::start(config());
    let attention = |it: &mut TcpInitiator, lun: u8| {
        let outcome = it
            .execute(Scsi::new(lun, &[0; 6], Direction::None))
            .unwrap();
        outcome.sense_code()
    };
    let mut first = served.session_on(0, login(), &[]);
    assert_eq!(attention(&mut first, 0), Some((0x06, 0x29, 0x00)));
    assert_eq!(attention(&mut first, 0), None);
    // Each logical unit, and each nexus, has its own.
    assert_eq!(attention(&mut first, 1), Some((0x06, 0x29, 0x00)));
    let mut second = served.session_on(0, login().with_isid_qualifier(9), &[]);
    assert_eq!(attention(&mut second, 0), Some((0x06, 0x29, 0x00)));
    assert_eq!(attention(&mut first, 0), None);
    assert_eq!(attention(&mut first, 1), None);
}

#[test]
fn targets_and_portal_groups_lead_where_they_say() {
    let mut config = config();
    let portal = |address: &str| Portal {
        address: address.parse().unwrap(),
        port: None,
        optional: false,
    };
    config.portal_groups = vec![
        PortalGroup {
            tag: 1,
            portals: vec![portal("127.0.0.1:0")],
            access: Access::Optimized,
            preferred: false,
        },
        PortalGroup {
            tag: 7,
            portals: vec![portal("[::1]:0"), portal("127.0.0.1:0")],
            access: Access::Optimized,
            preferred: false,
        },
    ];
    let mut second = target("iqn.2026-11.io.x:second", &[(0, 1)]);
    second.portal_groups = vec![7];
    config.targets.push(second);
    config.targets[0].portal_groups = vec![1, 7];
    let served = Served::start(config);
    assert_eq!(served.addresses.len(), 3);
    let connect = |at: usize, name: &str| {
        let login = testing::Config::new(INITIATOR, name);
        TcpInitiator::connect(served.addresses[at], login, TIMEOUT)
    };
    for (at, tag) in [(0, 1), (1, 7), (2, 7)] {
        let mut it = connect(at, TARGET).unwrap();
        assert_eq!(it.engine().negotiated().target_portal_group_tag, Some(tag));
        it.clear_unit_attentions(0).unwrap();
        it.write_blocks(0, 0, &[u8::try_from(at).unwrap(); 512], BLOCK)
            .unwrap();
        it.logout().unwrap();
    }
    let mut other = connect(1, "iqn.2026-11.io.x:second").unwrap();
    other.clear_unit_attentions(0).unwrap();
    assert_eq!(
        other.read_blocks(0, 0, 1, BLOCK).unwrap(),
        [0; 512],
        "another disk"
    );
    assert!(matches!(
        connect(0, "iqn.2026-11.io.x:second"),
        Err(Failure::LoginRefused(_))
    ));
    let discovery = testing::Config::discovery(INITIATOR);
    let found = TcpInitiator::discover(served.addresses[1], discovery, TIMEOUT).unwrap();
    let groups = |name: &str| -> Vec<u16> {
        let (_, addresses) = found.iter().find(|(found, _)| found == name).unwrap();
        let tags = addresses
            .iter()
            .map(|address| address.rsplit(',').next().unwrap());
        tags.map(|tag| tag.parse().unwrap()).collect()
    };
    assert_eq!(groups("iqn.2026-11.io.x:second"), [7, 7]);
    assert_eq!(groups(TARGET), [1, 7, 7]);
}

/// RFC 7143 §11.13.5: each has its status, and discovery still names what is not removed.
#[test]
fn targets_that_are_elsewhere_removed_or_unavailable_say_so() {
    let mut config = config();
    let names = ["moved", "gone", "away"].map(|name| format!("{TARGET}.{name}"));
    for name in &names {
        config.targets.push(target(name, &[(0, 0)]));
    }
    config.targets[1].redirect = Some(Redirect {
        to: "192.0.2.1:3260".parse().unwrap(),
        permanent: false,
        portal_groups: vec![1],
    });
    config.targets[2].state = TargetState::Removed;
    config.targets[3].state = TargetState::Unavailable;
    let served = Served::start(config);
    for (name, status) in names.iter().zip([
        LoginStatus::TARGET_MOVED_TEMPORARILY,
        LoginStatus::TARGET_REMOVED,
        LoginStatus::SERVICE_UNAVAILABLE,
    ]) {
        let login = testing::Config::new(INITIATOR, name);
        match TcpInitiator::connect(served.address(), login, TIMEOUT) {
            Err(Failure::LoginRefused(told)) => assert_eq!(told, status),
            other => panic!("{name}: {other:?}"),
        }
    }
    let discovery = testing::Config::discovery(INITIATOR);
    let listed = TcpInitiator::discover(served.address(), discovery, TIMEOUT).unwrap();
    let listed: Vec<_> = listed.into_iter().map(|(name, _)| name).collect();
    assert_eq!(listed, [TARGET, &names[2], &names[0]]);
}
