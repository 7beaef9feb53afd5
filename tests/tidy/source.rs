//! Reads Rust sources as far as the checks need it: what is code and what is comment or literal,
//! what is compiled only for tests, which paths are used, where functions begin and end.
//!
//! It knows no grammar beyond that. Positions and line numbers stay those of the file.

/// A source file, as it stands and with everything taken out that is no code.
pub(crate) struct File {
    /// From the root of the repository.
    pub(crate) path: String,
    pub(crate) text: String,
    /// `text` with comments and the contents of literals blanked, line for line.
    pub(crate) code: String,
    /// `code` without what is compiled only for tests.
    pub(crate) production: String,
}

impl File {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = blank_comments_and_literals(text);
        let production = blank_test_items(&code);
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code,
            production,
        }
    }

    pub(crate) fn is_in(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }

    /// The first part of the path under `src`: the module of the layering table.
    pub(crate) fn module(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/")?;
        rest.split('/')
            .next()
            .map(|first| first.trim_end_matches(".rs"))
    }

    pub(crate) fn broken(&self, line: usize, rule: &str) -> String {
        format!("{}:{}: {rule}", self.path, line + 1)
    }
}

/// What follows `crate::`, as pairs of module and item; groups in braces give several.
pub(crate) fn crate_paths(rest: &str) -> Vec<(String, String)> {
    if let Some(group) = rest.strip_prefix('{') {
        return split_group(group)
            .into_iter()
            .flat_map(crate_paths)
            .collect();
    }
    let (module, rest) = split_word(rest.trim_start());
    match rest.strip_prefix("::") {
        None => vec![(module.to_owned(), "self".to_owned())],
        Some(rest) => match rest.strip_prefix('{') {
            Some(group) => split_group(group)
                .into_iter()
                .map(|item| {
                    (
                        module.to_owned(),
                        split_word(item.trim_start()).0.to_owned(),
                    )
                })
                .collect(),
            None => vec![(module.to_owned(), split_word(rest).0.to_owned())],
        },
    }
}

/// The items of a group behind its opening brace, split at the commas that are not in inner groups.
pub(crate) fn split_group(group: &str) -> Vec<&str> {
    let mut items = vec![];
    let mut depth = 0usize;
    let mut start = 0;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                items.push(group[start..at].trim());
                start = at + 1;
                if character == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    items.retain(|item| !item.is_empty());
    items
}

pub(crate) fn split_word(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|character| !is_word(character))
            .unwrap_or(text.len()),
    )
}

pub(crate) fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Lines (from zero) on which `word` stands and is not part of a longer word.
pub(crate) fn lines_with_word<'a>(
    text: &'a str,
    word: &'a str,
) -> impl Iterator<Item = usize> + 'a {
    text.lines().enumerate().filter_map(move |(number, line)| {
        let whole = line.match_indices(word).any(|(at, _)| {
            let after = &line[at + word.len()..];
            !line[..at].ends_with(is_word) && (word.ends_with('!') || !after.starts_with(is_word))
        });
        whole.then_some(number)
    })
}

/// Every function with a body: name, first line (from zero), lines.
pub(crate) fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = vec![];
    for (at, _) in code.match_indices("fn ") {
        let name = split_word(&code[at + 3..]).0;
        if name.is_empty() || code[..at].ends_with(is_word) {
            continue;
        }
        let Some(open) = code[at..].find(['{', ';']).map(|offset| at + offset) else {
            continue;
        };
        if code[open..].starts_with(';') && !code[at..open].contains('[') {
            continue;
        }
        let Some(open) = code[open..].find('{').map(|offset| open + offset) else {
            continue;
        };
        let length = code[at..end_of_braces(code, open)].matches('\n').count() + 1;
        found.push((name.to_owned(), code[..at].matches('\n').count(), length));
    }
    found
}

/// The position behind the brace that closes the one at `open`.
pub(crate) fn end_of_braces(code: &str, open: usize) -> usize {
    let mut depth = 0usize;
    for (at, character) in code[open..].char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return open + at + 1;
        }
    }
    code.len()
}

/// Modules in files of their own that a file declares under `#[cfg(test)]`: their paths, without
/// `.rs`.
pub(crate) fn test_only_modules(file: &File) -> Vec<String> {
    let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
    let own = match name.trim_end_matches(".rs") {
        "mod" | "lib" | "main" => folder.to_owned(),
        module => format!("{folder}/{module}"),
    };
    let declarations = file.code.split("#[cfg(test)]").skip(1).filter_map(|rest| {
        let rest = rest
            .trim_start()
            .trim_start_matches("pub ")
            .trim_start_matches("pub(crate) ");
        let (module, after) = split_word(rest.strip_prefix("mod ")?);
        after.starts_with(';').then(|| format!("{own}/{module}"))
    });
    declarations.collect()
}

/// Blanks what stands under `#[cfg(test)]`: up to the end of its braces, or to its semicolon.
pub(crate) fn blank_test_items(code: &str) -> String {
    let mut out = code.to_owned();
    for (at, attribute) in code.match_indices("#[cfg(test)]") {
        let Some(offset) = code[at..].find(['{', ';']) else {
            continue;
        };
        let stop = at + offset;
        let end = if code[stop..].starts_with('{') {
            end_of_braces(code, stop)
        } else {
            stop + 1
        };
        let from = at + attribute.len();
        let blank: String = code[from..end].chars().map(blank_character).collect();
        out.replace_range(from..end, &blank);
    }
    out
}

/// One space for each byte, so that positions stay what they were.
pub(crate) fn blank_character(character: char) -> &'static str {
    match (character, character.len_utf8()) {
        ('\n', _) => "\n",
        (_, 1) => " ",
        (_, 2) => "  ",
        (_, 3) => "   ",
        _ => "    ",
    }
}

/// Blanks comments, strings and characters; delimiters of literals go as well.
pub(crate) fn blank_comments_and_literals(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_word = out.ends_with(is_word);
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => string_length(rest, 0),
            '\'' => character_length(rest),
            'r' | 'b' | 'c' if !after_word => prefixed_string_length(rest),
            _ => 0,
        };
        if length == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            out.extend(rest[..length].chars().map(blank_character));
            rest = &rest[length..];
        }
    }
    out
}

/// Length of a string whose opening quote stands at `quote`.
pub(crate) fn string_length(text: &str, quote: usize) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip_while(|(at, _)| *at <= quote) {
        match character {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// Length of a character literal, or zero if the quote begins a lifetime.
pub(crate) fn character_length(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match (characters.next(), characters.next()) {
        (Some((_, '\\')), Some((escaped, _))) => text[escaped + 1..]
            .find('\'')
            .map_or(0, |end| escaped + 1 + end + 1),
        (Some(_), Some((end, '\''))) => end + 1,
        _ => 0,
    }
}

/// Length of a string with a prefix (`r`, `b`, `br`, `c` …), raw or not; zero if there is none
/// here.
pub(crate) fn prefixed_string_length(text: &str) -> usize {
    let (prefix, rest) = split_word(text);
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    let quote = prefix.len() + hashes;
    if !matches!(prefix, "r" | "b" | "br" | "c" | "cr") || !text[quote..].starts_with('"') {
        return 0;
    }
    if !prefix.ends_with('r') {
        return if hashes == 0 {
            string_length(text, quote)
        } else {
            0
        };
    }
    let close = format!("\"{}", "#".repeat(hashes));
    text[quote + 1..]
        .find(&close)
        .map_or(text.len(), |end| quote + 1 + end + close.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanking_keeps_code_and_the_positions_of_lines() {
        let text = "a('\"', b\"q\\\"\", r#\"x\"y\"#, 'l: '\\'') /* é\n */ \"ü\n\" 'x' b // end\n\
                    fn c<'a>()";
        let code = blank_comments_and_literals(text);
        assert_eq!(code.len(), text.len());
        assert_eq!(code.matches('\n').count(), text.matches('\n').count());
        let words: Vec<&str> = code.split_whitespace().collect();
        assert_eq!(
            words,
            ["a(", ",", ",", ",", "'l:", ")", "b", "fn", "c<'a>()"]
        );
    }

    #[test]
    fn modules_that_only_tests_compile_are_found() {
        let text = "mod a;\n#[cfg(test)]\nmod b;\n#[cfg(test)]\nmod c { }";
        assert_eq!(
            test_only_modules(&File::new("src/x/mod.rs", text)),
            ["src/x/b"]
        );
        assert_eq!(
            test_only_modules(&File::new("src/x/y.rs", text)),
            ["src/x/y/b"]
        );
        assert_eq!(test_only_modules(&File::new("src/lib.rs", text)), ["src/b"]);
    }
}
