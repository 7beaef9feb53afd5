//! [`Flow`]: one TCP connection, with an interface and a socket of smoltcp's own.
//!
//! smoltcp sees headers and lengths, on rings whose contents nobody reads ([`mem::Alias`]); the
//! bytes themselves are in [`Held`] and [`Sent`], by their sequence numbers:
//!
//! ```text
//! segment() ─► guard ─► Held ────────────────────────────────► take()
//!                └────► smoltcp: windows, acknowledgments,
//! egress()  ◄── Wire ◄── retransmission, states
//!                ▲────── Sent ◄─────────────────────────────── send()
//! ```
//!
//! Invariants: what smoltcp has of the stream, `Held` and `Sent` have too; smoltcp never sees a
//! byte that `Held` refused, and its transmit ring is as long as `Sent`. A panic inside smoltcp is
//! the end of this flow and of no other. Each connection gets a new socket: smoltcp leaves traces
//! of the one before in a socket that is used again.

mod inside;
mod opening;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use super::counters::Dropped;
use super::event::{Lost, Received};
use super::guard::{Guard, Rule, Stage, Verdict, View};
use super::held::Held;
use super::loss::{FlowClock, Heard, Recovery};
use super::model::FlowKey;
use super::mtu::{MTU_MIN_V4, MTU_MIN_V6};
use super::packet::emit::{Adjusted, Bare, LinkHeader};
use super::packet::{Flags, Segment, Seq, Timestamps};
use super::sent::{Copied, Sent};
use super::waits::TimeWait;
use super::wire::{Core, Line, Wire, clock, is_ipv4};
use crate::mem;
use crate::mem::alias::{Lent, Over, RING_BYTES};
use crate::net::Moved;
use crate::port::{Frame, Port};

pub(super) use opening::Opening;

/// Silence after which a handshake is given up.
const HANDSHAKE_SILENCE: Duration = Duration::from_secs(15);
/// Questions to a silent peer before it is given up.
const QUESTIONS: u32 = 4;
/// How far a ring's window is shifted where both ends scale windows.
pub(super) const WINDOW_SHIFT: u8 = 4;
/// Room that is told of: a wake-up for less costs more than what is sent then.
const WRITABLE_BYTES: usize = 128 * 1024;

/// What an [`Flow::egress`] came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Egress {
    /// There is nothing to send until something happens.
    Done,
    /// There may be more; the budget is used up.
    More,
    /// The port has no room.
    Full,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Flow {
    body: Body,
    sent: Sent,
}

/// All of a connection but what belongs to its core's pool.
struct Body {
    interface: Interface,
    sockets: Lent<Sockets>,
    socket: SocketHandle,
    line: Line,
    held: Held,
    guard: Guard,
    /// When its clock began.
    epoch: Instant,
    /// What its timestamps showed then.
    ticks: u32,
    user_timeout: Duration,
    /// How long smoltcp waits for the peer.
    silence: Option<Duration>,
    /// As smoltcp had it when it was last asked.
    seen: Seen,
    lost: Option<Lost>,
    /// Panics of smoltcp that its core was not told of.
    panics: u8,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body")
            .field("key", &self.line.key)
            .field("seen", &self.seen)
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

/// A connection on its way to another core.
#[derive(Debug)]
pub(super) struct Detached {
    body: Body,
    sent: Copied,
}

struct Sockets;

impl Over for Sockets {
    type Of<'a> = SocketSet<'a>;
}

/// What smoltcp says of the socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Seen {
    state: State,
    /// Bytes in the receive ring.
    readable: usize,
    /// Bytes in the transmit ring.
    unacknowledged: usize,
    /// There is somebody to send to: a reset, if nothing else.
    addressed: bool,
}

impl Seen {
    const NOTHING: Self = Self {
        state: State::Closed,
        readable: 0,
        unacknowledged: 0,
        addressed: false,
    };

    fn of(socket: &Socket<'_>) -> Self {
        Self {
            state: socket.state(),
            readable: socket.recv_queue(),
            unacknowledged: socket.send_queue(),
            addressed: socket.remote_endpoint().is_some(),
        }
    }

    fn stage(self) -> Stage {
        match self.state {
            State::Closed | State::Listen | State::SynSent => Stage::Calling,
            State::SynReceived => Stage::Answering,
            _ => Stage::Standing,
        }
    }

    /// The peer's FIN has come.
    fn is_ended(self) -> bool {
        matches!(
            self.state,
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        )
    }
}

impl Flow {
    /// A segment of this connection has come. `true`: it passed the guard, so it is from the peer,
    /// as far as that can be known.
    pub(super) fn segment<P: Port>(
        &mut self,
        now: Instant,
        segment: &Segment,
        frame: Frame,
        core: &mut Core<P>,
    ) -> bool {
        if self.has_failed(core) || self.body.lost.is_some() {
            return false;
        }
        let view = self.view();
        let mut adjusted = match self.body.guard.check(now, segment, &view) {
            Verdict::Pass(adjusted) => adjusted,
            Verdict::Drop(_) => {
                core.counters.drop(Dropped::Guarded);
                return false;
            }
            Verdict::Reply(_, adjusted) => {
                core.counters.drop(Dropped::Guarded);
                let len = adjusted.emit(segment, &frame, core.incoming()) + adjusted.len;
                self.ingress(now, core, len);
                return false;
            }
            Verdict::Answer(rule) => {
                core.counters.drop(Dropped::Guarded);
                let answers = self.acknowledge(now, self.body.line.snd_max, core);
                core.counters.challenges += u64::from(answers && rule != Rule::WithinRoom);
                return false;
            }
        };
        self.body.line.owed = self.body.line.owed.map(|_| now);
        if !segment.seq.is_before(view.rcv_nxt) {
            // Not the peer's own question, over which smoltcp goes on waiting.
            self.body.line.asked = None;
        }
        if view.stage == Stage::Calling && segment.is_syn() {
            self.learn(now, segment);
            let told = segment.options.mss.unwrap_or_default();
            self.body.line.peer_mss = told.max(self.body.line.peer_mss);
            self.renew(now, core);
        }
        if self.body.seen.is_ended() && adjusted.len != 0 {
            // Nothing can follow the peer's FIN; what was before it has come.
            adjusted.len = 0;
        }
        let Some(duplicates) = self.acknowledged(now, segment, &view, &mut adjusted) else {
            return true;
        };
        let len = adjusted.emit(segment, &frame, core.incoming()) + adjusted.len;
        if adjusted.len != 0 {
            let (seq, payload) = (segment.data_seq().0, adjusted.payload(segment));
            if self.body.held.insert(seq, frame, payload).is_err() {
                core.counters.drop(Dropped::NoRoom);
                return true;
            }
        }
        let before = self.body.seen.state;
        self.let_in(now, segment.data_seq(), adjusted.len, core, len);
        if self.body.lost.is_some() {
            return true;
        }
        self.forgive();
        let after = self.body.seen.state;
        let ends = segment.is_rst() && before != State::TimeWait;
        if ends && before != after && matches!(after, State::Closed | State::Listen) {
            self.body.lost = Some(Lost::Reset);
        }
        self.duplicate(now, duplicates, core);
        true
    }

    /// Gives smoltcp the packet of `len` bytes in the scratch, of them `bytes` from `seq` on that
    /// it puts into its ring.
    fn let_in<P: Port>(
        &mut self,
        now: Instant,
        seq: Seq,
        bytes: usize,
        core: &mut Core<P>,
        len: usize,
    ) {
        let next = self.body.data_next();
        let ahead = seq.count_since(next);
        self.body.sockets.receives(widened(ahead), bytes);
        self.ingress(now, core, len);
        let came = self.body.data_next().count_since(next);
        self.body.sockets.received(widened(came));
    }

    /// The peer owes nothing where everything is acknowledged.
    fn forgive(&mut self) {
        if self.body.seen.unacknowledged == 0 && !self.waits_for_fin() {
            self.body.line.owed = None;
        }
    }

    /// Takes note of what a segment acknowledges. How many duplicates smoltcp is to see after it;
    /// `None`: it does not see the segment either.
    fn acknowledged(
        &mut self,
        now: Instant,
        segment: &Segment,
        view: &View,
        adjusted: &mut Adjusted,
    ) -> Option<u8> {
        if !segment.is_ack() || segment.is_rst() {
            return Some(0);
        }
        let heard = Heard {
            ack: adjusted.ack,
            window: adjusted.window,
            is_empty: segment.is_empty(),
            has_sack: !segment.options.sack.is_empty(),
            echo: self
                .body
                .guard
                .recent()
                .and(segment.options.timestamps)
                .map(|told| told.echo),
        };
        let advice = self.body.line.recovery.acknowledged(now, &heard);
        let is_duplicate = heard.is_empty && heard.ack == view.snd_una;
        let hides = is_duplicate && segment.seq == view.rcv_nxt && self.waits_for_fin_alone();
        if hides || (!advice.pass && segment.is_empty()) {
            return None;
        }
        adjusted.window = advice.window;
        Some(advice.duplicates)
    }

    /// Nothing but our FIN is to be acknowledged. smoltcp 0.14 must not see duplicates then: it
    /// would send data again at once, find none, and have forgotten the timer of the FIN.
    fn waits_for_fin_alone(&self) -> bool {
        self.body.seen.unacknowledged == 0 && self.waits_for_fin()
    }

    /// Shows smoltcp so many duplicate acknowledgments.
    fn duplicate<P: Port>(&mut self, now: Instant, times: u8, core: &mut Core<P>) {
        if self.body.seen.unacknowledged == 0 {
            return;
        }
        for _ in 0..times {
            let view = self.view();
            let (_, window) = self.body.line.recovery.duplicate();
            let key = reversed(self.body.line.key);
            let packet = Bare {
                window,
                ..Bare::new(key, view.rcv_nxt, view.snd_una, Flags::ACK)
            };
            self.made_up(now, &packet, core);
        }
    }

    /// What the answer to our SYN says.
    fn learn(&mut self, now: Instant, syn: &Segment) {
        if !syn.is_ack() || syn.ack != self.body.line.snd_max {
            return;
        }
        let isn = self.body.line.isn.unwrap_or_default();
        let budget = self.body.held.budget();
        self.body.held = Held::within(syn.seq.0.wrapping_add(1), budget);
        self.body.line.shift = syn.options.window_scale.map_or(0, |_| WINDOW_SHIFT);
        let sack = syn.options.sack_permitted;
        self.body.line.recovery = Recovery::new(isn.plus(1), sack);
        let sends_timestamps = syn.options.timestamps.is_some();
        self.body.guard.learn(now, syn, sends_timestamps, isn);
    }

    /// The connection as the guard has to know it.
    fn view(&self) -> View {
        let Body { seen, line, .. } = &self.body;
        let free = u32::try_from(RING_BYTES - seen.readable).unwrap_or(0);
        let rcv_nxt = self.body.rcv_nxt();
        View {
            stage: seen.stage(),
            rcv_nxt,
            room: free.min(line.rcv_edge.count_since(rcv_nxt)),
            snd_una: if matches!(seen.state, State::FinWait2 | State::TimeWait) {
                // Our FIN, too.
                line.snd_max
            } else {
                Seq(self.sent.una())
            },
            snd_max: line.snd_max,
        }
    }

    /// Sends an acknowledgment that says where we are, whatever smoltcp thinks of it. `false`:
    /// not before the handshake is over.
    fn acknowledge<P: Port>(&mut self, now: Instant, seq: Seq, core: &mut Core<P>) -> bool {
        let view = self.view();
        let line = &self.body.line;
        if view.stage != Stage::Standing {
            return false;
        }
        let window = line.rcv_edge.count_since(view.rcv_nxt) >> line.shift;
        let answer = Bare {
            window: u16::try_from(window).unwrap_or(u16::MAX),
            dscp: line.dscp,
            timestamps: self.body.guard.recent().map(|recent| Timestamps {
                value: self.body.clock(now),
                echo: recent,
            }),
            ..Bare::new(line.key, seq, view.rcv_nxt, Flags::ACK)
        };
        core.answer(&answer, &line.link);
        true
    }

    /// Sends what there is to be sent, at most `budget` frames.
    pub(super) fn egress<P: Port>(
        &mut self,
        now: Instant,
        core: &mut Core<P>,
        budget: usize,
    ) -> Egress {
        if self.has_failed(core) {
            return Egress::Done;
        }
        if !core.resume() {
            return Egress::Full;
        }
        if self.gives_up_at().is_some_and(|at| at <= now) {
            self.abort();
            self.body.lost.get_or_insert(Lost::TimedOut);
        }
        self.body.tell_time(now);
        let clock = self.body.line.clock;
        let unanswered = self.body.line.recovery.expired(now, clock);
        self.duplicate(now, unanswered, core);
        if self.asks_at().is_some_and(|at| at <= now) {
            self.ask(now, core);
        }
        let before = self.body.seen.state;
        let mut result = Egress::More;
        for _ in 0..budget {
            match self.poll_egress(now, core) {
                None => return Egress::Done,
                Some(true) if !self.has_sent_all() => {}
                // To ask once more after the last packet would cost as much as to send it.
                Some(_) => {
                    result = if core.is_full() {
                        Egress::Full
                    } else {
                        Egress::Done
                    };
                    break;
                }
            }
        }
        self.look();
        if self.body.seen.state == State::Closed
            && !matches!(before, State::Closed | State::TimeWait)
            && self.body.lost.is_none()
        {
            self.body.lost = Some(Lost::TimedOut);
        }
        result
    }

    /// The packet that was just sent ends with the last byte that there is, and says by itself
    /// where we are. What smoltcp wants to send nevertheless it says when it is asked for its next
    /// time.
    fn has_sent_all(&self) -> bool {
        let Body { seen, line, .. } = &self.body;
        let goes_on = matches!(seen.state, State::Established | State::CloseWait);
        goes_on && line.snd_end == Seq(self.sent.end())
    }

    /// When the peer is asked again whether it is there: a few times before it is given up, since
    /// a question can be lost as anything else.
    fn asks_at(&self) -> Option<Instant> {
        let Body {
            seen, line, lost, ..
        } = &self.body;
        let idle = seen.unacknowledged == 0 && !self.waits_for_fin();
        let stands = seen.stage() == Stage::Standing && lost.is_none();
        let asked = line.asked.filter(|_| idle && stands)?;
        asked.checked_add(self.body.user_timeout / QUESTIONS)
    }

    /// When the peer has owed an answer for too long (RFC 9293 §3.8.3). smoltcp takes for an answer
    /// what was made up for it.
    fn gives_up_at(&self) -> Option<Instant> {
        let Body {
            seen, line, lost, ..
        } = &self.body;
        let stands = seen.stage() == Stage::Standing && lost.is_none();
        let owed = line.owed.filter(|_| stands)?;
        owed.checked_add(self.body.user_timeout)
    }

    /// Asks the peer whether it is there (RFC 9293 §3.8.4).
    fn ask<P: Port>(&mut self, now: Instant, core: &mut Core<P>) {
        let old = self.body.line.snd_max.minus(1);
        self.acknowledge(now, old, core);
        self.body.line.asked = Some(now);
    }

    /// When `egress` has something to do, if nothing else happens.
    pub(super) fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let timer = self.poll_at(now);
        if self.body.lost == Some(Lost::Failed) {
            // The core does not know yet.
            return (self.body.panics != 0).then_some(now);
        }
        let probe = self.body.line.recovery.deadline();
        let times = [timer, probe, self.asks_at(), self.gives_up_at()];
        Some(times.into_iter().flatten().min()?.max(now))
    }

    /// The next bytes that have come, in order.
    ///
    /// # Errors
    /// [`Lost`], when the connection failed and everything before was taken.
    pub(super) fn take(&mut self) -> Result<Received, Lost> {
        let seen = self.body.seen;
        if seen.readable == 0 || self.body.lost == Some(Lost::Failed) {
            return match self.body.lost {
                Some(lost) => Err(lost),
                None if seen.is_ended() => Ok(Received::Closed),
                None => Ok(Received::WouldBlock),
            };
        }
        let Some(chunk) = self.body.held.take(seen.readable) else {
            // smoltcp has bytes that nobody has: see the invariants.
            debug_assert!(false, "what smoltcp has is held");
            self.fail();
            return Err(Lost::Failed);
        };
        let mut left = chunk.len();
        let readable = self.body.with_socket(|socket| {
            // Twice where the ring wraps.
            while left != 0 {
                let took = socket.recv(|bytes| (left.min(bytes.len()), left.min(bytes.len())));
                match took {
                    Ok(took) if took != 0 => left -= took,
                    _ => break,
                }
            }
            socket.recv_queue()
        });
        match readable {
            // Nothing else changes by that.
            Some(readable) => self.body.seen.readable = readable,
            None => self.fail(),
        }
        Ok(Received::Data(chunk))
    }

    /// Takes what fits of `pieces`: headers are copied, parts of buffers lent.
    ///
    /// # Errors
    /// [`Lost`], also after [`Flow::finish`].
    pub(super) fn send(&mut self, pieces: &[mem::Piece<'_>]) -> Result<Moved, Lost> {
        if let Some(lost) = self.body.lost {
            return Err(lost);
        }
        if !matches!(self.body.seen.state, State::Established | State::CloseWait) {
            return match self.body.seen.state {
                State::SynSent | State::SynReceived => Ok(Moved::WouldBlock),
                _ => Err(Lost::Unknown),
            };
        }
        let (room, mut taken) = (self.room(), 0);
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            let pushed = self.sent.push(piece, room - taken);
            taken += pushed;
            if pushed < piece.len() {
                break;
            }
        }
        if taken == 0 {
            return Ok(Moved::WouldBlock);
        }
        let mut left = taken;
        self.body.sockets.sends(taken);
        let called = self.body.with_socket(|socket| {
            while left != 0 {
                let put = socket.send(|bytes| (left.min(bytes.len()), left.min(bytes.len())));
                match put {
                    Ok(put) if put != 0 => left -= put,
                    _ => break,
                }
            }
            socket.send_queue()
        });
        let Some(unacknowledged) = called.filter(|_| left == 0) else {
            debug_assert!(called.is_none(), "the ring has as much room as it says");
            self.fail();
            return Err(Lost::Failed);
        };
        // Nothing else changes by that.
        self.body.seen.unacknowledged = unacknowledged;
        Ok(Moved::Bytes(taken))
    }

    /// Bytes that `send` would take, as far as the ring is concerned.
    pub(super) fn room(&self) -> usize {
        RING_BYTES - self.sent.len().min(RING_BYTES)
    }

    /// There is room for more than a little, so that it is worth to come back with more.
    pub(super) fn is_writable(&self) -> bool {
        self.room() >= WRITABLE_BYTES && self.sent.has_room()
    }

    /// Closes the sending side behind everything that was sent.
    pub(super) fn finish(&mut self) {
        let _ = self.body.with_socket(|socket| socket.close());
        self.look();
    }

    /// Gives the connection up; the next egress sends a reset.
    pub(super) fn abort(&mut self) {
        let _ = self.body.with_socket(|socket| socket.abort());
        self.look();
    }

    /// The handshake is over.
    pub(super) fn is_established(&self) -> bool {
        self.body.seen.stage() == Stage::Standing
    }

    /// Bytes of what was sent that the peer has not acknowledged.
    pub(super) fn unacknowledged(&self) -> usize {
        self.sent.len()
    }

    /// The peer has everything that was sent, and knows that it was all; or it never will.
    pub(super) fn has_delivered(&self) -> bool {
        let Body { seen, lost, .. } = &self.body;
        let states = [State::FinWait2, State::TimeWait, State::Closed];
        lost.is_some() || states.contains(&seen.state)
    }

    /// It is over: nothing is sent any more, and nothing is expected.
    pub(super) fn is_closed(&self) -> bool {
        let Body { seen, lost, .. } = &self.body;
        *lost == Some(Lost::Failed) || (seen.state == State::Closed && !seen.addressed)
    }

    /// `take` has something to say.
    pub(super) fn is_readable(&self) -> bool {
        let Body { seen, lost, .. } = &self.body;
        seen.readable != 0 || seen.is_ended() || lost.is_some()
    }

    /// What is left of it in TIME-WAIT, once everything that came was taken.
    pub(super) fn time_wait(&self) -> Option<TimeWait> {
        let Body { seen, lost, .. } = &self.body;
        if seen.state != State::TimeWait || seen.readable != 0 || lost.is_some() {
            return None;
        }
        let view = self.view();
        let line = &self.body.line;
        let window = line.rcv_edge.count_since(view.rcv_nxt) >> line.shift;
        Some(TimeWait {
            key: line.key,
            guard: self.body.guard.clone(),
            rcv_nxt: view.rcv_nxt,
            snd_nxt: line.snd_max,
            window: u16::try_from(window).unwrap_or(u16::MAX),
            dscp: line.dscp,
            epoch: self.body.epoch,
            ticks: self.body.ticks,
        })
    }

    /// The sequence numbers that are under way: from the first that is not acknowledged to behind
    /// the last that was sent.
    pub(super) fn under_way(&self) -> (Seq, Seq) {
        (Seq(self.sent.una()), self.body.line.snd_max)
    }

    /// How far the stream is: the next number that is expected of the peer, and the first of ours
    /// that it has not acknowledged.
    pub(super) fn progress(&self) -> (Seq, Seq) {
        (self.body.rcv_nxt(), Seq(self.sent.una()))
    }

    /// The longest IP packet that it sends.
    pub(super) fn path_mtu(&self) -> u16 {
        self.body.line.mtu
    }

    /// Why it failed, if it did.
    pub(super) fn lost(&self) -> Option<Lost> {
        self.body.lost
    }

    /// Bytes of the stream, both ways, that it keeps memory for.
    pub(super) fn held_bytes(&self) -> usize {
        self.sent.len() + self.body.held.frame_bytes()
    }

    /// Before every packet that it sends.
    pub(super) fn link(&self) -> &LinkHeader {
        &self.body.line.link
    }

    pub(super) fn set_link(&mut self, link: LinkHeader) {
        self.body.line.link = link;
    }

    /// The path carries packets of so many bytes only, or of so many again. What was cut longer is
    /// cut anew when it is sent again.
    pub(super) fn set_path_mtu<P: Port>(&mut self, now: Instant, mtu: u16, core: &mut Core<P>) {
        let body = &mut self.body;
        let mtu = allowed_mtu(&body.line.key, mtu);
        if mtu == body.line.mtu {
            return;
        }
        body.line.mtu = mtu;
        self.renew(now, core);
    }

    /// An interface keeps the lengths that it was made with; all that lasts is in the socket.
    fn renew<P: Port>(&mut self, now: Instant, core: &mut Core<P>) {
        let body = &mut self.body;
        let seed = u64::from(clock(body.epoch, now));
        body.interface = interface(core, &mut body.line, &self.sent, seed);
    }

    /// Takes it off its core: what was sent is copied out of the core's pool.
    pub(super) fn detach(mut self) -> Detached {
        self.body.held.move_to(None);
        Detached {
            body: self.body,
            sent: self.sent.into_copy(),
        }
    }

    /// Goes on with a connection of another core.
    pub(super) fn attach<P: Port>(detached: Detached, core: &mut Core<P>) -> Box<Self> {
        let Detached { mut body, sent } = detached;
        let sent = Sent::from(sent);
        body.held.move_to(Some(core.budget.clone()));
        let mut line = body.line.clone();
        body.interface = interface(core, &mut line, &sent, 0);
        Box::new(Self { body, sent })
    }

    /// A FIN of ours is to be sent, or on its way.
    fn waits_for_fin(&self) -> bool {
        matches!(
            self.body.seen.state,
            State::FinWait1 | State::Closing | State::LastAck
        )
    }
}

impl Body {
    /// What its timestamps show.
    fn clock(&self, now: Instant) -> u32 {
        clock(self.epoch, now).wrapping_add(self.ticks)
    }

    /// The number that is expected next: behind the peer's FIN, where that has come.
    fn rcv_nxt(&self) -> Seq {
        self.data_next().plus(u32::from(self.seen.is_ended()))
    }

    /// The number of the next byte that is to come in order.
    fn data_next(&self) -> Seq {
        let readable = u32::try_from(self.seen.readable).unwrap_or(u32::MAX);
        Seq(self.held.next()).plus(readable)
    }

    /// The time on the flow's own clock, which is read once for all that is done at `now`. The line
    /// knows it from here on.
    fn tell_time(&mut self, now: Instant) -> smoltcp::time::Instant {
        match self.line.time {
            Some(time) if self.line.now == now => time,
            _ => self.set_time(now),
        }
    }

    #[inline(never)]
    fn set_time(&mut self, now: Instant) -> smoltcp::time::Instant {
        let time = FlowClock::new(self.epoch).at(now);
        self.line.now = now;
        self.line.time = Some(time);
        self.line.clock = self.clock(now);
        time
    }
}

fn widened(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn allowed_mtu(key: &FlowKey, mtu: u16) -> u16 {
    mtu.max(if is_ipv4(key) { MTU_MIN_V4 } else { MTU_MIN_V6 })
}

/// The longest segment that we take, where packets have `mtu` bytes at most (RFC 9293 §3.7.1).
pub(super) fn segment_bytes(key: &FlowKey, mtu: u16) -> u16 {
    allowed_mtu(key, mtu) - if is_ipv4(key) { 40 } else { 60 }
}

fn reversed(key: FlowKey) -> FlowKey {
    FlowKey {
        local: key.peer,
        peer: key.local,
        ..key
    }
}

/// An interface with the one address of a connection.
fn interface<P: Port>(core: &mut Core<P>, line: &mut Line, sent: &Sent, seed: u64) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let local = IpAddress::from(line.key.local.ip());
    let bits = if is_ipv4(&line.key) { 32 } else { 128 };
    let mut wire = Wire {
        core,
        line,
        sent,
        incoming: None,
    };
    let mut interface = Interface::new(config, &mut wire, smoltcp::time::Instant::ZERO);
    interface.update_ip_addrs(|addresses| {
        let added = addresses.push(IpCidr::new(local, bits));
        debug_assert!(added.is_ok(), "a new interface has room for an address");
    });
    interface
}
