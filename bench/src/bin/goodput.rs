//! Prints how much of a 10 Gbit/s link one flow fills at various losses, by simulation in virtual
//! time: the table of `docs/ARCHITECTURE.md`. It is the same on every machine.

use std::time::Duration;

use clap::Parser;
use iiblockdaemon::net::stack::goodput;

/// Goodput of one flow in virtual time.
#[derive(Debug, Parser)]
struct Options {
    /// Virtual time of one run, in milliseconds; its first fifth does not count.
    #[arg(long, default_value_t = 1000)]
    milliseconds: u64,
    /// Runs of each cell, with different losses.
    #[arg(long, default_value_t = 2)]
    seeds: u64,
}

fn main() {
    let options = Options::parse();
    let duration = Duration::from_millis(options.milliseconds);
    print!("{}", goodput::table(duration, options.seeds.max(1)));
}
