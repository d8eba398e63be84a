//! From rewards to advantages. Statistics in f64; groups may be ragged and in any order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::batch::Advantages;
use crate::error::{Error, Result};
use crate::penalty::KlPenalty;
use crate::returns::{broadcast, gae, returns_to_go, token_rewards, whiten};

/// An estimator. `R` is a sample's reward, `Ḡ` its group's mean. Those of groups give one advantage a sample, the
/// others one a token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum AdvantageEstimator {
    /// `(R − Ḡ) / (std + eps)` (GRPO, arXiv 2402.03300).
    GroupMeanStd {
        /// Added to the standard deviation.
        #[serde(default = "default_eps")]
        eps: f64,
        /// 1 for the sample, 0 for the population standard deviation.
        #[serde(default = "default_ddof")]
        ddof: u8,
    },
    /// `R − Ḡ` (Dr.GRPO, MiniRL).
    GroupMean {},
    /// `(R − Ḡ) / (std of the whole batch + eps)`.
    GroupMeanBatchStd {
        /// Added to the standard deviation.
        #[serde(default = "default_eps")]
        eps: f64,
    },
    /// `R` minus the mean of the others (arXiv 2402.14740).
    Rloo {},
    /// `R` minus the length-weighted mean of the group (arXiv 2505.23585). Needs offsets.
    Opo {},
    /// [`GroupMeanStd`](Self::GroupMeanStd) of each reward component, weighted, added and whitened over the samples, so
    /// that no component drowns another. Needs components.
    Gdpo {
        /// Added to the standard deviations.
        #[serde(default = "default_eps")]
        eps: f64,
        /// 1 for the sample, 0 for the population standard deviation.
        #[serde(default = "default_ddof")]
        ddof: u8,
    },
    /// Returns-to-go of token rewards, whitened over the batch's tokens (REINFORCE++, arXiv 2501.03262). The reward
    /// falls on the last token. Needs offsets.
    ReinforcePp {
        /// Discount.
        #[serde(default = "one")]
        gamma: f64,
        /// Penalty in the reward: `−β·k(logp_old, logp_ref)` on each token.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kl: Option<KlPenalty>,
    },
    /// `R − Ḡ` on each token, whitened over the batch's tokens (arXiv 2501.03262). Needs offsets.
    ReinforcePpBaseline {},
    /// Generalised advantages of token rewards (arXiv 1506.02438). Needs offsets and values.
    Gae {
        /// Discount.
        #[serde(default = "one")]
        gamma: f64,
        /// Decay of the temporal differences.
        #[serde(default = "default_lambda")]
        lambda: f64,
        /// Whether the advantages are whitened over the batch's tokens.
        #[serde(default)]
        whiten: bool,
        /// Penalty in the reward: `−β·k(logp_old, logp_ref)` on each token.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kl: Option<KlPenalty>,
    },
    /// What the caller supplies.
    External {},
}

fn default_eps() -> f64 {
    1e-6
}

fn default_ddof() -> u8 {
    1
}

fn default_lambda() -> f64 {
    0.95
}

fn one() -> f64 {
    1.0
}

/// What a group of one sample gets from the estimators of groups.
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

/// What advantages are estimated from: `n` samples with `tokens` tokens in all, flat as in
/// [`TokenBatch`](crate::TokenBatch). Values at masked positions are never read.
#[derive(Clone, Copy, Debug, Default)]
pub struct RewardBatch<'a> {
    /// One a sample: `[n]`.
    pub rewards: &'a [f64],
    /// The prompt of each sample: `[n]`.
    pub groups: &'a [u32],
    /// Where each sample's tokens start, and the end: `[n + 1]`.
    pub offsets: Option<&'a [usize]>,
    /// Which tokens were sampled by the policy: `[tokens]`; all when absent.
    pub mask: Option<&'a [bool]>,
    /// `log π_old`, nats: `[tokens]`. For a penalty in the reward.
    pub logp_old: Option<&'a [f64]>,
    /// `log π_ref`, nats: `[tokens]`. For a penalty in the reward.
    pub logp_ref: Option<&'a [f64]>,
    /// The critic's estimates: `[tokens]`.
    pub values: Option<&'a [f64]>,
    /// Weight and rewards `[n]` of each component of the reward.
    pub components: &'a [(f64, &'a [f64])],
    /// Advantages from elsewhere.
    pub external: Option<Advantages<'a, f64>>,
}

/// Advantages of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// The advantages.
    pub values: AdvantageValues,
    /// Of token rewards: `[tokens]` before whitening, `A + V` for GAE (what a critic learns), else the returns-to-go.
    pub returns: Option<Vec<f64>>,
    /// Groups in which all rewards are equal up to rounding.
    pub degenerate_groups: usize,
    /// All groups.
    pub groups: usize,
}

/// Owned [`Advantages`].
#[derive(Clone, Debug, PartialEq)]
pub enum AdvantageValues {
    /// `[n]`.
    PerSequence(Vec<f64>),
    /// `[tokens]`; 0 at masked positions.
    PerToken(Vec<f64>),
}

impl Estimate {
    /// One advantage a sample.
    ///
    /// # Errors
    /// When there is one a token.
    pub fn into_sequences(self) -> Result<Vec<f64>> {
        match self.values {
            AdvantageValues::PerSequence(values) => Ok(values),
            AdvantageValues::PerToken(_) => Err(Error::Incompatible {
                first: "an estimator that gives one advantage a token".into(),
                second: "samples that carry one".into(),
                why: "the tokens' differences would be lost",
            }),
        }
    }

    /// As an evaluation wants them.
    pub fn advantages(&self) -> Advantages<'_, f64> {
        match &self.values {
            AdvantageValues::PerSequence(values) => Advantages::PerSequence(values),
            AdvantageValues::PerToken(values) => Advantages::PerToken(values),
        }
    }
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
pub(crate) fn moments(rewards: &[f64], of: &[usize], ddof: u8) -> (f64, f64) {
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

fn check_rewards(rewards: &[f64], expected: usize) -> Result<()> {
    if rewards.len() != expected {
        return Err(Error::Shape { what: "rewards", found: rewards.len(), expected });
    }
    match rewards.iter().enumerate().find(|(_, r)| !r.is_finite()) {
        Some((index, value)) => Err(Error::Reward { index, value: *value }),
        None => Ok(()),
    }
}

impl AdvantageEstimator {
    /// Refuses parameters without a meaning.
    pub fn validate(&self) -> Result<()> {
        let within = |name, value: f64, high: f64, expected| {
            if (0.0..=high).contains(&value) {
                Ok(())
            } else {
                Err(Error::Parameter { name, value, expected })
            }
        };
        let eps = |eps| within("estimator.eps", eps, f64::MAX, "a finite number of 0 or more");
        let ddof = |ddof| within("estimator.ddof", f64::from(ddof), 1.0, "0 or 1");
        let share = |name, value| within(name, value, 1.0, "0 to 1");
        let penalty = |kl: Option<KlPenalty>| kl.map_or(Ok(()), |kl| kl.check("estimator.kl.beta"));
        match *self {
            Self::GroupMeanStd { eps: e, ddof: d } | Self::Gdpo { eps: e, ddof: d } => {
                eps(e)?;
                ddof(d)
            }
            Self::GroupMeanBatchStd { eps: e } => eps(e),
            Self::ReinforcePp { gamma, kl } => {
                share("estimator.gamma", gamma)?;
                penalty(kl)
            }
            Self::Gae { gamma, lambda, kl, .. } => {
                share("estimator.gamma", gamma)?;
                share("estimator.lambda", lambda)?;
                penalty(kl)
            }
            Self::GroupMean {}
            | Self::Rloo {}
            | Self::Opo {}
            | Self::ReinforcePpBaseline {}
            | Self::External {} => Ok(()),
        }
    }

    /// Whether it gives one advantage a token ([`External`](Self::External) may).
    pub fn is_token_level(&self) -> bool {
        matches!(
            self,
            Self::ReinforcePp { .. } | Self::ReinforcePpBaseline {} | Self::Gae { .. } | Self::External {}
        )
    }

    /// The advantages of a batch. A group whose rewards are equal up to rounding gets advantages of exactly 0 from
    /// the estimators of groups.
    ///
    /// # Errors
    /// When a parameter has no meaning, slices do not fit, an input that the estimator needs is absent, or a reward
    /// or a value at a valid position is `NaN` or infinite.
    pub fn estimate(&self, batch: &RewardBatch<'_>, singletons: SingletonPolicy) -> Result<Estimate> {
        self.validate()?;
        check_rewards(batch.rewards, batch.groups.len())?;
        batch.check()?;
        let members = members(batch.groups);
        let mut returns = None;
        let values = match self {
            Self::Gdpo { eps, ddof } => AdvantageValues::PerSequence(gdpo(batch, *eps, *ddof, singletons)?),
            Self::External {} => batch.external()?,
            Self::ReinforcePp { gamma, kl } => {
                let rewards = token_rewards(batch, *kl, "reinforce_pp")?;
                let mut values = returns_to_go(batch, &rewards, *gamma)?;
                returns = Some(values.clone());
                whiten(&mut values, &batch.valid());
                AdvantageValues::PerToken(values)
            }
            Self::ReinforcePpBaseline {} => {
                let centred = Self::GroupMean {}.of_groups(batch, &members, singletons)?;
                let mut values = broadcast(batch, &centred, "reinforce_pp_baseline")?;
                whiten(&mut values, &batch.valid());
                AdvantageValues::PerToken(values)
            }
            Self::Gae { gamma, lambda, whiten: whitens, kl } => {
                let rewards = token_rewards(batch, *kl, "gae")?;
                let (mut values, targets) = gae(batch, &rewards, *gamma, *lambda)?;
                returns = Some(targets);
                if *whitens {
                    whiten(&mut values, &batch.valid());
                }
                AdvantageValues::PerToken(values)
            }
            _ => AdvantageValues::PerSequence(self.of_groups(batch, &members, singletons)?),
        };
        let flat = members.values().filter(|of| degenerate(batch.rewards, of)).count();
        Ok(Estimate { values, returns, degenerate_groups: flat, groups: members.len() })
    }

    fn of_groups(
        &self,
        batch: &RewardBatch<'_>,
        members: &BTreeMap<u32, Vec<usize>>,
        singletons: SingletonPolicy,
    ) -> Result<Vec<f64>> {
        let rewards = batch.rewards;
        let all: Vec<usize> = (0..rewards.len()).collect();
        let batch_std = if all.is_empty() { 0.0 } else { moments(rewards, &all, 1).1 };
        let lengths = if let Self::Opo {} = self { batch.lengths("opo")? } else { Vec::new() };
        let mut out = vec![0.0; rewards.len()];
        for (group, of) in members {
            if of.len() == 1 {
                match singletons {
                    SingletonPolicy::Zero => {}
                    SingletonPolicy::Raw => out[of[0]] = rewards[of[0]],
                    SingletonPolicy::Error => return Err(Error::Singleton { group: *group }),
                }
                continue;
            }
            if degenerate(rewards, of) {
                continue;
            }
            let n = of.len() as f64;
            let ddof = if let Self::GroupMeanStd { ddof, .. } = self { *ddof } else { 1 };
            let (mean, std) = moments(rewards, of, ddof);
            let tokens: f64 = of.iter().map(|i| lengths.get(*i).copied().unwrap_or(0.0)).sum();
            let baseline = if tokens > 0.0 {
                of.iter().map(|i| lengths[*i] / tokens * rewards[*i]).sum::<f64>()
            } else {
                mean
            };
            for &i in of {
                let centred = rewards[i] - baseline;
                out[i] = match self {
                    Self::GroupMeanStd { eps, .. } => centred / (std + eps),
                    Self::GroupMeanBatchStd { eps } => centred / (batch_std + eps),
                    Self::Rloo {} => centred * n / (n - 1.0),
                    _ => centred,
                };
            }
        }
        Ok(out)
    }
}

fn gdpo(batch: &RewardBatch<'_>, eps: f64, ddof: u8, singletons: SingletonPolicy) -> Result<Vec<f64>> {
    if batch.components.is_empty() {
        return Err(Error::Missing { what: "components", needed_by: "gdpo".into() });
    }
    let members = members(batch.groups);
    let mut sum = vec![0.0; batch.groups.len()];
    for &(weight, rewards) in batch.components {
        check_rewards(rewards, batch.groups.len())?;
        if !weight.is_finite() {
            let name = "the weight of a component";
            return Err(Error::Parameter { name, value: weight, expected: "a finite number" });
        }
        let component = RewardBatch { rewards, ..*batch };
        let estimator = AdvantageEstimator::GroupMeanStd { eps, ddof };
        let advantages = estimator.of_groups(&component, &members, singletons)?;
        sum.iter_mut().zip(advantages).for_each(|(sum, a)| *sum += weight * a);
    }
    let all: Vec<usize> = (0..sum.len()).collect();
    whiten(&mut sum, &all);
    Ok(sum)
}

/// Which groups have anything to learn from (dynamic sampling, DAPO): one flag a group, by rising id.
///
/// # Errors
/// When `rewards` and `groups` differ in length or a reward is not a number.
pub fn dynamic_sampling_keep(rewards: &[f64], groups: &[u32]) -> Result<BTreeMap<u32, bool>> {
    check_rewards(rewards, groups.len())?;
    Ok(members(groups).into_iter().map(|(group, of)| (group, !degenerate(rewards, &of))).collect())
}

/// Penalty in the reward for a response of `len` tokens near its budget (DAPO, arXiv 2503.14476): 0 up to
/// `budget − cache`, then linear to `−penalty` at `budget`, and `−penalty` beyond.
pub fn overlong_penalty(len: usize, budget: usize, cache: usize, penalty: f64) -> f64 {
    let free = budget.saturating_sub(cache);
    let share = match len {
        _ if len <= free => 0.0,
        _ if len <= budget => (len - free) as f64 / cache.max(1) as f64,
        _ => 1.0,
    };
    // `0 − x` and not `−x`, which would make −0.0 of no penalty.
    0.0 - penalty * share
}
