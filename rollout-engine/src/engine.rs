//! Continuous batching: every step feeds one row for each running sequence and fills up with prompt rows.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use moe_routing::RouteTrace;
use qwen3::VisualItems;
use qwen3::decode::{Context, Decoder, KvCache, Row, Step};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::random::{Stream, uniform_at};
use crate::sampling::{Draw, SamplingParams, draw};

/// A prompt and the samples wanted of it. The prompt is run once, however many samples there are.
#[derive(Clone, Debug)]
pub struct Request {
    /// Comes back with every [`Generation`].
    pub id: u64,
    /// What the model reads: at least one token.
    pub prompt: Vec<u32>,
    /// The images and videos whose placeholders are in the prompt; for models with a vision tower.
    pub items: VisualItems,
    /// One key of random numbers a sample: with the seed and the place in the response it decides each draw.
    pub samples: Vec<[u64; 2]>,
    /// The run's seed.
    pub seed: u64,
    /// How to draw.
    pub params: Arc<SamplingParams>,
}

/// Why a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The policy drew a stop token (which is the last token of the response).
    Stop,
    /// The limit on new tokens, or the end of the context.
    Length,
}

/// One finished sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// [`Request::id`].
    pub request: u64,
    /// Index into [`Request::samples`].
    pub sample: usize,
    /// The response: at least one token.
    pub tokens: Vec<u32>,
    /// [`Draw::logp`] of each response token.
    pub logps: Vec<f32>,
    /// [`Draw::truncated_logp`] of each response token.
    pub truncated_logps: Vec<f32>,
    /// [`Draw::entropy`] at each response token.
    pub entropies: Vec<f32>,
    /// Why it ended.
    pub finish: Finish,
    /// When recorded, for models with experts: those of every token that was fed (prompt and response without
    /// its last token).
    pub routes: Option<RouteTrace>,
}

/// Limits of an [`Engine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Most rows in one step, and most sequences running at once: bounds the memory of caches.
    pub max_rows: usize,
    /// Record which experts ran.
    pub record_routes: bool,
    /// Goes into the recorded traces: which weights the decoder holds, in the caller's count.
    pub policy_version: u64,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { max_rows: 256, record_routes: false, policy_version: 0 }
    }
}

/// A prompt on its way through the model.
struct Prefill {
    request: Request,
    context: Context,
    fed: usize,
    routes: Option<RouteTrace>,
}

/// A sample on its way.
struct Sequence {
    key: [u64; 2],
    seed: u64,
    params: Arc<SamplingParams>,
    context: Context,
    generation: Generation,
}

/// Generates for many requests at once. What a sample comes out as depends on its prompt, its key, the seed and
/// the weights; not on the other requests, `max_rows` or the number of threads.
pub struct Engine {
    decoder: Arc<Decoder>,
    options: EngineOptions,
    waiting: VecDeque<Prefill>,
    ready: VecDeque<Sequence>,
    running: Vec<Sequence>,
}

impl Engine {
    /// An engine over frozen weights.
    pub fn new(decoder: Arc<Decoder>, options: EngineOptions) -> Result<Self> {
        if options.max_rows == 0 {
            return Err(Error::Parameter { name: "max_rows", value: 0.0, expected: "1 or more" });
        }
        Ok(Self { decoder, options, waiting: VecDeque::new(), ready: VecDeque::new(), running: Vec::new() })
    }

    /// Queues a request. Its images and videos are encoded at once, and their pixels let go.
    pub fn submit(&mut self, mut request: Request) -> Result<()> {
        request.params.validate()?;
        let id = request.id;
        let refuse = |reason: String| Err(Error::Request { id, reason });
        if request.prompt.is_empty() {
            return refuse("the prompt has no tokens".into());
        }
        if request.prompt.len() >= self.decoder.max_len() {
            return refuse(format!(
                "the prompt has {} tokens, which leaves no room for a response in a context of {}",
                request.prompt.len(),
                self.decoder.max_len()
            ));
        }
        let vocabulary = self.decoder.config().vocab_size;
        if let Some(token) = request.prompt.iter().find(|t| **t as usize >= vocabulary) {
            return refuse(format!("token id {token} is outside the vocabulary of {vocabulary}"));
        }
        let routes = match self.decoder.config().route_shape()? {
            Some(shape) if self.options.record_routes => {
                Some(RouteTrace::new(shape, self.options.policy_version))
            }
            _ => None,
        };
        let items = std::mem::take(&mut request.items);
        let context = if self.decoder.has_vision() {
            match self.decoder.prompt(&request.prompt, &items) {
                Ok(prompt) => Context::reading(Arc::new(prompt)),
                Err(error) => return refuse(error.to_string()),
            }
        } else if items.is_empty() {
            Context::default()
        } else {
            return refuse("has images or videos, but the model has no vision tower".into());
        };
        self.waiting.push_back(Prefill { request, context, fed: 0, routes });
        Ok(())
    }

    /// Whether nothing is queued or running.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.ready.is_empty() && self.running.is_empty()
    }

    /// Sequences that run at the moment.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// The tokens that a sample has so far, while it runs: for whoever shows them before it ends.
    pub fn so_far(&self, request: u64, sample: usize) -> Option<&[u32]> {
        let mut unfinished = self.running.iter().chain(&self.ready).map(|sequence| &sequence.generation);
        unfinished.find(|g| g.request == request && g.sample == sample).map(|g| g.tokens.as_slice())
    }

    /// Runs the model once and returns the samples that ended.
    pub fn step(&mut self) -> Result<Vec<Generation>> {
        while self.running.len() < self.options.max_rows {
            let Some(sequence) = self.ready.pop_front() else { break };
            self.running.push(sequence);
        }
        let mut rows: Vec<Row> = Vec::with_capacity(self.options.max_rows);
        for (context, sequence) in self.running.iter().enumerate() {
            let token = sequence.generation.tokens[sequence.generation.tokens.len() - 1];
            rows.push(Row { context, token });
        }
        let decoding = rows.len();
        // New prompts enter only while their samples will find room soon.
        let mut chunks = Vec::new();
        if self.ready.len() < self.options.max_rows {
            for (i, prefill) in self.waiting.iter().enumerate() {
                let room = self.options.max_rows - rows.len();
                let chunk = &prefill.request.prompt[prefill.fed..];
                let chunk = &chunk[..chunk.len().min(room)];
                if chunk.is_empty() {
                    break;
                }
                chunks.push(chunk.len());
                rows.extend(chunk.iter().map(|&token| Row { context: decoding + i, token }));
            }
        }
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let step = {
            let running = self.running.iter_mut().map(|s| &mut s.context);
            let prompts = self.waiting.iter_mut().take(chunks.len()).map(|p| &mut p.context);
            let mut contexts: Vec<&mut Context> = running.chain(prompts).collect();
            self.decoder.step(&rows, &mut contexts)?
        };
        let mut finished = self.continue_running(&step)?;
        self.continue_prompts(&step, decoding, &chunks, &mut finished)?;
        Ok(finished)
    }

    /// Runs `requests` to their ends; generations come in the order of requests and samples.
    pub fn generate(&mut self, requests: Vec<Request>) -> Result<Vec<Generation>> {
        let order: HashMap<u64, usize> = requests.iter().enumerate().map(|(i, r)| (r.id, i)).collect();
        for request in requests {
            self.submit(request)?;
        }
        let mut all = Vec::new();
        while !self.is_idle() {
            all.extend(self.step()?);
        }
        all.sort_by_key(|g| (order.get(&g.request), g.sample));
        Ok(all)
    }

    fn continue_running(&mut self, step: &Step) -> Result<Vec<Generation>> {
        let hidden = self.decoder.config().hidden_size;
        let count = self.running.len();
        let logits = self.decoder.logits(&step.states[..count * hidden]);
        let draws: Vec<Draw> = logits
            .par_chunks(self.decoder.config().vocab_size)
            .zip(&self.running)
            .map(|(row, sequence)| next_token(row, sequence))
            .collect::<Result<_>>()?;
        let max_len = self.decoder.max_len();
        for (row, Sequence { generation, .. }) in self.running.iter_mut().enumerate() {
            if let (Some(routes), Some(fed)) = (&mut generation.routes, generation.tokens.last()) {
                routes.push_from(*fed, &step.routes, row)?;
            }
        }
        let mut finished = Vec::new();
        let mut draws = draws.into_iter();
        self.running.retain_mut(|sequence| {
            let ended = draws.next().is_none_or(|draw| sequence.accept(draw, max_len));
            if ended {
                finished.push(std::mem::replace(&mut sequence.generation, Generation::empty()));
            }
            !ended
        });
        Ok(finished)
    }

    fn continue_prompts(
        &mut self,
        step: &Step,
        first: usize,
        chunks: &[usize],
        finished: &mut Vec<Generation>,
    ) -> Result<()> {
        let (hidden, max_len) = (self.decoder.config().hidden_size, self.decoder.max_len());
        let mut row = first;
        let mut whole = Vec::new();
        for (prefill, &len) in self.waiting.iter_mut().zip(chunks) {
            if let Some(routes) = &mut prefill.routes {
                for (i, token) in prefill.request.prompt[prefill.fed..][..len].iter().enumerate() {
                    routes.push_from(*token, &step.routes, row + i)?;
                }
            }
            prefill.fed += len;
            row += len;
            whole.push((prefill.fed == prefill.request.prompt.len(), row - 1));
        }
        // A prompt that was cut is the last of the chunks, so whole prompts leave from the front.
        for (_, last_row) in whole.into_iter().filter(|(whole, _)| *whole) {
            let Some(prefill) = self.waiting.pop_front() else { break };
            let logits = self.decoder.logits(&step.states[last_row * hidden..][..hidden]);
            for sequence in start(prefill) {
                let mut sequence = sequence;
                let first_token = next_token(&logits, &sequence)?;
                if sequence.accept(first_token, max_len) {
                    finished.push(sequence.generation);
                } else {
                    self.ready.push_back(sequence);
                }
            }
        }
        Ok(())
    }
}

impl Generation {
    fn empty() -> Self {
        Self {
            request: 0,
            sample: 0,
            tokens: Vec::new(),
            logps: Vec::new(),
            truncated_logps: Vec::new(),
            entropies: Vec::new(),
            finish: Finish::Length,
            routes: None,
        }
    }
}

impl Sequence {
    /// Takes a token; says whether the sample is at its end.
    fn accept(&mut self, draw: Draw, max_len: usize) -> bool {
        let g = &mut self.generation;
        g.tokens.push(draw.token);
        g.logps.push(draw.logp);
        g.truncated_logps.push(draw.truncated_logp);
        g.entropies.push(draw.entropy);
        if self.params.stop_tokens.contains(&draw.token) {
            g.finish = Finish::Stop;
            return true;
        }
        g.tokens.len() >= self.params.max_new_tokens || self.context.len() >= max_len
    }
}

/// The samples of a prompt that has been read.
fn start(prefill: Prefill) -> Vec<Sequence> {
    let Prefill { request, context, routes, .. } = prefill;
    let prefix: Arc<KvCache> = context.into_prefix().unwrap_or_default();
    let samples = request.samples.iter().enumerate();
    samples
        .map(|(sample, &key)| Sequence {
            key,
            seed: request.seed,
            params: request.params.clone(),
            context: Context::after(prefix.clone()),
            generation: Generation {
                request: request.id,
                sample,
                routes: routes.clone(),
                ..Generation::empty()
            },
        })
        .collect()
}

fn next_token(logits: &[f32], sequence: &Sequence) -> Result<Draw> {
    let position = sequence.generation.tokens.len() as u64;
    let uniform = uniform_at(sequence.seed, Stream::Sample, sequence.key, position);
    draw(logits, &sequence.params, uniform)
}
