//! The model itself: what it does, and that each of its checks is seen to fire.

mod harness;
mod io;
