//! The data path takes and gives back no memory of the heap once a session has been warm: not for
//! READs, not for WRITEs with immediate data or R2T, not with digests, from the socket to the
//! memory disk, or to the queues of an NVMe controller (the model of one).
//!
//! A counting allocator looks at the data core's thread alone. That thread marks itself when it is
//! asked for the random bytes of a CHAP challenge, the one place where a test has code of its own
//! on it.

#![expect(
    clippy::tests_outside_test_module,
    reason = "this whole file is a test"
)]

#[path = "common/heap.rs"]
mod heap;
#[path = "common/served.rs"]
mod served;

use iiblockdaemon::backend::NvmeModel;
use iiblockdaemon::daemon::Hooks;
use iiblockdaemon::testing::Config;
use iiblockdaemon::testing::tcp::TcpInitiator;
use served::{
    Served, TARGET, TIMEOUT, TOML_CHAP, TOML_MEMORY, chap, login, toml_head, toml_target, toml_unit,
};

/// Of the model's controller.
const ADDRESS: &str = "0000:a1:00.0";
/// 16 MiB in blocks of 512 bytes, as the memory disk has.
const BLOCKS: u64 = 1 << 15;

fn configuration(backend: &str) -> String {
    [
        &toml_head(1, 64),
        "[limits]\nnop_interval_s = 0\n",
        &toml_unit("disk", backend),
        &toml_target(TARGET, TOML_CHAP, &["disk"]),
    ]
    .concat()
}

/// Runs on the data core's thread.
fn mark_this_thread(bytes: &mut [u8]) {
    heap::count_this_thread();
    getrandom::fill(bytes).expect("the kernel's random source answers");
}

fn log_in(served: &Served, digests: bool) -> TcpInitiator {
    let config = Config {
        auth: chap(),
        ..login()
    };
    let config = config.with_digests(digests, digests);
    let mut it = TcpInitiator::connect(served.address(), config, TIMEOUT).expect("a login");
    it.clear_unit_attentions(0).expect("it is ready");
    it
}

/// All of it, for a unit with this backend.
fn assert_the_heap_is_left_alone(backend: &str) {
    let hooks = || Hooks {
        random: Some(mark_this_thread),
        ..Hooks::default()
    };
    let served = Served::from_toml(&configuration(backend), hooks);
    for digests in [false, true] {
        let before_login = heap::counts();
        let mut it = log_in(&served, digests);
        // A login does allocate: the counter sees the right thread.
        assert!(heap::counts().0 > before_login.0, "nothing is counted");
        heap::assert_left_alone(&mut it);
        it.logout().expect("an end in order");
    }
}

// One test: each counts what every core does.
#[test]
fn reads_and_writes_of_a_warm_session_leave_the_heap_alone() {
    assert_the_heap_is_left_alone(TOML_MEMORY);
    let model = NvmeModel::at(ADDRESS, BLOCKS);
    assert_the_heap_is_left_alone(&format!(r#"{{ type = "nvme", address = "{ADDRESS}" }}"#));
    let (read, write) = (model.commands(2), model.commands(1));
    assert!(read > 2000 && write > 4000, "{read} reads, {write} writes");
}
