//! [`Parcel`]: a frame to be sent that owns its bytes, for frames that are not sent at once or not
//! by this core.

use super::buffers::{Buffer, Buffers};
use super::{Offload, Outgoing, Piece};

/// An [`Outgoing`] with everything in it copied.
#[derive(Debug)]
pub struct Parcel {
    bytes: Buffer,
    head_len: usize,
    offload: Offload,
}

impl Parcel {
    /// A copy, in a buffer of `buffers` where one is free and long enough, else on the heap.
    pub fn copied(frame: &Outgoing<'_>, buffers: Option<&Buffers>) -> Self {
        let len = frame.len();
        let pooled = buffers.and_then(|buffers| buffers.take(len));
        let mut bytes = pooled.unwrap_or_else(|| Buffer::zeroed(len));
        let (head, mut rest) = bytes.split_at_mut(frame.head.len());
        head.copy_from_slice(frame.head);
        for piece in frame.payload {
            let piece = piece.bytes();
            let (to, behind) = rest.split_at_mut(piece.len());
            to.copy_from_slice(piece);
            rest = behind;
        }
        Self {
            bytes,
            head_len: frame.head.len(),
            offload: frame.offload,
        }
    }

    /// A frame as it is on the wire, of which the first `head_len` bytes are headers.
    pub fn on_the_wire(bytes: Buffer, head_len: usize) -> Self {
        Self {
            bytes,
            head_len,
            offload: Offload::default(),
        }
    }

    /// Does something with it as a port takes it.
    pub fn with<R>(&self, f: impl FnOnce(&Outgoing<'_>) -> R) -> R {
        let (head, payload) = self.bytes.split_at(self.head_len);
        let piece = [Piece::Bytes(payload)];
        f(&Outgoing {
            head,
            payload: if payload.is_empty() { &[] } else { &piece },
            offload: self.offload,
        })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    pub(super) fn duplicate(&self) -> Self {
        Self {
            bytes: Buffer::copied(&self.bytes),
            ..*self
        }
    }
}
