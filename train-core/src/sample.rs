//! Samples: what rollouts give, what training reads.

use std::sync::Arc;

use moe_routing::{RouteShape, RouteTrace};
use policy_loss::{Advantages, TokenBatch};
use qwen3::{Batch, VisualItems};
use rollout_engine::{GateTrace, Generation};
use serde::{Deserialize, Serialize};

use crate::policy::join_items;
use crate::types::{Finish, Prompt, RewardOutcome, SampleKey};

/// What a policy was told in the middle of its response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// It stands before this token of the response.
    pub before: usize,
    /// Its tokens.
    pub tokens: Vec<u32>,
}

/// One response of the policy, in one turn or several, and everything known of it. What the policy was told between its
/// turns is read but never trained on: arrays by token are of the response alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// Its identity.
    pub key: SampleKey,
    /// The question.
    pub prompt: Arc<Prompt>,
    /// Samples of one prompt share a group.
    pub group: u32,
    /// Steps that had been done when it was sampled: which weights drew it.
    pub version: u64,
    /// Response tokens: those that the policy drew, of all turns.
    pub response: Vec<u32>,
    /// What it was told between its turns, in order.
    pub observations: Vec<Observation>,
    /// The response as text; of a conversation a line for each turn.
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
    #[serde(with = "trace_bytes")]
    pub routes: Option<RouteTrace>,
    /// What a gate denied while sampling, under one. Not saved: no batch is sampled ahead under a gate.
    #[serde(skip)]
    pub gate: Option<GateTrace>,
    /// Its reward.
    pub reward: RewardOutcome,
    /// Its advantage.
    pub advantage: f64,
}

/// A trace in a checkpoint: its own bytes.
mod trace_bytes {
    use moe_routing::RouteTrace;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(trace: &Option<RouteTrace>, to: S) -> Result<S::Ok, S::Error> {
        trace.as_ref().map(RouteTrace::to_bytes).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<RouteTrace>, D::Error> {
        let bytes = Option::<Vec<u8>>::deserialize(from)?;
        bytes.map(|bytes| RouteTrace::from_bytes(&bytes).map_err(D::Error::custom)).transpose()
    }
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
            version: 0,
            response: g.tokens,
            observations: Vec::new(),
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

    /// Another turn, of the same conversation: the policy read `observation` and drew `g`, whose trace goes back to the
    /// beginning of the prompt.
    pub fn add_turn(&mut self, observation: Vec<u32>, text: &str, g: Generation) {
        self.observations.push(Observation { before: self.response.len(), tokens: observation });
        self.log_kept_mass.extend(g.logps.iter().zip(&g.truncated_logps).map(|(raw, cut)| raw - cut));
        self.response.extend(g.tokens);
        self.text.push('\n');
        self.text.push_str(text);
        self.logp_mu.extend(g.logps);
        self.entropy.extend(g.entropies);
        self.finish = g.finish;
        self.routes = g.routes;
        if let (Some(gate), Some(turn)) = (&mut self.gate, &g.gate) {
            gate.append(turn);
        }
    }

    /// The tokens behind the prompt in their order, and whether the policy drew them.
    pub fn behind_prompt(&self) -> impl Iterator<Item = (u32, bool)> {
        let mut observations = self.observations.iter().peekable();
        self.response.iter().enumerate().flat_map(move |(i, token)| {
            let told = observations.next_if(|o| o.before == i).map_or(&[][..], |o| &o.tokens);
            told.iter().map(|t| (*t, false)).chain([(*token, true)])
        })
    }

    /// Tokens fed to the model when it is scored: prompt, response and what came between, without the last token.
    #[must_use]
    pub fn fed(&self) -> usize {
        let told: usize = self.observations.iter().map(|o| o.tokens.len()).sum();
        self.prompt.tokens.len() + self.response.len() + told - 1
    }

    /// The tokens that are fed.
    pub fn fed_tokens(&self) -> impl Iterator<Item = u32> {
        self.prompt
            .tokens
            .iter()
            .copied()
            .chain(self.behind_prompt().map(|(token, _)| token))
            .take(self.fed())
    }

    /// A trace for it in which no expert is known.
    #[must_use]
    pub fn unknown_routes(&self, shape: RouteShape) -> RouteTrace {
        let mut trace = RouteTrace::new(shape, 0);
        self.fed_tokens().for_each(|token| trace.push_missing(token));
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
            Some(previous) if self.shares_prompt_with(previous) => self.fed() - self.prompt.tokens.len(),
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
            let (behind, drawn): (Vec<u32>, Vec<bool>) = sample.behind_prompt().unzip();
            packed.batch.push(&behind[..behind.len() - 1], Some(prefix));
            // Each row predicts the token after its own; what the policy was told is not its doing.
            let rows = [asks].into_iter().chain(start..packed.batch.tokens.len() as u32);
            for ((row, target), drawn) in rows.zip(behind).zip(drawn) {
                if drawn {
                    packed.rows.push(row);
                    packed.targets.push(target);
                }
            }
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
