//! How token losses become one number: weights `ω` with explicit denominators.

use serde::{Deserialize, Serialize};

/// The weight of a token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
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

/// Mode and what counts as a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Aggregation {
    /// The weight of a token.
    #[serde(flatten)]
    pub mode: Mode,
    /// Which sequences are counted by the modes that divide by them.
    #[serde(default)]
    pub seq_count: SeqCount,
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
