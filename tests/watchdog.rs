//! A data core that stands still is named, whether or not systemd watches, and once more when it
//! turns again; the other cores serve meanwhile.

#![expect(
    clippy::tests_outside_test_module,
    reason = "this whole file is a test"
)]
#![expect(
    clippy::disallowed_types,
    reason = "a core is made to stand still, by something that it waits for"
)]

#[path = "common/served.rs"]
mod served;

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};

use iiblockdaemon::daemon::Hooks;
use iiblockdaemon::testing::Config;
use iiblockdaemon::testing::tcp::TcpInitiator;
use served::{
    BLOCK, Served, TARGET, TIMEOUT, TOML_CHAP, TOML_MEMORY, chap, login, toml_head, toml_target,
    toml_unit,
};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// The next login keeps its core.
static ARMED: AtomicBool = AtomicBool::new(false);
static HELD: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

/// Runs on a data core.
fn stand_still(bytes: &mut [u8]) {
    if ARMED.swap(false, SeqCst) {
        let (held, released) = &HELD;
        let mut held = held.lock().expect("nobody panics with it");
        while *held {
            held = released.wait(held).expect("nobody panics with it");
        }
    }
    getrandom::fill(bytes).expect("the kernel's random source answers");
}

struct Lines(Sender<String>);

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        struct Message(String);
        impl Visit for Message {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        // The test may be over.
        let _ = self.0.send(message.0);
    }
}

fn next(lines: &Receiver<String>, words: &str) -> String {
    loop {
        let line = lines.recv_timeout(TIMEOUT).expect(words);
        if line.contains(words) {
            return line;
        }
    }
}

#[test]
fn a_core_that_stands_still_is_named() {
    let (tell, lines) = channel();
    tracing_subscriber::registry().with(Lines(tell)).init();
    let place = Arc::new(AtomicUsize::new(1));
    let hooks = {
        let place = Arc::clone(&place);
        move || Hooks {
            random: Some(stand_still),
            place: Some(place),
            ..Hooks::default()
        }
    };
    let toml = [
        &toml_head(2, 32),
        &toml_unit("disk", TOML_MEMORY),
        &toml_target(TARGET, TOML_CHAP, &["disk"]),
    ];
    let served = Served::from_toml(&toml.map(String::as_str).concat(), hooks);
    let config = |qualifier| {
        let auth = chap();
        Config { auth, ..login() }.with_isid_qualifier(qualifier)
    };
    let mut other = TcpInitiator::connect(served.address(), config(1), TIMEOUT).unwrap();
    other.clear_unit_attentions(0).unwrap();
    place.store(0, SeqCst);
    *HELD.0.lock().unwrap() = true;
    ARMED.store(true, SeqCst);
    let address = served.address();
    let config = config(2);
    let logs_in = std::thread::spawn(move || TcpInitiator::connect(address, config, TIMEOUT));
    next(&lines, "core 0 has not turned for ");
    // What needs that core waits; what does not goes on.
    other.read_blocks(0, 0, 1, BLOCK).unwrap();
    assert!(!logs_in.is_finished());
    *HELD.0.lock().unwrap() = false;
    HELD.1.notify_all();
    let mut login = logs_in.join().unwrap().unwrap();
    let line = next(&lines, "core 0 turns again; it stood still for ");
    let stood: u64 = line
        .split_whitespace()
        .find_map(|word| word.parse().ok().filter(|number| *number > 0))
        .expect("how long");
    assert!(stood >= 1000, "{line}");
    login.logout().unwrap();
    other.logout().unwrap();
    served.stop().unwrap();
    let rest: Vec<_> = lines.try_iter().collect();
    let again = |line: &&String| line.contains("turned for") || line.contains("turns again");
    assert_eq!(rest.iter().find(again), None, "each is said once");
}
