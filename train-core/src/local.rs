//! A model on this machine as a source of completions.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use completion::{Answer, Complete, Completion, CompletionError};
use qwen3::decode::{Context, Decoder, Row};
use qwen3::kernel::softmax::row_stats;
use qwen3::{Buffer, Precision};
use rollout_engine::{Engine, EngineOptions, Finish, SamplingParams};
use serde_json::Map;
use sha2::{Digest, Sha256};

use crate::chat::{Chat, message};
use crate::checkpoint::Checkpoint;
use crate::data::{DataError, TextCodec};
use crate::setup;
use crate::trainer::TrainError;

/// How the model is asked.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// Put requests to the model by its chat template; without it, the texts of their messages are continued as they are.
    pub chat: bool,
    /// Variables of the template, such as `enable_thinking`.
    pub variables: Map<String, serde_json::Value>,
    /// Numbers the sampler computes with.
    pub precision: Precision,
    /// What products round their operands to.
    pub matmul_precision: qwen3::MatmulPrecision,
    /// Sequences at one time.
    pub rows: usize,
}

impl Default for LocalOptions {
    fn default() -> Self {
        Self {
            chat: true,
            variables: Map::new(),
            precision: Precision::F32,
            matmul_precision: qwen3::MatmulPrecision::F32,
            rows: 64,
        }
    }
}

/// A model with its tokenizer. A completion depends on its request and the weights alone: what else is asked at the same time
/// changes nothing. Draws are keyed by the request's id and seed (0 when absent).
#[derive(Clone)]
pub struct LocalModel {
    name: String,
    codec: TextCodec,
    decoder: Arc<Decoder>,
    context: usize,
    options: LocalOptions,
}

impl LocalModel {
    /// A Hugging Face directory, a GGUF file or a run directory (its newest checkpoint).
    ///
    /// # Errors
    /// When it cannot be read, or there is to be a chat and it has no template.
    pub fn open(path: &Path, options: LocalOptions) -> Result<Self, TrainError> {
        let is_run = path.join("ckpt").exists();
        let from = if is_run { Checkpoint::newest(path)?.0.path } else { path.to_path_buf() };
        let mut model = setup::read_policy(&from)?;
        model.set_matmul_precision(options.matmul_precision);
        let codec = setup::read_codec(&from, model.config())?;
        if options.chat {
            codec.chat_template().map_err(DataError::from)?;
        }
        Ok(Self {
            name: path.display().to_string(),
            context: model.config().max_position_embeddings,
            decoder: Arc::new(model.decoder(options.precision)?),
            codec,
            options,
        })
    }

    /// The log-probability of each continuation, its tokens as they follow the prompt, at temperature 1: `[requests][continuations]`,
    /// in nats. A request that cannot be scored fails alone.
    pub fn log_probs(
        &self,
        requests: &[completion::Request],
        continuations: &[&str],
    ) -> Vec<Result<Vec<f64>, CompletionError>> {
        let one = |request: &completion::Request| {
            let scored = self.tokens(request).and_then(|prompt| self.continued(&prompt, continuations));
            scored.map_err(|reason| CompletionError::Other(format!("{}: {reason}", request.id)))
        };
        requests.iter().map(one).collect()
    }

    fn continued(&self, prompt: &[u32], continuations: &[&str]) -> Result<Vec<f64>, String> {
        let vocabulary = self.decoder.config().vocab_size;
        let step = |tokens: &[u32], context: &mut Context| {
            let rows: Vec<Row> = tokens.iter().map(|token| Row { context: 0, token: *token }).collect();
            self.decoder.step(&rows, &mut [context]).map(|step| step.states).map_err(|e| e.to_string())
        };
        let mut context = Context::default();
        let mut states = Buffer::default();
        for tokens in prompt.chunks(self.options.rows.max(1)) {
            states = step(tokens, &mut context)?;
        }
        let last = &states[states.len() - self.decoder.config().hidden_size..];
        let first = self.decoder.logits(last);
        let prefix = context.into_prefix().ok_or("the prompt is not a prefix")?;
        let one = |text: &&str| {
            let tokens = self.codec.encode(text).map_err(|e| e.to_string())?;
            let Some((_, fed)) = tokens.split_last() else {
                return Err("a continuation is empty".to_owned());
            };
            if prompt.len() + tokens.len() > self.context {
                let (length, new, context) = (prompt.len(), tokens.len(), self.context);
                return Err(format!(
                    "{length} tokens and {new} new ones are more than the context of {context}"
                ));
            }
            let mut logits = first.clone();
            if !fed.is_empty() {
                let mut context = Context::after(prefix.clone());
                logits.extend_from_slice(&self.decoder.logits(&step(fed, &mut context)?));
            }
            let each = logits.chunks_exact(vocabulary).zip(&tokens);
            // With the bits of the training forward.
            Ok(each.map(|(row, token)| f64::from(row_stats(row, 1.0).log_prob(row[*token as usize]))).sum())
        };
        continuations.iter().map(one).collect()
    }

    fn tokens(&self, request: &completion::Request) -> Result<Vec<u32>, String> {
        let tokens = if self.options.chat {
            let messages = request.messages.iter().map(|m| message(&m.role, &m.content)).collect();
            let variables = self.options.variables.clone();
            self.codec.encode_chat(&Chat {
                messages,
                add_generation_prompt: true,
                variables,
                ..Chat::default()
            })
        } else {
            self.codec.encode(&request.messages.iter().map(|m| m.content.as_str()).collect::<String>())
        };
        let tokens = tokens.map_err(|e| e.to_string())?;
        let (length, new) = (tokens.len(), request.sampling.max_tokens);
        if length == 0 {
            return Err("the prompt is empty".into());
        }
        if length + new > self.context {
            let context = self.context;
            return Err(format!("{length} tokens and {new} new ones are more than the context of {context}"));
        }
        Ok(tokens)
    }

    fn params(&self, sampling: &completion::Sampling) -> SamplingParams {
        SamplingParams {
            temperature: sampling.temperature.unwrap_or(1.0),
            top_k: sampling.top_k.unwrap_or(0),
            top_p: sampling.top_p.unwrap_or(1.0),
            min_p: 0.0,
            max_new_tokens: sampling.max_tokens,
            stop_tokens: self.codec.stop_tokens().to_vec(),
        }
    }
}

impl Complete for LocalModel {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn complete(&mut self, requests: &[completion::Request]) -> Vec<Answer> {
        let mut results: Vec<Option<Answer>> = requests.iter().map(|_| None).collect();
        self.complete_each(requests, requests.len(), &mut |i, result| {
            results[i] = Some(result);
            ControlFlow::Continue(())
        });
        let told =
            |(r, q): (Option<Answer>, &completion::Request)| r.unwrap_or_else(|| failed(&q.id, "no answer"));
        results.into_iter().zip(requests).map(told).collect()
    }

    /// [`LocalOptions::rows`] sequences are always under way, as long as there are some.
    fn complete_each(
        &mut self,
        requests: &[completion::Request],
        _at_a_time: usize,
        tell: &mut dyn FnMut(usize, Answer) -> ControlFlow<()>,
    ) {
        let options = EngineOptions { max_rows: self.options.rows, ..EngineOptions::default() };
        let mut engine = match Engine::new(self.decoder.clone(), options) {
            Ok(engine) => engine,
            Err(error) => return all_failed(requests, 0..requests.len(), &error.to_string(), tell),
        };
        // Prompts' lengths; those of requests that have been told are gone.
        let mut open: BTreeMap<usize, u64> = BTreeMap::new();
        for (i, request) in requests.iter().enumerate() {
            let submitted = self.tokens(request).and_then(|prompt| {
                let length = prompt.len() as u64;
                let hash = Sha256::digest(&request.id);
                let key = hash.iter().take(8).fold(0u64, |key, byte| (key << 8) | u64::from(*byte));
                let request = rollout_engine::Request {
                    id: i as u64,
                    prompt,
                    items: Default::default(),
                    samples: vec![[key, 0]],
                    seed: request.sampling.seed.unwrap_or(0),
                    params: Arc::new(self.params(&request.sampling)),
                };
                engine.submit(request).map(|()| length).map_err(|e| e.to_string())
            });
            match submitted {
                Ok(length) => drop(open.insert(i, length)),
                Err(reason) => {
                    if tell(i, failed(&request.id, &reason)).is_break() {
                        return;
                    }
                }
            }
        }
        while !engine.is_idle() {
            let ended = match engine.step() {
                Ok(ended) => ended,
                Err(error) => return all_failed(requests, open.into_keys(), &error.to_string(), tell),
            };
            for g in ended {
                let i = g.request as usize;
                let done = Completion {
                    text: self.codec.decode(&g.tokens),
                    reasoning: None,
                    finish: Some(match g.finish {
                        Finish::Stop => completion::Finish::Stop,
                        Finish::Length => completion::Finish::Length,
                    }),
                    tokens_in: open.remove(&i),
                    tokens_out: Some(g.tokens.len() as u64),
                };
                if tell(i, Ok(done)).is_break() {
                    return;
                }
            }
        }
    }
}

fn failed(id: &str, reason: &str) -> Answer {
    Err(CompletionError::Other(format!("{id}: {reason}")))
}

/// Tells that what is left has failed for one reason.
fn all_failed(
    requests: &[completion::Request],
    mut left: impl Iterator<Item = usize>,
    reason: &str,
    tell: &mut dyn FnMut(usize, Answer) -> ControlFlow<()>,
) {
    _ = left.try_for_each(|i| tell(i, failed(&requests[i].id, reason)));
}
