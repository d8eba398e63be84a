//! A benchmark of reward models: pairs of a right and a wrong response, and how often a judge tells them apart.

mod build;
mod report;

use std::collections::{BTreeMap, HashMap};

pub use build::{BuildOptions, Built, ModelResult, build_pairs};
pub use report::{Cell, Report, averages, wilson};

/// A pair of the benchmark, as the scorer sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchPair {
    /// Its id.
    pub id: String,
    /// The split: a category of the leaderboard.
    pub split: String,
    /// What is wrong with the rejected response.
    pub error_type: String,
    /// The difference of scores.
    pub intensity: f64,
    /// The complexity of the gold calls.
    pub complexity: u64,
}

/// How an answer was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// In the form that was asked for.
    Strict,
    /// With less care.
    Soft,
    /// Not at all.
    Failed,
}

/// A judge's answer to one order of a pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    /// The response that was chosen, 1 or 2; none where the answer cannot be read.
    pub choice: Option<u64>,
    /// How it was read.
    pub level: Level,
    /// Its length.
    pub tokens: Option<u64>,
}

/// The answers to a pair: the chosen response shown first, and second. One may be missing, where a prompt was too long.
pub type Answers = [Option<Answer>; 2];

/// Scores a judge that chooses: a pair counts as right when both orders are answered rightly, so one that guesses has 25 %. A
/// pair without both answers is excluded and counted.
pub fn score_generative(pairs: &[BenchPair], answers: &HashMap<&str, Answers>) -> Report {
    let mut report = Report::new(0.25);
    let mut judged = Vec::new();
    let (mut first, mut read, mut single, mut consistent) = (0u64, 0u64, [0u64; 2], 0u64);
    let mut tokens = (0u64, 0u64);
    for pair in pairs {
        let Some([Some(a), Some(b)]) = answers.get(pair.id.as_str()) else {
            report.excluded += 1;
            continue;
        };
        // In the first order the chosen response is number 1, in the second number 2.
        let right = [a.choice == Some(1), b.choice == Some(2)];
        judged.push((pair, right[0] && right[1]));
        for (order, right) in right.into_iter().enumerate() {
            single[order] += u64::from(right);
        }
        // Consistent: the same response is chosen in both orders.
        consistent += u64::from(matches!((a.choice, b.choice), (Some(x), Some(y)) if x != y));
        for answer in [a, b] {
            *report.levels.entry(answer.level).or_default() += 1;
            read += u64::from(answer.choice.is_some());
            first += u64::from(answer.choice == Some(1));
            if let Some(n) = answer.tokens {
                tokens = (tokens.0 + n, tokens.1 + 1);
            }
        }
    }
    report.tally(&judged);
    let share = |n: u64, of: u64| (of > 0).then(|| n as f64 / of as f64);
    let n = judged.len() as u64;
    report.per_order = [share(single[0], n), share(single[1], n)];
    report.consistency = share(consistent, n);
    report.first_share = share(first, read);
    report.mean_tokens = share(tokens.0, tokens.1);
    report
}

/// Scores a judge that gives numbers, chosen then rejected: a pair is right when the chosen response has the higher one; equal
/// ones are wrong. One that guesses has 50 %. A pair without scores is excluded and counted.
pub fn score_scalar(pairs: &[BenchPair], scores: &HashMap<&str, (f64, f64)>) -> Report {
    let mut report = Report::new(0.5);
    let mut judged = Vec::new();
    for pair in pairs {
        match scores.get(pair.id.as_str()) {
            Some((chosen, rejected)) => judged.push((pair, chosen > rejected)),
            None => report.excluded += 1,
        }
    }
    report.tally(&judged);
    report
}

/// The terciles of values: for each, whether it is in the low, middle or high third. Equal values are in the same one.
fn terciles<T: PartialOrd + Copy>(values: &[T]) -> Vec<&'static str> {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    let cut = |third: usize| sorted.get((third * sorted.len()).div_ceil(3).saturating_sub(1)).copied();
    let (low, high) = (cut(1), cut(2));
    let name = |v: &T| match (low, high) {
        (Some(low), _) if *v <= low => "low",
        (_, Some(high)) if *v <= high => "middle",
        _ => "high",
    };
    values.iter().map(name).collect()
}

/// Right and all, by name.
type Table = BTreeMap<String, Cell>;
