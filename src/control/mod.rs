//! Control side: the inboxes between threads, the session directory, and what is told to operators.

pub mod directory;
pub mod event;
pub mod ring;
