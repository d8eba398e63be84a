//! Token rewards, and what is summed from them along a response. Masked tokens (observations) are passed through.

use crate::advantage::{AdvantageValues, RewardBatch, moments};
use crate::batch::{Advantages, check_offsets};
use crate::error::{Error, Result};
use crate::penalty::KlPenalty;

impl<'a> RewardBatch<'a> {
    /// Samples of which only rewards `[n]` and groups `[n]` are known.
    pub fn new(rewards: &'a [f64], groups: &'a [u32]) -> Self {
        Self { rewards, groups, ..Self::default() }
    }

    fn tokens(&self) -> usize {
        self.offsets.and_then(<[usize]>::last).copied().unwrap_or(0)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let tokens = self.tokens();
        if let Some(offsets) = self.offsets {
            check_offsets(offsets, tokens)?;
            fits("offsets", offsets.len(), self.rewards.len() + 1)?;
            fits("mask", self.mask.map_or(tokens, <[bool]>::len), tokens)?;
            for (what, values) in
                [("logp_old", self.logp_old), ("logp_ref", self.logp_ref), ("values", self.values)]
            {
                fits(what, values.map_or(tokens, <[f64]>::len), tokens)?;
            }
        }
        Ok(())
    }

    fn offsets(&self, needed_by: &str) -> Result<&'a [usize]> {
        self.offsets.ok_or_else(|| Error::Missing { what: "offsets", needed_by: needed_by.into() })
    }

    fn keeps(&self, token: usize) -> bool {
        self.mask.is_none_or(|m| m[token])
    }

    /// Valid tokens by sample.
    fn rows(&self, needed_by: &str) -> Result<Vec<Vec<usize>>> {
        let rows = self.offsets(needed_by)?.windows(2);
        Ok(rows.map(|w| (w[0]..w[1]).filter(|at| self.keeps(*at)).collect()).collect())
    }

    /// All valid tokens.
    pub(crate) fn valid(&self) -> Vec<usize> {
        (0..self.tokens()).filter(|at| self.keeps(*at)).collect()
    }

    /// Valid tokens of each sample.
    pub(crate) fn lengths(&self, needed_by: &str) -> Result<Vec<f64>> {
        Ok(self.rows(needed_by)?.iter().map(|row| row.len() as f64).collect())
    }

    pub(crate) fn external(&self) -> Result<AdvantageValues> {
        let missing = || Error::Missing { what: "external", needed_by: "the external estimator".into() };
        match self.external.ok_or_else(missing)? {
            Advantages::PerSequence(values) => {
                fits("external", values.len(), self.rewards.len())?;
                if let Some((sequence, value)) = values.iter().enumerate().find(|(_, v)| !v.is_finite()) {
                    return Err(Error::NonFinite { what: "external", sequence, token: 0, value: *value });
                }
                Ok(AdvantageValues::PerSequence(values.to_vec()))
            }
            Advantages::PerToken(values) => {
                self.offsets("token-level advantages")?;
                fits("external", values.len(), self.tokens())?;
                let mut out = vec![0.0; values.len()];
                for (sequence, row) in self.rows("token-level advantages")?.into_iter().enumerate() {
                    for at in row {
                        out[at] = self.finite("external", values, sequence, at)?;
                    }
                }
                Ok(AdvantageValues::PerToken(out))
            }
        }
    }

    fn finite(&self, what: &'static str, values: &[f64], sequence: usize, at: usize) -> Result<f64> {
        let start = self.offsets.map_or(0, |o| o[sequence]);
        match values[at] {
            value if value.is_finite() => Ok(value),
            value => Err(Error::NonFinite { what, sequence, token: at - start, value }),
        }
    }
}

fn fits(what: &'static str, found: usize, expected: usize) -> Result<()> {
    if found == expected { Ok(()) } else { Err(Error::Shape { what, found, expected }) }
}

/// A sample's reward on its last valid token and the penalty `−β·k(logp_old, logp_ref)` on each.
pub(crate) fn token_rewards(
    batch: &RewardBatch<'_>,
    kl: Option<KlPenalty>,
    needed_by: &str,
) -> Result<Vec<f64>> {
    let mut out = vec![0.0; batch.tokens()];
    for (sequence, row) in batch.rows(needed_by)?.into_iter().enumerate() {
        if let Some(last) = row.last() {
            out[*last] = batch.rewards[sequence];
        }
        let Some(kl) = kl else { continue };
        let missing = |what| Error::Missing { what, needed_by: "a KL penalty in the reward".into() };
        let old = batch.logp_old.ok_or_else(|| missing("logp_old"))?;
        let reference = batch.logp_ref.ok_or_else(|| missing("logp_ref"))?;
        for at in row {
            let x = batch.finite("logp_old", old, sequence, at)?
                - batch.finite("logp_ref", reference, sequence, at)?;
            // At the old policy the ratio is 1.
            out[at] -= kl.beta * kl.estimate(x, 1.0, false).0;
        }
    }
    Ok(out)
}

/// The value of each sample on its valid tokens.
pub(crate) fn broadcast(batch: &RewardBatch<'_>, values: &[f64], needed_by: &str) -> Result<Vec<f64>> {
    let mut out = vec![0.0; batch.tokens()];
    for (row, value) in batch.rows(needed_by)?.into_iter().zip(values) {
        row.into_iter().for_each(|at| out[at] = *value);
    }
    Ok(out)
}

/// Discounted sums of the rewards from each token on.
pub(crate) fn returns_to_go(batch: &RewardBatch<'_>, rewards: &[f64], gamma: f64) -> Result<Vec<f64>> {
    let mut out = vec![0.0; rewards.len()];
    for row in batch.rows("returns-to-go")? {
        let mut running = 0.0;
        for at in row.into_iter().rev() {
            running = rewards[at] + gamma * running;
            out[at] = running;
        }
    }
    Ok(out)
}

/// Advantages `A_t = δ_t + γλ·A_{t+1}` with `δ_t = r_t + γ·V_{t+1} − V_t`, and the returns `A + V`.
pub(crate) fn gae(
    batch: &RewardBatch<'_>,
    rewards: &[f64],
    gamma: f64,
    lambda: f64,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let values = batch.values.ok_or(Error::Missing { what: "values", needed_by: "gae".into() })?;
    let (mut advantages, mut returns) = (vec![0.0; rewards.len()], vec![0.0; rewards.len()]);
    for (sequence, row) in batch.rows("gae")?.into_iter().enumerate() {
        let (mut next_value, mut next_advantage) = (0.0, 0.0);
        for at in row.into_iter().rev() {
            let value = batch.finite("values", values, sequence, at)?;
            let delta = rewards[at] + gamma * next_value - value;
            next_advantage = delta + gamma * lambda * next_advantage;
            next_value = value;
            (advantages[at], returns[at]) = (next_advantage, next_advantage + value);
        }
    }
    Ok((advantages, returns))
}

/// Shifts and scales the values at `of` to mean 0 and (unbiased) variance 1. Over tokens, long responses weigh more.
pub(crate) fn whiten(values: &mut [f64], of: &[usize]) {
    if of.is_empty() {
        return;
    }
    let (mean, std) = moments(values, of, 1);
    let scale = (std * std + 1e-8).sqrt();
    for i in of {
        values[*i] = (values[*i] - mean) / scale;
    }
}
