//! Options that change what is served when there is no configuration file.

use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use clap::Args;

use crate::config::{
    Backend, Config, EMBEDDED_BLOCK_SIZE, EMBEDDED_SIZE, Engine, Portal, parse_portal,
};

/// Options of `run` that cannot be used with `--config`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Without --config")]
pub struct Overrides {
    /// Listen here instead of on 127.0.0.1:3260 and [::1]:3260; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_portal)]
    listen: Option<SocketAddr>,
    /// The disk's size when its file is created [default: 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "memory")]
    size: Option<u64>,
    /// Serve this file or block device instead of disk0.img in the state directory
    #[arg(long, value_name = "PATH", conflicts_with = "memory")]
    disk: Option<PathBuf>,
    /// Serve a disk in memory, which is gone afterwards
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// Keep state here
    #[arg(long, value_name = "DIR", value_parser = parse_dir)]
    pub(super) state_dir: Option<PathBuf>,
}

fn parse_size(text: &str) -> Result<u64, String> {
    let help = "write a number and a unit, as in 512MiB or 1GiB";
    let ByteSize(size) = text.parse::<ByteSize>().map_err(|_| help.to_owned())?;
    if size == 0 || size > i64::MAX.cast_unsigned() {
        return Err(format!("out of range; {help}"));
    }
    if !size.is_multiple_of(u64::from(EMBEDDED_BLOCK_SIZE)) {
        return Err(format!(
            "not a multiple of the block size {EMBEDDED_BLOCK_SIZE}"
        ));
    }
    Ok(size)
}

fn parse_dir(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|error| error.to_string())
}

impl Overrides {
    /// The first option that was given, as a person writes it.
    pub(super) fn first_given(&self) -> Option<&'static str> {
        let given = [
            (self.listen.is_some(), "--listen"),
            (self.size.is_some(), "--size"),
            (self.disk.is_some(), "--disk"),
            (self.memory.is_some(), "--memory"),
            (self.state_dir.is_some(), "--state-dir"),
        ];
        given
            .into_iter()
            .find_map(|(given, option)| given.then_some(option))
    }

    /// What stood before the word `run` and what stood after it; the error is what stood on both
    /// sides or does not go together.
    pub(super) fn merged(self, after: Self) -> Result<Self, &'static str> {
        if self.first_given().is_none() {
            return Ok(after);
        }
        match after.first_given() {
            None => Ok(self),
            Some(option) => Err(option),
        }
    }

    /// The embedded configuration with these options.
    pub(super) fn applied_to(&self, mut config: Config) -> Result<Config, String> {
        if let Some(address) = self.listen {
            for group in &mut config.portal_groups {
                group.portals = vec![Portal {
                    address,
                    port: None,
                    optional: false,
                }];
            }
        }
        let backend = match (self.memory, &self.disk) {
            (Some(size), _) => Some(Backend::Memory { size }),
            (None, Some(path)) => Some(self.disk_at(path)?),
            (None, None) => self
                .size
                .map(|size| match &config.logical_units[0].backend {
                    Backend::File { path, .. } => file(path.clone(), Some(size)),
                    other => other.clone(),
                }),
        };
        if let Some(backend) = backend {
            config.logical_units[0].backend = backend;
        }
        Ok(config)
    }

    fn disk_at(&self, path: &Path) -> Result<Backend, String> {
        let path = std::path::absolute(path).map_err(|error| format!("--disk: {error}"))?;
        match path.metadata() {
            Ok(metadata) if metadata.file_type().is_block_device() => match self.size {
                Some(_) => Err(format!(
                    "--size: the block device {} is as large as it is\n  help: leave --size out",
                    path.display()
                )),
                None => Ok(Backend::Block {
                    path,
                    engine: Engine::Auto,
                }),
            },
            Ok(metadata) if metadata.is_file() => Ok(file(path, self.size)),
            Ok(_) => Err(format!(
                "--disk {}: neither a file nor a block device",
                path.display()
            )),
            Err(_) => Ok(file(path, Some(self.size.unwrap_or(EMBEDDED_SIZE)))),
        }
    }
}

fn file(path: PathBuf, size: Option<u64>) -> Backend {
    Backend::File {
        path,
        size,
        engine: Engine::Auto,
        direct: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(overrides: &Overrides) -> Config {
        overrides
            .applied_to(Config::embedded(Path::new("/state")))
            .unwrap()
    }

    #[test]
    fn without_options_nothing_changes() {
        assert_eq!(
            config(&Overrides::default()),
            Config::embedded(Path::new("/state"))
        );
    }

    #[test]
    fn each_option_changes_its_part() {
        let address: SocketAddr = "192.0.2.1:0".parse().unwrap();
        let listen = Some(address);
        let portals = config(&Overrides {
            listen,
            ..Overrides::default()
        })
        .portal_groups;
        assert_eq!(portals[0].portals.len(), 1);
        assert_eq!(portals[0].portals[0].address, address);
        let sized = config(&Overrides {
            size: Some(4096),
            ..Overrides::default()
        });
        assert!(matches!(&sized.logical_units[0].backend,
            Backend::File { path, size: Some(4096), .. } if path == Path::new("/state/disk0.img")));
        let memory = config(&Overrides {
            memory: Some(8192),
            ..Overrides::default()
        });
        assert_eq!(
            memory.logical_units[0].backend,
            Backend::Memory { size: 8192 }
        );
    }

    #[test]
    fn a_disk_that_exists_is_served_as_large_as_it_is() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let disk = Some(file.path().to_owned());
        let there = config(&Overrides {
            disk,
            ..Overrides::default()
        });
        assert!(matches!(
            there.logical_units[0].backend,
            Backend::File { size: None, .. }
        ));
        let disk = Some(PathBuf::from("/nowhere/new.img"));
        let new = config(&Overrides {
            disk,
            ..Overrides::default()
        });
        assert!(matches!(
            new.logical_units[0].backend,
            Backend::File {
                size: Some(EMBEDDED_SIZE),
                ..
            }
        ));
    }

    #[test]
    fn sizes_are_whole_blocks() {
        assert_eq!(parse_size("1GiB"), Ok(1 << 30));
        assert_eq!(parse_size("512"), Ok(512));
        for bad in ["", "0", "511", "1XB", "-1", "99999999999GiB"] {
            assert!(parse_size(bad).is_err_and(|help| !help.is_empty()), "{bad}");
        }
    }
}
