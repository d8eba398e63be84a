//! Passes over micro-batches: what the loss must know of the whole, forward and backward.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use moe_routing::RouteMode;
use policy_loss::op::loss_tensor;
use policy_loss::{Metrics, Normalizer, PolicyLoss};
use qwen3::ops::GatherRows;
use qwen3::{ForwardOptions, Hidden, LogProbs};

use super::routes::RoutingFacts;
use super::{Learner, UpdateError, UpdateReport};
use crate::policy::Policy;
use crate::sample::{Columns, Packed, Sample, micro_batches, traces_of};

/// What one micro-batch gave.
pub(super) struct Pass {
    pub(super) loss: f64,
    metrics: Metrics,
    tokens: usize,
    logps: Vec<Vec<f32>>,
    routing: Option<RoutingFacts>,
    /// Of forward and backward.
    pub(super) seconds: [f64; 2],
}

impl Pass {
    pub(super) fn merge_into(self, report: &mut UpdateReport, logps: &mut Vec<Vec<f32>>) {
        report.metrics.merge(&self.metrics);
        report.tokens += self.tokens;
        logps.extend(self.logps);
        let Some(RoutingFacts { discrepancy, coverage, load }) = self.routing else { return };
        if let Some(discrepancy) = discrepancy {
            report.discrepancy.merge(&discrepancy);
        }
        if let Some(coverage) = coverage {
            report.coverage.get_or_insert_default().merge(coverage);
        }
        report.load = Some(load);
    }
}

impl Learner {
    pub(super) fn log_probs(
        &self,
        model: &Policy,
        hidden: &Hidden,
        packed: &Packed,
    ) -> Result<Vec<f32>, UpdateError> {
        let states = hidden.states.apply_op1(GatherRows { rows: Arc::from(packed.rows.as_slice()) })?;
        Ok(model.log_probs(&states, &packed.targets, self.temperature)?.logp.to_vec1::<f32>()?)
    }

    /// What of a mini-batch the loss of each of its micro-batches must know.
    pub(super) fn normalizer(&self, loss: &PolicyLoss, batch: &[&Sample]) -> Result<Normalizer, UpdateError> {
        let mut group_tokens: BTreeMap<u32, f64> = BTreeMap::new();
        for sample in batch {
            *group_tokens.entry(sample.group).or_default() += sample.response.len() as f64;
        }
        let counts = Normalizer {
            tokens: Some(group_tokens.values().sum()),
            seqs: Some(batch.len() as f64),
            group_tokens: Some(group_tokens),
            ..Normalizer::default()
        };
        if !loss.config().needs_batch_statistics() {
            return Ok(counts);
        }
        // These are statistics of the current policy: one pass more, without gradients.
        let (mut logp, mut entropy) = (Vec::new(), Vec::new());
        for micro in micro_batches(batch, self.settings.tokens_per_micro) {
            let (_, _, scores) = self.score(&micro, true)?;
            logp.extend(scores.logp.to_vec1::<f32>()?);
            entropy.extend(scores.entropy.to_vec1::<f32>()?);
        }
        let whole = loss.normalizer(&Columns::new(batch).batch(&logp, &entropy, None))?;
        Ok(Normalizer {
            entropy_threshold: whole.entropy_threshold,
            mean_weight: whole.mean_weight,
            ..counts
        })
    }

    fn score(&self, samples: &[&Sample], no_grad: bool) -> Result<(Packed, Hidden, LogProbs), UpdateError> {
        let packed = Packed::new(samples)?;
        let traces = self.replays().then(|| traces_of(samples)).transpose().map_err(UpdateError::NoRoutes)?;
        let routing = match &traces {
            Some(traces) => RouteMode::Replay { traces, missing: self.settings.missing_routes },
            None => RouteMode::Natural,
        };
        let hidden = self.model.forward(&packed.batch, &packed.items, &ForwardOptions { routing, no_grad });
        let hidden = hidden.map_err(|e| UpdateError::of_forward(e, samples))?;
        let states = hidden.states.apply_op1(GatherRows { rows: Arc::from(packed.rows.as_slice()) })?;
        let scores = self.model.log_probs(&states, &packed.targets, self.temperature)?;
        Ok((packed, hidden, scores))
    }

    /// Forward and backward of one micro-batch.
    pub(super) fn micro(
        &self,
        loss: &PolicyLoss,
        micro: &[&Sample],
        normalizer: &Normalizer,
        share: f64,
    ) -> Result<(Pass, Vec<Vec<f32>>), UpdateError> {
        let start = Instant::now();
        let (packed, hidden, scores) = self.score(micro, false)?;
        let (logp, entropy) = (scores.logp.to_vec1::<f32>()?, scores.entropy.to_vec1::<f32>()?);
        let reference = match &self.reference {
            Some(model) => {
                let options = ForwardOptions { no_grad: true, ..ForwardOptions::default() };
                let hidden = model.forward(&packed.batch, &packed.items, &options)?;
                Some(self.log_probs(model, &hidden, &packed)?)
            }
            None => None,
        };
        let columns = Columns::new(micro);
        let out = loss.evaluate(&columns.batch(&logp, &entropy, reference.as_deref()), normalizer)?;
        let scalar = loss_tensor(&out, &scores.logp, Some(&scores.entropy))?;
        let (scalar, routing) = self.router_terms(scalar, micro, &packed, &hidden, share)?;
        let forward = start.elapsed().as_secs_f64();
        let gradients = self.model.gradients(&scalar, &packed.items)?;
        let backward = start.elapsed().as_secs_f64() - forward;
        let pass = Pass {
            loss: out.loss,
            metrics: out.metrics,
            tokens: micro.iter().map(|s| s.fed()).sum(),
            logps: packed.offsets.windows(2).map(|w| logp[w[0]..w[1]].to_vec()).collect(),
            routing,
            seconds: [forward, backward],
        };
        Ok((pass, gradients))
    }
}
