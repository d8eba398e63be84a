//! Tables of a study as Markdown: means over seeds with 95 % intervals.

use std::fmt::Write as _;

use super::Outcome;
use crate::interval::interval;

/// Different values in the order of their first appearance.
fn distinct<'a>(values: impl Iterator<Item = &'a String>) -> Vec<&'a String> {
    let mut seen = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}

fn cell(values: &[f64], percent: bool) -> String {
    let scale = if percent { 100.0 } else { 1.0 };
    let show = |v: f64| if percent { format!("{:.1}", v * scale) } else { format!("{v:.1e}") };
    match interval(values) {
        None => "–".into(),
        Some((mean, None)) => format!("{} (1 seed)", show(mean)),
        Some((mean, Some(half))) => format!("{} ± {}", show(mean), show(half)),
    }
}

/// A quantity of a cell's table: its title, whether it is a share, and its value.
type Quantity = (&'static str, bool, fn(&Outcome) -> Option<f64>);

const QUANTITIES: [Quantity; 7] = [
    ("held-out exact, mean of the last quarter, %", true, |o| Some(o.last())),
    ("best held-out exact, %", true, |o| Some(o.best())),
    ("k3 of sampler and trainer, nats a token", false, |o| o.diagnostics.mismatch),
    ("k3 of old and current policy, nats a token", false, |o| o.diagnostics.staleness),
    ("tokens with other experts in sampler and trainer, %", true, |o| o.diagnostics.flips),
    ("clipped tokens, %", true, |o| o.diagnostics.clipped),
    ("entropy at the end, nats", false, |o| o.diagnostics.entropy),
];

/// How the settings of a table end against those of its first row, and of its first column, under the same seed: what a
/// seed does to all settings alike is not in the difference.
fn differences(text: &mut String, table: &str, outcomes: &[&Outcome]) {
    for axis in [1, 2] {
        let names = distinct(outcomes.iter().map(|o| &o.place[axis]));
        let [base, others @ ..] = names.as_slice() else { continue };
        let lines = distinct(outcomes.iter().map(|o| &o.place[3 - axis]));
        let twin = |o: &Outcome| {
            let same = |b: &&&Outcome| b.seed == o.seed && b.place[3 - axis] == o.place[3 - axis];
            outcomes.iter().filter(|b| b.place[axis] == **base).find(same).map(|b| o.last() - b.last())
        };
        if others.is_empty() {
            continue;
        }
        let heads: Vec<&str> = others.iter().map(|name| name.as_str()).collect();
        let _ = writeln!(
            text,
            "### {table}: held-out exact, mean of the last quarter, difference from {base} under the same seed, percentage points\n"
        );
        let _ = writeln!(text, "| | {} |\n|---|{}", heads.join(" | "), "---|".repeat(heads.len()));
        for line in lines {
            let _ = write!(text, "| {line} |");
            for name in others {
                let here = outcomes.iter().filter(|o| o.place[axis] == **name && o.place[3 - axis] == *line);
                let _ = write!(text, " {} |", cell(&here.filter_map(|o| twin(o)).collect::<Vec<_>>(), true));
            }
            text.push('\n');
        }
        text.push('\n');
    }
}

/// One section a quantity and table; rows and columns as the settings say, `–` where nothing was run or measured. Then
/// differences that are paired by seed.
#[must_use]
pub fn tables(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for table in distinct(outcomes.iter().map(|o| &o.place[0])) {
        let of_table: Vec<&Outcome> = outcomes.iter().filter(|o| o.place[0] == *table).collect();
        let rows = distinct(of_table.iter().map(|o| &o.place[1]));
        let columns = distinct(of_table.iter().map(|o| &o.place[2]));
        for (title, percent, value) in QUANTITIES {
            if of_table.iter().all(|o| value(o).is_none()) {
                continue;
            }
            let heads: Vec<&str> = columns.iter().map(|c| c.as_str()).collect();
            let _ = writeln!(text, "### {table}: {title}\n\n| | {} |", heads.join(" | "));
            let _ = writeln!(text, "|---|{}", "---|".repeat(columns.len()));
            for row in &rows {
                let _ = write!(text, "| {row} |");
                for column in &columns {
                    let here = of_table.iter().filter(|o| o.place[1] == **row && o.place[2] == **column);
                    let values: Vec<f64> = here.filter_map(|o| value(o)).collect();
                    let _ = write!(text, " {} |", cell(&values, percent));
                }
                text.push('\n');
            }
            text.push('\n');
        }
        differences(&mut text, table, &of_table);
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_table_has_what_was_run_and_a_dash_elsewhere() {
        let outcome = |row: &str, column: &str, seed, last| Outcome {
            setting: String::new(),
            place: ["T".into(), row.into(), column.into()],
            seed,
            config: String::new(),
            exact: vec![(0, 0.9), (8, last)],
            reward: Vec::new(),
            diagnostics: Default::default(),
            seconds: 1.0,
            failure: None,
        };
        let mut all = vec![outcome("a", "x", 0, 0.5), outcome("a", "x", 1, 0.5), outcome("b", "y", 0, 0.25)];
        let text = tables(&all);
        assert!(
            text.contains("| | x | y |\n|---|---|---|\n| a | 50.0 ± 0.0 | – |\n| b | – | 25.0 (1 seed) |")
        );
        assert!(!text.contains("clipped"), "{text}");
        // Nothing stands against the same column and seed in the first row.
        assert!(text.contains("difference from a under the same seed, percentage points\n\n| | b |\n|---|---|\n| x | – |\n| y | – |"), "{text}");
        // What a seed does to both is not in their difference.
        let pairs: Vec<Outcome> = [(0, 0.5, 0.6), (1, 0.3, 0.4)]
            .into_iter()
            .flat_map(|(seed, x, y)| [outcome("a", "x", seed, x), outcome("a", "y", seed, y)])
            .collect();
        let text = tables(&pairs);
        assert!(text.contains("| a | 40.0 ± 127.1 | 50.0 ± 127.1 |"), "{text}");
        assert!(text.contains("difference from x under the same seed, percentage points\n\n| | y |\n|---|---|\n| a | 10.0 ± 0.0 |"), "{text}");
        // A cell that broke down has nothing at the end, whatever it had before.
        all[2].failure = Some("diverged".into());
        assert!(tables(&all).contains("| b | – | 0.0 (1 seed) |"));
    }
}
