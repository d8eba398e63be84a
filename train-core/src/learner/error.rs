//! Why an update failed.

use crate::sample::Sample;
use crate::types::SampleKey;

/// Why an update failed.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// A sample whose experts are to be replayed has none recorded.
    #[error("update.routing: no experts are recorded for sample {} of prompt {} (epoch {})", .0.index, .0.prompt, .0.epoch)]
    NoRoutes(SampleKey),
    /// A sample's recorded experts cannot be replayed.
    #[error("update.routing: sample {} of prompt {} (epoch {}): {source}", key.index, key.prompt, key.epoch)]
    Routes {
        /// The sample.
        key: SampleKey,
        /// What is wrong with its trace.
        source: Box<moe_routing::Error>,
    },
    /// A sample that was drawn under a gate, without its masks.
    #[error("gate.replay: no masks are recorded for sample {} of prompt {} (epoch {})", .0.index, .0.prompt, .0.epoch)]
    NoMasks(SampleKey),
    /// A sample's recorded masks cannot be replayed.
    #[error("gate.replay: sample {} of prompt {} (epoch {}): {source}", key.index, key.prompt, key.epoch)]
    Masks {
        /// The sample.
        key: SampleKey,
        /// What is wrong with its masks.
        source: lcg::Error,
    },
    /// Routing refused.
    #[error(transparent)]
    Routing(#[from] moe_routing::Error),
    /// The model refused.
    #[error(transparent)]
    Model(#[from] qwen3::Error),
    /// The loss refused.
    #[error(transparent)]
    Loss(#[from] policy_loss::Error),
    /// candle refused.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl UpdateError {
    /// Names the sample whose sequence of a packed batch is at fault.
    pub(super) fn of_forward(error: qwen3::Error, samples: &[&Sample]) -> Self {
        match error {
            qwen3::Error::Routing(moe_routing::Error::Sequence { sequence, source })
                if sequence < samples.len() =>
            {
                Self::Routes { key: samples[sequence].key, source }
            }
            other => Self::Model(other),
        }
    }
}
