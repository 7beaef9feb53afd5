//! The whole driver, its control side and its cores, on the model of a controller: stepped in one
//! thread, with time that is made up.

mod blocks;
mod parsers;
mod properties;
mod rig;
mod scenarios;
