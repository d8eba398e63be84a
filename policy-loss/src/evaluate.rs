//! The fast path: loss, exact gradient and metrics of a ragged batch, in parallel over sequences.
//!
//! Arithmetic is f64 whatever the element type; results are the same bits for any number of threads.

use rayon::prelude::*;

use crate::aggregation::{Mode, Normalizer};
use crate::batch::{Real, TokenBatch};
use crate::compatibility::{ObjectiveKind, Warning};
use crate::config::LossConfig;
use crate::correction::Level;
use crate::error::{Error, Result};
use crate::measure::Tally;
use crate::metrics::Metrics;
use crate::objective::{Sequence, Token};
use crate::penalty::{EntropyAggregation, KlKind};
use crate::row::{Row, Valid, row};

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
    /// What is allowed but seldom meant.
    pub warnings: Vec<Warning>,
}

/// What the second pass gives for one sequence.
struct Part {
    /// Policy, policy at `Δ = 0`, KL and entropy terms.
    terms: [f64; 4],
    /// `(index, ∂L/∂logp, ∂L/∂entropy)`.
    gradients: Vec<(usize, f64, f64)>,
    /// Nothing counts: no token is left, or a denominator is 0.
    empty: bool,
}

/// Sequences in one unit of parallel work, which share metrics. Fixed, so that sums do not depend on the threads.
const SEQUENCES: usize = 16;

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

    /// Evaluates a batch, or with denominators given a part of one.
    ///
    /// # Errors
    /// When slices do not fit, an input that the configuration needs is absent, or (with
    /// [`NonFinitePolicy::Error`](crate::NonFinitePolicy::Error)) a valid position holds `NaN` or infinity: the lowest
    /// such sequence and token. When denominators are given without the statistics of the whole batch that the
    /// configuration needs besides.
    pub fn evaluate<F: Real>(
        &self,
        batch: &TokenBatch<'_, F>,
        normalizer: &Normalizer,
    ) -> Result<LossOutput<F>> {
        self.check_part(normalizer, batch.groups)?;
        if batch.logp_ref.is_none() && self.0.kl.is_some() {
            return Err(Error::Missing { what: "logp_ref", needed_by: "the KL penalty".into() });
        }
        let mut rows = self.rows(batch)?;
        let whole = normalizer.or(self.statistics(&rows, batch.groups));
        for v in rows.iter_mut().flat_map(|r| &mut r.valid) {
            if let Some(mean) = whole.mean_weight.filter(|m| *m > 1e-8) {
                v.weight.value /= mean;
                v.weight_at_start /= mean;
            }
            v.trains = whole.entropy_threshold.is_none_or(|h| v.entropy >= h);
        }
        let chunks: Vec<(Vec<Part>, Metrics)> = rows
            .par_chunks(SEQUENCES)
            .enumerate()
            .map(|(chunk, rows)| {
                let mut metrics = Metrics::default();
                let sequences = (chunk * SEQUENCES..).zip(rows);
                let parts =
                    sequences.map(|(i, row)| self.part(batch, &whole, i, row, &mut metrics)).collect();
                (parts, metrics)
            })
            .collect();

        let mut out = LossOutput {
            loss: 0.0,
            grad_logp: vec![F::of(0.0); batch.logp.len()],
            grad_entropy: vec![F::of(0.0); batch.logp.len()],
            metrics: Metrics::default(),
            warnings: Warning::of(&self.0, mean_len(&rows)),
        };
        let mut terms = [0f64; 4];
        let parts = || chunks.iter().flat_map(|(parts, _)| parts);
        for part in parts() {
            for (sum, term) in terms.iter_mut().zip(part.terms) {
                *sum += term;
            }
            for &(at, g, h) in &part.gradients {
                out.grad_logp[at] = F::of(g);
                out.grad_entropy[at] = F::of(h);
            }
        }
        for (_, metrics) in &chunks {
            out.metrics.merge(metrics);
        }
        let [policy, at_start, kl, entropy] = terms;
        out.loss = policy + kl + entropy;
        let m = &mut out.metrics;
        m.sum("loss/total", out.loss);
        m.sum("loss/policy", policy);
        m.sum("loss/policy_centered", policy - at_start);
        m.sum("loss/kl", kl);
        m.sum("loss/entropy", entropy);
        m.min("loss/empty", if parts().all(|p| p.empty) { 1.0 } else { 0.0 });
        Ok(out)
    }

    /// Denominators and statistics of a whole batch, to be given to [`Self::evaluate`] with each of its parts.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn normalizer<F: Real>(&self, batch: &TokenBatch<'_, F>) -> Result<Normalizer> {
        Ok(self.statistics(&self.rows(batch)?, batch.groups))
    }

    /// The first pass over every sequence. Of several errors the one in the lowest sequence is returned, whatever
    /// the threads do.
    fn rows<F: Real>(&self, batch: &TokenBatch<'_, F>) -> Result<Vec<Row>> {
        self.check_inputs(batch)?;
        let rows: Vec<Result<Row>> =
            (0..batch.sequences()).into_par_iter().map(|i| row(&self.0, batch, i)).collect();
        rows.into_iter().collect()
    }

    /// Refuses a part of a batch whose loss depends on the rest in a way that is not given.
    fn check_part(&self, given: &Normalizer, groups: Option<&[u32]>) -> Result<()> {
        given.check()?;
        given.check_groups(self.0.aggregation.mode, groups)?;
        if !given.is_part() {
            return Ok(());
        }
        let missing = |what, needed_by: String| Err(Error::Missing { what, needed_by });
        if self.0.entropy_top_share.is_some() && given.entropy_threshold.is_none() {
            return missing("normalizer.entropy_threshold", "entropy_top_share of a part of a batch".into());
        }
        if self.0.correction.is_some_and(|c| c.batch_normalize) && given.mean_weight.is_none() {
            return missing("normalizer.mean_weight", "batch_normalize of a part of a batch".into());
        }
        Ok(())
    }

    fn check_inputs<F: Real>(&self, batch: &TokenBatch<'_, F>) -> Result<()> {
        batch.check()?;
        let config = &self.0;
        let missing = |what, needed_by: &str| Err(Error::Missing { what, needed_by: needed_by.into() });
        let plain = config.objective.kind() == ObjectiveKind::Reinforce;
        let ratio_in_kl = config.kl.is_some_and(|k| k.kind == KlKind::K3Is);
        if batch.logp_old.is_none() && !config.on_policy && (!plain || config.needs_logp_mu() || ratio_in_kl)
        {
            return missing("logp_old", if plain && ratio_in_kl { "k3_is" } else { config.objective.name() });
        }
        if batch.logp_mu.is_none() && config.needs_logp_mu() {
            return missing(
                "logp_mu",
                match () {
                    () if config.correction.is_some() => "the correction",
                    () if !config.rejection.is_empty() => "rejection",
                    () => config.objective.name(),
                },
            );
        }
        if batch.entropy.is_none() && config.entropy.is_some() {
            return missing("entropy", "the entropy bonus");
        }
        if batch.entropy.is_none() && config.entropy_top_share.is_some() {
            return missing("entropy", "entropy_top_share");
        }
        Ok(())
    }

    fn statistics(&self, rows: &[Row], groups: Option<&[u32]>) -> Normalizer {
        let counts: Vec<f64> = rows.iter().map(|r| r.count(self.keeps_denominator())).collect();
        let counted = Normalizer::count(&counts, groups, self.0.aggregation.seq_count);
        let normalize = self.0.correction.filter(|c| c.batch_normalize);
        Normalizer {
            entropy_threshold: self.0.entropy_top_share.map(|share| entropy_threshold(rows, share)),
            mean_weight: normalize.map(|c| mean_weight(rows, c.level)),
            ..counted
        }
    }

    fn keeps_denominator(&self) -> bool {
        self.0.opsm.is_none_or(|o| o.keeps_denominator)
    }

    fn part<F: Real>(
        &self,
        batch: &TokenBatch<'_, F>,
        whole: &Normalizer,
        i: usize,
        row: &Row,
        metrics: &mut Metrics,
    ) -> Part {
        let config = &self.0;
        let group = batch.groups.map(|g| g[i]);
        let omega = whole.weight(config.aggregation.mode, group, row.count(self.keeps_denominator()));
        let (coef, omega_entropy) = match config.entropy {
            None => (0.0, 0.0),
            Some(bonus) if bonus.aggregation == EntropyAggregation::SameAsPolicy => (bonus.coef, omega),
            Some(bonus) => (bonus.coef, whole.weight(Mode::TokenMean, group, 0.0)),
        };
        // VESPO's weights are inside its ln W.
        let weight_inside = config.objective.kind() == ObjectiveKind::Vespo;
        let mut part = Part { terms: [0.0; 4], gradients: Vec::new(), empty: true };
        let mut tally = Tally::new(config, batch, i, row, metrics);
        for v in &row.valid {
            let loss = config.objective.token(&v.token, &row.sequence, config.log_ratio_clamp);
            let kl = config.kl.zip(batch.logp_ref).map(|(kl, reference)| {
                let reference: f64 = reference[v.at].into();
                let (value, gradient) =
                    kl.estimate(v.token.logp - reference, v.token.delta.exp(), v.token.saturated);
                (kl.beta, value, gradient)
            });
            tally.token(v, &loss, kl.map(|(_, value, _)| value));
            if !v.kept || row.dropped {
                continue;
            }
            part.empty &= omega == 0.0;
            let scale = |weight: f64| match v.trains {
                true if weight_inside => omega,
                true => omega * weight,
                false => 0.0,
            };
            let (mut g, mut h) = (-scale(v.weight.value) * loss.coefficient, 0.0);
            part.terms[0] += scale(v.weight.value) * loss.loss;
            part.terms[1] += scale(v.weight_at_start) * self.loss_at_start(v, row);
            if let Some((beta, value, gradient)) = kl {
                part.terms[2] += beta * omega * value;
                g += beta * omega * gradient;
            }
            if coef != 0.0 && v.trains {
                part.terms[3] -= coef * omega_entropy * v.entropy;
                h = -coef * omega_entropy;
            }
            // Adding zero turns −0.0 into +0.0.
            part.gradients.push((v.at, g + 0.0, h + 0.0));
        }
        tally.finish();
        part
    }

    /// The token's loss if nothing had changed since the rollout.
    fn loss_at_start(&self, v: &Valid, row: &Row) -> f64 {
        let token = Token { logp_old: v.token.logp, delta: 0.0, saturated: false, ..v.token };
        let sequence = Sequence { sum: row.sequence.sum_at_start, ..Sequence::default() };
        self.0.objective.token(&token, &sequence, self.0.log_ratio_clamp).loss
    }
}

fn mean_len(rows: &[Row]) -> f64 {
    let lengths = rows.iter().map(|r| r.valid.len()).filter(|n| *n > 0);
    lengths.clone().sum::<usize>() as f64 / lengths.count().max(1) as f64
}

/// Mean weight over valid tokens, or over sequences where they share one.
fn mean_weight(rows: &[Row], level: Level) -> f64 {
    let per_row = if level == Level::Token { usize::MAX } else { 1 };
    let weights = rows.iter().flat_map(|r| r.valid.iter().take(per_row)).map(|v| v.weight.value);
    let count = weights.clone().count();
    if count > 0 { weights.sum::<f64>() / count as f64 } else { 1.0 }
}

/// The smallest entropy of the top `share` of valid tokens; below all where there are none.
fn entropy_threshold(rows: &[Row], share: f64) -> f64 {
    let mut all: Vec<f64> = rows.iter().flat_map(|r| &r.valid).map(|v| v.entropy).collect();
    all.sort_unstable_by(|a, b| b.total_cmp(a));
    let last = ((share * all.len() as f64).ceil() as usize).clamp(1, all.len().max(1)) - 1;
    all.get(last).copied().unwrap_or(f64::NEG_INFINITY)
}
