//! Reads lines of `load` from standard input and prints a table of medians, one row per cell.
//!
//! The label of a line is `TARGET:CELL`. Rounds of one cell are alternated between the targets by
//! the caller; here their medians stand side by side, with ratios of every target to the first one
//! seen.

use serde_json::Value;
use std::io::{self, BufRead};
use std::process::ExitCode;

/// Lines of one bench; more than any plan of ours makes.
const LINES_MAX: usize = 100_000;

/// What is shown of each target, in this order.
const COLUMNS: [(&str, &str, usize); 5] = [
    ("clean_iops", "IOPS", 0),
    ("latency_us_p50", "p50 µs", 1),
    ("latency_us_p99", "p99 µs", 1),
    ("latency_us_p999", "p99.9 µs", 1),
    ("target_cpu_us_per_io", "CPU µs/IO", 2),
];

/// All rounds of one target in one cell.
#[derive(Debug)]
struct Group {
    target: String,
    cell: String,
    lines: Vec<Value>,
}

fn main() -> ExitCode {
    let mut groups: Vec<Group> = Vec::new();
    for line in io::stdin().lock().lines().take(LINES_MAX) {
        let parsed = line
            .ok()
            .and_then(|line| serde_json::from_str::<Value>(&line).ok());
        let Some(value) = parsed else {
            eprintln!("table: a line is not JSON");
            return ExitCode::FAILURE;
        };
        let label = value["label"]
            .as_str()
            .and_then(|label| label.split_once(':'));
        let Some((target, cell)) = label.map(|(t, c)| (t.to_owned(), c.to_owned())) else {
            eprintln!("table: a label is not TARGET:CELL");
            return ExitCode::FAILURE;
        };
        match groups
            .iter_mut()
            .find(|group| group.target == target && group.cell == cell)
        {
            Some(group) => group.lines.push(value),
            None => groups.push(Group {
                target,
                cell,
                lines: vec![value],
            }),
        }
    }
    print(&groups);
    ExitCode::SUCCESS
}

fn print(groups: &[Group]) {
    let titles: Vec<&str> = COLUMNS.iter().map(|(_, title, _)| *title).collect();
    println!(
        "| cell | target | {} | client µs/IO | client busy % | MB/s | clean slices | IOPS × | CPU × |",
        titles.join(" | ")
    );
    println!("|{}", "---|".repeat(COLUMNS.len() + 8));
    let mut seen: Vec<&str> = Vec::new();
    for group in groups {
        if seen.contains(&group.cell.as_str()) {
            continue;
        }
        seen.push(&group.cell);
        for other in groups.iter().filter(|other| other.cell == group.cell) {
            let cells: Vec<String> = COLUMNS
                .iter()
                .map(|(key, _, digits)| {
                    median(other, key)
                        .map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
                })
                .collect();
            let ratio = |key| match (median(other, key), median(group, key)) {
                (Some(part), Some(whole)) if whole > 0.0 => format!("{:.2}", part / whole),
                _ => "-".into(),
            };
            let whole =
                |key| median(other, key).map_or_else(|| "-".into(), |value| format!("{value:.0}"));
            let total = |key| -> u64 {
                other
                    .lines
                    .iter()
                    .filter_map(|line| line[key].as_u64())
                    .sum()
            };
            println!(
                "| {} | {} | {} | {:.2} | {} | {} | {}/{} | {} | {} |",
                other.cell,
                other.target,
                cells.join(" | "),
                median(other, "client_cpu_us_per_io").unwrap_or(0.0),
                whole("client_busy_percent"),
                whole("mb_per_s"),
                total("clean_slices"),
                total("slices"),
                ratio("clean_iops"),
                ratio("target_cpu_us_per_io"),
            );
        }
    }
}

/// The middle of the rounds (of the two in the middle the lower one).
fn median(group: &Group, key: &str) -> Option<f64> {
    let mut values: Vec<f64> = group
        .lines
        .iter()
        .filter_map(|line| line[key].as_f64())
        .collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_round() {
        let line = |value: f64| serde_json::json!({ "x": value });
        let group = |values: &[f64]| Group {
            target: String::new(),
            cell: String::new(),
            lines: values.iter().map(|value| line(*value)).collect(),
        };
        assert_eq!(median(&group(&[3.0, 1.0, 2.0]), "x"), Some(2.0));
        assert_eq!(median(&group(&[4.0, 1.0, 2.0, 3.0]), "x"), Some(2.0));
        assert_eq!(median(&group(&[]), "x"), None);
        assert_eq!(median(&group(&[1.0]), "y"), None);
    }
}
