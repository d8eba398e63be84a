//! KL penalties against a reference policy, and the entropy bonus.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::objective::{clamp, k3};

/// An estimator of the KL divergence from `x = logp − logp_ref` (Schulman 2020), with its gradient to `logp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlKind {
    /// `x`. Its expected gradient is zero: of no use inside a loss.
    K1,
    /// `x²/2`, gradient `x`: in expectation the gradient of `KL(π_θ‖π_ref)`.
    K2,
    /// `e^{−x} − 1 + x`, gradient `1 − e^{−x}`: in expectation the gradient of `KL(π_ref‖π_θ)`.
    K3,
    /// `|x|`.
    Abs,
    /// Value of K1, gradient of K2.
    K1Plus,
    /// Value of K3, gradient of K2.
    K3Plus,
    /// `r·k3` with the gradient through `r` (arXiv 2512.02556): unbiased off-policy.
    K3Is,
}

/// A KL penalty in the loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KlPenalty {
    /// The estimator.
    pub kind: KlKind,
    /// Its coefficient.
    pub beta: f64,
    /// `x` is clamped to ±20 and the estimate to ±10, without gradient where a clamp is active.
    #[serde(default = "yes")]
    pub clamp: bool,
}

fn yes() -> bool {
    true
}

/// Over which weights the entropy bonus is averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntropyAggregation {
    /// The mean over tokens, whatever the policy term does.
    #[default]
    TokenMean,
    /// As the policy term.
    SameAsPolicy,
}

/// An entropy bonus: subtracts `coef · mean entropy` from the loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntropyBonus {
    /// Its coefficient `γ`.
    pub coef: f64,
    /// The mean.
    #[serde(default)]
    pub aggregation: EntropyAggregation,
}

impl KlPenalty {
    pub(crate) fn check(&self, name: &'static str) -> Result<()> {
        if self.beta >= 0.0 && self.beta.is_finite() {
            return Ok(());
        }
        Err(Error::Parameter { name, value: self.beta, expected: "a finite number of 0 or more" })
    }

    /// Estimate and gradient to `logp`; `ratio` is `π_θ/π_old`, a constant where it is `saturated`.
    pub(crate) fn estimate(&self, log_ratio: f64, ratio: f64, saturated: bool) -> (f64, f64) {
        let (x, outside) = clamp(log_ratio, self.clamp.then_some(20.0));
        let (value, gradient) = match self.kind {
            KlKind::K1 => (x, 1.0),
            KlKind::K2 => (x * x / 2.0, x),
            KlKind::K3 => (k3(-x), -(-x).exp_m1()),
            KlKind::Abs => (x.abs(), if x == 0.0 { 0.0 } else { x.signum() }),
            KlKind::K1Plus => (x, x),
            KlKind::K3Plus => (k3(-x), x),
            // r·k3 has the gradient r·k3 through r, and r·(1 − e^{−x}) through k3: together r·x.
            KlKind::K3Is if saturated => (ratio * k3(-x), -ratio * (-x).exp_m1()),
            KlKind::K3Is => (ratio * k3(-x), ratio * x),
        };
        let (value, beyond) = clamp(value, self.clamp.then_some(10.0));
        (value, if outside || beyond { 0.0 } else { gradient })
    }
}
