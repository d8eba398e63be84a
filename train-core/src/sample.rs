//! Samples: what rollouts give, what training reads.

use std::sync::Arc;

use moe_routing::{RouteShape, RouteTrace};
use policy_loss::{Advantages, TokenBatch};
use qwen3::{Batch, VisualItems};
use rollout_engine::{GateTrace, Generation};

use crate::policy::join_items;
use crate::types::{Finish, Prompt, RewardOutcome, SampleKey};

/// One response of the policy and everything known of it.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its identity.
    pub key: SampleKey,
    /// The question.
    pub prompt: Arc<Prompt>,
    /// Samples of one prompt share a group.
    pub group: u32,
    /// Response tokens.
    pub response: Vec<u32>,
    /// The response as text.
    pub text: String,
    /// Behaviour log-probabilities, recorded while sampling.
    pub logp_mu: Vec<f32>,
    /// Log of the probability mass that truncated sampling kept.
    pub log_kept_mass: Vec<f32>,
    /// Log-probabilities at the start of the step; empty until they are known.
    pub logp_old: Vec<f32>,
    /// Log-probabilities in the last pass that trained on it; empty until there was one.
    pub logp_trained: Vec<f32>,
    /// Entropies while sampling.
    pub entropy: Vec<f32>,
    /// Why it ended.
    pub finish: Finish,
    /// The experts of every fed token, when they are recorded.
    pub routes: Option<RouteTrace>,
    /// What a gate denied while sampling, under one.
    pub gate: Option<GateTrace>,
    /// Its reward.
    pub reward: RewardOutcome,
    /// Its advantage.
    pub advantage: f64,
}

impl Sample {
    /// From a finished generation.
    #[must_use]
    pub fn new(key: SampleKey, prompt: Arc<Prompt>, group: u32, text: String, g: Generation) -> Self {
        let log_kept_mass = g.logps.iter().zip(&g.truncated_logps).map(|(raw, cut)| raw - cut).collect();
        Self {
            key,
            prompt,
            group,
            response: g.tokens,
            text,
            logp_mu: g.logps,
            log_kept_mass,
            logp_old: Vec::new(),
            logp_trained: Vec::new(),
            entropy: g.entropies,
            finish: g.finish,
            routes: g.routes,
            gate: g.gate,
            reward: RewardOutcome::default(),
            advantage: 0.0,
        }
    }

    /// Tokens fed to the model when it is scored: prompt and response without its last token.
    #[must_use]
    pub fn fed(&self) -> usize {
        self.prompt.tokens.len() + self.response.len() - 1
    }

    /// A trace for it in which no expert is known.
    #[must_use]
    pub fn unknown_routes(&self, shape: RouteShape) -> RouteTrace {
        let mut trace = RouteTrace::new(shape, 0);
        let fed = self.prompt.tokens.iter().chain(&self.response).take(self.fed());
        fed.for_each(|token| trace.push_missing(*token));
        trace
    }

    /// Whether one pass over the prompt does for both: the tokens are the same, and so are the experts, where they
    /// are recorded.
    fn shares_prompt_with(&self, other: &Self) -> bool {
        let same = match (&self.routes, &other.routes) {
            (Some(a), Some(b)) => a.agrees_with(b, 0..self.prompt.tokens.len()),
            (None, None) => true,
            _ => false,
        };
        same && self.prompt.tokens == other.prompt.tokens && self.prompt.images == other.prompt.images
    }

    /// Rows that it adds to a pass after another sample.
    fn rows_after(&self, previous: Option<&Self>) -> usize {
        match previous {
            Some(previous) if self.shares_prompt_with(previous) => self.response.len() - 1,
            _ => self.fed(),
        }
    }
}

/// Samples packed for one forward pass.
pub struct Packed {
    /// Inputs.
    pub batch: Batch,
    /// The images of its prompts.
    pub items: VisualItems,
    /// Rows that predict response tokens.
    pub rows: Vec<u32>,
    /// What they predict.
    pub targets: Vec<u32>,
    /// Where each sample's response starts among `rows`, and the end.
    pub offsets: Vec<usize>,
}

impl Packed {
    /// Packs samples without padding. A prompt that follows itself is computed once.
    ///
    /// # Errors
    /// When candle refuses to join images.
    pub fn new(samples: &[&Sample]) -> candle_core::Result<Self> {
        let mut images = Vec::new();
        let mut packed = Self {
            batch: Batch::new(),
            items: VisualItems::default(),
            rows: Vec::new(),
            targets: Vec::new(),
            offsets: vec![0],
        };
        let mut prefix = 0;
        for (i, sample) in samples.iter().enumerate() {
            if i == 0 || !sample.shares_prompt_with(samples[i - 1]) {
                prefix = packed.batch.push(&sample.prompt.tokens, None);
                images.extend(sample.prompt.images.get());
            }
            let asks = packed.batch.cu_seqlens[prefix as usize + 1] - 1;
            let start = packed.batch.tokens.len() as u32;
            packed.batch.push(&sample.response[..sample.response.len() - 1], Some(prefix));
            packed.rows.extend([asks].into_iter().chain(start..packed.batch.tokens.len() as u32));
            packed.targets.extend_from_slice(&sample.response);
            packed.offsets.push(packed.targets.len());
        }
        packed.items = join_items(images.into_iter())?;
        Ok(packed)
    }
}

/// What the loss reads of some samples besides the current policy, one sample after the other.
pub struct Columns {
    offsets: Vec<usize>,
    logp_old: Vec<f32>,
    logp_mu: Vec<f32>,
    advantages: Vec<f32>,
    groups: Vec<u32>,
}

impl Columns {
    /// Gathers them.
    #[must_use]
    pub fn new(samples: &[&Sample]) -> Self {
        let mut offsets = vec![0];
        for sample in samples {
            offsets.push(offsets[offsets.len() - 1] + sample.response.len());
        }
        Self {
            offsets,
            logp_old: samples.iter().flat_map(|s| &s.logp_old).copied().collect(),
            logp_mu: samples.iter().flat_map(|s| &s.logp_mu).copied().collect(),
            advantages: samples.iter().map(|s| s.advantage as f32).collect(),
            groups: samples.iter().map(|s| s.group).collect(),
        }
    }

    /// With the current policy's log-probabilities and entropies, and the reference policy's log-probabilities.
    #[must_use]
    pub fn batch<'a>(
        &'a self,
        logp: &'a [f32],
        entropy: &'a [f32],
        logp_ref: Option<&'a [f32]>,
    ) -> TokenBatch<'a, f32> {
        TokenBatch {
            logp_old: (!self.logp_old.is_empty()).then_some(&self.logp_old[..]),
            logp_mu: Some(&self.logp_mu),
            logp_ref,
            entropy: Some(entropy),
            groups: Some(&self.groups),
            ..TokenBatch::new(&self.offsets, logp, Advantages::PerSequence(&self.advantages))
        }
    }
}

/// The recorded experts of some samples, as a packed forward pass replays them, or the sample that has none.
///
/// # Errors
/// The key of the first sample without a trace.
pub fn traces_of<'a>(samples: &[&'a Sample]) -> Result<Vec<&'a RouteTrace>, SampleKey> {
    samples.iter().map(|s| s.routes.as_ref().ok_or(s.key)).collect()
}

/// Cuts samples, in their order, into runs of at most `tokens` rows that are about equally long (a longer sample is a run
/// of its own). The rows of a prompt that samples share count once a run.
#[must_use]
pub fn micro_batches<'a>(samples: &[&'a Sample], tokens: usize) -> Vec<Vec<&'a Sample>> {
    let after = |i: usize| samples[i].rows_after(i.checked_sub(1).map(|before| samples[before]));
    let total: usize = (0..samples.len()).map(after).sum();
    let runs = total.div_ceil(tokens.max(1)).max(1);
    let aim = total.div_ceil(runs);
    let mut out: Vec<Vec<&Sample>> = Vec::new();
    let mut filled = 0;
    for (i, sample) in samples.iter().enumerate() {
        let rows = after(i);
        match out.last_mut() {
            Some(last) if filled + rows / 2 <= aim && filled + rows <= tokens => {
                filled += rows;
                last.push(sample);
            }
            _ => {
                filled = sample.fed();
                out.push(vec![sample]);
            }
        }
    }
    out
}
