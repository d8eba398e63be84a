//! Samples on their way: what has been read, what was drawn, and how the next token is.

use std::sync::Arc;

use lcg::GateState;
use moe_routing::RouteTrace;
use qwen3::Buffer;
use qwen3::decode::{Context, KvCache, Step};

use crate::draft::Want;
use crate::engine::{Finish, Generation};
use crate::error::Result;
use crate::gate::{Gate, GateTrace, Gated};
use crate::random::{Stream, uniform_at};
use crate::sampling::{Draw, SamplingParams, draw};

/// Tokens to be read, and the samples that begin behind them.
pub(crate) struct Prefill {
    pub(crate) tokens: Vec<u32>,
    pub(crate) fed: usize,
    pub(crate) context: Context,
    pub(crate) routes: Option<RouteTrace>,
    pub(crate) samples: Vec<Sampled>,
}

/// Whose sample it is, and how it is drawn.
pub(crate) struct Sampled {
    pub(crate) request: u64,
    pub(crate) sample: usize,
    pub(crate) key: [u64; 2],
    pub(crate) seed: u64,
    pub(crate) params: Arc<SamplingParams>,
    /// Tokens between the prompt and this turn: draws are numbered through all turns.
    pub(crate) before: usize,
    /// Under a gate. What others wrote between turns leaves it as it is.
    pub(crate) gate: GateState,
}

/// A drawn token, and what the gate made of it.
pub(crate) type Drawn = (Draw, Option<Gated>);

/// A sample on its way.
pub(crate) struct Sequence {
    pub(crate) sampled: Sampled,
    pub(crate) context: Context,
    /// Tokens before this turn.
    pub(crate) prompt: usize,
    /// What the draft model has seen, with one.
    pub(crate) draft: Context,
    pub(crate) generation: Generation,
    /// The tokens drafted for this step.
    pub(crate) drafted: Vec<u32>,
    /// Its first row in this step.
    pub(crate) row: usize,
    /// Of the drafted tokens, how many stayed.
    pub(crate) stayed: usize,
    /// Whether it is at its end.
    pub(crate) ended: bool,
}

/// A sample that ended and may go on. Its last token was not fed yet.
pub(crate) struct Ended {
    pub(crate) sampled: Sampled,
    pub(crate) context: Context,
    pub(crate) last: u32,
    pub(crate) routes: Option<RouteTrace>,
}

impl Generation {
    /// With room for so many tokens.
    fn of_at_most(tokens: usize) -> Self {
        Self {
            request: 0,
            sample: 0,
            tokens: Vec::with_capacity(tokens),
            logps: Vec::with_capacity(tokens),
            truncated_logps: Vec::with_capacity(tokens),
            entropies: Vec::with_capacity(tokens),
            finish: Finish::Length,
            routes: None,
            gate: None,
        }
    }
}

/// A step of the model, for the sequences that were fed.
pub(crate) struct Fed<'a> {
    pub(crate) gate: Option<&'a Gate>,
    pub(crate) step: &'a Step,
    pub(crate) logits: Buffer,
    pub(crate) hidden: usize,
    pub(crate) vocabulary: usize,
    pub(crate) max_len: usize,
}

impl Sequence {
    /// Draws behind the last token and behind each drafted one, up to the first draw that no draft foresaw.
    pub(crate) fn verify(&mut self, fed: &Fed<'_>) -> Result<()> {
        self.stayed = 0;
        loop {
            let row = self.row + self.stayed;
            let Generation { routes, tokens, .. } = &mut self.generation;
            if let (Some(routes), Some(token)) = (routes, tokens.last()) {
                routes.push(*token, fed.step.routes_of(row))?;
            }
            let state = &fed.step.states[row * fed.hidden..][..fed.hidden];
            let logits = &fed.logits[row * fed.vocabulary..][..fed.vocabulary];
            let drawn = next_token(fed.gate, state, logits, self)?;
            self.ended = self.accept(fed.gate, &drawn, fed.max_len)?;
            let foreseen = self.drafted.get(self.stayed) == Some(&drawn.0.token);
            self.stayed += usize::from(foreseen);
            if self.ended || !foreseen {
                // What was fed beyond leaves both models' contexts: all but the last token have been seen.
                let seen = self.prompt + self.generation.tokens.len() - 1;
                self.context.truncate(seen);
                self.draft.truncate(seen);
                return Ok(());
            }
        }
    }

    /// Takes a token; says whether the sample is at its end.
    pub(crate) fn accept(
        &mut self,
        gate: Option<&Gate>,
        (draw, gated): &Drawn,
        max_len: usize,
    ) -> Result<bool> {
        let g = &mut self.generation;
        if let (Some(gate), Some(gated), Some(trace)) = (gate, gated, &mut g.gate) {
            gate.accept(&mut self.sampled.gate, trace, gated)?;
        }
        g.tokens.push(draw.token);
        g.logps.push(draw.logp);
        g.truncated_logps.push(draw.truncated_logp);
        g.entropies.push(draw.entropy);
        if self.sampled.params.stop_tokens.contains(&draw.token) {
            g.finish = Finish::Stop;
            return Ok(true);
        }
        Ok(g.tokens.len() >= self.sampled.params.max_new_tokens || self.prompt + g.tokens.len() > max_len)
    }

    /// What may be drafted: a token past the draft is always drawn, and every one needs room in the context.
    pub(crate) fn want(&mut self, max_len: usize) -> Want<'_> {
        let tokens = &self.generation.tokens;
        let left = self.sampled.params.max_new_tokens - tokens.len();
        let room = max_len.saturating_sub(self.context.len() + 1).min(left.saturating_sub(1));
        Want {
            context: &mut self.draft,
            drafted: &mut self.drafted,
            prompt: self.prompt,
            tokens,
            room,
            before: self.sampled.before,
            seed: self.sampled.seed,
            key: self.sampled.key,
            params: &self.sampled.params,
        }
    }
}

/// The samples behind what has been read.
pub(crate) fn start(
    prefill: Prefill,
    gated: bool,
    draft: Option<Arc<KvCache>>,
    max_len: usize,
) -> Vec<Sequence> {
    let Prefill { context, routes, samples, .. } = prefill;
    let prompt = context.len();
    // A single sample goes on in the context itself, whatever prefix that shares; several share all of it.
    let contexts = match samples.len() {
        1 => vec![context],
        several => {
            let prefix: Arc<KvCache> = context.into_prefix().unwrap_or_default();
            (0..several).map(|_| Context::after(prefix.clone())).collect()
        }
    };
    let begin = |(sampled, context): (Sampled, Context)| {
        let (request, sample) = (sampled.request, sampled.sample);
        let (routes, gate) = (routes.clone(), gated.then(GateTrace::default));
        let longest = sampled.params.max_new_tokens.min((max_len + 1).saturating_sub(prompt));
        let generation = Generation { request, sample, routes, gate, ..Generation::of_at_most(longest) };
        let draft = draft.clone().map(Context::after).unwrap_or_default();
        let (drafted, row, stayed, ended) = (Vec::new(), 0, 0, false);
        Sequence { sampled, context, prompt, draft, generation, drafted, row, stayed, ended }
    };
    samples.into_iter().zip(contexts).map(begin).collect()
}

pub(crate) fn next_token(
    gate: Option<&Gate>,
    hidden: &[f32],
    logits: &[f32],
    sequence: &Sequence,
) -> Result<Drawn> {
    let Sequence { sampled, generation, .. } = sequence;
    let position = (sampled.before + generation.tokens.len()) as u64;
    let uniform = |stream| uniform_at(sampled.seed, stream, sampled.key, position);
    match gate {
        None => Ok((draw(logits, &sampled.params, uniform(Stream::Sample))?, None)),
        Some(gate) => {
            let uniforms = [Stream::Sample, Stream::Gate].map(uniform);
            let (draw, gated) = gate.draw(&sampled.gate, hidden, logits, &sampled.params, uniforms)?;
            Ok((draw, Some(gated)))
        }
    }
}
