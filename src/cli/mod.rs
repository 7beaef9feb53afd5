//! The command line: what was asked for, and the exit status.
//!
//! Exit status: 0 the daemon ended as asked, or the file is good; 1 the configuration or the
//! command line is wrong; 2 the daemon could not start or had to give up.

mod check;
mod connect;
mod embedded;
mod nvme;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{Config, LoadError, Loaded, Severity};
use crate::state::{self, StateDir};
use crate::{daemon, log};

pub use connect::connect_lines;
pub use embedded::Overrides;

/// The daemon ended as it was asked to, or the file is good.
pub const EXIT_OK: u8 = 0;
/// The configuration or the command line is wrong.
pub const EXIT_CONFIG: u8 = 1;
/// The daemon could not start, or had to give up.
pub const EXIT_START: u8 = 2;

/// The version with its commit where it is known.
pub const VERSION: &str = env!("IIBLOCKDAEMON_VERSION");

const AFTER_HELP: &str = "\
Without --config, one 1 GiB disk is served on 127.0.0.1:3260; it is kept in the state directory.

Environment:
  RUST_LOG          what to log, over --log-level; for instance iiblockdaemon::iscsi=debug
  STATE_DIRECTORY   the state directory when the configuration names none (set by systemd)
  NO_COLOR          reports without colours

Exit status:
  0  ended as asked, or the file is good
  1  the configuration or the command line is wrong
  2  could not start, or had to give up";

/// An iSCSI target daemon.
#[derive(Debug, Parser)]
#[command(name = "iiblockdaemon", version = VERSION, after_help = AFTER_HELP)]
#[command(disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    overrides: Overrides,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct Common {
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Log this and what is worse
    #[arg(long, global = true, value_name = "LEVEL", default_value = "info")]
    log_level: log::Level,
    /// How log lines look; by default text, or the journal's own form under systemd
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<log::Format>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve; this is what happens without a command
    Run(Overrides),
    /// Check a configuration file, and whether this machine can do what it asks
    Check {
        /// The file; by default what --config names
        file: Option<PathBuf>,
        /// Leave the machine out: the file is for another one
        #[arg(long)]
        file_only: bool,
    },
    /// Show NVMe controllers, and hand them over to the daemon and back
    Nvme {
        #[command(subcommand)]
        command: nvme::Command,
    },
    /// Print a completion script for a shell
    Completions { shell: Shell },
    /// Print the manual page
    Man,
}

/// Parses the process's arguments and does what they say.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit_with(&error),
    };
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let status = match cli.command {
        None => run(&cli.common, &cli.overrides, colour),
        Some(Command::Run(overrides)) => match cli.overrides.merged(overrides) {
            Ok(overrides) => run(&cli.common, &overrides, colour),
            Err(twice) => usage(&format!("{twice} stands before and after run")),
        },
        Some(other) => {
            if let Some(option) = cli.overrides.first_given() {
                return ExitCode::from(usage(&format!("{option} belongs to run")));
            }
            match other {
                Command::Check { file, file_only } => {
                    let machine = (!file_only).then(|| check::Tree::new(Path::new("/")));
                    check(&cli.common, file, machine.as_ref(), colour)
                }
                Command::Nvme { command } => nvme::run(&command),
                Command::Completions { shell } => completions(shell),
                Command::Man => man(),
                Command::Run(_) => EXIT_OK,
            }
        }
    };
    ExitCode::from(status)
}

/// Help and version are no errors; everything else that clap finds is a wrong command line.
fn exit_with(error: &clap::Error) -> ExitCode {
    // Nothing can be done about a closed terminal.
    let _ = error.print();
    let asked_for = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    ExitCode::from(if asked_for { EXIT_OK } else { EXIT_CONFIG })
}

fn usage(message: &str) -> u8 {
    let error = Cli::command().error(ErrorKind::ArgumentConflict, message);
    let _ = error.print();
    EXIT_CONFIG
}

fn run(common: &Common, overrides: &Overrides, colour: bool) -> u8 {
    if let Err(error) = log::init(common.log_level, common.log_format) {
        eprintln!("error: {error}");
        return EXIT_CONFIG;
    }
    let config = match &common.config {
        Some(path) => {
            if let Some(option) = overrides.first_given() {
                return usage(&format!(
                    "{option} changes what runs without a file; it cannot be used with --config"
                ));
            }
            match load(path, colour) {
                Ok(loaded) => loaded.config,
                Err(status) => return status,
            }
        }
        None => {
            let Some(state_dir) = overrides.state_dir.clone().or_else(state::default_dir) else {
                eprintln!(
                    "error: there is no place for state: neither HOME nor XDG_STATE_HOME is an \
                     absolute path\n  help: name one with --state-dir DIR"
                );
                return EXIT_CONFIG;
            };
            match overrides.applied_to(Config::embedded(&state_dir)) {
                Ok(config) => config,
                Err(error) => {
                    eprintln!("error: {error}");
                    return EXIT_CONFIG;
                }
            }
        }
    };
    let state = match StateDir::open(&config.daemon.state_dir) {
        Ok(state) => state,
        Err(error) => {
            eprintln!("error: {error}");
            return EXIT_START;
        }
    };
    match daemon::run(
        &config,
        state,
        common.config.as_deref(),
        print_connect_lines,
    ) {
        Ok(()) => EXIT_OK,
        Err(error) => {
            eprintln!("error: {error}");
            EXIT_START
        }
    }
}

/// Called by the daemon when it listens.
fn print_connect_lines(config: &Config, listening: &[std::net::SocketAddr]) {
    // A closed stdout must not end the daemon.
    let _ = io::stdout()
        .lock()
        .write_all(connect_lines(config, listening).as_bytes());
}

/// Reads the file and prints its warnings, or what is wrong with it.
fn load(path: &Path, colour: bool) -> Result<Loaded, u8> {
    match Config::load(path) {
        Ok(loaded) => {
            eprint!("{}", loaded.report.render(colour));
            Ok(loaded)
        }
        Err(LoadError::Invalid(report)) => {
            eprintln!("{}{}", report.render(colour), report.summary());
            Err(EXIT_CONFIG)
        }
        Err(error @ (LoadError::Missing { .. } | LoadError::Unreadable { .. })) => {
            eprintln!("error: {error}");
            Err(EXIT_CONFIG)
        }
    }
}

/// Checks the file, and whether `machine` can do what it says.
fn check(
    common: &Common,
    file: Option<PathBuf>,
    machine: Option<&check::Tree>,
    colour: bool,
) -> u8 {
    let path = match (file, &common.config) {
        (Some(file), None) => file,
        (None, Some(config)) => config.clone(),
        (Some(_), Some(_)) => return usage("name one file to check"),
        (None, None) => return usage("name a file to check, as in: iiblockdaemon check FILE"),
    };
    let Loaded { config, report } = match load(&path, colour) {
        Ok(loaded) => loaded,
        Err(status) => return status,
    };
    let found = machine.map_or_else(Vec::new, |machine| check::machine(&config, machine));
    for finding in &found {
        eprintln!("{finding}\n");
    }
    let errors = found
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .count();
    if errors > 0 {
        eprintln!(
            "{}: the file is good, and this machine lacks what it asks for: {}",
            path.display(),
            counted(errors, "error")
        );
        return EXIT_CONFIG;
    }
    let warnings = report.warnings() + found.len();
    println!("{}: OK: {}", path.display(), contents(&config, warnings));
    EXIT_OK
}

/// `1 word`, `2 words`
fn counted(n: usize, word: &str) -> String {
    match n {
        1 => format!("1 {word}"),
        _ => format!("{n} {word}s"),
    }
}

/// `2 targets, 3 logical units, 1 portal, 0 warnings`
fn contents(config: &Config, warnings: usize) -> String {
    let portals = config
        .portal_groups
        .iter()
        .map(|group| group.portals.len())
        .sum();
    let mut parts = vec![
        counted(config.targets.len(), "target"),
        counted(config.logical_units.len(), "logical unit"),
        counted(portals, "portal"),
    ];
    if !config.ports.is_empty() {
        parts.push(counted(config.ports.len(), "port"));
    }
    parts.push(counted(warnings, "warning"));
    parts.join(", ")
}

fn completions(shell: Shell) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "iiblockdaemon", &mut script);
    print_all(&script)
}

/// The page of the program, followed by those of its commands.
fn man() -> u8 {
    let mut page = Vec::new();
    let mut command = Cli::command();
    command.build();
    let rendered = clap_mangen::Man::new(command.clone())
        .render(&mut page)
        .and_then(|()| {
            let visible = command.get_subcommands().filter(|sub| !sub.is_hide_set());
            visible
                .cloned()
                .try_for_each(|sub| clap_mangen::Man::new(sub).render(&mut page))
        });
    match rendered {
        Ok(()) => print_all(&page),
        Err(error) => {
            eprintln!("error: the manual page cannot be made: {error}");
            EXIT_START
        }
    }
}

/// Writes to stdout; a reader that has had enough is no error.
fn print_all(bytes: &[u8]) -> u8 {
    match io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("error: cannot write: {error}");
            EXIT_START
        }
        _ => EXIT_OK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_stand_before_or_after_run() {
        let cli = Cli::try_parse_from([
            "iiblockdaemon",
            "--log-level",
            "debug",
            "run",
            "--size",
            "1GiB",
        ]);
        let cli = cli.unwrap();
        assert_eq!(cli.common.log_level, log::Level::Debug);
        assert!(
            matches!(cli.command, Some(Command::Run(ref o)) if o.first_given() == Some("--size"))
        );
        let cli = Cli::try_parse_from(["iiblockdaemon", "run", "--config", "x.toml"]).unwrap();
        assert_eq!(cli.common.config.as_deref(), Some(Path::new("x.toml")));
    }
}
