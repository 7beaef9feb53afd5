//! Sends commands as they stand on standard input and writes down what came back, for decoders that
//! none of us wrote (`tests/judges/decoders`).
//!
//! A line is `NAME BYTES CDB [DATA]`: BYTES is the Expected Data Transfer Length of a read, CDB and
//! DATA are hexadecimal without blanks. Parameter data go to `DIR/NAME.hex`, sense data to
//! `DIR/NAME.sense`, both as hexadecimal bytes with blanks between; `NAME STATUS BYTES
//! KEY/ASC/ASCQ` goes to standard output. Unit attentions are taken away before the first line.

use clap::Parser;
use iiblockdaemon::testing::tcp::TcpInitiator;
use iiblockdaemon::testing::{Config, DataOut, Direction, Scsi, ScsiOutcome};
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const INITIATOR: &str = "iqn.1993-08.org.debian:01:cdb";
const TIMEOUT: Duration = Duration::from_secs(20);
/// More lines than any script of ours has.
const LINES_MAX: usize = 10_000;
const BYTES_PER_LINE: usize = 16;

/// Commands on standard input, answers in a folder.
#[derive(Debug, Parser)]
struct Options {
    #[arg(long)]
    portal: SocketAddr,
    #[arg(long)]
    target: String,
    #[arg(long, default_value_t = 0)]
    lun: u8,
    #[arg(long)]
    out: PathBuf,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cdb: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let config = Config::new(INITIATOR, &options.target);
    let mut it = TcpInitiator::connect(options.portal, config, TIMEOUT)
        .map_err(|failure| failure.to_string())?;
    it.clear_unit_attentions(options.lun)
        .map_err(|failure| failure.to_string())?;
    for line in io::stdin().lock().lines().take(LINES_MAX) {
        let line = line?;
        let words: Vec<_> = line.split_whitespace().collect();
        let (name, bytes, cdb, data) = match words[..] {
            [] => continue,
            [name, bytes, cdb] => (name, bytes, cdb, Vec::new()),
            [name, bytes, cdb, data] => (name, bytes, cdb, from_hex(data)?),
            _ => return Err(format!("a line of {} words: {line}", words.len()).into()),
        };
        let direction = match (bytes.parse()?, data.is_empty()) {
            (0, true) => Direction::None,
            (0, false) => Direction::Out(DataOut::new(data)),
            (bytes, true) => Direction::In(bytes),
            (bytes, false) => Direction::Both(DataOut::new(data), bytes),
        };
        let outcome = it
            .execute(Scsi::new(options.lun, &from_hex(cdb)?, direction))
            .map_err(|failure| format!("{name}: {failure}"))?;
        write_down(options, name, &outcome)?;
    }
    it.logout().map_err(|failure| failure.to_string().into())
}

fn write_down(options: &Options, name: &str, outcome: &ScsiOutcome) -> io::Result<()> {
    fs::write(
        options.out.join(format!("{name}.hex")),
        to_hex(&outcome.data_in),
    )?;
    if !outcome.sense.is_empty() {
        fs::write(
            options.out.join(format!("{name}.sense")),
            to_hex(&outcome.sense),
        )?;
    }
    let (key, code, qualifier) = outcome.sense_code().unwrap_or_default();
    println!(
        "{name} {:02x} {} {key:x}/{code:02x}/{qualifier:02x}",
        outcome.status,
        outcome.data_in.len()
    );
    Ok(())
}

fn from_hex(text: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return Err(format!("not hexadecimal: {text}").into());
    }
    (0..text.len() / 2)
        .map(|at| Ok(u8::from_str_radix(&text[2 * at..2 * at + 2], 16)?))
        .collect()
}

fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(BYTES_PER_LINE) {
        for byte in line {
            write!(text, "{byte:02x} ").expect("a String takes all");
        }
        text.push('\n');
    }
    text
}
