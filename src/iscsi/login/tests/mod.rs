//! Scripted logins: one test per rule, named after what the initiator sees.

mod hostile;
mod order;
mod parameters;
mod refusals;
mod security;
