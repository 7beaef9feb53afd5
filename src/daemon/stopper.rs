//! What another thread tells a daemon that serves: what signals tell one that is a process.

use crate::control::ring::Sender;
use crate::reactor::message::ToControl;

/// Ends a daemon that another thread serves.
#[derive(Clone, Debug)]
pub struct Stopper(pub(super) Sender<ToControl>);

impl Stopper {
    /// Once: in order. Twice: at once.
    pub fn stop(&self) {
        self.send(ToControl::Shutdown);
    }

    /// Has the sizes of backing objects and the space behind them looked at now, as SIGHUP does.
    pub fn look_again(&self) {
        self.send(ToControl::LookAgain);
    }

    fn send(&self, mut message: ToControl) {
        while let Err(back) = self.0.push(message) {
            message = back;
            std::thread::yield_now();
        }
        self.0.ring();
    }
}
