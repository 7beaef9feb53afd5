//! The full feature phase of one session, rule by rule, against a daemon in this process.
//!
//! The initiator of `testing` judges every PDU that comes back by its own reading of RFC 7143:
//! numbers, lengths, bursts, digests, residuals. What a well-behaved initiator never sends is sent
//! by hand (`by_hand`).
//!
//! `data`: what is written comes back. `wrong_data`, `digests`: what is hurt or was not asked for
//! touches nothing. `requests`: NOP, text, logout and rejects. `window`: the order of commands.
//! `units`: who sees what. `connections`: several of them in one session.

#![expect(
    clippy::tests_outside_test_module,
    reason = "this whole file is a test"
)]

#[path = "session/by_hand.rs"]
mod by_hand;
#[path = "session/connections.rs"]
mod connections;
#[path = "session/data.rs"]
mod data;
#[path = "session/digests.rs"]
mod digests;
#[path = "session/requests.rs"]
mod requests;
#[path = "common/served.rs"]
mod served;
#[path = "session/units.rs"]
mod units;
#[path = "session/window.rs"]
mod window;
#[path = "session/wrong_data.rs"]
mod wrong_data;
