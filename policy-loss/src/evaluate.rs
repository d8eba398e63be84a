//! The fast path: loss, exact gradient and metrics of a ragged batch, in parallel over sequences.
//!
//! Arithmetic is f64 whatever the element type; results are the same bits for any number of threads.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::aggregation::{Denominators, Mode, Normalizer, SeqCount};
use crate::batch::{Real, TokenBatch};
use crate::config::LossConfig;
use crate::correction::Level;
use crate::error::{Error, Result};
use crate::measure::Tally;
use crate::metrics::Metrics;
use crate::objective::{Objective, Sequence, Token};
use crate::penalty::EntropyAggregation;
use crate::row::{Row, row};

/// A checked loss: the only thing that can be evaluated.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyLoss(LossConfig);

/// Loss, gradient and metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct LossOutput<F> {
    /// What is minimised.
    pub loss: f64,
    /// `∂L/∂logp`: `[tokens]`, exactly `+0.0` at masked positions.
    pub grad_logp: Vec<F>,
    /// `∂L/∂entropy`: `[tokens]`.
    pub grad_entropy: Vec<F>,
    /// Diagnostics, to be merged over micro-batches.
    pub metrics: Metrics,
}

/// What the second pass gives for one sequence.
struct Part {
    /// Policy, policy at `Δ = 0`, KL and entropy terms.
    terms: [f64; 4],
    /// `(index, ∂L/∂logp, ∂L/∂entropy)`.
    gradients: Vec<(usize, f64, f64)>,
    metrics: Metrics,
}

impl PolicyLoss {
    pub(crate) fn new(config: LossConfig) -> Self {
        Self(config)
    }

    /// The configuration it was made of.
    pub fn config(&self) -> &LossConfig {
        &self.0
    }

    /// The same loss on the first update after a rollout, where `logp_old` is `logp` (so `r = 1` exactly and the
    /// pass over old log-probabilities can be left out).
    #[must_use]
    pub fn on_policy(&self) -> Self {
        Self(LossConfig { on_policy: true, ..self.0.clone() })
    }

    /// Evaluates a batch.
    ///
    /// # Errors
    /// When slices do not fit, an input that the configuration needs is absent, or (with
    /// [`NonFinitePolicy::Error`](crate::NonFinitePolicy::Error)) a valid position holds `NaN` or infinity.
    pub fn evaluate<F: Real>(
        &self,
        batch: &TokenBatch<'_, F>,
        normalizer: &Normalizer,
    ) -> Result<LossOutput<F>> {
        self.check_inputs(batch)?;
        let config = &self.0;
        let mut rows: Vec<Row> =
            (0..batch.sequences()).into_par_iter().map(|i| row(config, batch, i)).collect::<Result<_>>()?;
        self.normalize_weights(&mut rows);
        self.select_by_entropy(&mut rows);
        let denominators = self.denominators(&rows, batch, normalizer);
        let parts: Vec<Part> =
            rows.par_iter().enumerate().map(|(i, row)| self.part(batch, &denominators, i, row)).collect();

        let mut out = LossOutput {
            loss: 0.0,
            grad_logp: vec![F::of(0.0); batch.logp.len()],
            grad_entropy: vec![F::of(0.0); batch.logp.len()],
            metrics: Metrics::default(),
        };
        let mut terms = [0f64; 4];
        for part in &parts {
            for (sum, term) in terms.iter_mut().zip(part.terms) {
                *sum += term;
            }
            for &(at, g, h) in &part.gradients {
                out.grad_logp[at] = F::of(g);
                out.grad_entropy[at] = F::of(h);
            }
            out.metrics.merge(&part.metrics);
        }
        let [policy, at_start, kl, entropy] = terms;
        out.loss = policy + kl + entropy;
        let m = &mut out.metrics;
        m.sum("loss/total", out.loss);
        m.sum("loss/policy", policy);
        m.sum("loss/policy_centered", policy - at_start);
        m.sum("loss/kl", kl);
        m.sum("loss/entropy", entropy);
        m.min("loss/empty", if parts.iter().all(|p| p.gradients.is_empty()) { 1.0 } else { 0.0 });
        Ok(out)
    }

    fn check_inputs<F: Real>(&self, batch: &TokenBatch<'_, F>) -> Result<()> {
        batch.check()?;
        let config = &self.0;
        let missing = |what, needed_by: &str| Err(Error::Missing { what, needed_by: needed_by.into() });
        let plain = matches!(config.objective, Objective::Reinforce {});
        if batch.logp_old.is_none() && !config.on_policy && (!plain || config.needs_logp_mu()) {
            return missing("logp_old", config.objective.name());
        }
        if batch.logp_mu.is_none() && config.needs_logp_mu() {
            return missing(
                "logp_mu",
                if config.correction.is_some() { "the correction" } else { config.objective.name() },
            );
        }
        if batch.logp_ref.is_none() && config.kl.is_some_and(|k| k.beta != 0.0) {
            return missing("logp_ref", "the KL penalty");
        }
        if batch.entropy.is_none() && (config.entropy.is_some() || config.entropy_top_share.is_some()) {
            return missing("entropy", "the entropy bonus");
        }
        if batch.groups.is_none() && config.aggregation.mode == Mode::GroupTokenMean {
            return missing("groups", "group_token_mean");
        }
        Ok(())
    }

    fn normalize_weights(&self, rows: &mut [Row]) {
        let Some(correction) = self.0.correction.filter(|c| c.batch_normalize) else { return };
        let (mut sum, mut count) = (0.0, 0.0);
        for row in rows.iter().filter(|r| !r.valid.is_empty()) {
            let taken = if correction.level == Level::Token { row.valid.len() } else { 1 };
            sum += row.valid[..taken].iter().map(|v| v.weight.value).sum::<f64>();
            count += taken as f64;
        }
        if count > 0.0 && sum / count > 1e-8 {
            rows.iter_mut().flat_map(|r| &mut r.valid).for_each(|v| v.weight.value /= sum / count);
        }
    }

    fn select_by_entropy(&self, rows: &mut [Row]) {
        let Some(share) = self.0.entropy_top_share else { return };
        let mut all: Vec<f64> = rows.iter().flat_map(|r| &r.valid).map(|v| v.entropy).collect();
        if all.is_empty() {
            return;
        }
        all.sort_unstable_by(|a, b| b.total_cmp(a));
        let threshold = all[((share * all.len() as f64).ceil() as usize).clamp(1, all.len()) - 1];
        rows.iter_mut().flat_map(|r| &mut r.valid).for_each(|v| v.trains = v.entropy >= threshold);
    }

    fn denominators<F: Real>(
        &self,
        rows: &[Row],
        batch: &TokenBatch<'_, F>,
        given: &Normalizer,
    ) -> Denominators {
        let keeps = self.0.opsm.is_none_or(|o| o.keeps_denominator);
        let counts: Vec<f64> = rows.iter().map(|r| r.count(keeps)).collect();
        let non_empty = counts.iter().filter(|n| **n > 0.0).count() as f64;
        let seqs = if self.0.aggregation.seq_count == SeqCount::All { rows.len() as f64 } else { non_empty };
        let mut by_group: BTreeMap<u32, f64> = BTreeMap::new();
        if let Some(groups) = batch.groups {
            for (group, n) in groups.iter().zip(&counts) {
                *by_group.entry(*group).or_default() += n;
            }
        }
        let groups = by_group.values().filter(|n| **n > 0.0).count() as f64;
        let group_tokens = batch.groups.map_or(Vec::new(), |g| g.iter().map(|g| by_group[g]).collect());
        Denominators {
            tokens: given.tokens.unwrap_or_else(|| counts.iter().sum()),
            seqs: given.seqs.unwrap_or(seqs),
            groups: given.groups.unwrap_or(groups),
            group_tokens,
            scale: given.grad_world_scale,
        }
    }

    fn part<F: Real>(
        &self,
        batch: &TokenBatch<'_, F>,
        denominators: &Denominators,
        i: usize,
        row: &Row,
    ) -> Part {
        let config = &self.0;
        let keeps = config.opsm.is_none_or(|o| o.keeps_denominator);
        let omega = denominators.weight(config.aggregation.mode, i, row.count(keeps));
        let (coef, omega_entropy) = match config.entropy {
            None => (0.0, 0.0),
            Some(bonus) if bonus.aggregation == EntropyAggregation::SameAsPolicy => (bonus.coef, omega),
            Some(bonus) => (bonus.coef, denominators.weight(Mode::TokenMean, i, 0.0)),
        };
        let vespo = matches!(config.objective, Objective::Vespo { .. });
        let mut part = Part { terms: [0.0; 4], gradients: Vec::new(), metrics: Metrics::default() };
        let mut tally = Tally::new(config, batch, row);
        for v in &row.valid {
            let loss = config.objective.token(&v.token, &row.sequence, config.log_ratio_clamp);
            tally.token(v, &loss, &row.sequence);
            if !v.kept || row.dropped {
                continue;
            }
            let weight = if vespo { 1.0 } else { v.weight.value };
            let scale = if v.trains { omega * weight } else { 0.0 };
            let (mut g, mut h) = (-scale * loss.coefficient, 0.0);
            part.terms[0] += scale * loss.loss;
            part.terms[1] += scale * self.loss_at_start(&v.token);
            if let (Some(kl), Some(reference)) = (config.kl, batch.logp_ref) {
                let reference: f64 = reference[v.at].into();
                let (value, gradient) = kl.estimate(v.token.logp - reference, v.token.delta.exp());
                part.terms[2] += kl.beta * omega * value;
                g += kl.beta * omega * gradient;
                tally.kl_ref(value);
            }
            if coef != 0.0 && v.trains {
                part.terms[3] -= coef * omega_entropy * v.entropy;
                h = -coef * omega_entropy;
            }
            // Adding zero turns −0.0 into +0.0.
            part.gradients.push((v.at, g + 0.0, h + 0.0));
        }
        tally.finish(&mut part.metrics);
        part
    }

    /// The token's loss if nothing had changed since the rollout.
    fn loss_at_start(&self, t: &Token) -> f64 {
        let start = Token { logp_old: t.logp, delta: 0.0, saturated: false, ..*t };
        self.0.objective.token(&start, &Sequence::default(), self.0.log_ratio_clamp).loss
    }
}
