//! Where tests hold the calls of one object on their helper threads; nothing in production.

#[cfg(test)]
use std::sync::OnceLock;

#[cfg(test)]
use crossbeam::channel::Receiver;
use rustix::io::Errno;

/// An object's gate.
#[derive(Debug, Default)]
pub(crate) struct Gate(#[cfg(test)] OnceLock<Receiver<Errno>>);

/// What a call needs of the gate.
#[derive(Debug)]
pub(super) struct Pass(#[cfg(test)] Option<Receiver<Errno>>);

impl Gate {
    pub(super) fn pass(&self) -> Pass {
        Pass(
            #[cfg(test)]
            self.0.get().cloned(),
        )
    }
}

#[cfg(test)]
impl Gate {
    /// Calls wait from now on until they are sent an errno to fail with, or the other end goes.
    pub(crate) fn hold(&self, calls: Receiver<Errno>) {
        self.0.set(calls).expect("held once");
    }
}

#[cfg(test)]
impl Pass {
    pub(super) fn wait(&self) -> Option<Errno> {
        self.0.as_ref()?.recv().ok()
    }
}

#[cfg(not(test))]
impl Pass {
    #[expect(clippy::unused_self, reason = "as in tests")]
    pub(super) fn wait(&self) -> Option<Errno> {
        None
    }
}
