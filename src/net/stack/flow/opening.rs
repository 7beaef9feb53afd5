//! How flows begin: with the peer's SYN, with a cookie that came back, or with a SYN of our own.

use std::time::Instant;

use smoltcp::iface::SocketSet;
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::wire::IpEndpoint;

use super::{
    Body, Flow, HANDSHAKE_SILENCE, Seen, Sockets, WINDOW_SHIFT, allowed_mtu, interface, reversed,
};
use crate::net::stack::guard::{Guard, Rules};
use crate::net::stack::held::Held;
use crate::net::stack::isn::{CookieContents, SEGMENT_BYTES_MIN, seed_for};
use crate::net::stack::loss::{FlowClock, Recovery};
use crate::net::stack::model::{FlowKey, Network, Settings};
use crate::net::stack::packet::emit::{Bare, LinkHeader};
use crate::net::stack::packet::{Flags, Options, Segment, Seq};
use crate::net::stack::sent::Sent;
use crate::net::stack::wire::{Core, Line};
use crate::port::Port;

/// What a peer takes that does not say (RFC 9293 §3.7.1).
const MSS_DEFAULT: u16 = 536;

/// How a connection begins.
#[derive(Clone, Copy, Debug)]
pub(in crate::net::stack) struct Opening<'a> {
    pub(in crate::net::stack) settings: &'a Settings,
    pub(in crate::net::stack) network: &'a Network,
    pub(in crate::net::stack) key: FlowKey,
    /// The number of our SYN.
    pub(in crate::net::stack) isn: Seq,
    /// The longest IP packet of the path.
    pub(in crate::net::stack) path_mtu: u16,
    pub(in crate::net::stack) link: LinkHeader,
    /// What the guard holds its segments to.
    pub(in crate::net::stack) rules: Rules,
    /// What our timestamps show now. It goes on from one connection to the next, so that a peer can
    /// tell which of two with the same ends is newer.
    pub(in crate::net::stack) ticks: u32,
    pub(in crate::net::stack) now: Instant,
}

impl Flow {
    /// A connection that the peer's SYN asks for; the answer leaves with the next egress. `None`:
    /// there is no memory for its rings, or the peer takes less than [`SEGMENT_BYTES_MIN`] in a
    /// segment, which callers look at first.
    pub(in crate::net::stack) fn accept<P: Port>(
        opening: &Opening<'_>,
        syn: &Segment,
        core: &mut Core<P>,
    ) -> Option<Box<Self>> {
        let mss = syn.options.mss.unwrap_or(MSS_DEFAULT);
        if mss < SEGMENT_BYTES_MIN {
            return None;
        }
        let mut flow = Self::new(opening, mss, core)?;
        let local = IpEndpoint::from(opening.key.local);
        let heard = flow.body.with_socket(|socket| socket.listen(local).is_ok());
        if heard != Some(true) {
            return None;
        }
        let next = syn.seq.0.wrapping_add(1);
        flow.body.held = Held::within(next, Some(core.budget.clone()));
        flow.body.line.shift = syn.options.window_scale.map_or(0, |_| WINDOW_SHIFT);
        let sack = syn.options.sack_permitted;
        flow.body.line.recovery = Recovery::new(opening.isn.plus(1), sack);
        let packet = Bare {
            window: syn.window,
            mss: syn.options.mss,
            window_scale: syn.options.window_scale,
            sack_permitted: syn.options.sack_permitted,
            timestamps: syn.options.timestamps,
            ..Bare::new(reversed(opening.key), syn.seq, Seq(0), Flags::SYN)
        };
        flow.made_up(opening.now, &packet, core);
        let stands = flow.body.seen.state == State::SynReceived;
        flow.body.guard.learn(opening.now, syn, true, opening.isn);
        stands.then_some(flow)
    }

    /// A connection that we ask for; the SYN leaves with the next egress.
    pub(in crate::net::stack) fn connect<P: Port>(
        opening: &Opening<'_>,
        core: &mut Core<P>,
    ) -> Option<Box<Self>> {
        // Until the answer says otherwise.
        let mut flow = Self::new(opening, MSS_DEFAULT, core)?;
        let (local, peer) = (opening.key.local, opening.key.peer);
        let Body {
            interface,
            sockets,
            socket,
            ..
        } = &mut flow.body;
        let socket = *socket;
        let asked = sockets.with(|set| {
            let socket = set.get_mut::<Socket<'_>>(socket);
            let asked = socket.connect(
                interface.context(),
                IpEndpoint::from(peer),
                IpEndpoint::from(local),
            );
            asked.is_ok()
        });
        flow.look();
        asked.then_some(flow)
    }

    /// A connection whose SYN was answered with a cookie, which `ack` has brought back. It stands,
    /// and has nothing to send about it. `ack` itself is still to be given to it.
    pub(in crate::net::stack) fn accept_cookie<P: Port>(
        opening: &Opening<'_>,
        ack: &Segment,
        cookie: &CookieContents,
        core: &mut Core<P>,
    ) -> Option<Box<Self>> {
        let opening = &Opening {
            isn: cookie.isn,
            ..*opening
        };
        let told = ack
            .options
            .timestamps
            .filter(|_| cookie.timestamp.is_some());
        let syn = Segment {
            seq: cookie.irs,
            flags: Flags::SYN,
            options: Options {
                mss: Some(cookie.mss),
                window_scale: cookie.window_scale,
                sack_permitted: cookie.sack_permitted,
                timestamps: told,
                ..Options::default()
            },
            payload_len: 0,
            ..ack.clone()
        };
        let mut flow = Self::accept(opening, &syn, core)?;
        // The answer that has gone out, once more for smoltcp only.
        flow.body.line.mute = true;
        let answered = flow.poll_egress(opening.now, core);
        flow.body.line.mute = false;
        // Our timestamps go on from the one that came back, or the peer would take them for old.
        if let Some(told) = told {
            flow.body.ticks = told.echo.wrapping_add(1);
            flow.body.line.time = None;
        }
        let packet = Bare {
            window: ack.window,
            timestamps: told,
            ..Bare::new(
                reversed(opening.key),
                cookie.irs.plus(1),
                cookie.isn.plus(1),
                Flags::ACK,
            )
        };
        flow.made_up(opening.now, &packet, core);
        (answered.is_some() && flow.is_established()).then_some(flow)
    }

    fn new<P: Port>(opening: &Opening<'_>, peer_mss: u16, core: &mut Core<P>) -> Option<Box<Self>> {
        let settings = opening.settings;
        let mut line = Line {
            key: opening.key,
            link: opening.link,
            dscp: opening.network.dscp,
            mtu: allowed_mtu(&opening.key, opening.path_mtu),
            peer_mss,
            mute: false,
            isn: None,
            snd_max: opening.isn,
            snd_end: opening.isn,
            snd_edge: opening.isn,
            recovery: Recovery::new(opening.isn.plus(1), false),
            asked: None,
            owed: None,
            broken: false,
            now: opening.now,
            rcv_edge: Seq(0),
            shift: 0,
            time: None,
            clock: 0,
        };
        let sent = Sent::new(opening.isn.0.wrapping_add(1));
        let interface = interface(core, &mut line, &sent, seed_for(opening.isn));
        let mut handle = None;
        let silence = FlowClock::scaled(HANDSHAKE_SILENCE);
        let keepalive = FlowClock::scaled(settings.keepalive);
        let sockets = core
            .alias
            .lend::<Sockets>(|receive, transmit| {
                let mut socket =
                    Socket::new(SocketBuffer::new(receive), SocketBuffer::new(transmit));
                socket.set_nagle_enabled(false);
                socket.set_ack_delay(None);
                socket.set_congestion_control(CongestionControl::Cubic);
                socket.set_timeout(Some(silence));
                socket.set_keep_alive(Some(keepalive));
                socket.set_tsval_generator(Some(|| 0));
                let mut set = SocketSet::new(Vec::with_capacity(1));
                handle = Some(set.add(socket));
                set
            })
            .ok()?;
        let body = Body {
            interface,
            sockets,
            socket: handle?,
            line,
            held: Held::within(0, Some(core.budget.clone())),
            guard: Guard::new(opening.rules),
            epoch: opening.now,
            ticks: opening.ticks,
            user_timeout: settings.user_timeout,
            silence: Some(HANDSHAKE_SILENCE),
            seen: Seen::NOTHING,
            lost: None,
            panics: 0,
        };
        Some(Box::new(Self { body, sent }))
    }
}
