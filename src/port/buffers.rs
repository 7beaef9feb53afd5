//! Buffers for the frames of ports that have no memory of a device: a bounded store of boxes, given
//! back from whatever thread drops them last.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

/// A store of equally long buffers; clones name the same store.
#[derive(Clone)]
pub struct Buffers {
    free: Arc<ArrayQueue<Box<[u8]>>>,
    bytes: usize,
}

impl Buffers {
    /// `count` buffers of `bytes` bytes each, all of them taken now.
    pub fn new(count: usize, bytes: usize) -> Self {
        let free = ArrayQueue::new(count.max(1));
        for _ in 0..count {
            // A queue of that capacity has room for as many.
            let _ = free.push(vec![0; bytes].into_boxed_slice());
        }
        Self {
            free: Arc::new(free),
            bytes,
        }
    }

    /// A buffer of `len` bytes with stale contents; `None` when all are in use, or when it is too
    /// long for any.
    pub fn take(&self, len: usize) -> Option<Buffer> {
        if len > self.bytes {
            return None;
        }
        let memory = self.free.pop()?;
        Some(Buffer {
            memory,
            len,
            home: Some(Arc::clone(&self.free)),
        })
    }

    /// Buffers that are not in use.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// The length of the longest frame that fits.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffers")
            .field("available", &self.available())
            .field("bytes", &self.bytes)
            .finish()
    }
}

/// One buffer; returns to its store when it is dropped.
pub struct Buffer {
    memory: Box<[u8]>,
    len: usize,
    /// Absent for one that was made for one frame.
    home: Option<Arc<ArrayQueue<Box<[u8]>>>>,
}

impl Buffer {
    /// A buffer of no store with these contents.
    pub fn copied(bytes: &[u8]) -> Self {
        Self {
            memory: bytes.into(),
            len: bytes.len(),
            home: None,
        }
    }

    /// A buffer of no store, all zeroes.
    pub fn zeroed(len: usize) -> Self {
        Self {
            memory: vec![0; len].into_boxed_slice(),
            len,
            home: None,
        }
    }

    /// Shortens it. A longer `len` changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Bytes of memory, whatever is in use of it.
    pub fn capacity(&self) -> usize {
        self.memory.len()
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            // It came from there, so there is room.
            let _ = home.push(std::mem::take(&mut self.memory));
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_from_any_thread_and_no_more_are_given_than_there_are() {
        let store = Buffers::new(2, 100);
        let mut one = store.take(100).unwrap();
        let two = store.take(1).unwrap();
        assert!(store.take(1).is_none());
        one.fill(7);
        one.truncate(3);
        assert_eq!((&*one, one.capacity()), (&[7, 7, 7][..], 100));
        std::thread::spawn(move || drop((one, two))).join().unwrap();
        assert_eq!(store.available(), 2);
        assert!(store.take(101).is_none());
        assert_eq!(store.available(), 2);
    }
}
