//! Holds the sources to the rules of `docs/STYLE.md` that a machine can check: who may use whom,
//! where `unsafe` may stand, what is banned, how long lines, functions and files may be.
//!
//! Each check is a function from one [`File`] to the rules it breaks, and has a test of its own
//! with a bad sample, so that it is seen to fail. To change a rule, change the table at the head of
//! this file and say why in the commit.

#[path = "tidy/source.rs"]
mod source;

use source::{File, crate_paths, functions, is_word, lines_with_word, test_only_modules};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Who may use whom inside the crate: module, and what may follow `crate::` in it. Anything may use
/// itself. An entry `module::*` is the whole module, `module::Name` only this item.
const LAYERS: &[(&str, &[&str])] = &[
    // The protocol, without IO.
    ("pdu", &[]),
    ("scsi", &["mem::*", VOCABULARY]),
    ("iscsi", &["pdu::*", "scsi::*", "mem::*", VOCABULARY]),
    // What touches the outside.
    ("mem", &[]),
    ("port", &["mem::*"]),
    ("net", &["port::*", "mem::*"]),
    ("backend", &["mem::*"]),
    // Everything around the data path.
    ("state", &["config::LogicalUnit", "scsi::*"]),
    ("log", &[]),
    ("metrics", &[]),
    ("api", &["metrics::*"]),
    // What a stack is told of its networks is what the file says of them.
    (
        "config",
        &["state::*", "iscsi::names", "iscsi::auth", "net::stack"],
    ),
    (
        "control",
        &[
            "config::*",
            "state::*",
            "pdu::*",
            "iscsi::*",
            "net::*",
            VOCABULARY,
        ],
    ),
    (
        "testing",
        &[
            "pdu::*",
            "scsi::*",
            "iscsi::*",
            "backend::*",
            "mem::*",
            "net::*",
            // The far end of a cable is a port too.
            "port::*",
        ],
    ),
    // Those that join all of them.
    ("reactor", &["*"]),
    ("daemon", &["*"]),
    ("cli", &["*"]),
    ("lib", &["*"]),
    ("main", &["*"]),
];

/// Stands for the words of `backend` in which `scsi` and `iscsi` ask for IO: no device is among
/// them.
const VOCABULARY: &str = "the vocabulary of backend";
const BACKEND_VOCABULARY: &[&str] = &[
    "Completion",
    "Designators",
    "DeviceInfo",
    "IoError",
    "LbaRun",
    "Operation",
    "Request",
    "Token",
    "UnitIndex",
    "Usage",
    "request",
];

/// Modules whose root must forbid `unsafe` altogether.
const PURE_MODULES: &[&str] = &["src/pdu/mod.rs", "src/iscsi/mod.rs", "src/scsi/mod.rs"];

/// Beginnings of the paths under `src` where `unsafe` may stand.
const UNSAFE_ISLANDS: &[&str] = &[
    "src/mem",
    "src/port/dpdk",
    "src/port/tap",
    "src/backend/memory",
    "src/backend/file",
    "src/backend/nvme",
];

/// Files whose lock is taken only while something is opened or closed, or (DPDK) asked about as a
/// whole, which its drivers do not allow at once; never for a command or a frame. (A model of a
/// device is no part of the product.)
const CONTROL_SIDE_LOCKS: &[&str] = &[
    "src/backend/file/registry.rs",
    "src/backend/nvme/keeper.rs",
    "src/backend/nvme/model/mod.rs",
    "src/backend/nvme/vfio/space.rs",
    "src/backend/nvme/vitals.rs",
    "src/port/dpdk/device.rs",
    "src/port/dpdk/registered.rs",
];

const LINE_COLUMNS_MAX: usize = 100;
const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 800;

/// Functions that are longer than the rule allows, with their lengths: a ratchet, which may only be
/// tightened. (file, function, lines)
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[];

/// A rule that the lines of a file can break.
type Check = fn(&File) -> Vec<String>;

const CHECKS: &[Check] = &[
    layering,
    unsafe_only_on_islands,
    pure_modules_forbid_unsafe,
    unsafe_has_its_reason,
    banned_words,
    banned_paths,
    ignored_tests_say_why,
    short_lines,
    short_functions,
    short_files,
    module_doc_first,
];

fn layering(file: &File) -> Vec<String> {
    let Some(module) = file.module() else {
        return vec![];
    };
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
        return vec![file.broken(0, "this module is not in the table LAYERS")];
    };
    let mut found = vec![];
    for (at, _) in file.production.match_indices("crate::") {
        if file.production[..at].ends_with(is_word) {
            continue;
        }
        let line = file.production[..at].matches('\n').count();
        for (used, item) in crate_paths(&file.production[at + "crate::".len()..]) {
            let permitted = used == module
                || allowed.iter().any(|entry| match *entry {
                    "*" => true,
                    VOCABULARY => used == "backend" && BACKEND_VOCABULARY.contains(&item.as_str()),
                    _ => *entry == format!("{used}::*") || *entry == format!("{used}::{item}"),
                });
            if !permitted {
                let rule = format!("`{module}` may not use `{used}::{item}` (table LAYERS)");
                found.push(file.broken(line, &rule));
            }
        }
    }
    found
}

fn unsafe_only_on_islands(file: &File) -> Vec<String> {
    if !file.is_in("src/") || UNSAFE_ISLANDS.iter().any(|island| file.is_in(island)) {
        return vec![];
    }
    lines_with_word(&file.code, "unsafe")
        .map(|line| file.broken(line, "`unsafe` outside its islands (table UNSAFE_ISLANDS)"))
        .collect()
}

fn pure_modules_forbid_unsafe(file: &File) -> Vec<String> {
    let pure = PURE_MODULES.contains(&file.path.as_str());
    if !pure || file.code.contains("#![forbid(unsafe_code)]") {
        return vec![];
    }
    vec![file.broken(0, "a pure module begins with #![forbid(unsafe_code)]")]
}

fn unsafe_has_its_reason(file: &File) -> Vec<String> {
    let lines: Vec<&str> = file.text.lines().collect();
    lines_with_word(&file.code, "unsafe")
        .filter(|&line| {
            let code = file.code.lines().nth(line).unwrap_or_default();
            let after = code.split("unsafe").nth(1).unwrap_or_default().trim_start();
            after.starts_with('{') || after.starts_with("impl")
        })
        .filter(|&line| !says_safety(&lines, line))
        .map(|line| file.broken(line, "`unsafe` without `// SAFETY:` above it"))
        .collect()
}

/// Looks for the comment on the line itself and upwards: over comments, attributes, and the lines
/// of a statement that the block belongs to.
fn says_safety(lines: &[&str], line: usize) -> bool {
    let mut above = line;
    loop {
        if lines[above].contains("SAFETY:") {
            return true;
        }
        if above == 0 {
            return false;
        }
        above -= 1;
        let text = lines[above].trim();
        let comment = text.starts_with("//") || text.starts_with("#[");
        let statement_goes_on = !text.is_empty() && !text.ends_with([';', '{', '}', ',']);
        if !comment && !statement_goes_on {
            return false;
        }
    }
}

fn banned_words(file: &File) -> Vec<String> {
    // Put together here, so that this file does not break its own rule.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("todo", "!"),
        concat!("unimplemented", "!"),
        concat!("dbg", "!"),
    ];
    let mut found = vec![];
    for word in words {
        for line in lines_with_word(&file.text, word) {
            found.push(file.broken(line, &format!("`{word}` is banned")));
        }
    }
    found
}

fn banned_paths(file: &File) -> Vec<String> {
    let mut found = vec![];
    let sleep = lines_with_word(&file.code, "thread::sleep");
    found.extend(sleep.map(|line| file.broken(line, "wait for an event instead of sleeping")));
    if file.is_in("src/") && !CONTROL_SIDE_LOCKS.contains(&file.path.as_str()) {
        let mutex = file.production.lines().enumerate().filter(|(_, line)| {
            let from_std = line.contains("std::sync::") || line.contains("sync::Mutex");
            from_std && lines_with_word(line, "Mutex").next().is_some()
        });
        found.extend(mutex.map(|(line, _)| file.broken(line, "std::sync::Mutex is banned")));
    }
    found
}

fn ignored_tests_say_why(file: &File) -> Vec<String> {
    let attributes = file
        .code
        .lines()
        .enumerate()
        .filter(|(_, line)| line.contains("#[ignore]"));
    attributes
        .map(|(line, _)| file.broken(line, "an ignored test says why"))
        .collect()
}

/// Addresses and string literals are left alone: the formatter does not break them either.
fn short_lines(file: &File) -> Vec<String> {
    let breakable = |line: &str| !line.contains("://") && !line.contains('"');
    let long = file
        .text
        .lines()
        .enumerate()
        .filter(|(_, line)| line.chars().count() > LINE_COLUMNS_MAX && breakable(line));
    long.map(|(line, _)| file.broken(line, "longer than 100 columns"))
        .collect()
}

fn short_functions(file: &File) -> Vec<String> {
    let mut found = vec![];
    // Tests may list as many cases as they like.
    for (name, line, length) in functions(&file.production) {
        let listed = LONG_FUNCTIONS
            .iter()
            .find(|(path, function, _)| *path == file.path && *function == name);
        let allowed = listed.map_or(FUNCTION_LINES_MAX, |(_, _, lines)| *lines);
        if length > allowed {
            let rule = format!("`{name}` has {length} lines, {allowed} are allowed");
            found.push(file.broken(line, &rule));
        }
    }
    found
}

fn short_files(file: &File) -> Vec<String> {
    let length = file.text.lines().count();
    if !file.is_in("src/") || length <= FILE_LINES_MAX {
        return vec![];
    }
    vec![file.broken(0, &format!("{length} lines, {FILE_LINES_MAX} are allowed"))]
}

fn module_doc_first(file: &File) -> Vec<String> {
    if file.text.starts_with("//!") {
        return vec![];
    }
    vec![file.broken(0, "a file begins with its module doc")]
}

/// Entries of the ratchet that the code has outgrown: they must be tightened or removed.
fn slack_of_ratchet(files: &[File], ratchet: &[(&str, &str, usize)]) -> Vec<String> {
    let mut found = vec![];
    for (path, name, lines) in ratchet {
        let length = files
            .iter()
            .filter(|file| file.path == *path)
            .flat_map(|file| functions(&file.code))
            .filter(|(function, _, _)| function == name)
            .map(|(_, _, length)| length)
            .max();
        if *lines <= FUNCTION_LINES_MAX || length.is_none_or(|length| length < *lines) {
            found.push(format!(
                "LONG_FUNCTIONS: {path} {name} now has {length:?} lines"
            ));
        }
    }
    found
}

/// Files under `tests/vectors` that no test reads: `.hex` files are replayed as a whole, others
/// must be named in some source.
fn unused_vectors(vectors: &[String], sources: &[File]) -> Vec<String> {
    let named = |name: &str| sources.iter().any(|file| file.text.contains(name));
    let unused = vectors
        .iter()
        .filter(|name| !name.ends_with(".hex") && !named(name));
    unused
        .map(|name| format!("tests/vectors/{name}: no test reads this file"))
        .collect()
}

/// Names of the functions that are tests.
fn test_names(file: &File) -> Vec<&str> {
    let mut found = vec![];
    let mut is_test = false;
    for line in file.code.lines().map(str::trim) {
        if line == "#[test]" {
            is_test = true;
        } else if let Some(rest) = line.strip_prefix("fn ") {
            if is_test {
                let end = rest.find(|letter| !is_word(letter)).unwrap_or(rest.len());
                found.push(&rest[..end]);
            }
            is_test = false;
        }
    }
    found
}

/// What `docs/CONFORMANCE.md` calls upon and is not there. In a table whose last heading is `test`,
/// each word between backticks in the last column is the name of a test, or the path of a file if
/// it has a slash; a row without any says `not yet`.
fn unproved_rows(
    table: &str,
    tests: &HashSet<&str>,
    is_file: impl Fn(&str) -> bool,
) -> Vec<String> {
    let mut found = vec![];
    let mut has_tests = false;
    for (at, line) in table.lines().enumerate() {
        let Some(cells) = line
            .strip_prefix('|')
            .and_then(|line| line.strip_suffix('|'))
        else {
            has_tests = false;
            continue;
        };
        let last = cells.rsplit('|').next().unwrap_or_default().trim();
        if last == "test" {
            has_tests = true;
        } else if has_tests && !last.starts_with("---") {
            let place = format!("docs/CONFORMANCE.md:{}", at + 1);
            let names: Vec<_> = last.split('`').skip(1).step_by(2).collect();
            if names.is_empty() && last != "not yet" {
                found.push(format!("{place}: no test is named"));
            }
            let known = |name: &str| {
                if name.contains('/') {
                    is_file(name)
                } else {
                    tests.contains(name)
                }
            };
            let unknown = names.into_iter().filter(|name| !known(name));
            found.extend(unknown.map(|name| format!("{place}: there is no test `{name}`")));
        }
    }
    found
}

/// Keys and commands of the two tables in the code that have no row in `docs/CONFORMANCE.md`.
fn missing_rows(table: &str, sources: &[File]) -> Vec<String> {
    let mut found = vec![];
    for (path, before) in [
        ("src/iscsi/keys.rs", "row(Key::"),
        ("src/scsi/opcodes.rs", "Opcode::new("),
    ] {
        let rows = sources.iter().filter(|file| file.path == path);
        let lines = rows.flat_map(|file| file.text.lines().filter(|line| line.contains(before)));
        for name in lines.filter_map(|line| line.split('"').nth(1)) {
            if !table
                .lines()
                .any(|line| line.starts_with(&format!("| {name} |")))
            {
                found.push(format!("docs/CONFORMANCE.md: no row for {name} of {path}"));
            }
        }
    }
    found
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder, in a fixed order; nothing if it does not exist.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            // Build products of members that keep their own.
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<File> {
    let folders = ["src", "tests", "bench", "vendor"];
    let paths = folders
        .iter()
        .flat_map(|folder| files_below(&root().join(folder)));
    let rust = paths.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let read = rust.map(|path| {
        let name = path
            .strip_prefix(root())
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        File::new(&name, &fs::read_to_string(&path).unwrap())
    });
    let mut files: Vec<File> = read.collect();
    let test_only: Vec<String> = files.iter().flat_map(test_only_modules).collect();
    for file in &mut files {
        let is_below = |module: &String| {
            file.path
                .strip_prefix(module)
                .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        };
        if test_only.iter().any(is_below) {
            file.production.clear();
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_keep_every_rule() {
        let files = sources();
        assert!(files.len() > 20, "the sources were not found");
        let mut broken: Vec<String> = files
            .iter()
            .flat_map(|file| CHECKS.iter().flat_map(|check| check(file)))
            .collect();
        broken.extend(slack_of_ratchet(&files, LONG_FUNCTIONS));
        let vectors: Vec<String> = files_below(&root().join("tests/vectors"))
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert!(!vectors.is_empty());
        broken.extend(unused_vectors(&vectors, &files));
        assert!(
            broken.is_empty(),
            "{} broken rules:\n{}",
            broken.len(),
            broken.join("\n")
        );
    }

    /// The check finds `count` broken rules in this text.
    fn assert_breaks(check: Check, path: &str, text: &str, count: usize) {
        let broken = check(&File::new(path, text));
        assert_eq!(broken.len(), count, "{text}\n{broken:?}");
    }

    #[test]
    fn an_edge_against_the_layers_is_found() {
        assert_breaks(layering, "src/pdu/bhs.rs", "use crate::scsi::Task;", 1);
        assert_breaks(
            layering,
            "src/pdu/bhs.rs",
            "fn f(x: crate::mem::DmaBuf) {}",
            1,
        );
        assert_breaks(
            layering,
            "src/pdu/bhs.rs",
            "use crate::{scsi::Task, pdu::Bhs, mem};",
            2,
        );
        assert_breaks(
            layering,
            "src/scsi/task.rs",
            "use crate::backend::{IoError, Backend};",
            1,
        );
        assert_breaks(
            layering,
            "src/scsi/task.rs",
            "use crate::{\n  backend::{request, sync},\n};",
            1,
        );
        assert_breaks(layering, "src/unheard_of/mod.rs", "", 1);
        assert_breaks(
            layering,
            "src/scsi/task.rs",
            "use crate::backend::{IoError, Operation};",
            0,
        );
        assert_breaks(
            layering,
            "src/pdu/bhs.rs",
            "use crate::pdu::Itt; // crate::scsi::Task",
            0,
        );
        assert_breaks(layering, "src/reactor/mod.rs", "use crate::scsi::Task;", 0);
        let in_tests = "#[cfg(test)]\nmod tests { use crate::scsi::Task; }";
        assert_breaks(layering, "src/pdu/bhs.rs", in_tests, 0);
        let behind_tests = format!("{in_tests}\nuse crate::scsi::Task;");
        assert_breaks(layering, "src/pdu/bhs.rs", &behind_tests, 1);
    }

    #[test]
    fn unsafe_off_its_islands_is_found() {
        assert_breaks(
            unsafe_only_on_islands,
            "src/net/host.rs",
            "unsafe { f() }",
            1,
        );
        assert_breaks(
            unsafe_only_on_islands,
            "src/mem/region.rs",
            "unsafe { f() }",
            0,
        );
        assert_breaks(
            unsafe_only_on_islands,
            "src/net/host.rs",
            "// unsafe\n\"unsafe\"",
            0,
        );
        assert_breaks(
            pure_modules_forbid_unsafe,
            "src/pdu/mod.rs",
            "//! Doc.\n",
            1,
        );
        let forbids = "//! Doc.\n#![forbid(unsafe_code)]\n";
        assert_breaks(pure_modules_forbid_unsafe, "src/pdu/mod.rs", forbids, 0);
    }

    #[test]
    fn unsafe_without_a_reason_is_found() {
        let check = unsafe_has_its_reason;
        assert_breaks(check, "src/mem/a.rs", "fn f() {\n    unsafe { g() }\n}", 1);
        assert_breaks(
            check,
            "src/mem/a.rs",
            "// SAFETY: far away\nlet a = 1;\nunsafe { g() };",
            1,
        );
        assert_breaks(check, "src/mem/a.rs", "unsafe impl Send for A {}", 1);
        assert_breaks(
            check,
            "src/mem/a.rs",
            "// SAFETY: it holds\nlet a =\n    unsafe { g() };",
            0,
        );
        assert_breaks(
            check,
            "src/mem/a.rs",
            "// SAFETY: one,\n// two\n#[inline]\nunsafe { g() }",
            0,
        );
        assert_breaks(check, "src/mem/a.rs", "unsafe fn f();", 0);
    }

    #[test]
    fn banned_words_and_paths_are_found() {
        let todo = concat!("// TO", "DO later");
        assert_breaks(banned_words, "src/a.rs", todo, 1);
        assert_breaks(
            banned_words,
            "tests/a.rs",
            concat!("dbg", "!(x); todo", "!()"),
            2,
        );
        assert_breaks(banned_words, "src/a.rs", concat!("TO", "DOS"), 0);
        assert_breaks(banned_paths, "tests/a.rs", "std::thread::sleep(d);", 1);
        assert_breaks(banned_paths, "src/a.rs", "use std::sync::{Arc, Mutex};", 1);
        assert_breaks(
            banned_paths,
            "src/a.rs",
            "#[cfg(test)]\nuse std::sync::Mutex;",
            0,
        );
        assert_breaks(
            banned_paths,
            "src/a.rs",
            "use std::sync::{Arc, MutexGuard};",
            0,
        );
        assert_breaks(
            ignored_tests_say_why,
            "tests/a.rs",
            "#[ignore]\nfn f() {}",
            1,
        );
        assert_breaks(
            ignored_tests_say_why,
            "tests/a.rs",
            "#[ignore = \"needs root\"]",
            0,
        );
    }

    #[test]
    fn what_is_too_long_is_found() {
        let wide = "x".repeat(LINE_COLUMNS_MAX);
        assert_breaks(short_lines, "src/a.rs", &wide, 0);
        assert_breaks(short_lines, "src/a.rs", &format!("{wide}é"), 1);
        assert_breaks(short_lines, "src/a.rs", &format!("// https://{wide}"), 0);
        let function = |lines: usize| format!("fn f() {{\n{}}}\n", "g();\n".repeat(lines - 2));
        assert_breaks(
            short_functions,
            "src/a.rs",
            &function(FUNCTION_LINES_MAX),
            0,
        );
        assert_breaks(
            short_functions,
            "src/a.rs",
            &function(FUNCTION_LINES_MAX + 1),
            1,
        );
        assert_breaks(short_files, "src/a.rs", &"\n".repeat(FILE_LINES_MAX + 1), 1);
        assert_breaks(short_files, "src/a.rs", &"\n".repeat(FILE_LINES_MAX), 0);
        assert_breaks(module_doc_first, "src/a.rs", "use a;", 1);
        assert_breaks(module_doc_first, "src/a.rs", "//! Doc.", 0);
    }

    #[test]
    fn the_ratchet_may_not_be_slack() {
        let long = format!("fn f() {{\n{}}}\n", "g();\n".repeat(98));
        let files = [File::new("src/a.rs", &long)];
        assert!(slack_of_ratchet(&files, &[("src/a.rs", "f", 100)]).is_empty());
        assert_eq!(slack_of_ratchet(&files, &[("src/a.rs", "f", 101)]).len(), 1);
        assert_eq!(
            slack_of_ratchet(&files, &[("src/a.rs", "gone", 100)]).len(),
            1
        );
    }

    #[test]
    fn every_rule_in_the_conformance_tables_has_its_test() {
        let files = sources();
        let tests: HashSet<&str> = files.iter().flat_map(test_names).collect();
        assert!(tests.len() > 100, "the tests were not found");
        let table = fs::read_to_string(root().join("docs/CONFORMANCE.md")).unwrap();
        let mut broken = unproved_rows(&table, &tests, |path| root().join(path).is_file());
        broken.extend(missing_rows(&table, &files));
        assert!(broken.is_empty(), "{}", broken.join("\n"));
    }

    #[test]
    fn a_row_without_its_test_is_found() {
        let file = File::new(
            "tests/a.rs",
            "#[test]\nfn one() {}\n// #[test]\nfn helper() {}\n#[test]\n#[cfg(x)]\nfn two(a in b) {}",
        );
        let tests: HashSet<&str> = test_names(&file).into_iter().collect();
        assert_eq!(tests, HashSet::from(["one", "two"]));
        let broken = |row: &str| {
            let table = format!("| rule | test |\n| --- | --- |\n| a | {row} |\n\n| b | `other` |");
            unproved_rows(&table, &tests, |path| path == "tests/vm/x").len()
        };
        assert_eq!(broken("`one`, `two`, `tests/vm/x`"), 0);
        assert_eq!(broken("not yet"), 0);
        assert_eq!(broken("by eye"), 1);
        assert_eq!(broken("`one`, `helper`, `tests/vm/y`"), 2);
    }

    #[test]
    fn a_key_or_command_without_a_row_is_found() {
        let sources = [
            File::new(
                "src/iscsi/keys.rs",
                "row(Key::A, \"KeyA\", X),\nrow(Key::B, \"KeyB\", X),",
            ),
            File::new("src/scsi/opcodes.rs", "Opcode::new(\"READ (6)\", &[0x08])"),
        ];
        assert_eq!(
            missing_rows("| KeyA | x |\n| READ (6) | x |", &sources).len(),
            1
        );
    }

    #[test]
    fn a_vector_that_nothing_reads_is_found() {
        let sources = [File::new("tests/a.rs", "const NAME: &str = \"used.bin\";")];
        let vectors = ["a.hex", "used.bin", "lost.bin"].map(str::to_owned);
        assert_eq!(unused_vectors(&vectors, &sources).len(), 1);
    }
}
