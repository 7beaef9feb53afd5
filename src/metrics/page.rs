//! [`Page`]: what a scrape is answered with, written family by family.

use std::fmt::Write as _;

use super::{Family, Format, Kind};

/// The value of a series.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Value {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<u128> for Value {
    /// Exact where 64 bits are enough.
    fn from(value: u128) -> Self {
        u64::try_from(value).map_or_else(|_| Self::Real(value as f64), Self::Whole)
    }
}

/// See the module. All series of a family are added one after another; a family of which none is
/// added is not on the page.
#[derive(Debug)]
pub struct Page {
    format: Format,
    text: String,
    /// The family whose series are being added.
    open: Option<&'static Family>,
}

impl Page {
    pub fn new(format: Format) -> Self {
        Self {
            format,
            text: String::new(),
            open: None,
        }
    }

    /// Adds a series of `family` with these values of its labels.
    ///
    /// # Panics
    /// There are not as many values as labels: the caller's mistake.
    pub fn add(&mut self, family: &'static Family, labels: &[&str], value: impl Into<Value>) {
        assert_eq!(labels.len(), family.labels.len(), "{}", family.name);
        if self.open != Some(family) {
            self.open = Some(family);
            self.head(family);
        }
        self.text += family.name;
        self.text += match family.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge => "",
        };
        for (at, (name, value)) in family.labels.iter().zip(labels).enumerate() {
            self.text.push(if at == 0 { '{' } else { ',' });
            self.text += name;
            self.text += "=\"";
            self.escape(value, true);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        self.text.push(' ');
        self.number(value.into());
        self.text.push('\n');
    }

    /// The whole page.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text += "# EOF\n";
        }
        self.text
    }

    fn head(&mut self, family: &Family) {
        // 0.0.4 has no family of several names: there it is called as its series are.
        let (suffix, kind) = match (self.format, family.kind) {
            (Format::Text, Kind::Counter) => ("_total", "counter"),
            (Format::Text, Kind::Info) => ("_info", "gauge"),
            (Format::OpenMetrics, Kind::Counter) => ("", "counter"),
            (Format::OpenMetrics, Kind::Info) => ("", "info"),
            (_, Kind::Gauge) => ("", "gauge"),
        };
        let name = family.name;
        self.text += "# HELP ";
        self.text += name;
        self.text += suffix;
        self.text.push(' ');
        // A quote is a character like any other in the help of 0.0.4.
        self.escape(family.help, self.format == Format::OpenMetrics);
        // Writing to text never fails.
        let _ = write!(self.text, "\n# TYPE {name}{suffix} {kind}\n");
        if let (Format::OpenMetrics, Some(unit)) = (self.format, family.unit) {
            let _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
    }

    fn escape(&mut self, text: &str, quotes_too: bool) {
        for letter in text.chars() {
            match letter {
                '\\' => self.text += "\\\\",
                '\n' => self.text += "\\n",
                '"' if quotes_too => self.text += "\\\"",
                letter => self.text.push(letter),
            }
        }
    }

    fn number(&mut self, value: Value) {
        let _ = match value {
            Value::Whole(value) => write!(self.text, "{value}"),
            Value::Real(value) if value.is_nan() => write!(self.text, "NaN"),
            Value::Real(f64::INFINITY) => write!(self.text, "+Inf"),
            Value::Real(f64::NEG_INFINITY) => write!(self.text, "-Inf"),
            Value::Real(value) => write!(self.text, "{value}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static BUILD: Family = Family {
        name: "x_build",
        kind: Kind::Info,
        unit: None,
        help: "What was built.",
        labels: &["version"],
    };
    static BUSY: Family = Family {
        name: "x_busy_seconds",
        kind: Kind::Counter,
        unit: Some("seconds"),
        help: "A \"quoted\" word, a \\ and\na line.",
        labels: &["core", "name"],
    };
    static LEVEL: Family = Family {
        name: "x_level_ratio",
        kind: Kind::Gauge,
        unit: Some("ratio"),
        help: "A level.",
        labels: &[],
    };

    fn page(format: Format) -> String {
        let mut page = Page::new(format);
        page.add(&BUILD, &["1.0"], true);
        page.add(&BUSY, &["0", "a \"b\"\\c\nd"], 0.25);
        page.add(&BUSY, &["1", ""], u64::MAX);
        page.add(&LEVEL, &[], f64::NAN);
        page.finish()
    }

    #[test]
    fn text_is_as_prometheus_has_it() {
        let wanted = r#"# HELP x_build_info What was built.
# TYPE x_build_info gauge
x_build_info{version="1.0"} 1
# HELP x_busy_seconds_total A "quoted" word, a \\ and\na line.
# TYPE x_busy_seconds_total counter
x_busy_seconds_total{core="0",name="a \"b\"\\c\nd"} 0.25
x_busy_seconds_total{core="1",name=""} 18446744073709551615
# HELP x_level_ratio A level.
# TYPE x_level_ratio gauge
x_level_ratio NaN
"#;
        assert_eq!(page(Format::Text), wanted);
    }

    #[test]
    fn openmetrics_has_units_families_and_an_end() {
        let wanted = r#"# HELP x_build What was built.
# TYPE x_build info
x_build_info{version="1.0"} 1
# HELP x_busy_seconds A \"quoted\" word, a \\ and\na line.
# TYPE x_busy_seconds counter
# UNIT x_busy_seconds seconds
x_busy_seconds_total{core="0",name="a \"b\"\\c\nd"} 0.25
x_busy_seconds_total{core="1",name=""} 18446744073709551615
# HELP x_level_ratio A level.
# TYPE x_level_ratio gauge
# UNIT x_level_ratio ratio
x_level_ratio NaN
# EOF
"#;
        assert_eq!(page(Format::OpenMetrics), wanted);
    }

    #[test]
    fn numbers_are_exact_or_as_near_as_a_double_is() {
        let number = |value: Value| {
            let mut page = Page::new(Format::Text);
            page.number(value);
            page.text
        };
        assert_eq!(
            number(Value::from(u128::from(u64::MAX))),
            "18446744073709551615"
        );
        assert_eq!(number(Value::from(1_u128 << 64)), "18446744073709552000");
        let most: f64 = number(Value::from(u128::MAX)).parse().unwrap();
        assert_eq!(most, u128::MAX as f64);
        assert_eq!(number(Value::from(f64::INFINITY)), "+Inf");
        assert_eq!(number(Value::from(f64::NEG_INFINITY)), "-Inf");
        assert_eq!(number(Value::from(-0.5)), "-0.5");
        assert_eq!(number(Value::from(1e21)), "1000000000000000000000");
        assert_eq!(number(Value::from(false)), "0");
    }

    #[test]
    fn an_empty_page_has_an_end_all_the_same() {
        assert_eq!(Page::new(Format::Text).finish(), "");
        assert_eq!(Page::new(Format::OpenMetrics).finish(), "# EOF\n");
    }

    #[test]
    #[should_panic(expected = "x_busy_seconds")]
    fn a_series_has_all_its_labels() {
        Page::new(Format::Text).add(&BUSY, &["0"], 1_u64);
    }
}
