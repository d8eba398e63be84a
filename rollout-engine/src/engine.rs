//! Continuous batching: every step feeds one row for each running sequence and fills up with prompt rows.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use lcg::GateState;
use moe_routing::RouteTrace;
use qwen3::VisualItems;
use qwen3::decode::{Context, Decoder, Row, Step};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::draft::{Draft, DraftStats};
use crate::error::{Error, Result};
use crate::gate::{Gate, GateTrace};
use crate::sampling::SamplingParams;
use crate::sequence::{Ended, Fed, Prefill, Sampled, Sequence, next_token, start};

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
    /// [`Draw::logp`](crate::Draw::logp) of each response token.
    pub logps: Vec<f32>,
    /// [`Draw::truncated_logp`](crate::Draw::truncated_logp) of each response token.
    pub truncated_logps: Vec<f32>,
    /// [`Draw::entropy`](crate::Draw::entropy) at each response token.
    pub entropies: Vec<f32>,
    /// Why it ended.
    pub finish: Finish,
    /// When recorded, for models with experts: those of every token that was fed (prompt and response without
    /// its last token).
    pub routes: Option<RouteTrace>,
    /// What the gate did, under one.
    pub gate: Option<GateTrace>,
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
    /// Keep what samples have seen when they end, for [`Engine::resume`].
    pub keep_ended: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { max_rows: 256, record_routes: false, policy_version: 0, keep_ended: false }
    }
}

/// Generates for many requests at once. What a sample comes out as depends on its prompt, its key, the seed and
/// the weights; not on the other requests, `max_rows` or the number of threads.
pub struct Engine {
    decoder: Arc<Decoder>,
    options: EngineOptions,
    gate: Option<Arc<Gate>>,
    draft: Option<Draft>,
    waiting: VecDeque<Prefill>,
    ready: VecDeque<Sequence>,
    running: Vec<Sequence>,
    ended: HashMap<(u64, usize), Ended>,
    /// Empty between steps; their memory is used again.
    rows: Vec<Row>,
    contexts: Vec<&'static mut Context>,
}

/// The same memory, for references that live as long as the next step.
fn emptied<'a>(mut contexts: Vec<&mut Context>) -> Vec<&'a mut Context> {
    contexts.clear();
    // Collected in place.
    contexts.into_iter().map(|_| -> &'a mut Context { unreachable!("it was cleared") }).collect()
}

impl Engine {
    /// An engine over frozen weights.
    pub fn new(decoder: Arc<Decoder>, options: EngineOptions) -> Result<Self> {
        if options.max_rows == 0 {
            return Err(Error::Parameter { name: "max_rows", value: 0.0, expected: "1 or more" });
        }
        Ok(Self {
            decoder,
            options,
            gate: None,
            draft: None,
            waiting: VecDeque::new(),
            ready: VecDeque::new(),
            running: Vec::new(),
            ended: HashMap::new(),
            rows: Vec::new(),
            contexts: Vec::new(),
        })
    }

    /// Draws under a gate from now on, which must be made for the model's vocabulary. Without one nothing is computed for it,
    /// and one that lets a token pass changes no bit of its draw.
    pub fn with_gate(mut self, gate: Arc<Gate>) -> Result<Self> {
        let (logits, table) = (self.decoder.config().vocab_size, gate.table.len());
        if logits != table {
            return Err(lcg::Error::VocabMismatch { logits, table }.into());
        }
        self.gate = Some(gate);
        Ok(self)
    }

    /// Lets a smaller model of the same vocabulary draft `tokens` tokens at a time, which one step of this one then verifies.
    /// What comes out does not change: a drafted token stays where it is the one that would have been drawn. Samples that are
    /// to go on after they ended ([`EngineOptions::keep_ended`]) cannot be drafted for.
    pub fn with_draft(mut self, decoder: Arc<Decoder>, tokens: usize) -> Result<Self> {
        if self.options.keep_ended {
            return Err(Error::Draft { reason: "it cannot follow samples that go on (keep_ended)".into() });
        }
        self.draft = Some(Draft::new(&self.decoder, decoder, tokens, self.options.max_rows)?);
        Ok(self)
    }

    /// How many tokens were drafted so far, and how many stayed.
    pub fn draft_stats(&self) -> DraftStats {
        self.draft.as_ref().map(|draft| draft.stats).unwrap_or_default()
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
        self.check_tokens(id, &request.prompt)?;
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
        let Request { prompt, samples, seed, params, .. } = request;
        let sampled = |(sample, key)| Sampled {
            request: id,
            sample,
            key,
            seed,
            params: params.clone(),
            before: 0,
            gate: GateState::default(),
        };
        let samples = samples.into_iter().enumerate().map(sampled).collect();
        self.waiting.push_back(Prefill { tokens: prompt, fed: 0, context, routes, samples });
        Ok(())
    }

    /// Goes on with a sample that ended: it reads `tokens` (what its surroundings answered) behind its own and then draws
    /// another turn, with the parameters of its request. Nothing that it has seen is computed again. The next
    /// [`Generation`] of the sample holds the tokens of the new turn alone, and the experts of everything that was fed
    /// since its prompt began.
    ///
    /// For engines with [`EngineOptions::keep_ended`]. A sample that is refused can still be resumed with other tokens.
    pub fn resume(&mut self, request: u64, sample: usize, tokens: &[u32]) -> Result<()> {
        let refuse = |reason: String| Err(Error::Request { id: request, reason });
        self.check_tokens(request, tokens)?;
        let Some(ended) = self.ended.get(&(request, sample)) else {
            return refuse(match self.options.keep_ended {
                true => format!("sample {sample} has not ended, or goes on already"),
                false => "samples go on in an engine with keep_ended alone".into(),
            });
        };
        let (read, limit) = (ended.context.len() + 1 + tokens.len(), self.decoder.max_len());
        if read >= limit {
            return refuse(format!(
                "sample {sample} would have {read} tokens, which leaves no room for a response in a context of {limit}"
            ));
        }
        let Some(Ended { mut sampled, context, last, routes }) = self.ended.remove(&(request, sample)) else {
            return refuse(format!("sample {sample} has not ended"));
        };
        sampled.before += tokens.len();
        // What was begun of a character ended with the turn.
        sampled.gate.pending = Default::default();
        sampled.gate.prev_blank = false;
        let tokens = [&[last], tokens].concat();
        self.waiting.push_back(Prefill { tokens, fed: 0, context, routes, samples: vec![sampled] });
        Ok(())
    }

    fn check_tokens(&self, id: u64, tokens: &[u32]) -> Result<()> {
        let vocabulary = self.decoder.config().vocab_size;
        match tokens.iter().find(|t| **t as usize >= vocabulary) {
            Some(token) => {
                let reason = format!("token id {token} is outside the vocabulary of {vocabulary}");
                Err(Error::Request { id, reason })
            }
            None => Ok(()),
        }
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
        // A sequence takes a row, and one for each token drafted.
        let most = self.options.max_rows / self.draft.as_ref().map_or(1, |draft| draft.tokens + 1);
        while self.running.len() < most {
            let Some(sequence) = self.ready.pop_front() else { break };
            self.running.push(sequence);
        }
        if let Some(draft) = &self.draft {
            let max_len = self.decoder.max_len();
            draft.propose(self.running.iter_mut().map(|s| s.want(max_len)).collect())?;
        }
        let mut rows = std::mem::take(&mut self.rows);
        rows.clear();
        for (context, sequence) in self.running.iter_mut().enumerate() {
            sequence.row = rows.len();
            let token = sequence.generation.tokens[sequence.generation.tokens.len() - 1];
            rows.push(Row { context, token });
            rows.extend(sequence.drafted.iter().map(|token| Row { context, token: *token }));
        }
        let (running, decoding) = (self.running.len(), rows.len());
        // New prompts enter only while their samples will find room soon.
        let mut chunks = Vec::new();
        if self.ready.len() < self.options.max_rows {
            for (i, prefill) in self.waiting.iter().enumerate() {
                let room = self.options.max_rows - rows.len();
                let chunk = &prefill.tokens[prefill.fed..];
                let chunk = &chunk[..chunk.len().min(room)];
                if chunk.is_empty() {
                    break;
                }
                chunks.push(chunk.len());
                rows.extend(chunk.iter().map(|&token| Row { context: running + i, token }));
            }
        }
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let step = {
            let running = self.running.iter_mut().map(|s| &mut s.context);
            let prompts = self.waiting.iter_mut().take(chunks.len()).map(|p| &mut p.context);
            let mut contexts = emptied(std::mem::take(&mut self.contexts));
            contexts.extend(running.chain(prompts));
            let step = self.decoder.step(&rows, &mut contexts);
            self.contexts = emptied(contexts);
            step?
        };
        self.rows = rows;
        let mut finished = self.continue_running(&step, decoding)?;
        if !chunks.is_empty() {
            self.continue_prompts(&step, decoding, &chunks, &mut finished)?;
        }
        Ok(finished)
    }

    /// Runs `requests`, and what was queued before, to their ends; generations come in the order of requests and samples,
    /// those of what was queued before first.
    pub fn generate(&mut self, requests: Vec<Request>) -> Result<Vec<Generation>> {
        let order: HashMap<u64, usize> = requests.iter().enumerate().map(|(i, r)| (r.id, i)).collect();
        for request in requests {
            self.submit(request)?;
        }
        let mut all = Vec::new();
        while !self.is_idle() {
            all.extend(self.step()?);
        }
        all.sort_by_key(|g| (order.get(&g.request), g.request, g.sample));
        Ok(all)
    }

    fn continue_running(&mut self, step: &Step, rows: usize) -> Result<Vec<Generation>> {
        let hidden = self.decoder.config().hidden_size;
        let fed = Fed {
            gate: self.gate.as_deref(),
            step,
            logits: self.decoder.logits(&step.states[..rows * hidden]),
            hidden,
            vocabulary: self.decoder.config().vocab_size,
            max_len: self.decoder.max_len(),
        };
        self.running.par_iter_mut().try_for_each(|sequence| sequence.verify(&fed))?;
        if let Some(draft) = &mut self.draft {
            draft.stats.drafted += self.running.iter().map(|s| s.drafted.len()).sum::<usize>() as u64;
            draft.stats.accepted += self.running.iter().map(|s| s.stayed).sum::<usize>() as u64;
        }
        let ended: Vec<Sequence> = self.running.extract_if(.., |sequence| sequence.ended).collect();
        Ok(ended.into_iter().map(|sequence| self.end(sequence)).collect())
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
                for (i, token) in prefill.tokens[prefill.fed..][..len].iter().enumerate() {
                    routes.push(*token, step.routes_of(row + i))?;
                }
            }
            prefill.fed += len;
            row += len;
            whole.push((prefill.fed == prefill.tokens.len(), row - 1));
        }
        // A prompt that was cut is the last of the chunks, so whole prompts leave from the front.
        let last_rows: Vec<usize> =
            whole.into_iter().filter_map(|(whole, row)| whole.then_some(row)).collect();
        let states: Vec<f32> =
            last_rows.iter().flat_map(|row| &step.states[row * hidden..][..hidden]).copied().collect();
        let logits = self.decoder.logits(&states);
        let mut begun = Vec::new();
        let gate = self.gate.clone();
        for (prompt, prefill) in self.waiting.drain(..last_rows.len()).enumerate() {
            let draft = self.draft.as_ref().map(|draft| draft.read(&prefill.tokens)).transpose()?;
            let samples = start(prefill, gate.is_some(), draft, max_len);
            begun.extend(samples.into_iter().map(|sequence| (prompt, sequence)));
        }
        let vocabulary = self.decoder.config().vocab_size;
        let first_token = |(prompt, sequence): &(usize, Sequence)| {
            let (state, logits) =
                (&states[prompt * hidden..][..hidden], &logits[prompt * vocabulary..][..vocabulary]);
            next_token(gate.as_deref(), state, logits, sequence)
        };
        let draws = begun.par_iter().map(first_token).collect::<Result<Vec<_>>>()?;
        for ((_, mut sequence), drawn) in begun.into_iter().zip(draws) {
            if sequence.accept(gate.as_deref(), &drawn, max_len)? {
                finished.push(self.end(sequence));
            } else {
                self.ready.push_back(sequence);
            }
        }
        Ok(())
    }

    fn end(&mut self, sequence: Sequence) -> Generation {
        let Sequence { mut sampled, context, generation, .. } = sequence;
        if let (true, Some(last)) = (self.options.keep_ended, generation.tokens.last()) {
            sampled.before += generation.tokens.len();
            let place = (sampled.request, sampled.sample);
            let ended = Ended { sampled, context, last: *last, routes: generation.routes.clone() };
            self.ended.insert(place, ended);
        }
        generation
    }
}
