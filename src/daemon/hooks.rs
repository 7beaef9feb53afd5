//! What tests change about a daemon.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

#[cfg(any(test, feature = "testing"))]
use crate::backend;
use crate::backend::Backing;
use crate::iscsi::session::Guards;
use crate::port::IdlePort;
use crate::reactor::fill_random;

/// Given a unit's name and its backing object: what is served in its place.
#[cfg(any(test, feature = "testing"))]
pub type Wrap = Box<dyn Fn(&str, Arc<Backing>) -> Arc<Backing>>;

/// What tests change about a daemon. The default changes nothing.
#[derive(Default)]
pub struct Hooks {
    /// Replaces the backing object of a unit, by its name, with what is served in its place.
    #[cfg(any(test, feature = "testing"))]
    pub wrap: Option<Wrap>,
    /// Takes the place of the kernel's random source in logins.
    #[cfg(any(test, feature = "testing"))]
    pub random: Option<fn(&mut [u8])>,
    /// The core that the next connections are given to, whatever the configuration says.
    #[cfg(any(test, feature = "testing"))]
    pub place: Option<Arc<AtomicUsize>>,
    /// The queues of ports, by the port's name, in place of those that its device would have. Each
    /// is given once.
    #[cfg(any(test, feature = "testing"))]
    pub ports: std::cell::RefCell<Vec<(String, Vec<IdlePort>)>>,
    /// Guards that a test can take away.
    pub guards: Arc<Guards>,
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooks")
    }
}

impl Hooks {
    /// Hooks by environment, for tests that run the binary: `IIBD_TEST_NO_FLUSH=1` switches flushes
    /// and FUA off, so that a test of durability is seen to fail. No other build looks at it.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn from_environment() -> Self {
        if std::env::var_os("IIBD_TEST_NO_FLUSH").is_none_or(|value| value != "1") {
            return Self::default();
        }
        tracing::warn!("IIBD_TEST_NO_FLUSH: acknowledged writes are NOT durable");
        let faults = Arc::new(backend::Faults::default());
        faults.drop_durability(true);
        let wrap = move |_: &str, backing| Backing::with_faults(&backing, Arc::clone(&faults));
        Self {
            wrap: Some(Box::new(wrap)),
            ..Self::default()
        }
    }

    #[cfg(not(any(test, feature = "testing")))]
    pub(super) fn from_environment() -> Self {
        Self::default()
    }

    #[cfg(any(test, feature = "testing"))]
    pub(super) fn wrap(&self, name: &str, backing: Arc<Backing>) -> Arc<Backing> {
        match &self.wrap {
            Some(wrap) => wrap(name, backing),
            None => backing,
        }
    }

    #[cfg(any(test, feature = "testing"))]
    pub(super) fn place(&self) -> Option<Arc<AtomicUsize>> {
        self.place.clone()
    }

    #[cfg(not(any(test, feature = "testing")))]
    #[expect(clippy::unused_self, reason = "only tests change anything")]
    pub(super) fn place(&self) -> Option<Arc<AtomicUsize>> {
        None
    }

    #[cfg(any(test, feature = "testing"))]
    pub(super) fn random(&self) -> fn(&mut [u8]) {
        self.random.unwrap_or(fill_random)
    }

    #[cfg(not(any(test, feature = "testing")))]
    #[expect(clippy::unused_self, reason = "only tests change anything")]
    pub(super) fn random(&self) -> fn(&mut [u8]) {
        fill_random
    }

    #[cfg(not(any(test, feature = "testing")))]
    #[expect(clippy::unused_self, reason = "only tests change anything")]
    pub(super) fn wrap(&self, _name: &str, backing: Arc<Backing>) -> Arc<Backing> {
        backing
    }

    #[cfg(any(test, feature = "testing"))]
    pub(super) fn queues(&self, port: &str) -> Option<Vec<IdlePort>> {
        let mut ports = self.ports.borrow_mut();
        let at = ports.iter().position(|(name, _)| name == port)?;
        Some(ports.swap_remove(at).1)
    }

    #[cfg(not(any(test, feature = "testing")))]
    #[expect(clippy::unused_self, reason = "only tests change anything")]
    pub(super) fn queues(&self, _port: &str) -> Option<Vec<IdlePort>> {
        None
    }
}
