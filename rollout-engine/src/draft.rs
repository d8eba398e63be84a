//! Drafts: a smaller model proposes tokens, and one step of the larger one verifies them.
//!
//! Both models draw with the same random number at a place, so a drafted token stays where it equals the larger model's own
//! draw, and what comes out is what it would have been without a draft, token for token.

use std::sync::Arc;

use qwen3::decode::{Context, Decoder, KvCache, Row};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::random::{Stream, uniform_at};
use crate::sampling::{SamplingParams, draw};

/// How drafting went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DraftStats {
    /// Tokens drafted.
    pub drafted: u64,
    /// Those that stayed.
    pub accepted: u64,
}

/// The drafting model.
pub(crate) struct Draft {
    decoder: Arc<Decoder>,
    /// Drafted at a time, at most.
    pub(crate) tokens: usize,
    pub(crate) stats: DraftStats,
}

/// A sequence that may be drafted for.
pub(crate) struct Want<'a> {
    /// What the drafting model has seen of it: all tokens but the last, or one fewer.
    pub(crate) context: &'a mut Context,
    /// Where the drafted tokens go.
    pub(crate) drafted: &'a mut Vec<u32>,
    /// Tokens of the prompt.
    pub(crate) prompt: usize,
    /// The response so far.
    pub(crate) tokens: &'a [u32],
    /// How many tokens may be drafted.
    pub(crate) room: usize,
    /// Tokens between the prompt and this turn.
    pub(crate) before: usize,
    pub(crate) seed: u64,
    pub(crate) key: [u64; 2],
    pub(crate) params: &'a SamplingParams,
}

impl Draft {
    pub(crate) fn new(
        target: &Decoder,
        decoder: Arc<Decoder>,
        tokens: usize,
        max_rows: usize,
    ) -> Result<Self> {
        let (expected, found) = (target.config().vocab_size, decoder.config().vocab_size);
        let refuse = |reason: String| Err(Error::Draft { reason });
        if found != expected {
            return refuse(format!("it has a vocabulary of {found}, the model one of {expected}"));
        }
        if target.has_vision() || decoder.has_vision() {
            return refuse("models with a vision tower cannot draft or be drafted for".into());
        }
        if decoder.max_len() < target.max_len() {
            let (draft, target) = (decoder.max_len(), target.max_len());
            return refuse(format!("its context is of {draft} tokens, the model's of {target}"));
        }
        if tokens == 0 || tokens >= max_rows {
            return refuse(format!(
                "{tokens} tokens at a time, expected 1 to {} (max_rows − 1)",
                max_rows - 1
            ));
        }
        Ok(Self { decoder, tokens, stats: DraftStats::default() })
    }

    /// Reads a prompt.
    pub(crate) fn read(&self, prompt: &[u32]) -> Result<Arc<KvCache>> {
        let mut context = Context::default();
        let rows: Vec<Row> = prompt.iter().map(|&token| Row { context: 0, token }).collect();
        self.decoder.step(&rows, &mut [&mut context])?;
        Ok(context.into_prefix().unwrap_or_default())
    }

    /// Drafts for some sequences; as many tokens as each has room for.
    pub(crate) fn propose(&self, mut wants: Vec<Want<'_>>) -> Result<()> {
        let (hidden, vocabulary) = (self.decoder.config().hidden_size, self.decoder.config().vocab_size);
        wants.iter_mut().for_each(|want| want.drafted.clear());
        for round in 0..self.tokens {
            let active: Vec<usize> = (0..wants.len()).filter(|i| wants[*i].room > round).collect();
            if active.is_empty() {
                break;
            }
            let (mut rows, mut last) = (Vec::new(), Vec::new());
            for (context, i) in active.iter().enumerate() {
                let want = &wants[*i];
                let unseen = &want.tokens[(want.context.len() - want.prompt).min(want.tokens.len())..];
                let feed = if round == 0 { unseen } else { &want.drafted[round - 1..] };
                rows.extend(feed.iter().map(|&token| Row { context, token }));
                last.push(rows.len() - 1);
            }
            let mut contexts: Vec<&mut Context> =
                wants.iter_mut().filter(|w| w.room > round).map(|w| &mut *w.context).collect();
            let states = self.decoder.step(&rows, &mut contexts)?.states;
            let ends: Vec<f32> =
                last.iter().flat_map(|row| &states[row * hidden..][..hidden]).copied().collect();
            let logits = self.decoder.logits(&ends);
            let one = |(i, logits): (&usize, &[f32])| {
                let want = &wants[*i];
                let position = (want.before + want.tokens.len() + round) as u64;
                let uniform = uniform_at(want.seed, Stream::Sample, want.key, position);
                draw(logits, want.params, uniform).map(|draw| draw.token)
            };
            let tokens =
                active.par_iter().zip(logits.par_chunks(vocabulary)).map(one).collect::<Result<Vec<_>>>()?;
            active.iter().zip(tokens).for_each(|(i, token)| wants[*i].drafted.push(token));
        }
        Ok(())
    }
}
