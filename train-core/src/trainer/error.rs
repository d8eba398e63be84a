//! Why a run stopped.

use std::path::PathBuf;

use crate::checkpoint::CheckpointError;
use crate::config::ConfigError;
use crate::data::DataError;
use crate::gate::GateError;
use crate::learner::UpdateError;
use crate::reward::RewardError;
use crate::rundir::StorageError;

/// Why a run stopped.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The rewards.
    #[error(transparent)]
    Reward(#[from] RewardError),
    /// The model.
    #[error(transparent)]
    Model(#[from] qwen3::Error),
    /// The sampler.
    #[error(transparent)]
    Engine(#[from] rollout_engine::Error),
    /// The gate.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// The update.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// The loss.
    #[error(transparent)]
    Loss(#[from] policy_loss::Error),
    /// A file.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A run that has another configuration than its checkpoint.
    #[error("{}: config.toml is not the one this checkpoint was made with (--allow-changes goes on with it)", path.display())]
    ChangedConfig {
        /// The run.
        path: PathBuf,
    },
    /// The sampler was asked before it was given weights.
    #[error("the sampler has no weights yet")]
    NoWeights,
    /// A guard, or a rule that protects the run.
    #[error("{name}: {message}")]
    Guard {
        /// Which.
        name: String,
        /// What was seen, and what to try.
        message: String,
    },
}
