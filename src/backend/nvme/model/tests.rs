//! The model itself: what it does, and that each of its checks is seen to fire.

mod admin;
mod cache;
mod faults;
mod harness;
mod io;
mod rules;
