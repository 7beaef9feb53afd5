//! Cuts a byte stream into PDUs (RFC 7143 §11.1 and §11.2), whatever the fragments it arrives in.
//!
//! ```text
//!  input ─► Header ─► Data(piece) … Data(piece) ─► End { data_digest_ok } ─► Header …
//! ```
//!
//! Every PDU gives one `Header` (its digest already checked; see [`Framer::header`]), the pieces of
//! its data segment as slices of the input, and one `End`. The framer keeps the header, and the few
//! bytes of padding and data digest: never a data segment.
//!
//! Instead of feeding data through [`Framer::next`], the caller may receive the [`Framer::missing`]
//! bytes straight into their destination and report them with [`Framer::advance_direct`].
//!
//! Invariants: after an error the framer gives that error again and again, because the boundaries
//! of the PDUs are lost; each call of `next` that returns an event but `End` takes at least one
//! byte of input, so a caller's loop over one input ends.

use super::ahs::AHS_BYTES_MAX;
use super::{
    AhsBytes, BHS_LEN, Bhs, DATA_SEGMENT_LENGTH_MAX, DIGEST_LEN, DataDigest, digest_from_wire,
    header_digest, pad_length,
};
use thiserror::Error;

/// Longest header: BHS, AHS and digest.
const HEADER_BYTES_MAX: usize = BHS_LEN + AHS_BYTES_MAX + DIGEST_LEN;

// The trailer (padding and data digest) is collected in the same place.
const _: () = assert!(3 + DIGEST_LEN <= HEADER_BYTES_MAX);

/// What a peer may send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Our MaxRecvDataSegmentLength, in bytes.
    pub max_data_segment: u32,
    /// Bytes of AHS in one PDU; values above [`AHS_BYTES_MAX`] mean that.
    pub max_ahs: usize,
}

/// The receiving side of one connection.
#[derive(Debug)]
pub struct Framer {
    limits: Limits,
    header_digest: bool,
    data_digest: bool,
    state: State,
    /// Why nothing more is taken.
    failed: Option<FrameError>,
    /// Of the PDU that began last.
    header: Header,
    /// Payload bytes of the current data segment that are still missing.
    missing: u32,
    /// Bytes of padding and data digest behind the current data segment.
    trailer_len: usize,
    /// Whether the current PDU ends in a data digest.
    digest_due: bool,
    /// Sum of the current data segment so far, kept only when a digest is due.
    digest: DataDigest,
    /// The beginning of a header, or of a trailer, that is not yet whole.
    partial: [u8; HEADER_BYTES_MAX],
    partial_len: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Before or within a header.
    Header,
    /// Behind a header: data, padding, data digest.
    Body,
    /// Behind an error.
    Failed,
}

/// The fixed and additional header segments of a PDU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    pub bhs: Bhs,
    pub ahs: AhsBytes,
}

/// What the stream brought next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// A PDU begins: [`Framer::header`]. Its header digest, if there is one, was right.
    Header,
    /// The next bytes of the data segment, in order; never empty.
    Data(&'a [u8]),
    /// The PDU is over: comes once for every header, also when there is no data segment, unless
    /// [`Framer::ends_with_header`] said so.
    /// `data_digest_ok` is true when no data digest was due.
    End { data_digest_ok: bool },
}

/// The stream cannot be followed any further: the connection must be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FrameError {
    /// RFC 7143 §7.8: nothing in the header can be trusted, its lengths included.
    #[error("header digest {received:#010x} received, {computed:#010x} computed")]
    HeaderDigest { received: u32, computed: u32 },
    /// The peer exceeds the MaxRecvDataSegmentLength that we declared.
    #[error("data segment of {length} bytes, at most {max} are allowed")]
    DataSegmentTooLong { length: u32, max: u32, bhs: Bhs },
    /// More AHS than any command of ours has a use for. Its digest was not checked.
    #[error("{length} bytes of AHS, at most {max} are allowed")]
    AhsTooLong { length: usize, max: usize, bhs: Bhs },
}

impl Framer {
    /// At the start of a stream, without digests: that is how every connection begins.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            header_digest: false,
            data_digest: false,
            state: State::Header,
            failed: None,
            header: Header {
                bhs: Bhs::new([0; BHS_LEN]),
                ahs: AhsBytes::new(),
            },
            missing: 0,
            trailer_len: 0,
            digest_due: false,
            digest: DataDigest::new(),
            partial: [0; HEADER_BYTES_MAX],
            partial_len: 0,
        }
    }

    /// From the next PDU on, digests are there or not. Call it between PDUs, after the `End` of the
    /// PDU that finished the login (RFC 7143 §6.1: digests begin with the full feature phase).
    pub fn set_digests(&mut self, header: bool, data: bool) {
        self.header_digest = header;
        self.data_digest = data;
    }

    /// From the next header on, data segments may have this many bytes.
    pub fn set_max_data_segment(&mut self, max: u32) {
        self.limits.max_data_segment = max;
    }

    /// Takes bytes from the front of `input` and returns what they bring, or `None` when all of
    /// them are taken and nothing more can be said. Call it until it returns `None`.
    ///
    /// # Errors
    /// See [`FrameError`]; the same error comes again on every later call.
    #[inline]
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, FrameError> {
        match self.state {
            State::Header if input.is_empty() => Ok(None),
            State::Header => match self.next_header(input) {
                Ok(event) => Ok(event),
                Err(error) => {
                    self.state = State::Failed;
                    self.failed = Some(error);
                    Err(error)
                }
            },
            State::Body if self.missing > 0 => Ok(self.next_data(input).map(Event::Data)),
            State::Body => Ok(self.next_end(input)),
            State::Failed => Err(self.failed.expect("set with the state")),
        }
    }

    /// After a [`Event::Header`]: whether nothing follows the header, neither data nor digest. If
    /// so this was the PDU's end, and no [`Event::End`] comes.
    #[inline]
    pub fn ends_with_header(&mut self) -> bool {
        let ends = self.state == State::Body && self.missing == 0 && self.trailer_len == 0;
        if ends {
            self.state = State::Header;
        }
        ends
    }

    /// The header of the PDU that began last: all zero before the first.
    #[inline]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many payload bytes of the current data segment are still missing, without padding and
    /// digest; zero outside a data segment.
    #[inline]
    pub fn missing(&self) -> u32 {
        self.missing
    }

    /// The next bytes of the current data segment are in their place already: counts and digests
    /// them.
    ///
    /// # Panics
    /// If there are more than [`Framer::missing`], which is a mistake of the caller.
    pub fn advance_direct(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).expect("at most `missing` bytes");
        self.missing = self
            .missing
            .checked_sub(length)
            .expect("at most `missing` bytes");
        if self.digest_due {
            self.digest.update(bytes);
        }
    }

    /// Whether the stream would be cut within a PDU if it ended here.
    #[inline]
    pub fn mid_pdu(&self) -> bool {
        self.state == State::Body || self.partial_len > 0
    }

    /// Reads a header in place when all of it is in the input, else by way of `partial`.
    #[inline]
    fn next_header<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, FrameError> {
        if self.partial_len == 0
            && let Some((bhs, _)) = input.split_first_chunk::<BHS_LEN>()
        {
            let bhs = Bhs::new(*bhs);
            let length = self.header_length(&bhs)?;
            if let Some((bytes, rest)) = input.split_at_checked(length) {
                *input = rest;
                self.begin_body(&bhs, bytes)?;
                return Ok(Some(Event::Header));
            }
        }
        self.collect_header(input)
    }

    /// Header bytes arrive in pieces: first the BHS, then what it announces.
    #[cold]
    fn collect_header<'a>(
        &mut self,
        input: &mut &'a [u8],
    ) -> Result<Option<Event<'a>>, FrameError> {
        if !self.collect(input, BHS_LEN) {
            return Ok(None);
        }
        let partial = self.partial;
        let (bhs, _) = partial
            .split_first_chunk::<BHS_LEN>()
            .expect("`partial` is longer");
        let bhs = Bhs::new(*bhs);
        let length = self.header_length(&bhs)?;
        if !self.collect(input, length) {
            return Ok(None);
        }
        self.partial_len = 0;
        let partial = self.partial;
        let bytes = &partial[..length];
        self.begin_body(&bhs, bytes)?;
        Ok(Some(Event::Header))
    }

    /// Bytes of BHS, AHS and header digest: at most [`HEADER_BYTES_MAX`].
    #[inline]
    fn header_length(&self, bhs: &Bhs) -> Result<usize, FrameError> {
        let length = bhs.total_ahs_length();
        let max = self.limits.max_ahs.min(AHS_BYTES_MAX);
        if length > max {
            return Err(FrameError::AhsTooLong {
                length,
                max,
                bhs: *bhs,
            });
        }
        Ok(BHS_LEN + length + if self.header_digest { DIGEST_LEN } else { 0 })
    }

    /// Checks a whole header, keeps it and prepares for its body. `bytes` has the length of
    /// `header_length`.
    #[inline]
    fn begin_body(&mut self, bhs: &Bhs, bytes: &[u8]) -> Result<(), FrameError> {
        if self.header_digest
            && let Some((covered, wire)) = bytes.split_last_chunk::<DIGEST_LEN>()
        {
            let (received, computed) = (digest_from_wire(*wire), header_digest(covered));
            if received != computed {
                return Err(FrameError::HeaderDigest { received, computed });
            }
        }
        let length = bhs.data_segment_length();
        let max = self.limits.max_data_segment.min(DATA_SEGMENT_LENGTH_MAX);
        if length > max {
            return Err(FrameError::DataSegmentTooLong {
                length,
                max,
                bhs: *bhs,
            });
        }
        self.state = State::Body;
        self.header.bhs = *bhs;
        if bhs.total_ahs_length() > 0 || !self.header.ahs.is_empty() {
            self.header.ahs = ahs_of(bhs, bytes);
        }
        self.missing = length;
        // RFC 7143 §11.2.3: without a data segment there is no data digest either.
        self.digest_due = self.data_digest && length > 0;
        self.digest = DataDigest::new();
        self.trailer_len =
            pad_length(length) as usize + if self.digest_due { DIGEST_LEN } else { 0 };
        Ok(())
    }

    #[inline]
    fn next_data<'a>(&mut self, input: &mut &'a [u8]) -> Option<&'a [u8]> {
        let (piece, rest) = input.split_at(input.len().min(self.missing as usize));
        if piece.is_empty() {
            return None;
        }
        *input = rest;
        self.advance_direct(piece);
        Some(piece)
    }

    /// The padding, whatever its bytes are, and the data digest.
    #[inline]
    fn next_end(&mut self, input: &mut &[u8]) -> Option<Event<'static>> {
        if self.ends_with_header() {
            return Some(Event::End {
                data_digest_ok: true,
            });
        }
        if !self.collect(input, self.trailer_len) {
            return None;
        }
        let trailer = &self.partial[..self.trailer_len];
        let data_digest_ok = if self.digest_due {
            let (pad, wire) = trailer
                .split_last_chunk::<DIGEST_LEN>()
                .expect("it is due, so it was counted");
            // RFC 7143 §13.1: the padding is part of what the digest covers.
            self.digest.update(pad);
            self.digest.finish() == digest_from_wire(*wire)
        } else {
            true
        };
        self.partial_len = 0;
        self.state = State::Header;
        Some(Event::End { data_digest_ok })
    }

    /// Moves bytes from the input until `partial` holds `length`; false when the input ends before.
    #[inline]
    fn collect(&mut self, input: &mut &[u8], length: usize) -> bool {
        let wanted = length.saturating_sub(self.partial_len);
        let (piece, rest) = input.split_at(input.len().min(wanted));
        self.partial[self.partial_len..][..piece.len()].copy_from_slice(piece);
        self.partial_len += piece.len();
        *input = rest;
        piece.len() == wanted
    }
}

/// The AHS among the bytes of a whole header, whose length `header_length` has bounded.
#[cold]
fn ahs_of(bhs: &Bhs, bytes: &[u8]) -> AhsBytes {
    match bhs.total_ahs_length() {
        0 => AhsBytes::new(),
        length => {
            let ahs = bytes
                .get(BHS_LEN..BHS_LEN + length)
                .expect("`bytes` is a whole header");
            AhsBytes::from_wire(ahs).expect("at most AHS_BYTES_MAX bytes")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::{Itt, digest_to_wire};
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        max_data_segment: 8192,
        max_ahs: AHS_BYTES_MAX,
    };

    /// A PDU as sent, and as it should come out.
    #[derive(Clone, PartialEq, Debug)]
    struct Pdu {
        bhs: Bhs,
        ahs: Vec<u8>,
        data: Vec<u8>,
    }

    impl Pdu {
        fn new(tag: u32, ahs: &[u8], data: &[u8]) -> Self {
            let mut bhs = [0; BHS_LEN];
            bhs[16..20].copy_from_slice(&tag.to_be_bytes());
            let data_bytes = u32::try_from(data.len()).unwrap();
            let bhs = Bhs::new(bhs).with_lengths(ahs.len(), data_bytes);
            Self {
                bhs,
                ahs: ahs.to_vec(),
                data: data.to_vec(),
            }
        }

        fn wire(&self, header_digest: bool, data_digest: bool) -> Vec<u8> {
            let mut wire = self.bhs.bytes().to_vec();
            wire.extend(&self.ahs);
            if header_digest {
                wire.extend(digest_to_wire(crc32c::crc32c(&wire)));
            }
            let mut body = self.data.clone();
            body.resize(body.len().next_multiple_of(4), 0);
            wire.extend(&body);
            if data_digest && !body.is_empty() {
                wire.extend(digest_to_wire(crc32c::crc32c(&body)));
            }
            wire
        }
    }

    /// Collects whole PDUs out of events, checking their order.
    #[derive(Default)]
    struct Collector {
        current: Option<Pdu>,
        done: Vec<(Pdu, bool)>,
    }

    impl Collector {
        fn feed(&mut self, framer: &mut Framer, mut input: &[u8]) -> Result<(), FrameError> {
            while let Some(event) = framer.next(&mut input)? {
                match event {
                    Event::Header => {
                        assert_eq!(self.current, None, "a header within a PDU");
                        let Header { bhs, ahs } = framer.header();
                        self.current = Some(Pdu {
                            bhs: *bhs,
                            ahs: ahs.as_slice().to_vec(),
                            data: Vec::new(),
                        });
                    }
                    Event::Data(piece) => {
                        assert!(!piece.is_empty());
                        self.current.as_mut().unwrap().data.extend(piece);
                    }
                    Event::End { data_digest_ok } => {
                        assert_eq!(framer.missing(), 0);
                        self.done
                            .push((self.current.take().unwrap(), data_digest_ok));
                    }
                }
                assert_eq!(framer.mid_pdu(), self.current.is_some());
            }
            assert!(input.is_empty(), "bytes left over without an event");
            Ok(())
        }
    }

    fn framer(header_digest: bool, data_digest: bool) -> Framer {
        let mut framer = Framer::new(LIMITS);
        framer.set_digests(header_digest, data_digest);
        framer
    }

    fn all_good(pdus: &[Pdu]) -> Vec<(Pdu, bool)> {
        pdus.iter().map(|pdu| (pdu.clone(), true)).collect()
    }

    fn hundred_pdus() -> Vec<Pdu> {
        (0..100usize)
            .map(|i| {
                let ahs = vec![0x11; i % 3 * 4];
                let data: Vec<u8> = (0..i * 7 % 60)
                    .map(|byte| (byte + i).to_le_bytes()[0])
                    .collect();
                Pdu::new(u32::try_from(i).unwrap(), &ahs, &data)
            })
            .collect()
    }

    #[test]
    fn hundred_pdus_at_once_and_one_byte_at_a_time_give_the_same() {
        let pdus = hundred_pdus();
        for (header, data) in [(false, false), (true, false), (false, true), (true, true)] {
            let wire: Vec<u8> = pdus.iter().flat_map(|pdu| pdu.wire(header, data)).collect();
            let mut at_once = Collector::default();
            at_once.feed(&mut framer(header, data), &wire).unwrap();
            assert_eq!(at_once.done, all_good(&pdus));
            let mut by_bytes = Collector::default();
            let mut framer = framer(header, data);
            for byte in &wire {
                by_bytes
                    .feed(&mut framer, std::slice::from_ref(byte))
                    .unwrap();
            }
            assert_eq!(by_bytes.done, all_good(&pdus));
            assert!(!framer.mid_pdu());
        }
    }

    #[test]
    fn a_pdu_of_a_header_alone_ends_with_it_once() {
        let bare = Pdu::new(1, &[0, 5, 2, 0, 9, 9, 9, 9], &[]);
        let with_data = Pdu::new(2, &[], &[1, 2, 3, 4]);
        let wire = [bare.wire(true, true), with_data.wire(true, true)].concat();
        let mut framer = framer(true, true);
        let mut input = &wire[..];
        assert!(!framer.ends_with_header(), "none has begun");
        assert_eq!(framer.next(&mut input), Ok(Some(Event::Header)));
        assert!(framer.ends_with_header() && !framer.mid_pdu());
        assert!(!framer.ends_with_header(), "only once");
        assert_eq!(framer.next(&mut input), Ok(Some(Event::Header)));
        assert_eq!(framer.header().bhs, with_data.bhs);
        assert!(framer.header().ahs.is_empty());
        assert!(!framer.ends_with_header() && framer.mid_pdu());
        assert_eq!(
            framer.next(&mut input),
            Ok(Some(Event::Data(&with_data.data)))
        );
        assert!(!framer.ends_with_header(), "its digest is to come");
        let data_digest_ok = true;
        let end = Event::End { data_digest_ok };
        assert_eq!(framer.next(&mut input), Ok(Some(end)));
        assert!(input.is_empty());
    }

    #[test]
    fn a_cut_stream_is_seen_to_end_within_a_pdu() {
        let wire = Pdu::new(1, &[], &[7; 5]).wire(true, true);
        for cut in 1..wire.len() {
            let mut framer = framer(true, true);
            let mut input = &wire[..cut];
            while let Some(event) = framer.next(&mut input).unwrap() {
                assert!(!matches!(event, Event::End { .. }));
            }
            assert!(framer.mid_pdu(), "cut at {cut}");
            let mut rest = &wire[cut..];
            let mut ended = false;
            while let Some(event) = framer.next(&mut rest).unwrap() {
                ended |= event
                    == Event::End {
                        data_digest_ok: true,
                    };
            }
            assert!(ended && !framer.mid_pdu(), "cut at {cut}");
        }
    }

    /// RFC 7143 §7.8: no header with a wrong digest gets through, and the framer stays closed.
    #[test]
    fn every_flipped_bit_of_a_header_is_found() {
        let pdu = Pdu::new(0x1234_5678, &[0, 5, 2, 0, 9, 9, 9, 9], &[]);
        let good = pdu.wire(true, false);
        let covered = good.len();
        for bit in 0..covered * 8 {
            let mut wire = good.clone();
            wire[bit / 8] ^= 0x80 >> (bit % 8);
            // What a larger TotalAHSLength would wait for.
            wire.resize(covered + AHS_BYTES_MAX, 0);
            let mut framer = framer(true, false);
            let mut input = &wire[..];
            let error = framer.next(&mut input).unwrap_err();
            let by_length = matches!(error, FrameError::AhsTooLong { .. });
            let by_digest = matches!(error, FrameError::HeaderDigest { .. });
            assert!(by_digest || by_length && bit / 8 == 4, "bit {bit}: {error}");
            assert_eq!(framer.next(&mut &good[..]), Err(error), "closed for ever");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_data_segment_is_found_and_the_stream_goes_on() {
        let pdu = Pdu::new(1, &[], &[0x5a; 301]);
        let good = pdu.wire(false, true);
        for bit in BHS_LEN * 8..good.len() * 8 {
            let mut wire = good.clone();
            wire[bit / 8] ^= 0x80 >> (bit % 8);
            wire.extend(&good);
            let mut collector = Collector::default();
            collector.feed(&mut framer(false, true), &wire).unwrap();
            let verdicts: Vec<bool> = collector.done.iter().map(|(_, ok)| *ok).collect();
            assert_eq!(verdicts, [false, true], "bit {bit}");
        }
    }

    /// RFC 7143 §13.1: padding should be zero, and is covered by the digest whatever it is.
    #[test]
    fn padding_that_is_not_zero_is_covered_by_the_digest() {
        let pdu = Pdu::new(1, &[], &[1, 2, 3]);
        let mut wire = pdu.bhs.bytes().to_vec();
        let body = [1, 2, 3, 0xee];
        wire.extend(body);
        wire.extend(digest_to_wire(crc32c::crc32c(&body)));
        let mut collector = Collector::default();
        collector.feed(&mut framer(false, true), &wire).unwrap();
        assert_eq!(collector.done, all_good(&[pdu]));
    }

    #[test]
    fn data_received_in_place_are_counted_and_digested() {
        let data: Vec<u8> = (0..1000u32).map(|i| (i * 7).to_le_bytes()[0]).collect();
        let wire = Pdu::new(1, &[], &data).wire(true, true);
        let mut framer = framer(true, true);
        let payload = BHS_LEN + DIGEST_LEN;
        let mut input = &wire[..payload + 10];
        assert_eq!(framer.next(&mut input), Ok(Some(Event::Header)));
        assert_eq!(framer.missing(), 1000);
        assert_eq!(framer.next(&mut input), Ok(Some(Event::Data(&data[..10]))));
        assert_eq!(framer.next(&mut input), Ok(None));
        framer.advance_direct(&data[10..700]);
        framer.advance_direct(&data[700..]);
        assert_eq!(framer.missing(), 0);
        assert!(framer.mid_pdu());
        let mut input = &wire[payload + 1000..];
        assert_eq!(
            framer.next(&mut input),
            Ok(Some(Event::End {
                data_digest_ok: true
            }))
        );
        assert_eq!(framer.next(&mut input), Ok(None));
        assert!(!framer.mid_pdu());
    }

    #[test]
    fn segments_at_the_limit_pass_and_beyond_it_do_not() {
        let mut framer = framer(false, false);
        framer.set_max_data_segment(16);
        let mut collector = Collector::default();
        let fits = Pdu::new(1, &[], &[1; 16]);
        collector
            .feed(&mut framer, &fits.wire(false, false))
            .unwrap();
        assert_eq!(collector.done, all_good(&[fits]));
        let bhs = Pdu::new(2, &[], &[1; 17]).bhs;
        let error = FrameError::DataSegmentTooLong {
            length: 17,
            max: 16,
            bhs,
        };
        assert_eq!(framer.next(&mut &bhs.bytes()[..]), Err(error));
        assert_eq!(framer.missing(), 0);
    }

    #[test]
    fn more_ahs_than_the_bound_is_refused_before_it_is_collected() {
        let mut framer = framer(true, false);
        let mut bhs = *Pdu::new(1, &[], &[]).bhs.bytes();
        bhs[4] = 17;
        let error = framer.next(&mut &bhs[..]).unwrap_err();
        assert!(
            matches!(
                error,
                FrameError::AhsTooLong {
                    length: 68,
                    max: 64,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn digests_switched_on_within_a_pdu_begin_with_the_next_one() {
        let first = Pdu::new(1, &[], &[1; 6]);
        let second = Pdu::new(2, &[], &[2; 6]);
        let wire = first.wire(false, false);
        let mut framer = framer(false, false);
        let mut collector = Collector::default();
        collector.feed(&mut framer, &wire[..BHS_LEN + 2]).unwrap();
        framer.set_digests(true, true);
        collector.feed(&mut framer, &wire[BHS_LEN + 2..]).unwrap();
        collector
            .feed(&mut framer, &second.wire(true, true))
            .unwrap();
        assert_eq!(collector.done, all_good(&[first, second]));
    }

    fn any_pdu() -> impl Strategy<Value = Pdu> {
        let ahs =
            (0usize..=16).prop_flat_map(|words| prop::collection::vec(any::<u8>(), words * 4));
        let data = prop::collection::vec(any::<u8>(), 0..700);
        (any::<u32>(), ahs, data).prop_map(|(tag, ahs, data)| Pdu::new(tag, &ahs, &data))
    }

    proptest! {
        #[test]
        fn any_fragmentation_gives_the_same_pdus(
            pdus in prop::collection::vec(any_pdu(), 0..8),
            cuts in prop::collection::vec(1usize..400, 1..40),
            header_digest: bool,
            data_digest: bool,
        ) {
            let wire: Vec<u8> =
                pdus.iter().flat_map(|pdu| pdu.wire(header_digest, data_digest)).collect();
            let mut framer = framer(header_digest, data_digest);
            let mut collector = Collector::default();
            let mut rest = &wire[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(rest.len().min(*cut));
                collector.feed(&mut framer, piece).unwrap();
                rest = after;
            }
            prop_assert_eq!(collector.done, all_good(&pdus));
            prop_assert!(!framer.mid_pdu());
        }

        #[test]
        fn any_bytes_end_in_bounded_events_and_the_same_error_whatever_the_fragments(
            bytes in prop::collection::vec(any::<u8>(), 0..2000),
            cut in 1usize..200,
            header_digest: bool,
            data_digest: bool,
        ) {
            let run = |piece_len: usize| {
                let mut framer = framer(header_digest, data_digest);
                let mut tags: Vec<Itt> = Vec::new();
                let mut error = None;
                'stream: for mut piece in bytes.chunks(piece_len) {
                    loop {
                        match framer.next(&mut piece) {
                            Ok(None) => break,
                            Ok(Some(Event::Header)) => {
                                tags.push(framer.header().bhs.initiator_task_tag());
                            }
                            Ok(Some(_)) => {}
                            Err(found) => {
                                error = Some(found);
                                break 'stream;
                            }
                        }
                    }
                }
                (tags, error)
            };
            let whole = run(bytes.len().max(1));
            prop_assert!(whole.0.len() <= bytes.len() / BHS_LEN);
            prop_assert_eq!(whole, run(cut));
        }
    }
}
