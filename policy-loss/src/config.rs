//! A loss as data, checked before it can be run.

use serde::{Deserialize, Serialize};

use crate::advantage::AdvantageEstimator;
use crate::aggregation::{Aggregation, Mode};
use crate::compatibility;
use crate::correction::{Base, Control, Correction, Level, Rejection};
use crate::error::{Error, Result};
use crate::evaluate::PolicyLoss;
use crate::objective::{Objective, TruncationTarget};
use crate::penalty::{EntropyBonus, KlKind, KlPenalty};

/// What to do with a value at a valid position with which nothing can be computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NonFinitePolicy {
    /// An error that names it.
    #[default]
    Error,
    /// The token is masked and counted.
    DropToken,
    /// It is computed with.
    Propagate,
}

/// Drops sequences with a negative advantage that drifted from the behaviour policy (arXiv 2512.02556).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opsm {
    /// Largest mean of `logp_behaviour − logp`.
    pub delta: f64,
    /// Whether denominators still count dropped sequences.
    #[serde(default = "yes")]
    pub keeps_denominator: bool,
}

fn yes() -> bool {
    true
}

/// A policy loss. Check it with [`LossConfig::validate`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossConfig {
    /// The per-token loss.
    pub objective: Objective,
    /// How token losses become one.
    pub aggregation: Aggregation,
    /// Importance-sampling correction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correction: Option<Correction>,
    /// Rejection criteria; a token must pass all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejection: Vec<Rejection>,
    /// Penalty against a reference policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<KlPenalty>,
    /// Entropy bonus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy: Option<EntropyBonus>,
    /// Off-policy sequence mask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opsm: Option<Opsm>,
    /// Only tokens in the top share of the batch's entropies train (denominators unchanged).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy_top_share: Option<f64>,
    /// Log-weights are clamped to ± this before exponentials.
    #[serde(default = "default_clamp")]
    pub log_ratio_clamp: Option<f64>,
    /// Tokens with `max(ρ, 1/ρ)` above this, `ρ = π_old/μ`, count in the metric `mismatch/extreme_frac`.
    #[serde(default = "default_extreme")]
    pub extreme_ratio: f64,
    /// Values with which nothing can be computed.
    #[serde(default)]
    pub non_finite: NonFinitePolicy,
    /// Accepts log-probabilities above zero, which no distribution gives (for tests against other code).
    #[serde(default)]
    pub allow_positive_logp: bool,
    /// Takes `logp` itself for `logp_old`: the first update after a rollout.
    #[serde(default)]
    pub on_policy: bool,
    /// `logp_old` was taken from the sampling engine, so the ratio is `π_θ/μ` and no correction may follow.
    #[serde(default)]
    pub bypass: bool,
    /// Lets sequence-level objectives be weighted by length.
    #[serde(default)]
    pub allow_length_weighting: bool,
}

fn default_clamp() -> Option<f64> {
    Some(20.0)
}

fn default_extreme() -> f64 {
    2.0
}

/// Names that [`LossConfig::preset`] knows.
pub const PRESETS: [&str; 10] =
    ["sapo", "grpo", "dapo", "dr_grpo", "gspo", "cispo", "mini_rl", "grpo_tis", "icepop", "reinforce_is"];

impl LossConfig {
    /// A loss with everything optional off.
    pub fn new(objective: Objective, aggregation: impl Into<Aggregation>) -> Self {
        Self {
            objective,
            aggregation: aggregation.into(),
            correction: None,
            rejection: Vec::new(),
            kl: None,
            entropy: None,
            opsm: None,
            entropy_top_share: None,
            log_ratio_clamp: default_clamp(),
            extreme_ratio: default_extreme(),
            non_finite: NonFinitePolicy::Error,
            allow_positive_logp: false,
            on_policy: false,
            bypass: false,
            allow_length_weighting: false,
        }
    }

    /// A published recipe by name, with its advantage estimator. `max_len` is the generation budget that Dr.GRPO
    /// divides by. `minirl` is another name of `mini_rl`.
    pub fn preset(name: &str, max_len: usize) -> Result<(Self, AdvantageEstimator)> {
        let ppo = |clip_high| Objective::PpoClip { clip_low: 0.2, clip_high, dual_clip: None };
        let group_mean_std = AdvantageEstimator::GroupMeanStd { eps: 1e-6, ddof: 1 };
        let token = |base, control| Correction { base, level: Level::Token, control, batch_normalize: false };
        let new = Self::new;
        Ok(match name {
            "sapo" => {
                (new(Objective::Sapo { tau_pos: 1.0, tau_neg: 1.05 }, Mode::SeqMeanTokenMean), group_mean_std)
            }
            "grpo" => {
                let kl = KlPenalty { kind: KlKind::K3, beta: 0.04, clamp: true };
                (Self { kl: Some(kl), ..new(ppo(0.2), Mode::SeqMeanTokenMean) }, group_mean_std)
            }
            "dapo" => (new(ppo(0.28), Mode::TokenMean), group_mean_std),
            "dr_grpo" => {
                let mode = Mode::SeqMeanTokenSumNorm { len: max_len as f64 };
                (new(ppo(0.2), mode), AdvantageEstimator::GroupMean {})
            }
            "gspo" => (
                new(Objective::Gspo { clip_low: 3e-4, clip_high: 4e-4 }, Mode::SeqMeanTokenMean),
                group_mean_std,
            ),
            "cispo" => {
                (new(Objective::Cispo { ratio_min: 0.0, ratio_max: 5.0 }, Mode::TokenMean), group_mean_std)
            }
            "mini_rl" | "minirl" => {
                let objective = Objective::MiniRl {
                    clip_low: 0.2,
                    clip_high: 0.27,
                    cap: 5.0,
                    truncation_target: TruncationTarget::Full,
                    no_clip: false,
                    no_train_infer_is: false,
                };
                (new(objective, Mode::SeqMeanTokenSum), AdvantageEstimator::GroupMean {})
            }
            "grpo_tis" => {
                let correction = token(Base::Mismatch, Control::Truncate { max: 2.0, min: 0.0 });
                (Self { correction: Some(correction), ..new(ppo(0.28), Mode::TokenMean) }, group_mean_std)
            }
            "icepop" => {
                let correction = token(Base::Mismatch, Control::Mask { min: 0.5, max: 5.0 });
                (Self { correction: Some(correction), ..new(ppo(0.28), Mode::TokenMean) }, group_mean_std)
            }
            "reinforce_is" => {
                let correction = token(Base::Full, Control::Truncate { max: 5.0, min: 0.0 });
                let loss = new(Objective::Reinforce {}, Mode::SeqMeanTokenSum);
                (Self { correction: Some(correction), ..loss }, AdvantageEstimator::GroupMean {})
            }
            _ => return Err(Error::UnknownPreset { name: name.into(), known: PRESETS.join(", ") }),
        })
    }

    /// Mean `−log p` of all tokens, for supervised learning on sequences of advantage 1.
    pub fn cross_entropy() -> Self {
        Self { on_policy: true, ..Self::new(Objective::Reinforce {}, Mode::TokenMean) }
    }

    /// Whether it reads statistics of the whole batch that only a pass over all of it can give, so that the loss of a
    /// part needs [`Normalizer::entropy_threshold`](crate::Normalizer::entropy_threshold) or
    /// [`Normalizer::mean_weight`](crate::Normalizer::mean_weight).
    pub fn needs_batch_statistics(&self) -> bool {
        self.entropy_top_share.is_some() || self.correction.is_some_and(|c| c.batch_normalize)
    }

    /// Whether it reads the sampling engine's log-probabilities.
    pub fn needs_logp_mu(&self) -> bool {
        let mini_rl = matches!(self.objective, Objective::MiniRl { no_train_infer_is: false, .. });
        self.correction.is_some() || !self.rejection.is_empty() || mini_rl
    }

    /// Refuses parameters without a meaning and settings that do not go together.
    pub fn validate(self) -> Result<PolicyLoss> {
        self.check_objective()?;
        self.check_terms()?;
        compatibility::check(&self)?;
        Ok(PolicyLoss::new(self))
    }

    fn check_objective(&self) -> Result<()> {
        let at_least = |name, value: f64, min: f64, expected| {
            if value >= min { Ok(()) } else { Err(Error::Parameter { name, value, expected }) }
        };
        let positive = |name, value: f64| {
            if value > 0.0 {
                Ok(())
            } else {
                Err(Error::Parameter { name, value, expected: "a positive number" })
            }
        };
        let finite = |name, value: f64| {
            if value.is_infinite() {
                return Err(Error::Parameter { name, value, expected: "a finite number" });
            }
            positive(name, value)
        };
        let clips = |low, high| {
            at_least("objective.clip_low", low, 0.0, "0 or more")?;
            at_least("objective.clip_high", high, 0.0, "0 or more")
        };
        match self.objective {
            Objective::Reinforce {} => Ok(()),
            Objective::PpoClip { clip_low, clip_high, dual_clip } => {
                clips(clip_low, clip_high)?;
                match dual_clip {
                    Some(c) => at_least("objective.dual_clip", c, 1.0 + clip_high, "1 + clip_high or more"),
                    None => Ok(()),
                }
            }
            Objective::Gspo { clip_low, clip_high }
            | Objective::GspoToken { clip_low, clip_high }
            | Objective::Luspo { clip_low, clip_high }
            | Objective::Gmpo { clip_low, clip_high } => clips(clip_low, clip_high),
            Objective::Cispo { ratio_min, ratio_max } => {
                at_least("objective.ratio_min", ratio_min, 0.0, "0 or more")?;
                positive("objective.ratio_max", ratio_max)?;
                at_least("objective.ratio_max", ratio_max, ratio_min, "ratio_min or more")
            }
            Objective::MiniRl { clip_low, clip_high, cap, .. } => {
                clips(clip_low, clip_high)?;
                positive("objective.cap", cap)
            }
            Objective::Sapo { tau_pos, tau_neg } => {
                finite("objective.tau_pos", tau_pos)?;
                finite("objective.tau_neg", tau_neg)
            }
            Objective::DppoTv { delta_low, delta_high, cap }
            | Objective::DppoKl { delta_low, delta_high, cap } => {
                at_least("objective.delta_low", delta_low, 0.0, "0 or more")?;
                at_least("objective.delta_high", delta_high, 0.0, "0 or more")?;
                positive("objective.cap", cap)
            }
            Objective::Vespo { k_pos, lambda_pos, k_neg, lambda_neg } => {
                finite("objective.k_pos", k_pos)?;
                finite("objective.lambda_pos", lambda_pos)?;
                finite("objective.k_neg", k_neg)?;
                finite("objective.lambda_neg", lambda_neg)
            }
        }
    }

    fn check_terms(&self) -> Result<()> {
        let bad = |name, value, expected| Err(Error::Parameter { name, value, expected });
        if let Mode::SeqMeanTokenSumNorm { len } = self.aggregation.mode
            && !(len > 0.0 && len.is_finite())
        {
            return bad("aggregation.len", len, "a positive length");
        }
        if let Some(bound) = self.log_ratio_clamp
            && !(bound > 0.0 && bound <= 80.0)
        {
            return bad("log_ratio_clamp", bound, "above 0, at most 80");
        }
        if let Some(share) = self.entropy_top_share
            && !(share > 0.0 && share <= 1.0)
        {
            return bad("entropy_top_share", share, "above 0, at most 1");
        }
        if !(self.extreme_ratio >= 1.0 && self.extreme_ratio.is_finite()) {
            return bad("extreme_ratio", self.extreme_ratio, "a finite number of 1 or more");
        }
        let finite = |name, value: f64| {
            if value.is_finite() { Ok(()) } else { bad(name, value, "a finite number") }
        };
        self.kl.map_or(Ok(()), |k| k.check("kl.beta"))?;
        finite("entropy.coef", self.entropy.map_or(0.0, |e| e.coef))?;
        finite("opsm.delta", self.opsm.map_or(0.0, |o| o.delta))?;
        self.rejection.iter().try_for_each(Rejection::check)?;
        match self.correction.map(|c| c.control) {
            Some(
                Control::Truncate { max, min }
                | Control::Mask { min, max }
                | Control::SeqGeoBandTokenWeight { min, max },
            ) if !(min >= 0.0 && min <= max && max > 0.0) => {
                bad("correction.control.max", max, "positive and not below min")
            }
            _ => Ok(()),
        }
    }
}
