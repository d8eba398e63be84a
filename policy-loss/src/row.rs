//! First pass over one sequence: which tokens count, their log-ratios, weights and rejections.

use crate::batch::{Advantages, Real, TokenBatch};
use crate::compatibility::{Feature, ObjectiveKind, Support, support};
use crate::config::{LossConfig, NonFinitePolicy};
use crate::correction::{Base, Weight};
use crate::error::{Error, Result};
use crate::objective::{Sequence, Token, clamp};

/// A token that is not masked.
pub(crate) struct Valid {
    /// Index into the flat slices.
    pub(crate) at: usize,
    pub(crate) token: Token,
    /// Unclamped `logp − logp_old`.
    pub(crate) raw_delta: f64,
    pub(crate) weight: Weight,
    /// The weight for `π_θ = π_old`.
    pub(crate) weight_at_start: f64,
    /// Passed all rejection criteria.
    pub(crate) kept: bool,
    pub(crate) entropy: f64,
    /// In the top share of entropies.
    pub(crate) trains: bool,
}

/// A sequence after the first pass.
pub(crate) struct Row {
    pub(crate) valid: Vec<Valid>,
    pub(crate) sequence: Sequence,
    /// Dropped by the off-policy sequence mask.
    pub(crate) dropped: bool,
    /// Tokens with a non-finite value that were masked.
    pub(crate) non_finite: usize,
}

impl Row {
    /// Tokens that count in denominators.
    pub(crate) fn count(&self, opsm_keeps: bool) -> f64 {
        if self.dropped && !opsm_keeps { 0.0 } else { self.valid.iter().filter(|v| v.kept).count() as f64 }
    }
}

/// Log-probabilities up to here are rounding of zero.
const ROUNDING: f64 = 1e-4;

pub(crate) fn row<F: Real>(config: &LossConfig, batch: &TokenBatch<'_, F>, sequence: usize) -> Result<Row> {
    let range = batch.offsets[sequence]..batch.offsets[sequence + 1];
    let mut row = Row {
        valid: Vec::with_capacity(range.len()),
        sequence: Sequence::default(),
        dropped: false,
        non_finite: 0,
    };
    for at in range.clone().filter(|at| batch.mask.is_none_or(|m| m[*at])) {
        match valid(config, batch, sequence, at) {
            Ok(v) => row.valid.push(v),
            Err(_) if config.non_finite == NonFinitePolicy::DropToken => row.non_finite += 1,
            Err(e) => return Err(e),
        }
    }
    if let Support::No(_) = support(config.objective.kind(), Feature::TokenAdvantages)
        && let Advantages::PerToken(_) = batch.advantages
        && row.valid.windows(2).any(|w| w[0].token.advantage != w[1].token.advantage)
    {
        return Err(Error::TokenAdvantages { sequence, objective: config.objective.name() });
    }
    correct(config, &mut row);
    couple(config, &mut row);
    if let Some(opsm) = config.opsm {
        let n = row.valid.len() as f64;
        let mean = |f: &dyn Fn(&Valid) -> f64| row.valid.iter().map(f).sum::<f64>() / n;
        // With mu: logp_mu − logp = −(Δ + d); without, d = 0.
        let drift = mean(&|v| -(v.raw_delta + v.token.mismatch));
        row.dropped = !row.valid.is_empty() && mean(&|v| v.token.advantage) < 0.0 && drift > opsm.delta;
    }
    Ok(row)
}

fn valid<F: Real>(
    config: &LossConfig,
    batch: &TokenBatch<'_, F>,
    sequence: usize,
    at: usize,
) -> Result<Valid> {
    let token = at - batch.offsets[sequence];
    let propagate = config.non_finite == NonFinitePolicy::Propagate;
    let finite = |what, value: f64| {
        if value.is_finite() || propagate {
            Ok(value)
        } else {
            Err(Error::NonFinite { what, sequence, token, value })
        }
    };
    let logp = |what, values: &[F]| {
        let value = finite(what, values[at].into())?;
        match value {
            v if v <= 0.0 || config.allow_positive_logp || propagate => Ok(v),
            v if v <= ROUNDING => Ok(0.0),
            _ => Err(Error::NonFinite { what, sequence, token, value }),
        }
    };
    let now = logp("logp", batch.logp)?;
    let old = match batch.logp_old {
        Some(old) if !config.on_policy => logp("logp_old", old)?,
        _ => now,
    };
    let mut mismatch = match batch.logp_mu {
        Some(mu) => old - logp("logp_mu", mu)?,
        None => 0.0,
    };
    if let (Some(mass), Some(_)) = (batch.log_kept_mass, batch.logp_mu) {
        mismatch -= finite("log_kept_mass", mass[at].into())?;
    }
    if let Some(reference) = batch.logp_ref {
        logp("logp_ref", reference)?;
    }
    let entropy = batch.entropy.map_or(Ok(0.0), |h| finite("entropy", h[at].into()))?;
    let (delta, saturated) = clamp(now - old, config.log_ratio_clamp);
    let advantage = finite("advantages", batch.advantage(sequence, at))?;
    Ok(Valid {
        at,
        token: Token { logp: now, logp_old: old, delta, saturated, mismatch, advantage },
        raw_delta: now - old,
        weight: Weight { value: 1.0, bounded: false },
        weight_at_start: 1.0,
        kept: true,
        entropy,
        trains: true,
    })
}

fn correct(config: &LossConfig, row: &mut Row) {
    if let Some(correction) = config.correction {
        let weights = |log_ratio: &dyn Fn(&Valid) -> f64| {
            let log_ratios: Vec<f64> = row.valid.iter().map(log_ratio).collect();
            correction.weights(&log_ratios, config.log_ratio_clamp)
        };
        let mismatch = weights(&|v| v.token.mismatch);
        let applied = match correction.base {
            Base::Mismatch => mismatch.clone(),
            Base::Full => weights(&|v| v.raw_delta + v.token.mismatch),
        };
        for ((v, applied), mismatch) in row.valid.iter_mut().zip(applied).zip(mismatch) {
            (v.weight, v.weight_at_start) = (applied, mismatch.value);
        }
    }
    if !config.rejection.is_empty() {
        let log_rho: Vec<f64> = row.valid.iter().map(|v| v.token.mismatch).collect();
        let mut keep = vec![true; row.valid.len()];
        for rejection in &config.rejection {
            rejection.apply(&log_rho, &mut keep, config.log_ratio_clamp);
        }
        for (v, keep) in row.valid.iter_mut().zip(keep) {
            v.kept = keep;
        }
    }
}

/// Sums over the sequence for the objectives that need them, over the tokens that were not rejected.
fn couple(config: &LossConfig, row: &mut Row) {
    if !config.objective.kind().is_sequence_coupled() {
        return;
    }
    let kept = || row.valid.iter().filter(|v| v.kept);
    let n = kept().count() as f64;
    if n == 0.0 {
        return;
    }
    let sum: f64 = kept().map(|v| v.raw_delta).sum();
    let clipped = |v: &Valid| config.objective.gmpo_log_ratio(v.raw_delta, v.token.advantage).0;
    let mismatch = match (config.objective.kind(), config.correction) {
        (ObjectiveKind::Vespo, Some(_)) => kept().map(|v| v.token.mismatch).sum::<f64>(),
        _ => 0.0,
    };
    row.sequence = Sequence {
        mean_delta: sum / n,
        mean_clipped: kept().map(clipped).sum::<f64>() / n,
        sum: sum + mismatch,
        sum_at_start: mismatch,
    };
}
