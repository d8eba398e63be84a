//! What one cell came to, as it is kept.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{ExperimentError, Setting};
use crate::report::RunData;

/// A finished cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// The setting's name.
    pub setting: String,
    /// Table, row and column.
    pub place: [String; 3],
    /// The seed.
    pub seed: u64,
    /// Digest of its configuration.
    pub config: String,
    /// `(optimiser steps, held-out exact rate)` of each evaluation.
    pub exact: Vec<(u64, f64)>,
    /// `(optimiser steps, mean training reward)` of each step.
    pub reward: Vec<(u64, f64)>,
    /// Means over its steps.
    pub diagnostics: Diagnostics,
    /// Seconds it took.
    pub seconds: f64,
    /// Why it ended before its last step.
    pub failure: Option<String>,
}

/// Means over a cell's steps; absent where nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Diagnostics {
    /// `mismatch/k3`.
    pub mismatch: Option<f64>,
    /// `policy/kl_old`.
    pub staleness: Option<f64>,
    /// `mismatch/flip_tokens`.
    pub flips: Option<f64>,
    /// `policy/clip_high` and `policy/clip_low` together.
    pub clipped: Option<f64>,
    /// `policy/entropy` of the last step.
    pub entropy: Option<f64>,
}

impl Outcome {
    pub(super) fn of_run(
        setting: &Setting,
        (seed, config): (u64, String),
        updates: u64,
        dir: &Path,
        seconds: f64,
        failure: Option<String>,
    ) -> Result<Self, ExperimentError> {
        let run = RunData::load(dir).map_err(|e| broken(dir, e))?;
        let curve = |name: &str| -> Vec<(u64, f64)> {
            run.points(name).into_iter().map(|(step, value)| (step as u64 * updates, value)).collect()
        };
        let mean = |name: &str| {
            let points = run.points(name);
            (!points.is_empty()).then(|| points.iter().map(|p| p.1).sum::<f64>() / points.len() as f64)
        };
        let clipped = match (mean("policy/clip_high"), mean("policy/clip_low")) {
            (None, None) => None,
            (high, low) => Some(high.unwrap_or(0.0) + low.unwrap_or(0.0)),
        };
        Ok(Self {
            setting: setting.name.clone(),
            place: setting.place.clone(),
            seed,
            config,
            exact: curve("eval/heldout/exact"),
            reward: curve("reward/mean"),
            diagnostics: Diagnostics {
                mismatch: mean("mismatch/k3"),
                staleness: mean("policy/kl_old"),
                flips: mean("mismatch/flip_tokens"),
                clipped,
                entropy: run.points("policy/entropy").last().map(|p| p.1),
            },
            seconds,
            failure,
        })
    }

    pub(super) fn read(file: &Path) -> Result<Self, ExperimentError> {
        let text = std::fs::read_to_string(file).map_err(|e| broken(file, e))?;
        serde_json::from_str(&text).map_err(|e| broken(file, e))
    }

    /// Mean held-out exact rate of the evaluations in the last quarter; 0 for a cell that broke down.
    #[must_use]
    pub fn last(&self) -> f64 {
        let end = self.exact.last().map_or(0, |(step, _)| *step);
        let late = self.exact.iter().filter(|(step, _)| 4 * step >= 3 * end).map(|(_, exact)| *exact);
        let late: Vec<f64> = late.collect();
        match self.failure {
            None if !late.is_empty() => late.iter().sum::<f64>() / late.len() as f64,
            _ => 0.0,
        }
    }

    /// The best held-out exact rate.
    #[must_use]
    pub fn best(&self) -> f64 {
        self.exact.iter().fold(0.0, |best, (_, exact)| best.max(*exact))
    }
}

fn broken(path: &Path, reason: impl ToString) -> ExperimentError {
    ExperimentError::Broken { path: path.to_path_buf(), reason: reason.to_string() }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [table, row, column] = &self.place;
        write!(
            f,
            "{table}, {row}, {column}, seed {}: exact {:.1} % (best {:.1} %), {:.0} s",
            self.seed,
            100.0 * self.last(),
            100.0 * self.best(),
            self.seconds
        )?;
        match &self.failure {
            Some(failure) => write!(f, "; ended early: {failure}"),
            None => Ok(()),
        }
    }
}
