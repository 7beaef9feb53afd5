//! `unit-UUID.json`: what of a logical unit survives the end of the daemon
//! ([`NonVolatile`]). Written by the control thread before the change is answered.
//!
//! Named by the unit's UUID, so that a renamed unit keeps it and a unit that is made anew under an
//! old name does not. A unit whose file is damaged is not served: it would forget who may write.

use serde::{Deserialize, Serialize};

use super::{StateDir, StateError};
use crate::scsi::NonVolatile;
use crate::scsi::spc::mode_pages::ModeParameters;

const VERSION: u32 = 1;

/// The file, as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    /// Names of the mode parameters that are set, joined by `|`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    identifying_information: Vec<u8>,
}

impl StateDir {
    /// What was kept of a unit; the default where nothing was.
    ///
    /// # Errors
    /// The file cannot be read, or no generation of it is whole.
    pub fn unit(&self, uuid: &[u8; 16]) -> Result<NonVolatile, StateError> {
        let kept = self.read(&file_name(uuid), parse)?;
        Ok(kept.map(|(kept, _)| kept).unwrap_or_default())
    }

    /// Keeps `state`; it is on the medium when this returns.
    ///
    /// # Errors
    /// [`StateError::Io`]; what was kept before is still there.
    pub fn keep_unit(&self, uuid: &[u8; 16], state: &NonVolatile) -> Result<(), StateError> {
        let stored = Stored {
            version: VERSION,
            mode: state.mode.map(|mode| names(&mode)),
            identifying_information: state.identifying_information.clone(),
        };
        let mut bytes = serde_json::to_vec_pretty(&stored).expect("plain data become JSON");
        bytes.push(b'\n');
        self.write(&file_name(uuid), &bytes)
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

fn parse(bytes: &[u8]) -> Option<NonVolatile> {
    let stored: Stored = serde_json::from_slice(bytes).ok()?;
    let mode = stored
        .mode
        .as_deref()
        .map(bitflags::parser::from_str_strict);
    (stored.version == VERSION).then_some(NonVolatile {
        mode: mode.transpose().ok()?,
        identifying_information: stored.identifying_information,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: [u8; 16] = *b"0123456789abcdef";

    #[test]
    fn what_is_kept_comes_back_and_a_damaged_file_does_not_pass_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        assert_eq!(state.unit(&UUID).unwrap(), NonVolatile::default());
        let kept = NonVolatile {
            mode: Some(ModeParameters::WCE | ModeParameters::SWP),
            identifying_information: b"rack 7".to_vec(),
        };
        state.keep_unit(&UUID, &kept).unwrap();
        assert_eq!(state.unit(&UUID).unwrap(), kept);
        assert_eq!(state.unit(&[0; 16]).unwrap(), NonVolatile::default());
        for damaged in [
            &b""[..],
            b"{",
            b"{\"version\": 2}",
            b"{\"version\": 1, \"mode\": \"SWP | NO\"}",
            b"\xff",
        ] {
            std::fs::write(dir.path().join(file_name(&UUID)), damaged).unwrap();
            let previous = dir.path().join(format!("{}.prev", file_name(&UUID)));
            let _ = std::fs::remove_file(previous);
            assert!(matches!(state.unit(&UUID), Err(StateError::Damaged { .. })));
        }
    }
}
