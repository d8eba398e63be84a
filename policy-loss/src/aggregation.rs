//! How token losses become one number: weights `ω` with explicit denominators.

use serde::{Deserialize, Serialize};

/// The weight of a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// `1 / tokens` (DAPO, CISPO).
    TokenMean,
    /// `1 / (groups · tokens of the group)` (DAPO as printed).
    GroupTokenMean,
    /// `1 / (sequences · tokens of the sequence)` (GRPO, GSPO, SAPO).
    SeqMeanTokenMean,
    /// `1 / sequences` (MiniRL, REINFORCE).
    SeqMeanTokenSum,
    /// `1 / (sequences · len)` (Dr.GRPO; `len` is the generation budget).
    SeqMeanTokenSumNorm {
        /// Constant length.
        len: f64,
    },
    /// `1`: the caller normalises.
    TokenSum,
}

/// Which sequences count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeqCount {
    /// Those with a valid token.
    #[default]
    NonEmpty,
    /// All rows.
    All,
}

/// Mode and what counts as a sequence. As data: `{ mode, len (for seq_mean_token_sum_norm), seq_count }`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Flat", into = "Flat")]
pub struct Aggregation {
    /// The weight of a token.
    pub mode: Mode,
    /// Which sequences are counted by the modes that divide by them.
    pub seq_count: SeqCount,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Name {
    TokenMean,
    GroupTokenMean,
    SeqMeanTokenMean,
    SeqMeanTokenSum,
    SeqMeanTokenSumNorm,
    TokenSum,
}

/// The form in files, where an unknown field is an error.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Flat {
    mode: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    len: Option<f64>,
    #[serde(default)]
    seq_count: SeqCount,
}

impl TryFrom<Flat> for Aggregation {
    type Error = &'static str;

    fn try_from(flat: Flat) -> Result<Self, Self::Error> {
        let mode = match (flat.mode, flat.len) {
            (Name::SeqMeanTokenSumNorm, Some(len)) => Mode::SeqMeanTokenSumNorm { len },
            (Name::SeqMeanTokenSumNorm, None) => return Err("seq_mean_token_sum_norm needs `len`"),
            (_, Some(_)) => return Err("`len` belongs to seq_mean_token_sum_norm"),
            (Name::TokenMean, None) => Mode::TokenMean,
            (Name::GroupTokenMean, None) => Mode::GroupTokenMean,
            (Name::SeqMeanTokenMean, None) => Mode::SeqMeanTokenMean,
            (Name::SeqMeanTokenSum, None) => Mode::SeqMeanTokenSum,
            (Name::TokenSum, None) => Mode::TokenSum,
        };
        Ok(Self { mode, seq_count: flat.seq_count })
    }
}

impl From<Aggregation> for Flat {
    fn from(aggregation: Aggregation) -> Self {
        let (mode, len) = match aggregation.mode {
            Mode::TokenMean => (Name::TokenMean, None),
            Mode::GroupTokenMean => (Name::GroupTokenMean, None),
            Mode::SeqMeanTokenMean => (Name::SeqMeanTokenMean, None),
            Mode::SeqMeanTokenSum => (Name::SeqMeanTokenSum, None),
            Mode::SeqMeanTokenSumNorm { len } => (Name::SeqMeanTokenSumNorm, Some(len)),
            Mode::TokenSum => (Name::TokenSum, None),
        };
        Self { mode, len, seq_count: aggregation.seq_count }
    }
}

impl From<Mode> for Aggregation {
    fn from(mode: Mode) -> Self {
        Self { mode, seq_count: SeqCount::default() }
    }
}

/// Global denominators. With them, losses and gradients of micro-batches and ranks add up to those of the whole
/// batch; what is `None` is counted in the call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalizer {
    /// Valid tokens.
    pub tokens: Option<f64>,
    /// Sequences.
    pub seqs: Option<f64>,
    /// Groups.
    pub groups: Option<f64>,
    /// Multiplies loss and gradients: the number of ranks where gradients are averaged instead of added.
    pub grad_world_scale: f64,
}

impl Default for Normalizer {
    fn default() -> Self {
        Self { tokens: None, seqs: None, groups: None, grad_world_scale: 1.0 }
    }
}

/// Resolved denominators of one call.
pub(crate) struct Denominators {
    pub(crate) tokens: f64,
    pub(crate) seqs: f64,
    pub(crate) groups: f64,
    /// Valid tokens of each sequence's group.
    pub(crate) group_tokens: Vec<f64>,
    pub(crate) scale: f64,
}

impl Denominators {
    /// The weight of every token of `sequence`, which has `n` valid tokens; 0 where a denominator is 0.
    pub(crate) fn weight(&self, mode: Mode, sequence: usize, n: f64) -> f64 {
        let divisor = match mode {
            Mode::TokenMean => self.tokens,
            Mode::GroupTokenMean => self.groups * self.group_tokens[sequence],
            Mode::SeqMeanTokenMean => self.seqs * n,
            Mode::SeqMeanTokenSum => self.seqs,
            Mode::SeqMeanTokenSumNorm { len } => self.seqs * len,
            Mode::TokenSum => 1.0,
        };
        if divisor > 0.0 { self.scale / divisor } else { 0.0 }
    }
}
