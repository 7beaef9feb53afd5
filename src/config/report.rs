//! What is wrong with a configuration file, and how it is shown: file:line:column, the line itself
//! with a caret under the place, and the remedy.
//!
//! Secrets that stand in the file are masked before the text is kept, so that no report can show
//! one, whichever lines it quotes.

use std::fmt;
use std::ops::Range;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource};

/// Bytes from..to of the file's text.
pub type Span = Range<usize>;

/// Columns of a rendered report.
const WIDTH: usize = 100;
/// Findings that are rendered; the rest is counted.
const FINDINGS_SHOWN_MAX: usize = 100;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can, but probably is not what was meant, or is unsafe.
    Warning,
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    pub message: String,
    pub span: Span,
    /// What stands under the caret; may be empty.
    pub label: String,
    /// A second place that matters, such as the first of two duplicates.
    pub other: Option<(Span, String)>,
    /// The remedy.
    pub help: Option<String>,
}

impl Finding {
    pub(super) fn error(span: Span, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, span, message.into())
    }

    pub(super) fn warning(span: Span, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, span, message.into())
    }

    fn new(severity: Severity, span: Span, message: String) -> Self {
        Self {
            severity,
            message,
            span,
            label: String::new(),
            other: None,
            help: None,
        }
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(super) fn other(mut self, span: Span, label: impl Into<String>) -> Self {
        self.other = Some((span, label.into()));
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Everything that was found in one file, in the order of the places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    file: String,
    /// The file's text with secrets masked, byte for byte as long.
    text: String,
    findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(file: &str, text: &str, mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| (finding.span.start, finding.span.end));
        let text = masked(text);
        // What is wrong with an empty file is shown at its start; a span may also be the end.
        for finding in &mut findings {
            finding.span = on_boundaries(&text, &finding.span);
            if let Some((span, _)) = &mut finding.other {
                *span = on_boundaries(&text, span);
            }
        }
        Self {
            file: file.to_owned(),
            text,
            findings,
        }
    }

    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count()
    }

    /// Line and column of a finding, both from 1; columns are counted in characters.
    pub fn position(&self, finding: &Finding) -> (usize, usize) {
        let before = self.text.get(..finding.span.start).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .unwrap_or_default()
            .chars()
            .count()
            + 1;
        (line, column)
    }

    /// The report for a person, with or without colours; empty when nothing was found.
    pub fn render(&self, colour: bool) -> String {
        let theme = if colour {
            GraphicalTheme::unicode()
        } else {
            GraphicalTheme::unicode_nocolor()
        };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(WIDTH)
            .with_primary_span_start();
        let mut out = String::new();
        for finding in self.findings.iter().take(FINDINGS_SHOWN_MAX) {
            let shown = Shown {
                finding,
                source: NamedSource::new(&self.file, self.text.clone()),
            };
            if handler.render_report(&mut out, &shown).is_err() {
                let (line, column) = self.position(finding);
                out += &format!("{}:{line}:{column}: {}\n", self.file, finding.message);
            }
            out.push('\n');
        }
        if let Some(more) = self.findings.len().checked_sub(FINDINGS_SHOWN_MAX + 1) {
            out += &format!("{} more not shown\n\n", more + 1);
        }
        out
    }

    /// One line that counts, such as `2 errors and 1 warning in iiblockdaemon.toml`.
    pub fn summary(&self) -> String {
        let plural = |count: usize, word: &str| match count {
            1 => format!("1 {word}"),
            _ => format!("{count} {word}s"),
        };
        let (errors, warnings) = (
            plural(self.errors(), "error"),
            plural(self.warnings(), "warning"),
        );
        format!("{errors} and {warnings} in {}", self.file)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// One finding as miette sees it.
#[derive(Debug)]
struct Shown<'r> {
    finding: &'r Finding,
    source: NamedSource<String>,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.finding.message)
    }
}

impl std::error::Error for Shown<'_> {}

impl Diagnostic for Shown<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.finding.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.finding
            .help
            .as_ref()
            .map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let text = |label: &String| (!label.is_empty()).then(|| label.clone());
        let Finding {
            span, label, other, ..
        } = self.finding;
        let primary = LabeledSpan::new_primary_with_span(text(label), span.clone());
        let other = other.iter().map(move |(span, label)| {
            LabeledSpan::new_with_span((!label.is_empty()).then(|| label.clone()), span.clone())
        });
        Some(Box::new(std::iter::once(primary).chain(other)))
    }
}

/// `span` moved inside `text` and onto character boundaries.
fn on_boundaries(text: &str, span: &Span) -> Span {
    let start = text.floor_char_boundary(span.start.min(text.len()));
    let end = text.ceil_char_boundary(span.end.clamp(start, text.len()));
    start..end
}

/// `text` with the value of every key that ends in `secret` replaced by asterisks, of the same
/// length in bytes. Works on the bare text, because a file that does not parse is quoted too.
fn masked(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut from = 0;
    while let Some(found) = text[from..].find("secret") {
        let after_key = from + found + "secret".len();
        from = after_key;
        if let Some(value) = value_after_key(text, after_key) {
            for byte in &mut bytes[value.clone()] {
                if *byte != b'\n' {
                    *byte = b'*';
                }
            }
            from = value.end;
        }
    }
    // Whole characters were replaced by ASCII, so this is always UTF-8.
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The value (without its quotes) that follows a key ending at `at`, if `=` comes next.
fn value_after_key(text: &str, at: usize) -> Option<Span> {
    let blank = |c: char| c == ' ' || c == '\t';
    let rest = text[at..]
        .trim_start_matches(['"', '\''])
        .trim_start_matches(blank);
    let rest = rest.strip_prefix('=')?.trim_start_matches(blank);
    let start = text.len() - rest.len();
    for quote in ["\"\"\"", "'''"] {
        if let Some(inner) = rest.strip_prefix(quote) {
            let len = inner.find(quote).unwrap_or(inner.len());
            return Some(start + quote.len()..start + quote.len() + len);
        }
    }
    let line = rest.split('\n').next().unwrap_or_default();
    let Some(quote) = line.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        return Some(start..start + line.len());
    };
    let mut escaped = false;
    let len = line[1..].find(|c| {
        let ends = c == quote && !escaped;
        escaped = quote == '"' && c == '\\' && !escaped;
        ends
    });
    Some(start + 1..start + 1 + len.unwrap_or(line.len() - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_in_every_way_they_can_be_written() {
        for (text, shown) in [
            ("secret = \"hush\"", "secret = \"****\""),
            (
                "a = { mutual_secret='hush', b = 1 }",
                "a = { mutual_secret='****', b = 1 }",
            ),
            ("secret = \"hu\\\"sh\" # x", "secret = \"******\" # x"),
            ("\"secret\" = \"hush\"", "\"secret\" = \"****\""),
            (
                "secret = \"\"\"hu\nsh\"\"\"\nx = 1",
                "secret = \"\"\"**\n**\"\"\"\nx = 1",
            ),
            ("secret = hush\nx = 1", "secret = ****\nx = 1"),
            ("secret = \"hush\nx = 1", "secret = \"****\nx = 1"),
            ("secret = \"hé\"", "secret = \"***\""),
            ("secret =", "secret ="),
            ("secret_file = \"/etc/x\"", "secret_file = \"/etc/x\""),
            ("# the secret is out", "# the secret is out"),
        ] {
            assert_eq!(masked(text), shown);
            assert_eq!(masked(text).len(), text.len());
        }
    }

    #[test]
    fn places_are_counted_from_one_in_characters() {
        let report = Report::new("f", "a\né = 1\n", vec![Finding::error(5..6, "x")]);
        assert_eq!(report.position(&report.findings()[0]), (2, 3));
    }

    #[test]
    fn spans_outside_the_text_do_not_panic() {
        let findings = vec![
            Finding::error(7..99, "x").other(5..6, "y"),
            Finding::error(1..2, "z"),
        ];
        let report = Report::new("f", "é", findings);
        assert!(
            report.render(false).contains("[f:1:1]"),
            "{}",
            report.render(false)
        );
    }

    #[test]
    fn findings_beyond_the_bound_are_counted() {
        let findings = (0..FINDINGS_SHOWN_MAX + 3)
            .map(|_| Finding::error(0..1, "x"))
            .collect();
        let report = Report::new("f", "abc", findings);
        assert!(report.render(false).ends_with("3 more not shown\n\n"));
    }
}
