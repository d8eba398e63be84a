//! From rewards to advantages. Statistics in f64; groups may be ragged and in any order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A group-relative estimator. `R` is a sample's reward, `Ḡ` its group's mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum AdvantageEstimator {
    /// `(R − Ḡ) / (std + eps)` (GRPO, arXiv 2402.03300).
    GroupMeanStd {
        /// Added to the standard deviation.
        eps: f64,
        /// 1 for the sample, 0 for the population standard deviation.
        ddof: u8,
    },
    /// `R − Ḡ` (Dr.GRPO, MiniRL).
    GroupMean {},
    /// `(R − Ḡ) / (std of the whole batch + eps)`.
    GroupMeanBatchStd {
        /// Added to the standard deviation.
        eps: f64,
    },
    /// `R` minus the mean of the others (arXiv 2402.14740).
    Rloo {},
    /// `R` minus the length-weighted mean of the group (arXiv 2505.23585). Needs lengths.
    Opo {},
}

/// What a group of one sample gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SingletonPolicy {
    /// Advantage 0.
    #[default]
    Zero,
    /// Its reward.
    Raw,
    /// An error.
    Error,
}

/// Advantages of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupAdvantages {
    /// One a sample.
    pub values: Vec<f64>,
    /// Groups in which all rewards are equal, so that all advantages are 0.
    pub degenerate_groups: usize,
    /// All groups.
    pub groups: usize,
}

fn members(groups: &[u32]) -> BTreeMap<u32, Vec<usize>> {
    let mut members: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (i, group) in groups.iter().enumerate() {
        members.entry(*group).or_default().push(i);
    }
    members
}

/// Equal up to rounding: dividing the rounding noise of the mean by that of the standard deviation would make
/// advantages of any size out of nothing.
fn degenerate(rewards: &[f64], of: &[usize]) -> bool {
    let (mut low, mut high, mut size) = (f64::INFINITY, f64::NEG_INFINITY, 0.0f64);
    for &i in of {
        low = low.min(rewards[i]);
        high = high.max(rewards[i]);
        size = size.max(rewards[i].abs());
    }
    high - low <= 1e-9 + 1e-6 * size
}

/// Mean and standard deviation, computed relative to the first value so that large rewards keep their digits.
fn moments(rewards: &[f64], of: &[usize], ddof: u8) -> (f64, f64) {
    let n = of.len() as f64;
    let first = rewards[of[0]];
    let mean = first + of.iter().map(|i| (rewards[*i] - first) / n).sum::<f64>();
    let scale = of.iter().map(|i| (rewards[*i] - mean).abs()).fold(0.0, f64::max);
    if scale == 0.0 {
        return (mean, 0.0);
    }
    let squares: f64 = of.iter().map(|i| ((rewards[*i] - mean) / scale).powi(2)).sum();
    (mean, scale * (squares / (n - f64::from(ddof)).max(1.0)).sqrt())
}

fn check(rewards: &[f64], groups: &[u32], lengths: Option<&[usize]>) -> Result<()> {
    if groups.len() != rewards.len() {
        return Err(Error::Shape { what: "groups", found: groups.len(), expected: rewards.len() });
    }
    if let Some(lengths) = lengths
        && lengths.len() != rewards.len()
    {
        return Err(Error::Shape { what: "lengths", found: lengths.len(), expected: rewards.len() });
    }
    match rewards.iter().enumerate().find(|(_, r)| !r.is_finite()) {
        Some((index, value)) => Err(Error::Reward { index, value: *value }),
        None => Ok(()),
    }
}

impl AdvantageEstimator {
    /// Advantages of samples with `rewards` `[n]` in `groups` `[n]`; `lengths` `[n]` in tokens.
    pub fn estimate(
        &self,
        rewards: &[f64],
        groups: &[u32],
        lengths: Option<&[usize]>,
        singletons: SingletonPolicy,
    ) -> Result<GroupAdvantages> {
        check(rewards, groups, lengths)?;
        let members = members(groups);
        let all: Vec<usize> = (0..rewards.len()).collect();
        let batch_std = if all.is_empty() { 0.0 } else { moments(rewards, &all, 1).1 };
        let mut out =
            GroupAdvantages { values: vec![0.0; rewards.len()], degenerate_groups: 0, groups: members.len() };
        for (group, of) in &members {
            if of.len() == 1 {
                match singletons {
                    SingletonPolicy::Zero => out.degenerate_groups += 1,
                    SingletonPolicy::Raw => out.values[of[0]] = rewards[of[0]],
                    SingletonPolicy::Error => return Err(Error::Singleton { group: *group }),
                }
                continue;
            }
            if degenerate(rewards, of) {
                out.degenerate_groups += 1;
                continue;
            }
            let n = of.len() as f64;
            let ddof = if let Self::GroupMeanStd { ddof, .. } = self { *ddof } else { 1 };
            let (mean, std) = moments(rewards, of, ddof);
            let baseline = match (self, lengths) {
                (Self::Opo {}, None) => {
                    return Err(Error::Missing { what: "lengths", needed_by: "the opo estimator".into() });
                }
                (Self::Opo {}, Some(lengths)) => {
                    let tokens: f64 = of.iter().map(|i| lengths[*i] as f64).sum();
                    let weighted: f64 = of.iter().map(|i| lengths[*i] as f64 * rewards[*i]).sum();
                    if tokens > 0.0 { weighted / tokens } else { mean }
                }
                _ => mean,
            };
            for &i in of {
                let centred = rewards[i] - baseline;
                out.values[i] = match self {
                    Self::GroupMeanStd { eps, .. } => centred / (std + eps),
                    Self::GroupMeanBatchStd { eps } => centred / (batch_std + eps),
                    Self::Rloo {} => centred * n / (n - 1.0),
                    Self::GroupMean {} | Self::Opo {} => centred,
                };
            }
        }
        Ok(out)
    }
}

/// Which groups have anything to learn from (dynamic sampling, DAPO): one flag a group, by rising id.
pub fn dynamic_sampling_keep(rewards: &[f64], groups: &[u32]) -> Result<BTreeMap<u32, bool>> {
    check(rewards, groups, None)?;
    Ok(members(groups).into_iter().map(|(group, of)| (group, !degenerate(rewards, &of))).collect())
}

/// Advantages for several reward components: each is normalised by group, then weighted, added and whitened over
/// the batch, so that no component drowns another.
pub fn gdpo(components: &[&[f64]], weights: &[f64], groups: &[u32]) -> Result<Vec<f64>> {
    if components.len() != weights.len() {
        return Err(Error::Shape { what: "weights", found: weights.len(), expected: components.len() });
    }
    let estimator = AdvantageEstimator::GroupMeanStd { eps: 1e-6, ddof: 1 };
    let mut sum = vec![0.0; groups.len()];
    for (rewards, weight) in components.iter().zip(weights) {
        let advantages = estimator.estimate(rewards, groups, None, SingletonPolicy::Zero)?;
        for (sum, a) in sum.iter_mut().zip(advantages.values) {
            *sum += weight * a;
        }
    }
    let mask = vec![true; sum.len()];
    whiten(&mut sum, &mask);
    Ok(sum)
}

/// Shifts and scales valid values to mean 0 and (unbiased) variance 1. Over tokens, so that long responses weigh
/// more.
pub fn whiten(values: &mut [f64], mask: &[bool]) {
    let of: Vec<usize> = (0..values.len()).filter(|i| mask[*i]).collect();
    if of.is_empty() {
        return;
    }
    let (mean, std) = moments(values, &of, 1);
    let scale = (std * std + 1e-8).sqrt();
    for i in of {
        values[i] = (values[i] - mean) / scale;
    }
}

/// Returns-to-go of one sequence (REINFORCE++, arXiv 2501.03262). Masked tokens are passed through.
pub fn returns_to_go(rewards: &[f64], mask: &[bool], gamma: f64) -> Vec<f64> {
    let mut out = vec![0.0; rewards.len()];
    let mut running = 0.0;
    for t in (0..rewards.len()).rev().filter(|t| mask[*t]) {
        running = rewards[t] + gamma * running;
        out[t] = running;
    }
    out
}

/// Generalised advantages of one sequence and their returns `A + V` (arXiv 1506.02438). On masked (observation)
/// tokens the next value and advantage are carried through.
pub fn gae(rewards: &[f64], values: &[f64], mask: &[bool], gamma: f64, lambda: f64) -> (Vec<f64>, Vec<f64>) {
    let mut advantages = vec![0.0; rewards.len()];
    let mut returns = vec![0.0; rewards.len()];
    let (mut next_value, mut next_advantage) = (0.0, 0.0);
    for t in (0..rewards.len()).rev().filter(|t| mask[*t]) {
        let delta = rewards[t] + gamma * next_value - values[t];
        next_advantage = delta + gamma * lambda * next_advantage;
        next_value = values[t];
        advantages[t] = next_advantage;
        returns[t] = next_advantage + values[t];
    }
    (advantages, returns)
}

/// Penalty for a response of `len` tokens near its budget (DAPO, arXiv 2503.14476): 0 up to `budget − cache`, then
/// linear to −1 at `budget`.
pub fn overlong_penalty(len: usize, budget: usize, cache: usize) -> f64 {
    let free = budget.saturating_sub(cache);
    if len <= free {
        0.0
    } else if len <= budget {
        -((len - free) as f64) / cache.max(1) as f64
    } else {
        -1.0
    }
}

/// Clipped value loss of one token, `½·max((v−R)², (clip(v, v_old±ε)−R)²)`, and its gradient to `v`.
pub fn value_loss(value: f64, value_old: f64, ret: f64, clip: f64) -> (f64, f64) {
    let clipped = value.clamp(value_old - clip, value_old + clip);
    let (plain, bounded) = ((value - ret).powi(2), (clipped - ret).powi(2));
    if plain >= bounded { (0.5 * plain, value - ret) } else { (0.5 * bounded, 0.0) }
}
