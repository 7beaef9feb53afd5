//! The controller's life against the model, step by step and without a thread.

mod bed;
mod initialisation;
mod namespaces;
mod pairs;
mod recovery;
mod watching;
