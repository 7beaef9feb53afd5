//! Reads typed values out of a parsed TOML table and keeps what is wrong with them.
//!
//! The code that reads is the schema: a [`Section`] remembers which keys it was asked for, and
//! [`Section::finish`] calls every other key unknown and suggests the nearest of those. A value
//! that is wrong is reported and read as absent, so that reading goes on and finds everything at
//! once.

use std::cell::RefCell;
use std::ops::RangeInclusive;

use bytesize::ByteSize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::{Finding, Span};
use super::suggest::nearest;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

/// Where findings are collected while a file is read.
#[derive(Debug, Default)]
pub(super) struct Findings(RefCell<Vec<Finding>>);

impl Findings {
    pub(super) fn push(&self, finding: Finding) {
        self.0.borrow_mut().push(finding);
    }

    pub(super) fn into_vec(self) -> Vec<Finding> {
        self.0.into_inner()
    }
}

/// One table of the file while it is read.
#[derive(Debug)]
pub(super) struct Section<'d> {
    /// As a person would write it, for messages: `[[logical_unit]]`.
    title: String,
    table: &'d DeTable<'d>,
    span: Span,
    known: Vec<&'static str>,
    findings: &'d Findings,
}

impl<'d> Section<'d> {
    pub(super) fn new(
        title: &str,
        table: &'d DeTable<'d>,
        span: Span,
        findings: &'d Findings,
    ) -> Self {
        Self {
            title: title.to_owned(),
            table,
            span,
            known: Vec::new(),
            findings,
        }
    }

    /// Where the table's header stands.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    pub(super) fn report(&self, finding: Finding) {
        self.findings.push(finding);
    }

    fn value(&mut self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.known.push(key);
        self.table.get(key)
    }

    /// Where `key` itself stands, or the header when it is absent.
    pub(super) fn key_span(&self, key: &str) -> Span {
        let found = self.table.keys().find(|k| k.get_ref().as_ref() == key);
        found.map_or_else(|| self.span(), Spanned::span)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
        let found = value.get_ref().type_str();
        self.report(
            Finding::error(value.span(), format!("{key} must be {expected}"))
                .label(format!("this is {} {found}", article(found))),
        );
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<At<&'d str>> {
        let value = self.value(key)?;
        match value.get_ref().as_str() {
            Some(text) => Some(At {
                value: text,
                span: value.span(),
            }),
            None => {
                self.wrong_type(key, value, "a string");
                None
            }
        }
    }

    /// The text of `key`, which has to be there.
    pub(super) fn required_text(&mut self, key: &'static str, why: &str) -> Option<At<&'d str>> {
        if !self.has(key) {
            self.known.push(key);
            self.missing(key, why);
            return None;
        }
        self.text(key)
    }

    pub(super) fn missing(&self, key: &str, help: &str) {
        let title = &self.title;
        self.report(Finding::error(self.span(), format!("{title} has no {key}")).help(help));
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        let boolean = value.get_ref().as_bool();
        if boolean.is_none() {
            self.wrong_type(key, value, "true or false");
        }
        boolean
    }

    pub(super) fn integer(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        unit: &str,
    ) -> Option<At<u64>> {
        let value = self.value(key)?;
        self.integer_of(key, value, range, unit)
    }

    fn integer_of(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        range: RangeInclusive<u64>,
        unit: &str,
    ) -> Option<At<u64>> {
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong_type(key, value, "a whole number");
            return None;
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let unit = if unit.is_empty() {
                String::new()
            } else {
                format!(" {unit}")
            };
            let message = format!("{key} = {} is out of range", integer.as_str());
            let help = format!("{key} goes from {} to {}{unit}", range.start(), range.end());
            self.report(Finding::error(value.span(), message).help(help));
        }
        number.map(|value_| At {
            value: value_,
            span: value.span(),
        })
    }

    /// A length of bytes: a whole number of them, or text with a unit such as `"1GiB"`.
    pub(super) fn size(&mut self, key: &'static str) -> Option<At<u64>> {
        const LIMIT: u64 = i64::MAX.cast_unsigned();
        let value = self.value(key)?;
        let Some(text) = value.get_ref().as_str() else {
            return self.integer_of(key, value, 1..=LIMIT, "bytes");
        };
        let help = "write a number and a unit, as in \"512MiB\", \"1GiB\" or \"2TiB\"";
        match text.parse::<ByteSize>() {
            Ok(ByteSize(bytes)) if (1..=LIMIT).contains(&bytes) => Some(At {
                value: bytes,
                span: value.span(),
            }),
            Ok(_) => {
                let message = format!("{key} = {text:?} is out of range");
                self.report(Finding::error(value.span(), message).help(help));
                None
            }
            Err(_) => {
                let message = format!("{text:?} is not a size");
                self.report(Finding::error(value.span(), message).help(help));
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Option<At<T>> {
        let text = self.text(key)?;
        let chosen = self.choose(key, &text, choices)?;
        Some(At {
            value: chosen,
            span: text.span,
        })
    }

    pub(super) fn choose<T: Copy>(
        &self,
        key: &str,
        text: &At<&str>,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let chosen = choices.iter().find(|(word, _)| *word == text.value);
        if chosen.is_none() {
            let words: Vec<String> = choices
                .iter()
                .map(|(word, _)| format!("{word:?}"))
                .collect();
            let help = match nearest(text.value, choices.iter().map(|(word, _)| *word)) {
                Some(word) => format!("did you mean {word:?}? {key} is {}", words.join(" or ")),
                None => format!("{key} is {}", words.join(" or ")),
            };
            let message = format!("{key} cannot be {:?}", text.value);
            self.report(Finding::error(text.span.clone(), message).help(help));
        }
        chosen.map(|(_, value)| *value)
    }

    fn array(&mut self, key: &'static str) -> Option<At<&'d [Spanned<DeValue<'d>>]>> {
        let value = self.value(key)?;
        match value.get_ref().as_array() {
            Some(array) => Some(At {
                value: array.as_ref(),
                span: value.span(),
            }),
            None => {
                self.wrong_type(key, value, "an array");
                None
            }
        }
    }

    /// Whether `key` is an array without elements (one whose elements are all wrong is not).
    pub(super) fn is_empty_array(&self, key: &str) -> bool {
        let array = self
            .table
            .get(key)
            .and_then(|value| value.get_ref().as_array());
        array.is_some_and(|array| array.is_empty())
    }

    /// Whether `key` is text that ends with a percent sign.
    pub(super) fn is_percentage(&self, key: &str) -> bool {
        let text = self
            .table
            .get(key)
            .and_then(|value| value.get_ref().as_str());
        text.is_some_and(|text| text.ends_with('%'))
    }

    /// An array of texts; elements of other types are reported and left out.
    pub(super) fn texts(&mut self, key: &'static str) -> Option<At<Vec<At<&'d str>>>> {
        let array = self.array(key)?;
        let mut texts = Vec::with_capacity(array.value.len());
        for element in array.value {
            match element.get_ref().as_str() {
                Some(text) => texts.push(At {
                    value: text,
                    span: element.span(),
                }),
                None => self.wrong_type(&format!("an element of {key}"), element, "a string"),
            }
        }
        Some(At {
            value: texts,
            span: array.span,
        })
    }

    /// One text, or an array of texts; elements of other types are reported and left out.
    pub(super) fn text_or_texts(&mut self, key: &'static str) -> Vec<At<&'d str>> {
        let single = self.table.get(key);
        if single.is_some_and(|value| value.get_ref().as_str().is_some()) {
            return self.text(key).into_iter().collect();
        }
        self.texts(key).map_or_else(Vec::new, |texts| texts.value)
    }

    /// An array of whole numbers; elements that are not are reported and left out.
    pub(super) fn integers(
        &mut self,
        key: &'static str,
        range: &RangeInclusive<u64>,
    ) -> Option<At<Vec<At<u64>>>> {
        let array = self.array(key)?;
        let each = array.value.iter();
        let numbers = each.filter_map(|value| self.integer_of(key, value, range.clone(), ""));
        Some(At {
            value: numbers.collect(),
            span: array.span,
        })
    }

    /// A table inside this one.
    pub(super) fn table(&mut self, key: &'static str, title: &str) -> Option<Self> {
        let value = self.value(key)?;
        match value.get_ref().as_table() {
            Some(table) => Some(Self::new(title, table, value.span(), self.findings)),
            None => {
                self.wrong_type(key, value, "a table");
                None
            }
        }
    }

    /// An array of tables.
    pub(super) fn tables(&mut self, key: &'static str, title: &str) -> Vec<Self> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            let finding = Finding::error(self.key_span(key), format!("{key} is written {title}"));
            self.report(finding.help(format!("use double brackets: {title}")));
            return Vec::new();
        };
        let mut sections = Vec::with_capacity(array.len());
        for element in array.iter() {
            match element.get_ref().as_table() {
                Some(table) => {
                    sections.push(Self::new(title, table, element.span(), self.findings));
                }
                None => self.wrong_type(&format!("an element of {key}"), element, "a table"),
            }
        }
        sections
    }

    /// Ends the reading of this table: whatever was not asked for is unknown.
    pub(super) fn finish(self) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if self.known.contains(&name) {
                continue;
            }
            let help = match nearest(name, self.known.iter().copied()) {
                Some(known) => format!("did you mean {known:?}?"),
                None => format!("{} knows: {}", self.title, self.known.join(", ")),
            };
            let message = format!("unknown key {name:?} in {}", self.title);
            self.report(Finding::error(key.span(), message).help(help));
        }
    }
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    }
}
