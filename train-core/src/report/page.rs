//! The pages: what the templates are given.

use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;

use super::bars::{Stage, heat, spark, stacked};
use super::chart::{Figure, Line, Table};
use super::headline::{self, EventRow, Tile};
use super::load::RunData;
use super::panels::{self, COLOURS, CURVES};
use super::samples::{self, StepView};
use super::scale::{Unit, duration, grouped};
use super::series::summary;
use super::{ConfigChange, ReportError, ReportOptions};

/// Above this many metrics their table has no small charts, or they would fill the page.
const SPARKS: usize = 240;

#[derive(Serialize)]
struct Assets {
    css: &'static str,
    js: &'static str,
}

const ASSETS: Assets = Assets {
    css: concat!(include_str!("chart.css"), include_str!("report.css")),
    js: include_str!("report.js"),
};

#[derive(Serialize)]
struct RunPage<'a> {
    assets: Assets,
    title: String,
    meta: Vec<String>,
    sentence: String,
    /// How much is discrepancy and how much staleness; nothing where neither is.
    verdict: Option<String>,
    progress: String,
    guards: Vec<String>,
    notes: &'a [String],
    tiles: Vec<Tile>,
    curves: Vec<Figure>,
    time: Option<TimeView>,
    heat: Option<Figure>,
    parts_chart: Option<Figure>,
    samples: Vec<StepView>,
    routing: Vec<Figure>,
    events: Vec<EventRow>,
    events_left_out: usize,
    areas: Vec<Area>,
    metric_count: usize,
    changes: &'a [ConfigChange],
    config: Option<&'a str>,
    facts: Vec<(String, String)>,
}

#[derive(Serialize)]
struct TimeView {
    figure: Figure,
    stages: Vec<StageRow>,
}

#[derive(Serialize)]
struct StageRow {
    name: String,
    colour: usize,
    total: String,
    share: String,
    /// Per cent of the longest stage, for the bar.
    width: f64,
}

#[derive(Serialize)]
struct Area {
    name: String,
    rows: Vec<MetricRow>,
}

#[derive(Serialize)]
struct MetricRow {
    name: String,
    spark: String,
    first: String,
    last: String,
    min: String,
    max: String,
    count: String,
}

/// The report of one run.
pub(super) fn run_page(run: &RunData, options: &ReportOptions) -> Result<String, ReportError> {
    let (events, events_left_out) = headline::events(run);
    let page = RunPage {
        assets: ASSETS,
        title: run.name.clone(),
        meta: meta(run),
        sentence: headline::sentence(run),
        verdict: headline::verdict(run),
        progress: headline::progress(run),
        guards: headline::guards(run),
        notes: &run.notes,
        tiles: headline::tiles(run),
        curves: panels::curves(run),
        time: time(run),
        heat: heat(
            "reward-heat",
            "Reward distribution",
            &run.metrics.steps,
            &panels::quantiles(run, "reward/"),
        ),
        parts_chart: panels::reward_parts(run),
        samples: samples::views(run),
        routing: panels::routing(run),
        events,
        events_left_out,
        areas: areas(run),
        metric_count: run.metrics.series.len(),
        changes: &options.config_changes,
        config: run.config_text.as_deref(),
        facts: facts(run),
    };
    fill("run.html", &page)
}

fn fill(template: &str, page: &impl Serialize) -> Result<String, ReportError> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_template("parts.html", include_str!("parts.html"))?;
    environment.add_template("base.html", include_str!("base.html"))?;
    environment.add_template("run.html", include_str!("run.html"))?;
    environment.add_template("compare.html", include_str!("compare.html"))?;
    Ok(environment.get_template(template)?.render(Serde(page))?)
}

fn meta(run: &RunData) -> Vec<String> {
    let preset = headline::fact(run, "preset").or_else(|| run.config.get("run.preset").cloned());
    let seed = headline::fact(run, "seed").or_else(|| run.config.get("run.seed").cloned());
    let mut meta = Vec::new();
    meta.extend(preset.filter(|preset| *preset != run.name).map(|preset| format!("preset {preset}")));
    meta.extend(seed.map(|seed| format!("seed {seed}")));
    meta.extend(run.facts.get("started").map(headline::date).filter(|date| !date.is_empty()));
    meta.extend(headline::fact(run, "version").map(|version| format!("version {version}")));
    meta
}

fn facts(run: &RunData) -> Vec<(String, String)> {
    let show = |(key, value): (&String, &serde_json::Value)| {
        let value = if key == "started" || key == "finished" {
            headline::date(value)
        } else {
            headline::plain(value)
        };
        (key.replace('_', " "), value)
    };
    let mut facts: Vec<(String, String)> =
        run.facts.iter().map(show).filter(|fact| !fact.1.is_empty()).collect();
    facts.push(("run directory".into(), run.dir.display().to_string()));
    facts
}

fn time(run: &RunData) -> Option<TimeView> {
    let stages = panels::stages(run);
    let figure = stacked("time", &run.metrics.steps, &stages)?;
    let all: f64 = stages.iter().map(Stage::total).sum();
    let longest = stages.iter().map(Stage::total).fold(0.0, f64::max);
    let row = |stage: &Stage| StageRow {
        name: stage.name.clone(),
        colour: stage.colour,
        total: duration(stage.total()),
        share: Unit::Share.show(stage.total() / all),
        width: (1000.0 * stage.total() / longest).round() / 10.0,
    };
    Some(TimeView { figure, stages: stages.iter().map(row).collect() })
}

/// Areas by interest; the others follow by name.
const AREAS: [&str; 16] = [
    "reward", "eval", "group", "len", "policy", "optim", "mismatch", "stale", "buffer", "route", "lcg",
    "data", "time", "perf", "mem", "guard",
];

fn areas(run: &RunData) -> Vec<Area> {
    let sparks = run.metrics.series.len() <= SPARKS;
    let mut areas: Vec<Area> = Vec::new();
    for (index, name) in run.metrics.series.keys().enumerate() {
        let (area, _) = name.split_once('/').unwrap_or(("other", name));
        let points = run.points(name);
        let s = summary(&points);
        let show = |pick: fn(&super::series::Summary) -> f64| {
            s.as_ref().map_or("–".into(), |s| Unit::Plain.show(pick(s)))
        };
        let finite = points.iter().filter(|p| p.1.is_finite()).count();
        let bad = points.len() - finite;
        let count = grouped(finite as f64);
        let row = MetricRow {
            name: name.clone(),
            spark: if sparks && finite > 1 {
                spark(&format!("spark-{index}"), name, &points)
            } else {
                String::new()
            },
            first: show(|s| s.first),
            last: show(|s| s.last),
            min: show(|s| s.min),
            max: show(|s| s.max),
            count: if bad > 0 { format!("{count} (+{bad} not finite)") } else { count },
        };
        match areas.iter_mut().find(|known| known.name == area) {
            Some(known) => known.rows.push(row),
            None => areas.push(Area { name: area.to_owned(), rows: vec![row] }),
        }
    }
    areas.sort_by_key(|area| {
        (AREAS.iter().position(|a| *a == area.name).unwrap_or(AREAS.len()), area.name.clone())
    });
    areas
}

#[derive(Serialize)]
struct ComparePage {
    assets: Assets,
    title: String,
    runs: Vec<RunRow>,
    curves: Vec<Figure>,
    differences: Table,
}

#[derive(Serialize)]
struct RunRow {
    label: String,
    colour: usize,
    progress: String,
    reward: Option<(String, String)>,
    exact: Option<(String, String)>,
    time: String,
    speed: String,
    parameters: String,
    guards: usize,
}

/// Several runs over one another.
pub(super) fn compare_page(runs: &[RunData]) -> Result<String, ReportError> {
    let labels = labels(runs);
    let row = |(index, run): (usize, &RunData)| RunRow {
        label: labels[index].clone(),
        colour: index % COLOURS,
        progress: headline::progress(run),
        reward: headline::from_to(run, "reward/mean", Unit::Plain),
        exact: headline::held_out(run).and_then(|metric| headline::from_to(run, &metric, Unit::Share)),
        time: headline::total_seconds(run).map_or_else(|| "–".into(), duration),
        speed: summary(&run.points("perf/rollout_tokens_per_s"))
            .map_or_else(|| "–".into(), |s| Unit::Plain.show(s.median)),
        parameters: headline::parameters(run).map_or_else(|| "–".into(), headline::compact),
        guards: headline::guards(run).len(),
    };
    let page = ComparePage {
        assets: ASSETS,
        title: format!("{} runs compared", runs.len()),
        runs: runs.iter().enumerate().map(row).collect(),
        curves: overlays(runs, &labels),
        differences: differences(runs, &labels),
    };
    fill("compare.html", &page)
}

/// Run names, with the directory where two are the same, and a number where that is the same too.
fn labels(runs: &[RunData]) -> Vec<String> {
    let mut labels: Vec<String> = Vec::new();
    for run in runs {
        let twice = runs.iter().filter(|other| other.name == run.name).count() > 1;
        let directory = run.dir.file_name().map(|name| name.to_string_lossy().into_owned());
        let base = if twice { directory.unwrap_or_else(|| run.name.clone()) } else { run.name.clone() };
        let mut label = base.clone();
        let mut number = 2;
        while labels.contains(&label) {
            label = format!("{base} {number}");
            number += 1;
        }
        labels.push(label);
    }
    labels
}

/// One chart for each metric of the panels that any run has.
fn overlays(runs: &[RunData], labels: &[String]) -> Vec<Figure> {
    let mut charts = Vec::new();
    for (number, panel) in CURVES.iter().enumerate() {
        let mut metrics: Vec<(String, String)> = Vec::new();
        for (metric, label) in runs.iter().flat_map(|run| panel.found(run)) {
            if !metrics.iter().any(|known| known.0 == metric) {
                metrics.push((metric, label));
            }
        }
        for (index, (metric, label)) in metrics.iter().enumerate() {
            let mut chart = panel.chart(format!("compare-{number}-{index}"));
            if metrics.len() > 1 {
                chart.title = format!("{}: {label}", panel.title);
            }
            chart.note = metric.clone();
            let line = |(colour, run): (usize, &RunData)| Line {
                label: labels[colour].clone(),
                colour: colour % COLOURS,
                points: run.points(metric),
                band: Vec::new(),
            };
            chart.lines = runs.iter().enumerate().map(line).collect();
            charts.push(chart);
        }
    }
    panels::figures(charts)
}

/// The settings in which the runs are not all alike.
fn differences(runs: &[RunData], labels: &[String]) -> Table {
    let mut keys: Vec<&String> = runs.iter().flat_map(|run| run.config.keys()).collect();
    keys.sort();
    keys.dedup();
    keys.retain(|key| runs.windows(2).any(|pair| pair[0].config.get(*key) != pair[1].config.get(*key)));
    let row = |key: &String| {
        let values = runs.iter().map(|run| run.config.get(key).cloned().unwrap_or_else(|| "not set".into()));
        std::iter::once(key.clone()).chain(values).collect()
    };
    Table {
        caption: "Settings that differ".into(),
        columns: std::iter::once("setting".to_owned()).chain(labels.iter().cloned()).collect(),
        rows: keys.into_iter().map(row).collect(),
    }
}
