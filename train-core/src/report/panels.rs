//! Which charts a report has, as data: titles, definitions and the metrics each one draws.

use super::bars::{Quantiles, Stage};
use super::chart::{Extent, Figure, Line, LineChart};
use super::load::RunData;
use super::scale::Unit;

/// Colours of the palette; `report.css` defines as many.
pub(super) const COLOURS: usize = 8;
/// More curves in one chart cannot be told apart.
const LINES: usize = 6;
/// Charts in the routing panel; every metric is in the table of all metrics.
const ROUTE_CHARTS: usize = 12;

/// A chart of the learning curves.
pub(super) struct Panel {
    pub(super) title: &'static str,
    note: &'static str,
    unit: Unit,
    extent: Extent,
    pub(super) wide: bool,
    /// Metric name, with at most one `*`, and the curve's label: `*` stands for what the star matched, an empty label
    /// for the last part of the name.
    pub(super) metrics: &'static [(&'static str, &'static str)],
    /// Metrics of the lower and upper edge of a band behind the first curve.
    band: Option<(&'static str, &'static str)>,
}

const PLAIN: Panel = Panel {
    title: "",
    note: "",
    unit: Unit::Plain,
    extent: Extent::Zero,
    wide: false,
    metrics: &[],
    band: None,
};

/// The learning curves in reading order: did it learn, is it still exploring, is the update sound.
pub(super) const CURVES: &[Panel] = &[
    Panel {
        title: "Reward",
        note: "mean over the step's samples; band from the 10th to the 90th percentile",
        extent: Extent::Data,
        wide: true,
        metrics: &[("reward/mean", "train"), ("eval/*/reward", "*")],
        band: Some(("reward/p10", "reward/p90")),
        ..PLAIN
    },
    Panel {
        title: "Exact answers",
        note: "share of responses that are exactly right",
        unit: Unit::Share,
        extent: Extent::Unit,
        wide: true,
        metrics: &[("reward/exact_rate", "train"), ("reward/exact", "train"), ("eval/*/exact", "*")],
        ..PLAIN
    },
    Panel {
        title: "Entropy",
        note: "nats a token",
        metrics: &[("policy/entropy", "mean"), ("policy/entropy_p10", "p10")],
        ..PLAIN
    },
    Panel {
        title: "Clipped or gated tokens",
        note: "share of response tokens",
        unit: Unit::Share,
        metrics: &[("policy/clip*", ""), ("policy/gate*", "")],
        ..PLAIN
    },
    Panel {
        title: "Gradient norm",
        note: "before clipping",
        extent: Extent::ZeroOrLog,
        metrics: &[("optim/grad_norm", "norm")],
        ..PLAIN
    },
    Panel {
        title: "Response length",
        note: "tokens",
        metrics: &[("len/response_mean", "mean"), ("len/response_p95", "p95")],
        ..PLAIN
    },
    Panel { title: "Learning rate", note: "", metrics: &[("optim/lr", "rate")], ..PLAIN },
    Panel {
        title: "Engine mismatch",
        note: "sampling engine against trainer, nats a token",
        extent: Extent::ZeroOrLog,
        metrics: &[("mismatch/mean*", ""), ("mismatch/k1", "k1"), ("mismatch/k3", "k3")],
        ..PLAIN
    },
    Panel {
        title: "Divergence",
        note: "nats a token",
        extent: Extent::ZeroOrLog,
        metrics: &[
            ("policy/approx_kl", "approximate"),
            ("policy/kl_old", "to old"),
            ("policy/kl_ref", "to reference"),
        ],
        ..PLAIN
    },
    Panel {
        title: "Discrepancy and staleness",
        note: "k3, nats a token: sampler against trainer under the same weights, old policy against current",
        extent: Extent::ZeroOrLog,
        metrics: &[("mismatch/k3", "discrepancy"), ("policy/kl_old", "staleness")],
        ..PLAIN
    },
    Panel {
        title: "Ratio π_θ/π_old",
        note: "quantiles over tokens",
        extent: Extent::Data,
        metrics: &[("policy/ratio_p1", "p1"), ("policy/ratio_p50", "median"), ("policy/ratio_p99", "p99")],
        ..PLAIN
    },
    Panel {
        title: "Router flips",
        note: "share of tokens for which sampler and trainer choose other experts under the same weights",
        unit: Unit::Share,
        metrics: &[("mismatch/flip_tokens", "any layer"), ("mismatch/flip_share", "a layer")],
        ..PLAIN
    },
    Panel {
        title: "Effective sample size",
        note: "of the weights π_θ/μ, share of tokens",
        unit: Unit::Share,
        extent: Extent::Unit,
        metrics: &[("policy/ess", "share")],
        ..PLAIN
    },
    Panel {
        title: "Groups without signal",
        note: "all samples of the group have the same reward",
        unit: Unit::Share,
        extent: Extent::Unit,
        metrics: &[("group/zero_std_share", "share")],
        ..PLAIN
    },
    Panel { title: "Loss", note: "", extent: Extent::Data, metrics: &[("optim/loss", "loss")], ..PLAIN },
    Panel {
        title: "Throughput",
        note: "tokens a second",
        metrics: &[("perf/rollout_tokens_per_s", "rollout"), ("perf/train_tokens_per_s", "training")],
        ..PLAIN
    },
    Panel {
        title: "Memory",
        note: "MiB",
        metrics: &[("mem/rss_mib", "resident"), ("mem/peak_mib", "peak")],
        ..PLAIN
    },
];

/// What `*` in a pattern stands for in a name; `Some("")` for an equal name.
fn star<'a>(pattern: &str, name: &'a str) -> Option<&'a str> {
    match pattern.split_once('*') {
        None => (pattern == name).then_some(""),
        Some((head, tail)) => name.strip_prefix(head)?.strip_suffix(tail),
    }
}

impl Panel {
    /// The metrics of a run that this panel draws, with their labels.
    pub(super) fn found(&self, run: &RunData) -> Vec<(String, String)> {
        let mut found: Vec<(String, String)> = Vec::new();
        for (pattern, label) in self.metrics {
            for name in run.metrics.series.keys() {
                let Some(matched) = star(pattern, name) else { continue };
                let label = match *label {
                    "*" => matched.to_owned(),
                    "" => last_part(name),
                    label => label.to_owned(),
                };
                if !found.iter().any(|f| f.0 == *name || f.1 == label) {
                    found.push((name.clone(), label));
                }
            }
        }
        found.truncate(LINES);
        found
    }

    /// The empty chart of this panel.
    pub(super) fn chart(&self, id: String) -> LineChart {
        LineChart {
            id,
            title: self.title.to_owned(),
            note: self.note.to_owned(),
            unit: self.unit,
            extent: self.extent,
            wide: self.wide,
            ..LineChart::default()
        }
    }

    /// The chart of one run, with curriculum marks when it is a wide one.
    pub(super) fn of_run(&self, run: &RunData, id: String) -> LineChart {
        let mut chart = self.chart(id);
        for (colour, (metric, label)) in self.found(run).into_iter().enumerate() {
            let band = match self.band {
                Some(edges) if colour == 0 => band(run, edges),
                _ => Vec::new(),
            };
            chart.lines.push(Line { label, colour, points: run.points(&metric), band });
        }
        if self.wide {
            chart.marks = level_marks(run);
        }
        chart
    }
}

/// `clip_low` of `policy/clip_low`, in words.
fn last_part(name: &str) -> String {
    name.rsplit('/').next().unwrap_or(name).replace('_', " ")
}

fn band(run: &RunData, (low, high): (&str, &str)) -> Vec<(f64, f64, f64)> {
    let column = |name| run.metrics.series.get(name);
    let (Some(low), Some(high)) = (column(low), column(high)) else { return Vec::new() };
    let rows = run.metrics.steps.iter().zip(low).zip(high);
    rows.filter_map(|((&step, low), high)| Some((step as f64, (*low)?, (*high)?))).collect()
}

/// Steps at which the curriculum moved on: changes of `data/level`, else the events of kind `level`.
fn level_marks(run: &RunData) -> Vec<(f64, String)> {
    let levels = run.points("data/level");
    let mut marks: Vec<(f64, String)> = levels
        .windows(2)
        .filter(|pair| pair[0].1 != pair[1].1 && pair[1].1.is_finite())
        .map(|pair| (pair[1].0, format!("level {}", pair[1].1)))
        .collect();
    if levels.is_empty() {
        let events = run.events.iter().filter(|event| event.kind == "level");
        let label = |name: &str| if name.is_empty() { "next level".to_owned() } else { name.to_owned() };
        marks.extend(events.filter_map(|event| Some((event.step? as f64, label(&event.name)))));
    }
    marks
}

/// All learning curves that a run has data for.
pub(super) fn curves(run: &RunData) -> Vec<Figure> {
    let charts = CURVES.iter().enumerate().map(|(i, panel)| panel.of_run(run, format!("curve-{i}")));
    figures(charts.collect())
}

/// Charts laid out two wide ones a row, then narrow ones: a wide one without a partner becomes narrow.
pub(super) fn figures(mut charts: Vec<LineChart>) -> Vec<Figure> {
    charts.retain(LineChart::has_data);
    if charts.iter().filter(|chart| chart.wide).count() % 2 == 1
        && let Some(last) = charts.iter_mut().rev().find(|chart| chart.wide)
    {
        last.wide = false;
    }
    charts.into_iter().filter_map(LineChart::figure).collect()
}

/// One chart for each `route/` metric.
pub(super) fn routing(run: &RunData) -> Vec<Figure> {
    let names = run.metrics.series.keys().filter(|name| name.starts_with("route/"));
    let chart = |(i, name): (usize, &String)| {
        let title = sentence(&last_part(name));
        let share = name.contains("share") || name.contains("agreement");
        LineChart {
            id: format!("route-{i}"),
            note: name.clone(),
            unit: if share { Unit::Share } else { Unit::Plain },
            // Agreement lives close to one: from zero, nothing could be told of it.
            extent: if name.contains("agreement") { Extent::Data } else { Extent::Zero },
            lines: vec![Line { label: title.to_lowercase(), points: run.points(name), ..Line::default() }],
            title,
            ..LineChart::default()
        }
        .figure()
    };
    names.enumerate().filter_map(chart).take(ROUTE_CHARTS).collect()
}

/// The reward's parts in one chart, whatever their names.
pub(super) fn reward_parts(run: &RunData) -> Option<Figure> {
    let names = run.metrics.series.keys().filter_map(|name| {
        let part = name.strip_prefix("reward/part/").or_else(|| name.strip_prefix("reward/parts/"))?;
        Some((name, part))
    });
    let line = |(colour, (name, part)): (usize, (&String, &str))| Line {
        label: part.replace('_', " "),
        colour: colour % COLOURS,
        points: run.points(name),
        band: Vec::new(),
    };
    LineChart {
        id: "reward-parts".into(),
        title: "Reward by part".into(),
        note: "mean of each part before its weight".into(),
        wide: true,
        lines: names.enumerate().map(line).take(LINES).collect(),
        ..LineChart::default()
    }
    .figure()
}

/// First letter upper case.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Stages in the order in which a step runs them; others follow by name.
const STAGES: [&str; 14] = [
    "rollout",
    "reward",
    "logp",
    "forward",
    "backward",
    "optimiser",
    "optimizer",
    "update",
    "sync",
    "publish",
    "eval",
    "checkpoint",
    "log",
    "idle",
];

/// Seconds by stage from the `time/` metrics, step by step, and what `time/total` has beyond them as `other`.
///
/// `time/update` is left out when its own parts are recorded too, or they would count twice.
pub(super) fn stages(run: &RunData) -> Vec<Stage> {
    let seconds = |name: &str| -> Option<Vec<f64>> {
        let column = run.metrics.series.get(&format!("time/{name}"))?;
        Some(column.iter().map(|v| v.filter(|v| v.is_finite() && *v > 0.0).unwrap_or(0.0)).collect())
    };
    let has_parts =
        run.metrics.series.contains_key("time/forward") || run.metrics.series.contains_key("time/backward");
    let names = run.metrics.series.keys().filter_map(|name| name.strip_prefix("time/"));
    let mut names: Vec<&str> = names
        .filter(|name| *name != "total" && !name.contains('/') && !(has_parts && *name == "update"))
        .collect();
    names.sort_by_key(|name| (STAGES.iter().position(|s| s == name).unwrap_or(STAGES.len()), *name));
    let mut stages: Vec<Stage> = Vec::new();
    for name in names {
        let Some(seconds) = seconds(name) else { continue };
        if seconds.iter().any(|s| *s > 0.0) {
            stages.push(Stage { name: name.replace('_', " "), colour: 0, seconds });
        }
    }
    if let Some(total) = seconds("total") {
        let rest = |(row, total): (usize, &f64)| {
            (total - stages.iter().map(|s| s.seconds[row]).sum::<f64>()).max(0.0)
        };
        let other: Vec<f64> = total.iter().enumerate().map(rest).collect();
        if other.iter().sum::<f64>() > 0.005 * total.iter().sum::<f64>() {
            stages.push(Stage { name: "other".into(), colour: 0, seconds: other });
        }
    }
    for (i, stage) in stages.iter_mut().enumerate() {
        stage.colour = if stage.name == "other" { COLOURS } else { i % COLOURS };
    }
    stages
}

/// The recorded quantiles of a distribution, row by row; the 10th and 90th percentile stand in for missing extremes.
pub(super) fn quantiles(run: &RunData, area: &str) -> Vec<Option<Quantiles>> {
    let at = |name: &str, row: usize| -> Option<f64> {
        run.metrics.series.get(&format!("{area}{name}"))?[row].filter(|v| v.is_finite())
    };
    let row = |row| {
        let (p10, p50, p90) = (at("p10", row)?, at("p50", row)?, at("p90", row)?);
        let (min, max) = (at("min", row).unwrap_or(p10), at("max", row).unwrap_or(p90));
        Some([min, p10, p50, p90, max])
    };
    (0..run.metrics.steps.len()).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(series: &[(&str, &[f64])]) -> RunData {
        let mut run = RunData::default();
        for (name, values) in series {
            run.metrics.steps = (0..values.len() as u64).collect();
            run.metrics.series.insert((*name).to_owned(), values.iter().copied().map(Some).collect());
        }
        run
    }

    #[test]
    fn stars_match_names_and_give_labels() {
        assert_eq!(star("eval/*/exact", "eval/heldout/exact"), Some("heldout"));
        assert_eq!(star("eval/*/exact", "eval/heldout/reward"), None);
        assert_eq!(star("optim/lr", "optim/lr"), Some(""));
        let run = run(&[("policy/clip_high", &[0.1]), ("policy/clip_low", &[0.2])]);
        let labels: Vec<String> = CURVES[3].found(&run).into_iter().map(|f| f.1).collect();
        assert_eq!(labels, ["clip high", "clip low"]);
    }

    #[test]
    fn stages_never_count_twice_and_add_up_to_the_total() {
        let run = run(&[
            ("time/total", &[3.0, 4.0]),
            ("time/rollout", &[1.0, 1.0]),
            ("time/update", &[1.5, 1.5]),
            ("time/forward", &[0.5, 0.5]),
            ("time/backward", &[1.0, 1.0]),
        ]);
        let stages = stages(&run);
        let names: Vec<&str> = stages.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["rollout", "forward", "backward", "other"]);
        assert!((stages.iter().map(Stage::total).sum::<f64>() - 7.0).abs() < 1e-12);
    }

    #[test]
    fn wide_charts_come_in_pairs() {
        let wide = |run: &RunData| curves(run).iter().filter(|figure| figure.wide).count();
        assert_eq!(wide(&run(&[("reward/mean", &[0.1, 0.2])])), 0);
        assert_eq!(wide(&run(&[("reward/mean", &[0.1, 0.2]), ("reward/exact_rate", &[0.0, 0.1])])), 2);
    }

    #[test]
    fn a_level_is_marked_where_it_changes() {
        let run = run(&[("data/level", &[4.0, 4.0, 6.0, 6.0, 8.0])]);
        assert_eq!(level_marks(&run), [(2.0, "level 6".to_owned()), (4.0, "level 8".to_owned())]);
    }
}
