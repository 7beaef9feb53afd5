//! A reader of Prometheus text 0.0.4 and OpenMetrics 1.0.0 that asserts the rules of both: each
//! family has its help and its type once, in front of all of its series, which stand together; no
//! series stands twice; counters end with `_total`; OpenMetrics has units and an end.

use std::collections::{HashMap, HashSet};

/// A page, read.
pub(crate) struct Exposition {
    /// By family: help, type, unit.
    families: HashMap<String, Family>,
    series: Vec<(String, f64)>,
}

#[derive(Default)]
struct Family {
    help: Option<String>,
    kind: Option<String>,
    unit: Option<String>,
    has_series: bool,
}

impl Exposition {
    pub(crate) fn read(text: &str, open_metrics: bool) -> Self {
        assert!(text.ends_with('\n'), "the last line has an end");
        let mut it = Self {
            families: HashMap::new(),
            series: Vec::new(),
        };
        let (mut current, mut ended) = (None::<String>, false);
        for line in text.lines() {
            assert!(!ended, "{line:?} behind the end");
            if line == "# EOF" {
                assert!(open_metrics, "an end in 0.0.4");
                ended = true;
            } else if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let mut word = || words.next().unwrap_or_else(|| panic!("{line:?}"));
                let (what, name, rest) = (word(), word(), word());
                if current.as_deref() != Some(name) {
                    let new = !it.families.contains_key(name);
                    assert!(new, "{name} is not in one piece");
                    current = Some(name.to_owned());
                }
                let family = it.families.entry(name.to_owned()).or_default();
                family.describe(what, name, rest, open_metrics);
            } else {
                let current = current.as_deref().expect("a family comes first");
                it.add(line, current, open_metrics);
            }
        }
        assert_eq!(ended, open_metrics, "OpenMetrics has an end");
        for (name, family) in &it.families {
            assert!(family.help.is_some() && family.kind.is_some(), "{name}");
            assert!(family.has_series, "{name} has no series");
        }
        let distinct: HashSet<_> = it.series.iter().map(|(name, _)| name).collect();
        assert_eq!(distinct.len(), it.series.len(), "a series stands twice");
        it
    }

    fn add(&mut self, line: &str, current: &str, open_metrics: bool) {
        let end = end_of_series(line);
        let (series, value) = (
            &line[..end],
            line[end..].strip_prefix(' ').expect("a value"),
        );
        let name = series.split('{').next().unwrap();
        let family = self.families.get_mut(current).unwrap();
        let suffix = match (family.kind.as_deref(), open_metrics) {
            (Some("counter"), true) => "_total",
            (Some("info"), true) => "_info",
            (Some("counter" | "gauge"), _) => "",
            (kind, _) => panic!("{current}: {kind:?}"),
        };
        assert_eq!(name, format!("{current}{suffix}"), "{line:?}");
        if family.kind.as_deref() == Some("counter") {
            assert!(name.ends_with("_total"), "{line:?}");
        }
        family.has_series = true;
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line:?}"));
        self.series.push((series.to_owned(), value));
    }

    /// With their labels.
    pub(crate) fn series(&self) -> impl Iterator<Item = &str> {
        self.series.iter().map(|(name, _)| name.as_str())
    }

    pub(crate) fn has(&self, series: &str) -> bool {
        self.series().any(|name| name == series)
    }

    pub(crate) fn value(&self, series: &str) -> f64 {
        let found = self.series.iter().find(|(name, _)| name == series);
        found.unwrap_or_else(|| panic!("there is no {series}")).1
    }

    /// Of all series that begin so.
    pub(crate) fn sum(&self, beginning: &str) -> f64 {
        let series = self.series.iter();
        let chosen = series.filter(|(name, _)| name.starts_with(beginning));
        chosen.map(|(_, value)| value).sum()
    }

    pub(crate) fn kind(&self, family: &str) -> Option<&str> {
        self.families.get(family)?.kind.as_deref()
    }

    pub(crate) fn unit(&self, family: &str) -> Option<&str> {
        self.families.get(family)?.unit.as_deref()
    }
}

impl Family {
    fn describe(&mut self, what: &str, name: &str, rest: &str, open_metrics: bool) {
        assert!(!self.has_series, "{what} of {name} behind its series");
        let place = match what {
            "HELP" => &mut self.help,
            "TYPE" => &mut self.kind,
            "UNIT" if open_metrics => &mut self.unit,
            other => panic!("{other} of {name}"),
        };
        assert_eq!(
            place.replace(rest.to_owned()),
            None,
            "{what} of {name} twice"
        );
        if what == "UNIT" {
            assert!(name.ends_with(&format!("_{rest}")), "{name} is in {rest}");
        }
    }
}

/// Where a name with its labels ends; a label's value may hold anything.
fn end_of_series(line: &str) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, letter) in line.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ' ' if !quoted => return at,
            _ => {}
        }
    }
    panic!("{line:?} has no value");
}
