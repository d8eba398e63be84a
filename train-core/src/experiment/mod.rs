//! Small, repeatable studies of the claims of papers, cell by cell.
//!
//! A cell is one [`Setting`] under one seed: a run from a model that all cells of its architecture share, which was
//! trained on right answers first. A finished cell is one file, `cells/<name>.json`, and is not run again; a cell that was
//! cut off starts anew. Seeds go round the whole grid before the next one begins, so that a study which was cut short
//! compares like with like.
//!
//! Deliberately absent: any choice of what a table means. [`tables`] gives means and intervals.

mod grid;
mod outcome;
mod picture;
mod table;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use grid::{Extent, Setting, Study};
pub use outcome::Outcome;
pub use picture::pictures;
pub use table::tables;

use crate::checkpoint;
use crate::config::{Config, ConfigError, Layers, Routing};
use crate::rundir::{RunDir, StorageError, write_whole};
use crate::trainer::{TrainError, Trainer};

/// Why a study cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// A setting is at fault.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The model that all cells start from could not be trained.
    #[error("the model that all cells start from: {0}")]
    Base(#[source] Box<TrainError>),
    /// A cell failed for a reason that says nothing of its setting.
    #[error("cell {cell}: {source}")]
    Cell {
        /// The cell.
        cell: String,
        /// The reason.
        source: Box<TrainError>,
    },
    /// A file.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A cell that was run under other settings.
    #[error("{}: this cell was run with other settings; another --output keeps both studies", .0.display())]
    OtherSettings(PathBuf),
    /// A file of a study that is not one.
    #[error("{}: {reason}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// How a study is to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which.
    pub study: Study,
    /// All of it or a part.
    pub extent: Extent,
    /// Where its files go.
    pub dir: PathBuf,
    /// Seeds of every setting.
    pub seeds: u64,
    /// Optimiser steps of a cell; `None`: the extent's own number.
    pub updates: Option<u64>,
    /// No cell begins, and none goes on, after this time.
    pub limit: Option<Duration>,
    /// `key=value` over every cell.
    pub set: Vec<String>,
}

/// What a study has come to.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The cells that are finished, in the order of the grid.
    pub outcomes: Vec<Outcome>,
    /// Cells of the grid.
    pub cells: usize,
}

/// Optimiser steps of a cell.
const UPDATES: u64 = 200;
const QUICK_UPDATES: u64 = 64;

impl Plan {
    fn updates(&self) -> u64 {
        self.updates.unwrap_or(match self.extent {
            Extent::Full => UPDATES,
            Extent::Quick => QUICK_UPDATES,
        })
    }

    fn layers(&self, moe: bool) -> Result<Layers, ConfigError> {
        let mut layers = Layers::preset("study")?;
        let name = if moe { "qwen3_moe" } else { "qwen3" };
        layers.set(&format!("model.architecture={name}"), "study")?;
        for set in &self.set {
            layers.set(set, "--set")?;
        }
        Ok(layers)
    }

    /// The configuration of a cell that starts from the model in `base`.
    ///
    /// # Errors
    /// When a setting has no meaning.
    fn config(&self, setting: &Setting, seed: u64, base: &Path) -> Result<Config, ConfigError> {
        let mut layers = self.layers(setting.moe)?;
        for set in &setting.set {
            layers.set(set, &setting.name)?;
        }
        let mut config = layers.resolve()?;
        let n = config.update.steps_a_batch() as u64;
        config.run.seed = seed;
        config.run.name = format!("{}-seed{seed}", setting.name);
        config.run.steps = self.updates().div_ceil(n);
        config.eval.every = (config.eval.every / n).max(1);
        config.warm_start.steps = 0;
        config.model.path = base.display().to_string();
        Ok(config)
    }

    /// Tells cells apart that were run under different settings, wherever their base lies.
    fn config_digest(&self, setting: &Setting, seed: u64) -> Result<String, ConfigError> {
        let config = self.config(setting, seed, Path::new("base"))?;
        Ok(checkpoint::digest(config.to_toml().as_bytes()))
    }

    /// Runs what is not finished yet; `say` hears of every cell.
    ///
    /// # Errors
    /// When a setting or a file is at fault. A policy that diverges is a result.
    pub fn run(&self, say: &mut dyn FnMut(&str)) -> Result<Progress, ExperimentError> {
        let start = Instant::now();
        let late = || self.limit.is_some_and(|limit| start.elapsed() >= limit);
        let settings = self.study.settings(self.extent);
        let cells: Vec<(u64, &Setting)> =
            (0..self.seeds).flat_map(|seed| settings.iter().map(move |s| (seed, s))).collect();
        let mut outcomes = Vec::new();
        for (index, (seed, setting)) in cells.iter().enumerate() {
            let file = self.dir.join("cells").join(format!("{}-seed{seed}.json", setting.name));
            if file.exists() {
                let outcome = Outcome::read(&file)?;
                if outcome.config != self.config_digest(setting, *seed)? {
                    return Err(ExperimentError::OtherSettings(file));
                }
                outcomes.push(outcome);
                continue;
            }
            if late() {
                continue;
            }
            let base = self.base(setting.moe, say)?;
            let Some(outcome) = self.cell(setting, *seed, &base, &late)? else { continue };
            let text = serde_json::to_string_pretty(&outcome).unwrap_or_default();
            write_whole(&file, text.as_bytes())?;
            say(&format!("{:>4}/{}  {outcome}", index + 1, cells.len()));
            outcomes.push(outcome);
        }
        Ok(Progress { outcomes, cells: cells.len() })
    }

    /// The model that all cells of an architecture start from: trained once, on right answers.
    fn base(&self, moe: bool, say: &mut dyn FnMut(&str)) -> Result<PathBuf, ExperimentError> {
        let name = if moe { "base-moe" } else { "base-dense" };
        let finished = self.dir.join(name);
        if finished.exists() {
            return Ok(finished);
        }
        let mut config = self.layers(moe)?.resolve()?;
        // What a study varies does not touch the supervised steps.
        (config.update.routing, config.update.minibatches) = (Routing::Natural, 1);
        say(&format!("{} supervised steps for {name}", config.warm_start.steps));
        let failed = |source| ExperimentError::Base(Box::new(source));
        let runs = self.dir.join("runs");
        let dir = RunDir::create(&runs, name)?;
        let made = Trainer::create(config, dir).and_then(|trainer| trainer.save()).map_err(failed)?;
        std::fs::create_dir_all(self.dir.join("cells")).map_err(StorageError::at(&self.dir))?;
        std::fs::rename(&made, &finished).map_err(StorageError::at(&finished))?;
        Ok(finished)
    }

    /// One cell; `None` when the time was up before it was finished.
    fn cell(
        &self,
        setting: &Setting,
        seed: u64,
        base: &Path,
        late: &dyn Fn() -> bool,
    ) -> Result<Option<Outcome>, ExperimentError> {
        let config = self.config(setting, seed, base)?;
        let name = config.run.name.clone();
        let fault = |source| ExperimentError::Cell { cell: name.clone(), source: Box::new(source) };
        let start = Instant::now();
        let dir = RunDir::create(&self.dir.join("runs"), &name)?;
        let path = dir.path().to_path_buf();
        let updates = config.update.steps_a_batch() as u64;
        let mut trainer = Trainer::create(config, dir).map_err(fault)?;
        trainer.before_first().map_err(fault)?;
        let mut failure = None;
        while !trainer.is_done() {
            if late() {
                return Ok(None);
            }
            match trainer.step() {
                Ok(_) => {}
                // What a diverged policy ends in.
                Err(
                    error @ (TrainError::Guard { .. }
                    | TrainError::Engine(rollout_engine::Error::NonFiniteLogits)
                    | TrainError::Loss(_)
                    | TrainError::Update(_)),
                ) => {
                    failure = Some(error.to_string());
                    break;
                }
                Err(error) => return Err(fault(error)),
            }
        }
        // The model is not needed any more, and a grid has many.
        let checkpoints = path.join("ckpt");
        std::fs::remove_dir_all(&checkpoints).map_err(StorageError::at(&checkpoints))?;
        let seconds = start.elapsed().as_secs_f64();
        let digest = self.config_digest(setting, seed)?;
        Outcome::of_run(setting, (seed, digest), updates, &path, seconds, failure).map(Some)
    }
}
