//! Racing copies where no assembly was written: relaxed atomic words on the disk's side.
//!
//! Blocks are 512 bytes or more and the disk's base is a page's, so every piece starts and ends on
//! a word; all cores then touch the same words with the same size, as the memory model demands.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const WORD: usize = size_of::<u64>();

/// # Safety
/// 1. `dst.len()` bytes from `disk` on are mapped for as long as the call lasts.
/// 2. All access to them, here and elsewhere, is by functions of this module or the kernel.
pub(super) unsafe fn copy_out(disk: NonNull<u8>, dst: &mut [u8]) {
    let words = words(disk, dst.len());
    for (piece, at) in dst.chunks_exact_mut(WORD).zip(0..words) {
        // SAFETY: the caller's 1 and 2; `at` is below the number of words.
        let word = unsafe { word(disk, at) };
        piece.copy_from_slice(&word.load(Relaxed).to_le_bytes());
    }
}

/// # Safety
/// As [`copy_out`], for `src.len()` bytes.
pub(super) unsafe fn copy_in(disk: NonNull<u8>, src: &[u8]) {
    let words = words(disk, src.len());
    for (piece, at) in src.chunks_exact(WORD).zip(0..words) {
        // SAFETY: the caller's 1 and 2; `at` is below the number of words.
        let word = unsafe { word(disk, at) };
        word.store(
            u64::from_le_bytes(piece.try_into().expect("a word")),
            Relaxed,
        );
    }
}

/// # Safety
/// As [`copy_out`], for `len` bytes.
pub(super) unsafe fn zero(disk: NonNull<u8>, len: usize) {
    for at in 0..words(disk, len) {
        // SAFETY: the caller's 1 and 2; `at` is below the number of words.
        unsafe { word(disk, at) }.store(0, Relaxed);
    }
}

/// No portable hint exists.
pub(super) fn prefetch(_disk: NonNull<u8>) {}

fn words(disk: NonNull<u8>, len: usize) -> usize {
    assert!(
        disk.cast::<u64>().is_aligned() && len.is_multiple_of(WORD),
        "pieces are whole words"
    );
    len / WORD
}

/// # Safety
/// The word `at` words behind `disk` is mapped for `'a`, aligned, and only accessed atomically.
unsafe fn word<'a>(disk: NonNull<u8>, at: usize) -> &'a AtomicU64 {
    // SAFETY: the caller's duty.
    let word = unsafe { disk.cast::<u64>().add(at) };
    // SAFETY: the caller's duty.
    unsafe { AtomicU64::from_ptr(word.as_ptr()) }
}
