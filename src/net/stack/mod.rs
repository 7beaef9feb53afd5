//! TCP of our own over a [`crate::port::Port`]: smoltcp does the protocol of each flow, this module
//! everything around it.
//!
//! ```text
//! port ─► burst ─► packet ─► flow table ─► guard ─► smoltcp ─► bytes for the reactor
//!                    └─ ARP, neighbour discovery, ICMP, strangers ─► control interface
//! port ◄─ frames ◄─ head of smoltcp's, payload of the sender's ◄─ dirty flows, timers
//! ```

pub mod model;
