//! From scores to tables.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::nulls::Nulls;
use super::{Item, Plan, RunError, ScoreRecord, store};
use crate::model::Gate;
use crate::stats;

/// The scores of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellSummary {
    /// The task.
    pub task: String,
    /// Output tokens.
    pub length: u32,
    /// Difficulty.
    pub difficulty: u8,
    /// Answers planned.
    pub planned: usize,
    /// Answers that have no score: none was given.
    pub missing: usize,
    /// Mean score of the answers there are.
    pub mean: f64,
    /// 95 % interval of the mean.
    pub interval: (f64, f64),
    /// The mean with every missing answer at 0, and at 1.
    pub bounds: (f64, f64),
    /// Share of perfect answers.
    pub perfect: f64,
    /// Wilson's 95 % interval of it, as if answers to one instance were independent.
    pub perfect_interval: (f64, f64),
    /// Share of answers cut at the limit of tokens.
    pub truncated: f64,
    /// Mean length in words.
    pub words: f64,
    /// Mean score of each instance.
    pub scores: Vec<f64>,
    /// Estimated tokens of each answer, divided by the length.
    pub produced: Vec<f64>,
    /// For each tenth of the answer or the material: constraints that have their place there, and the sum of credits.
    pub tenths: [(u32, f64); 10],
    /// Means of components and multipliers, over answers whose gate is open.
    pub parts: Vec<(String, f64)>,
    /// Mean credit by kind of constraint.
    pub credits: Vec<(String, f64)>,
    /// `fsm`: for each answer, the share of the steps before the first that is wrong.
    pub prefixes: Vec<f64>,
    /// `kv_dict`: for each given entry of each answer where it belongs, from 0 to 1, and how many entries it is off; `None`
    /// where it is missing.
    pub places: Vec<(f64, Option<u32>)>,
    /// The mean scores that worthless answers get on the first instances, by name.
    pub nulls: Vec<(String, f64)>,
    /// How many answers were refused as a whole, by reason.
    pub gates: BTreeMap<Gate, usize>,
    /// How many answers have each flag.
    pub flags: BTreeMap<String, usize>,
}

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// Whether every planned answer is scored.
    pub complete: bool,
    /// The mean of the tasks' means over their cells.
    pub overall: f64,
    /// For each task: mean over its cells, 95 % interval, slope of the score on a doubling of the length.
    pub tasks: Vec<(String, f64, (f64, f64), f64)>,
    /// The cells, in the order of the plan.
    pub cells: Vec<CellSummary>,
}

/// Means by name, in the order in which names come up.
#[derive(Default)]
pub(super) struct Means(Vec<(String, f64, f64)>);

impl Means {
    pub(super) fn add(&mut self, name: &str, value: f64, weight: f64) {
        match self.0.iter_mut().find(|(known, ..)| known == name) {
            Some((_, sum, total)) => (*sum, *total) = (*sum + value, *total + weight),
            None => self.0.push((name.to_owned(), value, weight)),
        }
    }

    pub(super) fn finish(self) -> Vec<(String, f64)> {
        self.0.into_iter().map(|(name, sum, total)| (name, sum / total)).collect()
    }
}

fn seed(plan: &Plan, what: &str) -> [u8; 32] {
    Sha256::new().chain_update(plan.fingerprint()).chain_update(what).finalize().into()
}

impl Summary {
    pub(super) fn new(
        plan: &Plan,
        items: &[Item],
        known: &HashMap<(String, u32), ScoreRecord>,
        nulls: &Nulls,
    ) -> Self {
        let mut cells = Vec::new();
        // By cell: the scores of each instance's samples.
        let mut scores: Vec<Vec<Vec<f64>>> = Vec::new();
        for (index, cell) in plan.cells.iter().enumerate() {
            let planned: Vec<&Item> = items.iter().filter(|item| item.cell == index).collect();
            let records: Vec<&ScoreRecord> =
                planned.iter().filter_map(|item| known.get(&(item.key.id(), item.sample))).collect();
            let mut by_instance: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
            for item in &planned {
                if let Some(record) = known.get(&(item.key.id(), item.sample)) {
                    by_instance.entry(item.key.index).or_default().push(record.score);
                }
            }
            let samples: Vec<Vec<f64>> = by_instance.into_values().collect();
            let instance_means: Vec<f64> = samples.iter().map(|s| stats::mean(s)).collect();
            let count = records.len().max(1) as f64;
            let share = |wanted: &dyn Fn(&ScoreRecord) -> bool| {
                records.iter().filter(|r| wanted(r)).count() as f64 / count
            };
            let (mut parts, mut credits) = (Means::default(), Means::default());
            let (mut gates, mut flags) = (BTreeMap::new(), BTreeMap::new());
            let mut tenths = [(0, 0.0); 10];
            for record in &records {
                for ((count, sum), (more, credit)) in tenths.iter_mut().zip(record.tenths) {
                    (*count, *sum) = (*count + more, *sum + credit);
                }
                for (name, value) in record.components.iter().chain(&record.multipliers) {
                    parts.add(name, *value, 1.0);
                }
                for (kind, number, credit) in &record.credits {
                    credits.add(kind, *credit, f64::from(*number));
                }
                if record.gate != Gate::Open {
                    *gates.entry(record.gate).or_insert(0) += 1;
                }
                for name in record.flags.names() {
                    *flags.entry(name.to_owned()).or_insert(0) += 1;
                }
            }
            let name = format!("{}/{}/{}", cell.task, cell.length, cell.difficulty);
            let sum: f64 = records.iter().map(|r| r.score).sum();
            let (missing, total) = (planned.len() - records.len(), planned.len() as f64);
            let interval = match samples.is_empty() {
                true => (0.0, 1.0),
                false => stats::bootstrap(std::slice::from_ref(&samples), seed(plan, &name)),
            };
            cells.push(CellSummary {
                task: cell.task.to_string(),
                length: cell.length,
                difficulty: cell.difficulty,
                planned: planned.len(),
                missing,
                mean: stats::mean(&instance_means),
                interval,
                bounds: (sum / total, (sum + missing as f64) / total),
                perfect: share(&|r| r.score == 1.0),
                perfect_interval: stats::wilson(
                    records.iter().filter(|r| r.score == 1.0).count(),
                    records.len(),
                ),
                truncated: share(&|r| r.stats.truncated),
                words: records.iter().map(|r| r.stats.words as f64).sum::<f64>() / count,
                scores: instance_means,
                produced: records
                    .iter()
                    .map(|r| r.stats.tokens_est as f64 / f64::from(cell.length))
                    .collect(),
                tenths,
                parts: parts.finish(),
                credits: credits.finish(),
                prefixes: records.iter().filter_map(|r| r.prefix).collect(),
                places: records.iter().flat_map(|r| &r.places).copied().collect(),
                nulls: nulls.get(index).cloned().unwrap_or_default(),
                gates,
                flags,
            });
            scores.push(samples);
        }
        let mut names: Vec<String> = Vec::new();
        for cell in cells.iter().filter(|c| c.missing < c.planned) {
            if !names.contains(&cell.task) {
                names.push(cell.task.clone());
            }
        }
        let task = |name: String| {
            let own: Vec<usize> =
                (0..cells.len()).filter(|&i| cells[i].task == name && !scores[i].is_empty()).collect();
            let means: Vec<f64> = own.iter().map(|&i| cells[i].mean).collect();
            let points: Vec<(u32, f64)> = own.iter().map(|&i| (cells[i].length, cells[i].mean)).collect();
            let resampled: Vec<Vec<Vec<f64>>> = own.iter().map(|&i| scores[i].clone()).collect();
            let interval = stats::bootstrap(&resampled, seed(plan, &name));
            (name, stats::mean(&means), interval, stats::length_decay(&points))
        };
        let tasks: Vec<_> = names.into_iter().map(task).collect();
        let overall = stats::mean(&tasks.iter().map(|t| t.1).collect::<Vec<_>>());
        Self { complete: cells.iter().all(|c| c.missing == 0), overall, tasks, cells }
    }

    /// The summary as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a summary has finite numbers only") + "\n"
    }
}

/// Two runs compared on the answers that both have.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Answers in common.
    pub pairs: usize,
    /// Mean of the differences, second run less first.
    pub difference: f64,
    /// 95 % paired bootstrap interval of it.
    pub interval: (f64, f64),
    /// Two-sided p of the sign-flip test.
    pub p: f64,
}

/// Compares two run directories by task, with Holm's correction over tasks.
///
/// # Errors
/// Files that cannot be read; runs with nothing in common. An instance counts only where both runs saw the same content.
pub fn compare(first: &Path, second: &Path) -> Result<BTreeMap<String, Comparison>, RunError> {
    let read = |directory: &Path| -> Result<BTreeMap<(String, u32), ScoreRecord>, RunError> {
        let records = store::read_lines::<ScoreRecord>(&directory.join("scores.jsonl"))?;
        Ok(records.into_iter().map(|r| ((r.instance_id.clone(), r.sample), r)).collect())
    };
    let (a, b) = (read(first)?, read(second)?);
    let mut differences: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (key, x) in &a {
        if let Some(y) = b.get(key).filter(|y| y.content_hash == x.content_hash) {
            let task = key.0.split('/').next().unwrap_or_default().to_owned();
            differences.entry(task).or_default().push(y.score - x.score);
        }
    }
    if differences.is_empty() {
        return Err(RunError::NothingShared);
    }
    let seed = |task: &str| Sha256::digest(format!("compare {task}").as_bytes()).into();
    let p: Vec<f64> = differences.iter().map(|(task, d)| stats::sign_flip(d, seed(task))).collect();
    let corrected = stats::holm(&p);
    let compared = differences.into_iter().zip(corrected).map(|((task, d), p)| {
        let samples = d.iter().map(|&x| vec![x]).collect();
        let interval = stats::bootstrap(&[samples], seed(&task));
        (task, Comparison { pairs: d.len(), difference: stats::mean(&d), interval, p })
    });
    Ok(compared.collect())
}
