//! The objectives: per-token loss and the coefficient of its gradient.

use serde::{Deserialize, Serialize};

use crate::compatibility::ObjectiveKind;
use crate::correction::Weight;

/// What the IS weight of MiniRL truncates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TruncationTarget {
    /// `π_θ/μ` (the reading of arXiv 2512.01374 used here).
    #[default]
    Full,
    /// `π_old/μ`, multiplied by the untruncated `π_θ/π_old`.
    Mismatch,
}

/// A policy objective as a value. `r = π_θ/π_old` by token, `A` the advantage; losses are minimised.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Objective {
    /// `−A·logp`.
    Reinforce {},
    /// PPO's clipped ratio (GRPO, DAPO, Dr.GRPO): `−min(r·A, clip(r, 1−low, 1+high)·A)`.
    PpoClip {
        /// `ε_low`.
        clip_low: f64,
        /// `ε_high`.
        clip_high: f64,
        /// Bound `c` on the loss of bad tokens that became likelier: with `A < 0` and `r > c` the loss is `−c·A`
        /// (dual clip, arXiv 1912.09729; the same function as the two-sided δ of INTELLECT-2).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dual_clip: Option<f64>,
    },
    /// One ratio a sequence, the geometric mean of the token ratios (arXiv 2507.18071).
    Gspo {
        /// `ε_low`.
        clip_low: f64,
        /// `ε_high`.
        clip_high: f64,
    },
    /// GSPO's ratio with token-wise advantages and gradients (arXiv 2507.18071 §4.3).
    GspoToken {
        /// `ε_low`.
        clip_low: f64,
        /// `ε_high`.
        clip_high: f64,
    },
    /// GSPO weighted by length.
    Luspo {
        /// `ε_low`.
        clip_low: f64,
        /// `ε_high`.
        clip_high: f64,
    },
    /// Geometric mean of one-sidedly clipped ratios (arXiv 2507.20673); clips are log-ratios.
    Gmpo {
        /// Lower bound of the log-ratio, as a positive number.
        clip_low: f64,
        /// Upper bound of the log-ratio.
        clip_high: f64,
    },
    /// `−sg[clip(r, min, max)]·A·logp`: clips the weight, never drops a token (arXiv 2506.13585).
    Cispo {
        /// Smallest weight.
        ratio_min: f64,
        /// Largest weight.
        ratio_max: f64,
    },
    /// The first-order surrogate of arXiv 2512.01374: `−M·sg[min(π_θ/μ, cap)]·A·logp`, where `M` drops what PPO
    /// would clip.
    MiniRl {
        /// `ε_low` of the mask.
        clip_low: f64,
        /// `ε_high` of the mask.
        clip_high: f64,
        /// Largest importance weight.
        cap: f64,
        /// What `cap` is applied to.
        #[serde(default)]
        truncation_target: TruncationTarget,
        /// Ablation: `M = 1`.
        #[serde(default)]
        no_clip: bool,
        /// Ablation: weight `r` in place of `π_θ/μ`.
        #[serde(default)]
        no_train_infer_is: bool,
    },
    /// Soft gate `−(4/τ)·σ(τ(r−1))·A` (arXiv 2511.20347).
    Sapo {
        /// `τ` where `A > 0`.
        tau_pos: f64,
        /// `τ` elsewhere.
        tau_neg: f64,
    },
    /// Trust region on the change of probability (arXiv 2602.04879).
    DppoTv {
        /// Largest loss of probability.
        delta_low: f64,
        /// Largest gain of probability.
        delta_high: f64,
        /// Largest weight.
        cap: f64,
    },
    /// Trust region on the binary KL divergence (arXiv 2602.04879).
    DppoKl {
        /// Largest divergence of a token that lost probability.
        delta_low: f64,
        /// Largest divergence of a token that gained probability.
        delta_high: f64,
        /// Largest weight.
        cap: f64,
    },
    /// Sequence weight `φ = exp(λ + k·ln W − λ·W)`, `W = Π r`.
    Vespo {
        /// `k` where `A ≥ 0`.
        k_pos: f64,
        /// `λ` where `A ≥ 0`.
        lambda_pos: f64,
        /// `k` where `A < 0`.
        k_neg: f64,
        /// `λ` where `A < 0`.
        lambda_neg: f64,
    },
}

/// Which side of a trust region a token fell out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clipped {
    High,
    Low,
}

/// What a token's loss is computed from. `delta` is the clamped log-ratio.
pub(crate) struct Token {
    pub(crate) logp: f64,
    pub(crate) logp_old: f64,
    pub(crate) delta: f64,
    pub(crate) saturated: bool,
    /// `logp_old − logp_mu`, 0 when there is none.
    pub(crate) mismatch: f64,
    pub(crate) advantage: f64,
}

/// What a sequence-coupled objective adds: log-ratios of the whole sequence.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sequence {
    /// Mean of the unclamped log-ratios.
    pub(crate) mean_delta: f64,
    /// Mean of GMPO's clipped log-ratios.
    pub(crate) mean_clipped: f64,
    /// Sum of the log-ratios, of the full ratio when a correction is on: `ln W` of VESPO.
    pub(crate) sum: f64,
    /// The same for `π_θ = π_old`.
    pub(crate) sum_at_start: f64,
}

/// A token's loss `ℓ` and the coefficient `c = −∂ℓ/∂logp`.
#[derive(Clone, Copy, Default)]
pub(crate) struct TokenLoss {
    pub(crate) loss: f64,
    pub(crate) coefficient: f64,
    pub(crate) clipped: Option<Clipped>,
    pub(crate) dual: bool,
    pub(crate) gate: Option<f64>,
    /// The importance weight that is part of the objective itself.
    pub(crate) weight: Option<Weight>,
}

/// Clamps a log-weight and says whether the clamp was active.
pub(crate) fn clamp(x: f64, bound: Option<f64>) -> (f64, bool) {
    match bound {
        Some(b) if x > b => (b, true),
        Some(b) if x < -b => (-b, true),
        _ => (x, false),
    }
}

/// `σ(x)` and `4σ(1−σ) = sech²(x/2)`, without overflow at any `x`.
pub(crate) fn sigmoid_and_gate(x: f64) -> (f64, f64) {
    let e = (-x.abs()).exp();
    let high = 1.0 / (1.0 + e);
    let sigma = if x >= 0.0 { high } else { e * high };
    (sigma, 4.0 * e * high * high)
}

/// `exp(x) − 1 − x`, exact near 0.
pub(crate) fn k3(x: f64) -> f64 {
    if x.abs() < 1e-4 { x * x / 2.0 + x * x * x / 6.0 } else { x.exp_m1() - x }
}

/// PPO's trust region on a log-ratio. Equality is inside.
fn region(log_ratio: f64, advantage: f64, clip_low: f64, clip_high: f64) -> Option<Clipped> {
    if advantage > 0.0 && log_ratio > clip_high.ln_1p() {
        Some(Clipped::High)
    } else if advantage < 0.0 && clip_low < 1.0 && log_ratio < (-clip_low).ln_1p() {
        Some(Clipped::Low)
    } else {
        None
    }
}

/// `−min(r·A, clip(r)·A)` with the clip bounds as the value where it is active.
fn clipped_ratio(log_ratio: f64, a: f64, clip_low: f64, clip_high: f64) -> TokenLoss {
    let ratio = log_ratio.exp();
    match region(log_ratio, a, clip_low, clip_high) {
        Some(side) => {
            let bound = if side == Clipped::High { 1.0 + clip_high } else { 1.0 - clip_low };
            TokenLoss { loss: -bound * a, clipped: Some(side), ..TokenLoss::default() }
        }
        None => TokenLoss { loss: -ratio * a, coefficient: ratio * a, ..TokenLoss::default() },
    }
}

fn weighted(weight: f64, token: &Token) -> TokenLoss {
    let c = weight * token.advantage;
    TokenLoss { loss: -c * token.logp, coefficient: c, ..TokenLoss::default() }
}

impl Objective {
    /// Which objective it is, without its parameters.
    pub fn kind(&self) -> ObjectiveKind {
        match self {
            Self::Reinforce {} => ObjectiveKind::Reinforce,
            Self::PpoClip { .. } => ObjectiveKind::PpoClip,
            Self::Gspo { .. } => ObjectiveKind::Gspo,
            Self::GspoToken { .. } => ObjectiveKind::GspoToken,
            Self::Luspo { .. } => ObjectiveKind::Luspo,
            Self::Gmpo { .. } => ObjectiveKind::Gmpo,
            Self::Cispo { .. } => ObjectiveKind::Cispo,
            Self::MiniRl { .. } => ObjectiveKind::MiniRl,
            Self::Sapo { .. } => ObjectiveKind::Sapo,
            Self::DppoTv { .. } => ObjectiveKind::DppoTv,
            Self::DppoKl { .. } => ObjectiveKind::DppoKl,
            Self::Vespo { .. } => ObjectiveKind::Vespo,
        }
    }

    /// Its name in configurations.
    pub fn name(&self) -> &'static str {
        self.kind().name()
    }

    /// GMPO's clipped log-ratio, and whether it was clipped.
    pub(crate) fn gmpo_log_ratio(&self, delta: f64, advantage: f64) -> (f64, Option<Clipped>) {
        match self {
            Self::Gmpo { clip_high, .. } if advantage > 0.0 && delta > *clip_high => {
                (*clip_high, Some(Clipped::High))
            }
            Self::Gmpo { clip_low, .. } if advantage < 0.0 && delta < -clip_low => {
                (-clip_low, Some(Clipped::Low))
            }
            _ => (delta, None),
        }
    }

    /// Loss and coefficient of one token. `bound` clamps log-weights before exponentials.
    pub(crate) fn token(&self, t: &Token, s: &Sequence, bound: Option<f64>) -> TokenLoss {
        let a = t.advantage;
        if a == 0.0 {
            return TokenLoss { gate: self.gate(t), weight: self.weight(t, bound), ..TokenLoss::default() };
        }
        let ratio = t.delta.exp();
        // Where a clamp is active the ratio is a constant, so nothing flows through it.
        let flow = |loss: TokenLoss, saturated: bool| TokenLoss {
            coefficient: if saturated { 0.0 } else { loss.coefficient },
            ..loss
        };
        match *self {
            Self::Reinforce {} => weighted(1.0, t),
            Self::PpoClip { clip_low, clip_high, dual_clip } => match dual_clip {
                Some(c) if a < 0.0 && t.delta > c.ln() => {
                    TokenLoss { loss: -c * a, dual: true, ..TokenLoss::default() }
                }
                _ => flow(clipped_ratio(t.delta, a, clip_low, clip_high), t.saturated),
            },
            Self::Gspo { clip_low, clip_high }
            | Self::GspoToken { clip_low, clip_high }
            | Self::Luspo { clip_low, clip_high } => {
                let (mean, saturated) = clamp(s.mean_delta, bound);
                flow(clipped_ratio(mean, a, clip_low, clip_high), saturated)
            }
            Self::Gmpo { .. } => {
                let (mean, saturated) = clamp(s.mean_clipped, bound);
                let (_, clipped) = self.gmpo_log_ratio(t.logp - t.logp_old, a);
                let value = mean.exp() * a;
                let coefficient = if clipped.is_some() { 0.0 } else { value };
                flow(TokenLoss { loss: -value, coefficient, clipped, ..TokenLoss::default() }, saturated)
            }
            Self::Cispo { ratio_min, ratio_max } => {
                let clipped = match ratio {
                    r if r > ratio_max => Some(Clipped::High),
                    r if r < ratio_min => Some(Clipped::Low),
                    _ => None,
                };
                TokenLoss { clipped, ..weighted(ratio.max(ratio_min).min(ratio_max), t) }
            }
            Self::MiniRl { clip_low, clip_high, no_clip, .. } => {
                let clipped = if no_clip { None } else { region(t.delta, a, clip_low, clip_high) };
                let weight = self.weight(t, bound);
                let kept = match (clipped, weight) {
                    (None, Some(weight)) => weighted(weight.value, t),
                    _ => TokenLoss::default(),
                };
                TokenLoss { clipped, weight, ..kept }
            }
            Self::Sapo { tau_pos, tau_neg } => {
                let tau = if a > 0.0 { tau_pos } else { tau_neg };
                let (sigma, gate) = sigmoid_and_gate(tau * (ratio - 1.0));
                let loss = TokenLoss {
                    loss: -(4.0 / tau) * sigma * a,
                    coefficient: a * ratio * gate,
                    gate: Some(gate),
                    ..TokenLoss::default()
                };
                flow(loss, t.saturated)
            }
            Self::DppoTv { delta_low, delta_high, cap } => {
                let change = t.logp.exp() - t.logp_old.exp();
                let clipped = match a {
                    a if a > 0.0 && change > delta_high => Some(Clipped::High),
                    a if a <= 0.0 && change < -delta_low => Some(Clipped::Low),
                    _ => None,
                };
                dppo(clipped, ratio, cap, t)
            }
            Self::DppoKl { delta_low, delta_high, cap } => {
                let divergence = binary_kl(t.logp_old, t.logp);
                let clipped = match a {
                    a if a > 0.0 && t.logp > t.logp_old && divergence > delta_high => Some(Clipped::High),
                    a if a <= 0.0 && t.logp < t.logp_old && divergence > delta_low => Some(Clipped::Low),
                    _ => None,
                };
                dppo(clipped, ratio, cap, t)
            }
            Self::Vespo { k_pos, lambda_pos, k_neg, lambda_neg } => {
                let (k, lambda) = if a >= 0.0 { (k_pos, lambda_pos) } else { (k_neg, lambda_neg) };
                let log_w = s.sum.max(1e-8f64.ln()).min(20.0);
                weighted((lambda + k * log_w - lambda * log_w.exp()).exp(), t)
            }
        }
    }

    /// MiniRL's detached importance weight.
    fn weight(&self, t: &Token, bound: Option<f64>) -> Option<Weight> {
        let Self::MiniRl { cap, truncation_target, no_train_infer_is, .. } = *self else { return None };
        let ratio = t.delta.exp();
        let exp = |x: f64| clamp(x, bound).0.exp();
        let capped = |w: f64| Weight { value: w.min(cap), bounded: w > cap };
        Some(match truncation_target {
            _ if no_train_infer_is => Weight { value: ratio, bounded: false },
            TruncationTarget::Full => capped(exp(t.logp - t.logp_old + t.mismatch)),
            TruncationTarget::Mismatch => {
                let weight = capped(exp(t.mismatch));
                Weight { value: ratio * weight.value, ..weight }
            }
        })
    }

    fn gate(&self, t: &Token) -> Option<f64> {
        match self {
            Self::Sapo { tau_neg, .. } => Some(sigmoid_and_gate(tau_neg * (t.delta.exp() - 1.0)).1),
            _ => None,
        }
    }
}

fn dppo(clipped: Option<Clipped>, ratio: f64, cap: f64, t: &Token) -> TokenLoss {
    match clipped {
        Some(_) => TokenLoss { clipped, ..TokenLoss::default() },
        None => weighted(ratio.min(cap), t),
    }
}

/// KL divergence of two coins with log-probabilities `p` and `q` of heads.
fn binary_kl(p: f64, q: f64) -> f64 {
    // Deterministic tokens would give ln 0.
    let tail = |logp: f64| (-logp.exp().min(1.0 - 1e-7)).ln_1p();
    p.exp() * (p - q) + tail(p).exp() * (tail(p) - tail(q))
}
