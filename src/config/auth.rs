//! Reads the `auth` tables of targets and of discovery, and the secrets that they name.
//!
//! A table that holds credentials but no method is refused: it would leave the door open. A secret
//! never appears in a finding.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::model::{Auth, Chap, MutualChap};
use super::reader::{At, Section};
use super::report::{Finding, Span};
use super::secret::{SECRET_LEN_MAX, SECRET_LEN_RECOMMENDED, Secret};
use crate::iscsi::auth::ChapAlgorithm;

/// The longest TargetAlias and CHAP_N in bytes (RFC 7143 §6.1: a simple text value).
const TEXT_VALUE_LEN_MAX: usize = 255;

/// `None` only when an error was reported.
pub(super) fn read_auth(section: Option<Section<'_>>, dir: &Path) -> Option<Auth> {
    let Some(mut section) = section else {
        return Some(Auth::None);
    };
    let method = section.choice("method", &[("none", false), ("chap", true)]);
    let wrong_method = method.is_none() && section.has("method");
    let chap = read_chap(&mut section, dir);
    let auth = match (method, chap) {
        (None, _) if wrong_method => None,
        (None, Credentials::Absent) => Some(Auth::None),
        (None, _) => {
            let help = "add method = \"chap\"; credentials alone would leave the door open";
            section.missing("method", help);
            None
        }
        (Some(method), credentials) if !method.value => {
            if !matches!(credentials, Credentials::Absent) {
                let finding = Finding::warning(method.span, "the credentials are not used");
                section.report(
                    finding
                        .label("with method = \"none\" anybody gets in")
                        .help("write method = \"chap\", or remove the credentials"),
                );
            }
            Some(Auth::None)
        }
        (Some(_), Credentials::Complete(chap)) => Some(Auth::Chap(chap)),
        (Some(method), Credentials::Partial { reported }) => {
            if !reported {
                let finding = Finding::error(method.span, "CHAP needs user and secret");
                section.report(finding.help("add user = \"…\" and secret_file = \"…\""));
            }
            None
        }
        (Some(method), Credentials::Absent) => {
            let finding = Finding::error(method.span, "CHAP needs user and secret");
            section.report(finding.help("add user = \"…\" and secret_file = \"…\""));
            None
        }
    };
    section.finish();
    auth
}

/// What an auth table holds beside its method.
enum Credentials {
    Absent,
    /// Something is missing or wrong; `reported` says whether a finding names it.
    Partial {
        reported: bool,
    },
    Complete(Chap),
}

fn read_chap(section: &mut Section<'_>, dir: &Path) -> Credentials {
    let user = read_text_value(section, "user");
    let secret = read_secret(section, "secret", "secret_file", dir);
    let mutual_user = read_text_value(section, "mutual_user");
    let mutual_secret = read_secret(section, "mutual_secret", "mutual_secret_file", dir);
    let algorithms = read_algorithms(section);
    let has_secret = section.has("secret") || section.has("secret_file");
    let has_mutual_secret = section.has("mutual_secret") || section.has("mutual_secret_file");
    let has_mutual = section.has("mutual_user") || has_mutual_secret;
    if !section.has("user") && !has_secret && !has_mutual {
        return Credentials::Absent;
    }
    if section.has("mutual_user") != has_mutual_secret {
        let key = if has_mutual_secret {
            "mutual_secret"
        } else {
            "mutual_user"
        };
        let finding = Finding::error(section.key_span(key), "mutual CHAP is half configured");
        section.report(finding.help("it needs both mutual_user and mutual_secret_file"));
        return Credentials::Partial { reported: true };
    }
    let (Some(user), Some((secret, _))) = (user, secret) else {
        let complete = section.has("user") && has_secret;
        return Credentials::Partial { reported: complete };
    };
    let mutual = match (mutual_user, mutual_secret) {
        (Some(user), Some((mutual_secret, span))) => {
            // RFC 7143 §9.2.1: one secret in both directions lets an answer be reflected.
            if mutual_secret == secret {
                section.report(
                    Finding::error(span, "both directions of CHAP use one secret").help(
                        "give the target a secret of its own; initiators refuse it otherwise",
                    ),
                );
                return Credentials::Partial { reported: true };
            }
            Some(MutualChap {
                user,
                secret: mutual_secret,
            })
        }
        (None, None) if !has_mutual => None,
        _ => return Credentials::Partial { reported: true },
    };
    Credentials::Complete(Chap {
        user,
        secret,
        mutual,
        algorithms,
    })
}

fn read_algorithms(section: &mut Section<'_>) -> Vec<ChapAlgorithm> {
    const WORDS: [(&str, ChapAlgorithm); 4] = [
        ("sha256", ChapAlgorithm::Sha256),
        ("sha3-256", ChapAlgorithm::Sha3_256),
        ("sha1", ChapAlgorithm::Sha1),
        ("md5", ChapAlgorithm::Md5),
    ];
    let Some(texts) = section.texts("algorithms") else {
        return ChapAlgorithm::ALL.to_vec();
    };
    if section.is_empty_array("algorithms") {
        let finding = Finding::error(texts.span, "algorithms is empty");
        section.report(finding.help("name one of \"sha3-256\", \"sha256\", \"sha1\", \"md5\""));
    }
    let mut algorithms = Vec::with_capacity(WORDS.len());
    for text in texts.value {
        let Some(algorithm) = section.choose("an element of algorithms", &text, &WORDS) else {
            continue;
        };
        if algorithms.contains(&algorithm) {
            let message = format!("{:?} stands twice in algorithms", text.value);
            section.report(Finding::error(text.span, message).help("name it once"));
        } else {
            algorithms.push(algorithm);
        }
    }
    algorithms
}

/// A secret written in the file or in a file of its own, and the place that says so.
fn read_secret(
    section: &mut Section<'_>,
    key: &'static str,
    file_key: &'static str,
    dir: &Path,
) -> Option<(Secret, Span)> {
    let inline = section.text(key);
    let file = section.text(file_key);
    if section.has(key) && section.has(file_key) {
        section.report(
            Finding::error(
                section.key_span(key),
                format!("both {key} and {file_key} are given"),
            )
            .other(section.key_span(file_key), "this names a file")
            .help(format!(
                "keep {file_key}; the configuration then holds no secret"
            )),
        );
        return None;
    }
    let (bytes, span) = match (inline, file) {
        (Some(text), _) => (text.value.as_bytes().to_vec(), text.span),
        (None, Some(path)) => (read_secret_file(section, &path, dir)?, path.span),
        (None, None) => return None,
    };
    let len = bytes.len();
    let Some(secret) = Secret::new(bytes) else {
        let message = if len == 0 {
            "the secret is empty"
        } else {
            "the secret is too long"
        };
        let help = format!("use {SECRET_LEN_RECOMMENDED} to {SECRET_LEN_MAX} bytes");
        section.report(Finding::error(span, message).help(help));
        return None;
    };
    if len < SECRET_LEN_RECOMMENDED {
        let message = format!("the secret has fewer than {SECRET_LEN_RECOMMENDED} bytes");
        section.report(
            Finding::warning(span.clone(), message)
                .label("it can be guessed from one recorded login")
                .help("RFC 7143 §9.2.1 asks for 96 random bits, and some initiators refuse less"),
        );
    }
    Some((secret, span))
}

/// The file's bytes without the line end that editors put there.
fn read_secret_file(section: &Section<'_>, path: &At<&str>, dir: &Path) -> Option<Vec<u8>> {
    let full = dir.join(path.value);
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_LEN_MAX + 3));
    let read = File::open(&full).and_then(|file| {
        let mode = file.metadata()?.mode();
        file.take(SECRET_LEN_MAX as u64 + 3)
            .read_to_end(&mut bytes)?;
        Ok(mode)
    });
    let mode = match read {
        Ok(mode) => mode,
        Err(error) => {
            let message = format!("the secret file {} cannot be read", full.display());
            let help = "a relative path starts where the configuration file is; the user that runs \
                        the daemon must be able to read it";
            let finding = Finding::error(path.span.clone(), message).label(error.to_string());
            section.report(finding.help(help));
            return None;
        }
    };
    if mode & 0o004 != 0 {
        let message = format!("everybody on this machine can read {}", full.display());
        let help = format!("chmod 0600 {}", full.display());
        section.report(Finding::warning(path.span.clone(), message).help(help));
    }
    let end = bytes
        .strip_suffix(b"\n")
        .map_or(bytes.as_slice(), |b| b.strip_suffix(b"\r").unwrap_or(b));
    Some(end.to_vec())
}

/// A text that can stand as the value of a text key.
pub(super) fn read_text_value(section: &mut Section<'_>, key: &'static str) -> Option<String> {
    let text = section.text(key)?;
    if text.value.is_empty()
        || text.value.len() > TEXT_VALUE_LEN_MAX
        || text.value.chars().any(char::is_control)
    {
        let help = format!("use 1 to {TEXT_VALUE_LEN_MAX} bytes without control characters");
        section.report(Finding::error(text.span, format!("this cannot be {key}")).help(help));
        return None;
    }
    Some(text.value.to_owned())
}
