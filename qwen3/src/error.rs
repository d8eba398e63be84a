//! What can go wrong with a model.

use std::path::{Path, PathBuf};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Input that does not fit the model.
    #[error("{0}")]
    Batch(String),
    /// A sequence longer than the configuration allows.
    #[error("{tokens} tokens are more than max_position_embeddings = {limit} (raise it to extrapolate)")]
    TooLong {
        /// Length of the sequence.
        tokens: usize,
        /// The configuration's limit.
        limit: usize,
    },
    /// A configuration that cannot be used, with the field that is at fault.
    #[error("model configuration: {field}: {reason}")]
    Config {
        /// The field of `config.json`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An architecture that this crate does not implement.
    #[error("unsupported architecture `{0}` (supported: llama, qwen3, qwen3_moe)")]
    UnsupportedArchitecture(String),
    /// Weights that do not fit the configuration; everything that is wrong, at once.
    #[error("{}: weights do not fit the configuration: {}", path.display(), problems.join("; "))]
    Weights {
        /// The directory.
        path: PathBuf,
        /// One line for each tensor at fault.
        problems: Vec<String>,
    },
    /// A file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file whose content is broken.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Parameters that the loss does not reach: they would silently never learn.
    #[error("no gradient reaches {}", .0.join(", "))]
    NoGradient(Vec<String>),
    /// The router of a layer refused.
    #[error("layer {layer}: {source}")]
    Router {
        /// The transformer layer, from 0.
        layer: usize,
        /// Why.
        source: moe_routing::Error,
    },
    /// Routes that do not fit the batch or the model.
    #[error(transparent)]
    Routing(#[from] moe_routing::Error),
    /// Positions or placeholders of visual items that do not fit together.
    #[error(transparent)]
    Positions(#[from] mrope::Error),
    /// An image or video that cannot be used.
    #[error("{item}: {reason}")]
    Visual {
        /// Which, such as `image 2`; without a number where there is only one.
        item: String,
        /// Why not.
        reason: String,
    },
    /// candle refused.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }

    pub(crate) fn format(path: &Path, reason: impl ToString) -> Self {
        Self::Format { path: path.to_path_buf(), reason: reason.to_string() }
    }

    pub(crate) fn visual(item: &str, reason: impl Into<String>) -> Self {
        Self::Visual { item: item.into(), reason: reason.into() }
    }

    /// The same of item `index` of its kind.
    pub(crate) fn of_item(self, kind: &str, index: usize) -> Self {
        match self {
            Self::Visual { reason, .. } => Self::Visual { item: format!("{kind} {index}"), reason },
            other => other,
        }
    }

    pub(crate) fn config(field: &str, reason: impl Into<String>) -> Self {
        Self::Config { field: field.into(), reason: reason.into() }
    }
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
