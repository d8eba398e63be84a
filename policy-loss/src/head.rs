//! An output head: log-probabilities and entropies of rows of hidden states, and their gradients, without all logits at one time.
//!
//! Logits are made by tiles of some rows and columns, so that what comes after a product finds its operand in the processor's
//! cache. What a row of them gives is [`logits`](crate::logits); products are the caller's, so that the bits of a log-probability are
//! those of the decoder that sampled with the same products.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::in_place::check_scoring;
use crate::logits::{BLOCK, Partial, RowStats};
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

/// What [`LinearHead::scores`] gives: for each token, in nats, under `softmax(hidden · weightᵀ / temperature)`.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearScores {
    /// Log-probability of the target: `[tokens]`.
    pub logp: Vec<f32>,
    /// Entropy: `[tokens]`.
    pub entropy: Vec<f32>,
    stats: Vec<RowStats>,
}

impl LinearHead<'_> {
    /// Log-probabilities of the targets and entropies. A loss of these alone needs no second projection for its gradient:
    /// [`PolicyLoss::evaluate_linear`](crate::PolicyLoss::evaluate_linear).
    ///
    /// # Errors
    /// When slices do not fit, the temperature is not positive, the chunk is 0, or a target is outside the vocabulary.
    pub fn scores(&self, products: &impl Products) -> Result<LinearScores> {
        self.check(None)?;
        let (mut logp, mut entropy) = (Vec::with_capacity(self.targets.len()), Vec::new());
        let stats = self.rows(products).scores(&mut Vec::new(), |_, own, of_row| {
            logp.push(own);
            entropy.push(of_row);
        });
        Ok(LinearScores { logp, entropy, stats })
    }

    /// `∂L/∂hidden`, `[tokens, size]`, of a loss of [`scores`](Self::scores), given for each token its derivatives by log-probability
    /// and entropy. `∂L/∂weight` is added to `grad_weight`, `[vocabulary, size]`. The logits are computed again.
    ///
    /// # Errors
    /// As `scores`, and when `grad_weight` or `scores` are of other sizes.
    pub fn gradients(
        &self,
        products: &impl Products,
        scores: &LinearScores,
        upstream: impl Fn(usize) -> [f32; 2] + Sync,
        grad_weight: &mut [f32],
    ) -> Result<Vec<f32>> {
        self.check(None)?;
        self.check_gradient(grad_weight)?;
        fits("scores", scores.stats.len(), self.targets.len())?;
        Ok(self.rows(products).gradients(&mut Vec::new(), &scores.stats, upstream, grad_weight))
    }

    fn rows<'a, P>(&'a self, products: &'a P) -> Rows<'a, P> {
        let tokens = (0..self.targets.len()).collect();
        Rows { head: self, products, tokens, hidden: Cow::Borrowed(self.hidden), hold: false }
    }

    fn vocabulary(&self) -> usize {
        self.weight.len() / self.size
    }

    /// Whether everything fits, with the targets that a mask leaves.
    pub(crate) fn check(&self, mask: Option<&[bool]>) -> Result<()> {
        let parameter = |name, value, expected| Err(Error::Parameter { name, value, expected });
        if self.size == 0 {
            return parameter("head.size", 0.0, "at least 1");
        }
        if self.chunk == 0 {
            return parameter("head.chunk", 0.0, "at least one row");
        }
        fits("head.weight", self.weight.len(), self.vocabulary() * self.size)?;
        fits("head.hidden", self.hidden.len(), self.targets.len() * self.size)?;
        check_scoring(self.targets, mask, self.vocabulary(), self.temperature)
    }

    /// Whether a gradient has the size of the weight.
    pub(crate) fn check_gradient(&self, grad_weight: &[f32]) -> Result<()> {
        fits("grad_weight", grad_weight.len(), self.weight.len())
    }
}

fn fits(what: &'static str, found: usize, expected: usize) -> Result<()> {
    match found == expected {
        true => Ok(()),
        false => Err(Error::Shape { what, found, expected }),
    }
}

/// Columns of a tile.
const COLUMNS: usize = 2 * BLOCK;
/// Most rows of a tile of logits that do not fit into a chunk, unless a chunk has more.
const ROWS: usize = 1024;

/// Rows of a head.
pub(crate) struct Rows<'a, P> {
    pub(crate) head: &'a LinearHead<'a>,
    pub(crate) products: &'a P,
    /// The tokens that they are.
    pub(crate) tokens: Vec<usize>,
    /// Their hidden states, one after the other.
    pub(crate) hidden: Cow<'a, [f32]>,
    /// Whether logits that fit into a chunk are held until the gradients.
    pub(crate) hold: bool,
}

impl<P: Products> Rows<'_, P> {
    /// Runs `f` on every tile: its logits, its rows and its columns. Where all logits are held, `again` takes those that were left
    /// in `logits` before.
    fn tiles(
        &self,
        logits: &mut Vec<f32>,
        again: bool,
        mut f: impl FnMut(&mut [f32], Range<usize>, Range<usize>),
    ) {
        let Self { head, products, tokens, hidden, hold } = self;
        let (count, size, vocabulary) = (tokens.len(), head.size, head.vocabulary());
        let width = COLUMNS.min(vocabulary);
        let held = *hold && count <= head.chunk;
        let height = match count <= head.chunk {
            true => count.max(1),
            // As many logits as a chunk has, in fewer columns.
            false => (head.chunk * vocabulary / width).min(ROWS.max(head.chunk)),
        };
        logits.resize(height * if held { vocabulary } else { width }, 0.0);
        for first in (0..count).step_by(height) {
            let of_tile = first..count.min(first + height);
            for column in (0..vocabulary).step_by(width) {
                let columns = column..vocabulary.min(column + width);
                let shape = [of_tile.len(), columns.len(), size];
                let tile = &mut logits[if held { count * column } else { 0 }..][..shape[0] * shape[1]];
                if !(held && again) {
                    let x = &hidden[first * size..of_tile.end * size];
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

    /// Statistics of each row; `found` gets each token with its log-probability and entropy.
    pub(crate) fn scores(
        &self,
        logits: &mut Vec<f32>,
        mut found: impl FnMut(usize, f32, f32),
    ) -> Vec<RowStats> {
        let inv_temperature = (1.0 / self.head.temperature) as f32;
        let targets = self.targets();
        let mut rows_of = vec![(Partial::NONE, 0f32); targets.len()];
        self.tiles(logits, false, |tile, rows, columns| {
            let rows = rows_of[rows.clone()].par_iter_mut().zip(&targets[rows]);
            rows.zip(tile.par_chunks(columns.len())).for_each(|(((partial, own), target), row)| {
                *partial = with_columns(*partial, row, inv_temperature);
                if columns.contains(target) {
                    *own = row[target - columns.start];
                }
            });
        });
        let score = |((partial, own), token): ((Partial, f32), &usize)| {
            let stats = partial.stats(inv_temperature);
            found(*token, stats.log_prob(own), stats.entropy);
            stats
        };
        rows_of.into_iter().zip(&self.tokens).map(score).collect()
    }

    /// `∂L/∂hidden` of the rows, one after the other; `∂L/∂weight` is added to `grad_weight`.
    pub(crate) fn gradients(
        &self,
        logits: &mut Vec<f32>,
        stats: &[RowStats],
        upstream: impl Fn(usize) -> [f32; 2] + Sync,
        grad_weight: &mut [f32],
    ) -> Vec<f32> {
        let (products, weight, size) = (self.products, self.head.weight, self.head.size);
        let (targets, tokens) = (self.targets(), &self.tokens);
        let mut grad = vec![0f32; self.hidden.len()];
        self.tiles(logits, true, |tile, rows, columns| {
            let of_rows = tile.par_chunks_mut(columns.len()).zip(rows.clone());
            of_rows.for_each(|(row, i)| {
                let target = columns.contains(&targets[i]).then(|| targets[i] - columns.start);
                columns_grad(row, target, &stats[i], upstream(tokens[i]));
            });
            let shape = [rows.len(), columns.len(), size];
            let rows = rows.start * size..rows.end * size;
            let of_columns = columns.start * size..columns.end * size;
            products.tn(tile, &self.hidden[rows.clone()], &mut grad_weight[of_columns.clone()], shape, true);
            products.nn(tile, &weight[of_columns], &mut grad[rows], shape, columns.start > 0);
        });
        grad
    }
}
