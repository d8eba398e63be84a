//! What an update did, and how far the sampler was from the trainer.

use moe_routing::Discrepancy;
use policy_loss::Metrics;

use crate::sample::Sample;

#[derive(Clone, Debug, Default)]
pub struct UpdateReport {
    /// Diagnostics of all mini-batches.
    pub metrics: Metrics,
    /// Mean loss of the optimiser steps.
    pub loss: f64,
    /// Gradient norms before clipping, one an optimiser step.
    pub grad_norms: Vec<f64>,
    /// Optimiser steps skipped, with the reason.
    pub skipped: Vec<String>,
    /// Learning rate.
    pub lr: f64,
    /// Tokens that went through forward and backward.
    pub tokens: usize,
    /// Distance between sampler and trainer, measured on the first mini-batch.
    pub mismatch: Option<Mismatch>,
    /// Seconds in old log-probabilities, forward, backward, optimiser.
    pub seconds: [f64; 4],
    /// The experts that ran against those that the logits would choose, when routes are replayed.
    pub discrepancy: Discrepancy,
    /// Largest load of an expert over the mean, and share of experts without a token, for models with experts.
    pub load: Option<(f64, f64)>,
}

/// Distance between the sampler's log-probabilities and the trainer's under the same weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mismatch {
    /// Mean of `|log π_old − log μ|`.
    pub mean_abs: f64,
    /// Largest of it.
    pub max_abs: f64,
    /// k1 estimate of `KL(μ‖π_old)`.
    pub k1: f64,
    /// k3 estimate of it.
    pub k3: f64,
}

impl Mismatch {
    pub(super) fn measure(samples: &[&Sample], logp: &[Vec<f32>]) -> Self {
        let pairs = samples.iter().zip(logp).flat_map(|(s, logp)| logp.iter().zip(&s.logp_mu));
        let d: Vec<f64> = pairs.map(|(old, mu)| f64::from(*old) - f64::from(*mu)).collect();
        let mean = |f: &dyn Fn(f64) -> f64| d.iter().map(|d| f(*d)).sum::<f64>() / d.len().max(1) as f64;
        Self {
            mean_abs: mean(&f64::abs),
            max_abs: d.iter().fold(0.0, |m, d| m.max(d.abs())),
            k1: mean(&|d| -d),
            k3: mean(&|d| d.min(80.0).exp_m1() - d),
        }
    }
}
