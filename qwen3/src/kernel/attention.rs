//! Causal grouped-query attention, one query row at a time.
//!
//! Cost of a row that sees `n` keys: `4 n d` FLOP per query head, and `2 n d` floats of keys and values read
//! per key/value head. Scores of one row live in a scratch buffer; the score matrix never exists.
//!
//! Keys and values come as a list of runs, so that a decoder can share the cache of a prompt between the
//! samples of a group. How a sequence is cut into runs does not change the bits.

use super::activation::exp;
use super::multiversion;
use super::softmax::{dot, softmax_row};

/// Consecutive keys and values of one sequence, `len` rows `stride` floats apart; a row holds
/// `kv_heads · d` floats from its start.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    /// Keys, normalised and rotated.
    pub keys: &'a [f32],
    /// Values.
    pub values: &'a [f32],
    /// Floats from one row to the next.
    pub stride: usize,
    /// Rows.
    pub len: usize,
}

/// The sizes of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads.
    pub query_heads: usize,
    /// Key/value heads; query head `h` reads key/value head `h / (query_heads / kv_heads)`.
    pub kv_heads: usize,
    /// Lanes of a head.
    pub head_dim: usize,
}

impl HeadShape {
    /// `1 / sqrt(d)`.
    pub fn scale(self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Floats of one row of keys (or of values).
    pub fn kv_width(self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Floats of one row of queries.
    pub fn query_width(self) -> usize {
        self.query_heads * self.head_dim
    }

    /// Query heads per key/value head.
    pub fn group(self) -> usize {
        self.query_heads / self.kv_heads
    }
}

multiversion! {
    /// Writes `scale · q·k` for each key (rows `stride` apart, head at `offset`) to `scores`.
    pub fn score_keys(query: &[f32], keys: &[f32], stride: usize, offset: usize, scale: f32, scores: &mut [f32]) {
        for (row, score) in scores.iter_mut().enumerate() {
            *score = dot(query, &keys[row * stride + offset..][..query.len()]) * scale;
        }
    }

    /// Adds `Σ p_j v_j` over a run to `out`, in key order.
    pub fn add_values(probs: &[f32], values: &[f32], stride: usize, offset: usize, out: &mut [f32]) {
        // As many lanes as stay in registers over all keys.
        let (chunks, rest) = out.as_chunks_mut::<64>();
        let whole = 64 * chunks.len();
        for (chunk, out) in chunks.iter_mut().enumerate() {
            let mut sums = *out;
            for (row, &p) in probs.iter().enumerate() {
                let value = &values[row * stride + offset + 64 * chunk..][..64];
                for lane in 0..64 {
                    sums[lane] += p * value[lane];
                }
            }
            *out = sums;
        }
        for (row, &p) in probs.iter().enumerate() {
            let value = &values[row * stride + offset + whole..][..rest.len()];
            for (o, v) in rest.iter_mut().zip(value) {
                *o += p * v;
            }
        }
    }

    /// From scores `q·k` of one row and `d_out·v` to probabilities and the gradient of the scores, in place: of the keys
    /// that the row sees, the first `seen`; 0 of the others. `mean` is `d_out · out`.
    pub fn scores_backward(
        scores: &mut [f32], d_scores: &mut [f32], seen: usize, scale: f32, log_sum_exp: f32, mean: f32,
    ) {
        for (p, d) in scores[..seen].iter_mut().zip(&mut d_scores[..seen]) {
            *p = exp(*p * scale - log_sum_exp);
            *d = *p * (*d - mean) * scale;
        }
        scores[seen..].fill(0.0);
        d_scores[seen..].fill(0.0);
    }

    /// `y += a · x`.
    pub fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += a * x;
        }
    }
}

/// One query row (`[query_heads · d]`) over every key of `runs`; overwrites `out`. `log_sum_exp`, when given,
/// takes one value a query head. `scratch` grows to the number of keys times the query heads that share them.
pub fn attend_row(
    shape: HeadShape,
    query: &[f32],
    runs: &[Run<'_>],
    out: &mut [f32],
    mut log_sum_exp: Option<&mut [f32]>,
    scratch: &mut Vec<f32>,
) {
    let (group, width) = (shape.group(), shape.group() * shape.head_dim);
    for (kv_head, (query, out)) in query.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate() {
        let of_group = log_sum_exp.as_deref_mut().map(|all| &mut all[kv_head * group..][..group]);
        attend_group(shape, kv_head, query, runs, out, of_group, scratch);
    }
}

/// [`attend_row`] of the query heads of one key/value head (`query` and `out` `[group · d]`), which read each run of keys
/// and values together.
pub fn attend_group(
    shape: HeadShape,
    kv_head: usize,
    query: &[f32],
    runs: &[Run<'_>],
    out: &mut [f32],
    mut log_sum_exp: Option<&mut [f32]>,
    scratch: &mut Vec<f32>,
) {
    let (d, offset) = (shape.head_dim, kv_head * shape.head_dim);
    let keys: usize = runs.iter().map(|r| r.len).sum();
    scratch.resize(keys * shape.group(), 0.0);
    let mut start = 0;
    for run in runs {
        for (q, scores) in query.chunks_exact(d).zip(scratch.chunks_exact_mut(keys)) {
            let scores = &mut scores[start..start + run.len];
            score_keys(q, run.keys, run.stride, offset, shape.scale(), scores);
        }
        start += run.len;
    }
    for (head, scores) in scratch.chunks_exact_mut(keys).enumerate() {
        let lse = softmax_row(scores);
        if let Some(all) = log_sum_exp.as_deref_mut() {
            all[head] = lse;
        }
    }
    out.fill(0.0);
    let mut start = 0;
    for run in runs {
        for (o, probs) in out.chunks_exact_mut(d).zip(scratch.chunks_exact(keys)) {
            add_values(&probs[start..start + run.len], run.values, run.stride, offset, o);
        }
        start += run.len;
    }
}
