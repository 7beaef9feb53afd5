//! A daemon that has nothing to do costs nothing, sessions or not. Alone in its process, whose CPU
//! time it measures.

#![expect(
    clippy::tests_outside_test_module,
    reason = "this whole file is a test"
)]

#[path = "common/served.rs"]
mod served;

use std::time::Duration;

use iiblockdaemon::testing::Event;
use rustix::time::{ClockId, clock_gettime};
use served::{BLOCK, Served, login, two_cores};

fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap()
}

#[test]
fn cores_with_idle_sessions_sleep() {
    const PING_INTERVAL: Duration = Duration::from_millis(300);
    let mut config = two_cores();
    config.limits.nop_interval = Some(PING_INTERVAL);
    let served = Served::start(config);
    let mut sessions = [
        served.session_on(0, login(), &[0]),
        served.session_on(1, login().with_isid_qualifier(2), &[0]),
    ];
    for it in &mut sessions {
        it.write_blocks(0, 0, &[1; 4096], BLOCK).unwrap();
    }
    let before = cpu_time();
    for _ in 0..3 {
        let event = sessions[0].next_event().unwrap();
        assert!(matches!(event, Event::NopIn { .. }), "{event:?}");
        sessions[0].flush().unwrap();
    }
    let used = cpu_time() - before;
    // Three pings take 0.9 s, so a core that spins costs that much; the bound is a tenth of it.
    assert!(used < PING_INTERVAL * 3 / 10, "{used:?} of CPU time");
}
