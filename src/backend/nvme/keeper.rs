//! The keeper: the thread that has a [`Controller`], and the list of those that run.
//!
//! A controller is opened by the first unit that wants it and shared by the others; when the last
//! handle goes, its keeper shuts it down and ends. Whoever opens it again waits for that, and so
//! does the daemon at its end ([`finish_all`]).

use std::panic::{AssertUnwindSafe, catch_unwind};
#[expect(
    clippy::disallowed_types,
    reason = "opening and closing on the control side only"
)]
use std::sync::Mutex;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, PoisonError, Weak};
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use super::any::{AnyBar, AnySpace};
use super::bar::Bar;
use super::controller::{Controller, ControllerError};
use super::dma::DmaSpace;
use super::facts::{Facts, Limits, Settings};
use super::link::{Handle, channel};

/// What says how the first initialisation went.
type Began = SyncSender<Result<Limits, ControllerError>>;

/// A controller that is kept, and the thread that ends with it.
type Started<B, D> = (Arc<Handle<B, D>>, JoinHandle<()>);

/// Initialises a controller and keeps it in a thread of its own until the last handle goes. Waits
/// for the initialisation, which its own deadlines bound (CAP.TO, admin timeout).
///
/// # Errors
/// Why it cannot be served. It was let go then.
#[cfg(test)]
pub(crate) fn open<B: Bar, D: DmaSpace>(
    name: &str,
    hardware: (Arc<B>, Arc<D>),
    settings: Settings,
) -> Result<Arc<Handle<B, D>>, ControllerError> {
    start(name, hardware, settings).map(|(handle, _)| handle)
}

/// As [`open`]; the thread ends when the controller is closed.
pub(crate) fn start<B: Bar, D: DmaSpace>(
    name: &str,
    (bar, space): (Arc<B>, Arc<D>),
    settings: Settings,
) -> Result<Started<B, D>, ControllerError> {
    let (notes, heard) = channel::<D>();
    let facts = Arc::new(Facts::default());
    let (begin, began) = sync_channel(1);
    let given = (Arc::clone(&bar), Arc::clone(&space));
    let thread_of = name.to_owned();
    let (called, known) = (name.to_owned(), Arc::clone(&facts));
    // A life is made and ends on its thread.
    let keep = move || match Controller::new(&called, given, settings, known, heard) {
        Ok(controller) => keep(controller, &begin),
        Err(error) => drop(begin.send(Err(error.into()))),
    };
    let thread = Builder::new()
        .name(format!("nvme {name}"))
        .spawn(move || or_abort(&thread_of, keep))
        .map_err(|error| ControllerError::Thread(error.to_string()))?;
    let limits = began.recv().unwrap_or_else(|_| {
        let why = "it ended before the controller was ready";
        Err(ControllerError::Thread(why.to_owned()))
    })?;
    let handle = Handle::new((bar, space), (settings, limits), facts, notes);
    Ok((Arc::new(handle), thread))
}

/// A keeper that panics has a controller that nobody watches, with memory that it may write to: the
/// process ends, as for a core that panics, and whoever supervises it starts it again.
fn or_abort(name: &str, keep: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(keep)).is_err() {
        tracing::error!(controller = name, "a keeper panicked: the process ends");
        std::process::abort();
    }
}

fn keep<B: Bar, D: DmaSpace>(mut controller: Controller<B, D>, begin: &Began) {
    let mut begin = Some(begin);
    loop {
        #[expect(
            clippy::disallowed_methods,
            reason = "this thread is where the time of its controller comes from"
        )]
        let now = Instant::now();
        let pace = controller.poll(now);
        let said = match (controller.limits(), controller.ended()) {
            (_, Some(Err(error))) => Some(Err(error.clone())),
            (Some(limits), _) => Some(Ok(limits)),
            (None, _) => None,
        };
        if let Some(said) = said
            && let Some(begin) = begin.take()
        {
            // Whoever opens waits for it.
            let _ = begin.send(said);
        }
        if controller.ended().is_some() {
            return;
        }
        controller.rest(pace);
    }
}

/// One that runs.
#[derive(Debug)]
struct Kept {
    address: String,
    handle: Weak<Handle<AnyBar, AnySpace>>,
    facts: Arc<Facts>,
    thread: JoinHandle<()>,
}

#[expect(
    clippy::disallowed_types,
    reason = "opening and closing on the control side only"
)]
static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

/// Addresses whose controllers are being opened.
#[expect(
    clippy::disallowed_types,
    reason = "opening and closing on the control side only"
)]
static OPENING: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// One of them is not any more.
static OPENED: Condvar = Condvar::new();

/// The right to open the controller at an address, which one thread has at a time.
#[derive(Debug)]
struct Opening(String);

impl Opening {
    fn wait_for(address: &str) -> Self {
        let opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        let is_taken = |opening: &mut Vec<String>| opening.iter().any(|one| one == address);
        let opening = OPENED.wait_while(opening, is_taken);
        let address = address.to_owned();
        opening
            .unwrap_or_else(PoisonError::into_inner)
            .push(address.clone());
        Self(address)
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        opening.retain(|one| *one != self.0);
        OPENED.notify_all();
    }
}

/// The handle of the controller at `address`, which is opened by `hardware` if it is not open yet.
/// Waits for one that is being closed, or opened for another unit.
///
/// # Errors
/// Those of `hardware`, and why the controller cannot be served, in words.
pub(crate) fn open_at(
    address: &str,
    settings: Settings,
    hardware: impl FnOnce() -> Result<(Arc<AnyBar>, Arc<AnySpace>), String>,
) -> Result<Arc<Handle<AnyBar, AnySpace>>, String> {
    let _opening = Opening::wait_for(address);
    let known = {
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|one| one.address == address);
        match at.map(|at| kept[at].handle.upgrade()) {
            Some(Some(handle)) => return Ok(handle),
            Some(None) => at.map(|at| kept.swap_remove(at)),
            None => None,
        }
    };
    if let Some(closing) = known {
        finish(closing);
    }
    let (handle, thread) =
        start(address, hardware()?, settings).map_err(|error| error.to_string())?;
    let kept = Kept {
        address: address.to_owned(),
        handle: Arc::downgrade(&handle),
        facts: Arc::clone(&handle.facts),
        thread,
    };
    KEPT.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(kept);
    Ok(handle)
}

/// The controllers that are used, by address, and what is known of them. Never waits for a keeper.
pub(crate) fn kept() -> Vec<(String, Arc<Facts>)> {
    let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let used = kept.iter().filter(|one| one.handle.strong_count() > 0);
    used.map(|one| (one.address.clone(), Arc::clone(&one.facts)))
        .collect()
}

/// Waits until all controllers without units are shut down: the daemon's last act. Each is bounded
/// by its own shutdown. Those that are still used stay.
pub(crate) fn finish_all() {
    let closing: Vec<_> = {
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extract_if(.., |one| one.handle.strong_count() == 0)
            .collect()
    };
    closing.into_iter().for_each(finish);
}

fn finish(closing: Kept) {
    if closing.thread.join().is_err() {
        let controller = closing.address;
        tracing::error!(controller, "the controller's keeper has panicked");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::nvme::facts::{NamespaceState, Selector, State};
    use crate::backend::nvme::model::{Model, ModelOptions};
    use crate::backend::nvme::unit::{Readiness, Unit};
    use crate::backend::spec::{Kind, OpenError, Spec};

    fn spec(block_size: u32) -> Spec {
        Spec {
            block_size,
            ..Spec::new(Kind::Null { bytes: 0 })
        }
    }

    #[test]
    fn a_controller_is_kept_until_its_last_unit_goes() {
        let model = Model::new(ModelOptions::default());
        let worker = model.run_in_background();
        let hardware = (model.bar(), model.space());
        let (handle, thread) = start("model", hardware, Settings::default()).unwrap();
        assert_eq!(handle.limits.queue_pairs, 4);
        let facts = Arc::clone(&handle.facts);
        let report = handle.report(Duration::from_secs(60)).unwrap();
        assert_eq!(report.namespaces.len(), 1);
        let unit = Unit::open("model", Arc::clone(&handle), Selector::Only).unwrap();
        let other = Unit::open("model", Arc::clone(&handle), Selector::Only);
        let Err(OpenError::Nvme { address, why }) = other else {
            panic!("a namespace has one unit");
        };
        assert_eq!(address, "model");
        assert!(why.contains("belongs to another"), "{why}");
        assert_eq!(unit.readiness(), Readiness::Ready);
        unit.namespace.set_state(NamespaceState::Missing);
        assert_eq!(unit.readiness(), Readiness::Absent);
        unit.namespace.set_state(NamespaceState::Changed);
        assert_eq!(unit.readiness(), Readiness::Failed);
        drop(unit);
        let again = Unit::open("model", Arc::clone(&handle), Selector::Only).unwrap();
        drop(again);
        drop(handle);
        thread.join().unwrap();
        assert_eq!(facts.state(), State::Closed);
        drop(worker);
        assert_eq!(model.counters().shutdowns, 1);
        assert_eq!(model.mappings(), 0);
    }

    #[test]
    fn a_controller_that_never_becomes_ready_is_not_kept() {
        let options = ModelOptions {
            cap_to: 1,
            mqes: 0,
            ..ModelOptions::default()
        };
        let model = Model::new(options);
        let hardware = (model.bar(), model.space());
        let refused = open("model", hardware, Settings::default()).unwrap_err();
        assert_eq!(refused, ControllerError::QueueEntries(1));
        assert_eq!(model.mappings(), 0);
    }

    #[test]
    fn controllers_are_shared_by_address() {
        let model = Model::new(ModelOptions::default());
        let _worker = model.run_in_background();
        let hardware = || {
            let bar = Arc::new(AnyBar::Model(model.bar()));
            Ok((bar, Arc::new(AnySpace::Model(model.space()))))
        };
        let open = || open_at("0000:99:00.0", Settings::default(), hardware);
        let (first, second) = (open().unwrap(), open().unwrap());
        assert!(Arc::ptr_eq(&first, &second));
        drop((first, second));
        // It is shut down first, and its function is in its place again.
        model.plug();
        let again = open_at("0000:99:00.0", Settings::default(), || {
            assert_eq!(model.counters().shutdowns, 1, "whoever opens waits");
            Err("it is not there".to_owned())
        });
        assert_eq!(again.unwrap_err(), "it is not there");
        finish_all();
    }

    #[test]
    fn a_controller_that_several_want_at_once_is_opened_once() {
        const ADDRESS: &str = "0000:98:00.0";
        let model = Model::new(ModelOptions::default());
        let worker = model.run_in_background();
        let (begun, go) = (sync_channel(1), sync_channel(1));
        let (tell, wait) = (begun.0, go.1);
        let first = {
            let model = model.clone();
            std::thread::spawn(move || {
                open_at(ADDRESS, Settings::default(), || {
                    tell.send(()).unwrap();
                    wait.recv().unwrap();
                    let bar = Arc::new(AnyBar::Model(model.bar()));
                    Ok((bar, Arc::new(AnySpace::Model(model.space()))))
                })
            })
        };
        begun.1.recv().unwrap();
        // Another address is not held up.
        let other = open_at("0000:97:00.0", Settings::default(), || {
            Err("it is not there".to_owned())
        });
        assert_eq!(other.unwrap_err(), "it is not there");
        let second = std::thread::spawn(|| {
            open_at(ADDRESS, Settings::default(), || {
                panic!("it is opened already")
            })
        });
        go.0.send(()).unwrap();
        let (first, second) = (first.join().unwrap(), second.join().unwrap());
        assert!(Arc::ptr_eq(&first.unwrap(), &second.unwrap()));
        finish_all();
        drop(worker);
        assert_eq!(model.counters().shutdowns, 1);
    }

    #[test]
    fn a_unit_says_what_its_namespace_is() {
        let mut options = ModelOptions {
            awupf: 7,
            mdts: 1,
            ..ModelOptions::default()
        };
        options.namespaces[0].noiob = 8;
        let model = Model::new(options);
        let _worker = model.run_in_background();
        let hardware = (model.bar(), model.space());
        let (handle, thread) = start("model", hardware, Settings::default()).unwrap();
        let unit = Unit::open("model", handle, Selector::Only).unwrap();
        let info = unit.info(&spec(512)).unwrap();
        assert_eq!((info.block_size, info.blocks), (512, 4096));
        assert_eq!(info.atomic_write_blocks, 8);
        assert!(info.write_cache && info.unmap && info.unmap_reads_zeroes);
        assert_eq!(info.designators.uuid, Some(*b"a model's uuid!!"));
        let refused = unit.info(&spec(4096)).unwrap_err().to_string();
        assert!(refused.contains("set block_size = 512"), "{refused}");
        let through = Spec {
            write_cache: false,
            read_only: true,
            ..spec(512)
        };
        let info = unit.info(&through).unwrap();
        assert!(!info.write_cache && info.read_only && !info.unmap);
        drop(unit);
        thread.join().unwrap();
    }

    #[test]
    fn a_keeper_that_panics_ends_the_process() {
        use std::os::unix::process::ExitStatusExt;
        const ASKED: &str = "IIBLOCKDAEMON_TEST_KEEPER_PANICS";
        if std::env::var_os(ASKED).is_some() {
            return or_abort("model", || panic!("as asked"));
        }
        let (_, module) = module_path!().split_once("::").unwrap();
        let test = format!("{module}::a_keeper_that_panics_ends_the_process");
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &test, "--nocapture"])
            .env(ASKED, "1")
            .output()
            .unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    }
}
