//! iSCSI node names: format, normal form, patterns, and how far two names are apart
//! (RFC 7143 §4.2.7; RFC 3722 for the normal form).
//!
//! A name is checked once, when it is made; after that it is known to be of one of the three types
//! (`iqn.`, `eui.`, `naa.`), at most [`NAME_MAX_BYTES`] long and in lower case, so that two names
//! are the same node exactly when their bytes are equal.
//!
//! Deviations, both towards what initiators really send: `_` is accepted (QEMU puts the name of the
//! virtual machine into its initiator name), and characters beyond ASCII are folded to lower case
//! but not otherwise normalised.

use std::fmt;

use thiserror::Error;

/// Longest iSCSI name in bytes of UTF-8 (RFC 7143 §4.2.7.1).
pub const NAME_MAX_BYTES: usize = 223;

/// Beyond this edit distance two names are not worth calling alike.
pub const NEAREST_DISTANCE_MAX: usize = 12;

/// Cells of the distance table that one search for the nearest name may fill: a refusal must stay
/// cheap, however many targets are configured.
pub const NEAREST_WORK_MAX: usize = 200_000;

/// A checked iSCSI name in normal form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IscsiName(Box<str>);

/// Why a text is not an iSCSI name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum NameError {
    #[error("is empty")]
    Empty,
    #[error("is longer than {NAME_MAX_BYTES} bytes")]
    TooLong,
    #[error("begins with neither `iqn.`, `eui.` nor `naa.`")]
    UnknownType,
    #[error("contains a character that an iSCSI name may not have")]
    BadCharacter,
    #[error("has no `yyyy-mm` date after `iqn.`")]
    BadDate,
    #[error("has no naming authority after the date")]
    NoAuthority,
    #[error("must have 16 hexadecimal digits after `eui.`")]
    BadEui,
    #[error("must have 16 or 32 hexadecimal digits after `naa.`")]
    BadNaa,
}

impl IscsiName {
    /// Checks `text` and brings it to normal form.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > NAME_MAX_BYTES {
            return Err(NameError::TooLong);
        }
        let name = text.to_lowercase();
        if name.len() > NAME_MAX_BYTES {
            return Err(NameError::TooLong);
        }
        check_format(&name)?;
        Ok(Self(name.into_boxed_str()))
    }

    /// The name in normal form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IscsiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for IscsiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// RFC 7143 §4.2.7.3 to .6: what follows each type designator.
fn check_format(name: &str) -> Result<(), NameError> {
    if let Some(rest) = name.strip_prefix("iqn.") {
        check_characters(rest)?;
        check_iqn(rest)
    } else if let Some(rest) = name.strip_prefix("eui.") {
        if rest.len() == 16 && is_hex(rest) {
            Ok(())
        } else {
            Err(NameError::BadEui)
        }
    } else if let Some(rest) = name.strip_prefix("naa.") {
        let fits = rest.len() == 16 || rest.len() == 32;
        if fits && is_hex(rest) {
            Ok(())
        } else {
            Err(NameError::BadNaa)
        }
    } else {
        Err(NameError::UnknownType)
    }
}

/// RFC 3722 §6: of ASCII only letters, digits, dash, dot and colon (and `_`, see the module's
/// head).
fn check_characters(text: &str) -> Result<(), NameError> {
    let fits = |c: char| matches!(c, '-' | '.' | ':' | '_') || c.is_alphanumeric();
    if text.chars().all(fits) {
        Ok(())
    } else {
        Err(NameError::BadCharacter)
    }
}

/// RFC 7143 §4.2.7.4: `yyyy-mm`, a dot, the reversed domain name, and what its owner likes.
fn check_iqn(rest: &str) -> Result<(), NameError> {
    let Some((date, authority)) = rest.split_once('.') else {
        return Err(if is_date(rest) {
            NameError::NoAuthority
        } else {
            NameError::BadDate
        });
    };
    if !is_date(date) {
        return Err(NameError::BadDate);
    }
    let domain = authority.split(':').next().unwrap_or_default();
    if domain.is_empty() {
        Err(NameError::NoAuthority)
    } else {
        Ok(())
    }
}

fn is_date(text: &str) -> bool {
    let Some((year, month)) = text.split_once('-') else {
        return false;
    };
    let digits = |t: &str, n| t.len() == n && t.bytes().all(|b| b.is_ascii_digit());
    digits(year, 4) && digits(month, 2) && matches!(month.parse::<u8>(), Ok(1..=12))
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A pattern over iSCSI names in which `*` stands for any characters, none included. Nothing else
/// is special. Matching ignores case, because names do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamePattern(Box<str>);

impl NamePattern {
    /// A pattern of `text`; longer than a name can be it would match nothing and is refused.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        let folded = text.to_lowercase();
        if folded.len() > NAME_MAX_BYTES {
            return Err(NameError::TooLong);
        }
        Ok(Self(folded.into_boxed_str()))
    }

    /// The pattern in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the whole name fits. At most (bytes of pattern × bytes of name) steps.
    pub fn matches(&self, name: &IscsiName) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.0.as_bytes());
        let (mut p, mut n) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        while n < name.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    retry = Some((p + 1, n));
                    p += 1;
                }
                Some(byte) if name.get(n) == Some(byte) => {
                    p += 1;
                    n += 1;
                }
                _ => {
                    // The last star takes one character more.
                    let Some((after_star, taken_to)) = retry else {
                        return false;
                    };
                    retry = Some((after_star, taken_to + 1));
                    p = after_star;
                    n = taken_to + 1;
                }
            }
        }
        pattern.iter().skip(p).all(|byte| *byte == b'*')
    }
}

/// The candidate with the smallest edit distance to `wanted`, if any is near enough to be meant.
/// Ties go to the earlier one. The work is bounded by [`NEAREST_WORK_MAX`]; candidates beyond it
/// are not looked at.
pub fn nearest<'a>(
    wanted: &str,
    candidates: impl Iterator<Item = &'a IscsiName>,
) -> Option<&'a IscsiName> {
    let mut best = None;
    let mut limit = NEAREST_DISTANCE_MAX;
    let mut work = 0_usize;
    for candidate in candidates {
        if work >= NEAREST_WORK_MAX {
            break;
        }
        work = work.saturating_add(wanted.len().min(NAME_MAX_BYTES) * (2 * limit + 1));
        if let Some(distance) = distance_within(wanted, candidate.as_str(), limit) {
            best = Some(candidate);
            if distance == 0 {
                break;
            }
            limit = distance - 1;
        }
    }
    best
}

/// Levenshtein distance over bytes if it is at most `limit`, filling only the band around the
/// diagonal that such a distance can touch.
fn distance_within(a: &str, b: &str, limit: usize) -> Option<usize> {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() > NAME_MAX_BYTES || b.len() > NAME_MAX_BYTES || a.len().abs_diff(b.len()) > limit {
        return None;
    }
    let far = limit + 1;
    let mut row: Vec<usize> = (0..=b.len()).map(|j| j.min(far)).collect();
    for (i, from) in a.iter().enumerate() {
        let low = i.saturating_sub(limit);
        let high = (i + limit + 1).min(b.len());
        let mut diagonal = row[low];
        let mut left = if low == 0 { (i + 1).min(far) } else { far };
        if low == 0 {
            row[0] = left;
        }
        for j in low..high {
            let above = if j + 1 == i + limit + 1 {
                far
            } else {
                row[j + 1]
            };
            let replaced = diagonal + usize::from(*from != b[j]);
            let cell = replaced.min(above + 1).min(left + 1).min(far);
            diagonal = row[j + 1];
            row[j + 1] = cell;
            left = cell;
        }
    }
    row.last().copied().filter(|distance| *distance <= limit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> IscsiName {
        IscsiName::parse(text).unwrap()
    }

    // RFC 7143 §4.2.7.3 to .6.
    #[test]
    fn the_three_types_of_names_are_accepted_in_normal_form() {
        for text in [
            "iqn.2001-04.com.example:storage:diskarrays-sn-a8675309",
            "iqn.2001-04.com.example",
            "iqn.1993-08.org.debian:01:abcdef",
            "iqn.2008-11.org.linux-kvm:my_vm",
            "iqn.2008-11.org.linux-kvm:m\u{fc}nchen",
            "eui.02004567a425678d",
            "naa.52004567ba64678d",
            "naa.62004567ba64678d0123456789abcdef",
        ] {
            assert_eq!(name(text).as_str(), text);
        }
        assert_eq!(
            name("IQN.2001-04.COM.Example:X"),
            name("iqn.2001-04.com.example:x")
        );
        assert_eq!(
            name("EUI.02004567A425678D").as_str(),
            "eui.02004567a425678d"
        );
    }

    #[test]
    fn every_broken_format_has_its_own_error() {
        for (text, error) in [
            ("", NameError::Empty),
            ("disk0", NameError::UnknownType),
            ("iqn", NameError::UnknownType),
            ("iqn.", NameError::BadDate),
            ("iqn.2001-4.com.example", NameError::BadDate),
            ("iqn.2001-13.com.example", NameError::BadDate),
            ("iqn.2001-00.com.example", NameError::BadDate),
            ("iqn.20x1-04.com.example", NameError::BadDate),
            ("iqn.2001-04", NameError::NoAuthority),
            ("iqn.2001-04.", NameError::NoAuthority),
            ("iqn.2001-04.:disk", NameError::NoAuthority),
            ("iqn.2001-04.com.example:a b", NameError::BadCharacter),
            ("iqn.2001-04.com.example:a/b", NameError::BadCharacter),
            ("iqn.2001-04.com.example:a\u{7f}", NameError::BadCharacter),
            ("eui.02004567a425678", NameError::BadEui),
            ("eui.02004567a425678g", NameError::BadEui),
            ("naa.52004567ba64678d0", NameError::BadNaa),
        ] {
            assert_eq!(IscsiName::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_name_may_have_223_bytes_and_not_one_more() {
        let longest = format!(
            "iqn.2001-04.com.example:{}",
            "x".repeat(NAME_MAX_BYTES - 24)
        );
        assert_eq!(longest.len(), NAME_MAX_BYTES);
        assert_eq!(name(&longest).as_str(), longest);
        assert_eq!(
            IscsiName::parse(&format!("{longest}x")),
            Err(NameError::TooLong)
        );
    }

    #[test]
    fn a_star_stands_for_any_characters_and_nothing_else_is_special() {
        let debian = name("iqn.1993-08.org.debian:01:abc");
        for (pattern, matches) in [
            ("*", true),
            ("iqn.1993-08.org.debian:*", true),
            ("IQN.1993-08.ORG.Debian:*", true),
            ("iqn.1993-08.org.debian:01:abc", true),
            ("iqn.1993-08.org.debian:01:abc*", true),
            ("*:01:*", true),
            ("*abc", true),
            ("*debian*abc", true),
            ("**a*b*c**", true),
            ("iqn.1993-08.org.debian", false),
            ("*debian", false),
            ("iqn.1993-08.org.debian:??:abc", false),
            ("iqn?1993-08*", false),
            ("*abcd", false),
        ] {
            assert_eq!(
                NamePattern::new(pattern).unwrap().matches(&debian),
                matches,
                "{pattern}"
            );
        }
        assert_eq!(NamePattern::new(""), Err(NameError::Empty));
        assert_eq!(NamePattern::new(&"*".repeat(224)), Err(NameError::TooLong));
    }

    #[test]
    fn the_nearest_name_is_found_and_a_far_one_is_not() {
        let names = [
            name("iqn.2026-11.io.iiblockdaemon:disk0"),
            name("iqn.2026-11.io.iiblockdaemon:backup"),
        ];
        let near = |wanted| nearest(wanted, names.iter()).map(IscsiName::as_str);
        assert_eq!(
            near("iqn.2026-11.io.iiblockdaemon:dsk0"),
            Some(names[0].as_str())
        );
        assert_eq!(
            near("iqn.2026-11.io.iblockdaemon:bakcup"),
            Some(names[1].as_str())
        );
        assert_eq!(near("iqn.1991-05.com.microsoft:something-else"), None);
        assert_eq!(
            nearest("iqn.2026-11.io.iiblockdaemon:disk0", [].iter()),
            None
        );
    }

    fn full_distance(a: &[u8], b: &[u8]) -> usize {
        let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
        for i in 0..=a.len() {
            for j in 0..=b.len() {
                rows[i][j] = if i == 0 || j == 0 {
                    i + j
                } else {
                    (rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]))
                        .min(rows[i - 1][j] + 1)
                        .min(rows[i][j - 1] + 1)
                };
            }
        }
        rows[a.len()][b.len()]
    }

    proptest! {
        #[test]
        fn any_text_is_a_name_or_an_error(text in ".*") {
            if let Ok(name) = IscsiName::parse(&text) {
                prop_assert!(name.as_str().len() <= NAME_MAX_BYTES);
                prop_assert_eq!(IscsiName::parse(name.as_str()), Ok(name));
            }
        }

        #[test]
        fn the_banded_distance_is_the_full_one(a in "[ab]{0,14}", b in "[ab]{0,14}", limit in 0_usize..9) {
            let full = full_distance(a.as_bytes(), b.as_bytes());
            prop_assert_eq!(distance_within(&a, &b, limit), (full <= limit).then_some(full));
        }
    }
}
