//! From scored samples to better weights: old log-probabilities, mini-batches, micro-batches, loss, backward, step.

mod error;
mod old;
mod pass;
mod report;
mod routes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use lcg::FamilyTable;
use policy_loss::PolicyLoss;
use qwen3::ops::GatherRows;
use qwen3::{ForwardOptions, Precision};
use rand::Rng;
use rayon::prelude::*;
use rollout_engine::random::{Stream, keyed_rng};

pub use error::UpdateError;
pub use report::{Divergence, UpdateReport};

use crate::config::{Config, RefMask, Routing, Update};
use crate::gate::Masks;
use crate::optim::{AdamW, Gradients, learning_rate};
use crate::policy::Policy;
use crate::sample::{Packed, Sample, micro_batches};
use crate::types::SampleKey;

/// The policy with its optimiser.
pub struct Learner {
    /// The trainable model.
    pub model: Policy,
    /// Its optimiser.
    pub optimizer: AdamW,
    loss: PolicyLoss,
    reference: Option<Policy>,
    settings: Update,
    /// Where the experts come from, for this model.
    routing: Routing,
    /// Whether the sampler's log-probabilities are the trainer's.
    exact_sampler: bool,
    temperature: f64,
    total_steps: u64,
    seed: u64,
    /// Under a gate: the families of tokens, which its masks speak of.
    families: Option<Arc<FamilyTable>>,
    ref_mask: RefMask,
    leak_coef: f64,
    /// Running record of gradient norms, for the skip rule and the spike guard.
    norms: Vec<f64>,
}

/// Gradient norms remembered.
const NORMS: usize = 50;

impl Learner {
    /// A learner at step 0.
    #[must_use]
    pub fn new(model: impl Into<Policy>, loss: PolicyLoss, config: &Config) -> Self {
        let mut model = model.into();
        model.set_recompute(config.model.recompute);
        model.set_matmul_precision(config.model.matmul_precision);
        Self {
            optimizer: AdamW::new(&model, &config.update),
            routing: config.update.routing_for(model.config().moe.is_some()),
            exact_sampler: config.rollout.precision == Precision::F32,
            model,
            loss,
            reference: None,
            settings: config.update.clone(),
            temperature: f64::from(config.rollout.temperature),
            total_steps: config.run.steps,
            seed: config.run.seed,
            families: None,
            ref_mask: config.gate.ref_mask,
            leak_coef: config.gate.leak_coef,
            norms: Vec::new(),
        }
    }

    /// Scores samples under the masks that a gate over these families recorded, from now on.
    pub fn replay_masks(&mut self, families: Arc<FamilyTable>) {
        self.families = Some(families);
    }

    /// The recorded masks of samples, row by row; `None` where nothing is denied.
    fn masks(&self, samples: &[&Sample]) -> Result<Option<Arc<Masks>>, UpdateError> {
        self.families.as_ref().map_or(Ok(None), |table| Masks::of(table, samples))
    }

    /// The loss it minimises.
    #[must_use]
    pub fn loss(&self) -> &PolicyLoss {
        &self.loss
    }

    /// Sets the frozen policy of the KL penalty.
    pub fn set_reference(&mut self, mut model: Policy) {
        model.set_matmul_precision(self.model.text().matmul_precision());
        self.reference = Some(model);
    }

    /// Gradient norms of the last optimiser steps.
    #[must_use]
    pub fn norms(&self) -> &[f64] {
        &self.norms
    }

    /// Takes back saved gradient norms.
    pub fn restore_norms(&mut self, norms: Vec<f64>) {
        self.norms = norms;
    }

    /// One update on a batch of samples after `step` steps: every mini-batch of every epoch. Fills in `logp_old` and
    /// `logp_trained`.
    ///
    /// # Errors
    /// When the model or the loss refuses.
    pub fn update(&mut self, samples: &mut [Sample], step: u64) -> Result<UpdateReport, UpdateError> {
        let mut report = UpdateReport {
            lr: learning_rate(&self.settings, step, self.total_steps),
            ..UpdateReport::default()
        };
        self.unknown_routes(samples)?;
        let updates = self.settings.steps_a_batch();
        let start = Instant::now();
        let exact = self.exact_sampler && samples.iter().all(|s| s.version >= step);
        if updates > 1 && (self.routing == Routing::R2 || !exact) {
            self.score_old(samples, &mut report)?;
        } else if updates > 1 {
            // The sampler runs the trainer's kernels on the same weights, so what it recorded *is* the old policy,
            // bit for bit. The first mini-batch below measures that it is.
            samples.iter_mut().for_each(|s| s.logp_old = s.logp_mu.clone());
        }
        report.seconds[0] = start.elapsed().as_secs_f64();
        let mut losses = 0.0;
        let mut trained: BTreeMap<SampleKey, Vec<f32>> = BTreeMap::new();
        for epoch in 0..self.settings.epochs {
            for batch in self.mini_batches(samples, step, epoch) {
                let loss = if updates == 1 { self.loss.on_policy() } else { self.loss.clone() };
                let mut logps = Vec::new();
                losses += self.optimise(&loss, &batch, &mut report, &mut logps)?;
                let at_start = report.mismatch == Divergence::default();
                for (sample, logp) in batch.iter().zip(logps) {
                    if at_start {
                        report.mismatch.add(&logp, &sample.logp_mu);
                    }
                    report.drift.add(&logp, &sample.logp_mu);
                    trained.insert(sample.key, logp);
                }
                if at_start {
                    report.flips = report.discrepancy.clone();
                }
            }
        }
        for sample in samples {
            sample.logp_trained = trained.remove(&sample.key).unwrap_or_default();
            if updates == 1 {
                sample.logp_old.clone_from(&sample.logp_trained);
            }
        }
        report.loss = losses / updates as f64;
        Ok(report)
    }

    /// Splits by whole groups, in a new order every epoch.
    fn mini_batches<'a>(&self, samples: &'a [Sample], step: u64, epoch: usize) -> Vec<Vec<&'a Sample>> {
        let mut groups: Vec<u32> = samples.iter().map(|s| s.group).collect();
        groups.dedup();
        if self.settings.steps_a_batch() > 1 {
            let mut rng = keyed_rng(self.seed, Stream::Shuffle, [step, epoch as u64]);
            for i in (1..groups.len()).rev() {
                groups.swap(i, rng.random_range(0..=i));
            }
        }
        let size = groups.len().div_ceil(self.settings.minibatches).max(1);
        groups
            .chunks(size)
            .map(|chunk| {
                // Batch order, so that one mini-batch is the batch itself.
                samples.iter().filter(|s| chunk.contains(&s.group)).collect()
            })
            .collect()
    }

    /// One optimiser step; returns the loss. `logps` takes the log-probabilities of each sample.
    fn optimise(
        &mut self,
        loss: &PolicyLoss,
        batch: &[&Sample],
        report: &mut UpdateReport,
        logps: &mut Vec<Vec<f32>>,
    ) -> Result<f64, UpdateError> {
        let tokens: usize = batch.iter().map(|s| s.response.len()).sum();
        let normalizer = self.normalizer(loss, batch)?;
        let mut gradients = Gradients::new(&self.model);
        let mut total = 0.0;
        // Several at once where there are threads for them, merged in order.
        for micros in
            micro_batches(batch, self.settings.tokens_per_micro).chunks(self.settings.parallel_micros)
        {
            let start = Instant::now();
            let passes: Vec<_> = micros
                .par_iter()
                .map(|micro| {
                    let share = micro.iter().map(|s| s.response.len()).sum::<usize>() as f64 / tokens as f64;
                    self.micro(loss, micro, &normalizer, share)
                })
                .collect();
            let passes = passes.into_iter().collect::<Result<Vec<_>, _>>()?;
            let busy = passes.iter().fold([0.0; 2], |s, (p, _)| [s[0] + p.seconds[0], s[1] + p.seconds[1]]);
            for (pass, of_micro) in passes {
                gradients.add(of_micro);
                total += pass.loss;
                pass.merge_into(report, logps);
            }
            let elapsed = start.elapsed().as_secs_f64();
            let forward = busy[0] / (busy[0] + busy[1]).max(f64::MIN_POSITIVE);
            report.seconds[1] += elapsed * forward;
            report.seconds[2] += elapsed * (1.0 - forward);
        }
        let start = Instant::now();
        let norm = gradients.norm();
        report.grad_norms.push(norm);
        if let Some(reason) = self.skip_reason(total, norm) {
            report.skipped.push(reason);
            return Ok(total);
        }
        let clip = self.settings.clip_norm;
        let scale = if clip > 0.0 && norm > clip { clip / norm } else { 1.0 };
        self.optimizer.step(&self.model, &gradients, report.lr, scale)?;
        self.norms.push(norm);
        if self.norms.len() > NORMS {
            self.norms.remove(0);
        }
        report.seconds[3] += start.elapsed().as_secs_f64();
        Ok(total)
    }

    fn skip_reason(&self, loss: f64, norm: f64) -> Option<String> {
        if !loss.is_finite() || !norm.is_finite() {
            return Some(format!("loss {loss}, gradient norm {norm}"));
        }
        let limit = self.settings.skip_norm * median(&self.norms)?;
        (self.settings.skip_norm > 0.0 && norm > limit).then(|| {
            format!("gradient norm {norm:.3} is above update.skip_norm × the running median ({limit:.3})")
        })
    }

    /// Supervised learning on right answers: one step of mean cross-entropy. Returns the loss.
    ///
    /// # Errors
    /// When the model refuses.
    pub fn imitate(&mut self, samples: &[Sample], lr: f64) -> Result<f64, UpdateError> {
        let all: Vec<&Sample> = samples.iter().collect();
        let tokens: usize = all.iter().map(|s| s.response.len()).sum();
        let mut gradients = Gradients::new(&self.model);
        let mut total = 0.0;
        for micro in micro_batches(&all, self.settings.tokens_per_micro) {
            let packed = Packed::new(&micro)?;
            let hidden = self.model.forward(&packed.batch, &packed.items, &ForwardOptions::default())?;
            let states = hidden.states.apply_op1(GatherRows { rows: Arc::from(packed.rows.as_slice()) })?;
            let (scalar, loss) =
                self.model.cross_entropy(&states, &packed.targets, &packed.offsets, tokens)?;
            total += loss;
            gradients.add(self.model.gradients(&scalar, &packed.items)?);
        }
        let norm = gradients.norm();
        let clip = self.settings.clip_norm;
        let scale = if clip > 0.0 && norm > clip { clip / norm } else { 1.0 };
        self.optimizer.step(&self.model, &gradients, lr, scale)?;
        Ok(total)
    }
}

/// The middle of some values.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}
