//! tgt (Debian's `tgtd`) as a target that none of us wrote, to prove our own initiator on.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

pub(crate) const TARGET: &str = "iqn.2026-11.io.iiblockdaemon:judge";
/// Attempts to reach the control socket or the portal before tgtd counts as broken.
const ATTEMPTS_MAX: u32 = 2000;

/// A running tgtd with one target, whose LUN 1 is a file of 64 MiB.
pub(crate) struct Tgt {
    child: Child,
    control_port: String,
    pub(crate) address: SocketAddr,
    _directory: TempDir,
}

impl Tgt {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let disk = directory.path().join("disk.img");
        std::fs::File::create(&disk)
            .and_then(|file| file.set_len(64 << 20))
            .expect("a disk image");
        let address = free_address();
        // Control ports are numbers of sockets in /run/tgtd: the portal's port is ours alone.
        let control_port = (address.port() % 32_000).to_string();
        let child = Command::new("tgtd")
            .args(["--foreground", "--control-port", &control_port])
            .args(["--iscsi", &format!("portal={address}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("tgtd starts; Debian package tgt");
        let it = Self {
            child,
            control_port,
            address,
            _directory: directory,
        };
        it.wait_for_control();
        it.admin(&[
            "--op", "new", "--mode", "target", "--tid", "1", "-T", TARGET,
        ]);
        let path = disk.to_str().expect("a temporary path is text");
        it.admin(&[
            "--op",
            "new",
            "--mode",
            "logicalunit",
            "--tid",
            "1",
            "--lun",
            "1",
            "-b",
            path,
        ]);
        it.admin(&[
            "--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL",
        ]);
        it
    }

    /// One tgtadm call, which must succeed.
    pub(crate) fn admin(&self, arguments: &[&str]) {
        assert!(self.try_admin(arguments), "tgtadm {arguments:?}");
    }

    fn try_admin(&self, arguments: &[&str]) -> bool {
        Command::new("tgtadm")
            .args(["--control-port", &self.control_port, "--lld", "iscsi"])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    fn wait_for_control(&self) {
        let is_up = (0..ATTEMPTS_MAX).any(|_| {
            self.try_admin(&["--op", "show", "--mode", "sys"])
                && TcpStream::connect(self.address).is_ok()
        });
        assert!(
            is_up,
            "tgtd does not answer on its control socket or on {}",
            self.address
        );
    }
}

impl Drop for Tgt {
    fn drop(&mut self) {
        // tgtd may be gone already; either way nothing is left to wait for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback address whose port nobody uses now.
fn free_address() -> SocketAddr {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port of the host's choice");
    listener
        .local_addr()
        .expect("a bound socket has an address")
}
