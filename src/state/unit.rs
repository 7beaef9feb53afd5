//! `unit-UUID.json`: what of a logical unit survives the end of the daemon
//! ([`NonVolatile`]). Written by the control thread before the change is answered.
//!
//! Named by the unit's UUID, so that a renamed unit keeps it and a unit that is made anew under an
//! old name does not. A unit whose file is damaged is not served: it would forget who may write.
//! Nor does the generation before it take its place, which may name as holder who is not any more.

use serde::{Deserialize, Serialize};

use super::{StateDir, StateError};
use crate::scsi::NonVolatile;
use crate::scsi::change::KeptSanitize;
use crate::scsi::job::{Sanitize, SanitizeMethod};
use crate::scsi::spc::mode_pages::ModeParameters;

mod reservations;

const VERSION: u32 = 1;

/// The file, as it is written: the checksum is over the JSON text of `state` without blanks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnitFile {
    version: u32,
    crc32c: String,
    state: Stored,
}

/// What every version of the file has.
#[derive(Debug, Deserialize)]
struct Version {
    version: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    /// Names of the mode parameters that are set, joined by `|`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    identifying_information: Vec<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reservations: Option<reservations::Stored>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sanitize: Option<StoredSanitize>,
}

/// See [`KeptSanitize`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredSanitize {
    method: StoredMethod,
    unrestricted_exit: bool,
    failed: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum StoredMethod {
    BlockErase,
    CryptographicErase,
    Overwrite {
        pattern: Vec<u8>,
        count: u8,
        invert: bool,
    },
}

impl From<&KeptSanitize> for StoredSanitize {
    fn from(kept: &KeptSanitize) -> Self {
        Self {
            method: match &kept.what.method {
                SanitizeMethod::BlockErase => StoredMethod::BlockErase,
                SanitizeMethod::CryptographicErase => StoredMethod::CryptographicErase,
                SanitizeMethod::Overwrite {
                    pattern,
                    count,
                    invert,
                } => StoredMethod::Overwrite {
                    pattern: pattern.clone(),
                    count: *count,
                    invert: *invert,
                },
            },
            unrestricted_exit: kept.what.unrestricted_exit,
            failed: kept.failed,
        }
    }
}

impl StoredSanitize {
    /// `None`: no SANITIZE can have left this.
    fn kept(self) -> Option<KeptSanitize> {
        let method = match self.method {
            StoredMethod::BlockErase => SanitizeMethod::BlockErase,
            StoredMethod::CryptographicErase => SanitizeMethod::CryptographicErase,
            StoredMethod::Overwrite {
                pattern,
                count,
                invert,
            } => {
                if pattern.is_empty() || pattern.len() > PATTERN_BYTES_MAX || count == 0 {
                    return None;
                }
                SanitizeMethod::Overwrite {
                    pattern,
                    count,
                    invert,
                }
            }
        };
        Some(KeptSanitize {
            what: Sanitize {
                method,
                unrestricted_exit: self.unrestricted_exit,
            },
            failed: self.failed,
        })
    }
}

/// The largest logical block.
const PATTERN_BYTES_MAX: usize = 4096;

impl StateDir {
    /// What was kept of a unit; the default where nothing was.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or is of another version of the daemon.
    pub fn unit(&self, uuid: &[u8; 16]) -> Result<NonVolatile, StateError> {
        let path = self.path.join(file_name(uuid));
        let Some(bytes) = self.read_bytes(&path)? else {
            return Ok(NonVolatile::default());
        };
        match serde_json::from_slice(&bytes) {
            Ok(Version { version }) if version != VERSION => {
                Err(StateError::UnitVersion { path, version })
            }
            _ => parse(&bytes).ok_or(StateError::DamagedUnit { path }),
        }
    }

    /// Keeps `state`; it is on the medium when this returns.
    ///
    /// # Errors
    /// [`StateError::Io`]; what was kept before is still there.
    pub fn keep_unit(&self, uuid: &[u8; 16], state: &NonVolatile) -> Result<(), StateError> {
        self.write(&file_name(uuid), &emit(state))
    }
}

fn file_name(uuid: &[u8; 16]) -> String {
    format!("unit-{}.json", uuid::Uuid::from_bytes(*uuid))
}

fn names(mode: &ModeParameters) -> String {
    let mut names = String::new();
    bitflags::parser::to_writer_strict(mode, &mut names)
        .expect("a String takes all that is written");
    names
}

fn checksum(state: &Stored) -> String {
    let text = serde_json::to_vec(state).expect("plain data become JSON");
    format!("{:08x}", crc32c::crc32c(&text))
}

fn emit(state: &NonVolatile) -> Vec<u8> {
    let state = Stored {
        mode: state.mode.map(|mode| names(&mode)),
        identifying_information: state.identifying_information.clone(),
        reservations: reservations::Stored::of(&state.reservations),
        sanitize: state.sanitize.as_ref().map(StoredSanitize::from),
    };
    let file = UnitFile {
        version: VERSION,
        crc32c: checksum(&state),
        state,
    };
    let mut bytes = serde_json::to_vec_pretty(&file).expect("plain data become JSON");
    bytes.push(b'\n');
    bytes
}

fn parse(bytes: &[u8]) -> Option<NonVolatile> {
    let file: UnitFile = serde_json::from_slice(bytes).ok()?;
    if file.crc32c != checksum(&file.state) {
        return None;
    }
    let mode = file.state.mode.as_deref();
    let mode = mode
        .map(bitflags::parser::from_str_strict)
        .transpose()
        .ok()?;
    let reservations = match file.state.reservations {
        Some(stored) => stored.restored()?,
        None => Default::default(),
    };
    let sanitize = match file.state.sanitize {
        None => None,
        Some(stored) => Some(stored.kept()?),
    };
    Some(NonVolatile {
        mode,
        identifying_information: file.state.identifying_information,
        reservations,
        sanitize,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::PortIdentity;
    use crate::scsi::reservations::{Kind, Persistent, Registrant, Registration, Reservation};

    const UUID: [u8; 16] = *b"0123456789abcdef";

    fn registration(host: &str, isid: Option<[u8; 6]>, key: u64) -> Registration {
        let port = PortIdentity::new("iqn.2026-11.io.example:disk", 7, 2).unwrap();
        Registration {
            registrant: Registrant::new(host, isid, port).unwrap(),
            key,
        }
    }

    fn kept() -> NonVolatile {
        let registrations = vec![
            registration("iqn.a", Some([0x40, 0, 1, 0x37, 0, 0]), 1),
            registration("iqn.b:\u{e9}", None, u64::MAX),
        ];
        NonVolatile {
            mode: Some(ModeParameters::SWP | ModeParameters::WCE),
            identifying_information: b"rack 7".to_vec(),
            reservations: Persistent {
                aptpl: true,
                reservation: Some(Reservation {
                    kind: Kind::WriteExclusiveRegistrantsOnly,
                    holder: Some(registrations[1].registrant.clone()),
                }),
                registrations,
            },
            sanitize: Some(KeptSanitize {
                what: Sanitize {
                    method: SanitizeMethod::Overwrite {
                        pattern: vec![1, 2, 3],
                        count: 31,
                        invert: true,
                    },
                    unrestricted_exit: true,
                },
                failed: false,
            }),
        }
    }

    #[test]
    fn what_is_kept_comes_back_and_only_to_its_unit() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        assert_eq!(state.unit(&UUID).unwrap(), NonVolatile::default());
        let mut kept = kept();
        state.keep_unit(&UUID, &kept).unwrap();
        assert_eq!(state.unit(&UUID).unwrap(), kept);
        assert_eq!(state.unit(&[0; 16]).unwrap(), NonVolatile::default());
        for kind in Kind::ALL {
            let holder = kept.reservations.registrations[0].registrant.clone();
            kept.reservations.reservation = Some(Reservation {
                kind,
                holder: (!kind.is_all_registrants()).then_some(holder),
            });
            state.keep_unit(&UUID, &kept).unwrap();
            assert_eq!(state.unit(&UUID).unwrap(), kept, "{kind:?}");
        }
        state.keep_unit(&UUID, &NonVolatile::default()).unwrap();
        assert_eq!(state.unit(&UUID).unwrap(), NonVolatile::default());
    }

    #[test]
    fn a_damaged_file_is_an_error_even_with_a_whole_generation_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        state.keep_unit(&UUID, &NonVolatile::default()).unwrap();
        state.keep_unit(&UUID, &kept()).unwrap();
        let path = dir.path().join(file_name(&UUID));
        let whole = std::fs::read(&path).unwrap();
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            state.unit(&UUID).unwrap_err()
        };
        for len in 0..whole.len() - 1 {
            let error = refused(&whole[..len]);
            assert!(
                matches!(error, StateError::DamagedUnit { .. }),
                "{len} bytes: {error}"
            );
        }
        for damaged in [&b"\xff"[..], b"{}", b"{\"version\": 1}", b"[1]"] {
            let error = refused(damaged).to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
            assert!(
                error.contains("help:") && error.contains(".prev"),
                "{error}"
            );
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(state.unit(&UUID).unwrap(), NonVolatile::default());
    }

    #[test]
    fn no_flipped_bit_passes_for_what_was_kept() {
        let whole = emit(&kept());
        assert_eq!(parse(&whole), Some(kept()));
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                let parsed = parse(&damaged);
                // A flip among blanks or in the case of a checksum's digit harms nothing.
                assert!(
                    parsed.is_none() || parsed == Some(kept()),
                    "byte {at} bit {bit}"
                );
            }
        }
    }

    #[test]
    fn another_version_of_the_file_is_named_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let path = dir.path().join(file_name(&UUID));
        std::fs::write(&path, b"{\"version\": 2, \"state\": {\"new\": 1}}").unwrap();
        let error = state.unit(&UUID).unwrap_err();
        assert!(
            matches!(error, StateError::UnitVersion { version: 2, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("help:"), "{error}");
    }

    #[test]
    fn contradictions_are_damage() {
        let good = String::from_utf8(emit(&kept())).unwrap();
        let cases = [
            ("\"type\": 5", "\"type\": 4"),
            ("\"type\": 5", "\"type\": 7"),
            ("\"mode\": \"WCE", "\"mode\": \"NO"),
            ("\"holder\": 1", "\"holder\": 2"),
            ("\"key\": \"ffffffffffffffff\"", "\"key\": \"0\""),
            ("\"isid\": \"400001370000\"", "\"isid\": \"40\""),
        ];
        for (from, to) in cases {
            assert!(good.contains(from), "{good}");
            let text = good.replace(from, to);
            let mut file: UnitFile = serde_json::from_str(&text).unwrap();
            file.crc32c = checksum(&file.state);
            assert_eq!(parse(&serde_json::to_vec(&file).unwrap()), None, "{to}");
        }
    }
}
