//! One HTML page that shows a run: what was learned, how it went, where the time went, what the policy wrote.
//!
//! A report is made from a run directory alone, finished or in progress, and is a single file: styles, charts and a
//! little script are within it, and nothing is fetched from anywhere. It is complete without JavaScript and in print;
//! the script adds the read-out under the pointer, the step selector and the memory of the chosen theme. Charts are
//! SVG drawn here, thinned so that ten thousand steps fit on a page of less than 2 MB, each with its numbers in a table.
//!
//! Deliberately absent: live updates, filters over all samples, any control of the run.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! std::fs::write(dir.join("metrics.jsonl"), "{\"step\":0,\"reward/mean\":0.1}\n{\"step\":1,\"reward/mean\":0.4}\n")?;
//! let run = train_core::report::RunData::load(dir)?;
//! assert_eq!(run.points("reward/mean"), [(0.0, 0.1), (1.0, 0.4)]);
//! let html = train_core::report::render(&[run], &Default::default())?;
//! assert!(html.contains("rose from 0.10 to 0.40"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bars;
mod chart;
mod headline;
mod load;
mod page;
mod panels;
mod rollouts;
mod samples;
mod scale;
mod series;

#[cfg(test)]
mod scale_tests;
#[cfg(test)]
mod synthetic;
#[cfg(test)]
mod tests;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Serialize;

pub use load::{Event, Metrics, RunData};
pub use rollouts::{Pick, RolloutStep, Sample};

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The directory has no `metrics.jsonl`.
    #[error("{} is not a run directory: it has no metrics.jsonl", dir.display())]
    NotARun {
        /// The directory looked into.
        dir: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// [`render`] was given no run.
    #[error("a report needs at least one run, got none")]
    NoRuns,
    /// The page's template failed, which is a defect of this crate.
    #[error("report template: {0}")]
    Template(#[from] minijinja::Error),
}

/// A setting that is not as in the preset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigChange {
    /// The dotted key, such as `update.lr`.
    pub key: String,
    /// The preset's value as TOML, empty when the preset does not set it.
    pub preset: String,
    /// The run's value as TOML.
    pub value: String,
}

/// What the caller knows and the run directory does not say.
#[derive(Clone, Debug, Default)]
pub struct ReportOptions {
    /// The settings in which the run departs from its preset. Not used when several runs are compared.
    pub config_changes: Vec<ConfigChange>,
}

/// The page of one run, or a comparison of several.
///
/// # Errors
/// [`ReportError::NoRuns`] when `runs` is empty.
pub fn render(runs: &[RunData], options: &ReportOptions) -> Result<String, ReportError> {
    match runs {
        [] => Err(ReportError::NoRuns),
        [run] => page::run_page(run, options),
        runs => page::compare_page(runs),
    }
}

/// Reads a run directory and writes its `report.html`; returns the file's path.
///
/// # Errors
/// As [`RunData::load`] and [`save`].
pub fn write(dir: impl AsRef<Path>, options: &ReportOptions) -> Result<PathBuf, ReportError> {
    let run = RunData::load(&dir)?;
    let path = dir.as_ref().join("report.html");
    save(&path, &render(&[run], options)?)?;
    Ok(path)
}

/// Writes a page whole or not at all: to a temporary name beside `path`, flushed to the disk, then renamed.
///
/// # Errors
/// [`ReportError::Io`] naming the file.
pub fn save(path: &Path, page: &str) -> Result<(), ReportError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let written = fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(page.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(|source| {
        // The write's own error is the one to report; a temporary file that cannot be removed either is only litter.
        let _ = fs::remove_file(&temporary);
        ReportError::Io { path: path.to_path_buf(), source }
    })
}

/// The learning curve as a standalone SVG picture, light or dark as the viewer prefers: mean reward with its band, and
/// exact answers in training and on held-out prompts, by step. `None` when the run has no finite reward.
#[must_use]
pub fn curve_svg(run: &RunData) -> Option<String> {
    let mut chart = panels::CURVES[0].of_run(run, "learning-curve".into());
    chart.lines.retain(|line| series::summary(&line.points).is_some());
    if chart.lines.is_empty() {
        return None;
    }
    chart.lines[0].label = "reward".into();
    let exact = panels::CURVES[1].of_run(run, String::new()).lines;
    for (index, mut line) in exact.into_iter().enumerate() {
        line.colour = (index + 1) % panels::COLOURS;
        line.label = if line.label == "train" { "exact".into() } else { format!("exact, {}", line.label) };
        chart.lines.push(line);
    }
    chart.lines.retain(|line| series::summary(&line.points).is_some());
    chart.title = format!("{}: learning curve", run.name);
    chart.extent = chart::Extent::Unit;
    Some(picture(&chart, 300))
}

/// A chart as a file of its own.
fn picture(chart: &chart::LineChart, height: u32) -> String {
    let style = format!("<style>{}{}</style>", include_str!("chart.css"), include_str!("picture.css"));
    let svg = chart.svg((820.0, f64::from(height)), &style);
    let size = format!("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"820\" height=\"{height}\" ");
    svg.replacen("<svg ", &size, 1)
}

/// A curve of [`shares_svg`].
#[derive(Clone, Debug, Default)]
pub struct Curve {
    /// Its name.
    pub label: String,
    /// `(step, share)` in step order.
    pub points: Vec<(f64, f64)>,
    /// `(step, low, high)` of the band behind it; of no more than one curve, or they hide each other.
    pub band: Vec<(f64, f64, f64)>,
}

/// Curves of shares by step as a standalone SVG picture; `None` when none has a finite point. Colours repeat after
/// eight.
#[must_use]
pub fn shares_svg(title: &str, note: &str, curves: Vec<Curve>) -> Option<String> {
    let lines = curves.into_iter().enumerate().map(|(i, c)| chart::Line {
        label: c.label,
        colour: i % panels::COLOURS,
        points: c.points,
        band: c.band,
    });
    let chart = chart::LineChart {
        id: "curves".into(),
        title: title.into(),
        note: note.into(),
        unit: scale::Unit::Share,
        extent: chart::Extent::Unit,
        lines: lines.filter(|line| series::summary(&line.points).is_some()).collect(),
        ..chart::LineChart::default()
    };
    (!chart.lines.is_empty()).then(|| picture(&chart, 260))
}
