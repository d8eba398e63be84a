//! Importance-sampling correction for the gap between the engine that sampled (`μ`) and the one that trains
//! (`π_old`), and rejection of tokens or sequences where the gap is too wide.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::objective::{clamp, k3};

/// Which log-ratio the weight is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// `logp_old − logp_mu`: for objectives that contain `π_θ/π_old` already.
    Mismatch,
    /// `logp − logp_mu`, detached: for REINFORCE.
    Full,
}

/// Over what the log-ratio is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Each token.
    Token,
    /// The sum over the sequence: unbiased, its variance grows with length.
    SeqProduct,
    /// The mean over the sequence: biased, free of length.
    SeqGeo,
}

/// How extreme weights are tamed. Bounds are inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Control {
    /// The raw weight.
    None {},
    /// Clamped to `[min, max]` (TIS).
    Truncate {
        /// Upper bound.
        max: f64,
        /// Lower bound.
        #[serde(default)]
        min: f64,
    },
    /// Zero outside `[min, max]` (MIS, IcePop); denominators are unchanged.
    Mask {
        /// Lower bound.
        min: f64,
        /// Upper bound.
        max: f64,
    },
    /// Token weights, zero for sequences whose geometric mean lies outside `[min, max]`.
    SeqGeoBandTokenWeight {
        /// Lower bound.
        min: f64,
        /// Upper bound.
        max: f64,
    },
}

/// A correction: detached weights on the policy term.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Correction {
    /// The log-ratio.
    pub base: Base,
    /// Its level.
    pub level: Level,
    /// Bounds.
    pub control: Control,
    /// Divides the weights by their mean.
    #[serde(default)]
    pub batch_normalize: bool,
}

/// A criterion on `ρ = π_old/μ` that removes tokens or sequences from the mask.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Rejection {
    /// Keeps tokens with `lo ≤ ρ ≤ hi`.
    TokenRatio {
        /// Lower bound.
        lo: f64,
        /// Upper bound.
        hi: f64,
    },
    /// Keeps tokens with `(ln ρ)²/2 ≤ max`.
    TokenK2 {
        /// Upper bound.
        max: f64,
    },
    /// Keeps tokens with `ρ − 1 − ln ρ ≤ max`.
    TokenK3 {
        /// Upper bound.
        max: f64,
    },
    /// Keeps sequences whose geometric mean of `ρ` lies in `[lo, hi]`.
    SeqGeoRatio {
        /// Lower bound.
        lo: f64,
        /// Upper bound.
        hi: f64,
    },
    /// Keeps sequences whose product of `ρ` lies in `[lo, hi]`.
    SeqSumRatio {
        /// Lower bound.
        lo: f64,
        /// Upper bound.
        hi: f64,
    },
    /// Keeps sequences with a mean k3 of at most `max`.
    SeqMeanK3 {
        /// Upper bound.
        max: f64,
    },
    /// Keeps sequences with a largest k3 of at most `max`.
    SeqMaxK3 {
        /// Upper bound.
        max: f64,
    },
    /// Rejects a sequence with any `ρ < min`.
    Veto {
        /// Lower bound.
        min: f64,
    },
}

/// A weight, and whether a bound changed it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight {
    pub(crate) value: f64,
    pub(crate) bounded: bool,
}

impl Correction {
    /// The weights of one sequence from its log-ratios at valid tokens.
    pub(crate) fn weights(&self, log_ratios: &[f64], bound: Option<f64>) -> Vec<Weight> {
        let sum: f64 = log_ratios.iter().sum();
        let mean = if log_ratios.is_empty() { 0.0 } else { sum / log_ratios.len() as f64 };
        let exp = |x: f64| clamp(x, bound).0.exp();
        let control = |x: f64| match self.control {
            Control::None {} | Control::SeqGeoBandTokenWeight { .. } => Weight { value: x, bounded: false },
            Control::Truncate { max, min } => {
                Weight { value: x.clamp(min, max), bounded: x < min || x > max }
            }
            Control::Mask { min, max } => {
                let inside = min <= x && x <= max;
                Weight { value: if inside { x } else { 0.0 }, bounded: !inside }
            }
        };
        if let Control::SeqGeoBandTokenWeight { min, max } = self.control {
            let inside = min <= exp(mean) && exp(mean) <= max;
            let weight = |x: &f64| Weight { value: if inside { exp(*x) } else { 0.0 }, bounded: !inside };
            return log_ratios.iter().map(weight).collect();
        }
        let of = |x: &f64| match self.level {
            Level::Token => *x,
            Level::SeqProduct => sum,
            Level::SeqGeo => mean,
        };
        log_ratios.iter().map(|x| control(exp(of(x)))).collect()
    }
}

impl Rejection {
    /// Refuses bounds that no number or every number meets by mistake.
    pub(crate) fn check(&self) -> Result<()> {
        let bad = |name, value, expected| Err(Error::Parameter { name, value, expected });
        match *self {
            Self::TokenRatio { lo, hi } | Self::SeqGeoRatio { lo, hi } | Self::SeqSumRatio { lo, hi } => {
                match () {
                    () if lo.is_nan() || lo < 0.0 => bad("rejection.lo", lo, "0 or more"),
                    () if hi.is_nan() || hi < lo => bad("rejection.hi", hi, "lo or more"),
                    () => Ok(()),
                }
            }
            Self::TokenK2 { max }
            | Self::TokenK3 { max }
            | Self::SeqMeanK3 { max }
            | Self::SeqMaxK3 { max } => {
                if max >= 0.0 {
                    Ok(())
                } else {
                    bad("rejection.max", max, "0 or more")
                }
            }
            Self::Veto { min } => {
                if min >= 0.0 {
                    Ok(())
                } else {
                    bad("rejection.min", min, "0 or more")
                }
            }
        }
    }

    /// Clears `keep` where the criterion rejects; `log_rho` at valid tokens.
    pub(crate) fn apply(&self, log_rho: &[f64], keep: &mut [bool], bound: Option<f64>) {
        if log_rho.is_empty() {
            return;
        }
        let exp = |x: f64| clamp(x, bound).0.exp();
        let bounded_k3 = |x: &f64| k3(clamp(*x, bound).0);
        let sum: f64 = log_rho.iter().sum();
        let whole = |accept: bool, keep: &mut [bool]| {
            if !accept {
                keep.fill(false);
            }
        };
        let mut tokens = |accept: &dyn Fn(f64) -> bool| {
            for (keep, x) in keep.iter_mut().zip(log_rho) {
                *keep &= accept(*x);
            }
        };
        match *self {
            Self::TokenRatio { lo, hi } => tokens(&|x| lo <= exp(x) && exp(x) <= hi),
            Self::TokenK2 { max } => tokens(&|x| x * x / 2.0 <= max),
            Self::TokenK3 { max } => tokens(&|x| bounded_k3(&x) <= max),
            Self::SeqGeoRatio { lo, hi } => {
                let ratio = exp(sum / log_rho.len() as f64);
                whole(lo <= ratio && ratio <= hi, keep);
            }
            Self::SeqSumRatio { lo, hi } => whole(lo <= exp(sum) && exp(sum) <= hi, keep),
            Self::SeqMeanK3 { max } => {
                let mean = log_rho.iter().map(bounded_k3).sum::<f64>() / log_rho.len() as f64;
                whole(mean <= max, keep);
            }
            Self::SeqMaxK3 { max } => whole(log_rho.iter().map(bounded_k3).fold(0.0, f64::max) <= max, keep),
            Self::Veto { min } => whole(log_rho.iter().all(|x| exp(*x) >= min), keep),
        }
    }
}
