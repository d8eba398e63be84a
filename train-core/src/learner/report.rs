//! What an update did, and how far apart sampler, old policy and current policy were.

use moe_routing::{Coverage, Discrepancy};
use policy_loss::Metrics;

/// What a step of the learner did.
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
    /// Sum of the leak loss, nats, and the tokens it is of.
    pub leak: [f64; 2],
    /// Tokens that went through forward and backward.
    pub tokens: usize,
    /// The discrepancy: `π_old` against the sampler's `μ`, under the same weights.
    pub mismatch: Divergence,
    /// Discrepancy and staleness together: `π_θ` against `μ`, in the passes that trained.
    pub drift: Divergence,
    /// Seconds in old log-probabilities, forward, backward, optimiser.
    pub seconds: [f64; 4],
    /// The experts that were replayed, or recorded while sampling, against those that the logits of the passes that
    /// trained would choose.
    pub discrepancy: Discrepancy,
    /// The experts recorded while sampling against those that the trainer would choose under the same weights.
    pub flips: Discrepancy,
    /// Tokens whose experts could be replayed.
    pub coverage: Option<Coverage>,
    /// Largest load of an expert over the mean, and share of experts without a token, for models with experts.
    pub load: Option<(f64, f64)>,
}

/// How far a policy `p` is from the policy `q` that the tokens were drawn from, by log-ratios `log p − log q`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Divergence {
    tokens: f64,
    sum: f64,
    abs: f64,
    max: f64,
    k3: f64,
    weights: f64,
    squares: f64,
}

/// Log-ratios are bounded to ± this where their exponentials are only measured.
const MEASURABLE: f64 = 80.0;

impl Divergence {
    /// Takes in the tokens of one sample.
    pub fn add(&mut self, p: &[f32], q: &[f32]) {
        for (p, q) in p.iter().zip(q) {
            let d = f64::from(*p) - f64::from(*q);
            let bounded = d.clamp(-MEASURABLE, MEASURABLE);
            let weight = bounded.exp();
            self.tokens += 1.0;
            self.sum += d;
            self.abs += d.abs();
            self.max = self.max.max(d.abs());
            self.k3 += bounded.exp_m1() - bounded;
            self.weights += weight;
            self.squares += weight * weight;
        }
    }

    fn mean(&self, sum: f64) -> Option<f64> {
        (self.tokens > 0.0).then(|| sum / self.tokens)
    }

    /// Mean of `|log p − log q|`; `None` without tokens, as all that follow.
    #[must_use]
    pub fn mean_abs(&self) -> Option<f64> {
        self.mean(self.abs)
    }

    /// Largest of it.
    #[must_use]
    pub fn max_abs(&self) -> Option<f64> {
        self.mean(self.max * self.tokens)
    }

    /// k1 estimate of `KL(q‖p)`, nats a token.
    #[must_use]
    pub fn k1(&self) -> Option<f64> {
        self.mean(-self.sum)
    }

    /// k3 estimate of it, never negative.
    #[must_use]
    pub fn k3(&self) -> Option<f64> {
        self.mean(self.k3)
    }

    /// Effective sample size of the weights `p/q` as a share of the tokens.
    #[must_use]
    pub fn ess(&self) -> Option<f64> {
        self.mean(if self.squares > 0.0 { self.weights * self.weights / self.squares } else { 0.0 })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_divergence_is_that_of_its_definition() {
        let mut d = Divergence::default();
        assert_eq!((d.k1(), d.ess()), (None, None));
        d.add(&[-1.0, -2.0], &[-1.5, -1.0]);
        // Log-ratios 0.5 and −1.
        let close = |found: Option<f64>, want: f64| assert!((found.unwrap() - want).abs() < 1e-12);
        close(d.k1(), 0.25);
        close(d.mean_abs(), 0.75);
        close(d.max_abs(), 1.0);
        close(d.k3(), ((0.5f64.exp() - 1.5) + (-1f64).exp()) / 2.0);
        let (a, b) = (0.5f64.exp(), (-1f64).exp());
        close(d.ess(), (a + b).powi(2) / (a * a + b * b) / 2.0);
        let mut same = Divergence::default();
        same.add(&[-1.0; 3], &[-1.0; 3]);
        assert_eq!((same.k3(), same.max_abs(), same.ess()), (Some(0.0), Some(0.0), Some(1.0)));
    }
}
