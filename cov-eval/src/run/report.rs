//! The report of a run: tables and pictures, as Markdown and as one HTML file.

use std::fmt::Write;

use super::picture::{Axis, Cloud, Curve, Strip, curves, escape, heat, scatter, strip};
use super::summary::{CellSummary, Summary};
use crate::model::Gate;

/// A part of a report.
enum Block {
    /// A word that must not be overlooked, and what follows it.
    Text(Option<&'static str>, String),
    /// A head and rows.
    Table(&'static str, Vec<Vec<String>>),
    /// A file of `plots`.
    Picture(Picture),
}

/// A picture and the name of its file.
pub(super) struct Picture {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) svg: String,
}

fn percent(x: f64) -> String {
    format!("{:.1}", 100.0 * x)
}

fn range((low, high): (f64, f64)) -> String {
    format!("{}–{}", percent(low), percent(high))
}

fn listed(items: Vec<String>) -> String {
    if items.is_empty() { "–".to_owned() } else { items.join(", ") }
}

impl CellSummary {
    fn name(&self) -> String {
        format!("{} {} d{}", self.task, self.length, self.difficulty)
    }

    /// The worthless answer with the highest mean.
    fn best_null(&self) -> String {
        let best = self.nulls.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        best.map_or("–".to_owned(), |(name, mean)| format!("{name} {}", percent(*mean)))
    }

    fn place(&self) -> [String; 3] {
        [self.task.clone(), self.length.to_string(), self.difficulty.to_string()]
    }
}

impl Summary {
    /// The tables, as Markdown.
    pub fn to_markdown(&self) -> String {
        markdown(self.tables())
    }

    /// The tables, and links to the pictures in `plots`.
    pub(super) fn report(&self) -> String {
        markdown(self.tables().into_iter().chain(self.pictures().into_iter().map(Block::Picture)))
    }

    /// The tables and pictures as one page, which needs no other file.
    pub fn to_html(&self) -> String {
        let mut body = String::new();
        for block in self.tables().into_iter().chain(self.pictures().into_iter().map(Block::Picture)) {
            let _ = match block {
                Block::Text(None, text) => writeln!(body, "<p>{}</p>", escape(&text)),
                Block::Text(Some(strong), text) => {
                    writeln!(body, "<p><strong>{strong}</strong>: {}</p>", escape(&text))
                }
                Block::Picture(picture) => writeln!(body, "<figure>{}</figure>", picture.svg),
                Block::Table(head, rows) => {
                    let line = |cells: &mut dyn Iterator<Item = &str>, tag: &str| {
                        let cells = cells.map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)));
                        format!("<tr>{}</tr>\n", cells.collect::<String>())
                    };
                    let rows = rows.iter().map(|row| line(&mut row.iter().map(String::as_str), "td"));
                    let head = line(&mut head.split(" | "), "th");
                    writeln!(body, "<table>\n{head}{}</table>", rows.collect::<String>())
                }
            };
        }
        format!("{HEAD}<body>\n<h1>Scores</h1>\n{body}</body>\n</html>\n")
    }

    fn tables(&self) -> Vec<Block> {
        let mut blocks = vec![Block::Text(
            None,
            format!("Overall {} (mean of task means, of 100).", percent(self.overall)),
        )];
        if !self.complete {
            let (missing, planned) =
                self.cells.iter().fold((0, 0), |(m, p), cell| (m + cell.missing, p + cell.planned));
            let text = format!("{missing} of {planned} answers are missing.");
            blocks.push(Block::Text(Some("Incomplete"), text));
        }
        let tasks = self.tasks.iter().map(|(name, mean, interval, slope)| {
            vec![name.clone(), percent(*mean), range(*interval), format!("{:+.1}", 100.0 * slope)]
        });
        blocks.push(Block::Table("task | mean | 95 % | per doubling of length", tasks.collect()));
        let cells = self.cells.iter().map(|c| {
            let scores = [
                format!("{} of {}", c.planned - c.missing, c.planned),
                percent(c.mean),
                range(c.interval),
                c.best_null(),
                range(c.bounds),
                format!("{} ({})", percent(c.perfect), range(c.perfect_interval)),
                percent(c.truncated),
                format!("{:.0}", c.words),
            ];
            c.place().into_iter().chain(scores).collect()
        });
        let head = "task | length | d | answers | mean | 95 % | best null | missing at 0–1 | perfect (95 %) | truncated | words";
        blocks.push(Block::Table(head, cells.collect()));
        let parts = self.cells.iter().map(|c| {
            let shares = |pairs: &[(String, f64)]| {
                listed(pairs.iter().map(|(name, x)| format!("{name} {}", percent(*x))).collect())
            };
            let gate = |(gate, n): (&Gate, &usize)| format!("{gate:?} {n}");
            let found = [
                shares(&c.parts),
                shares(&c.credits),
                listed(c.gates.iter().map(gate).collect()),
                listed(c.flags.iter().map(|(name, n)| format!("{name} {n}")).collect()),
            ];
            c.place().into_iter().chain(found).collect()
        });
        let head = "task | length | d | parts | credit by constraint | refused | flags";
        blocks.push(Block::Table(head, parts.collect()));
        let nulls = self.cells.iter().map(|c| {
            let means = c.nulls.iter().map(|(name, mean)| format!("{name} {}", percent(*mean)));
            c.place().into_iter().chain([listed(means.collect())]).collect()
        });
        blocks.push(Block::Table("task | length | d | means of answers of no worth", nulls.collect()));
        blocks
    }

    /// The pictures that the run has numbers for.
    pub(super) fn pictures(&self) -> Vec<Picture> {
        let cells: Vec<&CellSummary> = self.cells.iter().filter(|c| c.missing < c.planned).collect();
        if cells.is_empty() {
            return Vec::new();
        }
        let mut all = Vec::new();
        let mut add = |name, title, draw: &dyn Fn(&str) -> String| {
            all.push(Picture { name, title, svg: draw(title) });
        };
        let scores = |c: &&CellSummary| Strip {
            name: c.name(),
            dots: c.scores.clone(),
            mean: c.mean,
            interval: Some(c.interval),
        };
        add("scores", "Scores of instances, their mean and its 95 % interval", &|title| {
            strip(title, &Axis::shares(), &cells.iter().map(scores).collect::<Vec<_>>())
        });
        let mut lengths: Vec<u32> = cells.iter().map(|c| c.length).collect();
        lengths.sort_unstable();
        lengths.dedup();
        if lengths.len() > 1 {
            let ticks = lengths.iter().map(|&l| (f64::from(l), l.to_string())).collect();
            let axis = Axis { ticks, log: true };
            add("lengths", "Score by length of the answer in tokens, with 95 % intervals", &|title| {
                curves(title, &axis, &by_length(&cells))
            });
        }
        add("constraints", "Credit by kind of constraint, of 100", &|title| {
            let columns: Vec<String> = lengths.iter().map(ToString::to_string).collect();
            heat(title, &columns, &by_kind(&cells, &lengths))
        });
        add(
            "positions",
            "Credit by place of the constraint, in tenths of the answer or the material",
            &|title| {
                let row = |c: &&CellSummary| {
                    let share = |&(count, sum): &(u32, f64)| (count > 0).then(|| sum / f64::from(count));
                    (c.name(), c.tenths.iter().map(share).collect())
                };
                let columns: Vec<String> = (1..=10).map(|i| i.to_string()).collect();
                heat(title, &columns, &cells.iter().map(row).collect::<Vec<_>>())
            },
        );
        add("produced", "Estimated tokens of the answers, by the length asked for", &|title| {
            let tick = |(value, text): (f64, &str)| (value, text.to_owned());
            let ticks =
                [(0.0625, "1/16"), (0.125, "1/8"), (0.25, "1/4"), (0.5, "1/2"), (1.0, "1"), (2.0, "2")];
            let axis = Axis { ticks: ticks.into_iter().map(tick).collect(), log: true };
            let row = |c: &&CellSummary| Strip {
                name: c.name(),
                dots: c.produced.clone(),
                mean: crate::stats::mean(&c.produced),
                interval: None,
            };
            strip(title, &axis, &cells.iter().map(row).collect::<Vec<_>>())
        });
        let traced: Vec<Curve> = cells.iter().filter(|c| !c.prefixes.is_empty()).map(survival).collect();
        if !traced.is_empty() {
            let title =
                "fsm: answers that are right from the start on, by share of the steps, with 95 % intervals";
            add("prefixes", title, &|title| curves(title, &Axis::shares(), &traced));
        }
        let placed: Vec<Cloud> = cells.iter().filter(|c| !c.places.is_empty()).map(misplacement).collect();
        if !placed.is_empty() {
            let title = "kv_dict: entries that a given entry is off, by its place in the dictionary, of 100";
            add("places", title, &|title| scatter(title, &Axis::shares(), &entries_off(), &placed));
        }
        all
    }
}

/// The share of the answers that are right up to each twentieth of the steps, with Wilson's intervals.
fn survival(c: &&CellSummary) -> Curve {
    let total = c.prefixes.len();
    let point = |i: u32| {
        let share = f64::from(i) / 20.0;
        let right = c.prefixes.iter().filter(|&&prefix| prefix >= share).count();
        (share, right as f64 / total as f64, crate::stats::wilson(right, total))
    };
    Curve { name: c.name(), points: (0..=20).map(point).collect() }
}

/// Where an entry is drawn that is missing: beyond all others.
const MISSING: f64 = 400.0;

/// Entries off, with a place for none, which has no logarithm.
fn entries_off() -> Axis {
    let tick = |off: u32| (f64::from(off + 1), off.to_string());
    let ticks = [0, 1, 2, 5, 10, 20, 50, 100].map(tick).into_iter().chain([(MISSING, "missing".to_owned())]);
    Axis { ticks: ticks.collect(), log: true }
}

/// A dot for each given entry of each answer.
fn misplacement(c: &&CellSummary) -> Cloud {
    let dot = |&(place, off): &(f64, Option<u32>)| {
        (place, off.map_or(MISSING, |off| f64::from(off + 1).min(MISSING / 1.5)))
    };
    Cloud { name: c.name(), dots: c.places.iter().map(dot).collect() }
}

/// A curve for each task and difficulty.
fn by_length(cells: &[&CellSummary]) -> Vec<Curve> {
    let mut all: Vec<Curve> = Vec::new();
    for c in cells {
        let name = format!("{} d{}", c.task, c.difficulty);
        let point = (f64::from(c.length), c.mean, c.interval);
        match all.iter_mut().find(|curve| curve.name == name) {
            Some(curve) => curve.points.push(point),
            None => all.push(Curve { name, points: vec![point] }),
        }
    }
    all.iter_mut().for_each(|curve| curve.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
    all
}

/// A row for each task, difficulty and kind of constraint, a column for each length.
fn by_kind(cells: &[&CellSummary], lengths: &[u32]) -> Vec<(String, Vec<Option<f64>>)> {
    let mut rows: Vec<(String, Vec<Option<f64>>)> = Vec::new();
    for c in cells {
        for (kind, share) in &c.credits {
            let name = format!("{} d{} {kind}", c.task, c.difficulty);
            let row = match rows.iter().position(|(known, _)| *known == name) {
                Some(at) => at,
                None => {
                    rows.push((name, vec![None; lengths.len()]));
                    rows.len() - 1
                }
            };
            if let Some(column) = lengths.iter().position(|&length| length == c.length) {
                rows[row].1[column] = Some(*share);
            }
        }
    }
    rows
}

fn markdown(blocks: impl IntoIterator<Item = Block>) -> String {
    let mut text = String::from("# Scores\n");
    for block in blocks {
        text.push('\n');
        let _ = match block {
            Block::Text(None, paragraph) => writeln!(text, "{paragraph}"),
            Block::Text(Some(strong), paragraph) => writeln!(text, "**{strong}**: {paragraph}"),
            Block::Picture(Picture { name, title, .. }) => writeln!(text, "![{title}](plots/{name}.svg)"),
            Block::Table(head, rows) => {
                let columns = head.split(" | ").count();
                let rows = rows.iter().map(|row| format!("| {} |\n", row.join(" | ")));
                write!(text, "| {head} |\n|{}\n{}", "---|".repeat(columns), rows.collect::<String>())
            }
        };
    }
    text
}

const HEAD: &str = "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<title>Scores</title>
<style>
body { font: 14px/1.45 system-ui, sans-serif; color: #1b1f24; background: #fff; max-width: 1080px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1.2em 0; font-variant-numeric: tabular-nums }
th, td { text-align: left; vertical-align: top; padding: .25em .7em; border-bottom: 1px solid #e3e6ea }
figure { margin: 1.6em 0; overflow-x: auto }
</style>
</head>
";
