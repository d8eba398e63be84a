//! The loss of hidden states: output head, log-probabilities, objective and gradients in one pass over parts of the batch.
//!
//! Cost for `R` rows, hidden size `D`, vocabulary `V`: `6·R·D·V` flops, the products that any gradient takes, for parts whose
//! logits fit into a chunk; `8·R·D·V` for longer ones, since then the logits are computed twice. No more than `chunk · V` logits
//! exist. They are made by tiles of some columns, so that what comes after a product finds its operand in the processor's
//! cache. Products are the caller's ([`Products`]).

use std::fmt;
use std::ops::Range;

use rayon::prelude::*;

use crate::aggregation::{Mode, Normalizer};
use crate::batch::{Advantages, TokenBatch};
use crate::error::{Error, Result};
use crate::evaluate::{LossOutput, PolicyLoss};
use crate::in_place::check_scoring;
use crate::logits::{BLOCK, Partial, RowStats};
use crate::metrics::Metrics;
use crate::penalty::EntropyAggregation;
use crate::vector::{columns_grad, with_columns};

/// Matrix products, in row order. All add to the output or, where not `accumulate`, replace it.
pub trait Products {
    /// `y[m, n] = x[m, k] · w[n, k]ᵀ`, `shape` being `[m, n, k]`.
    fn nt(&self, x: &[f32], w: &[f32], y: &mut [f32], shape: [usize; 3], accumulate: bool);
    /// `dx[m, k] = dy[m, n] · w[n, k]`, `shape` being `[m, n, k]`.
    fn nn(&self, dy: &[f32], w: &[f32], dx: &mut [f32], shape: [usize; 3], accumulate: bool);
    /// `dw[n, k] = dy[m, n]ᵀ · x[m, k]`, `shape` being `[m, n, k]`.
    fn tn(&self, dy: &[f32], x: &[f32], dw: &mut [f32], shape: [usize; 3], accumulate: bool);
}

/// Takes tokens out of the distributions of rows, as the sampler that drew their targets did.
pub trait LogitMask: Send + Sync {
    /// Puts at `-inf` the logits of what row `row` may not draw, among those of the tokens from `first` on. At least one token
    /// of a row must stay.
    fn ban(&self, row: usize, first: usize, logits: &mut [f32]);
}

/// Hidden states and the head that turns them into logits.
#[derive(Clone, Copy)]
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
    /// What rows may not draw: it has no probability and no gradient.
    pub banned: Option<&'a dyn LogitMask>,
}

impl fmt::Debug for LinearHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hidden, weight, size, targets, temperature, chunk, banned } = self;
        let mut shown = f.debug_struct("LinearHead");
        shown.field("hidden", hidden).field("weight", weight).field("size", size).field("targets", targets);
        shown
            .field("temperature", temperature)
            .field("chunk", chunk)
            .field("banned", &banned.is_some())
            .finish()
    }
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
    /// as fit into a chunk; the logits of a longer sequence, and of a batch whose counts are not given, are computed twice.
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
        let mut logits = Vec::new();
        for [first, last] in parts(batch.offsets, longest) {
            let (start, end) = (batch.offsets[first], batch.offsets[last]);
            let kept = (start..end).filter(|t| batch.mask.is_none_or(|m| m[*t])).collect();
            let part = Part::new(head, vocabulary, products, kept);
            let stats = part.scores(&mut logits, &mut out);
            let (logp, entropy) = (&out.logp[start..end], &out.entropy[start..end]);
            let offsets: Vec<usize> = batch.offsets[first..=last].iter().map(|o| o - start).collect();
            let batch = batch.part([first, last], &offsets, logp, entropy);
            let loss = self.evaluate(&batch, normalizer).map_err(|e| e.behind(first))?;
            let upstream = |token: usize| [loss.grad_logp[token - start], loss.grad_entropy[token - start]];
            part.gradients(&mut logits, &stats, upstream, [&mut out.grad_hidden, grad_weight]);
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

/// Columns of a tile.
const COLUMNS: usize = 2 * BLOCK;
/// Most rows of a tile of logits that are computed twice.
const ROWS: usize = 1024;

/// A part of the batch.
struct Part<'a, P> {
    head: &'a LinearHead<'a>,
    vocabulary: usize,
    products: &'a P,
    /// The tokens that are not masked.
    tokens: Vec<usize>,
    /// Their hidden states, one after the other.
    rows: Vec<f32>,
}

impl<'a, P: Products> Part<'a, P> {
    fn new(head: &'a LinearHead<'a>, vocabulary: usize, products: &'a P, tokens: Vec<usize>) -> Self {
        let rows = tokens.iter().flat_map(|t| &head.hidden[t * head.size..][..head.size]).copied().collect();
        Self { head, vocabulary, products, tokens, rows }
    }

    /// Runs `f` on every tile: its logits, its rows and its columns. Where all logits fit into a chunk, `again` takes those that
    /// were left in `logits` before.
    fn tiles(
        &self,
        logits: &mut Vec<f32>,
        again: bool,
        mut f: impl FnMut(&mut [f32], Range<usize>, Range<usize>),
    ) {
        let Self { head, vocabulary, products, tokens, rows } = self;
        let (count, size, vocabulary) = (tokens.len(), head.size, *vocabulary);
        let width = COLUMNS.min(vocabulary);
        let fit = count <= head.chunk;
        let height = match fit {
            true => count.max(1),
            // As many logits as a chunk has, in fewer columns.
            false => (head.chunk * vocabulary / width).min(ROWS.max(head.chunk)),
        };
        logits.resize(height * if fit { vocabulary } else { width }, 0.0);
        for first in (0..count).step_by(height) {
            let of_tile = first..count.min(first + height);
            for column in (0..vocabulary).step_by(width) {
                let columns = column..vocabulary.min(column + width);
                let shape = [of_tile.len(), columns.len(), size];
                let tile = &mut logits[if fit { count * column } else { 0 }..][..shape[0] * shape[1]];
                if !(fit && again) {
                    let x = &rows[first * size..of_tile.end * size];
                    let w = &head.weight[column * size..columns.end * size];
                    products.nt(x, w, tile, shape, false);
                    if let Some(banned) = head.banned {
                        let rows = tile.par_chunks_mut(columns.len()).zip(&tokens[of_tile.clone()]);
                        rows.for_each(|(row, token)| banned.ban(*token, column, row));
                    }
                }
                f(tile, of_tile.clone(), columns);
            }
        }
    }

    /// The target of each token.
    fn targets(&self) -> Vec<usize> {
        self.tokens.iter().map(|t| self.head.targets[*t] as usize).collect()
    }

    fn scores(&self, logits: &mut Vec<f32>, out: &mut LinearOutput) -> Vec<RowStats> {
        let inv_temperature = (1.0 / self.head.temperature) as f32;
        let targets = self.targets();
        let mut found = vec![(Partial::NONE, 0f32); targets.len()];
        self.tiles(logits, false, |tile, rows, columns| {
            let found = found[rows.clone()].par_iter_mut().zip(&targets[rows]);
            found.zip(tile.par_chunks(columns.len())).for_each(|(((partial, own), target), row)| {
                *partial = with_columns(*partial, row, inv_temperature);
                if columns.contains(target) {
                    *own = row[target - columns.start];
                }
            });
        });
        let score = |((partial, own), token): ((Partial, f32), &usize)| {
            let stats = partial.stats(inv_temperature);
            out.logp[*token] = stats.log_prob(own);
            out.entropy[*token] = stats.entropy;
            stats
        };
        found.into_iter().zip(&self.tokens).map(score).collect()
    }

    fn gradients(
        &self,
        logits: &mut Vec<f32>,
        stats: &[RowStats],
        upstream: impl Fn(usize) -> [f32; 2] + Sync,
        [grad_hidden, grad_weight]: [&mut [f32]; 2],
    ) {
        let (products, weight, size) = (self.products, self.head.weight, self.head.size);
        let (targets, tokens) = (self.targets(), &self.tokens);
        let mut grad = vec![0f32; self.rows.len()];
        self.tiles(logits, true, |tile, rows, columns| {
            let of_rows = tile.par_chunks_mut(columns.len()).zip(rows.clone());
            of_rows.for_each(|(row, i)| {
                let target = columns.contains(&targets[i]).then(|| targets[i] - columns.start);
                columns_grad(row, target, &stats[i], upstream(tokens[i]));
            });
            let shape = [rows.len(), columns.len(), size];
            let rows = rows.start * size..rows.end * size;
            let of_columns = columns.start * size..columns.end * size;
            products.tn(tile, &self.rows[rows.clone()], &mut grad_weight[of_columns.clone()], shape, true);
            products.nn(tile, &weight[of_columns], &mut grad[rows], shape, columns.start > 0);
        });
        for (token, row) in tokens.iter().zip(grad.chunks(size)) {
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
