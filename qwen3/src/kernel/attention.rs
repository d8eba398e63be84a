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
/// takes one value a query head. `scratch` grows to the number of keys.
pub fn attend_row(
    shape: HeadShape,
    query: &[f32],
    runs: &[Run<'_>],
    out: &mut [f32],
    mut log_sum_exp: Option<&mut [f32]>,
    scratch: &mut Vec<f32>,
) {
    let d = shape.head_dim;
    scratch.resize(runs.iter().map(|r| r.len).sum(), 0.0);
    for head in 0..shape.query_heads {
        let offset = head / shape.group() * d;
        let q = &query[head * d..][..d];
        let mut start = 0;
        for run in runs {
            let scores = &mut scratch[start..start + run.len];
            score_keys(q, run.keys, run.stride, offset, shape.scale(), scores);
            start += run.len;
        }
        let lse = softmax_row(scratch);
        if let Some(all) = log_sum_exp.as_deref_mut() {
            all[head] = lse;
        }
        let o = &mut out[head * d..][..d];
        o.fill(0.0);
        let mut start = 0;
        for run in runs {
            add_values(&scratch[start..start + run.len], run.values, run.stride, offset, o);
            start += run.len;
        }
    }
}
