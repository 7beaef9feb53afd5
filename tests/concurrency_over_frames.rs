//! The same as `concurrency`, with the daemon at the other end of a port in memory: two cores with
//! a queue and a TCP of their own each, jumbo frames, and a stack for the initiators.

#![expect(
    clippy::tests_outside_test_module,
    reason = "this whole file is a test"
)]

#[path = "concurrency/aborts.rs"]
mod aborts;
#[path = "concurrency/acts.rs"]
mod acts;
#[path = "concurrency/connections.rs"]
mod connections;
#[path = "concurrency/copies.rs"]
mod copies;
#[path = "concurrency/endings.rs"]
mod endings;
#[path = "concurrency/freeze.rs"]
mod freeze;
#[path = "concurrency/news.rs"]
mod news;
#[path = "concurrency/reinstatement.rs"]
mod reinstatement;
#[path = "concurrency/replicas.rs"]
mod replicas;
#[path = "concurrency/reservations.rs"]
mod reservations;
#[path = "concurrency/resets.rs"]
mod resets;
#[path = "concurrency/sanitize.rs"]
mod sanitize;
#[path = "common/served.rs"]
mod served;
#[path = "concurrency/task_sets.rs"]
mod task_sets;
