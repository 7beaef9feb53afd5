//! Which of the two formats a scraper wants, by its Accept header (RFC 9110 §12.5.1).

/// A text format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Prometheus text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

/// Media ranges of a header that are looked at.
const RANGES_MAX: usize = 64;

impl Format {
    /// The one that `accept` prefers; text where it says nothing, or names nothing that we have.
    pub fn negotiate(accept: Option<&str>) -> Self {
        let Some(accept) = accept else {
            return Self::Text;
        };
        let (mut text, mut open) = (None, None);
        for range in accept.split(',').take(RANGES_MAX) {
            let (format, weight) = read_range(range);
            match format {
                Some(Self::Text) => text = text.max(Some(weight)),
                Some(Self::OpenMetrics) => open = open.max(Some(weight)),
                None => {}
            }
        }
        // Whoever names OpenMetrics can read it.
        if open.is_some_and(|weight| weight > 0 && Some(weight) >= text) {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    /// The Content-Type header of a page.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What a media range allows, and its weight in thousandths.
fn read_range(range: &str) -> (Option<Format>, u32) {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default().to_ascii_lowercase();
    let (mut version, mut weight) = (None, 1000);
    for part in parts {
        let Some((name, value)) = part.split_once('=') else {
            continue;
        };
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "version" => version = Some(value),
            "q" => weight = read_weight(value),
            _ => {}
        }
    }
    let ours = |known: &str| version.is_none_or(|version| version == known);
    let format = match media.as_str() {
        "application/openmetrics-text" if ours("1.0.0") => Some(Format::OpenMetrics),
        "text/plain" if ours("0.0.4") => Some(Format::Text),
        "text/*" | "*/*" => Some(Format::Text),
        _ => None,
    };
    (format, weight)
}

/// A weight in thousandths; one that cannot be read counts for nothing.
fn read_weight(value: &str) -> u32 {
    let (whole, rest) = value.split_once('.').unwrap_or((value, ""));
    if rest.len() > 3 || !rest.bytes().all(|byte| byte.is_ascii_digit()) {
        return 0;
    }
    let thousandths: u32 = format!("{rest:0<3}").parse().unwrap_or(0);
    match whole {
        "0" => thousandths,
        "1" if thousandths == 0 => 1000,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Format::{OpenMetrics, Text};

    #[test]
    fn scrapers_get_what_they_prefer() {
        let prometheus = "application/openmetrics-text;version=1.0.0,\
                          application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let cases = [
            (None, Text),
            (Some(""), Text),
            (Some("*/*"), Text),
            (Some(prometheus), OpenMetrics),
            (Some("text/plain;version=0.0.4;q=0.5, */*;q=0.1"), Text),
            (Some("Application/OpenMetrics-Text"), OpenMetrics),
            (
                Some("application/openmetrics-text; version=\"1.0.0\""),
                OpenMetrics,
            ),
            (Some("application/openmetrics-text;version=0.0.1"), Text),
            (
                Some("application/openmetrics-text;q=0.4,text/plain;q=0.5"),
                Text,
            ),
            (Some("application/openmetrics-text;q=0"), Text),
            (
                Some("application/openmetrics-text;q=0.001,text/plain;q=0"),
                OpenMetrics,
            ),
            (Some("application/json"), Text),
            (Some(";;;=,q=,,;q==1,\u{fc}/\u{fc}"), Text),
        ];
        for (accept, wanted) in cases {
            assert_eq!(Format::negotiate(accept), wanted, "{accept:?}");
        }
    }

    #[test]
    fn weights_are_thousandths() {
        let cases = [
            ("1", 1000),
            ("1.000", 1000),
            ("0", 0),
            ("0.", 0),
            ("0.5", 500),
            ("0.75", 750),
            ("0.001", 1),
            ("1.001", 0),
            ("0.0001", 0),
            ("2", 0),
            ("-1", 0),
            ("0.-1", 0),
            ("", 0),
        ];
        for (text, wanted) in cases {
            assert_eq!(read_weight(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn a_long_header_is_read_to_a_bound() {
        let long = "text/plain,".repeat(RANGES_MAX) + "application/openmetrics-text";
        assert_eq!(Format::negotiate(Some(&long)), Text);
    }
}
