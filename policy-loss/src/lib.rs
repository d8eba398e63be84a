//! Policy-gradient objectives for language models.
//!
//! From per-token log-probabilities of sampled responses to a loss, its exact gradient and diagnostics: MiniRL
//! (arXiv 2512.01374), SAPO (2511.20347), GSPO (2507.18071), the GRPO family (2402.03300, 2503.14476, 2503.20783),
//! CISPO (2506.13585) and others, with importance-sampling correction for the gap between sampler and trainer.
//!
//! The one design decision: **every objective is a function of per-token log-probabilities (and entropies) alone**,
//! so the whole crate works on small `[tokens]` arrays and gives `∂L/∂logp` and `∂L/∂entropy`; what turns those into
//! gradients of logits is the same for all of them ([`logits`], and module `op` with the feature `candle`).
//!
//! A loss is data ([`LossConfig`]), checked once ([`LossConfig::validate`]); only the checked [`PolicyLoss`] can be
//! evaluated. Masked positions are never read, denominators can be global ([`Normalizer`]), metrics add up
//! ([`Metrics`]), so micro-batches and ranks reproduce the whole batch.
//!
//! ```
//! use policy_loss::{LossConfig, Normalizer, RewardBatch, SingletonPolicy, TokenBatch};
//! let (config, estimator) = LossConfig::preset("sapo", 16)?;
//! let loss = config.validate()?;
//! // Two samples of one prompt: 2 and 3 tokens.
//! let estimate = estimator.estimate(&RewardBatch::new(&[1.0, 0.0], &[0, 0]), SingletonPolicy::Zero)?;
//! let batch = TokenBatch {
//!     logp_old: Some(&[-0.5, -1.0, -0.7, -0.2, -1.1]),
//!     ..TokenBatch::new(&[0, 2, 5], &[-0.4, -1.1, -0.7, -0.3, -1.0], estimate.advantages())
//! };
//! let out = loss.evaluate(&batch, &Normalizer::default())?;
//! assert!(out.grad_logp[0] < 0.0, "the good sample's tokens become likelier");
//! assert!(out.metrics.get("gate/mean").unwrap() > 0.99);
//! # Ok::<(), policy_loss::Error>(())
//! ```

mod advantage;
mod aggregation;
mod batch;
mod compatibility;
mod config;
mod correction;
mod error;
mod evaluate;
mod head;
mod in_place;
#[cfg(any(test, feature = "cuda"))]
pub mod kernels;
mod linear;
pub mod logits;
mod measure;
mod metrics;
mod objective;
#[cfg(feature = "candle")]
pub mod op;
mod penalty;
pub mod reference;
mod returns;
mod row;
pub mod sources;
mod value;
mod vector;

pub use advantage::{
    AdvantageEstimator, AdvantageValues, Estimate, RewardBatch, SingletonPolicy, dynamic_sampling_keep,
    overlong_penalty,
};
pub use aggregation::{Aggregation, Mode, Normalizer, SeqCount};
pub use batch::{Advantages, Real, TokenBatch};
pub use compatibility::{Feature, ObjectiveKind, Support, Warning, support};
pub use config::{LossConfig, NonFinitePolicy, Opsm, PRESETS};
pub use correction::{Base, Control, Correction, Level, Rejection};
pub use error::{Error, Result};
pub use evaluate::{LossOutput, PolicyLoss};
pub use head::{LinearHead, LinearScores, LogitMask, Products};
pub use in_place::LogitsOutput;
pub use linear::LinearOutput;
pub use metrics::Metrics;
pub use objective::{Objective, TruncationTarget};
pub use penalty::{EntropyAggregation, EntropyBonus, KlKind, KlPenalty};
pub use value::{ValueBatch, value_loss};
