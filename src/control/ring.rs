//! The inbox of a core: the only thing that cores share.
//!
//! A bounded lock-free queue (`crossbeam`'s `ArrayQueue`) that any thread pushes to and one thread
//! drains, with a doorbell for a receiver that sleeps. No sender ever spins or blocks: what does
//! not fit comes back to the sender, which keeps it in its [`Outbox`] and tries again in its next
//! turn.
//!
//! Sleep protocol: the receiver raises `sleeping`, fences, looks at the queue once more and only
//! then sleeps on the doorbell; a sender pushes, fences, reads `sleeping` and rings. One of the two
//! always sees the other (both fences are sequentially consistent), so no message waits for a
//! timer.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

/// Messages that one inbox holds before senders have to wait.
pub const INBOX_CAPACITY: usize = 1024;

struct Shared<T> {
    queue: ArrayQueue<T>,
    sleeping: CachePadded<AtomicBool>,
    doorbell: OwnedFd,
}

/// The receiving end; one per core, and one for the control thread.
pub struct Inbox<T>(Arc<Shared<T>>);

/// A sending end; any number, on any thread.
pub struct Sender<T>(Arc<Shared<T>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> std::fmt::Debug for Inbox<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox")
            .field("len", &self.0.queue.len())
            .finish()
    }
}

impl<T> std::fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender")
            .field("len", &self.0.queue.len())
            .finish()
    }
}

/// An inbox for [`INBOX_CAPACITY`] messages and a first sender to it.
///
/// # Errors
/// The operating system's, when it has no event counter left to give.
pub fn inbox<T>() -> std::io::Result<(Inbox<T>, Sender<T>)> {
    with_capacity(INBOX_CAPACITY)
}

fn with_capacity<T>(capacity: usize) -> std::io::Result<(Inbox<T>, Sender<T>)> {
    use rustix::event::{EventfdFlags, eventfd};
    let shared = Arc::new(Shared {
        queue: ArrayQueue::new(capacity),
        sleeping: CachePadded::new(AtomicBool::new(false)),
        doorbell: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
    });
    Ok((Inbox(Arc::clone(&shared)), Sender(shared)))
}

impl<T> Inbox<T> {
    /// The next message. Costs one load when there is none.
    pub fn pop(&self) -> Option<T> {
        if self.0.queue.is_empty() {
            None
        } else {
            self.0.queue.pop()
        }
    }

    /// Nothing waits to be received.
    pub fn is_empty(&self) -> bool {
        self.0.queue.is_empty()
    }

    /// How many messages wait to be received.
    pub fn len(&self) -> usize {
        self.0.queue.len()
    }

    /// Announces that the receiver is about to sleep. `false` means that a message has come in
    /// between: do not sleep.
    #[must_use]
    pub fn prepare_sleep(&self) -> bool {
        self.0.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.0.queue.is_empty() {
            return true;
        }
        self.0.sleeping.store(false, Ordering::Relaxed);
        false
    }

    /// Ends a sleep: later senders need not ring. Empties the doorbell.
    pub fn awake(&self) {
        self.0.sleeping.store(false, Ordering::Relaxed);
        let mut count = [0; 8];
        // An empty counter answers EAGAIN, which is just as well.
        let _ = rustix::io::read(&self.0.doorbell, &mut count);
    }

    /// What to sleep on: readable once somebody rang.
    pub fn doorbell(&self) -> BorrowedFd<'_> {
        self.0.doorbell.as_fd()
    }
}

impl<T> Sender<T> {
    /// Pushes, and wakes the receiver if it sleeps.
    ///
    /// # Errors
    /// The message itself, when the inbox is full.
    pub fn push(&self, message: T) -> Result<(), T> {
        self.0.queue.push(message)?;
        self.wake();
        Ok(())
    }

    /// Wakes the receiver if it sleeps: after something was put where it looks besides.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.0.sleeping.load(Ordering::Relaxed) {
            self.ring();
        }
    }

    /// The receiver sleeps, or is about to.
    pub fn is_asleep(&self) -> bool {
        self.0.sleeping.load(Ordering::Relaxed)
    }

    /// Wakes the receiver whatever it does.
    pub fn ring(&self) {
        // A counter at its maximum is readable already, so a refused write loses nothing.
        let _ = rustix::io::write(&self.0.doorbell, &1_u64.to_ne_bytes_for_eventfd());
    }
}

/// The eventfd counter is in the machine's own byte order by the kernel's interface.
trait EventfdBytes {
    fn to_ne_bytes_for_eventfd(self) -> [u8; 8];
}

impl EventfdBytes for u64 {
    #[expect(
        clippy::host_endian_bytes,
        reason = "eventfd(2) counts in host byte order"
    )]
    fn to_ne_bytes_for_eventfd(self) -> [u8; 8] {
        self.to_ne_bytes()
    }
}

/// A sender with a list of what did not fit yet. The list is bounded by what its owner can have
/// under way (each message belongs to a connection, a session or a task, all of them bounded, or to
/// a unit, of which there is little to tell in a second).
#[derive(Debug)]
pub struct Outbox<T> {
    sender: Sender<T>,
    waiting: VecDeque<T>,
}

impl<T> Outbox<T> {
    pub fn new(sender: Sender<T>) -> Self {
        Self {
            sender,
            waiting: VecDeque::new(),
        }
    }

    /// Sends, or keeps the message for [`Self::retry`]. Messages never overtake each other.
    pub fn send(&mut self, message: T) {
        if !self.waiting.is_empty() {
            self.waiting.push_back(message);
        } else if let Err(message) = self.sender.push(message) {
            self.waiting.push_back(message);
        }
    }

    /// Tries what is waiting; call once per turn. Costs one comparison when nothing is.
    pub fn retry(&mut self) {
        while let Some(message) = self.waiting.pop_front() {
            if let Err(message) = self.sender.push(message) {
                self.waiting.push_front(message);
                return;
            }
        }
    }

    /// See [`Sender::is_asleep`].
    pub fn receiver_sleeps(&self) -> bool {
        self.sender.is_asleep()
    }

    /// See [`Sender::wake`].
    pub fn wake(&self) {
        self.sender.wake();
    }

    /// Another way into the same inbox, for another thread.
    pub fn sender(&self) -> Sender<T> {
        self.sender.clone()
    }

    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The ring behaves as a bounded queue: checked against the standard library's.
        #[test]
        fn behaves_as_a_bounded_queue(
            pushes in proptest::collection::vec(any::<Option<u32>>(), 0..200),
        ) {
            let (inbox, sender) = with_capacity(4).unwrap();
            let mut model = VecDeque::new();
            for step in pushes {
                match step {
                    Some(value) => {
                        let taken = sender.push(value).is_ok();
                        prop_assert_eq!(taken, model.len() < 4);
                        if taken { model.push_back(value); }
                    }
                    None => prop_assert_eq!(inbox.pop(), model.pop_front()),
                }
            }
        }

        /// An outbox loses nothing and keeps the order, however full the inbox is.
        #[test]
        fn an_outbox_keeps_the_order(steps in proptest::collection::vec(any::<bool>(), 0..200)) {
            let (inbox, sender) = with_capacity(2).unwrap();
            let mut outbox = Outbox::new(sender);
            let (mut sent, mut seen) = (0_u32, 0_u32);
            for send in steps {
                if send { outbox.send(sent); sent += 1; }
                else if let Some(value) = inbox.pop() { prop_assert_eq!(value, seen); seen += 1; }
                outbox.retry();
            }
            loop {
                outbox.retry();
                let Some(value) = inbox.pop() else { break };
                prop_assert_eq!(value, seen);
                seen += 1;
            }
            prop_assert_eq!(seen, sent);
        }
    }

    #[test]
    fn a_sleeper_is_woken_and_a_full_inbox_forbids_sleep() {
        use rustix::event::{PollFd, PollFlags, poll};
        let (inbox, sender) = with_capacity(2).unwrap();
        assert!(inbox.prepare_sleep());
        sender.push(1).unwrap();
        let mut fds = [PollFd::from_borrowed_fd(inbox.doorbell(), PollFlags::IN)];
        assert_eq!(poll(&mut fds, None).unwrap(), 1);
        inbox.awake();
        assert!(!inbox.prepare_sleep());
        assert_eq!(inbox.pop(), Some(1));
        assert!(inbox.prepare_sleep());
        inbox.awake();
        // Nobody sleeps: no bell.
        sender.push(2).unwrap();
        let mut fds = [PollFd::from_borrowed_fd(inbox.doorbell(), PollFlags::IN)];
        assert_eq!(
            poll(
                &mut fds,
                Some(&rustix::event::Timespec {
                    tv_sec: 0,
                    tv_nsec: 0
                })
            )
            .unwrap(),
            0
        );
    }

    /// Many producers and one sleeper: every message arrives although the receiver sleeps whenever
    /// the inbox is empty. Without the second look in `prepare_sleep` this hangs.
    #[test]
    fn no_wake_up_is_lost() {
        use rustix::event::{PollFd, PollFlags, poll};
        const EACH: u32 = 20_000;
        let (inbox, sender) = with_capacity(8).unwrap();
        let producers: Vec<_> = (0..3)
            .map(|_| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    for i in 0..EACH {
                        let mut message = i;
                        while let Err(back) = sender.push(message) {
                            message = back;
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut received = 0;
        while received < 3 * EACH {
            if inbox.pop().is_some() {
                received += 1;
            } else if inbox.prepare_sleep() {
                let mut fds = [PollFd::from_borrowed_fd(inbox.doorbell(), PollFlags::IN)];
                poll(&mut fds, None).unwrap();
                inbox.awake();
            }
        }
        for producer in producers {
            producer.join().unwrap();
        }
    }
}
