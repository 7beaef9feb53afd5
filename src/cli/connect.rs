//! The lines to paste into an initiator, printed when the daemon listens.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::{Auth, Config, Target};

/// Targets whose lines are printed; a long list helps nobody.
const TARGETS_SHOWN_MAX: usize = 4;

/// How to connect to `config`'s targets on the addresses that the daemon listens on.
pub fn connect_lines(config: &Config, listening: &[SocketAddr]) -> String {
    let mut out = String::new();
    for address in listening {
        line(&mut out, &format!("listening on {address}"));
    }
    let Some(portal) = listening.first().copied().map(reachable) else {
        return out;
    };
    for target in config.targets.iter().take(TARGETS_SHOWN_MAX) {
        target_lines(&mut out, target, portal);
    }
    if let Some(more) = config.targets.len().checked_sub(TARGETS_SHOWN_MAX + 1) {
        line(&mut out, &format!("and {} more targets", more + 1));
    }
    out
}

fn target_lines(out: &mut String, target: &Target, portal: SocketAddr) {
    let name = &target.name;
    line(out, &format!("\n{name}"));
    line(out, "  Linux (open-iscsi):");
    line(
        out,
        &format!("    iscsiadm -m discovery -t sendtargets -p {portal}"),
    );
    if let Auth::Chap(chap) = &target.auth {
        let node =
            format!("    iscsiadm -m node -T {name} -p {portal} -o update -n node.session.auth");
        line(out, &format!("{node}.authmethod -v CHAP"));
        line(out, &format!("{node}.username -v {}", chap.user));
        line(out, &format!("{node}.password -v SECRET"));
    }
    line(
        out,
        &format!("    iscsiadm -m node -T {name} -p {portal} --login"),
    );
    let user = match &target.auth {
        Auth::None => String::new(),
        Auth::Chap(chap) => format!("{}%SECRET@", chap.user),
    };
    let lun = target.luns.first().map_or(0, |lun| lun.lun);
    line(out, "  QEMU:");
    line(
        out,
        &format!("    -drive file=iscsi://{user}{portal}/{name}/{lun},format=raw,if=virtio"),
    );
    line(out, "  libiscsi:");
    line(out, &format!("    iscsi-ls -s iscsi://{user}{portal}"));
}

/// An address that a client on this machine can connect to.
fn reachable(address: SocketAddr) -> SocketAddr {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

fn line(out: &mut String, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{text}");
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Chap, Secret};
    use crate::iscsi::auth::ChapAlgorithm;

    #[test]
    fn the_embedded_target_can_be_pasted() {
        let config = Config::embedded(Path::new("/state"));
        let lines = connect_lines(&config, &["0.0.0.0:3261".parse().unwrap()]);
        for expected in [
            "listening on 0.0.0.0:3261\n",
            "iscsiadm -m discovery -t sendtargets -p 127.0.0.1:3261\n",
            "iscsiadm -m node -T iqn.2026-11.io.iiblockdaemon:disk0 -p 127.0.0.1:3261 --login\n",
            "file=iscsi://127.0.0.1:3261/iqn.2026-11.io.iiblockdaemon:disk0/0,format=raw",
            "iscsi-ls -s iscsi://127.0.0.1:3261\n",
        ] {
            assert!(lines.contains(expected), "{expected} not in\n{lines}");
        }
    }

    #[test]
    fn chap_lines_name_the_user_and_never_the_secret() {
        let mut config = Config::embedded(Path::new("/state"));
        config.targets[0].auth = Auth::Chap(Chap {
            user: "alice".to_owned(),
            secret: Secret::new(b"correct horse".to_vec()).unwrap(),
            mutual: None,
            algorithms: ChapAlgorithm::ALL.to_vec(),
        });
        let lines = connect_lines(&config, &["[::1]:3260".parse().unwrap()]);
        assert!(
            lines.contains("node.session.auth.username -v alice\n"),
            "{lines}"
        );
        assert!(
            lines.contains("iscsi-ls -s iscsi://alice%SECRET@[::1]:3260\n"),
            "{lines}"
        );
        assert!(!lines.contains("correct horse"));
    }

    #[test]
    fn long_lists_of_targets_are_cut() {
        let mut config = Config::embedded(Path::new("/state"));
        let target = config.targets[0].clone();
        config.targets = vec![target; TARGETS_SHOWN_MAX + 3];
        let lines = connect_lines(&config, &["127.0.0.1:3260".parse().unwrap()]);
        assert!(lines.ends_with("and 3 more targets\n"), "{lines}");
    }
}
