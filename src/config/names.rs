//! Patterns of initiator names as the file may write them.
//!
//! Names and the matching of patterns are `iscsi::names`' own; here stands only what makes a
//! pattern in a configuration a mistake: that it can match no initiator, which at a login would be
//! silence.

use crate::iscsi::names::{IscsiName, NameError, NamePattern};

/// Why a text is no pattern of initiator names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Without a wildcard it has to be a name.
    #[error("without a * it is a name, and one that {0}")]
    Name(NameError),
    #[error("{0:?} stands in no iSCSI name, and * is the only wildcard")]
    BadCharacter(char),
    #[error("an iSCSI name starts with \"iqn.\", \"eui.\" or \"naa.\"")]
    MatchesNothing,
}

/// A pattern that some iSCSI name can match (RFC 7143 §4.2.7).
///
/// # Errors
/// Why no name can match `text`.
pub fn parse_pattern(text: &str) -> Result<NamePattern, PatternError> {
    let pattern = NamePattern::new(text).map_err(PatternError::Name)?;
    let Some((fixed, _)) = pattern.as_str().split_once('*') else {
        return match IscsiName::parse(text) {
            Ok(_) => Ok(pattern),
            Err(error) => Err(PatternError::Name(error)),
        };
    };
    let is_allowed =
        |c: &char| *c == '*' || IscsiName::parse(&format!("iqn.2026-11.a:{c}")).is_ok();
    if let Some(bad) = pattern.as_str().chars().find(|c| !is_allowed(c)) {
        return Err(PatternError::BadCharacter(bad));
    }
    let forms = ["iqn.", "eui.", "naa."];
    if forms
        .iter()
        .any(|form| form.starts_with(fixed) || fixed.starts_with(form))
    {
        Ok(pattern)
    } else {
        Err(PatternError::MatchesNothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_can_match_are_taken() {
        for text in [
            "*",
            "i*",
            "iqn.1993-08.org.debian:*",
            "IQN.*:HOST_1",
            "eui.02004567a425678d",
        ] {
            assert_eq!(parse_pattern(text).unwrap().as_str(), text.to_lowercase());
        }
    }

    #[test]
    fn patterns_that_cannot_match_are_refused() {
        for (text, error) in [
            ("debian*", PatternError::MatchesNothing),
            ("iqn.[ab]*", PatternError::BadCharacter('[')),
            ("iqn.?*", PatternError::BadCharacter('?')),
            ("iqn.1-1.io", PatternError::Name(NameError::BadDate)),
            ("", PatternError::Name(NameError::Empty)),
        ] {
            assert_eq!(parse_pattern(text), Err(error), "{text}");
        }
    }
}
