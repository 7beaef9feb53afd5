//! Tests of the reservations: each service action, and random sequences against a model.

mod actions;
mod enforcement;
mod lists;
mod model;
mod random;
mod reports;
mod room;
