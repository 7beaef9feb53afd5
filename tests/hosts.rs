//! What hosts send when they take a disk into use, replayed from public descriptions: a daemon on
//! two cores, two hosts on different ones.
//!
//! `esxi`: VMFS creation and the array offloads of ESXi. `cluster`: what the storage validation of
//! a Windows failover cluster does with persistent reservations.

#![expect(
    clippy::tests_outside_test_module,
    reason = "this whole file is a test"
)]

#[path = "hosts/cluster.rs"]
mod cluster;
#[path = "hosts/esxi.rs"]
mod esxi;
#[path = "hosts/host.rs"]
mod host;
#[path = "common/served.rs"]
mod served;
