//! `identities.json`: the identifiers that initiators recognise each logical unit by (SPC-6, VPD
//! 80h and 83h). Made once from random bits, never derived from a name, never changed afterwards.
//!
//! A unit that leaves the configuration keeps its entry, so that it is the same disk when it
//! returns.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Generation, StateDir, StateError};
use crate::config::LogicalUnit;

const IDENTITIES: &str = "identities.json";

impl StateDir {
    /// The identity of each unit, in their order; those that have none yet get one, which is on the
    /// medium before this returns. A serial that the configuration gives takes the place of the
    /// generated one.
    ///
    /// # Errors
    /// The file cannot be read or written, no generation of it is whole, or there are no random
    /// bits.
    pub fn identities(&self, units: &[LogicalUnit]) -> Result<Identities, StateError> {
        let stored = self.read(IDENTITIES, parse_identities)?;
        let mut notice = None;
        let mut known = match stored {
            None => BTreeMap::new(),
            Some((known, Generation::Current)) => known,
            Some((known, Generation::Previous)) => {
                notice = Some(format!(
                    "{} was damaged or missing; the generation before it is used, which knows {} \
                     logical units",
                    self.path.join(IDENTITIES).display(),
                    known.len()
                ));
                known
            }
        };
        let mut made: Vec<String> = Vec::new();
        for unit in units {
            if !known.contains_key(&unit.name) {
                known.insert(unit.name.clone(), Identity::random()?);
                made.push(unit.name.clone());
            }
        }
        if !made.is_empty() || notice.is_some() {
            self.write(IDENTITIES, &emit_identities(&known))?;
        }
        let of_units = units.iter().filter_map(|unit| {
            let mut identity = known.get(&unit.name)?.clone();
            if let Some(serial) = &unit.serial {
                identity.serial.clone_from(serial);
            }
            Some(identity)
        });
        Ok(Identities {
            units: of_units.collect(),
            made,
            notice,
        })
    }
}

/// What [`StateDir::identities`] found and made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identities {
    /// One for each unit that was asked for, in that order.
    pub units: Vec<Identity>,
    /// Names of the units whose identity was made now.
    pub made: Vec<String>,
    /// What the operator should know: a damaged file was replaced by its previous generation.
    pub notice: Option<String>,
}

/// How initiators recognise a logical unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Unit serial number (VPD 80h): printable ASCII.
    pub serial: String,
    /// NAA locally assigned designator (VPD 83h; SPC-6, NAA 3h): the upper four bits are 3, the
    /// others random. Goes out big-endian.
    #[serde(with = "hex_u64")]
    pub naa: u64,
    /// UUID designator (VPD 83h; RFC 9562, version 4).
    #[serde(with = "uuid_text")]
    pub uuid: Uuid,
}

impl Identity {
    fn random() -> Result<Self, StateError> {
        const NAA_LOCALLY_ASSIGNED: u64 = 3 << 60;
        let serial = getrandom::u64().map_err(StateError::Random)?;
        let naa = getrandom::u64().map_err(StateError::Random)?;
        Ok(Self {
            serial: format!("{serial:016X}"),
            naa: NAA_LOCALLY_ASSIGNED | naa >> 4,
            uuid: Uuid::new_v4(),
        })
    }
}

/// A number as 16 hexadecimal digits: JSON's own numbers are not exact beyond 2^53.
mod hex_u64 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &u64, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(&format_args!("{value:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<u64, D::Error> {
        u64::from_str_radix(&String::deserialize(input)?, 16).map_err(Error::custom)
    }
}

/// A UUID in its usual text form.
mod uuid_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use uuid::Uuid;

    pub(super) fn serialize<S: Serializer>(value: &Uuid, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Uuid, D::Error> {
        Uuid::parse_str(&String::deserialize(input)?).map_err(Error::custom)
    }
}

/// The file: the checksum is over the JSON text of `identities` without blanks.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    format: u32,
    crc32c: String,
    identities: BTreeMap<String, Identity>,
}

const FORMAT: u32 = 1;

fn checksum(identities: &BTreeMap<String, Identity>) -> String {
    let text = serde_json::to_vec(identities).expect("a map of strings is JSON");
    format!("{:08x}", crc32c::crc32c(&text))
}

fn emit_identities(identities: &BTreeMap<String, Identity>) -> Vec<u8> {
    let file = IdentityFile {
        format: FORMAT,
        crc32c: checksum(identities),
        identities: identities.clone(),
    };
    let mut text = serde_json::to_vec_pretty(&file).expect("a map of strings is JSON");
    text.push(b'\n');
    text
}

fn parse_identities(bytes: &[u8]) -> Option<BTreeMap<String, Identity>> {
    let file: IdentityFile = serde_json::from_slice(bytes).ok()?;
    (file.format == FORMAT && file.crc32c == checksum(&file.identities)).then_some(file.identities)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn units(names: &[&str]) -> Vec<LogicalUnit> {
        let unit = Config::embedded(Path::new("/state"))
            .logical_units
            .remove(0);
        names
            .iter()
            .map(|&name| LogicalUnit {
                name: name.to_owned(),
                ..unit.clone()
            })
            .collect()
    }

    #[test]
    fn identities_are_made_once_and_survive() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path()).unwrap();
        let first = state.identities(&units(&["a", "b"])).unwrap();
        assert_eq!(first.made, ["a", "b"]);
        assert_eq!(first.notice, None);
        for identity in &first.units {
            assert_eq!(identity.naa >> 60, 3, "{identity:?}");
            assert_eq!(identity.uuid.get_version_num(), 4);
            assert_eq!(identity.serial.len(), 16);
        }
        assert_ne!(first.units[0].naa, first.units[1].naa);
        assert_ne!(first.units[0].serial, first.units[1].serial);
        let again = state.identities(&units(&["b", "c", "a"])).unwrap();
        assert_eq!(again.made, ["c"]);
        assert_eq!(again.units[0], first.units[1]);
        assert_eq!(again.units[2], first.units[0]);
        // A unit that is away for a while is not forgotten.
        state.identities(&units(&["c"])).unwrap();
        let back = state.identities(&units(&["a"])).unwrap();
        assert_eq!(back.units, first.units[..1]);
    }

    #[test]
    fn a_configured_serial_takes_the_place_of_the_generated_one() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path()).unwrap();
        let mut unit = units(&["a"]);
        let generated = state.identities(&unit).unwrap().units.remove(0);
        unit[0].serial = Some("MY-DISK-1".to_owned());
        let named = state.identities(&unit).unwrap().units.remove(0);
        assert_eq!(named.serial, "MY-DISK-1");
        assert_eq!((named.naa, named.uuid), (generated.naa, generated.uuid));
        unit[0].serial = None;
        assert_eq!(state.identities(&unit).unwrap().units[0], generated);
    }

    #[test]
    fn one_flipped_bit_in_the_identities_is_noticed_and_said() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path()).unwrap();
        let first = state.identities(&units(&["a"])).unwrap();
        state.identities(&units(&["a", "b"])).unwrap();
        let path = root.path().join(IDENTITIES);
        let mut bytes = fs::read(&path).unwrap();
        let serial = first.units[0].serial.as_bytes();
        let at = bytes
            .windows(serial.len())
            .position(|window| window == serial)
            .unwrap();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        let after = state.identities(&units(&["a", "b"])).unwrap();
        assert_eq!(after.units[0], first.units[0]);
        assert_eq!(after.made, ["b"], "the previous generation knew only a");
        assert!(
            after
                .notice
                .is_some_and(|notice| notice.contains("identities.json was damaged"))
        );
        assert_eq!(state.identities(&units(&["a"])).unwrap().notice, None);
    }

    #[test]
    fn truncated_or_foreign_files_are_no_identities() {
        let known = BTreeMap::from([("a".to_owned(), Identity::random().unwrap())]);
        let whole = emit_identities(&known);
        assert_eq!(parse_identities(&whole), Some(known));
        for len in 0..whole.len() - 1 {
            assert_eq!(parse_identities(&whole[..len]), None, "{len} bytes");
        }
        assert_eq!(
            parse_identities(b"{\"format\":2,\"crc32c\":\"0\",\"identities\":{}}"),
            None
        );
    }
}
