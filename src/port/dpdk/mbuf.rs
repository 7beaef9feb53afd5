//! [`Mbuf`]: a received frame in DPDK's own memory, owned.

use std::fmt;
use std::ptr::NonNull;
use std::slice;

use dpdk_sys as sys;

use crate::port::checksum::{Layout, l2_len};
use crate::port::{Checksum, ETHERNET_BYTES};

/// So much of a frame is in one piece: more than any headers take.
const HEAD_GATHERED: u32 = 128;

/// A chain of DPDK's packet buffers: one frame. Dropping it frees them, on any thread.
pub struct Mbuf {
    mbuf: NonNull<sys::rte_mbuf>,
    data: NonNull<u8>,
    /// In the first buffer.
    head: u32,
    len: u32,
    held: u32,
}

// SAFETY: the chain has this owner only; reading it touches no state of a thread, and freeing it
// goes to its pool, which any thread may give buffers back to.
unsafe impl Send for Mbuf {}

impl Mbuf {
    /// Takes a frame that was received. `None`, and the frame is freed: it has not even an Ethernet
    /// header, or its headers could not be put in one piece.
    pub(super) fn new(received: sys::iibd_received) -> Option<Self> {
        let mut received = received;
        // Owned from here on, so that every way out frees it.
        let mut mbuf = Self::whole(&received)?;
        let least = received.frame_bytes.min(HEAD_GATHERED);
        if received.head_bytes < least {
            // SAFETY: the chain is ours alone and as the driver gave it.
            if unsafe { sys::iibd_gather(&raw mut received, HEAD_GATHERED) } != 0 {
                return None;
            }
            mbuf.data = NonNull::new(received.data.cast_mut())?;
            mbuf.head = received.head_bytes;
            mbuf.held = received.held_bytes;
        }
        let header = u32::try_from(ETHERNET_BYTES).expect("14");
        (mbuf.head >= header).then_some(mbuf)
    }

    fn whole(received: &sys::iibd_received) -> Option<Self> {
        Some(Self {
            mbuf: NonNull::new(received.mbuf)?,
            data: NonNull::new(received.data.cast_mut())?,
            head: received.head_bytes,
            len: received.frame_bytes,
            held: received.held_bytes,
        })
    }

    /// The first bytes in one piece: all headers.
    pub fn head(&self) -> &[u8] {
        // SAFETY: the first buffer holds so many initialised bytes from there on, and is ours until
        // `self` is dropped.
        unsafe { slice::from_raw_parts(self.data.as_ptr(), self.head as usize) }
    }

    /// The pieces of the frame in order, none of them empty.
    pub fn slices(&self) -> Slices<'_> {
        Slices {
            head: Some(self.head()),
            next: self.segment(self.mbuf.as_ptr()).next,
            mbuf: self,
        }
    }

    /// Bytes of the frame.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory of all its buffers.
    pub fn held_bytes(&self) -> usize {
        self.held as usize
    }

    fn segment(&self, mbuf: *const sys::rte_mbuf) -> sys::iibd_segment {
        let mut segment = sys::iibd_segment::default();
        // SAFETY: `mbuf` is a buffer of this chain, which nobody changes while it is borrowed.
        unsafe { sys::iibd_segment_of(mbuf, &raw mut segment) };
        segment
    }
}

impl Drop for Mbuf {
    fn drop(&mut self) {
        // SAFETY: the chain is ours, and used no more.
        unsafe { sys::iibd_free(self.mbuf.as_ptr()) }
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf").field("len", &self.len).finish()
    }
}

/// The pieces of a frame: see [`Mbuf::slices`].
#[derive(Debug)]
pub struct Slices<'a> {
    head: Option<&'a [u8]>,
    next: *mut sys::rte_mbuf,
    mbuf: &'a Mbuf,
}

impl<'a> Iterator for Slices<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if let Some(head) = self.head.take() {
            return Some(head);
        }
        while !self.next.is_null() {
            let segment = self.mbuf.segment(self.next);
            self.next = segment.next;
            if segment.bytes > 0 {
                // SAFETY: as for the head: initialised bytes of a buffer of this chain.
                return Some(unsafe {
                    slice::from_raw_parts(segment.data, segment.bytes as usize)
                });
            }
        }
        None
    }
}

/// What a device's marks mean for the checksums of a frame with these first bytes. The device has
/// been asked to verify TCP; of the IPv4 header it may have said nothing, and that is added up
/// here.
pub(super) fn checksum(flags: u64, head: &[u8]) -> Checksum {
    let ip = flags & u64::from(sys::RTE_MBUF_F_RX_IP_CKSUM_MASK);
    let tcp = flags & u64::from(sys::RTE_MBUF_F_RX_L4_CKSUM_MASK);
    if ip == u64::from(sys::RTE_MBUF_F_RX_IP_CKSUM_BAD)
        || tcp == u64::from(sys::RTE_MBUF_F_RX_L4_CKSUM_BAD)
    {
        return Checksum::Bad;
    }
    // "None" says that the sum was not there to be verified and the data is right: it came out of
    // the memory of the same machine.
    let is_tcp_good = tcp == u64::from(sys::RTE_MBUF_F_RX_L4_CKSUM_GOOD)
        || tcp == u64::from(sys::RTE_MBUF_F_RX_L4_CKSUM_NONE);
    if !is_tcp_good {
        return Checksum::Unknown;
    }
    if ip == u64::from(sys::RTE_MBUF_F_RX_IP_CKSUM_GOOD) {
        return Checksum::Good;
    }
    match ip_header(head) {
        Some(true) => Checksum::Good,
        Some(false) => Checksum::Bad,
        None => Checksum::Unknown,
    }
}

/// Whether the IPv4 header is right (RFC 791 section 3.1); IPv6 has no sum of its own. `None`: no
/// IP, or not all of its header.
fn ip_header(head: &[u8]) -> Option<bool> {
    if head.get(..l2_len(head))?.ends_with(&[0x86, 0xdd]) {
        return Some(true);
    }
    Some(Layout::of(head)?.is_header_valid(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP_GOOD: u64 = sys::RTE_MBUF_F_RX_L4_CKSUM_GOOD as u64;
    const TCP_NONE: u64 = sys::RTE_MBUF_F_RX_L4_CKSUM_NONE as u64;
    const IP_GOOD: u64 = sys::RTE_MBUF_F_RX_IP_CKSUM_GOOD as u64;
    const IP_BAD: u64 = sys::RTE_MBUF_F_RX_IP_CKSUM_BAD as u64;

    /// The example header of RFC 1071's later explanations: its sum is b861.
    const HEADER: [u8; 20] = [
        0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0,
        0xc7,
    ];

    fn frame(tag: bool, ethertype: [u8; 2], header: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 12];
        if tag {
            bytes.extend([0x81, 0, 0, 5]);
        }
        bytes.extend(ethertype);
        bytes.extend(header);
        bytes
    }

    #[test]
    fn a_good_tcp_sum_needs_a_good_ip_header_too() {
        for tag in [false, true] {
            let good = frame(tag, [8, 0], &HEADER);
            assert_eq!(checksum(TCP_GOOD, &good), Checksum::Good);
            assert_eq!(checksum(TCP_NONE, &good), Checksum::Good);
            let mut bad = good.clone();
            *bad.last_mut().unwrap() ^= 1;
            assert_eq!(checksum(TCP_GOOD, &bad), Checksum::Bad);
            assert_eq!(checksum(TCP_GOOD | IP_GOOD, &bad), Checksum::Good);
            assert_eq!(checksum(TCP_GOOD | IP_BAD, &good), Checksum::Bad);
        }
        let six = frame(false, [0x86, 0xdd], &[0x60]);
        assert_eq!(checksum(TCP_GOOD, &six), Checksum::Good);
    }

    #[test]
    fn what_the_device_does_not_say_is_unknown() {
        let good = frame(false, [8, 0], &HEADER);
        assert_eq!(checksum(0, &good), Checksum::Unknown);
        assert_eq!(checksum(IP_GOOD, &good), Checksum::Unknown);
        assert_eq!(checksum(TCP_GOOD, &good[..20]), Checksum::Unknown);
        assert_eq!(
            checksum(TCP_GOOD, &frame(false, [8, 6], &[])),
            Checksum::Unknown
        );
        let short = frame(false, [8, 0], &[0x44; 20]);
        assert_eq!(checksum(TCP_GOOD, &short), Checksum::Unknown);
        assert_eq!(checksum(TCP_GOOD, &[]), Checksum::Unknown);
    }
}
