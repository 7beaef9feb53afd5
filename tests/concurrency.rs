//! What must hold between sessions, cores and devices: task management, reinstatement, the end.
//!
//! Writes are held at the device, so that each test decides what is under way when. Every guard
//! that is tested here is also taken away once, and the same check must then notice: a check
//! returns what it saw, one test wants the good answer, the other the bad one.
//!
//! `aborts` and `resets`: task management. `task_sets`: the order of tasks. `reinstatement`: logins
//! that supersede. `connections`: several of one session. `endings`: logout and the stop of the
//! daemon. `freeze`: COMPARE AND WRITE against all others. `copies`: third-party copies.
//! `replicas`: what every core must know of a unit. `reservations`: who may write. `sanitize`: what
//! outlives all of these. `news`: what every nexus is told. `acts`: what all of them do.

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
