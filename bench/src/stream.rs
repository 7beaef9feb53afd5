//! Bytes in and out of a socket, at little cost: many pieces per system call, large payloads thrown
//! away inside the kernel.

use rustix::net::{RecvFlags, recv};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::net::TcpStream;
use std::ops::Range;

/// Pieces in one vectored write; the kernel's own limit (IOV_MAX).
const PIECES_MAX: usize = 1024;
/// Sent headers are forgotten when this many bytes of them have gathered.
const HEADERS_MAX: usize = 1 << 20;

/// A part of what is to be sent.
#[derive(Clone, Debug)]
enum Piece {
    /// Of [`Outbox::headers`].
    Headers(Range<usize>),
    /// Of the payload that all writes share.
    Payload(Range<usize>),
}

/// What waits to be sent, in order.
#[derive(Default, Debug)]
pub(crate) struct Outbox {
    headers: Vec<u8>,
    pieces: VecDeque<Piece>,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Headers, digests and padding; runs of them become one piece.
    pub(crate) fn push_headers(&mut self, bytes: &[u8]) {
        let start = self.headers.len();
        self.headers.extend_from_slice(bytes);
        let end = self.headers.len();
        match self.pieces.back_mut() {
            Some(Piece::Headers(range)) if range.end == start => range.end = end,
            _ => self.pieces.push_back(Piece::Headers(start..end)),
        }
    }

    pub(crate) fn push_payload(&mut self, range: Range<usize>) {
        self.pieces.push_back(Piece::Payload(range));
    }

    /// Sends as much as `write` takes.
    pub(crate) fn send(
        &mut self,
        payload: &[u8],
        mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<()> {
        while !self.pieces.is_empty() {
            let slices: Vec<IoSlice<'_>> = self
                .pieces
                .iter()
                .take(PIECES_MAX)
                .map(|piece| match piece {
                    Piece::Headers(range) => IoSlice::new(&self.headers[range.clone()]),
                    Piece::Payload(range) => IoSlice::new(&payload[range.clone()]),
                })
                .collect();
            let asked: usize = slices.iter().map(|slice| slice.len()).sum();
            match write(&slices) {
                Ok(sent) => {
                    self.forget(sent);
                    if sent < asked {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn forget(&mut self, mut sent: usize) {
        while sent > 0 {
            let Some(Piece::Headers(range) | Piece::Payload(range)) = self.pieces.front_mut()
            else {
                break;
            };
            let step = sent.min(range.len());
            range.start += step;
            sent -= step;
            if Range::is_empty(range) {
                self.pieces.pop_front();
            }
        }
        if self.pieces.is_empty() {
            self.headers.clear();
        } else if self.headers.len() > HEADERS_MAX {
            self.compact();
        }
    }

    /// Cuts headers that were sent off the front.
    fn compact(&mut self) {
        let first = self.pieces.iter().find_map(|piece| match piece {
            Piece::Headers(range) => Some(range.start),
            Piece::Payload(_) => None,
        });
        let gone = first.unwrap_or(self.headers.len());
        self.headers.drain(..gone);
        for piece in &mut self.pieces {
            if let Piece::Headers(range) = piece {
                *range = range.start - gone..range.end - gone;
            }
        }
    }
}

/// Receives into `scratch`; `None` when nothing is there.
pub(crate) fn receive(stream: &TcpStream, scratch: &mut [u8]) -> io::Result<Option<usize>> {
    receive_with(stream, scratch, RecvFlags::empty())
}

/// Throws up to `scratch.len()` received bytes away without copying them (tcp(7), MSG_TRUNC);
/// returns how many.
pub(crate) fn discard(stream: &TcpStream, scratch: &mut [u8]) -> io::Result<Option<usize>> {
    receive_with(stream, scratch, RecvFlags::TRUNC)
}

fn receive_with(
    stream: &TcpStream,
    scratch: &mut [u8],
    flags: RecvFlags,
) -> io::Result<Option<usize>> {
    match recv(stream, scratch, flags) {
        Ok((_, 0)) => Err(io::Error::from(ErrorKind::UnexpectedEof)),
        Ok((_, received)) => Ok(Some(received)),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn pieces_arrive_in_order_through_a_socket_that_takes_little() {
        let (near, mut far) = pair();
        near.set_nonblocking(true).unwrap();
        let payload: Vec<u8> = (0..=250).cycle().take(100_000).collect();
        let mut outbox = Outbox::default();
        let mut expected = Vec::new();
        for round in 0..200_u8 {
            outbox.push_headers(&[round; 7]);
            outbox.push_headers(&[round; 3]);
            outbox.push_payload(0..payload.len());
            expected.extend_from_slice(&[round; 10]);
            expected.extend_from_slice(&payload);
        }
        assert_eq!(outbox.pieces.len(), 400, "headers in a row are one piece");
        let mut received = Vec::new();
        let mut buffer = vec![0; 1 << 20];
        while received.len() < expected.len() {
            outbox
                .send(&payload, |slices| (&near).write_vectored(slices))
                .unwrap();
            outbox.compact();
            let read = far.read(&mut buffer).unwrap();
            received.extend_from_slice(&buffer[..read]);
        }
        assert!(received == expected && outbox.is_empty());
    }

    #[test]
    fn discarded_bytes_are_counted_and_not_copied() {
        let (mut near, far) = pair();
        near.write_all(&[7; 1000]).unwrap();
        let mut scratch = [1; 600];
        assert_eq!(discard(&far, &mut scratch).unwrap(), Some(600));
        assert_eq!(scratch, [1; 600]);
        assert_eq!(receive(&far, &mut scratch).unwrap(), Some(400));
        assert_eq!(scratch[..400], [7; 400]);
        far.set_nonblocking(true).unwrap();
        assert_eq!(receive(&far, &mut scratch).unwrap(), None);
        drop(near);
        far.set_nonblocking(false).unwrap();
        receive(&far, &mut scratch).unwrap_err();
    }
}
