//! From scored samples to better weights: old log-probabilities, mini-batches, micro-batches, loss, backward, step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use candle_core::Tensor;
use candle_core::backprop::GradStore;
use moe_routing::{AuxCounts, AuxForm, Discrepancy, ExpertCounts, MissingPolicy, RouteMode, op as routing};
use policy_loss::op::loss_tensor;
use policy_loss::{Metrics, Normalizer, PolicyLoss};
use qwen3::ops::GatherRows;
use qwen3::{ForwardOptions, Hidden, LogProbs};
use rand::Rng;
use rayon::prelude::*;
use rollout_engine::random::{Stream, keyed_rng};

use crate::config::{Config, Routing, Update};
use crate::optim::{AdamW, Gradients, learning_rate};
use crate::policy::Policy;
use crate::sample::{Columns, Packed, Sample, micro_batches, traces_of};
use crate::types::SampleKey;

/// What a step of the learner did.
#[derive(Clone, Debug, Default)]
pub struct UpdateReport {
    /// Diagnostics of all mini-batches.
    pub metrics: Metrics,
    /// Mean loss of the optimiser steps.
    pub loss: f64,
    /// Gradient norms before clipping, one an optimiser step.
    pub grad_norms: Vec<f64>,
    /// Optimiser steps skipped, with the reason.
    pub skipped: Vec<String>,
    /// Learning rate.
    pub lr: f64,
    /// Tokens that went through forward and backward.
    pub tokens: usize,
    /// Distance between sampler and trainer, measured on the first mini-batch.
    pub mismatch: Option<Mismatch>,
    /// Seconds in old log-probabilities, forward, backward, optimiser.
    pub seconds: [f64; 4],
    /// The experts that ran against those that the logits would choose, when routes are replayed.
    pub discrepancy: Discrepancy,
    /// Largest load of an expert over the mean, and share of experts without a token, for models with experts.
    pub load: Option<(f64, f64)>,
}

/// Distance between the sampler's log-probabilities and the trainer's under the same weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mismatch {
    /// Mean of `|log π_old − log μ|`.
    pub mean_abs: f64,
    /// Largest of it.
    pub max_abs: f64,
    /// k1 estimate of `KL(μ‖π_old)`.
    pub k1: f64,
    /// k3 estimate of it.
    pub k3: f64,
}

impl Mismatch {
    fn measure(samples: &[&Sample], logp: &[Vec<f32>]) -> Self {
        let pairs = samples.iter().zip(logp).flat_map(|(s, logp)| logp.iter().zip(&s.logp_mu));
        let d: Vec<f64> = pairs.map(|(old, mu)| f64::from(*old) - f64::from(*mu)).collect();
        let mean = |f: &dyn Fn(f64) -> f64| d.iter().map(|d| f(*d)).sum::<f64>() / d.len().max(1) as f64;
        Self {
            mean_abs: mean(&f64::abs),
            max_abs: d.iter().fold(0.0, |m, d| m.max(d.abs())),
            k1: mean(&|d| -d),
            k3: mean(&|d| d.min(80.0).exp_m1() - d),
        }
    }
}

/// What one micro-batch gave.
struct Pass {
    loss: f64,
    metrics: Metrics,
    gradients: GradStore,
    tokens: usize,
    logps: Vec<Vec<f32>>,
    routing: Option<RoutingFacts>,
    /// Of forward and backward.
    seconds: [f64; 2],
}

struct RoutingFacts {
    discrepancy: Option<Discrepancy>,
    load: (f64, f64),
}

impl Pass {
    fn merge_into(self, report: &mut UpdateReport, logps: &mut Vec<Vec<f32>>) {
        report.metrics.merge(&self.metrics);
        report.tokens += self.tokens;
        logps.extend(self.logps);
        let Some(RoutingFacts { discrepancy, load }) = self.routing else { return };
        if let Some(discrepancy) = discrepancy {
            report.discrepancy.merge(&discrepancy);
        }
        report.load = Some(load);
    }
}

/// The policy with its optimiser.
pub struct Learner {
    /// The trainable model.
    pub model: Policy,
    /// Its optimiser.
    pub optimizer: AdamW,
    loss: PolicyLoss,
    reference: Option<Policy>,
    settings: Update,
    temperature: f64,
    total_steps: u64,
    seed: u64,
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
        Self {
            optimizer: AdamW::new(&model, &config.update),
            model,
            loss,
            reference: None,
            settings: config.update.clone(),
            temperature: f64::from(config.rollout.temperature),
            total_steps: config.run.steps,
            seed: config.run.seed,
            norms: Vec::new(),
        }
    }

    /// The loss it minimises.
    #[must_use]
    pub fn loss(&self) -> &PolicyLoss {
        &self.loss
    }

    /// Sets the frozen policy of the KL penalty.
    pub fn set_reference(&mut self, model: Policy) {
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

    /// One update on a batch of samples: every mini-batch of every epoch. Fills in `logp_old`.
    ///
    /// # Errors
    /// When the model or the loss refuses.
    pub fn update(&mut self, samples: &mut [Sample], step: u64) -> Result<UpdateReport, UpdateError> {
        let mut report = UpdateReport {
            lr: learning_rate(&self.settings, step, self.total_steps),
            ..UpdateReport::default()
        };
        let updates = self.settings.minibatches * self.settings.epochs;
        let start = Instant::now();
        if updates > 1 && self.settings.routing == Routing::R2 {
            self.score_old(samples)?;
        } else if updates > 1 {
            // The sampler runs the trainer's kernels on the same weights, so what it recorded *is* the old policy,
            // bit for bit. The first mini-batch below measures that it is.
            samples.iter_mut().for_each(|s| s.logp_old = s.logp_mu.clone());
        }
        report.seconds[0] = start.elapsed().as_secs_f64();
        let mut losses = 0.0;
        for epoch in 0..self.settings.epochs {
            for batch in self.mini_batches(samples, step, epoch) {
                let loss = if updates == 1 { self.loss.on_policy() } else { self.loss.clone() };
                let mut new_logp = Vec::new();
                losses += self.optimise(&loss, &batch, &mut report, &mut new_logp)?;
                if report.mismatch.is_none() {
                    report.mismatch = Some(Mismatch::measure(&batch, &new_logp));
                }
                if updates == 1 {
                    let keys: Vec<_> = batch.iter().map(|s| s.key).collect();
                    for (key, logp) in keys.into_iter().zip(new_logp) {
                        if let Some(sample) = samples.iter_mut().find(|s| s.key == key) {
                            sample.logp_old = logp;
                        }
                    }
                    break;
                }
            }
        }
        report.loss = losses / updates as f64;
        Ok(report)
    }

    /// Splits by whole groups, in a new order every epoch.
    fn mini_batches<'a>(&self, samples: &'a [Sample], step: u64, epoch: usize) -> Vec<Vec<&'a Sample>> {
        let mut groups: Vec<u32> = samples.iter().map(|s| s.group).collect();
        groups.dedup();
        if self.settings.minibatches * self.settings.epochs > 1 {
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

    /// Log-probabilities at the start of the step, and the experts that ran (R2).
    fn score_old(&self, samples: &mut [Sample]) -> Result<(), UpdateError> {
        let all: Vec<&Sample> = samples.iter().collect();
        let mut scored = Vec::with_capacity(all.len());
        for micro in micro_batches(&all, self.settings.tokens_per_micro) {
            let packed = Packed::new(&micro)?;
            let routing = RouteMode::Record { policy_version: 0 };
            let hidden = self.model.forward(
                &packed.batch,
                &packed.items,
                &ForwardOptions { routing, no_grad: true },
            )?;
            let logp = self.log_probs(&self.model, &hidden, &packed)?;
            let logps = packed.offsets.windows(2).map(|w| logp[w[0]..w[1]].to_vec());
            scored.extend(logps.zip(hidden.traces));
        }
        for (sample, (logp, routes)) in samples.iter_mut().zip(scored) {
            sample.logp_old = logp;
            sample.routes = Some(routes);
        }
        Ok(())
    }

    fn log_probs(&self, model: &Policy, hidden: &Hidden, packed: &Packed) -> Result<Vec<f32>, UpdateError> {
        let states = hidden.states.apply_op1(GatherRows { rows: Arc::from(packed.rows.as_slice()) })?;
        Ok(model.log_probs(&states, &packed.targets, self.temperature)?.logp.to_vec1::<f32>()?)
    }

    /// Whether updates run recorded experts. R2 records them when the batch is scored, which a single update
    /// does not need: its old policy is the current one.
    fn replays(&self) -> bool {
        match self.settings.routing {
            Routing::Natural => false,
            Routing::R2 => self.settings.minibatches * self.settings.epochs > 1,
            Routing::R3 => true,
        }
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
        let mut gradients = Gradients::zeros(&self.model);
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
            let busy = passes.iter().fold([0.0; 2], |s, p| [s[0] + p.seconds[0], s[1] + p.seconds[1]]);
            for pass in passes {
                gradients.add(&self.model, &pass.gradients)?;
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

    /// What of a mini-batch the loss of each of its micro-batches must know.
    fn normalizer(&self, loss: &PolicyLoss, batch: &[&Sample]) -> Result<Normalizer, UpdateError> {
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
            Some(traces) => RouteMode::Replay { traces, missing: MissingPolicy::Error },
            None => RouteMode::Natural,
        };
        let hidden = self.model.forward(&packed.batch, &packed.items, &ForwardOptions { routing, no_grad });
        let hidden = hidden.map_err(|e| UpdateError::of_forward(e, samples))?;
        let states = hidden.states.apply_op1(GatherRows { rows: Arc::from(packed.rows.as_slice()) })?;
        let scores = self.model.log_probs(&states, &packed.targets, self.temperature)?;
        Ok((packed, hidden, scores))
    }

    /// Forward and backward of one micro-batch.
    fn micro(
        &self,
        loss: &PolicyLoss,
        micro: &[&Sample],
        normalizer: &Normalizer,
        share: f64,
    ) -> Result<Pass, UpdateError> {
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
        let (scalar, routing) = self.router_terms(scalar, &hidden, share)?;
        let forward = start.elapsed().as_secs_f64();
        let gradients = scalar.backward()?;
        let backward = start.elapsed().as_secs_f64() - forward;
        Ok(Pass {
            loss: out.loss,
            metrics: out.metrics,
            gradients,
            tokens: micro.iter().map(|s| s.fed()).sum(),
            logps: packed.offsets.windows(2).map(|w| logp[w[0]..w[1]].to_vec()).collect(),
            routing,
            seconds: [forward, backward],
        })
    }

    /// Adds the load-balance loss and measures routing, of a model with experts.
    fn router_terms(
        &self,
        mut scalar: Tensor,
        hidden: &Hidden,
        share: f64,
    ) -> Result<(Tensor, Option<RoutingFacts>), UpdateError> {
        let Some(moe) = &self.model.config().moe else { return Ok((scalar, None)) };
        let (k, router) = (moe.num_experts_per_tok, moe.router());
        let layers = hidden.routes.len().max(1) as f64;
        let (natural, discrepancy) = match hidden.coverage {
            None => (hidden.routes.clone(), None),
            Some(_) => {
                let choose = |logits| routing::choose(logits, k, &router);
                let natural = hidden.router_logits.iter().map(choose).collect::<Result<Vec<_>, _>>()?;
                let values = |logits: &Tensor| logits.flatten_all()?.to_vec1::<f32>();
                let logits = hidden.router_logits.iter().map(values).collect::<Result<Vec<_>, _>>()?;
                let discrepancy =
                    Discrepancy::of_replay(&logits, &hidden.routes, moe.num_experts, k, &router)?;
                (natural, Some(discrepancy))
            }
        };
        let (mut imbalance, mut dead) = (0.0, 0.0);
        for ((logits, ran), natural) in hidden.router_logits.iter().zip(&hidden.routes).zip(&natural) {
            let load = ExpertCounts::of(ran, moe.num_experts)?;
            imbalance += load.max_over_mean().unwrap_or(1.0);
            dead += load.dead_experts() as f64 / moe.num_experts as f64;
            if self.settings.router_aux_coef > 0.0 {
                let counts = ExpertCounts::of(AuxCounts::default().pick(natural, ran), moe.num_experts)?;
                let aux = routing::load_balance_loss(logits, &counts, k, &router, AuxForm::Switch)?;
                scalar = (scalar + aux.affine(self.settings.router_aux_coef * share / layers, 0.0)?)?;
            }
        }
        Ok((scalar, Some(RoutingFacts { discrepancy, load: (imbalance / layers, dead / layers) })))
    }

    /// Supervised learning on right answers: one step of mean cross-entropy. Returns the loss.
    ///
    /// # Errors
    /// When the model refuses.
    pub fn imitate(&mut self, samples: &[Sample], lr: f64) -> Result<f64, UpdateError> {
        let all: Vec<&Sample> = samples.iter().collect();
        let tokens: usize = all.iter().map(|s| s.response.len()).sum();
        let mut gradients = Gradients::zeros(&self.model);
        let mut total = 0.0;
        for micro in micro_batches(&all, self.settings.tokens_per_micro) {
            let packed = Packed::new(&micro)?;
            let hidden = self.model.forward(&packed.batch, &packed.items, &ForwardOptions::default())?;
            let states = hidden.states.apply_op1(GatherRows { rows: Arc::from(packed.rows.as_slice()) })?;
            let scores = self.model.log_probs(&states, &packed.targets, 1.0)?;
            let loss = scores.logp.sum_all()?.affine(-1.0 / tokens as f64, 0.0)?;
            total += f64::from(loss.to_scalar::<f32>()?);
            gradients.add(&self.model, &loss.backward()?)?;
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

/// Why an update failed.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// A sample whose experts are to be replayed has none recorded.
    #[error("update.routing: no experts are recorded for sample {} of prompt {} (epoch {})", .0.index, .0.prompt, .0.epoch)]
    NoRoutes(SampleKey),
    /// A sample's recorded experts cannot be replayed.
    #[error("update.routing: sample {} of prompt {} (epoch {}): {source}", key.index, key.prompt, key.epoch)]
    Routes {
        /// The sample.
        key: SampleKey,
        /// What is wrong with its trace.
        source: Box<moe_routing::Error>,
    },
    /// Routing refused.
    #[error(transparent)]
    Routing(#[from] moe_routing::Error),
    /// The model refused.
    #[error(transparent)]
    Model(#[from] qwen3::Error),
    /// The loss refused.
    #[error(transparent)]
    Loss(#[from] policy_loss::Error),
    /// candle refused.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl UpdateError {
    /// Names the sample whose sequence of a packed batch is at fault.
    fn of_forward(error: qwen3::Error, samples: &[&Sample]) -> Self {
        match error {
            qwen3::Error::Routing(moe_routing::Error::Sequence { sequence, source })
                if sequence < samples.len() =>
            {
                Self::Routes { key: samples[sequence].key, source }
            }
            other => Self::Model(other),
        }
    }
}
