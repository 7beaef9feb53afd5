//! What a controller's keeper and the queue pairs of the cores say to each other.
//!
//! ```text
//!             Join, Halted, Late, Broken, Leave                (one channel for all, bounded)
//!   core ──────────────────────────────────────────────► keeper
//!        ◄──────────────────────────────────────────────
//!             Open, Share, Host, Halt, Quiet, Fail             (a bounded queue for each core)
//! ```
//!
//! A core looks at its orders once in a turn (two loads where there are none) and acts at once; the
//! keeper never waits for a core without bound. Nothing of this is used for a command, but where
//! cores have to share a queue pair: then the commands of a guest cross its [`Lane`].
//!
//! Order of things: `Join`, then `Open` or `Share`. When the controller is to be reset, `Halt` to
//! everybody; each answers `Halted` and from then on writes no doorbell and reads no completion.
//! Then `Quiet` says that no memory of outstanding commands is touched any more, and at last comes
//! `Open` (or `Share`) again, or `Fail`. `Leave` gives the rings to the keeper, who deletes the
//! queues before the memory goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;

use super::bar::Bar;
use super::dma::{DmaPages, DmaSpace, Iova, Quiet, Shadow};
use super::facts::{Facts, Limits, Namespace, Report, Selector, Settings};
use super::spec::entry::{CommandId, CompletionEntry, NamespaceId, QueueId, SubmissionEntry};
use crate::backend::wake::Wake;

/// Notes of all cores that the keeper has not read yet. What does not fit stays with its core,
/// which tries again in its next turn.
const NOTES_MAX: usize = 256;
/// Orders to one core: the longest row without an answer is `Halt`, `Quiet`, `Open` and a `Host`
/// for each other core.
const ORDERS_MAX: usize = 1024;
/// Commands of a guest on their way to their host, and completions on their way back.
pub(crate) const LANE_MAX: usize = 256;

/// Which queue pair, among all that ever joined.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct PairIndex(pub(crate) u16);

/// Counts the times that the controller was enabled: what belongs to an older one is void.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct Generation(pub(crate) u32);

/// A queue pair that exists in the controller, empty: tails and heads 0, phase 1.
#[derive(Debug)]
pub(crate) struct Grant<D: DmaSpace> {
    pub(crate) generation: Generation,
    pub(crate) queue: QueueId,
    /// Offsets in the BAR, checked against its length.
    pub(crate) submission_doorbell: usize,
    pub(crate) completion_doorbell: usize,
    /// Where the controller takes them; only if they have both doorbells.
    pub(crate) shadow: Option<Arc<Shadow<D>>>,
}

/// What the keeper tells a core.
#[derive(Debug)]
pub(crate) enum Order<D: DmaSpace> {
    /// This pair is yours, with the rings that you named.
    Open(Grant<D>),
    /// There are fewer pairs than cores: send through the lane's host.
    Share(Generation, Arc<Lane>),
    /// Serve this guest.
    Host(Arc<Lane>),
    /// Touch nothing of the controller's and answer [`Note::Halted`].
    Halt,
    /// Behind `Halt`: no memory of outstanding commands will be touched any more.
    Quiet(
        #[cfg_attr(
            not(test),
            expect(dead_code, reason = "a core does the same whatever the proof is")
        )]
        Quiet,
    ),
    /// No recovery is under way: what waits and what comes is NOT READY until `Open`.
    Fail,
}

/// What a core tells the keeper of its pair.
#[derive(Debug)]
pub(crate) enum Note<D: DmaSpace> {
    /// `Halt` is obeyed.
    Halted,
    /// A command is outstanding for [`Settings::io_timeout`], or for the second time so long. Of a
    /// guest only the second, and later than that: then its host is held up.
    Late {
        generation: Generation,
        id: CommandId,
        again: bool,
        /// When the core saw it.
        at: Instant,
    },
    /// The controller broke a rule and cannot be trusted: it is to be reset.
    Broken(Generation, Breach),
    /// The core has no unit of the controller any more, and no outstanding command, or none that
    /// survives its queue. Its rings are kept from everybody where a command may name them that
    /// does.
    Leave(Option<DmaPages<D>>),
}

/// Which rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Breach {
    #[error("it completed a command that is not outstanding (CID {0})")]
    UnknownCommand(u16),
    #[error("it named a submission queue that is not the completion's ({0})")]
    WrongQueue(u16),
}

/// A core's rings, as the keeper has to know them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rings {
    pub(crate) submissions: Iova,
    pub(crate) completions: Iova,
    /// Of both, 2 to [`Limits::queue_entries`].
    pub(crate) entries: u16,
}

/// All that reaches the keeper.
#[derive(Debug)]
pub(crate) enum ToKeeper<D: DmaSpace> {
    Join(Arc<Orders<D>>, Rings),
    Note(PairIndex, Note<D>),
    /// Serve this namespace, which nobody else may have, and answer once the controller is ready.
    Find(Selector, SyncSender<Result<Arc<Namespace>, Refusal>>),
    /// Nobody serves the namespace any more.
    Release(NamespaceId),
    Report(SyncSender<Report>),
    /// The last unit has gone: shut the controller down.
    Close,
}

/// Why a namespace is not served, for the operator: the cause and the remedy.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refusal(pub(crate) String);

/// The way from the keeper to one core.
#[derive(Debug)]
pub(crate) struct Orders<D: DmaSpace> {
    pub(crate) index: PairIndex,
    queue: ArrayQueue<Order<D>>,
    wake: Arc<Wake>,
}

impl<D: DmaSpace> Orders<D> {
    /// For the keeper. `Err`: the core does not keep up; to be tried again.
    pub(crate) fn send(&self, order: Order<D>) -> Result<(), Order<D>> {
        self.queue.push(order)?;
        self.wake.signal();
        Ok(())
    }

    /// For the core.
    pub(crate) fn take(&self) -> Option<Order<D>> {
        if self.queue.is_empty() {
            return None;
        }
        self.queue.pop()
    }

    /// For the core: nothing is ordered.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// What a core has of the keeper.
#[derive(Debug)]
pub(crate) struct PairEnd<D: DmaSpace> {
    pub(crate) orders: Arc<Orders<D>>,
    notes: SyncSender<ToKeeper<D>>,
}

/// A note that is not sent.
#[derive(Debug)]
pub(crate) enum Unsent<D: DmaSpace> {
    /// Try again later.
    Full(Note<D>),
    /// There is no keeper any more: the controller is disabled and touches nothing.
    Closed(
        #[cfg_attr(
            not(test),
            expect(dead_code, reason = "what came back is dropped, as its owner is gone")
        )]
        Note<D>,
    ),
}

impl<D: DmaSpace> PairEnd<D> {
    /// Never waits.
    pub(crate) fn send(&self, note: Note<D>) -> Result<(), Unsent<D>> {
        let message = ToKeeper::Note(self.orders.index, note);
        self.notes.try_send(message).map_err(|error| match error {
            TrySendError::Full(ToKeeper::Note(_, note)) => Unsent::Full(note),
            TrySendError::Disconnected(ToKeeper::Note(_, note)) => Unsent::Closed(note),
            _ => unreachable!("what is not sent comes back"),
        })
    }
}

/// What units and cores hold of a controller. When the last goes, the keeper shuts it down.
#[derive(Debug)]
pub(crate) struct Handle<B: Bar, D: DmaSpace> {
    pub(crate) bar: Arc<B>,
    pub(crate) space: Arc<D>,
    pub(crate) settings: Settings,
    pub(crate) limits: Limits,
    pub(crate) facts: Arc<Facts>,
    next_pair: AtomicU16,
    notes: SyncSender<ToKeeper<D>>,
}

/// The keeper has gone, or there were more pairs than numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the controller takes no more queue pairs")]
pub(crate) struct NoKeeper;

impl<B: Bar, D: DmaSpace> Handle<B, D> {
    /// For an initialised controller whose keeper has the other end of `notes`.
    pub(crate) fn new(
        (bar, space): (Arc<B>, Arc<D>),
        (settings, limits): (Settings, Limits),
        facts: Arc<Facts>,
        notes: SyncSender<ToKeeper<D>>,
    ) -> Self {
        Self {
            bar,
            space,
            settings,
            limits,
            facts,
            next_pair: AtomicU16::new(0),
            notes,
        }
    }

    /// A core's: its pair will be opened, or shared with another core's. At start only: may wait
    /// for the keeper to read its notes.
    pub(crate) fn join(&self, wake: &Arc<Wake>, rings: Rings) -> Result<PairEnd<D>, NoKeeper> {
        let next = |at: u16| at.checked_add(1);
        let index = self
            .next_pair
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .map_err(|_| NoKeeper)?;
        let orders = Arc::new(Orders {
            index: PairIndex(index),
            queue: ArrayQueue::new(ORDERS_MAX),
            wake: Arc::clone(wake),
        });
        let join = ToKeeper::Join(Arc::clone(&orders), rings);
        self.notes.send(join).map_err(|_| NoKeeper)?;
        Ok(PairEnd {
            orders,
            notes: self.notes.clone(),
        })
    }
}

impl<B: Bar, D: DmaSpace> Handle<B, D> {
    /// Has a namespace served, until [`release`](Self::release). Waits for at most `patience`: for
    /// the control side.
    pub(crate) fn find(
        &self,
        wanted: Selector,
        patience: Duration,
    ) -> Result<Arc<Namespace>, Refusal> {
        let (answer, answered) = sync_channel(1);
        let asked = self.notes.send(ToKeeper::Find(wanted, answer));
        asked.map_err(|_| Refusal("the controller was closed".to_owned()))?;
        answered.recv_timeout(patience).unwrap_or_else(|_| {
            let seconds = patience.as_secs();
            Err(Refusal(format!(
                "the controller has not answered for {seconds} s; look for its errors in this log"
            )))
        })
    }

    /// The other end of `find`. For the control side, or a core at its end.
    pub(crate) fn release(&self, namespace: NamespaceId) {
        // A keeper that has ended serves nobody.
        let _ = self.notes.send(ToKeeper::Release(namespace));
    }

    /// Asks what there is to see. `None`: the keeper does not answer within `patience`.
    pub(crate) fn report(&self, patience: Duration) -> Option<Report> {
        let (answer, answered) = sync_channel(1);
        self.notes.send(ToKeeper::Report(answer)).ok()?;
        answered.recv_timeout(patience).ok()
    }
}

impl<B: Bar, D: DmaSpace> Drop for Handle<B, D> {
    fn drop(&mut self) {
        // A keeper that ended by itself needs no word.
        let _ = self.notes.send(ToKeeper::Close);
    }
}

/// The channel to a keeper.
pub(crate) fn channel<D: DmaSpace>() -> (SyncSender<ToKeeper<D>>, Receiver<ToKeeper<D>>) {
    sync_channel(NOTES_MAX)
}

/// A guest's command, complete but for its CID, which is the host's to choose. Its PRP entries are
/// the guest's memory, mapped in the same space.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Foreign {
    pub(crate) tag: u16,
    pub(crate) entry: SubmissionEntry,
}

/// How it ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Returned {
    pub(crate) tag: u16,
    pub(crate) completion: CompletionEntry,
}

/// Between a core without a queue pair of its own and the core whose pair it uses. Each generation
/// has lanes of its own, so that what is left in an old one reaches nobody.
///
/// The guest never has more than [`LANE_MAX`] commands on their way, so `returns` has room for all.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) commands: ArrayQueue<Foreign>,
    pub(crate) returns: ArrayQueue<Returned>,
    ended: AtomicBool,
    host: Arc<Wake>,
    guest: Arc<Wake>,
}

impl Lane {
    pub(crate) fn new<D: DmaSpace>(host: &Orders<D>, guest: &Orders<D>) -> Arc<Self> {
        Arc::new(Self {
            commands: ArrayQueue::new(LANE_MAX),
            returns: ArrayQueue::new(LANE_MAX),
            ended: AtomicBool::new(false),
            host: Arc::clone(&host.wake),
            guest: Arc::clone(&guest.wake),
        })
    }

    /// The guest's, once behind all that it has pushed in a turn.
    pub(crate) fn wake_host(&self) {
        self.host.signal();
    }

    /// The host's, once behind all that it has pushed in a turn.
    pub(crate) fn wake_guest(&self) {
        self.guest.signal();
    }

    /// The guest's: it sends nothing more and waits for nothing.
    pub(crate) fn end(&self) {
        // It guards no memory: the host forgets the lane a turn earlier or later.
        self.ended.store(true, Ordering::Relaxed);
        self.host.signal();
    }

    /// The host's: nobody is at the other end any more.
    pub(crate) fn has_ended(self: &Arc<Self>) -> bool {
        self.ended.load(Ordering::Relaxed) || Arc::strong_count(self) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::nvme::bar::{Presence, ReopenError, ResetError};
    use crate::backend::nvme::dma::{MapError, Run};
    use crate::mem::Pages;
    use std::ptr::NonNull;

    #[derive(Debug)]
    struct Nothing;

    impl Bar for Nothing {
        fn len(&self) -> usize {
            0
        }

        fn r32(&self, _offset: usize) -> u32 {
            u32::MAX
        }

        fn w32(&self, _offset: usize, _value: u32) {}

        fn reset(&self) -> Result<(), ResetError> {
            Err(ResetError::Unsupported)
        }

        fn presence(&self) -> Presence {
            Presence::Gone
        }

        fn release(&self) {}

        fn reopen(&self) -> Result<(), ReopenError> {
            Err(ReopenError("nothing is there".to_owned()))
        }
    }

    impl DmaSpace for Nothing {
        unsafe fn map(
            &self,
            _base: NonNull<u8>,
            len: usize,
            runs: &mut Vec<Run>,
        ) -> Result<(), MapError> {
            let (offset, iova) = (0, Iova(0));
            runs.push(Run { offset, len, iova });
            Ok(())
        }

        fn unmap(&self, _runs: &[Run]) -> Result<(), MapError> {
            Ok(())
        }
    }

    const LIMITS: Limits = Limits {
        queue_entries: 16,
        queue_pairs: 1,
        transfer_bytes: 4096,
        write_zeroes_bytes: None,
        deallocate: None,
        write_cache: true,
    };
    const RINGS: Rings = Rings {
        submissions: Iova(0),
        completions: Iova(4096),
        entries: 16,
    };

    fn handle() -> (Handle<Nothing, Nothing>, Receiver<ToKeeper<Nothing>>) {
        let (notes, keeper) = channel();
        let hardware = (Arc::new(Nothing), Arc::new(Nothing));
        let facts = Arc::new(Facts::default());
        let given = (Settings::default(), LIMITS);
        (Handle::new(hardware, given, facts, notes), keeper)
    }

    #[test]
    fn orders_reach_their_core_and_wake_it() {
        let (handle, keeper) = handle();
        let wake = Arc::new(Wake::new().unwrap());
        let pair = handle.join(&wake, RINGS).unwrap();
        let Ok(ToKeeper::Join(orders, rings)) = keeper.try_recv() else {
            panic!("a pair joins first");
        };
        assert_eq!((orders.index, rings), (PairIndex(0), RINGS));
        assert!(pair.orders.take().is_none());
        orders.send(Order::Halt).unwrap();
        orders.send(Order::Quiet(Quiet::Disabled)).unwrap();
        let mut count = [0; 8];
        assert_eq!(rustix::io::read(wake.fd(), &mut count), Ok(8));
        assert!(matches!(pair.orders.take(), Some(Order::Halt)));
        assert!(matches!(
            pair.orders.take(),
            Some(Order::Quiet(Quiet::Disabled))
        ));
        assert!(pair.orders.take().is_none());
        assert_eq!(
            handle.join(&wake, RINGS).unwrap().orders.index,
            PairIndex(1)
        );
    }

    #[test]
    fn a_lane_ends_with_its_guest() {
        let (handle, _keeper) = handle();
        let wake = Arc::new(Wake::new().unwrap());
        let host = handle.join(&wake, RINGS).unwrap();
        let guest = handle.join(&wake, RINGS).unwrap();
        assert!(host.orders.is_empty());
        let lane = Lane::new(&host.orders, &guest.orders);
        let share = Order::Share(Generation(1), Arc::clone(&lane));
        guest.orders.send(share).unwrap();
        assert!(!guest.orders.is_empty() && !lane.has_ended());
        let Some(Order::Share(_, taken)) = guest.orders.take() else {
            panic!("what was sent");
        };
        assert!(!lane.has_ended());
        taken.end();
        assert!(lane.has_ended());
        let gone = Lane::new(&host.orders, &guest.orders);
        assert!(gone.has_ended(), "nobody has the other end");
    }

    #[test]
    fn a_note_that_finds_no_room_comes_back() {
        let (handle, keeper) = handle();
        let wake = Arc::new(Wake::new().unwrap());
        let pair = handle.join(&wake, RINGS).unwrap();
        let sent = (0..)
            .find(|_| pair.send(Note::Halted).is_err())
            .expect("the channel is bounded");
        assert_eq!(sent, NOTES_MAX - 1, "beside the join");
        assert!(matches!(
            pair.send(Note::Halted),
            Err(Unsent::Full(Note::Halted))
        ));
        drop(keeper);
        let pages = DmaPages::new(&handle.space, 4096, Pages::Normal).unwrap();
        let left = pair.send(Note::Leave(Some(pages)));
        assert!(matches!(left, Err(Unsent::Closed(Note::Leave(_)))));
        assert_eq!(handle.join(&wake, RINGS).unwrap_err(), NoKeeper);
    }

    #[test]
    fn a_question_is_answered_or_given_up() {
        let (handle, keeper) = handle();
        let keeper = std::thread::scope(|scope| {
            let asked = scope.spawn(move || {
                let Ok(ToKeeper::Find(Selector::Only, answer)) = keeper.recv() else {
                    panic!("a namespace is asked for");
                };
                answer.send(Err(Refusal("none".to_owned()))).unwrap();
                keeper
            });
            let found = handle.find(Selector::Only, Duration::from_secs(60));
            assert_eq!(found.unwrap_err(), Refusal("none".to_owned()));
            asked.join().unwrap()
        });
        let late = handle.find(Selector::Id(NamespaceId(1)), Duration::ZERO);
        assert!(late.unwrap_err().0.contains("has not answered"));
        drop(keeper);
        let closed = handle.find(Selector::Only, Duration::from_secs(60));
        assert!(closed.unwrap_err().0.contains("was closed"));
        assert_eq!(handle.report(Duration::from_secs(60)), None);
        handle.release(NamespaceId(1));
    }

    #[test]
    fn the_last_unit_that_goes_closes_the_controller() {
        let (handle, keeper) = handle();
        let handle = Arc::new(handle);
        drop(Arc::clone(&handle));
        keeper.try_recv().unwrap_err();
        drop(handle);
        assert!(matches!(keeper.try_recv(), Ok(ToKeeper::Close)));
    }
}
