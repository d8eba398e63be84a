//! The loss of hidden states: output head, log-probabilities, objective and gradients in one pass over chunks of rows.
//!
//! Cost for `R` rows, hidden size `D`, vocabulary `V`: `6·R·D·V` flops, the products that any gradient takes, where the loss
//! of a part of the batch needs nothing of the rest; `8·R·D·V` where it does, since then the logits of all chunks but one are
//! computed twice. No more than `chunk · V` logits exist. Products are the caller's ([`Products`]).

use rayon::prelude::*;

use crate::aggregation::{Mode, Normalizer};
use crate::batch::{Advantages, TokenBatch};
use crate::error::{Error, Result};
use crate::evaluate::{LossOutput, PolicyLoss};
use crate::in_place::check_scoring;
use crate::logits::RowStats;
use crate::metrics::Metrics;
use crate::penalty::EntropyAggregation;
use crate::vector::{row_grad, row_stats};

/// Matrix products, in row order. All add to the output or, where not `accumulate`, replace it.
pub trait Products {
    /// `y[m, n] = x[m, k] · w[n, k]ᵀ`, `shape` being `[m, n, k]`.
    fn nt(&self, x: &[f32], w: &[f32], y: &mut [f32], shape: [usize; 3], accumulate: bool);
    /// `dx[m, k] = dy[m, n] · w[n, k]`, `shape` being `[m, n, k]`.
    fn nn(&self, dy: &[f32], w: &[f32], dx: &mut [f32], shape: [usize; 3], accumulate: bool);
    /// `dw[n, k] = dy[m, n]ᵀ · x[m, k]`, `shape` being `[m, n, k]`.
    fn tn(&self, dy: &[f32], x: &[f32], dw: &mut [f32], shape: [usize; 3], accumulate: bool);
}

/// Hidden states and the head that turns them into logits.
#[derive(Clone, Copy, Debug)]
pub struct LinearHead<'a> {
    /// `[tokens, size]`: row `t` predicts `targets[t]`.
    pub hidden: &'a [f32],
    /// `[vocabulary, size]`.
    pub weight: &'a [f32],
    /// Hidden size.
    pub size: usize,
    /// The sampled tokens: `[tokens]`.
    pub targets: &'a [u32],
    /// Divides the logits.
    pub temperature: f64,
    /// Rows of logits that exist at a time.
    pub chunk: usize,
}

/// What a head and a loss give together.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearOutput {
    /// Loss, its gradients to log-probabilities and entropies, and metrics.
    pub loss: LossOutput<f32>,
    /// `log π_θ`: `[tokens]`, 0 at masked positions.
    pub logp: Vec<f32>,
    /// Entropy: `[tokens]`, 0 at masked positions.
    pub entropy: Vec<f32>,
    /// `∂L/∂hidden`: `[tokens, size]`, 0 at masked positions.
    pub grad_hidden: Vec<f32>,
}

impl PolicyLoss {
    /// [`evaluate`](Self::evaluate) from hidden states. `batch.logp` and `batch.entropy` are computed here and not read, so
    /// they may be empty. `∂L/∂weight` is added to `grad_weight` `[vocabulary, size]`. Masked rows take no part in products.
    ///
    /// The batch is worked through in parts of whole sequences where the loss of a part needs no more of the rest than
    /// `normalizer` says: its counts, and what [`evaluate`](Self::evaluate) asks for with them. A part has as many sequences
    /// as fit into a chunk; a longer sequence, and a batch whose counts are not given, takes the second pass.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate), and when slices do not fit, the temperature is not positive, the chunk is 0, or a
    /// target is outside the vocabulary.
    pub fn evaluate_linear(
        &self,
        head: &LinearHead<'_>,
        batch: &TokenBatch<'_, f32>,
        normalizer: &Normalizer,
        products: &impl Products,
        grad_weight: &mut [f32],
    ) -> Result<LinearOutput> {
        let vocabulary = head.check(batch, grad_weight.len())?;
        let tokens = head.targets.len();
        let mut out = LinearOutput {
            loss: LossOutput {
                loss: 0.0,
                grad_logp: vec![0.0; tokens],
                grad_entropy: vec![0.0; tokens],
                metrics: Metrics::default(),
                warnings: Vec::new(),
            },
            logp: vec![0.0; tokens],
            entropy: vec![0.0; tokens],
            grad_hidden: vec![0.0; tokens * head.size],
        };
        let longest = if self.is_separable(normalizer) { head.chunk } else { usize::MAX };
        let mut work = Work { head, vocabulary, logits: Vec::new(), rows: Vec::new(), held: None };
        for [first, last] in parts(batch.offsets, longest) {
            let (start, end) = (batch.offsets[first], batch.offsets[last]);
            let kept: Vec<usize> = (start..end).filter(|t| batch.mask.is_none_or(|m| m[*t])).collect();
            let mut stats = Vec::with_capacity(kept.len());
            for (index, chunk) in kept.chunks(head.chunk).enumerate() {
                work.fill(index, chunk, products);
                work.scores(chunk, &mut stats, &mut out);
            }
            let (logp, entropy) = (&out.logp[start..end], &out.entropy[start..end]);
            let offsets: Vec<usize> = batch.offsets[first..=last].iter().map(|o| o - start).collect();
            let part = batch.part([first, last], &offsets, logp, entropy);
            let loss = self.evaluate(&part, normalizer).map_err(|e| e.behind(first))?;
            // From the last chunk, whose logits are still there, to the first.
            for (index, chunk) in kept.chunks(head.chunk).enumerate().rev() {
                work.fill(index, chunk, products);
                let stats = &stats[index * head.chunk..][..chunk.len()];
                let upstream =
                    |token: &usize| [loss.grad_logp[token - start], loss.grad_entropy[token - start]];
                work.gradients(chunk, stats, upstream, products, &mut out.grad_hidden, grad_weight);
            }
            out.loss.add(loss, start);
        }
        Ok(out)
    }

    /// Whether a part of a batch can be evaluated with the given denominators without looking at the rest.
    fn is_separable(&self, given: &Normalizer) -> bool {
        let config = self.config();
        let tokens_for_entropy =
            config.entropy.is_some_and(|e| e.aggregation != EntropyAggregation::SameAsPolicy);
        let counted = match config.aggregation.mode {
            Mode::TokenMean => given.tokens.is_some(),
            Mode::GroupTokenMean => given.group_tokens.is_some(),
            Mode::SeqMeanTokenMean | Mode::SeqMeanTokenSum | Mode::SeqMeanTokenSumNorm { .. } => {
                given.seqs.is_some()
            }
            Mode::TokenSum => true,
        };
        counted
            && (given.tokens.is_some() || !tokens_for_entropy)
            && (given.entropy_threshold.is_some() || config.entropy_top_share.is_none())
            && (given.mean_weight.is_some() || !config.correction.is_some_and(|c| c.batch_normalize))
    }
}

impl LinearHead<'_> {
    /// The vocabulary, if everything fits.
    fn check(&self, batch: &TokenBatch<'_, f32>, grad_weight: usize) -> Result<usize> {
        let parameter = |name, value, expected| Err(Error::Parameter { name, value, expected });
        if self.size == 0 {
            return parameter("head.size", 0.0, "at least 1");
        }
        if self.chunk == 0 {
            return parameter("head.chunk", 0.0, "at least one row");
        }
        let (vocabulary, tokens) = (self.weight.len() / self.size, self.targets.len());
        let fits = |what, found, expected| match found == expected {
            true => Ok(()),
            false => Err(Error::Shape { what, found, expected }),
        };
        fits("head.weight", self.weight.len(), vocabulary * self.size)?;
        fits("head.hidden", self.hidden.len(), tokens * self.size)?;
        fits("grad_weight", grad_weight, self.weight.len())?;
        batch.check_tokens(tokens)?;
        check_scoring(self.targets, batch.mask, vocabulary, self.temperature)?;
        Ok(vocabulary)
    }
}

/// Ranges of sequences with at most `longest` tokens together; a longer sequence is its own. At least one.
fn parts(offsets: &[usize], longest: usize) -> Vec<[usize; 2]> {
    let mut parts = vec![[0, 0]];
    for sequence in 0..offsets.len() - 1 {
        match parts.last_mut() {
            Some([first, last]) if *last == *first || offsets[sequence + 1] - offsets[*first] <= longest => {
                *last = sequence + 1;
            }
            _ => parts.push([sequence, sequence + 1]),
        }
    }
    parts
}

impl Error {
    /// Of a part of a batch, with `first` sequences before it.
    fn behind(self, first: usize) -> Self {
        match self {
            Self::NonFinite { what, sequence, token, value } => {
                Self::NonFinite { what, sequence: sequence + first, token, value }
            }
            Self::TokenAdvantages { sequence, objective } => {
                Self::TokenAdvantages { sequence: sequence + first, objective }
            }
            other => other,
        }
    }
}

/// Buffers of a chunk.
struct Work<'a> {
    head: &'a LinearHead<'a>,
    vocabulary: usize,
    /// `[rows, vocabulary]`; after the gradients, theirs.
    logits: Vec<f32>,
    /// Hidden states of the rows that are not masked, one after the other.
    rows: Vec<f32>,
    /// The chunk of this part whose logits these are.
    held: Option<usize>,
}

impl Work<'_> {
    fn fill(&mut self, index: usize, chunk: &[usize], products: &impl Products) {
        if self.held == Some(index) {
            return;
        }
        let size = self.head.size;
        self.rows.clear();
        for token in chunk {
            self.rows.extend_from_slice(&self.head.hidden[token * size..][..size]);
        }
        self.logits.resize(chunk.len() * self.vocabulary, 0.0);
        let shape = [chunk.len(), self.vocabulary, size];
        products.nt(&self.rows, self.head.weight, &mut self.logits, shape, false);
        self.held = Some(index);
    }

    fn scores(&self, chunk: &[usize], all: &mut Vec<RowStats>, out: &mut LinearOutput) {
        let inv_temperature = (1.0 / self.head.temperature) as f32;
        let rows = self.logits.par_chunks(self.vocabulary);
        let found: Vec<RowStats> = rows.map(|row| row_stats(row, inv_temperature)).collect();
        for ((row, token), stats) in self.logits.chunks(self.vocabulary).zip(chunk).zip(&found) {
            out.logp[*token] = stats.log_prob(row[self.head.targets[*token] as usize]);
            out.entropy[*token] = stats.entropy;
        }
        all.extend(found);
    }

    fn gradients(
        &mut self,
        chunk: &[usize],
        stats: &[RowStats],
        upstream: impl Fn(&usize) -> [f32; 2] + Sync,
        products: &impl Products,
        grad_hidden: &mut [f32],
        grad_weight: &mut [f32],
    ) {
        let size = self.head.size;
        let rows = self.logits.par_chunks_mut(self.vocabulary).zip(chunk).zip(stats);
        rows.for_each(|((row, token), stats)| {
            row_grad(row, self.head.targets[*token] as usize, stats, upstream(token));
        });
        self.held = None;
        let shape = [chunk.len(), self.vocabulary, size];
        products.tn(&self.logits, &self.rows, grad_weight, shape, true);
        // The hidden states are not needed any more.
        products.nn(&self.logits, self.head.weight, &mut self.rows, shape, false);
        for (token, row) in chunk.iter().zip(self.rows.chunks(size)) {
            grad_hidden[token * size..][..size].copy_from_slice(row);
        }
    }
}

impl LossOutput<f32> {
    /// Adds what a part of the batch gave, whose tokens begin at `start`.
    fn add(&mut self, part: Self, start: usize) {
        self.loss += part.loss;
        self.grad_logp[start..][..part.grad_logp.len()].copy_from_slice(&part.grad_logp);
        self.grad_entropy[start..][..part.grad_entropy.len()].copy_from_slice(&part.grad_entropy);
        self.metrics.merge(&part.metrics);
        for warning in part.warnings {
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }
}

impl<'a> TokenBatch<'a, f32> {
    /// Sequences `first..last` with other log-probabilities and entropies; `offsets` are theirs, from 0.
    fn part<'b>(
        &self,
        [first, last]: [usize; 2],
        offsets: &'b [usize],
        logp: &'b [f32],
        entropy: &'b [f32],
    ) -> TokenBatch<'b, f32>
    where
        'a: 'b,
    {
        let (start, end) = (self.offsets[first], self.offsets[last]);
        let tokens = |values: Option<&'a [f32]>| values.map(|v| &v[start..end]);
        TokenBatch {
            offsets,
            logp,
            logp_old: tokens(self.logp_old),
            logp_mu: tokens(self.logp_mu),
            logp_ref: tokens(self.logp_ref),
            entropy: Some(entropy),
            mask: self.mask.map(|m| &m[start..end]),
            advantages: match self.advantages {
                Advantages::PerSequence(a) => Advantages::PerSequence(&a[first..last]),
                Advantages::PerToken(a) => Advantages::PerToken(&a[start..end]),
            },
            groups: self.groups.map(|g| &g[first..last]),
            log_kept_mass: tokens(self.log_kept_mass),
        }
    }
}
