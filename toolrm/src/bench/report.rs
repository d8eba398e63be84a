//! What a judge's answers come to.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{BenchPair, Level, Table, terciles};
use crate::value::Val;

/// Right answers among all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Pairs judged rightly.
    pub right: u64,
    /// Pairs judged.
    pub total: u64,
}

impl Cell {
    /// The share of right answers; 0 for no pairs.
    pub fn accuracy(self) -> f64 {
        if self.total == 0 { 0.0 } else { self.right as f64 / self.total as f64 }
    }

    fn add(&mut self, right: bool) {
        self.right += u64::from(right);
        self.total += 1;
    }

    fn to_val(self) -> Val {
        let (low, high) = wilson(self.right, self.total);
        Val::dict([
            ("right", Val::int(self.right.into())),
            ("total", Val::int(self.total.into())),
            ("accuracy", Val::Float(self.accuracy())),
            ("interval", Val::List(vec![Val::Float(low), Val::Float(high)])),
        ])
    }
}

/// Wilson's 95 % interval of a share of `right` among `total`; from 0 to 1 for none.
pub fn wilson(right: u64, total: u64) -> (f64, f64) {
    if total == 0 {
        return (0.0, 1.0);
    }
    const Z: f64 = 1.959_963_984_540_054;
    let (n, p) = (total as f64, right as f64 / total as f64);
    let centre = p + Z * Z / (2.0 * n);
    let spread = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (((centre - spread) / scale).max(0.0), ((centre + spread) / scale).min(1.0))
}

/// `Avg`, the unweighted mean of accuracies, and `W-Avg`, weighted by the number of pairs; from `(accuracy, pairs)` of
/// splits. Both are 0 for no splits.
pub fn averages(splits: impl IntoIterator<Item = (f64, u64)> + Clone) -> (f64, f64) {
    let (count, sum) = splits.clone().into_iter().fold((0u64, 0.0), |(n, sum), (a, _)| (n + 1, sum + a));
    let (pairs, weighted) =
        splits.into_iter().fold((0u64, 0.0), |(n, sum), (a, m)| (n + m, sum + a * m as f64));
    let over = |sum: f64, n: u64| if n == 0 { 0.0 } else { sum / n as f64 };
    (over(sum, count), over(weighted, pairs))
}

/// The result of a judge. Those of judges that choose and of judges that give numbers have different chance levels, and are
/// not comparable.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// What guessing gives.
    pub chance: f64,
    /// By split.
    pub splits: Table,
    /// By what is wrong with the rejected response.
    pub error_types: Table,
    /// By third of intensity.
    pub intensity: Table,
    /// By third of complexity.
    pub complexity: Table,
    /// All pairs.
    pub all: Cell,
    /// Pairs that were not judged whole.
    pub excluded: u64,
    /// Accuracy with the chosen response first, and second.
    pub per_order: [Option<f64>; 2],
    /// The share of pairs of which the same response is chosen in both orders.
    pub consistency: Option<f64>,
    /// The share of readable answers that choose the first response.
    pub first_share: Option<f64>,
    /// How answers were read.
    pub levels: BTreeMap<Level, u64>,
    /// The mean length of answers.
    pub mean_tokens: Option<f64>,
}

impl Report {
    pub(super) fn new(chance: f64) -> Self {
        Report { chance, ..Report::default() }
    }

    pub(super) fn tally(&mut self, judged: &[(&BenchPair, bool)]) {
        let intensity = terciles(&judged.iter().map(|(p, _)| p.intensity).collect::<Vec<_>>());
        let complexity = terciles(&judged.iter().map(|(p, _)| p.complexity).collect::<Vec<_>>());
        for ((pair, right), (i, c)) in judged.iter().zip(intensity.into_iter().zip(complexity)) {
            self.all.add(*right);
            self.splits.entry(pair.split.clone()).or_default().add(*right);
            self.error_types.entry(pair.error_type.clone()).or_default().add(*right);
            self.intensity.entry(i.to_owned()).or_default().add(*right);
            self.complexity.entry(c.to_owned()).or_default().add(*right);
        }
    }

    /// `Avg` and `W-Avg`.
    pub fn averages(&self) -> (f64, f64) {
        averages(self.splits.values().map(|c| (c.accuracy(), c.total)).collect::<Vec<_>>())
    }

    /// The report as an object.
    pub fn to_val(&self) -> Val {
        let (avg, w_avg) = self.averages();
        let number = |x: Option<f64>| x.map_or(Val::Null, Val::Float);
        let table = |t: &Table| Val::dict(t.iter().map(|(k, c)| (k.as_str(), c.to_val())));
        let levels = self.levels.iter().map(|(level, n)| (level.name(), Val::int((*n).into())));
        Val::dict([
            ("chance", Val::Float(self.chance)),
            ("avg", Val::Float(avg)),
            ("w_avg", Val::Float(w_avg)),
            ("all", self.all.to_val()),
            ("excluded", Val::int(self.excluded.into())),
            ("splits", table(&self.splits)),
            ("error_types", table(&self.error_types)),
            ("intensity", table(&self.intensity)),
            ("complexity", table(&self.complexity)),
            ("per_order", Val::List(self.per_order.map(number).into())),
            ("consistency", number(self.consistency)),
            ("first_share", number(self.first_share)),
            ("levels", Val::dict(levels)),
            ("mean_tokens", number(self.mean_tokens)),
        ])
    }

    /// The report for a reader, in Markdown; `both_views` adds accuracies of single orders.
    pub fn to_markdown(&self, both_views: bool) -> String {
        let percent = |x: f64| format!("{:.2}", 100.0 * x);
        let (avg, w_avg) = self.averages();
        let mut out = String::from("| split | right | pairs | accuracy | 95 % |\n|---|---|---|---|---|\n");
        let mut row = |name: &str, c: Cell| {
            let (low, high) = wilson(c.right, c.total);
            let (low, high) = (percent(low), percent(high));
            _ = writeln!(
                out,
                "| {name} | {} | {} | {} | {low} to {high} |",
                c.right,
                c.total,
                percent(c.accuracy())
            );
        };
        self.splits.iter().for_each(|(name, c)| row(name, *c));
        row("all", self.all);
        let chance = percent(self.chance);
        _ = writeln!(
            out,
            "\nAvg {}, W-Avg {} (chance {chance}); {} pairs excluded",
            percent(avg),
            percent(w_avg),
            self.excluded
        );
        if let ([Some(first), Some(second)], true) = (self.per_order, both_views) {
            let (first, second) = (percent(first), percent(second));
            _ = writeln!(out, "one order alone (chance 50.00): chosen first {first}, chosen second {second}");
        }
        if let (Some(consistency), Some(first)) = (self.consistency, self.first_share) {
            _ = writeln!(out, "consistent {}, first position {}", percent(consistency), percent(first));
        }
        for (name, table) in [
            ("error type", &self.error_types),
            ("intensity", &self.intensity),
            ("complexity", &self.complexity),
        ] {
            for (key, c) in table {
                _ = writeln!(out, "{name} {key}: {} of {} pairs", percent(c.accuracy()), c.total);
            }
        }
        out
    }
}

impl Level {
    /// The level's name.
    pub fn name(self) -> &'static str {
        match self {
            Level::Strict => "strict",
            Level::Soft => "soft",
            Level::Failed => "failed",
        }
    }
}
