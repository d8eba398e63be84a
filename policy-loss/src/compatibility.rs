//! What goes together: one cell for each objective and feature, and warnings for what is allowed but seldom meant.

use std::fmt;

use crate::aggregation::Mode;
use crate::config::LossConfig;
use crate::correction::{Base, Control, Level};
use crate::error::{Error, Result};
use crate::objective::Objective;

/// An objective without its parameters: a column of the compatibility table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "documented at the variants of `Objective`")]
pub enum ObjectiveKind {
    Reinforce,
    PpoClip,
    Gspo,
    GspoToken,
    Luspo,
    Gmpo,
    Cispo,
    MiniRl,
    Sapo,
    DppoTv,
    DppoKl,
    Vespo,
}

impl ObjectiveKind {
    /// All of them, in the order of the table's columns.
    pub const ALL: [Self; 12] = [
        Self::Reinforce,
        Self::PpoClip,
        Self::Gspo,
        Self::GspoToken,
        Self::Luspo,
        Self::Gmpo,
        Self::Cispo,
        Self::MiniRl,
        Self::Sapo,
        Self::DppoTv,
        Self::DppoKl,
        Self::Vespo,
    ];

    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reinforce => "reinforce",
            Self::PpoClip => "ppo_clip",
            Self::Gspo => "gspo",
            Self::GspoToken => "gspo_token",
            Self::Luspo => "luspo",
            Self::Gmpo => "gmpo",
            Self::Cispo => "cispo",
            Self::MiniRl => "mini_rl",
            Self::Sapo => "sapo",
            Self::DppoTv => "dppo_tv",
            Self::DppoKl => "dppo_kl",
            Self::Vespo => "vespo",
        }
    }

    /// Whether the loss of a token depends on the other tokens of its sequence.
    pub fn is_sequence_coupled(self) -> bool {
        self.has_sequence_ratio() || self == Self::Vespo
    }

    /// Whether it clips one ratio a sequence.
    pub(crate) fn has_sequence_ratio(self) -> bool {
        matches!(self, Self::Gspo | Self::GspoToken | Self::Luspo | Self::Gmpo)
    }

    /// The aggregation without which its sequences would be weighted by length.
    fn own_mode(self) -> Option<Mode> {
        match self {
            Self::Gspo | Self::Gmpo => Some(Mode::SeqMeanTokenMean),
            Self::Luspo => Some(Mode::SeqMeanTokenSum),
            _ => None,
        }
    }
}

/// Something an objective may or may not be combined with: a row of the compatibility table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Advantages that vary within a sequence.
    TokenAdvantages,
    /// Another aggregation than its own.
    OtherAggregation,
    /// Dual clip.
    DualClip,
    /// A correction of [`Base::Mismatch`].
    MismatchCorrection,
    /// A correction of [`Base::Full`].
    FullCorrection,
    /// Weights that vary within a sequence.
    TokenWeights,
    /// Weights of [`Level::SeqGeo`].
    GeoWeights,
    /// Weights with bounds.
    BoundedWeights,
    /// Weights divided by their mean.
    BatchNormalize,
    /// `logp_old` taken from the sampling engine.
    Bypass,
    /// Only tokens of high entropy train.
    EntropyTopShare,
    /// Rejection criteria.
    Rejection,
    /// The off-policy sequence mask.
    Opsm,
    /// A KL penalty.
    KlPenalty,
    /// An entropy bonus.
    EntropyBonus,
    /// `logp` taken for `logp_old`.
    OnPolicy,
}

/// A cell of the compatibility table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// They go together.
    Yes,
    /// Only where the configuration says that it is meant; why not else.
    OptIn(&'static str),
    /// They do not, and why.
    No(&'static str),
}

const YES: Support = Support::Yes;
const LENGTH: Support =
    Support::OptIn("it would weight sequences by length (allow_length_weighting permits it)");
const TOKENS: Support = Support::No("it has one ratio a sequence (use gspo_token)");
const SHARE: Support =
    Support::No("every token moves its one ratio, so leaving some out makes the gradient inexact");
const BUILT_IN: Support = Support::No("it contains the weight π_θ/μ already");
const LEFT_OUT: Support = Support::No("π_θ/π_old would be left out");
const TWICE: Support = Support::No("π_θ/π_old would be counted twice");
const PRODUCT: Support = Support::No("the plain product over the sequence goes into its ln W");
const NO_DUAL: Support = Support::No("only ppo_clip has a loss that it bounds");

/// Columns as in [`ObjectiveKind::ALL`].
#[rustfmt::skip]
const TABLE: [(Feature, [Support; 12]); 16] = [
    // reinforce, ppo_clip, gspo, gspo_token, luspo, gmpo, cispo, mini_rl, sapo, dppo_tv, dppo_kl, vespo
    (Feature::TokenAdvantages, [YES, YES, TOKENS, YES, TOKENS, TOKENS, YES, YES, YES, YES, YES, YES]),
    (Feature::OtherAggregation, [YES, YES, LENGTH, YES, LENGTH, LENGTH, YES, YES, YES, YES, YES, YES]),
    (Feature::DualClip, [NO_DUAL, YES, NO_DUAL, NO_DUAL, NO_DUAL, NO_DUAL, NO_DUAL, NO_DUAL, NO_DUAL, NO_DUAL, NO_DUAL, NO_DUAL]),
    (Feature::MismatchCorrection, [LEFT_OUT, YES, YES, YES, YES, YES, YES, BUILT_IN, YES, YES, YES, YES]),
    (Feature::FullCorrection, [YES, TWICE, TWICE, TWICE, TWICE, TWICE, TWICE, BUILT_IN, TWICE, TWICE, TWICE, TWICE]),
    (Feature::TokenWeights, [YES, YES, TOKENS, YES, TOKENS, TOKENS, YES, BUILT_IN, YES, YES, YES, PRODUCT]),
    (Feature::GeoWeights, [YES, YES, YES, YES, YES, YES, YES, BUILT_IN, YES, YES, YES, PRODUCT]),
    (Feature::BoundedWeights, [YES, YES, YES, YES, YES, YES, YES, BUILT_IN, YES, YES, YES, PRODUCT]),
    (Feature::BatchNormalize, [YES, YES, YES, YES, YES, YES, YES, BUILT_IN, YES, YES, YES, PRODUCT]),
    (Feature::Bypass, [YES, YES, YES, YES, YES, YES, YES, BUILT_IN, YES, YES, YES, YES]),
    (Feature::EntropyTopShare, [YES, YES, SHARE, YES, SHARE, SHARE, YES, YES, YES, YES, YES, YES]),
    (Feature::Rejection, [YES; 12]),
    (Feature::Opsm, [YES; 12]),
    (Feature::KlPenalty, [YES; 12]),
    (Feature::EntropyBonus, [YES; 12]),
    (Feature::OnPolicy, [YES; 12]),
];

impl Feature {
    /// All of them, in the order of the table's rows.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|(feature, _)| *feature)
    }

    /// What it is called in errors and in the README.
    pub fn name(self) -> &'static str {
        match self {
            Self::TokenAdvantages => "token-level advantages",
            Self::OtherAggregation => "another aggregation",
            Self::DualClip => "dual_clip",
            Self::MismatchCorrection => "correction base mismatch",
            Self::FullCorrection => "correction base full",
            Self::TokenWeights => "token-level weights",
            Self::GeoWeights => "weights of level seq_geo",
            Self::BoundedWeights => "bounded weights",
            Self::BatchNormalize => "batch_normalize",
            Self::Bypass => "bypass",
            Self::EntropyTopShare => "entropy_top_share",
            Self::Rejection => "rejection",
            Self::Opsm => "opsm",
            Self::KlPenalty => "kl",
            Self::EntropyBonus => "entropy",
            Self::OnPolicy => "on_policy",
        }
    }

    /// Whether a configuration uses it. [`Self::TokenAdvantages`] is a matter of the batch.
    fn is_used(self, config: &LossConfig) -> bool {
        let correction = config.correction;
        let band = |c: Control| matches!(c, Control::SeqGeoBandTokenWeight { .. });
        match self {
            Self::TokenAdvantages => false,
            Self::OtherAggregation => {
                config.objective.kind().own_mode().is_some_and(|own| own != config.aggregation.mode)
            }
            Self::DualClip => matches!(config.objective, Objective::PpoClip { dual_clip: Some(_), .. }),
            Self::MismatchCorrection => correction.is_some_and(|c| c.base == Base::Mismatch),
            Self::FullCorrection => correction.is_some_and(|c| c.base == Base::Full),
            Self::TokenWeights => correction.is_some_and(|c| c.level == Level::Token || band(c.control)),
            Self::GeoWeights => correction.is_some_and(|c| c.level == Level::SeqGeo),
            Self::BoundedWeights => correction.is_some_and(|c| c.control != Control::None {}),
            Self::BatchNormalize => correction.is_some_and(|c| c.batch_normalize),
            Self::Bypass => config.bypass,
            Self::EntropyTopShare => config.entropy_top_share.is_some(),
            Self::Rejection => !config.rejection.is_empty(),
            Self::Opsm => config.opsm.is_some(),
            Self::KlPenalty => config.kl.is_some(),
            Self::EntropyBonus => config.entropy.is_some(),
            Self::OnPolicy => config.on_policy,
        }
    }
}

/// Whether an objective goes together with a feature: the compatibility table.
pub fn support(objective: ObjectiveKind, feature: Feature) -> Support {
    TABLE[feature as usize].1[objective as usize]
}

/// Refuses what does not go together.
pub(crate) fn check(config: &LossConfig) -> Result<()> {
    let kind = config.objective.kind();
    let clash =
        |first: String, second: &str, why| Err(Error::Incompatible { first, second: second.into(), why });
    for feature in Feature::all().filter(|f| f.is_used(config)) {
        match support(kind, feature) {
            Support::Yes => {}
            // The one opt-in there is.
            Support::OptIn(_) if config.allow_length_weighting => {}
            Support::OptIn(why) | Support::No(why) => {
                return clash(format!("objective {}", kind.name()), feature.name(), why);
            }
        }
    }
    if config.bypass && config.correction.is_some() {
        return clash("bypass".into(), "a correction", "the ratio is π_θ/μ already");
    }
    Ok(())
}

/// Something allowed that is seldom meant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Warning {
    /// With `clip_low` of 1 or more no ratio is ever below the clip range.
    LowerClipOff {
        /// The value.
        clip_low: f64,
    },
    /// Weights that are products over long sequences: a systematic difference of 0.012 a token is e^1.2 after 100
    /// tokens, so bounds flatten or mask almost every sequence.
    LongSequenceProduct {
        /// Mean length of the batch's sequences, tokens.
        mean_len: f64,
    },
}

/// Mean length from which products over sequences are warned of, tokens.
const LONG: f64 = 512.0;

impl Warning {
    /// Those of a configuration for sequences of `mean_len` tokens on average.
    pub(crate) fn of(config: &LossConfig, mean_len: f64) -> Vec<Self> {
        let mut out = Vec::new();
        match config.objective {
            Objective::PpoClip { clip_low, .. }
            | Objective::Gspo { clip_low, .. }
            | Objective::GspoToken { clip_low, .. }
            | Objective::Luspo { clip_low, .. }
            | Objective::MiniRl { clip_low, .. }
                if clip_low >= 1.0 =>
            {
                out.push(Self::LowerClipOff { clip_low });
            }
            _ => {}
        }
        if config.correction.is_some_and(|c| c.level == Level::SeqProduct) && mean_len > LONG {
            out.push(Self::LongSequenceProduct { mean_len });
        }
        out
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LowerClipOff { clip_low } => {
                write!(
                    f,
                    "objective.clip_low is {clip_low}: no ratio is below 1 − clip_low, so nothing is clipped there"
                )
            }
            Self::LongSequenceProduct { mean_len } => write!(
                f,
                "correction.level is seq_product with {mean_len:.0} tokens a sequence on average: such products are extreme (use seq_geo or token)"
            ),
        }
    }
}
