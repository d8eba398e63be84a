//! How evenly experts are used.

use crate::float::Float;
use crate::router::{Router, check_rows};
use crate::{Error, Result};

/// How many (token, slot) pairs chose each expert of a layer. Parts of a batch, or layers, add up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpertCounts(Vec<u64>);

impl ExpertCounts {
    /// No pair yet.
    pub fn zeros(experts: usize) -> Result<Self> {
        if experts == 0 { Err(Error::NoExperts) } else { Ok(Self(vec![0; experts])) }
    }

    /// Counts ids, `[tokens · K]` or any number of them.
    pub fn of(ids: &[u32], experts: usize) -> Result<Self> {
        let mut counts = Self::zeros(experts)?;
        for id in ids {
            match counts.0.get_mut(*id as usize) {
                Some(count) => *count += 1,
                None => return Err(Error::Ids { token: 0, ids: vec![*id], experts }),
            }
        }
        Ok(counts)
    }

    /// Adds another part.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.0.len() != other.0.len() {
            return Err(Error::Shape { what: "counts", found: other.0.len(), expected: self.0.len() });
        }
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a += b);
        Ok(())
    }

    /// By expert.
    pub fn as_slice(&self) -> &[u64] {
        &self.0
    }

    /// All pairs: `tokens · K`.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    fn mean(&self) -> f64 {
        self.total() as f64 / self.0.len() as f64
    }

    /// `load/max_over_mean`: 1 at balance, `E` when one expert takes all; `None` without a pair.
    pub fn max_over_mean(&self) -> Option<f64> {
        let max = self.0.iter().max()?;
        (*max > 0).then(|| *max as f64 / self.mean())
    }

    /// `load/cv`: standard deviation over mean; 0 at balance; `None` without a pair.
    pub fn cv(&self) -> Option<f64> {
        let mean = self.mean();
        let variance = self.0.iter().map(|c| (*c as f64 - mean).powi(2)).sum::<f64>() / self.0.len() as f64;
        (mean > 0.0).then(|| variance.sqrt() / mean)
    }

    /// `load/dead_experts`: experts that no token chose.
    pub fn dead_experts(&self) -> usize {
        self.0.iter().filter(|c| **c == 0).count()
    }
}

/// `router/entropy`: mean over tokens of the entropy of [`Router::probabilities`], in nats; `None` without
/// tokens.
pub fn router_entropy<F: Float>(logits: &[F], experts: usize, router: &Router) -> Result<Option<f64>> {
    let tokens = check_rows(logits, experts)?;
    let of_row = |row: &[F]| -> f64 {
        let p = router.probabilities(row).into_iter().map(Into::into);
        p.filter(|p: &f64| *p > 0.0).map(|p| -p * p.ln()).sum()
    };
    let sum: f64 = logits.chunks_exact(experts).map(of_row).sum();
    Ok((tokens > 0).then(|| sum / tokens as f64))
}

/// Balancing without a loss (arXiv 2408.15664): `b_i += rate · sign(mean(c) − c_i)`, by the experts that ran.
/// Reinforcement learning leaves biases as they are unless asked.
pub fn update_bias(bias: &mut [f32], counts: &ExpertCounts, rate: f32) -> Result<()> {
    if bias.len() != counts.0.len() {
        return Err(Error::Shape { what: "bias", found: bias.len(), expected: counts.0.len() });
    }
    let mean = counts.mean();
    for (bias, count) in bias.iter_mut().zip(&counts.0) {
        let short = mean - *count as f64;
        if short != 0.0 {
            *bias += rate * short.signum() as f32;
        }
    }
    Ok(())
}
