//! How token losses become one number: weights `ω` with explicit denominators.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

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

    fn try_from(flat: Flat) -> std::result::Result<Self, Self::Error> {
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

/// What of a whole batch the loss of a part must know, so that losses and gradients of micro-batches and ranks add up
/// to those of the batch. What is `None` is counted in the call. [`PolicyLoss::normalizer`](crate::PolicyLoss::normalizer)
/// gives all of it for a batch that is at hand.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalizer {
    /// Valid tokens.
    pub tokens: Option<f64>,
    /// Sequences.
    pub seqs: Option<f64>,
    /// Groups.
    pub groups: Option<f64>,
    /// Valid tokens of each group, by its id: for [`Mode::GroupTokenMean`].
    pub group_tokens: Option<BTreeMap<u32, f64>>,
    /// Smallest entropy (nats) of a token that trains: for `entropy_top_share`.
    pub entropy_threshold: Option<f64>,
    /// Mean importance-sampling weight: for `batch_normalize`.
    pub mean_weight: Option<f64>,
    /// Multiplies loss and gradients: the number of ranks where gradients are averaged instead of added.
    pub grad_world_scale: f64,
}

impl Default for Normalizer {
    fn default() -> Self {
        Self {
            tokens: None,
            seqs: None,
            groups: None,
            group_tokens: None,
            entropy_threshold: None,
            mean_weight: None,
            grad_world_scale: 1.0,
        }
    }
}

impl Normalizer {
    /// The denominators of sequences with `counts` valid tokens each.
    pub(crate) fn count(counts: &[f64], groups: Option<&[u32]>, seq_count: SeqCount) -> Self {
        let non_empty = counts.iter().filter(|n| **n > 0.0).count();
        let group_tokens = groups.map(|groups| {
            let mut tokens = BTreeMap::new();
            for (group, n) in groups.iter().zip(counts) {
                *tokens.entry(*group).or_default() += n;
            }
            tokens
        });
        Self {
            tokens: Some(counts.iter().sum()),
            seqs: Some(if seq_count == SeqCount::All { counts.len() } else { non_empty } as f64),
            groups: group_tokens.as_ref().map(non_empty_groups),
            group_tokens,
            ..Self::default()
        }
    }

    /// What is given here, else what was counted.
    pub(crate) fn or(&self, counted: Self) -> Self {
        let groups = self.groups.or(self.group_tokens.as_ref().map(non_empty_groups));
        Self {
            tokens: self.tokens.or(counted.tokens),
            seqs: self.seqs.or(counted.seqs),
            groups: groups.or(counted.groups),
            group_tokens: self.group_tokens.clone().or(counted.group_tokens),
            entropy_threshold: self.entropy_threshold.or(counted.entropy_threshold),
            mean_weight: self.mean_weight.or(counted.mean_weight),
            grad_world_scale: self.grad_world_scale,
        }
    }

    /// Whether the call is a part of a larger batch.
    pub(crate) fn is_part(&self) -> bool {
        [self.tokens, self.seqs, self.groups].iter().any(Option::is_some) || self.group_tokens.is_some()
    }

    /// Refuses counts without a meaning.
    pub(crate) fn check(&self) -> Result<()> {
        let count = |name, value: Option<f64>| match value {
            Some(value) if !(value >= 0.0 && value.is_finite()) => {
                Err(Error::Parameter { name, value, expected: "a finite number of 0 or more" })
            }
            _ => Ok(()),
        };
        count("normalizer.tokens", self.tokens)?;
        count("normalizer.seqs", self.seqs)?;
        count("normalizer.groups", self.groups)?;
        count("normalizer.mean_weight", self.mean_weight)?;
        count("normalizer.grad_world_scale", Some(self.grad_world_scale))?;
        for tokens in self.group_tokens.iter().flat_map(BTreeMap::values) {
            count("normalizer.group_tokens", Some(*tokens))?;
        }
        match self.entropy_threshold {
            Some(value) if value.is_nan() => {
                let name = "normalizer.entropy_threshold";
                Err(Error::Parameter { name, value, expected: "a number" })
            }
            _ => Ok(()),
        }
    }

    /// Refuses what [`Mode::GroupTokenMean`] cannot be computed without.
    pub(crate) fn check_groups(&self, mode: Mode, groups: Option<&[u32]>) -> Result<()> {
        if mode != Mode::GroupTokenMean {
            return Ok(());
        }
        let missing = |what, needed_by: String| Err(Error::Missing { what, needed_by });
        let Some(groups) = groups else { return missing("groups", "group_token_mean".into()) };
        match &self.group_tokens {
            None if self.is_part() => {
                missing("normalizer.group_tokens", "group_token_mean of a part of a batch".into())
            }
            None => Ok(()),
            Some(tokens) => match groups.iter().find(|g| !tokens.contains_key(g)) {
                Some(group) => missing("an entry of normalizer.group_tokens", format!("group {group}")),
                None => Ok(()),
            },
        }
    }

    /// The weight of every token of a sequence of `group` with `n` valid tokens; 0 where a denominator is 0.
    pub(crate) fn weight(&self, mode: Mode, group: Option<u32>, n: f64) -> f64 {
        let of = |count: Option<f64>| count.unwrap_or(0.0);
        let divisor = match mode {
            Mode::TokenMean => of(self.tokens),
            Mode::GroupTokenMean => {
                let tokens = self.group_tokens.as_ref().zip(group).and_then(|(t, g)| t.get(&g));
                of(self.groups) * of(tokens.copied())
            }
            Mode::SeqMeanTokenMean => of(self.seqs) * n,
            Mode::SeqMeanTokenSum => of(self.seqs),
            Mode::SeqMeanTokenSumNorm { len } => of(self.seqs) * len,
            Mode::TokenSum => 1.0,
        };
        if divisor > 0.0 { self.grad_world_scale / divisor } else { 0.0 }
    }
}

fn non_empty_groups(tokens: &BTreeMap<u32, f64>) -> f64 {
    tokens.values().filter(|n| **n > 0.0).count() as f64
}
