//! Passes over micro-batches: what the loss must know of the whole, forward and backward.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use candle_core::Tensor;
use moe_routing::RouteMode;
use policy_loss::{LinearHead, LogitMask, Metrics, Normalizer, PolicyLoss};
use qwen3::ops::GatherRows;
use qwen3::{ForwardOptions, Hidden};

use super::routes::RoutingFacts;
use super::{Learner, UpdateError, UpdateReport};
use crate::config::RefMask;
use crate::gate::Masks;
use crate::policy::Policy;
use crate::sample::{Columns, Packed, Sample, micro_batches, traces_of};

/// The forward pass of some samples, before the head.
struct Forward {
    packed: Packed,
    hidden: Hidden,
    /// The rows of `hidden` that predict response tokens.
    states: Tensor,
    masks: Option<Arc<Masks>>,
}

/// What one micro-batch gave.
pub(super) struct Pass {
    pub(super) loss: f64,
    metrics: Metrics,
    tokens: usize,
    logps: Vec<Vec<f32>>,
    routing: Option<RoutingFacts>,
    /// Sum of the leak loss, and its rows.
    leak: [f64; 2],
    /// Of forward and backward.
    pub(super) seconds: [f64; 2],
}

impl Pass {
    pub(super) fn merge_into(self, report: &mut UpdateReport, logps: &mut Vec<Vec<f32>>) {
        report.metrics.merge(&self.metrics);
        report.tokens += self.tokens;
        report.leak[0] += self.leak[0];
        report.leak[1] += self.leak[1];
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
        masks: Option<Arc<Masks>>,
    ) -> Result<Vec<f32>, UpdateError> {
        let states = hidden.states.apply_op1(GatherRows { rows: Arc::from(packed.rows.as_slice()) })?;
        let masks = masks.map(|m| m as Arc<dyn LogitMask>);
        let scores = model.text().masked_log_probs(&states, &packed.targets, self.temperature, masks)?;
        Ok(scores.logp.to_vec1::<f32>()?)
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
            let Forward { packed, states, masks, .. } = self.forward(&micro, true)?;
            let mask = masks.map(|m| m as Arc<dyn LogitMask>);
            let scores =
                self.model.text().masked_log_probs(&states, &packed.targets, self.temperature, mask)?;
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

    fn forward(&self, samples: &[&Sample], no_grad: bool) -> Result<Forward, UpdateError> {
        let packed = Packed::new(samples)?;
        let traces = self.replays().then(|| traces_of(samples)).transpose().map_err(UpdateError::NoRoutes)?;
        let routing = match &traces {
            Some(traces) => RouteMode::Replay { traces, missing: self.settings.missing_routes },
            None => RouteMode::Natural,
        };
        let hidden = self.model.forward(&packed.batch, &packed.items, &ForwardOptions { routing, no_grad });
        let hidden = hidden.map_err(|e| UpdateError::of_forward(e, samples))?;
        let states = hidden.states.apply_op1(GatherRows { rows: Arc::from(packed.rows.as_slice()) })?;
        Ok(Forward { packed, hidden, states, masks: self.masks(samples)? })
    }

    /// `−log(probability that the gate left)` of the rows at which it denied anything, `[rows]`: the log-probability of the
    /// same token under what it denied and without that differ by it. What truncation cut is no doing of the gate.
    fn leak(&self, pass: &Forward) -> Result<Option<Tensor>, UpdateError> {
        let Some(masks) = &pass.masks else { return Ok(None) };
        let rows = masks.denied_rows();
        let targets: Vec<u32> = rows.iter().map(|row| pass.packed.targets[*row as usize]).collect();
        let states = pass.states.apply_op1(GatherRows { rows: Arc::from(rows.as_slice()) })?;
        let full = self.model.text().log_probs(&states, &targets, self.temperature)?.logp;
        let denials: Arc<dyn LogitMask> = masks.denials_of(&rows);
        let gated =
            self.model.text().masked_log_probs(&states, &targets, self.temperature, Some(denials))?.logp;
        Ok(Some((gated - full)?))
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
        let pass = self.forward(micro, false)?;
        let Forward { packed, hidden, states, masks } = &pass;
        let reference = match &self.reference {
            Some(model) => {
                let options = ForwardOptions { no_grad: true, ..ForwardOptions::default() };
                let hidden = model.forward(&packed.batch, &packed.items, &options)?;
                let masks = masks.clone().filter(|_| self.ref_mask == RefMask::Same);
                Some(self.log_probs(model, &hidden, packed, masks)?)
            }
            None => None,
        };
        let columns = Columns::new(micro);
        let batch = columns.batch(&[], &[], reference.as_deref());
        let (targets, temperature) = (&packed.targets[..], self.temperature);
        let banned = masks.as_deref().map(|m| m as &dyn LogitMask);
        let (scalar, found) = self.model.text().head_loss(states, |head, products, grad| {
            let head = LinearHead { targets, temperature, banned, ..head };
            loss.evaluate_linear(&head, &batch, normalizer, &products, grad).map_err(UpdateError::from)
        })?;
        let (mut scalar, routing) = self.router_terms(scalar, micro, packed, hidden, share)?;
        let mut leak = [0.0; 2];
        if self.leak_coef > 0.0
            && let Some(term) = self.leak(&pass)?
        {
            let sum = term.sum_all()?;
            leak = [f64::from(sum.to_scalar::<f32>()?), term.elem_count() as f64];
            let tokens = normalizer.tokens.unwrap_or(1.0);
            scalar = (scalar + sum.affine(self.leak_coef / tokens, 0.0)?)?;
        }
        let forward = start.elapsed().as_secs_f64();
        let gradients = self.model.gradients(&scalar, &packed.items)?;
        let backward = start.elapsed().as_secs_f64() - forward;
        let pass = Pass {
            loss: found.loss.loss,
            metrics: found.loss.metrics,
            tokens: micro.iter().map(|s| s.fed()).sum(),
            logps: packed.offsets.windows(2).map(|w| found.logp[w[0]..w[1]].to_vec()).collect(),
            routing,
            leak,
            seconds: [forward, backward],
        };
        Ok((pass, gradients))
    }
}
